"""Time that passes only when everybody waits for it: for tests of queues, backoff and leases."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable
from itertools import count
from typing import TypeVar

T = TypeVar("T")


class FakeTime:
    """A clock and a sleep that belong together.

    Attributes:
        now: seconds.
        slept: every wait that was asked for, in order.
    """

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now
        self.slept: list[float] = []
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._tickets = count()

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (self.now + seconds, next(self._tickets), future))
        await future

    async def run(self, work: Awaitable[T]) -> T:
        """The result of the work; time jumps to the next one who waits whenever nothing else can happen."""
        task = asyncio.ensure_future(work)
        while not task.done():
            for _ in range(50):
                await asyncio.sleep(0)
            if task.done() or not self._waiting:
                continue
            due, _, future = heapq.heappop(self._waiting)
            if not future.done():
                self.now = max(self.now, due)
                future.set_result(None)
        return await task
