"""The report on policies trained with many rewards: what each came to beside truth, and how it got there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.head_to_head.arms import TRUTH, Arm, Kind
from benchmarks.head_to_head.arms import Section as ArmSection
from benchmarks.head_to_head.figures import (
    form_over_steps,
    less_truth,
    noise_sweep,
    rewards_beside_truth,
    tokens_over_steps,
    truth_over_steps,
)
from benchmarks.head_to_head.findings import Findings
from benchmarks.head_to_head.lead import beside_truth, lead, noise_text, slot_bias_sentence
from benchmarks.head_to_head.outcomes import Experiment
from benchmarks.head_to_head.tables import all_arms, ceilings, costs, what_arms_are
from benchmarks.head_to_head.wording import amount_of, counted, margin_text
from benchmarks.report import Figure, Notice, Report, Section

_COIN = (
    "a coin teaches nothing, and still the policy does not stay where it is. Likely, and not isolated here: Adam makes "
    "steps of full size out of gradients whose mean is zero, and most steps away from a trained policy lead down"
)
_WHY: dict[Kind, str] = {
    "random": _COIN,
    "shorter": "nothing in that reward asks for right answers, and an answer takes tokens",
    "format": "nothing in that reward asks for right answers",
    "naive order": "its judge gives most to what stands first, and what is shortest stands first",
}
_WHY_NOISE = "so much noise leaves little of truth in the reward, and what is left is likely to act as a coin does"
_WHY_OTHER = "why, these figures do not say"


def report_of(experiment: Experiment, findings: Findings, facts: Sequence[tuple[str, str]]) -> Report:
    """One page: what was found, every arm's figures, curves, what falls, costs, and how to read it.

    Works with any choice of arms that has truth first, with one seed (no intervals), and with arms of which no run
    came to its end. Equal arguments give equal reports.

    Args:
        experiment: what to show.
        findings: of the same experiment.
        facts: (name, value) of how it was made: command, task, seeds, versions.
    """
    present = {outcome.arm.section for outcome in experiment.arms}
    if any(found.falls for found in findings.arms.values()):
        present.add("controls")  # where it is said why
    parts: dict[ArmSection, Callable[[Experiment, Findings], Section]] = {
        "rewards": _rewards,
        "noise": _noise,
        "controls": _controls,
        "slot bias": _slot_bias,
    }
    sections = [
        _every_arm(experiment, findings),
        *(make(experiment, findings) for section, make in parts.items() if section in present),
        _ceilings(experiment, findings),
        _costs(experiment),
        _how_to_read(experiment, findings),
    ]
    title = f"Head to head: what policies learn from each reward ({experiment.task})"
    return Report(title, lead(experiment, findings), facts, sections)


def _every_arm(experiment: Experiment, findings: Findings) -> Section:
    text = (
        "Held-out truth at the end of training. “Equal” is said only where the whole interval of the paired difference "
        f"lies within {margin_text(findings.margin)}; “no difference shown” says that these seeds are too few to tell."
    )
    blocks: list[Figure | Notice] = [less_truth(experiment, findings)]
    if notice := _failures(experiment):
        blocks.append(notice)
    return Section("All arms against truth", text, [*blocks, all_arms(experiment, findings)])


def _failures(experiment: Experiment) -> Notice | None:
    failed = [
        f"“{outcome.arm.name}”, seed {seed}: {reason.rstrip('.')}."
        for outcome in experiment.arms
        for seed, reason in sorted(outcome.failures.items())
    ]
    if not failed:
        return None
    verb = "is" if len(failed) == 1 else "are"
    opening = f"{counted(len(failed), 'run')} did not come to the end and {verb} in no figure."
    return Notice("\n\n".join([opening, *failed]), "caution")


def _rewards(experiment: Experiment, findings: Findings) -> Section:
    text = (
        "Held-out truth while policies train: lines are means over seeds, bands their 95 % intervals. The broken line "
        "is the truth arm."
    )
    blocks = [truth_over_steps(experiment, findings, "rewards", columns=3)]
    blocks.append(form_over_steps(experiment, "rewards", columns=3))
    if figure := rewards_beside_truth(experiment, "rewards"):
        text += (
            "\n\nBelow, each judged arm as training saw it. Reward hacking would be a reward that goes on rising while "
            "truth does not, and agreement that falls with it."
        )
        blocks.append(figure)
    return Section("Rewards: rules and judges", text, blocks)


def _noise(experiment: Experiment, findings: Findings) -> Section:
    text = []
    if sweep := noise_text(experiment, findings):
        text.append(sweep)
    flipped = [outcome.arm.name for outcome in experiment.arms if outcome.arm.flip]
    if flipped:
        text.append(f"Truth turned round for some rollouts, whatever they say. {beside_truth(flipped, findings)}")
    text.append(
        "Such noise falls anywhere. A real judge errs on the same things again, and policies learn to go there: equal "
        "agreement is not equal training."
    )
    figures = [noise_sweep(experiment, findings), truth_over_steps(experiment, findings, "noise", columns=3)]
    return Section("How much noise a judge may have", "\n\n".join(text), [one for one in figures if one is not None])


def _controls(experiment: Experiment, findings: Findings) -> Section:
    said = []
    for outcome in experiment.arms:
        found = findings.arms[outcome.arm.name]
        change = amount_of(found.change.mean, signed=True, decimals=2)
        if found.falls:
            said.append(f"“{outcome.arm.name}” falls, {change}: {_why(outcome.arm)}.")
        elif outcome.arm.section == "controls":
            said.append(f"“{outcome.arm.name}” is not shown to fall: {change} against its start.")
    if all(outcome.arm.section != "controls" for outcome in experiment.arms):
        return Section("What falls", "\n\n".join(said))
    text = (
        "Rewards that know nothing of right answers. A judge that is worth anything has to do better than they do, and "
        "where policies gain from them the task shows nothing."
    )
    blocks = [
        truth_over_steps(experiment, findings, "controls", columns=3),
        tokens_over_steps(experiment, "controls", columns=3),
    ]
    return Section("Controls, and what falls", "\n\n".join([text, *said]), blocks)


def _why(arm: Arm) -> str:
    if arm.section == "noise":
        return _WHY_NOISE
    return _WHY.get(arm.kind, _WHY_OTHER)


def _slot_bias(experiment: Experiment, findings: Findings) -> Section:
    text = (
        "Both arms ask the same judge, which knows truth and adds something for the early slots of its prompt. With "
        "rollouts in an order drawn from their contents, its bias is noise. With rollouts in the order in which they "
        "are done, shortest first, its bias is a reward for being short."
    )
    if findings.slot_bias is not None:
        text += f"\n\n{slot_bias_sentence(findings.slot_bias, findings.margin)}"
    blocks = [
        truth_over_steps(experiment, findings, "slot bias", columns=2),
        tokens_over_steps(experiment, "slot bias", columns=2),
        rewards_beside_truth(experiment, "slot bias"),
    ]
    return Section("What position bias does", text, [block for block in blocks if block is not None])


def _ceilings(experiment: Experiment, findings: Findings) -> Section:
    reported = sum(found.ceiling.reported for found in findings.arms.values())
    text = (
        "R0 + (A − R0) / (1 + (Cmid / C)^B), fitted to held-out truth over C, the tokens sampled for training "
        "(ScaleRL, arXiv 2510.13786). A is where the curve would end, Cmid the tokens after which half of the way is "
        "done. It is said only of curves that are long enough and seeds that agree."
    )
    text += f" Here: {reported} of {counted(len(findings.arms), 'arm')}."
    return Section("Where it would end", text, ceilings(experiment, findings))


def _costs(experiment: Experiment) -> Section:
    text = (
        "Over all seeds of an arm that came to their end. Calls to the judge include those that were made again. "
        "Seconds are those of training steps on the machine that ran it, arms side by side; waiting is the share of "
        "them in which nothing was done but waiting for rewards. Groups lost have no rewards, because the judge or an "
        "environment failed, and teach nothing."
    )
    return Section("What it cost", text, [costs(experiment)])


def _how_to_read(experiment: Experiment, findings: Findings) -> Section:
    others = sum(outcome.arm.name != TRUTH for outcome in experiment.arms)
    text = [
        "Truth is what the task knows to be right: 1 or 0. Sampled: attempts drawn at temperature 1, as in training. "
        "Greedy: always the most probable token, so the best known habit alone. A policy can gain in one and not in "
        "the other.",
        "All arms of a seed start from the same policy and see the same problems, so differences are taken seed by "
        f"seed. Intervals are Student's t over {counted(len(experiment.seeds), 'seed')}, 95 %: they say how far the "
        "mean over many more seeds, on these held-out problems, may lie from this one. They are not corrected for the "
        f"number of arms: of 20 intervals at 95 % about one misses, and there are {others} differences to truth here. "
        "Shares end at 0 and 1, and so their intervals are cut off there.",
        f"The margin, {margin_text(findings.margin)}, was declared before anything was trained: an experiment keeps "
        "the one that it was begun with. It is what one would give up for a reward that nobody had to write.",
        "These are tiny policies on a toy task. What holds for them says nothing about large models; it shows how "
        "judges, noise and orders act on training where truth is known.",
    ]
    return Section("How to read this", "\n\n".join(text), [what_arms_are(experiment)])
