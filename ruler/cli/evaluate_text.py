"""What `ruler evaluate` says: agreement with truth as tables, and what it means as sentences."""

from __future__ import annotations

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ruler.agreement import Agreement, SourceAgreement
from ruler.cli.tables import number_text, visible
from ruler.comparison import Difference, PairNoise, groups_to_show
from ruler.intervals import Estimate, Interval

_MANY = 100_000
"""More labelled groups than anybody has."""


def agreement_table(judge: Agreement, shorter: Agreement, first: Agreement) -> RenderableType:
    """Judge against truth, a row a source, beside the two trivial rules."""
    # Narrow, for a terminal of 80 columns: without its source a row says nothing.
    table = _table("mixed", "pairs", "accuracy", "95 %", "tau-b", "ties")
    table.add_column("shorter", justify="right", style="dim", no_wrap=True)
    table.add_column("first", justify="right", style="dim", no_wrap=True)
    # A source on which the judge failed throughout has no pairs, and no row among the rules.
    by_source = [{row.source: row.accuracy for row in rule.sources} for rule in (shorter, first)]
    rules = [[accuracies.get(row.source) for accuracies in by_source] for row in judge.sources]
    rules.append([shorter.overall.accuracy, first.overall.accuracy])
    for row, accuracies in zip((*judge.sources, judge.overall), rules, strict=True):
        if row is judge.overall:
            table.add_section()
        table.add_row(
            Text(visible(row.source) + " (apart)" * row.apart),
            f"{row.mixed_groups}/{row.groups}",
            str(row.pairs),
            number_text(row.accuracy),
            _interval(row.accuracy_interval),
            number_text(row.tau_b),
            number_text(row.tie_rate),
            *map(number_text, accuracies),
        )
    return table


def further_table(judge: Agreement) -> RenderableType:
    """The other figures of each source: the best rollout found, correlation, failures."""
    table = _table("top-1", "95 %", "r", "95 %", "failed")
    for row in (*judge.sources, judge.overall):
        if row is judge.overall:
            table.add_section()
        table.add_row(
            Text(visible(row.source) + " (apart)" * row.apart),
            number_text(row.top_1),
            _interval(row.top_1_interval),
            number_text(row.r),
            _interval(row.r_interval, " to "),
            f"{row.failed}/{row.groups + row.failed}",
        )
    return table


def difference_text(one: str, other: str, found: Difference) -> str:
    """How much better one row is than another, in all sources, and whether that is shown."""
    names = f"{_name(one)} against {_name(other)}"
    if found.same:
        return f"{names}: the same accuracy on every group"
    if found.overall.value is None:
        return f"{names}: {found.verdict}"
    return f"{names}: {_signed(found.overall)}: {found.verdict}{_needed(found.groups_needed)}"


def chance_text(name: str, row: SourceAgreement) -> str:
    """Whether the accuracy is more than that of a coin."""
    if row.accuracy is None:
        return f"{_name(name)} against chance: no group to compare"
    estimate = Estimate(row.accuracy, row.accuracy_interval, row.mixed_groups, row.clusters)
    low, high = row.accuracy_interval or (0.5, 0.5)
    shown = "better" if low > 0.5 else "worse" if high < 0.5 else "no difference shown"
    needed = groups_to_show(estimate, 0.5) if shown == "no difference shown" else None
    above = Estimate(row.accuracy - 0.5, (low - 0.5, high - 0.5) if row.accuracy_interval else None, 0, 0)
    return f"{_name(name)} against chance: {_signed(above)}: {shown}{_needed(needed)}"


def noise_text(noise: PairNoise) -> str | None:
    """What the accuracy is worth in wrong labels; None with fewer than two tasks with a mixed group of 0 and 1."""
    level = noise.noise.overall
    if level.interval is None or level.value is None:
        return None
    if level.value >= 0.5:
        return f"pair-equivalent noise {_percent(level)}: labels of a coin would do as well ({level.groups} groups)"
    text = (
        f"pair-equivalent noise {_percent(level)}: on pairs as good as truth with so many of its 0s and 1s exchanged "
        f"({level.groups} groups)"
    )
    false = noise.false_signal.overall
    if false.value is not None:
        text += f"\nof {false.groups} groups with nothing to tell apart {_percent(false)} got different scores"
        if noise.false_spread is not None:
            text += f", spread {100 * noise.false_spread:.0f} % as wide as in the others"
    return text


def _needed(groups: int | None) -> str:
    if groups is None:
        return ""
    return f"; about {groups:,} groups would show one of this size" if groups < _MANY else "; if any, it is tiny"


def _name(row: str) -> str:
    return {"shorter_wins": "shorter wins", "first_wins": "first wins"}.get(row, row)


def _signed(estimate: Estimate) -> str:
    interval = "" if estimate.interval is None else " ({:+.3f} to {:+.3f})".format(*estimate.interval)
    return f"{estimate.value:+.3f}{interval}"


def _percent(estimate: Estimate) -> str:
    interval = (
        "" if estimate.interval is None else " ({:.0f} to {:.0f} %)".format(*(100 * x for x in estimate.interval))
    )
    return f"{100 * (estimate.value or 0.0):.0f} %{interval}"


def _interval(interval: Interval | None, between: str = "–") -> str:
    return "-" if interval is None else between.join(f"{end:.3f}" for end in interval)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), collapse_padding=True, header_style="underline")
    table.add_column("source", overflow="fold", min_width=12)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table
