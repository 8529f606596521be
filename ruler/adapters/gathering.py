"""Rollouts of one group that run beside each other in one process, brought together for one judgement."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

from ruler.errors import ConfigError, JudgeError, describe

T = TypeVar("T")
R = TypeVar("R")

Meet = Callable[[T], Awaitable[R]]
"""Hands in what one sibling has made and waits for the others; returns its own part of the result."""


class Gathering(Generic[T, R]):
    """Lets the coroutines of one `asyncio.gather` meet, for trainers that score each rollout by itself.

    Siblings are those that take a place for the same call and task in one pass of the event loop, which is what
    `gather` makes of the coroutines it is given. So nobody has to say how many there are, and equal texts are members
    of their own. Grouping by prompt and count was rejected: two groups of one prompt, or an evaluation with another
    count, would be mixed up.
    """

    def __init__(self, settle: Callable[[list[T]], Awaitable[Sequence[R]]], *, sibling_seconds: float) -> None:
        """Waits for nobody yet.

        Args:
            settle: called once for each group, with what its members handed in; returns a result for each, in order.
            sibling_seconds: how long the first member waits for the last one.

        Raises:
            ConfigError: no positive number of seconds.
        """
        if not isinstance(sibling_seconds, int | float) or not sibling_seconds > 0:
            raise ConfigError(f"sibling_seconds: expected a number above 0, got {sibling_seconds!r:.80}")
        self._settle = settle
        self._sibling_seconds = sibling_seconds
        self._open: dict[Hashable, _Meeting[T, R]] = {}

    @contextmanager
    def place(self, call: object, task: Hashable) -> Iterator[Meet[T, R]]:
        """A place among one's siblings; whoever leaves by an error fails the others, who would wait in vain.

        Args:
            call: an object that siblings share and others do not.
            task: equal for siblings; tells them apart where several groups are started with one such object.

        Raises:
            JudgeError: when meeting, if a sibling failed or did not come in time; else what `settle` raised.
        """
        key = (id(call), task)
        meeting = self._open.get(key)
        if meeting is None:
            meeting = self._open[key] = _Meeting(self._settle, self._sibling_seconds)
            # Behind the first steps of all siblings, which stand in the loop's queue already. `call` is kept until
            # then: the id of an object that is gone is given to another.
            asyncio.get_running_loop().call_soon(self._close, key, call)
        meeting.num_members += 1
        try:
            yield meeting.meet
        except BaseException as error:
            meeting.fail(f"a sibling failed: {describe(error)}")
            raise

    def _close(self, key: Hashable, call: object) -> None:
        self._open.pop(key).close()


class _Meeting(Generic[T, R]):
    """One group on its way."""

    def __init__(self, settle: Callable[[list[T]], Awaitable[Sequence[R]]], seconds: float) -> None:
        self.num_members = 0
        self._settle = settle
        self._seconds = seconds
        self._closed = False
        self._items: list[T] = []
        self._complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._outcome: asyncio.Task[Sequence[R]] | None = None

    async def meet(self, item: T) -> R:
        number = len(self._items)
        self._items.append(item)
        if not number:
            self._outcome = asyncio.ensure_future(self._run())
        self._check()
        assert self._outcome is not None, "made by the first"
        # Shielded: one member that is cancelled does not take the others' judgement along.
        return (await asyncio.shield(self._outcome))[number]

    def close(self) -> None:
        self._closed = True
        self._check()

    def fail(self, why: str) -> None:
        if not self._complete.done():
            self._complete.set_exception(JudgeError(why))
            # Nobody may be waiting yet.
            self._complete.exception()

    def _check(self) -> None:
        if self._closed and len(self._items) == self.num_members and not self._complete.done():
            self._complete.set_result(None)

    async def _run(self) -> Sequence[R]:
        try:
            await asyncio.wait_for(asyncio.shield(self._complete), self._seconds)
        except TimeoutError:
            self.fail(
                f"sibling_seconds: {len(self._items)} of {self.num_members} rollouts of this group were in after "
                f"{self._seconds:g} s"
            )
        await self._complete
        return await self._settle(list(self._items))
