from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruler.service.problems import Problem
from ruler.service.rendezvous import Seat
from ruler.service.seating import AWAY_SECONDS, Place, Seating
from tests.fake_time import FakeTime


async def settle() -> None:
    """Lets everything happen that can."""
    for _ in range(20):
        await asyncio.sleep(0)


class Room:
    """Seats of a rendezvous that judges nothing before it is told to."""

    def __init__(self) -> None:
        self.time = FakeTime()
        self.seating = Seating(self.time.clock)
        self.seats: dict[str, list[str]] = {}
        self.outcomes: dict[str, asyncio.Future[Any]] = {}
        self.refuse: Problem | None = None

    def take(self, digest: str, key: str = "k", group_size: int = 2) -> Place:
        return self.seating.take(key, digest, group_size, self._join)

    def _join(self, group_id: str, rollout_id: str) -> Seat:
        if self.refuse:
            raise self.refuse
        self.seats.setdefault(group_id, []).append(rollout_id)
        outcome = self.outcomes.setdefault(group_id, asyncio.get_running_loop().create_future())
        outcome.add_done_callback(lambda done: done.exception())

        async def answer(seconds: float | None = None) -> Any:
            return await asyncio.shield(outcome)

        return SimpleNamespace(answer=answer)  # type: ignore[return-value]

    async def settle(self, place: Place, failure: Exception | None = None) -> None:
        outcome = self.outcomes[place.group.group_id]
        if failure:
            outcome.set_exception(failure)
        else:
            outcome.set_result(SimpleNamespace())
        await settle()

    async def close(self) -> None:
        for outcome in self.outcomes.values():
            if not outcome.done():
                outcome.set_result(SimpleNamespace())
        await settle()


@pytest.fixture
async def room() -> Any:
    room = Room()
    yield room
    await room.close()


async def test_a_full_group_is_followed_by_another(room: Room) -> None:
    places = [room.take(digest) for digest in "aabbc"]
    groups = [place.group.group_id for place in places]
    assert groups[0] == groups[1] != groups[2] == groups[3] != groups[4]
    assert room.seats[groups[0]] == ["a-0", "a-1"]


async def test_ids_of_groups_are_never_used_twice(room: Room) -> None:
    ids = set()
    for _ in range(3):
        places = [room.take("a"), room.take("b")]
        await room.settle(places[0])
        for place in places:
            room.seating.deliver(place)
        ids.add(places[0].group.group_id)
        assert len(room.seating) == 0
    assert len(ids) == 3


async def test_a_place_is_taken_back_once(room: Room) -> None:
    place = room.take("a", group_size=3)
    room.seating.release(place)
    assert room.take("a", group_size=3) is place
    assert room.take("a", group_size=3) is not place
    assert room.seats[place.group.group_id] == ["a-0", "a-1"]


async def test_a_failed_group_answers_nobody_else(room: Room) -> None:
    place, other = room.take("a"), room.take("b")
    room.seating.release(place)
    await room.settle(other, Problem("reply", "no"))
    assert len(room.seating) == 0
    room.seating.release(other)
    assert room.take("a").group is not place.group


async def test_who_is_refused_has_no_place(room: Room) -> None:
    room.refuse = Problem("overloaded", "full")
    with pytest.raises(Problem, match="full"):
        room.take("a")
    assert len(room.seating) == 0
    room.refuse = None
    place = room.take("a")
    room.refuse = Problem("overloaded", "full")
    with pytest.raises(Problem, match="full"):
        room.take("b")
    room.refuse = None
    assert room.take("b").group is place.group


async def test_who_comes_when_a_group_has_just_been_closed_opens_another(room: Room) -> None:
    first = room.take("a")
    join, closed = room._join, first.group.group_id

    def late(group_id: str, rollout_id: str) -> Seat:
        if group_id == closed:
            raise Problem("deadline", "closed without it")
        return join(group_id, rollout_id)

    assert room.seating.take("k", "b", 2, late).group.group_id != closed


async def test_a_group_that_everybody_left_is_forgotten_in_time(room: Room) -> None:
    place = room.take("a")
    room.time.now += 10 * AWAY_SECONDS
    other = room.take("b")  # somebody was connected all the time
    assert other.group is place.group
    room.seating.release(place)
    room.time.now += 10 * AWAY_SECONDS
    assert room.take("a") is place
    for held in (place, other):
        room.seating.release(held)
    room.time.now += AWAY_SECONDS - 1
    assert room.take("a") is place
    room.seating.release(place)
    room.time.now += AWAY_SECONDS - 1
    assert room.take("a") is place  # the time begins anew
    room.time.now += AWAY_SECONDS
    newcomer = room.take("c", group_size=3)
    assert newcomer.group is place.group
    room.seating.release(newcomer)
    room.seating.release(place)
    room.time.now += AWAY_SECONDS
    assert room.take("a").group is not place.group
    assert len(room.seating) == 1


@given(
    st.lists(
        st.tuples(st.sampled_from(["post", "drop", "deliver", "judge", "fail", "wait"]), st.integers(0, 5)), max_size=40
    )
)
def test_no_place_has_two_connections_and_no_group_too_many_members(steps: list[tuple[str, int]]) -> None:
    async def work() -> None:
        room = Room()
        held: list[Place] = []
        dropped: list[Place] = []
        for step, number in steps:
            if step == "post":
                digest = "abc"[number % 3]
                place = room.take(digest)
                assert place.digest == digest
                assert place not in held
                if place in dropped:
                    dropped.remove(place)
                else:
                    known = room.seating._groups.get("k", [])
                    waiting = [p for p in dropped if p.digest == digest and p.group in known]
                    assert not waiting, "its second try was taken for another rollout"
                held.append(place)
            elif step == "wait":
                room.time.now += 10.0 * number
            elif held:
                place = held[number % len(held)]
                done = room.outcomes[place.group.group_id].done()
                if step == "drop":
                    held.remove(place)
                    dropped.append(place)
                    room.seating.release(place)
                elif step == "deliver" and done:
                    held.remove(place)
                    room.seating.deliver(place)
                elif step == "judge" and not done and len(place.group.digests) == 2:
                    await room.settle(place)
                elif step == "fail" and not done:
                    await room.settle(place, Problem("reply", "no"))
            for seats in room.seats.values():
                assert len(seats) == len(set(seats)) <= 2
            assert all(place.group.held == sum(p.group is place.group for p in held) for place in held)
        for place in held:
            room.seating.release(place)
        await room.close()
        room.time.now += AWAY_SECONDS
        last = room.take("z")
        assert len(room.seating) == 1
        await room.settle(last, Problem("reply", "no"))
        assert len(room.seating) == 0

    asyncio.run(work())
