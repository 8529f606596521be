"""The parts of the report that look into the scores: positions, what a score means, disagreements."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.judge_rows import ORIGINAL
from benchmarks.plots import Bin, Point, Reference, Series, calibration, positions
from benchmarks.report import Figure, Section, Side, SideBySide
from benchmarks.report_names import Names
from benchmarks.row_figures import Figures, even_if_tied
from benchmarks.sources import APART, MIN_GAPS
from ruler import DEFAULT_RUBRIC, JudgedOrder, PackedPrompt
from ruler.audit import position_effects
from ruler.audit.figures import unit_of
from ruler.evaluation import is_checked, source_of, truth_of
from ruler.intervals import Unit, design
from ruler.packing import pack
from ruler.records import LabelledGroup

_BINS = 10
_ROUNDING = 1e-9
_DISAGREEMENTS = 6
"""How many groups are shown for each judge."""


def positions_section(judged: Sequence[Figures], labelled: Sequence[LabelledGroup], names: Names) -> Section:
    # One stratum: the mean is over prompts, whatever their source.
    units = {item.group.id: unit_of(item.group) for item in labelled if source_of(item.group) not in APART}
    by_judge: dict[str | None, list[tuple[JudgedOrder, Unit]]] = {}
    for one in judged:
        found = [
            (order, units[name]) for name, answer in one.row.answers.items() if name in units for order in answer.judged
        ]
        # Of the rows of whole groups that with most prompts: its orders hold those of the others.
        if (
            one.row.kind == "judge"
            and one.row.setting != ORIGINAL
            and len(found) > len(by_judge.get(one.row.judge, []))
        ):
            by_judge[one.row.judge] = found
    series = []
    size = 0
    for one in judged:
        if not one.is_base or one.row.judge not in by_judge:
            continue
        prompts, places = zip(*by_judge[one.row.judge], strict=True)
        effects = position_effects(prompts, places).sizes
        chosen = next((own for own in effects if own.size == size), None) if size else next(iter(effects), None)
        if chosen is None:
            continue
        size = chosen.size
        points = [Point(slot, own.value, own.interval) for slot, own in enumerate(chosen.slots, 1)]
        series.append(Series(f"{names.judge(one)} ({chosen.prompts:,} prompts)", points))
    text = (
        f"What standing in a slot adds to a score: its mean over prompts of {size} rollouts, less the prompt's mean. "
        "Orders come from the content, so slots and quality have nothing to do with each other, and a judge that does "
        "not look at positions is at 0 everywhere. Other orders of the same group (k = 2, 4) take most of it out."
    )
    if not series:
        return Section("Positions", "No prompt showed two rollouts or more.")
    plot = positions(series, "slot in the prompt", "added to the score", references=[Reference(0.0)])
    return Section("Positions", text, [Figure("positions", plot, "Mean effect of each slot, by judge")])


def calibration_section(bases: Sequence[Figures], labelled: Sequence[LabelledGroup], names: Names) -> Section:
    checked = [item for item in labelled if is_checked(item.group) and source_of(item.group) not in APART]
    checked = [item for item in checked if set(truth_of(item)) <= {0.0, 1.0}]
    blocks = []
    for place, one in enumerate(bases, 1):
        bins = _bins(one, checked)
        if any(each.count for each in bins):
            plot = calibration(bins, f"score of {names.judge(one)}", "share that is right")
            blocks.append(
                Figure(f"calibration-{place}", plot, f"Share of right rollouts by score of {names.judge(one)}")
            )
    text = (
        "How often a rollout with such a score is right, over all groups with truth of 0 and 1. A relative judge "
        "spreads its scores within each group, so it need not lie on the diagonal; a rise from left to right is what "
        "matters, and a flat stretch is a range of scores that says nothing."
    )
    return Section("What a score means", text, blocks)


def _bins(one: Figures, labelled: Sequence[LabelledGroup]) -> list[Bin]:
    units: list[list[Unit]] = [[] for _ in range(_BINS)]
    truths: list[list[float]] = [[] for _ in range(_BINS)]
    for item in labelled:
        answer = one.row.answers.get(item.group.id)
        if answer is None or answer.scores is None:
            continue
        # Rollouts of one task come together, in one stratum: bins hold few of most sources.
        unit = unit_of(item.group)
        for score, true in zip(answer.scores, truth_of(item), strict=True):
            place = max(0, min(int(score * _BINS), _BINS - 1))  # the original's scores have no bounds
            units[place].append(unit)
            truths[place].append(true)
    bins = []
    for place, (own, values) in enumerate(zip(units, truths, strict=True)):
        estimate = design(own).means(values).overall
        bins.append(Bin(place / _BINS, (place + 1) / _BINS, estimate.value, estimate.interval, len(values)))
    return bins


def disagreements_section(one: Figures, labelled: Sequence[LabelledGroup], names: Names) -> Section:
    worst = sorted(((_wrongness(one, item), item.group.id, item) for item in labelled), key=lambda found: found[:2])
    blocks = [_side_by_side(one, item) for wrongness, _, item in worst[:_DISAGREEMENTS] if wrongness < 0]
    text = (
        "The groups in which the scores go against truth by most, in the mean over pairs. Read them: sometimes the "
        "judge is right. Texts are as the judge was shown them, uncut."
        if blocks
        else "In no group do the scores go against truth in the mean over its pairs."
    )
    return Section(f"Where {names.judge(one)} and truth disagree most", text, blocks)


def _wrongness(one: Figures, item: LabelledGroup) -> float:
    """Mean over pairs of the score's difference in the direction of truth: below 0 where the judge is against it."""
    scores = even_if_tied(one.row.answers.get(item.group.id), len(item.group.rollouts))
    if scores is None:
        return 0.0
    truth = truth_of(item)
    pairs = [
        (scores[i] - scores[j]) * (1 if truth[i] > truth[j] else -1)
        for i in range(len(truth))
        for j in range(i)
        if truth[i] != truth[j] and abs(truth[i] - truth[j]) >= MIN_GAPS.get(source_of(item.group), 0.0) - _ROUNDING
    ]
    return math.fsum(pairs) / len(pairs) if pairs else 0.0


def _side_by_side(one: Figures, item: LabelledGroup) -> SideBySide:
    group = item.group
    packed = pack(group, DEFAULT_RUBRIC)
    whole: PackedPrompt = packed.prompt(range(len(packed.rollouts)))
    shown = {name: "".join(map(str, r.parts)) for r in packed.rollouts for name in r.rollout_ids}
    answer = one.row.answers[group.id]
    sides = []
    for place, rollout in enumerate(group.rollouts):
        score = None if answer.scores is None else answer.scores[place]
        facts = [("truth", f"{item.truth[rollout.id]:.2f}"), ("score", "–" if score is None else f"{score:.2f}")]
        note = answer.notes[place] if answer.notes else None
        sides.append(Side(rollout.id, facts, note or "", shown[rollout.id]))
    return SideBySide(f"{group.id} ({source_of(group)})", whole.context, sides)
