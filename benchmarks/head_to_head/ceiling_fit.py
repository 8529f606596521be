"""Least squares for R0 + (A - R0) / (1 + (Cmid / C) ** B) over all seeds of an arm, and how sure the parameters are."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.special import expit

Curve: TypeAlias = Sequence[tuple[float, float]]
"""(tokens sampled until then, truth), in order; the first is the start, at 0."""
_Array: TypeAlias = NDArray[np.float64]

_ENUMERATED = 6
"""Up to so many seeds all draws are gone through, 462 at most."""
_DRAWS = 400
_CEILINGS = (-1.0, 2.0)
"""Where a ceiling is looked for. At 2, a curve in [0, 1] has not done half of its way, so nothing is said of it."""
LONGEST_HALF = 4.0
"""Natural logarithm of Cmid as a share of the curve: 54 times as long as the curve is as far as is looked."""
_HALVES = (-12.0, LONGEST_HALF)
"""Where half of the way is looked for: natural logarithm of its share of the curve."""
_EXPONENTS = (math.log(0.1), math.log(10))
_NEAR = 1e-6
"""A fit ends when a step changes the squares, or the parameters, by no more than this share."""
_SEARCHED = np.meshgrid(np.linspace(-6.0, 1.5, 26), np.linspace(math.log(0.2), math.log(6), 14))
"""Halves and exponents at which each fit is tried before it is polished from the best of them."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The curve that comes nearest to the points."""

    ceiling: float
    log_half: float
    """Natural logarithm of Cmid's share of the curve."""
    log_exponent: float
    squares: float
    """Sum of squared distances, weighted."""
    slopes: _Array
    """points x 3: how each weighted distance changes with ceiling, half and exponent."""

    @property
    def fitted(self) -> tuple[float, float, float]:
        return self.ceiling, self.log_half, self.log_exponent


class Fits:
    """All curves of an arm, to be fitted with seeds weighted so or so."""

    def __init__(self, curves: Sequence[Curve]) -> None:
        self.num_seeds = len(curves)
        self.end = min(curve[-1][0] for curve in curves)
        """Tokens up to which all seeds go."""
        self._starts = np.array([curve[0][1] for curve in curves])
        self.sizes = np.array([len(curve) - 1 for curve in curves])
        self._seeds = np.repeat(np.arange(len(curves)), self.sizes)
        points = [point for curve in curves for point in curve[1:]]
        self._logs = np.log([tokens / self.end for tokens, _ in points])
        self._truth = np.array([truth for _, truth in points])
        halves, exponents = (axis.ravel() for axis in _SEARCHED)
        self._shapes = np.column_stack([halves, exponents])
        self._done = _done(halves[:, None], exponents[:, None], self._logs)
        self._done_squared = self._done**2

    def of(self, times: Sequence[float]) -> Fit:
        """`times`: how often each seed counts."""
        counts = np.asarray(times, dtype=float)
        start = float(counts @ self._starts / counts.sum())
        weights = (counts / self.sizes)[self._seeds]
        used = weights > 0
        roots, logs, truth = np.sqrt(weights[used]), self._logs[used], self._truth[used]

        def distances(at: _Array) -> _Array:
            weighted: _Array = roots * (start + (at[0] - start) * _done(at[1], at[2], logs) - truth)
            return weighted

        def slopes(at: _Array) -> _Array:
            done = _done(at[1], at[2], logs)
            bend = np.exp(at[2]) * (at[0] - start) * done * (1 - done)
            return np.column_stack([roots * done, -roots * bend, -roots * bend * (at[1] - logs)])

        lowest, highest = np.transpose([_CEILINGS, _HALVES, _EXPONENTS])
        first = np.clip(self._nearest(weights, start), lowest, highest)
        found = least_squares(
            distances, first, slopes, bounds=(lowest, highest), method="dogbox", ftol=_NEAR, xtol=_NEAR, max_nfev=100
        )
        ceiling, log_half, log_exponent = (float(value) for value in found.x)
        return Fit(ceiling, log_half, log_exponent, 2 * float(found.cost), found.jac)

    def _nearest(self, weights: _Array, start: float) -> _Array:
        """Of the shapes that are searched, each with its best ceiling, the one that comes nearest."""
        above = self._truth - start
        norms = self._done_squared @ weights
        gains = self._done @ (weights * above) / norms
        allowed = (gains + start > _CEILINGS[0]) & (gains + start < _CEILINGS[1])
        best = int(np.argmax(np.where(allowed, gains**2 * norms, -1.0)))
        return np.array([start + gains[best], *self._shapes[best]])

    def from_seeds(self) -> _Array:
        """Standard errors of ceiling, log half and log exponent, by the bootstrap over seeds."""
        shares, fitted = [], []
        for share, times in _draws(self.num_seeds):
            shares.append(share)
            fitted.append(self.of(times).fitted)
        means = np.average(fitted, axis=0, weights=shares)
        variances = np.average((np.array(fitted) - means) ** 2, axis=0, weights=shares)
        errors: _Array = np.sqrt(variances * self.num_seeds / (self.num_seeds - 1))
        return errors

    def from_scatter(self, fit: Fit) -> tuple[_Array, int]:
        """What the same standard errors would be if seeds did not differ but for the scatter around their own curves,
        and the degrees of freedom that it has; `fit`: of all seeds.
        """
        alone = [
            self.of(times).squares * size
            for times, size in zip(np.eye(self.num_seeds).tolist(), self.sizes, strict=True)
        ]
        degrees = int(self.sizes.sum()) - 3 * self.num_seeds
        bread = np.linalg.pinv(fit.slopes.T @ fit.slopes)
        weighted = fit.slopes / np.sqrt(self.sizes[self._seeds])[:, None]
        covariance = bread @ (weighted.T @ weighted) @ bread * (math.fsum(alone) / degrees)
        return np.sqrt(np.diag(covariance)), degrees


def _done(log_half: Any, log_exponent: Any, logs: _Array) -> _Array:
    """Share of the way that is done, in [0, 1]."""
    done: _Array = expit(np.exp(log_exponent) * (logs - log_half))
    return done


def _draws(num_seeds: int) -> Iterator[tuple[float, list[float]]]:
    """Draws of as many seeds as there are, with replacement: probability, and how often each seed is among them."""
    if num_seeds <= _ENUMERATED:
        for drawn in combinations_with_replacement(range(num_seeds), num_seeds):
            times = Counter(drawn)
            ways = math.factorial(num_seeds) / math.prod(math.factorial(count) for count in times.values())
            yield ways / num_seeds**num_seeds, [float(times[seed]) for seed in range(num_seeds)]
        return
    rng = random.Random(f"ceiling over {num_seeds} seeds")
    for _ in range(_DRAWS):
        times = Counter(rng.choices(range(num_seeds), k=num_seeds))
        yield 1 / _DRAWS, [float(times[seed]) for seed in range(num_seeds)]
