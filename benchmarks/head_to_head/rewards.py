"""An arm's rewards: what the trainer is given."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from random import Random
from typing import Any, TypeAlias

from benchmarks.head_to_head.arms import Arm
from benchmarks.head_to_head.naive_order import judged_in_order_of_arrival
from ruler.rewards import Rewards
from ruler.scoring import Ruler
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
async def reward_of(
    arm: Arm, task: Task, *, seed: int, cache: str
) -> AsyncIterator[tuple[RewardFunction, dict[str, Any]]]:
    """The rewards of an arm, and what makes them: two arms with equal facts give equal rewards. A judge is closed at
    the end.

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
    facts: dict[str, Any] = {"kind": arm.kind, "judge_weight": arm.judge_weight, "flip": arm.flip}
    rewards = Rewards(judge_weight=arm.judge_weight)
    if arm.kind == "judge and rules":
        rewards = replace(task.rules, judge_weight=arm.judge_weight)
    if arm.judge is not None:
        async with _judged(arm, task, rewards, cache) as (reward, ruler):
            asked = {"judge": ruler.judge_name, "rubric": ruler.rubric.id, "prompt_version": ruler.prompt_version}
            yield reward, {**facts, **asked, "orders": arm.orders}
    elif arm.kind == "rules":
        yield by_rules(task.rules), facts
    elif arm.kind == "truth":
        yield by_truth(), facts
    else:
        yield _by(_value(arm, task), f"{arm.kind}/{seed}"), facts


def _judged(
    arm: Arm, task: Task, rewards: Rewards, cache: str
) -> AbstractAsyncContextManager[tuple[RewardFunction, Ruler]]:
    spec = str(arm.judge)
    kind = Spec.parse(spec).kind
    if arm.kind == "naive order":
        return judged_in_order_of_arrival(spec, task, rewards)
    if kind == "embedded" and "concurrency=" not in spec:
        # What is read with it moves a score in its last digits, and groups come in another rhythm each time.
        spec += f"{'&' if '?' in spec else '?'}concurrency=1"
    return judged(spec, task, rewards, orders=arm.orders, cache="off" if kind in _FREE else cache)


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
