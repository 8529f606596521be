"""A live progress bar: done, failed, tokens, cost. The only part of the library that loads rich."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ruler.types import FailedGroup, ScoredGroup, Usage


class ScoringProgress:
    """Shown on standard error, and only on a terminal; standard output stays free for results."""

    def __init__(self, total: int | None = None, *, console: Console | None = None) -> None:
        """A bar for `total` groups; None when that is not known."""
        self._progress = Progress(
            TextColumn("scoring"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[failed]} failed  {task.fields[tokens]:,} tokens  {task.fields[cost]}"),
            TimeElapsedColumn(),
            console=console or Console(stderr=True),
            transient=True,
        )
        self._done = 0
        self._failed = 0
        self._usage = Usage()
        self._task = self._progress.add_task("scoring", total=total, failed=0, tokens=0, cost="")

    @property
    def is_visible(self) -> bool:
        """Whether there is a terminal to show it on."""
        return self._progress.console.is_terminal

    def expect(self, total: int | None) -> None:
        """Sets how many groups there will be."""
        self._progress.update(self._task, total=total)

    def __enter__(self) -> ScoringProgress:
        if self.is_visible:
            self._progress.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self.is_visible:
            self._progress.stop()

    def add(self, result: ScoredGroup | FailedGroup, *, skipped: int = 0) -> None:
        """Counts one finished group; `skipped` are those of the total that needed no scoring so far."""
        self._done += 1
        self._failed += isinstance(result, FailedGroup)
        self._usage += result.usage
        self._progress.update(
            self._task,
            completed=self._done + skipped,
            failed=self._failed,
            tokens=self._usage.input_tokens + self._usage.output_tokens,
            cost=cost_text(self._usage),
        )


def cost_text(usage: Usage) -> str:
    """`$0.0123`, or that the price is unknown: never 0 for what was not priced."""
    return "cost unknown" if usage.cost_usd is None else f"${usage.cost_usd:.4f}"
