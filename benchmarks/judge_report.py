"""The report on judges against truth: what a reader has to know before training with one of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.judge_rows import BASE
from benchmarks.plots import Bin, ForestRow, Point, Priced, Reference, Series, calibration, forest, frontier, positions
from benchmarks.report import Cell, Column, Figure, Notice, Report, Section, Side, SideBySide, Table, number
from benchmarks.report import Row as TableRow
from benchmarks.row_figures import (
    CHECKED,
    CostUnit,
    Figures,
    accuracy,
    cheapest_within,
    cost_in,
    even_if_tied,
    with_cost,
)
from benchmarks.sources import APART, MIN_GAPS
from ruler import DEFAULT_RUBRIC, PackedPrompt, Rubric
from ruler.agreement import SourceAgreement
from ruler.audit import position_effects
from ruler.evaluation import cluster_of, source_of, truth_of
from ruler.intervals import Estimate, Interval, Unit, design
from ruler.packing import pack
from ruler.records import LabelledGroup

_BINS = 10
_DISAGREEMENTS = 6
"""How many groups are shown for each judge."""
_KINDS = {
    "truth": "Truth",
    "flips": "Truth with errors",
    "rules": "Handwritten rules",
    "trivial": "Trivial rules",
    "jury": "All judges",
}
_TOLERANCE = (
    "How much noise training bears is disputed: random flips of up to 15 % of rewards stayed within 2 points of clean "
    "training (arXiv 2604.07666), wrong labels cost 8 to 10 % on mathematics and 5 to 12 % on text-to-SQL (arXiv "
    "2603.16140). Equal accuracy is not equal training: random flips fall anywhere, a judge errs on the same tasks "
    "again and where its taste leads it, and a policy learns to go there."
)


def judge_report(
    figures: Sequence[Figures], labelled: Sequence[LabelledGroup], *, rubric: Rubric, command: str
) -> Report:
    """All rows in one report.

    Args:
        figures: of every row, those without a judge included.
        labelled: the groups they speak of.
        rubric: what the judges were told to value.
        command: how to make it again.
    """
    judged = [one for one in figures if one.row.judge is not None]
    bases = [one for one in figures if one.row.setting == BASE]
    sources = list(dict.fromkeys(source_of(item.group) for item in labelled))
    sections = [_all_rows(figures), _by_source(figures, bases, sources)]
    if judged:
        sections += [_noise(figures), _cost(judged), _positions(bases, labelled), _calibration(bases, labelled)]
        sections += [_disagreements(one, labelled) for one in bases]
    sections.append(_method(sources))
    facts = [
        ("groups", f"{len(labelled):,} of {len(sources)} sources"),
        ("rollouts", f"{sum(len(item.group.rollouts) for item in labelled):,}"),
        ("judges", ", ".join(dict.fromkeys(one.row.judge or "" for one in bases)) or "none"),
        ("rubric", rubric.id),
        ("command", command),
    ]
    return Report("Judges against ground truth", _lead(figures, bases), facts, sections)


def _lead(figures: Sequence[Figures], bases: Sequence[Figures]) -> str:
    by_name = {one.row.name: one for one in figures}
    said = []
    for one in bases:
        overall = one.agreement.overall
        text = f"{one.row.judge}, asked once a group, orders {_rate(overall.accuracy, overall.accuracy_interval)} of "
        text += f"pairs as truth does; the best rollout is found in {_rate(overall.top_1, overall.top_1_interval)} of "
        text += "groups."
        noise = one.noise.noise.overall
        if noise.value is not None:
            text += f" On pairs that equals truth with {_percent(noise)} noise."
        for name in ("shorter wins", "rules"):
            versus = by_name[name].versus_base if name in by_name and by_name[name].base == one.row.name else None
            if versus is not None and versus.overall.value is not None:
                text += f" {_against(name, versus.overall, versus.verdict)}."
        said.append(text)
    if simulated := [one for one in bases if (one.row.judge or "").startswith("simulated")]:
        who = "All judges are" if len(simulated) == len(bases) else f"{len(simulated)} of {len(bases)} judges are"
        who = "The judge is" if len(bases) == 1 else who
        said.append(
            f"{who} simulated: nobody read anything. These figures show what the benchmark measures, not what a model "
            "can do."
        )
    if not bases:
        said.append("No judge was asked: truth, handwritten rules and trivial rules alone.")
    return "\n\n".join(said)


def _against(name: str, other: Estimate, verdict: str) -> str:
    """A sentence on the judge, from the other row's difference to it."""
    assert other.value is not None
    if verdict == "no difference shown" or verdict == "the same on every group":
        return f"Against “{name}” there is {verdict.replace('the same', 'the same accuracy')}"
    ends = "" if other.interval is None else f" ({100 * -other.interval[1]:+.1f} to {100 * -other.interval[0]:+.1f})"
    how = "better" if verdict == "worse" else "worse"
    return f"It is {how} than “{name}” by {abs(100 * other.value):.1f} points{ends}"


