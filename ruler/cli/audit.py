"""`ruler audit`: what a judge does to positions, lengths and attacks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Annotated, Any

import typer

from ruler.attacks import ATTACKS
from ruler.audit import Audit, Questions, Tell, audit_record, findings
from ruler.audit import audit as ask_audit
from ruler.audit.attacks import MARK
from ruler.audit.run import is_stopped
from ruler.audit.wording import counted
from ruler.cli import exits
from ruler.cli.arguments import (
    CacheModeOption,
    CacheOption,
    ConcurrencyOption,
    ContextOption,
    GroupsArgument,
    GroupSource,
    LimitOption,
    MaxBlockOption,
    MaxCostOption,
    MaxTokensOption,
    NotesOption,
    ReasoningOption,
    ReferenceOption,
    RubricOption,
    SettingsOption,
    SharedTextOption,
    StrictOption,
    load_rubric,
    read_orders,
)
from ruler.cli.audit_tables import audit_text
from ruler.cli.tables import say, show, usage_text
from ruler.config import LoadedJudges, load_judges, read_settings
from ruler.errors import ConfigError, PackingError
from ruler.plan import MAX_BLOCK
from ruler.records import LabelledGroup
from ruler.scoring import Ruler
from ruler.truth_lookup import TruthLookup
from ruler.types import Group, JudgeInfo, judge_info

_MAX_FAILURES = 10


def audit(
    groups: GroupsArgument,
    judge: Annotated[
        list[str] | None,
        typer.Option("--judge", "-j", help="SPEC of the judge, else RULER_JUDGE; one alone.", show_default=False),
    ] = None,
    rubric: RubricOption = None,
    limit: LimitOption = None,
    orders: Annotated[
        str, typer.Option("--orders", help="In how many orders each group is shown: 2, 4 or full.", metavar="2|4|full")
    ] = "4",
    attacks: Annotated[
        int,
        typer.Option(
            "--attacks", min=0, max=len(ATTACKS), help="Families of hostile text for each attacked group; 0: none."
        ),
    ] = 4,
    concurrency: ConcurrencyOption = 16,
    settings: SettingsOption = None,
    cache: CacheOption = None,
    cache_mode: CacheModeOption = None,
    max_cost_usd: MaxCostOption = None,
    max_total_tokens: MaxTokensOption = None,
    max_block: MaxBlockOption = MAX_BLOCK,
    context_tokens: ContextOption = None,
    notes: NotesOption = True,
    reasoning: ReasoningOption = False,
    reference: ReferenceOption = False,
    shared_text: SharedTextOption = True,
    strict: StrictOption = False,
    json_report: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure what moves a judge's scores beside the work: position, noise, length, hostile text, cut tool outputs.

    Each figure comes with a sentence that says what to do about it. Groups need no `truth`; with it more is said.
    How many questions there will be is printed first, on standard error. Exit status as of `ruler score`.
    """
    source = GroupSource(groups, strict, limit)
    labelled = list(source)
    source.require_groups()
    chosen = read_settings(
        settings,
        judge=judge,
        cache=cache,
        cache_mode=cache_mode,
        max_cost_usd=max_cost_usd,
        max_total_tokens=max_total_tokens,
    )
    if len(chosen.judge) > 1:
        raise ConfigError(f"judge: an audit is of one judge, got {len(chosen.judge)}; run it once for each")
    truth = TruthLookup()
    loaded = load_judges(chosen, truth=truth)
    (only,) = loaded.judges
    info = judge_info(only)
    try:
        result = asyncio.run(
            _audit(
                loaded,
                labelled,
                rubric=load_rubric(rubric),
                orders=read_orders(orders),
                attacks=attacks,
                max_block=max_block,
                context_tokens=context_tokens,
                notes=notes,
                reasoning=reasoning,
                reference=reference,
                shared_text=shared_text,
                concurrency=concurrency,
                # Others never look truth up, and telling it lays every group out once more.
                tell=_teller(truth, labelled) if info.backend == "simulated" else None,
                on_questions=partial(_announce, info),
            )
        )
    except KeyboardInterrupt:
        kept = "what the judge answered is in the cache" if loaded.store else "nothing was kept (--cache off)"
        typer.echo(f"interrupted: {kept}", err=True)
        raise typer.Exit(exits.INTERRUPTED) from None
    if json_report:
        typer.echo(json.dumps(audit_record(result) | {"bad_lines": source.bad_lines}, ensure_ascii=False))
    else:
        _print(result)
    raise typer.Exit(exits.status_of((group.reason for group in result.failures), source.bad_lines))


async def _audit(loaded: LoadedJudges, labelled: Sequence[LabelledGroup], **options: Any) -> Audit:
    try:
        return await ask_audit(loaded.judges[0], labelled, progress=True, **options)
    finally:
        await loaded.close()


def _announce(info: JudgeInfo, questions: Questions) -> None:
    parts = {
        "as they are": questions.as_they_are,
        "asked again": questions.again,
        "attacked": questions.attacked,
        "cut": questions.cut,
    }
    named = ", ".join(f"{number:,} {name}" for name, number in parts.items() if number)
    price = ""
    if info.input_price:
        price = f", ${questions.prompt_tokens * info.input_price / 1e6:,.2f} for these alone"
    typer.echo(
        f"at most {counted(questions.total, 'question')} ({named}), about {questions.prompt_tokens:,} prompt tokens"
        f"{price}; what the cache has is free",
        err=True,
    )


def _teller(lookup: TruthLookup, labelled: Sequence[LabelledGroup]) -> Tell:
    """Makes known what each rollout of a group is worth; an attack adds nothing to that."""
    truth = {item.group.id: item.truth for item in labelled}

    def tell(ruler: Ruler, asked: Iterable[tuple[Group, Group]]) -> None:
        for group, origin in asked:
            worth = _worth(group, origin, truth[origin.id])
            with suppress(PackingError):  # of which the judge is never asked
                for prompt in ruler.pack(group):
                    for label, text in prompt.texts.items():
                        if (value := worth.get(prompt.rollouts[label][0])) is not None:
                            lookup.know(group.id, prompt.context, text, value)

    return tell


_REPLACING = {attack.name for attack in ATTACKS if attack.replaces}


def _worth(group: Group, origin: Group, truth: dict[str, float] | Any) -> dict[str, float]:
    """Truth of each rollout; where an attack replaced the work, one less than the least of the group."""
    worth = dict(truth)
    for rollout, own in zip(group.rollouts, origin.rollouts, strict=True):
        if rollout.metadata.get(MARK) in _REPLACING and rollout.messages != own.messages and truth:
            worth[rollout.id] = min(truth.values()) - 1
    return worth


def _print(result: Audit) -> None:
    show(audit_text(result, findings(result)))
    failures = [failure for failure in result.failures if not is_stopped(failure)]
    for failure in failures[:_MAX_FAILURES]:
        say(f"failed: {failure.group_id}: {failure.reason}: {failure.message}")
    if len(failures) > _MAX_FAILURES:
        typer.echo(f"and {len(failures) - _MAX_FAILURES} more; --json has all")
    if stopped := next((failure for failure in result.failures if is_stopped(failure)), None):
        say(f"stopped: {stopped.reason}: {stopped.message}")
    typer.echo(usage_text(result.usage))
