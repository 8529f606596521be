"""The figures of the report: what each arm came to, held-out curves, rewards beside truth, the sweep of noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.head_to_head.arms import TRUTH, Section
from benchmarks.head_to_head.findings import Findings
from benchmarks.head_to_head.outcomes import ArmOutcome, ArmRun, Experiment, Measured, TrainingStep
from benchmarks.head_to_head.paired import mean_of
from benchmarks.head_to_head.wording import DECIMALS, amount_of, as_share, counted, margin_text, verdict_of
from benchmarks.number_text import fixed, plain
from benchmarks.plots import ForestRow, Level, Panel, Point, Reference, Series, forest, levels, panels
from benchmarks.report import Figure
from trainer.metrics import known_mean

SMOOTHED = 5
"""Steps of training in a mean that is drawn: that step and those before it."""
SECTIONS: dict[Section, str] = {
    "rewards": "Rewards",
    "noise": "Truth with noise",
    "controls": "Controls",
    "slot bias": "A judge that favours early slots",
}
"""What the sections of arms are called, in order."""
_SHARE = (-0.02, 1.02)
_SAMPLED, _GREEDY, _TRUTH_ARM = "sampled", "greedy", "sampled, trained with truth"


def less_truth(experiment: Experiment, findings: Findings) -> Figure:
    """Final truth of every arm, less that of the truth arm, beside the margin."""
    rows = [
        ForestRow(
            outcome.arm.name,
            found.less_truth.mean.value,
            found.less_truth.mean.interval,
            group=SECTIONS[outcome.arm.section],
        )
        for outcome in experiment.arms
        if outcome.arm.name != TRUTH
        for found in [findings.arms[outcome.arm.name]]
    ]
    margin = findings.margin
    references = [Reference(-margin), Reference(0.0, f"truth ± {margin_text(margin)}"), Reference(margin)]
    drawing = forest(
        rows, "held-out truth, less that of the truth arm", references=references, decimals=DECIMALS, signed=True
    )
    return Figure(
        "less-truth",
        drawing,
        "For each arm the difference of its final truth to that of the truth arm, with its interval; the table has the "
        "figures",
        "Sampled truth at the end, less that of the truth arm with the same seed; lines are 95 % intervals over seeds. "
        "Equal is said of an interval that lies between the outer dotted lines.",
    )


def truth_over_steps(experiment: Experiment, findings: Findings, section: Section, *, columns: int) -> Figure:
    """Held-out truth of each arm of a section, sampled and greedy, beside that of the truth arm."""
    truth = _over_evaluations(experiment.arms[0].runs, lambda one: one.truth_sampled, is_share=True)
    drawn = []
    for outcome in _of_section(experiment, section):
        is_truth = outcome.arm.name == TRUTH
        found = findings.arms[outcome.arm.name]
        sampled = _over_evaluations(outcome.runs, lambda one: one.truth_sampled, is_share=True)
        greedy = _over_evaluations(outcome.runs, lambda one: one.truth_greedy, is_share=True)
        note = f"ends at {amount_of(as_share(found.truth_sampled), decimals=2)}"
        drawn.append(
            Panel(
                outcome.arm.name,
                note if is_truth else verdict_of(found.less_truth, margin_text(findings.margin)),
                [Series(_SAMPLED, sampled), Series(_GREEDY, [Point(point.x, point.y) for point in greedy])],
                None if is_truth else Series(_TRUTH_ARM, truth),
                _SHARE,
            )
        )
    return Figure(
        f"truth-{_plain(section)}",
        panels(drawn, "steps of training", columns=columns),
        f"Held-out truth over steps; {SECTIONS[section].lower()}; the table has the final figures",
    )


def tokens_over_steps(experiment: Experiment, section: Section, *, columns: int) -> Figure:
    """Length of sampled attempts on held-out problems, beside that of the truth arm."""
    arms = [experiment.arms[0], *_of_section(experiment, section)]
    every = [_over_evaluations(one.runs, lambda one: one.tokens_mean) for one in arms]
    ends = [end for points in every for point in points for end in (point.y, *(point.interval or ()))]
    top = max((end for end in ends if end is not None), default=1.0)
    drawn = _beside_truth_arm(arms, every, lambda value: f"ends at {fixed(value, 1)} tokens", (0.0, top * 1.06))
    return Figure(
        f"tokens-{_plain(section)}",
        panels(drawn, "steps of training", columns=columns),
        f"Tokens of an attempt over steps; {SECTIONS[section].lower()}; the table has the final figures",
        "Tokens of a sampled attempt on held-out problems.",
    )


def form_over_steps(experiment: Experiment, section: Section, *, columns: int) -> Figure:
    """Share of sampled attempts on held-out problems that have the task's form, beside that of the truth arm."""
    arms = [experiment.arms[0], *_of_section(experiment, section)]
    every = [_over_evaluations(one.runs, lambda one: one.well_formed, is_share=True) for one in arms]
    drawn = _beside_truth_arm(arms, every, lambda value: f"ends at {fixed(value, 2)}", _SHARE)
    return Figure(
        f"form-{_plain(section)}",
        panels(drawn, "steps of training", columns=columns),
        f"Format share over steps; {SECTIONS[section].lower()}; the table has the final figures",
        "Format share: sampled attempts on held-out problems that have the form which the task asks for.",
    )


