from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from judges.meter import Meter, MeteredJudge
from judges.scripted import ScriptedJudge
from ruler.errors import BudgetExceeded, ConfigError, JudgeError, JudgeRejected, JudgeUnavailable, ReplyError
from ruler.types import JudgeInfo, Sampling, Usage
from tests.fake_time import FakeTime
from tests.judges.questions import answer, question

PRICED = JudgeInfo(backend="test", model="priced", input_price=50.0, output_price=500.0)
ASKED = Sampling(max_tokens=10)
"""With it the reply of `answer` takes 100 * 50 + 10 * 500 = 10,000 millionths: a cent."""
LONG = "x" * 300
"""A text of about the 100 tokens that `answer` says it took."""


async def ask(judge: MeteredJudge, times: int) -> int:
    for number in range(times):
        await judge(question(f"{LONG}{number}", sampling=ASKED))
    return times


def metered(meter: Meter, script, info: JudgeInfo = PRICED) -> MeteredJudge:
    return MeteredJudge(ScriptedJudge(script, info=info), meter)


async def test_every_attempt_is_counted_for_the_run_and_for_its_judge() -> None:
    meter = Meter()
    one = metered(meter, [answer(), JudgeUnavailable("429", usage=Usage(calls=1)), answer()])
    two = metered(meter, [answer()], replace(PRICED, model="other"))
    await one(question())
    with pytest.raises(JudgeUnavailable):
        await one(question())
    await one(question())
    await two(question())
    assert meter.usage == Usage(4, 300, 0, 30, pytest.approx(0.03))
    assert meter.by_judge == {
        "priced": Usage(3, 200, 0, 20, pytest.approx(0.02)),
        "other": Usage(1, 100, 0, 10, 0.01),
    }


async def test_an_unknown_price_is_unknown_and_not_0() -> None:
    meter = Meter()
    judge = metered(meter, [answer(usage=Usage(calls=1, input_tokens=5, cost_usd=None)), answer()])
    await judge(question())
    await judge(question())
    assert meter.usage.cost_usd is None
    assert meter.usage.input_tokens == 105


async def test_the_cap_on_money_stops_before_the_call_that_would_pass_it() -> None:
    meter = Meter(max_cost_usd=0.05)
    judge = metered(meter, lambda request: answer())
    with pytest.raises(BudgetExceeded, match=r"the cap of \$0.05 is reached: \$0\.0\d+ is spent, the next call may"):
        await ask(judge, 20)
    assert 0.04 <= meter.usage.cost_usd <= 0.05
    with pytest.raises(BudgetExceeded) as caught:
        await judge(question(LONG, sampling=ASKED))
    assert caught.value.usage is None, "a call that was not made cost nothing"


async def test_the_cap_on_tokens() -> None:
    meter = Meter(max_total_tokens=1_000)
    judge = metered(meter, lambda request: answer(), JudgeInfo(backend="test", model="no price"))
    with pytest.raises(BudgetExceeded, match="the cap of 1,000 tokens is reached"):
        await ask(judge, 20)
    assert 700 <= meter.usage.input_tokens + meter.usage.output_tokens <= 1_000


async def test_calls_in_flight_are_counted_before_they_end() -> None:
    time = FakeTime()
    meter = Meter(max_cost_usd=0.05)
    running = most = 0

    async def slow(request):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await time.sleep(1)
        running -= 1
        return answer()

    slow.info = PRICED
    judge = MeteredJudge(slow, meter)
    asked = [judge(question(f"{LONG}{n}", sampling=ASKED)) for n in range(30)]
    results = await time.run(asyncio.gather(*asked, return_exceptions=True))
    answered = [result for result in results if not isinstance(result, Exception)]
    assert all(isinstance(result, BudgetExceeded) for result in results if isinstance(result, Exception))
    assert meter.usage.cost_usd <= 0.05
    assert len(answered) >= 4, "who might still have room waits for the calls in flight"
    assert most > 1
    assert meter._reserved.usd == pytest.approx(0)


