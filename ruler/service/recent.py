"""The groups judged lately, for the dashboard and `/v1/groups`: bounded in number and in bytes, oldest go first."""

from __future__ import annotations

import sys
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from operator import attrgetter

from ruler.messages import Message
from ruler.types import FailedGroup, Group, ScoredGroup

# What objects take beside their text (CPython 3.11, rounded up; a test measures it).
_ENTRY_BYTES = 2_500
_ROLLOUT_BYTES = 500
_MESSAGE_BYTES = 200
_PIECE_BYTES = 100
_NUMBER_BYTES = 40


@dataclass(frozen=True, slots=True)
class Judged:
    """One group that was judged, or failed."""

    number: int
    """Running, from 1; the largest is the newest."""
    owner: str
    """Name of the caller's key."""
    judge: str
    """Its configured name."""
    rubric: str
    """Its configured name."""
    result: ScoredGroup | FailedGroup
    group: Group | None
    """None: the content is not kept, and neither are notes, messages and raw replies in `result`."""
    size_bytes: int
    """What this takes in memory, estimated."""
    finished_at: float
    """Unix seconds."""
    seconds: float
    """From the first question to the scores."""

    @property
    def num_rollouts(self) -> int:
        """How many rollouts the group had."""
        result = self.result
        return len(result.rollout_ids if isinstance(result, FailedGroup) else result.rollouts)


class Recent:
    """The newest judged groups; adding one takes the same time however many there are.

    Attributes:
        content: whether rollouts, notes and messages are kept.
        size_bytes: of all that is kept, estimated; never more than `max_bytes`.
    """

    def __init__(
        self, max_groups: int, max_bytes: int, *, content: bool, clock: Callable[[], float] = time.time
    ) -> None:
        """Starts empty.

        Args:
            max_groups: kept at most.
            max_bytes: kept at most, of all groups together.
            content: whether to keep rollouts, and what judges wrote, which may quote them.
            clock: Unix seconds.
        """
        self.content = content
        self.size_bytes = 0
        self._max_groups = max_groups
        self._max_bytes = max_bytes
        self._clock = clock
        self._last_number = 0
        # By owner, and under None of all owners, oldest first: what is dropped stands first in both of its queues.
        self._queues: dict[str | None, deque[Judged]] = {None: deque()}
        self._newest: dict[tuple[str | None, str], Judged] = {}

    def __len__(self) -> int:
        return len(self._queues[None])

    def add(
        self,
        result: ScoredGroup | FailedGroup,
        *,
        owner: str,
        judge: str,
        rubric: str,
        group: Group,
        size_bytes: int,
        seconds: float,
    ) -> None:
        """Keeps a group, and drops the oldest that no longer have room.

        One that is larger than all the room there is is kept without its content; one whose scores alone are larger
        is not kept.

        Args:
            result: what came of it.
            owner: name of the caller's key.
            judge: its configured name.
            rubric: its configured name.
            group: what was judged.
            size_bytes: of the group as it came.
            seconds: from the first question to the scores.
        """
        self._last_number += 1
        kept = group if self.content else None
        result = result if self.content else _without_content(result)
        held = _result_bytes(result) + (size_bytes + _overhead(group) if kept else 0)
        if held > self._max_bytes:
            kept, result = None, _without_content(result)
            held = _result_bytes(result)
        if held > self._max_bytes:
            return
        while self and (len(self) >= self._max_groups or self.size_bytes + held > self._max_bytes):
            self._drop_oldest()
        judged = Judged(self._last_number, owner, judge, rubric, result, kept, held, self._clock(), seconds)
        self.size_bytes += held
        for whose in (None, owner):
            self._queues.setdefault(whose, deque()).append(judged)
            self._newest[whose, result.group_id] = judged

    def newest(self, owner: str | None, limit: int, before: int | None = None) -> list[Judged]:
        """The newest first, at most `limit`, with numbers below `before`; `owner` None: everybody's."""
        queue = self._queues.get(owner, deque())
        end = len(queue) if before is None else bisect_left(queue, before, key=attrgetter("number"))
        newer = len(queue) - end
        return list(islice(reversed(queue), newer, newer + limit))

    def get(self, group_id: str, owner: str | None) -> Judged | None:
        """The newest group of this id; `owner` None: whoever's. None when there is none, or it was dropped."""
        return self._newest.get((owner, group_id))

    def numbered(self, number: int, owner: str | None) -> Judged | None:
        """The group of this number; `owner` None: whoever's. None when there is none, or it was dropped."""
        found = self.newest(owner, 1, number + 1)
        return found[0] if found and found[0].number == number else None

    def _drop_oldest(self) -> None:
        oldest = self._queues[None][0]
        self.size_bytes -= oldest.size_bytes
        for whose in (None, oldest.owner):
            queue = self._queues[whose]
            queue.popleft()
            if whose is not None and not queue:
                del self._queues[whose]
            key = whose, oldest.result.group_id
            if self._newest[key] is oldest:
                del self._newest[key]


