"""Two results.json of `benchmarks.judge_vs_truth` beside each other, row by row, on the groups that both have.

    python -m benchmarks.compare_results runs/before/results.json runs/after/results.json

For every row of the same name, or for two rows named with --rows: accuracy before and after, the paired difference with
its 95 % interval, and whether it is shown. The truth of a group must be the same in both.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmarks.sources import APART, MIN_GAPS
from ruler.agreement import GroupAgreement, agree, summarise
from ruler.cli.command import run_command
from ruler.cli.tables import number_text, say
from ruler.comparison import Difference, difference
from ruler.errors import ConfigError
from ruler.records import first_fault

_Number = Annotated[float, Field(allow_inf_nan=False, strict=True)]


class _Group(BaseModel):
    model_config = ConfigDict(extra="ignore")
    id: str
    digest: str
    source: str
    cluster: str | None
    truth: list[_Number]


class _Row(BaseModel):
    model_config = ConfigDict(extra="ignore")
    name: str
    failures: dict[str, str]
    scores: dict[str, list[_Number] | None]


class Results(BaseModel):
    """What a results.json says, as far as it is compared."""

    model_config = ConfigDict(extra="ignore")
    rubric: str
    groups: list[_Group]
    rows: list[_Row]

    @classmethod
    def read(cls, path: Path) -> Results:
        """The results in the file, or in the results.json of the folder.

        Raises:
            ConfigError: it cannot be read, or is something else; names the field.
        """
        try:
            return cls.model_validate(json.loads((path / "results.json" if path.is_dir() else path).read_bytes()))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
        except ValidationError as error:
            raise ConfigError(f"{path}: is no results.json of judge_vs_truth: {first_fault(error)}") from None
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path}: is not JSON: {error}") from error

    def row(self, name: str) -> _Row:
        """The row of this name.

        Raises:
            ConfigError: there is none; names those there are.
        """
        for row in self.rows:
            if row.name == name:
                return row
        known = "".join(f"\n  {row.name}" for row in self.rows)
        raise ConfigError(f"--rows: no row {name!r}; there are:{known}")


@dataclass(frozen=True, slots=True)
class Compared:
    """One row before and after."""

    name: str
    before: float | None
    """Accuracy over all sources, on the groups that both have."""
    after: float | None
    change: Difference
    """After less before."""


def compare(before: Results, after: Results, rows: tuple[str, str] | None = None) -> list[Compared]:
    """Every row of the same name in both, or the one pair that is named.

    Raises:
        ConfigError: no row in common, or a group whose truth or rollouts differ.
    """
    known = {group.id: group for group in before.groups}
    for group in after.groups:
        other = known.get(group.id)
        if other and other != group:
            raise ConfigError(f"group {group.id!r}: truth, source, cluster or rollouts differ in the second file")
    shared = {group.id: known[group.id] for group in after.groups if group.id in known}
    after_names = {row.name for row in after.rows}
    pairs = [rows] if rows else [(row.name, row.name) for row in before.rows if row.name in after_names]
    if not pairs or not shared:
        raise ConfigError("the two files have no row or no group in common; --rows OLD NEW names two rows")
    found = []
    for old, new in pairs:
        first, second = _agreements(before.row(old), shared), _agreements(after.row(new), shared)
        in_both = {group.group_id for group in first} & {group.group_id for group in second}
        first = [group for group in first if group.group_id in in_both]
        second = [group for group in second if group.group_id in in_both]
        found.append(
            Compared(
                name=old if old == new else f"{old} -> {new}",
                before=summarise(first, apart=APART).overall.accuracy,
                after=summarise(second, apart=APART).overall.accuracy,
                change=difference(second, first, apart=APART),
            )
        )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the comparison; returns the exit status: 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare_results",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--rows", nargs=2, metavar=("OLD", "NEW"), help="a row of the first file, one of the second")
    options = parser.parse_args(arguments)
    return run_command(lambda: _run(options.before, options.after, tuple(options.rows) if options.rows else None))


def _run(old: Path, new: Path, rows: tuple[str, str] | None) -> int:
    before, after = Results.read(old), Results.read(new)
    found = compare(before, after, rows)
    if before.rubric != after.rubric:
        say(f"the rubrics differ: {before.rubric}, then {after.rubric}")
    names = [{row.name for row in results.rows} for results in (before, after)]
    for where, only in (("first", names[0] - names[1]), ("second", names[1] - names[0])):
        for name in sorted(only) if rows is None else ():
            say(f"only in the {where}: {name}")
    say(f"{len({group.id for group in before.groups} & {group.id for group in after.groups}):,} groups are in both")
    width = max(len(row.name) for row in found)
    say(f"{'':{width}}  before  after   change")
    for row in found:
        say(f"{row.name:{width}}  {number_text(row.before):^5}   {number_text(row.after):^5}   {_change(row.change)}")
    return 0


def _change(change: Difference) -> str:
    if change.same or change.overall.value is None:
        return change.verdict
    interval = change.overall.interval
    spread = "" if interval is None else " ({:+.3f} to {:+.3f})".format(*interval)
    return f"{change.overall.value:+.3f}{spread}: {change.verdict}"


def _agreements(row: _Row, groups: Mapping[str, _Group]) -> list[GroupAgreement]:
    found = []
    for name, scores in row.scores.items():
        group: Any = groups.get(name)
        if group is None or name in row.failures:
            continue
        values = [0.0] * len(group.truth) if scores is None else scores
        if len(values) != len(group.truth):
            raise ConfigError(f"row {row.name!r}: group {name!r}: {len(values)} scores for {len(group.truth)} rollouts")
        gap = MIN_GAPS.get(group.source, 0.0)
        found.append(agree(values, group.truth, min_gap=gap, group_id=name, source=group.source, cluster=group.cluster))
    return found


if __name__ == "__main__":
    sys.exit(main())
