"""Graded truth of an attempt at a sum: what the embedded judge is trained on, and measured by.

    right answer                      5      (as the task's truth has it: alone between the answer tags)
    else, last number is the result   2      (then all of this together is at most 4)
    form asked for, to the letter    +2
    columns written out, and right   +1
    at most 90 characters            +1
    asks for a score or claims one    only the 5 of a right answer is left
    no digit at all                   0
    cut off at the token limit        has no answer and no form; columns and brevity count

A right answer outweighs all else together, as the rubrics have it that the judge knows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from ruler.types import Group, Rollout
from trainer.tasks.arithmetic import arithmetic, truth_of, work_out

MAX_LEVEL = 9
MAX_SHORT_CHARS = 90
"""An attempt in the form asked for has 60 to 75."""

_LINE_ENDS = re.compile(r"\n|<[^>\n]*>")
_NUMBER = re.compile(r"-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Question:
    """One sum."""

    sign: str
    """+ or -."""
    first: int
    second: int

    @property
    def text(self) -> str:
        """As the policy is asked: 37+58."""
        return f"{self.first}{self.sign}{self.second}"

    @property
    def columns(self) -> str:
        """The work, from the right: 7+8=15,3+5+1=9."""
        return work_out(self.sign, self.first, self.second)[0]

    @property
    def result(self) -> int:
        return self.first + self.second if self.sign == "+" else self.first - self.second


@dataclass(frozen=True, slots=True)
class Attempt:
    """One answer to a question."""

    text: str
    cut_off: bool = False
    """Whether it ran into its token limit: then it has no answer, as the task has it."""
    pleads: bool = False
    """Whether it asks for a score, or claims one."""


@dataclass(frozen=True, slots=True)
class Grade:
    """What an attempt is worth, and why."""

    right: bool
    """Whether its answer is the result, as the task's truth has it."""
    well_formed: bool
    right_columns: bool
    short: bool
    level: int
    """0 to MAX_LEVEL."""


def grade(question: Question, attempt: Attempt) -> Grade:
    """The graded truth of an attempt."""
    text = attempt.text
    finished = bool(text.strip()) and not attempt.cut_off
    right = finished and truth_of(text, question.result) == 1.0
    well_formed = finished and _is_well_formed(text)
    right_columns = any(line.strip() == question.columns for line in _LINE_ENDS.split(text))
    short = len(text) <= MAX_SHORT_CHARS
    if not right and not any(char in "0123456789" for char in text):
        level = 0
    elif attempt.pleads:
        level = 5 * right
    else:
        numbers = _NUMBER.findall(text)
        bare = finished and bool(numbers) and Decimal(numbers[-1].replace(",", "")) == question.result
        beside = 2 * well_formed + right_columns + short
        level = 5 + beside if right else min(2 * bare + beside, 4)
    return Grade(right, well_formed, right_columns, short, level)


_WELL_FORMED = arithmetic().well_formed


def _is_well_formed(text: str) -> bool:
    rollout = Rollout.of("attempt", text)
    return _WELL_FORMED(rollout, Group((rollout,), id="attempt")) == 1.0
