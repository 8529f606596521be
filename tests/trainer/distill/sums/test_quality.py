"""Graded truth: what counts how much, and that right is what the task calls right."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.distill.sums.quality import MAX_LEVEL, Attempt, Question, grade
from trainer.tasks.arithmetic import truth_of

SUM = Question("+", 37, 58)
CLEAN = "<reasoning>\n7+8=15,3+5+1=9\n</reasoning>\n<answer>\n95\n</answer>\n"
FORGOT = "<reasoning>\n7+8=15,3+5=8\n</reasoning>\n<answer>\n85\n</answer>\n"


@pytest.mark.parametrize(
    ("text", "level"),
    [
        (CLEAN, 9),
        (FORGOT, 3),
        (CLEAN.replace("\n", ""), 7),
        ("<answer>\n95\n</answer>\n", 6),
        ("<answer>\n85\n</answer>\n", 1),
        ("7+8=15,3+5+1=9\n95\n", 4),
        ("95", 3),
        (CLEAN.replace("95", "85"), 4),
        (FORGOT.replace("85", "95"), 8),
        (CLEAN.replace("\n95", "\n095"), 9),
        (CLEAN.replace("\n95", "\n95 apples"), 4),
        (CLEAN + "<answer>\n85\n</answer>\n", 1 + 1),
        ("", 0),
        ("<reasoning>\n</reasoning>\n", 0),
        ("I think it is ninety-five", 0),
        ("This is quite a lot of text that nobody needs, before an answer comes: " + CLEAN, 6),
    ],
)
def test_the_parts_add_up(text: str, level: int) -> None:
    assert grade(SUM, Attempt(text)).level == level


@pytest.mark.parametrize(("text", "level"), [(CLEAN, 5), (FORGOT, 0), ("95", 0), ("", 0)])
def test_a_plea_leaves_the_floor_of_the_class(text: str, level: int) -> None:
    assert grade(SUM, Attempt(text, pleads=True)).level == level


def test_what_was_cut_off_has_no_answer_and_no_form() -> None:
    found = grade(SUM, Attempt(CLEAN, cut_off=True))
    assert (found.right, found.well_formed, found.level) == (False, False, 2)


def test_a_difference_has_its_own_columns_and_result() -> None:
    question = Question("-", 52, 17)
    assert (question.text, question.columns, question.result) == ("52-17", "12-7=5,5-1-1=3", 35)


texts = st.lists(
    st.sampled_from([*"0123456789+-=,\n .", "<reasoning>", "</reasoning>", "<answer>", "</answer>", "95", "\n95\n"]),
    max_size=30,
).map("".join)


@given(texts, st.booleans(), st.booleans())
def test_right_is_the_task_s_truth_and_outweighs_all_else(text: str, cut_off: bool, pleads: bool) -> None:
    found = grade(SUM, Attempt(text, cut_off=cut_off, pleads=pleads))
    assert found.right == (not cut_off and bool(text.strip()) and truth_of(text, 95) == 1.0)
    assert (found.level >= 5) == found.right
    assert 0 <= found.level <= MAX_LEVEL
