from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruler.types import Group, Rollout
from trainer.environments import Problem
from trainer.tasks import Demonstration
from trainer.tasks.arithmetic import Level, Sum, arithmetic

pytestmark = pytest.mark.slow

LEVELS = get_args(Level)
PERFECT = "<reasoning>\n7+8=15,3+5+1=9\n</reasoning>\n<answer>\n95\n</answer>\n"

levels = pytest.mark.parametrize("level", LEVELS)
problems = st.tuples(st.sampled_from(LEVELS), st.booleans(), st.integers(0, 1999)).map(
    lambda drawn: (arithmetic(drawn[0]).held_out if drawn[1] else arithmetic(drawn[0]).train)[drawn[2]]
)


def question(problem: Problem) -> str:
    environment = problem()
    assert isinstance(environment, Sum)
    return environment.question


def operands(text: str) -> tuple[int, str, int]:
    found = re.fullmatch(r"(\d+)([+-])(\d+)", text)
    assert found, text
    return int(found[1]), found[2], int(found[3])


def result(text: str) -> int:
    first, sign, second = operands(text)
    return first + second if sign == "+" else first - second


def truth(problem: Problem, text: str) -> float | None:
    environment = problem()
    asyncio.run(environment.reset())
    step = asyncio.run(environment.step({"role": "assistant", "content": text}))
    assert step.done
    assert not step.messages
    return environment.truth()


def reward(text: str, reference: str = "95") -> dict[str, float]:
    group = Group.of([text], task="37+58", reference=reference)
    (of_rollout,) = arithmetic().rules.combine(group, None).rollouts
    return {"reward": of_rollout.reward or 0.0, **of_rollout.parts}


def demonstrated(demonstration: Demonstration) -> tuple[str, str]:
    (message,) = demonstration.messages
    assert message["role"] == "assistant"
    assert demonstration.start.reference == str(result(demonstration.start.messages[1]["content"]))
    return demonstration.start.messages[1]["content"], message["content"]


# --- Problems ---


@given(problem=problems)
def test_the_reference_is_the_result_and_saying_so_is_right(problem: Problem) -> None:
    start = asyncio.run(problem().reset())
    assert [message["role"] for message in start.messages] == ["system", "user"]
    assert start.messages[1]["content"] == question(problem)
    right = result(question(problem))
    assert start.reference == str(right)
    assert right >= 0
    assert truth(problem, f"<answer>\n{right}\n</answer>") == 1.0
    assert truth(problem, f"<answer>\n{right + 1}\n</answer>") == 0.0


@levels
def test_held_out_sums_are_not_trained_on_nor_are_their_mirror_images(level: Level) -> None:
    task = arithmetic(level)
    train, held_out = ([operands(question(problem)) for problem in part] for part in (task.train, task.held_out))
    assert len(held_out) >= 2000
    assert len(train) >= 2000
    for part in (train, held_out):
        assert len(set(part)) == len(part)
    mirrored = {frozenset((first, second)) for first, _, second in held_out}
    assert not mirrored & {frozenset((first, second)) for first, _, second in train}
    low, high, sign = (100, 999, "+") if level == "three_digits" else (10, 99, "-" if level == "subtraction" else "+")
    for first, found, second in train + held_out:
        assert low <= first <= high
        assert low <= second <= high
        assert found == sign


@levels
def test_all_problems_are_the_same_in_every_process(level: Level) -> None:
    task = arithmetic(level)
    arithmetic.cache_clear()
    again = arithmetic(level)
    for part, same in ((task.train, again.train), (task.held_out, again.held_out)):
        assert [question(problem) for problem in part[:50]] == [question(problem) for problem in same[:50]]


def test_problems_are_a_sequence() -> None:
    train = arithmetic().train
    assert question(train[-1]) == question(train[len(train) - 1])
    assert [question(problem) for problem in train[3:6]] == [question(train[place]) for place in (3, 4, 5)]
    with pytest.raises(IndexError):
        train[len(train)]


def test_levels_go_by_different_names() -> None:
    assert [arithmetic(level).name for level in LEVELS] == [
        "arithmetic",
        "arithmetic_subtraction",
        "arithmetic_three_digits",
    ]


# --- Truth ---


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (PERFECT, 1.0),
        ("<answer>95</answer>", 1.0),
        ("I think <answer>\n95\n</answer> it is", 1.0),
        ("<answer>095</answer>", 1.0),
        ("<answer> 95. </answer>", 1.0),
        ("<answer>96</answer><answer>95</answer>", 1.0),
        ("<answer>95</answer><answer>96</answer>", 0.0),
        ("<answer>-95</answer>", 0.0),
        ("<answer>95 apples</answer>", 0.0),
        ("<answer>9 5</answer>", 0.0),
        ("<answer>\n95\n", 0.0),
        ("95\n</answer>", 0.0),
        ("<answer></answer>", 0.0),
        ("95", 0.0),
        ("", 0.0),
    ],
)
def test_truth_is_the_number_in_the_answer_tags(text: str, right: float) -> None:
    assert truth(lambda: Sum("+", 37, 58), text) == right


def test_an_attempt_that_was_cut_off_is_not_right() -> None:
    environment = Sum("+", 37, 58)
    asyncio.run(environment.reset())
    assert environment.truth() == 0.0


# --- Rules ---


