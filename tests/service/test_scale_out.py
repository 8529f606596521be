"""Two servers, one Redis, and nginx with the configuration that we ship; real processes, real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from ruler.types import FENCE
from tests.local_server import LocalServer, Response, completion, user_text
from tests.redis_server import RedisServer
from tests.service.running import ROOT, Running, serving

pytestmark = pytest.mark.slow

SIZE = 4
UNLIMITED = httpx.Limits(max_connections=None, max_keepalive_connections=None)


@dataclass(frozen=True)
class Cluster:
    url: str
    """Of nginx."""
    port: int
    servers: tuple[Running, Running]
    judge: LocalServer


def score_of(group: int, rollout: int) -> float:
    return (10 + 20 * rollout + group % 10) / 100


def reply(body: dict[str, Any]) -> Response:
    """Scores each rollout by the numbers in its text."""
    scores = []
    text = user_text(body)
    for fence in FENCE.finditer(text):
        found = re.compile(r"group (\d+) answer (\d+)").search(text, fence.end())
        if not fence["close"] and found:
            scores.append({"id": fence["id"], "score": 100 * score_of(int(found[1]), int(found[2]))})
    return completion(json.dumps({"notes": [], "scores": scores}))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def nginx(ports: tuple[int, int]) -> Iterator[int]:
    """The shipped configuration, with other ports and paths; its port."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("nginx is not installed")
        pytest.skip("nginx is not installed")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="ruler-nginx-") as folder:
        text = (ROOT / "deploy" / "nginx.conf").read_text(encoding="utf-8")
        bodies = "".join(
            f"    {kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        for shipped, ours in {
            "worker_processes auto;": "worker_processes 2; daemon off;" + " user root;" * (os.geteuid() == 0),
            "pid /run/nginx.pid;": f"pid {folder}/pid;",
            "http {\n": f"http {{\n{bodies}",
            "127.0.0.1:8001": f"127.0.0.1:{ports[0]}",
            "127.0.0.1:8002": f"127.0.0.1:{ports[1]}",
            "127.0.0.1:8000": f"127.0.0.1:{port}",
        }.items():
            assert text.count(shipped) == 1, shipped
            text = text.replace(shipped, ours)
        (Path(folder) / "nginx.conf").write_text(text, encoding="utf-8")
        with open(f"{folder}/errors", "wb") as errors:
            command = [program, "-p", folder, "-e", "stderr", "-c", f"{folder}/nginx.conf"]
            process = subprocess.Popen(command, stderr=errors)
        try:
            for _ in range(1_000):
                if os.path.exists(f"{folder}/pid") or process.poll() is not None:
                    break
                time.sleep(0.01)
            assert process.poll() is None, Path(folder, "errors").read_text()
            yield port
        finally:
            process.terminate()
            process.wait(30)


@contextmanager
def cluster() -> Iterator[Cluster]:
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        judge = stack.enter_context(LocalServer(reply))
        options = ("--judge", f"{judge.url}#m", "--cache", redis.url, "--collect-seconds", "60")
        servers = (stack.enter_context(serving(*options)), stack.enter_context(serving(*options)))
        port = stack.enter_context(nginx((servers[0].port, servers[1].port)))
        yield Cluster(f"http://127.0.0.1:{port}", port, servers, judge)


