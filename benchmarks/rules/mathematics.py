r"""Rules for competition mathematics with a final answer in \boxed{…}.

The weights were set before any figure was looked at, and not fitted: the answer's form counts most, then whether the
sums hold, then how the text is written. With the reference the answer's equality outweighs all of these together.
"""

from __future__ import annotations

import re

from benchmarks.rules.answers import same_answer
from benchmarks.rules.arithmetic import equations_hold
from benchmarks.rules.reading import reference_field, share
from benchmarks.rules.rule_set import RuleSet
from ruler.rewards import Rewards, Rule
from ruler.rules import answer_chars, boxed, final_answer
from ruler.types import Group, Rollout


def has_answer(rollout: Rollout, group: Group) -> float:
    """1.0 when the last box is closed and holds a short answer (1 to 60 characters), no sentence; else 0.0."""
    answer = boxed(final_answer(rollout))
    return float(answer is not None and len(answer) <= 60 and len(re.findall(r"[a-zA-Z]{3,}", answer)) <= 4)


def one_answer(rollout: Rollout, group: Group) -> float:
    """1.0 when there is exactly one box; else 0.0."""
    return float(final_answer(rollout).count(r"\boxed{") == 1)


def ends_with_answer(rollout: Rollout, group: Group) -> float:
    """1.0 when the last box stands within the last 300 characters: the text ends with it; else 0.0."""
    return float(r"\boxed{" in final_answer(rollout).rstrip()[-300:])


def sums_hold(rollout: Rollout, group: Group) -> float:
    """The share of the sums in plain numbers ("3 + 4 = 7") that are right; 1.0 without any."""
    return share(equations_hold(final_answer(rollout)))


def no_repetition(rollout: Rollout, group: Group) -> float:
    """The share of its lines of 20 characters and more that are said for the first time; 1.0 without any."""
    lines = [line for line in map(str.strip, final_answer(rollout).split("\n")) if len(line) >= 20]
    return len(set(lines)) / len(lines) if lines else 1.0


def correct(rollout: Rollout, group: Group) -> float:
    """1.0 when the boxed answer says the same as the reference, see `same_answer`; else 0.0."""
    right = reference_field(group, "answer", until="solution")
    answer = boxed(final_answer(rollout))
    return float(answer is not None and same_answer(answer, right))


def _form(weight: float) -> tuple[Rule, ...]:
    return (
        Rule("has answer", has_answer, weight=weight),
        Rule("one answer", one_answer, weight=weight / 4),
        Rule("ends with answer", ends_with_answer, weight=weight / 4),
    )


MATHEMATICS = RuleSet(
    name="mathematics",
    blind=Rewards(
        judge_weight=0.0,
        rules=(
            *_form(1.0),
            Rule("sums hold", sums_hold, weight=1.0),
            Rule("no repetition", no_repetition, weight=0.5),
            Rule("length", answer_chars(at_least=200, at_most=3000, slope=3000), weight=0.25),
        ),
    ),
    with_reference=Rewards(judge_weight=0.0, rules=(Rule("correct", correct, weight=2.0), *_form(0.5))),
)
