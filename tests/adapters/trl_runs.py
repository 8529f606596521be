"""Runs of TRL's trainers on a CPU: a tiny random policy, and a judge that likes what is short."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

LIKES_SHORT = "simulated?quality=length&noise=0&scale=300&offset=-200"
"""32 tokens are at most 384 characters: every score lies above 0."""


def rows(count: int = 64) -> Any:
    """A conversational data set with a column of its own."""
    from datasets import Dataset

    return Dataset.from_list(
        [{"prompt": [{"role": "user", "content": f"Say something about {i}."}], "answer": str(i)} for i in range(count)]
    )


def make_trainer(kind: str, policy: Path, out: Path, functions: Any, *, data: Any = None, **config: Any) -> Any:
    """A GRPOTrainer or RLOOTrainer; four groups of 8 a step unless `config` says otherwise."""
    import trl

    settings: dict[str, Any] = {
        "per_device_train_batch_size": 32, "num_generations": 8, "max_completion_length": 32, "max_steps": 3,
        "learning_rate": 3e-4, "bf16": False, "use_cpu": True, "report_to": [], "logging_steps": 1,
        "save_strategy": "no", "beta": 0.0, "disable_tqdm": True, "seed": 0,
    }  # fmt: skip
    args = getattr(trl, f"{kind}Config")(output_dir=str(out), **(settings | config))
    data = data or rows()
    return getattr(trl, f"{kind}Trainer")(
        model=str(policy), args=args, reward_funcs=functions, train_dataset=data, eval_dataset=data.select(range(4))
    )


def score_in_child(
    function: Callable[..., Awaitable[list[float | None]]], texts: Sequence[str]
) -> list[tuple[float, dict[str, float]]]:
    """What AsyncGRPO does in its spawned process with a finished group: (advantages, its metrics)."""
    from accelerate import PartialState
    from trl.experimental.async_grpo import async_rollout_worker as worker

    PartialState()
    loop = object.__new__(worker._AsyncRolloutLoop)
    loop.reward_funcs, loop._env_reward_types = [function], []
    loop.reward_func_names = [worker.get_callable_name(function)]
    group = worker.RolloutGroup(
        prompts=[[{"role": "user", "content": "Say something."}]] * len(texts),
        reward_kwargs={"answer": ["1"] * len(texts)},
        completions=[[{"role": "assistant", "content": text}] for text in texts],
        completions_ids=[[1]] * len(texts),
        completions_sequences=[[worker.TrainingSequence([1, 2], [0, 1], [0.0, -1.0], 0)]] * len(texts),
        tool_call_counts=[0] * len(texts),
        tool_failure_counts=[0] * len(texts),
        model_version=0,
        group_id=0,
        env_rewards=[None] * len(texts),
        rollout_rewards=[None] * len(texts),
    )
    samples = asyncio.run(loop._score_group(group))
    return [(sample.advantage, sample.metrics) for sample in samples]


def straddle(policy: Path, out: Path) -> None:
    """One of two processes with three rows each, in groups of two."""
    from ruler import Ruler
    from ruler.adapters.trl import reward_function

    reward = reward_function(Ruler(LIKES_SHORT), num_generations=2)
    make_trainer("GRPO", policy, out, reward, per_device_train_batch_size=3, num_generations=2).train()


if __name__ == "__main__":
    straddle(Path(sys.argv[1]), Path(sys.argv[2]))
