"""Code checks on one rollout, for `ruler.rewards`: tags, numbers, exact answers, patterns, length, tool use.

    strict_tags("reasoning", "answer")
    exact_answer(answer=inside_tag("answer"), reference=after("####"))
    tool_calls(tool="search", at_least=1)

A check is a plain function of a rollout and its group that returns a number in [0, 1]. It sees what the rollout wrote
and the group's reference, never a score. It is synchronous: what needs a network is awaited before, and its outcome put
into the rollout's metadata. Those made here are pure, take time linear in the text (`matches` runs a pattern of the
user's own), and can be pickled, as trainers with worker processes need. Checks for one data set have no place here.

What a rollout says is its *final answer*: the text of its last assistant message. An *extractor* takes the part that
counts out of that text, or out of the reference.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

from ruler.errors import ConfigError, GroupError
from ruler.messages import Message
from ruler.types import Group, Rollout

Check: TypeAlias = Callable[[Rollout, Group], float]
"""Returns a number in [0, 1], higher is better."""

Extract: TypeAlias = Callable[[str], str | None]
"""Returns the part of a text that counts, None where there is none."""


def final_answer(rollout: Rollout) -> str:
    """The text of the rollout's last assistant message; "" when it only calls tools, or there is no such message.

    Text parts are joined by newlines, media are left out. Reasoning kept beside the content, and a refusal, are no
    answer. An earlier message never takes the place of the last.
    """
    for message in reversed(rollout.messages):
        if message.role == "assistant":
            return _text(message)
    return ""


def _text(message: Message) -> str:
    return "\n".join(part for part in message.content if isinstance(part, str))


# Extractors


def whole(text: str) -> str | None:
    """The text without white space around it; None when nothing is left."""
    return text.strip() or None


def after(marker: str) -> Extract:
    """An extractor: what follows the last `marker`, such as "####", on its line; None when that is blank.

    Raises:
        ConfigError: an empty marker.
    """
    if not isinstance(marker, str) or not marker:
        raise ConfigError(f"marker: expected some text, got {marker!r:.80}")
    return partial(_after, marker=marker)


def inside_tag(tag: str) -> Extract:
    """An extractor: what stands between the last `<tag>` and the `</tag>` after it.

    None when that is blank, or the last `<tag>` is not closed: an answer that was cut off does not fall back on an
    earlier one.

    Raises:
        ConfigError: not the name of a tag.
    """
    _check_tags((tag,))
    return partial(_inside_tag, tag=tag)


def boxed(text: str) -> str | None:
    r"""What the last `\boxed{…}` holds, braces balanced; None when that is blank or never closed."""
    opening = r"\boxed{"
    start = text.rfind(opening)
    if start < 0:
        return None
    start += len(opening)
    depth = 1
    for found in re.finditer(r"\\.|[{}]", text[start:], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(found[0], 0)  # an escaped brace opens and closes nothing
        if depth == 0:
            return whole(text[start : start + found.start()])
    return None


def _after(text: str, *, marker: str) -> str | None:
    _, found, rest = text.rpartition(marker)
    return whole(rest.partition("\n")[0]) if found else None


def _inside_tag(text: str, *, tag: str) -> str | None:
    _, opened, rest = text.rpartition(f"<{tag}>")
    inside, closed, _ = rest.partition(f"</{tag}>")
    return whole(inside) if opened and closed else None


# Answers


def exact_answer(*, answer: Extract = whole, reference: Extract = whole) -> Check:
    """A check: 1.0 when the answer is the reference, character by character, else 0.0.

    Runs of white space count as one space. Case and notation matter: for numbers take `numeric_answer`, for other
    tolerance an extractor of your own, used on both sides.

    Args:
        answer: takes it out of the final answer; None there: 0.0.
        reference: takes it out of `Group.reference`. None there, or a group without one, is a GroupError: a missing
            reference is no wrong answer.
    """
    return partial(_exact_answer, answer=answer, reference=reference)


def numeric_answer(*, answer: Extract = whole, reference: Extract = whole) -> Check:
    """A check: 1.0 when the answer is a number and equal to the reference, else 0.0.

    Numbers are compared exactly, whatever their length: 72, 72.0, +72 and $72 are equal, as are 1,234 and 1234. Read
    are decimal digits (of any script, but not ² or ½) with a sign, one of $ € £ in front, thousands in commas and a
    decimal point, as in English. Anything more, such as a unit, a percent sign or an exponent, makes it no number.

    Args:
        answer: as in `exact_answer`.
        reference: as in `exact_answer`; what is no number there is a GroupError.
    """
    return partial(_numeric_answer, answer=answer, reference=reference)


def integer_answer(*, answer: Extract = whole) -> Check:
    """A check: 1.0 when the answer is a whole number as `numeric_answer` reads it (72, -3, 72.0), else 0.0."""
    return partial(_integer_answer, answer=answer)


def matches(pattern: str | re.Pattern[str], *, fullmatch: bool = False, answer: Extract = whole) -> Check:
    """A check: 1.0 when the pattern is found in the final answer (or what `answer` takes out of it), else 0.0.

    The pattern is yours, and so is its running time: Python's `re` cannot be interrupted, and nested repeats such as
    `(a+)+b` take time exponential in text that the policy writes. Prefer one that can match in one way only.

    Args:
        pattern: text, or compiled where it needs flags.
        fullmatch: the pattern must match all of it.
        answer: None there: 0.0, whatever the pattern.

    Raises:
        ConfigError: not a pattern.
    """
    try:
        compiled = re.compile(pattern)
    except (re.error, TypeError, RecursionError) as error:
        raise ConfigError(f"pattern: not a regular expression: {pattern!r:.80}: {error}") from error
    if not isinstance(compiled.pattern, str):
        raise ConfigError(f"pattern: expected one for text, got {pattern!r:.80}")
    return partial(_matches, pattern=compiled, fullmatch=fullmatch, answer=answer)


def _reference(group: Group, extract: Extract) -> str:
    if group.reference is None:
        raise GroupError("reference: the group has none")
    found = extract(group.reference)
    if found is None:
        raise GroupError(f"reference: nothing to compare with in {group.reference!r:.80}")
    return found


def _exact_answer(rollout: Rollout, group: Group, *, answer: Extract, reference: Extract) -> float:
    right = _reference(group, reference)
    found = answer(final_answer(rollout))
    return float(found is not None and found.split() == right.split())


def _numeric_answer(rollout: Rollout, group: Group, *, answer: Extract, reference: Extract) -> float:
    right = _number(_reference(group, reference))
    if right is None:
        raise GroupError(f"reference: not a number: {_reference(group, reference)!r:.80}")
    found = answer(final_answer(rollout))
    return float(found is not None and _number(found) == right)


def _integer_answer(rollout: Rollout, group: Group, *, answer: Extract) -> float:
    found = answer(final_answer(rollout))
    number = None if found is None else _number(found)
    return float(number is not None and not number.fraction)


def _matches(rollout: Rollout, group: Group, *, pattern: re.Pattern[str], fullmatch: bool, answer: Extract) -> float:
    found = answer(final_answer(rollout))
    match = pattern.fullmatch if fullmatch else pattern.search
    return float(found is not None and match(found) is not None)


_NUMBER = re.compile(
    r"(?:(?P<sign>[-+−])?[$€£]?|[$€£](?P<inner_sign>[-+−]))"
    r"(?P<whole>\d{1,3}(?:,\d{3})+|\d*)(?:\.(?P<fraction>\d*))?"
)


class _Number(NamedTuple):
    """A number in one form. Digits and not an int: `int` takes quadratic time and refuses more than 4300 of them."""

    negative: bool
    whole: str
    fraction: str


def _number(text: str) -> _Number | None:
    match = _NUMBER.fullmatch(text.strip())
    if match is None or not (match["whole"] or match["fraction"]):
        return None
    before = _ascii_digits(match["whole"].replace(",", "")).lstrip("0")
    fraction = _ascii_digits(match["fraction"] or "").rstrip("0")
    negative = (match["sign"] or match["inner_sign"] or "+") != "+"
    return _Number(negative and bool(before or fraction), before, fraction)


def _ascii_digits(digits: str) -> str:
    return digits if digits.isascii() else "".join(str(unicodedata.decimal(digit)) for digit in digits)


# XML tags


def strict_tags(*tags: str) -> Check:
    r"""A check: 1.0 when the final answer is these sections, in this order, and nothing else; 0.0 otherwise.

    Each tag stands once and alone on its line, each section holds something, on one line or many:
    "<reasoning>\n…\n</reasoning>\n<answer>\n…\n</answer>". White space may follow the last tag.

    Raises:
        ConfigError: no tag, one twice, or not the name of a tag.
    """
    return partial(_strict_tags, tags=_check_tags(tags))


def soft_tags(*tags: str) -> Check:
    """A check: 1.0 when the final answer holds each of these sections once, in this order; 0.0 otherwise.

    Each section holds something; how lines break, and what stands outside the sections, does not matter.

    Raises:
        ConfigError: as `strict_tags`.
    """
    return partial(_soft_tags, tags=_check_tags(tags))


def count_tags(*tags: str, trailing_penalty: float = 0.0) -> Check:
    """A check: the share of these tags, opening and closing counted apart, that occur exactly once, in any order.

    Args:
        tags: names, without brackets.
        trailing_penalty: taken off for each character after the closing tag of the last name, white space at the end
            not counted; the value does not fall below 0.

    Raises:
        ConfigError: as `strict_tags`; a penalty that is negative or not finite.
    """
    _check_amount("trailing_penalty", trailing_penalty)
    return partial(_count_tags, tags=_check_tags(tags), trailing_penalty=trailing_penalty)


def _check_tags(tags: tuple[str, ...]) -> tuple[str, ...]:
    if not tags:
        raise ConfigError("tags: expected at least one name, got none")
    for at, tag in enumerate(tags):
        if not isinstance(tag, str) or not re.fullmatch(r"[^\W\d][\w.:-]*", tag):
            raise ConfigError(f"tags: expected a name such as 'answer', without brackets, got {tag!r:.80}")
        if tag in tags[:at]:
            raise ConfigError(f"tags: {tag!r} occurs twice")
    return tags


def _find_tags(text: str, tags: tuple[str, ...]) -> list[re.Match[str]]:
    # Found one by one and compared as a list: a pattern of several `.*?` takes polynomial time on what does not match.
    return list(re.finditer(f"</?(?:{'|'.join(map(re.escape, tags))})>", text))


def _sections(text: str, tags: tuple[str, ...]) -> list[str] | None:
    """The text between tags, 2 * len(tags) + 1 pieces; None unless each tag stands once, in order, around something."""
    found = _find_tags(text, tags)
    if [match[0] for match in found] != [tag for name in tags for tag in (f"<{name}>", f"</{name}>")]:
        return None
    starts = [0, *(match.end() for match in found)]
    ends = [*(match.start() for match in found), len(text)]
    pieces = [text[start:end] for start, end in zip(starts, ends, strict=True)]
    return pieces if all(piece.strip() for piece in pieces[1::2]) else None


def _strict_tags(rollout: Rollout, group: Group, *, tags: tuple[str, ...]) -> float:
    pieces = _sections(final_answer(rollout).replace("\r\n", "\n"), tags)
    if pieces is None:
        return 0.0
    before, *between, behind = pieces[::2]
    alone = all(piece.startswith("\n") and piece.endswith("\n") for piece in pieces[1::2])
    return float(alone and before == "" and all(piece == "\n" for piece in between) and not behind.strip())


def _soft_tags(rollout: Rollout, group: Group, *, tags: tuple[str, ...]) -> float:
    return float(_sections(final_answer(rollout), tags) is not None)


def _count_tags(rollout: Rollout, group: Group, *, tags: tuple[str, ...], trailing_penalty: float) -> float:
    text = final_answer(rollout)
    found = [match[0] for match in _find_tags(text, tags)]
    once = sum(found.count(tag) == 1 for name in tags for tag in (f"<{name}>", f"</{name}>"))
    _, closed, behind = text.rpartition(f"</{tags[-1]}>")
    trailing = len(behind.rstrip()) if closed else 0
    return max(0.0, once / (2 * len(tags)) - trailing_penalty * trailing)


# Length and tool use: a count within bounds


def answer_chars(*, at_least: int = 0, at_most: int | None = None, slope: float = 0.0) -> Check:
    """A check: 1.0 when the final answer has so many characters (code points), less when it has more or fewer.

    An empty answer has 0 of them, and so is within `at_most`.

    Args:
        at_least: the smallest count that is worth 1.0.
        at_most: the largest; None: no limit.
        slope: how far outside the value has fallen to 0.0, linearly; 0: at once.

    Raises:
        ConfigError: bounds that hold no count or all of them, or a slope that is negative or not finite.
    """
    return _counted(_num_answer_chars, at_least, at_most, slope)


def turns(*, at_least: int = 0, at_most: int | None = None, slope: float = 0.0) -> Check:
    """A check: 1.0 when the rollout has so many assistant messages; those of its sub-agents do not count.

    The arguments and errors are those of `answer_chars`.
    """
    return _counted(_num_turns, at_least, at_most, slope)


def tool_calls(*, tool: str | None = None, at_least: int = 0, at_most: int | None = None, slope: float = 0.0) -> Check:
    """A check: 1.0 when the rollout makes so many tool calls; those of its sub-agents do not count.

    `at_least=1` asks for a call, `at_most=0` for none.

    Args:
        tool: counts only calls of this tool; None: of any.
        at_least: as in `answer_chars`, as are the others and the errors.
        at_most: as in `answer_chars`.
        slope: as in `answer_chars`.
    """
    return _counted(partial(_num_tool_calls, tool=tool), at_least, at_most, slope)


def says_error(text: str) -> bool:
    """Whether a tool result opens as errors do: "Error: …", a Python traceback, or JSON whose first key is "error".

    The bare name of an exception ("ValueError: …") is not seen: tools that answer so need a function of their own.
    """
    return _ERROR.match(text.lstrip()) is not None


def tool_errors(*, at_most: int = 0, slope: float = 0.0, is_error: Callable[[str], bool] = says_error) -> Check:
    """A check: 1.0 when no more tool results than this are errors; 1.0 as well without any result.

    Args:
        at_most: as in `answer_chars`, as are slope and errors.
        slope: as in `answer_chars`.
        is_error: tells from the text of a result. Formats differ: give your own where `says_error` does not fit.
    """
    return _counted(partial(_num_tool_errors, is_error=is_error), 0, at_most, slope)


_ERROR = re.compile(
    r"error\b(?!-)|traceback \(most recent call last\)"
    r"|\{\s*\"error\"\s*:(?!\s*(?:null|false|\"\"|\[\]|\{\}))",
    re.IGNORECASE,
)


def _counted(count: Callable[[Rollout], int], at_least: int, at_most: int | None, slope: float) -> Check:
    for name, bound in (("at_least", at_least), ("at_most", at_most)):
        if bound is not None and (isinstance(bound, bool) or not isinstance(bound, int) or bound < 0):
            raise ConfigError(f"{name}: expected a whole number >= 0, got {bound!r:.80}")
    if at_most is None and at_least == 0:
        raise ConfigError("at_least, at_most: give one of them; every count is within the bounds")
    if at_most is not None and at_most < at_least:
        raise ConfigError(f"at_most: expected at_least ({at_least}) or more, got {at_most}")
    _check_amount("slope", slope)
    return partial(_within, count=count, at_least=at_least, at_most=at_most, slope=slope)


def _within(
    rollout: Rollout,
    group: Group,
    *,
    count: Callable[[Rollout], int],
    at_least: int,
    at_most: int | None,
    slope: float,
) -> float:
    counted = count(rollout)
    outside = max(at_least - counted, 0 if at_most is None else counted - at_most, 0)
    return 0.0 if outside and outside >= slope else 1.0 - outside / (slope or 1.0)


def _num_answer_chars(rollout: Rollout) -> int:
    return len(final_answer(rollout))


def _num_turns(rollout: Rollout) -> int:
    return sum(message.role == "assistant" for message in rollout.messages)


def _num_tool_calls(rollout: Rollout, *, tool: str | None) -> int:
    return sum(tool in (None, call.name) for message in rollout.messages for call in message.tool_calls)


def _num_tool_errors(rollout: Rollout, *, is_error: Callable[[str], bool]) -> int:
    return sum(is_error(_text(message)) for message in rollout.messages if message.role == "tool")


# The rest


def finished(rollout: Rollout, group: Group) -> float:
    """0.0 when the rollout ended for its length (finish reason "length"), else 1.0; also when the reason is unknown."""
    return float(rollout.finish_reason != "length")


def negated(check: Check) -> Check:
    """A check: 1.0 minus the value of another; for a gate on what must not be there."""
    return partial(_negated, check=check)


def _negated(rollout: Rollout, group: Group, *, check: Check) -> float:
    return 1.0 - check(rollout, group)


def _check_amount(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ConfigError(f"{name}: expected a finite number >= 0, got {value!r:.80}")
