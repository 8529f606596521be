"""One scorer beside another on the same groups, and beside truth with errors in it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ruler.agreement import GroupAgreement, unit_of
from ruler.intervals import Estimate, Means, design

Verdict: TypeAlias = Literal["better", "worse", "no difference shown", "the same on every group", "no group to compare"]

_ROUNDING = 1e-9
"""What is no more than this away from 0 is a rounding error."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Accuracy of one scorer less that of another, on the groups that both scored."""

    sources: Mapping[str, Estimate]
    """In [-1, 1]; above 0: the first is better. `groups` are those that count: mixed, and scored by both."""
    overall: Estimate
    """The plain mean over sources that are not apart."""
    same: bool
    """Whether there are groups in `overall`, and each has the same accuracy under both."""

    @property
    def verdict(self) -> Verdict:
        """What the interval of `overall` allows to say: "better" or "worse" (the first scorer) only if it excludes 0.

        Of 20 comparisons of equals at 95 %, about one is "better" or "worse" by chance.
        """
        if self.overall.value is None:
            return "no group to compare"
        if self.same:
            return "the same on every group"
        low, high = self.overall.interval or (0.0, 0.0)
        return "better" if low > _ROUNDING else "worse" if high < -_ROUNDING else "no difference shown"

    @property
    def groups_needed(self) -> int | None:
        """About how many groups like these would show a difference of this size; None where it is shown already, or
        where there is nothing to reckon with (no interval, a difference of 0).
        """
        if self.verdict != "no difference shown":
            return None
        return groups_to_show(self.overall)


@dataclass(frozen=True, slots=True)
class PairNoise:
    """Pair-equivalent noise: the scores order pairs as truth would if each label were flipped with this probability."""

    noise: Means
    """1 - accuracy on mixed groups, in [0, 1]: 0 is truth, 0.5 chance. Binary truth that is flipped with probability x
    for each rollout has just x in the mean (both of a pair flipped: wrong; one: a tie). Equal noise is not equal
    training: flips fall anywhere, a judge errs on the same tasks again, and where it is led to."""
    false_signal: Means
    """Share of the groups with equal truth in which scores differ, in [0, 1]: there is nothing to learn from them."""
    false_spread: float | None
    """How far scores spread in those groups, as a share of how far they do in mixed ones (means over groups of the
    standard deviation); 0: what differs there hardly moves a policy, 1: as much as where there is something to learn.
    None where either kind of group is missing, or scores never differ in mixed ones."""


def difference(
    a: Sequence[GroupAgreement],
    b: Sequence[GroupAgreement],
    *,
    apart: Collection[str] = (),
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Difference:
    """Accuracy of `a` less that of `b`, group by group, paired by source and group id.

    Groups that only one of them has are left out, and so are groups that are not mixed; `Estimate.groups` says how many
    are left. Where both scored the same groups the draws are those of `summarise`.

    Args:
        a: the scorer that is "better" or "worse".
        b: the other.
        apart: sources that stay out of `overall`.
        resamples: number of bootstrap draws; 0: no intervals, and so no verdict but "the same on every group".
        seed: equal seeds, equal intervals.
        confidence: of the intervals, in (0, 1).

    Raises:
        ValueError: two groups of one scorer with the same source and id; a group with other pairs in `b` than in `a`
            (other truth, or another `min_gap`); `confidence` or `resamples` out of range.
    """
    others = _by_name(b, "b")
    both = [(group, others[name]) for name, group in _by_name(a, "a").items() if name in others]
    for one, other in both:
        if one.pairs != other.pairs:
            raise ValueError(
                f"group {one.group_id!r} of source {one.source!r}: {one.pairs} pairs in a and {other.pairs} in b; "
                "expected the same truth and min_gap"
            )
    mixed = [(one, other) for one, other in both if one.mixed]
    drawn = design(
        (unit_of(one) for one, _ in mixed), apart=apart, resamples=resamples, seed=seed, confidence=confidence
    )
    means = drawn.means([(one.correct - other.correct) / one.pairs for one, other in mixed], bounds=(-1, 1))
    counted = [one.correct == other.correct for one, other in mixed if one.source not in apart]
    return Difference(means.sources, means.overall, same=bool(counted) and all(counted))


def groups_to_show(estimate: Estimate, against: float = 0.0) -> int | None:
    """About how many groups like these would keep `against` out of the interval, if the value stayed as it is.

    Half the width of an interval shrinks with the square root of the groups. None without an interval, and where the
    value is `against` itself.
    """
    if estimate.interval is None or estimate.value is None or abs(estimate.value - against) <= _ROUNDING:
        return None
    low, high = estimate.interval
    half = estimate.value - low if estimate.value > against else high - estimate.value
    return math.ceil(estimate.groups * (half / abs(estimate.value - against)) ** 2)


def pair_noise(
    groups: Sequence[GroupAgreement],
    *,
    apart: Collection[str] = (),
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> PairNoise:
    """How noisy truth would have to be to agree with truth as the scores do; arguments and errors as of `summarise`.

    Groups that are not `binary` are left out, and so are sources without any. Without groups values are None.
    """

    def means(used: Sequence[GroupAgreement], values: Sequence[float | None]) -> Means:
        drawn = design(map(unit_of, used), apart=apart, resamples=resamples, seed=seed, confidence=confidence)
        found = drawn.means(values)
        return Means({name: one for name, one in found.sources.items() if one.groups}, found.overall)

    # All mixed groups, though only binary ones have a value: so these are the draws of `summarise`.
    mixed = [group for group in groups if group.mixed]
    level = [group for group in groups if group.binary and group.top_1 is None]
    return PairNoise(
        noise=means(mixed, [1 - group.correct / group.pairs if group.binary else None for group in mixed]),
        false_signal=means(level, [float(group.signal) for group in level]),
        false_spread=_spread_ratio(level, [group for group in mixed if group.binary], apart),
    )


def _spread_ratio(
    level: Sequence[GroupAgreement], mixed: Sequence[GroupAgreement], apart: Collection[str]
) -> float | None:
    spreads = [[group.spread for group in groups if group.source not in apart] for groups in (level, mixed)]
    if not all(spreads) or not any(spreads[1]):
        return None
    one, other = (math.fsum(own) / len(own) for own in spreads)
    return one / other


def _by_name(groups: Iterable[GroupAgreement], scorer: str) -> dict[tuple[str, str], GroupAgreement]:
    found: dict[tuple[str, str], GroupAgreement] = {}
    for group in groups:
        name = group.source, group.group_id
        if name in found:
            raise ValueError(f"{scorer}: two groups {group.group_id!r} of source {group.source!r}")
        found[name] = group
    return found
