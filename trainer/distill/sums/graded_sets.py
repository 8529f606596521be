"""Sets of graded groups that no training step saw, and what a scorer makes of one: beside the graded truth.

Truth is the graded quality of `trainer.distill.sums.quality`; judges are asked as every judge is, through `Ruler`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeAlias

from ruler.agreement import SourceAgreement, agree, summarise
from ruler.audit.figures import pooled
from ruler.evaluation import scores_of
from ruler.intervals import Estimate, Unit
from ruler.orders import Orders
from ruler.packing import PromptOptions
from ruler.scoring import Ruler
from ruler.types import FailedGroup, Judge, ScoredGroup
from trainer.distill.sums.groups import GradedGroup, Kind, Split, draw_group, graded
from trainer.distill.sums.quality import MAX_LEVEL, Attempt

SIZE = 8
"""Attempts of a group, where nothing else is said."""
CONCURRENCY = 32
"""Groups in flight."""
OPTIONS = PromptOptions(notes=False)
_MAX_BLOCK = 12

Scores: TypeAlias = Sequence[float] | None
"""Of one group, in [0, 1], in the order of its attempts; None: there are none."""


@dataclass(frozen=True, slots=True)
class SetFigures:
    """One scorer on one set of groups. Means over groups, with 95 % intervals over groups."""

    name: str
    agreement: SourceAgreement
    """Scores beside levels: accuracy over the pairs of unequal level, tau-b, top-1."""
    right_vs_wrong: SourceAgreement
    """Only those attempts that are well-formed and do not plead, with right or wrong for truth: a scorer that knows no
    arithmetic is near chance."""
    error: Estimate
    """Mean distance of a score from level / 9; groups whose attempts all read the same have no scores and do not
    count."""
    failed: Mapping[str, int]
    """Groups without scores, by `FailedGroup.reason`; they are in no other figure."""


def draw_set(kind: Kind, size: int, split: Split, count: int, *, seed: int) -> list[GradedGroup]:
    """So many groups; a smaller set is the beginning of a larger one."""
    rngs = (random.Random(f"{seed}|{kind}|{size}|{split}|{number}") for number in range(count))
    return [draw_group(rng, size, kind, split) for rng in rngs]


async def set_figures(name: str, judge: Judge, groups: Sequence[GradedGroup]) -> SetFigures:
    """What the judge makes of these groups."""
    results = await judged(judge, groups)
    return compared(name, groups, [scores_of(result) for result in results], failed=reasons(results))


async def judged(judge: Judge, groups: Sequence[GradedGroup], *, orders: Orders = 1) -> list[ScoredGroup | FailedGroup]:
    """One result a group, through `Ruler`; ids of groups are their places."""
    return await ruler_of(judge, orders).score_many([group.group(str(place)) for place, group in enumerate(groups)])


def compared(
    name: str, groups: Sequence[GradedGroup], scores: Sequence[Scores], *, failed: Mapping[str, int] | None = None
) -> SetFigures:
    """Scores, of whoever gave them, beside the graded truth.

    Args:
        name: of the figures.
        groups: what was scored.
        scores: one entry a group.
        failed: why some have none, reason -> number.
    """
    known = [(str(place), group, own) for place, (group, own) in enumerate(zip(groups, scores, strict=True)) if own]
    lost = {"": len(groups) - len(known)}
    levels = [agree(own, [grade.level for grade in group.grades], group_id=id) for id, group, own in known]
    right = []
    for id, group, own in known:
        told = [
            (score, float(grade.right))
            for score, grade, attempt in zip(own, group.grades, group.attempts, strict=True)
            if grade.well_formed and not attempt.pleads
        ]
        right.append(agree([score for score, _ in told], [truth for _, truth in told], group_id=id))
    errors = [None if _all_alike(group) else _error(group, own) for _, group, own in known]
    return SetFigures(
        name=name,
        agreement=summarise(levels, failed=lost).overall,
        right_vs_wrong=summarise(right, failed=lost).overall,
        error=pooled([Unit("", None, id) for id, _, _ in known], errors),
        failed=dict(failed or {}),
    )


def _error(group: GradedGroup, scores: Sequence[float]) -> float:
    return fmean(abs(score - grade.level / MAX_LEVEL) for score, grade in zip(scores, group.grades, strict=True))


def _all_alike(group: GradedGroup) -> bool:
    return len(set(map(as_read, group.attempts))) == 1


def as_read(attempt: Attempt) -> tuple[str, bool]:
    """What a judge is shown of an attempt: equal ones are judged once."""
    return attempt.text, attempt.cut_off


def reasons(results: Sequence[ScoredGroup | FailedGroup]) -> dict[str, int]:
    """Why groups have no scores: reason -> number."""
    return dict(Counter(result.reason for result in results if isinstance(result, FailedGroup)))


def ruler_of(judge: Judge, orders: Orders = 1) -> Ruler:
    """Whom all measures ask."""
    return Ruler(judge, orders=orders, max_block=_MAX_BLOCK, notes=OPTIONS.notes, concurrency=CONCURRENCY)


def draw_different(seed: int, number: int) -> GradedGroup:
    """A plain held-out group of SIZE attempts that all read differently, so that a prompt shows as many."""
    rng = random.Random(f"{seed}|different|{number}")
    while True:
        drawn = draw_group(rng, 3 * SIZE, "plain", "held_out")
        different = list({as_read(attempt): attempt for attempt in drawn.attempts}.values())
        if len(different) >= SIZE:
            return graded(drawn.question, different[:SIZE])
