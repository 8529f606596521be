"""One event loop in a background thread: the way from synchronous code into the async library."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None
_owner = 0


def run_in_background(work: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result; blocks the calling thread, whether or not it has a running event loop.

    `asyncio.run` was rejected: it refuses to run inside a notebook's loop, and a new loop per call would throw away a
    backend's open connections. An interrupt (Ctrl-C) while waiting cancels the work.

    Raises:
        RuntimeError: called on the background loop itself, where waiting would never end.
    """
    loop = _running_loop()
    if _thread is threading.current_thread():
        work.close()
        raise RuntimeError("synchronous scoring was called from the event loop it runs on; use the async call there")
    future = asyncio.run_coroutine_threadsafe(_contained(work), loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def _run(loop: asyncio.AbstractEventLoop) -> None:
    while not loop.is_closed():
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt):
            # Raised by some task, and given to whoever waits for it: no reason to leave all others waiting for ever.
            continue
        return


async def _contained(work: Coroutine[Any, Any, T]) -> T:
    try:
        return await work
    except (SystemExit, KeyboardInterrupt) as error:
        # It would end the loop, and every later call would wait for ever.
        raise RuntimeError(f"the work tried to end the process with {type(error).__name__}") from error


def _close() -> None:
    """At exit: lets what the loop still holds (connections) be closed, for a second at most."""
    if _loop is None or _owner != os.getpid() or not _loop.is_running():
        return
    with suppress(Exception):
        asyncio.run_coroutine_threadsafe(_loop.shutdown_asyncgens(), _loop).result(1)
    _loop.call_soon_threadsafe(_loop.stop)


def _running_loop() -> asyncio.AbstractEventLoop:
    global _loop, _thread, _owner
    with _lock:
        # Threads do not survive a fork: the child needs its own.
        if _loop is None or _owner != os.getpid():
            _loop, _owner = asyncio.new_event_loop(), os.getpid()
            _thread = threading.Thread(target=_run, args=(_loop,), name="ruler-background", daemon=True)
            _thread.start()
            atexit.register(_close)
        return _loop
