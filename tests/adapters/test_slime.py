"""Samples as those of slime 0.3.1, and what it does with the rewards."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from types import SimpleNamespace
from typing import Any

import pytest

from judges.fences import find_rollouts, user_text
from judges.scripted import ScriptedJudge, scores_reply
from ruler import Ruler
from ruler.adapters.slime import group_reward
from ruler.errors import BudgetExceeded, ConfigError, GroupError, JudgeError, JudgeUnavailable
from ruler.rewards import Rewards, Rule
from ruler.rules import exact_answer
from ruler.types import JudgeRequest
from tests.conftest import ROOT

PROMPT = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nSay a number.<|im_end|>\n<|im_start|>assistant\n"
ARGS = SimpleNamespace(group_rm=True, reward_key=None)


class Status(Enum):
    COMPLETED = "completed"
    TRUNCATED = "truncated"


@dataclass
class Sample:
    response: str
    prompt: Any = PROMPT
    label: str | None = None
    group_index: int | None = 3
    status: Status = Status.COMPLETED
    reward: Any = None
    metadata: dict[str, Any] | None = field(default_factory=dict)
    remove_sample: bool = False


def by_number(request: JudgeRequest) -> str:
    """A rollout is worth the last number in it."""
    _, rollouts = find_rollouts(user_text(request))
    return scores_reply(
        {name: int(re.findall(r"\d+", text)[-1]) for name, text in rollouts.items()},
        {name: f"says {text.split()[-1]}" for name, text in rollouts.items()},
    )


async def test_each_sample_gets_its_own_score() -> None:
    judge = ScriptedJudge(by_number)
    samples = [Sample(f"I say {value}<|im_end|>") for value in (70, 20, 70, 90)]
    assert await group_reward(Ruler(judge))(ARGS, samples) == [0.7, 0.2, 0.7, 0.9]
    parts = {"judge_failed": 0.0, "judge_tied": 0.0, "judge_gated": 0.0}
    assert [sample.metadata for sample in samples] == [
        {"judge": {**parts, "part_judge": value / 100, "note": f"says {value}"}} for value in (70, 20, 70, 90)
    ]
    assert not any(sample.remove_sample for sample in samples)
    task, rollouts = find_rollouts(user_text(judge.requests[0]))
    assert "Be brief." in task
    assert "Say a number." in task
    assert "im_start" not in task + "".join(rollouts.values())


async def test_a_prompt_may_be_messages() -> None:
    judge = ScriptedJudge(by_number)
    prompt = [{"role": "user", "content": "Say a number."}]
    assert await group_reward(Ruler(judge))(ARGS, [Sample("1", prompt), Sample("2", prompt)]) == [0.01, 0.02]
    assert "Say a number." in find_rollouts(user_text(judge.requests[0]))[0]


async def test_a_reward_key_makes_objects() -> None:
    args = SimpleNamespace(group_rm=True, reward_key="judge")
    rewards = await group_reward(Ruler(ScriptedJudge(by_number)))(args, [Sample("1"), Sample("2")], evaluation=False)
    assert rewards == [{"judge": 0.01}, {"judge": 0.02}]


async def test_rules_see_label_metadata_and_cut() -> None:
    rewards = Rewards(
        rules=(
            Rule("right", exact_answer()),
            Rule("quick", lambda rollout, group: rollout.metadata["quick"], weight=2.0),
            Rule("cut", lambda rollout, group: float(rollout.finish_reason == "length"), weight=-1.0),
        )
    )
    samples = [
        Sample("40", label="40", metadata={"quick": 0.5}),
        Sample("50", label="40", metadata={"quick": 0.0}, status=Status.TRUNCATED),
    ]
    assert await group_reward(Ruler(ScriptedJudge(by_number)), rewards=rewards)(ARGS, samples) == [2.4, -0.5]
    assert samples[0].metadata is not None
    assert samples[0].metadata["judge"]["part_quick"] == 1.0
    assert samples[0].metadata["quick"] == 0.5


async def test_a_failed_group_raises() -> None:
    samples = [Sample("1"), Sample("2")]
    with pytest.raises(JudgeError, match="no reward for any rollout: unavailable: down"):
        await group_reward(Ruler(ScriptedJudge([JudgeUnavailable("down")])))(ARGS, samples)
    assert not samples[0].remove_sample


async def test_a_constant_is_equal_for_all_marked_and_out_of_the_loss() -> None:
    judge = Ruler(ScriptedJudge([JudgeUnavailable("down")]))
    samples = [Sample("1"), Sample("2", metadata=None), Sample("3", remove_sample=True)]
    assert await group_reward(judge, failure_reward=-1)(ARGS, samples) == [-1.0] * 3
    assert all(sample.remove_sample for sample in samples)
    for sample in samples:
        assert sample.metadata is not None
        assert sample.metadata["judge"]["judge_failed"] == 1.0
        assert sample.metadata["judge"]["failure"] == "unavailable: down"


async def test_a_reached_budget_is_never_paid() -> None:
    reward = group_reward(Ruler(ScriptedJudge([BudgetExceeded("the cap")])), failure_reward=0.0)
    with pytest.raises(BudgetExceeded, match="the cap"):
        await reward(ARGS, [Sample("1"), Sample("2")])


async def test_a_tied_group_gets_the_middle_and_stays_in_the_loss() -> None:
    samples = [Sample("7"), Sample("7")]
    assert await group_reward(Ruler(ScriptedJudge([])))(ARGS, samples) == [0.5, 0.5]
    assert not samples[0].remove_sample


@pytest.mark.parametrize(
    ("args", "samples", "error", "message"),
    [
        (SimpleNamespace(group_rm=False), [Sample("1")], ConfigError, "start slime with --group-rm"),
        (SimpleNamespace(group_rm=True), Sample("1"), ConfigError, "start slime with --group-rm"),
        (ARGS, [Sample("1"), [Sample("2"), Sample("3")]], ConfigError, r"samples\[1\]: 2 samples of one rollout"),
        (ARGS, [Sample("1"), Sample("2", group_index=4)], GroupError, r"samples\[1\]: of group 4"),
        (ARGS, [Sample("1"), Sample("2", "another")], GroupError, r"samples\[1\]: of group 3 with prompt 'another'"),
        (ARGS, [], GroupError, "samples: none"),
    ],
)
async def test_what_is_no_group_is_refused(args: Any, samples: Any, error: type[Exception], message: str) -> None:
    judge = ScriptedJudge(by_number)
    with pytest.raises(error, match=message):
        await group_reward(Ruler(judge), failure_reward=0.0)(args, samples)
    assert not judge.requests


async def test_the_page_shows_a_file_that_works() -> None:
    page = (ROOT / "docs" / "trainers" / "slime.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(code.strip().splitlines()) == 4, "three lines and a comment"
    names: dict[str, Any] = {"ruler": Ruler(ScriptedJudge(by_number))}
    exec(code.replace('Client("http://judge:8000")', "ruler"), names)
    assert await names["judge"](ARGS, [Sample("20"), Sample("70")]) == [0.2, 0.7]
