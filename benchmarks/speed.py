"""How fast groups are packed and scored.

    python -m benchmarks.speed            # all groups in RULER_DATA, about a minute
    python -m benchmarks.speed --json out.json

Times are of this machine and this run; compare the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.real_groups import add_data_argument, data_paths
from ruler import DEFAULT_RUBRIC, Group, Rollout, Ruler
from ruler.messages import Message
from ruler.packing import pack
from ruler.records import BadLine, read_groups

_REPEATS = 5


def main() -> None:
    """Runs every measurement and prints Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_argument(parser)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    paths = data_paths(arguments.data)
    groups = {path: [g for g in read_groups(str(path)) if not isinstance(g, BadLine)] for path in paths}
    everything = [group for listed in groups.values() for group in listed]
    figures = {
        "scoring": measure_scoring(everything),
        "packing": {
            name: measure_packing(listed)
            for name in ("gsm8k", "tau2")
            for path, listed in groups.items()
            if path.name.startswith(name)
        },
        "growth": measure_growth(),
    }
    report(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def measure_scoring(groups: Sequence[Group]) -> dict[str, Any]:
    """Groups per second through the whole library with the simulated judge."""
    ruler = Ruler("simulated?quality=hash")
    start = time.perf_counter()
    results = asyncio.run(ruler.score_many(groups))
    seconds = time.perf_counter() - start
    return {
        "groups": len(results),
        "groups_per_second": len(results) / seconds,
        **{status: sum(r.status == status for r in results) for status in ("scored", "tied", "failed")},
    }


def measure_packing(groups: Sequence[Group]) -> dict[str, float]:
    """Milliseconds a group from canonical messages to a finished prompt."""
    seconds = [_best(lambda group=group: _prompt(group)) for group in groups]  # type: ignore[misc]
    return {
        "mean_ms": 1000 * statistics.mean(seconds),
        "median_ms": 1000 * statistics.median(seconds),
        "largest_ms": 1000 * max(seconds),
    }


def measure_growth() -> list[dict[str, float]]:
    """Time and peak memory when rollouts, or their length, double."""
    rows = []
    for num_rollouts, num_messages in ((16, 40), (32, 40), (64, 40), (128, 40), (16, 80), (16, 160), (16, 320)):
        group = _synthetic(num_rollouts, num_messages)
        tracemalloc.start()
        chars = _prompt(group)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        seconds = _best(lambda group=group: _prompt(group))  # type: ignore[misc]
        rows.append(
            {
                "num_rollouts": num_rollouts,
                "num_messages": num_messages,
                "prompt_chars": chars,
                "ms": 1000 * seconds,
                "peak_bytes_per_char": peak / chars,
            }
        )
    return rows


def report(figures: dict[str, Any]) -> None:
    """Prints the figures as Markdown."""
    scoring = figures["scoring"]
    print(f"## Scoring all groups, simulated judge\n\n{scoring['groups']} groups, ", end="")
    print(f"{scoring['groups_per_second']:.0f} groups/s: ", end="")
    print(f"{scoring['scored']} scored, {scoring['tied']} tied, {scoring['failed']} failed\n")
    print("## Packing, ms a group\n\n| data | mean | median | largest |\n|---|---|---|---|")
    for name, row in figures["packing"].items():
        print(f"| {name} | {row['mean_ms']:.2f} | {row['median_ms']:.2f} | {row['largest_ms']:.2f} |")
    print("\n## Growth (synthetic tool-using rollouts)\n")
    print("| rollouts | messages each | prompt chars | ms | time against half the size | peak bytes a char |")
    print("|---|---|---|---|---|---|")
    half: dict[tuple[float, float], float] = {}
    for row in figures["growth"]:
        size = (row["num_rollouts"], row["num_messages"])
        half[size] = row["ms"]
        before = half.get((size[0] / 2, size[1])) or half.get((size[0], size[1] / 2))
        ratio = f"{row['ms'] / before:.2f}×" if before else ""
        print(f"| {size[0]} | {size[1]} | {row['prompt_chars']:,} | {row['ms']:.1f} ", end="")
        print(f"| {ratio} | {row['peak_bytes_per_char']:.1f} |")


def _prompt(group: Group) -> int:
    packed = pack(group, DEFAULT_RUBRIC)
    return sum(len(text) for _, text in packed.prompt(range(len(packed.rollouts))).parts)


def _best(work: Callable[[], object]) -> float:
    """Seconds of the fastest of several runs: the others waited for the machine."""
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _synthetic(num_rollouts: int, num_messages: int) -> Group:
    def text(seed: int) -> str:
        return " ".join(f"parcel {seed} is on its way since day {n}" for n in range(10))

    return Group(
        tuple(
            Rollout(
                f"r{r}",
                tuple(Message("user" if m % 2 else "assistant", (text(r * 1000 + m),)) for m in range(num_messages)),
            )
            for r in range(num_rollouts)
        ),
        task=(Message("user", ("Help the customer.",)),),
    )


if __name__ == "__main__":
    main()
