from __future__ import annotations

import asyncio
import threading
import time

import pytest

from judges.threads import end_all, hand_over


@pytest.mark.parametrize("outcome", [7, None, LookupError("no")])
async def test_an_outcome_reaches_who_waits_from_another_thread(outcome) -> None:
    future = asyncio.get_running_loop().create_future()
    threading.Thread(target=hand_over, args=(future, outcome)).start()
    if isinstance(outcome, Exception):
        with pytest.raises(LookupError, match="no"):
            await future
    else:
        assert await future == outcome


async def test_the_first_outcome_stays_and_who_has_gone_is_left_alone() -> None:
    loop = asyncio.get_running_loop()
    first, gone = loop.create_future(), loop.create_future()
    gone.cancel()
    hand_over(first, 1)
    hand_over(first, 2)
    hand_over(gone, 3)
    assert await first == 1
    await asyncio.sleep(0)
    assert gone.cancelled()


def test_a_closed_loop_is_no_fault() -> None:
    loop = asyncio.new_event_loop()
    future = loop.create_future()
    loop.close()
    hand_over(future, 1)


def test_all_are_asked_before_any_is_waited_for_and_the_time_is_one_for_all() -> None:
    told: list[tuple[str, int]] = []

    class Slow:
        def __init__(self, number: int) -> None:
            self.number = number

        def stop(self) -> None:
            told.append(("stop", self.number))

        def join(self, timeout: float, /) -> None:
            told.append(("join", self.number))
            assert timeout <= (0.05 if self.number == 0 else 0.0)
            time.sleep(0.06)

    end_all([Slow(0), Slow(1)], seconds=0.05)
    assert told == [("stop", 0), ("stop", 1), ("join", 0), ("join", 1)]
