"""The tables: every arm has its row, every figure its words, and what is not known is not shown as a number."""

from __future__ import annotations

import re
from dataclasses import replace

from benchmarks.head_to_head.arms import TRUTH, arms_of, chosen
from benchmarks.head_to_head.outcomes import Experiment
from benchmarks.head_to_head.paired import Mean, Paired
from benchmarks.head_to_head.tables import all_arms, ceilings, costs, what_arms_are
from benchmarks.report import Row, Table
from benchmarks.report_blocks import Cell, cell_of
from tests.benchmarks.head_to_head.made_up import found, made_up

ARMS = chosen(arms_of("arithmetic", ("embedded",)), ["rules", "embedded", "noise 1", "random"])
EXPERIMENT = made_up(arms=ARMS, steps=20, failures={("embedded", 3): "judge unavailable"})
NBSP = "\N{NO-BREAK SPACE}"


def cells(table: Table, name: str) -> dict[str, Cell]:
    (row,) = [row for row in table.rows if row.cells[0] == name]
    return {column.name: cell_of(cell) for column, cell in zip(table.columns, row.cells, strict=True)}


def names(rows: Table) -> list[tuple[str, str]]:
    return [(row.group, str(row.cells[0])) for row in rows.rows]


def test_all_arms_stand_under_their_sections_and_truth_stands_out() -> None:
    table = all_arms(EXPERIMENT, found(EXPERIMENT))
    assert names(table) == names(costs(EXPERIMENT)) == names(what_arms_are(EXPERIMENT)) == [
        ("Rewards", "truth"),
        ("Rewards", "rules"),
        ("Rewards", "embedded"),
        ("Truth with noise", "noise 1"),
        ("Controls", "random"),
    ]  # fmt: skip
    assert [row.strong for row in table.rows] == [True, False, False, False, False]


def test_an_arm_has_the_figures_that_were_found() -> None:
    findings = found(EXPERIMENT)
    less = Paired(Mean(4, -0.0123, (-0.0531, 0.0285)), "not shown", 17, 1234)
    one = replace(
        findings.arms["embedded"],
        truth_sampled=Mean(4, 0.9187, (0.8746, 1.0123)),
        truth_greedy=Mean(4, 0.97, (0.9, 1.1)),
        less_truth=less,
        change=Paired(Mean(4, -0.31, (-0.4, -0.2)), "lower", 1, 2),
        well_formed=Mean(4, 0.5, None),
        tokens_mean=Mean(4, 24.96, None),
        agreement=Mean(0, None, None),
        num_alarmed=2,
    )
    table = all_arms(EXPERIMENT, replace(findings, arms={**findings.arms, "embedded": one}))
    runs = next(outcome.runs for outcome in EXPERIMENT.arms if outcome.arm.name == "embedded")
    worst = f"{min(run.final.truth_sampled - run.start.truth_sampled for run in runs):+.2f}"
    # A share ends at 1, and so does its interval.
    assert {name: (cell.text, cell.detail.replace(NBSP, " ")) for name, cell in cells(table, "embedded").items()} == {
        "arm": ("embedded", ""),
        "truth, sampled": ("0.919", "0.875 to 1.000"),
        "less that of the truth arm": (f"no difference shown (±{NBSP}0.041)", "−0.012 (−0.053 to +0.029)"),
        "truth, greedy": ("0.97", ""),
        "change from start": ("−0.31", worst),
        "format share": ("0.50", ""),
        "tokens": ("25.0", ""),
        "agreement": ("–", ""),
        "alarms": ("2 of 4", "1 failed"),
        "seeds needed": ("17", "≤ 1,234"),
    }
    truth = cells(table, TRUTH)
    assert (truth["less that of the truth arm"].text, truth["seeds needed"].text) == ("–", "–")


def test_one_seed_and_no_seed_have_no_intervals_and_no_verdicts() -> None:
    experiment = made_up(arms=ARMS, steps=20, seeds=1, failures={("embedded", 0): "killed"})
    table = all_arms(experiment, found(experiment))
    one, none = cells(table, "rules"), cells(table, "embedded")
    assert one["truth, sampled"].detail == ""
    assert one["less that of the truth arm"].text == none["less that of the truth arm"].text == "too few seeds"
    assert re.fullmatch(r"[+−]0\.\d{3}", one["less that of the truth arm"].detail)
    assert one["seeds needed"].text == none["seeds needed"].text == "–"
    assert (none["truth, sampled"].text, none["tokens"].text, none["alarms"].text) == ("–", "–", "0 of 0")


def test_a_ceiling_is_shown_where_it_may_be_said_and_what_is_missing_elsewhere() -> None:
    reported, short = ceilings(EXPERIMENT, found(EXPERIMENT, long_enough=["rules"]))
    assert names(reported) == [("Rewards", "rules")]
    row = cells(reported, "rules")
    half = row["tokens to half of the way, Cmid"]
    assert (row["ceiling, A"].text, row["ceiling, A"].detail) == ("0.945", "0.920 to 0.960")
    assert (half.text, half.detail) == ("32,000", "at most 41,000")
    assert short.caption == "Too short to say."
    assert len(short.rows) == 4
    said = cells(short, "random")["what is missing, and what would be needed"].text
    assert said == "The ceiling's interval is 0.14 wide: 0.1 at most. 5 seeds: 9 needed."
    assert "0.945" not in str(short)
    everything = found(EXPERIMENT, long_enough=[arm.name for arm in ARMS])
    assert [len(table.rows) for table in ceilings(EXPERIMENT, everything)] == [5]


def spending(experiment: Experiment, name: str, *prices: float | None) -> Experiment:
    arms = []
    for outcome in experiment.arms:
        if outcome.arm.name == name:
            runs = tuple(
                replace(run, spent=replace(run.spent, cost_usd=price))
                for run, price in zip(outcome.runs, prices, strict=True)
            )
            outcome = replace(outcome, runs=runs)
        arms.append(outcome)
    return replace(experiment, arms=tuple(arms))


def test_costs_are_sums_over_seeds_and_a_price_that_is_not_known_is_not_zero() -> None:
    experiment = made_up(arms=ARMS, steps=20, seeds=2)
    row = cells(costs(spending(experiment, "embedded", 0.5, 0.75)), "embedded")
    # 16 questions in each of 20 steps, a tenth of them from the cache; 24 and 25 seconds, of which 2 each in waiting.
    assert {name: cell.text for name, cell in row.items()} == {
        "arm": "embedded",
        "calls and cache hits": "640",
        "of these hits": "64",
        "judge's tokens": "576,000",
        "US dollars": "1.25",
        "seconds": "49",
        "waiting, %": "8.2",
        "groups lost, %": "0.0",
    }
    assert cells(costs(spending(experiment, "embedded", 0.5, None)), "embedded")["US dollars"].text == "unknown"
    assert [cells(costs(experiment), "random")[name].text for name in ("calls and cache hits", "US dollars")] == [
        "–",
        "–",
    ]


def test_each_arm_says_what_it_is_rewarded_for() -> None:
    assert [Row(list(row.cells)) for row in what_arms_are(EXPERIMENT).rows] == [
        Row([arm.name, arm.says]) for arm in ARMS
    ]
