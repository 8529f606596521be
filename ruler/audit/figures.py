"""What the parts of an audit share: means with intervals over groups, and two askings of one group beside each other.

Every group counts once, whatever its source: an audit speaks of the groups it was given. Groups of one task
(`split_key`) are resampled together.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from ruler.aggregate import DIGITS
from ruler.evaluation import cluster_of
from ruler.intervals import Estimate, Interval, Unit, design
from ruler.types import Group, JudgedOrder

NOTHING = Estimate(None, None, 0, 0)
"""The mean of no values."""
CORRELATION: Interval = (-1.0, 1.0)
DIFFERENCE: Interval = (-1.0, 1.0)


def unit_of(group: Group) -> Unit:
    """Where a group stands; several values of one group (attacks, prompts) have the same cluster."""
    return Unit("", cluster_of(group) or f"group {group.id}", group.id)


def pooled(
    units: Sequence[Unit],
    values: Sequence[float | None],
    *,
    bounds: Interval = (0.0, 1.0),
    confidence: float = 0.95,
) -> Estimate:
    """The mean over the values there are, with its interval over clusters.

    Args:
        units: one a value, all of one source.
        values: None: there is none.
        bounds: least and greatest possible value.
        confidence: of the interval, in (0, 1).
    """
    if all(value is None for value in values):
        return NOTHING
    return design(units, confidence=confidence).means(values, bounds=bounds).overall


def order_scores(judged: Iterable[JudgedOrder]) -> list[dict[str, float]]:
    """For each order, the first one first, rollout id -> score as the judge gave it.

    Of rollouts that read the same only the first is there; one that an order shows twice has the mean of both.
    """
    found: defaultdict[int, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in judged:
        for name, score in zip(one.rollout_ids, one.scores, strict=True):
            found[one.order][name].append(score)
    return [
        {name: math.fsum(scores) / len(scores) for name, scores in order.items()} for _, order in sorted(found.items())
    ]


def centred(scores: Mapping[str, float]) -> dict[str, float]:
    """The scores less their mean: what is left of them in an advantage."""
    mean = math.fsum(scores.values()) / len(scores)
    return {name: round(score - mean, DIGITS) for name, score in scores.items()}


@dataclass(frozen=True, slots=True)
class GroupChange:
    """What differs between two askings of one group, or on average between several; of two rollouts or more."""

    moved: float
    """Mean over rollouts of how far the score, less the mean of its group, moved; in [0, 1]."""
    flipped: float
    """Share of the pairs of rollouts that the two askings order the other way round, in [0, 1]."""
    tied: float
    """Share of the pairs to which one of the askings gives equal scores; none of them counts as flipped."""
    same: bool
    """Every score is the same."""


def group_change(first: Mapping[str, float], second: Mapping[str, float]) -> GroupChange:
    """Two askings of one group, rollout id -> score; both hold the same rollouts."""
    one, other = centred(first), centred(second)
    pairs = list(combinations(first, 2))
    signs = [((first[a] > first[b]) - (first[a] < first[b])) * ((second[a] > second[b]) - (second[a] < second[b]))
             for a, b in pairs]  # fmt: skip
    return GroupChange(
        moved=round(math.fsum(abs(one[name] - other[name]) for name in one) / len(one), DIGITS),
        flipped=signs.count(-1) / len(pairs),
        tied=signs.count(0) / len(pairs),
        same=first == second,
    )


def mean_change(changes: Sequence[GroupChange]) -> GroupChange:
    """The mean over one or more pairs of askings of one group."""
    return GroupChange(
        moved=round(math.fsum(one.moved for one in changes) / len(changes), DIGITS),
        flipped=math.fsum(one.flipped for one in changes) / len(changes),
        tied=math.fsum(one.tied for one in changes) / len(changes),
        same=all(one.same for one in changes),
    )


@dataclass(frozen=True, slots=True)
class Change:
    """What differs between askings of the same groups: means over groups."""

    moved: Estimate
    """How far a score, less the mean of its group, moves; in units of score (0 to 1)."""
    flipped: Estimate
    """Share of the pairs of a group that come out the other way round."""
    tied: Estimate
    """Share of the pairs with equal scores in one of the two; none of them counts as flipped."""

    @classmethod
    def of(cls, units: Sequence[Unit], changes: Sequence[GroupChange | None]) -> Change:
        """The means; None: a group that was not asked twice."""
        return cls(
            moved=pooled(units, [None if change is None else change.moved for change in changes]),
            flipped=pooled(units, [None if change is None else change.flipped for change in changes]),
            tied=pooled(units, [None if change is None else change.tied for change in changes]),
        )


def excess(units: Sequence[Unit], more: Sequence[GroupChange | None], less: Sequence[GroupChange | None]) -> Estimate:
    """How much further scores move in one change than in the other, over the groups that have both."""
    both = zip(more, less, strict=True)
    return pooled(units, [a.moved - b.moved if a and b else None for a, b in both], bounds=DIFFERENCE)
