from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import pytest

from benchmarks.head_to_head.arms import Arm, arms_of, chosen
from benchmarks.head_to_head.findings import Findings, find
from benchmarks.head_to_head.outcomes import Experiment
from tests.benchmarks.head_to_head.made_up import TOO_SHORT, Course, made_up

ARMS = arms_of("arithmetic", ["embedded"])


def findings_of(experiment: Experiment, margin: float = 0.02) -> Findings:
    with patch("benchmarks.head_to_head.findings.fit_ceiling", lambda curves: TOO_SHORT):
        return find(experiment, margin=margin)


def of_noise(*ends: float, spread: float = 0.0) -> Experiment:
    """Arms of rising noise that end so; truth ends at 0.93."""
    arms = [arm for arm in ARMS if arm.noise is not None][: len(ends)]
    courses = {arm.name: Course(end, spread=spread) for arm, end in zip(arms, ends, strict=True)}
    return made_up(arms=(ARMS[0], *arms), steps=20, courses={"truth": Course(0.93, spread=0.0), **courses})


def test_every_arm_is_compared_with_truth_seed_by_seed() -> None:
    experiment = made_up(arms=chosen(ARMS, ["rules", "random"]), steps=20)
    found = findings_of(experiment)
    truth, rules, _ = experiment.arms
    differences = [
        theirs.final.truth_sampled - ours.final.truth_sampled
        for ours, theirs in zip(truth.runs, rules.runs, strict=True)
    ]
    assert found.arms["rules"].less_truth.mean.value == pytest.approx(sum(differences) / 5)
    assert found.arms["rules"].truth_greedy.num_seeds == 5
    assert found.arms["random"].falls
    assert not found.arms["rules"].falls
    assert found.arms["truth"].less_truth.mean.interval == (0.0, 0.0)
    last = [step.agreement for step in rules.runs[0].steps[-10:] if step.agreement is not None]
    everyone = found.arms["rules"].agreement
    assert everyone.num_seeds == 5
    assert everyone.value == pytest.approx(sum(last) / len(last), abs=0.02)


def test_only_seeds_that_both_arms_have_are_compared() -> None:
    experiment = made_up(
        arms=chosen(ARMS, ["rules"]), steps=20, failures={("truth", 0): "stopped", ("rules", 3): "stopped"}
    )
    found = findings_of(experiment).arms["rules"]
    assert found.less_truth.mean.num_seeds == 3
    assert found.truth_sampled.num_seeds == found.change.mean.num_seeds == 4


def test_an_arm_without_runs_has_no_figures() -> None:
    experiment = made_up(
        arms=chosen(ARMS, ["rules"]), seeds=2, steps=20, failures={("rules", 0): "a", ("rules", 1): "b"}
    )
    found = findings_of(experiment).arms["rules"]
    assert (found.truth_sampled.value, found.less_truth.mean.value, found.agreement.value) == (None, None, None)
    assert (found.less_truth.verdict, found.falls, found.num_alarmed) == ("too few seeds", False, 0)


@pytest.mark.parametrize(
    ("ends", "last_equal", "first_lower"),
    [
        ((0.93, 0.93, 0.8, 0.5, 0.2), 0.5, 1.0),
        ((0.93, 0.93, 0.93, 0.93, 0.93), 4.0, None),
        ((0.8, 0.7, 0.6, 0.5, 0.4), None, 0.25),
        # What is equal again after it was lower does not move the first point, and the other begins after it.
        ((0.93, 0.8, 0.93, 0.5, 0.2), 0.25, 2.0),
        ((0.93,), 0.25, None),
    ],
)
def test_where_judges_of_rising_noise_leave_truth(
    ends: tuple[float, ...], last_equal: float | None, first_lower: float | None
) -> None:
    sweep = findings_of(of_noise(*ends)).sweep
    assert sweep is not None
    assert (sweep.last_equal, sweep.first_lower) == (last_equal, first_lower)


def test_what_is_not_shown_is_neither_equal_nor_lower() -> None:
    sweep = findings_of(of_noise(0.92, 0.9, spread=0.05)).sweep
    assert sweep is not None
    assert (sweep.last_equal, sweep.first_lower) == (None, None)


def test_the_study_of_slots_compares_its_two_arms() -> None:
    arms: tuple[Arm, ...] = (ARMS[0], *(arm for arm in ARMS if arm.section == "slot bias"))
    for order in (arms, (arms[0], arms[2], arms[1])):
        found = findings_of(made_up(arms=order, steps=20)).slot_bias
        assert found is not None
        assert (found.truth.verdict, found.tokens.verdict) == ("lower", "lower")
    assert findings_of(made_up(arms=arms[:2], steps=20)).slot_bias is None
    assert findings_of(made_up(arms=arms[:1], steps=20)).sweep is None


def test_the_order_of_arms_after_truth_changes_nothing() -> None:
    experiment = made_up(arms=chosen(ARMS, ["rules", "random", "noise 1"]), steps=20)
    turned = replace(experiment, arms=(experiment.arms[0], *experiment.arms[:0:-1]))
    assert findings_of(turned).arms == findings_of(experiment).arms
