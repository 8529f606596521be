"""Rules for tasks with a Python interpreter in the text (MINT), of which the first proposal was refused.

Two sets: for code and for mathematics. Written for the form that the task asks for: <thought>, <execute>, <solution>,
observations as user messages. A policy that writes an observation or a verdict itself is penalised. Code has no set
with the reference: its reference is tests, and what rollouts hold is not run here. The weights were set before any
figure was looked at, and not fitted.
"""

from __future__ import annotations

import ast
import re
import warnings

from benchmarks.rules.answers import same_answer
from benchmarks.rules.reading import reference_field, request_of, share, text_of
from benchmarks.rules.rule_set import RuleSet
from ruler.rewards import Rewards, Rule
from ruler.rules import final_answer, inside_tag, turns
from ruler.types import Group, Rollout

_REFUSED = "your answer is wrong"
_NOT_UNDERSTOOD = "i don't understand your input"
_VERDICT = re.compile(r"observation:|human:|your answer is (?:correct|wrong|right)", re.IGNORECASE)
_ERROR = re.compile(r"traceback \(most recent call last\)|^\w{0,40}(?:error|exception)\b", re.IGNORECASE | re.MULTILINE)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_MAX_CODE = 20_000
"""Characters of a solution that are parsed: longer ones are no answer to these tasks."""

_solution = inside_tag("solution")


def proposes(rollout: Rollout, group: Group) -> float:
    """1.0 when the last message holds a closed <solution>, and exactly one; else 0.0."""
    text = final_answer(rollout)
    return float(_solution(text) is not None and text.count("<solution>") == 1)


def not_the_refused(rollout: Rollout, group: Group) -> float:
    """0.0 when the last solution is one that the environment had refused, white space apart; else 1.0."""
    refused, latest = set(), ""
    for message in rollout.messages:
        if message.role == "assistant":
            latest = "".join((_solution(text_of(message)) or "").split())
        elif _REFUSED in text_of(message).lower() and latest:
            refused.add(latest)
    return float(latest not in refused)


def runs_without_error(rollout: Rollout, group: Group) -> float:
    """The share of the observations that are no Python error; 1.0 without any."""
    return share(not _ERROR.search(observation) for observation in _observations(rollout))


def understood(rollout: Rollout, group: Group) -> float:
    """The share of the observations other than "I don't understand your input"; 1.0 without any."""
    return share(_NOT_UNDERSTOOD not in observation.lower() for observation in _observations(rollout))


def thinks(rollout: Rollout, group: Group) -> float:
    """The share of the assistant messages with a <thought>; 0.0 without a message."""
    texts = [text_of(message) for message in rollout.messages if message.role == "assistant"]
    return share(("<thought>" in text for text in texts), of_none=0.0)


def speaks_for_the_environment(rollout: Rollout, group: Group) -> float:
    """1.0 when an assistant message holds an observation or a verdict, which only the environment gives; else 0.0."""
    texts = (text_of(message) for message in rollout.messages if message.role == "assistant")
    return float(any(_VERDICT.search(text) for text in texts))


def code_is_whole(rollout: Rollout, group: Group) -> float:
    """1.0 when the last solution is Python that parses and defines a function which the task names; half for one."""
    code = _solution(final_answer(rollout))
    if code is None or len(code) > _MAX_CODE:
        return 0.0
    code = code.strip().removeprefix("```python").removeprefix("```").removesuffix("```")
    return 0.5 * _parses(code) + 0.5 * any(
        re.search(rf"\b{name}\b", request_of(group))
        for name in dict.fromkeys(re.findall(r"def (\w{1,100})\(", code)[:50])
    )


def short_answer(rollout: Rollout, group: Group) -> float:
    """1.0 when the last solution has at most 40 characters: an answer and no explanation; else 0.0."""
    answer = _solution(final_answer(rollout))
    return float(answer is not None and len(answer) <= 40)


def answer_was_computed(rollout: Rollout, group: Group) -> float:
    """1.0 when the last number of the last solution was printed by the interpreter before; else 0.0."""
    numbers = _numbers(_solution(final_answer(rollout)) or "")
    # Without the line on steps left: its numbers would make 4 and 1 computed answers.
    printed = (re.sub(r"You have \d{1,3} steps? left[^\n]*", "", text) for text in _observations(rollout))
    return float(bool(numbers) and any(numbers[-1] in _numbers(text) for text in printed))


def correct(rollout: Rollout, group: Group) -> float:
    """1.0 when the last solution, or its last number, equals the reference within 1 %; else 0.0."""
    right = reference_field(group, "reference").strip()
    answer = _solution(final_answer(rollout))
    if answer is None:
        return 0.0
    numbers = _numbers(answer)
    last = bool(numbers) and bool(_NUMBER.fullmatch(right)) and same_answer(numbers[-1], right, rel_tol=0.01)
    return float(last or same_answer(answer, right, rel_tol=0.01))


def _numbers(text: str) -> list[str]:
    found = (number.replace(",", "") for number in _NUMBER.findall(text))
    return [number.rstrip("0").rstrip(".") if "." in number else number for number in found]


def _observations(rollout: Rollout) -> list[str]:
    return [text_of(message) for message in rollout.messages if message.role == "user"]


def _parses(code: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd escape in the policy's code is none of ours
            ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


_COMMON = (
    Rule("proposes", proposes, weight=1.0),
    Rule("not the refused", not_the_refused, weight=1.0),
    Rule("speaks for the environment", speaks_for_the_environment, weight=-1.0),
    Rule("runs without error", runs_without_error, weight=0.5),
    Rule("understood", understood, weight=0.5),
    Rule("thinks", thinks, weight=0.25),
    Rule("few turns", turns(at_most=2, slope=4), weight=0.25),
)

MINT_CODE = RuleSet(
    name="mint code",
    blind=Rewards(judge_weight=0.0, rules=(*_COMMON, Rule("code is whole", code_is_whole, weight=1.0))),
    with_reference=None,
)

MINT_MATHEMATICS = RuleSet(
    name="mint mathematics",
    blind=Rewards(
        judge_weight=0.0,
        rules=(
            *_COMMON,
            Rule("answer was computed", answer_was_computed, weight=1.0),
            Rule("short answer", short_answer, weight=0.5),
        ),
    ),
    with_reference=Rewards(
        judge_weight=0.0,
        rules=(
            Rule("correct", correct, weight=2.0),
            Rule("proposes", proposes, weight=0.5),
            Rule("speaks for the environment", speaks_for_the_environment, weight=-0.5),
            Rule("short answer", short_answer, weight=0.25),
        ),
    ),
)