def _all_rows(figures: Sequence[Figures]) -> Section:
    names = ("accuracy", "against the base", "tau-b", "top-1", "r", "ties", "failed", "sources")
    columns = [Column("row", numeric=False), *map(Column, names)]
    rows = [_table_row(one) for one in figures]
    plot = forest(
        [
            ForestRow(
                label=one.row.setting or one.row.name,
                value=one.agreement.overall.accuracy,
                interval=one.agreement.overall.accuracy_interval,
                group=_heading(one),
                strong=one.row.setting == BASE,
            )
            for one in figures
        ],
        "pairwise accuracy within groups, 95 % interval",
        references=[Reference(0.5, "chance")],
        decimals=3,
    )
    text = (
        "Accuracy: share of pairs of one group with different truth that the scores order as truth does, ties half; "
        "averaged in a group first, then over the groups of a source, then over sources. Tau-b and r (Pearson's) are "
        "means over groups, too; top-1 is the share of groups in which the highest score is that of a best rollout.\n\n"
        f"Against the base: the paired difference of accuracy to the row “{BASE}” of the same judge (for rows without "
        "a judge: of the first one), on the groups that both scored."
    )
    return Section(
        "All rows",
        text,
        [
            Figure(
                "accuracy", plot, "Pairwise accuracy of every row with its interval; the table below has the figures"
            ),
            Table(columns, rows),
        ],
    )


def _table_row(one: Figures) -> TableRow:
    overall = one.agreement.overall
    versus: Cell | str = "–"
    if one.versus_base is not None:
        versus = number(one.versus_base.overall.value, 3, interval=one.versus_base.overall.interval, signed=True)
        versus = Cell(versus.text, f"{versus.detail}: {one.versus_base.verdict}".strip(": "), versus.value)
    counted = [source for source in one.agreement.sources if not source.apart and source.accuracy is not None]
    cells: list[Cell | str] = [
        one.row.setting or one.row.name,
        number(overall.accuracy, 3, interval=overall.accuracy_interval),
        versus,
        number(overall.tau_b, 3),
        number(overall.top_1, 3),
        number(overall.r, 3),
        number(overall.tie_rate, 3),
        Cell(f"{overall.failed:,}", value=overall.failed),
        Cell(str(len(counted)), value=len(counted)),
    ]
    return TableRow(cells, group=_heading(one), strong=one.row.setting == BASE)


def _heading(one: Figures) -> str:
    return _KINDS.get(one.row.kind) or one.row.judge or ""


def _by_source(figures: Sequence[Figures], bases: Sequence[Figures], sources: Sequence[str]) -> Section:
    shown = [one for one in figures if one.row.kind in ("rules", "trivial", "jury")]
    shown = [*bases, *shown]
    columns = [Column("source", numeric=False), Column("mixed groups"), Column("pairs")]
    columns += [Column(one.row.name) for one in shown]
    by_source = [{row.source: row for row in one.agreement.sources} for one in shown]
    truth = {row.source: row for row in figures[0].agreement.sources}
    order = [source for source in sources if source not in APART] + [source for source in sources if source in APART]
    rows = [
        TableRow(
            [
                source,
                Cell(f"{truth[source].mixed_groups} / {truth[source].groups}", value=truth[source].mixed_groups),
                Cell(f"{truth[source].pairs:,}", value=truth[source].pairs),
                *(_accuracy_cell(row.get(source)) for row in by_source),
            ],
            group="Apart, in no mean" if source in APART else "",
        )
        for source in order
    ]
    text = "Accuracy by source. A judge has to be read against what the rules reach there."
    if any(source in MIN_GAPS for source in sources):
        gaps = ", ".join(f"{source} ({gap})" for source, gap in MIN_GAPS.items() if source in sources)
        text += f" Where rewards are coarse, only pairs with a larger difference of truth count: {gaps}."
    return Section("By source", text, [Table(columns, rows)])


def _accuracy_cell(row: SourceAgreement | None) -> Cell | str:
    return "–" if row is None else number(row.accuracy, 2, interval=row.accuracy_interval)


