"""An OpenAI-compatible judge on a real socket that answers rightly, or misbehaves in a way that can be repeated.

    python -m benchmarks.fault_server --port 0 --faults mixed --rate 0.2 --seed 1     # prints its URL on one line

    async with FaultServer(faults="mixed", rate=0.2, seed=1) as server: ...           # in this event loop
    with FaultServer() as server: ...                                                 # in a thread of its own

`server.url` is the base URL; `benchmarks.fault_replies.right_scores` says what a prompt's right answer is. Counts are
attributes, and JSON at GET /stats. No text of a prompt is kept or logged. Without faults it answers at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from benchmarks.fault_replies import Question, completion, error, respond
from benchmarks.faults import Fault, FaultPlan, Mark, read_faults
from benchmarks.raw_http import (
    MAX_HEAD_BYTES,
    Malformed,
    Request,
    Response,
    chunk,
    filler,
    gzipped,
    head,
    read_request,
    send,
    send_response,
)

_DRIP_SECONDS = 0.05
_READ_BYTES = 64 * 1024


@dataclass(slots=True)
class PromptCount:
    """What became of one prompt."""

    asked: int = 0
    right: int = 0
    """Complete usable responses that were written to the end: each of them would have been paid for."""


class FaultServer:
    """Serves `POST …/chat/completions` and `GET …/stats` on the loopback while its `with` block runs.

    Args:
        faults: kinds of fault, or text: mixed, all, none, or names parted by commas.
        rate: probability in [0, 1] that a request misbehaves.
        seed: another seed, another choice of requests and kinds.
        latency_seconds: waited before every response, and before every reset.
        retry_after_seconds: told by the rate limits that tell it.
        huge_bytes: size of the text in a huge body.
        port: 0 takes a free one.

    Attributes:
        requests: chat completions asked for, malformed ones left out.
        kinds: requests by the kind they met; "right" for those that met none.
        prompts: by `prompt_key`. Equal prompts count as one, also under other sampling settings or another model.
        malformed: what was no question at all, over HTTP or in the body.
        left: clients that had gone before their response was begun; it was not written then.

    Raises:
        ValueError: an unknown kind, a rate outside [0, 1], or one without faults.
        OSError: on entering, when the port is taken.
    """

    def __init__(
        self,
        *,
        faults: str | Iterable[Fault] = "mixed",
        rate: float = 0.0,
        seed: int = 0,
        latency_seconds: float = 0.0,
        retry_after_seconds: float = 1.0,
        huge_bytes: int = 32 * 1024 * 1024,
        port: int = 0,
    ) -> None:
        self.plan = FaultPlan(read_faults(faults), rate, seed)
        self.requests = 0
        self.kinds: Counter[str] = Counter()
        self.prompts: dict[str, PromptCount] = {}
        self.malformed = 0
        self.left = 0
        self._latency_seconds = latency_seconds
        self._retry_after_seconds = retry_after_seconds
        self._huge_bytes = huge_bytes
        self._port = port
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._thread: threading.Thread | None = None
        self._end: Callable[[], object] = lambda: None

    @property
    def url(self) -> str:
        """The base URL, ending in `/v1`; also after the end, when nothing answers there."""
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def paid_twice(self) -> dict[str, int]:
        """Prompts that were answered rightly more than once, with how often."""
        # Copied in one step: it may be asked for from another thread.
        return {key: count.right for key, count in self.prompts.copy().items() if count.right > 1}

    def stats(self) -> dict[str, Any]:
        """The counts, ready for JSON; `prompts` is key -> [asked, answered rightly]."""
        prompts = self.prompts.copy()
        return {
            "requests": self.requests,
            "kinds": self.kinds.copy(),
            "malformed": self.malformed,
            "left": self.left,
            "right": sum(count.right for count in prompts.values()),
            "paid_twice": self.paid_twice,
            "prompts": {key: [count.asked, count.right] for key, count in prompts.items()},
        }

    async def __aenter__(self) -> FaultServer:
        self._server = await asyncio.start_server(
            self._connected, "127.0.0.1", self._port, limit=MAX_HEAD_BYTES, backlog=1024
        )
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: object) -> None:
        server, self._server = self._server, None
        assert server is not None, "the server is not running"
        # A closed asyncio server leaks the connections that it is just accepting: first no new ones, then some turns of
        # the loop in which the last ones become known.
        asyncio.get_running_loop().remove_reader(server.sockets[0].fileno())
        for _ in range(5):
            await asyncio.sleep(0)
        server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await server.wait_closed()

    def __enter__(self) -> FaultServer:
        started: Future[Callable[[], object]] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(started)), daemon=True)
        self._thread.start()
        self._end = started.result()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: object) -> None:
        assert self._thread is not None, "the server is not running"
        self._end()
        self._thread.join()

    async def _run(self, started: Future[Callable[[], object]]) -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            async with self:
                started.set_result(lambda: loop.call_soon_threadsafe(stop.set))
                await stop.wait()
        except OSError as exc:
            if started.done():
                raise
            started.set_exception(exc)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # No coroutine function: the task is known from its first moment, and none escapes the end.
        task = asyncio.get_running_loop().create_task(self._converse(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        # Not in the task: one that is cancelled before its first step would leave the socket open.
        task.add_done_callback(lambda _: writer.transport.abort())

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until the client leaves or a fault ends it."""
        # With it, `drain` returns when all is handed to the kernel, and what is counted as written is written.
        writer.transport.set_write_buffer_limits(high=0)
        # A client that leaves is part of the plan.
        with suppress(OSError):
            try:
                while request := await read_request(reader, writer):
                    if not (await self._serve(request, reader, writer) and request.keep_alive):
                        break
            except Malformed as exc:
                self.malformed += 1
                response = Response(error(str(exc), "invalid_request_error"), exc.status)
                await send_response(writer, response, keep_alive=False)

    async def _serve(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answers one request; returns whether the connection can be used again."""
        if request.method == "GET" and request.path.endswith("/stats"):
            await send_response(writer, Response(json.dumps(self.stats()).encode()), keep_alive=request.keep_alive)
            return True
        if request.method != "POST" or not request.path.endswith("/chat/completions"):
            raise Malformed(404, "no such address")
        try:
            question = Question.read(request.body)
            count = self.prompts.get(question.key) or PromptCount()
            fault = self.plan.fault(question.key, count.asked)
            response = respond(fault, question, retry_after_seconds=self._retry_after_seconds)
        except ValueError as exc:
            raise Malformed(400, str(exc)) from None
        except RecursionError:
            raise Malformed(400, "the body is nested too deeply") from None
        self.prompts[question.key] = count
        count.asked += 1
        self.requests += 1
        self.kinds[fault or "right"] += 1
        if self._latency_seconds:
            await asyncio.sleep(self._latency_seconds)
        if reader.at_eof() or writer.transport.is_closing():
            self.left += 1
            return False
        if fault in _SENDING:
            await self._misbehave(fault, question, response, reader, writer)
            return False
        await send_response(writer, response, keep_alive=request.keep_alive)
        count.right += fault is None or fault.mark is Mark.USABLE
        return True

    async def _misbehave(
        self,
        fault: Fault | None,
        question: Question,
        response: Response,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """The faults that no whole response can show; the connection is of no use afterwards."""
        if fault is Fault.TIMEOUT:
            while await reader.read(_READ_BYTES):
                pass
        elif fault is Fault.DRIP:
            writer.write(head(response, "Transfer-Encoding: chunked"))
            while not reader.at_eof():
                writer.write(b"1\r\n \r\n")
                await writer.drain()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_DRIP_SECONDS):
                        await reader.read(_READ_BYTES)
        elif fault is Fault.HUGE_BODY:
            start, end = completion(question, "~").split(b"~")
            await send(writer, head(response, "Transfer-Encoding: chunked"), chunk(start))
            for letters in filler(self._huge_bytes):
                await send(writer, chunk(letters))
            await send(writer, chunk(end), chunk(b""))
        elif fault is Fault.ZIP_BOMB:
            start, end = completion(question, "~").split(b"~")
            # In a thread: packing takes a tenth of a second, which the others would wait.
            body = await asyncio.to_thread(gzipped, start, self._huge_bytes, end)
            await send(writer, head(response, "Content-Encoding: gzip", f"Content-Length: {len(body)}"), body)
        else:
            if fault is not Fault.RESET:
                body = response.body
                await send(writer, head(response, f"Content-Length: {len(body)}"), body[: len(body) // 2])
            if fault is not Fault.CLOSED_IN_BODY:
                # With linger 0 the kernel ends the connection by RST instead of FIN.
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


_SENDING = {
    Fault.RESET,
    Fault.RESET_IN_BODY,
    Fault.CLOSED_IN_BODY,
    Fault.TIMEOUT,
    Fault.DRIP,
    Fault.HUGE_BODY,
    Fault.ZIP_BOMB,
}


def main() -> None:
    """Serves until SIGINT or SIGTERM; the one line on standard output is the base URL."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--faults", default="mixed", help=f"mixed, all, none, or some of {','.join(Fault)}")
    parser.add_argument("--rate", type=float, default=0.0, help="probability that a request misbehaves")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--latency-seconds", type=float, default=0.0, help="waited before every response")
    parser.add_argument("--retry-after-seconds", type=float, default=1.0, help="told by rate limits that tell it")
    parser.add_argument("--huge-bytes", type=int, default=32 * 1024 * 1024, help="text in a huge body")
    try:
        server = FaultServer(**vars(parser.parse_args()))
    except ValueError as exc:
        parser.error(str(exc))
    asyncio.run(_serve_until_signal(server))


async def _serve_until_signal(server: FaultServer) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with server:
        print(server.url, flush=True)
        await stop.wait()


if __name__ == "__main__":
    main()
