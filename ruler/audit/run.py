"""One judge, audited on one set of groups."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Literal

from ruler.agreement import summarise
from ruler.attacks import ATTACKS
from ruler.audit.asking import Asking, Outcome, Questions, Tell, check_audit
from ruler.audit.attacks import AttackEffects, attack_effects
from ruler.audit.cuts import CutEffects, cut_effects
from ruler.audit.figures import pooled, unit_of
from ruler.audit.positions import Positions, position_effects
from ruler.audit.repeats import Repeats, Swaps, repeats, swaps
from ruler.audit.style import Style, style
from ruler.errors import ConfigError
from ruler.evaluation import agreements, has_truth, scores_of
from ruler.intervals import Estimate, Interval, Unit
from ruler.orders import Orders
from ruler.plan import MAX_BLOCK
from ruler.records import LabelledGroup
from ruler.rubric import DEFAULT_RUBRIC, Rubric
from ruler.types import FailedGroup, Judge, JudgedOrder, ScoredGroup, Usage


@dataclass(frozen=True, slots=True)
class Signal:
    """How many groups have scores, and scores that differ. Shares are of all groups of two rollouts or more."""

    scored: int
    tied: int
    """All rollouts read the same: nothing was asked."""
    failed: int
    no_signal: Estimate
    """Share of the scored groups in which all scores are equal."""
    tied_share: Estimate
    failed_share: Estimate


@dataclass(frozen=True, slots=True)
class Audit:
    """What a judge does to positions, lengths and attacks, on these groups. `ruler.audit.findings` says it in words."""

    judge: str
    rubric: str
    prompt_version: str
    orders: int | Literal["full"]
    groups: int
    """Those of two rollouts or more."""
    left_out: int
    """Groups of one rollout: there is nothing to compare."""
    with_truth: int
    """Groups with truth on every rollout."""
    accuracy: float | None
    """As `ruler evaluate` has it, over all orders; None without truth that differs."""
    accuracy_interval: Interval | None
    signal: Signal
    positions: Positions
    swaps: Swaps
    repeats: Repeats
    style: Style
    attacks: AttackEffects | None
    """None: none were wanted."""
    cuts: CutEffects
    questions: Questions
    """What was announced; of groups without scores nothing further is asked."""
    usage: Usage
    failures: tuple[FailedGroup, ...]
    """Of everything that was asked: groups as they are, asked again, attacked, cut. None of them is in any figure."""


async def audit(
    judge: Judge | str,
    groups: Sequence[LabelledGroup],
    *,
    rubric: Rubric | str = DEFAULT_RUBRIC,
    orders: Orders = 4,
    attacks: int = 4,
    max_block: int = MAX_BLOCK,
    context_tokens: int | None = None,
    notes: bool = True,
    reasoning: bool = False,
    reference: bool = False,
    shared_text: bool = True,
    concurrency: int = 16,
    progress: bool = False,
    tell: Tell | None = None,
    on_questions: Callable[[Questions], None] | None = None,
) -> Audit:
    """Asks the judge about the groups as they are, again, with hostile text and with tool outputs cut.

    Equal groups give equal questions, so a second audit is answered by a cache. All draws follow from the groups'
    content. Truth is optional, never shown, and only makes more to say.

    Args:
        judge: one; an async callable or a SPEC.
        groups: groups of one rollout are counted and left out; empty `truth` where there is none.
        rubric: what the judge is told to value. This and the options below are those of `Ruler`: audit a judge as it
            will be used.
        orders: in how many orders each group is shown: 2, 4 or "full".
        attacks: how many families of hostile text each attacked group gets, one at a time; 0: none. Up to
            `ruler.audit.attacks.MAX_GROUPS` groups are attacked.
        max_block: most rollouts in one prompt.
        context_tokens: the judge's window, where it is not known.
        notes: have the judge write notes first.
        reasoning: show the policies' separate reasoning.
        reference: show the reference answers.
        shared_text: show long text that occurs several times once.
        concurrency: groups in flight at once.
        progress: show a bar on a terminal.
        tell: told of every group before it is asked about, with the group of the file that it was made of; for
            simulated judges that have to learn its truth.
        on_questions: told how many questions there will be, before the first; an exception that it raises stops all.

    Raises:
        ConfigError: an option out of range, several judges, no group of two rollouts or more.
    """
    check_audit(orders, attacks, len(ATTACKS))
    labelled = [item for item in groups if len(item.group.rollouts) > 1]
    if not labelled:
        raise ConfigError("groups: none has two rollouts or more, so there is nothing to compare")
    prepare = partial(
        Asking,
        judge,
        labelled,
        orders=orders,
        attacks=attacks,
        rubric=rubric,
        max_block=max_block,
        context_tokens=context_tokens,
        notes=notes,
        reasoning=reasoning,
        reference=reference,
        shared_text=shared_text,
        concurrency=concurrency,
    )
    asking = await asyncio.to_thread(prepare)  # long groups take seconds to lay out
    if on_questions:
        on_questions(asking.questions)
    outcome = await asking.ask(tell=tell, progress=progress)
    return await asyncio.to_thread(_audit, asking, outcome, len(groups) - len(labelled), bool(attacks))


def _audit(asking: Asking, outcome: Outcome, left_out: int, attacked: bool) -> Audit:
    labelled, ruler = asking.labelled, asking.ruler
    units = [unit_of(item.group) for item in labelled]
    truth = [item.truth if has_truth(item) else None for item in labelled]
    judged = [_judged(result) for result in outcome.results]
    again = [_judged(result) for result in outcome.again]
    known = [place for place, values in enumerate(truth) if values is not None]
    agreed = summarise(
        agreements([labelled[place] for place in known], [scores_of(outcome.results[place]) for place in known])
    ).overall
    asked = [*outcome.results, *outcome.again, *outcome.after_attack, *outcome.after_cut]
    settled = [result for result in asked if result is not None]
    return Audit(
        judge=ruler.judge_name,
        rubric=ruler.rubric.id,
        prompt_version=ruler.prompt_version,
        orders=ruler.orders,
        groups=len(labelled),
        left_out=left_out,
        with_truth=len(known),
        accuracy=agreed.accuracy,
        accuracy_interval=agreed.accuracy_interval,
        signal=_signal(units, outcome.results),
        positions=position_effects(
            chain.from_iterable(judged), [unit for unit, prompts in zip(units, judged, strict=True) for _ in prompts]
        ),
        swaps=swaps(units, judged, truth),
        repeats=repeats(units, judged, again, failed=_num_failed(outcome.again)),
        style=style(units, asking.styles, [_scores(result) for result in outcome.results], truth),
        attacks=attack_effects(outcome.attacked, units, outcome.results, outcome.after_attack) if attacked else None,
        cuts=cut_effects(
            [units[cut.index] for cut in outcome.cuts],
            [labelled[cut.index] for cut in outcome.cuts],
            [judged[cut.index] for cut in outcome.cuts],
            [again[cut.index] for cut in outcome.cuts],
            [_judged(result) for result in outcome.after_cut],
            failed=_num_failed(outcome.after_cut),
        ),
        questions=asking.questions,
        usage=sum((result.usage for result in settled), Usage()),
        failures=tuple(result for result in settled if isinstance(result, FailedGroup)),
    )


def _signal(units: Sequence[Unit], results: Sequence[ScoredGroup | FailedGroup]) -> Signal:
    statuses = [result.status for result in results]
    equal = [
        float(len(set(result.scores)) == 1) if isinstance(result, ScoredGroup) and result.status == "scored" else None
        for result in results
    ]
    return Signal(
        scored=statuses.count("scored"),
        tied=statuses.count("tied"),
        failed=statuses.count("failed"),
        no_signal=pooled(units, equal),
        tied_share=pooled(units, [float(status == "tied") for status in statuses]),
        failed_share=pooled(units, [float(status == "failed") for status in statuses]),
    )


def _judged(result: ScoredGroup | FailedGroup | None) -> tuple[JudgedOrder, ...]:
    return result.judged if isinstance(result, ScoredGroup) else ()


def _scores(result: ScoredGroup | FailedGroup) -> dict[str, float] | None:
    if isinstance(result, FailedGroup) or result.status == "tied":
        return None
    return {one.id: one.score for one in result.rollouts if one.score is not None}


def _num_failed(results: Sequence[ScoredGroup | FailedGroup | None]) -> int:
    return sum(isinstance(result, FailedGroup) for result in results)
