"""The tool calls of a customer-service rollout, each with what a rule wants to know of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.rules.reading import text_of, word_set, words
from ruler.rules import says_error
from ruler.types import Group, Rollout

HAND_OVER = "transfer_to_human_agents"
_READING = ("get_", "find_", "list_", "search_", "check_", "can_", "run_", "calculate", "think", "transfer_")
_YES = word_set(
    "yes yeah yep yup sure ok okay confirm confirmed confirming proceed correct agree agreed absolutely "
    "definitely fine perfect great please"
)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call."""

    name: str
    text: str
    """The arguments as written."""
    arguments: dict[str, object]
    """The arguments read from JSON; empty where they are no object."""
    failed: bool
    """Its result is an error."""
    confirmed: bool
    """The user's latest message before it holds a word of consent; also when no user speaks in the rollout."""


def writes(name: str) -> bool:
    """Whether a tool changes something, to tell from its name."""
    return not name.startswith(_READING)


def calls_of(rollout: Rollout) -> list[Call]:
    """All calls in order."""
    calls: list[Call] = []
    first = 0
    said: str | None = None
    for message in rollout.messages:
        if message.role == "user":
            said = text_of(message)
        elif message.role == "assistant" and message.tool_calls:
            consent = said is None or not _YES.isdisjoint(words(said))
            first = len(calls)
            for call in message.tool_calls:
                calls.append(Call(call.name, call.arguments, _object(call.arguments), False, consent))
        elif message.role == "tool" and message.answers is not None and says_error(text_of(message)):
            place = first + message.answers
            if place < len(calls):
                call_made = calls[place]
                calls[place] = Call(call_made.name, call_made.text, call_made.arguments, True, call_made.confirmed)
    return calls


def known_ids(rollout: Rollout, group: Group) -> Iterator[bool]:
    """For each id in a writing call (a word with a digit, no date): whether task, user or a tool had said it before."""
    seen = {word for message in group.task for word in words(text_of(message))}
    for message in rollout.messages:
        if message.role != "assistant":
            seen.update(words(text_of(message)))
            continue
        for call in message.tool_calls:
            if writes(call.name):
                ids = filter(_is_id, _texts(_object(call.arguments)))
                yield from (seen.issuperset(words(value)) for value in ids)


def _is_id(value: str) -> bool:
    return (
        len(value) > 3 and bool(re.search(r"\d", value)) and not re.search(r"\s", value) and not _DATE.fullmatch(value)
    )


def _texts(value: object) -> Iterator[str]:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


def _object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
