from __future__ import annotations

import pytest

from benchmarks.head_to_head.naive_order import judged_in_order_of_arrival
from ruler.rewards import Rewards
from tests.benchmarks.head_to_head.test_rewards import BARE, RIGHT, WRONG, sampled
from trainer.judged import judged
from trainer.tasks.arithmetic import arithmetic

BIASED = "simulated?quality=truth&slot_bias=0.5&scale=12.5&offset=43.75"


async def test_the_shortest_stands_first_and_the_bias_is_its_gain() -> None:
    texts = ["a" * length for length in (8, 2, 6, 4)]  # all of them wrong
    async with judged_in_order_of_arrival(BIASED, arithmetic(), Rewards()) as (reward, _):
        (found,) = await reward([sampled(*texts)])
    by_length = sorted(found.rewards.rollouts, key=lambda one: len(texts[int(one.id)]))
    scores = [one.reward for one in by_length]
    assert scores == sorted(scores, reverse=True)  # type: ignore[type-var]
    assert len(set(scores)) == 4


async def test_seeded_orders_tell_nothing_of_length() -> None:
    async with judged(BIASED, arithmetic(), Rewards(), orders=1, cache="off") as (reward, _):
        found = await reward([sampled("a" * 9, "a", "b" * 5, id=str(number)) for number in range(1)])
        many = await reward([sampled(f"{number}" * 9, f"{number}", id=str(number)) for number in range(10, 60)])
    assert found[0].failure is None
    shorter_wins = sum(one.rewards.rewards[1] > one.rewards.rewards[0] for one in many)  # type: ignore[operator]
    assert 12 < shorter_wins < 38


async def test_truth_still_counts_and_equal_rollouts_are_shown_once() -> None:
    async with judged_in_order_of_arrival(BIASED.replace("0.5", "0.1"), arithmetic(), Rewards()) as (reward, _):
        (found,) = await reward([sampled(RIGHT, WRONG, BARE, RIGHT)])
    right, wrong, bare, again = found.rewards.rewards
    assert right == again
    assert right > bare > wrong  # type: ignore[operator]
    assert found.result is not None
    assert (found.result.usage.calls, found.result.judge) == (
        1,
        "simulated?quality=truth&slot_bias=0.1&scale=12.5&offset=43.75",
    )


async def test_nothing_is_asked_of_rollouts_that_read_the_same() -> None:
    async with judged_in_order_of_arrival(BIASED, arithmetic(), Rewards()) as (reward, _):
        (found,) = await reward([sampled(BARE, BARE)])
    assert (found.rewards.status, found.failure) == ("tied", None)
    assert found.result is not None
    assert found.result.usage.calls == 0


@pytest.mark.parametrize("length", [1, 12])
async def test_groups_of_any_size(length: int) -> None:
    texts = [f"{number}" * (number + 1) for number in range(length)]
    async with judged_in_order_of_arrival(BIASED, arithmetic(), Rewards()) as (reward, _):
        (found,) = await reward([sampled(*texts)])
    assert found.failure is None
