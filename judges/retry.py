"""Asks again when a judge could not answer."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from judges.wrapper import JudgeWrapper
from ruler.errors import BudgetExceeded, ConfigError, JudgeUnavailable, RulerError
from ruler.types import Judge, JudgeReply, JudgeRequest, Usage, usage_of, with_usage

_FIRST_BACKOFF_SECONDS = 1.0
_MAX_BACKOFF_SECONDS = 60.0


class RetryingJudge(JudgeWrapper):
    """A judge that is asked again after JudgeUnavailable, and after nothing else.

    Between attempts it waits a random time up to 1, 2, 4, … seconds, 60 at most ("full jitter"), and what the judge
    asked for by `Retry-After` on top. The reply and the error carry the usage of all attempts.

    Args:
        judge: asked at least once.
        attempts: how often it is asked at most.
        deadline_seconds: no attempt begins later than this after the first one; time spent in an endpoint's queue
            does not count, so that a long queue fails nobody.
        clock: seconds that never go back.
        sleep: waits so many seconds.
        jitter: a number in [0, 1).

    Raises:
        ConfigError: attempts below 1, or a deadline that is no positive number.
    """

    def __init__(
        self,
        judge: Judge,
        *,
        attempts: int = 6,
        deadline_seconds: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(judge)
        if attempts < 1:
            raise ConfigError(f"attempts: expected at least 1, got {attempts}")
        if not deadline_seconds > 0:
            raise ConfigError(f"deadline_seconds: expected a positive number, got {deadline_seconds}")
        self._attempts = attempts
        self._deadline_seconds = deadline_seconds
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter

    async def __call__(self, request: JudgeRequest) -> JudgeReply:
        """The first reply.

        Raises:
            JudgeUnavailable: that of the last attempt, with the number of attempts and why there was no other.
        """
        begun = self._clock()
        failed = Usage()
        waited = 0.0
        why = ""

        async def attempt() -> JudgeReply:
            nonlocal failed
            try:
                return await self._judge(request)
            except JudgeUnavailable as error:
                failed += usage_of(error)
                raise

        def backoff(state: RetryCallState) -> float:
            longest = min(_MAX_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2.0 ** min(state.attempt_number - 1, 60))
            return (_retry_after(state) or 0.0) + longest * self._jitter()

        def stop(state: RetryCallState) -> bool:
            nonlocal why
            why = f"asked {state.attempt_number} times" if state.attempt_number > 1 else "asked once"
            if state.attempt_number >= self._attempts:
                return True
            # What was waited in a queue is in the usage that came with the errors.
            left = self._deadline_seconds - (self._clock() - begun - failed.wait_seconds)
            if state.upcoming_sleep <= left:
                return False
            asks = _retry_after(state)
            wish = f" and it wants to be left alone for {asks:g} s" if asks else ""
            why += f"{wish}; deadline {self._deadline_seconds:g} s"
            return True

        async def sleep(seconds: float) -> None:
            nonlocal waited
            before = self._clock()
            await self._sleep(seconds)
            waited += self._clock() - before

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(JudgeUnavailable), wait=backoff, stop=stop, sleep=sleep, reraise=True
        )

        def spent(last: Usage, *, made: bool = True) -> Usage:
            repeats = int(retrying.statistics["attempt_number"]) - 1
            return failed + last + Usage(retries=repeats if made else max(0, repeats - 1), wait_seconds=waited)

        try:
            reply: JudgeReply = await retrying(attempt)
        except JudgeUnavailable as error:
            raise JudgeUnavailable(
                f"{error} ({why})",
                usage=spent(Usage()),
                retry_after_seconds=error.retry_after_seconds,
                overloaded=error.overloaded,
            ) from error
        except RulerError as error:
            made = not isinstance(error, BudgetExceeded)  # the call that it stopped was none
            raise with_usage(error, spent(usage_of(error), made=made)) from error
        return replace(reply, usage=spent(reply.usage))


def _retry_after(state: RetryCallState) -> float | None:
    error = state.outcome.exception() if state.outcome else None
    return error.retry_after_seconds if isinstance(error, JudgeUnavailable) else None
