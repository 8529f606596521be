from __future__ import annotations

import pytest

from judges.cache import CachedJudge
from judges.fallback import FallbackJudge
from judges.scripted import ScriptedJudge
from ruler.errors import BudgetExceeded, ConfigError, JudgeError, JudgeRejected, JudgeUnavailable, ReplyError
from ruler.types import JudgeInfo, Sampling, Usage
from tests.fake_time import FakeTime
from tests.judges.memory_store import MemoryStore
from tests.judges.questions import answer, question


def scripted(name: str, script, **info) -> ScriptedJudge:
    return ScriptedJudge(script, info=JudgeInfo(backend="test", model=name, **info))


@pytest.mark.parametrize("error", [JudgeUnavailable("down"), JudgeRejected("too long")])
async def test_the_next_judge_answers_and_is_named(error) -> None:
    error.usage = Usage(calls=3, retries=2)
    chain = FallbackJudge([scripted("a", [error]), scripted("b", [answer()])])
    reply = await chain(question())
    assert reply.judge == "b"
    assert reply.usage == Usage(4, 100, 0, 10, 0.01, retries=2)


async def test_the_first_judge_answers_alone() -> None:
    second = scripted("b", [])
    reply = await FallbackJudge([scripted("a", [answer()]), second])(question())
    assert reply.judge == "a"
    assert second.requests == []


@pytest.mark.parametrize("error", [ReplyError("no json", raw="x"), BudgetExceeded("cap")])
async def test_a_bad_reply_or_a_spent_budget_asks_nobody_else(error) -> None:
    second = scripted("b", [])
    chain = FallbackJudge([scripted("a", [JudgeUnavailable("down")]), scripted("c", [error]), second])
    with pytest.raises(type(error)) as caught:
        await chain(question())
    assert caught.value.usage.calls >= 1
    assert second.requests == []


async def test_each_judge_is_asked_with_its_own_settings() -> None:
    one = scripted("a", [JudgeUnavailable("down")], sampling=Sampling(temperature=0.0))
    two = scripted("b", [answer()], sampling=Sampling(max_tokens=7))
    await FallbackJudge([one, two])(question(sampling=Sampling(seed=1)))
    assert one.requests[0].sampling == Sampling(temperature=0.0)
    assert two.requests[0].sampling == Sampling(max_tokens=7)


async def test_when_all_fail_every_reason_is_told() -> None:
    down = JudgeUnavailable("a is down", usage=Usage(calls=1), retry_after_seconds=9.0)
    refused = JudgeRejected("b refused", usage=Usage(calls=1))
    with pytest.raises(JudgeUnavailable, match="a is down; then b refused") as caught:
        await FallbackJudge([scripted("a", [down]), scripted("b", [refused])])(question())
    assert caught.value.usage == Usage(calls=2)
    assert caught.value.retry_after_seconds == 9.0
    with pytest.raises(JudgeRejected, match="b refused; then b refused"):
        await FallbackJudge([scripted("a", [refused]), scripted("b", [refused])])(question())


def test_the_first_judge_is_asked_what_it_would_be_asked_alone() -> None:
    chain = FallbackJudge(
        [scripted("a", [], images=True, context_tokens=9_000), scripted("b", [], context_tokens=8_000)]
    )
    assert chain.info.name == "a -> b"
    assert chain.info.context_tokens == 9_000
    assert chain.info.images
    assert not chain.info.cacheable
    assert FallbackJudge([scripted("a", [], context_tokens=9), scripted("b", [])]).info.context_tokens is None


async def test_a_cache_that_cannot_be_read_asks_nobody_else() -> None:
    store = MemoryStore()
    store.broken = {"get"}
    time = FakeTime()
    first = CachedJudge(scripted("a", []), store, sleep=time.sleep)
    second = scripted("b", [])
    with pytest.raises(JudgeError, match="the cache cannot be used"):
        await time.run(FallbackJudge([first, second])(question()))
    assert second.requests == []


async def test_replay_of_a_chain_finds_the_judge_that_answered() -> None:
    store = MemoryStore()

    def chain(first, second, mode) -> FallbackJudge:
        return FallbackJudge(
            [CachedJudge(scripted(name, script), store, mode=mode) for name, script in (("a", first), ("b", second))]
        )

    await chain([JudgeUnavailable("down")], [answer()], "use")(question())
    reply = await chain([], [], "readonly")(question())
    assert (reply.judge, reply.from_cache, reply.usage.calls) == ("b", True, 0)


def test_bad_chains() -> None:
    with pytest.raises(ConfigError, match="two judges or more, got 1"):
        FallbackJudge([scripted("a", [])])
    with pytest.raises(ConfigError, match="twice: a -> a"):
        FallbackJudge([scripted("a", []), scripted("a", [])])
