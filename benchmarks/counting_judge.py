"""A judge endpoint for benchmarks: scores each rollout by the number in it, after a time, and counts what it is asked.

The number is what stands between `score=` and the next character that is no digit; without one the score is 50.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import threading
from collections import Counter
from types import TracebackType
from typing import Any

from benchmarks.raw_http import MAX_HEAD_BYTES, Malformed, Response, read_request, send_response
from ruler.types import FENCE

_NUMBER = re.compile(r"score=(\d+)")


class CountingJudge:
    """Serves `POST …/chat/completions` from a thread of its own while the `with` block runs.

    Attributes:
        asked: prompts (SHA-256) and how often each came.
        answered: the same, of replies that were written.
    """

    def __init__(self, delay_seconds: float = 0.0) -> None:
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self._delay_seconds = delay_seconds
        self._port = 0
        self._ready = threading.Event()
        self._end: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    @property
    def spec(self) -> str:
        """The SPEC under which `ruler` asks it."""
        return f"http://127.0.0.1:{self._port}/v1#counting?concurrency=512"

    def __enter__(self) -> CountingJudge:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        assert self._end is not None
        loop, ended = self._end
        loop.call_soon_threadsafe(ended.set)
        self._thread.join()

    async def _run(self) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=MAX_HEAD_BYTES, backlog=1024)
        self._port = server.sockets[0].getsockname()[1]
        ended = asyncio.Event()
        self._end = asyncio.get_running_loop(), ended
        self._ready.set()
        await ended.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await read_request(reader, writer)) is not None:
                body = json.loads(request.body)
                prompt = hashlib.sha256(json.dumps(body["messages"]).encode()).hexdigest()
                self.asked[prompt] += 1
                await asyncio.sleep(self._delay_seconds)
                await send_response(writer, Response(json.dumps(_completion(body)).encode()), keep_alive=True)
                self.answered[prompt] += 1
        except (OSError, Malformed):
            pass
        finally:
            writer.close()


def _completion(body: dict[str, Any]) -> dict[str, Any]:
    content = body["messages"][-1]["content"]
    text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    fences = list(FENCE.finditer(text))
    scores = []
    for opening, closing in zip(fences[::2], fences[1::2], strict=True):
        found = _NUMBER.search(text, opening.end(), closing.start())
        scores.append({"id": opening["id"], "score": int(found[1]) if found else 50})
    message = {"role": "assistant", "content": json.dumps({"notes": [], "scores": scores})}
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "counting",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {"prompt_tokens": len(text) // 4, "completion_tokens": 20, "total_tokens": len(text) // 4 + 20},
    }
