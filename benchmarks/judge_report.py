"""The report on judges against truth: what a reader has to know before training with one of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from benchmarks.judge_report_detail import calibration_section, disagreements_section, positions_section
from benchmarks.plots import ForestRow, Priced, Reference, forest, frontier
from benchmarks.report import Cell, Column, Figure, Notice, Report, Section, Table, number
from benchmarks.report import Row as TableRow
from benchmarks.report_names import Names
from benchmarks.row_figures import (
    FEW_FAILURES,
    CostUnit,
    Figures,
    accuracy,
    cheapest_within,
    cost_in,
    rivals,
    with_cost,
)
from benchmarks.sources import APART, MIN_GAPS
from ruler import Rubric
from ruler.agreement import SourceAgreement
from ruler.comparison import Difference, difference
from ruler.evaluation import source_of
from ruler.intervals import Estimate, Interval
from ruler.records import LabelledGroup

_WIDE = 0.05
"""An interval wider than that says little of a difference of a point."""
_TOLERANCE = (
    "How much noise training bears is disputed: random flips of up to 15 % of rewards stayed within 2 points of clean "
    "training (arXiv 2604.07666), wrong labels cost 8 to 10 % on mathematics and 5 to 12 % on text-to-SQL (arXiv "
    "2603.16140). Equal accuracy is not equal training: random flips fall anywhere, a judge errs on the same tasks "
    "again and where its taste leads it, and a policy learns to go there."
)


def judge_report(
    figures: Sequence[Figures],
    labelled: Sequence[LabelledGroup],
    *,
    rubric: Rubric,
    command: str,
    left_out: Mapping[str, int],
) -> Report:
    """All rows in one report.

    Args:
        figures: of every row, those without a judge included; truth first.
        labelled: the groups they speak of.
        rubric: what the judges were told to value.
        command: how to make it again.
        left_out: what of the files is not among the groups.
    """
    judged = [one for one in figures if one.row.judge is not None]
    bases = [one for one in figures if one.is_base]
    sources = list(dict.fromkeys(source_of(item.group) for item in labelled))
    names = Names.of(bases)
    sections = [_all_rows(figures, names)]
    if pairs := rivals(figures):
        sections.append(_rivals(pairs, names))
    sections.append(_by_source(figures, bases, sources, names))
    if judged:
        sections += [_noise(figures, names), _cost(judged, names), positions_section(judged, labelled, names)]
        sections.append(calibration_section(bases, labelled, names))
    if any(one.row.failures for one in figures):
        sections.append(_failures(figures, names))
    sections.append(_method(sources))
    sections += [disagreements_section(one, labelled, names) for one in bases]
    facts = [
        ("groups", f"{len(labelled):,} of {len(sources)} sources"),
        ("rollouts", f"{sum(len(item.group.rollouts) for item in labelled):,}"),
        *((f"judge {names.letter(one)}".strip(), one.row.judge or "") for one in bases),
        ("rubric", rubric.id),
        *((f"left out: {what}", f"{count:,}") for what, count in left_out.items() if count),
        ("command", command),
    ]
    return Report("Judges against ground truth", _lead(figures, bases, names), facts, sections)


def _lead(figures: Sequence[Figures], bases: Sequence[Figures], names: Names) -> str:
    rules = [one for one in figures if one.row.name in ("rules", "shorter wins", "first wins")]
    said = []
    for one in bases:
        who = f"Judge {names.letter(one)}, {one.row.judge}" if names.letter(one) else str(one.row.judge)
        overall = one.agreement.overall
        if overall.accuracy is None:
            said.append(f"{who} ({one.row.setting}) has no scores to compare: {overall.failed:,} groups failed.")
            continue
        text = f"{who} ({one.row.setting}) orders {_rate(overall.accuracy, overall.accuracy_interval)} of pairs as "
        text += "truth does"
        if overall.accuracy_interval is None or overall.accuracy_interval[0] <= 0.5:
            text += ", which is not shown to be better than a coin"
        text += f". The best rollout is found in {_rate(overall.top_1, overall.top_1_interval)} of groups."
        noise = one.noise.noise.overall
        if noise.value is not None and noise.value < 0.5:
            text += f" On pairs that is as good as truth with {_percent(noise)} noise."
        said.append(" ".join([text, *(_against(one, rule) for rule in rules)]))
    if simulated := [one for one in bases if _is_simulated(one)]:
        who = "All judges are" if len(simulated) == len(bases) else f"{len(simulated)} of {len(bases)} judges are"
        who = "The judge is" if len(bases) == 1 else who
        said.append(
            f"{who} simulated: nobody read anything. These figures show what the benchmark measures, not what a model "
            "can do."
        )
    if not bases:
        said.append("No judge was asked: truth, handwritten rules and trivial rules alone.")
    return "\n\n".join(said)


def _is_simulated(one: Figures) -> bool:
    return (one.row.judge or "").startswith("simulated")


def _against(one: Figures, rule: Figures) -> str:
    """A sentence on the judge beside a rule; empty where there is no group that both scored."""
    found = difference(one.groups, rule.groups, apart=APART)
    value, interval = found.overall.value, found.overall.interval
    if value is None:
        return ""
    if found.verdict not in ("better", "worse"):
        return f"Against “{rule.row.name}” there is no difference shown."
    ends = "" if interval is None else f" ({100 * interval[0]:+.1f} to {100 * interval[1]:+.1f})"
    return f"It is {found.verdict} than “{rule.row.name}” by {abs(100 * value):.1f} points{ends}."


def _all_rows(figures: Sequence[Figures], names: Names) -> Section:
    titles = ("accuracy", "against the base", "tau-b", "top-1", "r", "ties", "failed", "sources")
    columns = [Column("row", numeric=False), *map(Column, titles)]
    rows = [_table_row(one, names) for one in figures]
    plot = forest(
        [
            ForestRow(
                label=one.row.setting or one.row.name,
                value=one.agreement.overall.accuracy,
                interval=one.agreement.overall.accuracy_interval,
                group=names.heading(one),
                strong=one.is_base,
            )
            for one in figures
        ],
        "pairwise accuracy within groups, 95 % interval",
        references=[Reference(0.5, "chance")],
        decimals=3,
    )
    text = (
        "k is the number of orders in which a group is shown, all rollouts in one prompt; the other ways of asking, "
        "and what the rules are, stand under “How it was measured”.\n\n"
        "Accuracy: share of pairs of one group with different truth that the scores order as truth does, ties half; "
        "averaged in a group first, then over the groups of a source, then over sources. Tau-b and r (Pearson's) are "
        "means over groups, too; top-1 is the share of groups in which the highest score is that of a best rollout.\n\n"
        "Against the base: the paired difference of accuracy to the first row of the same judge (for rows without a "
        "judge: of the first judge), on the groups that both scored."
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


def _table_row(one: Figures, names: Names) -> TableRow:
    overall = one.agreement.overall
    versus: Cell | str = "–"
    if one.versus_base is not None and one.versus_base.overall.value is not None:
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
        Cell(f"{len(one.row.failures):,}", value=len(one.row.failures)),
        Cell(str(len(counted)), value=len(counted)),
    ]
    return TableRow(cells, group=names.heading(one), strong=one.is_base)


def _rivals(pairs: Sequence[tuple[Figures, Figures, Difference]], names: Names) -> Section:
    rows = []
    for one, other, found in pairs:
        value, interval = found.overall.value, found.overall.interval
        needed = found.groups_needed
        cells: list[Cell | str] = [
            f"{names.label(one)} against {names.label(other)}",
            number(value, 3, interval=interval, signed=True),
            found.verdict,
            "" if needed is None else f"about {needed:,}",
            str(found.overall.groups),
        ]
        rows.append(TableRow(cells))
    titles = [Column("judges", numeric=False), Column("difference of accuracy"), Column("verdict", numeric=False)]
    titles += [Column("groups that would show it"), Column("mixed groups of both")]
    text = (
        "The judges by their first rows, on the groups that both scored, pair by pair. “No difference shown” does not "
        "say that there is none: the interval holds what there may be."
    )
    return Section("Judges against each other", text, [Table(titles, rows)])


def _by_source(figures: Sequence[Figures], bases: Sequence[Figures], sources: Sequence[str], names: Names) -> Section:
    shown = [*bases, *(one for one in figures if one.row.kind in ("rules", "trivial", "jury"))]
    columns = [Column("source", numeric=False), Column("mixed groups"), Column("pairs")]
    columns += [Column(names.label(one)) for one in shown]
    by_source = [{row.source: row for row in one.agreement.sources} for one in shown]
    # What there is in a source, by the first row that has it: truth, which fails on nothing.
    truth = {row.source: row for one in reversed(figures) for row in one.agreement.sources}
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


def _noise(figures: Sequence[Figures], names: Names) -> Section:
    titles = ("noise, %", "false signal, %", "its spread, %", "groups without a difference")
    columns = [Column("row", numeric=False), *map(Column, titles)]
    rows = []
    for one in figures:
        noise, false, spread = one.noise.noise.overall, one.noise.false_signal.overall, one.noise.false_spread
        if noise.value is None:
            continue
        cells: list[Cell | str] = [
            one.row.setting or one.row.name,
            _percent_cell(noise),
            _percent_cell(false),
            number(None if spread is None else 100 * spread, 0),
            str(false.groups),
        ]
        rows.append(TableRow(cells, group=names.heading(one), strong=one.is_base))
    text = (
        "Pair-equivalent noise: with which probability each label of 0 or 1 would have to be flipped, for truth to "
        "order pairs as rightly as these scores do. Of sources only where a checker said right or wrong. False signal: "
        "the share of groups in which all rollouts are equally right, or wrong, and the scores still differ; its "
        "spread is how far they do, as a share of how far scores spread where there is something to tell apart. A "
        "trainer that divides by the group's deviation makes as much of the ones as of the others."
    )
    return Section("Equal to truth with so much noise", text, [Notice(_TOLERANCE, "caution"), Table(columns, rows)])


def _cost(judged: Sequence[Figures], names: Names) -> Section:
    blocks: list[Figure | Notice | Table] = []
    units: tuple[tuple[CostUnit, str], ...] = (("usd", "USD a group"), ("tokens", "tokens a group"))
    for unit, label in units:
        known = with_cost(judged, unit)
        if not any(cost_in(one, unit) for one in known):
            continue  # of judges whose prices are unknown or 0
        points = [
            Priced(names.label(one), _round(cost_in(one, unit)), accuracy(one), one.agreement.overall.accuracy_interval)
            for one in known
        ]
        plot = frontier(points, label, "pairwise accuracy")
        blocks.append(Figure(f"cost-{unit}", plot, f"Accuracy over {label}; the table below has the figures"))
        # What simulated judges cost is no choice of anybody's where there is a real one.
        real = [one for one in judged if not _is_simulated(one)] or judged
        if found := cheapest_within(real, unit):
            blocks.append(Notice(_recommendation(*found, unit), "recommendation"))
    titles = ("calls", "input and output tokens", "USD / 1,000 groups", "seconds", "accuracy")
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
            group=names.heading(one),
            strong=one.is_base,
        )
        for one in judged
        if one.cost is not None
    ]
    blocks.append(Table([Column("row", numeric=False), *map(Column, titles)], rows))
    text = (
        "What asking about one group takes, whether a cache had the answer or not; seconds are the sum of latencies, "
        "not the time that passes. On the line of the figure nothing is both cheaper and as accurate; rows that failed "
        f"on more than {FEW_FAILURES:.0%} of the groups are not in it."
    )
    return Section("Cost against quality", text, blocks)


def _recommendation(cheapest: Figures, best: Figures, unit: CostUnit) -> str:
    amount = f"{cost_in(cheapest, unit):,.0f} tokens" if unit == "tokens" else f"${cost_in(cheapest, unit):.4f}"
    text = f"Cheapest setting within 1 point of the best: {cheapest.row.name}, "
    text += f"{accuracy(cheapest):.3f} for {amount} a group"
    interval = best.agreement.overall.accuracy_interval
    if interval is None or interval[1] - interval[0] > _WIDE:
        unsure = " These groups are too few to choose by: the interval of the best is wider than 5 points."
    else:
        unsure = ""
    if cheapest is best:
        return f"{text}; it is the best, too.{unsure}"
    more = (
        "more" if not cost_in(cheapest, unit) else f"{cost_in(best, unit) / cost_in(cheapest, unit):.1f} times as much"
    )
    return f"{text}. The best, {best.row.name}, has {accuracy(best):.3f} for {more}.{unsure}"


def _round(cost: float) -> float:
    """To three digits: the lengths of replies make the same question cost a little more or less."""
    return float(f"{cost:.3g}")


def _failures(figures: Sequence[Figures], names: Names) -> Section:
    rows = []
    for one in figures:
        reasons = Counter(failure.partition(":")[0] for failure in one.row.failures.values())
        for reason, count in reasons.most_common():
            group, said = next(each for each in one.row.failures.items() if each[1].partition(":")[0] == reason)
            number_failed = Cell(f"{count:,}", value=count)
            cells: list[Cell | str] = [one.row.setting or one.row.name, number_failed, reason, f"{group}: {said}"]
            rows.append(TableRow(cells, group=names.heading(one)))
    columns = [Column("row", numeric=False), Column("groups"), Column("reason", numeric=False)]
    table = Table([*columns, Column("the first", numeric=False)], rows)
    return Section("What failed", "Groups without scores, by reason. They enter no figure but “failed”.", [table])


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
