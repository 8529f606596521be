"""The client's HTTP connections: for each process and event loop its own."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ruler.client.replies import UNKNOWN, Reply, Transient
from ruler.errors import ConfigError, JudgeUnavailable, describe
from ruler.types import Usage

if TYPE_CHECKING:
    import httpx

_CONNECT_SECONDS = 10.0
_SILENT_SECONDS = 300.0
"""Longest silence before an answer: balancers and address translators drop connections that are quiet for longer."""
_NUM_QUICK = 8
_NUM_LONG_POLLS = 500
"""Connections of one event loop that questions may hold."""
_KEPT_SECONDS = 4.0
"""How long an idle connection is used again; many servers close it after 5 seconds."""


def load_httpx() -> Any:
    """The module, loaded with the first use.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import httpx
    except ImportError as error:
        raise ConfigError(f"the client needs httpx ({error}): pip install 'ruler-judge[client]'") from error
    return httpx


class Here:
    """What belongs to one event loop.

    Attributes:
        http: connections for what is answered soon, or is limited by places.
        held: connections for questions that the service holds. Their own, and none is used twice, for the same reason.
        scores: places for groups that are being scored.
        quick: places for requests that are answered at once. Their own: they must never wait for scores. Few: with
            each request httpx looks at all connections of the pool, and at each idle one for each of the others.
        long_polls: places for questions that the service holds.
        asking: group id and attempt -> what the service said last, asked by one rollout for all of its group.
    """

    def __init__(self, http: httpx.AsyncClient, held: httpx.AsyncClient, concurrency: int) -> None:
        self.http = http
        self.held = held
        self.scores = asyncio.Semaphore(concurrency)
        self.quick = asyncio.Semaphore(min(concurrency, _NUM_QUICK))
        self.long_polls = asyncio.Semaphore(_NUM_LONG_POLLS)
        self.asking: dict[tuple[str, int], asyncio.Future[Reply | None]] = {}

    async def close(self) -> None:
        """Closes the connections."""
        await self.http.aclose()
        await self.held.aclose()


class _Process:
    """The connections that one process has to one server."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.abandoned = False
        self.loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[Here, AsyncGenerator[None, None]]]
        self.loops = weakref.WeakKeyDictionary()

    @classmethod
    def of(cls, owner: object) -> _Process:
        process = cls()
        _held.add(process)
        weakref.finalize(owner, process._abandon)
        return process

    def _abandon(self) -> None:
        # Not closed here: a task begun from a finalizer may be too late for its loop, and be cut off half-way.
        self.abandoned = True
        if not self.loops:
            _held.discard(self)


_held: set[_Process] = set()
"""So that no connection is collected that nobody has closed. In a forked child those of its parent are held, too, and
stay: to let them go would be to close them."""


async def _close_abandoned(loop: asyncio.AbstractEventLoop) -> None:
    """Closes what clients left open in the running loop that are no more."""
    for process in list(_held):
        if process.abandoned and process.pid == os.getpid():
            with process.lock:
                found = process.loops.pop(loop, None)
                if not process.loops:
                    _held.discard(process)
            if found is not None:
                await found[1].aclose()


class Connections:
    """The connections to one server, made when they are wanted, for each process and event loop its own.

    Args:
        url: of the server, without a slash at its end.
        api_key_env: name of the environment variable with the bearer key; it is read for each request.
        concurrency: places for what is being sent.
    """

    def __init__(self, url: str, api_key_env: str, *, concurrency: int) -> None:
        self.url = url
        self.api_key_env = api_key_env
        self._concurrency = concurrency
        self._process = _Process.of(self)

    async def here(self) -> Here:
        """What belongs to the running loop."""
        loop = asyncio.get_running_loop()
        process = self._own()
        found = process.loops.get(loop)
        if found is None:
            await _close_abandoned(loop)
            found = process.loops.get(loop)
        if found is None:
            here = Here(_open(), _open(max_keepalive_connections=0), self._concurrency)
            closer = self._until_the_end(process, loop, here)
            with process.lock:
                # What was left by loops that ended without shutting their asynchronous generators down.
                for ended in [one for one in process.loops if one.is_closed()]:
                    del process.loops[ended]
                found = process.loops[loop] = here, closer
            await anext(closer)
        return found[0]

    async def close_here(self) -> None:
        """Closes the connections of the running loop, if there are any."""
        if found := self._own().loops.get(asyncio.get_running_loop()):
            await found[1].aclose()

    async def send(
        self,
        method: str,
        path: str,
        *,
        group_id: str,
        params: Mapping[str, str | int],
        content: bytes | None = None,
        seconds: float,
        held: bool = False,
    ) -> Reply:
        """The answer to one request, whatever its status; `held` says that the service will take its time.

        Raises:
            Transient: there is none, within these seconds or at all.
            ConfigError: the key cannot be sent.
        """
        httpx = load_httpx()
        headers = {"X-Ruler-Group": quote(group_id, safe="", errors="surrogatepass"), **self._authorization()}
        if content is not None:
            headers["Content-Type"] = "application/json"
        seconds = min(seconds, _SILENT_SECONDS)
        here = await self.here()
        http = here.held if held else here.http
        try:
            async with asyncio.timeout(seconds):
                answer = await http.request(method, self.url + path, params=params, content=content, headers=headers)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            raise self._lost(f"cannot be reached: {describe(error)}", Usage()) from error
        except httpx.RequestError as error:
            raise self._lost(f"the answer got lost: {describe(error)}", UNKNOWN) from error
        except TimeoutError as error:
            raise self._lost(f"no answer within {seconds:.3g} s", UNKNOWN) from error
        return Reply(self.url, answer.status_code, answer.content, answer.headers)

    def _lost(self, what: str, usage: Usage) -> Transient:
        return Transient(JudgeUnavailable(f"{self.url}: {what}", usage=usage))

    def _authorization(self) -> Mapping[str, str]:
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            return {}
        if not (key.isascii() and key.isprintable()):
            # httpx would quote it in its own error.
            raise ConfigError(f"{self.api_key_env}: holds a character that no HTTP header can carry")
        return {"Authorization": f"Bearer {key}"}

    def _own(self) -> _Process:
        if self._process.pid != os.getpid():
            self._process = _Process.of(self)
        return self._process

    @staticmethod
    async def _until_the_end(
        process: _Process, loop: asyncio.AbstractEventLoop, here: Here
    ) -> AsyncGenerator[None, None]:
        """Closes the connections when their loop shuts its asynchronous generators down: later nobody could."""
        try:
            yield
        finally:
            with process.lock:
                process.loops.pop(loop, None)
            await here.close()


def _open(*, max_keepalive_connections: int | None = None) -> httpx.AsyncClient:
    load_httpx()
    import httpx

    try:
        return httpx.AsyncClient(
            follow_redirects=False,  # the key goes to the address that was given, and to no other
            timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),
            # A limit on connections would hold rollouts back whose siblings hold all of them.
            limits=httpx.Limits(
                max_connections=None,
                max_keepalive_connections=max_keepalive_connections,
                keepalive_expiry=_KEPT_SECONDS,
            ),
        )
    except (ImportError, ValueError) as error:
        raise ConfigError(f"the proxy that the environment names cannot be used: {error}") from error
