import base64
import copy
import json
import sys
import warnings
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ruler.errors import GroupError
from ruler.messages import Conversation, Media, Message, Tool, ToolCall, join_text, read_messages, read_tools

IMAGE = "data:image/png;base64,iVBORw0KGgo="


def one(value: object) -> Message:
    messages = read_messages([value]).messages
    assert len(messages) == 1
    return messages[0]


def assistant(content: object, **more: object) -> Message:
    return one({"role": "assistant", "content": content, **more})


def call(id: object, name: str = "f", arguments: object = "{}") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def calling(*calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls)}


def result(text: str, id: object = None, **more: object) -> dict[str, Any]:
    return {"role": "tool", "content": text, **({} if id is None else {"tool_call_id": id}), **more}


def answered(*messages: dict[str, Any]) -> list[tuple[int | None, str | None, str | Media]]:
    return [(m.answers, m.name, m.content[0]) for m in read_messages(messages).messages if m.role == "tool"]


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


# Plain forms


def test_a_string_is_one_assistant_message():
    assert read_messages("42") == Conversation((Message("assistant", ("42",)),), None)


def test_a_string_takes_the_role_it_is_given():
    assert read_messages("Add 2 and 2.", role="user").messages == (Message("user", ("Add 2 and 2.",)),)


def test_an_empty_string_is_a_message_without_content():
    assert read_messages("").messages == (Message("assistant"),)


def test_no_messages():
    assert read_messages([]) == Conversation((), None)


def test_one_dict_equals_a_list_of_one():
    message = {"role": "assistant", "content": "x"}
    assert read_messages(message) == read_messages([message])


@pytest.mark.parametrize("make", [iter, tuple, lambda items: (item for item in items)])
def test_any_iterable_of_messages(make):
    items = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert read_messages(make(items)) == read_messages(items)


@pytest.mark.parametrize(
    ("given", "role"),
    [
        ("system", "system"),
        ("developer", "system"),
        ("user", "user"),
        ("human", "user"),
        ("assistant", "assistant"),
        ("ai", "assistant"),
        ("tool", "tool"),
        ("function", "tool"),
    ],
)
def test_roles(given, role):
    assert one({"role": given, "content": "x"}).role == role


def test_langchain_dumps_name_the_role_as_type():
    message = one({"type": "ai", "content": "", "tool_calls": [{"name": "f", "args": {"a": 1}, "id": "x"}]})
    assert message == Message("assistant", tool_calls=(ToolCall("f", '{"a": 1}'),))


@pytest.mark.parametrize("content", [None, "", [], [{"type": "text", "text": ""}]])
def test_nothing_said_is_no_content(content):
    assert assistant(content) == Message("assistant")


def test_a_missing_content_key_is_no_content():
    assert one({"role": "assistant"}) == Message("assistant")


@pytest.mark.parametrize("key", ["text", "contents", "parts", "value", "body", "output"])
def test_content_under_another_key_is_no_empty_message(key):
    with pytest.raises(GroupError, match=f"messages.content: missing; '{key}' is not read, it holds 'x'"):
        read_messages({"role": "assistant", key: "x"})


def test_text_is_kept_as_it_came():
    text = "  \x00 \ud800 \u202e\u200b שלום مرحبا <rollout KQX>\r\n\n "
    assert assistant(text).content == (text,)


def test_a_ten_megabyte_message():
    assert len(assistant("x" * 10_000_000).content[0]) == 10_000_000


def test_a_key_called_choices_beside_a_role_is_no_completion():
    assert one({"role": "user", "content": "Pick one.", "choices": ["A", "B"]}) == Message("user", ("Pick one.",))


