"""The tables of the report: every arm's figures, where its curve would end, what it cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.head_to_head.arms import TRUTH
from benchmarks.head_to_head.figures import SECTIONS
from benchmarks.head_to_head.findings import LAST_STEPS, ArmFindings, Findings
from benchmarks.head_to_head.outcomes import ArmOutcome, Experiment
from benchmarks.head_to_head.paired import Paired
from benchmarks.head_to_head.wording import DECIMALS, amount_of, as_share, margin_text, verdict_of
from benchmarks.number_text import fixed
from benchmarks.report import Cell, Column, Row, Table, number


def all_arms(experiment: Experiment, findings: Findings) -> Table:
    """What every arm came to."""
    columns = [
        Column("arm", numeric=False),
        Column("truth, sampled"),
        Column("less that of the truth arm", numeric=False),
        Column("truth, greedy"),
        Column("change from start"),
        Column("format share"),
        Column("tokens"),
        Column("agreement"),
        Column("alarms"),
        Column("seeds needed"),
    ]
    rows = [
        Row(
            _cells(outcome, findings.arms[outcome.arm.name], findings.margin),
            group=SECTIONS[outcome.arm.section],
            strong=outcome.arm.name == TRUTH,
        )
        for outcome in experiment.arms
    ]
    caption = (
        "Small print is the 95 % interval over seeds, and below the change from the start that of the worst seed. "
        f"Agreement: of the last {LAST_STEPS} steps, the share of pairs of rollouts, one right and one wrong, that the "
        "rewards order rightly; chance is 0.5. Alarms: seeds in which reward hacking was suspected, of those that came "
        "to the end. Seeds needed: so that the interval of the difference is no more than 2 points to each side, at "
        "the spread that was seen (to show that arms are equal takes more); below, at the most that spread may be."
    )
    return Table(columns, rows, caption)


def ceilings(experiment: Experiment, findings: Findings) -> list[Table]:
    """Where curves that are long enough would end, and what the others lack; no table without rows."""
    reported, short = [], []
    for outcome in experiment.arms:
        found = findings.arms[outcome.arm.name].ceiling
        group = SECTIONS[outcome.arm.section]
        if not found.reported:
            short.append(Row([outcome.arm.name, " ".join(found.too_short)], group=group))
            continue
        cells: list[Cell | str] = [
            outcome.arm.name,
            number(found.start, DECIMALS),
            number(found.ceiling, DECIMALS, interval=found.interval),
            _tokens(found.half, found.half_at_most),
            number(found.exponent, 2),
        ]
        reported.append(Row(cells, group=group))
    tables = []
    if reported:
        titles = ("start, R0", "ceiling, A", "tokens to half of the way, Cmid", "exponent, B")
        tables.append(Table([Column("arm", numeric=False), *map(Column, titles)], reported))
    if short:
        names = ("arm", "what is missing, and what would be needed")
        tables.append(Table([Column(name, numeric=False) for name in names], short, "Too short to say."))
    return tables


def costs(experiment: Experiment) -> Table:
    """What each arm took, over all of its seeds."""
    titles = (
        "calls and cache hits",
        "of these hits",
        "judge's tokens",
        "US dollars",
        "seconds",
        "waiting, %",
        "groups lost, %",
    )
    rows = []
    for outcome in experiment.arms:
        spent = [run.spent for run in outcome.runs]
        seconds = math.fsum(one.seconds for one in spent)
        stalled = math.fsum(one.stall_seconds for one in spent)
        cells: list[Cell | str] = [outcome.arm.name]
        if outcome.arm.judge is None:
            cells += ["–"] * 4
        else:
            cells += [
                _count(sum(one.calls + one.cache_hits for one in spent)),
                _count(sum(one.cache_hits for one in spent)),
                _count(sum(one.tokens for one in spent)),
                _dollars([one.cost_usd for one in spent]),
            ]
        cells.append(Cell(f"{seconds:,.0f}", value=seconds))
        cells.append(number(100 * stalled / seconds if seconds else None, 1))
        steps = [step for run in outcome.runs for step in run.steps]
        lost = sum(step.failed for step in steps)
        cells.append(number(100 * lost / (len(steps) * experiment.prompts_per_step) if steps else None, 1))
        rows.append(Row(cells, group=SECTIONS[outcome.arm.section]))
    return Table([Column("arm", numeric=False), *map(Column, titles)], rows)


def what_arms_are(experiment: Experiment) -> Table:
    """What each arm is rewarded for."""
    rows = [Row([one.arm.name, one.arm.says], group=SECTIONS[one.arm.section]) for one in experiment.arms]
    return Table([Column("arm", numeric=False), Column("what is rewarded", numeric=False)], rows)


def _cells(outcome: ArmOutcome, found: ArmFindings, margin: float) -> list[Cell | str]:
    runs, missing = len(outcome.runs), len(outcome.failures)
    is_truth = outcome.arm.name == TRUTH
    return [
        outcome.arm.name,
        number(found.truth_sampled.value, DECIMALS, interval=as_share(found.truth_sampled).interval),
        Cell("–") if is_truth else _less_truth(found.less_truth, margin),
        number(found.truth_greedy.value, 2),
        _change(outcome, found),
        number(found.well_formed.value, 2),
        number(found.tokens_mean.value, 1),
        number(found.agreement.value, 2),
        Cell(f"{found.num_alarmed} of {runs}", f"{missing} failed" if missing else "", found.num_alarmed),
        Cell("–") if is_truth else _seeds_needed(found.less_truth),
    ]


def _less_truth(found: Paired, margin: float) -> Cell:
    """What is shown, and the figures that show it."""
    value = found.mean.value
    # The figures stay in one line, which makes the column wide enough for the words.
    detail = "" if value is None else amount_of(found.mean, signed=True).replace(" ", "\N{NO-BREAK SPACE}")
    return Cell(verdict_of(found, margin_text(margin)), detail, value)


def _change(outcome: ArmOutcome, found: ArmFindings) -> Cell:
    """The mean, and the worst seed: no interval shows that one policy of five has fallen."""
    mean = number(found.change.mean.value, 2, signed=True)
    if len(outcome.runs) < 2:
        return mean
    worst = min(run.final.truth_sampled - run.start.truth_sampled for run in outcome.runs)
    return replace(mean, detail=fixed(worst, 2, signed=True))


def _seeds_needed(found: Paired) -> Cell:
    if found.seeds_needed is None:
        return Cell("–")
    at_most = "" if found.seeds_needed_at_most is None else f"≤ {found.seeds_needed_at_most:,}"
    return Cell(f"{found.seeds_needed:,}", at_most, found.seeds_needed)


def _tokens(value: float | None, at_most: float | None) -> Cell:
    if value is None:
        return Cell("–")
    return Cell(f"{value:,.0f}", "" if at_most is None else f"at most {at_most:,.0f}", value)


def _count(number_of: int) -> Cell:
    return Cell(f"{number_of:,}", value=number_of)


def _dollars(costs: Sequence[float | None]) -> Cell:
    known = [cost for cost in costs if cost is not None]
    if len(known) < len(costs):
        return Cell("unknown")
    return number(math.fsum(known), 2)
