"""What a set of handwritten rules is, and how it scores a group."""

from __future__ import annotations

from dataclasses import dataclass

from ruler.errors import GroupError
from ruler.rewards import Rewards
from ruler.types import Group


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The rules that somebody would write for one kind of task."""

    name: str
    blind: Rewards
    """Sees the task and the rollouts, as a judge does; never raises on what a rollout holds."""
    with_reference: Rewards | None
    """Sees the group's reference too. None where the source has none, or it cannot be used without running code."""


def score(rewards: Rewards, group: Group) -> tuple[float, ...]:
    """The rollouts' sums of weighted rules, in the order of the group; finite, higher is better, no fixed range.

    Raises:
        ConfigError: the judge has a weight in `rewards`.
        GroupError: the rules want a reference that the group lacks or that cannot be read.
    """
    scores = []
    for rollout in rewards.combine(group, None).rollouts:
        if rollout.reward is None:
            raise GroupError(f"group {group.id!r}: rollout {rollout.id!r} has no reward")
        scores.append(rollout.reward)
    return tuple(scores)
