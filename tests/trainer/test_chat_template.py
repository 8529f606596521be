from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from ruler.errors import ConfigError, GroupError  # noqa: E402
from tests.trainer.words_task import words_task  # noqa: E402
from trainer.chat_template import ChatTemplate, call_id  # noqa: E402
from trainer.environments import ChatMessage, Start  # noqa: E402
from trainer.policy import Policy  # noqa: E402
from trainer.tiny import make_tiny_policy  # noqa: E402

USER = [{"role": "user", "content": 'Say "more",\nplease.'}]
TOOL = [{"role": "tool", "name": "search", "content": "one hit", "tool_call_id": "theirs"}]
TOOLS = [*TOOL, {"role": "tool", "content": "another hit"}]
SAID = {"role": "assistant", "content": "Seven."}
THOUGHT = {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nSeven."}
SEARCH = {"type": "function", "function": {"name": "search", "arguments": {"query": "mia"}}}
CALL = {"role": "assistant", "content": "", "tool_calls": [SEARCH]}
TALKING_CALL = {**CALL, "content": "Let me see."}

STRICT_IDS = """\
{%- for message in messages -%}
    {%- if message.role == 'user' -%}
        {{- '[INST]' + message.content + '[/INST]' -}}
    {%- elif message.tool_calls -%}
        {%- for call in message.tool_calls -%}
            {%- if call.id is not defined or call.id | length != 9 -%}
                {{- raise_exception('ids of length 9!') -}}
            {%- endif -%}
            {{- '[CALL]' + call.function.name + call.function.arguments | tojson + call.id -}}
        {%- endfor -%}
        {{- '</s>' -}}
    {%- elif message.role == 'assistant' -%}
        {{- message.content + '</s>' -}}
    {%- elif messages[loop.index0 - 1].role not in ('tool', 'assistant') or not message.tool_call_id -%}
        {{- raise_exception('no call before it!') -}}
    {%- else -%}
        {{- '[RESULT]' + message.content + message.tool_call_id + '[/RESULT]' -}}
    {%- endif -%}
{%- endfor -%}"""
"""As those of Mistral are: calls and results have ids, and nothing opens a turn."""


def made(policy: Policy, template: str, *ends: str) -> ChatTemplate:
    """The template with a tokenizer that has its special tokens."""
    tokenizer: Any = copy.deepcopy(policy.tokenizer)
    special = sorted({*ends, *re.findall(r"<[|｜][^<>'\"{} ]+?[|｜]>|<\|\w+>|<\w+\|>|</?\w+_of_turn>", template)})
    tokenizer.add_special_tokens({"additional_special_tokens": special, "bos_token": "<s>", "eos_token": ends[0]})
    tokenizer.chat_template = template
    return ChatTemplate(tokenizer, tokenizer.convert_tokens_to_ids(list(ends)))


def bundled(policy: Policy, name: str, *ends: str) -> ChatTemplate:
    trl = pytest.importorskip("trl")
    return made(policy, (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text("utf-8"), *ends)


def text_of(template: ChatTemplate, tokens: Sequence[int]) -> str:
    text: str = template._tokenizer.decode(tokens, skip_special_tokens=False)
    return text


QWEN = ("<|im_end|>", "<|endoftext|>")
LLAMA = ("<|eot_id|>", "<|eom_id|>")
GEMMA4 = ("<turn|>", "<|tool_response>")


@pytest.mark.parametrize(
    ("name", "ends", "messages", "expected"),
    [
        (
            "qwen2_5",
            QWEN,
            TOOLS,
            "\n<|im_start|>user\n<tool_response>\none hit\n</tool_response>\n<tool_response>\nanother hit\n"
            "</tool_response><|im_end|>\n<|im_start|>assistant\n",
        ),
        ("qwen3", QWEN, USER, '\n<|im_start|>user\nSay "more",\nplease.<|im_end|>\n<|im_start|>assistant\n'),
        (
            "qwen3",
            QWEN,
            TOOL,
            "\n<|im_start|>user\n<tool_response>\none hit\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "llama3_1",  # writes one call at most, and any number of results
            LLAMA,
            TOOLS,
            '<|start_header_id|>ipython<|end_header_id|>\n\n"one hit"<|eot_id|>'
            '<|start_header_id|>ipython<|end_header_id|>\n\n"another hit"<|eot_id|>'
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (
            "gemma3",
            ("<end_of_turn>",),
            USER,
            '\n<start_of_turn>user\nSay "more",\nplease.<end_of_turn>\n<start_of_turn>model\n',
        ),
        (
            "gemma4",  # a result stands before the text of the turn that called, and knows its call by the id
            GEMMA4,
            TOOL,
            'response:search{value:<|"|>one hit<|"|>}<tool_response|>',
        ),
        (
            "gptoss",
            ("<|return|>", "<|call|>"),
            TOOL,
            '<|start|>functions.search to=assistant<|channel|>commentary<|message|>"one hit"<|end|><|start|>assistant',
        ),
    ],
)
def test_replies_as_real_templates_write_them(
    chat_policy: Policy, name: str, ends: tuple[str, ...], messages: list[ChatMessage], expected: str
) -> None:
    template = bundled(chat_policy, name, *ends)
    assert text_of(template, template.encode_reply(messages)) == expected


@pytest.mark.parametrize(
    ("name", "ends", "messages", "reason"),
    [
        ("phi3", ("<|end|>",), TOOL, "leaves out what role 'tool' says"),
        ("cohere2", ("<|END_OF_TURN_TOKEN|>",), TOOL, "leaves out what role 'tool' says"),
        ("gemma4", ("<turn|>",), TOOL, "leaves out what role 'tool' says"),
        ("gemma3", ("<end_of_turn>",), TOOL, "roles must alternate"),
        ("gptoss", ("<|return|>", "<|call|>"), USER, "does not end a turn of the assistant with an end token"),
    ],
)
def test_a_template_that_loses_a_reply_is_refused(
    chat_policy: Policy, name: str, ends: tuple[str, ...], messages: list[ChatMessage], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        bundled(chat_policy, name, *ends).encode_reply(messages)


@pytest.mark.parametrize(
    ("name", "ends", "message", "expected"),
    [
        ("qwen2_5", QWEN, TALKING_CALL, 'Let me see.\n<tool_call>\n{"name": "search", "arguments": {"query": "mia"}}'),
        ("qwen3", QWEN, SAID, "<think>\n\n</think>\n\nSeven.<|im_end|>"),
        ("qwen3", QWEN, THOUGHT, "<think>\nHm.\n</think>\n\nSeven.<|im_end|>"),
        ("qwen3_5_think", QWEN, THOUGHT, "Hm.\n</think>\n\nSeven.<|im_end|>"),
        ("llama3_1", LLAMA, CALL, '{"name": "search", "parameters": {"query": "mia"}}<|eot_id|>'),
        ("gemma3", ("<end_of_turn>",), SAID, "Seven.<end_of_turn>"),
        ("gemma4", GEMMA4, CALL, '<|tool_call>call:search{query:<|"|>mia<|"|>}<tool_call|><|tool_response>'),
    ],
)
def test_turns_as_real_templates_write_them(
    chat_policy: Policy, name: str, ends: tuple[str, ...], message: ChatMessage, expected: str
) -> None:
    template = bundled(chat_policy, name, *ends)
    assert text_of(template, template.encode_turn(message)).startswith(expected)


@pytest.mark.parametrize(
    ("name", "ends", "message", "reason"),
    [
        ("gemma3", ("<end_of_turn>",), CALL, "leaves out the call of 'search'"),
        ("lfm2", QWEN, TALKING_CALL, "leaves out the call of 'search'"),
        ("llama3_1", LLAMA, TALKING_CALL, "leaves out what role 'assistant' says: 'Let me see.'"),
        ("lfm2_2_5", QWEN, {**SAID, "content": "7 <think>8</think> 9"}, None),
        ("qwen3", QWEN, {**SAID, "content": "7 <think>8</think> 9"}, "leaves out what role 'assistant' says"),
    ],
)
def test_a_template_that_loses_part_of_a_turn_is_refused(
    chat_policy: Policy, name: str, ends: tuple[str, ...], message: ChatMessage, reason: str | None
) -> None:
    template = bundled(chat_policy, name, *ends)
    if reason is None:
        assert text_of(template, template.encode_turn(message)).startswith(message["content"])
    else:
        with pytest.raises(ConfigError, match=reason):
            template.encode_turn(message)


def test_a_template_that_wants_ids_of_nine_characters_gets_the_same_in_calls_and_results(chat_policy: Policy) -> None:
    template = made(chat_policy, STRICT_IDS, "</s>")
    two = {**CALL, "tool_calls": [SEARCH, SEARCH]}
    call = '[CALL]search{"query": "mia"}call0000'
    assert text_of(template, template.encode_turn(two)) == f"{call}0{call}1</s>"
    assert text_of(template, template.encode_reply(USER)) == '[INST]Say "more",\nplease.[/INST]'
    reply = text_of(template, template.encode_reply(TOOLS))
    assert reply == "[RESULT]one hitcall00000[/RESULT][RESULT]another hitcall00001[/RESULT]"
    assert [len(call_id(place)) for place in (0, 99_999)] == [9, 9]


# --- What an environment says is text ---

odd_text = st.lists(
    st.sampled_from(
        ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "user\n", " ", '"', "é", "\U000f0000", "\ue000", "7"]
    )
).map("".join)


@given(contents=st.lists(odd_text, min_size=1, max_size=3), name=odd_text)
def test_special_tokens_that_an_environment_spells_out_stay_text(
    chat_policy: Policy, contents: list[str], name: str
) -> None:
    tokenizer = chat_policy.tokenizer
    control = set(tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|im_start|>", "<|endoftext|>"]))

    def controls(tokens: list[int]) -> list[int]:
        return [token for token in tokens if token in control]

    def messages(role: str, texts: list[str]) -> list[ChatMessage]:
        return [{"role": role, "name": name, "content": text} for text in texts]

    plain = ["x"] * len(contents)
    reply = chat_policy.encode_reply(messages("tool", contents))
    assert controls(reply) == controls(chat_policy.encode_reply(messages("tool", plain)))
    parts = "".join(f"<|im_start|>tool\n{content}<|im_end|>\n" for content in contents)
    assert tokenizer.decode(reply, skip_special_tokens=False) == f"\n{parts}<|im_start|>assistant\n"
    start = chat_policy.encode_start(Start(messages("user", contents)))
    assert controls(start) == controls(chat_policy.encode_start(Start(messages("user", plain))))
    expected = parts.replace("<|im_start|>tool\n", "<|im_start|>user\n") + "<|im_start|>assistant\n"
    assert tokenizer.decode(start, skip_special_tokens=False) == expected


def test_in_json_they_stay_text_too(chat_policy: Policy) -> None:
    template = bundled(chat_policy, "llama3_1", *LLAMA)
    tokens = template.encode_reply([{"role": "tool", "name": "<|eom_id|>", "content": 'a "<|eot_id|>"'}])
    assert '"a \\"<|eot_id|>\\""<|eot_id|>' in text_of(template, tokens)
    (end,) = template._tokenizer.convert_tokens_to_ids(["<|eot_id|>"])
    assert tokens.count(end) == 1


@pytest.mark.parametrize("text", ["say <eos>", "say <pad>", "say something", "\ud800"])
def test_text_that_a_tokenizer_cannot_take_is_the_environments_fault(text: str) -> None:
    tiny = words_task().tiny
    assert tiny
    policy = Policy(*make_tiny_policy(tiny, seed=0))
    with pytest.raises(GroupError, match="its tokenizer cannot take"):
        policy.encode_reply([{"role": "user", "content": text}])
    with pytest.raises(GroupError, match="its tokenizer cannot take"):
        policy.encode_start(Start([{"role": "user", "content": text}]))


def test_a_reply_is_never_the_assistants(chat_policy: Policy) -> None:
    with pytest.raises(GroupError, match="reply: expected messages of tools or a user, got one of role 'assistant'"):
        chat_policy.encode_reply([*TOOL, {"role": "assistant", "content": "I won."}])


@pytest.mark.parametrize("message", [{"role": "tool", "content": None}, {"role": "user"}])
def test_a_reply_has_text(chat_policy: Policy, message: ChatMessage) -> None:
    with pytest.raises(GroupError, match="reply: content: expected text, got None"):
        chat_policy.encode_reply([message])


def test_an_environment_may_say_nothing(chat_policy: Policy) -> None:
    opened = "\n<|im_start|>assistant\n"
    tokens = chat_policy.encode_reply([])
    assert chat_policy.tokenizer.decode(tokens, skip_special_tokens=False) == opened
