"""`ruler evaluate`: how far a judge agrees with ground truth, within groups."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ruler.aggregate import Reliability
from ruler.agreement import Agreement
from ruler.cli import exits
from ruler.cli.arguments import (
    AdaptiveOption,
    CacheModeOption,
    CacheOption,
    ConcurrencyOption,
    ContextOption,
    FallbackOption,
    GroupsArgument,
    GroupSource,
    JudgeOption,
    LimitOption,
    MaxBlockOption,
    MaxCostOption,
    MaxTokensOption,
    MinOrdersOption,
    NotesOption,
    OrdersOption,
    PolicyOption,
    ReasoningOption,
    ReferenceOption,
    RubricOption,
    SettingsOption,
    SharedTextOption,
    StrictOption,
    new_ruler,
    read_orders,
)
from ruler.cli.evaluate_text import agreement_table, chance_text, difference_text, further_table, noise_text
from ruler.cli.tables import reliability_text, say, show, usage_text
from ruler.config import LoadedJudges, Settings, load_judges, read_settings
from ruler.errors import ConfigError
from ruler.evaluation import FIRST, SHORTER, Comparison, compare, has_truth, source_of
from ruler.packing import PromptOptions
from ruler.plan import MAX_BLOCK
from ruler.records import LabelledGroup
from ruler.results import failure_records, usage_record
from ruler.scoring import Ruler
from ruler.stored_results import stored_results
from ruler.truth_lookup import TruthLookup
from ruler.types import FailedGroup, ScoredGroup, Usage

FEW_CLUSTERS = 10
_SHOWN = 10
"""So many failures, or groups left out, are named."""
JUDGE = "judge"


def evaluate(
    groups: GroupsArgument,
    judge: JudgeOption = None,
    scores: Annotated[
        list[Path] | None,
        typer.Option(
            "--scores", help="What `ruler score --out` wrote, as a row of its own; repeatable.", metavar="FILE"
        ),
    ] = None,
    rubric: RubricOption = None,
    limit: LimitOption = None,
    concurrency: ConcurrencyOption = 16,
    settings: SettingsOption = None,
    fallback: FallbackOption = None,
    policy: PolicyOption = None,
    cache: CacheOption = None,
    cache_mode: CacheModeOption = None,
    max_cost_usd: MaxCostOption = None,
    max_total_tokens: MaxTokensOption = None,
    min_gap: Annotated[
        float, typer.Option("--min-gap", min=0.0, help="Count pairs whose truth differs by this much or more.")
    ] = 0.0,
    apart: Annotated[
        list[str] | None, typer.Option("--apart", help="A source to report, but leave out of `all`; repeatable.")
    ] = None,
    orders: OrdersOption = "1",
    adaptive: AdaptiveOption = False,
    min_orders: MinOrdersOption = None,
    max_block: MaxBlockOption = MAX_BLOCK,
    context_tokens: ContextOption = None,
    notes: NotesOption = True,
    reasoning: ReasoningOption = False,
    reference: ReferenceOption = False,
    shared_text: SharedTextOption = True,
    strict: StrictOption = False,
    json_report: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Compare a judge's scores with the `truth` in a file, within groups, beside two trivial rules.

    Accuracy: share of pairs of one group with different truth that the scores order rightly, ties half; averaged in
    a group first, then over the groups of a source, then over sources. `simulated?quality=truth` scores by truth
    itself. With --scores alone nobody is asked. Exit status as of `ruler score`.
    """
    if rubric and scores and not judge:
        raise ConfigError(f"--rubric {rubric}: nobody is asked with --scores alone; give a --judge, too")
    if not math.isfinite(min_gap):
        raise ConfigError(f"--min-gap: expected a finite number, got {min_gap}")
    names = [str(path) for path in scores or ()]
    for name in names:
        if names.count(name) > 1 or name in (JUDGE, SHORTER, FIRST):
            raise ConfigError(f"--scores {name}: stands for another row already; rename the file")
    source = GroupSource(groups, strict, limit)
    labelled, without_truth = [], []
    for item in source:
        if has_truth(item):
            labelled.append(item)
        else:
            without_truth.append(item.group.id)
    source.require_groups()
    if not labelled:
        raise ConfigError(f"{groups}: truth: no group of two or more has it on every rollout")
    known = {source_of(item.group) for item in labelled}
    for name in apart or ():
        if name not in known:
            raise ConfigError(f"--apart {name!r}: no such source; there are {', '.join(sorted(known))}")
    stored = {name: stored_results(name, [item.group for item in labelled]) for name in names}
    rows: dict[str, Sequence[ScoredGroup | FailedGroup | None]] = {}
    ruler: Ruler | None = None
    if judge or not stored:
        chosen = read_settings(
            settings,
            judge=judge,
            fallback=fallback,
            policy=policy,
            cache=cache,
            cache_mode=cache_mode,
            max_cost_usd=max_cost_usd,
            max_total_tokens=max_total_tokens,
        )
        options = {
            "orders": read_orders(orders),
            "adaptive": adaptive,
            "min_orders": min_orders,
            "max_block": max_block,
            "context_tokens": context_tokens,
            "notes": notes,
            "reasoning": reasoning,
            "reference": reference,
            "shared_text": shared_text,
            "concurrency": concurrency,
        }
        ruler, rows[JUDGE] = _ask(chosen, rubric, options, labelled)
    rows |= stored
    shown = PromptOptions(reasoning=reasoning, reference=reference, shared_text=shared_text)
    report = _Report(
        compare(rows, labelled, shown, min_gap=min_gap, apart=apart or ()),
        results=rows,
        without_truth=without_truth,
        bad_lines=source.bad_lines,
        min_gap=min_gap,
    )
    if json_report:
        typer.echo(json.dumps(report.record(ruler), ensure_ascii=False))
    else:
        report.print(ruler)
    raise typer.Exit(exits.status_of((group.reason for group in report.failures), source.bad_lines))


