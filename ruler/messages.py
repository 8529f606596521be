"""Any framework's chat messages, read into one canonical form.

Takes OpenAI chat dicts, SDK objects (anything with `model_dump`, dataclasses), choices, a plain string, and content
parts of the OpenAI, Anthropic and Responses kinds. What comes out holds no tool-call ids: a tool message says which
call of the latest calling message it answers, so that two runs that differ only in random ids are equal. Text is kept
as it came; making odd text visible is the business of `ruler.packing`.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from decimal import Decimal
from io import BytesIO
from itertools import groupby
from typing import Any, NamedTuple, TypeAlias

from ruler.errors import GroupError, describe

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "ai": "assistant",
    "tool": "tool",
    "function": "tool",
}
_TEXT_PARTS = {"text", "input_text", "output_text"}
_MEDIA_PARTS = {
    "image_url": "image",
    "input_image": "image",
    "image": "image",
    "input_audio": "audio",
    "audio": "audio",
    "audio_url": "audio",
    "video": "video",
    "video_url": "video",
    "file": "file",
    "input_file": "file",
    "document": "file",
}
_PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}
_REASONING_PARTS = {"thinking", "reasoning", "redacted_thinking"}
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking", "thinking_blocks", "reasoning_details")
_NO_CONTENT = ("text", "contents", "parts", "value", "body", "output")
"""Where other formats, and slips, keep what `content` should hold; read as nothing they would tie groups."""

_Id: TypeAlias = str | int | None


@dataclass(frozen=True, slots=True)
class Media:
    """An image, or a file of another kind, inside a message."""

    kind: str
    """image, audio, video or file"""
    url: str
    """A data: or https: address, or the part as JSON where it has none."""

    @property
    def digest(self) -> str:
        """Twelve hex digits of the SHA-256 of `url`; stands for the media in text."""
        return hashlib.sha256(self.url.encode("utf-8", "surrogatepass")).hexdigest()[:12]


Part: TypeAlias = str | Media
"""A piece of a message's content."""


def join_text(parts: Iterable[Part], joint: str) -> tuple[Part, ...]:
    """The parts with adjacent text made one, the joint between."""
    joined: list[Part] = []
    for is_text, run in groupby(parts, key=lambda part: isinstance(part, str)):
        # One join a run: adding text piece by piece copies all that came before.
        if is_text:
            joined.append(joint.join(map(str, run)))
        else:
            joined.extend(run)
    return tuple(joined)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool. `arguments` is compact JSON when it is an object, else the text as the model wrote it."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool definition. `parameters` is the JSON schema as compact JSON, "" when there is none."""

    name: str
    description: str = ""
    parameters: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One canonical chat message."""

    role: str
    """system, user, assistant or tool"""
    content: tuple[Part, ...] = ()
    """Non-empty text and media, in order."""
    tool_calls: tuple[ToolCall, ...] = ()
    answers: int | None = None
    """For a tool message: index of the call in the latest calling message; None when it cannot be told."""
    name: str | None = None
    """For a tool message: the tool's name, where known."""
    reasoning: str = ""
    refusal: str = ""


class Conversation(NamedTuple):
    """What `read_messages` found: the messages, and why the last one ended where the source says so."""

    messages: tuple[Message, ...]
    finish_reason: str | None


def read_messages(value: object, *, field: str = "messages", role: str = "assistant") -> Conversation:
    """The canonical messages in `value`.

    Args:
        value: a string (one message of `role`), one message, a completion with one choice, or an iterable of messages.
        field: how errors call it.
        role: the speaker of a plain string.

    Raises:
        GroupError: names the field and the value that cannot be read.
    """
    if isinstance(value, str):
        return Conversation((Message(role, (value,) if value else ()),), None)
    try:
        if isinstance(value, Message) or _as_mapping(value) is not None:
            return _Reader().read([(field, value)])
        if isinstance(value, bytes) or not isinstance(value, Iterable):
            raise GroupError(f"{field}: expected chat messages or text, got {_shown(value)}")
        return _Reader().read((f"{field}[{i}]", item) for i, item in enumerate(value))
    except RecursionError:
        raise GroupError(f"{field}: nested too deeply to be read") from None


