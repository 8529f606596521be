"""Experiments that nobody ran, with curves as policies have them; equal arguments give equal ones."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from unittest.mock import patch

from benchmarks.head_to_head.arms import Arm, arms_of
from benchmarks.head_to_head.ceiling import Ceiling
from benchmarks.head_to_head.findings import Findings, find
from benchmarks.head_to_head.outcomes import (
    ArmOutcome,
    ArmRun,
    Evaluation,
    Experiment,
    Measured,
    Spent,
    TrainingStep,
)

EVERY = 10
"""Steps from one evaluation to the next."""
_HALF = 12.0
"""Steps after which half of the way is done."""


@dataclass(frozen=True, slots=True)
class Course:
    """Where a policy goes; shares in [0, 1]."""

    truth: float
    well_formed: float = 0.95
    tokens: float = 25.0
    reward: float | None = None
    """At the end; None: as truth."""
    agreement: float | None = 1.0
    spread: float = 0.004
    """Standard deviation of the final truth over seeds, besides that of the start."""
    alarms: bool = False


_START = Course(0.4, 0.6, 26.0)
_NOISY = {
    0.25: Course(0.93),
    0.5: Course(0.93, agreement=0.92),
    1.0: Course(0.91, agreement=0.76, spread=0.03),
    2.0: Course(0.62, agreement=0.64, spread=0.05),
    4.0: Course(0.15, 0.8, agreement=0.57, spread=0.04),
}
_BY_KIND: Mapping[str, Course] = {
    "truth": Course(0.93),
    "rules": Course(0.935, 0.99),
    "judge and rules": Course(0.92, 0.99, reward=1.7, spread=0.03),
    "random": Course(0.03, 0.3, 24.0, reward=0.5, agreement=0.5, spread=0.03),
    "shorter": Course(0.0, 0.0, 1.0, reward=-1.0, agreement=0.4, spread=0.0),
    "format": Course(0.14, 0.99, 25.0, reward=1.0, agreement=0.5, spread=0.03),
    "naive order": Course(0.7, 0.7, 19.0, reward=4.4, agreement=0.75, spread=0.03, alarms=True),
}


def course_of(arm: Arm) -> Course:
    """Where policies go that are trained with this arm."""
    if arm.noise is not None:
        return _NOISY[arm.noise]
    if arm.flip:
        return Course(0.93 - arm.flip / 4, agreement=1 - arm.flip, spread=0.01)
    if arm.section == "slot bias" and arm.kind == "judge":
        return Course(0.91, agreement=0.85, reward=4.0, spread=0.01)
    if arm.kind == "judge":
        return Course(0.93 if arm.orders == 2 else 0.87, agreement=0.97, reward=0.7)
    return _BY_KIND[arm.kind]


def made_up(
    *,
    arms: Sequence[Arm] = arms_of("arithmetic", ("embedded",)),
    seeds: int = 5,
    steps: int = 80,
    failures: Mapping[tuple[str, int], str] | None = None,
    courses: Mapping[str, Course] | None = None,
) -> Experiment:
    """An experiment with these arms.

    Args:
        arms: truth first.
        seeds: how many; the first is 0.
        steps: of training.
        failures: (arm, seed) -> why that run did not come to its end.
        courses: name of an arm -> where its policies go, in place of `course_of`.
    """
    failed, going = failures or {}, courses or {}
    outcomes = []
    for arm in arms:
        why = {seed: failed[arm.name, seed] for seed in range(seeds) if (arm.name, seed) in failed}
        runs = [_run(arm, going.get(arm.name) or course_of(arm), seed, steps) for seed in range(seeds)]
        outcomes.append(ArmOutcome(arm, tuple(run for run in runs if run.seed not in why), why))
    return Experiment(
        task="arithmetic",
        steps=steps,
        seeds=tuple(range(seeds)),
        prompts_per_step=16,
        group_size=8,
        arms=tuple(outcomes),
    )


def _run(arm: Arm, to: Course, seed: int, steps: int) -> ArmRun:
    level = random.Random(f"seed {seed}").gauss(0, 0.03)  # the start that all arms of the seed share
    dice = random.Random(f"{arm.name} {seed}")
    end = min(max(to.truth + dice.gauss(0, to.spread) + level / 4, 0.0), 1.0)
    start = _START.truth + level

    def between(first: float, last: float, step: int) -> float:
        return first + (last - first) * (1 - 0.5 ** (step / _HALF)) / (1 - 0.5 ** (steps / _HALF))

    def measured(step: int, num_problems: int) -> Measured:
        truth = between(start, end, step)
        if 0 < step < steps:  # few problems, so that bands are seen
            truth = min(max(truth + dice.gauss(0, 0.1) * truth * (1 - truth), 0.0), 1.0)
        return Measured(
            num_problems=num_problems,
            truth_sampled=truth,
            truth_greedy=min(1.0, truth * (1.6 if end > 0.5 else 1.2) if step == 0 else truth * 1.06),
            well_formed=between(_START.well_formed + level, to.well_formed, step),
            tokens_mean=between(_START.tokens + level, to.tokens, step),
        )

    def trained(step: int) -> TrainingStep:
        noise = dice.gauss(0, 0.02)
        truth = min(max(between(start, end, step) + noise, 0.0), 1.0)
        reward = truth if to.reward is None else between(to.reward / 2, to.reward, step) + noise
        return TrainingStep(
            step=step,
            reward=reward,
            truth=truth,
            agreement=None if to.agreement is None or step % 17 == 0 else min(to.agreement + noise, 1.0),
            well_formed=between(_START.well_formed, to.well_formed, step),
            tokens_mean=between(_START.tokens, to.tokens, step),
            failed=0,
            tied=int(dice.random() < 0.2),
            alarm=to.alarms and seed == 1 and step == steps // 2,
        )

    asked = 16 * steps * arm.orders if arm.judge is not None else 0
    return ArmRun(
        seed=seed,
        start=measured(0, 2048),
        final=measured(steps, 2048),
        evaluations=tuple(
            Evaluation(step=step, tokens=3200 * step, measured=measured(step, 256))
            for step in range(0, steps + 1, EVERY)
        ),
        steps=tuple(trained(step) for step in range(1, steps + 1)),
        spent=Spent(
            seconds=24.0 + seed,
            stall_seconds=2.0 if asked else 0.0,
            calls=asked - asked // 10,
            cache_hits=asked // 10,
            tokens=900 * asked,
            cost_usd=0.0,
        ),
    )


LONG_ENOUGH = Ceiling(0.4, 0.945, (0.92, 0.96), 32_000.0, 41_000.0, 1.1, ())
TOO_SHORT = Ceiling(
    0.4, None, None, None, None, None, ("The ceiling's interval is 0.14 wide: 0.1 at most.", "5 seeds: 9 needed.")
)


def found(experiment: Experiment, *, margin: float = 0.02, long_enough: Collection[str] = ()) -> Findings:
    """What the experiment shows, but for ceilings: those take seconds, and are said of these arms and no others."""
    with patch("benchmarks.head_to_head.findings.fit_ceiling", lambda curves: TOO_SHORT):
        findings = find(experiment, margin=margin)
    arms = {
        name: replace(one, ceiling=LONG_ENOUGH) if name in long_enough else one for name, one in findings.arms.items()
    }
    return replace(findings, arms=arms)
