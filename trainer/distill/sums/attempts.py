"""Attempts at sums, drawn with the faults that a policy in training has, and with some that none has had so far.

What an attempt is worth is read from its text afterwards (`quality.grade`); nothing here knows it.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from trainer.distill.sums.phrases import Phrases
from trainer.distill.sums.quality import Attempt, Question
from trainer.tasks.arithmetic import work_out


@dataclass(frozen=True, slots=True)
class Faults:
    """How often what goes wrong. All are probabilities."""

    right: float = 0.5
    """That the answer is right, before anything is done to the form."""
    form: float = 0.35
    """Of a fault of form, such as a tag left out."""
    notation: float = 0.1
    """Of another way to write the answer: 095, 95.0, "95 apples"."""
    several: float = 0.05
    """Of a second answer."""
    filler: float = 0.15
    plea: float = 0.12
    mutation: float = 0.2
    """Of a few words changed, dropped, moved or doubled at random."""
    nonsense: float = 0.06
    """Of no attempt at all."""
    cut_off: float = 0.03


def draw_attempt(
    rng: random.Random, question: Question, faults: Faults, phrases: Phrases, *, shared_error: int | None = None
) -> Attempt:
    """One attempt.

    Args:
        rng: decides all.
        question: what was asked.
        faults: how often what goes wrong.
        phrases: words beside the work.
        shared_error: a wrong result that eight of ten wrong attempts give; None: each errs by itself.
    """
    if rng.random() < faults.nonsense:
        return Attempt(_nonsense(rng), cut_off=rng.random() < 0.3)
    columns, answer = question.columns, str(question.result)
    if rng.random() >= faults.right:
        columns, answer = _err(rng, question)
        if shared_error is not None and rng.random() < 0.8:
            answer = str(shared_error)
    elif rng.random() < 0.25:
        # Right in the end, with work that does not hold.
        columns = _other_digit(rng, columns) if rng.random() < 0.7 else work_out(*_parts(question), rng)[0]
    if rng.random() < faults.notation:
        answer = rng.choice(_NOTATIONS).format(answer)
    text = _written(columns, answer)
    if rng.random() < 0.1:
        text = text.removesuffix("\n")
    if rng.random() < faults.form:
        text = _deform(rng, text, columns, answer)
    if rng.random() < faults.several:
        other = _err(rng, question)[1] if rng.random() < 0.6 else str(question.result)
        extra = f"<answer>\n{other}\n</answer>\n"
        text = text + extra if rng.random() < 0.6 else extra + text
    if rng.random() < faults.filler:
        text = _insert(rng, text, phrases.filler(rng))
    attempt = Attempt(text)
    if rng.random() < faults.plea:
        attempt = plead(rng, attempt, phrases)
    elif rng.random() < faults.mutation:
        attempt = Attempt(_mutate(rng, text))
    return _cut_off(rng, attempt) if rng.random() < faults.cut_off else attempt


def draw_shifted_attempt(rng: random.Random, question: Question, phrases: Phrases) -> Attempt:
    """An attempt with errors and forms that `draw_attempt` never has, by which nothing may be trained.

    Wrong results are small misses, other operations or one digit said twice; forms are those of other habits, such as
    tags in capitals, Markdown, or a word of doubt.
    """
    right = question.result
    columns, answer = question.columns, str(right)
    if rng.random() < 0.5:
        wrong = (
            *(right + miss for miss in (3, -3, 4, -4, 5, -5, 7, -8)),
            *(question.first * question.second % 200, 2 * right, abs(100 - right), int(f"{answer[0]}{answer}")),
        )
        answer = str(rng.choice([result for result in wrong if result >= 0 and result != right]))
        if rng.random() < 0.5:
            columns = ",".join(reversed(columns.split(",")))
    text = _written(columns, answer)
    if rng.random() < 0.4:
        text = rng.choice(_SHIFTS)(text, columns, answer)
    if rng.random() < 0.1:
        text = _insert(rng, text, phrases.filler(rng))
    attempt = Attempt(text)
    return plead(rng, attempt, phrases) if rng.random() < 0.1 else attempt


def plead(rng: random.Random, attempt: Attempt, phrases: Phrases) -> Attempt:
    """The attempt with a plea somewhere in it."""
    return replace(attempt, text=_insert(rng, attempt.text, phrases.plea(rng)), pleads=True)


def draw_error(rng: random.Random, question: Question) -> int:
    """A wrong result, as one who errs would have it."""
    return int(_err(rng, question)[1])


# Wrong results


def _parts(question: Question) -> tuple[str, int, int]:
    return question.sign, question.first, question.second


def _err(rng: random.Random, question: Question) -> tuple[str, str]:
    """Columns and a wrong result; the columns may show the error, hide it, or have one of their own."""
    kind = rng.random()
    if kind < 0.35:
        for _ in range(6):
            columns, answer = work_out(*_parts(question), rng)
            if int(answer) != question.result:
                return columns, answer
    result = _other_result(rng, question, kind)
    if result == question.result or result < 0:
        result = question.result + rng.randint(1, 3)
    way = rng.random()
    columns = question.columns
    if 0.45 <= way < 0.75:
        columns = _other_digit(rng, columns)
    elif way >= 0.75:
        columns, _ = work_out(*_parts(question), rng)
    return columns, str(result)


def _other_result(rng: random.Random, question: Question, kind: float) -> int:
    right = question.result
    if kind < 0.55:
        return right + rng.choice((-1, 1, -10, 10, 9, -9, 11, -11, 100, 2, -2))
    if kind < 0.7:
        return int(_other_digit(rng, str(right)))
    if kind < 0.78:
        return question.first - question.second if question.sign == "+" else question.first + question.second
    if kind < 0.86:
        return int(str(right)[::-1])
    if kind < 0.93:
        return rng.randrange(199)
    return int(f"{right}{rng.randrange(10)}") if rng.random() < 0.5 else int(str(right)[:-1] or "0")


def _other_digit(rng: random.Random, text: str) -> str:
    """The text with one digit drawn anew."""
    place = rng.choice([found.start() for found in re.finditer(r"\d", text)])
    return f"{text[:place]}{rng.randrange(10)}{text[place + 1 :]}"


_Shift: TypeAlias = Callable[[str, str, str], str]
_SHIFTS: tuple[_Shift, ...] = (
    lambda text, columns, answer: text.replace("answer>", "ANSWER>"),
    lambda text, columns, answer: f"**{columns}**\n\n**Answer: {answer}**\n",
    lambda text, columns, answer: f"```\n{text}```\n",
    lambda text, columns, answer: text.replace("reasoning>", "think>"),
    lambda text, columns, answer: text.replace(",", ", ").replace("=", " = "),
    lambda text, columns, answer: text.replace(columns, f"{columns}?? {columns}"),
    lambda text, columns, answer: f"{{'answer': {answer}}}\n",
    lambda text, columns, answer: text.replace(f"\n{answer}\n", f"\n{answer}\n{answer}\n"),
)
"""Text, its columns and its answer -> another form of it."""


# Form

_NOTATIONS = ("{}.", "0{}", " {} ", "{}.0", "+{}", "{} apples", "= {}", "${}", "{}%", "x={}", "{} ", "-{}", "{},")
_WORDS: tuple[str, ...] = (
    *string.digits,
    "+",
    "-",
    "=",
    ",",
    "\n",
    "Q: ",
    "<reasoning>",
    "</reasoning>",
    "<answer>",
    "</answer>",
)
"""Those of the task's tiny policy."""
_WORD = re.compile(r"</?(?:reasoning|answer)>|Q: |.", re.DOTALL)
_MAX_CHARS = 400


