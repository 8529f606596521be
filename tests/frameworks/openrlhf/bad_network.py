"""A network between a trainer and the service that loses what is sent, and drops who waits."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Literal

Fate = Literal["delivered", "lost", "dropped"]
_MOST_CUTS = 3
"""Of one body. OpenRLHF tries five times, and a restart takes one of them."""


class BadNetwork:
    """Takes one HTTP request a connection, as OpenRLHF makes it; what befalls it depends on seed and body alone.

    While the service is away a connection is held until it is back, as a proxy does it.

    Attributes:
        fates: how often what happened: brought to the service, lost on the way there, dropped while it waits there.
        waiting: whether nobody can have an answer yet. Then connections are dropped, and later none: what is lost
            after the service has sent it looks like a rollout that has come, and its next try like another one.
        deliver: awaited with every answer before it is passed on; False: the connection is cut instead.
    """

    def __init__(self, port: int, seed: int | None) -> None:
        """Without a seed it loses nothing."""
        self._port = port
        self._seed = seed
        self._tries: Counter[str] = Counter()
        self.fates: Counter[Fate] = Counter()
        self.deliver: Callable[[bytes], Awaitable[bool]] | None = None
        self.waiting = False
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def up(self) -> AsyncIterator[int]:
        """Its port, as long as it is up."""
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()

    async def reached(self, fate: Fate, count: int) -> None:
        """Returns when this has happened so often."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.fates[fate] >= count)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Whatever breaks on either side is what this is for.
        with suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(_length(head))
            fate = self._fate(body)
            async with self._changed:
                self.fates[fate] += 1
                self._changed.notify_all()
            if fate != "lost":
                await self._ask(head + body, writer, fate)
        writer.close()

    async def _ask(self, request: bytes, writer: asyncio.StreamWriter, fate: Fate) -> None:
        upstream_reader, upstream_writer = await self._connect()
        try:
            upstream_writer.write(request)
            await upstream_writer.drain()
            if fate == "dropped":
                # Long enough to be counted among its siblings.
                await asyncio.sleep(0.2)
                return
            head = await upstream_reader.readuntil(b"\r\n\r\n")
            answer = head + await upstream_reader.readexactly(_length(head))
            if self.deliver is not None and not await self.deliver(answer):
                return
            writer.write(answer)
            await writer.drain()
        finally:
            upstream_writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while True:
            with suppress(ConnectionError):
                return await asyncio.open_connection("127.0.0.1", self._port)
            await asyncio.sleep(0.05)

    def _fate(self, body: bytes) -> Fate:
        name = hashlib.sha256(body).hexdigest()
        self._tries[name] += 1
        if self._seed is None or self._tries[name] > _MOST_CUTS:
            return "delivered"
        drawn = random.Random(f"{self._seed} {self._tries[name]} {name}")
        return drawn.choice(("delivered", "lost", "dropped", "dropped") if self.waiting else ("delivered", "lost"))


def _length(head: bytes) -> int:
    fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
    return int(fields[b"content-length"])
