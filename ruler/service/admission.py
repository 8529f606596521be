"""The door to the judges, and so to money: groups a minute, tokens a minute, groups at once, and how many may queue.

Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Literal

from ruler.service.problems import Problem, stopping
from ruler.types import Usage

WINDOW_SECONDS = 60.0
_MIN_RETRY_SECONDS = 1.0
_MAX_RETRY_SECONDS = 60.0
# Rounding may put the end of a wait just before the moment that it waits for; no wait is so short that time stands.
_MIN_WAIT_SECONDS = 0.001


class Ticket:
    """One group that has been let in: its tokens in the window, and its room in the queue."""

    __slots__ = ("_admission", "_stage", "_tokens", "_until")

    def __init__(self, admission: Admission, tokens: int, until: float) -> None:
        self._admission = admission
        self._tokens = tokens
        self._until = until
        self._stage: Literal["outside", "queued", "placed", "left"] = "outside"

    def settle(self, usage: Usage) -> None:
        """Puts what the group took in place of the estimate: input and output tokens.

        Questions that the cache answered took none.
        """
        self._admission._count(self, usage.input_tokens + usage.output_tokens)

    def drop(self) -> None:
        """Gives back the room in the queue and the estimate, for a group that will not be judged.

        Does nothing once it has got a place, or when it is called again.
        """
        self._admission._drop(self)


class Admission:
    """Lets groups in, or says when to come again; then gives them places in the order in which they ask for them.

    Args:
        concurrency: groups that have a place at once.
        queue: groups that may wait for one.
        requests_per_minute: groups let in in any 60 seconds; None: no limit.
        tokens_per_minute: tokens of the groups let in in any 60 seconds; None: no limit. A group larger than that goes
            when no others count, rather than never.
        clock: seconds.
        sleep: waits so many seconds of that clock.
    """

    def __init__(
        self,
        *,
        concurrency: int,
        queue: int,
        requests_per_minute: int | None,
        tokens_per_minute: int | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._concurrency = concurrency
        self._queue = queue
        self._requests_per_minute = requests_per_minute
        self._tokens_per_minute = tokens_per_minute
        self._clock = clock
        self._sleep = sleep
        self._recent: deque[Ticket] = deque()
        self._recent_tokens = 0
        self._queued = 0
        self._in_flight = 0
        self._last_seconds = 0.0
        # Ordered dicts, to have any of them leave in the same time as the first.
        self._line: OrderedDict[asyncio.Future[None], Ticket] = OrderedDict()
        self._patient: OrderedDict[_Patient, None] = OrderedDict()
        self._patients_turn = False
        self._stopping = False

    @property
    def in_flight(self) -> int:
        """Groups that have a place."""
        return self._in_flight

    @property
    def waiting(self) -> int:
        """Groups that have been let in and have no place yet; not those whose queueing begins with `place`."""
        return self._queued

    def take(self, tokens: int, *, queued: bool = True) -> Ticket:
        """Lets a group in, or refuses it; never waits.

        Args:
            tokens: what the group will take, estimated.
            queued: whether it is in the queue from now on, rather than from when it asks for its place. A group that
                still waits for its rollouts is not: it would keep others out for minutes, and is counted elsewhere.

        Raises:
            Problem: "rate_limited": this minute has had enough; "overloaded": the queue is full. Both say when to
                come again, for "rate_limited" that is when it could be let in if nobody else came.
        """
        self.check(tokens, queued=queued)
        self._patients_turn = bool(self._patient)
        return self._enter(tokens, queued=queued)

    def check(self, tokens: int, *, queued: bool = True) -> None:
        """Raises the Problem that `take` would raise now."""
        # A patient one is overtaken once, then its needs go first.
        ahead = next(iter(self._patient)) if self._patient and self._patients_turn else None
        problem = self._obstacle(tokens, queued=queued, ahead=ahead)
        if problem is not None:
            raise problem

    def stop(self) -> None:
        """Lets nobody in any more: all who wait to be let in, and all who come, get the Problem "stopping"."""
        self._stopping = True
        for patient in self._patient:
            _wake(patient.woken)

    async def take_patiently(self, tokens: int) -> Ticket:
        """Lets a group in as soon as that is possible; for work that can wait, such as the lines of a batch.

        Those who wait go in the order they came, and take turns with those who do not wait: none of them is overtaken
        for ever, and each counts when it goes in.
        """
        me = _Patient(tokens)
        self._patient[me] = None
        try:
            while True:
                seconds = None
                if self._stopping:
                    raise stopping()
                if next(iter(self._patient)) is me:
                    problem = self._obstacle(tokens, queued=True)
                    if problem is None:
                        self._patients_turn = False
                        return self._enter(tokens, queued=True)
                    if problem.code == "rate_limited":
                        seconds = max(problem.retry_after_seconds or 0.0, _MIN_WAIT_SECONDS)
                await self._changed(me, seconds)
        finally:
            del self._patient[me]
            self._wake_patient()

    @asynccontextmanager
    async def place(self, ticket: Ticket) -> AsyncIterator[None]:
        """One of the places, as long as the block runs; waits for it, first come, first served.

        A caller that is cancelled while it waits has dropped its ticket.
        """
        if ticket._stage != "queued":
            ticket._stage = "queued"
            self._queued += 1
        await self._turn(ticket)
        begun = self._clock()
        try:
            yield
        finally:
            self._last_seconds = self._clock() - begun
            self._leave(ticket)

    async def _turn(self, ticket: Ticket) -> None:
        if self._in_flight < self._concurrency:
            self._give_place(ticket)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line[turn] = ticket
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():  # it was given a place before the cancellation reached it
                self._leave(ticket)
                self._count(ticket, 0)
            else:
                self._line.pop(turn, None)
                self._drop(ticket)
            raise

    def _give_place(self, ticket: Ticket) -> None:
        now = self._clock()
        if self._is_limited and ticket._until <= now:
            # It was let in long ago and its tokens are taken now. It is not refused any more, but others are held back.
            self._forget(now)
            ticket._until = now + WINDOW_SECONDS
            self._recent.append(ticket)
            self._recent_tokens += ticket._tokens
        ticket._stage = "placed"
        self._queued -= 1
        self._in_flight += 1

    def _leave(self, ticket: Ticket) -> None:
        ticket._stage = "left"
        self._in_flight -= 1
        while self._line and self._in_flight < self._concurrency:
            turn, following = self._line.popitem(last=False)
            if not turn.cancelled():
                self._give_place(following)
                turn.set_result(None)
        self._wake_patient()

    @property
    def _is_limited(self) -> bool:
        return self._requests_per_minute is not None or self._tokens_per_minute is not None

    def _enter(self, tokens: int, *, queued: bool) -> Ticket:
        ticket = Ticket(self, tokens, self._clock() + (WINDOW_SECONDS if self._is_limited else 0.0))
        if queued:
            ticket._stage = "queued"
            self._queued += 1
        if self._is_limited:
            self._recent.append(ticket)
            self._recent_tokens += tokens
        return ticket

    def _drop(self, ticket: Ticket) -> None:
        if ticket._stage == "queued":
            self._queued -= 1
        elif ticket._stage != "outside":
            return
        ticket._stage = "left"
        self._count(ticket, 0)
        self._wake_patient()

    def _count(self, ticket: Ticket, tokens: int) -> None:
        """These are the ticket's tokens."""
        now = self._clock()
        self._forget(now)
        if ticket._until > now:
            self._recent_tokens += tokens - ticket._tokens
            ticket._tokens = tokens
            self._wake_patient()

    def _forget(self, now: float) -> None:
        while self._recent and self._recent[0]._until <= now:
            self._recent_tokens -= self._recent.popleft()._tokens

    def _obstacle(self, tokens: int, *, queued: bool, ahead: _Patient | None = None) -> Problem | None:
        """Why a group of so many tokens cannot be let in now, after the one ahead of it if there is one."""
        if self._stopping:
            return stopping()
        now = self._clock()
        self._forget(now)
        seconds = max(self._until_request(ahead, now), self._until_tokens(tokens, ahead, now))
        if seconds > 0:
            return Problem("rate_limited", "too many groups or tokens in this minute", retry_after_seconds=seconds)
        held = self._queued + self._in_flight + (ahead is not None)
        if queued and held >= self._concurrency + self._queue:
            estimate = self._last_seconds / self._concurrency * self._queued
            return Problem(
                "overloaded",
                f"{self._queued} groups wait for {self._concurrency} places",
                retry_after_seconds=min(max(estimate, _MIN_RETRY_SECONDS), _MAX_RETRY_SECONDS),
            )
        return None

    def _until_request(self, ahead: _Patient | None, now: float) -> float:
        """Seconds until one more group may be let in, 0 when it may."""
        if self._requests_per_minute is None:
            return 0.0
        excess = len(self._recent) + (ahead is not None) - self._requests_per_minute
        if excess < 0:
            return 0.0
        return (self._recent[excess]._until - now) if excess < len(self._recent) else WINDOW_SECONDS

    def _until_tokens(self, tokens: int, ahead: _Patient | None, now: float) -> float:
        """Seconds until so many more tokens may be taken, 0 when they may."""
        before = self._recent_tokens + (0 if ahead is None else ahead.tokens)
        if self._tokens_per_minute is None or not before or before + tokens <= self._tokens_per_minute:
            return 0.0
        # What is larger than the limit waits until nothing is left; the most that can go is what is there.
        excess = min(before + tokens - self._tokens_per_minute, self._recent_tokens)
        for ticket in self._recent:
            excess -= ticket._tokens
            if excess <= 0:
                return ticket._until - now
        return WINDOW_SECONDS

    async def _changed(self, patient: _Patient, seconds: float | None) -> None:
        """Returns at a change that may let the patient one in, or after so many seconds."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        patient.woken = woken
        if seconds is None:
            await woken
            return
        timer = asyncio.ensure_future(self._sleep(seconds))
        # This wait alone: the timer's end, which comes late when it is cancelled, is none of the next one's.
        timer.add_done_callback(lambda _: _wake(woken))
        try:
            await woken
        finally:
            timer.cancel()

    def _wake_patient(self) -> None:
        if self._patient:
            _wake(next(iter(self._patient)).woken)


class _Patient:
    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.woken: asyncio.Future[None] | None = None


def _wake(woken: asyncio.Future[None] | None) -> None:
    if woken is not None and not woken.done():
        woken.set_result(None)
