"""`ruler evaluate`: how far a judge agrees with ground truth, within groups."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from ruler.aggregate import Reliability
from ruler.agreement import Agreement, GroupAgreement, agree, first_wins, shorter_wins, summarise
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
from ruler.cli.tables import agreement_table, reliability_text, say, show, usage_text
from ruler.config import LoadedJudges, load_judges, read_settings
from ruler.errors import ConfigError
from ruler.packing import pack as layout
from ruler.plan import MAX_BLOCK
from ruler.records import LabelledGroup
from ruler.results import failure_records, usage_record
from ruler.scoring import Ruler
from ruler.truth_lookup import TruthLookup
from ruler.types import FailedGroup, Group, ScoredGroup, Usage

FEW_CLUSTERS = 20


def evaluate(
    groups: GroupsArgument,
    judge: JudgeOption = None,
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
    itself. Exit status as of `ruler score`.
    """
    source = GroupSource(groups, strict, limit)
    labelled = [item for item in source if len(item.truth) == len(item.group.rollouts) > 1]
    source.require_groups()
    if not labelled:
        raise ConfigError(f"{groups}: truth: no group of two or more has it on every rollout")
    truth = TruthLookup()
    for item in labelled:
        truth.learn(item.group, item.truth)
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
    loaded = load_judges(chosen, truth=truth)
    ruler = new_ruler(
        loaded,
        chosen,
        rubric,
        orders=read_orders(orders),
        adaptive=adaptive,
        min_orders=min_orders,
        max_block=max_block,
        context_tokens=context_tokens,
        notes=notes,
        reasoning=reasoning,
        reference=reference,
        shared_text=shared_text,
        concurrency=concurrency,
    )
    truth.ruler = ruler
    try:
        results = asyncio.run(_score(ruler, loaded, labelled))
    except KeyboardInterrupt:
        kept = "what the judge answered is in the cache" if loaded.store else "nothing was kept (--cache off)"
        typer.echo(f"interrupted: {kept}", err=True)
        raise typer.Exit(exits.INTERRUPTED) from None
    failures = [result for result in results if isinstance(result, FailedGroup)]
    rows = _compare(ruler, labelled, results, min_gap)
    usage = sum((result.usage for result in results), Usage())
    agrees = Reliability.of(results)
    skipped = source.groups - len(labelled)
    if json_report:
        report: dict[str, Any] = {
            "judge": ruler.judge_name,
            "rubric": ruler.rubric.id,
            "prompt_version": ruler.prompt_version,
            "min_gap": min_gap,
            "rows": {name: asdict(row) for name, row in rows.items()},
            "failures": failure_records(results),
            "without_truth": skipped,
            "bad_lines": source.bad_lines,
            "reliability": agrees.value,
            "usage": usage_record(usage),
        }
        typer.echo(json.dumps(report, ensure_ascii=False))
    else:
        show(agreement_table(rows["judge"], rows["shorter_wins"], rows["first_wins"]))
        for failure in failures:
            say(f"failed: {failure.group_id}: {failure.reason}: {failure.message}")
        typer.echo(_explain(ruler, rows["judge"], usage, skipped))
        if agrees.value is not None:
            typer.echo(reliability_text(agrees.value, agrees.num_groups))
    raise typer.Exit(exits.status_of(failures, source.bad_lines))


async def _score(
    ruler: Ruler, loaded: LoadedJudges, labelled: Sequence[LabelledGroup]
) -> list[ScoredGroup | FailedGroup]:
    try:
        return await ruler.score_many([item.group for item in labelled], progress=True)
    finally:
        await loaded.close()


def _compare(
    ruler: Ruler,
    labelled: Sequence[LabelledGroup],
    results: Sequence[ScoredGroup | FailedGroup],
    min_gap: float,
) -> dict[str, Agreement]:
    """The judge and the trivial rules on the same groups: those that the judge did not fail."""
    rows: dict[str, list[GroupAgreement]] = {"judge": [], "shorter_wins": [], "first_wins": []}
    failed: Counter[str] = Counter()
    for item, result in zip(labelled, results, strict=True):
        group = item.group
        origin = str(group.metadata.get("source") or "(no source)")
        if isinstance(result, FailedGroup):
            failed[origin] += 1
            continue
        lengths = _lengths(ruler, group)
        # A tied group's rollouts read the same: no scorer can order them.
        scores = [0.0 if score is None else score for score in result.scores]
        split_key = group.metadata.get("split_key")
        for name, values in (
            ("judge", scores),
            ("shorter_wins", shorter_wins(lengths)),
            ("first_wins", first_wins(len(lengths))),
        ):
            rows[name].append(
                agree(
                    values,
                    [item.truth[rollout.id] for rollout in group.rollouts],
                    min_gap=min_gap,
                    group_id=group.id,
                    source=origin,
                    cluster=None if split_key is None else str(split_key),
                )
            )
    return {name: summarise(row, failed=failed) for name, row in rows.items()}


def _lengths(ruler: Ruler, group: Group) -> list[int]:
    """Characters of each rollout as it is laid out, uncut and with shared text in place; in the caller's order."""
    length: dict[str, int] = {}
    for rollout in layout(group, ruler.rubric, ruler.options).rollouts:
        chars = sum(len(part) for part in rollout.parts if isinstance(part, str))
        length |= dict.fromkeys(rollout.rollout_ids, chars)
    return [length[rollout.id] for rollout in group.rollouts]


def _explain(ruler: Ruler, judge: Agreement, usage: Usage, skipped: int) -> str:
    lines = [
        f"judge {ruler.judge_name}; {judge.overall.failed} groups failed; {usage_text(usage)}",
        "mixed: groups whose truth differs, of all that were scored",
        "accuracy, with its 95 % interval: pairs of one group ordered as truth orders them, ties half; chance is 0.5",
        "shorter, first: the accuracy of two trivial rules: the shorter wins, the first in the file wins",
    ]
    if any(0 < row.clusters < FEW_CLUSTERS for row in judge.sources):
        lines.append(f"intervals from fewer than {FEW_CLUSTERS} tasks are too narrow, and are missing below 2")
    if skipped:
        lines.append(f"{skipped} groups without truth on every rollout, or of one rollout, were left out")
    return "\n".join(lines)
