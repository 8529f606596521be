r"""The judge of `gsm8k_grpo.py` as a reward function of TRL's GRPOTrainer, for when one GPU is not enough.

    accelerate launch -m examples.judge_in_trl --data gsm8k.jsonl --judge openai/gpt-5-mini --output_dir runs/trl \
        --num_generations 8 --per_device_train_batch_size 8 --gradient_accumulation_steps 4 \
        --scale_rewards none --learning_rate 1e-6 --max_completion_length 320

All that GRPOConfig has is a flag. Written for TRL 1.16; it takes async reward functions since 0.27.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import HfArgumentParser
from trl import GRPOConfig, GRPOTrainer

from examples.gsm8k_grpo import RUBRIC, prompt, read_problems
from ruler import Group, Ruler
from ruler.errors import ConfigError, RulerError

Completion = str | Sequence[dict[str, Any]]


def judge_reward(ruler: Ruler, num_generations: int) -> Callable[..., Awaitable[list[float | None]]]:
    """A reward function for `reward_funcs`: one judge's call per group, and its score for each rollout.

    A group that the judge failed, or whose rollouts all read the same, has None for every rollout: TRL leaves them out
    of means and deviations and gives them an advantage of 0. One None among numbers would change the baseline of the
    others. Beside other reward functions such a group is trained on theirs alone.

    Args:
        ruler: who scores.
        num_generations: rollouts in a group, as in GRPOConfig; `num_generations_eval` must be the same.
    """

    async def judge_score(
        prompts: Sequence[Completion],
        completions: Sequence[Completion],
        log_metric: Callable[[str, float], None],
        **columns: Any,
    ) -> list[float | None]:
        firsts = range(0, len(prompts), num_generations)
        groups = []
        for first in firsts:
            members = slice(first, first + num_generations)
            # TRL asks each process about its own rows, and these may end in the middle of a group.
            if len(prompts[members]) < num_generations or any(one != prompts[first] for one in prompts[members]):
                raise ConfigError(
                    f"num_generations: rows {first} to {first + num_generations - 1} of {len(prompts)} are not one "
                    f"group of {num_generations}: per_device_train_batch_size x steps_per_generation has to be a "
                    "multiple of it, per_device_eval_batch_size too, and num_generations_eval the same"
                )
            groups.append(Group.of(completions[members], task=prompts[first]))
        results = await ruler.score_many(groups)
        log_metric("judge/failed_groups", sum(result.status == "failed" for result in results))
        scores: list[float | None] = []
        for result in results:
            scores += result.scores if result.status == "scored" else [None] * num_generations
        return scores

    return judge_score


@dataclass
class Arguments:
    """What is not in GRPOConfig."""

    data: Path
    policy: str = "Qwen/Qwen2.5-0.5B-Instruct"
    judge: str = "openai/gpt-5-mini"


def main() -> None:
    """Trains; the policy is in the output folder after."""
    arguments, config = HfArgumentParser((Arguments, GRPOConfig)).parse_args_into_dataclasses()
    try:
        prompts = [{"prompt": prompt(question)} for question in read_problems(arguments.data)]
        ruler = Ruler(arguments.judge, rubric=RUBRIC, policy=arguments.policy)
        trainer = GRPOTrainer(
            model=arguments.policy,
            args=config,
            reward_funcs=judge_reward(ruler, config.num_generations),
            train_dataset=Dataset.from_list(prompts),
        )
        trainer.train()
    except RulerError as error:
        sys.exit(f"error: {error}")
    trainer.save_model()


if __name__ == "__main__":
    main()
