"""What a student is worth on groups that it was not trained on: beside its teacher, and beside truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeAlias

from ruler.agreement import GroupAgreement, agree, unit_of
from ruler.evaluation import agreements, cluster_of, has_truth, source_of
from ruler.intervals import Estimate, design
from trainer.distill.lessons import Material

Taught: TypeAlias = tuple[Material, Mapping[str, float]]
"""A group, and rollout id -> the teacher's score in [0, 1]."""
Scores: TypeAlias = tuple[float, ...]
"""In [0, 1], in the order of a group's rollouts."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A student on the held-out groups that the teacher scored. Means over groups, then over sources; 95 %."""

    agreement: Estimate
    """Share of the pairs that the teacher's scores order, which the student's order alike, in [0, 1], chance 0.5;
    equal scores of the student count 1/2."""
    distance: Estimate
    """Mean absolute difference between its scores and the teacher's, in [0, 1]."""
    accuracy: Estimate
    """Share of the pairs with different truth that it orders as truth does, in [0, 1]; without truth no value."""
    failed: int
    """Held-out groups that it could not score; they are in no other figure."""


def measured(held_out: Sequence[Taught], scores: Mapping[Material, Scores]) -> Measured:
    """How these scores agree with the teacher's, and with truth where there is some.

    Args:
        held_out: groups, each with the teacher's scores.
        scores: of the student; groups that it could not score are not in it.
    """
    found, distances = [], []
    for item, taught in held_out:
        if item in scores:
            group, due = item.labelled.group, in_order(item, taught)
            own = scores[item]
            found.append(agree(own, due, group_id=group.id, source=source_of(group), cluster=cluster_of(group)))
            distances.append(fmean(abs(a - b) for a, b in zip(own, due, strict=True)))
    by_truth = against_truth(held_out, scores)
    return Measured(
        agreement=mean(found, [group.accuracy for group in found]),
        distance=mean(found, distances),
        accuracy=mean(by_truth, [group.accuracy for group in by_truth]),
        failed=len(held_out) - len(found),
    )


def in_order(item: Material, scores: Mapping[str, float]) -> Scores:
    """Scores by rollout id, in the order of the group's rollouts."""
    return tuple(scores[rollout.id] for rollout in item.labelled.group.rollouts)


def against_truth(held_out: Sequence[Taught], scores: Mapping[Material, Scores]) -> list[GroupAgreement]:
    """The scores beside truth, for the groups that have both."""
    items = [item for item, _ in held_out if has_truth(item.labelled)]
    return agreements([item.labelled for item in items], [scores.get(item) for item in items])


def mean(groups: Sequence[GroupAgreement], values: Sequence[float | None]) -> Estimate:
    """The mean over the groups that have a value, with its interval; over sources as `ruler.agreement.summarise`."""
    return design(map(unit_of, groups)).means(values).overall
