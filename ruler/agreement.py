"""How far scores agree with truth: within groups, by source, with intervals.

Scores compare only inside a group, so nothing here compares across groups. They may be a judge's or those of a
trivial rule (`shorter_wins`, `first_wins`), beside which a judge has to be read:

    summarise([agree(scores, truth, group_id=..., source=..., cluster=split_key), ...]).overall.accuracy

Two scorers are compared by `ruler.comparison`, group by group: intervals of their own that overlap do not show them to
be equal.

Source: M. G. Kendall, "The treatment of ties in ranking problems", Biometrika 33 (1945), for tau-b.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import pstdev

from ruler.intervals import Estimate, Unit, design
from ruler.intervals import Interval as Interval

_ROUNDING = 1e-9
"""Slack of `min_gap`: 0.82 - 0.67 is a gap of 0.15, whatever floating point says."""


@dataclass(frozen=True, slots=True)
class GroupAgreement:
    """One group's scores against its truth."""

    group_id: str
    source: str
    cluster: str | None
    """Groups of one cluster (`split_key`) share a task and are resampled together. None or empty: its own cluster."""
    pairs: int
    """Pairs of rollouts whose truth differs, by `min_gap` or more."""
    correct: float
    """How many of them the scores order as truth does; equal scores count 1/2. In [0, pairs]."""
    tied_pairs: int
    """How many of them have equal scores."""
    tau_b: float | None
    """Kendall's tau-b over all pairs of the group, in [-1, 1]; None when the scores, or truth, are all equal."""
    top_1: float | None
    """Share of the rollouts with the highest score whose truth is the highest, in [0, 1]; 1 or 0 unless scores tie at
    the top. None when truth is all equal."""
    r: float | None
    """Pearson's correlation of scores and truth, in [-1, 1]; None when the scores, or truth, are all equal."""
    binary: bool
    """Whether there are two rollouts or more, and the truth of each is 0 or 1."""
    signal: bool
    """Whether scores differ: a policy that learns from this group is told something."""
    spread: float
    """Standard deviation of the scores (over all of them, in their own units); 0.0 for a group of one or none."""

    @property
    def mixed(self) -> bool:
        """Whether there is a pair to get right; other groups say nothing about accuracy."""
        return self.pairs > 0

    @property
    def accuracy(self) -> float | None:
        """Share of the pairs ordered rightly, in [0, 1], chance 0.5; None unless the group is mixed."""
        return self.correct / self.pairs if self.pairs else None


@dataclass(frozen=True, slots=True)
class SourceAgreement:
    """One row of the table: a source, or all sources."""

    source: str
    accuracy: float | None
    """In [0, 1]: mean over the mixed groups of the source; None without one."""
    accuracy_interval: Interval | None
    tie_rate: float | None
    """Share of the pairs with equal scores, in [0, 1], averaged as accuracy is."""
    tau_b: float | None
    """Mean over the mixed groups that have one, in [-1, 1]. A group with all scores equal has none, so a judge that
    ties often looks better here than in `accuracy`: read it with `tau_groups` and `tie_rate`."""
    tau_b_interval: Interval | None
    top_1: float | None
    """Mean over the mixed groups, in [0, 1]. Chance is the share of rollouts with the highest truth."""
    top_1_interval: Interval | None
    r: float | None
    """Mean over the mixed groups that have one, as tau-b."""
    r_interval: Interval | None
    groups: int
    """Groups with scores, mixed or not."""
    mixed_groups: int
    tau_groups: int
    """Mixed groups with a tau-b, and so with an r."""
    clusters: int
    """Clusters with a mixed group: what is resampled."""
    pairs: int
    failed: int
    """Groups without scores; they enter no other figure but `failure_rate`."""
    failure_rate: float | None
    """failed / (groups + failed), in [0, 1]; None without either."""
    apart: bool
    """Whether `overall` leaves this source out."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Scores against truth, by source and in all."""

    sources: tuple[SourceAgreement, ...]
    """In the order in which they first occur; those with failed groups only come last."""
    overall: SourceAgreement
    """Rates are plain means over the sources that have them, however large or small these are; counts are sums, and
    `failure_rate` is of these. Sources that are apart are left out."""
    confidence: float
    """Of every interval, in (0, 1)."""