def _ask(
    settings: Settings, rubric: Path | None, options: dict[str, Any], labelled: Sequence[LabelledGroup]
) -> tuple[Ruler, list[ScoredGroup | FailedGroup]]:
    truth = TruthLookup()
    for item in labelled:
        truth.learn(item.group, item.truth)
    loaded = load_judges(settings, truth=truth)
    ruler = truth.ruler = new_ruler(loaded, settings, rubric, **options)
    try:
        return ruler, asyncio.run(_score(ruler, loaded, labelled))
    except KeyboardInterrupt:
        kept = "what the judge answered is in the cache" if loaded.store else "nothing was kept (--cache off)"
        typer.echo(f"interrupted: {kept}", err=True)
        raise typer.Exit(exits.INTERRUPTED) from None


async def _score(
    ruler: Ruler, loaded: LoadedJudges, labelled: Sequence[LabelledGroup]
) -> list[ScoredGroup | FailedGroup]:
    try:
        return await ruler.score_many([item.group for item in labelled], progress=True)
    finally:
        await loaded.close()


@dataclass(frozen=True, slots=True)
class _Report:
    comparison: Comparison
    results: dict[str, Sequence[ScoredGroup | FailedGroup | None]]
    without_truth: Sequence[str]
    """Ids of the groups that could not be compared."""
    bad_lines: int
    min_gap: float

    @property
    def failures(self) -> list[FailedGroup]:
        return [result for results in self.results.values() for result in results if isinstance(result, FailedGroup)]

    def record(self, ruler: Ruler | None) -> dict[str, Any]:
        asked = [result for result in self.results.get(JUDGE, ()) if result is not None]
        made_by = {
            "judge": ruler.judge_name if ruler else None,
            "rubric": ruler.rubric.id if ruler else None,
            "prompt_version": ruler.prompt_version if ruler else None,
        }
        return made_by | {
            "min_gap": self.min_gap,
            "rows": {name: asdict(row) for name, row in self.comparison.rows.items()},
            "pair_noise": {name: asdict(noise) for name, noise in self.comparison.noise.items()},
            "differences": [
                {"row": one, "other": other, "verdict": found.verdict, **asdict(found)}
                for (one, other), found in self.comparison.differences.items()
            ],
            "failures": failure_records(self.failures),
            "incomplete": self.comparison.num_incomplete,
            "without_truth": len(self.without_truth),
            "bad_lines": self.bad_lines,
            "reliability": Reliability.of(asked).value,
            "usage": usage_record(sum((result.usage for result in asked), Usage())),
        }

    def print(self, ruler: Ruler | None) -> None:
        rows = self.comparison.rows
        for name in self.results:
            if len(self.results) > 1:
                say(f"== {name}: {_made_by(self.results[name])}")
            show(agreement_table(rows[name], rows[SHORTER], rows[FIRST]))
            show(further_table(rows[name]))
        if len(self.results) > 1 and self.comparison.num_incomplete:
            say(f"{self.comparison.num_incomplete} groups are in no row: one of the rows failed on them, or lacks them")
        for failure in self.failures[:_SHOWN]:
            say(f"failed: {failure.group_id}: {failure.reason}: {failure.message}")
        if len(self.failures) > _SHOWN:
            say(f"failed: and {len(self.failures) - _SHOWN} more; --json has all")
        if ruler:
            asked = [result for result in self.results[JUDGE] if result is not None]
            usage = sum((result.usage for result in asked), Usage())
            num_failed = sum(isinstance(result, FailedGroup) for result in asked)
            say(f"judge {ruler.judge_name}; {num_failed} groups failed; {usage_text(usage)}")
        for name in self.results:
            say(chance_text(name, rows[name].overall))
        for (one, other), found in self.comparison.differences.items():
            say(difference_text(one, other, found))
        for name, noise in self.comparison.noise.items():
            for line in (noise_text(noise) or "").splitlines():
                say(line if len(self.results) == 1 else f"{name}: {line}")
        for line in _explain(rows[next(iter(self.results))], self.without_truth, self.bad_lines):
            say(line)
        if JUDGE in self.results:
            agrees = Reliability.of(result for result in self.results[JUDGE] if result is not None)
            if agrees.value is not None:
                typer.echo(reliability_text(agrees.value, agrees.num_groups))


