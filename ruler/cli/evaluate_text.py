"""What `ruler evaluate` says: agreement with truth as tables, and what it means as sentences."""

from __future__ import annotations

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ruler.agreement import Agreement
from ruler.cli.tables import number_text, visible
from ruler.comparison import Difference, PairNoise
from ruler.intervals import Estimate, Interval


def agreement_table(judge: Agreement, shorter: Agreement, first: Agreement) -> RenderableType:
    """Judge against truth, a row a source, beside the two trivial rules."""
    # Narrow, for a terminal of 80 columns: without its source a row says nothing.
    table = _table("mixed", "pairs", "accuracy", "95 %", "tau-b", "ties")
    table.add_column("shorter", justify="right", style="dim", no_wrap=True)
    table.add_column("first", justify="right", style="dim", no_wrap=True)
    rows = zip(
        (*judge.sources, judge.overall),
        (*shorter.sources, shorter.overall),
        (*first.sources, first.overall),
        strict=True,
    )
    for row, short, one in rows:
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
            number_text(short.accuracy),
            number_text(one.accuracy),
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
            _interval(row.r_interval),
            f"{row.failed}/{row.groups + row.failed}",
        )
    return table


def difference_text(one: str, other: str, found: Difference) -> str:
    """How much better one row is than another, in all sources, and whether that is shown."""
    names = f"{_name(one)} against {_name(other)}"
    if found.same:
        return f"{names}: the same accuracy on every group"
    if found.overall.value is None:
        return f"{names}: no group to compare"
    return f"{names}: {_signed(found.overall)}: {found.verdict}"


def noise_text(noise: PairNoise) -> str | None:
    """What the accuracy is worth in wrong labels; None with fewer than two tasks with a mixed group of 0 and 1."""
    level = noise.noise.overall
    if level.interval is None:
        return None
    text = (
        f"on pairs equal to truth with {_percent(level)} noise, 0 and 1 exchanged in so many rollouts ({level.groups} "
        "groups); equal accuracy is not equal training: a judge's errors are not random"
    )
    false = noise.false_signal.overall
    if false.value is not None:
        text += f"\nof {false.groups} groups with nothing to tell apart {_percent(false)} got different scores"
    return text


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


def _interval(interval: Interval | None) -> str:
    return "-" if interval is None else "{:.3f}–{:.3f}".format(*interval)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), collapse_padding=True, header_style="underline")
    table.add_column("source", overflow="fold", min_width=12)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table
