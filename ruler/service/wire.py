"""Bodies of requests, read; answers, written. The forms are those of docs/service.md."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError
from starlette.requests import Request

from ruler.errors import GroupError
from ruler.records import first_fault, group_record, read_record
from ruler.results import result_record, score_record, usage_record
from ruler.service.problems import Problem
from ruler.service.recent import Judged
from ruler.service.rendezvous import Answer, Post, Seat
from ruler.types import FailedGroup, Group

BYTES_PER_TOKEN = 4
"""To guess what a group takes before it is judged."""
_MAX_ID_CHARS = 1_000
_ROLLOUT_BYTES = 2_000
"""What a rollout takes in memory beside its text, of which other alphabets take two bytes and more a character."""
MAX_WAIT_SECONDS = 3_600.0

_Id = Annotated[str, Field(min_length=1, max_length=_MAX_ID_CHARS, coerce_numbers_to_str=True)]


class _RolloutBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    group_id: _Id
    group_size: Annotated[StrictInt, Field(ge=1)]
    rollout_id: _Id
    attempt: Annotated[StrictInt, Field(ge=0, le=2**53)] = 0
    messages: Any
    task: Any = None
    tools: Any = None
    reference: Any = None
    finish_reason: StrictStr | None = None
    histories: dict[str, Any] | None = None


def read_json(body: bytes) -> Any:
    """The body's JSON.

    Raises:
        Problem: `group`, it is not JSON.
    """
    try:
        return json.loads(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Problem("group", f"body: not UTF-8: byte {error.start}") from None
    except json.JSONDecodeError as error:
        many = "; many groups, a line each, go to /v1/score/batch" if error.msg == "Extra data" else ""
        raise Problem(
            "group", f"body: not JSON: {error.msg} at line {error.lineno} column {error.colno}{many}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise Problem("group", f"body: not JSON that can be read: {error}") from None


def read_group(body: bytes, *, max_rollouts: int) -> Group:
    """The group that was sent.

    Raises:
        GroupError, Problem: it cannot be read, or is too large.
    """
    data = read_json(body)
    rollouts = data.get("rollouts") if isinstance(data, dict) else data
    # Before they are read, which takes much longer than to count them.
    if isinstance(rollouts, list) and len(rollouts) > max_rollouts:
        raise Problem("too_large", f"rollouts: at most {max_rollouts}, got {len(rollouts)}")
    return read_record(data)


def read_post(body: bytes, *, owner: str, judge: str, rubric: str, max_rollouts: int) -> Post:
    """One rollout that was posted.

    Raises:
        GroupError, Problem: it cannot be read, or its group is too large.
    """
    data = read_json(body)
    try:
        read = _RolloutBody.model_validate(data)
    except ValidationError as error:
        raise GroupError(first_fault(error)) from None
    if read.group_size > max_rollouts:
        raise Problem("too_large", f"group_size: at most {max_rollouts}, got {read.group_size}", read.group_id)
    task = read.task if isinstance(read.task, dict) or read.task is None else {"messages": read.task}
    if read.reference is not None:
        task = {**(task or {}), "reference": read.reference}
    rollout = {"id": read.rollout_id, "messages": read.messages}
    rollout |= {"finish_reason": read.finish_reason, "histories": read.histories}
    record = {"group_id": read.group_id, "task": task, "tools": read.tools, "rollouts": [rollout]}
    group = read_record({key: value for key, value in record.items() if value is not None})
    return Post(
        owner=owner,
        group_id=read.group_id,
        group_size=read.group_size,
        attempt=read.attempt,
        rollout=group.rollouts[0],
        task=group.task,
        tools=group.tools,
        reference=group.reference,
        judge=judge,
        rubric=rubric,
        size_bytes=2 * len(body) + _ROLLOUT_BYTES,
        num_tokens=len(body) // BYTES_PER_TOKEN,
    )


def check_query(request: Request, known: Collection[str]) -> None:
    """Raises Problem `group` for a query parameter that the call does not have: a slip must not pass for a default."""
    for name in request.query_params:
        if name not in known:
            raise Problem("group", f"query: unknown parameter {name!r:.80}; known are {', '.join(known) or 'none'}")


def read_seconds(text: str | None) -> float | None:
    """`wait` in a query; None where it is not given.

    Raises:
        Problem: `group`, it is no number from 0 to an hour.
    """
    if text is None:
        return None
    seconds = float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{0,9})?", text, re.ASCII) else -1.0
    if not 0 <= seconds <= MAX_WAIT_SECONDS:
        raise Problem("group", f"wait: expected seconds from 0 to {MAX_WAIT_SECONDS:g}, got {text!r:.80}")
    return seconds


def read_count(name: str, text: str | None, *, at_least: int, at_most: int) -> int | None:
    """A whole number in a query; None where it is not given.

    Raises:
        Problem: `group`, it is none, or out of range.
    """
    if text is None:
        return None
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else -1
    if not at_least <= number <= at_most:
        raise Problem("group", f"{name}: expected a whole number from {at_least} to {at_most}, got {text!r:.80}")
    return number


def answer_record(seat: Seat, answer: Answer | None) -> dict[str, Any]:
    """What one rollout's caller gets; without `score` where there is none, `waiting` where there is no answer yet."""
    record: dict[str, Any] = {"group_id": seat.group_id, "attempt": seat.attempt, "rollout_id": seat.rollout_id}
    if answer is None:
        return record | {"status": "waiting", "group_size": seat.group_size, "num_rollouts": seat.num_here}
    group = answer.group
    shared = {
        "rank": answer.rank,
        "group_size": answer.group_size,
        "num_rollouts": answer.num_rollouts,
        "judge": group.judge,
        "model": group.model,
        "rubric": group.rubric,
        "prompt_version": group.prompt_version,
    }
    told = {name: value for name, value in shared.items() if value is not None}
    return {**record, "status": group.status, **score_record(answer.score), **told}


def judged_record(judged: Judged) -> dict[str, Any]:
    """A judged group in a list."""
    result = judged.result
    return {
        "number": judged.number,
        "group_id": result.group_id,
        "status": result.status,
        **({"reason": result.reason} if isinstance(result, FailedGroup) else {}),
        "finished_at": judged.finished_at,
        "seconds": judged.seconds,
        "owner": judged.owner,
        "judge": judged.judge,
        "rubric": judged.rubric,
        "num_rollouts": judged.num_rollouts,
        "usage": usage_record(result.usage),
    }


def whole_record(judged: Judged) -> dict[str, Any]:
    """A judged group with its scores and, where it is kept, its content."""
    group = None if judged.group is None else group_record(judged.group)
    return {**judged_record(judged), "result": result_record(judged.result), "group": group}
