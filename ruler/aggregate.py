"""Many orders and blocks of one group -> one score per rollout, and how far these scores can be trusted.

The model is y = quality + call + slot + noise: a call adds its own leniency to all scores of its prompt, a slot what
standing there brings. The score is made of the group's own prompts alone, so that it never depends on what
else was judged; only its standard error uses slot means pooled over many groups.

Sources: G. K. Smyth, Statistical Applications in Genetics 3 (2004), for variances drawn towards a common one;
P. E. Shrout and J. L. Fleiss, "Intraclass correlations", Psychological Bulletin 86 (1979).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from ruler.least_squares import RIDGE, Design, less
from ruler.types import FailedGroup, JudgedOrder, ScoredGroup

DIGITS = 12
"""To which means are rounded, so that those that only arithmetic keeps apart are ties. Judges give 0..100, seldom with
more than two decimals: this is far below that and far above rounding errors."""

_PRIOR_DEGREES = 4.0
"""Weight of the group's common noise variance against a rollout's own, which has k - 1 degrees of freedom: with two
orders that agree by chance it would be 0."""

_MIN_DEGREES = 1 / 3
"""Of the degrees of freedom of noise, those that must be left after slot means are removed."""

_MIN_AGREEMENT = 1 / 3
"""Two orders correlated by r have a mean of reliability 2r / (1 + r) (Spearman-Brown): below, most of the spread is
noise."""

_EQUAL = 1e-18
"""Variance below which scores differ by rounding errors only."""


@dataclass(frozen=True, slots=True)
class PooledSlots:
    """What the slots of prompts of one size add, for one judge."""

    means: tuple[float, ...]
    """Mean over prompts of score less the prompt's mean, by slot, in units of score; they sum to 0."""
    num_prompts: int
    """How many prompts they rest on."""
    squares: float
    """Sum over prompts and slots of (score - prompt mean - slot mean)**2."""


class SlotMeans:
    """A running pool of what each slot adds, per judge and per prompt size.

    The order of adding changes nothing but the last digits. Memory grows with the number of different sizes, not with
    that of prompts.
    """

    def __init__(self) -> None:
        self._num_prompts: defaultdict[tuple[str, int], int] = defaultdict(int)
        self._sums: dict[tuple[str, int], list[float]] = {}
        self._squares: defaultdict[tuple[str, int], float] = defaultdict(float)

    def add(self, judged: JudgedOrder) -> None:
        """Takes one prompt into the pool."""
        key = judged.judge, len(judged.scores)
        mean = math.fsum(judged.scores) / len(judged.scores)
        sums = self._sums.setdefault(key, [0.0] * len(judged.scores))
        for slot, score in enumerate(judged.scores):
            sums[slot] += score - mean
            self._squares[key] += (score - mean) ** 2
        self._num_prompts[key] += 1

    def of(self, judge: str, size: int) -> PooledSlots:
        """The pool of prompts that showed `size` rollouts to this judge; means of 0 where there was none."""
        key = judge, size
        num_prompts = self._num_prompts[key]
        if not num_prompts:
            return PooledSlots((0.0,) * size, 0, 0.0)
        means = tuple(total / num_prompts for total in self._sums[key])
        squares = self._squares[key] - num_prompts * math.fsum(mean * mean for mean in means)
        return PooledSlots(means, num_prompts, max(0.0, squares))


class NoisePool:
    """The variance of the noise of one score, per judge, from the first two orders of every group.

    For adaptive asking: groups that were left at two orders are those whose orders agree, often by chance, so what a
    group itself says of its noise is too little. What two orders differ by says nothing of the error of their mean,
    so the common variance is right for groups of either kind, where noise is much the same in all.
    """

    def __init__(self) -> None:
        self._squares: defaultdict[str, float] = defaultdict(float)
        self._degrees: defaultdict[str, float] = defaultdict(float)

    def add(self, judged: Sequence[JudgedOrder], slots: SlotMeans) -> None:
        """Takes the first two orders of one group and one judge into the pool; they are in that of the slots."""
        prompts = _first_two(judged)
        if prompts is None:
            return
        design = Design(prompts)
        rest, pools = _less_slots(prompts, slots)
        noise = _noise(design, pools, math.fsum(design.residual_squares(rest)))
        if noise is not None:
            variance, degrees = noise
            self._squares[prompts[0].judge] += variance * degrees
            self._degrees[prompts[0].judge] += degrees

    def of(self, judge: str) -> float | None:
        """The variance, in squared units of score; None where nothing is known yet."""
        degrees = self._degrees[judge]
        return self._squares[judge] / degrees if degrees else None


