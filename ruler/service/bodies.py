"""Bodies of requests as they arrive, and clients who leave before they are answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

T = TypeVar("T")

_LARGE_BYTES = 200_000
_AT_ONCE = 2


class Aside:
    """Work that would hold up the event loop is done in threads, two at a time.

    What is read from JSON, or laid out in many orders, takes many times the room of its text.
    """

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def read(self, read: Callable[[bytes], T], body: bytes) -> T:
        """What `read` makes of the body; where that is small, here and now."""
        return read(body) if len(body) <= _LARGE_BYTES else await self.run(lambda: read(body))

    async def run(self, work: Callable[[], T]) -> T:
        """What the work returns."""
        async with self._places:
            return await asyncio.to_thread(work)


async def read_body(request: Request) -> bytes:
    """The whole body. Not `request.body()`: the request would keep it as long as the answer is held."""
    return b"".join([piece async for piece in request.stream()])


async def is_awaited(request: Request, future: asyncio.Future[Any], seconds: float | None = None) -> bool:
    """Waits for the future, or so many seconds; False when the client hangs up before. Cancels nothing.

    The body must have been read.
    """
    gone = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait((gone, future), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return future.done() or not gone.done()
    finally:
        gone.cancel()


async def _hung_up(request: Request) -> None:
    # What comes after the body can only be the end.
    while (await request.receive())["type"] != "http.disconnect":
        pass


def nobody() -> Response:
    """For a client that is gone; the status is nginx's, and is seen in the metrics."""
    return Response(status_code=499)
