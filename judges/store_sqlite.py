"""Replies kept in one SQLite file, for any number of processes on this machine."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from judges.store import StoreError, key_bytes
from judges.store_sqlite_file import SqliteFile, fault, truncate_log
from judges.store_sqlite_writer import Leases, Operation, Work, Writer
from ruler.errors import ConfigError

_PAGE_SIZE = 100
_DELETED_AT_ONCE = 2_000
_FREED_PAGES_AT_ONCE = 2_000


class SqliteStore:
    """A `judges.store.Store` in one file, with `-wal` and `-shm` beside it while it is open. Also safe over a fork.

    Reading takes tens of microseconds on the calling thread and waits for no writer. Writing is done by a thread that
    commits whatever came together at once.

    Args:
        path: on a local disk, not in a network file system. The file is made, for its owner alone, with the folders
            above it. It is opened here once and then at the first use, again when somebody has removed it.
        lease_seconds: a lease of a process that died is free after so long. Equal for all who share the file.
        clock: Unix seconds, one for all who share the file.

    Raises:
        ConfigError: the file cannot be written, is no SQLite database, or is another program's or version's.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, lease_seconds: float = 10.0, clock: Callable[[], float] = time.time
    ) -> None:
        if not lease_seconds > 0:
            raise ConfigError(f"lease_seconds: must be positive, got {lease_seconds!r}")
        self._path = Path(os.path.abspath(path))
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._writer: Writer | None = None
        self._stop_writer: weakref.finalize[[], SqliteStore] | None = None
        self._reader = SqliteFile(self._path)
        weakref.finalize(self, self._reader.end)
        try:
            with self._reader.use() as connection:
                # Whether it can be written shows at an attempt; BEGIN IMMEDIATE is none.
                connection.execute("DELETE FROM leases WHERE 0")
        except StoreError as error:
            raise ConfigError(str(error)) from error.__cause__
        except ValueError as error:
            raise ConfigError(f"store: {str(self._path)!r} is no path: {error}") from error
        # Nothing stays open that a server which forks its workers after loading would have to close.
        self._reader.close()
        _stores.add(self)

    def __repr__(self) -> str:
        return f"SqliteStore({str(self._path)!r})"

    @property
    def location(self) -> str:
        """The absolute path."""
        return str(self._path)

    async def get(self, key: str) -> str | None:
        """The text under this key; bytes that are no text come as U+FFFD."""
        row_key = key_bytes(key)
        with self._reader.use() as connection:
            row = connection.execute("SELECT CAST(text AS BLOB) FROM entries WHERE key = ?", (row_key,)).fetchone()
        return None if row is None else str(row[0], "utf-8", "replace")

    async def put(self, key: str, text: str, *, created_at: float) -> None:
        """Keeps the text and gives the lease back; also when the caller is cancelled."""
        row_key = key_bytes(key)
        text.encode()  # half a surrogate pair fails here, and not in a transaction with others

        def work(connection: sqlite3.Connection, leases: Leases) -> None:
            connection.execute(
                "INSERT INTO entries (key, created_at, text) VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE "
                "SET created_at = excluded.created_at, text = excluded.text",
                (row_key, created_at, text),
            )
            leases.give_back(connection, row_key)

        await self._write(work)

    async def lease(self, key: str) -> bool:
        """Whether the caller now has the right to ask; a caller that is cancelled meanwhile has not."""
        row_key = key_bytes(key)
        loop = asyncio.get_running_loop()
        operation = self._queue(lambda connection, leases: leases.take(connection, row_key, loop))
        try:
            return bool(await _outcome(operation))
        except StoreError:
            raise
        except BaseException:
            # Else a lease that nobody knows of would be renewed for as long as this process lives.
            self._submit(
                Operation(
                    lambda connection, leases: leases.give_back(connection, row_key) if operation.result else None,
                    otherwise=lambda leases: leases.forget(row_key) if operation.result else None,
                )
            )
            raise

    async def release(self, key: str) -> None:
        """Gives the lease back; also when the caller is cancelled."""
        row_key = key_bytes(key)
        await self._write(
            lambda connection, leases: leases.give_back(connection, row_key),
            otherwise=lambda leases: leases.forget(row_key),
        )

    async def entries(self) -> AsyncIterator[tuple[str, str]]:
        """Every (key, text), oldest first; a few are in memory, and nobody is kept from writing meanwhile."""
        with self._reader.use() as connection:
            last = connection.execute("SELECT max(rowid) FROM entries").fetchone()[0] or 0
        after = 0
        while after < last:
            with self._reader.use() as connection:
                rows = connection.execute(
                    "SELECT rowid, lower(hex(key)), CAST(text AS BLOB) FROM entries WHERE rowid > ? AND rowid <= ? "
                    "ORDER BY rowid LIMIT ?",
                    (after, last, _PAGE_SIZE),
                ).fetchall()
            for _, key, text in rows:
                yield key, str(text, "utf-8", "replace")
            after = rows[-1][0] if rows else last
            await asyncio.sleep(0)

    async def add(self, key: str, text: str, *, created_at: float) -> bool:
        """Keeps the text unless the key is there already; whether it was kept."""
        row = (key_bytes(key), created_at, text)
        text.encode()
        sql = "INSERT INTO entries (key, created_at, text) VALUES (?, ?, ?) ON CONFLICT (key) DO NOTHING"
        return bool(await self._write(lambda connection, leases: connection.execute(sql, row).rowcount))

    async def delete(self, *, older_than: float | None = None) -> int:
        """Removes entries and gives their space back to the file system; how many they were."""
        # Not VACUUM: it keeps every writer waiting while it writes the whole file anew. Here others come in between.
        old, values = ("1", ()) if older_than is None else ("created_at < ?", (older_than,))
        sql = f"DELETE FROM entries WHERE rowid IN (SELECT rowid FROM entries WHERE {old} LIMIT {_DELETED_AT_ONCE})"
        num_deleted = 0
        while count := await self._write(lambda connection, leases: connection.execute(sql, values).rowcount):
            num_deleted += count
        while await self._write(_free_pages, alone=True):
            pass
        await self._write(lambda connection, leases: truncate_log(connection), alone=True)
        return num_deleted

    async def size_bytes(self) -> int:
        """The size of the file and of its write-ahead log."""
        size = 0
        for path in (self._path, Path(f"{self._path}-wal")):
            try:
                size += path.stat().st_size
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StoreError(fault(error, self._path)) from error
        return size

    async def close(self) -> None:
        """Ends the thread after what is queued, gives back the leases and closes the file, until the next use."""
        # First: who closes last moves the log into the file, and that should be the thread.
        self._reader.close()
        done = asyncio.get_running_loop().create_future()
        with self._lock:
            writer, self._writer = self._writer, None
            if self._stop_writer is not None:
                self._stop_writer.detach()
            if writer is not None:
                writer.stop(done)
        if writer is not None:
            await done

    async def _write(self, work: Work, **options: Any) -> Any:
        return await _outcome(self._queue(work, **options))

    def _queue(self, work: Work, **options: Any) -> Operation:
        operation = Operation(work, asyncio.get_running_loop().create_future(), **options)
        self._submit(operation)
        return operation

    def _submit(self, operation: Operation) -> None:
        with self._lock:
            if self._writer is None or self._writer.is_stopped:
                self._writer = Writer(self._path, self._lease_seconds, self._clock)
                self._stop_writer = weakref.finalize(self, self._writer.stop)
                self._stop_writer.atexit = False  # the writer sees to that itself
            self._writer.put(operation)

    def _forget_writer(self) -> None:
        self._lock = threading.Lock()
        self._writer = None


async def _outcome(operation: Operation) -> Any:
    assert operation.done is not None
    await operation.done
    if operation.error is not None:
        raise StoreError(str(operation.error)) from operation.error
    return operation.result


def _free_pages(connection: sqlite3.Connection, leases: Leases) -> bool:
    """Gives some unused pages back; whether there are more."""
    (before,) = connection.execute("PRAGMA freelist_count").fetchone()
    # Not execute: it takes only the first step of this statement, and each step frees one page.
    connection.executescript(f"PRAGMA incremental_vacuum({_FREED_PAGES_AT_ONCE})")
    (after,) = connection.execute("PRAGMA freelist_count").fetchone()
    return bool(0 < after < before)


_stores: weakref.WeakSet[SqliteStore] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # The thread and its leases are the parent's.
    for store in _stores:
        store._forget_writer()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
