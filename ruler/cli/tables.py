"""What people see: results as tables and lines. Text from rollouts and judges is never read as markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ruler.packing import PackedPrompt
from ruler.packing.neutralise import neutralise
from ruler.progress import cost_text
from ruler.types import FailedGroup, ScoredGroup, Usage

_BAR_WIDTH = 20


def show(renderable: RenderableType) -> None:
    """Prints to standard output; a pipe gets 140 columns."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    console.print(renderable)


def say(line: str, *, err: bool = False) -> None:
    """Prints one line that holds text of others: what could forge a second line, or steer a terminal, is shown."""
    typer.echo(visible(line), err=err)


def visible(text: str) -> str:
    """The text on one line: what could forge a second one, or steer a terminal, is shown."""
    return " ".join(neutralise(text)[0].split("\n"))


def usage_text(usage: Usage) -> str:
    """What was asked and what it took, as one phrase; what did not happen is left out."""
    parts = [f"{usage.calls} calls"]
    if usage.cache_hits:
        parts.append(f"{usage.cache_hits} from the cache")
    if usage.retries:
        parts.append(f"{usage.retries} retries")
    if usage.wait_seconds >= 0.05:
        parts.append(f"{usage.wait_seconds:,.1f} s waited")
    cached = f" ({usage.cached_input_tokens:,} cached by the provider)" if usage.cached_input_tokens else ""
    parts.append(f"{usage.input_tokens:,} input{cached} and {usage.output_tokens:,} output tokens")
    return ", ".join([*parts, cost_text(usage)])


def reliability_text(value: float, num_groups: int) -> str:
    """How far a judge agrees with itself, and what that is not."""
    return (
        f"reliability {value:.2f} ({num_groups} groups): agreement of the judge with itself over orders, not accuracy"
    )


def group_table(result: ScoredGroup | FailedGroup) -> RenderableType:
    """One group: its rollouts with scores and notes, or why there are none."""
    head = Text(f"{visible(result.group_id)}  ", style="bold")
    head.append(result.status, style={"scored": "green", "tied": "yellow"}.get(result.status, "red"))
    head.append(f"  judge {result.judge}", style="dim")
    if isinstance(result, FailedGroup):
        return Group(head, Text(f"  {result.reason}: {visible(result.message)}\n"))
    if result.status == "tied":
        return Group(head, Text("  all rollouts read the same: nothing was asked, there is no score\n"))
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("rollout", "score", "", "note"):
        table.add_column(name, justify="right" if name == "score" else "left")
    for rollout in result.rollouts:
        note = Text(f"reads like {visible(rollout.same_as)}" if rollout.same_as else visible(rollout.note or ""))
        if rollout.flags:
            note.append(f" [{', '.join(rollout.flags)}]", style="yellow")
        bar = Text("█" * round((rollout.score or 0) * _BAR_WIDTH), style="cyan")
        error = "" if rollout.stderr is None else f" ± {rollout.stderr:.2f}"
        table.add_row(Text(visible(rollout.id)), number_text(rollout.score, digits=2) + error, bar, note)
    usage = result.usage
    tokens = f"{usage.input_tokens:,} input, {usage.output_tokens:,} output tokens\n"
    return Group(head, table, Text(f"{_orders_text(result)}{tokens}", style="dim"))


def _orders_text(result: ScoredGroup) -> str:
    num_blocks = 1 + max((judged.block for judged in result.judged), default=0)
    blocks = f" of up to {num_blocks} blocks" if num_blocks > 1 else ""
    failed = f" ({len(result.failed_orders)} failed)" if result.failed_orders else ""
    return f"{result.orders_used} orders{blocks}{failed}, " if result.orders_used > 1 or failed else ""


def cache_table(judges: Mapping[str, tuple[int, Usage]]) -> RenderableType:
    """By judge: how many replies are kept, and what they took when they were asked."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("judge", overflow="fold")
    for name in ("replies", "calls", "input", "output", "cost"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, (entries, usage) in judges.items():
        counts = (entries, usage.calls, usage.input_tokens, usage.output_tokens)
        cost = "unknown" if usage.cost_usd is None else f"${usage.cost_usd:,.4f}"
        table.add_row(Text(visible(name)), *(f"{count:,}" for count in counts), cost)
    return table


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


def prompt_table(prompts: Sequence[PackedPrompt], totals: Sequence[int]) -> RenderableType:
    """Every prompt of a group: which rollouts it shows in which order, what was cut of them, and its tokens."""
    table = Table(title="prompts", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("order", "block", "tokens"):
        table.add_column(name, justify="right")
    table.add_column("rollouts in the order shown (characters cut)", overflow="fold")
    for prompt, total in zip(prompts, totals, strict=True):
        shown = [
            f"{'='.join(prompt.rollouts[label])}{f' (-{cut:,})' if (cut := prompt.cut_chars[label]) else ''}"
            for label in prompt.labels
        ]
        table.add_row(str(prompt.order), str(prompt.block), f"{total:,}", Text(visible(", ".join(shown))))
    return table


def number_text(value: float | None, *, digits: int = 3) -> str:
    """With so many decimals; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"
