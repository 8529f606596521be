"""Connections to a Redis server: an address that holds no secret, and one client for each event loop."""

from __future__ import annotations

import asyncio
import os
import re
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from judges.store import StoreError
from ruler.errors import ConfigError

_PASSWORD_VARIABLE = "RULER_REDIS_PASSWORD"
_TIMEOUT_SECONDS = 5.0
_GOODBYE_SECONDS = 2.0
_NUM_CONNECTIONS = 32


class RedisServer:
    """Where the server is, and how it is talked to.

    Raises:
        ConfigError: the address is wrong or holds a password, or the extra is not installed.
    """

    def __init__(self, url: str) -> None:
        try:
            import redis.asyncio
        except ImportError as error:
            raise ConfigError(f"this store needs redis ({error}): pip install 'ruler-judge[redis]'") from error
        parts, database = _read(url)
        host, port = str(parts.hostname), parts.port or 6379
        self.location = f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}/{database}"
        """The address without user and password."""
        self.failures = (redis.asyncio.RedisError, OSError)
        """What the client raises."""
        self._connection: dict[str, Any] = {
            "connection_class": redis.asyncio.SSLConnection if parts.scheme == "rediss" else redis.asyncio.Connection,
            "host": host,
            "port": port,
            "db": database,
            "username": unquote(parts.username) if parts.username else None,
            "password": os.environ.get(_PASSWORD_VARIABLE) or None,
            "protocol": 2,
            "socket_connect_timeout": _TIMEOUT_SECONDS,
            "socket_timeout": _TIMEOUT_SECONDS,
            "socket_keepalive": True,
        }

    def client(self) -> Any:
        """A client for the running event loop; it connects when it is asked something."""
        from redis.asyncio import ConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        # Once more, for the connections that a restart of the server has left dead in the pool.
        retry = Retry(NoBackoff(), 1)
        return Redis.from_pool(ConnectionPool(retry=retry, **self._connection))


def _read(url: str) -> tuple[SplitResult, int]:
    """The parts of the address, and the number of the database."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("redis", "rediss") and bool(parts.hostname) and parts.port != 0
        password = parts.password
    except ValueError:
        valid, password = False, None
    if password is not None:
        raise ConfigError(
            f"the address of the Redis store holds a password: take it out, and set {_PASSWORD_VARIABLE} instead"
        )
    if not (valid and re.fullmatch(r"[^\s?#]+", url) and re.fullmatch(r"/?|/[0-9]{1,5}", parts.path)):
        # One that cannot be read may hold a password anywhere.
        shown = "" if re.search("[@?#]", url) else f", got {url!r}"
        raise ConfigError(f"store: expected redis://host:6379/0 or rediss://… without options{shown}")
    return parts, int(parts.path[1:] or 0)


class Session:
    """One event loop's client, and the commands that are on their way."""

    def __init__(self, server: RedisServer) -> None:
        self.loop = asyncio.get_running_loop()
        self._server = server
        self._client = server.client()
        # Not a BlockingConnectionPool: that one can do nothing more when the loop shuts asynchronous generators down.
        self._free = asyncio.Semaphore(_NUM_CONNECTIONS)
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task of its own: a caller that is cancelled leaves no command between request and reply."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def ask(self, command: Callable[[Any], Awaitable[Any]]) -> Any:
        """What the command makes of the client; to be called in a task of `start`.

        Raises:
            StoreError: the server cannot be reached, or refuses.
        """
        try:
            async with self._free:
                return await command(self._client)
        except self._server.failures as error:
            words = " ".join(str(error).split()) or type(error).__name__
            raise StoreError(f"{self._server.location}: {words}") from error

    async def finish(self) -> None:
        """Waits for the commands that are on their way, but not for long."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_GOODBYE_SECONDS)

    async def close(self) -> None:
        """Closes the connections."""
        with suppress(Exception):
            await self._client.aclose()


class Sessions:
    """The sessions of all event loops.

    Args:
        server: what they talk to.
        leave: called in its loop with a session that is about to be closed.
    """

    def __init__(self, server: RedisServer, leave: Callable[[Session], Awaitable[None]]) -> None:
        self._server = server
        self._leave = leave
        self._open: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[Session, AsyncGenerator[None, None]]]
        self._open = weakref.WeakKeyDictionary()

    async def here(self) -> Session:
        """The session of the running loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._open:
            session = Session(self._server)
            closer = self._until_the_end(session)
            self._open[loop] = session, closer
            await anext(closer)
        return self._open[loop][0]

    async def close_here(self) -> None:
        """Closes the session of the running loop, if there is one."""
        if here := self._open.get(asyncio.get_running_loop()):
            await here[1].aclose()

    async def _until_the_end(self, session: Session) -> AsyncGenerator[None, None]:
        """Closes the session when its loop shuts its asynchronous generators down: later nobody could."""
        try:
            yield
        finally:
            self._open.pop(session.loop, None)
            await session.finish()
            with suppress(StoreError, TimeoutError):
                async with asyncio.timeout(_GOODBYE_SECONDS):
                    await self._leave(session)
            await session.close()


async def evaluate(script: str, names: Sequence[str], values: Sequence[object], client: Any) -> Any:
    """What the Lua script returns for these keys of Redis and arguments."""
    return await client.eval(script, len(names), *names, *values)