def _written(columns: str, answer: str) -> str:
    return f"<reasoning>\n{columns}\n</reasoning>\n<answer>\n{answer}\n</answer>\n"


def _deform(rng: random.Random, text: str, columns: str, answer: str) -> str:
    fault = rng.random()
    if fault < 0.25:
        return text.replace("\n", "")
    if fault < 0.42:
        return f"<answer>\n{answer}\n</answer>\n"
    if fault < 0.50:
        return text.replace("<answer>\n", "")
    if fault < 0.58:
        return text.replace("</reasoning>\n", "")
    if fault < 0.66:
        return text.replace("</answer>\n", "")
    if fault < 0.74:
        return f"{columns}\n{answer}\n"
    if fault < 0.80:
        return f"{text}{answer}\n"
    if fault < 0.84:
        return answer
    if fault < 0.88:
        return text.replace("<reasoning>\n", "")
    if fault < 0.92:
        return f"<answer>\n{answer}\n</answer>\n<reasoning>\n{columns}\n</reasoning>\n"
    if fault < 0.96:
        return text.replace("\n", "\n" * rng.randint(2, 3), rng.randint(1, 6))
    return text.replace("<reasoning>", "").replace("</reasoning>", "")


def _insert(rng: random.Random, text: str, words: str) -> str:
    """The text with words after it, before it, in one of its sections, or just anywhere."""
    way = rng.random()
    for most, tag, instead in (
        (0.15, "</reasoning>", f"{words}\n</reasoning>"),
        (0.3, "<reasoning>\n", f"<reasoning>\n{words}\n"),
        (0.4, "</answer>", f"{words}\n</answer>"),
    ):
        if most - 0.15 <= way < most and tag in text:
            return text.replace(tag, instead, 1)
    if way < 0.55:
        return f"{words}\n{text}"
    if way < 0.65:
        place = rng.randint(0, len(text))
        return text[:place] + words + text[place:]
    return text + words + "\n" * (rng.random() < 0.7)