def _without_content(result: ScoredGroup | FailedGroup) -> ScoredGroup | FailedGroup:
    """The result without any text that a judge or a policy wrote."""
    if isinstance(result, FailedGroup):
        return replace(result, message="", raw_reply=None)
    return replace(
        result,
        rollouts=tuple(replace(score, note=None) for score in result.rollouts),
        failed_orders=tuple(replace(failed, message="") for failed in result.failed_orders),
        jury=tuple(replace(juror, notes=(None,) * len(juror.notes)) for juror in result.jury),
    )


def _result_bytes(result: ScoredGroup | FailedGroup) -> int:
    if isinstance(result, FailedGroup):
        texts: Iterator[str | None] = chain(
            (result.group_id, result.message, result.raw_reply, result.judge), result.rollout_ids
        )
        return _ENTRY_BYTES + sum(map(_text_bytes, texts)) + _NUMBER_BYTES * len(result.rollout_ids)
    held = _ENTRY_BYTES + _text_bytes(result.group_id) + _text_bytes(result.judge) + _text_bytes(result.model)
    held += sum(
        _ROLLOUT_BYTES + _text_bytes(score.id) + _text_bytes(score.note) + _NUMBER_BYTES * len(score.flags)
        for score in result.rollouts
    )
    held += sum(_PIECE_BYTES + _NUMBER_BYTES * 2 * len(judged.scores) for judged in result.judged)
    held += sum(_PIECE_BYTES + _text_bytes(failed.message) for failed in result.failed_orders)
    held += sum(
        _ROLLOUT_BYTES + 3 * _NUMBER_BYTES * len(juror.scores) + sum(map(_text_bytes, juror.notes))
        for juror in result.jury
    )
    return held


def _text_bytes(text: str | None) -> int:
    return 0 if text is None else sys.getsizeof(text)


def _overhead(group: Group) -> int:
    """What a group takes in memory beyond the bytes of its JSON."""
    histories = [history for rollout in group.rollouts for history in rollout.histories]
    conversations = chain(
        [group.task], (rollout.messages for rollout in group.rollouts), (history.messages for history in histories)
    )
    held = _ROLLOUT_BYTES * (1 + len(group.rollouts) + len(histories))
    held += sum(_message_overhead(message) for messages in conversations for message in messages)
    tools = chain(group.tools, *(rollout.tools or () for rollout in group.rollouts))
    held += _PIECE_BYTES * sum(1 for _ in tools)
    return held + sum(_count(metadata) for metadata in (group.metadata, *(r.metadata for r in group.rollouts)))


def _message_overhead(message: Message) -> int:
    held = _MESSAGE_BYTES + _PIECE_BYTES * (len(message.content) + len(message.tool_calls))
    # One wide character makes every character of its text four bytes wide.
    held += sum(sys.getsizeof(part) for part in message.content if isinstance(part, str) and not part.isascii())
    return held + (0 if message.reasoning.isascii() else sys.getsizeof(message.reasoning))


def _count(metadata: object) -> int:
    """What the objects of a JSON value take. A loop, because metadata may be nested deeper than calls can be."""
    held = 0
    stack = [metadata] if metadata else []
    while stack:
        value = stack.pop()
        held += _PIECE_BYTES
        if isinstance(value, dict):
            stack += [*value, *value.values()]
        elif isinstance(value, list):
            stack += value
        elif isinstance(value, str) and not value.isascii():
            held += sys.getsizeof(value)
    return held
