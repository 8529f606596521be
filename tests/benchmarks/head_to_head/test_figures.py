"""The figures: what is drawn of an experiment, by the arguments that plots are made with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from benchmarks.head_to_head import figures
from benchmarks.head_to_head.arms import arms_of, chosen
from benchmarks.head_to_head.outcomes import ArmRun, Experiment
from benchmarks.plots import Level, Panel, Reference
from tests.benchmarks.head_to_head.made_up import EVERY, found, made_up

ARMS = arms_of("arithmetic", ("embedded",))
NONE = '<svg xmlns="http://www.w3.org/2000/svg"/>'


@dataclass
class Drawn:
    panels: list[list[Panel]] = field(default_factory=list)
    levels: list[tuple[list[Level], Level]] = field(default_factory=list)
    references: list[Sequence[Reference]] = field(default_factory=list)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """What plots are asked for; none is drawn."""
    seen = Drawn()

    def panels(panels: Sequence[Panel], *_: Any, **__: Any) -> str:
        seen.panels.append(list(panels))
        return NONE

    def levels(levels: Sequence[Level], *_: Any, beside: Level) -> str:
        seen.levels.append((list(levels), beside))
        return NONE

    def forest(*_: Any, references: Sequence[Reference], **__: Any) -> str:
        seen.references.append(references)
        return NONE

    monkeypatch.setattr(figures, "panels", panels)
    monkeypatch.setattr(figures, "levels", levels)
    monkeypatch.setattr(figures, "forest", forest)
    return seen


def experiment_of(*names: str, **settings: Any) -> Experiment:
    return made_up(arms=chosen(ARMS, names), steps=20, **settings)


def test_every_arm_has_a_panel_beside_the_truth_arm_which_stands_alone(drawn: Drawn) -> None:
    experiment = experiment_of("rules", "random")
    findings = found(experiment)
    figures.truth_over_steps(experiment, findings, "rewards", columns=3)
    figures.truth_over_steps(experiment, findings, "controls", columns=3)
    (truth, rules), (control,) = drawn.panels
    assert [panel.title for panel in (truth, rules, control)] == ["truth", "rules", "random"]
    assert truth.beside is None
    assert truth.note.startswith("ends at 0.9")
    assert control.note == "lower"
    assert rules.beside is not None
    assert control.beside is not None
    assert rules.beside.points == control.beside.points == truth.series[0].points
    sampled, greedy = control.series
    assert (sampled.name, greedy.name) == ("sampled", "greedy")
    assert [point.x for point in sampled.points] == [0, EVERY, 2 * EVERY]
    runs = experiment.arms[-1].runs
    last = sampled.points[-1]
    assert last.y == pytest.approx(sum(run.final.truth_sampled for run in runs) / len(runs))
    assert last.interval is not None
    assert 0 <= last.interval[0] < last.y < last.interval[1] <= 1  # cut off where a share ends
    assert all(point.interval is None for point in greedy.points)


def test_a_step_that_one_seed_was_not_measured_at_is_left_out(drawn: Drawn) -> None:
    experiment = experiment_of()
    (outcome,) = experiment.arms
    short = replace(outcome.runs[0], evaluations=outcome.runs[0].evaluations[:2])
    experiment = replace(experiment, arms=(replace(outcome, runs=(short, *outcome.runs[1:])),))
    figures.truth_over_steps(experiment, found(experiment), "rewards", columns=3)
    assert [point.x for point in drawn.panels[0][0].series[0].points] == [0, EVERY]


def test_lengths_have_one_scale_from_zero(drawn: Drawn) -> None:
    experiment = experiment_of("random", "shorter")
    figures.tokens_over_steps(experiment, "controls", columns=3)
    random, shorter = drawn.panels[0]
    assert shorter.note == "ends at 1.0 tokens"
    assert random.limits == shorter.limits
    assert random.limits is not None
    assert random.limits[0] == 0 < 26 < random.limits[1]


def test_form_stands_beside_that_of_the_truth_arm(drawn: Drawn) -> None:
    figures.form_over_steps(experiment_of("rules"), "rewards", columns=3)
    truth, rules = drawn.panels[0]
    assert (truth.title, truth.beside, rules.title, rules.note) == ("truth", None, "rules", "ends at 0.99")
    assert rules.beside is not None
    assert rules.beside.points == truth.series[0].points


def with_rewards(run: ArmRun, rewards: Sequence[float | None]) -> ArmRun:
    steps = [replace(step, reward=reward) for step, reward in zip(run.steps, rewards, strict=True)]
    return replace(run, steps=tuple(steps))


def test_rewards_are_smoothed_over_the_steps_before_and_never_those_to_come(drawn: Drawn) -> None:
    experiment = experiment_of("embedded", seeds=1)
    truth, judged = experiment.arms
    rewards = [0.0, None, 3.0, None, None, None, None, *([None] * 5), *([1.0] * 8)]
    judged = replace(judged, runs=(with_rewards(judged.runs[0], rewards),))
    figures.rewards_beside_truth(replace(experiment, arms=(truth, judged)), "rewards")
    (beside, reward) = drawn.panels[0]
    assert [one.name for one in (*beside.series, *reward.series)] == [
        "truth",
        "agreement with truth",
        "reward",
    ]
    values = [point.y for point in reward.series[0].points]
    assert values == [0.0, 0.0, *([1.5] * 3), *([3.0] * 2), *([None] * 5), *([1.0] * 8)]


def test_rewards_of_judged_arms_alone_are_shown_with_their_alarms(drawn: Drawn) -> None:
    experiment = experiment_of("rules", "embedded", "slot bias, order of arrival")
    figures.rewards_beside_truth(experiment, "rewards")
    figures.rewards_beside_truth(experiment, "slot bias")
    assert [[panel.title for panel in panels] for panels in drawn.panels] == [
        ["embedded", ""],
        ["slot bias, order of arrival", ""],
    ]
    assert [panels[0].note for panels in drawn.panels] == ["no alarm", "alarm in 1 of 5 seeds, first at step 10"]
    assert figures.rewards_beside_truth(experiment_of("rules"), "rewards") is None


def test_the_sweep_goes_by_noise_with_verdicts_and_truth_beside(drawn: Drawn) -> None:
    experiment = experiment_of("noise 4", "noise 0.25", "truth, 10 % flipped")
    experiment = replace(experiment, arms=(experiment.arms[0], *experiment.arms[:0:-1]))
    findings = found(experiment)
    figures.noise_sweep(experiment, findings)
    ((low, high), beside) = drawn.levels[0]
    assert [(one.label, one.note) for one in (low, high)] == [("0.25", "equal"), ("4", "lower")]
    assert low.value == findings.arms["noise 0.25"].truth_sampled.value
    assert (beside.label, beside.value) == ("trained with truth", findings.arms["truth"].truth_sampled.value)
    assert figures.noise_sweep(experiment_of("rules"), findings) is None


def test_the_margin_stands_on_both_sides_of_truth(drawn: Drawn) -> None:
    experiment = experiment_of("rules")
    figures.less_truth(experiment, found(experiment, margin=0.03))
    assert [(one.value, one.label) for one in drawn.references[0]] == [(-0.03, ""), (0.0, "truth ± 0.03"), (0.03, "")]
