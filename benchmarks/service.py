"""What the HTTP service takes and holds: CPU a group, rendezvous, held replies, overload, mutated bodies, kill -9.

    python -m benchmarks.service                     # everything, about six minutes
    python -m benchmarks.service cpu rendezvous      # some of it
    python -m benchmarks.service --json out.json

Server and client share this machine. Times are of this machine and this run; compare the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.counting_judge import CountingJudge
from benchmarks.service_fuzz import fuzz
from benchmarks.service_load import (
    NUM_ROLLOUTS,
    Connection,
    Server,
    group_body,
    rollout_body,
    served,
    started,
    text,
    timed,
)
from ruler.client import Client
from ruler.types import Group, ScoredGroup

_ROUNDS = 3
_GROUPS = 400
_FUZZED = 100_000
_KILLS = 5
_ASKED_BETWEEN_KILLS = 25


def measure_cpu(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """`POST /v1/score` beside an endpoint that parses the same body and gives the same answer; simulated judge."""
    figures: dict[str, Any] = {}
    ours = ("ruler", "serve", "--judge", "simulated?noise=0", "--queue", "1000")
    with (
        served(*ours, "--cache", "off") as (plain, _),
        served(*ours, "--cache", str(folder / "c.sqlite3")) as (cached, _),
        served(sys.executable, "-m", "benchmarks.bare_service") as (bare, _),
    ):
        bodies = [group_body(number) for number in range(_GROUPS * (_ROUNDS + 1))]
        answer = asyncio.run(_one(plain, "/v1/score", bodies[0]))
        asyncio.run(_one(bare, "/answer?path=/v1/score", answer))
        figures["body_bytes"], figures["answer_bytes"] = len(bodies[0]), len(answer)
        for at_once in (1, 16):
            runs: dict[str, list[dict[str, float]]] = {}
            for turn in range(_ROUNDS + 1):
                part = bodies[turn * _GROUPS : (turn + 1) * _GROUPS]
                for name, server in (("bare", bare), ("service", plain), ("service_with_cache", cached)):
                    one = asyncio.run(_posts(server, "/v1/score", part, at_once))
                    if turn:  # the first round warms up
                        runs.setdefault(name, []).append(one)
            for name, all_runs in runs.items():
                mean = {key: statistics.median(run[key] for run in all_runs) for key in all_runs[0]}
                figures[f"{name}_{at_once}_at_once"] = mean
            beyond = figures[f"service_{at_once}_at_once"]["cpu_ms"] - figures[f"bare_{at_once}_at_once"]["cpu_ms"]
            figures[f"cpu_ms_beyond_bare_{at_once}_at_once"] = beyond
    return figures


async def _one(server: Server, path: str, body: bytes) -> bytes:
    status, answer = await Connection(server).post(path, body)
    if status >= 300:
        raise RuntimeError(f"{path}: {status} {answer[:300]!r}")
    return answer


async def _posts(server: Server, path: str, bodies: Sequence[bytes], at_once: int) -> dict[str, float]:
    pool = [Connection(server) for _ in range(at_once)]

    async def call(body: bytes) -> None:
        connection = pool.pop()
        status, answer = await connection.post(path, body)
        if status != 200:
            raise RuntimeError(f"{path}: {status} {answer[:300]!r}")
        pool.append(connection)

    return await timed(server, [lambda body=body: call(body) for body in bodies], at_once)  # type: ignore[misc]


def measure_rendezvous(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """8 posts a group that wait for each other, beside a bare endpoint that takes the same 8 posts."""
    figures: dict[str, Any] = {}
    with (
        served("ruler", "serve", "--judge", "simulated?noise=0", "--cache", "off", "--queue", "1000") as (ours, _),
        served(sys.executable, "-m", "benchmarks.bare_service") as (bare, _),
    ):
        answer = asyncio.run(_whole_group(ours, 999_999))
        asyncio.run(_one(bare, "/answer?path=/v1/rollouts", answer))
        for at_once in (1, 8):
            runs: dict[str, list[dict[str, float]]] = {}
            for turn in range(_ROUNDS + 1):
                for name, server in (("bare", bare), ("rendezvous", ours)):
                    numbers = range((at_once * 10 + turn) * 10_000, (at_once * 10 + turn) * 10_000 + _GROUPS // 2)
                    run = asyncio.run(_groups(server, numbers, at_once))
                    if turn:
                        runs.setdefault(name, []).append(run)
            for name, all_runs in runs.items():
                mean = {key: statistics.median(run[key] for run in all_runs) for key in all_runs[0]}
                figures[f"{name}_{at_once}_at_once"] = mean
            ratio = (
                figures[f"rendezvous_{at_once}_at_once"]["per_second"]
                / figures[f"bare_{at_once}_at_once"]["per_second"]
            )
            figures[f"ratio_{at_once}_at_once"] = ratio
    return figures


async def _whole_group(server: Server, number: int) -> bytes:
    answers = await asyncio.gather(
        *(_one(server, "/v1/rollouts", rollout_body(number, place)) for place in range(NUM_ROLLOUTS))
    )
    return answers[0]


async def _groups(server: Server, numbers: Sequence[int], at_once: int) -> dict[str, float]:
    pools = [[Connection(server) for _ in range(NUM_ROLLOUTS)] for _ in range(at_once)]

    async def call(bodies: list[bytes]) -> None:
        pool = pools.pop()
        for status, answer in await asyncio.gather(
            *(connection.post("/v1/rollouts", body) for connection, body in zip(pool, bodies, strict=True))
        ):
            if status != 200:
                raise RuntimeError(f"{status} {answer[:300]!r}")
        pools.append(pool)

    bodies = [[rollout_body(number, place) for place in range(NUM_ROLLOUTS)] for number in numbers]
    return await timed(server, [lambda one=one: call(one) for one in bodies], at_once)  # type: ignore[misc]


def measure_held(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Groups that wait for a judge of one second: 200 with every reply held, 2,000 that are asked for later."""
    figures: dict[str, Any] = {}
    with CountingJudge(1.0) as judge:
        options = ("--cache", "off", "--concurrency", "512", "--queue", "4096")
        with served("ruler", "serve", "--judge", judge.spec, *options) as (server, _):
            asyncio.run(_held_groups(server, range(1), wait=None))
            figures["idle_mb"] = server.memory_mb()
            for name, numbers, wait in (
                ("200_held", range(1_000, 1_200), None),
                ("2000_polled", range(2_000, 4_000), 0),
            ):
                begun = time.perf_counter()
                wrong, most = asyncio.run(_watched(server, _held_groups(server, numbers, wait=wait)))
                figures[name] = {
                    "seconds": time.perf_counter() - begun,
                    "wrong_or_missing": wrong,
                    "most_mb": most,
                    "mb_afterwards": server.memory_mb(),
                }
    return figures


