from __future__ import annotations

import pytest

from benchmarks.pointwise import ask_pointwise
from benchmarks.rows import Answer
from judges.scripted import ScriptedJudge, scores_reply
from judges.simulated import Behaviour
from ruler import JudgeRequest, JudgeUnavailable
from tests.benchmarks.known_truth import KnownTruth, group_of, stated, tell_nothing, texts_of


@pytest.mark.parametrize("size", [1, 2, 9])
async def test_each_rollout_is_asked_alone_and_its_score_stands_as_it_came(size: int) -> None:
    judge = ScriptedJudge(stated)
    group = group_of(*(str(10 * place) for place in range(size)))
    answer = (await ask_pointwise(judge, [group], tell=tell_nothing))["g"]
    assert answer.scores == tuple(place / 10 for place in range(size))
    assert answer.usage.calls == len(judge.requests) == size
    assert all(len(request.ids) == 1 for request in judge.requests)
    assert all("The task of g." in request.messages[1]["content"] for request in judge.requests)


async def test_a_judge_that_knows_truth_gives_it_back_and_its_slots_play_no_part() -> None:
    groups = [group_of("a", "b", "c", id="one"), group_of("a", "b", id="two")]
    truth = {"one": {"r1": 0.3, "r2": 0.9, "r3": 0.5}, "two": {"r1": 1.0, "r2": 0.0}}
    known = KnownTruth(truth, Behaviour(slot_bias=0.3))
    found = await ask_pointwise(known.judge, groups, tell=known.tell)
    assert {name: answer.scores for name, answer in found.items()} == {"one": (0.3, 0.9, 0.5), "two": (1.0, 0.0)}


async def test_rollouts_that_read_the_same_are_asked_once() -> None:
    judge = ScriptedJudge(stated)
    groups = [group_of("7", "30", "7"), group_of("8", "8", id="same")]
    found = await ask_pointwise(judge, groups, tell=tell_nothing)
    assert found == {"g": found["g"], "same": Answer(None)}
    assert found["g"].scores == (0.07, 0.3, 0.07)
    assert len(judge.requests) == 2


async def test_notes_go_with_their_rollouts() -> None:
    def reply(request: JudgeRequest) -> str:
        ((label, text),) = texts_of(request).items()
        return scores_reply({label: 5}, {label: f"on {text}"})

    found = await ask_pointwise(ScriptedJudge(reply), [group_of("one", "two", "one")], tell=tell_nothing)
    assert found["g"].notes == ("on one", "on two", "on one")


async def test_a_rollouts_failure_is_its_groups_alone() -> None:
    def reply(request: JudgeRequest) -> str | JudgeUnavailable:
        return JudgeUnavailable("down") if "13" in request.messages[1]["content"] else stated(request)

    groups = [group_of("1", "2", id="a"), group_of("12", "13", id="b"), group_of("3", "4", id="c")]
    found = await ask_pointwise(ScriptedJudge(reply), groups, tell=tell_nothing)
    assert [answer.failure for answer in found.values()] == [None, "unavailable: r2: down", None]
    assert found["b"].scores is None
    assert found["b"].usage.calls == 2
    assert found["c"].scores == (0.03, 0.04)
