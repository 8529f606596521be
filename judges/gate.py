"""A queue at a gate: first come, first served, from any event loop and thread of the process."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from weakref import WeakSet

# asyncio's own primitives belong to one event loop; a judge is used from the caller's and from the background one.


class Gate:
    """Lets callers through one at a time, in the order they came.

    Args:
        sleep: waits so many seconds.
        forget: called in a forked child, where nobody queues and nothing is in flight any more.
    """

    def __init__(
        self,
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        forget: Callable[[], None] = lambda: None,
    ) -> None:
        self._sleep = sleep
        self._forget = forget
        self._queue: deque[_Ticket] = deque()
        self.lock = threading.RLock()
        """Held while `admit` runs; hold it to change what `admit` looks at."""
        _gates.add(self)

    async def enter(self, admit: Callable[[], float | None]) -> None:
        """Returns once it is the caller's turn and `admit` has let it in.

        Args:
            admit: 0 lets in. A positive number: ask again after so many seconds, or at a change. None: ask again at
                a change. What it raises is raised here, and the next in the queue has its turn.
        """
        with self.lock:
            if self._first() is None and admit() == 0:
                return
            ticket = _Ticket()
            self._queue.append(ticket)
        try:
            while True:
                with self.lock:
                    delay = admit() if self._first() is ticket else None
                    if delay == 0:
                        return
                    woken = ticket.renew()
                await self._wait(woken, delay)
        finally:
            with self.lock:
                with suppress(ValueError):  # dropped, when its loop was closed
                    self._queue.remove(ticket)
                self.changed()

    def changed(self) -> None:
        """Has the first in the queue ask again."""
        with self.lock:
            first = self._first()
            if first is not None:
                first.wake()

    async def _wait(self, woken: asyncio.Future[None], delay: float | None) -> None:
        if delay is None:
            await woken
            return
        timer = asyncio.ensure_future(self._sleep(delay))
        try:
            await asyncio.wait((woken, timer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            await asyncio.wait([timer])

    def _first(self) -> _Ticket | None:
        """Whose turn it is. A loop that was closed over its waiting tasks, or stands still, does not take its turn."""
        while self._queue and self._queue[0].loop.is_closed():
            self._queue.popleft()
        return next((ticket for ticket in self._queue if ticket.loop.is_running()), None)

    def _after_fork_in_child(self) -> None:
        # Who queues and who holds the lock are threads of the parent.
        self.lock = threading.RLock()
        self._queue.clear()
        self._forget()


class _Ticket:
    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._woken = self.loop.create_future()

    def renew(self) -> asyncio.Future[None]:
        self._woken = self.loop.create_future()
        return self._woken

    def wake(self) -> None:
        with suppress(RuntimeError):  # closed this very moment
            self.loop.call_soon_threadsafe(_set, self._woken)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


_gates: WeakSet[Gate] = WeakSet()


def _after_fork_in_child() -> None:
    for gate in _gates:
        gate._after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
