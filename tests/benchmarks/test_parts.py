from __future__ import annotations

from benchmarks.parts import Lineup, Part, PartJudge
from benchmarks.rows import Answer
from judges.scripted import ScriptedJudge, scores_reply
from ruler import Group, JudgeReply, Ruler, Usage
from tests.benchmarks.known_truth import group_of, stated, tell_nothing

RULER = Ruler(ScriptedJudge([]))


def test_a_lineup_holds_each_reading_once_in_an_order_that_arrival_does_not_change() -> None:
    texts = ["a", "b", "a", "c"]
    lineup = Lineup.of(group_of(*texts), RULER)
    assert sorted(lineup.entrants) == [0, 1, 3]
    assert lineup.entrant_of == (0, 1, 0, 3)
    turned = Lineup.of(group_of(*texts[::-1]), RULER)
    assert [texts[place] for place in lineup.entrants] == [texts[::-1][place] for place in turned.entrants]


def test_only_a_group_of_several_can_read_the_same() -> None:
    found = {size: Lineup.of(group_of(*"a" * size), RULER).all_read_the_same for size in (1, 2, 3)}
    assert found == {1: False, 2: True, 3: True}
    assert not Lineup.of(group_of("a", "b"), RULER).all_read_the_same


def test_a_part_keeps_what_the_group_says_and_has_a_name_of_its_own() -> None:
    tools = [{"type": "function", "function": {"name": "look"}}]
    whole = Group.of(["a", "b", "c"], task="t", tools=tools, reference="ref", metadata={"source": "s"}, id="g")
    part = Part(whole, (0, 2)).group
    assert (part.task, part.tools, part.reference, part.metadata) == (
        whole.task,
        whole.tools,
        whole.reference,
        whole.metadata,
    )
    assert part.rollouts == (whole.rollouts[0], whole.rollouts[2])
    names = [Part(whole, places, stage).group.id for places in ((0, 1), (0, 2), (0,)) for stage in ("", "round 1")]
    assert part.id == "g|0-2"
    assert len(set(names)) == len(names)


async def test_parts_are_told_before_they_are_asked_and_answered_in_order() -> None:
    told: list[tuple[str, str]] = []
    judge = ScriptedJudge(stated)

    def tell(ruler: Ruler, parts: object) -> None:
        assert not judge.requests
        assert ruler is asker.ruler
        assert isinstance(parts, list)
        told.extend((part.id, whole.id) for part, whole in parts)

    asker = PartJudge(judge, tell, orders=2, concurrency=3)
    whole = group_of("10", "20", "30", "40")
    parts = [Part(whole, (0, other)) for other in (3, 2, 1)]
    answers = await asker.ask(parts)
    assert told == [("g|0-3", "g"), ("g|0-2", "g"), ("g|0-1", "g")]
    assert [answer.scores for answer in answers] == [(0.1, 0.4), (0.1, 0.3), (0.1, 0.2)]
    assert [answer.usage.calls for answer in answers] == [2, 2, 2]


async def test_a_part_whose_rollouts_read_the_same_is_not_asked_and_did_not_fail() -> None:
    asker = PartJudge(ScriptedJudge([]), tell_nothing)
    assert await asker.ask([Part(group_of("a", "a"), (0, 1))]) == [Answer(None, notes=(None, None))]


async def test_a_failed_part_names_its_rollouts_and_what_it_took() -> None:
    reply = JudgeReply(scores_reply({"X": 1}), model="m", usage=Usage(calls=1, output_tokens=9), latency_seconds=2.0)
    asker = PartJudge(ScriptedJudge(lambda request: reply), tell_nothing)
    (answer,) = await asker.ask([Part(group_of("a", "b", "c"), (0, 2))])
    assert answer.scores is None
    assert answer.failure is not None
    assert answer.failure.startswith("reply: r1 and r3: unusable reply: ")
    assert answer.usage.output_tokens == 9
    assert answer.seconds == 2.0


def test_an_answer_is_the_first_failure_or_every_rollouts_score() -> None:
    lineup = Lineup.of(group_of("a", "b", "a"), RULER)
    parts = [Answer((0.5,), usage=Usage(calls=1), seconds=1.0), Answer((0.75,), usage=Usage(calls=2), seconds=2.0)]
    whole = lineup.answer(parts, {0: 0.5, 1: 0.75}, {0: "x", 1: None})
    assert whole == Answer((0.5, 0.75, 0.5), None, Usage(calls=3), 3.0, ("x", None, "x"))
    failed = lineup.answer([*parts, Answer(None, "judge: no"), Answer(None, "judge: late")], {}, {})
    assert failed == Answer(None, "judge: no", Usage(calls=3), 3.0)
