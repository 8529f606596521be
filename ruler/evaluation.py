"""Groups with truth beside the scores that somebody gave them: what `ruler evaluate` and the benchmark compare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ruler.agreement import Agreement, GroupAgreement, agree, first_wins, shorter_wins, summarise
from ruler.comparison import Difference, PairNoise, difference, pair_noise
from ruler.packing import PromptOptions, pack
from ruler.records import LabelledGroup
from ruler.rubric import DEFAULT_RUBRIC
from ruler.types import FailedGroup, Group, ScoredGroup

NO_SOURCE = "(no source)"
SHORTER, FIRST = "shorter_wins", "first_wins"
"""The rows of the trivial rules in a `Comparison`."""
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


def shown_lengths(group: Group, shown: PromptOptions = PromptOptions()) -> list[int]:
    """Characters of each rollout as a judge is shown it, what "shorter wins" goes by; see `PackedGroup.num_chars`."""
    return list(pack(group, DEFAULT_RUBRIC, shown).num_chars.values())


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


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rows of scores against truth, all on the groups that every row has scores for."""

    rows: dict[str, Agreement]
    """By name: those given, then the trivial rules."""
    noise: dict[str, PairNoise]
    """Of the rows given."""
    differences: dict[tuple[str, str], Difference]
    """Of every row given to those given after it and to the trivial rules."""
    num_incomplete: int
    """Groups that a row failed or lacks."""


def compare(
    rows: Mapping[str, Sequence[ScoredGroup | FailedGroup | None]],
    labelled: Sequence[LabelledGroup],
    shown: PromptOptions,
    *,
    min_gap: float = 0.0,
    apart: Sequence[str] = (),
) -> Comparison:
    """The rows and two trivial rules on the same groups: those that no row failed or lacks.

    Args:
        rows: name, neither SHORTER nor FIRST -> one result a group, None where there is none.
        labelled: groups with truth on every rollout.
        shown: what of a group a judge sees, for the lengths that "shorter wins" goes by.
        min_gap: pairs whose truth differs by less are left out.
        apart: sources that stay out of all means over sources.
    """
    failed = {
        name: Counter(
            source_of(item.group)
            for item, result in zip(labelled, results, strict=True)
            if isinstance(result, FailedGroup)
        )
        for name, results in rows.items()
    }
    scored = {
        name: [None if result is None else scores_of(result) for result in results] for name, results in rows.items()
    }
    complete = [all(values is not None for values in column) for column in zip(*scored.values(), strict=True)]
    chosen = [item for item, whole in zip(labelled, complete, strict=True) if whole]
    gaps = {source_of(item.group): min_gap for item in chosen}
    lengths = [shown_lengths(item.group, shown) for item in chosen]
    given: dict[str, Sequence[Sequence[float] | None]] = {
        name: [one for one, whole in zip(values, complete, strict=True) if whole] for name, values in scored.items()
    }
    trivial: dict[str, Sequence[Sequence[float] | None]] = {
        SHORTER: [tuple(shorter_wins(one)) for one in lengths],
        FIRST: [tuple(first_wins(len(one))) for one in lengths],
    }
    found: dict[str, list[GroupAgreement]] = {
        name: agreements(chosen, values, min_gaps=gaps) for name, values in (given | trivial).items()
    }
    names = list(found)
    checked = {item.group.id for item in chosen if is_checked(item.group)}
    return Comparison(
        rows={name: summarise(own, failed=failed.get(name), apart=apart) for name, own in found.items()},
        noise={name: pair_noise([g for g in found[name] if g.group_id in checked], apart=apart) for name in given},
        differences={
            (one, other): difference(found[one], found[other], apart=apart)
            for place, one in enumerate(given)
            for other in names[place + 1 :]
        },
        num_incomplete=len(labelled) - len(chosen),
    )
