"""What came of an experiment: each policy before, while and after it was trained. Plain numbers, for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.head_to_head.arms import Arm
from trainer.tasks.bundled import TaskName


@dataclass(frozen=True, slots=True)
class Measured:
    """A policy on problems that it was not trained on; shares in [0, 1]."""

    num_problems: int
    truth_sampled: float
    """Mean truth at temperature 1."""
    truth_greedy: float
    well_formed: float
    """Of the sampled attempts."""
    tokens_mean: float
    """Of a sampled attempt."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A policy in the middle of its training, on the first of these problems."""

    step: int
    """Steps done; 0 is the start."""
    tokens: int
    """That had been sampled for training until then."""
    measured: Measured


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """One step, on the problems of training; means over its rollouts, None where there is nothing to average."""

    step: int
    """The first is 1."""
    reward: float | None
    truth: float | None
    agreement: float | None
    """Share of the pairs of a group, of different truth, that the rewards order rightly."""
    well_formed: float | None
    tokens_mean: float | None
    failed: int
    """Groups without rewards."""
    tied: int
    alarm: bool
    """Whether reward hacking was suspected at this step."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What a run took. It depends on the machine, on interruptions, and on what is in a cache."""

    seconds: float
    """Of its steps."""
    stall_seconds: float
    """Of these, waiting for rewards alone."""
    calls: int
    """To the judge."""
    cache_hits: int
    tokens: int
    """Of the judge, in and out."""
    cost_usd: float | None
    """None when a price is not known."""


@dataclass(frozen=True, slots=True)
class ArmRun:
    """One policy trained with one reward."""

    seed: int
    start: Measured
    """The policy that all arms of the seed start from."""
    final: Measured
    evaluations: tuple[Evaluation, ...]
    steps: tuple[TrainingStep, ...]
    spent: Spent


@dataclass(frozen=True, slots=True)
class ArmOutcome:
    """All runs of an arm."""

    arm: Arm
    runs: tuple[ArmRun, ...]
    """By seed; those that came to their end."""
    failures: Mapping[int, str]
    """Seed -> why its run did not."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """Everything; the truth arm comes first."""

    task: TaskName
    steps: int
    seeds: tuple[int, ...]
    prompts_per_step: int
    group_size: int
    arms: tuple[ArmOutcome, ...]
