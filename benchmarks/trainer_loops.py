"""Some steps of training, by our loop or by TRL's GRPOTrainer: the same work, timed the same way.

    python -m benchmarks.trainer_loops ours FOLDER      # one side alone; prints its seconds and its memory as JSON

The same on both sides: the model (float32), the prompts through its chat template, completions of a fixed length (the
end token is one that the model cannot say), the reward, the loss (dapo, one inner epoch, no KL), AdamW and its numbers.
No two rewards of a group are equal: our update leaves out episodes whose advantage is 0, and here there are none. Both
loops are the real ones, with nothing taken out; TRL generates with transformers.

Not the same: ours writes its metrics after each step, to JSON lines and TensorBoard, and TRL writes nothing; ours keeps
the log-probabilities and entropies of the sampled tokens, and TRL computes its entropies in the update.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import itertools
import json
import re
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ruler.rewards import Rewards, Rule
from ruler.rubric import DEFAULT_RUBRIC
from ruler.rules import final_answer, finished
from ruler.types import Group, Rollout
from tests.tiny_model import make_tiny_model
from trainer.environments import ChatMessage, Start, Step
from trainer.monitor import read_lines
from trainer.policy import Policy
from trainer.rewards import by_rules
from trainer.settings import Settings
from trainer.tasks import Task
from trainer.train import train

GROUP_SIZE = 8
COMPLETION_TOKENS = 32
_LEARNING_RATE = 1e-4
_TRL_MICRO_BATCH = 64
"""Completions: about the tokens of our own micro-batches, and faster for TRL than 128 at once."""
_NUM_PROMPTS = 64


@dataclass(frozen=True, slots=True)
class Steps:
    """What some steps took."""

    seconds: list[float]
    """Of each step, from its beginning to that of the next: with all that is done between two steps."""
    sampling_seconds: list[float]
    """Of these: drawing tokens. Ours is from prompts to finished groups, TRL's the call of `generate` alone."""
    clock_seconds: list[float]
    """Of these: `time/step_seconds` of our metrics, which leaves out the writing of metrics; for TRL all of it."""


def save_endless_model(folder: Path) -> None:
    """Saves the tiny model of the tests, with an end token for which it has no logit: so it never ends a turn."""
    make_tiny_model(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"eos_token": "<|never|>"})
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert tokenizer.eos_token_id == model.config.vocab_size
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def questions() -> list[str]:
    """The prompts; they differ in length, so that both sides pad."""
    rng = Random(0)
    return [
        f"What is {rng.randrange(10, 10 ** rng.randint(2, 5))} + {rng.randrange(10, 10 ** rng.randint(2, 5))}?"
        for _ in range(_NUM_PROMPTS)
    ]


def reward(text: str) -> float:
    """A number in [0, 1) that two texts hardly share."""
    return zlib.crc32(text.encode("utf-8", "surrogatepass")) / 2**32


def run_ours(model: Path, *, completions: int, steps: int, seed: int) -> Steps:
    """So many steps of `trainer.train.train`, after which it is gone.

    Args:
        model: folder, made by `save_endless_model`.
        completions: in a step.
        steps: at least 1.
        seed: of sampling and the order of prompts.
    """
    settings = Settings(
        # One more than are timed: a step ends where the next one begins.
        steps=steps + 1,
        prompts_per_step=completions // GROUP_SIZE,
        group_size=GROUP_SIZE,
        seed=seed,
        learning_rate=_LEARNING_RATE,
        evaluate_every=steps + 1,
        held_out_problems=1,
        checkpoint_every=steps + 1,
        sample_every=steps + 1,
    )
    marks: list[float] = []
    asked = 0

    def begun() -> None:
        nonlocal asked
        if asked % completions == 0:
            marks.append(time.perf_counter())
        asked += 1

    def checksum(rollout: Rollout, group: Group) -> float:
        return reward(final_answer(rollout))

    rules = Rewards(judge_weight=0.0, rules=(Rule("checksum", checksum),))
    task = Task(
        name="endless",
        train=[partial(Question, text, begun) for text in questions()],
        held_out=[partial(Question, "What is 1 + 1?", lambda: None)],
        rules=rules,
        rubric=DEFAULT_RUBRIC,
        well_formed=finished,
        max_turn_tokens=COMPLETION_TOKENS,
        max_turns=1,
    )
    policy = Policy.load(str(model))
    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stderr(io.StringIO()):
        asyncio.run(train(settings, task, policy, by_rules(rules), Path(out)))
        lines = [line for line in read_lines(Path(out) / "metrics.jsonl") if "time/step_seconds" in line]
    assert all(line["rollouts/tokens"] == completions * COMPLETION_TOKENS for line in lines)
    return Steps(
        seconds=_differences(marks),
        sampling_seconds=[line["time/sampling_seconds"] for line in lines[:-1]],
        clock_seconds=[line["time/step_seconds"] for line in lines[:-1]],
    )


