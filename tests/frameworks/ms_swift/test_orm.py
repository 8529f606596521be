"""swift's own way from samples to rewards and advantages, with our reward function in it; no model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from swift.rewards import orms
from swift.rl_core.advantage import compute_advantages
from swift.rl_core.data import GRPOSample
from swift.rl_core.grpo_algorithm import score_completions
from swift.rlhf_trainers.utils import resolve_reward_funcs

from judges.fences import find_rollouts, user_text
from judges.scripted import ScriptedJudge, scores_reply
from ruler import Ruler
from ruler.adapters.ms_swift import orm
from ruler.errors import ConfigError, JudgeError, JudgeUnavailable
from ruler.types import JudgeRequest


def by_number(request: JudgeRequest) -> str:
    """A rollout is worth the last number in it."""
    _, rollouts = find_rollouts(user_text(request))
    return scores_reply({name: int(re.findall(r"\d+", text)[-1]) for name, text in rollouts.items()})


def down_for_oslo(request: JudgeRequest) -> Any:
    return JudgeUnavailable("down") if "Oslo" in user_text(request) else by_number(request)


def sample(prompt: str, answer: str, number: int, **fields: Any) -> GRPOSample:
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    ids = {"prompt_id": f"prompt_{prompt}", "request_id": f"chatcmpl-{number}"}
    return GRPOSample(**{"messages": messages, "finish_reason": "stop", **ids, **fields})


@pytest.fixture
def rewards_of() -> Iterator[Callable[..., torch.Tensor]]:
    """Samples -> what swift's trainer computes of them by our function, found by its name."""

    def compute(samples: list[GRPOSample], judge: Any, **settings: Any) -> torch.Tensor:
        orms["judge"] = orm(Ruler(ScriptedJudge(judge)), **settings)
        args = SimpleNamespace(num_generations=2, num_generations_eval=None)
        functions, names = resolve_reward_funcs(["judge"], args)
        assert names == ["judge"]
        rewards: torch.Tensor = score_completions(
            samples, functions, [None], use_gym_env=False, device=torch.device("cpu"), trainer_state=SimpleNamespace()
        )
        return rewards

    yield compute
    orms.pop("judge", None)


def test_every_sample_gets_its_own_score(rewards_of: Callable[..., torch.Tensor]) -> None:
    """Two groups have the same prompt, and so the same prompt_id."""
    asked = [("Oslo?", "10"), ("Oslo?", "90"), ("Oslo?", "30"), ("Oslo?", "20"), ("Rome?", "50"), ("Rome?", "70")]
    rewards = rewards_of([sample(*one, number) for number, one in enumerate(asked)], by_number)
    torch.testing.assert_close(rewards, torch.tensor([[0.1], [0.9], [0.3], [0.2], [0.5], [0.7]]))


def test_a_conversation_in_several_samples_has_one_reward(rewards_of: Callable[..., torch.Tensor]) -> None:
    samples = [sample("Oslo?", "10", 1), sample("Oslo?", "11", 1), sample("Oslo?", "20", 2)]
    torch.testing.assert_close(rewards_of(samples, by_number), torch.tensor([[0.11], [0.11], [0.2]]))


def test_a_failed_group_is_an_error_and_no_zero(rewards_of: Callable[..., torch.Tensor]) -> None:
    asked = [("Oslo?", "10"), ("Oslo?", "90"), ("Rome?", "50"), ("Rome?", "70")]
    samples = [sample(*one, number) for number, one in enumerate(asked)]
    with pytest.raises(JudgeError, match="no reward for any rollout: unavailable: down"):
        rewards_of(samples, down_for_oslo)
    rewards = rewards_of(samples, down_for_oslo, failure_reward=-1.0)
    advantages, _ = compute_advantages(rewards, torch.ones(1), num_generations=2)
    assert advantages[:2].tolist() == [0.0, 0.0]
    assert advantages[2] < 0 < advantages[3]


def test_half_a_group_is_refused(rewards_of: Callable[..., torch.Tensor]) -> None:
    with pytest.raises(ConfigError, match="per_device_train_batch_size × steps_per_generation"):
        rewards_of([sample("Oslo?", "10", 1), sample("Rome?", "20", 2)], by_number)


def test_columns_of_the_dataset_arrive(rewards_of: Callable[..., torch.Tensor]) -> None:
    judge = ScriptedJudge(by_number)
    samples = [sample("Oslo?", str(number), number, extra={"solution": "7"}) for number in (1, 2)]
    orms["judge"] = orm(Ruler(judge, reference=True), reference="solution")
    [function], _ = resolve_reward_funcs(["judge"], SimpleNamespace(num_generations=2, num_generations_eval=None))
    score_completions(samples, [function], [None], use_gym_env=False, device=torch.device("cpu"))
    assert re.search(r"reference.*\n+.*7", user_text(judge.requests[0]), re.IGNORECASE)
