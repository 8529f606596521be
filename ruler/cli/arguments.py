"""Arguments that several commands share, and what they stand for."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from ruler.cli.tables import say
from ruler.config import LoadedJudges, Settings
from ruler.errors import ConfigError
from ruler.orders import Orders
from ruler.records import BadLine, LabelledGroup, count_lines, read_labelled
from ruler.rubric import DEFAULT_RUBRIC, Rubric
from ruler.scoring import Ruler

GroupsArgument = Annotated[str, typer.Argument(help="JSONL file of groups; .gz works; - is standard input.")]
JudgeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--judge", "-j", help="SPEC of the judge, else RULER_JUDGE; several times: a jury.", show_default=False
    ),
]
SettingsOption = Annotated[
    Path | None, typer.Option("--settings", help="TOML file of judge settings, else RULER_SETTINGS; options win.")
]
FallbackOption = Annotated[
    list[str] | None,
    typer.Option("--fallback", help="SPEC asked when the judge is unavailable or rejects; repeatable."),
]
PolicyOption = Annotated[
    str | None, typer.Option("--policy", help="Model that wrote the rollouts; warns of a judge of its family.")
]
CacheOption = Annotated[
    str | None, typer.Option("--cache", help="Where replies are kept: a file, redis://host:port/0, or off.")
]
CacheModeOption = Annotated[
    str | None,
    typer.Option("--cache-mode", help="use; refresh: ask again; readonly: ask nothing, a miss fails the group."),
]
MaxCostOption = Annotated[
    float | None, typer.Option("--max-cost-usd", help="Ask nothing more before this would be passed.")
]
MaxTokensOption = Annotated[
    int | None, typer.Option("--max-total-tokens", help="As --max-cost-usd, in input and output tokens.")
]
RubricOption = Annotated[Path | None, typer.Option("--rubric", help="Rubric file: .md, .txt or .toml.")]
NotesOption = Annotated[bool, typer.Option("--notes/--no-notes", help="Ask for a note on each rollout first.")]
ReasoningOption = Annotated[bool, typer.Option("--reasoning", help="Show the policies' separate reasoning.")]
ReferenceOption = Annotated[bool, typer.Option("--reference", help="Show the groups' reference answers.")]
OrdersOption = Annotated[
    str, typer.Option("--orders", help="In how many orders each group is shown: 1, 2, 4 or full.", metavar="1|2|4|full")
]
AdaptiveOption = Annotated[
    bool, typer.Option("--adaptive", help="Two orders first; up to --orders only where these disagree.")
]
MinOrdersOption = Annotated[
    int | None, typer.Option("--min-orders", help="Score a group when this many orders have an answer; else all.")
]
MaxBlockOption = Annotated[
    int, typer.Option("--max-block", help="Most rollouts in one prompt; larger groups are judged in blocks.")
]
ContextOption = Annotated[
    int | None, typer.Option("--context-tokens", help="The judge's window, where not known or not to be used up.")
]
SharedTextOption = Annotated[
    bool, typer.Option("--shared-text/--no-shared-text", help="Show long text that occurs several times once.")
]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="Take only the first N groups.")]
ConcurrencyOption = Annotated[int, typer.Option("--concurrency", min=1, help="Groups in flight at once.")]
StrictOption = Annotated[bool, typer.Option("--strict", help="Stop at the first broken line.")]
AbsoluteOption = Annotated[bool, typer.Option("--absolute", help="Score groups of one, too.")]


def new_ruler(loaded: LoadedJudges, settings: Settings, rubric: Path | None, **options: Any) -> Ruler:
    """A scorer with these judges; what it warns of is one line on standard error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        ruler = Ruler(loaded.judges, rubric=load_rubric(rubric), policy=settings.policy, **options)
    for warning in caught:
        say(f"warning: {warning.message}", err=True)
    return ruler


def read_orders(text: str) -> Orders:
    """What --orders says; what it does not know is left to `Ruler` to refuse."""
    return cast(Orders, int(text) if text in ("1", "2", "4") else text)


def load_rubric(path: Path | None) -> Rubric:
    """The rubric in the file, or the default one."""
    return DEFAULT_RUBRIC if path is None else Rubric.load(path)


_SHOWN_BAD_LINES = 10


@dataclass
class GroupSource:
    """Reads groups, reports the first broken lines on standard error as they come, and counts all."""

    path: str
    strict: bool = False
    limit: int | None = None
    bad_lines: int = 0
    groups: int = 0

    @property
    def is_file(self) -> bool:
        """Whether it can be read at any time, and more than once; pipes and standard input cannot."""
        return os.path.isfile(self.path)

    def __iter__(self) -> Iterator[LabelledGroup]:
        for found in read_labelled(self.path):
            if isinstance(found, BadLine):
                if self.strict:
                    raise ConfigError(str(found))
                self.bad_lines += 1
                if self.bad_lines <= _SHOWN_BAD_LINES:
                    say(f"bad line: {found}", err=True)
                elif self.bad_lines == _SHOWN_BAD_LINES + 1:
                    say("bad line: and more of them, which are counted and not shown", err=True)
                continue
            self.groups += 1
            yield found
            if self.groups == self.limit:
                return

    def expected(self) -> int | None:
        """How many groups a progress bar may expect; None for standard input and pipes, which can be read only once."""
        if not self.is_file:
            return self.limit
        num_lines = count_lines(self.path)
        return num_lines if self.limit is None else min(num_lines, self.limit)

    def require_groups(self) -> None:
        """Raises ConfigError when nothing could be read."""
        if not self.groups:
            raise ConfigError(
                f"{self.path}: holds no group that can be read; a file has one group a line, and is no JSON array"
            )
