"""Groups as JSON lines, read and written; files of them are plain, gzip (`.gz`), or `-` for standard input.

One line is one group. A bad line gives one clear error and does not hide the others.
"""

from __future__ import annotations

import gzip
import itertools
import json
import os
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import IO, Annotated, Any, TextIO, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from ruler.errors import ConfigError, GroupError
from ruler.messages import Media, Message, Tool, read_messages
from ruler.types import Group, Rollout


@dataclass(frozen=True, slots=True)
class LabelledGroup:
    """A group and, where the file has it, ground truth; truth is never part of the group."""

    group: Group
    truth: Mapping[str, float]
    """Rollout id -> truth, for the rollouts that have one."""


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is not a group; `str()` of it is one line of text with file, line number and field."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


_Id = Annotated[str, Field(coerce_numbers_to_str=True)]


def _as_number(value: object) -> object:
    """Right and wrong may be written as true and false."""
    return float(value) if isinstance(value, bool) else value


class _TaskRecord(BaseModel):
    model_config = ConfigDict(extra="allow")
    messages: Any = None
    tools: Any = None
    reference: Any = None


class _RolloutRecord(BaseModel):
    model_config = ConfigDict(extra="allow")
    id: _Id | None = None
    messages: Any
    tools: Any = None
    finish_reason: str | None = None
    histories: dict[str, Any] | None = None
    truth: Annotated[float, BeforeValidator(_as_number), Field(allow_inf_nan=False, strict=True)] | None = None


def _as_task(value: object) -> object:
    """A task may be its messages alone."""
    return {"messages": value} if isinstance(value, str | list) else value


class _GroupRecord(BaseModel):
    model_config = ConfigDict(extra="allow")
    group_id: _Id | None = None
    task: Annotated[_TaskRecord | None, BeforeValidator(_as_task)] = None
    tools: Any = None
    rollouts: list[_RolloutRecord]


_RECORD: TypeAdapter[_GroupRecord] = TypeAdapter(_GroupRecord)
_TOO_DEEP = "nested too deeply to be read"


def read_labelled(path: str) -> Iterator[LabelledGroup | BadLine]:
    """The groups of a file in order, each with its truth, and a BadLine for each line that is none.

    A line is a record as in docs/formats.md, or a bare list of message lists. Blank lines are skipped. Unknown keys
    are kept in `metadata`. A group that stood on an earlier line, or its `group_id` with other content, is a bad line.

    Raises:
        ConfigError: the file cannot be opened.
    """
    seen: dict[str, tuple[str, int]] = {}
    for number, line in _lines(path):
        if isinstance(line, BadLine):
            yield line
            return
        if not line.strip():
            continue
        try:
            labelled = _read_line(line)
            group = labelled.group
            digest, earlier = seen.setdefault(group.id, (group.rollouts_digest, number))
            if digest != group.rollouts_digest:
                raise GroupError(f"group_id: {group.id!r} stands on line {earlier} with other rollouts")
            if number != earlier:
                raise GroupError(f"group {group.id!r}: repeats line {earlier}, which is judged once")
        except GroupError as error:
            yield BadLine(path, number, str(error))
        else:
            yield labelled


def read_groups(path: str) -> Iterator[Group | BadLine]:
    """As `read_labelled`, without truth."""
    for found in read_labelled(path):
        yield found if isinstance(found, BadLine) else found.group


def read_group(line: bytes) -> Group:
    """The group of one line, or of a request's body; truth in it is left out.

    Raises:
        GroupError: it is no group; names the field and the value, or the place that is not JSON.
    """
    return _read_line(line).group


def read_record(data: object) -> Group:
    """As `read_group`, for an object that is read from JSON already."""
    return _read(data).group


def count_lines(path: str) -> int:
    """Lines that are not blank; those of a damaged file up to the damage."""
    return sum(1 for _, line in _lines(path) if isinstance(line, bytes) and line.strip())