async def _held_groups(server: Server, numbers: Sequence[int], *, wait: int | None) -> int:
    """Rollouts whose caller did not get the score that stands in the rollout."""
    rng = random.Random(numbers[0])
    jobs = [(number, place, rng.randrange(101)) for number in numbers for place in range(NUM_ROLLOUTS)]
    rng.shuffle(jobs)
    waiting = iter(jobs)
    wrong = 0

    async def ask(number: int, place: int, score: int, connection: Connection) -> None:
        nonlocal wrong
        query = "" if wait is None else f"?wait={wait}"
        status, answer = await connection.post(f"/v1/rollouts{query}", rollout_body(number, place, score))
        while status == 202:
            await asyncio.sleep(1.0)
            path = f"/v1/rollouts?group_id=g{number}&rollout_id={place}"
            status, answer = await connection.post(path, b"", "GET")
        wrong += status != 200 or json.loads(answer).get("score") != score / 100

    async def work() -> None:
        connection = Connection(server)
        for job in waiting:
            await ask(*job, connection)
        connection.close()

    if wait is None:
        await asyncio.gather(*(work() for _ in jobs))
    else:
        connections: asyncio.Queue[Connection] = asyncio.Queue()
        for _ in range(32):
            connections.put_nowait(Connection(server))

        async def polite(number: int, place: int, score: int) -> None:
            nonlocal wrong
            status, method, body = 202, "POST", rollout_body(number, place, score)
            path = "/v1/rollouts?wait=0"
            while status == 202:
                connection = await connections.get()
                status, answer = await connection.post(path, body, method)
                connections.put_nowait(connection)
                if status == 202:
                    path, method, body = f"/v1/rollouts?group_id=g{number}&rollout_id={place}", "GET", b""
                    await asyncio.sleep(2.0)
            wrong += status != 200 or json.loads(answer).get("score") != score / 100

        await asyncio.gather(*(polite(*job) for job in jobs))
    return wrong


async def _watched(server: Server, work: Awaitable[int]) -> tuple[int, float]:
    """The result, and the most memory the server took meanwhile."""
    most = server.memory_mb()
    task = asyncio.ensure_future(work)
    while not task.done():
        most = max(most, server.memory_mb())
        await asyncio.wait([task], timeout=0.05)
    return task.result(), most


