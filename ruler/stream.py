"""Many groups in flight at once: taken as places come free, given back as they finish, none lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable
from typing import Any, TypeAlias

from ruler.errors import BudgetExceeded, GroupError, RulerError
from ruler.types import FailedGroup, Group, ScoredGroup

Result: TypeAlias = ScoredGroup | FailedGroup


async def settle_all(
    groups: Iterable[Group] | AsyncIterable[Group],
    settle: Callable[[Group], Coroutine[Any, Any, Result]],
    fail: Callable[[Group, RulerError], FailedGroup],
    *,
    concurrency: int,
) -> AsyncGenerator[tuple[int, Result], None]:
    """(index, result) of each group as it finishes, at most `concurrency` of them in flight.

    After a result whose reason is a reached budget, the groups that were not begun are given to `fail`. When the
    stream is closed or cancelled, so is all that is in flight.

    Raises:
        GroupError: an item is no Group.
    """
    source = aiter(groups if isinstance(groups, AsyncIterable) else _async(groups))
    running: dict[asyncio.Task[Result], int] = {}
    upcoming: asyncio.Task[Group | None] | None = None
    stopped: FailedGroup | None = None
    exhausted = False
    num_taken = 0
    try:
        while True:
            if not exhausted and upcoming is None and len(running) < concurrency:
                upcoming = asyncio.create_task(_next(source))
            if upcoming is None and not running:
                return
            waiting = (*running, upcoming) if upcoming else running
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if upcoming in done:
                group, upcoming = upcoming.result(), None
                if group is None:
                    exhausted = True
                elif stopped:
                    yield num_taken, fail(group, BudgetExceeded(stopped.message))
                else:
                    running[asyncio.create_task(settle(group))] = num_taken
                num_taken += group is not None
            for settled in [task for task in running if task in done]:
                result = settled.result()
                if isinstance(result, FailedGroup) and result.reason == BudgetExceeded.code:
                    stopped = result
                yield running.pop(settled), result
    finally:
        left = [*running, *([upcoming] if upcoming else [])]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


def check_item(item: object, field: str) -> None:
    """Raises GroupError when the item is no Group."""
    if not isinstance(item, Group):
        raise GroupError(f"{field}: expected a Group, got {item!r:.80}; Group.of makes one")


async def _async(groups: Iterable[Group]) -> AsyncGenerator[Group, None]:
    for group in groups:
        yield group


async def _next(source: AsyncIterator[Group]) -> Group | None:
    """The next group; None at the end."""
    try:
        group = await anext(source)
    except StopAsyncIteration:
        return None
    check_item(group, "groups")
    return group