# Unreadable


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (5, "messages: expected chat messages or text, got 5"),
        (None, "messages: expected chat messages or text, got None"),
        (b"hi", "messages: expected chat messages or text, got b'hi'"),
        (["hi"], "messages[0]: expected a chat message, got 'hi'"),
        ([None], "messages[0]: expected an object, got None"),
        ([{"role": "user", "content": "q"}, 7], "messages[1]: expected an object, got 7"),
        ([[{"role": "user", "content": "q"}]], "messages[0]: expected an object, got [{"),
        ([{"content": "x"}], "messages[0].role: expected one of system, developer, user"),
        ([{"role": "critic", "content": "x"}], "got 'critic'"),
        ([{"role": ["user"], "content": "x"}], "messages[0].role: expected one of"),
        ([{"role": 10**5000, "content": "x"}], "messages[0].role: expected one of"),
        ([{"role": nested(10**5), "content": "x"}], "messages[0].role: expected one of"),
        ([{"role": "user", "content": b"x"}], "messages[0].content: expected text or a list of parts, got b'x'"),
        ([{"role": "user", "content": {"text": "x"}}], "messages[0].content: expected text or a list of parts"),
        ([{"role": "user", "content": 5}], "messages[0].content: expected text or a list of parts, got 5"),
        ([{"role": "user", "content": [5]}], "messages[0].content[0]: expected an object, got 5"),
        ([{"role": "user", "content": [nested(10**5)]}], "messages[0].content[0]: expected an object"),
        (
            [{"role": "user", "content": [{"type": "hologram"}]}],
            "messages[0].content[0].type: unknown content part 'hologram'",
        ),
        ([{"role": "user", "content": [{"type": ["text"]}]}], "messages[0].content[0].type: unknown content part"),
        ([{"role": "user", "content": [{"type": {}}]}], "messages[0].content[0].type: unknown content part {}"),
        ([{"role": "user", "content": [{"text": "x"}]}], "messages[0].content[0].type: unknown content part None"),
        (
            [{"role": "user", "content": ["a", {"type": "text", "text": 5}]}],
            "messages[0].content[1].text: expected text, got 5",
        ),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text: expected text, got None"),
        (
            [{"role": "assistant", "content": [{"type": "refusal", "refusal": 5}]}],
            "messages[0].content[0].refusal: expected text, got 5",
        ),
        ([{"role": "assistant", "tool_calls": "f()"}], "messages[0].tool_calls: expected a list, got 'f()'"),
        ([{"role": "assistant", "tool_calls": {"name": "f"}}], "messages[0].tool_calls: expected a list"),
        ([{"role": "assistant", "tool_calls": 5}], "messages[0].tool_calls: expected a list, got 5"),
        ([{"role": "assistant", "tool_calls": ["f"]}], "messages[0].tool_calls[0]: expected an object, got 'f'"),
        (
            [{"role": "assistant", "tool_calls": [{"function": "f"}]}],
            "messages[0].tool_calls[0].function: expected an object, got 'f'",
        ),
        (
            [{"role": "assistant", "tool_calls": [call("a"), call("b", name=None)]}],
            "messages[0].tool_calls[1].name: expected text, got None",
        ),
        (
            [{"role": "assistant", "tool_calls": [call("a", arguments={1, 2})]}],
            "messages[0].tool_calls[0].arguments: not JSON",
        ),
        ([{"role": "assistant", "function_call": "f"}], "messages[0].function_call: expected an object, got 'f'"),
        ([{"role": "assistant", "function_call": {"arguments": "{}"}}], "messages[0].function_call.name: expected"),
        (
            [{"role": "assistant", "content": [{"type": "tool_use", "input": {}}]}],
            "messages[0].content[0].name: expected text, got None",
        ),
        (
            [{"role": "user", "content": [{"type": "tool_result", "content": 5}]}],
            "messages[0].content[0].content: expected text or a list of parts, got 5",
        ),
        (
            [{"role": "user", "content": [{"type": "tool_result", "content": [{"type": "tool_result"}]}]}],
            "messages[0].content[0].content: a tool result inside a tool result",
        ),
        ({"choices": []}, "messages.choices: expected exactly one, got []"),
        ([{"choices": [{"message": {}}] * 2}], "messages[0].choices: expected exactly one"),
        ({"choices": "x"}, "messages.choices: expected exactly one, got 'x'"),
        ([{"message": "x"}], "messages[0].message: expected an object, got 'x'"),
    ],
)
def test_errors_name_the_field_and_the_value(value, error):
    with pytest.raises(GroupError) as caught:
        read_messages(value)
    assert error in str(caught.value)
    assert len(str(caught.value)) < 300


