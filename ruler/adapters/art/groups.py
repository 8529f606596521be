"""ART's trajectory groups, read for a judge and copied with rewards (openpipe-art 0.5.18, art/trajectories.py)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from ruler.adapters.groups import opening
from ruler.adapters.rewarded import RewardedGroup
from ruler.errors import ConfigError, GroupError
from ruler.messages import read_tools
from ruler.types import Group, Rollout, ScoredGroup

if TYPE_CHECKING:
    from art import TrajectoryGroup

_Model = TypeVar("_Model", bound=BaseModel)


def read_group(group: TrajectoryGroup, *, reference: str | None = None) -> Group:
    """The group for a judge: trajectories are called 1, 2, … by place, their additional histories are sections.

    Raises:
        GroupError: a message or tool cannot be read, the openings have nothing in common, or reference answers differ.
        ConfigError: the reference's key is nowhere.
    """
    rollouts = []
    for place, trajectory in enumerate(group.trajectories, 1):
        histories = trajectory.additional_histories
        tools = [one.tools for one in (trajectory, *histories) if one.tools is not None]
        rollouts.append(
            Rollout.of(
                str(place),
                list(_messages(trajectory.messages_and_choices)),
                tools=list(dict.fromkeys(tool for own in tools for tool in read_tools(own))) if tools else None,
                histories={
                    f"additional history {number}": list(_messages(history.messages_and_choices))
                    for number, history in enumerate(histories, 1)
                },
                metadata={name: getattr(trajectory, name) for name in ("reward", "metrics", "metadata")},
            )
        )
    answer = None if reference is None else _reference(group, reference)
    return group_of(rollouts, reference=answer, metadata=group.metadata)


def group_of(rollouts: Sequence[Rollout], **others: Any) -> Group:
    """A group that the user put together: its task is what all were told before any of them answered.

    What they were told after that may differ, as by simulated users. `others` are those of `Group.of`.

    Raises:
        GroupError: not even the first message is the same, or the others cannot be read.
    """
    return Group.of(rollouts, task=opening(rollouts) or None, **others)


def with_rewards(group: TrajectoryGroup, rewarded: RewardedGroup) -> TrajectoryGroup:
    """A copy of the group with these rewards; all else in it is as it was, and so is the group itself.

    Raises:
        JudgeError: there are no rewards.
    """
    result = rewarded.result
    flags = (
        [one.flags for one in result.rollouts] if isinstance(result, ScoredGroup) else [()] * len(group.trajectories)
    )
    columns = (rewarded.numbers(), rewarded.rewards.rollouts, rewarded.metrics(), rewarded.notes, flags)
    trajectories = []
    for before, reward, one, metrics, note, odd in zip(group.trajectories, *columns, strict=True):
        after = _copy(before)
        score = 0.5 if result.status == "tied" else one.score
        after.metrics |= {
            # A group that was scored before has a judge's reward by now.
            "independent_reward": before.metrics.get("independent_reward", before.reward),
            **({} if score is None else {"ruler_score": score}),
            **metrics,
        }
        after.reward = reward
        if note is not None:
            after.logs.append(f"RULER explanation: {note}")
        if odd:
            after.logs.append(f"RULER flags: {', '.join(odd)}")
        trajectories.append(after)
    scored = _copy(group)
    scored.trajectories = trajectories
    return scored


def _messages(messages_and_choices: Iterable[Any]) -> Iterator[Any]:
    # ART's `messages()` leaves out refusals, reasoning, and why generation ended. A choice as a whole takes a hundredth
    # of a second to read, for its log probabilities.
    for item in messages_and_choices:
        is_choice = hasattr(item, "message")
        yield {"message": item.message, "finish_reason": item.finish_reason} if is_choice else item


def _reference(group: TrajectoryGroup, key: str) -> object:
    places = [group.metadata] if key in group.metadata else [one.metadata for one in group.trajectories]
    for place in places:
        if key not in place:
            raise ConfigError(f"reference: {key!r:.80} is no key of the group's metadata, nor of every trajectory's")
        if place[key] != places[0][key]:
            raise GroupError(f"reference: {key!r:.80}: trajectories differ: {places[0][key]!r:.80}, {place[key]!r:.80}")
    return places[0][key]


def _copy(model: _Model) -> _Model:
    """With containers of its own."""
    # From its state: to copy an ART group, ART and pydantic call its constructor, which knows nothing of a subclass's
    # fields and wants arguments.
    copied = object.__new__(type(model))
    copied.__setstate__({part: copy.copy(value) for part, value in model.__getstate__().items()})
    for name, value in vars(model).items():
        if isinstance(value, list | dict):
            vars(copied)[name] = value.copy()
    return copied
