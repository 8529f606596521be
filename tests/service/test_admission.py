from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruler.service.admission import Admission, Ticket
from ruler.service.problems import Problem
from ruler.types import Usage
from tests.fake_time import FakeTime


def door(**limits: Any) -> tuple[Admission, FakeTime]:
    time = FakeTime()
    given = {"concurrency": 2, "queue": 2, "requests_per_minute": None, "tokens_per_minute": None, **limits}
    return Admission(**given, clock=time.clock, sleep=time.sleep), time


def refused(admission: Admission, tokens: int = 0) -> Problem:
    with pytest.raises(Problem) as caught:
        admission.take(tokens)
    return caught.value


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


class Holder:
    """A task that takes a place and keeps it until it is let go."""

    def __init__(self, admission: Admission, ticket: Ticket, entered: list[Holder] | None = None) -> None:
        self.inside = False
        self._entered = [] if entered is None else entered
        self._go = asyncio.Event()
        self.task = asyncio.create_task(self._hold(admission, ticket))
        # It may be cancelled before it has begun.
        self.task.add_done_callback(lambda _: ticket.drop())

    async def _hold(self, admission: Admission, ticket: Ticket) -> None:
        async with admission.place(ticket):
            self.inside = True
            self._entered.append(self)
            await self._go.wait()

    async def leave(self) -> None:
        self._go.set()
        await self.task


def test_so_many_requests_in_any_sixty_seconds() -> None:
    admission, time = door(requests_per_minute=2, queue=100)
    admission.take(0)
    time.now += 20
    admission.take(0)
    problem = refused(admission)
    assert (problem.code, problem.retry_after_seconds) == ("rate_limited", 40.0)
    time.now += 39.5
    assert refused(admission).retry_after_seconds == 0.5
    time.now += 0.5
    admission.take(0)
    assert refused(admission).retry_after_seconds == 20.0


def test_so_many_tokens_in_any_sixty_seconds() -> None:
    admission, time = door(tokens_per_minute=100, queue=100)
    admission.take(60)
    time.now += 10
    admission.take(40)
    assert refused(admission, 1).retry_after_seconds == 50.0
    assert refused(admission, 60).retry_after_seconds == 50.0
    assert refused(admission, 61).retry_after_seconds == 60.0
    time.now += 50
    admission.take(60)


def test_a_group_larger_than_the_limit_goes_when_nothing_counts() -> None:
    admission, time = door(tokens_per_minute=100, queue=100)
    admission.take(1)
    assert refused(admission, 500).retry_after_seconds == 60.0
    time.now += 60
    admission.take(500)
    assert refused(admission, 1).retry_after_seconds == 60.0


def test_both_limits_say_the_later_time() -> None:
    admission, time = door(requests_per_minute=2, tokens_per_minute=100, queue=100)
    admission.take(10)
    time.now += 30
    admission.take(90)
    assert refused(admission, 5).retry_after_seconds == 30.0
    assert refused(admission, 50).retry_after_seconds == 60.0


def test_what_was_taken_takes_the_place_of_the_estimate() -> None:
    admission, time = door(tokens_per_minute=100, queue=100)
    ticket, cached = admission.take(80), admission.take(20)
    assert refused(admission, 60).code == "rate_limited"
    cached.settle(Usage(cache_hits=1))
    ticket.settle(Usage(calls=1, input_tokens=30, cached_input_tokens=20, output_tokens=10))
    admission.take(60)
    ticket.settle(Usage(calls=2, input_tokens=100, output_tokens=50))
    assert refused(admission, 1).code == "rate_limited"
    time.now += 60
    for late in (ticket, cached):
        late.settle(Usage(input_tokens=1_000))
    admission.take(100)


def test_a_full_queue_is_told_when_to_come_again() -> None:
    admission, _ = door(concurrency=2, queue=3)
    for _ in range(5):
        admission.take(0)
    problem = refused(admission)
    assert (problem.code, problem.retry_after_seconds) == ("overloaded", 1.0)
    assert (admission.in_flight, admission.waiting) == (0, 5)


@pytest.mark.parametrize(("seconds", "expected"), [(0.1, 1.0), (8.0, 12.0), (500.0, 60.0)])
async def test_the_wait_is_estimated_from_the_last_group(seconds: float, expected: float) -> None:
    admission, time = door(concurrency=2, queue=3)
    async with admission.place(admission.take(0)):
        time.now += seconds
    holders = [Holder(admission, admission.take(0)) for _ in range(5)]
    await settle()
    assert (admission.in_flight, admission.waiting) == (2, 3)
    assert refused(admission).retry_after_seconds == pytest.approx(expected)
    for holder in holders:
        await holder.leave()


def test_a_dropped_ticket_gives_back_its_room_and_its_estimate_once() -> None:
    admission, _ = door(concurrency=1, queue=1, tokens_per_minute=100)
    ticket, _ = admission.take(50), admission.take(50)
    for _ in range(2):
        ticket.drop()
        assert admission.waiting == 1
    admission.take(50)
    assert refused(admission).code == "overloaded"
    assert refused(admission, 1).code == "rate_limited"


