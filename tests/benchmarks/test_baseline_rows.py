from __future__ import annotations

from itertools import pairwise

import pytest

from benchmarks.baseline_rows import FLIPS, baseline_rows
from benchmarks.rows import Row
from ruler import Group
from ruler.records import LabelledGroup

TRUTH = {"right": 1.0, "wrong": 0.0}


def solved(name: str, reference: object = None, source: str = "gsm8k-model-solutions") -> LabelledGroup:
    """A right and a wrong solution of a GSM8K task, alike in form."""
    texts = [f"{name}: 3 and 4 are <<3+4={n}>>{n}.\nA: {n}" for n in (7, 8)]
    group = Group.of(
        texts,
        task=f"{name}: what are 3 and 4?",
        id=name,
        ids=["right", "wrong"],
        reference=reference,
        metadata={"source": source},
    )
    return LabelledGroup(group, TRUTH)


def many(count: int, truth: tuple[float, ...] = (1.0, 0.0, 1.0, 0.0)) -> list[LabelledGroup]:
    found = []
    for n in range(count):
        group = Group.of([f"rollout {place} of {n}" for place in range(len(truth))], task=f"task {n}", id=f"g{n}")
        named = zip((one.id for one in group.rollouts), truth, strict=True)
        found.append(LabelledGroup(group, dict(named)))
    return found


def rows(labelled: list[LabelledGroup], seed: int = 0) -> dict[str, Row]:
    return {row.name: row for row in baseline_rows(labelled, seed=seed)}


def test_the_first_row_is_truth_and_each_says_of_what_kind_it_is() -> None:
    found = list(baseline_rows(many(2)))
    assert [(row.name, row.kind) for row in found] == [
        ("truth", "truth"),
        ("truth, 5% flipped", "flips"),
        ("truth, 10% flipped", "flips"),
        ("truth, 20% flipped", "flips"),
        ("truth, 40% flipped", "flips"),
        ("rules", "rules"),
        ("rules with reference", "rules"),
        ("shorter wins", "trivial"),
        ("first wins", "trivial"),
        ("random", "trivial"),
    ]
    assert {answer.scores for answer in found[0].answers.values()} == {(1.0, 0.0, 1.0, 0.0)}


# --- Rules ---


def test_rules_with_reference_say_nothing_of_groups_that_have_none() -> None:
    found = rows([solved("with", {"solution": "3 + 4\nA: 7"}), solved("without")])
    assert set(found["rules"].answers) == {"with", "without"}
    assert set(found["rules with reference"].answers) == {"with"}
    assert found["rules with reference"].failures == {}
    scores = found["rules with reference"].answers["with"].scores
    assert scores is not None
    assert scores[0] - scores[1] == 2.0, "what a right answer weighs"


def test_a_reference_that_cannot_be_read_is_a_failure_and_no_score() -> None:
    found = rows([solved("bad", {"solution": "no number"}), solved("good", {"solution": "3 + 4\nA: 7"})])
    row = found["rules with reference"]
    assert row.answers["bad"].scores is None
    assert set(row.failures) == {"bad"}
    assert row.failures["bad"].startswith("group: ")
    assert row.answers["good"].scores is not None
    assert found["rules"].failures == {}, "those without reference do not look at it"


def test_of_sources_nobody_wrote_rules_for_there_is_no_answer() -> None:
    found = rows([solved("g", {"solution": "3 + 4\nA: 7"}, source="my own")])
    assert found["rules"].answers == found["rules with reference"].answers == {}


# --- Trivial rules ---


def test_shorter_and_first_are_by_the_text_that_a_judge_is_shown() -> None:
    group = Group.of(["x" * 90, "x", "x" * 30], task="t", id="g")
    found = rows([LabelledGroup(group, {"r1": 1.0, "r2": 0.0, "r3": 0.0})])
    shorter = found["shorter wins"].answers["g"].scores
    assert shorter is not None
    assert shorter[1] > shorter[2] > shorter[0]
    assert [one - other for one, other in pairwise(shorter)] == [-89.0, 29.0]
    first = found["first wins"].answers["g"].scores
    assert first is not None
    assert first[0] > first[1] > first[2]


def test_random_scores_are_other_ones_in_each_group_and_with_each_seed() -> None:
    labelled = many(30)
    scores = [answer.scores or () for answer in rows(labelled)["random"].answers.values()]
    assert len(set(scores)) == 30
    assert all(0 <= score < 1 for own in scores for score in own)
    # Which of four stands first is not settled by the place.
    assert {own.index(max(own)) for own in scores} == {0, 1, 2, 3}
    assert not set(scores) & {answer.scores for answer in rows(labelled, seed=1)["random"].answers.values()}


# --- Truth with errors ---


@pytest.mark.parametrize("share", FLIPS)
def test_which_labels_are_flipped_is_drawn_for_each_group(share: float) -> None:
    truth = (1.0, 0.0) * 3
    answers = rows(many(60, truth))[f"truth, {share:.0%} flipped"].answers
    flipped = [tuple(a != b for a, b in zip(answer.scores or (), truth, strict=True)) for answer in answers.values()]
    assert len(set(flipped)) > 5
    # 360 labels: four standard deviations.
    assert sum(map(sum, flipped)) / 360 == pytest.approx(share, abs=4 * (share * (1 - share) / 360) ** 0.5)


def test_shares_and_seeds_draw_on_their_own() -> None:
    labelled = many(60)
    found, other = rows(labelled), rows(labelled, seed=1)
    name = "truth, 40% flipped"
    assert found[name].answers != other[name].answers
    few, some = (
        {
            (group, place)
            for group, answer in found[f"truth, {share} flipped"].answers.items()
            for place, value in enumerate(answer.scores or ())
            if value != (1.0, 0.0, 1.0, 0.0)[place]
        }
        for share in ("20%", "40%")
    )
    assert not few <= some


def test_neither_order_nor_company_changes_a_row() -> None:
    labelled = many(9)
    whole, part = rows(labelled), rows(labelled[:2:-1])
    for name, row in part.items():
        assert row.answers == {group: whole[name].answers[group] for group in row.answers}, name