def read_tools(value: object, *, field: str = "tools") -> tuple[Tool, ...]:
    """Tool definitions in the OpenAI, flat or Anthropic form, in the given order; a `Tool` is as it is.

    Raises:
        GroupError: not a list, or a tool without a name.
    """
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise GroupError(f"{field}: expected a list of tool definitions, got {_shown(value)}")
    tools = []
    for i, item in enumerate(value):
        if isinstance(item, Tool):
            tools.append(item)
            continue
        where = f"{field}[{i}]"
        given = _mapping(item, where)
        inner = given.get("function")
        body = _mapping(inner, f"{where}.function") if inner is not None else given
        name = body.get("name")
        if not name and body.get("type") != "function":
            name = body.get("type")
        if not isinstance(name, str) or not name:
            raise GroupError(f"{where}.name: expected text, got {_shown(body.get('name'))}")
        parameters = body.get("parameters") or body.get("input_schema")
        description = body.get("description")
        tools.append(
            Tool(
                name,
                description if isinstance(description, str) else "",
                _compact(parameters, f"{where}.parameters") if parameters else "",
            )
        )
    return tuple(tools)


def parse_arguments(text: str) -> dict[str, Any]:
    """The arguments of a tool call, written as a JSON object.

    Raises:
        ValueError: something else, or what would not come back as it was: a key that stands twice, a number that no
            float holds (1e999, 0.1234567890123456789).
        RecursionError: nested too deeply.
    """
    parsed = json.loads(text, object_pairs_hook=_once, parse_float=_exact)
    if not isinstance(parsed, dict):
        raise ValueError("not an object")
    return parsed


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    merged = dict(pairs)
    if len(merged) < len(pairs):
        raise ValueError("a key stands twice")
    return merged


def _exact(digits: str) -> float:
    number = float(digits)
    if Decimal(digits) != Decimal(repr(number)):
        raise ValueError("a number that no float holds")
    return number


