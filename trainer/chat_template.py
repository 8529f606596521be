"""Conversations into tokens, piece by piece: the task, turns to imitate, and what an environment says between turns.

Chat templates write whole conversations, and each has its own rules: one wants ids of nine characters, one leaves tool
results out in silence, one adds a block of empty thoughts. So pieces are cut out of made-up conversations around them,
and it is checked that nothing that was said is lost on the way.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ruler.errors import ConfigError, GroupError
from trainer.environments import ChatMessage, Start

_ASKED: ChatMessage = {"role": "user", "content": "?"}
"""Stands for all that was said before a turn."""


class TemplateError(ConfigError):
    """The chat template does not fit what the environments of this task say: another text would fare no better."""


def call_id(place: int) -> str:
    """The id of a turn's call: nine letters and digits, as the templates of Mistral insist."""
    return f"call{place:05}"


class ChatTemplate:
    """How a model's tokenizer writes conversations."""

    def __init__(self, tokenizer: Any, end_tokens: Iterable[int]) -> None:
        """Takes the tokenizer as it is.

        Args:
            tokenizer: of transformers, with a chat template.
            end_tokens: what ends a turn of the assistant; at least one.
        """
        self._tokenizer = tokenizer
        special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
        self._control_tokens = special.union(end_tokens)
        self._ends = _any_of(tokenizer.convert_ids_to_tokens(sorted(end_tokens)))
        self._control = _any_of(tokenizer.convert_ids_to_tokens(sorted(self._control_tokens)))

    def encode_start(self, start: Start) -> list[int]:
        """As `Policy.encode_start`."""
        said = list(start.messages)
        for message in said:
            if message["role"] != "assistant" and not isinstance(message.get("content"), str | list):
                raise GroupError(f"start: content: expected text, got {message.get('content')!r:.80}")
        text = self._render(said, tools=start.tools, open_turn=True)
        if not self._spell_control(said):
            return self._tokens(text, GroupError)
        marks = _Marks(said)
        # Turns of the assistant are the author's examples, and templates take them apart to find thoughts.
        framed = [one if one["role"] == "assistant" else marks.framed(one, str(n)) for n, one in enumerate(said)]
        return self._tokens_of(marks.pieces(self._render(framed, tools=start.tools, open_turn=True)), GroupError)

    def encode_reply(self, messages: Sequence[ChatMessage]) -> list[int]:
        """As `Policy.encode_reply`."""
        for message in messages:
            if message["role"] == "assistant":
                raise GroupError("reply: expected messages of tools or a user, got one of role 'assistant'")
            if not isinstance(message.get("content"), str):
                raise GroupError(f"reply: content: expected text, got {message.get('content')!r:.80}")
        said = _with_ids(messages)
        from_tools = any(message["role"] == "tool" for message in said)
        refusals: list[str] = []
        # A tool's result answers a call. Templates that write no calls, or only one, may write results all the same.
        for calling in (True, False) if from_tools else (False,):
            try:
                text, pieces = self._reply(said, calling)
            except TemplateError as error:
                refusals.append(str(error))
            else:
                spelt = self._spell_control(said)
                return self._tokens_of(pieces, GroupError) if spelt else self._tokens(text, GroupError)
        raise TemplateError("; ".join(dict.fromkeys(refusals)))

    def encode_turn(self, message: ChatMessage) -> list[int]:
        """As `Policy.encode_turn`."""
        content, calls = message.get("content") or "", message.get("tool_calls") or ()
        numbered = [{**call, "id": call_id(place)} for place, call in enumerate(calls)]
        plain = {**message, "tool_calls": numbered} if calls else message
        marks = _Marks([message])
        # Without its text: templates look for thoughts in it, and would not find them behind a mark.
        framed = {**plain, "content": marks.frame("", "content")} if content else dict(plain)
        if calls:
            framed["tool_calls"] = [
                {**call, "function": {**call["function"], "name": marks.frame(call["function"]["name"], call["id"])}}
                for call in numbered
            ]
        kept = marks.pieces(self._turn(framed)[1])[1::3]
        header, text = self._turn(plain)
        for call in numbered:
            if call["id"] not in kept:
                raise TemplateError(f"policy: its chat template leaves out the call of {call['function']['name']!r}")
        if content and ("content" not in kept or _squeezed(content) not in _squeezed(header + text)):
            raise TemplateError(f"policy: its chat template leaves out what role 'assistant' says: {content!r:.80}")
        return self._tokens(text, ConfigError)

    def _reply(self, messages: Sequence[ChatMessage], calling: bool) -> tuple[str, list[str]]:
        """What follows a turn that makes one call for each message of a tool, or that just says something.

        As it is, and in pieces: none of the messages is lost.
        """
        marks = _Marks(messages)
        framed = [marks.framed(message, str(number)) for number, message in enumerate(messages)]
        pieces = marks.pieces(self._after_turn(framed, calling, marks.turn))
        for number, message in enumerate(messages):
            if str(number) not in pieces[1::3]:
                raise TemplateError(f"policy: its chat template leaves out what role {message['role']!r} says")
        return self._after_turn(messages, calling, marks.turn), pieces

    def _after_turn(self, messages: Sequence[ChatMessage], calling: bool, mark: str) -> str:
        calls = [
            {
                "id": message["tool_call_id"],
                "type": "function",
                "function": {"name": message["name"], "arguments": {"argument": mark}},
            }
            for message in messages
            if message["role"] == "tool"
        ]
        turn = {"content": "", "tool_calls": calls} if calling else {"content": mark}
        text = self._render([_ASKED, {"role": "assistant", **turn}, *messages], open_turn=True)
        if mark not in text:
            raise TemplateError(
                f"policy: its chat template leaves out {'calls' if calling else 'turns'} of the assistant"
            )
        return text[self._end(text, text.rindex(mark)) :]

    def _turn(self, message: ChatMessage) -> tuple[str, str]:
        """What stands before a turn, maybe with the tag that opens its thoughts; and the turn, with its end token."""
        before = self._render([_ASKED], open_turn=True)
        text = self._render([_ASKED, message])
        if not text.startswith(before):
            raise TemplateError("policy: its chat template writes a turn otherwise when it is asked for one")
        return before, text[len(before) : self._end(text, len(before))]

    def _end(self, text: str, start: int) -> int:
        """Where the first end token from there on ends."""
        found = self._ends.search(text, start)
        if found is None:
            raise TemplateError("policy: its chat template does not end a turn of the assistant with an end token")
        return found.end()

    def _render(self, messages: Sequence[ChatMessage], *, tools: Sequence[Any] = (), open_turn: bool = False) -> str:
        try:
            text: str = self._tokenizer.apply_chat_template(
                list(messages), tools=list(tools) or None, add_generation_prompt=open_turn, tokenize=False
            )
        except Exception as error:  # whatever a template's own code raises
            raise TemplateError(f"policy: its chat template does not take the messages: {error}") from error
        return text

    def _spell_control(self, messages: Sequence[ChatMessage]) -> bool:
        """Whether the messages hold what would become a control token."""
        return any(self._control.search(text) for text in _texts(messages))

    def _tokens_of(self, pieces: Sequence[str], fault: type[ConfigError | GroupError]) -> list[int]:
        """Tokens of `_Marks.pieces`: nobody but the template writes control tokens.

        At the seams words may be cut otherwise than in one text. So this is only for texts that spell such a token.
        """
        tokens: list[int] = []
        for template, text in itertools.zip_longest(pieces[0::3], pieces[2::3], fillvalue=""):
            tokens += self._tokens(template, fault)
            plain = self._tokens(text, fault, split_special_tokens=True)
            if self._control_tokens.intersection(plain):
                raise fault(f"policy: its tokenizer cannot take {text!r:.200} without making a control token of it")
            tokens += plain
        return tokens

    def _tokens(self, text: str, fault: type[ConfigError | GroupError], **options: bool) -> list[int]:
        try:
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False, **options)
        except Exception as error:  # tokenizers raises nothing narrower, as for a word that a tiny policy does not have
            raise fault(f"policy: its tokenizer cannot take {text!r:.200}: {error}") from error
        return ids


