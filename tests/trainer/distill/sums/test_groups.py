"""Drawn groups: of the right split, with all faults, graded as their texts are, and as a judge is given them."""

from __future__ import annotations

import random
from collections import Counter
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruler.errors import GroupError
from trainer.distill.sums.attempts import Faults, draw_attempt, draw_error, plead
from trainer.distill.sums.groups import Kind, draw_group, draw_question, graded
from trainer.distill.sums.phrases import HELD_OUT, TO_TRAIN, Phrases
from trainer.distill.sums.quality import Attempt, Question, grade
from trainer.tasks.arithmetic import opening, operands

KINDS: tuple[Kind, ...] = get_args(Kind)


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_operands_are_of_the_split(split: str) -> None:
    rng = random.Random(0)
    drawn = [draw_question(rng, split) for _ in range(400)]  # type: ignore[arg-type]
    for sign, level in (("+", "addition"), ("-", "subtraction")):
        pairs = {(question.first, question.second) for question in drawn if question.sign == sign}
        train, held_out = operands(level)  # type: ignore[arg-type]
        assert pairs
        assert pairs <= set(train if split == "train" else held_out)


@given(st.integers(0, 10_000), st.sampled_from(KINDS), st.integers(1, 12))
def test_the_same_seed_draws_the_same_group_graded_by_its_texts(seed: int, kind: Kind, size: int) -> None:
    drawn = draw_group(random.Random(seed), size, kind, "held_out")
    assert drawn == draw_group(random.Random(seed), size, kind, "held_out")
    assert [grade(drawn.question, attempt) for attempt in drawn.attempts] == list(drawn.grades)
    assert len(drawn.attempts) == size


def test_training_sees_every_level_and_every_kind_of_fault() -> None:
    rng = random.Random(3)
    drawn = [draw_group(rng, 8, "train", "train") for _ in range(200)]
    levels = Counter(found.level for group in drawn for found in group.grades)
    assert all(levels[level] > 10 for level in range(10))
    attempts = [attempt for group in drawn for attempt in group.attempts]
    assert sum(attempt.pleads for attempt in attempts) > 50
    assert sum(attempt.cut_off for attempt in attempts) > 30
    assert any(not attempt.text for attempt in attempts)
    assert max(len(attempt.text) for attempt in attempts) < 600


def test_most_wrong_answers_of_a_shared_error_are_the_same() -> None:
    rng = random.Random(4)
    same = 0
    for _ in range(50):
        drawn = draw_group(rng, 8, "shared_error", "held_out")
        texts = [attempt.text for attempt, found in zip(drawn.attempts, drawn.grades, strict=True) if not found.right]
        answers = Counter(text.partition("<answer>\n")[2].partition("\n")[0] for text in texts if "<answer>\n" in text)
        same += bool(answers) and answers.most_common(1)[0][1] >= 3
    assert same > 30


@given(st.integers(0, 10_000))
def test_an_error_is_no_right_result(seed: int) -> None:
    rng = random.Random(seed)
    question = draw_question(rng, "train")
    assert draw_error(rng, question) != question.result


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_a_group_pleads_and_pads_with_the_words_of_its_split_alone(split: str) -> None:
    rng = random.Random(6)
    groups = [draw_group(rng, 8, kind, split) for kind in ("pleas", "shifted") for _ in range(60)]  # type: ignore[arg-type]
    said = [attempt.text for group in groups for attempt in group.attempts]
    held_out = ("flawless", "kindly", "calculator", "Regards", "Wolfram")
    trained = ("trust me", "full marks", "Thank you", "I am certain")
    assert any(word in text for text in said for word in (held_out if split == "held_out" else trained))
    assert not any(word in text for text in said for word in (trained if split == "held_out" else held_out))


@given(st.integers(0, 10_000))
def test_who_pleads_has_a_plea_in_the_text_and_who_does_not_has_none(seed: int) -> None:
    rng = random.Random(seed)
    phrases = Phrases(fillers=("some",), openings=("",), claims=("PLEA",), endings=("",))
    faults = Faults(form=0.6, filler=0.4, plea=0.5, cut_off=0.3)
    for _ in range(20):
        attempt = draw_attempt(rng, Question("+", 37, 58), faults, phrases)
        assert ("PLEA" in attempt.text) == attempt.pleads


@given(st.integers(0, 10_000))
def test_a_plea_adds_words_and_takes_none_away(seed: int) -> None:
    rng = random.Random(seed)
    question = Question("+", 37, 58)
    attempt = draw_attempt(rng, question, Faults(plea=0.0), TO_TRAIN)
    pleading = plead(rng, attempt, HELD_OUT)
    assert pleading.pleads
    assert grade(question, pleading).level <= grade(question, attempt).level
    remaining = iter(pleading.text)
    assert all(char in remaining for char in attempt.text)


def test_a_group_is_what_the_task_makes_of_these_attempts() -> None:
    attempts = (Attempt("95"), Attempt("9", cut_off=True))
    group = graded(Question("+", 37, 58), attempts).group("x")
    start = opening("37+58", 95)
    assert [message.content for message in group.task] == [(message["content"],) for message in start.messages]
    assert (group.id, group.reference) == ("x", "95")
    assert [rollout.id for rollout in group.rollouts] == ["r0", "r1"]
    assert [rollout.finish_reason for rollout in group.rollouts] == [None, "length"]


def test_no_attempts_are_no_group() -> None:
    with pytest.raises(GroupError, match="empty"):
        graded(Question("+", 37, 58), ()).group("x")
