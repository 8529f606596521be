from __future__ import annotations

from functools import partial

import pytest

from judges.reask import ReaskingJudge
from judges.scripted import ScriptedJudge, scores_reply
from ruler.errors import BudgetExceeded, ConfigError, JudgeRejected, JudgeUnavailable, ReplyError
from ruler.reply import read_reply
from ruler.types import JudgeInfo, JudgeReply, JudgeRequest, Usage, judge_info

GOOD = scores_reply({"KQX": 73, "BDF": 12})
REQUEST = JudgeRequest(
    messages=({"role": "system", "content": "s"}, {"role": "user", "content": "u"}),
    schema={},
    ids=("KQX", "BDF"),
    check=partial(read_reply, ids=("KQX", "BDF")),
)


def costing(text: str, finish_reason: str = "stop") -> JudgeReply:
    return JudgeReply(
        text, model="m", usage=Usage(1, 100, 10, 20, 0.5), latency_seconds=2.0, finish_reason=finish_reason
    )


async def test_a_good_reply_is_passed_on_and_asked_once() -> None:
    judge = ScriptedJudge([costing(GOOD)])
    assert await ReaskingJudge(judge)(REQUEST) == costing(GOOD)
    assert judge.requests == [REQUEST]


async def test_a_bad_reply_is_asked_again_with_the_fault_named_and_all_usage_summed() -> None:
    judge = ScriptedJudge([costing(GOOD.replace("73", "101")), costing("?"), costing(GOOD)])
    reply = await ReaskingJudge(judge)(REQUEST)
    assert reply.text == GOOD
    assert reply.usage == Usage(3, 300, 30, 60, 1.5)
    assert reply.latency_seconds == 6.0
    second, third = judge.requests[1:]
    assert second.messages[:2] == REQUEST.messages
    assert second.messages[2] == {"role": "assistant", "content": GOOD.replace("73", "101")}
    assert "the score of KQX is 101, not in 0..100" in second.messages[3]["content"]
    assert "KQX, BDF" in second.messages[3]["content"]
    # A correction answers the latest fault; a growing pile of failed attempts would teach the judge to fail.
    assert len(third.messages) == 4


async def test_it_gives_up_after_the_bound_and_keeps_the_last_reply() -> None:
    judge = ScriptedJudge([costing("one"), costing("two"), costing("three")])
    with pytest.raises(ReplyError, match="asked 3 times") as caught:
        await ReaskingJudge(judge)(REQUEST)
    assert caught.value.raw == "three"
    assert caught.value.usage == Usage(3, 300, 30, 60, 1.5)


@pytest.mark.parametrize("text", ["", GOOD[:-4]])
async def test_a_reply_that_was_cut_off_is_not_asked_for_again(text: str) -> None:
    judge = ScriptedJudge([costing(text, "length")])
    with pytest.raises(ReplyError, match="max_tokens") as caught:
        await ReaskingJudge(judge)(REQUEST)
    assert caught.value.finish_reason == "length"
    assert len(judge.requests) == 1


async def test_a_reply_error_of_the_backend_is_asked_again_and_its_usage_counts() -> None:
    judge = ScriptedJudge([ReplyError("empty", usage=Usage(1, 7, 0, 0, None)), costing(GOOD)])
    reply = await ReaskingJudge(judge)(REQUEST)
    assert reply.usage == Usage(2, 107, 10, 20, None)
    assert judge.requests[1].messages[2]["content"] == "(no reply)"


async def test_a_correction_that_is_rejected_leaves_the_bad_reply_to_be_told() -> None:
    judge = ScriptedJudge([costing("?"), JudgeRejected("the prompt is too long now", usage=Usage(calls=1))])
    with pytest.raises(ReplyError, match="asking again was rejected: the prompt is too long now") as caught:
        await ReaskingJudge(judge)(REQUEST)
    assert caught.value.raw == "?"
    assert caught.value.usage.calls == 2


@pytest.mark.parametrize(
    "error",
    [
        JudgeUnavailable("down", retry_after_seconds=3),
        BudgetExceeded("no", usage=Usage(calls=1, cost_usd=None)),
    ],
)
async def test_other_errors_pass_through_with_what_was_spent_before(error: JudgeUnavailable | BudgetExceeded) -> None:
    judge = ScriptedJudge([costing("?"), error])
    before = error.usage
    with pytest.raises(type(error)) as caught:
        await ReaskingJudge(judge)(REQUEST)
    assert caught.value.usage == Usage(2, 100, 10, 20, None)
    assert caught.value is not error
    assert error.usage is before
    assert len(judge.requests) == 2


async def test_a_budget_that_ends_a_reask_keeps_what_was_spent() -> None:
    judge = ScriptedJudge([costing("?"), BudgetExceeded("cap")])
    with pytest.raises(BudgetExceeded) as caught:
        await ReaskingJudge(judge)(REQUEST)
    assert caught.value.usage == Usage(1, 100, 10, 20, 0.5)


async def test_a_huge_or_broken_reply_is_quoted_so_that_a_provider_takes_it() -> None:
    judge = ScriptedJudge(["\ud800" + "x" * 10_000, GOOD])
    await ReaskingJudge(judge)(REQUEST)
    quoted = judge.requests[1].messages[2]["content"]
    assert len(quoted) == 4_000
    quoted.encode("utf-8")


def test_it_forwards_the_info_of_the_judge_inside() -> None:
    info = JudgeInfo("b", "m", images=True)
    assert ReaskingJudge(ScriptedJudge([], info=info)).info is info


def test_a_judge_without_info_gets_none_but_keeps_its_name() -> None:
    async def my_judge(request: JudgeRequest) -> JudgeReply:
        raise AssertionError

    wrapped = ReaskingJudge(ReaskingJudge(my_judge))
    assert wrapped.info is None
    assert judge_info(wrapped).name.endswith("my_judge")


def test_a_negative_number_of_reasks_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_reasks: expected at least 0, got -1"):
        ReaskingJudge(ScriptedJudge([]), max_reasks=-1)
