"""Bodies for the service that are nearly right."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from typing import Any

from benchmarks.service_load import Connection, Server


async def fuzz(server: Server, num_bodies: int, seed: int, statuses: Counter[int], bad: list[str]) -> None:
    rng = random.Random(seed)
    calls = [
        ("/v1/score", _small_group()),
        ("/v1/pack", _small_group()),
        ("/v1/rollouts?wait=0", {"group_id": "g", "group_size": 2, "rollout_id": "1", "messages": "a", "task": "t"}),
        ("/v1/score/batch", _small_group()),
        ("/compat/openrlhf?group_size=1", {"query": ["a b"], "prompts": ["a"], "labels": ["b"]}),
        ("/compat/slime?group_size=1", {"prompt": "a", "response": "b", "label": None}),
    ]
    numbers = iter(range(num_bodies))

    async def work() -> None:
        connection = Connection(server)
        for _ in numbers:
            path, record = rng.choice(calls)
            record = {**record, "group_id": f"g{rng.randrange(1000)}"} if "group_id" in record else record
            body = mutate(json.dumps(record).encode(), record, rng)
            if path == "/v1/score/batch":
                connection.close()
                status, answer = await _chunked(server, path, body)
            else:
                status, answer = await connection.post(path, body)
            statuses[status] += 1
            if status == 500 or b"Traceback" in answer or b'"internal"' in answer:
                bad.append(f"{path} {body[:200]!r}: {status} {answer[:200]!r}")

    await asyncio.gather(*(work() for _ in range(16)))


async def _chunked(server: Server, path: str, body: bytes) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection(server.host, server.port)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    answer = await reader.read()
    writer.close()
    return int(answer.split(b" ", 2)[1]), answer


def _small_group() -> dict[str, Any]:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    messages = [
        {"role": "assistant", "content": [{"type": "text", "text": "so"}], "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "2"},
    ]
    return {
        "group_id": "g",
        "task": {"messages": [{"role": "user", "content": "hi"}], "tools": [], "reference": "2"},
        "rollouts": [{"id": "a", "messages": messages}, {"id": "b", "messages": "no", "finish_reason": "length"}],
    }


_ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1e308,
    float("nan"),
    10**400,
    "",
    "\x00",
    "\ud800",
    "x" * 5000,
    [],
    {},
    [[]],
    {"a": {}},
)


def mutate(body: bytes, record: dict[str, Any], rng: random.Random) -> bytes:
    """The body with something wrong: bytes, or a value, a key, a nesting of its JSON."""
    if rng.random() < 0.4:
        data = bytearray(body)
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(data))
            action = rng.randrange(4)
            if action == 0:
                data[place] = rng.randrange(256)
            elif action == 1:
                del data[place : place + rng.randint(1, 20)]
            elif action == 2:
                data[place:place] = rng.choice((b"{", b"[", b'"', b"\\u0000", b"\xff", b"NaN", b"[" * 3000))
            else:
                data += data[place:]
            if not data:
                return b""
        return bytes(data)
    copy = json.loads(body)
    for _ in range(rng.randint(1, 3)):
        _spoil(copy, rng)
    return json.dumps(copy).encode("utf-8", "surrogatepass")


def _spoil(value: Any, rng: random.Random) -> None:
    while isinstance(value, dict | list) and value:
        key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        if isinstance(value[key], dict | list) and value[key] and rng.random() < 0.7:
            value = value[key]
            continue
        action = rng.randrange(4)
        if action == 0:
            del value[key]
        elif action == 1 and isinstance(value, dict):
            value[rng.choice(("id", "role", "content", "messages", "x", "truth"))] = rng.choice(_ODD)
        elif action == 2 and isinstance(value, list):
            value.append(value[key])
        else:
            value[key] = rng.choice(_ODD)
        return
