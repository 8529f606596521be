"""Groups in, rewards out: what every adapter does, wherever its trainer calls it."""

from __future__ import annotations

import copy
import logging
import math
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, ParamSpec, Protocol, TypeVar

from ruler.background import run_in_background
from ruler.errors import BudgetExceeded, ConfigError, JudgeError
from ruler.rewards import GroupRewards, Rewards, RolloutReward
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
        rewards = self.rewards.rollouts
        return tuple((one.reward or 0.0) + (0.0 if one.gated_by else self._middle) for one in rewards)

    @property
    def _middle(self) -> float:
        """What the judge adds to rollouts that are tied: half of what it can, so that a mean over groups learns nothing
        from a tie.
        """
        adds = self.result.status == "tied" and not self.made_by.judge_breaks_ties
        return self.made_by.judge_weight / 2 if adds else 0.0

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
            # Not repeated: a SPEC that was meant for a Ruler may hold what is nobody's business.
            raise ConfigError(f"scorer: expected a Ruler or a Client, got one of type {type(scorer).__name__}")
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
        """The scorer; in a forked child one made anew, because local models do not work there."""
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
