"""Other orders of the same group, and the same order again: how far a judge agrees with itself.

Sources: Spearman and Brown, British Journal of Psychology 3 (1910), for what further orders bring; P. E. Shrout and
J. L. Fleiss, "Intraclass correlations", Psychological Bulletin 86 (1979).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from ruler.aggregate import agreement, spearman_brown
from ruler.agreement import correlation
from ruler.audit.figures import (
    CORRELATION,
    Change,
    GroupChange,
    centred,
    excess,
    group_change,
    mean_change,
    order_scores,
    pooled,
)
from ruler.intervals import Estimate, Unit
from ruler.types import Judge, JudgedOrder, JudgeReply, JudgeRequest, judge_info

PLANNED = (1, 2, 4)
"""Numbers of orders that are planned for."""


class RepeatedJudge:
    """Another judge, asked everything for the n-th independent time (`JudgeRequest.repeat`)."""

    def __init__(self, judge: Judge, repeat: int = 1) -> None:
        self._judge = judge
        self._repeat = repeat
        self.info = judge_info(judge)

    async def __call__(self, request: JudgeRequest) -> JudgeReply:
        """What the judge says this time."""
        return await self._judge(replace(request, repeat=self._repeat))


@dataclass(frozen=True, slots=True)
class PlannedOrders:
    """What the mean of so many orders would be worth."""

    orders: int
    reliability: float
    """Part of the spread of scores that comes back in other orders, in [0, 1] (Spearman-Brown)."""
    r: float | None
    """Expected correlation with truth within groups; None without truth."""


@dataclass(frozen=True, slots=True)
class Swaps:
    """The orders of each group beside each other.

    All pairs of orders are compared: the second alone is the first one shifted by half, so it would hide whatever
    comes twice in a prompt (a judge of every other slot, in groups of four or eight).
    """

    change: Change
    """Mean over the pairs of orders of a group, then over groups."""
    agreement: Estimate
    """Of the first two orders: mean of `ruler.aggregate.agreement` over groups in which not all their scores are equal,
    in [-1, 1]."""
    rho: float | None
    """Correlation of a rollout's score in one order with that in another, both less the mean of their group, over all
    rollouts and all pairs of orders, none of which is the first (the intraclass correlation); in [-1, 1], None where
    all scores of every order are equal. Slot bias lowers it."""
    planned: tuple[PlannedOrders, ...]
    """For 1, 2 and 4 orders; empty without rho. Balanced orders do a little better where slot bias is large, because
    they take it away instead of averaging it."""


def swaps(
    units: Sequence[Unit],
    judged: Sequence[Sequence[JudgedOrder]],
    truth: Sequence[Mapping[str, float] | None],
) -> Swaps:
    """What another order changes.

    Args:
        units: where each group stands.
        judged: all prompts of each group; empty: it has no scores, and counts nowhere.
        truth: rollout id -> truth; None: not known.
    """
    agreements: list[float | None] = []
    correlations: list[float | None] = []
    products: list[float] = []
    squares: list[float] = []
    for prompts, known in zip(judged, truth, strict=True):
        orders = order_scores(prompts)
        agreements.append(None if not _has_signal(orders[:2]) else agreement(prompts))
        correlations.append(_with_truth(orders, known))
        if len(orders) > 1:
            whole = [centred(scores) for scores in orders]
            pairs = [math.fsum(one[name] * other[name] for name in one) for one, other in combinations(whole, 2)]
            products.append(math.fsum(pairs) / len(pairs))
            squares.append(math.fsum(score * score for one in whole for score in one.values()) / len(whole))
    # Summed exactly: no figure may depend on the order of the file, not even in its last digit.
    spread = math.fsum(squares)
    rho = max(-1.0, min(1.0, math.fsum(products) / spread)) if spread else None
    known_r = [r for r in correlations if r is not None]
    r = math.fsum(known_r) / len(known_r) if known_r else None
    return Swaps(
        change=Change.of(units, order_changes(judged)),
        agreement=pooled(units, agreements, bounds=CORRELATION),
        rho=rho,
        planned=() if rho is None else tuple(_planned(k, rho, r) for k in PLANNED),
    )


def order_changes(judged: Sequence[Sequence[JudgedOrder]]) -> list[GroupChange | None]:
    """The mean over all pairs of orders of each group; None where there is only one order, or none."""
    found = [list(combinations(order_scores(prompts), 2)) for prompts in judged]
    return [mean_change([group_change(*pair) for pair in pairs]) if pairs else None for pairs in found]


@dataclass(frozen=True, slots=True)
class Repeats:
    """The first order of each group asked again."""

    change: Change
    other_order: Change
    """Pairs of different orders, on the same groups: noise and position together."""
    excess: Estimate
    """How much further another order moves a score than asking again does."""
    groups: int
    identical: int
    """Groups of which every score came back the same."""
    failed: int

    @property
    def deterministic(self) -> bool:
        """Whether nothing ever changed."""
        return 0 < self.groups == self.identical


def repeats(
    units: Sequence[Unit],
    judged: Sequence[Sequence[JudgedOrder]],
    again: Sequence[Sequence[JudgedOrder]],
    *,
    failed: int,
) -> Repeats:
    """What asking again changes; of each group the prompts of both askings, none where there are no scores."""
    same_order = repeat_changes(judged, again)
    other = order_changes(judged)
    both = [change if repeat else None for change, repeat in zip(other, same_order, strict=True)]
    return Repeats(
        change=Change.of(units, same_order),
        other_order=Change.of(units, both),
        excess=excess(units, other, same_order),
        groups=sum(1 for change in same_order if change),
        identical=sum(1 for change in same_order if change and change.same),
        failed=failed,
    )


def repeat_changes(
    judged: Sequence[Sequence[JudgedOrder]], again: Sequence[Sequence[JudgedOrder]]
) -> list[GroupChange | None]:
    """The first orders of two askings of each group; None where one of them has no scores."""
    return [
        group_change(order_scores(first)[0], order_scores(second)[0]) if first and second else None
        for first, second in zip(judged, again, strict=True)
    ]


def _has_signal(orders: Sequence[Mapping[str, float]]) -> bool:
    return any(len(set(scores.values())) > 1 for scores in orders)


def _with_truth(orders: Sequence[Mapping[str, float]], truth: Mapping[str, float] | None) -> float | None:
    """Correlation with truth of the scores of one order, the mean over the orders that have one."""
    if truth is None:
        return None
    found = [correlation(list(scores.values()), [truth[name] for name in scores]) for scores in orders]
    known = [r for r in found if r is not None]
    return math.fsum(known) / len(known) if known else None


def _planned(orders: int, rho: float, r: float | None) -> PlannedOrders:
    common = max(0.0, rho)
    raised = None if r is None else max(-1.0, min(1.0, r * math.sqrt(orders / (1 + (orders - 1) * common))))
    return PlannedOrders(orders, spearman_brown(rho, orders) or 0.0, raised)
