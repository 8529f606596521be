from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruler.agreement import GroupAgreement, agree, summarise
from ruler.comparison import difference, groups_to_show, pair_noise
from ruler.intervals import Estimate
from tests.test_agreement import group, many

# --- two scorers --------------------------------------------------------------


def test_a_difference_is_paired_by_group_whatever_the_order() -> None:
    a = [group(1.0, "s", id="1"), group(0.5, "s", id="2"), group(0.25, "t", id="1"), group(1.0, "s", id="only a")]
    b = [group(0.75, "t", id="1"), group(0.5, "s", id="1"), group(0.25, "s", id="2"), group(0.0, "t", id="only b")]
    got = difference(a, b)
    assert got.sources["s"].value == pytest.approx(0.375)
    assert got.sources["t"].value == pytest.approx(-0.5)
    assert got.overall.value == pytest.approx(-0.0625)
    assert (got.sources["s"].groups, got.sources["t"].groups, got.overall.groups) == (2, 1, 3)
    assert list(got.sources) == ["s", "t"]
    assert difference(a, b, apart={"t"}).overall == got.sources["s"]


def test_groups_that_are_not_mixed_are_no_part_of_a_difference() -> None:
    level = agree([1, 0], [1, 1], group_id="2", source="s")
    got = difference([group(1.0, id="1"), level], [group(0.5, id="1"), level])
    assert (got.overall.value, got.overall.groups) == (0.5, 1)


def test_a_difference_is_that_of_the_means_and_reversed_it_is_its_negative() -> None:
    a = many(10, clusters=70)
    rng = random.Random(1)
    b = [replace(g, correct=float(rng.randint(0, 4))) for g in a]
    got, back = difference(a, b, resamples=300), difference(b, a, resamples=300)
    one, other = summarise(a, resamples=0).overall.accuracy, summarise(b, resamples=0).overall.accuracy
    assert one is not None
    assert other is not None
    assert got.overall.value == pytest.approx(one - other)
    low, high = back.overall.interval or (0, 0)
    assert got.overall.interval == pytest.approx((-high, -low))
    assert not got.same


@given(st.integers(2, 90), st.integers(-4, 4), st.integers(-4, 4), st.integers(0, 99))
@settings(max_examples=40)
def test_a_verdict_is_given_only_if_the_interval_excludes_nothing(n: int, low: int, high: int, seed: int) -> None:
    rng = random.Random(seed)
    gaps = [rng.randint(min(low, high), max(low, high)) for _ in range(n)]
    a = [group(max(gap, 0) / 4, id=str(i)) for i, gap in enumerate(gaps)]
    b = [group(max(-gap, 0) / 4, id=str(i)) for i, gap in enumerate(gaps)]
    got = difference(a, b, resamples=100)
    assert got.same is not any(gaps)
    below, above = got.overall.interval or (0, 0)
    if not any(gaps):
        assert got.verdict == "the same on every group"
        assert below < 0 < above
    elif below > 1e-6:
        assert got.verdict == "better"
    elif above < -1e-6:
        assert got.verdict == "worse"
    elif below < -1e-6 and above > 1e-6:
        assert got.verdict == "no difference shown"
    else:
        assert got.verdict in ("better", "worse", "no difference shown")


def test_a_clear_difference_is_found_and_none_is_invented() -> None:
    a, b = [group(1.0, id=str(i)) for i in range(80)], [group(float(i % 3 > 0), id=str(i)) for i in range(80)]
    assert difference(a, b).verdict == "better"
    assert difference(b, a).verdict == "worse"
    # One group has no interval.
    assert difference(a[:1], b[:1]).verdict == "no difference shown"
    assert difference(a, b, resamples=0).verdict == "no difference shown"
    assert difference([], []).verdict == difference(a[:40], b[40:]).verdict == "no group to compare"
    assert difference(a, a, resamples=0).verdict == "the same on every group"