def _lines(path: str) -> Iterator[tuple[int, bytes | BadLine]]:
    number = 0
    try:
        with open_read(path) as file:
            for line in file:
                number += 1
                yield number, line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        yield number + 1, BadLine(path, number + 1, f"the file is damaged from here on: {error}")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error


def open_read(path: str) -> IO[bytes]:
    """The file for reading, uncompressed where its name ends in `.gz`; `-` is standard input."""
    if path == "-":
        return copy_stream(sys.stdin, "rb")
    if path.endswith(".gz"):
        return cast(IO[bytes], gzip.GzipFile(path, "rb"))
    return open(path, "rb")


def copy_stream(stream: TextIO | None, mode: str) -> IO[bytes]:
    """The bytes under a standard stream, in a file of their own; OSError when the process was started without it."""
    if stream is None:
        raise OSError("it is closed")
    return cast(IO[bytes], os.fdopen(os.dup(stream.fileno()), mode))


def _read_line(line: bytes) -> LabelledGroup:
    return _read(_parse(line))


def _parse(line: bytes) -> object:
    try:
        return json.loads(line.rstrip(b"\r\n").decode("utf-8"))
    except UnicodeDecodeError as error:
        raise GroupError(f"not UTF-8: byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise GroupError(f"not JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise GroupError(f"not JSON that can be read: {error}") from None


def _read(data: object) -> LabelledGroup:
    try:
        if isinstance(data, list):
            return LabelledGroup(Group.of(data), {})
        return _labelled(_RECORD.validate_python(data))
    except ValidationError as error:
        raise GroupError(first_fault(error)) from None
    except RecursionError:
        raise GroupError(_TOO_DEEP) from None


def first_fault(error: ValidationError) -> str:
    """The first of the faults in one line: where, what was expected, what is there."""
    fault = error.errors(include_url=False)[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"]).lstrip(".")
    shown = repr(fault["input"])
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    said = "expected an object" if fault["type"] == "model_type" else fault["msg"].lower()
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{place or 'record'}: {said}, got {shown}{more}"


def _labelled(record: _GroupRecord) -> LabelledGroup:
    name = record.group_id or ""
    task = record.task or _TaskRecord()
    ids = [f"r{n}" if r.id is None else r.id for n, r in enumerate(record.rollouts, 1)]
    metadata, of_task = _without_truth(record), _without_truth(task)
    tools = task.tools if task.tools is not None else record.tools
    try:
        rollouts = [
            Rollout.of(
                rollout_id,
                rollout.messages,
                tools=rollout.tools,
                finish_reason=rollout.finish_reason,
                histories=rollout.histories,
                metadata=rollout.model_extra,
            )
            for rollout_id, rollout in zip(ids, record.rollouts, strict=True)
        ]
        messages = task.messages
        shared = None if messages is None else read_messages(messages, field="task.messages", role="user").messages
    except GroupError as error:
        raise GroupError(f"group {name!r}: {error}" if name else str(error)) from None
    group = Group.of(
        rollouts,
        task=shared,
        id=name,
        tools=tools,
        reference=_reference(task.reference),
        metadata={**metadata, "task": of_task} if of_task else metadata,
    )
    truth = {
        rollout_id: rollout.truth
        for rollout_id, rollout in zip(ids, record.rollouts, strict=True)
        if rollout.truth is not None
    }
    return LabelledGroup(group, truth)


def _reference(value: object) -> object:
    return {key: item for key, item in value.items() if key != "truth"} if isinstance(value, dict) else value


def _without_truth(record: BaseModel) -> dict[str, Any]:
    return {key: value for key, value in (record.model_extra or {}).items() if key != "truth"}


_SPLIT_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


def group_record(group: Group) -> dict[str, Any]:
    """The group as the JSON object of docs/formats.md, without metadata: read, it is this group again.

    The task stands once, and in every rollout too where a rollout cannot be read without it: it answers a tool call of
    the task, or begins with the task's messages again.

    Raises:
        GroupError: an id, or messages that were put together by hand, would be read as something else.
    """
    name = f"group {group.id!r}: "
    for field, text in (("id", group.id), *(("rollout id", rollout.id) for rollout in group.rollouts)):
        if _SPLIT_PAIR.search(text):
            raise GroupError(f"{name}{field}: {text!r} holds one character as two surrogates, and JSON as one")
    task: dict[str, Any] = {}
    if group.task:
        task["messages"] = _message_records(group.task)
    if group.tools:
        task["tools"] = _tool_records(group.tools)
    if group.reference is not None:
        task["reference"] = group.reference
    shared = group.task if any(_needs(rollout, group.task) for rollout in group.rollouts) else ()
    rollouts = [_rollout_record(rollout, shared) for rollout in group.rollouts]
    record = {"group_id": group.id, **({"task": task} if task else {}), "rollouts": rollouts}
    read = read_record(record)
    for field, there, here in (
        ("task", read.task, group.task),
        ("tools", read.tools, group.tools),
        *(
            (f"rollout {one.id!r}", other, replace(one, metadata={}))
            for one, other in zip(group.rollouts, read.rollouts, strict=True)
        ),
    ):
        if there != here:
            raise GroupError(
                f"{name}{field}: chat messages and tools cannot say {here!r:.200}; they would be read as {there!r:.200}"
            )
    return record


def _needs(rollout: Rollout, task: tuple[Message, ...]) -> bool:
    """Whether the rollout is read as it is only after the task's messages."""
    messages = rollout.messages
    if not messages:
        return rollout.finish_reason == ""  # which only a last message can say
    before_calls = itertools.takewhile(lambda message: not message.tool_calls, messages)
    return messages[: len(task)] == task or any(message.answers is not None for message in before_calls)


def _rollout_record(rollout: Rollout, task: tuple[Message, ...]) -> dict[str, Any]:
    messages = _message_records((*task, *rollout.messages))
    record: dict[str, Any] = {"id": rollout.id, "messages": messages}
    if rollout.tools is not None:
        record["tools"] = _tool_records(rollout.tools)
    if rollout.finish_reason:
        record["finish_reason"] = rollout.finish_reason
    elif rollout.finish_reason is not None and messages:
        # An empty one is read where its source had it: on the last message.
        messages[-1]["finish_reason"] = rollout.finish_reason
    if rollout.histories:
        record["histories"] = {history.name: _message_records(history.messages) for history in rollout.histories}
    return record


def _message_records(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """The messages of one conversation in OpenAI's form, with ids that tie tool messages to the calls they answer."""
    records: list[dict[str, Any]] = []
    first = num_calls = 0
    for message in messages:
        record: dict[str, Any] = {"role": message.role, "content": _content_record(message.content)}
        if message.tool_calls:
            first, num_calls = num_calls, num_calls + len(message.tool_calls)
            record["tool_calls"] = [
                {"id": f"call_{n}", "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for n, call in enumerate(message.tool_calls, first)
            ]
        if message.role == "tool":
            # An id that no call has, where none is answered: without an id the next open call would be taken.
            answered = None if message.answers is None else first + message.answers
            record["tool_call_id"] = "none" if answered is None else f"call_{answered}"
            if answered is None and message.name is not None:
                record["name"] = message.name
        if message.reasoning:
            record["reasoning_content"] = message.reasoning
        if message.refusal:
            record["refusal"] = message.refusal
        records.append(record)
    return records


def _content_record(content: Sequence[str | Media]) -> object:
    if not content:
        return ""
    if len(content) == 1 and isinstance(content[0], str):
        return content[0]
    return [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": part.kind, "url": part.url}
        for part in content
    ]


def _tool_records(tools: Iterable[Tool]) -> list[dict[str, Any]]:
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                **({"description": tool.description} if tool.description else {}),
                **({"parameters": json.loads(tool.parameters)} if tool.parameters else {}),
            },
        }
        for tool in tools
    ]
