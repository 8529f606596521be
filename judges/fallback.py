"""Several judges, of which the next is asked when one cannot answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ruler.errors import ConfigError, JudgeError, JudgeRejected, JudgeUnavailable, RulerError
from ruler.types import Judge, JudgeInfo, JudgeReply, JudgeRequest, Usage, judge_info, usage_of, with_usage


class FallbackJudge:
    """A chain of judges: the next is asked when one is unavailable or rejects the request.

    Give whole stacks, each with its own cache, retries and limits: then no reply is stored under another judge's
    name. Each judge is asked with its own sampling settings. A judge that answers badly (ReplyError) is no reason to
    ask another, and neither are a spent budget or a cache that cannot be read.

    Attributes:
        info: named `A -> B`; the largest window, None when one is unknown; images as the first judge takes them. So
            the first judge is asked what it would be asked alone, and a judge that cannot take it rejects it.

    Raises:
        ConfigError: fewer than two judges, or two of one name.
    """

    def __init__(self, judges: Sequence[Judge]) -> None:
        infos = [judge_info(judge) for judge in judges]
        names = [info.name for info in infos]
        if len(names) < 2:
            raise ConfigError(f"fallback: expected two judges or more, got {len(names)}")
        if len(set(names)) < len(names):
            raise ConfigError(f"fallback: a judge stands in the chain twice: {' -> '.join(names)}")
        windows = [info.context_tokens for info in infos]
        self._judges = tuple(zip(judges, infos, strict=True))
        self.info = JudgeInfo(
            backend="fallback",
            model=" -> ".join(names),
            context_tokens=None if None in windows else max(filter(None, windows)),
            count_tokens=infos[0].count_tokens,
            images=infos[0].images,
            cacheable=False,
        )

    async def __call__(self, request: JudgeRequest) -> JudgeReply:
        """The first reply, with the name of the judge that gave it and the usage of all that were asked.

        Raises:
            JudgeUnavailable: no judge answered, and one may later.
            JudgeRejected: all judges rejected the request.
            ReplyError, BudgetExceeded: as the judge that was asked last raised it.
        """
        usage = Usage()
        failures: list[JudgeError] = []
        for judge, info in self._judges:
            try:
                reply = await judge(replace(request, sampling=info.sampling))
            except (JudgeUnavailable, JudgeRejected) as error:
                usage += usage_of(error)
                failures.append(error)
            except RulerError as error:
                raise with_usage(error, usage + usage_of(error)) from error
            else:
                return replace(reply, usage=usage + reply.usage, judge=info.name)
        message = "; then ".join(str(error) for error in failures)
        unavailable = [error for error in failures if isinstance(error, JudgeUnavailable)]
        if not unavailable:
            raise JudgeRejected(message, usage=usage) from failures[-1]
        waits = [error.retry_after_seconds for error in unavailable if error.retry_after_seconds is not None]
        raise JudgeUnavailable(message, usage=usage, retry_after_seconds=min(waits, default=None)) from failures[-1]
