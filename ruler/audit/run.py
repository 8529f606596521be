"""One judge, audited on one set of groups."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Literal, TypeAlias, TypeVar

from ruler.agreement import summarise
from ruler.attacks import ATTACKS
from ruler.audit.asking import Asking, Outcome, Questions, Tell, check_audit
from ruler.audit.attacks import AttackEffects, attack_effects
from ruler.audit.cuts import CutEffects, cut_effects
from ruler.audit.figures import pooled, unit_of
from ruler.audit.positions import Positions, position_effects
from ruler.audit.repeats import Repeats, Swaps, repeats, swaps
from ruler.audit.style import Style, style
from ruler.errors import BudgetExceeded, ConfigError
from ruler.evaluation import agreements, has_truth, scores_of
from ruler.intervals import Estimate, Interval, Unit
from ruler.orders import Orders
from ruler.plan import MAX_BLOCK
from ruler.records import LabelledGroup
from ruler.rubric import DEFAULT_RUBRIC, Rubric
from ruler.types import FailedGroup, Judge, JudgedOrder, ScoredGroup, Usage

_T = TypeVar("_T")
_Result: TypeAlias = ScoredGroup | FailedGroup


@dataclass(frozen=True, slots=True)
class Signal:
    """How many groups have scores, and scores that differ. Shares are of the groups that no cap stopped."""

    scored: int
    tied: int
    """All rollouts read the same: nothing was asked."""
    failed: int
    """Without those that a cap stopped."""
    no_signal: Estimate
    """Share of the scored groups in which all scores are equal."""
    tied_share: Estimate
    failed_share: Estimate


@dataclass(frozen=True, slots=True)
class Stopped:
    """Groups that were not asked because the cap on cost or tokens was reached; none is in any other figure."""

    as_they_are: int
    again: int
    attacked: int
    cut: int

    @property
    def total(self) -> int:
        """All of them; 0: there is no cap, or it was not reached."""
        return self.as_they_are + self.again + self.attacked + self.cut


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
    """As `ruler evaluate` has it, over all orders; None without scored groups in which truth differs."""
    accuracy_groups: int
    """Of so many groups."""
    accuracy_interval: Interval | None
    signal: Signal
    positions: Positions
    swaps: Swaps
    noise: Repeats
    style: Style
    attacks: AttackEffects | None
    """None: none were wanted."""
    cuts: CutEffects
    questions: Questions
    """What was announced; of groups without scores nothing further is asked."""
    usage: Usage
    stopped: Stopped
    failures: tuple[FailedGroup, ...]
    """Of everything that was to be asked: groups as they are, asked again, attacked, cut; also what a cap stopped, with
    the reason "budget". None of them is in any figure."""


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
    repeated = [None if is_stopped(result) else result for result in outcome.again]
    again = [_judged(result) for result in repeated]
    hostile = _not_stopped(outcome.attacked, outcome.after_attack)
    cuts = _not_stopped(outcome.cuts, outcome.after_cut)
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
        accuracy_groups=agreed.mixed_groups,
        signal=_signal(units, outcome.results),
        positions=position_effects(
            chain.from_iterable(judged), [unit for unit, prompts in zip(units, judged, strict=True) for _ in prompts]
        ),
        swaps=swaps(units, judged, truth),
        noise=repeats(units, judged, again, failed=_num_failed(repeated)),
        style=style(units, asking.styles, [_scores(result) for result in outcome.results], truth),
        attacks=attack_effects([one for one, _ in hostile], units, outcome.results, [result for _, result in hostile])
        if attacked
        else None,
        cuts=cut_effects(
            [units[cut.index] for cut, _ in cuts],
            [labelled[cut.index] for cut, _ in cuts],
            [judged[cut.index] for cut, _ in cuts],
            [again[cut.index] for cut, _ in cuts],
            [_judged(result) for _, result in cuts],
            long_outputs=asking.long_outputs,
            failed=_num_failed([result for _, result in cuts]),
        ),
        questions=asking.questions,
        stopped=Stopped(
            as_they_are=_num_stopped(outcome.results),
            again=_num_stopped(outcome.again),
            attacked=_num_stopped(outcome.after_attack),
            cut=_num_stopped(outcome.after_cut),
        ),
        usage=sum((result.usage for result in settled), Usage()),
        failures=tuple(result for result in settled if isinstance(result, FailedGroup)),
    )


def _signal(units: Sequence[Unit], results: Sequence[ScoredGroup | FailedGroup]) -> Signal:
    statuses = [None if is_stopped(result) else result.status for result in results]
    equal = [
        float(len(set(result.scores)) == 1) if isinstance(result, ScoredGroup) and result.status == "scored" else None
        for result in results
    ]
    return Signal(
        scored=statuses.count("scored"),
        tied=statuses.count("tied"),
        failed=statuses.count("failed"),
        no_signal=pooled(units, equal),
        tied_share=pooled(units, [status and float(status == "tied") for status in statuses]),
        failed_share=pooled(units, [status and float(status == "failed") for status in statuses]),
    )


def is_stopped(result: ScoredGroup | FailedGroup | None) -> bool:
    """Whether the cap on cost or tokens kept the group from being judged."""
    return isinstance(result, FailedGroup) and result.reason == BudgetExceeded.code


def _not_stopped(asked: Sequence[_T], after: Sequence[_Result]) -> list[tuple[_T, _Result]]:
    return [(one, result) for one, result in zip(asked, after, strict=True) if not is_stopped(result)]


def _num_stopped(results: Iterable[ScoredGroup | FailedGroup | None]) -> int:
    return sum(map(is_stopped, results))


def _judged(result: ScoredGroup | FailedGroup | None) -> tuple[JudgedOrder, ...]:
    return result.judged if isinstance(result, ScoredGroup) else ()


def _scores(result: ScoredGroup | FailedGroup) -> dict[str, float] | None:
    if isinstance(result, FailedGroup) or result.status == "tied":
        return None
    return {one.id: one.score for one in result.rollouts if one.score is not None}


def _num_failed(results: Sequence[ScoredGroup | FailedGroup | None]) -> int:
    return sum(isinstance(result, FailedGroup) for result in results)
