"""Rows as ms-swift 4.6 gives them to a reward function; its own code is run in tests/frameworks."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from judges.fences import find_rollouts, user_text
from judges.scripted import ScriptedJudge, scores_reply
from ruler import Ruler
from ruler.adapters.ms_swift import orm
from ruler.errors import BudgetExceeded, ConfigError, JudgeError, JudgeUnavailable
from ruler.rewards import Rewards, Rule
from ruler.rules import exact_answer
from ruler.types import JudgeRequest


def arguments(num_generations: int, num_generations_eval: int | None = None, *, rows: int = 4, steps: int = 1) -> Any:
    return SimpleNamespace(
        num_generations=num_generations,
        num_generations_eval=num_generations_eval,
        per_device_train_batch_size=rows,
        steps_per_generation=steps,
    )


def by_number(request: JudgeRequest) -> str:
    """A rollout is worth the last number in it."""
    _, rollouts = find_rollouts(user_text(request))
    return scores_reply({name: int(re.findall(r"\d+", text)[-1]) for name, text in rollouts.items()})


def rows(*answers: tuple[str, str], **columns: Sequence[Any]) -> dict[str, Any]:
    """Prompt and answer of each row."""
    known = {prompt: f"prompt_{i}" for i, prompt in enumerate(dict(answers))}
    messages = [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}] for prompt, answer in answers
    ]
    return {
        "completions": [answer for _, answer in answers],
        "messages": messages,
        "prompt_id": [known[prompt] for prompt, _ in answers],
        "request_id": [f"chatcmpl-{i}" for i in range(len(answers))],
        "finish_reason": ["stop"] * len(answers),
        "rollout_infos": [{}] * len(answers),
        "response_token_ids": [[1]] * len(answers),
        "trainer_state": SimpleNamespace(global_step=0),
        **columns,
    }


def ask(reward: Any, asked: dict[str, Any]) -> list[float]:
    """As swift does it: completions by position, all else by keyword, in a loop of its own."""
    assert inspect.isfunction(reward)
    assert asyncio.iscoroutinefunction(reward)
    given = dict(asked)
    answer: list[float] = asyncio.run(reward(given.pop("completions"), **given))
    return answer


def test_each_row_gets_its_own_score_in_every_new_loop() -> None:
    judge = ScriptedJudge(by_number)
    reward = orm(Ruler(judge))(args=arguments(2))
    assert reward.__name__ == "judge"
    batch = rows(("a", "10"), ("a", "20"), ("b", "30"), ("b", "40"), ("a", "50"), ("a", "60"), ("a", "70"), ("a", "80"))
    for _ in range(3):
        assert ask(reward, batch) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    assert len(judge.requests) == 12


def test_a_straddled_group_is_refused_before_anybody_is_asked() -> None:
    judge = ScriptedJudge(by_number)
    reward = orm(Ruler(judge), failure_reward=0.0)(args=arguments(4))
    with pytest.raises(
        ConfigError, match=r"per_device_train_batch_size × steps_per_generation a multiple of num_generations"
    ):
        ask(reward, rows(("a", "1"), ("a", "2"), ("b", "3"), ("b", "4")))
    assert not judge.requests


def test_evaluation_may_have_another_size_where_it_hides_no_half_groups() -> None:
    reward = orm(Ruler(ScriptedJudge(by_number)))(args=arguments(4, 2, rows=2, steps=2))
    assert ask(reward, rows(("a", "1"), ("a", "2"), ("b", "3"), ("b", "4"))) == [0.01, 0.02, 0.03, 0.04]
    with pytest.raises(ConfigError, match="num_generations: 2 × 1 rows are no whole groups of 4"):
        orm(Ruler(ScriptedJudge(by_number)))(args=arguments(4, 2, rows=2))


def test_the_judge_sees_the_whole_conversation() -> None:
    judge = ScriptedJudge(by_number)
    asked = rows(("a", "10"), ("a", "20"), tools=['[{"type": "function", "function": {"name": "search"}}]', None])
    for messages in asked["messages"]:
        messages[1:1] = [
            {"role": "tool_call", "content": '{"name": "search"}'},
            {"role": "tool_response", "content": "found it"},
        ]
    assert ask(orm(Ruler(judge))(args=arguments(2)), asked) == [0.1, 0.2]
    prompt = user_text(judge.requests[0])
    assert "[result] found it" in prompt
    assert "search" in prompt


def test_a_conversation_that_was_split_has_one_reward_and_is_one_rollout() -> None:
    judge = ScriptedJudge(by_number)
    asked = rows(("a", "10"), ("a", "11"), ("a", "20"), request_id=["x", "x", "y"])
    assert ask(orm(Ruler(judge))(args=arguments(2)), asked) == [0.11, 0.11, 0.2]
    assert len(judge.requests[0].ids) == 2


def test_rules_see_the_columns(caplog: pytest.LogCaptureFixture) -> None:
    rewards = Rewards(
        rules=(
            Rule("right", exact_answer()),
            Rule("easy", lambda rollout, group: rollout.metadata["easy"], weight=2.0),
            Rule("cut", lambda rollout, group: float(rollout.finish_reason == "length"), weight=-1.0),
        )
    )
    asked = rows(("a", "40"), ("a", "50"), solution=["40", "40"], easy=[0.5, 0.0], finish_reason=["stop", "length"])
    reward = orm(Ruler(ScriptedJudge(by_number)), rewards=rewards, reference="solution")(args=arguments(2))
    with caplog.at_level(logging.INFO, "ruler.adapters"):
        assert ask(reward, asked) == [2.4, -0.5]
    assert caplog.messages == [
        "judge: 1 groups, 0 failed, 0 tied: part_judge 0.45, part_right 0.5, part_easy 0.5, part_cut -0.5"
    ]


def test_a_failed_group_raises_and_is_never_none() -> None:
    asked = rows(("a", "1"), ("a", "2"), ("b", "3"), ("b", "4"))

    def half(request: JudgeRequest) -> Any:
        return (
            JudgeUnavailable("down") if "a" in find_rollouts(user_text(request))[0].splitlines() else by_number(request)
        )

    with pytest.raises(JudgeError, match="no reward for any rollout: unavailable: down"):
        ask(orm(Ruler(ScriptedJudge(half)))(args=arguments(2)), asked)
    assert ask(orm(Ruler(ScriptedJudge(half)), failure_reward=-1.0)(args=arguments(2)), asked) == [-1, -1, 0.03, 0.04]


def test_a_reached_budget_is_never_paid() -> None:
    reward = orm(Ruler(ScriptedJudge([BudgetExceeded("the cap")])), failure_reward=0.0)(args=arguments(2))
    with pytest.raises(BudgetExceeded, match="the cap"):
        ask(reward, rows(("a", "1"), ("a", "2")))


def test_a_process_may_have_no_rows() -> None:
    asked: dict[str, Any] = {"completions": [], "trainer_state": None}
    assert ask(orm(Ruler(ScriptedJudge([])), reference="solution")(args=arguments(2)), asked) == []


@pytest.mark.parametrize("missing", ["messages", "prompt_id", "request_id", "solution"])
def test_a_column_that_is_missing_is_named(missing: str) -> None:
    asked = rows(("a", "1"), ("a", "2"), solution=["1", "1"])
    del asked[missing]
    with pytest.raises(ConfigError, match=f"^{missing}: no such column"):
        ask(orm(Ruler(ScriptedJudge([])), reference="solution")(args=arguments(2)), asked)
