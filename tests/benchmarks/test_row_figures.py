"""Figures of hand-made rows whose values can be told by counting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import pytest

from benchmarks.row_figures import Cost, Figures, cheapest_within, figures_of, figures_record, rivals, with_cost
from benchmarks.rows import Answer, Kind, Row
from ruler import Group, Usage
from ruler.agreement import GroupAgreement, summarise
from ruler.comparison import pair_noise
from ruler.records import LabelledGroup

APART = "tau2-bench-telecom"
RIGHT, WRONG, EQUAL = (0.9, 0.1), (0.1, 0.9), (0.5, 0.5)
"""Scores of two rollouts of which the first is the better one."""
Said: TypeAlias = Sequence[float] | str | None
"""Scores, why there are none, or None: all rollouts read the same."""


def item(name: str, truth: Sequence[float] = (1.0, 0.0), source: str = "s", **metadata: Any) -> LabelledGroup:
    """A group with rollouts r1, r2 and so on, each with another text."""
    texts = [f"rollout {n} of {name}" for n in range(len(truth))]
    group = Group.of(texts, task=f"task {name}", id=name, metadata={"source": source, **metadata})
    return LabelledGroup(group, {one.id: value for one, value in zip(group.rollouts, truth, strict=True)})


def items(count: int, source: str = "s", **metadata: Any) -> list[LabelledGroup]:
    """Groups of two whose first rollout is right."""
    return [item(f"{source} {n}", source=source, **metadata) for n in range(count)]


def row(
    name: str,
    said: Mapping[str, Said],
    kind: Kind = "trivial",
    judge: str | None = None,
    setting: str = "",
    **more: Any,
) -> Row:
    """What a scorer says of each group; `more` goes into every answer."""
    answers = {
        group: Answer(None, own, **more)
        if isinstance(own, str)
        else Answer(None if own is None else tuple(own), **more)
        for group, own in said.items()
    }
    return Row(name, kind, answers, judge, setting)


def judged(judge: str, setting: str, said: Mapping[str, Said], **more: Any) -> Row:
    return row(f"{judge}: {setting}", said, "judge", judge, setting, **more)


def said(labelled: Sequence[LabelledGroup], *scores: Said) -> dict[str, Said]:
    """These for the first groups, and the last of them for all others."""
    return {one.group.id: scores[min(place, len(scores) - 1)] for place, one in enumerate(labelled)}


# --- Beside the base ---


def test_each_row_is_compared_with_the_first_of_its_judge_and_rows_without_one_with_the_first_judges() -> None:
    groups = items(8)
    rows = [
        row("rules", said(groups, WRONG)),
        judged("A", "k = 1", said(groups, RIGHT, RIGHT, WRONG)),
        judged("A", "k = 2", said(groups, WRONG)),
        judged("B", "k = 1", said(groups, RIGHT)),
        judged("B", "k = 2", said(groups, WRONG, WRONG, RIGHT)),
    ]
    found = figures_of(rows, groups)
    assert [one.base for one in found] == ["A: k = 1", None, "A: k = 1", None, "B: k = 1"]
    assert [one.is_base for one in found] == [False, True, False, True, False]
    # Less the base's 2 of 8; B's second row less 8 of 8.
    values = [one.versus_base and one.versus_base.overall.value for one in found]
    assert values == [-0.25, None, -0.25, None, -0.25]
    assert [one.versus_base and one.versus_base.verdict for one in found][4] == "no difference shown"


def test_a_better_row_stands_above_its_base() -> None:
    groups = items(20)
    rows = [judged("A", "k = 1", said(groups, RIGHT, WRONG)), judged("A", "k = 4", said(groups, RIGHT))]
    (_, better) = figures_of(rows, groups)
    assert better.versus_base is not None
    assert better.versus_base.overall.value == 0.95
    assert better.versus_base.verdict == "better"
    assert figures_record(better)["versus"]["row"] == "A: k = 1"


def test_without_a_judge_there_is_no_base() -> None:
    groups = items(2)
    (one,) = figures_of([row("rules", said(groups, RIGHT))], groups)
    assert (one.base, one.versus_base, one.is_base, one.cost, dict(one.costs)) == (None, None, False, None, {})


def test_sources_that_are_apart_are_in_no_figure_over_sources() -> None:
    inside, outside = items(6), items(6, APART)
    base = judged("A", "k = 1", said(inside, RIGHT, WRONG) | said(outside, RIGHT))
    other = judged("A", "k = 2", said(inside, RIGHT, RIGHT, WRONG) | said(outside, WRONG))
    found = figures_of([base, other], inside + outside)
    assert [one.agreement.overall.accuracy for one in found] == [pytest.approx(1 / 6), pytest.approx(2 / 6)]
    versus = found[1].versus_base
    assert versus is not None
    assert versus.overall.value == pytest.approx(1 / 6)
    assert versus.sources[APART].value == -1.0
    # 5 and 4 of 6 pairs wrong; with telecom inside they would be 5/12 and 5/6.
    assert [one.noise.noise.overall.value for one in found] == [pytest.approx(5 / 6), pytest.approx(4 / 6)]
    assert found[0].noise.noise.sources[APART].value == 0.0


def test_noise_is_of_groups_that_a_checker_labelled() -> None:
    checked, preferred = items(4), items(4, "people", truth_kind="human_preference")
    scores = said(checked, WRONG, RIGHT) | said(preferred, WRONG)
    (one,) = figures_of([row("rules", scores)], checked + preferred)
    assert one.noise.noise.overall.value == 0.25
    assert one.agreement.overall.accuracy == (0.75 + 0.0) / 2


def test_groups_that_read_the_same_tie_and_failed_or_unanswered_ones_do_not_count() -> None:
    groups = items(4)
    (one,) = figures_of([row("rules", {"s 0": RIGHT, "s 1": None, "s 2": "group: bad"})], groups)
    assert one.agreement.overall.accuracy == (1 + 0.5) / 2
    assert (one.agreement.overall.groups, one.agreement.overall.failed) == (2, 1)
    assert one.agreement.overall.tie_rate == 0.5
    record = figures_record(one)
    assert record["failures"] == {"s 2": "group: bad"}
    assert record["scores"] == {"s 0": [0.9, 0.1], "s 1": None, "s 2": None}


def test_failures_are_counted_at_their_source() -> None:
    one, other = items(4, "one"), items(2, "other")
    (found,) = figures_of([row("rules", said(one, RIGHT, RIGHT, "reply: no") | said(other, RIGHT))], one + other)
    assert {source.source: source.failed for source in found.agreement.sources} == {"one": 2, "other": 0}


def test_pairs_of_coarse_rewards_need_their_gap() -> None:
    groups = [item("i", (0.9, 0.8, 0.5), "intercode-bash"), item("f", (0.9, 0.8, 0.5), "fine")]
    (one,) = figures_of([row("rules", said(groups, (0.1, 0.2, 0.0)))], groups)
    assert {source.source: source.pairs for source in one.agreement.sources} == {"intercode-bash": 2, "fine": 3}
    assert {source.source: source.accuracy for source in one.agreement.sources} == {
        "intercode-bash": 1.0,
        "fine": pytest.approx(2 / 3),
    }


# --- Judges beside each other ---


def test_the_bases_and_the_jury_are_compared_pair_by_pair_the_first_less_the_second() -> None:
    inside, outside = items(10), items(4, APART)
    everywhere = inside + outside
    rows = [
        row("rules", said(everywhere, RIGHT)),
        judged("A", "k = 1", said(inside, RIGHT) | said(outside, WRONG)),
        judged("A", "k = 2", said(everywhere, WRONG)),
        judged("B", "k = 1", said(inside, WRONG, WRONG, RIGHT) | said(outside, RIGHT)),
        row("jury: A + B", said(inside, WRONG, RIGHT) | said(outside, RIGHT), "jury", "A + B", "jury, k = 1"),
    ]
    found = [
        (one.row.name, other.row.name, pair.overall.value) for one, other, pair in rivals(figures_of(rows, everywhere))
    ]
    assert found == [
        ("A: k = 1", "B: k = 1", pytest.approx(0.2)),
        ("A: k = 1", "jury: A + B", pytest.approx(0.1)),
        ("B: k = 1", "jury: A + B", pytest.approx(-0.1)),
    ]


# --- Cost ---


def test_cost_is_of_all_questions_by_the_groups_that_have_scores() -> None:
    groups = [*items(3), item("t", source="other")]
    usage = Usage(calls=3, input_tokens=100, output_tokens=20, cost_usd=0.06)
    scored = judged("A", "k = 1", {"s 0": RIGHT, "s 1": "reply: no JSON", "t": WRONG}, usage=usage, seconds=4.0)
    scored = Row(scored.name, "judge", {**scored.answers, "s 2": Answer(None)}, "A", "k = 1")
    (one,) = figures_of([scored], groups)
    # Three groups were asked about, of which two have scores; the fourth reads the same throughout.
    assert one.cost == Cost(calls=4.5, tokens=180.0, usd=pytest.approx(0.09), seconds=6.0)
    assert one.costs == {
        "s": Cost(calls=6.0, tokens=240.0, usd=pytest.approx(0.12), seconds=8.0),
        "other": Cost(calls=3.0, tokens=120.0, usd=pytest.approx(0.06), seconds=4.0),
    }


def test_a_price_that_is_unknown_is_no_number_and_without_scores_there_is_no_cost() -> None:
    groups = items(2)
    rows = [
        judged("A", "k = 1", said(groups, RIGHT), usage=Usage(calls=1, input_tokens=9, cost_usd=None)),
        judged("B", "k = 1", said(groups, "unavailable: down"), usage=Usage(calls=1)),
    ]
    one, other = figures_of(rows, groups)
    assert one.cost == Cost(calls=1.0, tokens=9.0, usd=None, seconds=0.0)
    assert (other.cost, dict(other.costs)) == (None, {})


def priced(
    name: str, accuracy: float | None, tokens: float, *, failed: int = 0, usd: float | None = 1.0, groups: int = 100
) -> Figures:
    """A row with this accuracy on `groups` groups, beside `failed` that have no scores."""
    found = [
        GroupAgreement(
            group_id=str(n),
            source="s",
            cluster=None,
            pairs=1000,
            correct=1000 * (accuracy or 0.0),
            tied_pairs=0,
            tau_b=0.0,
            top_1=0.0,
            r=0.0,
            binary=True,
            signal=True,
            spread=1.0,
        )
        for n in range(groups if accuracy is not None else 0)
    ]
    return Figures(
        row=Row(name, "judge", {}, "A", name),
        groups=tuple(found),
        agreement=summarise(found, failed={"s": failed}, resamples=0),
        noise=pair_noise(found, resamples=0),
        cost=Cost(calls=1.0, tokens=tokens, usd=usd, seconds=1.0),
        costs={},
        versus_base=None,
        base=None,
    )


def test_the_cheapest_within_a_point_of_the_best_is_chosen() -> None:
    rows = [priced("best", 0.9, 100), priced("near", 0.895, 50), priced("nearer", 0.898, 70), priced("far", 0.88, 10)]
    found = cheapest_within(rows, "tokens")
    assert found is not None
    assert [one.row.name for one in found] == ["near", "best"]
    wider = cheapest_within(rows, "tokens", margin=0.05)
    assert wider is not None
    assert wider[0].row.name == "far"


def test_of_equals_the_cheaper_is_the_best_and_of_equally_cheap_ones_the_better() -> None:
    dear, cheap, worse = priced("dear", 0.9, 100), priced("cheap", 0.9, 50), priced("worse", 0.895, 50)
    assert cheapest_within([worse, dear, cheap], "tokens") == (cheap, cheap)


def test_each_unit_has_its_own_choice() -> None:
    rows = [priced("few tokens", 0.9, 10, usd=2.0), priced("few USD", 0.9, 100, usd=1.0)]
    names = [found and found[0].row.name for found in (cheapest_within(rows, "tokens"), cheapest_within(rows, "usd"))]
    assert names == ["few tokens", "few USD"]


def test_rows_without_accuracy_or_price_or_with_many_failures_are_no_choice() -> None:
    rows = [
        priced("failed often", 0.99, 1, failed=3, groups=97),
        priced("failed seldom", 0.8, 10, failed=2, groups=98),
        priced("no price", 0.9, 10, usd=None),
        priced("no scores", None, 10),
    ]
    assert [one.row.name for one in with_cost(rows, "tokens")] == ["failed seldom", "no price"]
    assert [one.row.name for one in with_cost(rows, "usd")] == ["failed seldom"]
    assert cheapest_within(rows[:1], "tokens") is None
