"""What the report says of hand-made rows. What figures look like is the business of `benchmarks.plots`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks import judge_report as report_module
from benchmarks import judge_report_detail as detail_module
from benchmarks.judge_report import judge_report
from benchmarks.judge_rows import ORIGINAL
from benchmarks.plots import Bin, Priced, Series
from benchmarks.report import Cell, Figure, Notice, Report, Section, SideBySide, Table
from benchmarks.report_blocks import cell_of
from benchmarks.row_figures import figures_of
from benchmarks.rows import Answer, Row
from ruler import DEFAULT_RUBRIC, JudgedOrder, Usage
from ruler.records import LabelledGroup
from tests.benchmarks.test_row_figures import APART, EQUAL, RIGHT, WRONG, Said, item, items, judged, row, said

EMPTY = '<svg xmlns="http://www.w3.org/2000/svg"/>'


class Plots:
    """What each figure was drawn of, in order."""

    def __init__(self) -> None:
        self.bins: list[Sequence[Bin]] = []
        self.positions: list[Sequence[Series]] = []
        self.priced: list[Sequence[Priced]] = []

    def calibration(self, bins: Sequence[Bin], *labels: str) -> str:
        self.bins.append(bins)
        return EMPTY

    def draw_positions(self, series: Sequence[Series], *labels: str, **references: Any) -> str:
        self.positions.append(series)
        return EMPTY

    def frontier(self, points: Sequence[Priced], *labels: str) -> str:
        self.priced.append(points)
        return EMPTY


@pytest.fixture(autouse=True)
def plots(monkeypatch: pytest.MonkeyPatch) -> Plots:
    found = Plots()
    monkeypatch.setattr(detail_module, "calibration", found.calibration)
    monkeypatch.setattr(detail_module, "positions", found.draw_positions)
    monkeypatch.setattr(report_module, "frontier", found.frontier)
    monkeypatch.setattr(report_module, "forest", lambda *values, **labels: EMPTY)
    return found


def report_of(rows: Sequence[Row], labelled: Sequence[LabelledGroup], **left_out: int) -> Report:
    return judge_report(
        figures_of(rows, labelled), labelled, rubric=DEFAULT_RUBRIC, command="the command", left_out=left_out
    )


def truth_row(labelled: Sequence[LabelledGroup]) -> Row:
    return row("truth", {one.group.id: tuple(one.truth.values()) for one in labelled}, "truth")


def headings(report: Report) -> list[str]:
    return [section.heading for section in report.sections]


def section(report: Report, heading: str) -> Section:
    return next(one for one in report.sections if one.heading == heading)


def cells(section: Section) -> dict[str, list[Cell]]:
    """Name of the row -> its other cells, of the only table."""
    (table,) = (block for block in section.blocks if isinstance(block, Table))
    return {cell_of(one.cells[0]).text: [cell_of(cell) for cell in one.cells[1:]] for one in table.rows}


def notices(section: Section, kind: str) -> list[str]:
    return [block.text for block in section.blocks if isinstance(block, Notice) and block.kind == kind]


# --- The lead ---


def test_the_lead_says_which_side_of_each_rule_the_judge_is_on() -> None:
    groups = items(40)
    rows = [
        row("rules", said(groups, RIGHT)),
        row("shorter wins", said(groups, WRONG)),
        row("first wins", said(groups, *[RIGHT, WRONG] * 4, RIGHT)),
        judged("A", "k = 1", said(groups, *[WRONG, RIGHT] * 4, RIGHT)),
    ]
    lead = report_of(rows, groups).lead
    # 36 of 40 right: 4 points of 40 under the rules, 36 above the shorter.
    assert lead.startswith("A (k = 1) orders 90.0 % (")
    low, high = lead.removeprefix("A (k = 1) orders 90.0 % (").partition(")")[0].split(" to ")
    assert 50 < float(low) < 90 < float(high) < 100
    assert "It is worse than “rules” by 10.0 points (-" in lead
    assert "It is better than “shorter wins” by 90.0 points (+" in lead
    assert "Against “first wins” there is no difference shown." in lead
    assert "On pairs that is as good as truth with 10.0 % (" in lead
    assert "not shown to be better than a coin" not in lead


def test_both_ends_of_a_shown_difference_have_the_sign_of_its_side() -> None:
    groups = items(40)
    scores = said(groups, *[WRONG, RIGHT] * 4, RIGHT)
    rows = [row("rules", said(groups, RIGHT)), row("shorter wins", said(groups, WRONG)), judged("A", "k = 1", scores)]
    lead = report_of(rows, groups).lead
    worse, better = (lead.partition(f"{rule}” by ")[2].partition(")")[0] for rule in ("rules", "shorter wins"))
    # The same distance to either end of the scale, so mirrored intervals: 4 of 40 under one, 36 above the other.
    low, high = worse.removeprefix("10.0 points (").split(" to ")
    assert -100 < float(low) < -10.0 < float(high) < 0
    low, high = better.removeprefix("90.0 points (").split(" to ")
    assert low[0] == high[0] == "+"
    assert 0 < float(low) < 90.0 < float(high) <= 100


def test_telecom_is_in_no_sentence_on_rules() -> None:
    inside, outside = items(20), items(20, APART)
    rows = [
        row("rules", said(inside, RIGHT) | said(outside, WRONG)),
        judged("A", "k = 1", said(inside, WRONG) | said(outside, RIGHT)),
    ]
    report = report_of([truth_row(inside + outside), *rows], outside + inside)
    assert "It is worse than “rules” by 100.0 points" in report.lead
    (table,) = section(report, "By source").blocks
    assert isinstance(table, Table)
    assert [(one.cells[0], one.group) for one in table.rows] == [("s", ""), (APART, "Apart, in no mean")]
    assert "telecom" in section(report, "How it was measured").text
    assert "telecom" not in section(report_of(rows, inside), "How it was measured").text


def test_a_judge_that_is_no_better_than_a_coin_or_has_no_scores_is_called_so() -> None:
    groups = items(20)
    rows = [
        judged("A", "k = 1", said(groups, *[RIGHT, WRONG] * 10)),
        judged("B", "k = 1", said(groups, "unavailable: down")),
    ]
    coin, silent = report_of(rows, groups).lead.split("\n\n")
    assert coin.startswith("Judge A, A (k = 1) orders 50.0 % (")
    assert "which is not shown to be better than a coin" in coin
    assert "as good as truth" not in coin, "with half of its labels wrong truth says nothing"
    assert silent == "Judge B, B (k = 1) has no scores to compare: 20 groups failed."


def test_simulated_judges_are_named_as_such() -> None:
    groups = items(4)
    real, made_up = (judged(name, "k = 1", said(groups, RIGHT)) for name in ("model", "simulated?quality=truth"))
    assert "simulated" not in report_of([real], groups).lead
    assert "The judge is simulated: nobody read anything." in report_of([made_up], groups).lead
    assert "1 of 2 judges are simulated" in report_of([real, made_up], groups).lead
    assert "No judge was asked" in report_of([row("rules", said(groups, RIGHT))], groups).lead


def test_what_is_left_out_is_among_the_facts_unless_it_is_nothing() -> None:
    groups = [*items(2), *items(1, "other")]
    facts = dict(report_of([judged("A", "k = 1", said(groups, RIGHT))], groups, lines=3, others=0).facts)
    assert facts == {
        "groups": "3 of 2 sources",
        "rollouts": "6",
        "judge": "A",
        "rubric": DEFAULT_RUBRIC.id,
        "left out: lines": "3",
        "command": "the command",
    }


# --- Tables ---


def test_every_row_has_its_figures_and_its_distance_from_the_base() -> None:
    groups = [*items(20), *items(20, "other"), *items(4, APART)]
    rows = [
        judged("A", "k = 1", said(groups, *[WRONG] * 10, RIGHT)),
        judged("A", "k = 2", said(groups, *[EQUAL] * 10, *["reply: no"] * 4, RIGHT)),
        row("rules", said(groups[:20], *[WRONG] * 15, RIGHT)),
    ]
    found = cells(section(report_of(rows, groups), "All rows"))
    base, other, rules = found["k = 1"], found["k = 2"], found["rules"]
    # Accuracy 10/20 and 1; then 11/16 and 1; then 5/20 of one source.
    assert [one[0].value for one in (base, other, rules)] == [0.75, pytest.approx((11 / 16 + 1) / 2), 0.25]
    assert base[1].text == "–"
    # On the 16 and 20 groups that both scored: half a pair more in 10 of 16.
    assert (other[1].value, other[1].text) == (pytest.approx(5 / 16 / 2), "+0.156")
    assert other[1].detail.endswith(": better")
    assert (rules[1].text, rules[1].detail.rpartition(": ")[2]) == ("−0.250", "worse")
    assert [one[5].text for one in (base, other, rules)] == ["0.000", "0.312", "0.000"], "ties: 10 of 16, and none"
    assert [one[6].value for one in (base, other, rules)] == [0, 4, 0]
    assert [one[7].value for one in (base, other, rules)] == [2, 2, 1], "sources in the mean"


def test_judges_stand_beside_each_other_with_the_first_less_the_second() -> None:
    groups = items(30)
    rows = [
        judged("long name", "k = 1", said(groups, WRONG)),
        judged("other name", "k = 1", said(groups, WRONG, WRONG, RIGHT)),
        judged("third name", "k = 1", said(groups, *[WRONG] * 3, RIGHT)),
    ]
    found = cells(section(report_of(rows, groups), "Judges against each other"))
    assert list(found) == ["A: k = 1 against B: k = 1", "A: k = 1 against C: k = 1", "B: k = 1 against C: k = 1"]
    worse, _, unclear = found.values()
    assert (worse[0].text, worse[1].text, worse[2].text, worse[3].text) == ("−0.933", "worse", "", "30")
    assert (unclear[0].text, unclear[1].text) == ("+0.033", "no difference shown")
    assert unclear[2].text.startswith("about ")
    assert "Judges against each other" not in headings(report_of(rows[:1], groups))


def test_noise_is_in_percent_and_false_signal_is_of_groups_without_a_difference() -> None:
    groups = [*items(8), *(item(f"level {n}", (1.0, 1.0)) for n in range(4))]
    scores = said(groups[:8], *[WRONG] * 3, RIGHT) | said(groups[8:], (0.6, 0.4), EQUAL)
    (found,) = cells(
        section(report_of([judged("A", "k = 1", scores)], groups), "Equal to truth with so much noise")
    ).values()
    # A spread of 0.1 in one of four groups, against 0.4 in mixed ones.
    assert [cell.text for cell in found] == ["37.5", "25.0", "6", "4"]
    for cell, value in zip(found[:2], (37.5, 25.0), strict=True):
        low, high = cell.detail.split(" to ")
        assert 1 < float(low) < value < float(high) < 100


def test_failures_are_listed_by_reason_and_only_where_there_are_any() -> None:
    groups = items(6)
    failing = said(groups, "reply: no JSON", "unavailable: down", "reply: a list", RIGHT)
    report = report_of([judged("A", "k = 1", failing), row("rules", said(groups, RIGHT))], groups)
    (table,) = section(report, "What failed").blocks
    assert isinstance(table, Table)
    assert [[cell_of(cell).text for cell in one.cells] for one in table.rows] == [
        ["k = 1", "2", "reply", "s 0: reply: no JSON"],
        ["k = 1", "1", "unavailable", "s 1: unavailable: down"],
    ]
    assert "What failed" not in headings(report_of([judged("A", "k = 1", said(groups, RIGHT))], groups))


# --- Cost ---


def paid(judge: str, setting: str, scores: dict[str, Said], tokens: int, usd: float | None = None) -> Row:
    return judged(judge, setting, scores, usage=Usage(calls=1, input_tokens=tokens, cost_usd=usd))


def test_a_simulated_judge_is_recommended_to_nobody_who_has_a_real_one(plots: Plots) -> None:
    groups = items(100)
    simulated = paid("simulated?quality=truth", "k = 1", said(groups, RIGHT), 10)
    real = [
        paid("model", "k = 1", said(groups, WRONG, RIGHT), 1000),
        paid("model", "k = 4", said(groups, RIGHT), 4000),
    ]
    (told,) = notices(section(report_of([simulated, *real], groups), "Cost against quality"), "recommendation")
    assert told.startswith("Cheapest setting within 1 point of the best: model: k = 1, 0.990 for 1,000 tokens a group.")
    assert "The best, model: k = 4, has 1.000 for 4.0 times as much." in told
    (points,) = plots.priced
    assert [point.cost for point in points] == [10, 1000, 4000], "it is in the figure all the same"
    (alone,) = notices(section(report_of([simulated], groups), "Cost against quality"), "recommendation")
    assert "simulated?quality=truth: k = 1, 1.000 for 10 tokens a group; it is the best, too." in alone


def test_usd_are_recommended_by_where_prices_are_known() -> None:
    groups = items(4)
    rows = [paid("model", "k = 1", said(groups, RIGHT), 100, usd=0.0123)]
    found = section(report_of(rows, groups), "Cost against quality")
    by_usd, by_tokens = notices(found, "recommendation")
    assert "1.000 for $0.0123 a group" in by_usd
    assert "1.000 for 100 tokens a group" in by_tokens
    assert by_usd.endswith("These groups are too few to choose by: the interval of the best is wider than 5 points.")
    assert [cell.text for cell in cells(found)["k = 1"]] == ["1.0", "100", "12.30", "0.00", "1.000"]


def test_each_unit_has_its_own_recommendation(plots: Plots) -> None:
    groups = items(4)
    rows = [
        paid("model", "k = 1", said(groups, RIGHT), 100, usd=0.02),
        paid("model", "k = 2", said(groups, RIGHT), 200, usd=0.01),
        paid("model", "k = 4", said(groups, WRONG), 400),
    ]
    by_usd, by_tokens = notices(section(report_of(rows, groups), "Cost against quality"), "recommendation")
    assert "model: k = 2, 1.000 for $0.0100 a group" in by_usd
    assert "model: k = 1, 1.000 for 100 tokens a group" in by_tokens
    assert [[(point.label, point.cost) for point in points] for points in plots.priced] == [
        [("k = 1", 0.02), ("k = 2", 0.01)],
        [("k = 1", 100), ("k = 2", 200), ("k = 4", 400)],
    ]


def test_rows_that_failed_often_are_not_recommended() -> None:
    groups = items(20)
    rows = [
        paid("model", "k = 1", said(groups, "reply: no", RIGHT), 10),
        paid("model", "k = 2", said(groups, WRONG), 20),
    ]
    (told,) = notices(section(report_of(rows, groups), "Cost against quality"), "recommendation")
    assert "model: k = 2, 0.000 for 20 tokens" in told


# --- What a score means ---


def test_scores_fall_into_tenths_from_their_lower_end_and_those_out_of_bounds_into_the_last_ones(plots: Plots) -> None:
    groups = [item("a", (0.0, 0.0, 1.0, 0.0)), item("b", (1.0, 1.0, 0.0, 1.0))]
    scores = {"a": (-0.2, 0.09, 0.1, 0.55), "b": (0.95, 1.0, 1.3, 0.55)}
    report_of([judged("A", "k = 1", scores)], groups)
    (bins,) = plots.bins
    assert [(one.low, one.high) for one in bins] == [(n / 10, (n + 1) / 10) for n in range(10)]
    assert {place: (one.count, one.truth) for place, one in enumerate(bins) if one.count} == {
        0: (2, 0.0),
        1: (1, 1.0),
        5: (2, 0.5),
        9: (3, pytest.approx(2 / 3)),
    }


def test_only_labels_of_a_checker_that_count_in_means_say_what_a_score_means(plots: Plots) -> None:
    inside = [item("in")]
    others = [
        item("apart", source=APART),
        item("people", truth_kind="human_preference"),
        item("graded", (0.9, 0.2)),
        item("failed"),
        item("unanswered"),
    ]
    scores: dict[str, Said] = said([*inside, *others[:3]], RIGHT) | {"failed": "reply: no"}
    report = report_of([judged("A", "k = 1", scores)], [*inside, *others])
    (bins,) = plots.bins
    assert {place: (one.count, one.truth) for place, one in enumerate(bins) if one.count} == {1: (1, 0.0), 9: (1, 1.0)}
    (figure,) = section(report, "What a score means").blocks
    assert isinstance(figure, Figure)
    without = report_of([judged("A", "k = 1", said(others[:1], RIGHT))], others[:1])
    assert section(without, "What a score means").blocks == []


# --- Positions ---


def prompts(judge: str, setting: str, slots: dict[str, list[tuple[float, ...]]]) -> Row:
    """Group id -> the scores of each of its prompts, in the order shown."""
    answers = {
        name: Answer(
            RIGHT,
            judged=tuple(
                JudgedOrder(judge, order, 0, tuple(f"r{n}" for n in range(len(scores))), scores)
                for order, scores in enumerate(shown)
            ),
        )
        for name, shown in slots.items()
    }
    return Row(f"{judge}: {setting}", "judge", answers, judge, setting)


def test_slots_count_from_one_and_hold_no_prompt_of_sources_apart(plots: Plots) -> None:
    groups = [item("a"), item("b"), item("t", source=APART)]
    shown = {"a": [(0.8, 0.4)], "b": [(0.5, 0.3)], "t": [(0.0, 1.0)]}
    report_of([prompts("A", "k = 1", shown)], groups)
    (((series,),)) = plots.positions
    # Half of 0.4 and of 0.2, in the mean.
    assert [(point.x, point.y) for point in series.points] == [(1, pytest.approx(0.15)), (2, pytest.approx(-0.15))]
    assert series.name == "the judge (2 prompts)"


def test_the_row_with_most_prompts_speaks_for_its_judge_but_not_the_original_layout(plots: Plots) -> None:
    groups = items(2)
    names = [one.group.id for one in groups]
    rows = [
        prompts("A", "k = 1", {name: [(0.6, 0.4)] for name in names}),
        prompts("A", "k = 2", {name: [(0.6, 0.4), (0.8, 0.4)] for name in names}),
        prompts("A", ORIGINAL, {name: [(1.0, 0.0)] * 3 for name in names}),
        prompts("B", "k = 1", {name: [(0.3, 0.3)] for name in names}),
    ]
    report_of(rows, groups)
    ((first, second),) = plots.positions
    assert (first.name, first.points[0].y) == ("judge A (4 prompts)", pytest.approx(0.15))
    assert (second.name, second.points[0].y) == ("judge B (2 prompts)", 0.0)


def test_without_prompts_there_is_no_figure_of_positions(plots: Plots) -> None:
    groups = items(2)
    found = section(report_of([judged("A", "k = 1", said(groups, RIGHT))], groups), "Positions")
    assert (found.text, list(found.blocks)) == ("No prompt showed two rollouts or more.", [])
    assert plots.positions == []


# --- Disagreements ---


def shown_groups(report: Report, who: str = "the judge") -> list[str]:
    blocks = section(report, f"Where {who} and truth disagree most").blocks
    assert all(isinstance(block, SideBySide) for block in blocks)
    return [block.title for block in blocks if isinstance(block, SideBySide)]


def test_the_groups_that_go_most_against_truth_come_first_and_those_that_agree_not_at_all() -> None:
    groups = [item(name) for name in ("right", "slightly wrong", "tied", "wrong", "failed", "unanswered")]
    scores: dict[str, Said] = {
        "right": RIGHT,
        "slightly wrong": (0.4, 0.5),
        "tied": None,
        "wrong": WRONG,
        "failed": "reply: no",
    }
    report = report_of([judged("A", "k = 1", scores)], groups)
    assert shown_groups(report) == ["wrong (s)", "slightly wrong (s)"]


def test_six_groups_are_shown_at_most_and_of_equals_the_first_by_name() -> None:
    groups = items(8)[::-1]
    report = report_of([judged("A", "k = 1", said(groups, WRONG))], groups)
    assert shown_groups(report) == [f"s {n} (s)" for n in range(6)]


def test_disagreement_is_the_mean_over_pairs_that_count() -> None:
    # The last two rollouts differ by less than the gap of the first source: there two pairs count, else three.
    groups = [item("gap", (1.0, 0.6, 0.5), "intercode-bash"), item("pairs", (1.0, 0.6, 0.5))]
    report = report_of([judged("A", "k = 1", said(groups, (0.2, 0.1, 0.9)))], groups)
    # (0.1 - 0.7) / 2 = -0.3, and (0.1 - 0.7 - 0.8) / 3 = -0.47.
    assert shown_groups(report) == ["pairs (s)", "gap (intercode-bash)"]
    report = report_of([judged("A", "k = 1", said(groups, (0.5, 0.1, 0.8)))], groups)
    # (0.4 - 0.3) / 2 > 0, and (0.4 - 0.3 - 0.7) / 3 < 0.
    assert shown_groups(report) == ["pairs (s)"]
    sizes = [item("large", (1.0, 0.0, 0.0, 0.0)), item("small")]
    scores = {"large": (0.5, 0.8, 0.8, 0.8), "small": (0.3, 0.7)}
    # Three pairs by 0.3 make 0.9 in all, and yet are less than one by 0.4.
    assert shown_groups(report_of([truth_row(sizes), judged("A", "k = 1", scores)], sizes)) == [
        "small (s)",
        "large (s)",
    ]


def test_a_disagreement_shows_truth_score_note_and_text_of_each_rollout() -> None:
    (group,) = groups = items(1)
    answer = Answer(WRONG, notes=("good work", None))
    report = report_of([Row("A: k = 1", "judge", {group.group.id: answer}, "A", "k = 1")], groups)
    (block,) = section(report, "Where the judge and truth disagree most").blocks
    assert isinstance(block, SideBySide)
    assert "task s 0" in block.context
    assert [(side.label, list(side.facts), side.note) for side in block.columns] == [
        ("r1", [("truth", "1.00"), ("score", "0.10")], "good work"),
        ("r2", [("truth", "0.00"), ("score", "0.90")], ""),
    ]
    assert ["rollout 0 of s 0" in side.text for side in block.columns] == [True, False]


def test_each_judge_has_its_own_disagreements() -> None:
    groups = items(2)
    rows = [judged("A", "k = 1", said(groups, WRONG, RIGHT)), judged("B", "k = 1", said(groups, RIGHT, WRONG))]
    report = report_of([*rows, judged("B", "k = 2", said(groups, WRONG))], groups)
    assert (shown_groups(report, "judge A"), shown_groups(report, "judge B")) == (["s 0 (s)"], ["s 1 (s)"])