@dataclass(frozen=True, slots=True)
class Merged:
    """What one judge says of one group, over all its orders."""

    scores: Mapping[str, float]
    """Rollout id -> score in [0, 1]."""
    stderr: Mapping[str, float] | None
    """Rollout id -> standard error, in units of score; None with one order. See `merge`."""
    clipped: int
    """How many scores from blocks were outside [0, 1]. Clipping keeps order, not distance."""


def merge(judged: Sequence[JudgedOrder], slots: SlotMeans, *, noise: NoisePool | None = None) -> Merged:
    """The scores of one group by one judge, from all its prompts. The sequence's order changes nothing.

    Whole-group orders give the plain mean; of a single order its scores, untouched. Blocks are fitted by least squares
    with one offset per block, which takes out what a call adds to all its scores; a ridge holds offsets back
    where real differences between blocks would pass for leniency. Prompts that share no rollout, as the blocks of a
    single order, are left as they are.

    The standard error is that of a score relative to its group: what is added to all is no error. It covers noise:
    what differs when the same rollouts are shown in other orders, slot means taken away. It does not cover:

    - slot bias that the plan leaves in the scores. Two orders of N = 8 keep 24 % of the variance of a linear one and
      nothing of a two-ended one; four orders, for even N, keep nothing of either; all orders nothing of any;
    - errors that the judge makes in every order;
    - for blocks, leniency that differs between calls far more than noise does.

    The mean of its square is right from the first group on (with three rollouts and two orders it begins a third too
    large). With few orders a single one is rough, so it is drawn towards that of the group's other rollouts.

    It is None with one order, and as long as noise cannot be told from slot bias: in the first group of two rollouts,
    or, with two orders, of an odd number, or of blocks of one.

    Args:
        judged: all prompts of one judge for one group that have been answered.
        slots: the pool; these prompts are in it.
        noise: the pool to take the variance of noise from; None: the group's own, and each rollout's.

    Raises:
        ValueError: nothing is given, prompts of several judges, or prompts that are not in the pool.
    """
    judges = {one.judge for one in judged}
    if len(judges) != 1:
        raise ValueError(f"judged: expected prompts of one judge, got those of {sorted(judges)}")
    prompts = sorted(judged, key=_place)
    design = Design(prompts)
    values = [one.scores for one in prompts]
    offsets = [0.0] * len(prompts) if design.is_whole else design.offsets(values, RIDGE)
    if len(prompts) == 1:
        means = list(values[0])
    else:
        means = [round(mean, DIGITS) for mean in design.means(less(values, offsets))]
    scores = {name: min(1.0, max(0.0, mean)) for name, mean in zip(design.ids, means, strict=True)}
    if design.num_orders < 2:
        errors = None
    elif noise is None:
        errors = _standard_errors(design, prompts, slots)
    else:
        variance = noise.of(prompts[0].judge)
        errors = None if variance is None else _errors(design, [variance] * design.size)
    return Merged(
        scores=scores,
        stderr=None if errors is None else dict(zip(design.ids, errors, strict=True)),
        clipped=sum(not 0 <= mean <= 1 for mean in means),
    )


def disagree(judged: Sequence[JudgedOrder]) -> bool:
    """Whether the first two orders disagree so much that further orders are worth buying; False with one order.

    They do when their `agreement` is below 1/3. The rule sees this group alone, slot bias included, so that the same
    group always costs the same. Two rollouts disagree unless both orders prefer the same one, and neither by more than
    six times as much. Equal scores agree.

    In simulation (N = 3 to 16, half of the groups with a quarter of the spread) it buys for 80 to 100 % of the narrow
    and a quarter to a half of the wide groups, and each further call brings about a fifth to a quarter more Spearman
    than four orders for all. A lower threshold brings more a call and less in all. The size of the differences alone
    was tried: it finds no groups where further orders help more. See docs/orders.md.

    Args:
        judged: all prompts of one judge for one group that have been answered.
    """
    common = agreement(judged)
    return common is not None and common < _MIN_AGREEMENT