def measure_overload(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Ten times more groups than the limits let through, for a minute."""
    places, delay, queue = 4, 0.2, 16
    capacity = places / delay
    statuses: Counter[int] = Counter()
    with CountingJudge(delay) as judge:
        options = ("--cache", "off", "--concurrency", str(places), "--queue", str(queue))
        with served("ruler", "serve", "--judge", judge.spec, *options) as (server, _):
            asyncio.run(_one(server, "/v1/score", group_body(0)))
            idle = server.memory_mb()
            most = asyncio.run(_flood(server, statuses, per_second=10 * capacity, seconds=arguments.seconds))
            begun = time.perf_counter()
            asyncio.run(_one(server, "/v1/score", group_body(1)))
            recovered = time.perf_counter() - begun
            return {
                "capacity_per_second": capacity,
                "sent_per_second": sum(statuses.values()) / arguments.seconds,
                "statuses": dict(statuses),
                "idle_mb": idle,
                "most_mb": most,
                "memory_ratio": most / idle,
                "seconds_of_the_next_request": recovered,
            }


async def _flood(server: Server, statuses: Counter[int], *, per_second: float, seconds: float) -> float:
    idle: list[Connection] = []
    tasks: set[asyncio.Task[None]] = set()
    most = 0.0

    async def ask(number: int) -> None:
        connection = idle.pop() if idle else Connection(server)
        status, _ = await connection.post("/v1/score", group_body(number))
        statuses[status] += 1
        idle.append(connection)

    begun = time.perf_counter()
    number = 10_000
    while (now := time.perf_counter() - begun) < seconds:
        while number - 10_000 < now * per_second:
            task = asyncio.create_task(ask(number))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
        most = max(most, server.memory_mb())
        await asyncio.sleep(0.01)
    await asyncio.gather(*tasks)
    return most


def measure_fuzz(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Bodies that are nearly right: no answer may be a 500, or tell of the inside."""
    bad: list[str] = []
    statuses: Counter[int] = Counter()
    with served("ruler", "serve", "--judge", "simulated", "--cache", "off", "--collect-seconds", "1") as (server, _):
        asyncio.run(fuzz(server, arguments.fuzzed, arguments.seed, statuses, bad))
        return {"bodies": arguments.fuzzed, "statuses": dict(sorted(statuses.items())), "bad": bad[:5] or 0}


def measure_kill(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Kill -9 during load, again and again: clients retry, get right scores, and no stored answer is paid twice."""
    groups = [_scored_group(number) for number in range(200)]
    cache = str(folder / "cache.sqlite3")
    with CountingJudge(0.05) as judge:
        options = ("ruler", "serve", "--judge", judge.spec, "--cache", cache, "--concurrency", "8", "--queue", "1000")
        with served(*options) as (server, process):
            port = server.port
            client = Client(server.url, timeout_seconds=120, attempts=50)

            async def score() -> list[Any]:
                try:
                    return await client.score_many(groups)
                finally:
                    await client.aclose()

            results, kills = asyncio.run(_killing(score(), options, port, process, judge))
        right = sum(
            isinstance(result, ScoredGroup)
            and [score.score for score in result.rollouts] == [place / 100 for place in range(4)]
            for result in results
        )
        asked = judge.asked.total()
    return {
        "groups": len(groups),
        "kills": kills,
        "right": right,
        "calls": asked,
        "calls_beyond_one_a_group": asked - len(judge.asked),
        "lost_in_flight_at_most": kills * 8,
    }


def _scored_group(number: int) -> Group:
    return Group.of([text(number * 10 + place, 20, score=place) for place in range(4)], task="Which?", id=f"k{number}")


async def _killing(
    work: Awaitable[list[Any]],
    options: Sequence[str],
    port: int,
    process: subprocess.Popen[str],
    judge: CountingJudge,
) -> tuple[list[Any], int]:
    task = asyncio.ensure_future(work)
    kills = asked = 0
    while not task.done():
        await asyncio.wait([task], timeout=0.01)
        if task.done() or kills >= _KILLS or judge.asked.total() < asked + _ASKED_BETWEEN_KILLS:
            continue
        asked = judge.asked.total()
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        process, _ = await asyncio.to_thread(started, *options, port=port)
    process.kill()
    process.wait()
    return task.result(), kills


MEASURES: dict[str, Callable[[argparse.Namespace, Path], dict[str, Any]]] = {
    "cpu": measure_cpu,
    "rendezvous": measure_rendezvous,
    "held": measure_held,
    "overload": measure_overload,
    "fuzz": measure_fuzz,
    "kill": measure_kill,
}


def main() -> None:
    """Runs the measurements that are asked for and prints them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measures", nargs="*", choices=[[], *MEASURES], help="default: all")
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload")
    parser.add_argument("--fuzzed", type=int, default=_FUZZED, help="mutated bodies")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    with suppress(ValueError, OSError):
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    figures = {}
    for name in arguments.measures or MEASURES:
        with tempfile.TemporaryDirectory() as folder:
            figures[name] = MEASURES[name](arguments, Path(folder))
        print(f"\n## {name}\n", flush=True)
        for key, value in figures[name].items():
            print(f"- {key.replace('_', ' ')}: {_shown(value)}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
