"""What there is to learn: problems to train on, others to be measured on, and how people would reward an attempt."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ruler.rewards import Rewards
from ruler.rubric import Rubric
from ruler.rules import Check
from trainer.environments import ChatMessage, Problem, Start


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One attempt to be imitated."""

    start: Start
    messages: tuple[ChatMessage, ...]
    """What follows: turns of the assistant, and what the environment says between them."""


@dataclass(frozen=True, slots=True)
class TinyPolicy:
    """What a task's tiny policy is made of, and what it imitates before it is trained by rewards.

    The skill has to be there first; rewards then change habits. So it imitates `clean` until it can do the task, and
    `habits` for a while after that.
    """

    words: tuple[str, ...]
    """The vocabulary: each is one token. Longer ones win."""
    chat_template: str
    """Jinja, as tokenizers have it."""
    context_tokens: int
    clean: Callable[[random.Random], Demonstration]
    """Draws an attempt without faults, of problems that are not held out."""
    habits: Callable[[random.Random], Demonstration]
    """Draws an attempt with the faults that rewards are to cure."""

    batch_size: int = 32
    """Demonstrations in a step of imitation."""
    skill: float = 0.9
    """It imitates `clean` until so much of what it does greedily on problems of `train` is right, by truth."""
    max_clean_steps: int = 2000
    """Steps after which a policy without that skill is an error."""
    clean_learning_rate: float = 3e-3
    habit_steps: int = 100
    """Steps on `habits`: more of them make it surer of its faults."""
    habit_learning_rate: float = 1e-3
    """At the first of them, falling to a tenth at the last: lower, so that the skill stays."""


@dataclass(frozen=True, slots=True)
class Task:
    """One task: its problems, and the handwritten rewards and the judge's rubric for it."""

    name: str
    train: Sequence[Problem]
    held_out: Sequence[Problem]
    """For measuring only; none of them is among those of `train`."""
    rules: Rewards
    """The handwritten rubric, for rules alone (`judge_weight=0.0`)."""
    rubric: Rubric
    """What the judge is told to value."""
    well_formed: Check
    """1.0 for a rollout of the form that the task asks for: its mean is the format share."""
    max_turn_tokens: int
    """Most tokens the policy may write in one turn."""
    max_turns: int
    tiny: TinyPolicy | None = None