def agree(
    scores: Sequence[float],
    truth: Sequence[float],
    *,
    min_gap: float = 0.0,
    group_id: str = "",
    source: str = "",
    cluster: str | None = None,
) -> GroupAgreement:
    """One group's scores against its truth; both are in the order of the rollouts, higher is better, any finite scale.

    Time grows with the square of the group. A group of one, an empty one, and one whose truth is all equal have no
    pairs: `accuracy`, `tau_b`, `top_1` and `r` are None. Scores that are all equal give an accuracy of 0.5, the share
    of best rollouts as `top_1`, and neither tau-b nor r; a group whose rollouts all read the same (status "tied") is
    entered that way, if it is to count.

    Args:
        scores: from a judge or a rule.
        truth: from a checker or people.
        min_gap: pairs whose truth differs by less are left out of `pairs`, `correct` and `tied_pairs`, not of `tau_b`,
            `top_1` and `r`; >= 0, in units of truth. Pairs of equal truth never count.
        group_id: kept in the result.
        source: kept; `summarise` makes a row of each.
        cluster: kept; see `GroupAgreement`.

    Raises:
        ValueError: different lengths; a NaN or infinity (named by place); a `min_gap` that is negative or not finite.
    """
    if len(scores) != len(truth):
        raise ValueError(f"{len(scores)} scores for {len(truth)} truth values")
    for name, values in (("scores", scores), ("truth", truth)):
        for at, value in enumerate(values):
            if not math.isfinite(value):
                raise ValueError(f"{name}[{at}]: expected a finite number, got {value!r}")
    if not (math.isfinite(min_gap) and min_gap >= 0):
        raise ValueError(f"min_gap: expected a finite number >= 0, got {min_gap!r}")

    pairs = right = tied_pairs = 0
    concordance = unequal_scores = unequal_truth = 0
    for i, (score, true) in enumerate(zip(scores, truth, strict=True)):
        for j in range(i):
            by_score = (score > scores[j]) - (score < scores[j])
            by_truth = (true > truth[j]) - (true < truth[j])
            concordance += by_score * by_truth
            unequal_scores += by_score != 0
            unequal_truth += by_truth != 0
            if by_truth and abs(true - truth[j]) >= min_gap - _ROUNDING:
                pairs += 1
                right += by_score == by_truth
                tied_pairs += by_score == 0
    tau_b = top_1 = r = None
    if unequal_truth:
        best, top = max(truth), max(scores)
        chosen = [true == best for score, true in zip(scores, truth, strict=True) if score == top]
        top_1 = sum(chosen) / len(chosen)
    if unequal_truth and unequal_scores:
        tau_b = concordance / math.sqrt(unequal_scores * unequal_truth)
        r = correlation(scores, truth)
    return GroupAgreement(
        group_id=group_id,
        source=source,
        cluster=cluster,
        pairs=pairs,
        correct=right + tied_pairs / 2,
        tied_pairs=tied_pairs,
        tau_b=tau_b,
        top_1=top_1,
        r=r,
        binary=len(truth) > 1 and all(true in (0, 1) for true in truth),
        signal=unequal_scores > 0,
        spread=pstdev(scores) if unequal_scores else 0.0,
    )


