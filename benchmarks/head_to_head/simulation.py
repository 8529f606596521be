"""How often the statistics of the head-to-head benchmark are right, on experiments whose truth is known.

    python -m benchmarks.head_to_head.simulation paired       # half a minute
    python -m benchmarks.head_to_head.simulation ceiling      # some minutes

`paired`: coverage of the interval of a difference, how often arms that differ by the margin are called equal, and how
often equal ones are. `ceiling`: how often a ceiling is reported, how often its interval is wrong, and both for curves
that have no ceiling within reach. The curves are like those of the tiny policies: they start at 0.43, are measured 10
times on 400 problems, and seeds differ in where they start, in how fast they rise, and in where they end.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.head_to_head.ceiling import fit_ceiling
from benchmarks.head_to_head.ceiling_fit import Curve
from benchmarks.head_to_head.paired import Verdict, paired

MARGIN = 0.02
START = 0.43
FALL = 0.1
"""What a seed that falls off loses."""
FALLS = 0.2
"""How often one does."""
_TOKENS = 264_000
"""Of a run: 80 steps of 128 rollouts with 26 tokens, about."""
_MEASUREMENTS = 10
_PROBLEMS = 400

_Array: TypeAlias = NDArray[np.float64]
Grow: TypeAlias = Callable[[_Array, float, float, float, float], _Array]
"""(share of the run, start, level, turn, exponent) -> truth."""


def _saturating(share: _Array, start: float, level: float, turn: float, exponent: float) -> _Array:
    """The formula that is fitted; the level is its ceiling, half of the way is done at `turn`."""
    done = share**exponent
    truth: _Array = start + (level - start) * done / (done + turn**exponent)
    return truth


def _logarithmic(share: _Array, start: float, level: float, turn: float, exponent: float) -> _Array:
    """At the level when the run ends, and on for ever: each doubling brings the same."""
    truth: _Array = start + (level - start) * np.log1p(share / turn) / np.log1p(1 / turn)
    return truth


def _linear(share: _Array, start: float, level: float, turn: float, exponent: float) -> _Array:
    return start + (level - start) * share


def _power(share: _Array, start: float, level: float, turn: float, exponent: float) -> _Array:
    """At the level when the run ends; what is left to 1 shrinks as a power of the tokens."""
    power = np.log((1 - start) / (1 - level)) / np.log1p(1 / turn)
    truth: _Array = 1 - (1 - start) * (1 + share / turn) ** -power
    return truth


@dataclass(frozen=True, slots=True)
class Shape:
    """Curves of one kind."""

    name: str
    grow: Grow
    level: float
    turn: tuple[float, float]
    """Each experiment draws from this range, in shares of the run; so with the exponent."""
    exponent: tuple[float, float] = (1.0, 1.5)
    spread: float = 0.015
    """Standard deviation of the level over seeds."""

    @property
    def ends(self) -> float:
        """What a ceiling is held against: that of the formula; of other shapes, the value at four times the run."""
        if self.grow is _saturating:
            return self.level
        return float(min(self.grow(np.array([4.0]), START, self.level, sum(self.turn) / 2, 1.0)[0], 1.0))


WITH_CEILING = (
    Shape("half done at 3 to 8 %, ends at 0.95", _saturating, 0.95, (0.03, 0.08)),
    Shape("half done at 10 to 20 %, ends at 0.95", _saturating, 0.95, (0.1, 0.2)),
    Shape("half done at 10 to 20 %, ends at 0.98", _saturating, 0.98, (0.1, 0.2), spread=0.01),
    Shape("half done at 10 to 20 %, ends at 0.70", _saturating, 0.7, (0.1, 0.2), spread=0.02),
    Shape("half done at 25 to 40 %, ends at 0.95", _saturating, 0.95, (0.25, 0.4)),
)
WITHOUT_CEILING = (
    Shape("half done at 70 %, ends at 0.95", _saturating, 0.95, (0.7, 0.7)),
    Shape("half done at the end, ends at 0.95", _saturating, 0.95, (1.0, 1.0)),
    Shape("half done at twice the run, ends at 0.95", _saturating, 0.95, (2.0, 2.0)),
    Shape("logarithm, early turn", _logarithmic, 0.75, (0.01, 0.01)),
    Shape("logarithm, late turn", _logarithmic, 0.75, (0.1, 0.1)),
    Shape("power law, early turn", _power, 0.88, (0.02, 0.02), spread=0.01),
    Shape("power law, late turn", _power, 0.88, (0.1, 0.1), spread=0.01),
    Shape("straight line", _linear, 0.75, (1.0, 1.0)),
    Shape("flat", _linear, START, (1.0, 1.0), spread=0.01),
    Shape("falls to 0.05", _saturating, 0.05, (0.1, 0.2)),
)


@dataclass(frozen=True, slots=True)
class Differences:
    """What became of pairs of arms."""

    covered: float
    """Share of the experiments whose interval holds the true difference."""
    verdicts: dict[Verdict, float]
    """Share of the experiments; those that occur."""


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What became of arms of one shape; shares of the experiments."""

    reported: float
    wrong: float
    """Reported, with an interval that does not hold where the curve ends."""
    covered: float | None
    """Of those reported, how many hold it; None where none is."""


