"""The first relative judge as a row of the table: its layout, one fixed order, one call, its way of reading the reply.

Written from a description of its release 0.5.18, not from its code. Transport, cache and corrective questions are those
of the judge that is given: it had none of them. Tool-call ids are renumbered, so that runs which differ in random ids
alone share a beginning, which they did not there; JSON in arguments is laid out anew, images are placeholders;
reasoning, refusals and how a rollout ended are not shown, as there.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

from pydantic import BaseModel, ValidationError

from benchmarks.original_layout import original_messages
from benchmarks.rows import Answer, AsIfAsked
from judges.wrapper import JudgeWrapper
from ruler.errors import GroupError, JudgeError, ReplyError, RulerError, describe
from ruler.packing.neutralise import neutralise
from ruler.records import group_record
from ruler.reply import read_reply, reply_schema
from ruler.scoring import JudgeCall
from ruler.types import ChatMessage, Group, Judge, JudgedOrder, JudgeReply, JudgeRequest, judge_info, reply_fault

Know: TypeAlias = Callable[[Group, str, Mapping[str, str]], None]
"""Told, before anything is asked, of each group, the text before the first fence, and rollout id -> the text
between its fences, as a simulated judge will read them; of no other judge it is told anything."""

_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "scores": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "trajectory_id": {"type": "string"},
                    "explanation": {"type": "string"},
                    "score": {"type": "number"},
                },
                "required": ["trajectory_id", "explanation", "score"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["scores"],
    "additionalProperties": False,
}
_KEYS = ("role", "content", "tool_calls", "tool_call_id", "name")
_MAX_MESSAGE_CHARS = 2_000
_MAX_NOTE_CHARS = 2_000


async def ask_original(
    judge: Judge, groups: Sequence[Group], *, know: Know, concurrency: int = 16
) -> dict[str, Answer]:
    """Group id -> what the judge says of the group in the first relative judge's layout.

    Scores belong to rollouts by their place in the reply, whatever ids it names, and stand as they came: above 1 and
    below 0, too. A group whose rollouts are all equal, or of one, is shown once, and that score is everybody's. What
    that version would have refused is a failure with the reason "reply"; so is a score that is no finite number, which
    it would have handed to the trainer.
    """
    reading = judge_info(judge).backend == "simulated"
    asker = _Asker(ReadsOriginal(judge) if reading else judge)
    for group in groups if reading else ():
        asker.tell(group, know)
    places = asyncio.Semaphore(concurrency)

    async def ask(group: Group) -> Answer:
        async with places:
            return await asker.ask(group)

    async with asyncio.TaskGroup() as tasks:
        asked = {group.id: tasks.create_task(ask(group)) for group in groups}
    return {name: task.result() for name, task in asked.items()}


class ReadsOriginal(JudgeWrapper):
    """Lets a judge that finds rollouts by this project's fences answer prompts in the original's layout.

    It is asked with the trajectories between fences, and its reply becomes one of the original's, in its order.
    """

    async def __call__(self, request: JudgeRequest) -> JudgeReply:
        """The reply in the original's form.

        Raises:
            RulerError: as the judge inside.
        """
        text = _fenced(request.messages)
        labels = tuple(text.rollouts)
        system, _ = request.messages
        asked = replace(
            request,
            messages=(system, {"role": "user", "content": text.prompt}),
            schema=reply_schema(notes=True),
            ids=labels,
            check=partial(read_reply, ids=labels),
        )
        reply = await self._judge(asked)
        verdict = read_reply(reply.text, labels)
        scores = [
            {"trajectory_id": number, "explanation": verdict.notes.get(label, ""), "score": verdict.scores[label]}
            for number, label in zip(request.ids, labels, strict=True)
        ]
        return replace(reply, text=json.dumps({"scores": scores}))


class _Asker:
    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._info = judge_info(judge)
        self._counted = AsIfAsked()

    def tell(self, group: Group, know: Know) -> None:
        with suppress(RulerError):  # which the asking says
            text = _fenced(self._request(group).messages)
            shown = zip(group.rollouts, text.rollouts.values(), strict=False)  # of equal ones the first
            know(group, text.before, {rollout.id: fenced for rollout, fenced in shown})

    async def ask(self, group: Group) -> Answer:
        try:
            request = self._request(group)
            items = await self._items(group, request)
        except RulerError as error:
            return self._answer(group, failure=f"{error.code}: {_line(str(error))}")
        odd = [f"{place} is {item.score}" for place, item in enumerate(items, 1) if not math.isfinite(item.score)]
        if odd:
            message = f"score {', '.join(odd)}, which the original hands to the trainer"
            return self._answer(group, failure=f"{ReplyError.code}: {message}")
        scores = tuple(item.score for item in items)
        shown = tuple(rollout.id for rollout in group.rollouts[: len(scores)])
        judged = JudgedOrder(self._info.name, order=0, block=0, rollout_ids=shown, scores=scores)
        copies = len(group.rollouts) // len(items)
        notes = tuple(neutralise(item.explanation[:_MAX_NOTE_CHARS])[0] for item in items)
        return self._answer(group, scores=scores * copies, notes=notes * copies, judged=(judged,))

    def _answer(self, group: Group, **said: Any) -> Answer:
        return Answer(
            **{"scores": None, **said}, usage=self._counted.usage(group.id), seconds=self._counted.seconds(group.id)
        )

    def _request(self, group: Group) -> JudgeRequest:
        if any(rollout.histories for rollout in group.rollouts):
            raise GroupError("histories of sub-agents, which the original refuses")
        record = group_record(group)
        conversations = _conversations(record)
        size = 1 if all(messages == conversations[0] for messages in conversations) else len(conversations)
        return JudgeRequest(
            messages=original_messages((), conversations, tools=_tools(record)),
            schema=_SCHEMA,
            ids=tuple(str(number) for number in range(1, size + 1)),
            sampling=self._info.sampling,
            check=partial(_read, size=size),
        )

    async def _items(self, group: Group, request: JudgeRequest) -> list[_Item]:
        reply: JudgeReply | None = None
        try:
            reply = await _call(self._judge, request)
            items = _read(reply.text, size=len(request.ids))
        except RulerError as error:
            self._count(group, request, reply, error)
            raise
        self._count(group, request, reply, None)
        return items

    def _count(self, group: Group, request: JudgeRequest, reply: JudgeReply | None, error: RulerError | None) -> None:
        shown = {number: (rollout.id,) for number, rollout in zip(request.ids, group.rollouts, strict=False)}
        self._counted(JudgeCall(group.id, self._info.name, 0, 0, request, shown, reply, error))


async def _call(judge: Judge, request: JudgeRequest) -> JudgeReply:
    try:
        reply = await judge(request)
    except RulerError:
        raise
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise JudgeError("the judge was cancelled from inside") from error
    except Exception as error:
        # A user's judge may raise anything, and must not take the other groups down.
        raise JudgeError(f"the judge raised {describe(error)}") from error
    fault = reply_fault(reply)
    if fault:
        raise JudgeError(f"the judge {fault}")
    return reply


class _Item(BaseModel):
    trajectory_id: str
    explanation: str
    score: float
    """No bounds; text that is a number, NaN and Infinity are numbers."""


class _Reply(BaseModel):
    scores: list[_Item]


def _read(text: str, *, size: int) -> list[_Item]:
    """The items of a reply, in its order.

    Raises:
        ReplyError: it is not JSON as a whole, lacks a field, has an id that is no text, or not `size` items.
    """
    try:
        items = _Reply.model_validate_json(text or "{}").scores
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(map(str, fault["loc"]))
        raise ReplyError(f"unusable reply: {place + ': ' if place else ''}{fault['msg']}", raw=text) from None
    except ValueError as error:  # a lone surrogate
        raise ReplyError(f"unusable reply: {error}", raw=text) from None
    if len(items) != size:
        raise ReplyError(f"unusable reply: expected {size} scores, got {len(items)}", raw=text)
    return items


def _conversations(record: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    """Each rollout's messages in OpenAI's form, the task's among them."""
    task = record.get("task", {}).get("messages", [])
    # A record repeats the task in all rollouts, or in none.
    given = [rollout["messages"] for rollout in record["rollouts"]]
    whole = [messages if messages[: len(task)] == task else [*task, *messages] for messages in given]
    return [[{key: message[key] for key in _KEYS if key in message} for message in messages] for messages in whole]


