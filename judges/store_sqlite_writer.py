"""The thread that writes for `judges.store_sqlite`: commits at once what is queued, and keeps leases alive."""

from __future__ import annotations

import asyncio
import atexit
import os
import sqlite3
import threading
import time
import uuid
import weakref
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from judges.store import StoreError
from judges.store_sqlite_file import SqliteFile, is_busy, truncate_log
from judges.threads import end_all

_MAX_BATCH_SIZE = 1_000
_LOG_BYTES = 16 * 2**20
_EXIT_SECONDS = 2.0
_FORGOTTEN_SECONDS = 3_600.0


class Leases:
    """What one writer has leased. Its methods belong into a transaction."""

    def __init__(self, lease_seconds: float, clock: Callable[[], float]) -> None:
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._holder = uuid.uuid4().hex
        self.held: dict[bytes, asyncio.AbstractEventLoop] = {}

    def take(self, connection: sqlite3.Connection, key: bytes, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether the key is leased from now on, by somebody in this event loop."""
        # One of ours may have run out while this process was stopped: its caller is still at it.
        if key in self.held:
            return False
        now = self._clock()
        done = connection.execute(
            "INSERT INTO leases (key, holder, expires_at) VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE "
            "SET holder = excluded.holder, expires_at = excluded.expires_at WHERE leases.expires_at <= ?",
            (key, self._holder, now + self._lease_seconds, now),
        )
        if done.rowcount == 1:
            self.held[key] = loop
        return key in self.held

    def give_back(self, connection: sqlite3.Connection, key: bytes) -> None:
        """Frees the key, unless it is somebody else's."""
        connection.execute("DELETE FROM leases WHERE key = ? AND holder = ?", (key, self._holder))
        self.forget(key)

    def forget(self, key: bytes) -> None:
        """Renews it no more: a lease that cannot be given back runs out."""
        self.held.pop(key, None)

    def give_all_back(self, connection: sqlite3.Connection) -> None:
        """Frees every key of ours."""
        connection.execute("DELETE FROM leases WHERE holder = ?", (self._holder,))
        self.held.clear()

    def keep(self, keys: Collection[bytes]) -> None:
        """Forgets all others, without freeing them."""
        self.held = {key: loop for key, loop in self.held.items() if key in keys}

    def renew(self, connection: sqlite3.Connection) -> None:
        """Prolongs those that are still ours; those that were lost to others are forgotten."""
        now = self._clock()
        rows = connection.execute("SELECT key FROM leases WHERE holder = ?", (self._holder,)).fetchall()
        ours = {key for (key,) in rows}
        # Where a loop was closed without ending its tasks, nobody is at it any more.
        self.keep({key for key in ours if key in self.held and not self.held[key].is_closed()})
        values = [(now + self._lease_seconds, key) for key in self.held]
        connection.executemany("UPDATE leases SET expires_at = ? WHERE key = ?", values)
        # The others were given back at a moment when nothing could be written.
        connection.executemany("DELETE FROM leases WHERE key = ?", [(key,) for key in ours.difference(self.held)])
        # Those of the dead whose question nobody asked again.
        connection.execute("DELETE FROM leases WHERE expires_at <= ?", (now - _FORGOTTEN_SECONDS,))


Work = Callable[[sqlite3.Connection, Leases], Any]


@dataclass(slots=True, eq=False)
class Operation:
    """Something to do with the file. When `done` is, `result` is on disk, or `error` says why not."""

    work: Work
    done: asyncio.Future[None] | None = None
    """None: nobody waits."""
    alone: bool = False
    """Outside of any transaction, after the others of its turn."""
    otherwise: Callable[[Leases], None] | None = None
    """Called when it failed."""
    last: bool = False
    """The thread ends with it."""
    result: Any = None
    error: Exception | None = None


class Writer:
    """A daemon thread with a connection and leases of its own. It sleeps while nothing is queued and nothing leased.

    It knows nothing of its store, so that a store which is dropped does not live on in it.
    """

    def __init__(self, path: Path, lease_seconds: float, clock: Callable[[], float]) -> None:
        self._file = SqliteFile(path)
        self._log_path = f"{path}-wal"
        self._next_cut = 0.0
        self._leases = Leases(lease_seconds, clock)
        self._renewal_seconds = lease_seconds / 3
        self._renew_at = 0.0
        self.is_stopped = False
        """Whether nothing may be put any more."""
        self._queue: SimpleQueue[Operation] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"store {path.name}", daemon=True)
        self._thread.start()
        _writers.add(self)

    def put(self, operation: Operation) -> None:
        """Queues it. Its future is resolved in its own event loop, if there still is one."""
        self._queue.put(operation)

    def stop(self, done: asyncio.Future[None] | None = None) -> None:
        """Ends the thread after all that is queued."""
        self.is_stopped = True
        self.put(Operation(lambda connection, leases: leases.give_all_back(connection), done, last=True))

    def join(self, timeout_seconds: float) -> None:
        """Waits for the end of the thread."""
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while self._turn():
            pass

    def _turn(self) -> bool:
        """Waits for work and does it; whether more can come."""
        batch = self._next()
        if not self._leases.held:
            self._renew_at = time.monotonic() + self._renewal_seconds
        elif time.monotonic() >= self._renew_at:
            self._renew_at = time.monotonic() + self._renewal_seconds
            batch.insert(0, Operation(lambda connection, leases: leases.renew(connection)))
        together = [operation for operation in batch if not operation.alone]
        if together:
            self._commit(together)
        for operation in batch:
            if operation.alone:
                self._do_alone(operation)
        self._bound_log()
        ends = bool(batch) and batch[-1].last
        if ends:
            self._file.end()
        _wake(batch)
        return not ends

    def _next(self) -> list[Operation]:
        timeout = max(0.0, self._renew_at - time.monotonic()) if self._leases.held else None
        batch: list[Operation] = []
        with suppress(Empty):
            batch.append(self._queue.get(timeout=timeout))
            while len(batch) < _MAX_BATCH_SIZE and not batch[-1].last:
                batch.append(self._queue.get_nowait())
        return batch

    def _commit(self, operations: Sequence[Operation]) -> None:
        held = set(self._leases.held)
        try:
            with self._file.use() as connection:
                connection.execute("BEGIN IMMEDIATE")
                for operation in operations:
                    operation.result = operation.work(connection, self._leases)
                connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - it is raised where the operation is awaited
            self._leases.keep(held)
            if len(operations) > 1 and not is_busy(error.__cause__):
                # What is wrong with one of them is no reason not to keep the others.
                for operation in operations:
                    self._commit([operation])
                return
            for operation in operations:
                operation.error = error
                if operation.otherwise is not None:
                    operation.otherwise(self._leases)

    def _do_alone(self, operation: Operation) -> None:
        try:
            with self._file.use() as connection:
                operation.result = operation.work(connection, self._leases)
        except Exception as error:  # noqa: BLE001 - as above
            operation.error = error

    def _bound_log(self) -> None:
        """Cuts the log when it is long: SQLite only does it in a moment when nobody writes, and that may never come."""
        started = time.monotonic()
        with suppress(StoreError, OSError):  # what had to be written is
            if started >= self._next_cut and os.stat(self._log_path).st_size > _LOG_BYTES:
                with self._file.use() as connection:
                    truncate_log(connection)
                # It may be in vain: another program may be reading for hours.
                self._next_cut = time.monotonic() + 20 * (time.monotonic() - started)


def _wake(operations: Sequence[Operation]) -> None:
    waiting = defaultdict(list)
    for operation in operations:
        if operation.done is not None:
            waiting[operation.done.get_loop()].append(operation.done)
    for loop, futures in waiting.items():
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(_resolve, futures)


def _resolve(futures: Sequence[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


_writers: weakref.WeakSet[Writer] = weakref.WeakSet()


@atexit.register
def _finish() -> None:
    # For those whose callers were cancelled. Not for long: another program may keep the file locked.
    end_all(_writers, seconds=_EXIT_SECONDS)
