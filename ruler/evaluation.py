"""Groups with truth beside the scores that somebody gave them: what `ruler evaluate` and the benchmark compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ruler.agreement import GroupAgreement, agree
from ruler.records import LabelledGroup
from ruler.types import FailedGroup, Group, ScoredGroup

NO_SOURCE = "(no source)"
CHECKED = "binary"
"""The `truth_kind` of groups where a checker said right or wrong: what pair-equivalent noise is defined on."""


def source_of(group: Group) -> str:
    """Where the group is from, by its metadata."""
    source: Any = group.metadata.get("source")
    return NO_SOURCE if source is None or source == "" else str(source)


def cluster_of(group: Group) -> str | None:
    """What groups of one task have in common, by the metadata `split_key`; None: the group stands for itself."""
    split_key: Any = group.metadata.get("split_key")
    return None if split_key is None else str(split_key)


def has_truth(item: LabelledGroup) -> bool:
    """Whether the group can be compared: two or more rollouts, each with truth."""
    return len(item.truth) == len(item.group.rollouts) > 1


def truth_of(item: LabelledGroup) -> tuple[float, ...]:
    """In the order of the rollouts."""
    return tuple(item.truth[rollout.id] for rollout in item.group.rollouts)


def is_checked(group: Group) -> bool:
    """Whether a checker gave the truth, by the metadata `truth_kind`; a group that does not say is taken for one."""
    return bool(group.metadata.get("truth_kind", CHECKED) == CHECKED)


def scores_of(result: ScoredGroup | FailedGroup) -> tuple[float, ...] | None:
    """The scores in the caller's order; None for a failed group.

    A tied group's rollouts read the same, and no scorer can order them: equal scores, 0.0 each. They are no judge's
    and only say so.
    """
    if isinstance(result, FailedGroup):
        return None
    return tuple(0.0 if score is None else score for score in result.scores)


def agreements(
    labelled: Sequence[LabelledGroup],
    scores: Sequence[Sequence[float] | None],
    *,
    min_gaps: Mapping[str, float] | None = None,
) -> list[GroupAgreement]:
    """The scores of each group against its truth; groups without scores are left out.

    Args:
        labelled: groups with truth on every rollout.
        scores: one entry a group, in the order of its rollouts; None: there are none.
        min_gaps: source -> pairs whose truth differs by less are left out there; 0 for the others.

    Raises:
        ValueError: lengths differ, a score is not finite, or a `min_gap` is out of range.
    """
    if len(scores) != len(labelled):
        raise ValueError(f"scores: {len(scores)} for {len(labelled)} groups")
    gaps = min_gaps or {}
    return [
        agree(
            values,
            truth_of(item),
            min_gap=gaps.get(source_of(item.group), 0.0),
            group_id=item.group.id,
            source=source_of(item.group),
            cluster=cluster_of(item.group),
        )
        for item, values in zip(labelled, scores, strict=True)
        if values is not None
    ]
