"""What orders and blocks buy: a simulated judge of known noise and slot bias, through the whole pipeline.

    python -m benchmarks.orders                   # 5,000 groups, about three minutes
    python -m benchmarks.orders --groups 500

Truth stands in each rollout's text, has a spread of 1 within groups and is worth 15 points of 100 per unit. The
slot adds 0.6 (standard deviation over slots), linear or the same at both ends; noise is 0.6 for each score.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console
from rich.table import Table

from judges.simulated import Behaviour, SimulatedJudge, SlotShape
from ruler import DEFAULT_RUBRIC, FailedGroup, Group, JudgeRequest, Ruler, ScoredGroup
from ruler.aggregate import reliability
from ruler.agreement import agree
from ruler.orders import Orders, plan_orders
from ruler.packing import pack
from ruler.reply import read_reply, reply_schema

SIZE = 8
POINTS = 15.0
BEHAVIOUR = Behaviour(noise=0.6, slot_bias=0.6, scale=POINTS, offset=50.0)
SHAPES: tuple[SlotShape, ...] = ("linear", "u")
LONG_LISTS = (0.0, 0.12, 0.5)
"""None; what takes JointRank's 70.9 nDCG@10 for blocks to its 57.7 for one list of 100; and a bad lister."""


@dataclass(frozen=True, slots=True)
class Truth:
    """Groups and what their rollouts are worth."""

    groups: tuple[Group, ...]
    values: Mapping[str, tuple[float, ...]]
    """Group id -> truth in the order of its rollouts, as the text states it."""


