"""The rewards of a group, in the forms that trainers take."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ruler.errors import ConfigError, JudgeError
from ruler.rewards import GroupRewards, Rewards, RolloutReward
from ruler.types import FailedGroup, Group, ScoredGroup


@dataclass(frozen=True, slots=True)
class RewardedGroup:
    """The rewards of one group, in the forms that trainers take."""

    group: Group
    rewards: GroupRewards
    """All numbers, or all None."""
    result: ScoredGroup | FailedGroup
    made_by: Rewards
    """How they were made."""
    failure: str | None = None
    """Why there are no rewards, as `reason: message`; None where there are."""

    @property
    def optional(self) -> tuple[float | None, ...]:
        """For trainers that know "no score": a number for every rollout, or None for all.

        None for a group that failed, and for a tied one in which all rewards are equal, which tells nothing.
        """
        if self.failure is not None or (self.result.status == "tied" and len(set(self._numbers())) == 1):
            return (None,) * len(self.group.rollouts)
        return self._numbers()

    def numbers(self, failure_reward: float | None = None) -> tuple[float, ...]:
        """For trainers that know numbers only.

        Args:
            failure_reward: what all rollouts of a failed group get: equal rewards give none of them an advantage.
                None: a failed group raises.

        Raises:
            JudgeError: the group failed.
        """
        if self.failure is None:
            return self._numbers()
        if failure_reward is None:
            raise self.error()
        return (float(failure_reward),) * len(self.group.rollouts)

    def _numbers(self) -> tuple[float, ...]:
        # Strict: a reward that is missing where nothing failed is an error, and no 0.
        rewards = [reward for reward in self.rewards.rewards if reward is not None]
        return tuple(
            reward if one.gated_by else reward + self._middle
            for reward, one in zip(rewards, self.rewards.rollouts, strict=True)
        )

    @property
    def _middle(self) -> float:
        return tied_part(self.made_by) if self.result.status == "tied" else 0.0

    def error(self) -> JudgeError:
        """What a trainer that has to be told by an exception is told of a failed group."""
        return JudgeError(f"group {self.group.id!r:.80}: no reward for any rollout: {self.failure}")

    def metrics(self) -> list[dict[str, float]]:
        """For each rollout what its reward is made of, by `metric_names`.

        `judge_failed`, `judge_tied` and `judge_gated` are 0 or 1: the group has no rewards, the judge was not asked
        because all read the same, a gate set the reward. `part_judge` and `part_NAME` for each rule are what these add
        to the reward: it is their sum, unless a gate set it. They are 0 where there is no reward.
        """
        return [self._metrics(one) for one in self.rewards.rollouts]

    def _metrics(self, one: RolloutReward) -> dict[str, float]:
        said = {f"part_{name}": value for name, value in one.parts.items()}
        if self._middle and one.gated_by is None:
            said["part_judge"] = self._middle
        if self.failure is not None:
            said = {}
        said |= {
            "judge_failed": float(self.failure is not None),
            "judge_tied": float(self.result.status == "tied"),
            "judge_gated": float(one.gated_by is not None),
        }
        return {name: said.get(name, 0.0) for name in metric_names(self.made_by)}

    @property
    def notes(self) -> tuple[str | None, ...]:
        """The judge's note on each rollout; None where there is none."""
        if isinstance(self.result, FailedGroup):
            return (None,) * len(self.group.rollouts)
        return tuple(score.note for score in self.result.rollouts)


def tied_part(rewards: Rewards) -> float:
    """What the judge adds to tied rollouts: half of what it can, so that a mean over groups learns nothing."""
    return 0.0 if rewards.judge_breaks_ties else rewards.judge_weight / 2


def metric_names(rewards: Rewards) -> tuple[str, ...]:
    """The keys of `RewardedGroup.metrics` of every group that is rewarded so."""
    return "judge_failed", "judge_tied", "judge_gated", "part_judge", *(f"part_{rule.name}" for rule in rewards.rules)


def mean_parts(rewarded: Iterable[RewardedGroup], rewards: Rewards) -> dict[str, float]:
    """The mean of each part over all rollouts of these groups; nan where there are none.

    The names are the same whatever happened: where several processes log them, some trainers wait for all of them.
    """
    of_rollouts = [metrics for one in rewarded for metrics in one.metrics()]
    return {
        name: math.fsum(metrics[name] for metrics in of_rollouts) / len(of_rollouts) if of_rollouts else math.nan
        for name in metric_names(rewards)
        if name.startswith("part_")
    }


def read_failure_reward(value: object) -> float | None:
    """What all rollouts of a failed group are to get.

    Raises:
        ConfigError: neither None nor a finite number.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"failure_reward: expected a finite number or None, got {value!r:.80}")
    return float(value)
