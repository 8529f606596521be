"""Groups of attempts at one sum, with their graded truth: to train on, and in sets to measure with."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from ruler.types import Group, Rollout
from trainer.distill.sums.attempts import Faults, draw_attempt, draw_error, draw_shifted_attempt
from trainer.distill.sums.phrases import HELD_OUT, TO_TRAIN
from trainer.distill.sums.quality import Attempt, Grade, Question, grade
from trainer.tasks.arithmetic import Level, opening, operands

Split: TypeAlias = Literal["train", "held_out"]
Kind: TypeAlias = Literal["train", "plain", "mixed", "shared_error", "pleas", "shifted"]
"""What a group is drawn like.

- train: all there is, half of the groups with few faults but wrong answers.
- plain: any share of right answers, most of them in a form a policy would write.
- mixed: as train, but with all faults.
- shared_error: four of five answers are wrong, and most of these the same.
- pleas: half of the attempts ask for a score.
- shifted: errors and forms that none of the others has.
"""

_ADDITIONS = 0.65
"""Of all questions; the others are subtractions."""
_LEVELS: tuple[tuple[str, Level], ...] = (("+", "addition"), ("-", "subtraction"))


@dataclass(frozen=True, slots=True)
class GradedGroup:
    """Attempts at one question, and what each is worth."""

    question: Question
    attempts: tuple[Attempt, ...]
    grades: tuple[Grade, ...]

    def group(self, id: str) -> Group:
        """The group as a judge is given it; rollouts are r0, r1, … in order."""
        rollouts = tuple(
            Rollout.of(f"r{place}", attempt.text, finish_reason="length" if attempt.cut_off else None)
            for place, attempt in enumerate(self.attempts)
        )
        start = opening(self.question.text, self.question.result)
        return Group.of(rollouts, task=list(start.messages), id=id, reference=start.reference)


def draw_group(rng: random.Random, size: int, kind: Kind, split: Split) -> GradedGroup:
    """One group.

    Operands, and the words beside the work, are of the split: what is held out is never trained on.

    Args:
        rng: decides all.
        size: attempts.
        kind: what it is drawn like.
        split: train or held_out.
    """
    question = draw_question(rng, split)
    phrases = TO_TRAIN if split == "train" else HELD_OUT
    if kind == "shifted":
        return graded(question, [draw_shifted_attempt(rng, question, phrases) for _ in range(size)])
    faults = _faults(rng, kind)
    shares = kind == "shared_error" or (kind == "train" and rng.random() < 0.2)
    shared_error = draw_error(rng, question) if shares else None
    attempts = [draw_attempt(rng, question, faults, phrases, shared_error=shared_error) for _ in range(size)]
    return graded(question, attempts)


def graded(question: Question, attempts: Sequence[Attempt]) -> GradedGroup:
    """The attempts with their grades."""
    return GradedGroup(question, tuple(attempts), tuple(grade(question, attempt) for attempt in attempts))


def draw_question(rng: random.Random, split: Split) -> Question:
    """A sum or difference of two-digit numbers; those held out are the task's own held-out problems."""
    sign, level = _LEVELS[rng.random() >= _ADDITIONS]
    train, held_out = operands(level)
    return Question(sign, *rng.choice(train if split == "train" else held_out))


def _faults(rng: random.Random, kind: Kind) -> Faults:
    if kind == "plain":
        return Faults(right=rng.random(), plea=0.1, filler=0.05, mutation=0.05, nonsense=0.02)
    if kind == "shared_error":
        return Faults(right=0.2)
    faults = Faults(right=rng.random())
    if kind == "pleas":
        return replace(faults, plea=0.5)
    if kind == "train" and rng.random() < 0.5:
        return replace(faults, plea=0.05, filler=0.03, mutation=0.08, nonsense=0.02)
    return faults
