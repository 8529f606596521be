"""Rollouts that come one by one meet here: they wait for their siblings, are judged together, and each gets its score.

Everything happens on one event loop. A group costs one task for the deadline that runs, and one while it is judged,
whatever the number of its rollouts and of those who wait for them.

The rules are those that NVIDIA's NeMo Gym 0.7.0 came to with `genrm_compare`: an attempt number, a digest that a
repeated post must match, two deadlines, callers who may hang up, results that are kept for retries.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from ruler.errors import RulerError
from ruler.service.problems import Problem, stopping
from ruler.service.seats import Answer, Meeting, Post, Seat, ShortGroups, Sleep, answers, wait_for_first
from ruler.service.tables import Table, Tables, group_problem
from ruler.types import ScoredGroup

__all__ = ["Answer", "Meeting", "Post", "Rendezvous", "Seat", "Waiting"]

_log = logging.getLogger(__name__)

_RETRY_SECONDS = 5.0
"""When to come again where nothing better is known: until then some group has ended, or the process is a new one."""
_CANCEL_SECONDS = 1.0
"""How long a stop waits for judgings that it has cancelled."""


class Waiting(NamedTuple):
    """A group whose rollouts are not all here."""

    owner: str
    group_id: str
    attempt: int
    have: int
    """Rollouts that are here."""
    size: int
    """Rollouts declared."""
    opened_at: float
    """When the first came, by the rendezvous' clock."""


