"""What goes into the rendezvous and what comes out: a post gets a seat, a group is judged, each seat has its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

from ruler.messages import Message, Tool
from ruler.types import Group, Rollout, Score, ScoredGroup

if TYPE_CHECKING:
    from ruler.service.tables import Table

ShortGroups: TypeAlias = Literal["score", "fail"]
"""What happens to a group that is not complete in time: at least two rollouts are scored as they are, or it fails."""

Sleep: TypeAlias = Callable[[float], Awaitable[object]]
"""Waits so many seconds."""


@dataclass(frozen=True, slots=True)
class Post:
    """One rollout on its way to its siblings. All posts of one attempt must declare the group alike."""

    owner: str
    """Whose groups these are: equal group ids of two owners are two groups."""
    group_id: str
    group_size: int
    """Rollouts the group will have, at least 1."""
    attempt: int
    """From 0; a greater one takes the place of all smaller ones."""
    rollout: Rollout
    task: tuple[Message, ...]
    tools: tuple[Tool, ...]
    reference: str | None
    judge: str
    """The judge's name in the service's settings."""
    rubric: str
    """The rubric's name in the service's settings."""
    size_bytes: int
    """What this post takes in memory, about."""
    num_tokens: int = 0
    """About how many tokens it will take in a prompt."""


@dataclass(frozen=True, slots=True)
class Meeting:
    """A group that is to be judged."""

    group: Group
    """Its rollouts are sorted by id: who came first changes nothing."""
    owner: str
    judge: str
    rubric: str
    group_size: int
    """Rollouts declared; `group` has fewer when not all came in time."""
    admitted: object
    """What `admit` returned when the group was opened."""
    size_bytes: int
    """Of its posts."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one rollout."""

    score: Score
    group: ScoredGroup
    rank: int | None
    """1 is the best of the group; equal scores share a rank and the next ones are left out (1, 2, 2, 4). None when the
    group is tied."""
    num_rollouts: int
    """Rollouts that were judged together."""
    group_size: int
    """Rollouts declared."""


@dataclass(frozen=True, slots=True)
class Seat:
    """The place of one rollout. Any number of tasks may ask it, at once and again."""

    _table: Table
    rollout_id: str
    _sleep: Sleep

    @property
    def group_id(self) -> str:
        return self._table.group_id

    @property
    def attempt(self) -> int:
        return self._table.attempt

    @property
    def group_size(self) -> int:
        """Rollouts declared."""
        return self._table.group_size

    @property
    def settled(self) -> asyncio.Future[None]:
        """Done when it is known what became of the rollout. It is that of all siblings: nobody may cancel it."""
        return self._table.settled

    @property
    def num_here(self) -> int:
        """Rollouts of the group that have come."""
        return self._table.num_rollouts

    @overload
    async def answer(self) -> Answer: ...

    @overload
    async def answer(self, seconds: float | None) -> Answer | None: ...

    async def answer(self, seconds: float | None = None) -> Answer | None:
        """What became of the rollout; None when that is still open after so many seconds.

        Cancelling the caller disturbs nobody else.

        Args:
            seconds: None: waits until it is known, which the rendezvous' deadlines see to. 0: does not wait.

        Raises:
            Problem: why the group failed; the same for all its rollouts.
        """
        settled = self._table.settled
        if seconds is None:
            await asyncio.shield(settled)
        elif seconds > 0 and not settled.done():
            await wait_for_first([settled], seconds, self._sleep)
        return self._table.answer(self.rollout_id)


async def wait_for_first(futures: Iterable[asyncio.Future[Any]], seconds: float, sleep: Sleep) -> None:
    """Returns when one of the futures is done, or after so many seconds; cancels none of them."""
    timer: asyncio.Future[Any] = asyncio.ensure_future(sleep(seconds))
    try:
        await asyncio.wait([*futures, timer], return_when=asyncio.FIRST_COMPLETED)
    finally:
        timer.cancel()


def answers(result: ScoredGroup, rollout_ids: Iterable[str], group_size: int) -> dict[str, Answer]:
    """Each rollout's part of the result.

    Raises:
        ValueError: the result is not one of exactly these rollouts.
    """
    scores = {score.id: score for score in result.rollouts}
    if scores.keys() != set(rollout_ids) or len(scores) != len(result.rollouts):
        raise ValueError(
            f"the judge of group {result.group_id!r:.80} answered for other rollouts: {list(scores)!r:.80}"
        )
    ranks: dict[float, int] = {}
    values = [score.score for score in result.rollouts if score.score is not None]
    for place, value in enumerate(sorted(values, reverse=True), 1):
        ranks.setdefault(value, place)
    return {
        name: Answer(score, result, None if score.score is None else ranks[score.score], len(scores), group_size)
        for name, score in scores.items()
    }
