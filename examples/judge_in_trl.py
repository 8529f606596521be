r"""The judge of `gsm8k_grpo.py` as a reward function of TRL's GRPOTrainer, for when one GPU is not enough.

    accelerate launch -m examples.judge_in_trl --data gsm8k.jsonl --judge openai/gpt-5-mini --output_dir runs/trl \
        --num_generations 8 --per_device_train_batch_size 8 --gradient_accumulation_steps 4 \
        --scale_rewards none --learning_rate 1e-6 --max_completion_length 320

All that GRPOConfig has is a flag. docs/trainers/trl.md says what the reward function does.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset
from transformers import HfArgumentParser
from trl import GRPOConfig, GRPOTrainer

from examples.gsm8k_grpo import RUBRIC, prompt, read_problems
from ruler import Ruler
from ruler.adapters.trl import reward_function
from ruler.errors import RulerError


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
            reward_funcs=reward_function(
                ruler,
                num_generations=config.num_generations,
                num_generations_eval=config.num_generations_eval,
            ),
            train_dataset=Dataset.from_list(prompts),
        )
        trainer.train()
    except RulerError as error:
        sys.exit(f"error: {error}")
    trainer.save_model()


if __name__ == "__main__":
    main()
