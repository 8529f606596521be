"""Two tests whose false alarms and power are known: by simulation, and by scipy for Student's t."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ruler import drift
from ruler.drift import MIN_GROUPS, Change, GoldenScores, compare, student_t

Noise = Callable[[random.Random, int], list[float]]
"""What one prompt adds to the scores of so many rollouts."""

scores = st.integers(0, 100).map(lambda percent: percent / 100)


@st.composite
def golden(draw: st.DrawFn) -> GoldenScores:
    size = draw(st.integers(1, 5))
    run = st.lists(scores, min_size=size, max_size=size).map(tuple)
    return GoldenScores(tuple(draw(st.lists(run, min_size=2, max_size=4))), draw(run))


many = st.lists(golden(), min_size=MIN_GROUPS, max_size=9)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 19, 40, 101])
@pytest.mark.parametrize("tail", [0.25, 0.05, 0.0005, 0.00025])
def test_the_quantile_is_students(degrees: int, tail: float) -> None:
    assert student_t(tail, degrees) == pytest.approx(stats.t.isf(tail, degrees), rel=1e-9)


@given(many)
def test_the_ranking_is_tested_by_one_sample_t(groups: list[GoldenScores]) -> None:
    """The oracle computes each step with scipy, from the definition."""
    excess = []
    for group in groups:
        centred = [[score - sum(run) / len(run) for score in run] for run in (*group.before, group.now)]
        apart = [[sum(abs(x - y) for x, y in zip(a, b, strict=True)) / len(a) for b in centred] for a in centred]
        num = len(group.before)
        own = [apart[i][j] for i in range(num) for j in range(i)]
        excess.append(round(sum(apart[-1][:num]) / num - sum(own) / len(own), 12))
    change = compare(groups)
    assert change.disagreement == pytest.approx(sum(excess) / len(excess), abs=1e-9)
    if len(set(excess)) > 1:
        p_value = stats.ttest_1samp(excess, 0, alternative="greater").pvalue
        assert change.ranks_otherwise == (p_value < drift.LEVEL / 2)


@given(many)
def test_the_interval_of_the_shift_is_no_narrower_than_that_of_t(groups: list[GoldenScores]) -> None:
    def mean(values: tuple[float, ...]) -> float:
        return sum(values) / len(values)

    shifts = [mean(one.now) - sum(map(mean, one.before)) / len(one.before) for one in groups]
    change = compare(groups)
    assert change.shift == pytest.approx(mean(tuple(shifts)), abs=1e-9)
    if len({round(shift, 9) for shift in shifts}) > 1:
        low, high = stats.t.interval(1 - drift.LEVEL / 2, len(shifts) - 1, change.shift, stats.sem(shifts))
        assert change.shift_interval[0] <= low + 1e-9
        assert change.shift_interval[1] >= high - 1e-9


@given(many, st.randoms())
def test_order_of_groups_and_of_rollouts_does_not_matter(groups: list[GoldenScores], rng: random.Random) -> None:
    def mixed(group: GoldenScores) -> GoldenScores:
        order = rng.sample(range(len(group.now)), len(group.now))
        return GoldenScores(
            tuple(tuple(run[i] for i in order) for run in group.before), tuple(group.now[i] for i in order)
        )

    assert figures(compare([mixed(group) for group in rng.sample(groups, len(groups))])) == pytest.approx(
        figures(compare(groups)), abs=1e-9
    )


@given(st.lists(st.lists(scores, min_size=2, max_size=6), min_size=MIN_GROUPS, max_size=9))
def test_a_judge_without_noise_that_says_the_same_raises_no_alarm(runs: list[list[float]]) -> None:
    change = compare([GoldenScores((tuple(run),) * 3, tuple(run)) for run in runs])
    assert figures(change) == (0, 0, 0, 0, 0)
    assert not change.shifted
    assert not change.ranks_otherwise


@pytest.mark.parametrize("step", [0.01, -0.01])
def test_any_equal_change_of_a_judge_without_noise_is_one(step: float) -> None:
    runs = [(0.3, 0.1 + place / 10, 0.7) for place in range(MIN_GROUPS)]
    change = compare([GoldenScores((run,) * 3, tuple(score + step for score in run)) for run in runs])
    assert change.shifted
    assert change.shift == pytest.approx(step)
    assert not change.ranks_otherwise


def test_a_judge_without_noise_that_swaps_two_rollouts_ranks_otherwise_at_the_same_level() -> None:
    change = compare([GoldenScores(((0.2, 0.8),) * 3, (0.8, 0.2))] * MIN_GROUPS)
    assert change.ranks_otherwise
    assert change.disagreement == pytest.approx(0.6)
    assert change.shift == 0
    assert not change.shifted


def test_one_changed_group_among_equal_ones_is_no_alarm() -> None:
    same = GoldenScores(((0.2, 0.8),) * 3, (0.2, 0.8))
    change = compare([*[same] * 9, replace(same, now=(1.0, 0.0))])
    assert change.disagreement > 0
    assert not change.ranks_otherwise


def test_too_little_is_refused() -> None:
    whole = GoldenScores(((0.2, 0.8),) * 2, (0.2, 0.8))
    with pytest.raises(ValueError, match="groups: expected at least 5, got 4"):
        compare([whole] * 4)
    with pytest.raises(ValueError, match="before: expected at least 2 runs, got 1"):
        GoldenScores(((0.2, 0.8),), (0.2, 0.8))
    with pytest.raises(ValueError, match=r"equal lengths, got \[2, 2, 1\]"):
        GoldenScores(((0.2, 0.8),) * 2, (0.2,))


def figures(change: Change) -> tuple[float, ...]:
    return (change.shift, *change.shift_interval, change.disagreement, change.disagreement_low)


def normal(rng: random.Random, size: int) -> list[float]:
    call = rng.gauss(0, 0.05)
    return [call + rng.gauss(0, 0.05) for _ in range(size)]


def skewed(rng: random.Random, size: int) -> list[float]:
    return [-rng.expovariate(8) for _ in range(size)]


def two_levels(rng: random.Random, size: int) -> list[float]:
    return [rng.choice((-0.2, 0.2))] * size


def tenths(rng: random.Random, size: int) -> list[float]:
    return [round(rng.gauss(0, 0.1), 1) for _ in range(size)]


def judged(
    rng: random.Random, noise: Noise, num_groups: int, size: int, *, shift: float = 0, change: float = 0
) -> list[GoldenScores]:
    """Three runs of a judge, and one after it changed by a shift, or by so much for each rollout."""
    groups = []
    for _ in range(num_groups):
        quality = [rng.uniform(0.3, 0.7) for _ in range(size)]
        now = [value + shift + rng.gauss(0, change) for value in quality]
        runs = [
            tuple(round(value + error, 2) for value, error in zip(values, noise(rng, size), strict=True))
            for values in (quality, quality, quality, now)
        ]
        groups.append(GoldenScores(tuple(runs[:3]), runs[3]))
    return groups


def rates(
    noise: Noise, num_groups: int, size: int, times: int, *, shift: float = 0, change: float = 0
) -> tuple[float, float]:
    """Shares of judges that are found milder or stricter, and found to rank otherwise."""
    rng = random.Random(7)
    found = [compare(judged(rng, noise, num_groups, size, shift=shift, change=change)) for _ in range(times)]
    return sum(one.shifted for one in found) / times, sum(one.ranks_otherwise for one in found) / times


@pytest.mark.slow
@pytest.mark.parametrize("noise", [normal, skewed, two_levels, tenths])
@pytest.mark.parametrize(("num_groups", "size"), [(5, 2), (8, 4), (20, 4)])
def test_false_alarms_are_as_rare_as_the_level_says(
    noise: Noise, num_groups: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a level of 0.1, where a few hundred judges are enough to see it: half of it for each test."""
    monkeypatch.setattr(drift, "LEVEL", 0.1)
    times = 400
    slack = 3 * (0.05 * 0.95 / times) ** 0.5
    shifted, otherwise = rates(noise, num_groups, size, times)
    assert shifted <= 0.05 + slack
    assert otherwise <= 0.05 + slack


