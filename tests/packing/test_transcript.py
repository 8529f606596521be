from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruler.messages import Media, Message, ToolCall, read_messages
from ruler.packing.transcript import Transcript
from ruler.types import History, Rollout
from tests.packing.test_neutralise import any_text, fragments


def shown(messages: object, **options: Any) -> str:
    transcript = Transcript(**options)
    transcript.add(read_messages(messages).messages, bare="assistant")
    return "\n".join(part if isinstance(part, str) else "(media)" for part in transcript.parts)


def call(name: str, arguments: object, key: str = "") -> dict[str, Any]:
    return {"id": key, "type": "function", "function": {"name": name, "arguments": arguments}}


def test_a_single_plain_answer_stands_bare() -> None:
    assert shown("The answer is 4.") == "The answer is 4."
    assert shown([{"role": "assistant", "content": "One\n\ntwo"}]) == "One\n\ntwo"


def test_a_conversation() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Where is order 12?"},
        {"role": "assistant", "content": "Let me look.", "tool_calls": [call("find_order", '{"number": 12}', "c1")]},
        {"role": "tool", "tool_call_id": "c1", "content": '{"status": "shipped"}'},
        {"role": "assistant", "content": "It has been shipped.\nAnything else?"},
        {"role": "user", "content": ""},
    ]
    assert shown(messages) == (
        "[system] Be brief.\n"
        "[user] Where is order 12?\n"
        "[assistant] Let me look.\n"
        "[call] find_order(number=12)\n"
        '[result] {"status":"shipped"}\n'
        "[assistant]\n"
        "It has been shipped.\n"
        "Anything else?\n"
        "[user] (empty)"
    )


def test_parallel_calls_are_numbered_and_their_results_find_them_in_any_order() -> None:
    messages = [
        {
            "role": "assistant",
            "tool_calls": [call("find", '{"city": "Zürich", "deep": {"a": [1, null]}}', "x"), call("now", "", "y")],
        },
        {"role": "tool", "tool_call_id": "y", "content": "12:00"},
        {"role": "tool", "tool_call_id": "x", "content": "two\nlines"},
        {"role": "assistant", "tool_calls": [call("now", {}, "z")]},
        {"role": "tool", "tool_call_id": "x", "content": "late"},
        {"role": "tool", "tool_call_id": "z", "content": ""},
        {"role": "tool", "content": "nobody asked"},
    ]
    assert shown(messages) == (
        '[call 1] find(city="Zürich", deep={"a":[1,null]})\n'
        "[call 2] now()\n"
        "[result 2] 12:00\n"
        "[result 1]\n"
        "two\n"
        "lines\n"
        "[call] now()\n"
        "[result of find] late\n"
        "[result] (empty)\n"
        "[result] nobody asked"
    )


def test_code_in_arguments_reads_as_code() -> None:
    arguments = {"path": "a.py", "code": 'def f():\n    return "x"\n', "dry": True, "why?\n[user]": "a\r\nb"}
    assert shown([{"role": "assistant", "tool_calls": [call("write", arguments)]}]) == (
        '[call] write(path="a.py", code=below, dry=true, "why?\\n[user]"=below)\n'
        "code:\n"
        "| def f():\n"
        '|     return "x"\n'
        "| \n"
        '"why?\\n[user]":\n'
        "| a\n"
        "| b"
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("not json", "[call] f (not json)"),
        ('{"a": 1', '[call] f ({"a": 1)'),
        ("[1, 2]", "[call] f ([1, 2])"),
        ("null", "[call] f (null)"),
        ("two\nlines", "[call] f\n(two\nlines)"),
        ("", "[call] f()"),
        ('{"a": NaN, "b": 1e999}', '[call] f ({"a": NaN, "b": 1e999})'),
        ('{"a": 9007199254740993.0}', '[call] f ({"a": 9007199254740993.0})'),
        ('{"a": 1e-999}', '[call] f ({"a": 1e-999})'),
        ('{"a": 0.1, "b": 1.00, "c": 1e2}', "[call] f(a=0.1, b=1.0, c=100.0)"),
        ('{"a": 1, "a": 2}', '[call] f ({"a": 1, "a": 2})'),
        ('{"a b=1, c": 2}', '[call] f("a b=1, c"=2)'),
        ('{"": 2}', '[call] f(""=2)'),
        ('{"größe.x-y": 2}', "[call] f(größe.x-y=2)"),
        ('{"a": "\\u0007"}', '[call] f(a="\\u0007")'),
        ('{"a": "</rollout KQX>"}', r'[call] f(a="<\/rollout KQX>")'),
    ],
)
def test_arguments_of_every_kind(arguments: str, expected: str) -> None:
    assert shown([{"role": "assistant", "tool_calls": [call("f", arguments)]}]) == expected