@pytest.mark.parametrize(
    ("error", "counted"),
    [
        (JudgeUnavailable("timeout", usage=Usage(calls=1, cost_usd=None)), True),
        (JudgeUnavailable("said nothing"), True),
        (JudgeRejected("401", usage=Usage(calls=1, cost_usd=0.0)), False),
        (ReplyError("empty", usage=Usage(1, 100, 0, 10, 0.01)), True),
    ],
)
async def test_what_a_failure_may_have_cost_counts_against_the_cap(error, counted) -> None:
    meter = Meter(max_cost_usd=100.0)
    with pytest.raises(type(error)):
        await metered(meter, [error])(question(sampling=ASKED))
    assert (meter._spent.usd > 0) == counted


async def test_a_cancelled_call_may_have_been_billed() -> None:
    meter = Meter(max_cost_usd=100.0)

    async def never(request):
        await asyncio.Event().wait()

    never.info = PRICED
    task = asyncio.create_task(MeteredJudge(never, meter)(question()))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert meter.usage == Usage(calls=1, cost_usd=None)
    assert meter._spent.usd > 0
    assert meter._in_flight == 0


async def test_before_the_first_reply_unbounded_calls_go_one_at_a_time() -> None:
    time = FakeTime()
    meter = Meter(max_cost_usd=10.0)
    running = most = 0
    alone = []

    async def thinks(request):
        nonlocal running, most
        running += 1
        alone.append(running == 1)
        most = max(most, running)
        await time.sleep(1)
        running -= 1
        return answer(usage=Usage(1, 100, 0, 8_000, 4.0))

    thinks.info = PRICED
    judge = MeteredJudge(thinks, meter)
    asked = [judge(question(f"{LONG}{n}")) for n in range(16)]
    results = await time.run(asyncio.gather(*asked, return_exceptions=True))
    assert meter.usage.cost_usd == 8.0
    assert sum(isinstance(result, BudgetExceeded) for result in results) == 14


async def test_before_the_first_reply_a_bound_is_taken_for_what_it_may_take() -> None:
    time = FakeTime()
    meter = Meter(max_cost_usd=10.0)

    async def thinks(request):
        await time.sleep(1)
        return answer(usage=Usage(1, 100, 0, 8_000, 4.0))

    thinks.info = PRICED
    judge = MeteredJudge(thinks, meter)
    asked = [judge(question(f"{LONG}{n}", sampling=Sampling(max_tokens=8_000))) for n in range(16)]
    await time.run(asyncio.gather(*asked, return_exceptions=True))
    assert meter.usage.cost_usd == 8.0


@pytest.mark.parametrize("error", [SystemExit(1), GeneratorExit()])
async def test_a_judge_that_would_end_the_process_ends_its_call(error) -> None:
    async def odd(request):
        raise error

    meter = Meter()
    with pytest.raises(JudgeError, match=type(error).__name__):
        await MeteredJudge(odd, meter)(question())
    assert meter._in_flight == 0


@pytest.mark.parametrize("usage", [None, Usage(1, cost_usd=float("nan")), Usage(1, input_tokens=-5)])
async def test_a_usage_that_is_none_breaks_no_cap(usage) -> None:
    meter = Meter(max_cost_usd=10.0)
    with pytest.raises(JudgeError, match="returned a JudgeReply with usage"):
        await metered(meter, [answer(usage=usage)])(question(LONG, sampling=ASKED))
    assert meter._in_flight == 0
    assert 0 < meter._spent.usd < 1
    assert meter.usage == Usage(calls=1, cost_usd=None)


def test_half_a_price_is_no_price() -> None:
    with pytest.raises(ConfigError, match="price of half is unknown"):
        metered(Meter(max_cost_usd=1.0), [], JudgeInfo(backend="test", model="half", input_price=1.0))


def test_a_cap_on_money_needs_a_price() -> None:
    with pytest.raises(ConfigError, match="max_cost_usd: the price of scripted is unknown.*input_price"):
        MeteredJudge(ScriptedJudge([]), Meter(max_cost_usd=1.0))
    MeteredJudge(ScriptedJudge([]), Meter(max_total_tokens=10))


@pytest.mark.parametrize("cap", [{"max_cost_usd": 0.0}, {"max_cost_usd": float("nan")}, {"max_total_tokens": -1}])
def test_bad_caps_are_named(cap) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(cap))}: expected a positive number"):
        Meter(**cap)


async def test_without_a_cap_nothing_waits() -> None:
    meter = Meter()
    judge = metered(meter, lambda request: answer())
    await asyncio.gather(*(judge(question(str(n))) for n in range(50)))
    assert meter.usage.calls == 50