@pytest.mark.slow
@pytest.mark.parametrize("noise", [normal, skewed, two_levels, tenths])
def test_false_alarms_are_as_rare_at_the_real_level(noise: Noise) -> None:
    shifted, otherwise = rates(noise, 8, 4, 10_000)
    assert shifted + otherwise <= drift.LEVEL + 3 * (drift.LEVEL / 10_000) ** 0.5


@pytest.mark.slow
def test_a_change_is_found_as_often_as_the_docstring_says() -> None:
    assert rates(normal, 20, 4, 300, shift=0.08)[0] == pytest.approx(0.82, abs=0.08)
    assert rates(normal, 8, 4, 300, shift=0.08)[0] < 0.05
    assert rates(normal, 40, 4, 50, shift=-0.08)[0] == 1
    assert rates(normal, 20, 4, 300, change=0.1)[1] == pytest.approx(0.82, abs=0.08)
    assert rates(normal, 40, 4, 50, change=0.1)[1] == 1


def test_each_test_sees_its_own_kind_of_change() -> None:
    shifted, otherwise = rates(normal, 40, 4, 50, shift=0.2)
    assert (shifted, otherwise) == (1, 0)
    shifted, otherwise = rates(normal, 40, 8, 50, change=0.2)
    assert otherwise == 1
    assert shifted <= 0.04