async def test_a_group_that_waits_elsewhere_is_queued_when_it_asks_for_its_place() -> None:
    admission, _ = door(concurrency=1, queue=1, tokens_per_minute=100)
    collecting = [admission.take(10, queued=False) for _ in range(5)]
    assert admission.waiting == 0
    assert refused(admission, 51).code == "rate_limited"
    holders = [Holder(admission, ticket) for ticket in collecting[:3]]
    await settle()
    assert (admission.in_flight, admission.waiting) == (1, 2)
    assert refused(admission).code == "overloaded"
    admission.take(10, queued=False)
    for ticket in collecting[3:]:
        ticket.drop()
    admission.take(60, queued=False)
    for holder in holders:
        await holder.leave()
    assert (admission.in_flight, admission.waiting) == (0, 0)


async def test_places_are_given_in_the_order_they_are_asked_for() -> None:
    admission, _ = door(concurrency=2, queue=10)
    holders = [Holder(admission, admission.take(0)) for _ in range(5)]
    await settle()
    assert [holder.inside for holder in holders] == [True, True, False, False, False]
    await holders[1].leave()
    await settle()
    late = Holder(admission, admission.take(0))
    await settle()
    assert [holder.inside for holder in holders] == [True, True, True, False, False]
    for holder in [holders[0], *holders[2:], late]:
        await holder.leave()
    assert (admission.in_flight, admission.waiting) == (0, 0)


async def test_who_fails_leaves_its_place_and_its_tokens_count() -> None:
    admission, _ = door(concurrency=1, tokens_per_minute=100)
    ticket = admission.take(100)
    with pytest.raises(LookupError):
        async with admission.place(ticket):
            raise LookupError("what was asked is not known")
    ticket.drop()
    assert (admission.in_flight, admission.waiting) == (0, 0)
    assert refused(admission, 1).code == "rate_limited"


async def test_a_cancelled_waiter_gives_its_turn_on_whenever_it_is_cancelled() -> None:
    for turns in range(4):
        admission, _ = door(concurrency=1, queue=10, tokens_per_minute=100)
        first, second, third = (Holder(admission, admission.take(10)) for _ in range(3))
        await settle()
        leaving = asyncio.create_task(first.leave())
        for _ in range(turns):
            await asyncio.sleep(0)
        second.task.cancel()
        await asyncio.wait_for(leaving, 5)
        await settle()
        assert third.inside
        await third.leave()
        assert (admission.in_flight, admission.waiting) == (0, 0)
        # Who never had a place asked nothing.
        admission.take(70 if second.inside else 80)


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["ask", "leave", "cancel", "turn", "look"]), st.integers(0, 9)), max_size=80
    ),
    concurrency=st.integers(1, 3),
)
async def test_no_place_is_ever_lost_or_given_twice(steps: list[tuple[str, int]], concurrency: int) -> None:
    admission, _ = door(concurrency=concurrency, queue=1_000)
    holders: list[Holder] = []
    entered: list[Holder] = []

    def now() -> tuple[list[Holder], list[Holder]]:
        there = [holder for holder in holders if not holder.task.done()]
        inside = [holder for holder in there if holder.inside]
        assert len(inside) <= concurrency
        return inside, [holder for holder in there if not holder.inside]

    async def look() -> tuple[list[Holder], list[Holder]]:
        await settle()
        inside, waiting = now()
        assert (admission.in_flight, admission.waiting) == (len(inside), len(waiting))
        assert len(inside) == concurrency or not waiting, "a place stands empty"
        assert max(map(holders.index, entered), default=-1) < min(map(holders.index, waiting), default=len(holders))
        return inside, waiting

    for step, index in steps:
        if step == "ask":
            holders.append(Holder(admission, admission.take(0), entered))
        elif step == "turn":
            await asyncio.sleep(0)
        elif step == "look":
            await look()
        elif holders:
            holder = holders[index % len(holders)]
            if step == "leave":
                holder._go.set()
            else:
                holder.task.cancel()
        now()
    inside, waiting = await look()
    for holder in [*inside, *waiting]:
        await holder.leave()
    assert (admission.in_flight, admission.waiting) == (0, 0)


@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 80),  # half seconds since the step before: sums of them are exact
            st.integers(0, 150),
            st.none() | st.integers(0, 300),
        ),
        max_size=60,
    ),
    requests=st.none() | st.integers(1, 5),
    tokens=st.none() | st.integers(1, 200),
)
def test_no_window_of_sixty_seconds_holds_more_than_allowed(
    steps: list[tuple[int, int, int | None]], requests: int | None, tokens: int | None
) -> None:
    admission, time = door(requests_per_minute=requests, tokens_per_minute=tokens, queue=1_000)
    taken: list[tuple[float, int]] = []

    def recent(now: float) -> list[int]:
        return [number for at, number in taken if at > now - 60]

    def fits(asked: int, now: float) -> bool:
        there = recent(now)
        small = tokens is None or not sum(there) or sum(there) + asked <= tokens
        return small and (requests is None or len(there) < requests)

    for half_seconds, asked, real in steps:
        time.now += half_seconds / 2
        if not fits(asked, time.now):
            wait = refused(admission, asked).retry_after_seconds
            assert wait is not None
            assert 0 < wait <= 60
            assert fits(asked, time.now + wait)
            assert not fits(asked, time.now + wait - 0.25), "it could have gone sooner"
            continue
        ticket = admission.take(asked)
        taken.append((time.now, asked))
        if real is not None:
            ticket.settle(Usage(calls=1, input_tokens=real))
            taken[-1] = (time.now, real)