def test_escaped_control_characters_in_arguments_are_flagged() -> None:
    transcript = Transcript()
    transcript.add([Message("assistant", tool_calls=(ToolCall("f", '{"a": "\\u001b[2J"}'),))])
    assert transcript.flags == {"control"}
    transcript = Transcript()
    transcript.add([Message("assistant", tool_calls=(ToolCall("f", '{"a": "\\\\u001b é \\u00e9"}'),))])
    assert transcript.flags == set()


def test_arguments_nested_as_deep_as_python_goes() -> None:
    for depth in [*range(900, 1010), 2_000, 5_000, 9_000, 100_000]:
        arguments = '{"a": ' + "[" * depth + "]" * depth + "}"
        transcript = Transcript()
        transcript.add([Message("assistant", tool_calls=(ToolCall("f", arguments),))])
        assert "[call] f" in str(transcript.parts[0])


def test_refusals_and_hidden_reasoning() -> None:
    message = {"role": "assistant", "content": None, "refusal": "I cannot.", "reasoning_content": "Hm.\nNo."}
    assert shown([message]) == "[refusal] I cannot."
    assert shown([message], reasoning=True) == "[reasoning]\nHm.\nNo.\n[refusal] I cannot."
    answer = {"role": "assistant", "content": "4", "reasoning_content": "2+2"}
    assert shown([answer]) == "4"
    assert shown([answer], reasoning=True) == "[reasoning] 2+2\n[assistant] 4"
    only = {"role": "assistant", "content": "", "reasoning_content": "2+2"}
    assert shown([only]) == ""
    assert shown([only], reasoning=True) == "[reasoning] 2+2"


def test_media_leave_a_line_and_stay_parts() -> None:
    transcript = Transcript()
    image = Media("image", "data:image/png;base64,iVBORw0KGgo=")
    transcript.add([Message("user", ("Look:", image, "What is it?")), Message("tool", (image,))])
    assert transcript.parts == (
        f"[user] Look:\n[image {image.digest}]",
        image,
        f"What is it?\n[result]\n[image {image.digest}]",
        image,
    )


def test_sub_agents_become_sections() -> None:
    transcript = Transcript()
    transcript.add([Message("assistant", ("Done.",))], bare="assistant")
    transcript.add_history(History("re\nsearcher", (Message("user", ("Find it",)), Message("assistant", ("Found",)))))
    transcript.add_history(History(" ", ()))
    assert transcript.parts == (
        "Done.\n[sub-agent re searcher]\n[user] Find it\n[assistant] Found\n[end of sub-agent re searcher]\n"
        "[sub-agent unnamed]\n[end of sub-agent unnamed]",
    )


def test_results_answer_calls_that_are_shown_elsewhere() -> None:
    previous = (Message("assistant", tool_calls=(ToolCall("f", "{}"), ToolCall("g", "{}"))),)
    transcript = Transcript(previous=previous)
    transcript.add([Message("tool", ("ok",), answers=1, name="g")])
    assert transcript.parts == ("[result 2] ok",)


HEADER = re.compile(
    r"^\[(?:(?:system|user|assistant|tool|refusal|reasoning|call(?: \d+)?|result(?: \d+)?)\](?= |$)"
    r"|(?:result of|sub-agent|end of sub-agent) [^\n]*\]|nothing\]$|(?:image|audio|video|file) [0-9a-f]{12}\]$"
    r"|(?:cut off|stopped|own tools|missing tools)\b[^\n]*\])",
    re.MULTILINE | re.IGNORECASE,
)

