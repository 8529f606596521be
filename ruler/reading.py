"""Reading from what may block (a pipe, a terminal) without holding up the event loop."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Iterable
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")
_END: Any = object()


async def read_in_thread(items: Iterable[T]) -> AsyncGenerator[T, None]:
    """The items, each taken from the iterable in a thread of its own when it is wanted.

    The thread is a daemon: an executor's would be waited for at the end, and a read from a silent pipe never ends.
    """
    loop = asyncio.get_running_loop()
    wanted: queue.SimpleQueue[asyncio.Future[T] | None] = queue.SimpleQueue()

    def read() -> None:
        iterator = iter(items)
        while (future := wanted.get()) is not None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                try:
                    loop.call_soon_threadsafe(_settle, future, next(iterator, _END), None)
                except Exception as error:  # noqa: BLE001 - it is raised where the item is awaited
                    loop.call_soon_threadsafe(_settle, future, None, error)

    threading.Thread(target=read, name="ruler-reader", daemon=True).start()
    try:
        while True:
            future: asyncio.Future[T] = loop.create_future()
            wanted.put(future)
            item = await future
            if item is _END:
                return
            yield item
    finally:
        wanted.put(None)


def _settle(future: asyncio.Future[Any], item: object, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(item)
    else:
        future.set_exception(error)
