"""`python -m trainer.train`: a bundled task, a policy and a reward, from the command line."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import torch
import tyro
from rich.console import Console
from safetensors import SafetensorError

from ruler.client import Client
from ruler.errors import ConfigError, RulerError
from ruler.rewards import Rewards
from trainer.judged import judged
from trainer.policy import Dtype, Policy
from trainer.rewards import RewardFunction, by_judge, by_rules, by_truth
from trainer.settings import Settings
from trainer.tasks import Task
from trainer.tasks.arithmetic import Level
from trainer.tasks.bundled import TaskName, bundled_task
from trainer.train import train
from trainer.warm_up import warm_up

_JUDGED = ("judge", "judge_and_rules")


@dataclass(frozen=True, kw_only=True)
class CommandLine(Settings):
    """Train a policy on a bundled task, with a minimal GRPO."""

    out: Path
    """The run's folder. If it holds this run already, the run goes on."""
    task: TaskName = "arithmetic"
    """What to learn."""
    level: Level = "addition"
    """Of arithmetic."""
    policy: str | None = None
    """A Hugging Face folder or hub id; None: the task's own tiny policy, warmed up first if nobody has done it."""
    reward: Literal["truth", "rules", "judge", "judge_and_rules"] = "judge"
    """What to learn from: ground truth, the handwritten rules, a judge, or the last two added up."""
    judge: str = "simulated?noise=0.3"
    """Who judges: a SPEC of docs/judges.md. `simulated` scores by truth, and errs as its settings say."""
    judge_weight: float = 1.0
    """With judge_and_rules: what a score of 1.0 adds to the sum of the rules."""
    orders: Literal[1, 2, 4] = 1
    """In how many orders the judge reads each group."""
    service: str | None = None
    """URL of a `ruler serve` that asks its judge instead, with its own rubric and orders; the key comes from
    RULER_API_KEY."""
    cache: str | None = None
    """Where judge answers are kept: a file, `redis://…`, or `off`; None: as `ruler score`."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where the policy is."""
    dtype: Dtype = "bfloat16" if torch.cuda.is_available() else "float32"
    """What it calculates in."""
    threads: int = 1
    """Threads of a CPU that calculate together. More make tiny policies slower, as the threads wait for each other; and
    with another number the same run gives other last digits."""


def main() -> None:
    """Runs the command line; exit status as of `ruler score`."""
    try:
        arguments = tyro.cli(CommandLine, prog="python -m trainer.train")
        asyncio.run(_main(arguments))
    except (RulerError, OSError, SafetensorError) as error:  # the last is what a full disk makes of a checkpoint
        _say(f"error: {error}")
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        _say("interrupted: the same command goes on from the newest checkpoint, if there is one")
        sys.exit(130)


def _say(text: str) -> None:
    Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)


async def _main(arguments: CommandLine) -> None:
    if arguments.threads < 1:
        raise ConfigError(f"threads: expected at least 1, got {arguments.threads}")
    torch.set_num_threads(arguments.threads)
    task = bundled_task(arguments.task, arguments.level)
    settings = Settings(**{field.name: getattr(arguments, field.name) for field in fields(Settings)})
    # The reward first: a key that is missing is to be said before the warm-up, and not after.
    async with _reward(arguments, task) as reward:
        name = arguments.policy or str(await warm_up(task, seed=arguments.seed, show=_say))
        policy = Policy.load(name, device=arguments.device, dtype=arguments.dtype)
        _say(f"policy {name}: {policy.num_weights:,} weights")
        await train(settings, task, policy, reward, arguments.out, facts=_facts(arguments))


def _facts(arguments: CommandLine) -> dict[str, object]:
    """What makes a run beside its settings; the cache, the device and the number of threads do not."""
    names = ["policy", "reward", "dtype"]
    if arguments.reward in _JUDGED:
        names += ["service"] if arguments.service else ["judge", "orders"]
    if arguments.reward == "judge_and_rules":
        names.append("judge_weight")
    return {name: getattr(arguments, name) for name in names}


@asynccontextmanager
async def _reward(arguments: CommandLine, task: Task) -> AsyncIterator[RewardFunction]:
    if arguments.reward == "truth":
        yield by_truth()
        return
    if arguments.reward == "rules":
        yield by_rules(task.rules)
        return
    rewards = Rewards()
    if arguments.reward == "judge_and_rules":
        rewards = replace(task.rules, judge_weight=arguments.judge_weight)
    if arguments.service:
        client = Client(arguments.service)
        _say(f"judge of {arguments.service}, with its own rubric and orders")
        try:
            yield by_judge(client.score_many, rewards)
        finally:
            await client.aclose()
        return
    async with judged(arguments.judge, task, rewards, orders=arguments.orders, cache=arguments.cache) as (
        reward,
        ruler,
    ):
        _say(f"judge {ruler.judge_name}")
        yield reward