def _made_by(results: Sequence[ScoredGroup | FailedGroup | None]) -> str:
    """Which judge and rubric the results are of, as far as they say."""
    made = dict.fromkeys(
        f"judge {result.judge}, rubric {result.rubric}, orders {result.orders}" for result in results if result
    )
    return "; ".join(made)


def _explain(row: Agreement, without_truth: Sequence[str], bad_lines: int) -> list[str]:
    lines = [
        "",
        "mixed: groups whose truth differs, of all that were scored",
        "accuracy, with its 95 % interval: pairs of one group ordered as truth orders them, ties half; chance is 0.5",
        "shorter, first: the accuracy of two trivial rules: the shorter wins, the first in the file wins",
        "top-1: groups in which the rollout with the highest score is a best one; r: correlation inside the group",
        "equal accuracy or noise is not equal training: a judge's errors are not random; see also ruler audit",
    ]
    if any(0 < source.clusters < FEW_CLUSTERS for source in row.sources):
        lines.append(f"intervals from fewer than {FEW_CLUSTERS} tasks are rough, and are missing below 2")
    if without_truth:
        more = f" and {len(without_truth) - _SHOWN} more" if len(without_truth) > _SHOWN else ""
        lines.append(
            f"{len(without_truth)} groups without truth on every rollout, or of one rollout, were left out: "
            f"{', '.join(without_truth[:_SHOWN])}{more}"
        )
    if bad_lines:
        lines.append(f"{bad_lines} lines could not be read")
    return lines