def _noise(figures: Sequence[Figures]) -> Section:
    columns = [Column("row", numeric=False), Column("noise, %"), Column("false signal, %"), Column("groups without")]
    rows = []
    for one in figures:
        noise, false = one.noise.noise.overall, one.noise.false_signal.overall
        if noise.value is None:
            continue
        cells: list[Cell | str] = [
            one.row.setting or one.row.name,
            _percent_cell(noise),
            _percent_cell(false),
            str(false.groups),
        ]
        rows.append(TableRow(cells, group=_heading(one), strong=one.row.setting == BASE))
    text = (
        "Pair-equivalent noise: with which probability each label of 0 or 1 would have to be flipped, for truth to "
        "order pairs as rightly as these scores do. Of sources only where a checker said right or wrong. False signal: "
        "the share of groups in which all rollouts are equally right, or wrong, and the scores still differ; a trainer "
        "that divides by the group's deviation makes as much of them as of the others."
    )
    return Section("Equal to truth with so much noise", text, [Notice(_TOLERANCE, "caution"), Table(columns, rows)])


def _cost(judged: Sequence[Figures]) -> Section:
    blocks: list[Figure | Notice | Table] = []
    units: tuple[tuple[CostUnit, str, str], ...] = (
        ("tokens", "tokens a group", "tokens"),
        ("usd", "USD a group", "usd"),
    )
    for unit, label, name in units:
        known = with_cost(judged, unit)
        if not any(cost_in(one, unit) for one in known):
            continue  # of judges whose prices are unknown or 0
        points = [
            Priced(_short(one), cost_in(one, unit), accuracy(one), one.agreement.overall.accuracy_interval)
            for one in known
        ]
        plot = frontier(points, label, "pairwise accuracy")
        alt = f"Accuracy over {label}; the table of all rows has the figures"
        blocks.append(Figure(f"cost-{name}", plot, alt))
        found = cheapest_within(judged, unit)
        if found:
            blocks.append(Notice(_recommendation(*found, unit), "recommendation"))
    names = ("calls", "input and output tokens", "USD / 1,000 groups", "seconds", "accuracy")
    rows = [
        TableRow(
            [
                one.row.setting,
                number(one.cost.calls, 1),
                Cell(f"{one.cost.tokens:,.0f}", value=one.cost.tokens),
                number(None if one.cost.usd is None else 1000 * one.cost.usd, 2),
                number(one.cost.seconds, 2),
                number(one.agreement.overall.accuracy, 3),
            ],
            group=_heading(one),
            strong=one.row.setting == BASE,
        )
        for one in judged
        if one.cost is not None
    ]
    blocks.append(Table([Column("row", numeric=False), *map(Column, names)], rows))
    text = (
        "What asking about one group takes, whether a cache had the answer or not; seconds are the sum of latencies, "
        "not the time that passes. On the line of the figure nothing is both cheaper and as accurate."
    )
    return Section("Cost against quality", text, blocks)


def _recommendation(cheapest: Figures, best: Figures, unit: CostUnit) -> str:
    amount = f"{cost_in(cheapest, unit):,.0f} tokens" if unit == "tokens" else f"${cost_in(cheapest, unit):.4f}"
    text = f"Cheapest setting within 1 point of the best: {cheapest.row.name}, "
    text += f"{accuracy(cheapest):.3f} for {amount} a group"
    if cheapest is best:
        return f"{text}; it is the best, too."
    times = cost_in(best, unit) / cost_in(cheapest, unit) if cost_in(cheapest, unit) else math.inf
    return f"{text}. The best, {best.row.name}, has {accuracy(best):.3f} for {times:.1f} times as much."


def _short(one: Figures) -> str:
    return one.row.name if len(one.row.name) <= 40 else f"…{one.row.name[-39:]}"


def _positions(bases: Sequence[Figures], labelled: Sequence[LabelledGroup]) -> Section:
    units = {item.group.id: Unit(source_of(item.group), cluster_of(item.group), item.group.id) for item in labelled}
    series = []
    size = 0
    for one in bases:
        found = [(judged, units[name]) for name, answer in one.row.answers.items() for judged in answer.judged]
        effects = position_effects([judged for judged, _ in found], [unit for _, unit in found]).sizes
        chosen = next((own for own in effects if own.size == size), None) if size else next(iter(effects), None)
        if chosen is None:
            continue
        size = chosen.size
        points = [Point(slot, own.value, own.interval) for slot, own in enumerate(chosen.slots, 1)]
        series.append(Series(f"{one.row.judge} ({chosen.prompts:,} prompts)", points))
    text = (
        f"What standing in a slot adds to a score: its mean over prompts of {size} rollouts, less the prompt's mean. "
        "Orders come from the content, so slots and quality have nothing to do with each other, and a judge that does "
        "not look at positions is at 0 everywhere. Other orders of the same group (k = 2, 4) take most of it out."
    )
    if not series:
        return Section("Positions", "No prompt showed two rollouts or more.")
    plot = positions(series, "slot in the prompt", "added to the score", references=[Reference(0.0)])
    return Section("Positions", text, [Figure("positions", plot, "Mean effect of each slot, by judge")])


