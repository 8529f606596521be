"""What rules read: messages as text, the fields of a reference, words; all in time linear in the text."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Hashable, Iterable

from ruler.errors import GroupError
from ruler.messages import Message
from ruler.types import Group


def text_of(message: Message) -> str:
    """The message's text parts, joined by newlines; media and reasoning are left out."""
    return "\n".join(part for part in message.content if isinstance(part, str))


def request_of(group: Group) -> str:
    """What the user asked: the text of the task's last user message, "" without one."""
    return next((text_of(message) for message in reversed(group.task) if message.role == "user"), "")


def reference_field(group: Group, name: str, *, until: str | None = None) -> str:
    """The text of one field of the reference, which stands as "name: text"; the whole reference if no line begins so.

    Args:
        group: its reference is read.
        name: the field.
        until: the name of the field after it, where there is one; else it goes on to the end.

    Raises:
        GroupError: the group has no reference.
    """
    if group.reference is None:
        raise GroupError("reference: the group has none")
    _, found, rest = f"\n{group.reference}".partition(f"\n{name}: ")
    text = rest if found else group.reference
    return text.partition(f"\n{until}: ")[0] if until else text


def reference_json(group: Group, name: str) -> object:
    """The value of a field that stands as "name: JSON" on one line, the last such line; None without one.

    Raises:
        GroupError: the group has no reference, or the line is not JSON.
    """
    if group.reference is None:
        raise GroupError("reference: the group has none")
    _, found, rest = f"\n{group.reference}".rpartition(f"\n{name}: ")
    if not found:
        return None
    try:
        value: object = json.loads(rest.partition("\n")[0])
    except (ValueError, RecursionError) as error:
        raise GroupError(f"reference: {name}: not JSON: {error}") from error
    return value


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores, in lower case."""
    return re.findall(r"\w+", text.lower())


def word_set(text: str) -> frozenset[str]:
    """The words between white space."""
    return frozenset(text.split())


def share(found: Iterable[bool], *, of_none: float = 1.0) -> float:
    """Which share is true, in [0, 1]; `of_none` where there is nothing to look at."""
    values = list(found)
    return sum(values) / len(values) if values else of_none


def falling(value: float, *, full: float, none: float) -> float:
    """1.0 up to `full`, 0.0 from `none` on, linear between."""
    return min(1.0, max(0.0, (none - value) / (none - full)))


def overlap(found: Iterable[Hashable], expected: Iterable[Hashable]) -> float:
    """F1 of two multisets: 2 × common / (both sizes), in [0, 1]; 1.0 when both are empty."""
    a, b = Counter(found), Counter(expected)
    size = a.total() + b.total()
    return 2 * (a & b).total() / size if size else 1.0
