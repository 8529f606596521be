from __future__ import annotations

import asyncio
import gc
import threading
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judges.limits import WINDOW_SECONDS, LimitedJudge, Limiter, Limits, shared_limiter
from judges.retry import RetryingJudge
from judges.scripted import ScriptedJudge
from ruler.errors import ConfigError, JudgeRejected, JudgeUnavailable
from ruler.types import JudgeInfo, Usage
from tests.fake_time import FakeTime
from tests.judges.questions import answer, question


class Endpoint:
    """Answers after a time; knows how many it had at once and when each began."""

    def __init__(self, time: FakeTime, seconds: float = 1.0, script=lambda request, began: answer()) -> None:
        self.info = JudgeInfo(backend="test", model="m")
        self.time = time
        self.seconds = seconds
        self.script = script
        self.began: list[float] = []
        self.asked: list[str] = []
        self.running = self.most = 0

    async def __call__(self, request):
        self.began.append(self.time.now)
        self.asked.append(request.messages[1]["content"])
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.time.sleep(self.seconds)
            outcome = self.script(request, self.began[-1])
        finally:
            self.running -= 1
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def limited(endpoint: Endpoint, **limits) -> LimitedJudge:
    time = endpoint.time
    return LimitedJudge(endpoint, Limits(**limits), limiter=Limiter(clock=time.clock, sleep=time.sleep))


async def ask_all(judge, number: int, time: FakeTime):
    return await time.run(asyncio.gather(*(judge(question(str(n))) for n in range(number)), return_exceptions=True))


async def test_no_more_calls_at_once_than_allowed_and_first_come_first_served() -> None:
    time = FakeTime()
    endpoint = Endpoint(time)
    replies = await ask_all(limited(endpoint, concurrency=3), 10, time)
    assert endpoint.most == 3
    assert endpoint.asked == [str(n) for n in range(10)]
    assert time.now == 1_004.0
    assert [reply.usage.wait_seconds for reply in replies] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]


async def test_without_a_queue_the_reply_is_untouched() -> None:
    time = FakeTime()
    reply = answer()
    assert (await time.run(limited(Endpoint(time, script=lambda *_: reply))(question()))) is reply


async def test_requests_a_minute() -> None:
    time = FakeTime()
    endpoint = Endpoint(time, seconds=0.1)
    await ask_all(limited(endpoint, requests_per_minute=5), 12, time)
    assert endpoint.began[:5] == [1_000.0] * 5
    assert endpoint.began[5:10] == pytest.approx([1_000.0 + WINDOW_SECONDS] * 5)
    assert endpoint.began[10:] == pytest.approx([1_000.0 + 2 * WINDOW_SECONDS] * 2)


async def test_tokens_a_minute_are_estimated_before_and_corrected_after() -> None:
    time = FakeTime()
    # 110 tokens each; the first guess is several times that.
    endpoint = Endpoint(time, seconds=0.5)
    await ask_all(limited(endpoint, tokens_per_minute=1_100, concurrency=1), 30, time)
    for start in endpoint.began:
        assert sum(110 for began in endpoint.began if start - 60 < began <= start) <= 1_100
    first_minute = sum(began < 1_060 for began in endpoint.began)
    assert first_minute >= 8, "the correction makes room for nearly all that fits"


async def test_a_call_larger_than_the_limit_goes_alone_rather_than_never() -> None:
    time = FakeTime()
    endpoint = Endpoint(time)
    replies = await ask_all(limited(endpoint, tokens_per_minute=1), 3, time)
    assert all(reply.text for reply in replies)
    assert endpoint.most == 1
    assert endpoint.began == pytest.approx([1_000.0 + n * WINDOW_SECONDS for n in range(3)])


@settings(max_examples=60)
@given(
    arrivals=st.lists(st.floats(0, 100), min_size=1, max_size=40),
    per_minute=st.integers(1, 8),
    concurrency=st.integers(1, 4),
    seconds=st.floats(0.01, 30),
)
def test_no_window_of_a_minute_ever_holds_more_than_allowed(arrivals, per_minute, concurrency, seconds) -> None:
    async def run() -> Endpoint:
        time = FakeTime()
        endpoint = Endpoint(time, seconds=seconds)
        judge = limited(endpoint, requests_per_minute=per_minute, concurrency=concurrency)

        async def ask(number: int, after: float) -> None:
            await time.sleep(after)
            await judge(question(str(number)))

        await time.run(asyncio.gather(*(ask(n, after) for n, after in enumerate(arrivals))))
        return endpoint

    endpoint = asyncio.run(run())
    assert len(endpoint.began) == len(arrivals)
    assert endpoint.most <= concurrency
    for start in endpoint.began:
        assert sum(start <= began < start + 60 for began in endpoint.began) <= per_minute


def too_many(**fields) -> JudgeUnavailable:
    return JudgeUnavailable("429", usage=Usage(calls=1), overloaded=True, **fields)


