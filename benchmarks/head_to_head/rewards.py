"""An arm's rewards: what the trainer is given."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random
from typing import TypeAlias

from benchmarks.head_to_head.arms import Arm
from benchmarks.head_to_head.naive_order import judged_in_order_of_arrival
from ruler.rewards import Rewards
from ruler.spec import Spec
from trainer.episodes import Episode, SampledGroup
from trainer.judged import judged
from trainer.rewards import Rewarded, RewardFunction, by_rules, by_truth
from trainer.tasks import Task

_FREE = ("embedded", "simulated")
"""Judges that cost nothing and answer faster than a cache: theirs is off."""

_Value: TypeAlias = Callable[[SampledGroup, int, Random], float]
"""(group, place of a rollout, chance of its own) -> reward."""


@asynccontextmanager
async def reward_of(arm: Arm, task: Task, *, seed: int, cache: str) -> AsyncIterator[RewardFunction]:
    """The rewards of an arm; a judge is closed at the end.

    All chance in them hangs on the seed, the group and the rollout's place alone: a run that was interrupted gets the
    rewards that it had before.

    Args:
        arm: which.
        task: what is learnt.
        seed: of the run.
        cache: where answers of judges that cost something are kept, as `ruler score` has it.

    Raises:
        ConfigError: the judge cannot be had.
    """
    rewards = Rewards(judge_weight=arm.judge_weight)
    if arm.kind == "judge and rules":
        rewards = replace(task.rules, judge_weight=arm.judge_weight)
    if arm.kind == "naive order":
        async with judged_in_order_of_arrival(str(arm.judge), task, rewards) as reward:
            yield reward
    elif arm.judge is not None:
        where = "off" if Spec.parse(arm.judge).kind in _FREE else cache
        async with judged(arm.judge, task, rewards, orders=arm.orders, cache=where) as (reward, _):
            yield reward
    elif arm.kind == "rules":
        yield by_rules(task.rules)
    elif arm.kind == "truth":
        yield by_truth()
    else:
        yield _by(_value(arm, task), f"{arm.kind}/{seed}")


def _value(arm: Arm, task: Task) -> _Value:
    def flipped(sampled: SampledGroup, place: int, chance: Random) -> float:
        truth = _truth(sampled.episodes[place])
        return 1 - truth if chance.random() < arm.flip else truth

    def coin(sampled: SampledGroup, place: int, chance: Random) -> float:
        return float(chance.random() < 0.5)

    def shorter(sampled: SampledGroup, place: int, chance: Random) -> float:
        most = task.max_turn_tokens * task.max_turns
        return 1 - sampled.episodes[place].num_sampled / most

    def form(sampled: SampledGroup, place: int, chance: Random) -> float:
        return task.well_formed(sampled.group.rollouts[place], sampled.group)

    values: dict[str, _Value] = {"flipped truth": flipped, "random": coin, "shorter": shorter, "format": form}
    return values[arm.kind]


def _truth(episode: Episode) -> float:
    assert episode.truth is not None, "a bundled task knows the truth"
    return episode.truth


def _by(value: _Value, seed: str) -> RewardFunction:
    async def reward(groups: Sequence[SampledGroup]) -> Sequence[Rewarded]:
        return [
            Rewarded.of(
                sampled,
                [value(sampled, place, _chance(seed, sampled, place)) for place in range(len(sampled.episodes))],
            )
            for sampled in groups
        ]

    return reward


def _chance(seed: str, sampled: SampledGroup, place: int) -> Random:
    return Random(hashlib.sha256(f"{seed}/{sampled.group.id}/{place}".encode()).hexdigest())
