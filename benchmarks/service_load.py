"""A server under measurement, and load that costs so little that the server is what is measured."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

NUM_ROLLOUTS = 8
"""In a group."""
_WORDS = 225
"""About 300 tokens."""
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Server:
    """A server process under measurement."""

    host: str
    port: int
    pid: int

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{self.host}:{self.port}"

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def memory_mb(self) -> float:
        """Resident memory now."""
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text())
        return int(found[1]) / 1024 if found else 0.0


def started(*command: str, port: int = 0) -> tuple[subprocess.Popen[str], Server]:
    """A server whose first line of output holds its address; `ruler serve` listens on this port."""
    if command[0] == "ruler":
        command = (str(Path(sys.executable).with_name("ruler")), *command[1:], "--port", str(port))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://([\d.]+):(\d+)", line)
    if found is None:
        process.kill()
        raise RuntimeError(f"{' '.join(command)} did not start: {line!r}")
    return process, Server(found[1], int(found[2]), process.pid)


@contextmanager
def served(*command: str) -> Iterator[tuple[Server, subprocess.Popen[str]]]:
    """As `started`; it is killed at the end."""
    process, server = started(*command)
    try:
        yield server, process
    finally:
        process.kill()
        process.wait()


class Connection:
    """One kept-alive connection; cheaper than any client library, so that the server is what is measured."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes, method: str = "POST") -> tuple[int, bytes]:
        """Status and body of the answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._server.host, self._server.port, limit=2**22)
        reader, writer = self._streams
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ")[1])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        answer = await reader.readexactly(int(headers.get("content-length", "0")))
        if headers.get("connection") == "close":
            self.close()
        return status, answer

    def close(self) -> None:
        """Ends the connection; the next call opens another."""
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None


def text(seed: int, words: int = _WORDS, score: int | None = None) -> str:
    """Words of a rollout, different for every seed."""
    rng = random.Random(seed)
    said = " ".join(
        rng.choice(("the", "sum", "of", "both", "is", "then", "a", "half", "and", "so")) for _ in range(words)
    )
    return f"{said} {seed}" + ("" if score is None else f" score={score}")


def group_body(number: int) -> bytes:
    """A group of 8 rollouts, 300 tokens each."""
    rollouts = [{"id": str(place), "messages": text(number * 100 + place)} for place in range(NUM_ROLLOUTS)]
    return json.dumps({"group_id": f"g{number}", "task": "Which sum is it?", "rollouts": rollouts}).encode()


def rollout_body(number: int, place: int, score: int | None = None) -> bytes:
    """One of the rollouts of such a group."""
    record = {
        "group_id": f"g{number}",
        "group_size": NUM_ROLLOUTS,
        "rollout_id": str(place),
        "task": "Which sum is it?",
        "messages": text(number * 100 + place, score=score),
    }
    return json.dumps(record).encode()


async def timed(server: Server, calls: Sequence[Callable[[], Awaitable[None]]], at_once: int) -> dict[str, float]:
    """Runs all, so many at once: rate, latencies, and the server's CPU for each."""
    waiting = iter(calls)
    seconds: list[float] = []

    async def work() -> None:
        for call in waiting:
            begun = time.perf_counter()
            await call()
            seconds.append(time.perf_counter() - begun)

    cpu, begun = server.cpu_seconds(), time.perf_counter()
    await asyncio.gather(*(work() for _ in range(at_once)))
    took = time.perf_counter() - begun
    cuts = statistics.quantiles(seconds, n=100)
    return {
        "per_second": len(calls) / took,
        "p50_ms": 1000 * cuts[49],
        "p99_ms": 1000 * cuts[98],
        "cpu_ms": 1000 * (server.cpu_seconds() - cpu) / len(calls),
    }