async def test_an_overload_halves_the_calls_at_once_and_answers_let_them_grow_again() -> None:
    time = FakeTime()
    overloaded = True
    endpoint = Endpoint(time, script=lambda *_: too_many() if overloaded else answer())
    judge = limited(endpoint, concurrency=16)
    assert judge._limiter.concurrency == 16
    await ask_all(judge, 16, time)
    assert judge._limiter.concurrency == 8, "the 16 calls of one round tell of one overload"
    await ask_all(judge, 8, time)
    assert judge._limiter.concurrency == 4
    overloaded = False
    endpoint.most = 0
    await ask_all(judge, 5, time)
    assert endpoint.most == 4
    assert 4 < judge._limiter.concurrency < 8
    await ask_all(judge, 200, time)
    assert judge._limiter.concurrency == 16


async def test_it_never_falls_below_one() -> None:
    time = FakeTime()
    judge = limited(Endpoint(time, script=lambda *_: too_many()), concurrency=2)
    for _ in range(5):
        await ask_all(judge, 1, time)
    assert judge._limiter.concurrency == 1


@pytest.mark.parametrize("error", [JudgeRejected("bad request"), JudgeUnavailable("502"), ValueError("a bug")])
async def test_other_failures_give_the_place_back_and_change_nothing(error) -> None:
    time = FakeTime()
    judge = limited(Endpoint(time, script=lambda *_: error), concurrency=2)
    results = await ask_all(judge, 5, time)
    assert [str(result) for result in results] == [str(error)] * 5
    assert judge._limiter.concurrency == 2
    assert not judge._limiter._running


async def test_a_failure_tells_how_long_it_was_queued() -> None:
    time = FakeTime()
    results = await ask_all(limited(Endpoint(time, script=lambda *_: too_many()), concurrency=1), 2, time)
    assert results[1].usage == Usage(calls=1, wait_seconds=1.0)


async def test_retry_after_holds_the_queue_whatever_the_failure_was() -> None:
    time = FakeTime()
    outcomes = iter([JudgeUnavailable("503", retry_after_seconds=20.0), answer()])
    judge = limited(Endpoint(time, script=lambda *_: next(outcomes)), concurrency=4)
    with pytest.raises(JudgeUnavailable):
        await time.run(judge(question()))
    assert judge._limiter.concurrency == 4
    assert (await time.run(judge(question()))).usage.wait_seconds == pytest.approx(20.0)


async def test_retry_after_holds_the_whole_queue_but_a_minute_at_most() -> None:
    time = FakeTime()
    outcomes = iter([too_many(retry_after_seconds=20.0), answer(), too_many(retry_after_seconds=9_999.0), answer()])
    endpoint = Endpoint(time, seconds=1.0, script=lambda *_: next(outcomes))
    await ask_all(limited(endpoint, concurrency=1), 4, time)
    assert endpoint.began == pytest.approx([1_000.0, 1_021.0, 1_022.0, 1_083.0])


async def test_a_refused_call_takes_no_tokens_from_the_minute() -> None:
    time = FakeTime()
    outcomes = iter([too_many()] * 3 + [answer()] * 3)
    endpoint = Endpoint(time, seconds=1.0, script=lambda *_: next(outcomes))
    await ask_all(limited(endpoint, concurrency=1, tokens_per_minute=1_000), 6, time)
    assert endpoint.began[-1] < 1_060


