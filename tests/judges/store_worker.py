"""Another process with a store, for the tests: `python -m tests.judges.store_worker PLACE ACTION [ARGUMENT …]`.

It says on its standard output what it has done, a line at a time.
"""

from __future__ import annotations

import asyncio
import faulthandler
import hashlib
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from judges.store import Store, StoreError
from judges.store_redis import RedisStore
from judges.store_sqlite import SqliteStore

ROOT = Path(__file__).parents[2]


def key(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()


@contextmanager
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    """The file as another program sees it."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def is_sound(path: Path) -> bool:
    with raw(path) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def open_place(place: str, *, lease_seconds: float = 10.0) -> Store:
    if place.startswith("redis"):
        return RedisStore(place, lease_seconds=lease_seconds)
    return SqliteStore(place, lease_seconds=lease_seconds)


def say(*words: object) -> None:
    # Not print: a lock that another thread holds at the moment of a fork stays locked in the child.
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def hold(place: str, seconds: str) -> None:
    """Leases the key "held", and does nothing else for ever."""
    store = open_place(place, lease_seconds=float(seconds))
    say(await store.lease(key("held")))
    await asyncio.sleep(600)


async def put_forever(place: str, name: str) -> None:
    """Puts as fast as it can; says of each when it is kept."""
    store = open_place(place)

    async def put(worker: int) -> None:
        for i in range(10**9):
            await store.put(key(f"{name}-{worker}-{i}"), "x" * 1000, created_at=time.time())
            say(f"{name}-{worker}-{i}")

    await asyncio.gather(*(put(worker) for worker in range(8)))


async def open_at_once(place: str, name: str) -> None:
    """Opens the store when it is told to, and puts one entry."""
    say("ready")
    sys.stdin.readline()
    store = open_place(place)
    await store.put(key(name), name, created_at=1.0)
    say("done")
    await store.close()


async def contend(place: str, folder: str, num_tasks: str) -> None:
    """Many tasks lease few keys; whoever has one looks whether anybody else has it too."""
    store = open_place(place)
    counts = {"won": 0, "clashes": 0}

    async def task(number: int) -> None:
        name = str(number % 10)
        while not await store.lease(key(name)):  # noqa: ASYNC110 - as the cache does: a lease is seen by asking only
            await asyncio.sleep(0.01)
        mark = Path(folder) / name
        try:
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            counts["clashes"] += 1
        counts["won"] += 1
        await asyncio.sleep(0)
        mark.unlink(missing_ok=True)
        if number % 3:
            await store.release(key(name))
        else:
            await store.put(key(name), name, created_at=1.0)

    say("ready")
    sys.stdin.readline()
    await asyncio.gather(*(task(number) for number in range(int(num_tasks))))
    say(counts["won"], counts["clashes"])
    await store.close()


async def leave(place: str) -> None:
    """Ends at once, with puts whose callers were cancelled, and a lease."""
    store = open_place(place)
    await store.lease(key("held"))
    tasks = [asyncio.create_task(store.put(key(i), "x", created_at=1.0)) for i in range(100)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()


async def fill_up(place: str) -> None:
    """Puts something that is too large for the disk, together with others, and then without."""
    store = open_place(place)
    await store.put(key("before"), "x", created_at=1.0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
    sizes = {"small": 10, "large": 2**21, "other": 10}
    puts = (store.put(key(name), "x" * size, created_at=1.0) for name, size in sizes.items())
    for name, error in zip(sizes, await asyncio.gather(*puts, return_exceptions=True), strict=True):
        say(name, isinstance(error, StoreError), error)
    await store.put(key("after"), "x", created_at=1.0)
    say("after", False, None)


def fork(place: str) -> None:
    """Forks while a thread is writing, many times; the last child goes on when it is told to, after the parent."""
    store = open_place(place)
    stop = threading.Event()
    hear, tell = os.pipe()

    async def hammer() -> None:
        for i in range(10**9):
            if stop.is_set():
                return
            await store.put(key(f"parent-{i}"), "x" * 1000, created_at=1.0)
            say(f"parent-{i}")
            if i % 5 == 0:
                await open_place(place).put(key("of a store that is dropped"), "x", created_at=1.0)

    async def child(number: int) -> None:
        await store.put(key(f"child-{number}"), "x", created_at=1.0)
        say(f"child-{number}")

    async def last_child() -> None:
        say("leased", await store.lease(key("held")), await store.lease(key("own")))
        await store.release(key("held"))
        await child(-1)
        os.write(tell, b".")
        await asyncio.to_thread(sys.stdin.readline)
        await store.put(key("child--2"), "x", created_at=1.0)
        say("child--2", await store.get(key("between")))
        await store.close()

    def start(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if os.fork() == 0:
            signal.alarm(50)
            try:
                asyncio.run(work())
            except BaseException as error:  # noqa: BLE001 - or the child would go on as the parent
                say("failed", repr(error))
            os._exit(0)

    asyncio.run(store.lease(key("held")))
    thread = threading.Thread(target=lambda: asyncio.run(hammer()))
    thread.start()
    for number in range(20):
        start(partial(child, number))
        os.wait()
    start(last_child)
    os.read(hear, 1)
    stop.set()
    thread.join()
    say("held", asyncio.run(store.lease(key("held"))))
    asyncio.run(store.close())
    say("parent ends")


class Worker:
    """One of these processes, seen from the test; killed at the end of the `with` block."""

    def __init__(self, place: str, action: str, *arguments: object) -> None:
        command = [sys.executable, "-m", "tests.judges.store_worker", place, action, *map(str, arguments)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        self.stdout, self.stdin = self.process.stdout, self.process.stdin

    def line(self) -> str:
        """The next line it says; empty when it has ended."""
        return self.stdout.readline().strip()

    def tell(self) -> None:
        """What it waits for on its standard input."""
        self.stdin.write("\n")
        self.stdin.flush()

    def kill(self) -> list[str]:
        """Kills it as kill -9 does; the whole lines that it had said."""
        self.process.kill()
        return self.rest()

    def rest(self) -> list[str]:
        """What it says until its end."""
        lines = [line.strip() for line in self.stdout if line.endswith("\n")]
        self.process.wait()
        return lines

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()
        self.stdout.close()
        self.stdin.close()


if __name__ == "__main__":
    faulthandler.dump_traceback_later(60, exit=True)
    place, action, *arguments = sys.argv[1:]
    if action == "fork":
        fork(place)
    else:
        asyncio.run(globals()[action](place, *arguments))