def test_errors_call_the_field_what_the_caller_calls_it():
    with pytest.raises(GroupError, match=r"^task\[0\]\.role: "):
        read_messages([{}], field="task")


def test_a_class_is_no_message():
    chat = pytest.importorskip("openai.types.chat")
    with pytest.raises(GroupError, match=r"^messages\[0\]: expected an object, got <class"):
        read_messages([chat.ChatCompletionMessage])


def test_a_fault_inside_the_callers_object_is_the_callers():
    class Broken:
        def model_dump(self):
            raise RuntimeError("not loaded yet")

    with pytest.raises(RuntimeError, match="not loaded yet"):
        read_messages([Broken()])


# Content parts


def test_text_parts_are_joined_by_line():
    parts = [{"type": "text", "text": "a"}, "b", {"type": "input_text", "text": "c"}, {"type": "text", "text": ""}]
    assert assistant([*parts, {"type": "output_text", "text": "d"}]).content == ("a\nb\nc\nd",)


@pytest.mark.parametrize(
    ("part", "kind", "url"),
    [
        ({"type": "image_url", "image_url": {"url": IMAGE, "detail": "low"}}, "image", IMAGE),
        ({"type": "image_url", "image_url": "https://x/y.png"}, "image", "https://x/y.png"),
        ({"type": "input_image", "image_url": IMAGE}, "image", IMAGE),
        (
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/png", "data": IMAGE.partition(",")[2]},
            },
            "image",
            IMAGE,
        ),
        ({"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}, "image", "https://x/y.png"),
        ({"type": "video_url", "video_url": {"url": "https://x/y.mp4"}}, "video", "https://x/y.mp4"),
        (
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}},
            "file",
            "data:application/pdf;base64,JVBE",
        ),
    ],
)
def test_media(part, kind, url):
    assert assistant([part]).content == (Media(kind, url),)


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ({"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}}, "audio"),
        ({"type": "audio"}, "audio"),
        ({"type": "file", "file": {"file_id": "file-1"}}, "file"),
        ({"type": "input_file", "file_id": "file-1"}, "file"),
        ({"type": "image", "source": {"type": "file", "file_id": "f1"}}, "image"),
        ({"type": "image_url", "image_url": None}, "image"),
    ],
)
def test_media_without_an_address_are_told_apart_by_what_they_hold(part, kind):
    media = assistant([part]).content[0]
    assert isinstance(media, Media)
    assert media.kind == kind
    assert media != assistant([{**part, "file_id": "another"}]).content[0]
    assert len(media.digest) == 12


def test_media_keep_their_place_among_text():
    image = {"type": "image_url", "image_url": {"url": IMAGE}}
    assert assistant(["a", image, "b", "c", image]).content == (
        "a",
        Media("image", IMAGE),
        "b\nc",
        Media("image", IMAGE),
    )


def test_the_digest_of_an_odd_address():
    assert len(Media("image", "\ud800").digest) == 12
    assert Media("image", "a").digest != Media("image", "b").digest


