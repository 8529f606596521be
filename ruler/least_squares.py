"""Scores of overlapping prompts: y = rollout + prompt + noise, by least squares with a ridge on what prompts add.

Sources: G. K. Robinson, "That BLUP is a good thing", Statistical Science 6 (1991), for the ridge on random effects;
M. F. Hutchinson, Communications in Statistics 19 (1990), for traces by random signs.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from operator import mul
from typing import TypeAlias

from ruler.orders import count_parts
from ruler.types import JudgedOrder

RIDGE = 1.0
"""On prompt offsets: variance of the noise of one score over that of the leniency of a call. In simulation (N 16 to 64,
blocks of 8, noise 0.6 of the true spread) the squared error is within 10 % of the best ridge's for any leniency from
none to twice the noise, and for a judge that scores only relative to the block. No ridge costs up to 20 % where calls
are equally lenient; 4 costs up to 50 % where they differ by twice the noise."""

_NUM_PROBES = 4

Values: TypeAlias = Sequence[Sequence[float]]
"""Prompt by prompt, slot by slot."""


class Design:
    """Which rollouts stand in which prompts."""

    def __init__(self, prompts: Sequence[JudgedOrder]) -> None:
        self.ids = list(dict.fromkeys(name for one in prompts for name in one.rollout_ids))
        index = {name: place for place, name in enumerate(self.ids)}
        self.prompts = [[index[name] for name in one.rollout_ids] for one in prompts]
        self.counts = Counter(rollout for shown in self.prompts for rollout in shown)
        self.size = len(self.ids)
        self.num_shown = sum(map(len, self.prompts))
        self.num_orders = len({one.order for one in prompts})
        self.is_whole = all(len(shown) == self.size for shown in self.prompts)

    @property
    def degrees(self) -> int:
        """Of freedom of the residuals, with one value fitted for each rollout and each prompt."""
        # Each part of prompts that are not linked has one value too many.
        return self.num_shown - self.size - len(self.prompts) + count_parts(self.prompts)

    def means(self, values: Values) -> list[float]:
        """Rollout by rollout."""
        columns: list[list[float]] = [[] for _ in self.ids]
        for shown, row in zip(self.prompts, values, strict=True):
            for rollout, value in zip(shown, row, strict=True):
                columns[rollout].append(value)
        return [math.fsum(column) / len(column) for column in columns]

    def offsets(self, values: Values, ridge: float) -> list[float]:
        """What each prompt adds to all its rollouts, by least squares; sums to 0."""
        means = self.means(values)
        right = [
            math.fsum(value - means[rollout] for rollout, value in zip(shown, row, strict=True))
            for shown, row in zip(self.prompts, values, strict=True)
        ]
        if self.is_whole and not ridge:
            return [total / self.size for total in right]
        return self.solve(right, ridge)

    def residual_squares(self, values: Values) -> list[float]:
        """Of each rollout the sum of squares that are left when rollouts and prompts are fitted."""
        # Without a ridge: what is left has a known number of degrees of freedom, however lenient calls are.
        rest = less(values, self.offsets(values, 0.0))
        means = self.means(rest)
        squares = [0.0] * self.size
        for shown, row in zip(self.prompts, rest, strict=True):
            for rollout, value in zip(shown, row, strict=True):
                squares[rollout] += (value - means[rollout]) ** 2
        return squares

    def solve(self, right: Sequence[float], ridge: float) -> list[float]:
        """The x with A x = right, where A are the normal equations of the offsets, rollouts eliminated.

        By conjugate gradients: A is sparse and, as blocks overlap at random, takes a dozen steps. Elimination would
        fill it. Without a ridge, `right` has to sum to 0 over prompts that are linked, and so does x.
        """
        x = [0.0] * len(right)
        residual = list(right)
        direction = list(right)
        square = _dot(residual, residual)
        # Without a ridge A is singular: below what rounding makes of scores of up to 1, only its null space grows.
        enough = max(square * 1e-26, len(right) * 1e-28)
        for _ in range(2 * len(right)):
            if square <= enough:
                break
            shares = self._averages(direction)
            image = [
                (len(shown) + ridge) * value - sum(shares[rollout] for rollout in shown)
                for shown, value in zip(self.prompts, direction, strict=True)
            ]
            curvature = _dot(direction, image)
            if curvature <= 0:  # only rounding errors are left
                break
            step = square / curvature
            x = [value + step * change for value, change in zip(x, direction, strict=True)]
            residual = [value - step * change for value, change in zip(residual, image, strict=True)]
            before, square = square, _dot(residual, residual)
            direction = [r + square / before * d for r, d in zip(residual, direction, strict=True)]
        return x

    def offset_error(self) -> float:
        """What estimated offsets add to the mean squared error of a score, in units of the noise of one score."""
        if self.is_whole:
            return 0.0
        number = len(self.prompts)
        if number <= 4 * _NUM_PROBES:
            probes = [[float(place == at) for place in range(number)] for at in range(number)]
            weight = 1.0
        else:
            probes = [[_sign(probe, place) for place in range(number)] for probe in range(_NUM_PROBES)]
            weight = 1 / _NUM_PROBES
        trace = 0.0
        for probe in probes:
            averages = self._averages(probe)
            mean = math.fsum(averages) / self.size
            moved = [(value - mean) / self.counts[rollout] for rollout, value in enumerate(averages)]
            image = [sum(moved[rollout] for rollout in shown) for shown in self.prompts]
            trace += _dot(self.solve(image, RIDGE), probe)
        return weight * trace / (self.size - 1)

    def _averages(self, offsets: Sequence[float]) -> list[float]:
        """Of each rollout the mean offset of its prompts."""
        totals = [0.0] * self.size
        for shown, offset in zip(self.prompts, offsets, strict=True):
            for rollout in shown:
                totals[rollout] += offset
        return [total / self.counts[rollout] for rollout, total in enumerate(totals)]


def less(values: Values, offsets: Sequence[float]) -> list[list[float]]:
    """The values less the offsets of their prompts."""
    return [[value - offset for value in row] for row, offset in zip(values, offsets, strict=True)]


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    total: float = sum(map(mul, one, other))
    return total


def _sign(probe: int, place: int) -> float:
    return 1.0 if hashlib.sha256(f"{probe}|{place}".encode()).digest()[0] & 1 else -1.0