async def join(
    client: httpx.AsyncClient, group: int, rollout: int, *, header: bool = True, attempt: int = 0
) -> dict[str, Any]:
    """Posts one rollout, and gives what came back; the group's id has signs that a header cannot hold."""
    group_id = f"Gruppe Nº {group}"
    body = {
        "group_id": group_id,
        "group_size": SIZE,
        "rollout_id": f"r{rollout}",
        "attempt": attempt,
        "messages": f"group {group} answer {rollout}",
    }
    headers = {"X-Ruler-Group": quote(group_id, safe="")} if header else {}
    answer = await client.post("/v1/rollouts", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def meet(client: httpx.AsyncClient, groups: range, **options: Any) -> None:
    """Posts all rollouts of these groups at once, and checks that each gets its own score."""
    asked = [(group, rollout) for rollout in range(SIZE) for group in groups]
    answers = await asyncio.gather(*(join(client, *one, **options) for one in asked))
    for (group, rollout), answer in zip(asked, answers, strict=True):
        assert answer["score"] == pytest.approx(score_of(group, rollout)), (group, rollout)
        assert answer["num_rollouts"] == SIZE


async def groups_judged(url: str) -> int:
    async with httpx.AsyncClient(base_url=url) as client:
        text = (await client.get("/metrics")).text
    return int(sum(float(value) for value in re.findall(r"^ruler_groups_total\{.*\} (\S+)$", text, re.MULTILINE)))


def record(group: int) -> Mapping[str, Any]:
    return {"rollouts": [{"messages": f"group {group} answer {rollout}"} for rollout in range(SIZE)]}


async def test_rollouts_meet_through_nginx_and_answers_are_shared() -> None:
    with cluster() as two:
        one, other = (server.url for server in two.servers)
        async with httpx.AsyncClient(base_url=two.url, limits=UNLIMITED, timeout=120) as client:
            await meet(client, range(40))
            assert len(two.judge.requests) == 40
            shares = [await groups_judged(one), await groups_judged(other)]
            assert sum(shares) == 40
            assert min(shares) > 0, "one server did it all"

            # Of clients that know no header, the rollouts of all groups come to one server.
            await meet(client, range(40, 50), header=False)
            assert len(two.judge.requests) == 50
            more = [await groups_judged(one), await groups_judged(other)]
            assert sorted(now - before for now, before in zip(more, shares, strict=True)) == [0, 10]

            # What one server has paid for is free on the other, also while it is being asked for.
            for url in (one, other, two.url):
                answer = await client.post(f"{url}/v1/score", json=record(3))
                assert answer.json()["usage"]["cache_hits"] == 1
            answers = await asyncio.gather(*(client.post(f"{url}/v1/score", json=record(99)) for url in (one, other)))
            assert sorted(answer.json()["usage"]["calls"] for answer in answers) == [0, 1]
            assert len(two.judge.requests) == 51

            # The limit of bodies is that of the servers, and one that passes need not fit into nginx's memory.
            assert (await client.post("/v1/score", content=b"x" * (16 * 2**20 + 1))).status_code == 413
            answer = await client.post("/v1/score", content=b"x" * (16 * 2**20))
            assert (answer.status_code, answer.json()["error"]["code"]) == (422, "group")

            longest = {"X-Ruler-Group": quote("組" * 1_000)}
            assert (await client.post("/v1/score", json=record(3), headers=longest)).status_code == 200

            assert (await client.get("/metrics")).status_code == 404
            assert (await client.get("/healthz")).status_code == 200


async def test_a_batch_streams_both_ways_through_nginx() -> None:
    with cluster() as two:
        reader, writer = await asyncio.open_connection("127.0.0.1", two.port)
        writer.write(
            b"POST /v1/score/batch HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-ndjson\r\n"
            b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        )
        for group in range(3):
            line = json.dumps({"group_id": f"line {group}", **record(group)}).encode() + b"\n"
            writer.write(b"%x\r\n%s\r\n" % (len(line), line))
            await writer.drain()
            # The answer to this line is here before the next one is sent.
            async with asyncio.timeout(60):
                await reader.readuntil(f'"group_id": "line {group}"'.encode())
        writer.write(b"0\r\n\r\n")
        await reader.read()
        writer.close()
        await writer.wait_closed()
        assert len(two.judge.requests) == 3


async def test_when_a_server_dies_the_other_takes_its_groups_and_pays_for_nothing_again() -> None:
    with cluster() as two:
        async with httpx.AsyncClient(base_url=two.url, limits=UNLIMITED, timeout=120) as client:
            await meet(client, range(20))
            shares = [await groups_judged(server.url) for server in two.servers]
            assert min(shares) > 0
            two.servers[0].stop(signal.SIGKILL)
            await meet(client, range(20))
            assert len(two.judge.requests) == 20
            await meet(client, range(20, 30))
            assert len(two.judge.requests) == 30
