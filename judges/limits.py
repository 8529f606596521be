"""Keeps to what an endpoint allows: calls at once, requests and tokens a minute, and less when it says so."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from weakref import WeakSet

from judges.estimate import TokenEstimator
from judges.gate import Gate
from judges.wrapper import JudgeWrapper
from ruler.errors import ConfigError, JudgeUnavailable, RulerError
from ruler.types import Judge, JudgeInfo, JudgeReply, JudgeRequest, Usage, usage_of, with_usage

WINDOW_SECONDS = 61.5
"""A minute, and what a call may take from here to the endpoint: the first of a process takes more than a second."""
_MAX_PAUSE_SECONDS = 60.0
_ABANDONED_SECONDS = 5.0
"""How often one looks whether event loops with calls in them are still running; nobody tells when one ends."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a judge's endpoint may be asked for.

    Raises:
        ConfigError: a limit below 1.
    """

    concurrency: int = 64
    """Calls at once, at most."""
    requests_per_minute: int | None = None
    """In any 60 seconds; None: no limit."""
    tokens_per_minute: int | None = None
    """Input and output, in any 60 seconds; estimated when a call begins, corrected when it ends."""

    def __post_init__(self) -> None:
        for name in ("concurrency", "requests_per_minute", "tokens_per_minute"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}: expected at least 1, got {value}")


class LimitedJudge(JudgeWrapper):
    """A judge that waits for its turn.

    All judges of one endpoint in this process share one queue, first come, first served, and the strictest of their
    limits. A rate limit or a timeout halves the number of calls at once; answers let it grow again. A `Retry-After`
    holds the whole queue for so long, a minute at most. The time spent in the queue is in the usage.
    """

    def __init__(self, judge: Judge, limits: Limits = Limits(), *, limiter: Limiter | None = None) -> None:
        super().__init__(judge)
        self.limits = limits
        self._limiter = limiter or shared_limiter(self.info)
        self._limiter.join(self)
        self._estimator = TokenEstimator()

    async def __call__(self, request: JudgeRequest) -> JudgeReply:
        """The reply of the judge inside; no place is held once it has answered or failed."""
        # Guessed when its turn has come: by then earlier replies have made the guess a better one.
        call = _Call(partial(self._tokens, request))
        waited = Usage(wait_seconds=await self._limiter.enter(call))
        try:
            reply = await self._judge(request)
        except RulerError as error:
            usage = usage_of(error)
            self._limiter.leave(call, usage, error=error)
            raise with_usage(error, usage + waited) from error
        except BaseException:
            self._limiter.leave(call)
            raise
        if call.tokens:
            self._estimator.learn(request, reply.usage)
        self._limiter.leave(call, reply.usage, answered=True)
        return replace(reply, usage=reply.usage + waited) if waited.wait_seconds else reply

    def _tokens(self, request: JudgeRequest) -> int:
        estimate = self._estimator.estimate(request)
        return estimate.input_tokens + estimate.output_tokens


@dataclass(eq=False, slots=True)
class _Call:
    guess: Callable[[], int]
    tokens: int = 0
    begun: float = 0.0
    era: int = 0


class Limiter:
    """The queue of one endpoint and what is known of its mood. Safe from several event loops and threads."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._members: WeakSet[LimitedJudge] = WeakSet()
        self._clock = clock
        self._gate = Gate(sleep=sleep, forget=self._forget_running)
        self._running: dict[_Call, asyncio.AbstractEventLoop] = {}
        self._at_once: float | None = None
        self._era = 0
        self._not_before = 0.0
        self._recent: deque[_Call] = deque()
        self._recent_tokens = 0

    def _forget_running(self) -> None:
        self._running.clear()

    def join(self, judge: LimitedJudge) -> None:
        """Has the judge's limits count here, as long as the judge is alive."""
        with self._gate.lock:
            self._members.add(judge)

    @property
    def concurrency(self) -> int:
        """Calls that may run at once, as things are."""
        return self._now_at_once(self._limits())

    def _now_at_once(self, limits: Limits) -> int:
        limit = limits.concurrency
        return limit if self._at_once is None else max(1, min(limit, int(self._at_once)))

    async def enter(self, call: _Call) -> float:
        """Waits until the call may begin; the seconds it waited, 0 when it did not have to."""
        begun = self._clock()
        waited = False

        def admit() -> float | None:
            nonlocal waited
            delay = self._admit(call)
            waited = waited or delay != 0
            return delay

        await self._gate.enter(admit)
        return self._clock() - begun if waited else 0.0

    def leave(
        self, call: _Call, usage: Usage | None = None, *, answered: bool = False, error: RulerError | None = None
    ) -> None:
        """Ends the call: gives its place back and learns from what came of it."""
        with self._gate.lock:
            self._running.pop(call, None)
            now = self._clock()
            self._forget(now)
            tokens = usage.input_tokens + usage.output_tokens if usage else 0
            # A refusal that cost nothing took no tokens; where nothing is said the estimate stands.
            if call.tokens and (tokens or (error and usage and usage.cost_usd == 0)):
                if call.begun > now - WINDOW_SECONDS:
                    self._recent_tokens += tokens - call.tokens
                call.tokens = tokens
            if answered:
                self._grow()
            elif isinstance(error, JudgeUnavailable):
                self._heed(call, error)
            self._gate.changed()

    def _admit(self, call: _Call) -> float | None:
        now = self._clock()
        limits = self._limits()
        self._forget(now)
        if now < self._not_before:
            return self._not_before - now
        here = asyncio.get_running_loop()
        if len(self._running) >= self._now_at_once(limits):
            # A loop that was left with calls in it ends none of them.
            for abandoned in [call for call, loop in self._running.items() if not loop.is_running()]:
                del self._running[abandoned]
        if len(self._running) >= self._now_at_once(limits):
            return None if all(loop is here for loop in self._running.values()) else _ABANDONED_SECONDS
        requests, tokens = limits.requests_per_minute, limits.tokens_per_minute
        if requests and len(self._recent) >= requests:
            return self._until_forgotten(self._recent[-requests], now)
        call.tokens = call.guess() if tokens else 0
        # A call that is larger than the limit itself goes alone, rather than never.
        if tokens and self._recent_tokens and self._recent_tokens + call.tokens > tokens:
            return self._until_forgotten(self._recent[0], now)
        self._running[call] = here
        call.begun, call.era = now, self._era
        if requests or tokens:
            self._recent.append(call)
            self._recent_tokens += call.tokens
        return 0.0

    @staticmethod
    def _until_forgotten(call: _Call, now: float) -> float:
        # Rounding must not make it 0, which lets in.
        return max(0.001, call.begun + WINDOW_SECONDS - now)

    def _forget(self, now: float) -> None:
        while self._recent and self._recent[0].begun <= now - WINDOW_SECONDS:
            self._recent_tokens -= self._recent.popleft().tokens

    def _grow(self) -> None:
        if self._at_once is not None:
            # By a tenth, or by one, for each round of answers.
            self._at_once += max(1.0, self._at_once / 10) / self._at_once
            if self._at_once >= self._limits().concurrency:
                self._at_once = None

    def _heed(self, call: _Call, error: JudgeUnavailable) -> None:
        pause = min(error.retry_after_seconds or 0.0, _MAX_PAUSE_SECONDS)
        self._not_before = max(self._not_before, self._clock() + pause)
        if not error.overloaded:
            return
        # The calls of one round tell of one overload: only those that began after the last halving halve again.
        if call.era == self._era:
            self._at_once = max(1.0, min(self.concurrency, len(self._running) + 1) / 2)
            self._era += 1

    def _limits(self) -> Limits:
        members = [judge.limits for judge in self._members]
        if len(members) == 1:
            return members[0]

        def strictest(name: str) -> int | None:
            return min((value for limits in members if (value := getattr(limits, name)) is not None), default=None)

        return Limits(strictest("concurrency") or 1, strictest("requests_per_minute"), strictest("tokens_per_minute"))


# For as long as the process: an endpoint counts the last minute's requests, whatever judge object made them.
_limiters: dict[tuple[str, str], Limiter] = {}
_limiters_lock = threading.Lock()


def shared_limiter(info: JudgeInfo | None) -> Limiter:
    """The process's limiter for the judge's endpoint: its address, else its model. One of its own without `info`."""
    if info is None:
        return Limiter()
    with _limiters_lock:
        return _limiters.setdefault((info.backend, info.base_url or info.model), Limiter())
