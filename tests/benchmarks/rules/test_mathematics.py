from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.rules import score
from benchmarks.rules.answers import same_answer
from benchmarks.rules.arithmetic import calculate, equations_hold, read_number
from benchmarks.rules.mathematics import MATHEMATICS, correct, ends_with_answer, has_answer, no_repetition, one_answer
from ruler.types import Group
from tests.benchmarks.rules.checking import value

REFERENCE = {"answer": r"\frac{3}{8}", "solution": "Half\nanswer: of it.\nsolution: so."}


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (r"\frac{3}{8}", r"\dfrac38"),
        (r"\frac{3}{8}", "3/8"),
        (r"\frac{3}{8}", "0.375"),
        ("50,625", "50625"),
        ("50,625", "50{,}625"),
        ("x = 5", "5"),
        (r"90^\circ", "90"),
        (r"90^{\circ}", "90°"),
        (r"\text{(A)}", "(A)"),
        (r"\left( 1, 2 \right)", "(1,2)"),
        ("20%", r"20\%"),
        ("20%", "20"),
        ("$5$.", "5"),
        ("A", "a"),
        (r"2\sqrt{3}", r"2 \sqrt {3}"),
    ],
)
def test_the_same_answer(a: str, b: str) -> None:
    assert same_answer(a, b)
    assert same_answer(b, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (r"\frac{3}{8}", r"\frac{8}{3}"),
        ("20", "21"),
        ("A", "C"),
        ("(1,2)", "(2,1)"),
        (r"\sqrt{3}", "3"),
        ("-5", "5"),
        ("1,2", "12"),
        ("", ""),
        ("1/0", "2/0"),
    ],
)
def test_another_answer(a: str, b: str) -> None:
    assert not same_answer(a, b)


def test_correct_reads_the_last_box_and_the_field_of_the_reference() -> None:
    assert value(correct, r"first \boxed{1}, then \(\boxed{\dfrac{3}{8}}\).", reference=REFERENCE) == 1.0
    assert value(correct, r"\boxed{\frac{3}{8}} or \boxed{1}", reference=REFERENCE) == 0.0
    assert value(correct, r"\boxed{\frac{3}{8}", reference=REFERENCE) == 0.0
    assert value(correct, "3/8", reference=REFERENCE) == 0.0
    assert value(correct, r"\boxed{3/8}", reference="0.375") == 1.0


def test_form() -> None:
    good = "We add.\n" * 3 + r"So \boxed{20}."
    assert [value(check, good) for check in (has_answer, one_answer, ends_with_answer)] == [1.0, 1.0, 1.0]
    assert value(has_answer, r"\boxed{" + "x" * 61 + "}") == 0.0
    assert value(has_answer, r"\boxed{the sum of all these numbers}") == 0.0
    assert value(has_answer, r"\boxed{}") == value(has_answer, "20") == 0.0
    assert value(one_answer, r"\boxed{1} \boxed{1}") == value(one_answer, "") == 0.0
    assert value(ends_with_answer, r"\boxed{1}" + " and so on" * 40) == 0.0


def test_a_line_said_again_counts_once() -> None:
    line = "this is a line of some length\n"
    assert value(no_repetition, line) == 1.0
    assert value(no_repetition, line * 4) == 0.25
    assert value(no_repetition, "short\n" * 9) == 1.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so 3 + 4 = 7 apples", [True]),
        ("so 3 + 4 = 8.", [False]),
        (r"\(3 \times 4 = 12\) and \[10 \div 4 = 2.5\]", [True, True]),
        ("3 * 4 = 12 = 6 * 2", [True]),
        ("1,000 / 8 = 125", [True]),
        ("10 / 3 = 3.33", [True]),
        ("x + 3 = 9", []),
        ("2x + 3 = 9", []),
        ("2^3 + 1 = 9", []),
        ("3 + 4 = 5 + 2", []),
        ("3 + 4 = 7x", []),
        (r"3 + 4 = 7 \cdot 1", []),
        ("f(2) + 3 = 9", []),
        ("a = 7", []),
        ("1 / 0 = 3", []),
        ("3, 4 + 4 = 8", []),
    ],
)
def test_only_sums_in_plain_numbers_are_checked(text: str, expected: list[bool]) -> None:
    assert equations_hold(text) == expected


@st.composite
def sums(draw: st.DrawFn, depth: int = 3) -> str:
    if depth == 0 or draw(st.booleans()):
        return str(draw(st.integers(0, 999)))
    left, right = draw(sums(depth=depth - 1)), draw(sums(depth=depth - 1))
    return draw(st.sampled_from(["({}+{})", "({}-{})", "{}*{}", "(-{}+{})", "{} / {}", "{}-{}"])).format(left, right)


@given(sums())
def test_sums_are_calculated_as_python_does(text: str) -> None:
    try:
        expected = float(eval(text))
    except ZeroDivisionError:
        assert calculate(text) is None
    else:
        found = calculate(text)
        assert found is not None
        assert math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-9)


@pytest.mark.parametrize("text", ["", "1 2", "1+", "*1", "(1", "1)", "()", "%", "1(2)", "a", "1**2", "1" * 201])
def test_what_is_no_sum_has_no_value(text: str) -> None:
    assert calculate(text) is None


def test_numbers_are_read_whole_or_not_at_all() -> None:
    assert [read_number(text) for text in ("1,234.5", "-3", "$18", "−2", ".5", "3.")] == [1234.5, -3, 18, -2, 0.5, 3]
    assert [read_number(text) for text in ("3 eggs", "", "-", "1e5", "9" * 5000)] == [None] * 5


def test_scores() -> None:
    right, wrong = r"3 / 8 = 0.375, so \boxed{3/8}", r"3 / 8 = 0.5, so \boxed{1/2}"
    group = Group.of([wrong, right, "", "no idea"], task="?", reference=REFERENCE)
    assert MATHEMATICS.with_reference is not None
    assert score(MATHEMATICS.with_reference, group) == (0.75, 2.75, 0.0, 0.0)
    blind = score(MATHEMATICS.blind, group)
    assert blind[1] == max(blind) > blind[0] > blind[2]