def main() -> None:
    """Runs every part and prints its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=5000, help="groups of 8 for each figure")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    if arguments.groups < 50:
        parser.error("--groups: expected at least 50")
    start = time.perf_counter()
    console = Console(width=130)
    figures = {
        "orders": measure_orders(arguments.groups),
        "adaptive": measure_adaptive(arguments.groups),
        "blocks": measure_blocks(max(10, arguments.groups // 50)),
    }
    for name, rows in figures.items():
        console.print(_table(name, rows))
    console.print(f"{time.perf_counter() - start:.0f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def measure_orders(num_groups: int) -> list[dict[str, Any]]:
    """Agreement with truth, true and stated errors, by number of orders and shape of the slot bias."""
    truth = make_groups(num_groups, SIZE)
    rows = []
    for shape in SHAPES:
        judge = make_judge(shape=shape)
        plans: tuple[Orders, ...] = (1, 2, 4, "full")
        for orders in plans:
            rows.append({"bias": shape, "orders": str(orders), **compare(score(judge, truth, orders=orders), truth)})
        reverse = forward_and_reverse(judge, truth)
        rho = statistics.mean(spearman(reverse[group.id], truth.values[group.id]) for group in truth.groups)
        rows.append({"bias": shape, "orders": "forward + reverse", "spearman": rho, "calls": 2.0})
    return rows


def measure_adaptive(num_groups: int) -> list[dict[str, Any]]:
    """Two orders, four, and four only where two disagree; every other group has a quarter of the spread."""
    truth = make_groups(num_groups, SIZE, spreads=(1.0, 0.25))
    rows: list[dict[str, Any]] = []
    for shape in SHAPES:
        judge = make_judge(shape=shape)
        for orders, adaptive in ((2, False), (4, True), (4, False)):
            results = score(judge, truth, orders=orders, adaptive=adaptive)
            found = compare(results, truth)
            narrow = [result.usage.calls for result in results[1::2]]
            rows.append(
                {
                    "bias": shape,
                    "orders": "2, then 4" if adaptive else str(orders),
                    "spearman": found["spearman"],
                    "calls": found["calls"],
                    "calls_if_narrow": statistics.mean(narrow),
                }
            )
        two, adapted, four = rows[-3:]
        for row in (adapted, four):
            row["spearman_per_further_call"] = (row["spearman"] - two["spearman"]) / (row["calls"] - two["calls"])
    return rows


def measure_blocks(num_groups: int) -> list[dict[str, Any]]:
    """Blocks of eight beside one long prompt."""
    rows = []
    for size in (32, 64):
        truth = make_groups(max(10, num_groups * 32 // size), size)
        for long_list in LONG_LISTS:
            judge = make_judge(shape="linear", long_list=long_list)
            for orders in (2, 4):
                for max_block in (8, size):
                    if max_block == 8 and long_list:
                        continue  # no list is long
                    found = compare(score(judge, truth, orders=orders, max_block=max_block), truth)
                    what = "blocks of 8" if max_block == 8 else f"one prompt, decay {long_list}"
                    rows.append({"size": size, "shown": what, "orders": str(orders), **found})
    return rows


def make_groups(num_groups: int, size: int, *, spreads: Sequence[float] = (1.0,)) -> Truth:
    """Groups whose truth is Gaussian; the spreads take turns."""
    groups, values = [], {}
    for number in range(num_groups):
        rng = Random(f"{size}|{number}")
        spread = spreads[number % len(spreads)]
        texts = [f"quality {rng.gauss(0, spread):.6f}" for _ in range(size)]
        group = Group.of(texts, task=f"task {number}", id=f"g{number}")
        groups.append(group)
        values[group.id] = tuple(stated_quality("", text) for text in texts)
    return Truth(tuple(groups), values)


def stated_quality(task: str, rollout: str) -> float:
    """The quality that the text states."""
    return float(rollout.split("quality ", 1)[1].split()[0])


def make_judge(*, shape: SlotShape, long_list: float = 0.0) -> SimulatedJudge:
    """The judge of all tables."""
    behaviour = replace(BEHAVIOUR, shape=shape, long_list=long_list)
    return SimulatedJudge(stated_quality, quality_name="stated", behaviour=behaviour)


def score(judge: SimulatedJudge, truth: Truth, **options: Any) -> list[ScoredGroup]:
    """Every group, in order, through `Ruler`."""
    results = asyncio.run(Ruler(judge, notes=False, **options).score_many(truth.groups))
    failed = [result for result in results if isinstance(result, FailedGroup)]
    if failed:
        raise RuntimeError(f"{len(failed)} groups failed, the first: {failed[0].message}")
    return [result for result in results if isinstance(result, ScoredGroup)]


def forward_and_reverse(judge: SimulatedJudge, truth: Truth) -> dict[str, tuple[float, ...]]:
    """Mean scores of an order and its reverse: a plan that only this comparison has."""
    return asyncio.run(_forward_and_reverse(judge, truth))


async def _forward_and_reverse(judge: SimulatedJudge, truth: Truth) -> dict[str, tuple[float, ...]]:
    means = {}
    for group in truth.groups:
        packed = pack(group, DEFAULT_RUBRIC)
        (order,) = plan_orders(len(packed.rollouts), 1, packed.seed)
        totals = dict.fromkeys((rollout.id for rollout in group.rollouts), 0.0)
        for shown in (order, order[::-1]):
            prompt = packed.prompt(shown)
            reply = await judge(JudgeRequest(prompt.messages, reply_schema(notes=False), prompt.labels))
            for label, value in read_reply(reply.text, prompt.labels).scores.items():
                for name in prompt.rollouts[label]:
                    totals[name] += value / 2
        means[group.id] = tuple(totals.values())
    return means


def compare(results: Sequence[ScoredGroup], truth: Truth) -> dict[str, float | None]:
    """Means over groups; errors in units of truth."""
    ranks, pairs, true_squares, said_squares = [], [], [], []
    covariance = score_squares = truth_squares = 0.0
    for result in results:
        scores = [value for value in result.scores if value is not None]
        x, y = _centred(scores), _centred(truth.values[result.group_id])
        ranks.append(spearman(x, y))
        agreed = agree(x, y)
        pairs.append(agreed.correct / agreed.pairs)
        covariance += _dot(x, y)
        score_squares += _dot(x, x)
        truth_squares += _dot(y, y)
        error = [100 / POINTS * a - b for a, b in zip(x, y, strict=True)]
        said = [100 / POINTS * value for value in result.stderr if value is not None]
        if said:
            true_squares.append(_dot(error, error) / len(error))
            said_squares.append(_dot(said, said) / len(said))
    calls = sum(result.usage.calls for result in results) / len(results)
    tokens = sum(result.usage.input_tokens + result.usage.output_tokens for result in results) / len(results)
    stated = bool(said_squares)
    return {
        "spearman": statistics.mean(ranks),
        "pairs": statistics.mean(pairs),
        "calls": calls,
        "tokens": tokens,
        "true_error": math.sqrt(statistics.mean(true_squares)) if stated else None,
        "stderr": math.sqrt(statistics.mean(said_squares)) if stated else None,
        "reliability": reliability(results),
        "true_r2": covariance**2 / (score_squares * truth_squares),
    }


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Rank correlation, mean ranks for ties; 0 where one side is all equal."""
    a, b = _centred(_ranks(x)), _centred(_ranks(y))
    width = math.sqrt(_dot(a, a) * _dot(b, b))
    return _dot(a, b) / width if width else 0.0


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    for first, last in _runs([values[place] for place in order]):
        for place in order[first:last]:
            ranks[place] = (first + last - 1) / 2
    return ranks


def _runs(ordered: Sequence[float]) -> Iterator[tuple[int, int]]:
    first = 0
    for last in range(1, len(ordered) + 1):
        if last == len(ordered) or ordered[last] != ordered[first]:
            yield first, last
            first = last


def _centred(values: Sequence[float]) -> list[float]:
    mean = statistics.fmean(values)
    return [value - mean for value in values]


def _dot(x: Sequence[float], y: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True))


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(title=title)
    for name in names:
        table.add_column(name.replace("_", " "), justify="left" if isinstance(rows[0].get(name), str) else "right")
    for row in rows:
        table.add_row(*(_cell(name, row.get(name)) for name in names))
    return table


def _cell(name: str, value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if name == "tokens" else f"{value:.2f}" if name == "calls" else f"{value:.3f}"
    return "" if value is None else str(value)


if __name__ == "__main__":
    main()
