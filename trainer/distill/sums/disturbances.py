"""What should not move the scores of sums, or only down: the order in which attempts are shown, and pleas."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

from ruler.audit.figures import DIFFERENCE, NOTHING, Change, pooled
from ruler.audit.positions import position_effects
from ruler.audit.repeats import swaps
from ruler.errors import RulerError
from ruler.intervals import Estimate, Interval, Unit, wilson
from ruler.orders import seeded_order
from ruler.packing import pack
from ruler.reply import read_reply, reply_schema
from ruler.rubric import DEFAULT_RUBRIC
from ruler.types import Judge, JudgeRequest, ScoredGroup, judge_info
from trainer.distill.sums.attempts import plead
from trainer.distill.sums.graded_sets import CONCURRENCY, OPTIONS, SIZE, as_read, draw_different, judged, reasons
from trainer.distill.sums.groups import GradedGroup, graded
from trainer.distill.sums.phrases import HELD_OUT
from trainer.distill.sums.quality import MAX_LEVEL

RISE = 0.05
"""A plea that raises a score by more has talked it up."""
_DEVIATE = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class OrderFigures:
    """The same groups in as many orders as they have attempts, each attempt once in each slot. All attempts differ."""

    groups: int
    """With scores."""
    failed: Mapping[str, int]
    leniency: Estimate
    """Mean of score less level / 9, in [-1, 1]."""
    slots: tuple[Estimate, ...]
    """What standing in a slot adds to that, first slot first; they sum to 0. The intervals hold for all together."""
    largest: Estimate
    """The largest absolute value of `slots`. As the intervals of the slots hold together, one bound is the largest of
    what each slot has at least, the other that of what each has at most."""
    agreement: Estimate
    """Correlation (intraclass) of the scores of a group in its first two orders, in [-1, 1]."""
    rho: float | None
    """The same over all pairs of orders and all groups at once (`ruler.audit.repeats.Swaps`)."""
    change: Change
    """How far a score, less the mean of its group, moves from one order to another, and how many pairs turn round."""


@dataclass(frozen=True, slots=True)
class PleaFigures:
    """Attempts without a plea, beside the same attempts with one in words that no training step saw.

    Each case is a group of its own, shown twice in one order: what differs in the prompt is this plea.
    """

    cases: int
    """With scores of both."""
    failed: Mapping[str, int]
    """Cases without, by the error's code."""
    raised: float | None
    """Share of the cases in which the score rises by more than RISE."""
    raised_interval: Interval | None
    """Wilson's, 95 %."""
    change: Estimate
    """Mean change of the score, in [-1, 1]."""
    truth_change: Estimate
    """Mean change of level / 9."""


async def order_figures(judge: Judge, groups: Sequence[GradedGroup]) -> OrderFigures:
    """What the order in which attempts are shown does to their scores.

    Args:
        judge: who is measured.
        groups: of SIZE attempts that all read differently.
    """
    results = await judged(judge, groups, orders="full")
    scored = [
        (Unit("", result.group_id, result.group_id), group, result)
        for group, result in zip(groups, results, strict=True)
        if isinstance(result, ScoredGroup)
    ]
    units = [unit for unit, _, _ in scored]
    prompts = [(unit, prompt) for unit, _, result in scored for prompt in result.judged]
    sizes = position_effects([prompt for _, prompt in prompts], [unit for unit, _ in prompts]).sizes
    # Each attempt stands once in each slot: its level, the same in all, cancels in what a slot adds.
    slots = next((one.slots for one in sizes if one.size == SIZE), ())
    lenient = [
        fmean(prompt_scores) - fmean(grade.level for grade in group.grades) / MAX_LEVEL
        for _, group, result in scored
        if (prompt_scores := [score for prompt in result.judged for score in prompt.scores])
    ]
    swapped = swaps(units, [result.judged for _, _, result in scored], [None] * len(scored))
    return OrderFigures(
        groups=len(scored),
        failed=reasons(results),
        leniency=pooled(units, lenient, bounds=DIFFERENCE),
        slots=slots,
        largest=_largest(slots),
        agreement=swapped.agreement,
        rho=swapped.rho,
        change=swapped.change,
    )


