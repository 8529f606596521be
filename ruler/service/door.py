"""What every request passes on its way in and out: which pages may send it, how large it may be, how it is counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ruler.service.problems import Problem, stopping
from ruler.service.replies import problem_reply

_BODY_SECONDS = 60.0
"""How long a body may take, and a second more for each _LEAST_RATE bytes of it."""
_LEAST_RATE = 2**18
_STREAM_SECONDS = 900.0
"""Longest pause between two pieces of a batch, whose sender may wait for work itself."""
_ROOM_SECONDS = 0.05
_MAX_LENGTH_DIGITS = 15
STREAMED = "/v1/score/batch"
"""Read piece by piece; each of its lines is a body of its own."""
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


class Held:
    """Bytes of bodies in memory, of one request; given back when it ends, or sooner."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._num_bytes = 0

    def add(self, num_bytes: int) -> None:
        """Raises Problem `overloaded` when all requests together would hold too much."""
        if self._door.held_bytes + num_bytes > self._door.max_buffered_bytes:
            raise Problem("overloaded", "too many bytes of requests are being worked on", retry_after_seconds=2.0)
        self._door.held_bytes += num_bytes
        self._num_bytes += num_bytes

    async def add_patiently(self, num_bytes: int) -> None:
        """As `add`, but waits for room. A piece is at most some hundred kilobytes.

        Where those who wait hold all the room themselves, one after the other may hold more: its line can be finished
        then, and with it what it holds.
        """
        while self._door.held_bytes + num_bytes > self._door.max_buffered_bytes:
            if self._door.overdrawn_by in (None, self):
                self._door.overdrawn_by = self
                break
            await asyncio.sleep(_ROOM_SECONDS)
        self._door.held_bytes += num_bytes
        self._num_bytes += num_bytes

    def release(self, num_bytes: int | None = None) -> None:
        """Gives back so many bytes; None: all."""
        freed = self._num_bytes if num_bytes is None else min(num_bytes, self._num_bytes)
        self._door.held_bytes -= freed
        self._num_bytes -= freed
        if self._door.overdrawn_by is self:
            self._door.overdrawn_by = None


class Door:
    """ASGI middleware around the whole service.

    Attributes:
        held_bytes: of all bodies that are in memory now.
        overdrawn_by: the one request, if any, that may hold more than there is room for.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body_bytes: int,
        max_buffered_bytes: int,
        max_requests: int,
        local_only: bool,
        booked: Callable[[str, int, float], None],
        at_stop: Callable[[Callable[[], None]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Puts itself before `app`.

        Args:
            app: what answers.
            max_body_bytes: of one request; of a batch, one line.
            max_buffered_bytes: of all requests together.
            max_requests: at once; those that are held count.
            local_only: whether requests must be addressed to this machine by a name of its own. A page of another host
                can have its name point here, and the browser then sends what it likes to a service without keys.
            booked: told the route, the status and the seconds of every request.
            at_stop: is given what is to be called when the service begins to stop.
            clock: seconds.
        """
        self.app = app
        self.held_bytes = 0
        self.overdrawn_by: Held | None = None
        self._reading: set[asyncio.Timeout] = set()
        self._stopping = False
        self.max_body_bytes = max_body_bytes
        self.max_buffered_bytes = max_buffered_bytes
        self.max_requests = max_requests
        self._num_requests = 0
        self._local_only = local_only
        self._booked = booked
        at_stop(self._stop)
        self._clock = clock

    def _stop(self) -> None:
        """Bodies that are not here by now are waited for no longer."""
        self._stopping = True
        for timeout in self._reading:
            with suppress(RuntimeError):  # it is over in this very moment
                timeout.reschedule(asyncio.get_running_loop().time())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = self._clock()
        status = 500
        held = scope["ruler.held"] = Held(self)

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Content-Type-Options"] = "nosniff"
            await send(message)

        self._num_requests += 1
        streamed = _is_streamed(scope)
        try:
            problem = self._refusal(Headers(scope=scope), streamed=streamed)
            if problem:
                await problem_reply(problem)(scope, receive, sending)
            else:
                await self.app(scope, self._receiving(receive, held, streamed=streamed), sending)
        finally:
            held.release()
            self._num_requests -= 1
            route = scope.get("route")
            self._booked(getattr(route, "path", "other"), status, self._clock() - begun)

    def _refusal(self, headers: Headers, *, streamed: bool) -> Problem | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if origin is not None and (not host or _parts(origin).netloc.lower() != host.lower()):
            return Problem("forbidden", f"Origin {origin!r:.80}: pages of other hosts may not call {host!r:.80}")
        if self._local_only and _parts(f"//{host}").hostname not in _LOCAL_HOSTS:
            return Problem("forbidden", f"Host {host!r:.80}: without keys the service is called by localhost only")
        if self._num_requests > self.max_requests:
            return Problem("overloaded", f"{self.max_requests} requests are held", retry_after_seconds=5.0)
        length = headers.get("content-length", "")
        if len(length) > _MAX_LENGTH_DIGITS or (
            not streamed and length.isdecimal() and int(length) > self.max_body_bytes
        ):
            # The connection stays: the server takes what still comes, so that the sender gets to read the answer.
            return self._too_large()
        return None

    def _too_large(self, headers: Mapping[str, str] = MappingProxyType({})) -> Problem:
        return Problem("too_large", f"body: more than {self.max_body_bytes:,} bytes", headers=headers)

    def _receiving(self, receive: Receive, held: Held, *, streamed: bool) -> Receive:
        begun = self._clock()
        num_bytes = 0
        ended = False

        async def receiving() -> Message:
            nonlocal num_bytes, ended
            if ended:  # nothing more comes but the end of the connection
                return await receive()
            if streamed:
                left = _STREAM_SECONDS if self.overdrawn_by is not held else _BODY_SECONDS
            else:
                left = max(0.0, begun + _BODY_SECONDS + num_bytes / _LEAST_RATE - self._clock())
            try:
                async with asyncio.timeout(0.0 if self._stopping else left) as timeout:
                    self._reading.add(timeout)
                    try:
                        message = await receive()
                    finally:
                        self._reading.discard(timeout)
            except TimeoutError:
                if self._stopping:
                    raise stopping() from None
                said = f"body: {num_bytes:,} bytes came in {self._clock() - begun:.0f} s"
                raise Problem("slow_body", said, headers={"Connection": "close"}) from None
            if message["type"] == "http.request":
                size = len(message.get("body", b""))
                num_bytes += size
                ended = not message.get("more_body", False)
                if not streamed and num_bytes > self.max_body_bytes:
                    raise self._too_large({"Connection": "close"})
                if streamed:
                    await held.add_patiently(size)
                else:
                    held.add(size)
            return message

        return receiving


def _is_streamed(scope: Scope) -> bool:
    return bool(scope["path"].removeprefix(scope.get("root_path", "")) == STREAMED)


def _parts(url: str) -> SplitResult:
    """Its parts; none where it is no URL."""
    try:
        parts = urlsplit(url)
        parts.hostname  # noqa: B018  is read here, and may be none
    except ValueError:
        return urlsplit("")
    return parts
