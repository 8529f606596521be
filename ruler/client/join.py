"""One rollout, sent by itself, and its score, asked for until its siblings are in and judged."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from ruler.client.connections import Here
from ruler.client.replies import UNKNOWN, Reply, Transient
from ruler.client.sender import Sender
from ruler.errors import GroupError, JudgeError, JudgeUnavailable
from ruler.records import first_fault, group_record
from ruler.results import ScoreRecord, json_line
from ruler.types import Group, Rollout, Score, Usage

_PATH = "/v1/rollouts"
_POLL_SECONDS = 20.0
"""How long the service holds a question for a score. Shorter than what proxies allow a silent connection."""
_POLL_MARGIN_SECONDS = 15.0
"""What an answer may take beyond that."""
_HELD_SECONDS = 1.0
"""A question that was held for less was not held: some proxy's doing, which must not be asked without end."""
_SHORT_POLLS_PER_SECOND = 200
"""Of all groups together for which the service holds no question."""
_FIRST_PAUSE_SECONDS = 0.5
_MAX_PAUSE_SECONDS = 10.0
_MAX_ATTEMPT = 2**53


@dataclass(frozen=True, slots=True)
class JoinedScore:
    """What one rollout got that was judged with siblings that others sent."""

    group_id: str
    attempt: int
    score: Score
    """Its `score` is None when the group is tied."""
    status: Literal["scored", "tied"]
    rank: int | None
    """1 is the best of the group; equal scores share a rank. None when tied."""
    group_size: int
    """Rollouts that the group was declared to have."""
    num_rollouts: int
    """Rollouts that were judged together: fewer than `group_size` when some did not come in time."""
    judge: str
    model: str | None
    """As in ScoredGroup; None when nothing was asked."""
    rubric: str
    prompt_version: str


_Positive = Annotated[int, Field(ge=1)]


class _JoinedRecord(ScoreRecord):
    group_id: str
    attempt: int
    status: Literal["scored", "tied"]
    rank: _Positive | None = None
    group_size: _Positive
    num_rollouts: _Positive
    judge: str
    model: str | None = None
    rubric: str
    prompt_version: str


@dataclass(frozen=True, slots=True)
class Place:
    """Which rollout of which group."""

    group_id: str
    group_size: int
    rollout_id: str
    attempt: int

    def __str__(self) -> str:
        return f"group {self.group_id!r:.80}, attempt {self.attempt}: rollout {self.rollout_id!r:.80}"

    def read(self, reply: Reply) -> JoinedScore:
        """What the service says of this rollout.

        Raises:
            JudgeError: something else.
        """
        body = reply.body if reply.status == 200 and reply.body is not None else {}
        try:
            read = _JoinedRecord.model_validate({**body, "id": body.get("rollout_id")})
            score = read.read("rollout", read.status)
        except ValidationError as error:
            raise self._no_score(reply, first_fault(error)) from None
        except ValueError as error:
            raise self._no_score(reply, str(error)) from None
        if (read.group_id, read.attempt, read.id) != (self.group_id, self.attempt, self.rollout_id):
            raise self._no_score(reply, "it is that of another rollout")
        shared = {name: getattr(read, name) for name in JoinedScore.__dataclass_fields__ if name != "score"}
        return JoinedScore(score=score, **shared)

    def _no_score(self, reply: Reply, why: str) -> JudgeError:
        message = f"{reply.server}: {self}: {reply.status} with what is no score: {why}: {reply.quoted()}"
        return JudgeError(message, usage=UNKNOWN)


