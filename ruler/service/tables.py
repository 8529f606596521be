"""One table for each attempt at a group: who is there, and what became of it; and all tables, within bounds of memory.

When tables are opened and closed is the business of `ruler.service.rendezvous`.
"""

from __future__ import annotations

import asyncio
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from operator import attrgetter
from typing import Literal

from ruler.service.problems import Problem
from ruler.service.seats import Answer, Meeting, Post, ShortGroups
from ruler.types import Group, Rollout, ScoredGroup


class Table:
    """One attempt at a group.

    It collects, is judged, and is finished. `outcome` may come before the judging ends: when that takes too long, or a
    newer attempt makes it worthless.
    """

    def __init__(
        self, post: Post, admitted: object, *, judge_seconds: float, short_groups: ShortGroups, now: float
    ) -> None:
        self.owner = post.owner
        self.group_id = post.group_id
        self.attempt = post.attempt
        self.group_size = post.group_size
        self.judge_seconds = judge_seconds
        self.short_groups = short_groups
        self.admitted = admitted
        self.state: Literal["collecting", "judging", "finished"] = "collecting"
        self.outcome: Mapping[str, Answer] | Problem | None = None
        self.overdue = False
        """Whether the outcome is that the judge took too long: it may still answer."""
        self.opened_at = now
        self.until = 0.0
        """Of a finished table: when it is cleared away."""
        self.again_at: float | None = None
        """Of a failed table: from when the same posts may try again."""
        self.num_bytes = 0
        """What is set aside for it; kept by the rendezvous."""
        self.timer: asyncio.Task[None] | None = None
        self.judging: asyncio.Task[Mapping[str, Answer]] | None = None
        self.settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._first: Post | None = post
        self._first_bytes = post.size_bytes
        self._declared = tuple(map(_mark, _values(post)))
        self._digests: dict[str, bytes] = {}
        self._rollouts: list[Rollout] = []
        self._post_bytes = 0

    @property
    def num_rollouts(self) -> int:
        """Rollouts that are here."""
        return len(self._digests)

    def __contains__(self, rollout_id: str) -> bool:
        return rollout_id in self._digests

    @property
    def full(self) -> bool:
        """Whether all rollouts are here."""
        return self.num_rollouts == self.group_size

    def seats(self, post: Post) -> bool:
        """Whether this very rollout is here already.

        Raises:
            Problem: "conflict": it declares another group, or has other content than the rollout of its id.
        """
        # While the values are here they tell sooner than their marks.
        if self._first is None or _values(post) != _values(self._first):
            for name, ours, theirs in zip(_DECLARED, self._declared, map(_mark, _values(post)), strict=True):
                if ours != theirs:
                    raise self.problem("conflict", f"{name}: {theirs}, but the group was opened with {ours}")
        digest = self._digests.get(post.rollout.id)
        if digest is not None and digest != _digest(post.rollout):
            raise self.problem(
                "conflict", f"rollout {post.rollout.id!r:.80}: another rollout came under this id in this attempt"
            )
        return digest is not None

    def refusal(self, rollout_id: str) -> Problem | None:
        """Why a rollout that is not here cannot come in any more; None while it can."""
        if self.state == "collecting":
            return None
        if isinstance(self.outcome, Problem) and self.outcome.code == "superseded":
            return replace(self.outcome)
        name = f"rollout {rollout_id!r:.80}"
        if self.full:
            return self.problem("conflict", f"{name}: the group is full, its {self.group_size} rollouts are others")
        return self.problem(
            "deadline",
            f"{name}: the group was closed without it, with {self.num_rollouts} of {self.group_size} rollouts",
        )

    def bytes_more(self, post: Post) -> int:
        """How much more must be set aside for the group when this post comes in; may be negative."""
        return post.size_bytes - self._first_bytes if self._digests else post.size_bytes * self.group_size

    def add(self, post: Post) -> None:
        """Gives the rollout its seat."""
        self._digests[post.rollout.id] = _digest(post.rollout)
        self._rollouts.append(post.rollout)
        self._post_bytes += post.size_bytes

    def meeting(self) -> Meeting:
        """The group as it is, to be judged.

        Raises:
            GroupError: these are rollouts of different tasks, or only some of them repeat the task's messages.
        """
        first = self._first
        assert first is not None, "a finished table has no texts"
        rollouts = sorted(self._rollouts, key=lambda rollout: rollout.id)
        group = Group.of(rollouts, task=first.task, tools=first.tools, id=self.group_id, reference=first.reference)
        return Meeting(
            group, self.owner, first.judge, first.rubric, self.group_size, self.admitted, self.bytes_judging()
        )

    def may_open_again(self, now: float) -> bool:
        """Whether it failed for a while only, and that is over."""
        return self.again_at is not None and self.again_at <= now

    def bytes_judging(self) -> int:
        """What the group takes once nobody else can come in."""
        return self._post_bytes

    def settle(self, outcome: Mapping[str, Answer] | Problem) -> None:
        """Wakes all who wait: this is what became of the group."""
        self.outcome = outcome
        if not self.settled.done():
            self.settled.set_result(None)

    def drop(self) -> None:
        """Gives back what `admit` took: the group will not be judged."""
        drop = getattr(self.admitted, "drop", None)
        if drop is not None:
            drop()

    def stop_timer(self) -> None:
        """Ends the deadline that runs, if any."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def finish(self, now: float, keep_seconds: float) -> None:
        """Nothing more becomes of the group: lets go of all texts. What it takes from here on is `bytes_finished`."""
        self.stop_timer()
        self.state = "finished"
        self.until = now + keep_seconds
        if isinstance(self.outcome, Problem) and self.outcome.retry_after_seconds is not None:
            self.again_at = now + self.outcome.retry_after_seconds
        self._first = None
        self._rollouts = []
        self.judging = self.admitted = None

    def bytes_finished(self) -> int:
        """What a finished table takes, about."""
        names = sum(_SEAT_BYTES + _text_bytes(rollout_id) for rollout_id in self._digests)
        declared = sum(map(_text_bytes, self._declared))
        kept = _TABLE_BYTES + names + declared + _text_bytes(self.group_id) + _text_bytes(self.owner)
        if isinstance(self.outcome, Problem):
            return kept + _text_bytes(self.outcome.message)
        answer = next(iter((self.outcome or {}).values()), None)
        return kept + (_result_bytes(answer.group) if answer else 0)

    def answer(self, rollout_id: str) -> Answer | None:
        """What became of this rollout; None while that is open.

        Raises:
            Problem: why the group failed.
        """
        if isinstance(self.outcome, Problem):
            # A copy: what is raised keeps the frames it went through, and with them whole requests.
            raise replace(self.outcome)
        return None if self.outcome is None else self.outcome[rollout_id]

    def problem(self, code: str, message: str) -> Problem:
        """A problem of this group."""
        return group_problem(code, self.group_id, message)


class Tables:
    """All tables, within bounds: the oldest finished ones make room.

    Args:
        keep_seconds: how long a finished table is kept.
        max_groups: tables, at most.
        max_bytes: what they take together, at most.
    """

    def __init__(self, *, keep_seconds: float, max_groups: int, max_bytes: int, clock: Callable[[], float]) -> None:
        self.open: dict[Table, None] = {}
        """Those that are not finished, the oldest first."""
        self._keep_seconds = keep_seconds
        self._max_groups = max_groups
        self.max_bytes = max_bytes
        self._clock = clock
        self._by_group: dict[tuple[str, str], list[Table]] = {}
        # Not a dict: that takes the longer to find its first, the more have been deleted before it.
        self._finished: OrderedDict[Table, None] = OrderedDict()
        self._open_bytes = 0
        self._finished_bytes = 0

    @property
    def num_finished(self) -> int:
        self._forget()
        return len(self._finished)

    @property
    def num_bytes(self) -> int:
        """What all tables take; at most `max_bytes`."""
        self._forget()
        return self._open_bytes + self._finished_bytes

    def of(self, owner: str, group_id: str) -> Sequence[Table]:
        """The attempts at a group, the newest last."""
        self._forget()
        return self._by_group.get((owner, group_id), ())

    def lack(self, num_bytes: int, *, num_groups: int = 0, without: Table | None = None) -> str | None:
        """What there is too little of for more, with all that may go cleared away; None: there is room.

        Args:
            num_bytes: how much more.
            num_groups: how many more tables.
            without: a table that would be failed first; that frees something while it collects.
        """
        freed = without if without is not None and without.state == "collecting" else None
        if num_groups and len(self.open) - (freed is not None) + num_groups > self._max_groups:
            return f"{self._max_groups} groups are open"
        taken = self._open_bytes - (0 if freed is None else freed.num_bytes)
        if taken + num_bytes > self.max_bytes:
            return f"{num_bytes} bytes are needed, and open groups take {taken} of {self.max_bytes}"
        return None

    def put(self, table: Table) -> None:
        """Adds a table: the newest attempt at its group, or the same as the newest, which is finished and goes."""
        attempts = self._by_group.get((table.owner, table.group_id), [])
        if attempts and attempts[-1].attempt == table.attempt:
            self._evict(attempts[-1])
        self._by_group.setdefault((table.owner, table.group_id), []).append(table)
        self.open[table] = None
        self.account(table, table.num_bytes)

    def account(self, table: Table, num_bytes: int) -> None:
        """Sets so much aside for the table."""
        if table.state == "finished":
            self._finished_bytes += num_bytes - table.num_bytes
        else:
            self._open_bytes += num_bytes - table.num_bytes
        table.num_bytes = num_bytes
        while self._finished and (
            self._open_bytes + self._finished_bytes > self.max_bytes
            or len(self.open) + len(self._finished) > self._max_groups
        ):
            self._evict(next(iter(self._finished)))

    def finish(self, table: Table) -> None:
        """Keeps of the table what became of it, for a time."""
        self.account(table, 0)
        del self.open[table]
        table.finish(self._clock(), self._keep_seconds)
        self._finished[table] = None
        self.account(table, table.bytes_finished())

    def _forget(self) -> None:
        now = self._clock()
        while self._finished and (oldest := next(iter(self._finished))).until <= now:
            self._evict(oldest)

    def _evict(self, table: Table) -> None:
        del self._finished[table]
        self._finished_bytes -= table.num_bytes
        key = (table.owner, table.group_id)
        self._by_group[key].remove(table)
        if not self._by_group[key]:
            del self._by_group[key]


def group_problem(code: str, group_id: str, message: str, retry_after_seconds: float | None = None) -> Problem:
    """A problem whose message names the group."""
    return Problem(code, f"group {group_id!r:.80}: {message}", group_id, retry_after_seconds)


_DECLARED = ("group_size", "judge", "rubric", "task", "tools", "reference")
_values = attrgetter(*_DECLARED)
_SHOWN_CHARS = 60
# Measured: bytes of a finished table, of one of its seats with score and answer, and of one shown order beside its ids.
_TABLE_BYTES = 2_000
_SEAT_BYTES = 300
_ORDER_BYTES = 250


def _mark(value: object) -> str:
    """The value as a short text that no other value has: it is compared and shown after the value itself is gone."""
    text = repr(value)
    if len(text) <= _SHOWN_CHARS:
        return text
    return f"{text[:_SHOWN_CHARS]}… (BLAKE2 {blake2b(text.encode(), digest_size=16).hexdigest()})"


def _digest(rollout: Rollout) -> bytes:
    """Of what the rollout did, not of its id and metadata; good within one process."""
    # All parts are texts, numbers and tuples of such, so that equal `repr` means equal parts; canonical JSON by way of
    # `asdict`, as in `Group.digest`, takes seven times as long.
    content = repr((rollout.messages, rollout.tools, rollout.finish_reason, rollout.histories))
    return blake2b(content.encode(), digest_size=16).digest()


def _text_bytes(text: str | None) -> int:
    return 0 if text is None else sys.getsizeof(text)


def _result_bytes(result: ScoredGroup) -> int:
    texts = [note for score in result.rollouts for note in (score.note, *score.flags)]
    texts += [note for juror in result.jury for note in juror.notes]
    texts += [failed.message for failed in result.failed_orders]
    numbers = sum(len(judged.scores) for judged in result.judged) + sum(len(juror.scores) for juror in result.jury)
    orders = len(result.judged) + len(result.jury) + len(result.failed_orders)
    return sum(map(_text_bytes, texts)) + 40 * numbers + _ORDER_BYTES * orders
