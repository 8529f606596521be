"""What an experiment shows: every arm against truth, against where it began, and how far judges may err."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.head_to_head.arms import TRUTH, Arm
from benchmarks.head_to_head.ceiling import Ceiling, fit_ceiling
from benchmarks.head_to_head.outcomes import ArmOutcome, ArmRun, Experiment
from benchmarks.head_to_head.paired import Mean, Paired, mean_of, paired
from trainer.metrics import known_mean

LAST_STEPS = 10
"""Steps at the end of a run whose mean says what training came to."""


@dataclass(frozen=True, slots=True)
class ArmFindings:
    """One arm; means are over seeds, of the final measurement unless they say otherwise."""

    truth_sampled: Mean
    truth_greedy: Mean
    well_formed: Mean
    tokens_mean: Mean
    less_truth: Paired
    """Sampled truth, less that of the truth arm with the same seed."""
    less_truth_greedy: Paired
    change: Paired
    """Sampled truth, less that of the policy it started from."""
    agreement: Mean
    """Of the last ten steps: share of pairs that the rewards order rightly."""
    reward: Mean
    """Of the last ten steps."""
    num_failed: int
    """Seeds whose run did not come to its end: what is said rests on those that did."""
    num_alarmed: int
    """Seeds in which reward hacking was suspected."""
    ceiling: Ceiling

    @property
    def falls(self) -> bool:
        """Whether the policy is shown to end below where it began."""
        return self.change.verdict == "lower"


@dataclass(frozen=True, slots=True)
class Sweep:
    """Where simulated judges leave the truth arm."""

    last_equal: float | None
    """Most noise up to which, at every level, equality within the margin is shown; None: at no level."""
    first_lower: float | None
    """Least noise from which on, at every level, the arm is shown to end lower; None: at none."""


@dataclass(frozen=True, slots=True)
class SlotBias:
    """The biased judge with rollouts in order of arrival, less the same judge with seeded orders."""

    truth: Paired
    tokens: Paired
    """Of a sampled attempt; its margin is one token."""


@dataclass(frozen=True, slots=True)
class Findings:
    """All of it."""

    margin: float
    """Differences inside of it count as equal."""
    arms: Mapping[str, ArmFindings]
    sweep: Sweep | None
    """None without arms of known noise."""
    slot_bias: SlotBias | None
    """None without both of its arms."""


def find(experiment: Experiment, *, margin: float) -> Findings:
    """What the experiment shows.

    Args:
        experiment: its truth arm comes first.
        margin: differences of truth inside of it count as equal; declared before anything is seen.
    """
    outcomes = {outcome.arm.name: outcome for outcome in experiment.arms}
    arms = {name: _of_arm(outcome, outcomes[TRUTH], margin) for name, outcome in outcomes.items()}
    return Findings(
        margin=margin,
        arms=arms,
        sweep=_sweep([outcome.arm for outcome in experiment.arms], arms),
        slot_bias=_slot_bias(outcomes, margin),
    )


def _of_arm(outcome: ArmOutcome, truth: ArmOutcome, margin: float) -> ArmFindings:
    runs = outcome.runs

    def over_last(read: Callable[[ArmRun], Sequence[float | None]]) -> Mean:
        means = [known_mean(read(run)[-LAST_STEPS:]) for run in runs]
        return mean_of([value for value in means if value is not None])

    return ArmFindings(
        truth_sampled=mean_of([run.final.truth_sampled for run in runs]),
        truth_greedy=mean_of([run.final.truth_greedy for run in runs]),
        well_formed=mean_of([run.final.well_formed for run in runs]),
        tokens_mean=mean_of([run.final.tokens_mean for run in runs]),
        less_truth=paired(_differences(outcome, truth, lambda run: run.final.truth_sampled), margin=margin),
        less_truth_greedy=paired(_differences(outcome, truth, lambda run: run.final.truth_greedy), margin=margin),
        change=paired([run.final.truth_sampled - run.start.truth_sampled for run in runs], margin=margin),
        agreement=over_last(lambda run: [step.agreement for step in run.steps]),
        reward=over_last(lambda run: [step.reward for step in run.steps]),
        num_failed=len(outcome.failures),
        num_alarmed=sum(any(step.alarm for step in run.steps) for run in runs),
        ceiling=fit_ceiling(
            [[(float(one.tokens), one.measured.truth_sampled) for one in run.evaluations] for run in runs]
        ),
    )


def _differences(outcome: ArmOutcome, other: ArmOutcome, value: Callable[[ArmRun], float]) -> list[float]:
    """Of the seeds that both have."""
    theirs = {run.seed: value(run) for run in other.runs}
    return [value(run) - theirs[run.seed] for run in outcome.runs if run.seed in theirs]


def _sweep(arms: Sequence[Arm], found: Mapping[str, ArmFindings]) -> Sweep | None:
    levels = sorted((arm.noise, found[arm.name].less_truth.verdict) for arm in arms if arm.noise is not None)
    if not levels:
        return None
    last_equal, first_lower = None, None
    for noise, verdict in levels:
        if verdict != "equal":
            break
        last_equal = noise
    for noise, verdict in reversed(levels):
        if verdict != "lower":
            break
        first_lower = noise
    return Sweep(last_equal, first_lower)


def _slot_bias(outcomes: Mapping[str, ArmOutcome], margin: float) -> SlotBias | None:
    sides: dict[str, ArmOutcome] = {
        outcome.arm.kind: outcome for outcome in outcomes.values() if outcome.arm.section == "slot bias"
    }
    if len(sides) < 2:
        return None
    seeded, arrival = sides["judge"], sides["naive order"]
    return SlotBias(
        truth=paired(_differences(arrival, seeded, lambda run: run.final.truth_sampled), margin=margin),
        tokens=paired(_differences(arrival, seeded, lambda run: run.final.tokens_mean), margin=1.0),
    )
