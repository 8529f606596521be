from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import logging
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judges.cache import CachedJudge, cache_key
from judges.reask import ReaskingJudge
from judges.scripted import ScriptedJudge, scores_reply
from judges.simulated import SimulatedJudge
from judges.store import Entry
from ruler.errors import ConfigError, JudgeError, JudgeRejected, JudgeUnavailable, ReplyError
from ruler.types import JudgeInfo, JudgeReply, Sampling, Usage
from tests.fake_time import FakeTime
from tests.judges.memory_store import MemoryStore
from tests.judges.questions import GOOD, answer, question

INFO = JudgeInfo(backend="test", model="m")
HIT = Usage(cache_hits=1)


def cached(store: MemoryStore, script, time: FakeTime | None = None, **options) -> tuple[CachedJudge, ScriptedJudge]:
    time = time or FakeTime()
    inner = ScriptedJudge(script, info=INFO)
    return CachedJudge(inner, store, clock=time.clock, sleep=time.sleep, **options), inner


# --- The key ---


def test_the_key_is_pinned() -> None:
    """Stored answers are found by it: whoever changes it raises the version, and says so in the changelog."""
    request = question(sampling=Sampling(temperature=0, seed=3), repeat=1)
    expected = {
        "version": 1,
        "backend": "test",
        "base_url": None,
        "model": "m",
        "sampling": {"temperature": 0.0, "top_p": None, "max_tokens": None, "seed": 3, "reasoning_effort": None},
        "messages": list(request.messages),
        "schema": request.schema,
        "repeat": 1,
    }
    text = json.dumps(expected, sort_keys=True, separators=(",", ":"))
    assert cache_key(INFO, request) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("info", "fields"),
    [
        (replace(INFO, backend="other"), {}),
        (replace(INFO, model="m2"), {}),
        (replace(INFO, base_url="http://a/v1"), {}),
        (INFO, {"sampling": Sampling(temperature=0.5)}),
        (INFO, {"sampling": Sampling(max_tokens=5)}),
        (INFO, {"repeat": 1}),
        (INFO, {"text": "Which is worse?"}),
    ],
)
def test_what_makes_another_question(info, fields) -> None:
    assert cache_key(info, question(**fields)) != cache_key(INFO, question())


def test_what_does_not() -> None:
    info = replace(INFO, input_price=3.0, context_tokens=9, count_tokens=len, images=True)
    request = replace(question(checked=False), ids=("other",), prefix_chars=9)
    assert cache_key(info, request) == cache_key(INFO, question())
    assert cache_key(INFO, question(sampling=Sampling(temperature=1))) == cache_key(
        INFO, question(sampling=Sampling(temperature=1.0))
    )


@given(st.text(), st.text())
def test_any_text_has_a_key_of_its_own(one, other) -> None:
    assert (cache_key(INFO, question(one)) == cache_key(INFO, question(other))) == (one == other)


def test_half_a_surrogate_pair_has_a_key() -> None:
    assert cache_key(INFO, question("\ud800")) != cache_key(INFO, question("\\ud800"))


# --- Kept and found ---


async def test_the_second_asking_is_free_and_the_same() -> None:
    store = MemoryStore()
    judge, inner = cached(store, [answer(distributions={"KQX": {70: 1.0}})])
    first = await judge(question())
    again, asked = cached(store, [])
    second = await again(question())
    assert first == answer(distributions={"KQX": {70: 1.0}})
    assert second == replace(
        first,
        usage=HIT,
        latency_seconds=0.0,
        from_cache=True,
        paid=first.usage,
        paid_seconds=first.latency_seconds,
    )
    assert (len(inner.requests), len(asked.requests)) == (1, 0)
    (text,) = store.texts.values()
    kept = Entry.from_json(text)
    assert (kept.judge, kept.reply.usage) == ("m", first.usage), "what it took is kept with it"


async def test_the_first_usable_reply_is_kept_under_the_question_that_was_asked() -> None:
    store = MemoryStore()
    inner = ScriptedJudge(["no json", GOOD], info=INFO)
    reply = await CachedJudge(ReaskingJudge(inner), store)(question())
    assert reply.usage.calls == 2
    again = ScriptedJudge([], info=INFO)
    assert (await CachedJudge(ReaskingJudge(again), store)(question())).text == GOOD


