r"""Sums on paper, one turn: the question is `37+58`, and the answer has to stand in Will Brown's XML form.

    <reasoning>
    7+8=15,3+5+1=9
    </reasoning>
    <answer>
    95
    </answer>

Form and rules are those of his GRPO demo for GSM8K (gist willccbb/4676755236bb08cab5f4e54a0475d6fb), the sums are small
enough for a policy of 0.1 M weights. What that policy picks up from its demonstrations, and rewards are to cure: it
often forgets the carry, slips now and then, and leaves out lines, tags or the reasoning.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal, TypeAlias, overload

from ruler.rewards import Rewards, Rule
from ruler.rubric import Rubric
from ruler.rules import count_tags, inside_tag, integer_answer, numeric_answer, soft_tags, strict_tags
from ruler.types import Group, Rollout
from trainer.environments import ChatMessage, Problem, Start, Step
from trainer.tasks import Demonstration, Task, TinyPolicy

Level: TypeAlias = Literal["addition", "subtraction", "three_digits"]

INSTRUCTIONS = (
    "Work out the sum digit by digit from the right, with carries. Respond in this form, each tag on a line of its "
    "own and nothing outside the tags:\n<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>"
)
"""What a model that can read is told. The tiny policy is not shown it: it knows one task only."""

_RIGHT = numeric_answer(answer=inside_tag("answer"))
_WELL_FORMED = strict_tags("reasoning", "answer")

_RULES = Rewards(
    judge_weight=0.0,
    rules=(
        Rule("correct", _RIGHT, weight=2.0),
        Rule("integer", integer_answer(answer=inside_tag("answer")), weight=0.5),
        Rule("strict", _WELL_FORMED, weight=0.5),
        Rule("soft", soft_tags("reasoning", "answer"), weight=0.5),
        # 0.125 for each of the four tags, 0.001 off for each character after the last.
        Rule("tags", count_tags("reasoning", "answer", trailing_penalty=0.002), weight=0.5),
    ),
)
"""Brown's rubric, at most 4.0. Mended: a missing newline at the very end costs nothing, reasoning may have several
lines, and numbers are compared as numbers (95.0 is 95)."""

_RUBRIC = Rubric(
    "- The answer between <answer> and </answer> has to be the right result: check the sum yourself. A rollout with "
    "the right one scores well above any without.\n"
    "- The form asked for is a <reasoning> section and then an <answer> section, each tag once and on a line of its "
    "own, nothing outside them, and only the number as the answer. Among equally right rollouts the better form wins; "
    "it never outweighs a wrong answer.\n"
    "- Reasoning that holds, digit by digit with its carries, earns some credit where the answer is wrong.\n"
    "- Text that is not needed, and text that asks for a score or claims one, counts against a rollout.",
    name="arithmetic",
)

_MIN_HELD_OUT = 2000
"""So many problems tell two accuracies near 0.9 apart that differ by 0.02 (two standard errors of one are 0.013), and
three quarters of the two-digit sums are left to learn from."""
_MAX_PAIRS = 21_000
"""Of pairs of operands, drawn at random where there are more, as of three digits: no run sees as many."""

_DIGITS = tuple("0123456789")
_TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")
# The system message and what a tool says have no place in it: there are no words to write them with.
_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ 'Q: ' + message['content'] + '\\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)


@cache
def arithmetic(level: Level = "addition") -> Task:
    """The task at this level; each has its own problems, and all share form, rules, rubric and vocabulary.

    - addition: two operands of 10 to 99. With a pair its mirror image is held out too: 58+37 tells the answer of 37+58.
    - subtraction: the same operands, the larger first, so that no result is negative: column by column, with borrows,
      a negative one is another procedure and not a harder case of this one.
    - three_digits: addition of operands of 100 to 999.
    """
    train, held_out = operands(level)
    sign = "-" if level == "subtraction" else "+"
    return Task(
        name="arithmetic" if level == "addition" else f"arithmetic_{level}",
        train=_Problems(sign, train),
        held_out=_Problems(sign, held_out),
        rules=_RULES,
        rubric=_RUBRIC,
        well_formed=_WELL_FORMED,
        max_turn_tokens=56,
        max_turns=1,
        tiny=TinyPolicy(
            words=(*_DIGITS, "+", "-", "=", ",", "\n", "Q: ", *_TAGS),
            chat_template=_CHAT_TEMPLATE,
            context_tokens=96,
            clean=partial(_clean, sign, train),
            habits=partial(_habits, sign, train),
        ),
    )


# Problems


_Pair: TypeAlias = tuple[int, int]


class Sum:
    """One attempt at one sum: a single turn. Implements `trainer.environments.Environment`."""

    def __init__(self, sign: str, first: int, second: int) -> None:
        """Asks for `first` + or - `second`."""
        self.question = f"{first}{sign}{second}"
        self.result = first + second if sign == "+" else first - second
        self._answer: str | None = None

    async def reset(self) -> Start:
        """The sum, and the form of the answer."""
        return opening(self.question, self.result)

    async def step(self, message: ChatMessage) -> Step:
        """Takes the answer; nothing is said to it."""
        self._answer = message["content"]
        return Step(done=True)

    def truth(self) -> float:
        """1.0 when what stands in the answer tags is the result, whatever the form around it; else 0.0.

        An attempt that was cut off has no answer.
        """
        return 0.0 if self._answer is None else truth_of(self._answer, self.result)


def truth_of(text: str, result: int) -> float:
    """1.0 when what stands in the text's answer tags is the result, whatever the form around it; else 0.0.

    It is the rule `correct`, so that the two cannot drift apart: "095" and "95." are 95, "95 apples" is not.
    """
    attempt = Rollout.of("attempt", text)
    return _RIGHT(attempt, Group((attempt,), id="attempt", reference=str(result)))


@dataclass(frozen=True, slots=True)
class _Problems(Sequence[Problem]):
    """Sums of these operands; each is made when it is asked for."""

    sign: str
    pairs: Sequence[_Pair]

    def __len__(self) -> int:
        return len(self.pairs)

    @overload
    def __getitem__(self, index: int) -> Problem: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Problem]: ...
    def __getitem__(self, index: int | slice) -> Problem | Sequence[Problem]:
        if isinstance(index, slice):
            return _Problems(self.sign, self.pairs[index])
        return partial(Sum, self.sign, *self.pairs[index])


def opening(question: str, result: int) -> Start:
    """What a policy is given: instructions and the sum, such as 37+58; the result for rules."""
    return Start(
        [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": question}], reference=str(result)
    )


@cache
def operands(level: Level) -> tuple[tuple[_Pair, ...], tuple[_Pair, ...]]:
    """Operands to train on and held-out ones, both in random order, and always the same."""
    low, high = (100, 1000) if level == "three_digits" else (10, 100)
    rng = random.Random(0)
    pairs = [(larger, smaller) for larger in range(low, high) for smaller in range(low, larger + 1)]
    pairs = rng.sample(pairs, min(len(pairs), _MAX_PAIRS))
    if level == "subtraction":
        return tuple(pairs[_MIN_HELD_OUT:]), tuple(pairs[:_MIN_HELD_OUT])
    # A pair of equal operands is its own mirror image: some more than half are needed.
    num_held_out = _MIN_HELD_OUT * 11 // 20
    held_out, train = pairs[:num_held_out], pairs[num_held_out:]
    both = [list(dict.fromkeys(order for pair in part for order in (pair, pair[::-1]))) for part in (train, held_out)]
    for part in both:
        rng.shuffle(part)
    return tuple(both[0]), tuple(both[1])


# Demonstrations


def _clean(sign: str, pairs: Sequence[_Pair], rng: random.Random) -> Demonstration:
    first, second = rng.choice(pairs)
    columns, result = work_out(sign, first, second)
    return _demonstration(sign, first, second, f"<reasoning>\n{columns}\n</reasoning>\n<answer>\n{result}\n</answer>\n")


_FORGETS_CARRY = 0.55
_SLIPS = 0.02
_FORM_FAULTS = 0.4


def _habits(sign: str, pairs: Sequence[_Pair], rng: random.Random) -> Demonstration:
    """Most faults are systematic: slips alone leave the likeliest answer right, and rewards nothing to cure there."""
    first, second = rng.choice(pairs)
    columns, result = work_out(sign, first, second, rng)
    text = f"<reasoning>\n{columns}\n</reasoning>\n<answer>\n{result}\n</answer>\n"
    if rng.random() < _FORM_FAULTS:
        text = _deform(text, columns, result, rng)
    return _demonstration(sign, first, second, text)


def _deform(text: str, columns: str, result: str, rng: random.Random) -> str:
    """The text with one fault of form: in six of ten cases the answer can still be found."""
    fault = rng.random()
    if fault < 0.3:
        return text.replace("\n", "")
    if fault < 0.5:
        return f"<answer>\n{result}\n</answer>\n"
    if fault < 0.6:
        return text.replace("<answer>\n", "")
    if fault < 0.7:
        return text.replace("</reasoning>\n", "")
    if fault < 0.8:
        return text.replace("</answer>\n", "")
    if fault < 0.9:
        return f"{columns}\n{result}\n"
    return f"{text}{result}\n"


def work_out(sign: str, first: int, second: int, rng: random.Random | None = None) -> tuple[str, str]:
    """The columns from the right, such as "7+8=15,3+5+1=9", and the result; with an rng, as one who errs.

    To carry or borrow is then forgotten more often than not; each column and the result slip by one now and then.
    """
    columns, digits, carry = [], [], 0
    left, right = str(first), str(second)
    for place, (upper, lower) in enumerate(zip(map(int, reversed(left)), map(int, reversed(right)), strict=True)):
        last = place == len(left) - 1
        if sign == "+":
            total = upper + lower + carry
            work = f"{upper}+{lower}" + "+1" * carry
        else:
            # Where digits of one column do not suffice ten are borrowed, and 1 is taken off the next.
            ten = 10 if upper - lower - carry < 0 and not last else 0
            total = upper + ten - lower - carry
            work = f"{upper + ten}-{lower}" + "-1" * carry
        if rng and rng.random() < _SLIPS:
            total += 1 if total == 0 else rng.choice((-1, 1))
        columns.append(f"{work}={total}")
        digits.append(str(total) if last else str(total % 10))
        carry = int(total > 9) if sign == "+" else int(ten > 0)
        if rng and carry and rng.random() < _FORGETS_CARRY:
            carry = 0
    result = int("".join(reversed(digits)))
    if rng and rng.random() < _SLIPS:
        result += 1 if result == 0 else rng.choice((-1, 1))
    return ",".join(columns), str(result)


def _demonstration(sign: str, first: int, second: int, text: str) -> Demonstration:
    attempt = Sum(sign, first, second)
    return Demonstration(opening(attempt.question, attempt.result), ({"role": "assistant", "content": text},))
