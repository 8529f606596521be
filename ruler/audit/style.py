"""Whether a judge looks at the length and the markup of what it reads, beside whether truth does."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ruler.aggregate import DIGITS
from ruler.agreement import correlation
from ruler.audit.figures import CORRELATION, pooled
from ruler.intervals import Estimate, Interval, Unit
from ruler.packing import PackedGroup

_MARKDOWN = re.compile(
    r"^ {0,3}#{1,6} |^[^\S\n]*(?:(?:[-*+]|\d{1,3}[.)])[^\S\n]|```|~~~)|\*\*[^\s*][^*\n]*\*\*|__[^\s_][^_\n]*__",
    re.MULTILINE,
)
_BETWEEN_CORRELATIONS: Interval = (-2.0, 2.0)


@dataclass(frozen=True, slots=True)
class Trait:
    """One trait of the texts; correlations are Pearson's within groups, averaged over the groups that have one."""

    judge: Estimate
    """Of the scores with the trait, in [-1, 1]. A group whose scores, or traits, are all equal has none."""
    truth: Estimate
    """Of truth with the trait."""
    excess: Estimate
    """The judge's less that of truth, in [-2, 2], over the groups that have both."""


@dataclass(frozen=True, slots=True)
class Style:
    """Traits that should earn nothing by themselves."""

    length: Trait
    """Logarithm of the characters as laid out, uncut and with shared texts in place: a text that a prompt shows once
    for several rollouts counts in each, so that no length depends on the siblings."""
    markdown: Trait
    """Logarithm of one more than the headings, list items, bold passages and code fences."""


@dataclass(frozen=True, slots=True)
class GroupStyle:
    """Rollout id -> amount."""

    length: Mapping[str, float]
    markdown: Mapping[str, float]


def group_style(packed: PackedGroup) -> GroupStyle:
    """The traits of each rollout as it is laid out, uncut, with shared texts in place."""
    markdown = {
        name: math.log1p(sum(count_markdown(part) for part in rollout.parts if isinstance(part, str)))
        for rollout in packed.rollouts
        for name in rollout.rollout_ids
    }
    return GroupStyle({name: math.log1p(chars) for name, chars in packed.num_chars.items()}, markdown)


def count_markdown(text: str) -> int:
    """Headings, list items, bold passages and lines of code fences."""
    return sum(1 for _ in _MARKDOWN.finditer(text))


def style(
    units: Sequence[Unit],
    styles: Sequence[GroupStyle],
    scores: Sequence[Mapping[str, float] | None],
    truth: Sequence[Mapping[str, float] | None],
) -> Style:
    """How far scores go with style.

    Args:
        units: where each group stands.
        styles: of each group.
        scores: rollout id -> score; None: the group has none.
        truth: rollout id -> truth; None: not known.
    """
    return Style(
        _trait(units, [one.length for one in styles], scores, truth),
        _trait(units, [one.markdown for one in styles], scores, truth),
    )


def _trait(
    units: Sequence[Unit],
    traits: Sequence[Mapping[str, float]],
    scores: Sequence[Mapping[str, float] | None],
    truth: Sequence[Mapping[str, float] | None],
) -> Trait:
    by_judge = [_with(trait, values) for trait, values in zip(traits, scores, strict=True)]
    by_truth = [_with(trait, values) for trait, values in zip(traits, truth, strict=True)]
    both = zip(by_judge, by_truth, strict=True)
    apart = [None if judge is None or true is None else round(judge - true, DIGITS) for judge, true in both]
    return Trait(
        judge=pooled(units, by_judge, bounds=CORRELATION),
        truth=pooled(units, by_truth, bounds=CORRELATION),
        excess=pooled(units, apart, bounds=_BETWEEN_CORRELATIONS),
    )


def _with(trait: Mapping[str, float], values: Mapping[str, float] | None) -> float | None:
    return None if values is None else correlation(list(values.values()), [trait[name] for name in values])
