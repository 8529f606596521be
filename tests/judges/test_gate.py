from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

from judges.gate import Gate
from tests.fake_time import FakeTime


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_who_may_enter_at_once_does() -> None:
    await Gate().enter(lambda: 0)


async def test_first_come_first_served_even_when_a_later_one_would_fit() -> None:
    gate, entered = Gate(), []
    room = {"big": False, "small": True}

    async def enter(name: str) -> None:
        await gate.enter(lambda: 0 if room[name] else None)
        entered.append(name)

    tasks = [asyncio.create_task(enter(name)) for name in ("big", "small")]
    await settle()
    assert entered == []
    room["big"] = True
    gate.changed()
    await asyncio.gather(*tasks)
    assert entered == ["big", "small"]


async def test_a_wait_ends_with_its_time_or_with_a_change() -> None:
    time = FakeTime()
    gate = Gate(sleep=time.sleep)
    opens = 1_030.0
    task = asyncio.create_task(gate.enter(lambda: max(0.0, opens - time.now)))
    await time.run(task)
    assert (time.now, time.slept) == (1_030.0, [30.0])
    opens = 5_000.0
    task = asyncio.create_task(gate.enter(lambda: max(0.0, opens - time.now)))
    await settle()
    opens = 0.0
    gate.changed()
    await asyncio.wait_for(task, 5)
    assert time.now == 1_030.0


async def test_who_is_turned_away_makes_room_for_the_next() -> None:
    gate = Gate()
    closed = True

    def admit() -> float | None:
        if closed:
            return None
        raise LookupError("the cap is reached")

    tasks = [asyncio.create_task(gate.enter(admit)) for _ in range(3)]
    await settle()
    closed = False
    gate.changed()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [LookupError] * 3


async def test_cancelling_the_first_lets_the_second_in() -> None:
    gate = Gate()
    answers = {"first": None, "second": 0}
    tasks = [asyncio.create_task(gate.enter(lambda name=name: answers[name])) for name in answers]
    await settle()
    tasks[0].cancel()
    await asyncio.wait_for(tasks[1], 5)
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]


async def test_a_cancellation_that_meets_a_change_is_not_lost() -> None:
    for turns in range(8):
        gate = Gate()
        opens = [5.0]
        task = asyncio.create_task(gate.enter(lambda opens=opens: opens[0]))
        await settle()
        opens[0] = 0.0
        gate.changed()
        for _ in range(turns):
            await asyncio.sleep(0)
        entered = task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled() or entered


def test_a_loop_that_stands_still_holds_nobody_up() -> None:
    gate = Gate()
    still = asyncio.new_event_loop()
    task = still.create_task(gate.enter(lambda: None))
    still.run_until_complete(settle())
    asyncio.run(asyncio.wait_for(gate.enter(lambda: 0), 5))
    task.cancel()
    still.run_until_complete(asyncio.gather(task, return_exceptions=True))
    still.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
def test_a_forked_child_begins_with_an_empty_queue() -> None:
    running = [1]

    def forget() -> None:
        running[0] = 0

    gate = Gate(forget=forget)
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with gate.lock:
            held.set()
            release.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(30)
    child = os.fork()
    if not child:
        signal.alarm(10)
        asyncio.run(gate.enter(lambda: None if running[0] else 0))
        os._exit(7)
    release.set()
    holder.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert running == [1]