async def test_waiting_can_be_cancelled_and_the_next_one_moves_up() -> None:
    time = FakeTime()
    endpoint = Endpoint(time)
    judge = limited(endpoint, concurrency=1)
    tasks = [asyncio.create_task(judge(question(str(n)))) for n in range(4)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    results = await time.run(asyncio.gather(*tasks, return_exceptions=True))
    assert isinstance(results[1], asyncio.CancelledError)
    assert endpoint.asked == ["0", "2", "3"]


async def test_a_cancelled_call_gives_its_place_back() -> None:
    time = FakeTime()
    judge = limited(Endpoint(time), concurrency=1)
    task = asyncio.create_task(judge(question()))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (await time.run(judge(question()))).text


def test_judges_of_one_endpoint_share_a_limiter_and_the_strictest_limits() -> None:
    here = JudgeInfo(backend="litellm", model="m", base_url="http://a/v1")
    one = LimitedJudge(ScriptedJudge([], info=here), Limits(concurrency=8, requests_per_minute=100))
    two = LimitedJudge(ScriptedJudge([], info=replace(here, model="other")), Limits(concurrency=4))
    elsewhere = LimitedJudge(ScriptedJudge([], info=replace(here, base_url="http://b/v1")), Limits(concurrency=2))
    assert one._limiter is two._limiter
    assert one._limiter is not elsewhere._limiter
    assert one._limiter.concurrency == 4
    del two
    gc.collect()
    assert one._limiter.concurrency == 8


async def test_a_judge_that_shares_an_endpoint_keeps_to_its_token_limit_too() -> None:
    time = FakeTime()
    endpoint = Endpoint(time, seconds=0.1)
    limiter = Limiter(clock=time.clock, sleep=time.sleep)
    strict = LimitedJudge(endpoint, Limits(tokens_per_minute=1_100), limiter=limiter)
    await ask_all(LimitedJudge(endpoint, Limits(), limiter=limiter), 30, time)
    for start in endpoint.began:
        assert sum(110 for began in endpoint.began if start - 60 < began <= start) <= 1_100
    assert strict.limits.tokens_per_minute == 1_100


@pytest.mark.slow
async def test_the_last_minute_counts_for_judges_made_later() -> None:
    info = JudgeInfo(backend="test", model="the last minute")
    time = FakeTime()
    limiter = shared_limiter(info)
    limiter._clock, limiter._gate._sleep = time.clock, time.sleep
    endpoint = Endpoint(time, seconds=0.1)
    endpoint.info = info
    for number in range(4):
        judge = LimitedJudge(endpoint, Limits(requests_per_minute=2))
        await time.run(judge(question(str(number))))
        del judge
        gc.collect()
    assert endpoint.began == pytest.approx([1_000.0, 1_000.1, 1_000.0 + WINDOW_SECONDS, 1_000.1 + WINDOW_SECONDS])


async def test_no_place_is_held_during_backoff() -> None:
    time = FakeTime()
    outcomes = {"down": [JudgeUnavailable("503", usage=Usage(calls=1)), answer()], "up": [answer()] * 20}
    endpoint = Endpoint(time, script=lambda request, began: outcomes[request.messages[1]["content"]].pop(0))
    judge = RetryingJudge(
        limited(endpoint, concurrency=1), clock=time.clock, sleep=time.sleep, jitter=lambda: 0.999, attempts=2
    )

    async def busy() -> None:
        for _ in range(5):
            await judge(question("up"))

    down, _ = await time.run(asyncio.gather(judge(question("down")), busy()))
    assert endpoint.asked[:2] == ["down", "up"], "while one waits to ask again, the other is asked"
    assert down.usage.retries == 1


def test_a_bare_function_has_a_queue_of_its_own() -> None:
    assert shared_limiter(None) is not shared_limiter(None)


def test_one_queue_over_threads_and_event_loops() -> None:
    running = most = done = 0
    lock = threading.Lock()

    async def slow(request):
        nonlocal running, most, done
        with lock:
            running += 1
            most = max(most, running)
        await asyncio.sleep(0.002)
        with lock:
            running -= 1
            done += 1
        return answer()

    judge = LimitedJudge(slow, Limits(concurrency=3))

    async def many() -> None:
        await asyncio.gather(*(judge(question(str(n))) for n in range(25)))

    threads = [threading.Thread(target=asyncio.run, args=(many(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert done == 100
    assert most <= 3


@pytest.mark.parametrize("name", ["concurrency", "requests_per_minute", "tokens_per_minute"])
def test_bad_limits_are_named(name) -> None:
    with pytest.raises(ConfigError, match=f"{name}: expected at least 1, got 0"):
        Limits(**{name: 0})


async def never(request):
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize("closed", [True, False])
async def test_a_loop_that_is_left_gives_its_places_back(closed: bool) -> None:
    """As by an interrupt, or by closing it over its tasks."""
    limiter = Limiter()
    limits = Limits(concurrency=2)
    stuck = LimitedJudge(never, limits, limiter=limiter)

    def leave() -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        tasks = [loop.create_task(stuck(question("x"))) for _ in range(2)]
        loop.run_until_complete(asyncio.sleep(0.01))
        abandoned.extend(tasks)
        if closed:
            loop.close()
        return loop

    abandoned: list[asyncio.Task] = []
    left = await asyncio.to_thread(leave)
    assert len(limiter._running) == 2
    answering = LimitedJudge(ScriptedJudge(["hello"]), limits, limiter=limiter)
    async with asyncio.timeout(20):
        assert (await answering(question("x"))).text == "hello"
    for task in abandoned:
        task._log_destroy_pending = False
    if not closed:
        left.close()


async def test_who_waits_looks_whether_the_others_are_still_there() -> None:
    """Nobody tells when a loop ends that had all the places."""
    time = FakeTime()
    limiter = Limiter(clock=time.clock, sleep=time.sleep)
    stuck = LimitedJudge(never, Limits(concurrency=1), limiter=limiter)
    loop, ready = asyncio.new_event_loop(), threading.Event()

    def run() -> None:
        task = loop.create_task(stuck(question("x")))
        task._log_destroy_pending = False
        loop.call_soon(ready.set)
        loop.run_forever()

    thread = threading.Thread(target=run)
    thread.start()
    await asyncio.to_thread(ready.wait)
    answering = LimitedJudge(ScriptedJudge(["hello"]), Limits(concurrency=1), limiter=limiter)
    waiting = asyncio.create_task(answering(question("x")))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    loop.call_soon_threadsafe(loop.stop)
    await asyncio.to_thread(thread.join)
    assert (await time.run(waiting)).text == "hello"
    loop.close()
