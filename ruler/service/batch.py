"""Many groups in one request: each line of NDJSON is answered by a line as soon as it is judged.

At most as many lines are being judged as there are places, and what waits to be sent is bounded by its bytes: a sender
that is faster than the judge is held back by TCP, and so is a judge that is faster than the receiver.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from ruler.results import json_line
from ruler.service.door import Held
from ruler.service.problems import Problem

_OUTBOX_BYTES = 8 * 2**20
"""Of answers that wait to be sent. A sender that reads nothing until it has sent all gets as far as this."""
_LINES_AT_ONCE = 1_000
_STALL_SECONDS = 60.0
"""How long a receiver may take nothing before it is given up."""

Answer = Callable[[int, bytes | None], Awaitable[bytes]]
"""From a line's number, counted from 1, and its text (None: longer than a line may be) to the line that answers it."""

_log = logging.getLogger("ruler.service")


class BatchReply(Response):
    """Answers the lines of a request's body. Their bytes count as held until they are answered."""

    media_type = "application/x-ndjson"

    def __init__(self, request: Request, answer: Answer, *, concurrency: int, max_line_bytes: int) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._request = request
        self._held: Held = request.scope["ruler.held"]
        self._answer = answer
        self._places = asyncio.Semaphore(concurrency)
        self._max_line_bytes = max_line_bytes
        self._outbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._outbox_bytes = 0
        self._room = asyncio.Event()
        self._room.set()
        self._gone = False
        self._upcoming: asyncio.Task[Message] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Ends when every line is answered; when the receiver has gone, what was begun is finished all the same."""
        first = await self._receive()  # a sender that expects to be told to go on is told so by this
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        reading = asyncio.create_task(self._read(first))
        try:
            while (line := await self._outbox.get()) is not None:
                try:
                    async with asyncio.timeout(None if self._gone else _STALL_SECONDS):
                        if not self._gone:
                            await send({"type": "http.response.body", "body": line, "more_body": True})
                except TimeoutError:
                    _log.warning("batch: the receiver took nothing for %g s and is given up", _STALL_SECONDS)
                    self._gone = True
                self._outbox_bytes -= len(line)
                if self._outbox_bytes < _OUTBOX_BYTES:
                    self._room.set()
            await reading
            if not self._gone:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            reading.cancel()

    async def _read(self, first: Message) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                try:
                    await self._begin_all(tasks, first)
                except Problem as problem:  # no more of the body can be had; what was begun is finished
                    self._outbox.put_nowait(json_line(problem.body()))
        finally:
            if self._upcoming is not None:
                self._upcoming.cancel()
            self._outbox.put_nowait(None)

    async def _begin_all(self, tasks: asyncio.TaskGroup, first: Message) -> None:
        number = 0
        async for line, num_bytes in self._lines(first):
            number += 1
            if line is None or line.strip():
                await self._room.wait()
                await self._places.acquire()
                if self._gone:
                    return
                tasks.create_task(self._settle(number, line, num_bytes))
            else:
                self._held.release(num_bytes)
                if number % _LINES_AT_ONCE == 0:
                    await asyncio.sleep(0)  # a body of blank lines must not keep everybody else waiting

    async def _settle(self, number: int, line: bytes | None, num_bytes: int) -> None:
        try:
            answer = await self._answer(number, line)
        finally:
            self._places.release()
            self._held.release(num_bytes)
        self._outbox.put_nowait(answer)
        self._outbox_bytes += len(answer)
        if self._outbox_bytes >= _OUTBOX_BYTES:
            self._room.clear()

    async def _pieces(self, message: Message) -> AsyncIterator[bytes]:
        """The body, piece by piece; it ends early when the sender has gone.

        One message is received ahead, because only so can it be noticed while lines are worked on that nobody waits
        for them any more.
        """
        while message["type"] == "http.request":
            upcoming = self._upcoming = asyncio.create_task(self._receive())
            upcoming.add_done_callback(lambda done: done.cancelled() or done.exception())
            yield message.get("body", b"")
            if not message.get("more_body", False):
                return
            message = await upcoming

    async def _receive(self) -> Message:
        message = await self._request.receive()
        self._gone = self._gone or message["type"] == "http.disconnect"
        return message

    async def _lines(self, message: Message) -> AsyncIterator[tuple[bytes | None, int]]:
        """Each line and how many bytes are held for it; None for a line that is too long, of which nothing is kept."""
        pieces: list[bytes] = []
        size = held = 0
        async for chunk in self._pieces(message):
            first, *more = chunk.split(b"\n")
            for place, piece in enumerate((first, *more)):
                if place > 0:
                    yield (None if size > self._max_line_bytes else b"".join(pieces)), held + 1
                    pieces, size, held = [], 0, 0
                size += len(piece)
                held += len(piece)
                if size > self._max_line_bytes:
                    self._held.release(held)
                    pieces, held = [], 0
                else:
                    pieces.append(piece)
        if size:
            yield (None if size > self._max_line_bytes else b"".join(pieces)), held
