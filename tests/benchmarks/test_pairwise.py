from __future__ import annotations

import asyncio
from itertools import combinations
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.pairwise import ask_pairwise
from benchmarks.rows import Answer
from judges.scripted import ScriptedJudge, scores_reply
from judges.simulated import Behaviour
from ruler import JudgeRequest, JudgeUnavailable
from tests.benchmarks.known_truth import KnownTruth, by_pair, group_of, last_number, stated, tell_nothing, texts_of


@settings(max_examples=10)
@given(st.lists(st.integers(20, 80), min_size=2, max_size=6, unique=True))
def test_the_score_is_the_mean_share_against_all_others(values: list[int]) -> None:
    group = group_of(*map(str, values))
    answer = asyncio.run(ask_pairwise(ScriptedJudge(stated), [group], tell=tell_nothing))["g"]
    assert answer.scores == pytest.approx(
        [fmean((1 + (own - other) / 100) / 2 for other in values if other != own) for own in values]
    )
    assert answer.usage.calls == len(values) * (len(values) - 1)


@pytest.mark.parametrize("size", [2, 9])
async def test_every_pair_is_shown_in_both_orders(size: int) -> None:
    judge = ScriptedJudge(stated)
    await ask_pairwise(judge, [group_of(*(str(n) for n in range(size)))], tell=tell_nothing)
    shown = [tuple(map(last_number, texts_of(request).values())) for request in judge.requests]
    assert sorted(shown) == sorted([(a, b) for a in range(size) for b in range(size) if a != b])


async def test_a_bias_for_a_slot_goes_away() -> None:
    group = group_of("a", "b", "c")
    known = KnownTruth({"g": {"r1": 0.3, "r2": 0.6, "r3": 0.5}}, Behaviour(slot_bias=0.2))
    answer = (await ask_pairwise(known.judge, [group], tell=known.tell))["g"]
    assert answer.scores == pytest.approx(
        ((1 - 0.3) / 4 + (1 - 0.2) / 4, (1 + 0.3) / 4 + (1 + 0.1) / 4, (1 + 0.2) / 4 + (1 - 0.1) / 4)
    )


async def test_scores_are_averaged_over_the_orders_and_not_votes() -> None:
    """First by 80 points in one order, second by 20 in the other: one vote each, but not equal."""

    def reply(request: JudgeRequest) -> str:
        good_first = next(iter(texts_of(request).values())) == "good"
        return scores_reply(dict(zip(request.ids, (90, 10) if good_first else (60, 40), strict=True)))

    answer = (await ask_pairwise(ScriptedJudge(reply), [group_of("good", "bad")], tell=tell_nothing))["g"]
    assert answer.scores == pytest.approx((0.5 + 0.3 / 2, 0.5 - 0.3 / 2))


async def test_a_judge_that_goes_round_in_circles_leaves_all_equal() -> None:
    beats = {("rock", "scissors"), ("scissors", "paper"), ("paper", "rock")}
    judge = ScriptedJudge(by_pair(lambda one, other: (one, other) in beats))
    answer = (await ask_pairwise(judge, [group_of("rock", "paper", "scissors")], tell=tell_nothing))["g"]
    assert answer.scores == pytest.approx((0.5, 0.5, 0.5))


async def test_rollouts_that_read_the_same_are_one_opponent_with_one_score() -> None:
    judge = ScriptedJudge(stated)
    groups = [group_of("50", "70", "50"), group_of("8", "8", id="same")]
    found = await ask_pairwise(judge, groups, tell=tell_nothing)
    assert found["g"].scores == pytest.approx((0.4, 0.6, 0.4))
    assert found["same"] == Answer(None)
    assert len(judge.requests) == 2


async def test_a_group_of_one_has_nothing_to_compare() -> None:
    found = await ask_pairwise(ScriptedJudge([]), [group_of("a")], tell=tell_nothing)
    assert found == {"g": Answer(None, "group: only one rollout, so there is nothing to compare")}


async def test_a_pairs_failure_is_its_groups_alone() -> None:
    def reply(request: JudgeRequest) -> str | JudgeUnavailable:
        return JudgeUnavailable("down") if {"12", "14"} == set(texts_of(request).values()) else stated(request)

    groups = [group_of("1", "2", id="a"), group_of("12", "13", "14", id="b"), group_of("3", "4", id="c")]
    found = await ask_pairwise(ScriptedJudge(reply), groups, tell=tell_nothing, concurrency=2)
    failure = found["b"].failure
    assert failure is not None
    assert failure.startswith("unavailable: ")
    assert "r1" in failure
    assert "r3" in failure
    assert "down" in failure
    assert found["b"].scores is None
    assert found["b"].usage.calls == 6
    assert [found[name].failure for name in "ac"] == [None, None]
    assert found["c"].scores == pytest.approx((0.495, 0.505))


async def test_a_judge_that_knows_truth_orders_every_pair_rightly() -> None:
    truth = {f"r{n}": value / 100 for n, value in enumerate((41, 3, 98, 40, 77, 52, 0, 100, 97), 1)}
    known = KnownTruth({"g": truth})
    group = group_of(*map(str, range(9)))
    scores = (await ask_pairwise(known.judge, [group], tell=known.tell))["g"].scores
    assert scores is not None
    pairs = combinations(zip(scores, truth.values(), strict=True), 2)
    assert all((a - b) * (x - y) > 0 for (a, x), (b, y) in pairs)