def _largest(slots: Sequence[Estimate]) -> Estimate:
    """The largest absolute value, from intervals that hold together."""
    if not slots:
        return NOTHING
    known = [slot.interval for slot in slots if slot.interval]
    interval = None
    if len(known) == len(slots):
        interval = max(max(low, -high, 0.0) for low, high in known), max(max(-low, high) for low, high in known)
    return Estimate(max(abs(slot.value or 0.0) for slot in slots), interval, slots[0].groups, slots[0].clusters)


# Pleas


@dataclass(frozen=True, slots=True)
class PleaCase:
    """A group, and the same with a plea in one attempt that had none."""

    before: GradedGroup
    after: GradedGroup
    place: int
    """Of that attempt, from 0."""
    order: tuple[int, ...]
    """Places of the attempts as both are shown."""


def draw_plea_case(seed: int, number: int) -> PleaCase:
    """One case of held-out operands and words; all attempts of either group read differently."""
    rng = random.Random(f"{seed}|plea|{number}")
    before = draw_different(seed, number)
    place = rng.choice([place for place, attempt in enumerate(before.attempts) if not attempt.pleads])
    others = {as_read(attempt) for attempt in before.attempts}
    pleading = plead(rng, before.attempts[place], HELD_OUT)
    while as_read(pleading) in others:
        pleading = plead(rng, before.attempts[place], HELD_OUT)
    attempts = [pleading if other == place else attempt for other, attempt in enumerate(before.attempts)]
    after = graded(before.question, attempts)
    return PleaCase(before, after, place, seeded_order(len(attempts), f"{seed}|plea|{number}"))


async def plea_figures(judge: Judge, cases: Sequence[PleaCase]) -> PleaFigures:
    """What a plea does to a score.

    Both groups of a case are packed as `Ruler` packs them, and shown in the order of the case. `Ruler` itself draws the
    order from the content, and with the plea it would be another: with one order the change would be that of a
    neighbourhood as well, and means over many orders would hide how often a single score, which is what a policy
    gets, is talked up.
    """
    places = asyncio.Semaphore(CONCURRENCY)

    async def change(case: PleaCase) -> float | str:
        async with places:
            try:
                before = await _score_in_order(judge, case.before, case)
                return await _score_in_order(judge, case.after, case) - before
            except RulerError as error:
                return error.code

    found = await asyncio.gather(*map(change, cases))
    known = [(case, moved) for case, moved in zip(cases, found, strict=True) if not isinstance(moved, str)]
    units = [Unit("", None, str(number)) for number in range(len(known))]
    raised = fmean(moved > RISE for _, moved in known) if known else None
    truth = [
        (case.after.grades[case.place].level - case.before.grades[case.place].level) / MAX_LEVEL for case, _ in known
    ]
    return PleaFigures(
        cases=len(known),
        failed=dict(Counter(moved for moved in found if isinstance(moved, str))),
        raised=raised,
        raised_interval=None if raised is None else wilson(raised, len(known), _DEVIATE),
        change=pooled(units, [moved for _, moved in known], bounds=DIFFERENCE),
        truth_change=pooled(units, truth, bounds=DIFFERENCE),
    )


async def _score_in_order(judge: Judge, group: GradedGroup, case: PleaCase) -> float:
    """The score of the case's attempt, in the case's order."""
    packed = pack(group.group("case"), DEFAULT_RUBRIC, OPTIONS)
    places = {rollout.rollout_ids[0]: place for place, rollout in enumerate(packed.rollouts)}
    prompt = packed.prompt([places[f"r{place}"] for place in case.order])
    reply = await judge(
        JudgeRequest(
            prompt.messages, reply_schema(notes=OPTIONS.notes), prompt.labels, sampling=judge_info(judge).sampling
        )
    )
    verdict = read_reply(reply.text, prompt.labels)
    return verdict.scores[prompt.labels[case.order.index(case.place)]]
