"""Where rollouts belong that come without any id."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from ruler.service.problems import Problem
from ruler.service.rendezvous import Answer, Seat

AWAY_SECONDS = 40.0
"""How long a group is there for those who come back when nobody is connected to it: longer than slime's longest pause
between two tries (30 s), shorter than a trainer takes to start again and to ask for the same prompts."""


@dataclass(eq=False, slots=True)
class Place:
    """A rollout's place in a group without names."""

    group: NamelessGroup
    digest: str
    answer: asyncio.Task[Answer]
    """Goes on whoever hangs up."""


@dataclass(eq=False, slots=True)
class NamelessGroup:
    """Rollouts that have everything in common but themselves."""

    key: str
    group_id: str
    group_size: int
    digests: list[str] = field(default_factory=list)
    """Of its rollouts; equal ones are different members."""
    free: dict[str, list[Place]] = field(default_factory=dict)
    """Digest -> places whose connection was dropped."""
    held: int = 0
    """Places with a connection."""
    until: float = math.inf
    """When it is given up, while nobody is connected."""
    is_final: Callable[[BaseException], bool] = lambda error: False
    """Whether what it failed with is the answer, so that whoever comes back is given that, too."""
    settled: bool = False
    constant: bool = False
    """Whether a constant was paid for it."""

    @property
    def is_whole(self) -> bool:
        """Whether all of its rollouts have come."""
        return len(self.digests) == self.group_size


class Seating:
    """Where a rollout belongs that comes without any id.

    Rollouts with one key are siblings: each that comes is a new member of the newest group of its key, and opens
    another when that is full. Two rollouts that read the same are two members. Only when the connection of one was
    dropped before it had its answer, its place is free, and the next equal rollout takes it: that is the trainer's
    second try, and where the group has been judged meanwhile it gets that answer.

    A group is forgotten when it has failed, so that a second try is one, unless it was whole and its failure is final;
    when all its rollouts have their answers; and when nobody has been connected to it for `AWAY_SECONDS`. What is left
    is no more than the rendezvous holds, and the groups of the last `AWAY_SECONDS` that somebody left.

    What cannot be told apart: the same prompt twice in a batch fills two groups with a mixture of both. An answer that
    is lost on its way, after it was sent, leaves no free place.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._groups: dict[str, list[NamelessGroup]] = {}
        self._away: deque[tuple[float, NamelessGroup]] = deque()
        # Never used twice: the rendezvous may still know the groups that are forgotten here.
        self._numbers = count(1)

    def __len__(self) -> int:
        """Groups that are known."""
        return sum(map(len, self._groups.values()))

    def take(
        self,
        key: str,
        digest: str,
        group_size: int,
        join: Callable[[str, str], Seat],
        *,
        is_final: Callable[[BaseException], bool] = lambda error: False,
    ) -> Place:
        """The rollout's place, held until it is given to `deliver` or `release`.

        Args:
            key: equal for siblings.
            digest: of the rollout.
            group_size: at least 1.
            join: group id and rollout id -> the seat in the rendezvous.
            is_final: see `NamelessGroup.is_final`; that of the rollout that opens the group.

        Raises:
            Problem: from `join`; nobody has been seated then.
        """
        self._forget()
        for group in self._groups.get(key, ()):
            if free := group.free.get(digest):
                place = free.pop()
                if not free:
                    del group.free[digest]
                group.held += 1
                return place
        newest = next(reversed(self._groups.get(key, ())), None)
        if newest is not None and len(newest.digests) < group_size:
            try:
                return self._seat(newest, digest, join)
            except Problem as problem:
                # Closed in this very moment, and not yet forgotten.
                if problem.code != "deadline":
                    raise
                self._end(newest)
        group = NamelessGroup(key, f"{key}-{next(self._numbers)}", group_size, is_final=is_final)
        place = self._seat(group, digest, join)
        self._groups.setdefault(key, []).append(group)
        return place

    def deliver(self, place: Place) -> None:
        """The rollout has its answer."""
        self._leave(place.group)

    def release(self, place: Place) -> None:
        """The connection was dropped before the answer was sent."""
        place.group.free.setdefault(place.digest, []).append(place)
        self._leave(place.group)

    def _seat(self, group: NamelessGroup, digest: str, join: Callable[[str, str], Seat]) -> Place:
        # By content and not by arrival: the same rollouts are always the same group.
        seat = join(group.group_id, f"{digest}-{group.digests.count(digest)}")
        group.digests.append(digest)
        group.held += 1
        place = Place(group, digest, asyncio.ensure_future(_answer(seat)))
        place.answer.add_done_callback(partial(self._settle, group))
        return place

    def _settle(self, group: NamelessGroup, answer: asyncio.Task[Answer]) -> None:
        group.settled = True
        error = None if answer.cancelled() else answer.exception()
        if answer.cancelled() or (error is not None and not (group.is_whole and group.is_final(error))):
            self._end(group)

    def _leave(self, group: NamelessGroup) -> None:
        group.held -= 1
        if group.held:
            return
        if group.settled and not group.free:
            self._end(group)
        else:
            group.until = self._clock() + AWAY_SECONDS
            self._away.append((group.until, group))

    def _forget(self) -> None:
        now = self._clock()
        while self._away and self._away[0][0] <= now:
            until, group = self._away.popleft()
            if not group.held and group.until == until:
                self._end(group)

    def _end(self, group: NamelessGroup) -> None:
        groups = self._groups.get(group.key, [])
        if group in groups:
            groups.remove(group)
            if not groups:
                del self._groups[group.key]


async def _answer(seat: Seat) -> Answer:
    answer = await seat.answer()
    assert answer is not None, "waits until it is known"
    return answer