def test_anthropic_turns():
    read = read_messages(
        [
            {"role": "user", "content": [{"type": "text", "text": "Weather in Rome and Oslo?"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "two calls", "signature": "s"},
                    {"type": "text", "text": "Looking."},
                    {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Rome"}},
                    {"type": "tool_use", "id": "t2", "name": "weather", "input": {"city": "Oslo"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t2", "content": [{"type": "text", "text": "rain"}]},
                    {"type": "tool_result", "tool_use_id": "t1", "content": "sun"},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": None},
                    {"type": "text", "text": "And now?"},
                ],
            },
        ]
    )
    assert read.messages[1:] == (
        Message(
            "assistant",
            ("Looking.",),
            (ToolCall("weather", '{"city": "Rome"}'), ToolCall("weather", '{"city": "Oslo"}')),
            reasoning="two calls",
        ),
        Message("tool", ("rain",), answers=1, name="weather"),
        Message("tool", ("sun",), answers=0, name="weather"),
        Message("tool", name="weather"),
        Message("user", ("And now?",)),
    )


def test_results_among_the_parts_of_a_tool_message_are_not_lost():
    assert answered(
        calling(call("a", "f"), call("b", "g")),
        {
            "role": "tool",
            "content": [
                {"type": "tool_result", "tool_use_id": "b", "content": "second"},
                {"type": "tool_result", "tool_use_id": "a", "content": "first"},
            ],
        },
    ) == [(1, "g", "second"), (0, "f", "first")]


def test_a_deeply_nested_tool_result():
    part: dict[str, Any] = {"type": "tool_result", "content": "x"}
    for _ in range(20_000):
        part = {"type": "tool_result", "content": [part]}
    with pytest.raises(GroupError, match=r"^task\b.*nested too deeply"):
        read_messages([{"role": "user", "content": [part]}], field="task")


# Tool calls


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ('{"a":1,"b":["é"]}', '{"a": 1, "b": ["é"]}'),
        ({"a": 1, "b": ["é"]}, '{"a": 1, "b": ["é"]}'),
        ("", "{}"),
        (None, "{}"),
        ({}, "{}"),
        ("[1, 2]", "[1, 2]"),
        ("city=Rome", "city=Rome"),
        ('{"city": "Ro', '{"city": "Ro'),
        ([1, 2], "[1, 2]"),
        (0, "0"),
        ('{"a": "\\ud800"}', '{"a": "\ud800"}'),
        ('{"n": ' + "9" * 10_000 + "}", '{"n": ' + "9" * 10_000 + "}"),
        ('{"a":' * 20_000 + "1" + "}" * 20_000, '{"a":' * 20_000 + "1" + "}" * 20_000),
    ],
)
def test_arguments(arguments, shown):
    assert one(calling(call("x", arguments=arguments))).tool_calls == (ToolCall("f", shown),)


def test_no_depth_of_argument_text_voids_a_rollout():
    limit = sys.getrecursionlimit()
    for depth in range(limit - 150, limit):
        text = '{"a":' * depth + "1" + "}" * depth
        [read] = one(calling(call("x", arguments=text))).tool_calls
        assert read.arguments.replace(" ", "") == text


def test_flat_calls_and_other_words_for_arguments():
    calls = [{"name": "f", "arguments": "{}"}, {"name": "g", "args": {"a": 1}}, {"name": "h", "input": {"b": 2}}]
    assert one({"role": "assistant", "tool_calls": calls}).tool_calls == (
        ToolCall("f", "{}"),
        ToolCall("g", '{"a": 1}'),
        ToolCall("h", '{"b": 2}'),
    )


def test_legacy_function_calls():
    read = read_messages(
        [
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a":1}'}},
            {"role": "function", "name": "f", "content": "one"},
        ]
    )
    assert read.messages == (
        Message("assistant", tool_calls=(ToolCall("f", '{"a": 1}'),)),
        Message("tool", ("one",), answers=0, name="f"),
    )


def test_a_function_call_beside_tool_calls_is_the_same_call_again():
    both = {**calling(call("a")), "function_call": {"name": "f", "arguments": "{}"}}
    assert len(one(both).tool_calls) == 1


@pytest.mark.parametrize("empty", [None, [], ()])
def test_no_tool_calls(empty):
    assert assistant("x", tool_calls=empty, function_call=None) == Message("assistant", ("x",))


# Which call a tool message answers


def test_parallel_calls_answered_in_another_order():
    calls = calling(call("a", "f"), call("b", "g"), call("c", "f"))
    assert answered(calls, result("3", "c"), result("1", "a"), result("2", "b")) == [
        (2, "f", "3"),
        (0, "f", "1"),
        (1, "g", "2"),
    ]


def test_whole_number_ids_count_as_ids():
    calls = calling(call(0, "f"), call(1, "g"))
    assert answered(calls, result("2", 1), result("1", 0)) == [(1, "g", "2"), (0, "f", "1")]


def test_answers_without_ids_go_by_order():
    assert answered(calling(call("a", "f"), call("b", "g")), result("1"), result("2"), result("3")) == [
        (0, "f", "1"),
        (1, "g", "2"),
        (None, None, "3"),
    ]


def test_answers_without_ids_go_by_name_first():
    calls = calling(call(None, "f"), call(None, "g"), call(None, "f"))
    assert answered(calls, result("2", name="g"), result("1", name="f"), result("3", name="f")) == [
        (1, "g", "2"),
        (0, "f", "1"),
        (2, "f", "3"),
    ]


def test_an_unknown_id_takes_no_call_that_has_another_id():
    calls = calling(call("a", "f"), call("b", "g"))
    assert answered(calls, result("?", "zzz"), result("1", "a"), result("2", "b")) == [
        (None, None, "?"),
        (0, "f", "1"),
        (1, "g", "2"),
    ]


def test_an_unknown_id_may_answer_a_call_that_has_none():
    assert answered(calling(call(None, "f"), call("b", "g")), result("1", "zzz")) == [(0, "f", "1")]


def test_calls_that_share_an_id_are_answered_in_turn():
    calls = calling(call("x", "f"), call("x", "g"))
    assert answered(calls, result("1", "x"), result("2", "x")) == [(0, "f", "1"), (1, "g", "2")]


def test_a_second_answer_to_one_call_is_not_the_next_calls():
    calls = calling(call("a", "f"), call("b", "g"))
    assert answered(calls, result("1", "a"), result("again", "a"), result("2", "b")) == [
        (0, "f", "1"),
        (None, "f", "again"),
        (1, "g", "2"),
    ]


def test_ids_that_begin_anew_each_turn():
    assert answered(
        calling(call("call_0", "f")), result("1", "call_0"), calling(call("call_0", "g")), result("2", "call_0")
    ) == [(0, "f", "1"), (0, "g", "2")]


def test_a_late_answer_knows_its_tool():
    assert answered(calling(call("a", "f")), calling(call("b", "g")), result("1", "a"), result("2", "b")) == [
        (None, "f", "1"),
        (0, "g", "2"),
    ]


def test_a_tool_message_without_any_call():
    assert one(result("x", "a", name="f")) == Message("tool", ("x",), name="f")


IDS = st.sampled_from(["a", "b", "c", "call_0", "call_1", ""])


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(1, 6))):
        if draw(st.booleans()):
            calls = draw(st.lists(st.tuples(IDS, st.sampled_from("fg")), min_size=1, max_size=3))
            messages.append(calling(*(call(id, name) for id, name in calls)))
        else:
            messages.append(result(draw(st.sampled_from("xy")), draw(IDS), name=draw(st.sampled_from([None, "f"]))))
    return messages


