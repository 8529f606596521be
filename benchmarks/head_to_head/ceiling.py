"""Where a curve of truth over compute would end: the ScaleRL fit, said only where the curve is long enough.

The formula is that of ScaleRL (D. Khatri et al., "The art of scaling reinforcement learning compute for LLMs", arXiv
2510.13786). Its start is measured, not fitted: it is the one point that is known, and three unknowns are enough for a
curve of ten points. The ceiling may be fitted above 1, where truth cannot be: held at 1, every curve that still
rises would seem to end there, and to be sure of it.

Intervals come from a bootstrap over seeds (B. Efron and R. Tibshirani, "An Introduction to the Bootstrap", 1993), in
which all points of a seed go together. Three to five seeds are too few for its percentiles. It gives a standard error,
widened by sqrt(n / (n - 1)) and multiplied by the quantile of Student's t with n - 1 degrees of freedom; that of Cmid
on a logarithmic scale. From three seeds it may be small by luck, and lucky ones are just what would be reported. So no
interval is narrower than the scatter of the points around the curves of their own seeds makes it.

What `python -m benchmarks.head_to_head.simulation ceiling` measures, with 3 and 5 seeds, 10 points of 400 problems each
as the benchmark has them, 100 experiments for each figure:

- Half of the way done after 3 to 8 % of the run, a ceiling of 0.95: reported in 36 and 75 % of the experiments, and
  wrong (the interval does not hold the ceiling) in none. After 10 to 20 %: reported in 13 and 38 %, wrong in 4 and 5 %;
  a ceiling of 0.98: 19 and 50 %, 0 and 5 %; of 0.70: 10 and 21 %, 1 and 2 %.
- After 25 to 40 %: reported in 2 and 6 %, wrong in 1 and 2 %: the few that are reported are often wrong.
- After 70 % or more of the run, and logarithms: none is reported.

With 16 points of 500 problems, straight lines and falling arms are never reported, flat ones in at most 0.5 %. Power
laws, which bend and go on to 1, are reported in 2 to 6 and 16 %; all but 0.5 % of the experiments hold the value at
four times the run. A ceiling is what the formula says, not what is reached in the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from scipy.special import stdtrit

from benchmarks.head_to_head.ceiling_fit import LONGEST_HALF, Curve, Fit, Fits
from benchmarks.head_to_head.paired import Interval

MIN_SEEDS = 3
MIN_POINTS = 5
"""After the start, of each seed: three are what the formula takes, and what is over says how far points scatter."""
WIDEST = 0.1
"""An interval of a ceiling wider than that says too little."""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """R(C) = R0 + (A - R0) / (1 + (Cmid / C) ** B) of one arm (ScaleRL, arXiv 2510.13786)."""

    start: float | None
    """R0, as it was measured: the mean of the seeds; None without seeds."""
    ceiling: float | None
    """A, 1 at most. None where nothing could be fitted; not to be shown unless `reported`."""
    interval: Interval | None
    """95 %, of the ceiling, inside [0, 1]. None with fewer than two seeds."""
    half: float | None
    """Cmid: tokens after which half of the way is done."""
    half_at_most: float | None
    """Its upper 95 % bound, one-sided. None with fewer than two seeds, and where it is beyond fifty times the curve."""
    exponent: float | None
    """B."""
    too_short: tuple[str, ...]
    """What is missing for the ceiling to be said, one thing a line, with what would be needed; empty: nothing."""

    @property
    def reported(self) -> bool:
        """Whether the ceiling may be said."""
        return not self.too_short


def fit_ceiling(curves: Sequence[Curve]) -> Ceiling:
    """The ceiling of an arm, from one curve per seed.

    It is reported only with three seeds, if the upper 95 % bound of Cmid is at most half of the shortest curve, the
    interval of A is at most 0.1 wide before it is cut off at 0 and 1, and it lies above the start. A reported ceiling
    is that of the formula: a curve of another shape that has bent down may go on to rise slowly, beyond the interval.

    Args:
        curves: of one arm, in any order; their lengths and token counts may differ. Each seed counts the same, however
            many points it has.

    Returns:
        The same for the same curves, on every run. Curves that fall are fitted too, and never reported.

    Raises:
        ValueError: a curve does not start at 0 tokens, has tokens that do not rise, or a number that is not finite, or
            truth outside [0, 1].
    """
    for curve in curves:
        _check(curve)
    known = sorted(list(curve) for curve in curves if curve)
    start = fmean(curve[0][1] for curve in known) if known else None
    missing = []
    if len(known) < MIN_SEEDS:
        missing.append(f"{MIN_SEEDS} seeds are needed; there {_count(len(known))}.")
    fewest = min((len(curve) - 1 for curve in known), default=MIN_POINTS)
    if fewest < MIN_POINTS:
        missing.append(f"{MIN_POINTS} measurements after the start are needed of every seed; one has {fewest}.")
    if start is None or fewest < MIN_POINTS:
        return Ceiling(start, None, None, None, None, None, tuple(missing))
    fits = Fits(known)
    fit = fits.of([1.0] * len(known))
    wide, half_at_most = _bounds(fits, fit) if len(known) > 1 else (None, None)
    missing += _rise(fit.ceiling, wide, start)
    if wide is not None and fit.ceiling > start:
        missing += _half(half_at_most, fits.end)
        if wide[0] > start:
            missing += _width(wide, len(known))
    return Ceiling(
        start=start,
        ceiling=_inside(fit.ceiling),
        interval=wide and (_inside(wide[0]), _inside(wide[1])),
        half=math.exp(fit.log_half) * fits.end,
        half_at_most=half_at_most,
        exponent=math.exp(fit.log_exponent),
        too_short=tuple(missing),
    )


def _bounds(fits: Fits, fit: Fit) -> tuple[Interval, float | None]:
    """95 % interval of the ceiling, and the upper 95 % bound of Cmid in tokens."""
    by_seeds = fits.from_seeds()
    by_scatter, degrees = fits.from_scatter(fit)

    def half_width(parameter: int, confidence: float) -> float:
        return max(
            float(by_seeds[parameter] * stdtrit(fits.num_seeds - 1, confidence)),
            float(by_scatter[parameter] * stdtrit(degrees, confidence)),
        )

    beside = half_width(0, 0.975)
    log_half = fit.log_half + half_width(1, 0.95)
    half_at_most = math.exp(log_half) * fits.end if log_half < LONGEST_HALF else None
    return (fit.ceiling - beside, fit.ceiling + beside), half_at_most


def _rise(ceiling: float, interval: Interval | None, start: float) -> list[str]:
    if ceiling <= start:
        return [f"Truth does not rise: it starts at {start:.2f}, and the curve goes to {_inside(ceiling):.2f}."]
    if interval is not None and interval[0] <= start:
        return [
            f"The ceiling is not shown to lie above the start of {start:.2f}: its interval begins at "
            f"{_inside(interval[0]):.2f}. A longer curve or more seeds are needed."
        ]
    if interval is not None and interval[0] > 1:
        return ["The formula finds its ceiling above 1, where truth cannot be: the curve would have to bend."]
    return []


def _half(half_at_most: float | None, end: float) -> list[str]:
    if half_at_most is None:
        return [f"The curve ends at {end:,.0f} tokens and is not shown to bend by then; it has to be longer."]
    if half_at_most <= end / 2:
        return []
    return [
        f"Half of the way may take up to {half_at_most:,.0f} tokens; the curve would have to reach "
        f"{2 * half_at_most:,.0f}, and ends at {end:,.0f}."
    ]


def _width(interval: Interval, num_seeds: int) -> list[str]:
    half_width = (interval[1] - interval[0]) / 2
    if half_width <= WIDEST / 2:
        return []
    seeds = _seeds(half_width, num_seeds)
    return [f"The ceiling is known to ± {half_width:.3f}, and ± {WIDEST / 2:g} is needed: {seeds}, or a longer curve."]


def _seeds(half_width: float, num_seeds: int) -> str:
    """How many like these would make the interval narrow enough."""
    error = half_width / stdtrit(num_seeds - 1, 0.975) * math.sqrt(num_seeds)
    for seeds in range(num_seeds + 1, 101):
        if stdtrit(seeds - 1, 0.975) * error / math.sqrt(seeds) <= WIDEST / 2:
            return f"about {seeds} seeds"
    return "more than 100 seeds"


def _check(curve: Curve) -> None:
    """Raises ValueError."""
    for tokens, truth in curve:
        if not math.isfinite(tokens):
            raise ValueError(f"curves: {tokens} tokens is not a finite number")
        if not 0 <= truth <= 1:  # nan too
            raise ValueError(f"curves: a truth of {truth} is not in [0, 1]")
    if curve and curve[0][0] != 0:
        raise ValueError(f"curves: one starts at {curve[0][0]} tokens, not at 0")
    for (before, _), (after, _) in pairwise(curve):
        if after <= before:
            raise ValueError(f"curves: {after} tokens come after {before}")


def _inside(share: float) -> float:
    return min(max(share, 0.0), 1.0)


def _count(number: int) -> str:
    return "is 1" if number == 1 else f"are {number}"
