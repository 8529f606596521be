from __future__ import annotations

import json
import statistics
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judges.simulated import Behaviour, SimulatedJudge, hash_quality, length_quality
from ruler import ConfigError, Group, JudgeRejected, JudgeReply, JudgeRequest, JudgeUnavailable, Ruler
from ruler.packing import pack
from ruler.reply import reply_schema
from ruler.rubric import DEFAULT_RUBRIC


def by_number(task: str, rollout: str) -> float:
    """Quality stands in the rollout."""
    return float(rollout.split()[0])


def request_for(texts: list[str], *, repeat: int = 0) -> JudgeRequest:
    packed = pack(Group.of(texts), DEFAULT_RUBRIC)
    prompt = packed.prompt(range(len(packed.rollouts)))
    return JudgeRequest(prompt.messages, reply_schema(notes=True), prompt.labels, repeat=repeat)


async def scores(judge: SimulatedJudge, texts: list[str]) -> list[float]:
    scored = await Ruler(judge).score(Group.of(texts))
    return [score for score in scored.scores if score is not None]


async def test_without_errors_it_scores_by_quality_alone() -> None:
    judge = SimulatedJudge(by_number, quality_name="number")
    assert await scores(judge, ["0.9 a", "0.1 b", "0.5 c"]) == [0.9, 0.1, 0.5]
    assert judge.info.name == "simulated?quality=number"


def test_the_text_features_are_what_they_say() -> None:
    assert length_quality("t", "") == 1
    assert length_quality("t", "x" * 1000) == 0.5
    assert hash_quality("t", "x") == hash_quality("other", "x") != hash_quality("t", "y")
    assert 0 <= hash_quality("t", "\ud800") < 1


async def test_the_same_request_gives_the_same_reply_and_a_repeat_another() -> None:
    judge = SimulatedJudge(by_number, behaviour=Behaviour(noise=0.3))
    texts = ["0.5 a", "0.4 b"]
    assert await judge(request_for(texts)) == await judge(request_for(texts))
    assert (await judge(request_for(texts, repeat=1))).text != (await judge(request_for(texts))).text
    other_seed = SimulatedJudge(by_number, behaviour=Behaviour(noise=0.3, seed=1))
    assert (await other_seed(request_for(texts))).text != (await judge(request_for(texts))).text


async def test_noise_has_the_deviation_that_was_asked_for() -> None:
    judge = SimulatedJudge(by_number, behaviour=Behaviour(noise=0.1))
    errors = [score - 0.5 for n in range(400) for score in await scores(judge, [f"0.5 {n} {name}" for name in "abcd"])]
    assert statistics.pstdev(errors) == pytest.approx(0.1, rel=0.1)
    assert abs(statistics.mean(errors)) < 0.01