@given(conversations(), st.permutations(["q1", "q2", "q3", "q4", "q5"]))
@settings(max_examples=150)
def test_renaming_tool_call_ids_changes_nothing(messages, names):
    renamed = copy.deepcopy(messages)
    new = dict(zip(["a", "b", "c", "call_0", "call_1"], names, strict=True)) | {"": ""}
    for message in renamed:
        for made in message.get("tool_calls", ()):
            made["id"] = new[made["id"]]
        if "tool_call_id" in message:
            message["tool_call_id"] = new[message["tool_call_id"]]
    assert read_messages(renamed) == read_messages(messages)


@given(conversations())
@settings(max_examples=150)
def test_every_answer_names_a_call_of_the_latest_calling_message_and_no_call_twice(messages):
    latest: tuple[ToolCall, ...] = ()
    taken: set[int] = set()
    for message in read_messages(messages).messages:
        if message.tool_calls:
            latest, taken = message.tool_calls, set()
        if message.answers is not None:
            assert latest[message.answers].name == message.name
            assert message.answers not in taken
            taken.add(message.answers)


# Reasoning and refusals


@pytest.mark.parametrize(
    "more",
    [
        {"reasoning_content": "secret"},
        {"reasoning": "secret"},
        {"thinking": "secret"},
        {"thinking_blocks": [{"type": "thinking", "thinking": "secret", "signature": "s"}]},
        {"reasoning_details": [{"type": "reasoning.text", "text": "secret"}, {"type": "reasoning.encrypted"}]},
        {"reasoning_details": [{"type": "reasoning.summary", "summary": "secret"}]},
        {"reasoning_content": "secret", "thinking_blocks": [{"type": "thinking", "thinking": "secret"}]},
        {"reasoning_content": "", "reasoning": "secret"},
    ],
)
def test_reasoning_keys_stay_apart(more):
    assert assistant("answer", **more) == Message("assistant", ("answer",), reasoning="secret")


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ({"type": "thinking", "thinking": "secret"}, "secret"),
        ({"type": "reasoning", "text": "secret"}, "secret"),
        ({"type": "reasoning", "reasoning": "secret"}, "secret"),
        ({"type": "reasoning", "summary": [{"type": "summary_text", "text": "secret"}]}, "secret"),
        ({"type": "redacted_thinking", "data": "gibberish"}, ""),
        ({"type": "thinking", "text": nested(10**5)}, ""),
    ],
)
def test_reasoning_parts_stay_apart(part, text):
    assert assistant([part, "answer"]) == Message("assistant", ("answer",), reasoning=text)


