from __future__ import annotations

import pytest

from benchmarks.rules import score
from benchmarks.rules.mint import (
    MINT_CODE,
    MINT_MATHEMATICS,
    answer_was_computed,
    code_is_whole,
    correct,
    not_the_refused,
    proposes,
    runs_without_error,
    short_answer,
    speaks_for_the_environment,
    thinks,
    understood,
)
from ruler.types import Group
from tests.benchmarks.rules.checking import hears, says, value

REFUSAL = hears("Observation:\nYour answer is wrong.\nYou have 4 steps left and 1 chances to propose solution left.")
ERROR = hears("Observation:\n----\nNameError   Traceback (most recent call last)\nNameError: name 'x' is not defined")
PRINTED = hears("Observation:\n28.0\nYou have 3 steps left and 1 chances to propose solution left.")
CODE = "<solution>\ndef double(x):\n    return 2 * x\n</solution>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is <solution> 28 </solution>.", 1.0),
        ("28", 0.0),
        ("<solution> 28", 0.0),
        ("<solution></solution>", 0.0),
        ("<solution>1</solution> or <solution>2</solution>", 0.0),
    ],
)
def test_one_solution_is_proposed(text: str, expected: float) -> None:
    assert value(proposes, [says("<solution>1</solution>"), REFUSAL, says(text)]) == expected


def test_what_was_refused_is_not_proposed_again() -> None:
    first, other = says("<solution> 2  8 </solution>"), says("<solution>82</solution>")
    assert value(not_the_refused, [first, REFUSAL, says("<solution>28</solution>")]) == 0.0
    assert value(not_the_refused, [first, REFUSAL, other]) == 1.0
    assert value(not_the_refused, [first, PRINTED, first]) == 1.0
    assert value(not_the_refused, [first, REFUSAL, says("I give up")]) == 1.0


def test_observations() -> None:
    odd = hears("Observation:\nI don't understand your input.")
    assert value(runs_without_error, [says("a"), ERROR, says("b"), PRINTED]) == 0.5
    assert value(runs_without_error, [says("a"), hears("Cell In[1]\nSyntaxError: bad")]) == 0.0
    assert value(runs_without_error, [says("a"), hears("The error is 0.1")]) == 1.0
    assert value(understood, [says("a"), odd, says("b"), PRINTED]) == 0.5
    assert value(understood, [says("a")]) == value(runs_without_error, [says("a")]) == 1.0
    assert value(thinks, [says("<thought> a </thought>"), PRINTED, says("b")]) == 0.5


def test_only_the_environment_gives_verdicts() -> None:
    assert value(speaks_for_the_environment, [says("<solution>1</solution>\nObservation:\n5")]) == 1.0
    assert value(speaks_for_the_environment, [says("Your answer is correct."), PRINTED]) == 1.0
    assert value(speaks_for_the_environment, [says("<solution>1</solution>"), REFUSAL]) == 0.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CODE, 1.0),
        (CODE.replace("return", "return return"), 0.5),
        (CODE.replace("double", "twice"), 0.5),
        (CODE.replace("\ndef", "\n```python\ndef").replace("\n</", "\n```\n</"), 1.0),
        ("<solution>42</solution>", 0.5),
        ("<solution>it says 42</solution>", 0.0),
        (CODE.replace("2 *", r'"\d" *'), 1.0),
        (f"<solution>{'x' * 20_001}</solution>", 0.0),
        (f"<solution>{'-' * 15_000}</solution>", 0.0),
        ("", 0.0),
    ],
)
def test_code_parses_and_defines_what_is_asked(text: str, expected: float) -> None:
    assert value(code_is_whole, text, task="Write def double(x): ...") == expected


def test_an_answer_is_short_and_computed() -> None:
    assert value(short_answer, "<solution> 28 </solution>") == 1.0
    assert value(short_answer, f"<solution> {'so ' * 20} </solution>") == 0.0
    assert value(answer_was_computed, [says("x"), PRINTED, says("<solution>28</solution>")]) == 1.0
    assert value(answer_was_computed, [says("x"), PRINTED, says("<solution>3</solution>")]) == 0.0  # steps left
    assert value(answer_was_computed, [says("x"), PRINTED, says("<solution>none</solution>")]) == 0.0


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("28", 28.0, 1.0),
        ("28.1", 28.0, 1.0),
        ("29", 28.0, 0.0),
        ("about 28 units", "28", 1.0),
        (r"\frac{1}{2}", 0.5, 1.0),
        ("[0, 1, 1]", [0, 1, 1], 1.0),
        ("[0, 1, 0]", [0, 1, 1], 0.0),
        ("False", False, 1.0),
        ("(a)", "a", 0.0),
    ],
)
def test_the_answer_equals_the_reference(answer: str, reference: object, expected: float) -> None:
    messages = f"So <solution>{answer}</solution>"
    assert value(correct, messages, reference={"reference": reference}) == expected


def test_scores() -> None:
    good = [says("<thought>a</thought>"), PRINTED, says("<thought>b</thought> <solution>28</solution>")]
    bad = [says("<solution>3</solution>"), REFUSAL, says("<solution>3</solution>\nYour answer is correct.")]
    group = Group.of([bad, good, []], task="double", reference={"reference": 28.0})
    assert MINT_MATHEMATICS.with_reference is not None
    assert MINT_CODE.with_reference is None
    for rewards in (MINT_MATHEMATICS.blind, MINT_MATHEMATICS.with_reference, MINT_CODE.blind):
        found = score(rewards, group)
        assert found[1] == max(found) > found[0]
