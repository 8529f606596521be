"""The whole audit, with judges whose faults are known."""

from __future__ import annotations

import json

import pytest

from judges.scripted import ScriptedJudge
from judges.simulated import Behaviour, SimulatedJudge
from ruler import ConfigError, Group, JudgeReply, JudgeRequest, JudgeUnavailable
from ruler.audit import Audit, Questions, audit, audit_record, findings
from ruler.audit.findings import Finding
from ruler.records import LabelledGroup
from tests.audit.askings import judge, labelled, level, shown, worth


def simulated(**behaviour: object) -> SimulatedJudge:
    return SimulatedJudge(lambda task, text: worth(text) / 100, behaviour=Behaviour(**behaviour))  # type: ignore[arg-type]


def said(result: Audit, subject: str) -> Finding:
    (found,) = [finding for finding in findings(result) if finding.subject == subject]
    return found


async def test_a_perfect_judge_gets_clean_sentences_and_every_figure_is_json() -> None:
    announced: list[Questions] = []
    perfect = judge(worth)
    result = await audit(perfect, labelled(20, 4), orders=4, attacks=2, on_questions=announced.append)
    assert set(level(findings(result)).values()) == {"fine"}
    assert result.accuracy == 1
    assert said(result, "position").text == "every score is the same in another order: position makes no difference"
    assert "asked again it says just the same" in said(result, "noise").text
    assert announced == [result.questions]
    assert (result.questions.as_they_are, result.questions.again, result.questions.attacked) == (80, 20, 160)
    assert result.questions.total == len(perfect.requests) == result.usage.calls
    chars = sum(len(m["content"]) for request in perfect.requests for m in request.messages)
    assert result.questions.prompt_chars == chars
    record = audit_record(result)
    assert json.loads(json.dumps(record, allow_nan=False)) == json.loads(json.dumps(record))
    assert record["noise"]["deterministic"] is True
    assert [finding["subject"] for finding in record["findings"]] == [
        "signal", "position", "orders", "noise", "style", "attacks", "cuts",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["linear", "u", "first"])
async def test_a_slot_bias_and_noise_of_known_size_are_given_back(shape: str) -> None:
    biased = simulated(slot_bias=0.05, noise=0.04, shape=shape)
    result = await audit(biased, labelled(150, 6), orders=4, attacks=0)
    (size,) = result.positions.sizes
    effects = {
        "linear": [1.46385, 0.87831, 0.29277, -0.29277, -0.87831, -1.46385],
        "u": [1.22474, 0, -1.22474, -1.22474, 0, 1.22474],
        "first": [2.23607, *[-0.44721] * 5],
    }[shape]
    for slot, effect in zip(size.slots, effects, strict=True):
        assert slot.interval is not None
        assert slot.interval[0] < 0.05 * effect < slot.interval[1]
    assert size.deviation == pytest.approx(0.05, rel=0.1)
    found = said(result, "position")
    assert found.level == "do"
    assert "use --orders 4" in found.text
    # |difference of two normals| has the mean 2 sd / sqrt(pi); a score less the mean of six loses a sixth.
    moved = result.noise.change.moved
    assert moved.interval is not None
    assert moved.interval[0] < 2 * 0.04 / 3.14159**0.5 * (5 / 6) ** 0.5 < moved.interval[1]
    assert result.noise.excess.interval is not None
    assert result.noise.excess.interval[0] > 0
    assert result.attacks is None
    assert "attacks" not in level(findings(result))


@pytest.mark.slow
async def test_pure_noise_is_told_from_position() -> None:
    result = await audit(simulated(noise=0.15), labelled(100, 4), orders=2, attacks=0)
    assert result.noise.excess.interval is not None
    assert result.noise.excess.interval[0] < 0 < result.noise.excess.interval[1]
    assert "noise, not position" in said(result, "noise").text
    assert said(result, "orders").level == "do"
    assert said(result, "position").level == "fine"


@pytest.mark.slow
async def test_a_taste_for_length_is_found_beside_truth_and_without_it() -> None:
    items = []
    for place, item in enumerate(labelled(60, 4)):
        texts = [
            f"{r.messages[0].content[0]} {'x ' * (11 * (n + place) % 97)}" for n, r in enumerate(item.group.rollouts)
        ]
        group = Group.of(texts, task=f"t {place}", id=f"g{place}")
        items.append(LabelledGroup(group, item.truth))
    honest = await audit(simulated(), items, orders=2, attacks=0)
    assert honest.style.length.excess.value == pytest.approx(0, abs=0.01)
    assert said(honest, "style").level == "fine"
    taste = await audit(simulated(length_bias=0.2), items, orders=2, attacks=0)
    assert taste.style.length.excess.interval is not None
    assert taste.style.length.excess.interval[0] > 0.3
    assert said(taste, "style").text.startswith("longer rollouts earn more than truth gives them")
    blind = await audit(
        simulated(length_bias=0.2), [LabelledGroup(item.group, {}) for item in items], orders=2, attacks=0
    )
    assert "without truth nobody can say" in said(blind, "style").text