def _beside_truth_arm(
    arms: Sequence[ArmOutcome],
    every: Sequence[Sequence[Point]],
    note: Callable[[float], str],
    limits: tuple[float, float],
) -> list[Panel]:
    """A panel for each arm but the first, which is truth's and stands in all others."""
    return [
        Panel(
            outcome.arm.name,
            "" if not points or points[-1].y is None else note(points[-1].y),
            [Series(_SAMPLED, points)],
            None if outcome.arm.name == TRUTH else Series(_TRUTH_ARM, every[0]),
            limits,
        )
        for outcome, points in zip(arms[1:], every[1:], strict=True)
    ]


def rewards_beside_truth(experiment: Experiment, section: Section) -> Figure | None:
    """Of each judged arm of a section its rewards in training, and truth and how rewards agree with it.

    None where no arm of the section asks a judge.
    """
    drawn = []
    for outcome in _of_section(experiment, section):
        if outcome.arm.judge is None:
            continue
        truth = Series("truth", _over_training(outcome.runs, lambda step: step.truth))
        agreement = Series("agreement with truth", _over_training(outcome.runs, lambda step: step.agreement))
        reward = Series("reward", _over_training(outcome.runs, lambda step: step.reward))
        drawn.append(Panel(outcome.arm.name, _alarms(outcome.runs), [truth, agreement], limits=_SHARE))
        drawn.append(Panel("", "mean reward, in its own units", [reward]))
    if not drawn:
        return None
    return Figure(
        f"hacking-{_plain(section)}",
        panels(drawn, "steps of training", columns=2),
        f"Mean reward, truth and agreement over steps; {SECTIONS[section].lower()}",
        "Means over seeds with 95 % intervals, on the problems of training. Each point is the mean of up to "
        f"{SMOOTHED} steps: that one and those before it. The reward leaves out groups whose rollouts all read the "
        "same or whose judge failed; truth does not.",
    )


def noise_sweep(experiment: Experiment, findings: Findings) -> Figure | None:
    """Final truth by the noise of the judge, beside the truth arm; None without arms of known noise."""
    noisy = [
        (outcome.arm.noise, findings.arms[outcome.arm.name])
        for outcome in experiment.arms
        if outcome.arm.noise is not None
    ]
    if not noisy:
        return None
    truth = as_share(findings.arms[TRUTH].truth_sampled)
    drawn = []
    for noise, found in sorted(noisy, key=lambda level: level[0]):
        mean = as_share(found.truth_sampled)
        drawn.append(Level(plain(noise), found.less_truth.verdict, mean.value, mean.interval))
    drawing = levels(
        drawn,
        "standard deviation of the judge's noise",
        "held-out truth at the end, sampled",
        beside=Level("trained with truth", "", truth.value, truth.interval),
    )
    return Figure(
        "noise-sweep",
        drawing,
        "Final truth by the noise of the judge, beside the truth arm; the table has the figures",
        "Below each level stands what is shown of the paired difference to truth; “not shown” is neither a difference "
        "nor equality. Seeds differ in where they start, so that difference is surer than the two intervals look.",
    )


def _of_section(experiment: Experiment, section: Section) -> list[ArmOutcome]:
    return [outcome for outcome in experiment.arms if outcome.arm.section == section]


def _over_evaluations(
    runs: Sequence[ArmRun], read: Callable[[Measured], float], *, is_share: bool = False
) -> list[Point]:
    """Mean over seeds at each step at which all of them were measured."""
    by_step = [{one.step: read(one.measured) for one in run.evaluations} for run in runs]
    common = set.intersection(*(set(one) for one in by_step)) if by_step else set()
    points = []
    for step in sorted(common):
        mean = mean_of([one[step] for one in by_step])
        mean = as_share(mean) if is_share else mean
        points.append(Point(step, mean.value, mean.interval))
    return points


def _over_training(runs: Sequence[ArmRun], read: Callable[[TrainingStep], float | None]) -> list[Point]:
    """Mean over the seeds that know a value, each smoothed first."""
    by_step: dict[int, list[float]] = {}
    for run in runs:
        values = [read(step) for step in run.steps]
        for place, step in enumerate(run.steps):
            value = known_mean(values[max(0, place - SMOOTHED + 1) : place + 1])
            by_step.setdefault(step.step, []).extend([] if value is None else [value])
    means = [(step, mean_of(values)) for step, values in sorted(by_step.items())]
    return [Point(step, mean.value, mean.interval) for step, mean in means]


def _alarms(runs: Sequence[ArmRun]) -> str:
    first = [next((step.step for step in run.steps if step.alarm), None) for run in runs]
    alarmed = [step for step in first if step is not None]
    if not alarmed:
        return "no alarm"
    return f"alarm in {len(alarmed)} of {counted(len(runs), 'seed')}, first at step {min(alarmed)}"


def _plain(section: Section) -> str:
    return section.replace(" ", "-")
