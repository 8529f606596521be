from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import fmean, pvariance

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruler.audit import position_effects
from ruler.audit.figures import pooled
from ruler.intervals import Unit
from ruler.orders import Orders, plan_orders
from ruler.types import JudgedOrder


def order(scores: Sequence[float]) -> JudgedOrder:
    return JudgedOrder("judge", 0, 0, tuple(f"r{n}" for n in range(len(scores))), tuple(scores))


def judged(
    bias: Sequence[float], *, groups: int, orders: Orders = 4, noise: float = 0.05, spread: float = 0.1, seed: int = 0
) -> tuple[list[JudgedOrder], list[Unit]]:
    """Prompts of a judge with this slot bias, and the units of their groups."""
    prompts, units = [], []
    for place in range(groups):
        rng = random.Random(f"{seed} {place}")
        quality = [rng.gauss(0.5, spread) for _ in bias]
        for number, shown in enumerate(plan_orders(len(bias), orders, f"{seed} {place}")):
            scores = [quality[i] + bias[slot] + rng.gauss(0, noise) for slot, i in enumerate(shown)]
            prompts.append(JudgedOrder("judge", number, 0, tuple(f"r{i}" for i in shown), tuple(scores)))
            units.append(Unit("", f"cluster {place}", f"g{place}"))
    return prompts, units


SHAPES = {
    "linear": [0.06, 0.036, 0.012, -0.012, -0.036, -0.06],
    "u": [0.06, 0.0, -0.06, -0.06, 0.0, 0.06],
    "first": [0.1, -0.02, -0.02, -0.02, -0.02, -0.02],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_known_bias_is_found_slot_by_slot(shape: str) -> None:
    bias = SHAPES[shape]
    prompts, units = judged(bias, groups=100)
    (found,) = position_effects(prompts, units).sizes
    assert (found.size, found.prompts) == (6, 400)
    for slot, true in zip(found.slots, bias, strict=True):
        assert slot.interval is not None
        assert slot.interval[0] < true < slot.interval[1]
    assert found.deviation == pytest.approx(math.sqrt(pvariance(bias)), rel=0.15)
    assert found.share == pytest.approx(pvariance(bias) / (pvariance(bias) + 0.0125), rel=0.3)


def test_without_bias_nothing_is_explained_though_every_mean_is_a_little_off() -> None:
    shares = []
    for seed in range(8):
        prompts, units = judged([0.0] * 4, groups=20, orders=2, seed=seed)
        (found,) = position_effects(prompts, units).sizes
        assert found.share is not None
        shares.append(found.share)
        assert any(slot.value for slot in found.slots)
    assert fmean(shares) < 0.02


@given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=8))
def test_slots_are_means_less_the_prompts_mean_and_sum_to_zero(prompts: list[list[float]]) -> None:
    (found,) = position_effects(map(order, prompts)).sizes
    for slot in range(3):
        assert found.slots[slot].value == pytest.approx(fmean(p[slot] - fmean(p) for p in prompts), abs=1e-9)
    assert math.fsum(slot.value or 0 for slot in found.slots) == pytest.approx(0, abs=1e-9)
    assert found.share is None or 0 <= found.share <= 1


@pytest.mark.slow
def test_balanced_orders_of_one_group_are_not_taken_for_independent_prompts() -> None:
    # In a Latin square quality cancels within the group: knowing the groups makes the intervals much narrower.
    prompts, units = judged([0.0] * 4, groups=40, noise=0.01, spread=0.3)
    with_groups, without = position_effects(prompts, units).sizes[0], position_effects(prompts).sizes[0]
    for one, other in zip(with_groups.slots, without.slots, strict=True):
        assert one.interval is not None
        assert other.interval is not None
        assert one.interval[1] - one.interval[0] < 0.3 * (other.interval[1] - other.interval[0])


@pytest.mark.parametrize(("size", "confidence"), [(2, 0.975), (5, 0.99)])
def test_intervals_hold_for_all_slots_together(size: int, confidence: float) -> None:
    prompts, units = judged([0.0] * size, groups=30)
    (found,) = position_effects(prompts, units).sizes
    for place, slot in enumerate(found.slots):
        values = [one.scores[place] - fmean(one.scores) for one in prompts]
        # At 5 % among the slots in all, each has its share of it.
        each = pooled(units, values, bounds=(-1, 1), confidence=confidence).interval
        alone = pooled(units, values, bounds=(-1, 1), confidence=0.95).interval
        assert slot.interval == pytest.approx(each, abs=1e-9)
        assert each is not None
        assert alone is not None
        assert each[0] < alone[0] < alone[1] < each[1]


def test_equal_scores_one_cluster_and_prompts_of_one() -> None:
    (equal,) = position_effects([order([0.5, 0.5])] * 3).sizes
    assert (equal.share, equal.deviation, [slot.value for slot in equal.slots]) == (None, 0.0, [0.0, 0.0])
    prompts, units = judged([0.1, -0.1], groups=1)
    (one,) = position_effects(prompts, units).sizes
    assert (one.share, one.deviation) == (None, None)
    assert all(slot.interval is None and slot.clusters == 1 for slot in one.slots)
    assert position_effects([order([0.5])]).sizes == ()
    assert position_effects([]).sizes == ()


def test_sizes_are_kept_apart_and_the_most_common_comes_first() -> None:
    prompts = [order([0.1, 0.2, 0.3]), *[order([0.9, 0.1])] * 2]
    assert [(one.size, one.prompts) for one in position_effects(prompts).sizes] == [(2, 2), (3, 1)]


def test_units_must_be_as_many_as_prompts() -> None:
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        position_effects([order([0.1, 0.2])] * 2, [Unit("", None, "g")])


def test_units_of_several_sources_are_refused() -> None:
    prompts, units = judged([0.1, -0.1], groups=3)
    mixed = [*units[:-1], Unit("other", units[-1].cluster, units[-1].group_id)]
    with pytest.raises(ValueError, match=r"units: expected all of one source, got \['', 'other'\]"):
        position_effects(prompts, mixed)


def test_units_without_a_cluster_stand_for_themselves() -> None:
    prompts, _ = judged([0.1, -0.1], groups=10)
    named = [Unit("", f"c{n}", f"g{n}") for n in range(len(prompts))]
    for none in (None, ""):
        bare = [Unit("", none, unit.group_id) for unit in named]
        assert position_effects(prompts, bare).sizes[0].share == position_effects(prompts, named).sizes[0].share


@given(st.permutations(range(40)))
@settings(max_examples=20)
def test_the_order_of_the_prompts_changes_no_digit(places: list[int]) -> None:
    prompts, units = judged([0.06, 0.0, -0.06, 0.0], groups=10)
    assert position_effects([prompts[n] for n in places], [units[n] for n in places]) == position_effects(
        prompts, units
    )