def agreement(judged: Sequence[JudgedOrder]) -> float | None:
    """Which part of the variance of one order's scores within the group comes back in the other, for the first two.

    The intraclass correlation, in [-1, 1]. Slot bias counts as disagreement, block offsets do not. 1.0 when the scores
    of both are all equal, None with one order. The sequence's order changes nothing. The mean of two orders
    that agree by r has reliability 2r / (1 + r) (Spearman-Brown).

    Args:
        judged: all prompts of one judge for one group that have been answered.
    """
    prompts = _first_two(judged)
    if prompts is None:
        return None
    # Variances of noise and of quality, not a correlation of two columns: offsets are fitted so that the orders'
    # columns differ little, and in blocks of two they would always agree. With whole orders the two are alike.
    design = Design(prompts)
    values = [one.scores for one in prompts]
    noise = math.fsum(design.residual_squares(values)) / max(1, design.degrees)
    means = design.means(less(values, design.offsets(values, RIDGE)))
    middle = math.fsum(means) / design.size
    spread = math.fsum((mean - middle) ** 2 for mean in means) / (design.size - 1)
    if spread + noise < _EQUAL:
        return 1.0
    quality = spread - noise * (1 / 2 + design.offset_error())
    return max(-1.0, quality / (quality + noise)) if quality + noise > 0 else -1.0


class Reliability:
    """Which part of the spread of scores within groups is not noise, pooled over the groups added so far.

    It is the judge's agreement with itself, not accuracy: a judge that always prefers the longer rollout is perfectly
    reliable. What `stderr` does not cover is missing here, too.
    """

    def __init__(self) -> None:
        self._noise: list[float] = []
        self._spread: list[float] = []

    @classmethod
    def of(cls, results: Iterable[ScoredGroup | FailedGroup]) -> Reliability:
        """That of these results; failed groups do not count."""
        pool = cls()
        for result in results:
            if isinstance(result, ScoredGroup):
                pool.add(result)
        return pool

    def add(self, result: ScoredGroup) -> None:
        """Takes one group in; rollouts that read the same count once, a group without standard errors does not."""
        own = [score for score in result.rollouts if score.same_as is None]
        known = [(score.score, score.stderr) for score in own if score.score is not None and score.stderr is not None]
        if len(known) < 2 or len(known) < len(own):
            return
        mean = math.fsum(score for score, _ in known) / len(known)
        # Both sums have N - 1 degrees of freedom, as the errors are relative to the group's mean.
        self._noise.append(math.fsum(stderr**2 for _, stderr in known) / (len(known) - 1))
        self._spread.append(math.fsum((score - mean) ** 2 for score, _ in known) / (len(known) - 1))

    @property
    def num_groups(self) -> int:
        """How many groups count."""
        return len(self._noise)

    @property
    def value(self) -> float | None:
        """1 - sum of stderr**2 / sum of (score - group mean)**2, in [0, 1].

        None without any group that counts, as with one order; 0.0 when all scores are equal.
        """
        if not self._noise:
            return None
        total = math.fsum(self._spread)
        return min(1.0, max(0.0, 1 - math.fsum(self._noise) / total)) if total else 0.0


def spearman_brown(agreement: float | None, num_orders: int) -> float | None:
    """The reliability of the mean of so many orders that agree by `agreement`, in [0, 1].

    k r / (1 + (k - 1) r), 0.0 where the orders disagree; None where no agreement is known. Of one group of a few
    rollouts it is rough. Source: Spearman and Brown, British Journal of Psychology 3 (1910).
    """
    if agreement is None:
        return None
    common = max(0.0, agreement)
    return num_orders * common / (1 + (num_orders - 1) * common)


def reliability(results: Iterable[ScoredGroup | FailedGroup]) -> float | None:
    """`Reliability.value` of all these results; failed groups do not count."""
    return Reliability.of(results).value