@pytest.mark.parametrize(("size", "factor"), [(4, 1.0), (8, 1.0), (16, 1.5), (32, 2.0)])
async def test_noise_grows_with_a_list_beyond_eight(size: int, factor: float) -> None:
    judge = SimulatedJudge(by_number, behaviour=Behaviour(noise=0.05, long_list=0.5))
    errors = []
    for n in range(1600 // size):
        reply = await judge(request_for([f"0.5 {n} {name}" for name in range(size)]))
        errors += [item["score"] / 100 - 0.5 for item in json.loads(reply.text)["scores"]]
    assert statistics.pstdev(errors) == pytest.approx(0.05 * factor, rel=0.07)


async def test_lists_of_eight_and_less_are_answered_as_without_the_decay() -> None:
    texts = [f"0.{n} text" for n in range(10, 18)]
    plain = SimulatedJudge(by_number, behaviour=Behaviour(noise=0.1))
    decaying = SimulatedJudge(by_number, behaviour=Behaviour(noise=0.1, long_list=0.5))
    assert (await plain(request_for(texts))).text == (await decaying(request_for(texts))).text
    assert (await plain(request_for([*texts, "0.5 ninth"]))).text != (
        await decaying(request_for([*texts, "0.5 ninth"]))
    ).text
    assert plain.info.name == "simulated?quality=by_number&noise=0.1"
    assert decaying.info.name == "simulated?quality=by_number&noise=0.1&long_list=0.5"


async def test_flip_is_a_rate_per_rollout_and_mirrors_within_the_group() -> None:
    judge = SimulatedJudge(by_number, behaviour=Behaviour(flip=0.25))
    values = [await scores(judge, [f"0.9 {n}", f"0.2 {n}"]) for n in range(600)]
    assert {score for pair in values for score in pair} == {0.9, 0.2}
    flipped = statistics.mean([pair[0] == 0.2 for pair in values] + [pair[1] == 0.9 for pair in values])
    assert flipped == pytest.approx(0.25, abs=0.04)


@pytest.mark.parametrize(("shape", "expected"), [("linear", [1, 0, -1]), ("u", [1, -1, 1]), ("first", [1, -1, -1])])
async def test_slot_bias_follows_the_slot_and_has_the_deviation_that_was_asked_for(
    shape: str, expected: list[int]
) -> None:
    judge = SimulatedJudge(by_number, behaviour=Behaviour(slot_bias=0.2, shape=shape))  # type: ignore[arg-type]
    reply = await judge(request_for(["0.5 a", "0.5 b", "0.5 c"]))
    values = [item["score"] / 100 - 0.5 for item in json.loads(reply.text)["scores"]]
    assert statistics.pstdev(values) == pytest.approx(0.2, abs=0.01)
    assert [(value > 0.01) - (value < -0.01) for value in values] == expected


async def test_length_bias_favours_the_longer() -> None:
    judge = SimulatedJudge(by_number, behaviour=Behaviour(length_bias=0.2))
    assert await scores(judge, ["0.5 " + "a" * 100, "0.5 b"]) == [0.7, 0.3]


async def test_failure_is_an_outage_at_the_rate_asked_for() -> None:
    judge = SimulatedJudge(by_number, behaviour=Behaviour(failure=0.3))
    results = await Ruler(judge).score_many([Group.of([f"0.1 {n}", f"0.2 {n}"]) for n in range(500)])
    assert statistics.mean([result.status == "failed" for result in results]) == pytest.approx(0.3, abs=0.06)
    with pytest.raises(JudgeUnavailable, match="simulated"):
        await SimulatedJudge(behaviour=Behaviour(failure=1))(request_for(["a", "b"]))


async def test_scale_and_offset_map_quality_to_points_and_clip() -> None:
    judge = SimulatedJudge(by_number, behaviour=Behaviour(scale=15, offset=50))
    assert await scores(judge, ["0 a", "1 b", "-2 c", "9 d"]) == [0.5, 0.65, 0.2, 1.0]


async def test_it_names_itself_in_every_output() -> None:
    judge = SimulatedJudge(behaviour=Behaviour(noise=0.1, seed=3))
    scored = await Ruler(judge).score(Group.of(["a", "bb"]))
    assert scored.judge == scored.model == "simulated?quality=length&noise=0.1&seed=3"
    assert all(note and note.startswith("simulated") for note in scored.notes)


async def test_faults_of_packing_show() -> None:
    good = request_for(["a", "b"])
    text = str(good.messages[1]["content"])
    first, second = good.ids
    judge = SimulatedJudge()
    for broken in (
        text.replace(f"</rollout {first}>\n", ""),
        text.replace(f"<rollout {second}>\n", ""),
        text.replace(f"</rollout {second}>\n", ""),
        text.replace(first, second),
        text.replace(first, "ZZZ"),
    ):
        messages = (good.messages[0], {"role": "user", "content": broken})
        with pytest.raises(JudgeRejected):
            await judge(replace(good, messages=messages))


async def test_it_reads_prompts_with_image_parts() -> None:
    request = request_for(["a", "bb"])
    parts = [{"type": "text", "text": request.messages[1]["content"]}, {"type": "image_url", "image_url": {}}]
    reply = await SimulatedJudge()(replace(request, messages=(request.messages[0], {"role": "user", "content": parts})))
    assert isinstance(reply, JudgeReply)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"flip": 1.5}, "flip: expected a probability, got 1.5"),
        ({"failure": -0.1}, "failure"),
        ({"noise": -1.0}, "noise: expected at least 0, got -1.0"),
        ({"long_list": -1.0}, "long_list: expected at least 0, got -1.0"),
        ({"long_list": float("inf")}, "long_list: expected a finite number, got inf"),
        ({"noise": float("nan")}, "noise: expected a finite number, got nan"),
        ({"scale": float("inf")}, "scale"),
        ({"shape": "v"}, "shape: expected linear, u or first, got 'v'"),
    ],
)
def test_bad_behaviour_names_the_setting_and_the_value(values: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Behaviour(**values)  # type: ignore[arg-type]


@given(st.lists(st.text(max_size=30), min_size=2, max_size=6, unique=True))
def test_any_text_can_be_judged(texts: list[str]) -> None:
    result = Ruler(SimulatedJudge(hash_quality)).score_sync(Group.of(texts))
    assert result.status in ("scored", "tied")


def test_a_quality_of_ones_own_is_named_for_what_it_is() -> None:
    assert SimulatedJudge(by_number).info.name == "simulated?quality=by_number"
    assert SimulatedJudge(hash_quality).info.name == "simulated?quality=hash"
    assert SimulatedJudge().info.name == "simulated?quality=length"