async def test_equal_scores_are_no_signal_and_no_other_figure() -> None:
    result = await audit(judge(lambda text: 50), labelled(12, 3), orders=2, attacks=0)
    assert result.signal.no_signal.value == 1
    found = said(result, "signal")
    assert found.level == "do"
    assert "100% of the scored groups have all scores equal" in found.text
    assert result.swaps.rho is result.positions.sizes[0].share is None
    assert result.style.length.judge.value is None
    assert level(findings(result))["orders"] == "unclear"


async def test_groups_that_fail_are_counted_and_never_a_number() -> None:
    def fails(request: JudgeRequest) -> JudgeReply | str | JudgeUnavailable:
        texts = list(shown(request).values())
        if any(worth(text) > 60 for text in texts):
            return JudgeUnavailable("down")
        return json.dumps({"notes": [], "scores": [{"id": i, "score": worth(t)} for i, t in shown(request).items()]})

    result = await audit(ScriptedJudge(fails), labelled(20, 3), orders=2, attacks=1)
    down = {item.group.id for item in labelled(20, 3) if max(item.truth.values()) > 0.6}
    assert 0 < len(down) < 20
    assert (result.signal.failed, result.signal.scored) == (len(down), 20 - len(down))
    assert {failure.group_id for failure in result.failures} == down  # nothing more is asked about them
    assert result.positions.sizes[0].prompts == 2 * (20 - len(down))
    assert result.noise.groups == result.swaps.change.moved.groups == 20 - len(down)
    assert said(result, "signal").text.startswith(f"{len(down) / 20:.0%} of the groups failed (the first: unavailable)")


async def test_a_judge_that_always_fails_leaves_nothing_to_say() -> None:
    result = await audit(ScriptedJudge(lambda request: JudgeUnavailable("down")), labelled(3), orders=2)
    assert result.signal.scored == 0
    found, *others = findings(result)
    assert (found.subject, found.level) == ("signal", "do")
    assert "none of the 3 groups has scores (3 failed, the first: unavailable; 0 read the same)" in found.text
    assert {(other.level, other.text) for other in others} == {("unclear", "there are no scores to tell by")}
    json.dumps(audit_record(result), allow_nan=False)


@pytest.mark.parametrize(("number", "size"), [(1, 2), (1, 5), (3, 2)])
async def test_few_groups_give_figures_and_no_false_certainty(number: int, size: int) -> None:
    result = await audit(simulated(noise=0.2), labelled(number, size), orders="full", attacks=2)
    assert result.swaps.change.moved.value is not None
    assert level(findings(result))["orders"] == level(findings(result))["position"] == "unclear"
    if number == 1:
        assert result.swaps.change.moved.interval is None
        assert "too few groups" in said(result, "position").text


async def test_groups_of_one_and_equal_rollouts_are_counted_apart() -> None:
    alone = LabelledGroup(Group.of(["worth 5"], task="t"), {})
    same = LabelledGroup(Group.of(["worth 5", "worth 5"], task="t"), {})
    result = await audit(judge(worth), [alone, same, *labelled(4)], orders=2, attacks=1)
    assert (result.groups, result.left_out, result.signal.tied, result.signal.scored) == (5, 1, 1, 4)
    assert result.with_truth == 4


async def test_truth_of_some_rollouts_is_no_truth() -> None:
    items = [LabelledGroup(item.group, {"r1": 0.5}) for item in labelled(4)]
    result = await audit(judge(worth), items, orders=2, attacks=0)
    assert (result.with_truth, result.accuracy, result.style.length.truth.value) == (0, None, None)


async def test_everything_is_told_before_it_is_asked() -> None:
    told: set[str] = set()
    reader = judge(worth)

    async def knows(request: JudgeRequest) -> JudgeReply:
        assert set(shown(request).values()) <= told
        return await reader(request)

    def tell(ruler: object, groups: object) -> None:
        for group, origin in groups:  # type: ignore[attr-defined]
            assert {r.id for r in group.rollouts} == {r.id for r in origin.rollouts}
            for prompt in ruler.pack(group):  # type: ignore[attr-defined]
                told.update(f"\n{text}\n" for text in prompt.texts.values())

    result = await audit(knows, labelled(6), orders=2, attacks=3, tell=tell)
    assert result.failures == ()


async def test_what_cannot_be_audited_is_said() -> None:
    items = labelled(2)
    with pytest.raises(ConfigError, match='orders: an audit compares orders: expected 2, 4 or "full", got 1'):
        await audit(judge(worth), items, orders=1)
    with pytest.raises(ConfigError, match="orders: expected 1, 2, 4"):
        await audit(judge(worth), items, orders=3)  # type: ignore[arg-type]
    for wrong in (-1, 29, True, 1.5):
        with pytest.raises(ConfigError, match="attacks: expected a whole number from 0 to 28"):
            await audit(judge(worth), items, attacks=wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="groups: none has two rollouts or more"):
        await audit(judge(worth), [LabelledGroup(Group.of(["a"], task="t"), {})])


async def test_low_accuracy_with_high_agreement_calls_for_another_judge() -> None:
    result = await audit(judge(lambda text: 100 - worth(text)), labelled(15), orders=2, attacks=0)
    assert result.accuracy == 0
    found = said(result, "orders")
    assert found.level == "do"
    assert "another judge or rubric" in found.text
