"""What the layer around a judge holds, and what it costs: faults, kill -9, cache hits, concurrency, overhead.

    python -m benchmarks.judge_layer                  # everything, about five minutes
    python -m benchmarks.judge_layer overhead hits    # some of it
    python -m benchmarks.judge_layer --json out.json

The groups are those of RULER_DATA. Times are of this machine and this run; compare the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.fault_replies import prompt_key, right_scores
from benchmarks.real_groups import add_data_argument, data_paths
from judges.cache import CachedJudge, cache_key
from judges.litellm import LiteLLMJudge
from judges.scripted import ScriptedJudge, scores_reply
from judges.store import Entry
from judges.store_sqlite import SqliteStore
from ruler import FailedGroup, Group, Judge, JudgeInfo, JudgeReply, JudgeRequest, Ruler, ScoredGroup, Usage
from ruler.config import Settings, load_judges, wrap_judge
from ruler.records import BadLine, open_read, read_groups
from ruler.reply import read_reply, reply_schema

_FAULT_RATE = 0.2
_ATTEMPTS, _REASKS = 6, 2
_KILLS = 10
_ENTRIES = 100_000
_HITS = 5_000
_ROUNDS, _CALLS = 8, 60


def main() -> None:
    """Runs the measurements that are asked for and prints them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measures", nargs="*", choices=[[], *MEASURES], help="default: all")
    add_data_argument(parser)
    parser.add_argument("--groups", type=int, default=1_000, help="groups sent through the faults")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    figures = {}
    for name in arguments.measures or MEASURES:
        with tempfile.TemporaryDirectory() as folder:
            figures[name] = MEASURES[name](arguments, Path(folder))
        print(f"\n## {name}\n")
        for key, value in figures[name].items():
            print(f"- {key.replace('_', ' ')}: {_shown(value)}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def measure_faults(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Real groups through a server that misbehaves at one request in five, every kind but the final ones."""
    groups = _groups(arguments)
    with _server("--faults", "mixed", "--rate", str(_FAULT_RATE), "--seed", str(arguments.seed)) as url:
        spec = f"{url}#m?timeout=3&attempts={_ATTEMPTS}&reasks={_REASKS}"
        loaded = load_judges(Settings(judge=(spec,), cache=str(folder / "cache.sqlite3")))
        ruler = Ruler(loaded.judges, concurrency=64)

        async def run() -> list[ScoredGroup | FailedGroup]:
            try:
                return await ruler.score_many(groups)
            finally:
                await loaded.close()

        began = time.perf_counter()
        results = asyncio.run(run())
        seconds = time.perf_counter() - began
        stats = _stats(url)
    outcomes = Counter(_outcome(ruler, group, result) for group, result in zip(groups, results, strict=True))
    usage = sum((result.usage for result in results), Usage())
    return {
        "groups": len(groups),
        "results": len(results),
        **dict(sorted(outcomes.items())),
        "requests": stats["requests"],
        "kinds": dict(sorted(stats["kinds"].items())),
        "retries": usage.retries,
        "paid_twice": len(stats["paid_twice"]),
        "seconds": seconds,
    }


def _outcome(ruler: Ruler, group: Group, result: ScoredGroup | FailedGroup) -> str:
    if isinstance(result, FailedGroup):
        return f"failed_{result.reason}"
    if result.status == "tied":
        return "tied"
    (prompt,) = ruler.pack(group)
    right = right_scores(prompt.messages)
    by_id = {name: right[label] / 100 for label, names in prompt.rollouts.items() for name in names}
    return "scored_rightly" if all(score.score == by_id[score.id] for score in result.rollouts) else "scored_WRONGLY"


def measure_kills(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """`ruler score`, killed (SIGKILL) at ten random moments and continued to the end."""
    groups = _groups(arguments)[:400]
    source = folder / "groups.jsonl"
    wanted = {group.id for group in groups}
    with source.open("w", encoding="utf-8") as file:
        for line in _lines(arguments):
            if json.loads(line)["group_id"] in wanted:
                file.write(line)
    rng = random.Random(arguments.seed)
    out, cache = folder / "scored.jsonl", folder / "cache.sqlite3"
    paid_again = kills = 0
    stored_at_kills: list[int] = []
    with _server("--latency-seconds", "0.15") as url:
        spec = f"{url}#m"
        keys = _prompt_keys(spec, groups)
        command = [sys.executable, "-c", "from ruler.cli import main; main()", "score", str(source), "--judge", spec]
        command += ["--out", str(out), "--cache", str(cache), "--concurrency", "8"]
        stored: dict[str, int] = {}
        while True:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            # By progress, and a random moment after it: what was in flight at the last kill is first waited for.
            most = len(groups) // _KILLS
            more = rng.randrange(most // 2, most) if kills < _KILLS else math.inf
            enough = _stats(url)["requests"] + more
            while process.poll() is None and _stats(url)["requests"] < enough:
                time.sleep(0.02)
            time.sleep(rng.uniform(0.0, 0.2))
            ended = process.poll() is not None
            if not ended:
                process.send_signal(signal.SIGKILL)
                kills += 1
            said = process.communicate()[0].decode().strip()
            time.sleep(0.3)  # the server may still be writing to who has gone
            counts = {key: right for key, (_, right) in _stats(url)["prompts"].items()}
            paid_again += sum(counts[prompt] > before for prompt, before in stored.items())
            stored = {keys[key]: counts[keys[key]] for key in _stored(cache) if key in keys}
            stored_at_kills.append(len(stored))
            if ended:
                break
    lines = [json.loads(line) for line in out.read_bytes().splitlines()]
    with sqlite3.connect(cache) as database:
        integrity = database.execute("PRAGMA integrity_check").fetchone()[0]
    return {
        "groups": len(groups),
        "kills": kills,
        "stored_answers_after_each_run": stored_at_kills,
        "answers_paid_in_all": sum(counts.values()),
        "stored_answers_paid_again": paid_again,
        "lines_in_the_file": len(lines),
        "groups_scored_or_tied": len({line["group_id"] for line in lines if line["status"] != "failed"}),
        "cache_integrity": integrity,
        "last_run": said.splitlines()[-1],
    }


def _prompt_keys(spec: str, groups: Sequence[Group]) -> dict[str, str]:
    """Cache key -> the server's key, of every question."""
    loaded = load_judges(Settings(judge=(spec,)), ask=False)
    ruler = Ruler(loaded.judges)
    info: JudgeInfo = loaded.judges[0].info  # type: ignore[attr-defined]
    schema = reply_schema(notes=True)
    keys = {}
    for group in groups:
        (prompt,) = ruler.pack(group)
        request = JudgeRequest(messages=prompt.messages, schema=schema, ids=prompt.labels)
        keys[cache_key(info, request)] = prompt_key(prompt.messages)
    return keys


def _stored(path: Path) -> list[str]:
    async def keys() -> list[str]:
        store = SqliteStore(path)
        try:
            return [key async for key, _ in store.entries()]
        finally:
            await store.close()

    return asyncio.run(keys())


def measure_hits(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Cache hits among 100,000 entries, beside diskcache holding the same texts."""
    import diskcache

    info = JudgeInfo(backend="bench", model="m")
    prompt = Ruler("simulated").pack(_groups(arguments)[0])[0]
    ids = prompt.labels
    text = scores_reply(dict.fromkeys(ids, 50), dict.fromkeys(ids, "a note of the usual length, some eighty letters"))
    entry = Entry("m", time.time(), JudgeReply(text, model="m", usage=Usage(1, 900, 0, 90, 0.001))).to_json()
    check = partial(read_reply, ids=ids)

    def question(number: int) -> JudgeRequest:
        system, user = prompt.messages
        asked = {**user, "content": f"{number}\n{user['content']}"}
        return JudgeRequest((system, asked), reply_schema(notes=True), ids, check=check)

    store = SqliteStore(folder / "cache.sqlite3")
    other = diskcache.Cache(str(folder / "diskcache"), eviction_policy="none")
    judge = CachedJudge(ScriptedJudge([], info=info), store)

    async def fill() -> None:
        for first in range(0, _ENTRIES, 500):
            keys = [cache_key(info, question(number)) for number in range(first, first + 500)]
            await asyncio.gather(*(store.put(key, entry, created_at=0.0) for key in keys))
            with other.transact():
                for key in keys:
                    other.set(key, entry)

    async def ours(number: int) -> None:
        assert (await judge(question(number))).from_cache

    async def theirs(number: int) -> None:
        found = Entry.from_json(other.get(cache_key(info, question(number))))
        check(found.reply.text)

    async def run() -> dict[str, Any]:
        await fill()
        rng = random.Random(arguments.seed)
        seconds: dict[str, list[float]] = {"ours": [], "diskcache": []}
        for _ in range(_HITS):
            number = rng.randrange(_ENTRIES)
            for name, hit in (("ours", ours), ("diskcache", theirs)):
                seconds[name].append(await _timed(partial(hit, number)))
        began = time.perf_counter()
        await asyncio.gather(*(ours(rng.randrange(_ENTRIES)) for _ in range(_HITS)))
        together = _HITS / (time.perf_counter() - began)
        size = await store.size_bytes()
        await store.close()
        other.close()
        return {
            "entries": _ENTRIES,
            "prompt_chars": sum(len(str(message["content"])) for message in prompt.messages),
            **{
                f"{name}_{part}_ms": 1_000 * value
                for name, times in seconds.items()
                for part, value in (("p50", _quantile(times, 0.5)), ("p99", _quantile(times, 0.99)))
            },
            "ours_to_diskcache_p50": _quantile(seconds["ours"], 0.5) / _quantile(seconds["diskcache"], 0.5),
            "hits_per_second": together,
            "megabytes": size / 1e6,
        }

    return asyncio.run(run())


def measure_concurrency(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """256 groups, a judge in this process that takes a second, 64 at once: the ideal is four seconds."""

    async def slow(request: JudgeRequest) -> JudgeReply:
        await asyncio.sleep(1.0)
        return JudgeReply(scores_reply(dict.fromkeys(request.ids, 50)), model="slow", finish_reason="stop")

    slow.info = JudgeInfo(backend="bench", model="slow")  # type: ignore[attr-defined]
    judge = wrap_judge(slow, "concurrency=64", settings=Settings(cache=str(folder / "cache.sqlite3")))
    groups = [group for group in _groups(arguments) if len(group.rollouts) > 1][:256]

    began = time.perf_counter()
    results = asyncio.run(Ruler(judge, concurrency=64).score_many(groups))
    seconds = time.perf_counter() - began
    ideal = -(-sum(result.status == "scored" for result in results) // 64)
    return {"groups": len(results), "seconds": seconds, "ideal_seconds": ideal, "to_ideal": seconds / ideal}


def measure_overhead(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Milliseconds a call at concurrency 1 against an instant server: bare, in the stack, in the stack with misses."""
    prompt = Ruler("simulated").pack(_groups(arguments)[0])[0]
    fresh = itertools.count()

    def question(info: JudgeInfo) -> JudgeRequest:
        system, user = prompt.messages
        asked = {**user, "content": f"{next(fresh)}\n{user['content']}"}
        check = partial(read_reply, ids=prompt.labels)
        return JudgeRequest((system, asked), reply_schema(notes=True), prompt.labels, info.sampling, check=check)

    with _server() as url:
        bare = LiteLLMJudge(model="m", base_url=url)
        off = load_judges(Settings(judge=(f"{url}#m",), cache="off"))
        on = load_judges(Settings(judge=(f"{url}#m",), cache=str(folder / "cache.sqlite3")))
        judges: dict[str, Judge] = {"bare": bare, "cache_off": off.judges[0], "cache_on": on.judges[0]}

        async def run() -> dict[str, list[float]]:
            seconds: dict[str, list[float]] = {name: [] for name in judges}
            for name in judges:
                for _ in range(_CALLS):
                    await judges[name](question(bare.info))
            for _ in range(_ROUNDS * _CALLS):
                for name, judge in judges.items():
                    seconds[name].append(await _timed(partial(judge, question(bare.info))))
            await on.close()
            return seconds

        seconds = asyncio.run(run())
    middle = {name: 1_000 * statistics.median(times) for name, times in seconds.items()}
    return {
        "calls_each": _ROUNDS * _CALLS,
        **{f"{name}_p50_ms": value for name, value in middle.items()},
        "added_with_cache_off_ms": middle["cache_off"] - middle["bare"],
        "added_with_cache_on_ms": middle["cache_on"] - middle["bare"],
    }


MEASURES: dict[str, Callable[[argparse.Namespace, Path], dict[str, Any]]] = {
    "faults": measure_faults,
    "kills": measure_kills,
    "hits": measure_hits,
    "concurrency": measure_concurrency,
    "overhead": measure_overhead,
}


async def _timed(work: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await work()
    return time.perf_counter() - began


def _quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def _lines(arguments: argparse.Namespace) -> Iterator[str]:
    for path in sorted(arguments.data.glob("*.jsonl*")):
        with open_read(str(path)) as file:
            for line in file:
                yield line.decode("utf-8")


def _groups(arguments: argparse.Namespace) -> list[Group]:
    paths = data_paths(arguments.data)
    found = (group for path in paths for group in read_groups(str(path)) if not isinstance(group, BadLine))
    return list(itertools.islice(found, arguments.groups))


@contextmanager
def _server(*options: str) -> Iterator[str]:
    """A fault server in a process of its own; without options it answers at once."""
    options = options if "--faults" in options else (*options, "--faults", "none")
    command = [sys.executable, "-m", "benchmarks.fault_server", "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.communicate()


def _stats(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url.removesuffix("/v1") + "/stats") as response:
        found: dict[str, Any] = json.load(response)
    return found


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.3f}" if value < 100 else f"{value:,.0f}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {count}" for key, count in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    main()