async def test_the_patient_wait_for_the_window_in_the_order_they_came() -> None:
    admission, time = door(requests_per_minute=2, concurrency=100)
    went: list[tuple[int, float]] = []

    async def line(number: int) -> None:
        await admission.take_patiently(0)
        went.append((number, time.now))

    await time.run(asyncio.gather(*map(line, range(6))))
    assert went == [(0, 1_000), (1, 1_000), (2, 1_060), (3, 1_060), (4, 1_120), (5, 1_120)]
    assert admission.waiting == 6


@pytest.mark.parametrize("free", [lambda ticket: ticket.drop(), lambda ticket: ticket.settle(Usage())])
async def test_the_patient_notice_when_tokens_come_back(free: Callable[[Ticket], None]) -> None:
    admission, time = door(tokens_per_minute=100)
    ticket = admission.take(100)
    task = asyncio.create_task(admission.take_patiently(50))
    await settle()
    assert not task.done()
    free(ticket)
    await asyncio.wait_for(task, 5)
    assert time.now == 1_000.0


async def test_the_patient_wait_for_room_in_the_queue() -> None:
    admission, _ = door(concurrency=1, queue=0)
    holder = Holder(admission, admission.take(0))
    tasks = [asyncio.create_task(admission.take_patiently(0)) for _ in range(2)]
    await settle()
    assert not tasks[0].done()
    await holder.leave()
    await settle()
    assert [task.done() for task in tasks] == [True, False]
    tasks[0].result().drop()
    await asyncio.wait_for(tasks[1], 5)
    assert admission.waiting == 1


async def test_the_patient_and_the_others_take_turns() -> None:
    admission, time = door(requests_per_minute=1, queue=1_000)
    admission.take(0)
    went: list[str] = []

    async def patient() -> None:
        await admission.take_patiently(0)
        went.append("patient")

    async def pushing() -> None:
        for minute in range(1, 7):
            await time.sleep(1_000 + 60 * minute - time.now)
            with suppress(Problem):
                admission.take(0)
                went.append("pushing")

    # Its timer is the first of each minute: it always comes before the patient ones are woken.
    pusher = asyncio.create_task(pushing())
    await settle()
    await time.run(asyncio.gather(pusher, *(patient() for _ in range(3))))
    assert went == ["pushing", "patient"] * 3


async def test_a_patient_one_that_gives_up_lets_the_next_go() -> None:
    admission, time = door(tokens_per_minute=100)
    ticket = admission.take(60)
    large, small = (asyncio.create_task(admission.take_patiently(tokens)) for tokens in (90, 40))
    await settle()
    assert not small.done(), "nobody overtakes"
    large.cancel()
    await asyncio.wait_for(small, 5)
    assert large.cancelled()
    assert (admission.waiting, time.now) == (2, 1_000.0)
    ticket.drop()
    small.result().drop()
    admission.take(100)


@given(
    st.lists(
        st.tuples(st.sampled_from(["take", "patient", "cancel", "pass"]), st.integers(0, 120), st.integers(0, 9)),
        max_size=40,
    )
)
async def test_every_patient_one_gets_in_and_counts_once(steps: list[tuple[str, int, int]]) -> None:
    admission, time = door(concurrency=1, queue=2, requests_per_minute=5, tokens_per_minute=100)
    taken: list[tuple[float, list[int]]] = []
    tasks: list[asyncio.Task[None]] = []

    def count(tokens: int) -> list[int]:
        there = [number for at, [number] in taken if at > time.now - 60]
        assert len(there) < 5
        assert not sum(there) or sum(there) + tokens <= 100
        taken.append((time.now, [tokens]))
        return taken[-1][1]

    async def hold(ticket: Ticket, counted: list[int]) -> None:
        dropped = True
        try:
            async with admission.place(ticket):
                dropped = False
                await time.sleep(5.0)
        finally:
            if dropped:
                counted[0] = 0

    async def line(tokens: int) -> None:
        ticket = await admission.take_patiently(tokens)
        await hold(ticket, count(tokens))

    for step, tokens, index in steps:
        if step == "take":
            with suppress(Problem):
                ticket = admission.take(tokens)
                tasks.append(asyncio.create_task(hold(ticket, count(tokens))))
        elif step == "patient":
            tasks.append(asyncio.create_task(line(tokens)))
        elif step == "cancel" and tasks:
            tasks[index % len(tasks)].cancel()
        elif step == "pass":
            await time.run(time.sleep(tokens / 4))
        await asyncio.sleep(0)
    outcomes = await time.run(asyncio.gather(*tasks, return_exceptions=True))
    assert all(outcome is None or isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    assert (admission.in_flight, admission.waiting) == (0, 0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    time.now += 60
    admission.take(100)
