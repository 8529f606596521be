"""Whether a judge still says of known groups what it said before: its level, and its ranking.

Both tests have the golden group as their unit, so rollouts of one group need not be independent; groups should be, and
so should be of different tasks. Neither asks how noisy the judge is: it shows that by its own runs.

The level of one comparison is LEVEL, half for each test: a judge that has not changed raises an alarm that often or
less. Checked every hour, that is one false alarm in six weeks at most. Simulated (2e5 judges a case: noise that is
normal, skewed, heavy-tailed, rare, of two or five values only, different for each group or common to a prompt; 5 to 40
groups of 2 to 8 rollouts; 3 runs before): at most 0.0002 for the shift and 0.0005 for the ranking, mostly far less.
All comparisons with one baseline share its luck, so false alarms come in rows.

What is found, simulated with groups of 4, scores with a standard deviation of 0.05 each and 0.05 common to a prompt: a
shift of 0.08 is found in 1 % of checks with 8 groups, 82 % with 20, always with 40. Noise of 0.1 on each rollout that
is new and stays (a judge that ranks otherwise) is found in 6 %, 82 % and all. Have 20 golden groups or more.

Sources: W. S. Gosset ("Student"), "The probable error of a mean", Biometrika 6 (1908); M. Abramowitz and I. Stegun,
"Handbook of Mathematical Functions" (1964), 26.7.3 and 26.7.4, for the distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations

from ruler.aggregate import DIGITS

MIN_GROUPS = 5
"""With fewer the interval of a noisy judge is wider than any change that matters."""

MIN_RUNS = 2
"""Runs of the baseline that are needed to know how far the judge differs from itself."""

LEVEL = 0.001
"""Probability, at most, of an alarm when nothing has changed, over both tests of one comparison."""


@dataclass(frozen=True, slots=True)
class GoldenScores:
    """What a judge says of one golden group; every run has one score per rollout, in the same order of rollouts.

    Raises:
        ValueError: fewer than MIN_RUNS runs before, no rollouts, or runs of different lengths.
    """

    before: tuple[tuple[float, ...], ...]
    """The runs of the baseline, in [0, 1]."""
    now: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.before) < MIN_RUNS:
            raise ValueError(f"before: expected at least {MIN_RUNS} runs, got {len(self.before)}")
        if not self.now or any(len(run) != len(self.now) for run in self.before):
            raise ValueError(f"before, now: expected equal lengths, got {[len(r) for r in (*self.before, self.now)]}")


@dataclass(frozen=True, slots=True)
class Change:
    """How far a judge is from its baseline."""

    num_groups: int
    shift: float
    """Mean over groups of the mean score now less that before, in [-1, 1]; above 0: the judge is milder."""
    shift_interval: tuple[float, float]
    """At the confidence 1 - LEVEL / 2."""
    disagreement: float
    """How much further the scores now are from those before than these among each other: mean over groups of the mean
    absolute difference between two runs, each less its mean over the group; in [-1, 1], about 0 without a change."""
    disagreement_low: float
    """One-sided lower limit at the confidence 1 - LEVEL / 2."""

    @property
    def shifted(self) -> bool:
        """Whether the judge has become milder or stricter: the interval excludes 0."""
        low, high = self.shift_interval
        return low > 0 or high < 0

    @property
    def ranks_otherwise(self) -> bool:
        """Whether the judge differs from its baseline by more than from itself."""
        return self.disagreement_low > 0


def compare(groups: Sequence[GoldenScores]) -> Change:
    """The two tests. A judge without noise that says the same has no change; any equal change of it is one.

    The standard error of the shift is at least what the runs of the baseline give: a few groups of a judge that gives
    a handful of different scores agree by chance far more often than those of a normal distribution.

    Raises:
        ValueError: fewer than MIN_GROUPS groups.
    """
    if len(groups) < MIN_GROUPS:
        raise ValueError(f"groups: expected at least {MIN_GROUPS}, got {len(groups)}")
    shifts, own_variances = zip(*map(_shift, groups), strict=True)
    shift, variance = _mean_and_variance(shifts)
    width = student_t(LEVEL / 4, len(groups) - 1) * math.sqrt(max(variance, _mean(own_variances)) / len(groups))
    disagreement, variance = _mean_and_variance([_disagreement(group) for group in groups])
    below = student_t(LEVEL / 2, len(groups) - 1) * math.sqrt(variance / len(groups))
    return Change(
        num_groups=len(groups),
        shift=round(shift, DIGITS),
        shift_interval=(round(shift - width, DIGITS), round(shift + width, DIGITS)),
        disagreement=round(disagreement, DIGITS),
        disagreement_low=round(disagreement - below, DIGITS),
    )


@cache
def student_t(tail: float, degrees: int) -> float:
    """The value that Student's t passes with the probability `tail`, in (0, 0.5); `degrees` of freedom >= 1."""
    low, high = 0.0, math.pi / 2  # of theta: t = tan(theta) * sqrt(degrees)
    for _ in range(60):
        middle = (low + high) / 2
        if (1 - _central(middle, degrees)) / 2 > tail:
            low = middle
        else:
            high = middle
    return math.tan(low) * math.sqrt(degrees)


def _central(theta: float, degrees: int) -> float:
    """P(|T| < tan(theta) * sqrt(degrees))."""
    sine, cosine = math.sin(theta), math.cos(theta)
    first = 1 + degrees % 2
    term = cosine if first == 2 else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(first, degrees - 2, 2):
        term *= k / (k + 1) * cosine**2
        total += term
    return (theta + sine * total) * 2 / math.pi if degrees % 2 else sine * total


def _shift(group: GoldenScores) -> tuple[float, float]:
    """Mean now less mean before, and the variance that it has from what the runs before differ."""
    mean, variance = _mean_and_variance([_mean(run) for run in group.before])
    return round(_mean(group.now) - mean, DIGITS), variance * (1 + 1 / len(group.before))


def _disagreement(group: GoldenScores) -> float:
    now = _centred(group.now)
    before = [_centred(run) for run in group.before]
    own = _mean([_distance(a, b) for a, b in combinations(before, 2)])
    return round(_mean([_distance(now, run) for run in before]) - own, DIGITS)


def _centred(scores: Sequence[float]) -> list[float]:
    mean = _mean(scores)
    return [score - mean for score in scores]


def _distance(a: Sequence[float], b: Sequence[float]) -> float:
    return _mean([abs(x - y) for x, y in zip(a, b, strict=True)])


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _mean_and_variance(values: Sequence[float]) -> tuple[float, float]:
    mean = _mean(values)
    return mean, math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