def test_how_many_groups_would_show_a_difference() -> None:
    rng = random.Random(3)
    a = [group(float(rng.random() < 0.6), id=str(i)) for i in range(60)]
    b = [group(float(rng.random() < 0.5), id=str(i)) for i in range(60)]
    found = difference(a, b)
    assert found.verdict == "no difference shown"
    needed = found.groups_needed
    assert needed is not None
    assert needed > 60
    times = -(-needed // 60) + 1
    more = [[replace(one, group_id=f"{one.group_id} {n}") for one in side for n in range(times)] for side in (a, b)]
    assert difference(*more).verdict == "better"
    assert difference(*more).groups_needed is None
    assert difference(a, a).groups_needed is None
    assert difference(a[:1], b[:1]).groups_needed is None


@pytest.mark.parametrize(
    ("estimate", "against", "expected"),
    [
        (Estimate(0.6, (0.4, 0.8), 10, 10), 0.5, 40),
        (Estimate(0.4, (0.1, 0.6), 10, 10), 0.5, 40),
        (Estimate(0.5, (0.4, 0.8), 10, 10), 0.5, None),
        (Estimate(0.6, None, 1, 1), 0.5, None),
        (Estimate(None, None, 0, 0), 0.5, None),
    ],
)
def test_groups_to_show(estimate: Estimate, against: float, expected: int | None) -> None:
    assert groups_to_show(estimate, against) == expected


def test_sources_apart_do_not_speak_in_the_verdict() -> None:
    a = [group(1.0, source, id=str(i)) for source in "st" for i in range(9)]
    b = [replace(g, correct=0.0) if g.source == "t" else g for g in a]
    assert difference(a, b, apart={"t"}).verdict == "the same on every group"
    assert difference(a, b, apart={"s"}).verdict == "better"
    assert difference(a, b, apart={"s", "t"}).verdict == "no group to compare"


def test_what_cannot_be_paired_is_refused() -> None:
    with pytest.raises(ValueError, match="b: two groups 'g' of source 's'"):
        difference([group(1.0)], [group(1.0), group(0.5)])
    with pytest.raises(ValueError, match="a: two groups"):
        difference([group(1.0), group(0.5)], [])
    with pytest.raises(ValueError, match="group 'g' of source 's': 4 pairs in a and 3 in b"):
        difference([group(1.0)], [group(1.0, pairs=3)])


# --- pair-equivalent noise ----------------------------------------------------


def flipped(rng: random.Random, chance: float, groups: int, rollouts: int) -> list[GroupAgreement]:
    """Scores that are the truth, but each with this chance of being flipped."""
    made = []
    for at in range(groups):
        truth = [float(rng.random() < 0.5) for _ in range(rollouts)]
        scores = [1 - true if rng.random() < chance else true for true in truth]
        made.append(agree(scores, truth, group_id=str(at), source="ab"[at % 2], cluster=str(at)))
    return made


@pytest.mark.slow
@pytest.mark.parametrize("chance", [0.0, 0.05, 0.2, 0.4])
@pytest.mark.parametrize("rollouts", [2, 4])
def test_noise_is_the_chance_of_a_flip(chance: float, rollouts: int) -> None:
    groups = flipped(random.Random(f"{chance} {rollouts}"), chance, 4000, rollouts)
    got = pair_noise(groups, resamples=0)
    mixed = sum(g.mixed for g in groups)
    assert got.noise.overall.groups == mixed
    assert got.noise.overall.value == pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / 2 / mixed) + 1e-9)
    level = 4000 - mixed
    shown = 1 - chance**rollouts - (1 - chance) ** rollouts
    assert got.false_signal.overall.groups == level
    assert got.false_signal.overall.value == pytest.approx(
        shown, abs=4.5 * math.sqrt(shown * (1 - shown) / level) + 1e-9
    )


@pytest.mark.slow
def test_the_mean_of_the_noise_over_many_judges_has_no_bias() -> None:
    for chance in (0.05, 0.1, 0.2, 0.4):
        found = [
            pair_noise(flipped(random.Random(f"{chance} {seed}"), chance, 400, 4), resamples=0).noise.overall.value
            for seed in range(50)
        ]
        assert sum(value or 0.0 for value in found) / 50 == pytest.approx(chance, abs=0.01)


def test_noise_is_of_binary_groups_alone_and_drawn_as_accuracy() -> None:
    groups = many(11, clusters=70)
    graded = [group(0.0, "graded", id=str(i), binary=False) for i in range(5)]
    got = pair_noise([*groups, *graded], resamples=200).noise
    assert list(got.sources) == ["a", "b"]
    accuracy = summarise(groups, resamples=200).overall
    assert accuracy.accuracy is not None
    assert got.overall.value == pytest.approx(1 - accuracy.accuracy)
    low, high = accuracy.accuracy_interval or (0, 0)
    assert got.overall.interval == pytest.approx((1 - high, 1 - low))


def test_a_false_signal_is_one_where_truth_is_equal() -> None:
    groups = [
        agree([1, 0], [1, 1], group_id="invented"),
        agree([1, 1], [0, 0], group_id="none"),
        agree([1, 0], [0.5, 0.5], group_id="graded"),
        agree([1, 0], [1, 0], group_id="mixed"),
        agree([1, 0], [1, 0], group_id="differs by less than the gap", min_gap=2),
        agree([1], [1], group_id="one rollout"),
    ]
    got = pair_noise(groups)
    assert (got.false_signal.overall.value, got.false_signal.overall.groups) == (0.5, 2)
    assert (got.noise.overall.value, got.noise.overall.groups) == (0, 1)


def test_no_groups_have_no_noise() -> None:
    got = pair_noise([])
    assert got.noise.overall.value is got.false_signal.overall.value is got.noise.overall.interval is None
    assert got.noise.sources == got.false_signal.sources == {}


def test_false_signal_is_measured_against_the_spread_where_there_is_something_to_learn() -> None:
    mixed = [agree([0.9, 0.1], [1, 0], group_id=f"m{n}", source="s") for n in range(3)]
    level = [agree([0.5, 0.5 + n / 10], [1, 1], group_id=f"l{n}", source="s") for n in range(3)]
    assert pair_noise([*mixed, *level]).false_spread == pytest.approx(0.05 / 0.4)
    scaled = [replace(one, spread=100 * one.spread) for one in (*mixed, *level)]
    assert pair_noise(scaled).false_spread == pytest.approx(0.05 / 0.4)
    elsewhere = [replace(one, source="t", group_id=f"t{one.group_id}", spread=9.0) for one in level]
    assert pair_noise([*mixed, *level, *elsewhere], apart={"t"}).false_spread == pytest.approx(0.05 / 0.4)


def test_without_spread_in_mixed_groups_there_is_no_share_of_it() -> None:
    flat = agree([1, 1], [1, 0], group_id="m", source="s")
    level = agree([0, 1], [1, 1], group_id="l", source="s")
    assert pair_noise([flat, level]).false_spread is None
    assert pair_noise([level]).false_spread is None
    assert pair_noise([agree([1, 0], [1, 0], group_id="m")]).false_spread is None
