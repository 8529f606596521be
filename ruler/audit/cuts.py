"""What it does to scores when tool outputs are cut to fit a small window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ruler.agreement import agree
from ruler.audit.figures import DIFFERENCE, Change, excess, order_scores, pooled
from ruler.audit.repeats import repeat_changes
from ruler.errors import PackingError
from ruler.intervals import Estimate, Unit
from ruler.packing import pack
from ruler.packing.cut import MIN_RESULT_CHARS
from ruler.records import LabelledGroup
from ruler.scoring import Ruler
from ruler.types import Group, JudgedOrder, judge_info
from ruler.window import Window

_NO_LIMIT = 10**12


@dataclass(frozen=True, slots=True)
class Cut:
    """One group for a window so small that its tool outputs are cut as short as they ever are."""

    group: Group
    index: int
    """Of the group, among those that were given."""
    ruler: Ruler
    """Asks its first order in that window."""


def cut_group(group: Group, index: int, ruler: Ruler, new_ruler: Callable[[int], Ruler]) -> Cut | None:
    """The group with its tool outputs cut to `MIN_RESULT_CHARS`; None where that cuts nothing.

    So the effect of the hardest cut is measured: those of a larger window are smaller. None as well for a group that is
    judged in blocks, or cut, already: there is no whole to compare with.

    Args:
        group: any.
        index: kept.
        ruler: asks about the group as it is.
        new_ruler: one for a window of so many tokens, that asks one order.
    """
    (judge,) = ruler.judges
    info = judge_info(judge)
    packed = pack(group, ruler.rubric, ruler.options, images=info.images)
    if packed.longest_result_chars <= MIN_RESULT_CHARS or len(packed.rollouts) < 2:
        return None
    try:
        whole = ruler.pack(group)
        if any(prompt.block or any(prompt.cut_chars.values()) for prompt in whole):
            return None
        prompt = packed.cut(MIN_RESULT_CHARS).prompt(range(len(packed.rollouts)))
        window = Window.of(ruler.judge_name, info, _NO_LIMIT, notes=ruler.options.notes)
        assert window is not None, "a size was given"
        tokens = window.tokens(prompt) + window.size - window.room(len(prompt.labels))
        smaller = new_ruler(tokens)
        shown = smaller.pack(group)
    except PackingError:
        return None
    if len(shown) != 1 or not any(shown[0].cut_chars.values()):
        return None
    return Cut(group, index, smaller)


@dataclass(frozen=True, slots=True)
class CutEffects:
    """The first order of each group, with tool outputs cut, beside the same order uncut."""

    change: Change
    again: Change
    """The same groups and order asked again uncut: what moves without any cut."""
    excess: Estimate
    """How much further a cut moves a score than asking again does."""
    accuracy_whole: Estimate
    """Share of the pairs of different truth ordered rightly by the first order, ties half; mean over groups."""
    accuracy_cut: Estimate
    loss: Estimate
    """Whole less cut, on the groups that have both; in [-1, 1]."""
    long_outputs: int
    """Groups with a tool output of more than `MIN_RESULT_CHARS`, asked or not."""
    groups: int
    """Those that were asked with it cut: neither judged in blocks nor without scores as they are; 100 at most."""
    failed: int


def cut_effects(
    units: Sequence[Unit],
    labelled: Sequence[LabelledGroup],
    judged: Sequence[Sequence[JudgedOrder]],
    again: Sequence[Sequence[JudgedOrder]],
    cut: Sequence[Sequence[JudgedOrder]],
    *,
    long_outputs: int,
    failed: int,
) -> CutEffects:
    """What cuts change; all sequences are of the groups that were cut, `judged` and the like empty without scores."""
    changes = repeat_changes(judged, cut)
    repeated = repeat_changes(judged, again)
    both = [repeat if change else None for change, repeat in zip(changes, repeated, strict=True)]
    whole = [_accuracy(item, prompts) for item, prompts in zip(labelled, judged, strict=True)]
    short = [_accuracy(item, prompts) for item, prompts in zip(labelled, cut, strict=True)]
    pairs = [None if a is None or b is None else (a, b) for a, b in zip(whole, short, strict=True)]
    return CutEffects(
        change=Change.of(units, changes),
        again=Change.of(units, both),
        excess=excess(units, changes, repeated),
        accuracy_whole=pooled(units, [pair and pair[0] for pair in pairs]),
        accuracy_cut=pooled(units, [pair and pair[1] for pair in pairs]),
        loss=pooled(units, [pair and pair[0] - pair[1] for pair in pairs], bounds=DIFFERENCE),
        long_outputs=long_outputs,
        groups=len(units),
        failed=failed,
    )


def _accuracy(item: LabelledGroup, prompts: Sequence[JudgedOrder]) -> float | None:
    """Of the first order; rollouts that read the same count once."""
    orders = order_scores(prompts)
    if not orders or not all(name in item.truth for name in orders[0]):
        return None
    return agree(list(orders[0].values()), [item.truth[name] for name in orders[0]]).accuracy
