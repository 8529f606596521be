from __future__ import annotations

import random

import pytest

from judges.scripted import ScriptedJudge
from ruler import Group, JudgeInfo, Ruler
from ruler.audit import audit, findings
from ruler.audit.cuts import cut_group
from ruler.records import LabelledGroup
from tests.audit.askings import judge, labelled, worth

CALL = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}


def agents(number: int, size: int = 3, *, chars: int = 4_000) -> list[LabelledGroup]:
    """Groups of rollouts whose worth stands in the middle of a long tool output."""
    made = []
    for place in range(number):
        rng = random.Random(place)
        points = rng.sample(range(20, 70), size)
        rollouts = []
        for point in points:
            half = "".join(rng.choices("abcdefgh ", k=chars // 2))
            tool = {"role": "tool", "tool_call_id": "c", "content": f"{half} worth {point} {half[::-1]}"}
            rollouts.append(
                [
                    {"role": "assistant", "content": None, "tool_calls": [CALL]},
                    tool,
                    {"role": "assistant", "content": f"done {rng.randrange(10**6)}"},
                ]
            )
        group = Group.of(rollouts, task=f"look {place}", id=f"a{place}")
        made.append(LabelledGroup(group, {one.id: p / 100 for one, p in zip(group.rollouts, points, strict=True)}))
    return made


def small(ruler: Ruler, tokens: int) -> Ruler:
    return Ruler(ruler.judges[0], context_tokens=tokens)


@pytest.mark.parametrize("info", [JudgeInfo("scripted", "m"), JudgeInfo("scripted", "m", count_tokens=len)])
def test_the_window_is_found_in_which_outputs_are_cut_and_nothing_else_changes(info: JudgeInfo) -> None:
    ruler = Ruler(ScriptedJudge([], info=info), orders=4)
    (item,) = agents(1)
    cut = cut_group(item.group, 7, ruler, lambda tokens: small(ruler, tokens))
    assert cut is not None
    assert (cut.index, cut.group) == (7, item.group)
    whole, (prompt,) = ruler.pack(item.group)[0], cut.ruler.pack(item.group)
    assert prompt.labels == whole.labels
    assert all(2_500 < chars <= 3_100 for chars in prompt.cut_chars.values())


def test_where_nothing_can_be_cut_nothing_is_asked() -> None:
    ruler = Ruler(ScriptedJudge([]), orders=2)
    blocks = Ruler(ScriptedJudge([]), orders=2, max_block=2)
    (agent,), (plain,) = agents(1), labelled(1)
    cut = cut_group(agent.group, 0, ruler, lambda tokens: small(ruler, tokens))
    assert cut is not None
    already = cut.ruler
    for one, group in ((ruler, plain.group), (already, agent.group), (blocks, agent.group)):
        assert cut_group(group, 0, one, lambda tokens, one=one: small(one, tokens)) is None  # type: ignore[misc]


@pytest.mark.slow
async def test_what_a_cut_hides_is_seen_in_scores_and_accuracy() -> None:
    result = await audit(judge(worth), agents(12), orders=2, attacks=0)
    assert (result.questions.cut, result.cuts.groups, result.cuts.failed) == (12, 12, 0)
    assert result.cuts.again.moved.value == 0
    assert result.cuts.excess.value == result.cuts.change.moved.value != 0
    assert (result.cuts.accuracy_whole.value, result.cuts.accuracy_cut.value) == (1, 0.5)
    (found,) = [finding for finding in findings(result) if finding.subject == "cuts"]
    assert found.level == "do"
    assert "accuracy falls from 1.00 to 0.50: take a judge with a larger window" in found.text


@pytest.mark.slow
async def test_without_truth_the_cut_is_still_seen_to_move_scores() -> None:
    items = [LabelledGroup(item.group, {}) for item in agents(12)]
    result = await audit(judge(worth), items, orders=2, attacks=0)
    assert result.cuts.accuracy_whole.value is result.cuts.loss.value is None
    (found,) = [finding for finding in findings(result) if finding.subject == "cuts"]
    assert found.level == "do"
    assert "whose window holds whole groups" in found.text


@pytest.mark.slow
async def test_a_cut_that_hides_nothing_moves_nothing() -> None:
    result = await audit(judge(lambda text: int(text.split("done ")[1][:2])), agents(12), orders=2, attacks=0)
    assert result.cuts.change.moved.value == 0
    (found,) = [finding for finding in findings(result) if finding.subject == "cuts"]
    assert found.level == "fine"


async def test_a_few_groups_say_nothing_of_cuts() -> None:
    result = await audit(judge(worth), agents(3), orders=2, attacks=0)
    (found,) = [finding for finding in findings(result) if finding.subject == "cuts"]
    assert found.level == "unclear"
    assert "3 tasks with long tool outputs are too few to tell" in found.text


async def test_long_outputs_that_cannot_be_cut_are_not_said_to_be_missing() -> None:
    result = await audit(judge(worth), agents(2, 4, chars=2_500), orders=2, attacks=0, max_block=2)
    assert (result.cuts.groups, result.cuts.long_outputs) == (0, 2)
    (found,) = [finding for finding in findings(result) if finding.subject == "cuts"]
    assert found.level == "unclear"
    assert "2 groups hold tool outputs of more than 1,000 characters, but none has whole scores" in found.text


@pytest.mark.slow
async def test_a_loss_that_the_interval_leaves_open_is_not_ruled_out() -> None:
    """Cut short, two of ten groups come out the other way round."""
    items = agents(10, 2)
    answers = [[str(rollout.messages[-1].content[0]) for rollout in item.group.rollouts] for item in items]
    points = {
        answer: round(100 * (1 - true if place < 2 else true))
        for place, item in enumerate(items)
        for answer, true in zip(answers[place], item.truth.values(), strict=True)
    }

    def reads(text: str) -> int:
        (done,) = (answer for answer in points if answer in text)
        return worth(text) or points[done]

    result = await audit(judge(reads), items, orders=2, attacks=0)
    loss = result.cuts.loss.interval
    assert loss is not None
    assert loss[0] <= 0 < 0.1 < loss[1]
    (found,) = [finding for finding in findings(result) if finding.subject == "cuts"]
    assert found.level == "unclear"
    assert f"a loss of up to {loss[1]:.2f} may hide" in found.text
