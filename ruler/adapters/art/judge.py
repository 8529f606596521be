"""Asking about ART's groups (openpipe-art 0.5.18: `after_each` in art/gather.py, MetricsBuilder in art/metrics.py)."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from ruler.adapters.art.groups import read_group, with_rewards
from ruler.adapters.rewarded import RewardedGroup
from ruler.adapters.rewarder import Rewarder, Scorer
from ruler.errors import BudgetExceeded, ConfigError, GroupError, JudgeError, RulerError, describe
from ruler.rewards import Rewards
from ruler.types import Group

if TYPE_CHECKING:
    from art import TrajectoryGroup

_logger = logging.getLogger("ruler.adapters")


class GroupJudge:
    """Scores one trajectory group a call: what `after_each` takes. Safe for concurrent use.

    Attributes:
        num_scored: groups that got their rewards so far.
        num_dropped: groups that got none, and were dropped.
    """

    def __init__(self, scorer: Scorer, *, rewards: Rewards | None = None, reference: str | None = None) -> None:
        """Asks nothing yet.

        Args:
            scorer: a `Ruler` or a `Client`.
            rewards: how scores and rules make a reward; None: the score is the reward. A rule finds the `reward`,
                `metrics` and `metadata` of the trajectory under these names in `rollout.metadata`.
            reference: key of the reference answer in the metadata of the group, or of each of its trajectories.

        Raises:
            ConfigError: a scorer, or rewards, that are none.
        """
        self.num_scored = 0
        self.num_dropped = 0
        self._rewarder = Rewarder(scorer, rewards)
        self._reference = reference

    async def __call__(self, group: TrajectoryGroup) -> TrajectoryGroup | None:
        """A copy of the group with its rewards, or None, which drops it, when there are none; the log says why.

        All else stays as it was: order, exceptions, metadata, versions, what a subclass has. The metrics of each
        trajectory get `ruler_score`, the judge's score; `independent_reward`, the reward it had before it was ever
        scored; and what its reward is made of (see `RewardedGroup.metrics`). Its log gets the judge's note.

        - No trajectories: nothing to score; the group itself comes back, with its exceptions.
        - One: it compares with nothing, and is dropped, unless the scorer is a `Ruler(absolute=True)`.
        - All read the same (`judge_tied`): the judge is not asked. Its part is half of its weight for each, and
          `ruler_score` 0.5; they are equal, so ART gives none of them an advantage.

        Raises:
            BudgetExceeded: the cap is reached, so that no group can be scored any more.
            ConfigError: neither can it with these settings, or the reference's key is nowhere.
        """
        if not group.trajectories:
            return group
        try:
            rewarded = await reward_trajectories(self._rewarder, group, reference=self._reference)
        except (BudgetExceeded, ConfigError):
            raise
        except RulerError:
            self.num_dropped += 1
            return None
        self.num_scored += 1
        return with_rewards(group, rewarded)


async def reward_trajectories(
    rewarder: Rewarder, group: TrajectoryGroup, *, reference: str | None = None
) -> RewardedGroup:
    """As `reward_group`, for a group of ART's.

    Raises:
        GroupError: it cannot be read.
        RulerError: as `reward_group`.
    """
    try:
        read = read_group(group, reference=reference)
    except GroupError as error:
        _logger.warning("trajectory group: no reward for any trajectory: %.500r", str(error))
        _add_metrics(dropped=1.0)
        raise
    return await reward_group(rewarder, read)


async def reward_group(rewarder: Rewarder, group: Group) -> RewardedGroup:
    """The group's rewards, never without numbers. What they cost goes to ART's metrics, and so does a failure.

    Raises:
        JudgeError: there are none; a warning in the log says why, too.
        BudgetExceeded, ConfigError: nor will there be for any other group.
    """
    try:
        [rewarded] = await rewarder.reward([group])
    except (BudgetExceeded, ConfigError):
        raise
    except Exception as error:
        # What leaves `after_each` ends the whole gather, with all rollouts that are paid for: one group is less.
        _logger.warning("group %.80r: the scorer failed", group.id, exc_info=True)
        _add_metrics(dropped=1.0)
        raise JudgeError(f"group {group.id!r:.80}: the scorer raised {describe(error)}") from error
    failed = rewarded.failure is not None
    _add_metrics(dropped=float(failed), cost_usd=rewarded.result.usage.cost_usd)
    if failed:
        raise rewarded.error()
    return rewarded


def _add_metrics(*, dropped: float, cost_usd: float | None = None) -> None:
    """Adds to the metrics of ART's current step, where there is one; an unknown cost is left out."""
    metrics = sys.modules.get("art.metrics")  # who has not loaded it collects nothing
    if metrics is None:
        return
    with suppress(LookupError, ValueError):  # no step, or the user has the name for something else
        builder = metrics.MetricsBuilder.get_active()
        builder.add_metric("judge/dropped_groups", dropped)
        if cost_usd is not None:
            builder.add_cost(f"{builder.cost_context}/judge/ruler", cost_usd)
