"""How good the embedded judge is, and how fast: held-out sums, its weights stored more coarsely, real policies.

    python -m benchmarks.embedded_judge                               # the one that ships
    python -m benchmarks.embedded_judge SEED0 SEED1 SEED2             # folders of `python -m trainer.distill`, compared
    python -m benchmarks.embedded_judge --policy runs/first/policy    # on what this policy writes, too (needs torch)

A folder takes about two minutes. Everything is written to OUT/results.json, with counts and intervals.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.embedded_judge_speed import IN_FLIGHT, Times, measure_times
from benchmarks.embedded_judge_weights import StoredAs, measure_weights
from judges.embedded import SHIPPED, EmbeddedJudge
from ruler.cli.command import run_command
from ruler.errors import ConfigError
from trainer.distill.sums.graded_sets import SIZE, SetFigures, draw_set, set_figures
from trainer.distill.sums.groups import GradedGroup
from trainer.distill.sums.measures import Figures, measure

SEED = 0
"""Of all that is drawn; no training draws from it, as its operands are others."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One folder."""

    folder: str
    folder_bytes: int
    figures: Figures
    policies: tuple[SetFigures, ...]
    """On rollouts of each policy, under the name of its folder."""
    weights: tuple[StoredAs, ...]
    times: Times


def main() -> int:
    """Measures every folder and prints the tables; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="default: the judge that ships")
    parser.add_argument("--groups", type=int, default=1000, help="groups of each set")
    parser.add_argument("--policy", nargs="+", type=Path, default=[], metavar="DIR", help="policies for arithmetic")
    parser.add_argument("--out", type=Path, default=Path("runs/embedded_judge"), metavar="DIR")
    options = parser.parse_args()
    return run_command(lambda: _run(options.folders or [SHIPPED], options.policy, options.groups, options.out))


def _run(folders: Sequence[Path], policies: Sequence[Path], num_groups: int, out: Path) -> int:
    for folder in folders:
        EmbeddedJudge(folder).close()  # a name mistyped shall not be found after minutes
    out.mkdir(parents=True, exist_ok=True)
    console = Console(width=140)
    sampled = _sampled(policies, num_groups)
    found = []
    for folder in folders:
        found.append(measure_folder(folder, sampled, num_groups))
        for table in tables(found[-1]):
            console.print(table)
    if len(found) > 1:
        console.print(spread_table([headline(one) for one in found]))
    results = {"groups": num_groups, "seed": SEED, "judges": [asdict(one) for one in found]}
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    console.print(f"all figures: {out / 'results.json'}")
    return 0


def _sampled(policies: Sequence[Path], num_groups: int) -> dict[str, list[GradedGroup]]:
    if not policies:
        return {}
    from benchmarks.embedded_judge_policies import sample_groups  # torch

    if len(set(policies)) < len(policies):
        raise ConfigError(f"policy: expected different folders, got {', '.join(map(str, policies))}")
    return {str(policy): sample_groups(policy, num_groups, seed=SEED) for policy in policies}


def measure_folder(folder: Path, sampled: Mapping[str, Sequence[GradedGroup]], num_groups: int) -> Measured:
    """All that is measured of one judge.

    Args:
        folder: its.
        sampled: name of a policy -> groups that it wrote.
        num_groups: as of `trainer.distill.sums.measures.measure`.
    """

    async def ask() -> tuple[Figures, list[SetFigures]]:
        judge = EmbeddedJudge(folder)
        try:
            figures = await measure(judge, num_groups=num_groups, seed=SEED)
            return figures, [await set_figures(name, judge, groups) for name, groups in sampled.items()]
        finally:
            await asyncio.to_thread(judge.close)

    figures, policies = asyncio.run(ask())
    plain = draw_set("plain", SIZE, "held_out", num_groups, seed=SEED)
    return Measured(
        folder=str(folder),
        folder_bytes=sum(file.stat().st_size for file in folder.iterdir() if file.is_file()),
        figures=figures,
        policies=tuple(policies),
        weights=tuple(asyncio.run(measure_weights(folder, plain))),
        times=measure_times(folder),
    )


def headline(measured: Measured) -> dict[str, float | None]:
    """The figures that judges are compared by, by name."""
    figures = measured.figures
    found: dict[str, float | None] = {}
    for one in (*figures.sets, *measured.policies):
        found[f"{one.name}: pairs"] = one.agreement.accuracy
        found[f"{one.name}: right against wrong"] = one.right_vs_wrong.accuracy
    plain = figures.sets[0]
    return found | {
        f"{plain.name}: tau-b": plain.agreement.tau_b,
        f"{plain.name}: top-1": plain.agreement.top_1,
        f"{plain.name}: distance from truth": plain.error.value,
        "leniency": figures.orders.leniency.value,
        "largest effect of a slot": figures.orders.largest.value,
        "correlation of two orders": figures.orders.rho,
        "change of a score in another order": figures.orders.change.moved.value,
        "pleas that raise a score": figures.pleas.raised,
        "change of a score by a plea": figures.pleas.change.value,
        "equivalent noise": figures.equivalent.noise if figures.equivalent else None,
    }


def spread_table(headlines: Sequence[Mapping[str, float | None]]) -> Table:
    """Mean, least and most over judges; a figure that one of them lacks has none of these."""
    table = _table(f"{len(headlines)} judges", "figure", "mean", "least", "most")
    for name in headlines[0]:
        values = [one[name] for one in headlines]
        known = [value for value in values if value is not None]
        whole = len(known) == len(values)
        cells = (statistics.fmean(known), min(known), max(known)) if whole else (None, None, None)
        table.add_row(name, *map(_number, cells))
    return table


def tables(measured: Measured) -> list[Table]:
    """What is printed of one judge."""
    figures = measured.figures
    sets = _table(
        measured.folder, "groups", "number", "pairs", "right against wrong", "tau-b", "top-1", "distance", "failed"
    )
    equivalent = [figures.equivalent.figures] if figures.equivalent else []
    for one in (*figures.sets, *measured.policies, *figures.baselines, *equivalent):
        agreement, right = one.agreement, one.right_vs_wrong
        sets.add_row(
            one.name,
            f"{agreement.groups:,}",
            _number(agreement.accuracy, agreement.accuracy_interval),
            _number(right.accuracy, right.accuracy_interval),
            _number(agreement.tau_b),
            _number(agreement.top_1),
            _number(one.error.value),
            f"{agreement.failed:,}",
        )
    other = _table("order, pleas, noise", "figure", "value")
    orders, pleas = figures.orders, figures.pleas
    for name, value, interval in (
        ("leniency: score less truth", orders.leniency.value, orders.leniency.interval),
        *((f"slot {number} adds", slot.value, slot.interval) for number, slot in enumerate(orders.slots, 1)),
        ("largest of these", orders.largest.value, orders.largest.interval),
        ("correlation of two orders", orders.rho, None),
        ("change of a score in another order", orders.change.moved.value, orders.change.moved.interval),
        ("pleas that raise a score", pleas.raised, pleas.raised_interval),
        ("change of a score by a plea", pleas.change.value, pleas.change.interval),
        ("change of truth by a plea", pleas.truth_change.value, pleas.truth_change.interval),
        ("equivalent noise", figures.equivalent.noise if figures.equivalent else None, None),
    ):
        other.add_row(name, _number(value, interval))
    weights = _table("weights", "stored as", "bytes", "pairs", "right against wrong", "largest change of a score")
    for row in measured.weights:
        accuracies = row.figures.agreement.accuracy, row.figures.right_vs_wrong.accuracy
        weights.add_row(row.name, f"{row.weight_bytes:,}", *map(_number, accuracies), f"{row.largest_change:.5f}")
    times = _table(f"one core; folder of {measured.folder_bytes:,} bytes", "what", "embedded", "simulated")
    took = measured.times
    times.add_row("ms a group of 8, alone", f"{took.alone_ms:.1f}", f"{took.simulated_alone_ms:.1f}")
    batched = f"ms a group of 8, {IN_FLIGHT} in flight"
    times.add_row(batched, f"{took.batched_ms:.1f}", f"{took.simulated_batched_ms:.1f}")
    times.add_row("seconds to import", f"{took.import_seconds:.2f}", "")
    times.add_row("seconds from there to a first score", f"{took.load_seconds:.2f}", "")
    return [sets, other, weights, times]


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title)
    table.add_column(first, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _number(value: float | None, interval: tuple[float, float] | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]".replace("[", "\\[") if interval else "")


if __name__ == "__main__":
    sys.exit(main())
