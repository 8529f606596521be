from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruler import ConfigError
from ruler.orders import Orders, plan_blocks, plan_orders, seeded_order

SEEDS = st.text(max_size=10)
ORDERS: st.SearchStrategy[Orders] = st.sampled_from([1, 2, 4, "full"])


@given(st.integers(0, 200), SEEDS)
def test_it_is_a_permutation_that_the_seed_alone_decides(size: int, seed: str) -> None:
    order = seeded_order(size, seed)
    assert sorted(order) == list(range(size))
    assert order == seeded_order(size, seed)


def test_stored_answers_depend_on_these_very_orders() -> None:
    assert seeded_order(8, "seed") == (0, 5, 6, 4, 7, 3, 2, 1)
    assert plan_orders(8, 4, "seed") == (
        (0, 5, 6, 4, 7, 3, 2, 1),
        (7, 3, 2, 1, 0, 5, 6, 4),
        (1, 2, 3, 7, 4, 6, 5, 0),
        (4, 6, 5, 0, 1, 2, 3, 7),
    )
    assert plan_blocks(5, 3, 2, "seed") == (((0, 3, 1), (4, 2)), ((2, 1, 4), (3, 0)))


def test_every_rollout_stands_in_every_place_equally_often() -> None:
    first = Counter(seeded_order(4, str(seed))[0] for seed in range(4000))
    assert set(first) == {0, 1, 2, 3}
    assert all(850 < count < 1150 for count in first.values())


@given(st.integers(0, 40), ORDERS, SEEDS)
def test_a_plan_has_different_permutations_the_seeded_one_first(size: int, orders: Orders, seed: str) -> None:
    plan = plan_orders(size, orders, seed)
    assert plan[0] == seeded_order(size, seed)
    assert all(sorted(order) == list(range(size)) for order in plan)
    assert len(set(plan)) == len(plan) == max(1, min(size, size if orders == "full" else orders))


@given(st.integers(0, 40), SEEDS)
def test_plans_are_nested(size: int, seed: str) -> None:
    two = plan_orders(size, 2, seed)
    assert plan_orders(size, 1, seed) == two[:1]
    assert plan_orders(size, 4, seed)[:2] == two
    assert plan_orders(size, "full", seed)[:2] == two


def slots(plan: tuple[tuple[int, ...], ...]) -> dict[int, list[int]]:
    """Rollout -> its slot in each order."""
    return {rollout: [order.index(rollout) for order in plan] for rollout in plan[0]}


@given(st.integers(1, 20), SEEDS)
def test_full_is_a_latin_square(size: int, seed: str) -> None:
    for visited in slots(plan_orders(size, "full", seed)).values():
        assert sorted(visited) == list(range(size))


@given(st.integers(4, 40), SEEDS)
def test_four_orders_take_away_linear_bias_and_of_even_sizes_two_ended_bias(size: int, seed: str) -> None:
    visited = slots(plan_orders(size, 4, seed)).values()
    assert {sum(places) for places in visited} == {2 * (size - 1)}
    if size % 2 == 0:
        assert len({sum(abs(2 * place - size + 1) for place in places) for places in visited}) == 1


@given(st.integers(1, 20), SEEDS)
def test_two_orders_of_an_even_size_take_away_two_ended_bias(half: int, seed: str) -> None:
    visited = slots(plan_orders(2 * half, 2, seed)).values()
    assert len({sum(abs(2 * place - 2 * half + 1) for place in places) for places in visited}) == 1


@given(st.integers(0, 8), ORDERS, SEEDS)
def test_a_group_that_fits_is_one_block_an_order(size: int, orders: Orders, seed: str) -> None:
    assert plan_blocks(size, 8, orders, seed) == tuple((order,) for order in plan_orders(size, orders, seed))


