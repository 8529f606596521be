"""What a reader is told first: no more than was shown."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.head_to_head.arms import NOISES, TRUTH, arms_of, chosen
from benchmarks.head_to_head.findings import Findings, SlotBias, Sweep
from benchmarks.head_to_head.lead import beside_truth, lead, noise_sentence, slot_bias_sentence
from benchmarks.head_to_head.outcomes import Experiment
from benchmarks.head_to_head.paired import Mean, Paired, Verdict
from benchmarks.head_to_head.tables import all_arms
from benchmarks.report import Cell
from tests.benchmarks.head_to_head.made_up import Course, found, made_up

ARMS = arms_of("arithmetic", ("embedded",))
SHORT_ARMS = chosen(ARMS, ["rules", "embedded", "random", "format"])
SHORT = made_up(arms=SHORT_ARMS, steps=20)
FOUND = found(SHORT)
NBSP = "\N{NO-BREAK SPACE}"


def paragraphs(experiment: Experiment, findings: Findings) -> list[str]:
    return lead(experiment, findings).replace(NBSP, " ").split("\n\n")


def paired(verdict: Verdict, value: float = -0.01, half: float = 0.03) -> Paired:
    return Paired(Mean(5, value, (value - half, value + half)), verdict, 7, 33)


def judged_as(findings: Findings, **verdicts: Verdict) -> Findings:
    arms = {
        name: replace(one, less_truth=paired(verdicts[name])) if name in verdicts else one
        for name, one in findings.arms.items()
    }
    return replace(findings, arms=arms)


def test_each_verdict_is_said_in_words_of_its_own() -> None:
    def said(verdict: Verdict) -> str:
        return beside_truth(["rules"], judged_as(FOUND, rules=verdict)).replace(NBSP, " ")

    assert said("equal") == "Equal to truth within 0.02: “rules”."
    assert said("higher") == "Shown to end higher than truth: “rules”, −0.010 (−0.040 to +0.020)."
    assert said("lower") == "Shown to end lower than truth: “rules”, −0.010 (−0.040 to +0.020)."
    assert said("not shown") == "No difference shown, which does not say that there is none: “rules” (± 0.030)."
    assert said("too few seeds") == "Too few seeds to be compared with truth: “rules”."
    assert beside_truth([], FOUND) == ""


@given(st.fixed_dictionaries({name: st.sampled_from(get_args(Verdict)) for name in ("rules", "embedded", "random")}))
def test_equal_is_said_of_those_shown_equal_and_of_no_others(verdicts: dict[str, Verdict]) -> None:
    findings = judged_as(FOUND, **verdicts)
    text = beside_truth(list(verdicts), findings)
    claims = re.findall(r"[Ee]qual[^.]* within 0\.02: ([^.]*)\.", text)
    assert len(re.findall("equal", text, re.IGNORECASE)) == len(claims) <= 1
    equal = {name for name, verdict in verdicts.items() if verdict == "equal"}
    assert set(re.findall("“([^”]*)”", "".join(claims))) == equal
    assert sorted(re.findall("“([^”]*)”", text)) == sorted(verdicts)  # each once
    cells = {str(row.cells[0]): row.cells[2] for row in all_arms(SHORT, findings).rows}
    for name, verdict in verdicts.items():
        cell = cells[name]
        assert isinstance(cell, Cell)
        assert ("equal" in cell.text) == (verdict == "equal")


def test_what_rests_on_the_seeds_that_did_not_fail_says_so() -> None:
    experiment = made_up(
        arms=chosen(ARMS, ["rules"]),
        steps=20,
        courses={"rules": Course(0.93, spread=0.0), "truth": Course(0.93, spread=0.0)},
        failures={("rules", 1): "NaN", ("rules", 4): "NaN"},
    )
    said = beside_truth(["rules"], found(experiment))
    assert said == "Equal to truth within 0.02: “rules” (by the 3 seeds that did not fail)."


def test_the_sweep_claims_what_it_holds() -> None:
    def said(last_equal: float | None, first_lower: float | None) -> str:
        return noise_sentence(Sweep(last_equal, first_lower), NOISES, 0.02)

    unit = "(standard deviation; a right answer is worth 1)"
    assert said(0.5, 2.0) == (
        f"Simulated judges end equal to truth within 0.02 up to a noise of 0.5 {unit}; from a noise of 2 on they are "
        "shown to end lower."
    )
    assert said(None, 0.25) == (
        f"At the least noise tried, 0.25 {unit}, a simulated judge is not shown to end equal to truth within 0.02; "
        "from a noise of 0.25 on they are shown to end lower."
    )
    assert said(4.0, None).endswith("; at the most noise tried, 4, a lower end is not shown.")
    assert said(None, None).startswith("At the least noise tried, 0.25")


def test_position_bias_is_said_with_its_verdicts() -> None:
    found = SlotBias(truth=paired("not shown"), tokens=paired("lower", -3.0, 0.5))
    assert slot_bias_sentence(found, 0.02).replace(NBSP, " ") == (
        "With a judge that favours early slots, rollouts in the order of arrival, shortest first, in place of seeded "
        "orders: truth −0.010 (−0.040 to +0.020), no difference shown (± 0.030); tokens of an attempt −3.0 (−3.5 to "
        "−2.5), lower."
    )
    assert slot_bias_sentence(SlotBias(paired("equal"), paired("equal")), 0.02).count("equal within 0.02") == 1
    assert "equal within 1 token." in slot_bias_sentence(SlotBias(paired("equal"), paired("equal")), 0.02)


def test_the_lead_says_truth_rewards_noise_what_falls_and_slots() -> None:
    experiment = made_up()
    findings = found(experiment)
    truth, rewards, noise, falls, slots = paragraphs(experiment, findings)
    assert truth.startswith("Trained with truth itself for 80 steps, policies of 5 seeds solve 0.93 (0.9")
    assert "“rules”" in rewards
    assert noise.startswith("Simulated judges end equal to truth within 0.02 up to a noise of ")
    assert falls == (
        "“noise 4”, “random”, “shorter” and “format” are shown to fall: to end below where the policy began."
    )
    assert slots.startswith("With a judge that favours early slots, ")


def test_a_control_that_learns_as_truth_does_is_not_passed_over() -> None:
    experiment = made_up(arms=SHORT_ARMS, courses={"format": Course(0.93, spread=0.001), "random": Course(0.1)})
    text = paragraphs(experiment, found(experiment))[-1]
    assert text == (
        "“random” is shown to fall: to end below where the policy began. Of the controls, “format” is not shown to "
        "fall. Equal to truth within 0.02: “format”."
    )


def test_with_one_seed_nothing_is_claimed() -> None:
    experiment = made_up(seeds=1)
    first, second = paragraphs(experiment, found(experiment))
    assert first.startswith("Trained with truth itself for 80 steps, policies of 1 seed solve 0.9")
    assert second == (
        "Too few seeds to be compared with truth: “rules”, “embedded”, “embedded, two orders” and “embedded and rules”."
    )


def test_without_a_run_of_truth_that_is_said_and_nothing_else() -> None:
    failures = {(TRUTH, seed): "killed" for seed in range(5)}
    experiment = made_up(arms=SHORT_ARMS, steps=20, failures=failures)
    first, second, *_ = paragraphs(experiment, found(experiment))
    assert first == "No run with truth as its reward came to its end, so there is nothing to compare the others with."
    assert second == "Too few seeds to be compared with truth: “rules” and “embedded”."


@pytest.mark.parametrize("names", [[], ["rules"]])
def test_sections_without_arms_have_no_paragraph(names: list[str]) -> None:
    experiment = made_up(arms=chosen(ARMS, names), steps=20)
    assert len(paragraphs(experiment, found(experiment))) == 1 + len(names)
