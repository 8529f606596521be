"""Several orders of one group: what is asked, what is enough, and what the result says of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judges.scripted import ScriptedJudge, scores_reply
from ruler import (
    BudgetExceeded,
    ConfigError,
    FailedGroup,
    Group,
    JudgeCall,
    JudgeInfo,
    JudgeReply,
    JudgeRequest,
    JudgeUnavailable,
    ReplyError,
    Ruler,
    ScoredGroup,
    Usage,
)
from tests.test_scoring import read_prompt

TEXTS = [f"answer {n}" for n in range(8)]
GROUP = Group.of(TEXTS, id="eight")
PAID = Usage(calls=1, input_tokens=10, output_tokens=1, cost_usd=0.25)
Rule = Callable[[str, int], float]


def slot_judge(rule: Rule, *, name: str = "scripted") -> ScriptedJudge:
    """A judge that scores (0..100) a text by what it is and by where it stands."""

    def answer(request: JudgeRequest) -> JudgeReply:
        texts = read_prompt(request)
        scores = {label: rule(text, slot) for slot, (label, text) in enumerate(texts.items())}
        return JudgeReply(scores_reply(scores), model=f"{name}-v1", usage=PAID)

    return ScriptedJudge(answer, info=JudgeInfo("scripted", name))


def number(text: str) -> int:
    return int(text.split()[1])


def failing_calls(judge: ScriptedJudge, failures: Mapping[int, Exception]) -> ScriptedJudge:
    """The judge, which raises on these of its calls instead, counted from 0 in the order asked."""
    counted = iter(range(1_000))

    async def ask(request: JudgeRequest) -> JudgeReply:
        count = next(counted)
        if count in failures:
            raise failures[count]
        return await judge(request)

    ask.info = judge.info  # type: ignore[attr-defined]
    return ask  # type: ignore[return-value]


@pytest.mark.parametrize(("orders", "calls"), [(1, 1), (2, 2), (4, 4), ("full", 8)])
async def test_score_is_the_plain_mean_over_the_orders(orders: object, calls: int) -> None:
    judge = slot_judge(lambda text, slot: 5 * number(text) + slot)
    scored = await Ruler(judge, orders=orders).score(GROUP)  # type: ignore[arg-type]
    assert len(judge.requests) == calls
    assert (scored.orders, scored.orders_used) == (orders, calls)
    shown = [list(read_prompt(request).values()) for request in judge.requests]
    for text, score in zip(TEXTS, scored.scores, strict=True):
        slots = [order.index(text) for order in shown]
        assert score == pytest.approx((5 * number(text) + sum(slots) / calls) / 100, abs=1e-9)
    assert scored.usage.calls == calls
    assert scored.usage.cost_usd == 0.25 * calls


async def test_full_takes_any_slot_effect_out_of_the_differences() -> None:
    judge = slot_judge(lambda text, slot: 5 * number(text) + [30, 0, 3, 17, 0, 9, 40, 1][slot])
    scored = await Ruler(judge, orders="full").score(GROUP)
    scores = [score for score in scored.scores if score is not None]
    assert [round(score - scores[0], 9) for score in scores] == [round(0.05 * n, 9) for n in range(8)]


@pytest.mark.parametrize(
    ("num_rollouts", "orders", "calls"), [(2, 4, 2), (2, "full", 2), (3, 4, 3), (3, 2, 2), (4, 4, 4)]
)
async def test_equal_orders_are_asked_once(num_rollouts: int, orders: object, calls: int) -> None:
    judge = slot_judge(lambda text, slot: slot)
    scored = await Ruler(judge, orders=orders).score(Group.of(TEXTS[:num_rollouts]))  # type: ignore[arg-type]
    prompts = [request.messages for request in judge.requests]
    assert len(prompts) == len({str(prompt) for prompt in prompts}) == calls == scored.orders_used


@settings(max_examples=40, deadline=None)
@given(st.permutations(TEXTS[:5]), st.sampled_from([1, 2, 4, "full"]), st.sampled_from([2, 3, 8]))
def test_arrival_order_leaves_no_trace_in_the_prompts(texts: list[str], orders: object, max_block: int) -> None:
    ruler = Ruler(slot_judge(lambda text, slot: 0), orders=orders, max_block=max_block)  # type: ignore[arg-type]
    first, other = Group.of(TEXTS[:5]), Group.of(texts)
    assert [prompt.messages for prompt in ruler.pack(first)] == [prompt.messages for prompt in ruler.pack(other)]


async def test_result_keeps_what_every_order_said() -> None:
    judge = slot_judge(lambda text, slot: 10 * slot)
    scored = await Ruler(judge, orders=2).score(GROUP)
    assert [(judged.judge, judged.order, judged.block) for judged in scored.judged] == [
        ("scripted", 0, 0),
        ("scripted", 1, 0),
    ]
    names = {rollout.id: text for rollout, text in zip(GROUP.rollouts, TEXTS, strict=True)}
    for judged, request in zip(scored.judged, judge.requests, strict=True):
        assert [names[name] for name in judged.rollout_ids] == list(read_prompt(request).values())
        assert judged.scores == tuple(slot / 10 for slot in range(8))


async def test_notes_are_those_of_the_first_order() -> None:
    counted = iter(range(10))

    def answer(request: JudgeRequest) -> str:
        count = next(counted)
        return scores_reply(dict.fromkeys(request.ids, 50), dict.fromkeys(request.ids, f"note {count}"))

    scored = await Ruler(ScriptedJudge(answer), orders=4).score(GROUP)
    assert scored.notes == ("note 0",) * 8


async def test_what_several_prompts_begin_with_is_marked_and_nothing_else() -> None:
    group = Group.of(TEXTS, task="A task to be shown with every rollout.")

    async def prefixes(**options: object) -> set[str]:
        judge = slot_judge(lambda text, slot: 1)
        await Ruler(judge, **options).score(group)  # type: ignore[arg-type]
        return {request.messages[1]["content"][: request.prefix_chars] for request in judge.requests}

    task = "<task>\nA task to be shown with every rollout.\n</task>\n"
    assert await prefixes() == {""}
    assert await prefixes(orders=2) == {task}
    assert await prefixes(max_block=4) == {task}


async def test_what_only_one_block_shares_is_no_common_beginning() -> None:
    long = [f"{name} {'and so on ' * 40}\n" for name in "abcdefgh"]
    group = Group.of([f"{long[n // 2]}answer {n}" for n in range(16)], task="Write.")
    judge = slot_judge(lambda text, slot: 1)
    await Ruler(judge).score(group)
    beginnings = {request.messages[1]["content"][: request.prefix_chars] for request in judge.requests}
    assert any("<shared_text>" in request.messages[1]["content"] for request in judge.requests)
    assert beginnings == {"<task>\nWrite.\n</task>\n"}


async def test_one_order_has_no_standard_error_and_two_have() -> None:
    judge = slot_judge(lambda text, slot: 5 * number(text) + slot % 3)
    once, twice = await Ruler(judge).score(GROUP), await Ruler(judge, orders=2).score(GROUP)
    assert once.stderr == (None,) * 8
    assert all(error is not None and 0 <= error < 0.1 for error in twice.stderr)


async def test_rollouts_that_read_the_same_share_score_and_error_and_say_so() -> None:
    rng = random.Random(0)
    scored = await Ruler(slot_judge(lambda text, slot: rng.randrange(100)), orders=4).score(
        Group.of(["a", "b", "a", "c", "b"])
    )
    assert [rollout.same_as for rollout in scored.rollouts] == [None, None, "r1", None, "r2"]
    assert scored.scores[0] == scored.scores[2]
    assert scored.stderr[1] == scored.stderr[4] is not None
    assert all(set(judged.rollout_ids) == {"r1", "r2", "r4"} for judged in scored.judged)


# -- when orders fail --------------------------------------------------------------------------------------------


async def test_a_failed_order_fails_the_group_unless_allowed() -> None:
    judge = failing_calls(slot_judge(lambda text, slot: 1), {1: JudgeUnavailable("busy", usage=PAID)})
    with pytest.raises(JudgeUnavailable, match="judge scripted: busy") as raised:
        await Ruler(judge, orders=4).score(GROUP)
    assert raised.value.usage is not None
    assert raised.value.usage.calls == 4


async def test_allowed_the_group_is_scored_from_the_other_orders_and_says_so() -> None:
    judge = failing_calls(
        slot_judge(lambda text, slot: 5 * number(text)),
        {0: ReplyError("nonsense", usage=PAID), 2: JudgeUnavailable("busy", usage=PAID)},
    )
    scored = await Ruler(judge, orders=4, min_orders=2).score(GROUP)
    assert scored.scores == tuple(5 * n / 100 for n in range(8))
    assert (scored.orders, scored.orders_used) == (4, 2)
    assert [(failed.order, failed.reason, failed.message) for failed in scored.failed_orders] == [
        (0, "reply", "nonsense"),
        (2, "unavailable", "busy"),
    ]
    assert {judged.order for judged in scored.judged} == {1, 3}
    assert scored.usage.calls == 4  # what failed was paid, too


async def test_too_few_orders_left_fail_the_group() -> None:
    judge = failing_calls(slot_judge(lambda text, slot: 1), {n: ReplyError("no") for n in range(3)})
    with pytest.raises(ReplyError, match="judge scripted: no$"):
        await Ruler(judge, orders=4, min_orders=2).score(GROUP)


async def test_fewer_different_orders_than_were_wanted_are_enough_when_all_answer() -> None:
    judge = slot_judge(lambda text, slot: 5 * number(text))
    scored = await Ruler(judge, orders=4, min_orders=4).score(Group.of(TEXTS[:2]))
    assert (scored.orders_used, scored.failed_orders) == (2, ())


async def test_a_failure_that_was_allowed_is_not_why_a_jury_fails() -> None:
    patient = failing_calls(slot_judge(lambda text, slot: 1, name="x"), {0: JudgeUnavailable("busy", usage=PAID)})
    broken = failing_calls(slot_judge(lambda text, slot: 1, name="y"), {n: ReplyError("no") for n in range(4)})
    with pytest.raises(ReplyError, match="^judge y: no$") as raised:
        await Ruler([patient, broken], orders=4, min_orders=3).score(GROUP)
    assert raised.value.usage is not None
    assert raised.value.usage.calls == 4 + 4


async def test_a_reached_budget_fails_the_group_whatever_is_allowed() -> None:
    judge = failing_calls(slot_judge(lambda text, slot: 1), {1: BudgetExceeded("cap")})
    with pytest.raises(BudgetExceeded, match="cap"):
        await Ruler(judge, orders=2, min_orders=1).score(GROUP)


async def test_blocks_need_two_whole_orders_whatever_is_allowed() -> None:
    judge = slot_judge(lambda text, slot: 5 * number(text))
    ruler = Ruler(failing_calls(judge, {0: ReplyError("no")}), orders=2, min_orders=1, max_block=4)
    with pytest.raises(ReplyError):
        await ruler.score(GROUP)
    judge = slot_judge(lambda text, slot: 5 * number(text))
    scored = await Ruler(failing_calls(judge, {0: ReplyError("no")}), orders=4, min_orders=2, max_block=4).score(GROUP)
    assert scored.orders_used == 3
    assert [failed.order for failed in scored.failed_orders] == [0]
    assert {judged.order for judged in scored.judged} == {1, 2, 3}


# -- adaptive ----------------------------------------------------------------------------------------------------


async def test_orders_that_agree_are_enough() -> None:
    judge = slot_judge(lambda text, slot: 10 * number(text))
    scored = await Ruler(judge, orders=4, adaptive=True).score(GROUP)
    assert (len(judge.requests), scored.orders, scored.orders_used, scored.adaptive) == (2, 4, 2, True)


@pytest.mark.parametrize(("orders", "calls"), [(4, 4), ("full", 8)])
async def test_orders_that_disagree_buy_the_others(orders: object, calls: int) -> None:
    rng = random.Random(1)
    judge = slot_judge(lambda text, slot: rng.randrange(100))
    scored = await Ruler(judge, orders=orders, adaptive=True).score(GROUP)  # type: ignore[arg-type]
    assert (len(judge.requests), scored.orders_used) == (calls, calls)
    plain = Ruler(judge, orders=orders).pack(GROUP)  # type: ignore[arg-type]
    assert [request.messages for request in judge.requests[:calls]] == [prompt.messages for prompt in plain]


async def test_equal_scores_agree() -> None:
    judge = slot_judge(lambda text, slot: 50)
    assert (await Ruler(judge, orders=4, adaptive=True).score(GROUP)).orders_used == 2


async def test_what_others_said_before_does_not_change_what_is_bought() -> None:
    def rule(text: str, slot: int) -> float:
        return (hash(text) % 1 + 37 * number(text) + 11 * slot * slot) % 100

    groups = [Group.of([f"answer {n}" for n in order]) for order in permutations(range(3, 7), 3)]
    alone = [(await Ruler(slot_judge(rule), orders=4, adaptive=True).score(group)).orders_used for group in groups]
    ruler = Ruler(slot_judge(rule), orders=4, adaptive=True)
    assert [(await ruler.score(group)).orders_used for group in groups] == alone


async def test_a_failed_first_order_is_a_reason_to_buy_where_failing_is_allowed() -> None:
    judge = slot_judge(lambda text, slot: 10 * number(text))
    ruler = Ruler(failing_calls(judge, {0: ReplyError("no")}), orders=4, adaptive=True, min_orders=1)
    assert (await ruler.score(GROUP)).orders_used == 3


@pytest.mark.parametrize("failing", [0, 1])
async def test_others_are_bought_for_a_failed_order_and_can_make_up_for_it(failing: int) -> None:
    judge = slot_judge(lambda text, slot: 10 * number(text))
    ruler = Ruler(failing_calls(judge, {failing: ReplyError("no")}), orders=4, adaptive=True, min_orders=3)
    scored = await ruler.score(GROUP)
    assert (scored.orders_used, [failed.order for failed in scored.failed_orders]) == (3, [failing])


async def test_nothing_more_is_bought_for_a_group_that_fails_in_any_case() -> None:
    judge = slot_judge(lambda text, slot: 10 * number(text))
    with pytest.raises(ReplyError):
        await Ruler(failing_calls(judge, {0: ReplyError("no")}), orders=4, adaptive=True).score(GROUP)
    assert len(judge.requests) == 1
    twice = failing_calls(judge, {n: ReplyError("no") for n in (0, 1)})
    with pytest.raises(ReplyError):
        await Ruler(twice, orders=4, adaptive=True, min_orders=3).score(GROUP)
    assert len(judge.requests) == 1


async def test_adaptive_with_a_tied_group_and_a_group_of_one() -> None:
    judge = slot_judge(lambda text, slot: 10)
    ruler = Ruler(judge, orders=4, adaptive=True, absolute=True)
    assert (await ruler.score(Group.of(["a", "a"]))).status == "tied"
    assert (await ruler.score(Group.of(["a 1"]))).orders_used == 1


# -- blocks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_rollouts", [9, 10, 17, 64])
async def test_a_large_group_is_judged_in_blocks(num_rollouts: int) -> None:
    texts = [f"answer {n}" for n in range(num_rollouts)]
    judge = slot_judge(lambda text, slot: number(text))
    scored = await Ruler(judge).score(Group.of(texts))
    assert all(2 <= len(request.ids) <= 8 for request in judge.requests)
    assert (scored.orders, scored.orders_used) == (1, 2)
    assert scored.scores == pytest.approx([n / 100 for n in range(num_rollouts)], abs=0.02)
    assert list(scored.scores) == sorted(scored.scores)  # type: ignore[type-var]
    assert scored.notes == (None,) * num_rollouts


async def test_notes_of_blocks_come_together() -> None:
    def answer(request: JudgeRequest) -> str:
        texts = read_prompt(request)
        return scores_reply({label: number(text) for label, text in texts.items()}, texts)

    texts = [f"answer {n}" for n in range(20)]
    scored = await Ruler(ScriptedJudge(answer)).score(Group.of(texts))
    assert scored.notes == tuple(texts)


@pytest.mark.slow
async def test_five_hundred_rollouts() -> None:
    texts = [f"answer {n}" for n in range(500)]
    judge = slot_judge(lambda text, slot: number(text) / 5)
    scored = await Ruler(judge).score(Group.of(texts))
    assert len(judge.requests) == 2 * 63
    truth = [n / 500 for n in range(500)]
    assert scored.scores == pytest.approx(truth, abs=0.05)


# -- a jury in several orders ------------------------------------------------------------------------------------


async def test_each_judge_of_a_jury_is_shown_all_orders() -> None:
    kind, strict = slot_judge(lambda text, slot: 60, name="kind"), slot_judge(lambda text, slot: 20, name="strict")
    scored = await Ruler([kind, strict], orders=2).score(GROUP)
    assert scored.scores == (0.4,) * 8
    assert [juror.usage.calls for juror in scored.jury] == [2, 2]
    assert [(judged.judge, judged.order) for judged in scored.judged] == [
        ("kind", 0),
        ("kind", 1),
        ("strict", 0),
        ("strict", 1),
    ]
    assert all(error == 0 for error in scored.stderr)


async def test_jury_error_counts_the_orders_of_judges_that_agree_with_themselves() -> None:
    rng = random.Random(2)
    calm = slot_judge(lambda text, slot: 10 * number(text), name="calm")
    wild = slot_judge(lambda text, slot: rng.randrange(100), name="wild")
    ruler = Ruler([calm, wild], orders=4, adaptive=True)
    scored = await ruler.score(GROUP)
    assert (len(calm.requests), len(wild.requests), scored.orders_used) == (2, 4, 2)
    for place in range(8):
        errors = [juror.stderr[place] for juror in scored.jury if juror.stderr]
        assert scored.stderr[place] == pytest.approx((errors[0] ** 2 + errors[1] ** 2) ** 0.5 / 2)


async def test_failure_of_one_judge_carries_what_all_spent() -> None:
    rng = random.Random(3)
    calm = slot_judge(lambda text, slot: 10 * number(text), name="calm")
    wild = failing_calls(slot_judge(lambda text, slot: rng.randrange(100), name="wild"), {3: ReplyError("no")})
    with pytest.raises(ReplyError, match="^judge wild: no$") as raised:
        await Ruler([calm, wild], orders=4, adaptive=True).score(GROUP)
    assert raised.value.usage is not None
    assert raised.value.usage.calls == 2 + 3 + 1


# -- many groups -------------------------------------------------------------------------------------------------


async def test_standard_errors_of_many_groups_do_not_depend_on_which_was_ready_first() -> None:
    rng = random.Random(4)
    table = {(n, slot): rng.randrange(100) for n in range(100) for slot in range(8)}
    groups = [Group.of([f"answer {rng.randrange(100)}" for _ in range(6)]) for _ in range(20)]

    async def run(delays: random.Random) -> list[ScoredGroup | FailedGroup]:
        judge = slot_judge(lambda text, slot: table[number(text), slot])

        async def slow(request: JudgeRequest) -> JudgeReply:
            await asyncio.sleep(delays.random() / 1000)
            return await judge(request)

        return await Ruler(slow, orders=2).score_many(groups)

    first, second = await run(random.Random(5)), await run(random.Random(6))
    for one, other in zip(first, second, strict=True):
        assert isinstance(one, ScoredGroup)
        assert isinstance(other, ScoredGroup)
        assert one.scores == other.scores
        assert one.stderr == pytest.approx(other.stderr)


async def test_every_call_is_told_with_its_order_and_block() -> None:
    calls: list[JudgeCall] = []
    await Ruler(slot_judge(lambda text, slot: 1), orders=2, max_block=4, on_call=calls.append).score(GROUP)
    assert sorted((call.order, call.block) for call in calls) == [(0, 0), (0, 1), (1, 0), (1, 1)]


# -- bad settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"orders": 3}, 'orders: expected 1, 2, 4 or "full", got 3'),
        ({"orders": True}, "orders: expected"),
        ({"orders": "all"}, "orders: expected"),
        ({"orders": [2]}, "orders: expected"),
        ({"orders": 2.0}, "orders: expected"),
        ({"adaptive": True}, "adaptive: two orders are asked first"),
        ({"orders": 2, "adaptive": True}, "adaptive"),
        ({"orders": 2, "min_orders": 3}, "min_orders: expected a whole number from 1 to orders"),
        ({"min_orders": 0}, "min_orders"),
        ({"min_orders": 1.5, "orders": 4}, "min_orders"),
        ({"max_block": 1}, "max_block: expected a whole number of at least 2, got 1"),
        ({"max_block": None}, "max_block"),
        ({"context_tokens": 0}, "context_tokens"),
        ({"context_tokens": "16k"}, "context_tokens"),
    ],
)
def test_bad_settings_are_refused_by_name(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Ruler(slot_judge(lambda text, slot: 1), **options)  # type: ignore[arg-type]