@pytest.mark.parametrize(
    "text", [PERFECT, PERFECT.rstrip(), PERFECT.replace("15,", "15\n"), PERFECT.replace("95", "95.0")]
)
def test_a_perfect_answer_gets_all_of_the_rubric(text: str) -> None:
    assert reward(text)["reward"] == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (PERFECT.replace("95", "96"), (0.0, 0.5, 0.5, 0.5, 0.5)),
        (PERFECT.replace("95", "x"), (0.0, 0.0, 0.5, 0.5, 0.5)),
        (PERFECT.replace("\n", ""), (2.0, 0.5, 0.0, 0.5, 0.5)),
        ("<answer>\n95\n</answer>\n", (2.0, 0.5, 0.0, 0.0, 0.25)),
        (PERFECT.replace("</reasoning>\n", ""), (2.0, 0.5, 0.0, 0.0, 0.375)),
        (PERFECT.replace("</answer>\n", ""), (0.0, 0.0, 0.0, 0.0, 0.375)),
        (f"{PERFECT}95\n", (2.0, 0.5, 0.0, 0.5, 0.5 - 0.003)),
        ("7+8=15,3+5+1=9\n95\n", (0.0, 0.0, 0.0, 0.0, 0.0)),
        ("", (0.0, 0.0, 0.0, 0.0, 0.0)),
    ],
)
def test_each_fault_costs_its_part_of_the_rubric(text: str, parts: tuple[float, ...]) -> None:
    found = reward(text)
    assert [found[name] for name in ("correct", "integer", "strict", "soft", "tags")] == pytest.approx(parts)
    assert found["reward"] == pytest.approx(sum(parts))


def test_well_formed_is_the_strict_form() -> None:
    for text, expected in ((PERFECT, 1.0), (PERFECT.replace("95", "96"), 1.0), (PERFECT.replace("\n", ""), 0.0)):
        rollout = Rollout.of("r1", text)
        assert arithmetic().well_formed(rollout, Group.of([rollout], task="37+58")) == expected


# --- Demonstrations ---


@given(level=st.sampled_from(LEVELS), seed=st.integers(0, 10**6))
def test_clean_demonstrations_are_right_in_every_column_and_perfect_in_form(level: Level, seed: int) -> None:
    task = arithmetic(level)
    assert task.tiny
    asked, text = demonstrated(task.tiny.clean(random.Random(seed)))
    first, sign, second = operands(asked)
    assert reward(text, str(result(asked)))["reward"] == pytest.approx(4.0)
    columns = text.split("\n")[1].split(",")
    assert len(columns) == len(str(first))
    for place, column in enumerate(columns):
        work, _, total = column.partition("=")
        terms = re.findall(r"-?\d+", work)
        assert sum(map(int, terms)) == int(total)
        upper, lower = (int(str(number)[-1 - place]) for number in (first, second))
        assert int(terms[0]) in ((upper,) if sign == "+" else (upper, upper + 10))
        assert abs(int(terms[1])) == lower
        assert terms[2:] in ([], ["1" if sign == "+" else "-1"])
    digits = [column.partition("=")[2] for column in columns]
    assert int(digits[-1] + "".join(digit[-1] for digit in reversed(digits[:-1]))) == result(asked)


@levels
def test_demonstrations_are_of_sums_to_train_on_and_made_of_the_words(level: Level) -> None:
    task = arithmetic(level)
    assert task.tiny
    train = {question(problem) for problem in task.train}
    words = re.compile("|".join(re.escape(word) for word in sorted(task.tiny.words, key=len, reverse=True)))
    rng = random.Random(0)
    for draw in (task.tiny.clean, task.tiny.habits):
        for _ in range(500):
            asked, text = demonstrated(draw(rng))
            assert asked in train
            assert "".join(words.findall(text)) == text
            assert len(words.findall(text)) < task.max_turn_tokens < task.tiny.context_tokens - len(f"Q: {asked}\n")


@levels
def test_habits_have_faults_that_are_systematic_and_can_be_cured(level: Level) -> None:
    """More than half of the carries are forgotten, where slips alone would leave nine of ten such sums right."""
    tiny = arithmetic(level).tiny
    assert tiny
    rng = random.Random(0)
    num_right: Counter[bool] = Counter()
    num_whole: Counter[bool] = Counter()
    num_perfect = 0
    for _ in range(4000):
        asked, text = demonstrated(tiny.habits(rng))
        found = re.search(r"<answer>\n?(\d+)\n?</answer>", text)
        first, sign, second = operands(asked)
        carries = first % 10 + second % 10 > 9 if sign == "+" else first % 10 < second % 10
        num_perfect += reward(text, str(result(asked)))["strict"] > 0
        if found:
            num_whole[carries] += 1
            num_right[carries] += int(found[1]) == result(asked)
    assert 0.55 < num_perfect / 4000 < 0.65
    assert 0.25 < num_right[True] / num_whole[True] < 0.55
    assert num_right[False] / num_whole[False] > (0.6 if level == "three_digits" else 0.85)


def test_the_same_seed_draws_the_same_demonstrations() -> None:
    tiny = arithmetic().tiny
    assert tiny
    for draw in (tiny.clean, tiny.habits):
        drawn = [[demonstrated(draw(rng)) for _ in range(20)] for rng in (random.Random(3), random.Random(3))]
        assert drawn[0] == drawn[1]
        assert len(set(drawn[0])) > 15
