"""Groups in, rewards out: what every adapter does, wherever its trainer calls it."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Generic, ParamSpec, Protocol, TypeVar

from ruler.adapters.rewarded import RewardedGroup
from ruler.background import run_in_background
from ruler.errors import BudgetExceeded, ConfigError
from ruler.rewards import Rewards
from ruler.types import FailedGroup, Group, ScoredGroup

P = ParamSpec("P")
T = TypeVar("T")

_logger = logging.getLogger("ruler.adapters")
_SHOWN_CHARS = 500


class Scorer(Protocol):
    """A `Ruler`, a `Client`, or anything else that scores groups as they do."""

    async def score_many(self, groups: Iterable[Group], /) -> list[ScoredGroup | FailedGroup]:
        """One result per group, in the given order."""


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
        if isinstance(scorer, type) or not callable(getattr(scorer, "score_many", None)):
            # Not repeated: a SPEC that was meant for a Ruler may hold what is nobody's business.
            raise ConfigError(
                f"scorer: expected a Ruler or a Client, as Ruler('openai/gpt-5-mini') or Client('http://judge:8000'), "
                f"got one of type {type(scorer).__name__}"
            )
        if not isinstance(rewards, Rewards | None):
            raise ConfigError(f"rewards: expected Rewards(rules=(…)), got {rewards!r:.80}")
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
