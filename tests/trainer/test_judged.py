from __future__ import annotations

import pytest

from ruler.errors import ConfigError, JudgeRejected
from ruler.rewards import Rewards
from ruler.types import Group
from tests.trainer.judged_groups import episode, sampled
from trainer.judged import _with_truth, judged
from trainer.tasks.arithmetic import arithmetic


def test_a_simulated_judge_goes_by_truth_unless_it_is_told_otherwise() -> None:
    assert _with_truth("simulated") == "simulated?quality=truth"
    assert _with_truth("simulated?noise=1") == "simulated?quality=truth&noise=1"
    assert _with_truth("simulated?quality=length") == "simulated?quality=length"
    assert _with_truth("openai/gpt-5-mini?temperature=0") == "openai/gpt-5-mini?temperature=0"


async def test_its_scores_are_the_rewards_and_the_task_says_what_counts() -> None:
    group = sampled("g", ["a", "b", "c"], [episode(1, 0.0), episode(1, 1.0), episode(1, 0.0)])
    task = arithmetic()
    async with judged("simulated", task, Rewards(judge_weight=2.0), orders=2, cache="off") as (reward, ruler):
        (found,) = await reward([group])
        assert (ruler.rubric, ruler.judge_name) == (task.rubric, "simulated?quality=truth")
    assert found.rewards.rewards == (0.0, 2.0, 0.0)
    assert found.result is not None
    assert found.result.usage.calls == 2


async def test_the_judge_is_closed_at_the_end() -> None:
    async with judged("embedded", arithmetic(), Rewards(), orders=1, cache="off") as (_, ruler):
        pass
    (result,) = await ruler.score_many([Group.of(["1", "2"], task="37+58")])
    assert result.status == "failed"
    assert "closed" in result.message
    assert result.reason == JudgeRejected.code


async def test_a_judge_that_cannot_be_had() -> None:
    with pytest.raises(ConfigError, match="nothing_of_this_name"):
        async with judged("simulated?nothing_of_this_name=1", arithmetic(), Rewards(), orders=1, cache="off"):
            pass
