"""HTTP/1.1 by hand, as much as a judge's endpoint needs: no library would let itself be made to break it."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus

MAX_HEAD_BYTES = 256 * 1024
"""The limit for a connection's StreamReader."""
_MAX_BODY_BYTES = 64 * 1024 * 1024
_PIECE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Request:
    """A whole HTTP request."""

    method: str
    path: str
    """Without what follows a question mark."""
    keep_alive: bool
    body: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """A whole HTTP response."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    retry_after: str | None = None


class Malformed(Exception):
    """What came is no request that can be read; the connection is of no use afterwards."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


async def read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    """The next request on a connection; None when the client has left, in the middle of one or between two.

    Raises:
        Malformed: no HTTP/1.x, no length, too long, or a chunked body.
        OSError: the connection was reset.
    """
    try:
        lines = (await reader.readuntil(b"\r\n\r\n"))[:-4].decode("latin-1").split("\r\n")
    except asyncio.IncompleteReadError:
        return None
    except asyncio.LimitOverrunError:
        raise Malformed(431, "the headers are too large") from None
    words = lines[0].split(" ")
    if len(words) != 3 or words[2] not in ("HTTP/1.1", "HTTP/1.0"):
        raise Malformed(400, "expected an HTTP/1.1 request")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    if "transfer-encoding" in headers:
        raise Malformed(501, "the body needs a Content-Length")
    length = headers.get("content-length", "" if words[0] == "POST" else "0")
    if not (length.isascii() and length.isdecimal()):
        raise Malformed(400 if length else 411, "the body needs a Content-Length")
    if len(length) > 12 or int(length) > _MAX_BODY_BYTES:
        raise Malformed(413, "the body is too large")
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    try:
        body = await reader.readexactly(int(length))
    except asyncio.IncompleteReadError:
        return None
    connection = headers.get("connection", "").lower()
    keep_alive = connection == "keep-alive" if words[2] == "HTTP/1.0" else connection != "close"
    return Request(words[0], words[1].partition("?")[0], keep_alive, body)


def head(response: Response, *lines: str) -> bytes:
    """Status line and headers, these lines among them, up to the blank line."""
    told = [
        f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}",
        f"Content-Type: {response.content_type}",
        *lines,
    ]
    if response.retry_after is not None:
        told.append(f"Retry-After: {response.retry_after}")
    return "\r\n".join((*told, "\r\n")).encode("ascii")


async def send(writer: asyncio.StreamWriter, *parts: bytes) -> None:
    """Writes, and waits as `drain` does.

    Raises:
        OSError: the client has left.
    """
    writer.write(b"".join(parts))
    await writer.drain()


async def send_response(writer: asyncio.StreamWriter, response: Response, *, keep_alive: bool) -> None:
    """Writes a whole response.

    Raises:
        OSError: the client has left.
    """
    lines = [] if keep_alive else ["Connection: close"]
    await send(writer, head(response, f"Content-Length: {len(response.body)}", *lines), response.body)


def chunk(data: bytes) -> bytes:
    """A piece of a chunked body; the empty one ends it."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def filler(size: int) -> Iterator[bytes]:
    """`size` letters in pieces."""
    return (b"x" * min(_PIECE_BYTES, size - start) for start in range(0, size, _PIECE_BYTES))


def gzipped(start: bytes, size: int, end: bytes) -> bytes:
    """`size` letters between start and end as gzip; unpacked they never stand in memory at once."""
    packer = zlib.compressobj(1, wbits=zlib.MAX_WBITS | 16)
    parts = [packer.compress(start), *map(packer.compress, filler(size)), packer.compress(end)]
    return b"".join((*parts, packer.flush()))