def _calibration(bases: Sequence[Figures], labelled: Sequence[LabelledGroup]) -> Section:
    checked = [item for item in labelled if item.group.metadata.get("truth_kind", CHECKED) == CHECKED]
    checked = [item for item in checked if set(truth_of(item)) <= {0.0, 1.0} and source_of(item.group) not in APART]
    blocks = []
    for place, one in enumerate(bases, 1):
        bins = _bins(one, checked)
        if any(each.count for each in bins):
            plot = calibration(bins, f"score of {one.row.judge}", "share that is right")
            blocks.append(Figure(f"calibration-{place}", plot, f"Share of right rollouts by score of {one.row.judge}"))
    text = (
        "How often a rollout with such a score is right, over all groups with truth of 0 and 1. A relative judge "
        "spreads its scores within each group, so it need not lie on the diagonal; a rise from left to right is what "
        "matters, and a flat stretch is a range of scores that says nothing."
    )
    return Section("What a score means", text, blocks)


def _bins(one: Figures, labelled: Sequence[LabelledGroup]) -> list[Bin]:
    by_bin: list[list[tuple[LabelledGroup, float, int]]] = [[] for _ in range(_BINS)]
    for item in labelled:
        answer = one.row.answers.get(item.group.id)
        if answer is None or answer.scores is None:
            continue
        found: dict[int, list[float]] = {}
        for score, true in zip(answer.scores, truth_of(item), strict=True):
            found.setdefault(min(int(score * _BINS), _BINS - 1), []).append(true)
        for place, truths in found.items():
            by_bin[place].append((item, math.fsum(truths) / len(truths), len(truths)))
    bins = []
    for place, members in enumerate(by_bin):
        # One stratum: bins hold few groups of most sources.
        units = [
            Unit("", f"{source_of(item.group)} {cluster_of(item.group) or item.group.id}", item.group.id)
            for item, _, _ in members
        ]
        estimate = design(units).means([share for _, share, _ in members]).overall
        count = sum(size for _, _, size in members)
        bins.append(Bin(place / _BINS, (place + 1) / _BINS, estimate.value, estimate.interval, count))
    return bins


def _disagreements(one: Figures, labelled: Sequence[LabelledGroup]) -> Section:
    worst = sorted(((_wrongness(one, item), item.group.id, item) for item in labelled), key=lambda found: found[:2])
    blocks = [_side_by_side(one, item) for wrongness, _, item in worst[:_DISAGREEMENTS] if wrongness < 0]
    text = (
        "The groups in which the scores go against truth by most, summed over pairs. Read them: sometimes the judge is "
        "right. Texts are as the judge was shown them."
    )
    return Section(f"Where {one.row.judge} and truth disagree most", text, blocks)


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
        if abs(truth[i] - truth[j]) > MIN_GAPS.get(source_of(item.group), 0.0)
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


def _method(sources: Sequence[str]) -> Section:
    text = (
        "Intervals hold with 95 %: over clusters of groups that share a task, drawn within each source; for fewer than "
        "60 clusters by Wilson's formula at the effective sample size. They are about these sources, not about others. "
        "Among many comparisons some are “better” by chance: about 1 in 20 of equals.\n\n"
        "Truth with x % flipped mirrors each rollout's truth within its group with that probability. Rules are written "
        "by hand for each source, with weights set beforehand; those with reference look at the reference answer. "
        "The original layout is that of the first relative judge: positions as ids, the file's order, one call, scores "
        "matched by position and taken as they come; cache and retries around it are ours. Pointwise shows each "
        "rollout alone; pairwise shows every pair in both orders; the tournament is a seeded single elimination."
    )
    if any(source in APART for source in sources):
        text += (
            " The telecom sources compare two agents only, one of which nearly always wins: they are shown apart and "
            "are in no mean."
        )
    return Section("How it was measured", text)


def _rate(value: float | None, interval: Interval | None) -> str:
    if value is None:
        return "–"
    ends = "" if interval is None else f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"
    return f"{100 * value:.1f} %{ends}"


def _percent(estimate: Estimate) -> str:
    return _rate(estimate.value, estimate.interval)


def _percent_cell(estimate: Estimate) -> Cell:
    scaled = None if estimate.interval is None else (100 * estimate.interval[0], 100 * estimate.interval[1])
    return number(None if estimate.value is None else 100 * estimate.value, 1, interval=scaled)
