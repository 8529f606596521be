"""Groups in, rewards out: what every adapter does, wherever its trainer calls it."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, ParamSpec, Protocol, TypeVar

from ruler.background import run_in_background
from ruler.errors import BudgetExceeded, ConfigError, JudgeError
from ruler.rewards import GroupRewards, Rewards
from ruler.types import FailedGroup, Group, ScoredGroup

P = ParamSpec("P")
T = TypeVar("T")

_logger = logging.getLogger("ruler.adapters")
_SHOWN_CHARS = 500


class Scorer(Protocol):
    """A `Ruler`, a `Client`, or anything else that scores groups as they do."""

    async def score_many(self, groups: Iterable[Group], /) -> list[ScoredGroup | FailedGroup]:
        """One result per group, in the given order."""


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

        None for a group that failed, and for a tied one in which all rewards are equal: it tells nothing, and its
        rewards, which lack the judge's part, would shift a mean over groups.
        """
        rewards = self.rewards.rewards
        if self.result.status == "tied" and len(set(rewards)) == 1:
            return (None,) * len(rewards)
        return rewards

    def numbers(self, failure_reward: float | None = None) -> tuple[float, ...]:
        """For trainers that know numbers only. Tied rollouts get half of what the judge can add, the middle of it.

        Args:
            failure_reward: what all rollouts of a failed group get: equal rewards give none of them an advantage.
                None: a failed group raises.

        Raises:
            JudgeError: the group failed.
        """
        rewards = [reward for reward in self.rewards.rewards if reward is not None]
        if self.failure is not None:
            if failure_reward is None:
                raise self.error()
            return (float(failure_reward),) * len(self.group.rollouts)
        breaks_ties = self.made_by.judge_breaks_ties
        middle = self.made_by.judge_weight / 2 if self.result.status == "tied" and not breaks_ties else 0.0
        return tuple(
            reward if one.gated_by else reward + middle
            for reward, one in zip(rewards, self.rewards.rollouts, strict=True)
        )

    def error(self) -> JudgeError:
        """What a trainer that has to be told by an exception is told of a failed group."""
        return JudgeError(f"group {self.group.id!r:.80}: no reward for any rollout: {self.failure}")

    def metrics(self) -> list[dict[str, float]]:
        """For each rollout what its reward is made of; the same keys for every group that is rewarded alike.

        `judge_failed`, `judge_tied` and `judge_gated` are 0 or 1. `part_judge` and `part_NAME` for each rule are what
        these add to the reward: 0 where they add nothing, also to rollouts of a failed group.
        """
        failed = self.failure is not None or self.result.status == "failed"
        parts = ("judge", *(rule.name for rule in self.made_by.rules))
        return [
            dict(
                zip(
                    metric_names(self.made_by),
                    (
                        float(failed),
                        float(self.result.status == "tied"),
                        float(one.gated_by is not None),
                        *(0.0 if self.failure else one.parts.get(name, 0.0) for name in parts),
                    ),
                    strict=True,
                )
            )
            for one in self.rewards.rollouts
        ]

    @property
    def notes(self) -> tuple[str | None, ...]:
        """The judge's note on each rollout; None where there is none."""
        if isinstance(self.result, FailedGroup):
            return (None,) * len(self.group.rollouts)
        return tuple(score.note for score in self.result.rollouts)


def metric_names(rewards: Rewards) -> tuple[str, ...]:
    """The keys of `RewardedGroup.metrics` of every group that is rewarded so."""
    return "judge_failed", "judge_tied", "judge_gated", "part_judge", *(f"part_{rule.name}" for rule in rewards.rules)


class Rewarder:
    """Asks a scorer about groups and makes rewards of what it says. Safe for concurrent use.

    It works in the event loop of a trainer, in a new one for each call, in threads, and in children that were forked
    or spawned. It pickles when its parts do: a `Client` does, a `Ruler` whose judges are SPECs does, and so do the
    checks of `ruler.rules` and functions of a module.
    """

    def __init__(self, scorer: Scorer, rewards: Rewards | None = None) -> None:
        """Asks nothing yet.

        Args:
            scorer: who scores.
            rewards: how scores and rules make a reward; None: the score is the reward.

        Raises:
            ConfigError: something else.
        """
        if not callable(getattr(scorer, "score_many", None)):
            raise ConfigError(f"scorer: expected a Ruler or a Client, got {scorer!r:.80}")
        if not isinstance(rewards, Rewards | None):
            raise ConfigError(f"rewards: expected Rewards, got {rewards!r:.80}")
        self.rewards = rewards or Rewards()
        self._scorer = scorer
        self._pid = os.getpid()

    async def reward(self, groups: Sequence[Group]) -> list[RewardedGroup]:
        """One result per group, in order; a failure is logged, and disturbs no other group.

        Raises:
            BudgetExceeded: the cap is reached, so that no group can be scored any more.
            ConfigError: neither can it with these settings: a wrong key, address, judge or rubric.
            GroupError: an item is no Group.
        """
        if not groups:
            return []
        results = await self._here().score_many(groups)
        if [result.group_id for result in results] != [group.id for group in groups]:
            raise ConfigError(f"scorer: its results are not those of the groups: {len(results)} for {len(groups)}")
        return [self._settle(group, result) for group, result in zip(groups, results, strict=True)]

    def reward_sync(self, groups: Sequence[Group]) -> list[RewardedGroup]:
        """`reward` for code that is not async."""
        return run_in_background(self.reward(groups))

    def _settle(self, group: Group, result: ScoredGroup | FailedGroup) -> RewardedGroup:
        if isinstance(result, FailedGroup):
            for kind in (BudgetExceeded, ConfigError):
                if result.reason == kind.code:
                    raise kind(f"group {group.id!r:.80}: {result.message}", usage=result.usage)
        rewards, failure = self.rewards.settle(group, result)
        if failure is not None:
            # As a literal: a judge's reply may stand in it, and must not write lines of its own into a log.
            _logger.warning("group %.80r: no reward for any rollout: %.*r", group.id, _SHOWN_CHARS, failure)
        return RewardedGroup(group, rewards, result, self.rewards, failure)

    def _here(self) -> Scorer:
        """The scorer; in a forked child one made anew, because threads and locks of the parent are not there."""
        if self._pid != os.getpid():
            self._scorer, self._pid = copy.copy(self._scorer), os.getpid()
        return self._scorer


class Blocking(Generic[P, T]):
    """An async function as one that blocks, for trainers that call plain ones; it pickles when the function does."""

    def __init__(self, function: Callable[P, Awaitable[T]]) -> None:
        self._function = function
        self.__name__ = getattr(function, "__name__", type(function).__name__)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """What the function returns, whether or not the calling thread has a running event loop."""
        return run_in_background(self._awaited(*args, **kwargs))

    async def _awaited(self, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._function(*args, **kwargs)
