"""Asks again when a reply cannot be used, and says what was wrong with it."""

from __future__ import annotations

from copy import copy
from dataclasses import replace

from ruler.errors import BudgetExceeded, ConfigError, JudgeError, ReplyError
from ruler.types import ChatMessage, Judge, JudgeInfo, JudgeReply, JudgeRequest, Usage, judge_info, usage_of

_MAX_QUOTED_CHARS = 4_000


class ReaskingJudge:
    """A judge whose replies have passed `request.check`, after at most `max_reasks` corrections.

    The reply carries the usage and latency of all attempts. A reply that was cut off is not asked for again: the same
    limit would cut it again.

    Raises (when called):
        ReplyError: no attempt gave a usable reply; the last one is kept as `raw`.
    """

    def __init__(self, judge: Judge, *, max_reasks: int = 2) -> None:
        if max_reasks < 0:
            raise ConfigError(f"max_reasks: expected at least 0, got {max_reasks}")
        self._judge = judge
        self.__qualname__ = judge_info(judge).name
        self._max_reasks = max_reasks

    @property
    def info(self) -> JudgeInfo | None:
        """That of the judge inside; None when it has none, so that nobody takes a name for an identity."""
        info = getattr(self._judge, "info", None)
        return info if isinstance(info, JudgeInfo) else None

    async def __call__(self, request: JudgeRequest) -> JudgeReply:
        usage, latency = Usage(), 0.0
        asked = request
        for attempt in range(1 + self._max_reasks):
            try:
                reply = await self._judge(asked)
                usage, latency = usage + reply.usage, latency + reply.latency_seconds
                _check(request, reply)
                return replace(reply, usage=usage, latency_seconds=latency)
            except ReplyError as error:
                usage = usage + usage_of(error)
                if error.finish_reason == "length" or attempt == self._max_reasks:
                    times = f" (asked {attempt + 1} times)" if attempt else ""
                    raise ReplyError(
                        f"{error}{times}", usage=usage, raw=error.raw, finish_reason=error.finish_reason
                    ) from error
                asked = replace(request, messages=(*request.messages, *_correction(request, error)))
            except (JudgeError, BudgetExceeded) as error:
                # A copy: the judge may keep and raise one object many times.
                raised = copy(error)
                raised.usage = usage + usage_of(error)
                raise raised from error
        raise AssertionError("unreachable: the last attempt returns or raises")


def _check(request: JudgeRequest, reply: JudgeReply) -> None:
    if request.check is None:
        return
    try:
        request.check(reply.text)
    except ReplyError as error:
        cut = ", and it was cut off at the judge's output limit: raise max_tokens" * (reply.finish_reason == "length")
        # The reply's own usage is counted already.
        raise ReplyError(f"{error}{cut}", usage=Usage(), raw=reply.text, finish_reason=reply.finish_reason) from error


def _correction(request: JudgeRequest, error: ReplyError) -> tuple[ChatMessage, ChatMessage]:
    # A provider refuses a message that is empty or holds half a surrogate pair.
    said = error.raw[:_MAX_QUOTED_CHARS].encode("utf-8", "replace").decode("utf-8").strip() or "(no reply)"
    fault = str(error).encode("utf-8", "replace").decode("utf-8")
    return (
        {"role": "assistant", "content": said},
        {
            "role": "user",
            "content": f"Not accepted: {fault}. Reply again with the JSON object only, in the form asked for, "
            f"each of these ids exactly once: {', '.join(request.ids)}.",
        },
    )