@pytest.mark.parametrize("value", [None, 5, {}, [], [5, None], {"effort": "high"}, [{"text": 5}]])
def test_reasoning_settings_are_no_reasoning(value):
    assert assistant("answer", reasoning=value, reasoning_content=None).reasoning == ""


def test_refusals():
    assert assistant(None, refusal="I can't.") == Message("assistant", refusal="I can't.")
    part = {"type": "refusal", "refusal": "I can't."}
    assert assistant([part]) == Message("assistant", refusal="I can't.")
    assert assistant([part], refusal="") == Message("assistant", refusal="I can't.")
    assert assistant("x", refusal=None).refusal == ""


# Completions and SDK objects


def test_the_finish_reason_is_that_of_the_last_message():
    cut = {"finish_reason": "length", "message": {"role": "assistant", "content": "x"}}
    user = {"role": "user", "content": "q"}
    assert read_messages([user, cut]).finish_reason == "length"
    assert read_messages({"choices": [cut]}).finish_reason == "length"
    assert read_messages([cut, user]).finish_reason is None
    assert read_messages({**cut["message"], "finish_reason": "stop"}).finish_reason == "stop"
    assert read_messages([{**cut, "finish_reason": 5}]).finish_reason is None


class TestOpenAI:
    @pytest.fixture(autouse=True)
    def _sdk(self):
        chat = pytest.importorskip("openai.types.chat")
        chat_completion = pytest.importorskip("openai.types.chat.chat_completion")
        self.message = chat.ChatCompletionMessage.model_validate(
            {"role": "assistant", "content": "On it.", "refusal": None, "tool_calls": [call("a", "f", '{"x":1}')]}
        )
        self.choice = chat_completion.Choice(index=0, finish_reason="length", message=self.message)
        self.completion = chat.ChatCompletion(
            id="c", choices=[self.choice], created=1, model="m", object="chat.completion"
        )
        self.read = Message("assistant", ("On it.",), (ToolCall("f", '{"x": 1}'),))

    def test_message(self):
        assert read_messages(self.message) == read_messages([self.message]) == Conversation((self.read,), None)

    def test_choice_and_completion(self):
        for given_object in (self.choice, self.completion, [self.choice], [self.completion]):
            assert read_messages(given_object) == Conversation((self.read,), "length")

    def test_two_choices(self):
        two = self.completion.model_copy(update={"choices": [self.choice, self.choice]})
        with pytest.raises(GroupError, match=r"^messages\.choices: expected exactly one"):
            read_messages(two)

    def test_objects_among_dicts(self):
        read = read_messages([{"role": "user", "content": "q"}, self.message, result("done", "a")])
        assert [m.role for m in read.messages] == ["user", "assistant", "tool"]
        assert read.messages[2].answers == 0

    def test_reasoning_that_only_some_servers_send(self):
        chat = pytest.importorskip("openai.types.chat")
        message = chat.ChatCompletionMessage.model_validate(
            {"role": "assistant", "content": "x", "reasoning_content": "why"}
        )
        assert one(message).reasoning == "why"

    def test_unvalidated_values_do_not_warn(self):
        odd = self.choice.model_copy(update={"message": {"role": "assistant", "content": "x"}, "finish_reason": "eos"})
        assert read_messages(odd) == Conversation((Message("assistant", ("x",)),), "eos")


