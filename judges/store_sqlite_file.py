"""The SQLite file behind `judges.store_sqlite`: its schema, and how it is opened, shared, forked and closed safely."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from judges.store import StoreError
from ruler.errors import ConfigError

BUSY_SECONDS = 5.0
"""How long a connection waits for others to finish before it gives up."""

_CHECKPOINT_MILLISECONDS = 200

_APPLICATION_ID = 0x52554C52  # "RULR"
_SCHEMA_VERSION = 1
# Not WITHOUT ROWID: rows of 1 kB do not fit an index page, which made the file three times as large and as slow.
_SCHEMA = (
    "CREATE TABLE entries (key BLOB PRIMARY KEY NOT NULL, created_at REAL NOT NULL, text TEXT NOT NULL)",
    "CREATE INDEX entries_by_age ON entries (created_at)",
    "CREATE TABLE leases (key BLOB PRIMARY KEY NOT NULL, holder TEXT NOT NULL, expires_at REAL NOT NULL) WITHOUT ROWID",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_SCHEMA_VERSION}",
)

_Identity = tuple[int, int]


class SqliteFile:
    """One connection to the file, for one thread at a time; made at the first use, and anew when it was closed.

    A file that somebody removed or replaced is noticed at the next use, and one with the same path is opened. `end`
    is owed to each of these.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._opened: _Identity | None = None
        with _registry:
            _files.add(self)

    @contextmanager
    def use(self) -> Iterator[sqlite3.Connection]:
        """The connection, in autocommit mode. Whatever is raised meanwhile closes it, which rolls back.

        Raises:
            StoreError: in place of what SQLite and the file system raise, with the path.
        """
        with self._lock:
            try:
                yield self._live()
            except (sqlite3.Error, OSError, ConfigError) as error:
                self._drop()
                raise StoreError(fault(error, self._path)) from error
            except BaseException:
                self._drop()
                raise

    def close(self) -> None:
        """Closes the connection; the next use makes another."""
        with self._lock:
            self._drop()

    def end(self) -> None:
        """Closes the connection for good. Never waits: garbage collection may call this anywhere."""
        if self._lock.acquire(blocking=False):  # else it is being closed for a fork
            self._drop()
            self._lock.release()
        _files.discard(self)

    def _live(self) -> sqlite3.Connection:
        # Else what is put after an `rm` would go into a file without a name, and be gone with this process.
        if self._connection is None or _identity(self._path) != self._opened:
            self._drop()
            self._opened, self._connection = _open(self._path)
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()


def fault(error: Exception, path: Path) -> str:
    """One line: where and why."""
    if isinstance(error, ConfigError):
        return str(error)
    if isinstance(error, OSError):
        return f"{path}: {error.strerror or error}"
    if is_busy(error):
        return f"{path}: locked by another program for more than {BUSY_SECONDS:g} seconds"
    return f"{path}: {error}"


def is_busy(error: BaseException | None) -> bool:
    """Whether SQLite gave up waiting for others."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def truncate_log(connection: sqlite3.Connection) -> None:
    """Moves the write-ahead log into the file and cuts it to nothing, unless others are in the way for long.

    Outside of any transaction.
    """
    # While it waits for readers, it keeps all writers waiting.
    connection.execute(f"PRAGMA busy_timeout = {_CHECKPOINT_MILLISECONDS}")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000:.0f}")


# --- Opening ---


def _open(path: Path) -> tuple[_Identity | None, sqlite3.Connection]:
    _create(path)
    # Before connecting: a file that is replaced in between is then noticed at the next use.
    identity = _identity(path)
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection, path)
        except sqlite3.Error as error:
            connection.close()
            # SQLite does not wait for others when it turns a new file to WAL.
            if not is_busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        except BaseException:
            connection.close()
            raise
        else:
            return identity, connection


def _create(path: Path) -> None:
    """Makes an empty file for the owner alone, and the folders above it, unless they are there."""
    # Closing any descriptor of the file gives up the locks of the whole process on it. So it is never opened but by
    # SQLite, except here, where it is new, and nobody else in this process gets past this lock to connect to it.
    with _creating:
        missing = [folder for folder in path.parents if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(mode=0o700, exist_ok=True)
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    if _is_new(connection):
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("BEGIN IMMEDIATE")
        if _is_new(connection):  # still, now that nobody else can write
            for statement in _SCHEMA:
                connection.execute(statement)
        connection.execute("COMMIT")
    if _pragma(connection, "application_id") != _APPLICATION_ID:
        raise ConfigError(f"{path}: an SQLite database of another program; give a path of its own")
    version = _pragma(connection, "user_version")
    if version != _SCHEMA_VERSION:
        raise ConfigError(
            f"{path}: written by another version of ruler-judge (schema {version}, this one knows {_SCHEMA_VERSION}); "
            "upgrade, or give another path"
        )
    if _pragma(connection, "journal_mode = WAL") != "wal":
        raise ConfigError(f"{path}: SQLite cannot keep a write-ahead log in this file system; give a local path")
    # A kill loses nothing that was committed, a power cut at most the last moments: replies can be asked for again.
    connection.execute("PRAGMA synchronous = NORMAL")


def _is_new(connection: sqlite3.Connection) -> bool:
    (num_tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return num_tables == 0 and _pragma(connection, "application_id") == 0


def _pragma(connection: sqlite3.Connection, text: str) -> object:
    return connection.execute(f"PRAGMA {text}").fetchone()[0]


def _identity(path: Path) -> _Identity | None:
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return None
    return stat.st_dev, stat.st_ino


# --- Forking ---
# SQLite keeps a table of the locks that its process holds on a file. A child inherits the table but not the locks: a
# connection it opens itself would be taken as locked, while other processes see no lock and may reset the log under
# it. So no connection is open at the moment of a fork.

_creating = threading.Lock()
_registry = threading.Lock()
_files: set[SqliteFile] = set()
_held_over_fork: list[SqliteFile] = []


def _before_fork() -> None:
    # The other lock is only ever taken by who has that of a file, so it is free then.
    _registry.acquire()
    _held_over_fork.extend(_files)
    for file in _held_over_fork:
        file._lock.acquire()
        file._drop()


def _after_fork() -> None:
    for file in _held_over_fork:
        file._lock.release()
    _held_over_fork.clear()
    _registry.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
