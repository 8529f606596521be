"""What was found, in a few sentences, for readers who stop there: no more than the findings hold."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.head_to_head.arms import TRUTH, Section
from benchmarks.head_to_head.findings import Findings, SlotBias, Sweep
from benchmarks.head_to_head.outcomes import Experiment
from benchmarks.head_to_head.paired import Paired, Verdict
from benchmarks.head_to_head.wording import (
    amount_of,
    as_share,
    counted,
    half_width_of,
    listed,
    margin_text,
    quoted,
    verdict_of,
)
from benchmarks.number_text import plain


def lead(experiment: Experiment, findings: Findings) -> str:
    """Truth, the rewards beside it, judges of known noise, controls and what falls, slot bias: a paragraph each."""
    said = [
        _truth(experiment, findings),
        beside_truth(_names(experiment, "rewards"), findings),
        noise_text(experiment, findings),
        _falling(experiment, findings),
        slot_bias_sentence(findings.slot_bias, findings.margin)
        if findings.slot_bias is not None and findings.slot_bias.truth.verdict != "too few seeds"
        else "",
    ]
    return "\n\n".join(text for text in said if text)


def beside_truth(names: Sequence[str], findings: Findings) -> str:
    """Which of these arms end equal to truth, which do not, and of which nothing can be said; empty without arms."""

    def those(*verdicts: Verdict) -> list[str]:
        return [name for name in names if findings.arms[name].less_truth.verdict in verdicts]

    def named(name: str) -> str:
        found = findings.arms[name]
        if not found.num_failed:
            return f"“{name}”"
        return f"“{name}” (by the {found.less_truth.mean.num_seeds} seeds that did not fail)"

    def differing(verdict: Verdict) -> str:
        return "; ".join(
            f"{named(name)}, {amount_of(_less(findings, name).mean, signed=True)}" for name in those(verdict)
        )

    said = []
    if found := those("equal"):
        said.append(f"Equal to truth within {margin_text(findings.margin)}: {listed([named(name) for name in found])}.")
    if those("higher"):
        said.append(f"Shown to end higher than truth: {differing('higher')}.")
    if those("lower"):
        said.append(f"Shown to end lower than truth: {differing('lower')}.")
    if found := those("not shown"):
        each = listed([f"{named(name)}{half_width_of(_less(findings, name).mean)}" for name in found])
        said.append(f"No difference shown, which does not say that there is none: {each}.")
    if found := those("too few seeds"):
        said.append(f"Too few seeds to be compared with truth: {quoted(found)}.")
    return " ".join(said)


def noise_text(experiment: Experiment, findings: Findings) -> str:
    """Up to which noise simulated judges are as good as truth, and from which on they are not.

    Empty without such arms, and where no level has seeds enough to be compared.
    """
    names = {outcome.arm.name: outcome.arm.noise for outcome in experiment.arms if outcome.arm.noise is not None}
    if findings.sweep is None or all(_less(findings, name).verdict == "too few seeds" for name in names):
        return ""
    return noise_sentence(findings.sweep, list(names.values()), findings.margin)


def noise_sentence(sweep: Sweep, levels: Sequence[float], margin: float) -> str:
    """Up to which of these levels of noise simulated judges are as good as truth, and from which on they are not."""
    within, unit = margin_text(margin), "(standard deviation; a right answer is worth 1)"
    if sweep.last_equal is None:
        first = f"At the least noise tried, {plain(min(levels))} {unit}, a simulated judge is not shown to end equal "
        first += f"to truth within {within}"
    else:
        first = f"Simulated judges end equal to truth within {within} up to a noise of "
        first += f"{plain(sweep.last_equal)} {unit}"
    if sweep.first_lower is None:
        return f"{first}; at the most noise tried, {plain(max(levels))}, a lower end is not shown."
    return f"{first}; from a noise of {plain(sweep.first_lower)} on they are shown to end lower."


def slot_bias_sentence(found: SlotBias, margin: float) -> str:
    """What the order of arrival did in place of seeded orders, to truth and to length."""
    truth = verdict_of(found.truth, margin_text(margin))
    tokens = verdict_of(found.tokens, "1 token", decimals=1)
    return (
        "With a judge that favours early slots, rollouts in the order of arrival, shortest first, in place of seeded "
        f"orders: truth {amount_of(found.truth.mean, signed=True)}, {truth}; tokens of an attempt "
        f"{amount_of(found.tokens.mean, signed=True, decimals=1)}, {tokens}."
    )


def _truth(experiment: Experiment, findings: Findings) -> str:
    truth = findings.arms[TRUTH]
    if truth.truth_sampled.value is None:
        return "No run with truth as its reward came to its end, so there is nothing to compare the others with."
    seeds = counted(truth.truth_sampled.num_seeds, "seed")
    solved = amount_of(as_share(truth.truth_sampled), decimals=2)
    return (
        f"Trained with truth itself for {counted(experiment.steps, 'step')}, policies of {seeds} solve {solved} of "
        "problems that they were not trained on, sampled; that is "
        f"{amount_of(truth.change.mean, signed=True, decimals=2)} against where they began."
    )


def _falling(experiment: Experiment, findings: Findings) -> str:
    fallen = [outcome.arm.name for outcome in experiment.arms if findings.arms[outcome.arm.name].falls]
    others = [
        name
        for name in _names(experiment, "controls")
        if name not in fallen and findings.arms[name].change.verdict != "too few seeds"
    ]
    said = []
    if fallen:
        verb = "is" if len(fallen) == 1 else "are"
        said.append(f"{quoted(fallen)} {verb} shown to fall: to end below where the policy began.")
    if others:
        verb = "is" if len(others) == 1 else "are"
        said.append(f"Of the controls, {quoted(others)} {verb} not shown to fall. {beside_truth(others, findings)}")
    return " ".join(said)


def _names(experiment: Experiment, section: Section) -> list[str]:
    """Of its arms, truth left out."""
    return [one.arm.name for one in experiment.arms if one.arm.section == section and one.arm.name != TRUTH]


def _less(findings: Findings, name: str) -> Paired:
    return findings.arms[name].less_truth
