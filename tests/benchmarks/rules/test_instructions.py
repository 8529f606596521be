from __future__ import annotations

import pytest

from benchmarks.rules import score
from benchmarks.rules.instructions import (
    INSTRUCTIONS,
    as_many_as_asked,
    complete,
    form_as_asked,
    length_as_asked,
    no_copy,
    no_refusal,
    no_repetition,
    on_topic,
    to_the_point,
)
from ruler.types import Group
from tests.benchmarks.rules.checking import value


@pytest.mark.parametrize(
    ("request_text", "answer", "expected"),
    [
        ("Why?", "word " * 200, 1.0),
        ("Why?", "word " * 500, 0.5),
        ("Why?", "word " * 900, 0.0),
        ("Why?", " ", 0.0),
        ("Be brief: why?", "word " * 60, 1.0),
        ("Be brief: why?", "word " * 240, 0.0),
        ("Say it in 100 words.", "word " * 95, 1.0),
        ("Say it in 100 words.", "word " * 60, 0.7),
        ("Say it in one sentence.", "So it is.", 1.0),
        ("Say it in a sentence.", "One. Two. Three.", 0.0),
        ("Answer in fewer than two paragraphs.", "One.\n\nTwo.", pytest.approx(1 / 2)),
        ("Answer in fewer than two paragraphs.", "One.", 1.0),
        ("Write at most 10 words.", "word " * 4, 1.0),
        ("Define a word.", "word " * 100, 1.0),  # no length
    ],
)
def test_length_as_asked(request_text: str, answer: str, expected: float) -> None:
    assert value(length_as_asked, answer, task=request_text) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("request_text", "answer", "expected"),
    [
        ("Name three elements.", "Iron, gold and lead", 1.0),
        ("Name three elements.", "Iron and lead", 0.0),
        ("List 5 ways to rest", "Do:\n1. a\n2. b\n3. c\n4. d\n5. e\nGood luck, and rest", 1.0),
        ("List 5 ways to rest", "1. a\n2. b\n3. c\n4. d\n5. e\n6. f", 0.0),
        ("Suggest two.", "a, b, c, d", 1.0),
        ("Write two sentences", "a, b, c, d", 1.0),
        ("Name an element", "Iron", 1.0),
    ],
)
def test_as_many_as_asked(request_text: str, answer: str, expected: float) -> None:
    assert value(as_many_as_asked, answer, task=request_text) == expected


@pytest.mark.parametrize(
    "text", ["", " ", "I’m sorry, but no.", "As an AI language model, I", "Well, I cannot do it.", "<nooutput>"]
)
def test_refusals(text: str) -> None:
    assert value(no_refusal, text) == 0.0


def test_no_refusal() -> None:
    assert value(no_refusal, "You can do it. " * 20 + "I cannot.") == 1.0


def test_repetition() -> None:
    assert value(no_repetition, "a b c d e f") == value(no_repetition, "a b") == 1.0
    assert value(no_repetition, "a b c " * 100) < 0.02


@pytest.mark.parametrize(
    ("request_text", "good", "bad"),
    [
        ("Make a bulleted list of pets", "- cat\n- dog", "cat, dog"),
        ("Give the table", "| a | b |\n|--|--|", "a b"),
        ("As JSON", '{"a": 1}', "a is 1"),
        ("Write a Python function", "def f(x): return x", "It returns x."),
        ("Write a survey question", "Do you like it?", "I like it."),
        ("Write an email to him", "Dear Sam, hello.", "He is fine."),
        ("Write a dialogue", "A: hi\nB: hello", "They greet."),
        ("Write a haiku", "one\ntwo\nthree", "one two three"),
    ],
)
def test_form_as_asked(request_text: str, good: str, bad: str) -> None:
    assert value(form_as_asked, good, task=request_text) == 1.0
    assert value(form_as_asked, bad, task=request_text) == 0.0
    assert value(form_as_asked, bad, task="Why?") == 1.0


def test_the_instructions_own_words() -> None:
    request_text = "Suggest a suitable card game for a birthday party."
    assert value(on_topic, "This game suits birthdays: a party, cards, suggested.", task=request_text) > 0.8
    assert value(on_topic, "Bread needs flour.", task=request_text) == 0.0
    assert value(on_topic, "Yes.", task="Is it so?") == 1.0


def test_an_answer_is_no_copy_direct_and_complete() -> None:
    request_text = "Summarise: my bag is lost and I am at the station."
    assert value(no_copy, "My bag is lost  and I am at", task=request_text) == 0.0
    assert value(no_copy, "The bag is lost at a station.", task=request_text) == 1.0
    assert value(no_copy, "lost", task=request_text) == 1.0
    assert value(to_the_point, "Sure! Here it is.") == 0.0
    assert value(to_the_point, "Here it is.") == 1.0
    assert value(complete, "one two three four five six seven eight nine ten and") == 0.0
    assert value(complete, "one two three four five six seven eight nine ten eleven.") == 1.0
    assert value(complete, "one two three four five six seven eight nine ten\n- eleven twelve") == 1.0
    assert value(complete, "Paris") == 1.0


def test_scores() -> None:
    good = "A birthday party calls for a card game such as Uno."
    group = Group.of(["I'm sorry, but I cannot.", good, ""], task="Suggest a card game for a birthday party.")
    found = score(INSTRUCTIONS.blind, group)
    assert found[1] == max(found)
    assert found[2] < found[1]
    assert INSTRUCTIONS.with_reference is None