class Rendezvous:
    """Where rollouts of one group meet.

    A group is known by owner, group id and attempt. Its first post opens it; it is judged when all its rollouts are
    here, or as it is when they do not come in time. What came of it is kept, so that a repeated post gets the same
    answer. A failure that says when to come again is kept for those who ask, but a post from then on opens the group
    anew: a judge that was away for a moment does not cost the attempt.

    Args:
        judge: is given each group once. It may raise RulerError or Problem; anything else is a fault of the service.
            Nobody's hanging up and no deadline cancels it, only `stop` does.
        admit: is called when a post opens a group, after all other checks; may raise Problem. What it returns goes
            with the group to the judge. Where no judging comes of it, its method `drop` is called, if it has one.
        collect_seconds: how long a group waits for its rollouts, from the first of them.
        judge_seconds: how long those who wait for a closed group wait for the judge. An answer that comes later is
            given to those who ask later.
        short_groups: what happens to groups that are not complete in time. One rollout alone fails in any case.
        keep_seconds: how long it is known what came of a group.
        max_groups: groups that are open or kept. The oldest that is only kept makes room.
        max_bytes: what the posts of open groups and the results of the others may take. An open group has room set
            aside for all its rollouts, each as large as the first.
    """

    def __init__(
        self,
        judge: Callable[[Meeting], Awaitable[ScoredGroup]],
        *,
        admit: Callable[[Post], object],
        collect_seconds: float,
        judge_seconds: float,
        short_groups: ShortGroups,
        keep_seconds: float,
        max_groups: int,
        max_bytes: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._judge = judge
        self._admit = admit
        self._collect_seconds = collect_seconds
        self._judge_seconds = judge_seconds
        self._short_groups: ShortGroups = short_groups
        self._clock = clock
        self._sleep = sleep
        self._stopping = False
        self._tables = Tables(keep_seconds=keep_seconds, max_groups=max_groups, max_bytes=max_bytes, clock=clock)

    @property
    def collecting(self) -> int:
        """Groups that wait for rollouts."""
        return sum(table.state == "collecting" for table in self._tables.open)

    @property
    def judging(self) -> int:
        """Groups that are with the judge, those included whose callers wait no more."""
        return sum(table.state == "judging" for table in self._tables.open)

    @property
    def kept(self) -> int:
        """Groups of which only it is kept what came of them."""
        return self._tables.num_finished

    @property
    def held_bytes(self) -> int:
        """What all groups take, what is set aside for missing rollouts included; at most `max_bytes`."""
        return self._tables.num_bytes

    def waiting(self) -> list[Waiting]:
        """The groups that wait for rollouts, the oldest first."""
        return [
            Waiting(table.owner, table.group_id, table.attempt, table.num_rollouts, table.group_size, table.opened_at)
            for table in self._tables.open
            if table.state == "collecting"
        ]

    def join(
        self,
        post: Post,
        *,
        collect_seconds: float | None = None,
        judge_seconds: float | None = None,
        short_groups: ShortGroups | None = None,
    ) -> Seat:
        """The rollout's seat; never waits. The same post again gets the same seat.

        Args:
            post: `group_size` is at least 1, `attempt` at least 0.
            collect_seconds: for a group that this post opens; None, here and below: as everywhere.
            judge_seconds: likewise.
            short_groups: likewise.

        Raises:
            Problem: "conflict": the group was declared otherwise, is full, or has another rollout under this id.
                "deadline": it was closed without this rollout. "superseded": there is a newer attempt. "overloaded":
                no room. "stopping". Whatever `admit` raises.
        """
        if self._stopping:
            raise stopping(post.group_id)
        attempts = self._tables.of(post.owner, post.group_id)
        table = next((table for table in attempts if table.attempt == post.attempt), None)
        if table is None and attempts and attempts[-1].attempt > post.attempt:
            raise _superseded(post.group_id, attempts[-1].attempt)
        if table is None or (table is attempts[-1] and table.may_open_again(self._clock())):
            table = self._open(
                post,
                self._judge_seconds if judge_seconds is None else judge_seconds,
                self._short_groups if short_groups is None else short_groups,
            )
            if table.state == "collecting":
                seconds = self._collect_seconds if collect_seconds is None else collect_seconds
                table.timer = asyncio.ensure_future(self._collect(table, seconds))
        elif not table.seats(post):
            self._add(table, post)
        return Seat(table, post.rollout.id, self._sleep)

    def find(self, owner: str, group_id: str, rollout_id: str, attempt: int | None = None) -> Seat:
        """The seat of a rollout that has been posted, in the given attempt or, None, in the newest that is known.

        Raises:
            Problem: "not_found": it has not come, or is known no more.
        """
        attempts = self._tables.of(owner, group_id)
        table = next((table for table in reversed(attempts) if attempt in (None, table.attempt)), None)
        if table is None or rollout_id not in table:
            which = "" if attempt is None else f" in attempt {attempt}"
            raise group_problem("not_found", group_id, f"no rollout {rollout_id!r:.80} here{which}")
        return Seat(table, rollout_id, self._sleep)

    async def stop(self, seconds: float) -> None:
        """Takes nothing new, fails the groups that are not complete, waits so long for those that are being judged.

        What is not judged by then fails as well, and its judging is cancelled. Answers can be asked for afterwards.
        """
        self._stopping = True
        for table in list(self._tables.open):
            if table.state == "collecting":
                self._fail(table, stopping(table.group_id))
        await self._judgings_end(seconds)
        for table in self._tables.open:
            if table.outcome is None:
                table.settle(stopping(table.group_id))
            if table.judging is not None:
                table.judging.cancel()
        await self._judgings_end(_CANCEL_SECONDS)

    async def _judgings_end(self, seconds: float) -> None:
        judgings = [table.judging for table in self._tables.open if table.judging is not None]
        if judgings:
            ended = asyncio.ensure_future(asyncio.wait(judgings))
            try:
                await wait_for_first([ended], seconds, self._sleep)
            finally:
                ended.cancel()

    def _open(self, post: Post, judge_seconds: float, short_groups: ShortGroups) -> Table:
        attempts = self._tables.of(post.owner, post.group_id)
        loser = attempts[-1] if attempts and attempts[-1].outcome is None else None
        needed = post.size_bytes * post.group_size
        if needed > self._tables.max_bytes:
            raise group_problem(
                "too_large",
                post.group_id,
                f"{post.group_size} rollouts as large as this take {needed} bytes, and there is room for "
                f"{self._tables.max_bytes}; send them as one group, or smaller ones",
            )
        lack = self._tables.lack(needed, num_groups=1, without=loser)
        if lack is not None:
            raise _overloaded(post.group_id, lack)
        admitted = self._admit(post)
        # From here on nothing is refused: what is refused must not have cost anybody a seat or a result.
        if loser is not None:
            self._fail(loser, _superseded(post.group_id, post.attempt))
        table = Table(post, admitted, judge_seconds=judge_seconds, short_groups=short_groups, now=self._clock())
        self._tables.put(table)
        self._sit(table, post)
        return table

    def _add(self, table: Table, post: Post) -> None:
        refusal = table.refusal(post.rollout.id)
        if refusal is not None:
            raise refusal
        lack = self._tables.lack(table.bytes_more(post))
        if lack is not None:
            raise _overloaded(post.group_id, lack)
        self._sit(table, post)

    def _sit(self, table: Table, post: Post) -> None:
        num_bytes = table.num_bytes + table.bytes_more(post)
        table.add(post)
        self._tables.account(table, num_bytes)
        if table.full:
            self._close(table)

    async def _collect(self, table: Table, seconds: float) -> None:
        await self._sleep(seconds)
        table.timer = None
        if table.num_rollouts >= 2 and table.short_groups == "score":
            self._close(table)
            return
        came = f"{table.num_rollouts} of {table.group_size} rollouts came within {seconds:g} s"
        self._fail(table, table.problem("deadline", came))

    def _close(self, table: Table) -> None:
        """Has the group judged as it is."""
        table.stop_timer()
        table.state = "judging"
        self._tables.account(table, table.bytes_judging())
        table.judging = asyncio.ensure_future(self._answers(table))
        table.judging.add_done_callback(partial(self._judged, table))
        table.timer = asyncio.ensure_future(self._watch(table))

    async def _answers(self, table: Table) -> Mapping[str, Answer]:
        try:
            meeting = table.meeting()
        except BaseException:
            table.drop()
            raise
        result = await self._judge(meeting)
        return answers(result, [rollout.id for rollout in meeting.group.rollouts], table.group_size)

    async def _watch(self, table: Table) -> None:
        await self._sleep(table.judge_seconds)
        table.timer = None
        if table.outcome is None:
            table.overdue = True
            table.settle(table.problem("deadline", f"the judge has not answered within {table.judge_seconds:g} s"))

    def _judged(self, table: Table, judging: asyncio.Task[Mapping[str, Answer]]) -> None:
        # A callback of the task and no code in it: it runs even where the task was cancelled before its first step.
        error = asyncio.CancelledError() if judging.cancelled() else judging.exception()
        outcome = judging.result() if error is None else self._problem(table, error)
        if table.outcome is None or (table.overdue and not isinstance(outcome, Problem)):
            table.settle(outcome)
        self._tables.finish(table)

    def _problem(self, table: Table, error: BaseException) -> Problem:
        """What the group's callers are told. Without the usage: each of them would be told of all of it."""
        if isinstance(error, Problem):
            return replace(error, group_id=table.group_id, usage=None)
        if isinstance(error, RulerError):
            return replace(Problem.of(error, table.group_id), usage=None)
        if not (self._stopping and isinstance(error, asyncio.CancelledError)):
            _log.error("group %.80r could not be judged", table.group_id, exc_info=error)
        return table.problem("internal", "a fault of the service; its log says more")

    def _fail(self, table: Table, problem: Problem) -> None:
        """Settles the group before it is judged, or while it is."""
        table.settle(problem)
        if table.state == "collecting":
            table.drop()
            self._tables.finish(table)


def _overloaded(group_id: str, lack: str) -> Problem:
    return group_problem("overloaded", group_id, f"no room: {lack}", _RETRY_SECONDS)


def _superseded(group_id: str, newer: int) -> Problem:
    return group_problem("superseded", group_id, f"attempt {newer} has begun")
