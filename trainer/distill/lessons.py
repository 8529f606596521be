"""From groups and a teacher's scores to what a student reads: which prompts, in which orders, on which side of a split.

The student is shown the prompts that it will be shown as a judge, cuts and blocks included, each time in a fresh order
of the rollouts. A score belongs to a rollout and not to its place, so the student learns not to go by places, even from
a teacher that does.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ruler.errors import ConfigError, PackingError
from ruler.evaluation import cluster_of
from ruler.orders import seeded_order
from ruler.packing import PromptOptions
from ruler.plan import Plan, Planner, PlanOptions
from ruler.records import LabelledGroup
from ruler.rubric import Rubric
from ruler.types import ChatMessage, JudgeInfo

_ROUNDING = 6
"""Decimals of a score out of 100: 100 * 0.57 is 57, whatever floating point says."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """One prompt, and what a teacher says of it."""

    messages: tuple[ChatMessage, ...]
    scores: Mapping[str, float]
    """Label -> score, 0..100; at least one. Each is learnt by itself, as each is read."""


def target(score: float) -> dict[int, float]:
    """The score, 0..100, as what can be written: one or two neighbouring integers, with shares whose mean it is.

    A judge's score is the mean of its distribution, so a teacher's 73.4 is no fault in a student that says 73 with
    probability 0.6 and 74 with 0.4.
    """
    low = math.floor(round(score, _ROUNDING))
    rest = round(score - low, _ROUNDING)
    return {low: 1 - rest, low + 1: rest} if rest else {low: 1.0}


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """A group as the student is to be shown it. Each is a key of its own, whatever it holds."""

    labelled: LabelledGroup
    plan: Plan

    @property
    def group_id(self) -> str:
        """That of the group."""
        return self.labelled.group.id

    def lessons(self, scores: Mapping[str, float], *, epoch: int = 0, seed: int = 0) -> list[Lesson]:
        """One for each block of one of the plan's orders, which take turns; the rollouts of each in a fresh order.

        Only the plan's own blocks are shown: that others of the same size fit the window is not known.

        Args:
            scores: rollout id -> the teacher's, in [0, 1].
            epoch: from 0.
            seed: of the fresh orders.
        """
        packed = self.plan.packed
        places = {rollout.label: place for place, rollout in enumerate(packed.rollouts)}
        lessons = []
        for block in self.plan.orders[epoch % len(self.plan.orders)]:
            shuffled = seeded_order(len(block.labels), f"{seed}|lesson|{epoch}|{block.block}|{packed.seed}")
            prompt = packed.prompt([places[block.labels[slot]] for slot in shuffled])
            lessons.append(
                Lesson(prompt.messages, {label: 100 * scores[names[0]] for label, names in prompt.rollouts.items()})
            )
        return lessons


@dataclass(frozen=True, slots=True)
class Usable:
    """The groups that can be learnt from, and how many cannot."""

    material: tuple[Material, ...]
    """In the order of their content: arrival order leaves no trace."""
    num_single: int
    """Of one rollout: nothing to compare."""
    num_tied: int
    """Whose rollouts all read the same."""
    num_too_long: int
    """Which do not fit the student's window, even cut and in blocks of two."""

    @property
    def left_out(self) -> str:
        """How many and why, in words; empty where none is."""
        counts = {"of one rollout": self.num_single, "tied": self.num_tied, "too long": self.num_too_long}
        return ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)


def usable(groups: Sequence[LabelledGroup], info: JudgeInfo, rubric: Rubric) -> Usable:
    """The groups laid out for the student that says this of itself.

    Raises:
        ConfigError: no groups, two of one id, or none that can be used.
    """
    if not groups:
        raise ConfigError("groups: there are none to learn from")
    seen: set[str] = set()
    counts = dict.fromkeys(("single", "tied", "too long"), 0)
    too_long = ""
    material = []
    for labelled in groups:
        group = labelled.group
        if group.id in seen:
            raise ConfigError(f"groups: the id {group.id!r} occurs twice")
        seen.add(group.id)
        if len(group.rollouts) == 1:
            counts["single"] += 1
            continue
        try:
            plan = Planner(group, rubric, PromptOptions(), PlanOptions()).plan(info.name, info)
        except PackingError as error:
            counts["too long"] += 1
            too_long = too_long or f": {error}"
            continue
        if plan.orders:
            material.append(Material(labelled, plan))
        else:
            counts["tied"] += 1
    material.sort(key=lambda item: (item.plan.packed.seed, item.group_id))
    found = Usable(tuple(material), counts["single"], counts["tied"], counts["too long"])
    if not material:
        raise ConfigError(f"groups: none of {len(groups)} can be learnt from: {found.left_out}{too_long}")
    return found


def split(material: Sequence[Material], share: float, seed: int) -> tuple[list[Material], list[Material]]:
    """(to train on, held out): about this share is held out, at least one group on either side.

    By a seeded hash of the content, never by place: groups with the same content stand on one side, and so do those of
    one task where they say which (`split_key`), else a student would be measured on what it has seen. Groups that are
    added move few of the others.

    Raises:
        ConfigError: all groups would have to stand on one side.
    """
    keys = sorted(
        {_key(item) for item in material}, key=lambda key: hashlib.sha256(f"{seed}|held out|{key}".encode()).digest()
    )
    if len(keys) < 2:
        raise ConfigError("groups: all are of one task, or only one can be used; none can be held out to measure by")
    size = min(max(1, round(share * len(keys))), len(keys) - 1)
    chosen = set(keys[:size])
    return [item for item in material if _key(item) not in chosen], [item for item in material if _key(item) in chosen]


def _key(item: Material) -> str:
    group = item.labelled.group
    cluster = cluster_of(group)
    # ascii: a lone surrogate cannot be hashed.
    return f"task {cluster!a}" if cluster else group.digest


def batches(
    taught: Sequence[tuple[Material, Mapping[str, float]]], *, epochs: int, groups_per_step: int, seed: int
) -> Iterator[list[Lesson]]:
    """The lessons of each step of the optimiser: in every epoch all groups, in a fresh order.

    Args:
        taught: groups, each with its scores by rollout id, in [0, 1].
        epochs: how often each group is read.
        groups_per_step: of the last step of an epoch fewer, where they do not come out even.
        seed: of all orders.
    """
    for epoch in range(epochs):
        order = seeded_order(len(taught), f"{seed}|epoch|{epoch}")
        for start in range(0, len(order), groups_per_step):
            chosen = (taught[place] for place in order[start : start + groups_per_step])
            yield [lesson for item, scores in chosen for lesson in item.lessons(scores, epoch=epoch, seed=seed)]