def run_trl(model: Path, *, completions: int, steps: int, seed: int) -> Steps:
    """So many steps of TRL's GRPOTrainer; arguments as of `run_ours`."""
    # Here and not above: the memory of our side is measured without them.
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    marks: list[float] = []
    sampling_seconds: list[float] = []

    class Marks(TrainerCallback):  # type: ignore[misc]  # mypy does not look into transformers
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            marks.append(time.perf_counter())

    def rewards(completions: list[Any], **_: Any) -> list[float]:
        return [reward(messages[0]["content"]) for messages in completions]

    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="sdpa")
    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(io.StringIO()):
        config = GRPOConfig(
            output_dir=out,
            max_steps=steps + 1,
            seed=seed,
            per_device_train_batch_size=min(completions, _TRL_MICRO_BATCH),
            gradient_accumulation_steps=max(1, completions // _TRL_MICRO_BATCH),
            num_generations=GROUP_SIZE,
            max_completion_length=COMPLETION_TOKENS,
            temperature=1.0,
            loss_type="dapo",
            scale_rewards="none",
            beta=0.0,
            epsilon=0.2,
            num_iterations=1,
            learning_rate=_LEARNING_RATE,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=5,
            adam_beta1=0.9,
            adam_beta2=0.95,
            weight_decay=0.0,
            max_grad_norm=1.0,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
            save_strategy="no",
            eval_strategy="no",
            dataloader_pin_memory=False,
        )
        trainer = GRPOTrainer(
            model=policy,
            reward_funcs=rewards,
            args=config,
            train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in questions()]),
            processing_class=AutoTokenizer.from_pretrained(model),
            callbacks=[Marks()],
        )
        generate = policy.generate

        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            tokens = generate(*arguments, **options)
            sampling_seconds.append(time.perf_counter() - began)
            assert tokens.shape == (completions, options["input_ids"].shape[1] + COMPLETION_TOKENS)
            return tokens

        policy.generate = timed
        trainer.train()
    seconds = _differences(marks)
    return Steps(seconds=seconds, sampling_seconds=sampling_seconds[:-1], clock_seconds=seconds)


LOOPS: dict[str, Callable[..., Steps]] = {"ours": run_ours, "TRL": run_trl}


class Question:
    """Asks, and takes whatever is said. Implements `trainer.environments.Environment`."""

    def __init__(self, text: str, when_asked: Callable[[], None]) -> None:
        """Asks this; `when_asked` is called when it does."""
        self._text = text
        self._when_asked = when_asked

    async def reset(self) -> Start:
        """The question."""
        self._when_asked()
        return Start([{"role": "user", "content": self._text}])

    async def step(self, message: ChatMessage) -> Step:
        """The end."""
        return Step(done=True)

    def truth(self) -> float | None:
        """Nothing is known."""
        return None


def _differences(marks: list[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(marks)]


def main() -> None:
    """Runs one side, and prints seconds and memory as a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=LOOPS)
    parser.add_argument("model", type=Path, help="folder; made if it is not there")
    parser.add_argument("--completions", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if not arguments.model.exists():
        save_endless_model(arguments.model)
    before = _peak_megabytes()
    steps = LOOPS[arguments.side](arguments.model, completions=arguments.completions, steps=arguments.steps, seed=0)
    print(json.dumps({"seconds": steps.seconds, "before_megabytes": before, "peak_megabytes": _peak_megabytes()}))


def _peak_megabytes() -> float:
    """Most memory this process has had. Not `ru_maxrss`, which begins with that of the process it was started from."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


if __name__ == "__main__":
    main()
