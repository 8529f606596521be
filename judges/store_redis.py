"""Replies kept in a Redis server, for several hosts."""

from __future__ import annotations

import asyncio
import os
import re
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from judges.store import StoreError, key_bytes
from judges.store_redis_client import RedisServer, Sessions, evaluate
from judges.store_redis_leases import LEASE, Leases
from ruler.errors import ConfigError

_ENTRY = "ruler:entry:"
_PAGE_SIZE = 200

_PUT = """
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'text', ARGV[1], 'created_at', ARGV[2])
if redis.call('GET', KEYS[2]) == ARGV[3] then redis.call('DEL', KEYS[2]) end"""
_ADD = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], 'text', ARGV[1], 'created_at', ARGV[2])
return 1"""
# An entry whose age cannot be read is older than any.
_DELETE = """
local count = 0
for i = 1, #KEYS do
  local created_at = redis.pcall('HGET', KEYS[i], 'created_at')
  local age = type(created_at) == 'string' and tonumber(created_at) or -math.huge
  if ARGV[1] == '' or age < tonumber(ARGV[1]) then count = count + redis.call('DEL', KEYS[i]) end
end
return count"""


class RedisStore:
    """A `judges.store.Store` in one Redis server (not a cluster), version 4 or later, or what speaks its language.

    Every event loop has connections of its own; they are closed with it. A command may take about 20 seconds to fail:
    connecting and answering have 5 each, and a command whose connection broke is sent once more. What goes through all
    entries (`entries`, `delete`, `size_bytes`) goes through all keys of the database: give it a number of its own.

    Args:
        url: `redis://host:6379/0`, with TLS `rediss://…`; a user name may stand in it, a password may not: it is read
            from the environment variable RULER_REDIS_PASSWORD. Nothing is connected before the first use.
        lease_seconds: a lease of a process that died is free after so long.

    Raises:
        ConfigError: the address or an option is wrong, or the extra is not installed.
    """

    def __init__(self, url: str, *, lease_seconds: float = 10.0) -> None:
        if not lease_seconds > 0:
            raise ConfigError(f"lease_seconds: must be positive, got {lease_seconds!r}")
        server = RedisServer(url)
        self._location = server.location
        self._leases = Leases(lease_seconds)
        self._sessions = Sessions(server, self._leases.leave)
        _stores.add(self)

    def __repr__(self) -> str:
        return f"RedisStore({self._location!r})"

    @property
    def location(self) -> str:
        """The address, without user and password."""
        return self._location

    async def get(self, key: str) -> str | None:
        """The text under this key; bytes that are no text come as U+FFFD."""
        key_bytes(key)
        text = await self._do(lambda client: client.hget(_ENTRY + key, "text"))
        return None if text is None else str(text, "utf-8", "replace")

    async def put(self, key: str, text: str, *, created_at: float) -> None:
        """Keeps the text and gives the lease back; goes on when the caller is cancelled."""
        key_bytes(key)
        held = self._leases.get(key)
        names = [_ENTRY + key, LEASE + key]
        values = [text.encode(), float(created_at), held.token if held else ""]

        async def put(client: Any) -> None:
            await evaluate(_PUT, names, values, client)
            if held:
                self._leases.forget(held)

        await self._do(put)

    async def lease(self, key: str) -> bool:
        """Whether the caller now has the right to ask; a caller that is cancelled meanwhile has not."""
        key_bytes(key)
        return await self._leases.take(await self._sessions.here(), key)

    async def release(self, key: str) -> None:
        """Gives the lease back; goes on when the caller is cancelled. What cannot be given back runs out."""
        key_bytes(key)
        held = self._leases.get(key)
        if held is not None:
            session = await self._sessions.here()
            await asyncio.shield(session.start(self._leases.give_back(session, [held])))

    async def entries(self) -> AsyncIterator[tuple[str, str]]:
        """Every (key, text), in no order; a few are in memory, and 32 bytes of each that was seen."""
        async for names in self._pages():
            texts = await self._pipeline([("HGET", name, "text") for name in names])
            for name, text in zip(names, texts, strict=True):
                if isinstance(text, bytes):
                    yield name.removeprefix(_ENTRY), str(text, "utf-8", "replace")

    async def add(self, key: str, text: str, *, created_at: float) -> bool:
        """Keeps the text unless the key is there already; whether it was kept."""
        key_bytes(key)
        return bool(await self._do(partial(evaluate, _ADD, [_ENTRY + key], [text.encode(), float(created_at)])))

    async def delete(self, *, older_than: float | None = None) -> int:
        """Removes the entries created before this time (Unix seconds), None: all; how many they were."""
        limit = "" if older_than is None else repr(float(older_than))
        num_deleted = 0
        async for names in self._pages():
            num_deleted += await self._do(partial(evaluate, _DELETE, names, [limit]))
        return num_deleted

    async def size_bytes(self) -> int:
        """What the server says that the entries take of its memory (MEMORY USAGE, summed)."""
        size = 0
        async for names in self._pages():
            sizes = await self._pipeline([("MEMORY", "USAGE", name, "SAMPLES", 0) for name in names])
            size += sum(number for number in sizes if isinstance(number, int))
        return size

    async def close(self) -> None:
        """Gives all leases back and closes the connections of the running event loop, until the next use.

        Those of other loops are closed with their loop.
        """
        leases = self._leases.all()
        if leases:
            session = await self._sessions.here()
            with suppress(StoreError):
                await self._leases.give_back(session, leases)
        await self._sessions.close_here()

    async def _do(self, command: Callable[[Any], Awaitable[Any]]) -> Any:
        session = await self._sessions.here()
        return await asyncio.shield(session.start(session.ask(command)))

    async def _pipeline(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The replies; for a command that failed by itself the error stands in its place."""

        async def run(client: Any) -> Any:
            async with client.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                return await pipeline.execute(raise_on_error=False)

        return list(await self._do(run))

    async def _pages(self) -> AsyncIterator[list[str]]:
        """The names of all entries, each once."""
        seen: set[bytes] = set()
        cursor = 0
        while True:
            scan = partial(_scan, cursor)
            cursor, found = await self._do(scan)
            names = []
            for name in found:
                match = re.fullmatch(_ENTRY + "([0-9a-f]{64})", name.decode("ascii", "replace"))
                if match and (key := bytes.fromhex(match[1])) not in seen:
                    seen.add(key)
                    names.append(match[0])
            if names:
                yield names
            if not cursor:
                return


async def _scan(cursor: int, client: Any) -> Any:
    return await client.scan(cursor, match=f"{_ENTRY}*", count=_PAGE_SIZE)


_stores: weakref.WeakSet[RedisStore] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # The leases are the parent's. So are the connections: they stay with the parent's event loop, which nobody runs.
    for store in _stores:
        store._leases.forget_all()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
