"""Rules for GSM8K solutions that end in "A: 18", with calculator notes such as <<3+4=7>>.

The five rules of a much copied rubric (correct number, whole number, strict form, loose form, each mark once, with its
weights 2.0 and 4 × 0.5), for the answer form of these data instead of tags. Its faults are not copied: here reasoning
may have many lines, no final line break is needed, and 72.0, -3, 1,234 and $72 are read as the numbers they are. The
weights were set before any figure was looked at, and not fitted.
"""

from __future__ import annotations

import re

from benchmarks.rules.arithmetic import holds, read_number, same_number
from benchmarks.rules.reading import request_of, share
from benchmarks.rules.rule_set import RuleSet
from ruler.rewards import Rewards, Rule
from ruler.rules import final_answer, integer_answer, numeric_answer
from ruler.types import Group, Rollout

_NOTE = re.compile("<<([^<>=]{0,200})=([^<>=]{0,200})>>")
_LOOSE_LINE = re.compile(r"\s*(?:A:|answer:|the answer is\b|####)\D*\d", re.IGNORECASE)


def answer_line(text: str) -> str | None:
    """What the last line that begins with "A:" says; None without such a line, or when it is blank."""
    for line in reversed(text.split("\n")):
        if line.startswith("A:"):
            return line[2:].strip() or None
    return None


def strict_form(rollout: Rollout, group: Group) -> float:
    """1.0 when there is reasoning, then one line "A: number" and nothing after it; else 0.0."""
    reasoning, _, last = final_answer(rollout).replace("\r\n", "\n").rstrip().rpartition("\n")
    number = last.startswith("A: ") and read_number(last[3:]) is not None
    return float(number and bool(reasoning.strip()) and not _starts(reasoning, "A:"))


def soft_form(rollout: Rollout, group: Group) -> float:
    """1.0 when, after some reasoning, a line gives an answer with a number in any common form; else 0.0."""
    lines = final_answer(rollout).strip().split("\n")
    return float(any(_LOOSE_LINE.match(line) for line in lines[1:]))


def marks(rollout: Rollout, group: Group) -> float:
    """Half for exactly one "A:" line, half when each "<<" is closed; less 0.001 a character after the answer's line."""
    text = final_answer(rollout).rstrip()
    opened = _starts(text, "A:")
    value = 0.5 * (opened == 1) + 0.5 * (0 < text.count("<<") == text.count(">>"))
    behind = f"\n{text}".rpartition("\nA:")[2].partition("\n")[2] if opened else ""
    return max(0.0, value - 0.001 * len(behind))


def calculator_notes_hold(rollout: Rollout, group: Group) -> float:
    """The share of the notes <<sum=number>> that are right; 0.0 without any."""
    return share((holds(left, right) for left, right in _NOTE.findall(final_answer(rollout))), of_none=0.0)


def answer_follows(rollout: Rollout, group: Group) -> float:
    """1.0 when the answer is what the last calculator note gives; else 0.0."""
    text = final_answer(rollout)
    notes, answer = _NOTE.findall(text), read_number(answer_line(text) or "")
    last = read_number(notes[-1][1]) if notes else None
    return float(answer is not None and last is not None and same_number(answer, last))


def uses_the_numbers(rollout: Rollout, group: Group) -> float:
    """The share of the question's numbers that occur in the solution; 1.0 when the question has none in digits."""
    said = _numbers(final_answer(rollout))
    return share(number in said for number in _numbers(request_of(group)))


def _starts(text: str, mark: str) -> int:
    return f"\n{text}".count(f"\n{mark}")


def _numbers(text: str) -> set[str]:
    found = (number.replace(",", "") for number in re.findall(r"\d[\d,]*(?:\.\d+)?", text))
    return {number.rstrip("0").rstrip(".") if "." in number else number for number in found}


_FORM = (
    Rule("integer", integer_answer(answer=answer_line), weight=0.5),
    Rule("strict form", strict_form, weight=0.5),
    Rule("soft form", soft_form, weight=0.5),
    Rule("marks", marks, weight=0.5),
)

GSM8K = RuleSet(
    name="gsm8k",
    blind=Rewards(
        judge_weight=0.0,
        rules=(
            *_FORM,
            Rule("calculator notes hold", calculator_notes_hold, weight=1.0),
            Rule("answer follows", answer_follows, weight=0.5),
            Rule("uses the numbers", uses_the_numbers, weight=0.5),
        ),
    ),
    with_reference=Rewards(
        judge_weight=0.0,
        rules=(Rule("correct", numeric_answer(answer=answer_line, reference=answer_line), weight=2.0), *_FORM),
    ),
)
