"""Means over seeds and paired differences of arms, with t intervals, and what may be said of them.

The seed is the unit: it decides the warm policy, the prompts and the sampling, and all else that happens to a run
follows from it. Arms of one seed share them, so arms are compared by the differences within seeds.

What `python -m benchmarks.head_to_head.simulation paired` measures, 4,000 experiments for each figure, margin 0.02:

- Where differences are normal, the interval holds the true one in 94.6 to 95.9 % of the experiments, with 3, 5 and 10
  seeds. Arms that differ by just the margin are called equal in 0.7 to 3.1 %, where 2.5 % is the most there should be
  and 0.25 the standard error, at deviations from 0.005 to 0.03.
- Arms that do not differ are called equal in 87, 100 and 100 % with 3, 5 and 10 seeds at a deviation of 0.005; in 32,
  82 and 100 % at 0.01; in 6, 15 and 62 % at 0.02; in 2, 4 and 12 % at 0.03.
- Where one seed of five loses ten points, few seeds often have none such among them: the interval holds the true
  difference in 76, 69 and 90 %, and arms that differ by the margin, for just these falls, are called equal in up to 45,
  32 and 12 %. No interval makes up for what was not seen; more seeds do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal, TypeAlias

from scipy.special import chdtri, stdtrit

Interval: TypeAlias = tuple[float, float]
Verdict: TypeAlias = Literal["equal", "higher", "lower", "not shown", "too few seeds"]

CLAIM = 0.02
"""Half of the interval at which two points of 100 can be told from none."""
_ROUNDING = 1e-9
"""Shares are quotients of whole numbers below a million: what is nearer than this is the same."""


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over seeds."""

    num_seeds: int
    value: float | None
    """None without seeds."""
    interval: Interval | None
    """95 %, Student's t; None with fewer than two seeds."""


@dataclass(frozen=True, slots=True)
class Paired:
    """Differences of two arms, one per seed."""

    mean: Mean
    verdict: Verdict
    """equal: the interval lies inside the margin. Else higher or lower: it lies on one side of 0. Else not shown."""
    seeds_needed: int | None
    """For an interval of no more than two points to each side, at the deviation that was seen; None below two seeds."""
    seeds_needed_at_most: int | None
    """The same, at the upper 95 % bound of that deviation (chi square)."""


def mean_of(values: Sequence[float]) -> Mean:
    """The mean of one value per seed, with its t interval (Student, "The probable error of a mean", Biometrika 1908).

    The interval of a share is not cut off at 0 and 1: it says how far seeds spread, and a cut would hide that. Where
    all values are equal it has no width. That is what the formula says, not that a further seed could not differ: it
    happens where all policies sit at a floor or at a ceiling (0 right of 2,000), or where two seeds agree by chance in
    what their problems can resolve.

    Raises:
        ValueError: a value is not finite.
    """
    _check_finite("values", values)
    if not values:
        return Mean(0, None, None)
    value = fmean(values)
    if len(values) == 1:
        return Mean(1, value, None)
    half = _half_width(stdev(values), len(values))
    return Mean(len(values), value, (value - half, value + half))


def paired(differences: Sequence[float], *, margin: float) -> Paired:
    """What the differences of two arms, one per seed, allow to say.

    "equal" is two one-sided tests at 2.5 % (D. J. Schuirmann, J. Pharmacokinetics and Biopharmaceutics 15, 1987): the
    interval lies inside [-margin, margin], its ends included. It comes first: a difference that is shown but lies
    inside the margin is "equal" too. With equal differences the interval is a point, and the verdict follows from it
    as from any other: two arms that both end at 0 are "equal".

    Args:
        differences: in whatever unit; those of shares in [-1, 1].
        margin: differences inside of it count as equal; > 0, in the same unit.

    Returns:
        `seeds_needed` and `seeds_needed_at_most` are for a half-width of CLAIM, and so of use for shares alone.

    Raises:
        ValueError: a difference or the margin is not finite, or the margin is not above 0.
    """
    if not (math.isfinite(margin) and margin > 0):
        raise ValueError(f"margin: {margin} is not a finite number above 0")
    _check_finite("differences", differences)
    mean = mean_of(differences)
    if mean.interval is None:
        return Paired(mean, "too few seeds", None, None)
    deviation = stdev(differences)
    degrees = len(differences) - 1
    at_most = deviation * math.sqrt(degrees / float(chdtri(degrees, 0.95)))
    return Paired(mean, _verdict(mean.interval, margin), _seeds_needed(deviation), _seeds_needed(at_most))


def _check_finite(name: str, values: Sequence[float]) -> None:
    for value in values:
        if not math.isfinite(value):
            raise ValueError(f"{name}: {value} is not a finite number")


def _verdict(interval: Interval, margin: float) -> Verdict:
    low, high = interval
    if -margin - _ROUNDING <= low and high <= margin + _ROUNDING:
        return "equal"
    if low > _ROUNDING:
        return "higher"
    return "lower" if high < -_ROUNDING else "not shown"


def _seeds_needed(deviation: float) -> int:
    """Least number of seeds, two or more, whose t interval has a half-width of at most CLAIM."""
    seeds = max(2, math.floor((1.959 * deviation / CLAIM) ** 2))  # the normal interval, which is narrower
    while _half_width(deviation, seeds) > CLAIM:
        seeds += 1
    return seeds


def _half_width(deviation: float, seeds: int) -> float:
    return float(stdtrit(seeds - 1, 0.975)) * deviation / math.sqrt(seeds)