@pytest.mark.slow
def test_litellm_objects(monkeypatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    expected = Message("assistant", tool_calls=(ToolCall("f", '{"x": 1}'),), reasoning="why")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # litellm's own classes warn where they are first used
        litellm = pytest.importorskip("litellm")
        message = litellm.Message(
            role="assistant",
            content=None,
            tool_calls=[call("a", "f", '{"x":1}')],
            reasoning_content="why",
            thinking_blocks=[{"type": "thinking", "thinking": "why", "signature": "s"}],
        )
        choice = litellm.Choices(finish_reason="length", index=0, message=message)
        response = litellm.ModelResponse(choices=[choice])
    assert read_messages([message]) == Conversation((expected,), None)
    assert read_messages(choice) == Conversation((expected,), "length")
    assert read_messages(response) == Conversation((expected,), "length")


@dataclass
class Turn:
    role: str
    content: object
    tool_calls: list[Any] = field(default_factory=list)


@dataclass
class Call:
    name: str
    arguments: dict[str, Any]
    id: str = "a"


def test_dataclasses():
    turn = Turn("assistant", "x", [Call("f", {"a": 1})])
    expected = Message("assistant", ("x",), (ToolCall("f", '{"a": 1}'),))
    assert read_messages(turn).messages == read_messages([turn]).messages == (expected,)


# Tools


def test_tool_forms():
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    expected = Tool("weather", "Looks it up.", json.dumps(schema))
    flat = {"name": "weather", "description": "Looks it up.", "parameters": schema}
    anthropic = {"name": "weather", "description": "Looks it up.", "input_schema": schema}
    forms = [{"type": "function", "function": flat}, {"type": "function", **flat}, flat, anthropic]
    assert read_tools(forms) == read_tools(read_tools(forms)) == (expected,) * 4


def test_tools_with_little_to_say():
    assert read_tools([]) == ()
    assert read_tools([{"name": "f", "description": None, "parameters": {}}]) == (Tool("f"),)
    assert read_tools([{"type": "web_search"}]) == (Tool("web_search"),)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("f", "tools: expected a list of tool definitions, got 'f'"),
        (b"f", "tools: expected a list"),
        ({"name": "f"}, "tools: expected a list of tool definitions, got {'name': 'f'}"),
        (5, "tools: expected a list of tool definitions, got 5"),
        (["f"], "tools[0]: expected an object, got 'f'"),
        ([{"name": "f"}, None], "tools[1]: expected an object, got None"),
        ([{"type": "function", "function": "f"}], "tools[0].function: expected an object, got 'f'"),
        ([{"type": "function", "function": {}}], "tools[0].name: expected text, got None"),
        ([{"type": "function"}], "tools[0].name: expected text, got None"),
        ([{}], "tools[0].name: expected text, got None"),
        ([{"name": 5}], "tools[0].name: expected text, got 5"),
        ([{"name": nested(10**5)}], "tools[0].name: expected text, got "),
        ([{"name": "f", "parameters": {"a": {1}}}], "tools[0].parameters: not JSON"),
        ([{"name": "f", "parameters": nested(10**5)}], "tools[0].parameters: not JSON"),
    ],
)
def test_tool_errors(value, error):
    with pytest.raises(GroupError) as caught:
        read_tools(value)
    assert str(caught.value).startswith(error)


# Junk