def correlation(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """Pearson's, in [-1, 1], of finite numbers of any size; None where either is all equal."""
    if len(set(xs)) < 2 or len(set(ys)) < 2:
        return None
    return max(-1.0, min(1.0, math.fsum(map(operator.mul, _direction(xs), _direction(ys)))))


def shorter_wins(lengths: Sequence[int]) -> list[float]:
    """Scores of the rule "the shorter is better", from the lengths in any unit."""
    return [-float(length) for length in lengths]


def first_wins(num_rollouts: int) -> list[float]:
    """Scores of the rule "the one shown first is better", for rollouts in the order of the file."""
    return [-float(position) for position in range(num_rollouts)]


def summarise(
    groups: Sequence[GroupAgreement],
    *,
    failed: Mapping[str, int] | None = None,
    apart: Collection[str] = (),
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Agreement:
    """Means by source and in all: first inside a group, then over the groups of a source, then over sources.

    Intervals are those of `Design.means`, over clusters of mixed groups; it says how often they hold. Two judges, or a
    judge and a rule, that scored the same groups are compared on the same draws; where one of them failed on a group,
    leave that group out for the other too, or ask `ruler.comparison.difference`, which does.

    A source with fewer than two such clusters has no interval (of tau-b and r: fewer than two with a tau-b), and
    `overall` has none unless every source that counts in it has one. Sources are not resampled: the interval of
    `overall` is about these, not about others like them.

    Args:
        groups: one per group with scores; may be empty.
        failed: source -> number of groups without scores; a source named only here has a row without rates.
        apart: sources that have a row but stay out of `overall`.
        resamples: number of bootstrap draws; 0: no intervals.
        seed: equal seeds, equal intervals.
        confidence: in (0, 1).

    Raises:
        ValueError: `confidence` or `resamples` out of range.
    """
    failed = failed or {}
    members: dict[str, list[GroupAgreement]] = {}
    for group in groups:
        members.setdefault(group.source, []).append(group)
    for source in failed:
        members.setdefault(source, [])
    mixed = [group for group in groups if group.mixed]
    drawn = design(map(unit_of, mixed), apart=apart, resamples=resamples, seed=seed, confidence=confidence)
    figures = (
        drawn.means([group.accuracy for group in mixed]),
        drawn.means([group.tau_b for group in mixed], bounds=(-1, 1)),
        drawn.means([group.top_1 for group in mixed]),
        drawn.means([group.r for group in mixed], bounds=(-1, 1)),
    )
    rows = tuple(
        _row(
            source,
            [means.sources.get(source, _NO_ESTIMATE) for means in figures],
            tie_rate=_mean(group.tied_pairs / group.pairs for group in found if group.mixed),
            groups=len(found),
            pairs=sum(group.pairs for group in found),
            failed=failed.get(source, 0),
            apart=source in apart,
        )
        for source, found in members.items()
    )
    counted = [row for row in rows if not row.apart]
    overall = _row(
        "all",
        [means.overall for means in figures],
        tie_rate=_mean(row.tie_rate for row in counted),
        groups=sum(row.groups for row in counted),
        pairs=sum(row.pairs for row in counted),
        failed=sum(row.failed for row in counted),
        apart=False,
    )
    return Agreement(rows, overall, confidence)


_NO_ESTIMATE = Estimate(None, None, 0, 0)


def _row(
    source: str,
    figures: Sequence[Estimate],
    *,
    tie_rate: float | None,
    groups: int,
    pairs: int,
    failed: int,
    apart: bool,
) -> SourceAgreement:
    accuracy, tau_b, top_1, r = figures
    return SourceAgreement(
        source=source,
        accuracy=accuracy.value,
        accuracy_interval=accuracy.interval,
        tie_rate=tie_rate,
        tau_b=tau_b.value,
        tau_b_interval=tau_b.interval,
        top_1=top_1.value,
        top_1_interval=top_1.interval,
        r=r.value,
        r_interval=r.interval,
        groups=groups,
        mixed_groups=accuracy.groups,
        tau_groups=tau_b.groups,
        clusters=accuracy.clusters,
        pairs=pairs,
        failed=failed,
        failure_rate=failed / (groups + failed) if groups or failed else None,
        apart=apart,
    )


def unit_of(group: GroupAgreement) -> Unit:
    """Where the group stands in a `Design`."""
    return Unit(group.source, group.cluster, group.group_id)


def _direction(values: Sequence[float]) -> list[float]:
    """Deviations from the mean, of length 1. Truth has any scale: `statistics.correlation` raises where a square
    overflows or vanishes.
    """
    largest = max(map(abs, values))
    scaled = [value / largest for value in values]
    mean = math.fsum(scaled) / len(scaled)
    deviations = [value - mean for value in scaled]
    largest = max(map(abs, deviations))
    deviations = [deviation / largest for deviation in deviations]
    # Of neighbouring floats the mean is rounded by as much as they differ.
    rest = math.fsum(deviations) / len(deviations)
    deviations = [deviation - rest for deviation in deviations]
    length = math.hypot(*sorted(deviations))
    return [deviation / length for deviation in deviations]


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values there are."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None