def _tools(record: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Those of the first rollout, as if they were everybody's."""
    tools: Sequence[Mapping[str, Any]] = record["rollouts"][0].get("tools", record.get("task", {}).get("tools", ()))
    return tools


@dataclass(frozen=True, slots=True)
class _Fenced:
    """A prompt in the original's layout, its trajectories between this project's fences."""

    before: str
    """The text before the first fence."""
    rollouts: Mapping[str, str]
    """Label -> the text between its fences, in the order shown."""

    @property
    def prompt(self) -> str:
        """The user message."""
        fences = (f"<rollout {label}>\n{text}\n</rollout {label}>" for label, text in self.rollouts.items())
        return self.before + "\n\n".join(fences)


_TRAJECTORY = re.compile(r'^<trajectory id="[0-9]+">\n(?P<json>.*)\n</trajectory>$', re.MULTILINE)


def _fenced(messages: Sequence[ChatMessage]) -> _Fenced:
    # JSON has no line ends of its own: what a rollout says cannot look like a trajectory's border.
    user = messages[1]["content"]
    found = list(_TRAJECTORY.finditer(user))
    return _Fenced(user[: found[0].start()], {_label(place): match["json"] for place, match in enumerate(found)})


def _label(place: int) -> str:
    """A, B, …, Z, AA, AB and so on."""
    letters = ""
    while place >= 0:
        place, letter = divmod(place, 26)
        letters = chr(ord("A") + letter) + letters
        place -= 1
    return letters


def _line(text: str) -> str:
    return " ".join(text.split())[:_MAX_MESSAGE_CHARS]