@dataclass(frozen=True)
class Joining:
    """One rollout on its way; `score` sees it through."""

    sender: Sender
    here: Here
    place: Place
    content: bytes
    """The body that is posted."""
    deadline: float
    """By the clock of the sender's patience."""

    async def score(self) -> JoinedScore:
        """The rollout's score.

        Raises:
            RulerError: as `Client.join`.
        """
        reply, _ = await self.sender.patience.ask(self._once, self.deadline)
        return self.place.read(reply)

    async def _once(self) -> Reply:
        """Sends the rollout and asks for its score until there is one.

        Raises:
            Transient: the service does not know the rollout any more, or its group failed and may be begun anew. In
                both cases it has to be sent again: asking would only bring the same answer.
        """
        async with self.here.quick:
            reply = await self.sender.post(
                _PATH, self.deadline, group_id=self.place.group_id, params={"wait": "0"}, content=self.content
            )
        num_polls = 0
        while reply.status == 202:
            if self.sender.patience.left(self.deadline) <= 0:
                raise self._too_late(reply)
            reply = await self._poll(reply, num_polls)
            num_polls += 1
        if reply.code == "not_found":
            forgotten = f"{reply.server}: {self.place}: the service has forgotten it"
            raise Transient(JudgeUnavailable(forgotten, usage=Usage()))
        return self.sender.checked(reply)

    async def _poll(self, known: Reply, num_polls: int) -> Reply:
        """What the service says of the rollout. Siblings in this event loop let one of them ask, until it is told."""
        key = self.place.group_id, self.place.attempt
        other = self.here.asking.get(key)
        if other is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self.sender.patience.left(self.deadline))):
                    said = await asyncio.shield(other)
                    return known if said is not None and said.status == 202 else await self._ask(0.0)
            return known
        asking = self.here.asking[key] = asyncio.get_running_loop().create_future()
        said = None
        try:
            said = await self._ask_for_all(num_polls)
            return said
        finally:
            del self.here.asking[key]
            asking.set_result(said)

    async def _ask_for_all(self, num_polls: int) -> Reply:
        """What the service says of the rollout; it holds the question where it does not hold many."""
        pause = max(
            min(_MAX_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** min(num_polls, 10)),
            len(self.here.asking) / _SHORT_POLLS_PER_SECOND,
        )
        try:
            async with asyncio.timeout(pause * (0.5 + self.sender.patience.jitter() / 2)):
                await self.here.long_polls.acquire()
        except TimeoutError:
            return await self._ask(0.0)
        patience = self.sender.patience
        begun = patience.clock()
        try:
            reply = await self._ask(_POLL_SECONDS)
        finally:
            self.here.long_polls.release()
        left = patience.left(self.deadline)
        if reply.status == 202 and patience.clock() - begun < _HELD_SECONDS < left:
            await patience.sleep(min(pause, left))
        return reply

    async def _ask(self, most_seconds: float) -> Reply:
        """The answer to one question, asked again where it got lost; it may be one of an error that a post can mend."""
        reply, _ = await self.sender.patience.ask(partial(self._ask_once, most_seconds), self.deadline)
        return reply

    async def _ask_once(self, most_seconds: float) -> Reply:
        seconds = min(most_seconds, max(0.0, self.sender.patience.left(self.deadline)))
        params = {
            "group_id": self.place.group_id,
            "rollout_id": self.place.rollout_id,
            "attempt": str(self.place.attempt),
            "wait": f"{seconds:.3f}",
        }
        send = partial(
            self.sender.connections.send,
            "GET",
            _PATH,
            group_id=self.place.group_id,
            params=params,
            seconds=seconds + _POLL_MARGIN_SECONDS,
        )
        if most_seconds:
            reply = await send(held=True)
        else:
            async with self.here.quick:
                reply = await send()
        mendable = reply.code == "not_found" or (reply.code is not None and reply.transient() is not None)
        return reply if mendable else self.sender.checked(reply)

    def _too_late(self, last: Reply) -> JudgeUnavailable:
        seconds = self.sender.patience.timeout_seconds
        url = self.sender.connections.url
        here = (last.body or {}).get("num_rollouts")
        said = f"; {here} of {self.place.group_size} rollouts are there" if isinstance(here, int) else ""
        message = f"{url}: {self.place}: no score within timeout_seconds={seconds:g}{said}"
        return JudgeUnavailable(message, usage=UNKNOWN)


def read_place(group_id: object, group_size: object, rollout_id: object, attempt: object) -> Place:
    """Where a rollout belongs.

    Raises:
        GroupError: a value that is none; names it.
    """
    if rollout_id is None:
        raise GroupError("rollout_id: missing; give one beside the messages, or a Rollout, which has its own")
    if isinstance(rollout_id, int) and not isinstance(rollout_id, bool):
        rollout_id = str(rollout_id)
    for name, text in (("group_id", group_id), ("rollout_id", rollout_id)):
        if not isinstance(text, str) or not text or not _is_unicode(text):
            raise GroupError(f"{name}: expected text, not empty and without half surrogate pairs, got {text!r:.80}")
    for name, count, least in (("group_size", group_size, 1), ("attempt", attempt, 0)):
        if isinstance(count, bool) or not isinstance(count, int) or not least <= count <= _MAX_ATTEMPT:
            raise GroupError(f"{name}: expected a whole number of at least {least}, got {count!r:.80}")
    return Place(group_id, group_size, rollout_id, attempt)  # type: ignore[arg-type]


def _is_unicode(text: str) -> bool:
    """Whether it can stand in a URL."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def body_of(place: Place, rollout: Rollout, *, task: object, tools: object, reference: object) -> bytes:
    """What is posted for one rollout.

    Raises:
        GroupError: task, tools or rollout cannot be read, or not be sent.
    """
    if rollout.tools is not None and tools is not None:
        raise GroupError(
            f"{place}: tools: given for the group, and of this rollout its own; the service knows those of a group"
        )
    tools = rollout.tools if tools is None else tools
    alone = replace(rollout, tools=None, metadata={})
    group = Group.of([alone], task=task, tools=tools, id=place.group_id, reference=reference)
    record = group_record(group)
    [own] = record.pop("rollouts")
    del own["id"]
    declared: Mapping[str, Any] = {
        "group_size": place.group_size,
        "rollout_id": place.rollout_id,
        "attempt": place.attempt,
    }
    return json_line({**record, **declared, **own})