def _standard_errors(design: Design, prompts: Sequence[JudgedOrder], slots: SlotMeans) -> list[float] | None:
    """Rollout by rollout; None when slot bias and noise cannot be told apart yet."""
    rest, pools = _less_slots(prompts, slots)
    squares = design.residual_squares(rest)
    total = math.fsum(squares)
    noise = _noise(design, pools, total)
    if noise is None:
        return None
    variance, degrees = noise
    # A rollout's own squares, brought to the sum that noise alone would leave.
    own = [variance * degrees * square / total if total > _EQUAL else 0.0 for square in squares]
    weight = _PRIOR_DEGREES + degrees / design.size
    drawn = [(_PRIOR_DEGREES * variance + square) / weight for square in own]
    return _errors(design, drawn)


def _errors(design: Design, variances: Sequence[float]) -> list[float]:
    """The standard error of each rollout's score, from the variance of the noise of one of its scores."""
    offset_error = design.offset_error()
    return [
        math.sqrt((1 - 1 / design.size) * (1 / design.counts[rollout] + offset_error) * variance)
        for rollout, variance in enumerate(variances)
    ]


def _less_slots(prompts: Sequence[JudgedOrder], slots: SlotMeans) -> tuple[list[list[float]], dict[int, PooledSlots]]:
    """The scores less the means of their slots, and the pools these are from, by prompt size."""
    pools = {size: slots.of(prompts[0].judge, size) for size in {len(one.scores) for one in prompts}}
    rest = [[y - m for y, m in zip(one.scores, pools[len(one.scores)].means, strict=True)] for one in prompts]
    return rest, pools


def _noise(design: Design, pools: Mapping[int, PooledSlots], squares: float) -> tuple[float, float] | None:
    """(variance of the noise of one score, degrees of freedom it rests on) from the residual squares.

    Two things come between the squares and the noise. The slot means are means of noisy scores, this group's among
    them: removing them takes away noise. And the rollouts that stood in a slot were better or worse than others, which
    the slot mean holds, too; for an even size of whole groups this cancels, since rollouts that change places carry
    it along. Both expectations are linear in the variance of noise and of quality, as are those of the pool's own
    squares: two equations, two unknowns.
    """
    free = design.degrees
    repeats = design.num_shown / design.size
    by_noise, by_quality = float(free), 0.0
    pool_squares = pool_by_noise = pool_by_quality = 0.0
    for size, pool in pools.items():
        visits: list[list[int]] = [[] for _ in design.ids]
        shown_here = [shown for shown in design.prompts if len(shown) == size]
        if pool.num_prompts < len(shown_here):
            raise ValueError(f"slots: the pool for prompts of {size} holds {pool.num_prompts}, without those of judged")
        for shown in shown_here:
            for slot, rollout in enumerate(shown):
                visits[rollout].append(slot)
        pool_squares += pool.squares
        pool_by_noise += (pool.num_prompts - 1) * (size - 1)
        pool_by_quality += pool.num_prompts * (size - 1)
        # Of slots: how often the same rollout stood in both.
        pairs = Counter(pair for places in visits for pair in product(places, repeat=2))
        same = sum(number for (one, other), number in pairs.items() if one == other)
        left = len(shown_here) * size - same / repeats
        crossed = len(shown_here) * same - sum(number**2 for number in pairs.values()) / repeats
        by_noise -= left / pool.num_prompts
        by_quality += crossed / (len(shown_here) * pool.num_prompts)
        pool_by_quality -= (same - sum(map(len, visits)) ** 2 / design.size**2) / len(shown_here)
    share = by_quality / pool_by_quality if pool_by_quality > 0 else 0.0
    degrees = by_noise - share * pool_by_noise
    if free < 1 or degrees < free * _MIN_DEGREES:
        return None
    return max(0.0, squares - share * pool_squares) / degrees, degrees


def _first_two(judged: Sequence[JudgedOrder]) -> list[JudgedOrder] | None:
    """The prompts of the first two orders; None with one."""
    first = sorted({one.order for one in judged})[:2]
    return None if len(first) < 2 else sorted((one for one in judged if one.order in first), key=_place)


def _place(one: JudgedOrder) -> tuple[int, int, tuple[str, ...]]:
    return one.order, one.block, one.rollout_ids
