"""Results as tables for people. Text from rollouts and judges is shown as it is, never read as markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ruler.agreement import Agreement, SourceAgreement
from ruler.types import FailedGroup, ScoredGroup

_BAR_WIDTH = 20


def show(renderable: RenderableType) -> None:
    """Prints to standard output; a pipe gets 140 columns."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    console.print(renderable)


def group_table(result: ScoredGroup | FailedGroup) -> RenderableType:
    """One group: its rollouts with scores and notes, or why there are none."""
    head = Text(f"{result.group_id}  ", style="bold")
    head.append(result.status, style={"scored": "green", "tied": "yellow"}.get(result.status, "red"))
    head.append(f"  judge {result.judge}", style="dim")
    if isinstance(result, FailedGroup):
        return Group(head, Text(f"  {result.reason}: {result.message}\n"))
    if result.status == "tied":
        return Group(head, Text("  all rollouts read the same: nothing was asked, there is no score\n"))
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("rollout", "score", "", "note"):
        table.add_column(name, justify="right" if name == "score" else "left")
    for rollout in result.rollouts:
        score = rollout.score or 0.0
        note = Text(rollout.note or "")
        if rollout.flags:
            note.append(f" [{', '.join(rollout.flags)}]", style="yellow")
        bar = Text("█" * round(score * _BAR_WIDTH), style="cyan")
        table.add_row(Text(rollout.id), f"{score:.2f}", bar, note)
    usage = result.usage
    tokens = Text(f"{usage.input_tokens:,} input, {usage.output_tokens:,} output tokens\n", style="dim")
    return Group(head, table, tokens)


def token_table(tokens: Mapping[str, int], rollouts: Mapping[str, Sequence[str]], tokenizer: str) -> RenderableType:
    """The token account of one prompt."""
    table = Table(title=f"tokens ({tokenizer})", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("part")
    table.add_column("tokens", justify="right")
    table.add_column("share", justify="right")
    total = tokens["total"]
    for part, count in tokens.items():
        ids = rollouts.get(part.removeprefix("rollout "), ())
        name = Text(f"{part} ({', '.join(ids)})" if ids else part, style="bold" if part == "total" else "")
        table.add_row(name, f"{count:,}", f"{count / total:.0%}" if total else "")
    return table


def agreement_table(judge: Agreement, shorter: Agreement, first: Agreement) -> RenderableType:
    """Judge against truth, a row a source, beside the two trivial rules."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("source", overflow="fold")
    for name in ("groups", "mixed", "pairs", "accuracy", "95 % interval", "tau-b", "ties", "failed"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("shorter wins", justify="right", style="dim")
    table.add_column("first wins", justify="right", style="dim")
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
            Text(row.source),
            str(row.groups),
            str(row.mixed_groups),
            str(row.pairs),
            _number(row.accuracy),
            _interval(row),
            _number(row.tau_b),
            _number(row.tie_rate),
            str(row.failed),
            _number(short.accuracy),
            _number(one.accuracy),
        )
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(row: SourceAgreement) -> str:
    return "-" if row.accuracy_interval is None else "{:.3f}–{:.3f}".format(*row.accuracy_interval)
