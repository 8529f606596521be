"""From graded groups to rows of tokens with all that a student is to say about them.

A student reads what the embedded judge reads (`judges.embedded_words`). Beside the level of each rollout it is asked,
in training alone, what it must find out on the way there: with the levels alone it takes several times as long.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from judges.embedded_words import CUT_OFF, PATTERN, Words
from judges.like_length import like_length
from trainer.distill.sums.groups import GradedGroup, draw_group, draw_question
from trainer.distill.sums.quality import Attempt, Question
from trainer.tasks.arithmetic import truth_of

_WORD = re.compile(PATTERN)

NUM_REASONS = 5
"""Of a rollout: right, well formed, right columns, short, pleads."""


@dataclass(frozen=True, slots=True)
class Row:
    """One text to learn from. Places are places in `tokens`."""

    tokens: tuple[int, ...]
    own: slice
    """Where the judge's own solution stands, which it has to write itself."""
    levels: tuple[tuple[int, int], ...]
    """Place of each rollout's closing token, and the rollout's level."""
    reasons: tuple[tuple[float, ...], ...]
    """For each of these NUM_REASONS answers, 1.0 or 0.0."""
    answers: tuple[tuple[int, float], ...]
    """Place of each `</answer>`, and whether the answer is right so far."""
    prefixes: tuple[tuple[int, float, float], ...]
    """Place of each character of a line, and whether the line so far begins the right columns, and the right result."""


def row_of(words: Words, question: Question, attempts: Sequence[tuple[Attempt, int, Sequence[bool]]]) -> Row:
    """The row of a question and some attempts, each with its level and its reasons."""
    tokens = words.question(question.text)
    first = len(tokens)
    tokens += words.own(question.columns, question.result)
    own = slice(first, len(tokens))
    levels, reasons, answers, prefixes = [], [], [], []
    columns, result = question.columns, str(question.result)
    for attempt, level, why in attempts:
        start = len(tokens) + 1
        shown = shown_text(attempt)
        rollout = words.rollout(shown)
        tokens += rollout
        line, so_far = "", ""
        # The marks of a packed prompt are words of their own at the end of a rollout: nothing is asked about them.
        for place, word in enumerate(_WORD.findall(attempt.text), start):
            so_far += word
            if word == "</answer>":
                answers.append((place, truth_of(so_far, question.result)))
            if len(word) > 1 or word == "\n":
                line = ""
            else:
                line += word
                prefixes.append((place, float(columns.startswith(line)), float(result.startswith(line))))
        levels.append((len(tokens) - 1, level))
        reasons.append(tuple(float(reason) for reason in why))
    return Row(tuple(tokens), own, tuple(levels), tuple(reasons), tuple(answers), tuple(prefixes))


def shown_text(attempt: Attempt) -> str:
    """What a packed prompt shows of the attempt between its fences."""
    text = attempt.text or "[assistant] (empty)"
    return f"{text}\n{CUT_OFF}" if attempt.cut_off else text


def rows_of(words: Words, group: GradedGroup, *, together: bool) -> list[Row]:
    """One row with all attempts of the group, or one row for each."""
    attempts = [
        (
            attempt,
            found.level,
            (found.right, found.well_formed, found.right_columns, found.short, attempt.pleads),
        )
        for attempt, found in zip(group.attempts, group.grades, strict=True)
    ]
    if together:
        return [row_of(words, group.question, attempts)]
    return [row_of(words, group.question, [attempt]) for attempt in attempts]


def questions(words: Words, rng: random.Random, *, batch_size: int) -> Iterator[list[Row]]:
    """Batches of bare questions, without end."""
    while True:
        yield [row_of(words, draw_question(rng, "train"), ()) for _ in range(batch_size)]


def batches(
    words: Words, rng: random.Random, *, max_tokens: int, max_rollouts: int, together: bool
) -> Iterator[list[Row]]:
    """Batches of graded groups of 1 to `max_rollouts` attempts, without end.

    Rows of one batch are of like length: padding is read, too, and one long row among short ones would cost as much as
    all of them.
    """
    while True:
        rows: list[Row] = []
        num_tokens = 0
        while num_tokens < _POOL_BATCHES * max_tokens:
            group = draw_group(rng, rng.randint(1, max_rollouts), "train", "train")
            more = rows_of(words, group, together=together)
            num_tokens += sum(len(row.tokens) for row in more)
            rows += more
        drawn = list(like_length(rows, lambda row: len(row.tokens), max_tokens))
        rng.shuffle(drawn)
        yield from drawn


_POOL_BATCHES = 12
"""So many are drawn together, to find rows of like length."""
