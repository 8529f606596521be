from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judges.retry import RetryingJudge
from judges.scripted import ScriptedJudge
from ruler.errors import (
    BudgetExceeded,
    ConfigError,
    JudgeError,
    JudgeRejected,
    JudgeUnavailable,
    PackingError,
    ReplyError,
)
from ruler.types import Usage
from tests.fake_time import FakeTime
from tests.judges.questions import answer, question


def retrying(script, time: FakeTime, **options) -> RetryingJudge:
    options = {"jitter": lambda: 1.0, **options}
    return RetryingJudge(ScriptedJudge(script), clock=time.clock, sleep=time.sleep, **options)


def down(**fields) -> JudgeUnavailable:
    return JudgeUnavailable("down", **fields)


async def test_the_first_reply_is_the_answer_and_the_attempts_before_it_are_counted() -> None:
    time = FakeTime()
    failed = down(usage=Usage(calls=1, cost_usd=0.0))
    reply = await time.run(retrying([failed, failed, answer()], time)(question()))
    assert time.slept == [1.0, 2.0]
    assert reply.usage == Usage(3, 100, 0, 10, 0.01, retries=2, wait_seconds=3.0)


async def test_an_answer_at_once_costs_nothing_more() -> None:
    time = FakeTime()
    reply = await retrying([answer()], time)(question())
    assert reply == answer()
    assert time.slept == []


async def test_a_failure_that_says_nothing_leaves_the_cost_unknown() -> None:
    time = FakeTime()
    reply = await time.run(retrying([down(), answer()], time)(question()))
    assert reply.usage.cost_usd is None
    assert reply.usage.calls == 2


async def test_attempts_end_with_the_cause_and_their_number() -> None:
    time = FakeTime()
    judge = retrying(itertools.repeat(down(usage=Usage(calls=1), overloaded=True)), time, attempts=4)
    with pytest.raises(JudgeUnavailable, match=r"^down \(asked 4 times\)$") as caught:
        await time.run(judge(question()))
    assert caught.value.usage == Usage(calls=4, retries=3, wait_seconds=7.0)
    assert caught.value.overloaded
    assert isinstance(caught.value.__cause__, JudgeUnavailable)
    assert time.slept == [1.0, 2.0, 4.0]


async def test_no_attempt_begins_after_the_deadline() -> None:
    time = FakeTime()
    judge = retrying(itertools.repeat(down()), time, attempts=100, deadline_seconds=10.0)
    with pytest.raises(JudgeUnavailable, match=r"down \(asked 4 times; deadline 10 s\)"):
        await time.run(judge(question()))
    assert time.now - 1_000 <= 10


async def test_time_in_an_endpoints_queue_is_no_fault_of_the_judge() -> None:
    time = FakeTime()
    queued = down(usage=Usage(calls=1, wait_seconds=50.0))

    def script(request):
        time.now += 50.0
        return queued

    with pytest.raises(JudgeUnavailable, match="asked 3 times; deadline 5 s"):
        await time.run(retrying(script, time, deadline_seconds=5.0)(question()))


async def test_retry_after_is_honoured_on_top_of_the_backoff() -> None:
    time = FakeTime()
    reply = await time.run(retrying([down(retry_after_seconds=20.0), answer()], time, jitter=lambda: 0.5)(question()))
    assert time.slept == [20.5]
    assert reply.usage.wait_seconds == 20.5


async def test_a_retry_after_beyond_the_deadline_ends_it_at_once() -> None:
    time = FakeTime()
    judge = retrying([down(retry_after_seconds=3600.0)], time, deadline_seconds=60)
    with pytest.raises(
        JudgeUnavailable, match=r"asked once and it wants to be left alone for 3600 s; deadline 60 s"
    ) as caught:
        await time.run(judge(question()))
    assert caught.value.retry_after_seconds == 3600.0
    assert time.slept == []


@pytest.mark.parametrize(
    "error",
    [
        JudgeRejected("context overflow"),
        ReplyError("no scores", raw="x"),
        BudgetExceeded("cap"),
        PackingError("too long"),
        JudgeError("odd"),
    ],
)
async def test_nothing_else_is_asked_again(error) -> None:
    time = FakeTime()
    with pytest.raises(type(error)) as caught:
        await time.run(retrying([down(usage=Usage(calls=1)), error], time)(question()))
    assert str(caught.value) == str(error)
    made = not isinstance(error, BudgetExceeded | PackingError)
    assert caught.value.usage.calls == 1 + (made and isinstance(error, JudgeError))
    assert caught.value.usage.retries == (not isinstance(error, BudgetExceeded))
    assert error.usage is None, "the judge's own object is left alone"


async def test_a_fault_in_the_program_is_raised_as_it_is() -> None:
    async def broken(request):
        raise ZeroDivisionError("oops")

    with pytest.raises(ZeroDivisionError):
        await RetryingJudge(broken)(question())


async def test_cancelling_ends_the_backoff() -> None:
    time = FakeTime()
    task = asyncio.create_task(retrying(itertools.repeat(down()), time)(question()))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@given(jitters=st.lists(st.floats(0, 0.999), min_size=12, max_size=12), attempts=st.integers(1, 12))
def test_backoff_is_full_jitter_within_its_bounds(jitters, attempts) -> None:
    time = FakeTime()
    judge = retrying(
        itertools.repeat(down()), time, attempts=attempts, jitter=iter(jitters * 2).__next__, deadline_seconds=1e9
    )
    with pytest.raises(JudgeUnavailable):
        asyncio.run(time.run(judge(question())))
    assert len(time.slept) == attempts - 1
    for number, seconds in enumerate(time.slept):
        assert seconds == pytest.approx(jitters[number] * min(60.0, 2.0**number))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"attempts": 0}, "attempts: .*got 0"), ({"deadline_seconds": 0}, "deadline_seconds: .*got 0")],
)
def test_bad_options_are_named(options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        RetryingJudge(ScriptedJudge([]), **options)


def test_it_says_of_itself_what_the_judge_says() -> None:
    inner = ScriptedJudge([])
    assert RetryingJudge(inner).info is inner.info

    async def bare(request): ...

    assert RetryingJudge(bare).info is None