def _mutate(rng: random.Random, text: str) -> str:
    words: list[str] = _WORD.findall(text)
    for _ in range(rng.randint(1, 4)):
        way, place = rng.random(), rng.randrange(len(words) + 1)
        if way < 0.3 and words:
            words[place - 1] = rng.choice(_WORDS)
        elif way < 0.55:
            words.insert(place, rng.choice(_WORDS))
        elif way < 0.75 and words:
            del words[place - 1]
        elif way < 0.85 and words:
            words[place:place] = words[place : place + rng.randint(1, 8)]
        elif way < 0.92 and len(words) > 1:
            first = rng.randrange(len(words) - 1)
            words[first], words[first + 1] = words[first + 1], words[first]
        else:
            words = words[: max(1, place)] if rng.random() < 0.5 else words[max(0, place - 1) :]
    return "".join(words)[:_MAX_CHARS]


def _cut_off(rng: random.Random, attempt: Attempt) -> Attempt:
    words = _WORD.findall(attempt.text)
    # A plea stays whole: of half of one it is not clear whether it is one.
    shortens = bool(words) and not attempt.pleads and rng.random() < 0.7
    kept = rng.randint(1, len(words)) if shortens else len(words)
    return replace(attempt, text="".join(words[:kept]), cut_off=True)


def _nonsense(rng: random.Random) -> str:
    way, length = rng.random(), rng.randint(1, 40)
    if way < 0.35:
        return "".join(rng.choice(_WORDS) for _ in range(length))
    if way < 0.55:
        return rng.choice(_WORDS) * length
    if way < 0.7:
        return "".join(rng.choice(_WORDS) for _ in range(rng.randint(2, 5))) * rng.randint(2, 10)
    if way < 0.8:
        return "".join(rng.choice(string.ascii_lowercase + "    ,.") for _ in range(length))
    if way < 0.9:
        return ""
    return _written(
        "".join(rng.choice("0123456789+=,") for _ in range(length)),
        "".join(rng.choice(string.digits) for _ in range(rng.randint(1, 5))),
    )
