"""Tool definitions as one line each: `- find_order(number: integer, city?: "Rome"|"Oslo"): what it does`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from ruler.messages import Tool
from ruler.packing.neutralise import neutralise


def describe(tools: Iterable[Tool]) -> str:
    """One line a tool: its name, its parameters with types (`?` marks optional ones), its description."""
    return "\n".join(_describe(tool) for tool in tools)


def split(own: Sequence[Sequence[Tool]]) -> tuple[list[Tool], list[tuple[list[Tool], list[str]]]]:
    """The tools of all rollouts, and per rollout what it had besides and which names of others it lacked.

    A tool is common when every rollout has it with the same definition. The order is that of the lists where they
    agree, and the same for every order of rollouts.
    """
    first: dict[Tool, int] = {}
    for tools in own:
        for place, tool in enumerate(tools):
            first[tool] = min(place, first.get(tool, place))
    everything = sorted(first, key=lambda tool: (first[tool], tool.name, tool.description, tool.parameters))
    held = [set(tools) for tools in own]
    common = [tool for tool in everything if all(tool in tools for tools in held)]
    shared = set(common)
    names = list(dict.fromkeys(tool.name for tool in everything))
    differences = []
    for tools in own:
        present = {tool.name for tool in tools}
        differences.append(
            ([tool for tool in tools if tool not in shared], [name for name in names if name not in present])
        )
    return common, differences


def _describe(tool: Tool) -> str:
    try:
        schema: Any = json.loads(tool.parameters) if tool.parameters else {}
    except (ValueError, RecursionError):
        schema = {}
    schema = schema if isinstance(schema, dict) else {}
    properties = schema.get("properties")
    required = schema.get("required")
    required = required if isinstance(required, list) else []
    parameters = [
        f"{name}{'' if name in required else '?'}: {_type(value)}"
        for name, value in (properties if isinstance(properties, dict) else {}).items()
    ]
    description = f": {' '.join(tool.description.split())}" if tool.description else ""
    return neutralise(f"- {tool.name}({', '.join(parameters)}){description}")[0].replace("\n", " ")


_MAX_ARRAY_DEPTH = 8


def _type(schema: object, depth: int = 0) -> str:
    if not isinstance(schema, dict) or depth > _MAX_ARRAY_DEPTH:
        return "any"
    values = schema.get("enum")
    if isinstance(values, list) and values:
        return "|".join(_value(value) for value in values)
    kind = schema.get("type", "any")
    if kind == "array":
        return f"{_type(schema.get('items'), depth + 1)}[]"
    return "|".join(map(_word, kind)) if isinstance(kind, list) and kind else _word(kind)


def _word(kind: object) -> str:
    return kind if isinstance(kind, str) else "any"


def _value(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "…"
