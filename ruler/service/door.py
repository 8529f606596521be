"""What every request passes on its way in and out: which pages may send it, how large it may be, how it is counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ruler.service.problems import Problem
from ruler.service.replies import problem_reply

_BODY_SECONDS = 60.0
"""Longest pause between two pieces of a body. Who sends slower holds memory and does nothing with it."""
_STREAM_SECONDS = 900.0
"""The same for a batch, whose sender may wait for work itself."""
_ROOM_SECONDS = 0.05
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
        """As `add`, but waits until there is room. A piece is at most some hundred kilobytes."""
        while self._door.held_bytes + num_bytes > self._door.max_buffered_bytes:  # noqa: ASYNC110  rare
            await asyncio.sleep(_ROOM_SECONDS)
        self.add(num_bytes)

    def release(self, num_bytes: int | None = None) -> None:
        """Gives back so many bytes; None: all."""
        freed = self._num_bytes if num_bytes is None else min(num_bytes, self._num_bytes)
        self._door.held_bytes -= freed
        self._num_bytes -= freed


class Door:
    """ASGI middleware around the whole service.

    Attributes:
        held_bytes: of all bodies that are in memory now.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body_bytes: int,
        max_buffered_bytes: int,
        local_only: bool,
        booked: Callable[[str, int, float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Puts itself before `app`.

        Args:
            app: what answers.
            max_body_bytes: of one request; of a batch, one line.
            max_buffered_bytes: of all requests together.
            local_only: whether requests must be addressed to this machine by a name of its own. A page of another host
                can have its name point here, and the browser then sends what it likes to a service without keys.
            booked: told the route, the status and the seconds of every request.
            clock: seconds.
        """
        self.app = app
        self.held_bytes = 0
        self.max_body_bytes = max_body_bytes
        self.max_buffered_bytes = max_buffered_bytes
        self._local_only = local_only
        self._booked = booked
        self._clock = clock

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

        try:
            problem = self._refusal(Headers(scope=scope), streamed=scope["path"] == STREAMED)
            if problem:
                await problem_reply(problem)(scope, receive, sending)
            else:
                await self.app(scope, self._receiving(scope, receive, held), sending)
        finally:
            held.release()
            route = scope.get("route")
            self._booked(getattr(route, "path", "other"), status, self._clock() - begun)

    def _refusal(self, headers: Headers, *, streamed: bool) -> Problem | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return Problem("forbidden", f"Origin {origin!r:.80}: pages of other hosts may not call {host!r:.80}")
        if self._local_only and urlsplit(f"//{host}").hostname not in _LOCAL_HOSTS:
            return Problem("forbidden", f"Host {host!r:.80}: without keys the service is called by localhost only")
        length = headers.get("content-length", "")
        if not streamed and length.isdecimal() and int(length) > self.max_body_bytes:
            return self.too_large()
        return None

    def too_large(self) -> Problem:
        """What a body, or a line of a batch, that is too long is answered with."""
        return Problem("too_large", f"body: more than {self.max_body_bytes:,} bytes")

    def _receiving(self, scope: Scope, receive: Receive, held: Held) -> Receive:
        streamed = scope["path"] == STREAMED
        pause_seconds = _STREAM_SECONDS if streamed else _BODY_SECONDS
        num_bytes = 0
        ended = False

        async def receiving() -> Message:
            nonlocal num_bytes, ended
            if ended:  # nothing more comes but the end of the connection
                return await receive()
            try:
                async with asyncio.timeout(pause_seconds):
                    message = await receive()
            except TimeoutError:
                raise Problem(
                    "slow_body", f"body: nothing came for {pause_seconds:g} s", headers={"Connection": "close"}
                ) from None
            if message["type"] == "http.request":
                size = len(message.get("body", b""))
                num_bytes += size
                ended = not message.get("more_body", False)
                if not streamed and num_bytes > self.max_body_bytes:
                    raise self.too_large()
                if streamed:
                    await held.add_patiently(size)
                else:
                    held.add(size)
            return message

        return receiving
