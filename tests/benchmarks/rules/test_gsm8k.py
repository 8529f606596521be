"""The GSM8K rules; the cases of "mended" are the faults of the much copied set that they follow."""

from __future__ import annotations

import pytest

from benchmarks.rules import score
from benchmarks.rules.gsm8k import (
    GSM8K,
    answer_follows,
    answer_line,
    calculator_notes_hold,
    marks,
    soft_form,
    strict_form,
    uses_the_numbers,
)
from ruler.errors import GroupError
from ruler.types import Group
from tests.benchmarks.rules.checking import value

QUESTION = "Ann has 3 boxes of 24 eggs and sells 1,000.50 of them. How many?"
GOOD = "3 boxes hold 3*24=<<3*24=72>>72 eggs.\nThat is all.\nA: 72"
REFERENCE = {"solution": "3*24=<<3*24=72>>72\nA: 72"}
(CORRECT, INTEGER, *_) = GSM8K.with_reference.rules if GSM8K.with_reference else ()


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("work\nA: 72", "72"),
        ("work\nA: 72\n", "72"),
        ("A: 1\nA: 2\nmore", "2"),
        ("A:72", "72"),
        ("Plan A: 72", None),
        ("work\nA: ", None),
        ("", None),
    ],
)
def test_the_answer_is_on_the_last_line_that_begins_so(text: str, answer: str | None) -> None:
    assert answer_line(text) == answer


@pytest.mark.parametrize("written", ["72", "72.0", "$72", "+72", "072"])
def test_mended_any_way_to_write_the_number_is_right_and_whole(written: str) -> None:
    text = GOOD.replace("A: 72", f"A: {written}")
    assert value(CORRECT.check, text, reference=REFERENCE) == 1.0
    assert value(INTEGER.check, text, reference=REFERENCE) == 1.0


@pytest.mark.parametrize(
    ("written", "reference"), [("-3", "-3"), ("-3.0", "-3"), ("1234", "1,234"), ("1,234", "1234"), ("−3", "-3")]
)
def test_mended_negative_numbers_and_thousands_are_right_and_whole(written: str, reference: str) -> None:
    text = f"work\nA: {written}"
    assert value(CORRECT.check, text, reference=f"work\nA: {reference}") == 1.0
    assert value(INTEGER.check, text, reference="A: 1") == 1.0


@pytest.mark.parametrize("written", ["27", "7.2", "-72", "72 eggs", "seventy-two", "720", "72%", ""])
def test_a_wrong_answer_is_wrong(written: str) -> None:
    assert value(CORRECT.check, f"72 it is\nA: {written}", reference=REFERENCE) == 0.0


@pytest.mark.parametrize("written", ["1.5", "1/2", "x", "1e3"])
def test_no_whole_number(written: str) -> None:
    assert value(INTEGER.check, f"work\nA: {written}", reference=REFERENCE) == 0.0


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "  \n\n"])
def test_mended_many_lines_of_reasoning_and_no_final_line_break_are_good_form(end: str) -> None:
    for check in (strict_form, soft_form, marks):
        assert value(check, GOOD + end) == 1.0, check


@pytest.mark.parametrize(
    ("text", "strict", "soft"),
    [
        ("A: 72", 0.0, 0.0),  # no reasoning
        ("work\nA: 72\nThanks!", 0.0, 1.0),
        ("work\nA: 71\nA: 72", 0.0, 1.0),
        ("work\nA: lots", 0.0, 0.0),
        ("work\nA:72", 0.0, 1.0),
        ("work\nThe answer is 72 eggs.", 0.0, 1.0),
        ("work\n#### 72", 0.0, 1.0),
        ("work\nso 72", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_form(text: str, strict: float, soft: float) -> None:
    assert (value(strict_form, text), value(soft_form, text)) == (strict, soft)


def test_marks_count_each_once_and_pay_for_what_trails() -> None:
    assert value(marks, "no mark") == 0.0
    assert value(marks, "work\nA: 72") == 0.5
    assert value(marks, GOOD.replace(">>", "")) == 0.5
    assert value(marks, f"{GOOD}\nA: 72") == 0.5
    assert value(marks, f"{GOOD}\n{'x' * 100}") == pytest.approx(0.9)
    assert value(marks, f"{GOOD}\n{'x' * 5000}") == 0.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<<3+4=7>>", 1.0),
        ("<<3+4=8>>", 0.0),
        ("<<3+4=7>><<2*(1+1)=5>>", 0.5),
        ("<<80,000*.5=40000.0>>", 1.0),
        ("<<10/3=3.33>>", 1.0),
        ("<<20%*50=10>>", 1.0),
        ("<<-(2-5)=3>>", 1.0),
        ("<<1/0=1>>", 0.0),
        ("<<x+1=2>>", 0.0),
        ("3+4=7", 0.0),
    ],
)
def test_calculator_notes_are_calculated(text: str, expected: float) -> None:
    assert value(calculator_notes_hold, text) == expected


def test_the_answer_follows_from_the_last_note() -> None:
    assert value(answer_follows, GOOD) == 1.0
    assert value(answer_follows, GOOD.replace("A: 72", "A: 71")) == 0.0
    assert value(answer_follows, "work\nA: 72") == 0.0


def test_the_numbers_of_the_question_are_used() -> None:
    assert value(uses_the_numbers, "3 and 24 and 1000.5", task=QUESTION) == 1.0
    assert value(uses_the_numbers, GOOD, task=QUESTION) == pytest.approx(2 / 3)
    assert value(uses_the_numbers, GOOD, task="How many?") == 1.0


def test_the_right_answer_in_good_form_has_the_most() -> None:
    wrong = GOOD.replace("72", "73")
    group = Group.of([wrong, GOOD, "", "A: 72"], task=QUESTION, reference=REFERENCE)
    assert GSM8K.with_reference is not None
    best = score(GSM8K.with_reference, group)
    assert best[1] == 4.0 == max(best)
    blind = score(GSM8K.blind, group)
    assert blind[1] == max(blind) > blind[0] > blind[3] > blind[2] == pytest.approx(0.0)


def test_a_group_without_reference_is_an_error_and_no_wrong_answer() -> None:
    assert GSM8K.with_reference is not None
    with pytest.raises(GroupError, match="reference"):
        score(GSM8K.with_reference, Group.of([GOOD]))