@pytest.mark.parametrize(
    "outcome",
    [
        answer("no json"),
        answer(scores_reply({"KQX": 70})),
        answer(scores_reply({"KQX": 70, "BDF": 101})),
        answer(GOOD, finish_reason="length"),
    ],
)
async def test_a_reply_that_did_not_pass_is_never_kept(outcome: JudgeReply) -> None:
    store = MemoryStore()
    judge, inner = cached(store, itertools.repeat(outcome))
    assert await judge(question()) == outcome
    assert await judge(question()) == outcome
    assert (store.texts, store.leases) == ({}, {})
    assert len(inner.requests) == 2


@pytest.mark.parametrize("error", [JudgeUnavailable("down"), JudgeRejected("filtered"), ReplyError("bad", raw="x")])
async def test_errors_are_never_kept(error) -> None:
    store = MemoryStore()
    judge, _ = cached(store, [error, answer()])
    with pytest.raises(type(error)):
        await judge(question())
    assert (store.texts, store.leases) == ({}, {})
    assert (await judge(question())).text == GOOD


async def test_who_cannot_be_named_is_not_cached() -> None:
    store = MemoryStore()

    async def bare(request):
        return answer()

    for judge, request in [
        (CachedJudge(bare, store), question()),
        (CachedJudge(ScriptedJudge([answer()], info=replace(INFO, cacheable=False)), store), question()),
        (CachedJudge(ScriptedJudge([answer()], info=INFO), store), question(checked=False)),
    ]:
        assert (await judge(request)).text == GOOD
    assert store.texts == {}


def test_a_simulated_judge_that_knows_the_truth_is_never_cached() -> None:
    assert SimulatedJudge().info.cacheable
    assert not SimulatedJudge(lambda task, rollout: 1.0, quality_name="truth").info.cacheable


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        '{"version":1}',
        Entry("m", 1.0, answer()).to_json()[:-9],
        Entry("m", 1.0, answer()).to_json().replace('"version":1', '"version":2'),
        Entry("m", 1.0, answer("no scores")).to_json(),
        Entry("m", 1e12, answer()).to_json(),
        Entry("m", 1.0, answer(scores_reply({"KQX": 70, "BDF": 700}))).to_json(),
    ],
)
async def test_an_entry_that_cannot_be_used_is_a_counted_miss_and_overwritten(text, caplog) -> None:
    store = MemoryStore()
    judge, _ = cached(store, [answer()])
    key = cache_key(INFO, question())
    store.texts[key] = text
    with caplog.at_level(logging.WARNING):
        assert (await judge(question())).text == GOOD
    assert judge.unreadable == 1
    assert f"entry {key} cannot be used" in caplog.text
    assert (await judge(question())).from_cache
    assert judge.unreadable == 1


# --- Modes ---


async def test_readonly_answers_from_the_store_and_asks_nothing() -> None:
    store = MemoryStore()
    await cached(store, [answer()])[0](question())
    judge, inner = cached(store, [], mode="readonly")
    assert (await judge(question())).text == GOOD
    with pytest.raises(JudgeRejected, match="m: no usable reply in the cache memory.*readonly") as caught:
        await judge(question("another"))
    assert caught.value.usage == Usage()
    with pytest.raises(JudgeRejected, match="cannot be cached"):
        await judge(question(checked=False))
    assert inner.requests == []
    assert store.leases == {}


async def test_refresh_asks_again_once() -> None:
    store, time = MemoryStore(), FakeTime()
    await cached(store, [answer()], time)[0](question())
    time.now += 1
    newer = scores_reply({"KQX": 10, "BDF": 20})
    judge, inner = cached(store, [answer(newer)], time, mode="refresh")
    assert (await judge(question())).text == newer
    time.now += 1
    assert (await judge(question())).text == newer
    assert len(inner.requests) == 1
    assert (await cached(store, [], time)[0](question())).text == newer


def test_an_unknown_mode_is_named() -> None:
    with pytest.raises(ConfigError, match="cache mode: expected one of use, refresh, readonly, got 'off'"):
        CachedJudge(ScriptedJudge([]), MemoryStore(), mode="off")


# --- Single flight ---


