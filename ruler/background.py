"""One event loop in a background thread: the way from synchronous code into the async library."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_owner = 0


def run_in_background(work: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result; blocks the calling thread, whether or not it has a running event loop.

    `asyncio.run` was rejected: it refuses to run inside a notebook's loop, and a new loop per call would throw away a
    backend's open connections. An interrupt (Ctrl-C) while waiting cancels the work and waits until it is gone.
    """
    future = asyncio.run_coroutine_threadsafe(work, _running_loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def _running_loop() -> asyncio.AbstractEventLoop:
    global _loop, _owner
    with _lock:
        # Threads do not survive a fork: the child needs its own.
        if _loop is None or _owner != os.getpid():
            _loop, _owner = asyncio.new_event_loop(), os.getpid()
            threading.Thread(target=_loop.run_forever, name="ruler-background", daemon=True).start()
        return _loop