def read_reference(value: object) -> str | None:
    """A reference answer as text: a string as it is, an object as `key: value` lines, anything else as JSON.

    Raises:
        GroupError: not JSON.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        said = (v if isinstance(v, str) else _compact(v, f"reference.{key}") for key, v in value.items())
        return "\n".join(f"{key}: {text}" for key, text in zip(value, said, strict=True))
    return _compact(value, "reference")


class _Reader:
    """Reads one conversation; remembers the calls, to say which of them a tool message answers."""

    def __init__(self) -> None:
        self._latest: list[tuple[_Id, str]] = []
        self._open: set[int] = set()
        self._names: dict[_Id, str] = {}
        self._finish_reason: str | None = None

    def read(self, items: Iterable[tuple[str, object]]) -> Conversation:
        messages = tuple(message for field, item in items for message in self._message(item, field))
        return Conversation(messages, self._finish_reason)

    def _message(self, item: object, field: str) -> Iterator[Message]:
        if isinstance(item, str):
            raise GroupError(f"{field}: expected a chat message, got {_shown(item)}")
        if isinstance(item, Message):
            if item.tool_calls:
                self._remember([(None, call) for call in item.tool_calls])
            yield item
            return
        given = _mapping(item, field)
        if "choices" in given and "role" not in given:
            choices = given["choices"]
            if not isinstance(choices, list) or len(choices) != 1:
                raise GroupError(f"{field}.choices: expected exactly one, got {_shown(choices)}")
            given = _mapping(choices[0], f"{field}.choices[0]")
        if "message" in given and "role" not in given:
            reason = given.get("finish_reason")
            given = _mapping(given["message"], f"{field}.message")
        else:
            reason = given.get("finish_reason")
        self._finish_reason = reason if isinstance(reason, str) else None
        named = given.get("role") or given.get("type")
        role = _ROLES.get(named) if isinstance(named, str) else None
        if role is None:
            raise GroupError(f"{field}.role: expected one of {', '.join(_ROLES)}, got {_shown(named)}")
        mistaken = next((key for key in _NO_CONTENT if given.get(key)), None)
        if mistaken and "content" not in given:
            raise GroupError(f"{field}.content: missing; {mistaken!r} is not read, it holds {_shown(given[mistaken])}")
        if role == "tool":
            key = _first_id(given, "tool_call_id", "call_id")
            content, results = _Parts(f"{field}.content").read(given.get("content"))
            for result_content, result_key in results:
                yield self._tool_message(result_content, key if result_key is None else result_key, given.get("name"))
            if content or not results:
                yield self._tool_message(content, key, given.get("name"))
            return
        parts = _Parts(f"{field}.content")
        content, results = parts.read(given.get("content"))
        for result_content, key in results:
            yield self._tool_message(result_content, key, None)
        calls = [*parts.calls, *_read_calls(given, field)]
        if calls:
            self._remember(calls)
        refusal = given.get("refusal")
        message = Message(
            role=role,
            content=content,
            tool_calls=tuple(call for _, call in calls),
            reasoning=_read_reasoning(given) or "\n".join(parts.reasoning),
            refusal=refusal if refusal and isinstance(refusal, str) else "\n".join(parts.refusals),
        )
        # A user message that only carried tool results has nothing left to say.
        if not results or message != Message(role):
            yield message

    def _remember(self, calls: list[tuple[_Id, ToolCall]]) -> None:
        self._latest = [(key, call.name) for key, call in calls]
        self._open = set(range(len(calls)))
        self._names.update((key, call.name) for key, call in calls if key is not None)

    def _tool_message(self, content: tuple[Part, ...], key: _Id, name: object) -> Message:
        possible = self._open
        if key is not None:
            same = {i for i in self._open if self._latest[i][0] == key}
            if not same and key in self._names:
                return Message("tool", content, name=self._names[key])
            # An id that no call has can only belong to a call whose id was not recorded.
            possible = same or {i for i in self._open if self._latest[i][0] is None}
        by_name = {i for i in possible if self._latest[i][1] == name}
        index = min(by_name or possible, default=None)
        if index is not None:
            self._open.discard(index)
            return Message("tool", content, answers=index, name=self._latest[index][1])
        return Message("tool", content, name=name if isinstance(name, str) else None)


class _Parts:
    """Reads one message's content; keeps beside it what other formats put among the parts."""

    def __init__(self, field: str) -> None:
        self._field = field
        self.calls: list[tuple[_Id, ToolCall]] = []
        self.reasoning: list[str] = []
        self.refusals: list[str] = []

    def read(self, content: object) -> tuple[tuple[Part, ...], list[tuple[tuple[Part, ...], _Id]]]:
        """The text and media of `content`, and the tool results found among its parts with their call ids."""
        if content is None or content == "":
            return (), []
        if isinstance(content, str):
            return (content,), []
        if isinstance(content, bytes | Mapping) or not isinstance(content, Iterable):
            raise GroupError(f"{self._field}: expected text or a list of parts, got {_shown(content)}")
        found: list[Part] = []
        results: list[tuple[tuple[Part, ...], _Id]] = []
        for i, item in enumerate(content):
            where = f"{self._field}[{i}]"
            part = {"type": "text", "text": item} if isinstance(item, str) else _mapping(item, where)
            kind = part.get("type")
            if not isinstance(kind, str):
                raise GroupError(f"{where}.type: unknown content part {_shown(kind)}")
            if kind in _TEXT_PARTS:
                text = part.get("text")
                if not isinstance(text, str):
                    raise GroupError(f"{where}.text: expected text, got {_shown(text)}")
                if text:
                    found.append(text)
            elif kind in _MEDIA_PARTS:
                found.append(Media(_MEDIA_PARTS[kind], _media_url(part, where)))
            elif kind == "refusal":
                refusal = part.get("refusal")
                if not isinstance(refusal, str):
                    raise GroupError(f"{where}.refusal: expected text, got {_shown(refusal)}")
                self.refusals.append(refusal)
            elif kind in _REASONING_PARTS:
                self.reasoning.append(_read_reasoning(part, *_REASONING_KEYS, "text", "summary"))
            elif kind == "tool_use":
                call = _call(part.get("name"), part.get("input"), where)
                self.calls.append((_first_id(part, "id"), call))
            elif kind == "tool_result":
                inner, nested = _Parts(f"{where}.content").read(part.get("content"))
                if nested:
                    raise GroupError(f"{where}.content: a tool result inside a tool result")
                results.append((inner, _first_id(part, "tool_use_id")))
            else:
                raise GroupError(f"{where}.type: unknown content part {_shown(kind)}")
        return join_text(found, "\n"), results


