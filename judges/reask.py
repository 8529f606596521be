"""Asks again when a reply cannot be used, and says what was wrong with it."""

from __future__ import annotations

from dataclasses import replace

from judges.wrapper import JudgeWrapper
from ruler.errors import BudgetExceeded, ConfigError, JudgeError, JudgeRejected, ReplyError
from ruler.types import ChatMessage, Judge, JudgeReply, JudgeRequest, Usage, usage_of, with_usage

_MAX_QUOTED_CHARS = 4_000


class ReaskingJudge(JudgeWrapper):
    """A judge whose replies have passed `request.check`, after at most `max_reasks` corrections.

    The reply carries the usage and latency of all attempts. A reply that was cut off is not asked for again: the same
    limit would cut it again.

    Raises (when called):
        ReplyError: no attempt gave a usable reply; the last one is kept as `raw`.
    """

    def __init__(self, judge: Judge, *, max_reasks: int = 2) -> None:
        if max_reasks < 0:
            raise ConfigError(f"max_reasks: expected at least 0, got {max_reasks}")
        super().__init__(judge)
        self._max_reasks = max_reasks

    async def __call__(self, request: JudgeRequest) -> JudgeReply:
        usage, latency = Usage(), 0.0
        asked = request
        refused_reply: ReplyError | None = None
        for attempt in range(1 + self._max_reasks):
            try:
                reply = await self._judge(asked)
                usage, latency = usage + reply.usage, latency + reply.latency_seconds
                _check(request, reply)
                return replace(reply, usage=usage, latency_seconds=latency)
            except ReplyError as error:
                usage = usage + usage_of(error)
                refused_reply = error
                if error.finish_reason == "length" or attempt == self._max_reasks:
                    times = f" (asked {attempt + 1} times)" if attempt else ""
                    raise ReplyError(
                        f"{error}{times}", usage=usage, raw=error.raw, finish_reason=error.finish_reason
                    ) from error
                asked = replace(request, messages=(*request.messages, *_correction(request, error)))
            except (JudgeError, BudgetExceeded) as error:
                if refused_reply and isinstance(error, JudgeRejected):
                    # The question was answered, badly: it is the correction that is refused, for its length perhaps.
                    raise with_usage(
                        refused_reply,
                        usage + usage_of(error),
                        message=f"{refused_reply} (asking again was rejected: {error})",
                    ) from error
                raise with_usage(error, usage + usage_of(error)) from error
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