class _Marks:
    """Characters that are in none of the messages, by which their texts are found again in a template's output."""

    def __init__(self, messages: Sequence[ChatMessage]) -> None:
        taken = set().union(*_texts(messages))
        free = (mark for mark in map(chr, range(0xF0000, 0xFFFFE)) if mark not in taken)  # private use: in no template
        self.turn = next(free)
        self._frame = next(free)

    def frame(self, text: str, label: str) -> str:
        return f"{self._frame}{label}{self._frame}{text}{self._frame}"

    def framed(self, message: ChatMessage, label: str) -> ChatMessage:
        """The message with its content in a frame of this label, and its name in one without."""
        labels = {"content": label, "name": ""}
        texts = {key: message[key] for key in labels if isinstance(message.get(key), str)}
        return {**message, **{key: self.frame(text, labels[key]) for key, text in texts.items()}}

    def pieces(self, text: str) -> list[str]:
        """The template's own text, then again and again a label, the framed text and what the template wrote next."""
        mark = self._frame
        pieces = re.split(f"{mark}([^{mark}]*){mark}([^{mark}]*){mark}", text)
        if any(mark in piece for piece in pieces[0::3]):
            raise TemplateError("policy: its chat template takes what is said apart")
        return pieces


def _with_ids(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """The messages, those of tools with name and id, as if they answered a turn's calls one by one."""
    places = itertools.count()
    return [
        {**message, "name": message.get("name") or "tool", "tool_call_id": call_id(next(places))}
        if message["role"] == "tool"
        else message
        for message in messages
    ]


def _texts(messages: Iterable[Mapping[str, Any]]) -> list[str]:
    """Contents and names."""
    values = (message.get(key) for message in messages for key in ("content", "name"))
    return [value for value in values if isinstance(value, str)]


def _any_of(words: Iterable[str]) -> re.Pattern[str]:
    """Finds the first of them; where one begins with another, the longer."""
    return re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))))


def _squeezed(text: str) -> str:
    """Without white space: templates trim, and set thoughts apart by empty lines."""
    return "".join(text.split())