def _read_calls(given: Mapping[str, Any], field: str) -> Iterator[tuple[_Id, ToolCall]]:
    listed = given.get("tool_calls") or ()
    if isinstance(listed, str | Mapping) or not isinstance(listed, Iterable):
        raise GroupError(f"{field}.tool_calls: expected a list, got {_shown(listed)}")
    for i, item in enumerate(listed):
        where = f"{field}.tool_calls[{i}]"
        call = _mapping(item, where)
        inner = next((call[key] for key in ("function", "custom") if call.get(key) is not None), None)
        body = _mapping(inner, f"{where}.function") if inner is not None else call
        arguments = next((body[key] for key in ("arguments", "args", "input") if key in body), None)
        yield _first_id(call, "id", "call_id"), _call(body.get("name"), arguments, where)
    if not listed and given.get("function_call"):
        body = _mapping(given["function_call"], f"{field}.function_call")
        yield None, _call(body.get("name"), body.get("arguments"), f"{field}.function_call")


def _call(name: object, arguments: object, field: str) -> ToolCall:
    if not isinstance(name, str):
        raise GroupError(f"{field}.name: expected text, got {_shown(name)}")
    if arguments is None:
        return ToolCall(name, "{}")
    if isinstance(arguments, str):
        try:
            parsed = parse_arguments(arguments or "{}")
        except (ValueError, RecursionError):
            return ToolCall(name, arguments)
        try:
            return ToolCall(name, _compact(parsed, field))
        except GroupError:  # so deep that it can be read but not written
            return ToolCall(name, arguments)
    return ToolCall(name, _compact(arguments, f"{field}.arguments"))


def _read_reasoning(given: Mapping[str, Any], *keys: str) -> str:
    for key in keys or _REASONING_KEYS:
        value = given.get(key)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, list):
            texts = [_block_text(block) for block in value]
            if any(texts):
                return "\n".join(text for text in texts if text)
    return ""


def _block_text(block: object) -> str:
    if not isinstance(block, Mapping):
        return block if isinstance(block, str) else ""
    found = next((block[key] for key in ("thinking", "text", "summary") if block.get(key)), "")
    return found if isinstance(found, str) else ""


def _png(image: Any, field: str) -> str:
    """A data: address of an image object as Pillow has it."""
    buffer = BytesIO()
    try:
        (image if image.mode in _PNG_MODES else image.convert("RGB")).save(buffer, format="PNG")
    except Exception as error:  # noqa: BLE001  whatever a broken image raises
        raise GroupError(f"{field}: an image that cannot be written as PNG: {describe(error)}") from None
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _media_url(part: Mapping[str, Any], field: str) -> str:
    for key in ("image_url", "video_url", "audio_url", "url", "image", "source"):
        value = part.get(key)
        if isinstance(value, str):
            return value
        if callable(getattr(value, "save", None)) and hasattr(value, "mode"):
            return _png(value, f"{field}.{key}")
        if isinstance(value, Mapping):
            if isinstance(value.get("url"), str):
                return str(value["url"])
            if isinstance(value.get("data"), str):
                media_type = value.get("media_type")
                return f"data:{media_type if isinstance(media_type, str) else 'image/png'};base64,{value['data']}"
    return _compact({key: value for key, value in part.items() if key != "type"}, field)


def _mapping(value: object, field: str) -> Mapping[str, Any]:
    found = _as_mapping(value)
    if found is None:
        raise GroupError(f"{field}: expected an object, got {_shown(value)}")
    return found


def _as_mapping(value: object) -> Mapping[str, Any] | None:
    if isinstance(value, Mapping):
        return value
    dump = None if isinstance(value, type) else getattr(value, "model_dump", None)
    if callable(dump):
        # SDKs fill their pydantic models without validation, and pydantic would warn about each such field.
        dumped = dump(warnings=False) if hasattr(value, "__pydantic_serializer__") else dump()
        if isinstance(dumped, Mapping):
            return dumped
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return None


def _compact(value: object, field: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(", ", ": "))
    except (TypeError, ValueError, RecursionError) as error:
        raise GroupError(f"{field}: not JSON: {error}") from error


def _first_id(given: Mapping[str, Any], *keys: str) -> _Id:
    found = (given.get(key) for key in keys)
    return next((id for id in found if id != "" and isinstance(id, str | int)), None)


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply, or a number of thousands of digits
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
