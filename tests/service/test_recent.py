from __future__ import annotations

import copy
import gc
import json
import tracemalloc
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruler.records import read_record
from ruler.service.recent import Judged, Recent
from ruler.types import FailedGroup, Group, ScoredGroup
from tests.service.judged_groups import failed_saying, group_saying, scored_saying

CALL = {"function": {"name": "f", "arguments": "{}"}}
SECRET = "what the policy wrote"


def put(
    recent: Recent,
    result: ScoredGroup | FailedGroup,
    *,
    owner: str = "a",
    group: Group | None = None,
    size_bytes: int = 100,
) -> None:
    given_group = group or Group.of(["a", "b"])
    recent.add(result, owner=owner, judge="j", rubric="r", group=given_group, size_bytes=size_bytes, seconds=0.5)


def named(group_id: str) -> ScoredGroup:
    return replace(scored_saying("x"), group_id=group_id)


def numbers(found: list[Judged]) -> list[int]:
    return [judged.number for judged in found]


def test_the_newest_come_first_and_pages_do_not_overlap() -> None:
    recent = Recent(10, 10**9, content=True, clock=lambda: 7.0)
    for place in range(12):
        put(recent, named(f"g{place}"))
    assert numbers(recent.newest(None, 4)) == [12, 11, 10, 9]
    assert numbers(recent.newest(None, 4, before=9)) == [8, 7, 6, 5]
    assert numbers(recent.newest(None, 4, before=5)) == [4, 3]
    assert recent.newest(None, 4, before=3) == []
    assert recent.newest(None, 1)[0].finished_at == 7.0


def test_an_owner_sees_its_own_and_the_newest_of_an_id_wins() -> None:
    recent = Recent(10, 10**9, content=True)
    for owner in ("a", "b", "a", "b"):
        put(recent, named("same"), owner=owner)
    assert numbers(recent.newest("a", 10)) == [3, 1]
    assert recent.newest("nobody", 10) == []
    found = [recent.get("same", owner) for owner in ("a", "b", None, "nobody")]
    assert [judged and judged.number for judged in found] == [3, 4, 4, None]
    by_number = [recent.numbered(3, owner) for owner in ("a", "b", None)]
    assert [judged and judged.number for judged in by_number] == [3, None, 3]
    assert recent.numbered(99, None) is None
    assert recent.numbered(0, None) is None


def test_what_is_dropped_takes_nothing_newer_with_it() -> None:
    recent = Recent(2, 10**9, content=True)
    for group_id in ("same", "same", "other"):
        put(recent, named(group_id))
    for owner in ("a", None):
        assert numbers(recent.newest(owner, 10)) == [3, 2]
        found = recent.get("same", owner)
        assert found is not None
        assert found.number == 2
    put(recent, named("other"))
    assert recent.get("same", None) is None


@dataclass(frozen=True)
class Added:
    owner: str
    group_id: str
    size_bytes: int


@given(
    max_groups=st.integers(1, 6),
    max_bytes=st.sampled_from([1, 5_000, 20_000, 100_000]),
    added=st.lists(
        st.builds(Added, st.sampled_from("ab"), st.sampled_from("xyz"), st.sampled_from([0, 0, 9_000, 60_000])),
        min_size=5,
        max_size=25,
    ),
)
def test_it_holds_the_newest_within_both_bounds_and_nothing_else(
    max_groups: int, max_bytes: int, added: list[Added]
) -> None:
    recent = Recent(max_groups, max_bytes, content=True)
    for one in added:
        before = {judged.number for judged in recent.newest(None, 100)}
        put(recent, named(one.group_id), owner=one.owner, size_bytes=one.size_bytes)
        kept = recent.newest(None, 100)
        assert len(kept) == len(recent) <= max_groups
        assert sum(judged.size_bytes for judged in kept) == recent.size_bytes <= max_bytes
        # Only the oldest were dropped, and no more of them than had to be.
        gone = before - {judged.number for judged in kept}
        assert all(number < min((j.number for j in kept), default=10**9) for number in gone)
        for owner in ("a", "b", None):
            own = [judged for judged in kept if owner in (None, judged.owner)]
            assert recent.newest(owner, 100) == own
            for group_id in "xyz":
                same = [judged for judged in own if judged.result.group_id == group_id]
                assert recent.get(group_id, owner) == (same[0] if same else None)
    assert set(recent._queues) == {None, *(judged.owner for judged in recent.newest(None, 100))}
    assert len(recent._newest) <= 2 * len(recent)


@pytest.mark.parametrize("result", [scored_saying(SECRET), failed_saying(SECRET)])
def test_without_content_nothing_that_was_written_is_kept(result: ScoredGroup | FailedGroup) -> None:
    recent = Recent(10, 10**9, content=False)
    plain = {"group_id": "g", "judge": "j", "rubric": "r", "prompt_version": "2"}
    if isinstance(result, ScoredGroup):
        # What remains are names: of judges, models and rollouts, and the error's code.
        rollouts = tuple(
            replace(score, id=f"r{place}", flags=(), same_as=None) for place, score in enumerate(result.rollouts)
        )
        jury = tuple(replace(juror, judge="j", model="m", answered_by=None) for juror in result.jury)
        failed = tuple(replace(order, judge="j", reason="reply") for order in result.failed_orders)
        result = replace(
            result, **plain, model="m", answered_by=None, rollouts=rollouts, jury=jury, failed_orders=failed, judged=()
        )
    else:
        result = replace(result, **plain, rollout_ids=("r0", "r1"))
    assert SECRET in repr(result)
    put(recent, result, group=group_saying(SECRET))
    (judged,) = recent.newest(None, 1)
    assert judged.group is None
    assert SECRET not in repr(judged)
    if isinstance(result, ScoredGroup) and isinstance(judged.result, ScoredGroup):
        assert judged.result.scores == result.scores
    else:
        assert isinstance(judged.result, FailedGroup)
        assert judged.result.reason == "reply"


def test_a_group_larger_than_all_room_is_kept_without_its_content_and_drops_few() -> None:
    recent = Recent(10, 50_000, content=True)
    put(recent, named("small"))
    put(recent, named("large"), size_bytes=10**6)
    large, small = recent.newest(None, 10)
    assert (large.group, large.result.group_id) == (None, "large")
    assert small.group is not None


def body(*messages: object, **more: object) -> bytes:
    """A group as it comes, with two rollouts of these messages."""
    rollouts = [{"id": name, "messages": [*messages, {"role": "assistant", "content": name}]} for name in "ab"]
    return json.dumps({"task": "t", "rollouts": rollouts, **more}, ensure_ascii=False).encode()


@pytest.mark.slow
@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(body({"role": "user", "content": "word " * 2_000}), id="long text"),
        pytest.param(body(*[{"role": "user", "content": "."}] * 500), id="many short messages"),
        pytest.param(body({"role": "user", "content": "word " * 2_000 + "😀"}), id="one wide character"),
        pytest.param(body(*[{"role": "assistant", "tool_calls": [CALL]}] * 300), id="calls"),
        pytest.param(body(kept=[{"k": [[], [], {}]}] * 1_000), id="metadata"),
    ],
)  # fmt: skip
def test_it_holds_no_more_than_it_says(sent: bytes) -> None:
    recent = Recent(100, 10**9, content=True)
    result = scored_saying("x" * 500)
    put(recent, result, group=read_record(json.loads(sent)), size_bytes=len(sent))  # what is made once, for all
    said = recent.size_bytes
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(3):
            put(recent, copy.deepcopy(result), group=read_record(json.loads(sent)), size_bytes=len(sent))
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held <= recent.size_bytes - said <= 4 * held
