"""What a thread owes to those who wait for it, in their event loops and at the end of the process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Protocol


class Worker(Protocol):
    """A thread, or what stands for one."""

    def stop(self) -> object:
        """Asks it to end, without waiting."""

    def join(self, timeout: float, /) -> object:
        """Waits for its end, so many seconds at most."""


def hand_over(future: asyncio.Future[Any], outcome: object) -> None:
    """Gives the outcome to whoever awaits the future, from any thread; an exception is raised there."""
    with suppress(RuntimeError):  # its event loop is closed: nobody waits any more
        future.get_loop().call_soon_threadsafe(_settle, future, outcome)


def _settle(future: asyncio.Future[Any], outcome: object) -> None:
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def end_all(workers: Iterable[Worker], *, seconds: float) -> None:
    """Asks all to end, then waits for them, so many seconds in all."""
    asked = list(workers)
    for worker in asked:
        worker.stop()
    end = time.monotonic() + seconds
    for worker in asked:
        worker.join(max(0.0, end - time.monotonic()))