def linked(size: int, plan: tuple[tuple[tuple[int, ...], ...], ...]) -> bool:
    parts = [{rollout} for rollout in range(size)]
    for block in (block for order in plan for block in order):
        touched = [part for part in parts if part & set(block)]
        parts = [part for part in parts if part not in touched] + [set().union(*touched)]
    return len(parts) == 1


@given(st.integers(3, 70), st.integers(2, 12), ORDERS, SEEDS)
def test_blocks_cover_every_order_evenly_and_are_linked(size: int, max_block: int, orders: Orders, seed: str) -> None:
    plan = plan_blocks(size, max_block, orders, seed)
    if size <= max_block:
        return
    assert plan == plan_blocks(size, max_block, orders, seed)
    pairs_of_an_odd_group = max_block == 2 and size % 2 == 1
    num_slots = max(len(block) for block in plan[0])
    prompts = [block for blocks in plan for block in blocks]
    assert len(set(prompts)) == len(prompts)  # none is asked twice
    assert all(2 <= len(set(block)) == len(block) <= max_block for block in prompts)
    # Blocks of two or three have fewer slots than four orders: they can run out of what was not asked yet.
    is_full = orders == "full" or num_slots >= 4
    for blocks in plan if is_full else plan[:2]:
        sizes = {len(block) for block in blocks}
        assert min(sizes) >= max(2, max(sizes) - 1)
        shown = Counter(rollout for block in blocks for rollout in block)
        assert set(shown) == set(range(size))
        assert sum(shown.values()) == size + pairs_of_an_odd_group
    if is_full:
        assert len(plan) == max(2, num_slots if orders == "full" else orders)
    assert linked(size, plan[:2])
    assert plan[:2] == plan_blocks(size, max_block, 2, seed) == plan_blocks(size, max_block, 1, seed)


@pytest.mark.parametrize(("size", "max_block"), [(8, 4), (6, 4), (9, 5), (13, 4), (16, 8)])
def test_orders_of_few_blocks_are_other_partitions_while_there_are_some(size: int, max_block: int) -> None:
    for seed in "abcdefgh":
        partitions = [frozenset(map(frozenset, blocks)) for blocks in plan_blocks(size, max_block, 4, seed)]
        assert len(set(partitions)) >= 3


@given(st.integers(2, 12), st.integers(3, 8), SEEDS)
def test_slots_in_blocks_are_those_of_a_whole_order(num_blocks: int, block: int, seed: str) -> None:
    plan = plan_blocks(num_blocks * block, block, "full", seed)
    for rollout in range(num_blocks * block):
        visited = [shown.index(rollout) for order in plan for shown in order if rollout in shown]
        assert sorted(visited) == list(range(block))


@pytest.mark.parametrize("size", [16, 32, 64])
def test_two_orders_blocks_overlap_evenly(size: int) -> None:
    plan = plan_blocks(size, 8, 4, "seed")
    for one, other in combinations(plan, 2):
        overlaps = [len(set(a) & set(b)) for a in one for b in other]
        if one is plan[0]:
            assert max(overlaps) <= -(-8 // len(one)) <= 4
        assert max(overlaps) < 8


def test_a_plan_of_five_hundred_is_whole_and_linked() -> None:
    plan = plan_blocks(500, 8, 4, "seed")
    assert len(plan) == 4
    assert linked(500, plan[:2])
    assert {len(block) for order in plan for block in order} == {7, 8}


@pytest.mark.parametrize("max_block", [1, 0, -3])
def test_a_block_of_one_would_compare_with_nothing(max_block: int) -> None:
    with pytest.raises(ConfigError, match=f"max_block: expected at least 2, got {max_block}"):
        plan_blocks(5, max_block, 2, "seed")


@pytest.mark.parametrize("orders", [0, 3, "all"])
def test_other_numbers_of_orders_are_refused(orders: object) -> None:
    for size in (2, 20):
        with pytest.raises(ConfigError, match="orders: expected 1, 2, 4 or 'full', got"):
            plan_blocks(size, 8, orders, "seed")  # type: ignore[arg-type]