class Slow:
    """Answers after a time, or fails; counts."""

    def __init__(self, time: FakeTime, outcome=None) -> None:
        self.info = INFO
        self.time = time
        self.outcome = outcome or answer()
        self.calls = self.cancelled = 0

    async def __call__(self, request):
        self.calls += 1
        try:
            await self.time.sleep(10)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def over(inner, store, time: FakeTime) -> CachedJudge:
    return CachedJudge(inner, store, clock=time.clock, sleep=time.sleep)


async def test_equal_questions_in_flight_are_asked_once_and_paid_once() -> None:
    time, store = FakeTime(), MemoryStore()
    inner = Slow(time)
    judge = over(inner, store, time)
    replies = await time.run(asyncio.gather(*(judge(question()) for _ in range(200))))
    assert inner.calls == 1
    assert [reply.usage for reply in replies] == [answer().usage] + [HIT] * 199
    assert {reply.text for reply in replies} == {GOOD}
    assert judge._flights[asyncio.get_running_loop()] == {}


async def test_other_questions_do_not_wait() -> None:
    time, store = FakeTime(), MemoryStore()
    inner = Slow(time)
    judge = over(inner, store, time)
    await time.run(asyncio.gather(*(judge(question(str(n))) for n in range(20))))
    assert (inner.calls, time.now) == (20, 1_010.0)


async def test_an_error_is_shared_and_counted_once() -> None:
    time, store = FakeTime(), MemoryStore()
    failure = JudgeUnavailable("down", usage=Usage(calls=6, cost_usd=None))
    judge = over(Slow(time, failure), store, time)
    results = await time.run(asyncio.gather(*(judge(question()) for _ in range(5)), return_exceptions=True))
    assert {str(error) for error in results} == {"down"}
    assert sum((error.usage for error in results), Usage()) == Usage(calls=6, cost_usd=None)
    assert store.leases == {}


async def test_a_cancelled_leader_leaves_its_followers_their_answer() -> None:
    time, store = FakeTime(), MemoryStore()
    inner = Slow(time)
    judge = over(inner, store, time)
    leader = asyncio.create_task(judge(question()))
    await asyncio.sleep(0)
    followers = [asyncio.create_task(judge(question())) for _ in range(3)]
    await asyncio.sleep(0.01)
    leader.cancel()
    replies = await time.run(asyncio.gather(*followers))
    assert leader.cancelled()
    assert [reply.text for reply in replies] == [GOOD] * 3
    assert (inner.calls, inner.cancelled) == (1, 0)
    assert sum((reply.usage for reply in replies), Usage()) == answer().usage + Usage(cache_hits=2), "somebody pays"


async def test_when_all_have_gone_the_call_is_given_up_and_the_question_is_free_again() -> None:
    time, store = FakeTime(), MemoryStore()
    inner = Slow(time)
    judge = over(inner, store, time)
    tasks = [asyncio.create_task(judge(question())) for _ in range(3)]
    await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (inner.cancelled, store.leases) == (1, {})
    assert (await time.run(judge(question()))).text == GOOD
    assert inner.calls == 2


async def test_who_comes_while_a_call_is_given_up_asks_anew() -> None:
    time, store = FakeTime(), MemoryStore()

    class Reluctant(Slow):
        async def __call__(self, request):
            try:
                return await super().__call__(request)
            except asyncio.CancelledError:
                await asyncio.sleep(0.02)
                raise

    inner = Reluctant(time)
    judge = over(inner, store, time)
    first = asyncio.create_task(judge(question()))
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.sleep(0)
    reply = await time.run(judge(question()))
    assert reply.text == GOOD
    assert inner.calls == 2
    await asyncio.gather(first, return_exceptions=True)


async def test_another_process_that_asks_already_is_waited_for() -> None:
    time, store = FakeTime(), MemoryStore()
    ours, theirs = Slow(time), Slow(time)
    one, other = over(ours, store, time), over(theirs, MemoryStore(store), time)
    replies = await time.run(asyncio.gather(one(question()), other(question()), other(question())))
    assert ours.calls + theirs.calls == 1
    assert [reply.text for reply in replies] == [GOOD] * 3
    assert sum((reply.usage for reply in replies), Usage()).calls == 1
    assert store.leases == {}