def differences(
    num_seeds: int, *, true: float, deviation: float, falls_off: bool, experiments: int, margin: float = MARGIN
) -> Differences:
    """Pairs of arms whose difference over all seeds is `true`.

    Args:
        num_seeds: of each experiment; two or more.
        true: mean difference.
        deviation: of the difference over seeds, which is normal.
        falls_off: whether one seed of five, drawn anew for each, loses FALL besides; the mean stays `true`.
        experiments: how many are drawn.
        margin: for "equal".
    """
    rng = _generator(f"differences {num_seeds} {true} {deviation} {falls_off}")
    drawn = rng.normal(true, deviation, (experiments, num_seeds))
    if falls_off:
        drawn += FALL * (FALLS - (rng.random(drawn.shape) < FALLS))
    covered = 0
    counts: dict[Verdict, int] = {}
    for row in drawn:
        found = paired([float(value) for value in row], margin=margin)
        low, high = found.mean.interval or (0.0, 0.0)
        covered += low <= true <= high
        counts[found.verdict] = counts.get(found.verdict, 0) + 1
    return Differences(covered / experiments, {verdict: count / experiments for verdict, count in counts.items()})


def ceilings(shape: Shape, num_seeds: int, *, experiments: int) -> Ceilings:
    """Arms of this shape, each with `num_seeds` curves, fitted."""
    reported, wrong = 0, 0
    for experiment in range(experiments):
        found = fit_ceiling(curves(shape, num_seeds, seed=experiment))
        if found.reported and found.interval is not None:
            low, high = found.interval
            reported += 1
            wrong += not low <= shape.ends <= high
    covered = (reported - wrong) / reported if reported else None
    return Ceilings(reported / experiments, wrong / experiments, covered)


def curves(shape: Shape, num_seeds: int, *, seed: int) -> list[Curve]:
    """The curves of one experiment.

    Seeds differ in their start (standard deviation 0.03), in their level, in where they turn (20 %), and in how many
    tokens a step takes (3 %). A point has the noise of 400 problems, and 0.01 of its own, for policies that are not the
    same from one step to the next.
    """
    rng = _generator(f"curves {shape.name} {num_seeds} {seed}")
    turn, exponent = rng.uniform(*shape.turn), rng.uniform(*shape.exponent)
    drawn: list[Curve] = []
    for _ in range(num_seeds):
        shares = np.arange(_MEASUREMENTS + 1) / _MEASUREMENTS * np.exp(rng.normal(0, 0.03))
        start = rng.normal(START, 0.03)
        level = start if shape.level == START else min(rng.normal(shape.level, shape.spread), 1.0)
        truth = shape.grow(shares, start, level, turn * np.exp(rng.normal(0, 0.2)), exponent)
        right = rng.binomial(_PROBLEMS, np.clip(truth + rng.normal(0, 0.01, truth.shape), 0, 1))
        drawn.append(
            [(float(share * _TOKENS), float(count / _PROBLEMS)) for share, count in zip(shares, right, strict=True)]
        )
    return drawn


def main() -> int:
    """Prints the figures; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("of", choices=("paired", "ceiling"))
    parser.add_argument("--experiments", type=int, help="for each figure; without it 4000 of pairs, 100 of ceilings")
    options = parser.parse_args()
    if options.experiments is not None and options.experiments < 1:
        parser.error(f"--experiments: {options.experiments} is not 1 or more")
    if options.of == "paired":
        _print_paired(options.experiments or 4000)
    else:
        _print_ceilings(options.experiments or 100)
    return 0


def _print_paired(experiments: int) -> None:
    print(f"{experiments} experiments for each figure; margin {MARGIN}")
    print("\ncoverage of the 95 % interval; one falls off: one seed of five loses", FALL)
    print("seeds  normal  one falls off")
    for seeds in (3, 5, 10):
        normal, skewed = (
            differences(seeds, true=0.0, deviation=0.01, falls_off=falls_off, experiments=experiments)
            for falls_off in (False, True)
        )
        print(f"{seeds:5}  {normal.covered:6.3f}  {skewed.covered:13.3f}")
    print('\n"equal": at a true difference of the margin, above and below; at none; "lower" or "higher" at none')
    print("seeds  deviation  at +margin  at -margin  at none  falsely shown  at the margin, one falls off")
    for seeds in (3, 5, 10):
        for deviation in (0.005, 0.01, 0.015, 0.02, 0.03):
            above, below, none = (
                differences(seeds, true=true, deviation=deviation, falls_off=False, experiments=experiments).verdicts
                for true in (MARGIN, -MARGIN, 0.0)
            )
            skewed = differences(seeds, true=-MARGIN, deviation=deviation, falls_off=True, experiments=experiments)
            shown = none.get("higher", 0.0) + none.get("lower", 0.0)
            print(
                f"{seeds:5}  {deviation:9.3f}  {above.get('equal', 0.0):10.4f}  {below.get('equal', 0.0):10.4f}  "
                f"{none.get('equal', 0.0):7.3f}  {shown:13.4f}  {skewed.verdicts.get('equal', 0.0):.3f}"
            )


def _print_ceilings(experiments: int) -> None:
    print(f"{experiments} experiments for each figure")
    for title, shapes in (("a ceiling within reach", WITH_CEILING), ("none within reach", WITHOUT_CEILING)):
        print(f"\n{title:42}seeds  ends at  reported  reported and wrong  right of those reported")
        for shape in shapes:
            for seeds in (3, 5):
                found = ceilings(shape, seeds, experiments=experiments)
                right = "" if found.covered is None else f"{found.covered:.3f}"
                print(
                    f"{shape.name:42}{seeds:5}  {shape.ends:7.3f}  {found.reported:8.3f}  {found.wrong:18.3f}  {right}",
                    flush=True,
                )


def _generator(name: str) -> np.random.Generator:
    return np.random.default_rng(random.Random(name).getrandbits(64))


if __name__ == "__main__":
    sys.exit(main())