KEYS = st.sampled_from(
    [
        "role",
        "type",
        "content",
        "text",
        "tool_calls",
        "function",
        "function_call",
        "name",
        "arguments",
        "id",
        "tool_call_id",
        "choices",
        "message",
        "finish_reason",
        "refusal",
        "reasoning",
        "reasoning_content",
        "thinking_blocks",
        "image_url",
        "url",
        "source",
        "data",
        "media_type",
        "summary",
        "input",
        "tool_use_id",
        "parameters",
        "description",
    ]
)
WORDS = st.sampled_from(
    [
        "user",
        "assistant",
        "tool",
        "system",
        "text",
        "image",
        "image_url",
        "tool_use",
        "tool_result",
        "refusal",
        "thinking",
        "reasoning",
        "function",
        "{}",
    ]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    WORDS,
    st.text(st.characters(exclude_categories=()), max_size=5),
    st.binary(max_size=3),
    st.builds(lambda: 10**5000),
)
JUNK = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(KEYS, inner, max_size=5),
        st.fixed_dictionaries({"role": WORDS, "content": inner}),
        st.fixed_dictionaries({"role": WORDS, "tool_calls": st.lists(inner, max_size=2)}),
        st.fixed_dictionaries({"type": WORDS}, optional={"text": inner, "content": inner, "source": inner}),
    ),
    max_leaves=12,
)


@given(JUNK)
@settings(max_examples=600)
def test_junk_is_read_or_refused_and_nothing_else(value):
    try:
        read = read_messages(value)
    except GroupError:
        return
    assert read.finish_reason is None or isinstance(read.finish_reason, str)
    for message in read.messages:
        assert isinstance(message, Message)
        assert all(part for part in message.content)
        assert all(isinstance(text, str) for text in (message.reasoning, message.refusal))
        hash(message)


@given(JUNK)
@settings(max_examples=300)
def test_junk_tools_are_read_or_refused_and_nothing_else(value):
    try:
        tools = read_tools(value)
    except GroupError:
        return
    assert all(tool.name and isinstance(tool.description, str) for tool in tools)


def test_joining_many_parts_takes_one_pass() -> None:
    assert join_text(["a", "b", Media("image", "x"), "c"], "-") == ("a-b", Media("image", "x"), "c")
    assert join_text([], "-") == ()
    assert len(str(join_text(["x" * 10] * 300_000, "\n")[0])) > 3_000_000


def test_a_custom_tool_call_is_read():
    call = {"id": "c", "type": "custom", "custom": {"name": "shell", "input": "ls -l"}}
    assert one({"role": "assistant", "content": None, "tool_calls": [call]}).tool_calls == (ToolCall("shell", "ls -l"),)


def test_canonical_messages_are_read_as_they_are():
    read = read_messages(
        [
            {"role": "assistant", "content": None, "tool_calls": [{"id": "x", "function": {"name": "f"}}]},
            {"role": "tool", "tool_call_id": "x", "content": "done"},
        ]
    ).messages
    assert read_messages(read).messages == read
    later = read_messages([read[0], {"role": "tool", "content": "done"}]).messages
    assert later == read


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "CMYK", "F"])
def test_an_image_object_becomes_an_address(mode: str) -> None:
    """As Pillow has them, in trainers of vision models."""
    part = {"type": "image", "image": Image.new(mode, (3, 2))}
    (message,) = read_messages([{"role": "user", "content": [part, {"type": "text", "text": "What?"}]}]).messages
    image, text = message.content
    assert isinstance(image, Media)
    assert (image.kind, text) == ("image", "What?")
    kind, _, data = image.url.partition(",")
    assert kind == "data:image/png;base64"
    shown = Image.open(BytesIO(base64.b64decode(data)))
    assert (shown.format, shown.size) == ("PNG", (3, 2))
    assert read_messages([{"role": "user", "content": [part]}]).messages[0].content[0] == image


def test_an_image_that_cannot_be_written_is_named() -> None:
    class Broken:
        mode = "RGB"

        def save(self, *_: object, **__: object) -> None:
            raise OSError("truncated")

    with pytest.raises(GroupError, match=r"messages\[0\].content\[0\].image: an image .* OSError: truncated"):
        read_messages([{"role": "user", "content": [{"type": "image", "image": Broken()}]}])