async def test_when_the_other_process_fails_we_ask() -> None:
    time, store = FakeTime(), MemoryStore()
    theirs, ours = Slow(time, JudgeUnavailable("down")), Slow(time)
    one, other = over(theirs, store, time), over(ours, MemoryStore(store), time)
    results = await time.run(asyncio.gather(one(question()), other(question()), return_exceptions=True))
    assert isinstance(results[0], JudgeUnavailable)
    assert results[1].text == GOOD


async def test_an_answer_that_came_between_our_look_and_our_lease_is_taken() -> None:
    store = MemoryStore()

    class Late(MemoryStore):
        async def lease(self, key):
            self.texts[key] = Entry("m", 1.0, answer()).to_json()
            return await super().lease(key)

    judge, inner = cached(Late(store), [])
    assert (await judge(question())).usage == HIT
    assert inner.requests == []
    assert store.leases == {}


async def test_a_judge_cancelled_from_inside_ends_nobodys_run() -> None:
    async def odd(request):
        raise asyncio.CancelledError

    odd.info = INFO
    from ruler import Group, Ruler

    store = MemoryStore()
    with pytest.raises(JudgeError, match="cancelled from inside"):
        await Ruler(CachedJudge(odd, store)).score(Group.of(["a", "b"]))
    assert store.leases == {}


# --- A store that fails ---


@pytest.mark.parametrize("method", ["get", "lease"])
async def test_without_its_store_nothing_is_asked(method) -> None:
    store, time = MemoryStore(), FakeTime()
    store.broken = {method}
    judge, inner = cached(store, [answer()], time)
    with pytest.raises(JudgeError, match=f"the cache cannot be used: memory: {method} failed") as caught:
        await time.run(judge(question()))
    assert time.now == 1_015.5
    with pytest.raises(JudgeError):
        await time.run(judge(question("another")))
    assert time.now == 1_015.5, "what is known to be down is not waited for again"
    assert not isinstance(caught.value, JudgeUnavailable), "a chain would ask, and pay, the next judge"
    assert caught.value.usage == Usage()
    assert inner.requests == []


async def test_a_short_outage_of_the_store_is_waited_out() -> None:
    store, time = MemoryStore(), FakeTime()
    store.broken = {"get", "lease"}
    judge, _ = cached(store, [answer(), answer()], time)

    async def mend() -> None:
        await time.sleep(5)
        store.broken = set()

    reply, _ = await time.run(asyncio.gather(judge(question()), mend()))
    assert reply.text == GOOD
    assert (await judge(question())).from_cache


async def test_a_reply_of_odd_numbers_is_still_the_reply(caplog) -> None:
    odd = answer(distributions={"KQX": {70: object()}})
    store = MemoryStore()
    assert await cached(store, [odd])[0](question()) == odd
    assert "could not be kept" in caplog.text
    assert (store.texts, store.leases) == ({}, {})


async def test_cancelled_while_it_is_kept_the_question_is_not_let_go_before_the_answer_is_there() -> None:
    class Slowly(MemoryStore):
        """As real stores do: what was begun goes on when the caller is cancelled."""

        async def put(self, key, text, *, created_at):
            self.writing = asyncio.ensure_future(self.later(key, text))
            await asyncio.shield(self.writing)

        async def later(self, key, text):
            await asyncio.sleep(0.02)
            await MemoryStore.put(self, key, text, created_at=0.0)

    store = Slowly()
    judge, _ = cached(store, [answer()])
    task = asyncio.create_task(judge(question()))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(store.leases) == 1
    await store.writing
    assert (len(store.texts), store.leases) == (1, {})


async def test_a_foreign_error_is_shared_and_counted_once() -> None:
    time, store = FakeTime(), MemoryStore()
    judge = over(Slow(time, ZeroDivisionError("oops")), store, time)
    results = await time.run(asyncio.gather(*(judge(question()) for _ in range(3)), return_exceptions=True))
    assert [type(error) for error in results] == [ZeroDivisionError, JudgeError, JudgeError]
    assert [error.usage for error in results[1:]] == [Usage()] * 2


async def test_a_reply_that_cannot_be_kept_is_still_the_reply(caplog) -> None:
    store = MemoryStore()
    store.broken = {"put"}
    judge, _ = cached(store, [answer()])
    assert await judge(question()) == answer()
    assert "could not be kept: memory: put failed" in caplog.text
    assert store.leases == {}
