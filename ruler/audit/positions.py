"""What standing in a slot of the prompt adds to a score."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ruler.audit.figures import DIFFERENCE, pooled
from ruler.intervals import Estimate, Unit
from ruler.types import JudgedOrder

_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class SizePositions:
    """The slots of all prompts that show this many rollouts."""

    size: int
    prompts: int
    slots: tuple[Estimate, ...]
    """Mean over prompts of the score in the slot less the mean of its prompt, first slot first; they sum to 0. The
    intervals hold for all slots of the size together (Bonferroni)."""
    deviation: float | None
    """Standard deviation over the slots of what they add, in units of score, less what chance alone would bring; None
    with fewer than two clusters."""
    share: float | None
    """Part of the variance of scores within prompts that the slots explain, in [0, 1], less chance; None as above, and
    where all scores of every prompt are equal."""

    @property
    def sure(self) -> tuple[Estimate, ...]:
        """The slots whose interval leaves out 0."""
        return tuple(slot for slot in self.slots if slot.interval and not slot.interval[0] <= 0 <= slot.interval[1])


@dataclass(frozen=True, slots=True)
class Positions:
    """What positions do to scores, by size of prompt."""

    sizes: tuple[SizePositions, ...]
    """Those with most prompts first."""


def position_effects(judged: Iterable[JudgedOrder], units: Iterable[Unit] | None = None) -> Positions:
    """What each slot adds, from all prompts of one judge; prompts of one rollout say nothing and are left out.

    Orders that are balanced (see `ruler.orders`) bring each rollout into several slots, so that its quality cancels;
    what is left of it is noise, which the intervals hold. The slots' share is not that of a single group: a
    judge that looks first at the slot and then at the text may have more to it.

    Args:
        judged: prompts of whole groups or of blocks.
        units: where the group of each prompt stands, in the same order, all of one source; prompts of one cluster are
            resampled together. None: each prompt stands for itself, which makes intervals a little too wide for
            balanced orders.

    Raises:
        ValueError: not as many units as prompts; units of several sources, whose clusters and means have nothing in
            common.
    """
    prompts = list(judged)
    places = [Unit("", f"prompt {n}", str(n)) for n in range(len(prompts))] if units is None else list(units)
    if len(sources := sorted({unit.source for unit in places})) > 1:
        raise ValueError(f"units: expected all of one source, got {sources!r:.200}")
    by_size: defaultdict[int, list[tuple[Unit, list[float]]]] = defaultdict(list)
    for one, unit in zip(prompts, places, strict=True):
        mean = math.fsum(one.scores) / len(one.scores)
        by_size[len(one.scores)].append((unit, [score - mean for score in one.scores]))
    by_size.pop(1, None)
    sizes = [_of_size(size, found) for size, found in by_size.items()]
    return Positions(tuple(sorted(sizes, key=lambda one: (-one.prompts, one.size))))


def _of_size(size: int, prompts: Sequence[tuple[Unit, Sequence[float]]]) -> SizePositions:
    units = [unit for unit, _ in prompts]
    columns = [[scores[slot] for _, scores in prompts] for slot in range(size)]
    confidence = 1 - (1 - _CONFIDENCE) / size
    slots = tuple(pooled(units, column, bounds=DIFFERENCE, confidence=confidence) for column in columns)
    squares = math.fsum(score * score for column in columns for score in column) / len(prompts)
    chance = [_variance_of_mean(units, column) for column in columns]
    known = [variance for variance in chance if variance is not None]
    if len(known) < size:
        return SizePositions(size, len(prompts), slots, None, None)
    means = [math.fsum(column) / len(column) for column in columns]
    explained = max(0.0, math.fsum(mean * mean for mean in means) - math.fsum(known))
    share = min(1.0, explained / squares) if squares else None
    return SizePositions(size, len(prompts), slots, math.sqrt(explained / size), share)


def _variance_of_mean(units: Sequence[Unit], values: Sequence[float]) -> float | None:
    """Of the mean over all values, from the sums of deviations by cluster; None with fewer than two clusters.

    A unit without a cluster stands for itself, as in `ruler.intervals`.
    """
    mean = math.fsum(values) / len(values)
    clusters: defaultdict[str | int, list[float]] = defaultdict(list)
    for place, (unit, value) in enumerate(zip(units, values, strict=True)):
        clusters[unit.cluster or place].append(value - mean)
    if len(clusters) < 2:
        return None
    squares = math.fsum(math.fsum(deviations) ** 2 for deviations in clusters.values())
    return len(clusters) / (len(clusters) - 1) * squares / len(values) ** 2