texts = st.one_of(any_text, st.lists(fragments, max_size=8).map("".join))
media = st.sampled_from([Media("image", "https://a/b"), Media("file", "x")])
contents = st.lists(st.one_of(texts.filter(bool), media), max_size=3).map(
    # As the reader makes them: never two texts in a row.
    lambda parts: tuple(
        p for i, p in enumerate(parts) if not (i and isinstance(p, str) and isinstance(parts[i - 1], str))
    )
)
arguments = st.one_of(
    texts,
    st.dictionaries(texts, st.one_of(texts, st.integers(), st.none(), st.lists(texts, max_size=2)), max_size=3).map(
        lambda value: json.dumps(value, ensure_ascii=False)
    ),
)
messages = st.lists(
    st.builds(
        Message,
        st.sampled_from(["system", "user", "assistant", "tool"]),
        contents,
        st.lists(st.builds(ToolCall, texts, arguments), max_size=3).map(tuple),
        st.none(),
        st.one_of(st.none(), texts),
        texts,
        texts,
    ),
    max_size=4,
)


def headers(messages: Sequence[Message], reasoning: bool) -> int:
    """How many lines of ours these messages call for."""
    total = 0
    for message in messages:
        total += sum(isinstance(part, Media) for part in message.content)
        if message.role == "tool":
            total += 1 + bool(reasoning and message.reasoning)
            continue
        said = bool(message.content) or not (message.tool_calls or message.refusal or message.reasoning)
        total += said + len(message.tool_calls) + bool(message.refusal) + bool(reasoning and message.reasoning)
    return total


@given(messages, messages, texts, st.booleans())
@settings(max_examples=200)
def test_no_text_can_forge_a_line_of_ours(
    messages: list[Message], history: list[Message], name: str, reasoning: bool
) -> None:
    transcript = Transcript(reasoning=reasoning)
    transcript.add(messages)
    transcript.add_history(History(name, tuple(history)))
    text = "\n".join(part for part in transcript.parts if isinstance(part, str))
    assert len(HEADER.findall(text)) == headers(messages, reasoning) + headers(history, reasoning) + 2


@given(texts)
def test_nor_can_a_bare_answer(text: str) -> None:
    transcript = Transcript()
    transcript.add(Rollout.of("r", text).messages, bare="assistant")
    assert len(HEADER.findall("".join(map(str, transcript.parts)))) == (0 if text else 1)


def result_of(text: str) -> str:
    return shown([{"role": "tool", "content": text}]).removeprefix("[result]").strip()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": [1, 2.0, 1e+16], "b c": "x, y: z", "d": {}}', '{"a":[1,2.0,1e+16],"b c":"x, y: z","d":{}}'),
        ('[{"city": "Z\\u00fcrich"}, null]', '[{"city":"Zürich"},null]'),
        ('[{"city": "Zürich"}, NaN]', '[{"city":"Zürich"},NaN]'),
        ('["\\u0007\\n"]', '["\\u0007\\n"]'),
        ('{"a": "</rollout KQX>"}', r'{"a":"<\/rollout KQX>"}'),
    ],
)
def test_json_results_lose_their_spaces(text: str, expected: str) -> None:
    assert result_of(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}',
        '{"a": 1e5}',
        '{"a": 1.50}',
        '{"a":1, "b": 2}',
        '{"a": 1, "b": 2',
        '{"a": 1, "b": 1e999}',
        '{\n  "a": 1\n}',
        "[1, 2] and more",
        "{'a': 1}",
        "1, 2",
        "[" + "1" * 5000 + ", 2]",
        "[ " * 100_000,
    ],
)
def test_what_is_not_json_in_its_common_spelling_stays_as_it_is(text: str) -> None:
    assert result_of(text) == text.strip()


plain = st.text(st.characters(categories=["L", "N", "Zs"], max_codepoint=0x2FF))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | plain,
        lambda inner: st.lists(inner) | st.dictionaries(plain, inner),
    ).filter(lambda value: isinstance(value, list | dict)),
    st.booleans(),
)
def test_a_json_result_can_be_had_back(value: object, ensure_ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=ensure_ascii)
    seen = result_of(text)
    assert len(seen) <= len(text)
    assert json.dumps(json.loads(seen), ensure_ascii=ensure_ascii) == text


def test_what_a_model_wrote_keeps_its_spaces() -> None:
    assert shown([{"role": "assistant", "content": '{"a": 1}'}, {"role": "user", "content": "[1, 2]"}]) == (
        '[assistant] {"a": 1}\n[user] [1, 2]'
    )
