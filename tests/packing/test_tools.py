from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruler.messages import Tool, read_tools
from ruler.packing.tools import describe, split
from tests.packing.test_neutralise import any_text


def line(parameters: object, description: str = "", name: str = "f") -> str:
    return describe([Tool(name, description, json.dumps(parameters) if parameters is not None else "")])


def test_a_tool_is_one_line() -> None:
    tools = read_tools(
        [
            {
                "type": "function",
                "function": {
                    "name": "find_order",
                    "description": "Finds an order.\n  Slow.",
                    "parameters": {
                        "type": "object",
                        "properties": {
                            "number": {"type": "integer"},
                            "city": {"type": "string", "enum": ["Rome", "Oslo", None, 1]},
                            "tags": {"type": "array", "items": {"type": "string"}},
                            "limit": {"type": ["integer", "null"]},
                        },
                        "required": ["number"],
                    },
                },
            },
            {"name": "now"},
        ]
    )
    assert describe(tools) == (
        '- find_order(number: integer, city?: "Rome"|"Oslo"|null|1, tags?: string[], limit?: integer|null): '
        "Finds an order. Slow.\n"
        "- now()"
    )


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (None, "- f()"),
        ([], "- f()"),
        ("text", "- f()"),
        (3, "- f()"),
        ({"properties": []}, "- f()"),
        ({"properties": {"a": True}, "required": "a"}, "- f(a?: any)"),
        ({"properties": {"a": {"$ref": "#/x"}}, "required": ["a", {}, []]}, "- f(a: any)"),
        ({"properties": {"a": {"type": "array"}}}, "- f(a?: any[])"),
        ({"properties": {"a": {"type": "array", "items": [1]}}}, "- f(a?: any[])"),
        ({"properties": {"a": {"type": {"x": 1}}}}, "- f(a?: any)"),
        ({"properties": {"a": {"type": []}}}, "- f(a?: any)"),
        ({"properties": {"a": {"type": None}}}, "- f(a?: any)"),
        ({"properties": {"a": {"enum": [[1], {"b": 2}]}}}, '- f(a?: [1]|{"b": 2})'),
        ({"properties": {"a": {"enum": []}}}, "- f(a?: any)"),
        ({"properties": {"": {}, "a\nb": {}}}, "- f(?: any, a b?: any)"),
    ],
)
def test_odd_schemas(parameters: object, expected: str) -> None:
    assert line(parameters) == expected


def test_text_that_is_no_json_is_no_schema() -> None:
    assert describe([Tool("f", "d", "{broken")]) == "- f(): d"
    assert describe([Tool("f", "d", "[" * 100_000)]) == "- f(): d"


@pytest.mark.parametrize("kind", ["array", "enum"])
def test_schemas_nested_as_deep_as_python_goes(kind: str) -> None:
    for depth in [*range(200, 1000, 7), *range(960, 1000), 2_000, 5_000, 9_000]:
        if kind == "array":
            inner = '{"type": "array", "items": ' * depth + "{}" + "}" * depth
        else:
            inner = '{"enum": [' + "[" * depth + "]" * depth + "]}"
        assert describe([Tool("f", "", '{"properties": {"a": ' + inner + "}}")]).startswith("- f(")


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), any_text),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(st.sampled_from(["type", "properties", "required", "items", "enum", "anyOf"]), any_text),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


@given(any_text, any_text, json_values)
def test_no_tool_breaks_its_line(name: str, description: str, schema: Any) -> None:
    shown = describe([Tool(name, description, json.dumps(schema)), Tool("last")])
    assert shown.count("\n") == 1
    assert shown.startswith("- ")
    shown.encode("utf-8")


A, B, B2, C = Tool("a"), Tool("b"), Tool("b", "other"), Tool("c")


def test_what_all_have_is_common_and_the_rest_is_told_per_rollout() -> None:
    assert split([[A, B], [A, B]]) == ([A, B], [([], []), ([], [])])
    assert split([[A, B], [A, B2], [A], []]) == (
        [],
        [([A, B], []), ([A, B2], []), ([A], ["b"]), ([], ["a", "b"])],
    )
    assert split([[A, B, C], [C, A, B2]]) == ([A, C], [([B], []), ([B2], [])])
    assert split([[]]) == ([], [([], [])])


def test_the_same_list_twice_over_is_kept_in_its_order() -> None:
    assert split([[C, A, B]] * 3)[0] == [C, A, B]


@given(st.lists(st.lists(st.sampled_from([A, B, B2, C]), unique=True), min_size=1, max_size=5), st.randoms())
def test_arrival_leaves_no_trace(own: list[list[Tool]], generator: random.Random) -> None:
    order = list(range(len(own)))
    generator.shuffle(order)
    common, differences = split(own)
    shuffled_common, shuffled = split([own[i] for i in order])
    assert shuffled_common == common
    assert shuffled == [differences[i] for i in order]
