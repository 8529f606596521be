"""Finished groups -> rewards: by a judge, by rules, by both, or by truth. A failure stays a failure."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from numbers import Real
from typing import TypeAlias

from ruler.errors import ConfigError
from ruler.rewards import GroupRewards, Rewards, RolloutReward
from ruler.truth_lookup import TruthLookup
from ruler.types import FailedGroup, Group, ScoredGroup
from trainer.episodes import SampledGroup

Scorer: TypeAlias = Callable[[Sequence[Group]], Awaitable[Sequence[ScoredGroup | FailedGroup]]]
"""`Ruler.score_many`, `Client.score_many`, or any function like these: one result per group, in order."""


@dataclass(frozen=True, slots=True)
class Rewarded:
    """The rewards of one group, and where they come from.

    Raises:
        ConfigError: some rollouts have a reward and others not, or a failure is missing or too much.
    """

    rewards: GroupRewards
    """All numbers, or all None."""
    result: ScoredGroup | FailedGroup | None = None
    """What the judge said; None where none was asked."""
    failure: str | None = None
    """Why there are no rewards, as `reason: message`; None where there are."""

    def __post_init__(self) -> None:
        missing = [reward is None for reward in self.rewards.rewards]
        if any(missing) != all(missing) or any(missing) != (self.failure is not None) or self.failure == "":
            raise ConfigError(
                f"rewards of group {self.rewards.group_id!r}: expected a number for every rollout, or None for each of "
                f"them and a failure, got {self.rewards.rewards!r:.200} and failure {self.failure!r:.80}"
            )

    @classmethod
    def of(cls, sampled: SampledGroup, rewards: Sequence[float], *, name: str = "reward") -> Rewarded:
        """Numbers of your own, one per rollout, in order.

        Args:
            sampled: the group.
            rewards: finite.
            name: what they are called where a reward is taken apart.

        Raises:
            ConfigError: not one finite number per rollout.
        """
        rollouts = sampled.group.rollouts
        numbers = all(isinstance(reward, Real) and math.isfinite(reward) for reward in rewards)
        if len(rewards) != len(rollouts) or not numbers:
            raise ConfigError(
                f"rewards of group {sampled.group.id!r}: expected {len(rollouts)} finite numbers, got {rewards!r:.200}"
            )
        parts = [
            RolloutReward(rollout.id, float(reward), parts={name: float(reward)})
            for rollout, reward in zip(rollouts, rewards, strict=True)
        ]
        return cls(GroupRewards(sampled.group.id, "unjudged", tuple(parts)))

    @classmethod
    def settled(cls, rewards: Rewards, group: Group, result: ScoredGroup | FailedGroup | None) -> Rewarded:
        """What judge and rules say together; a rule that raises fails the group.

        Args:
            rewards: how they make a reward.
            group: the rollouts.
            result: the judge's; None: none was asked.

        Raises:
            ConfigError: no result although the judge has a weight.
        """
        combined, failure = rewards.settle(group, result)
        return cls(combined, result, failure)

    @classmethod
    def failed(cls, group: Group, failure: str, result: ScoredGroup | FailedGroup | None = None) -> Rewarded:
        """No rewards, for none of the rollouts.

        Args:
            group: the group that has none.
            failure: why, as `reason: message`.
            result: what the judge said, if one was asked.
        """
        nothing = tuple(RolloutReward(rollout.id, None) for rollout in group.rollouts)
        return cls(GroupRewards(group.id, "failed", nothing), result, failure)


RewardFunction: TypeAlias = Callable[[Sequence[SampledGroup]], Awaitable[Sequence[Rewarded]]]
"""One `Rewarded` per group, in order."""


def by_judge(score_many: Scorer, rewards: Rewards | None = None, *, truth: TruthLookup | None = None) -> RewardFunction:
    """Rewards by a judge, alone or together with rules.

    A group that the judge failed, or on which a rule raised, has no rewards.

    Args:
        score_many: asks the judge.
        rewards: how scores and rules make a reward; None: the score is the reward.
        truth: told the truth of each group before the judge is asked, for judges that are simulated from it.
    """
    combined = rewards or Rewards()

    async def reward(groups: Sequence[SampledGroup]) -> Sequence[Rewarded]:
        with _known(truth, groups) if truth else nullcontext():
            results = await score_many([sampled.group for sampled in groups])
        if len(results) != len(groups):
            raise ConfigError(f"score_many: {len(results)} results for {len(groups)} groups")
        return [
            Rewarded.settled(combined, sampled.group, result) for sampled, result in zip(groups, results, strict=True)
        ]

    return reward


def by_rules(rewards: Rewards) -> RewardFunction:
    """Rewards by rules alone; nobody is asked."""

    async def reward(groups: Sequence[SampledGroup]) -> Sequence[Rewarded]:
        return [Rewarded.settled(rewards, sampled.group, None) for sampled in groups]

    return reward


def by_truth() -> RewardFunction:
    """Truth as the reward: what a judge is measured against. A group without it has no rewards."""

    async def reward(groups: Sequence[SampledGroup]) -> Sequence[Rewarded]:
        return [_true_rewards(sampled) for sampled in groups]

    return reward


def _true_rewards(sampled: SampledGroup) -> Rewarded:
    truths = [episode.truth for episode in sampled.episodes if episode.truth is not None]
    if len(truths) < len(sampled.episodes):
        return Rewarded.failed(sampled.group, "truth: the environment does not know it")
    return Rewarded.of(sampled, truths, name="truth")


@contextmanager
def _known(truth: TruthLookup, groups: Sequence[SampledGroup]) -> Iterator[None]:
    for sampled in groups:
        truth.learn(sampled.group, _truths(sampled))
    try:
        yield
    finally:
        for sampled in groups:
            truth.forget(sampled.group)


def _truths(sampled: SampledGroup) -> dict[str, float]:
    return {
        rollout.id: episode.truth
        for rollout, episode in zip(sampled.group.rollouts, sampled.episodes, strict=True)
        if episode.truth is not None
    }
