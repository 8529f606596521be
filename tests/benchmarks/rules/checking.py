"""A check's value on a rollout made up for it."""

from __future__ import annotations

from typing import Any

from ruler.rules import Check
from ruler.types import Group, Rollout


def value(check: Check, messages: object, *, task: object = "?", reference: object = None) -> float:
    """The check's value; `messages` and `task` as `Rollout.of` and `Group.of` take them."""
    rollout = Rollout.of("r", messages)
    found = check(rollout, Group.of([rollout], task=task, reference=reference))
    assert type(found) is float
    assert 0.0 <= found <= 1.0
    return found


def says(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def hears(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}
