"""One run: a policy of one seed, trained with the rewards of one arm, and measured at the end. Each in a folder.

A run that was stopped goes on where it was; one that came to its end is not done again.
"""

from __future__ import annotations

import asyncio
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.head_to_head.outcomes import Measured
from benchmarks.head_to_head.plan import Plan
from benchmarks.head_to_head.rewards import reward_of
from ruler.errors import ConfigError
from trainer.held_out import HeldOut, measure
from trainer.policy import Policy
from trainer.tasks.bundled import TaskName, bundled_task
from trainer.train import train


def measure_start(task: TaskName, policy: Path, num_problems: int, seed: int, folder: Path) -> None:
    """Measures the policy that all arms of a seed start from, and writes it to `start-SEED.json`, if nobody has."""
    path = folder / f"start-{seed}.json"
    if not path.exists():
        _write(path, asyncio.run(_measured(Policy.load(str(policy)), task, num_problems, seed)))


def run(plan: Plan, policy: Path, folder: Path) -> None:
    """Trains and measures; writes `final.json` into the run's folder when all is done.

    Args:
        plan: what to do.
        policy: the folder of the one to start from.
        folder: of the run; see `trainer.run`.

    Raises:
        RulerError: as `trainer.train.train`; the run may be tried again.
    """
    path = folder / "final.json"
    facts = {"arm": asdict(plan.arm)}
    if path.exists():
        _check_same(folder, plan, facts)
    else:
        _write(path, asyncio.run(_run(plan, policy, folder, facts)))


async def _run(plan: Plan, policy: Path, folder: Path, facts: dict[str, Any]) -> Measured:
    task = bundled_task(plan.task)
    learner = Policy.load(str(policy))
    async with reward_of(plan.arm, task, seed=plan.settings.seed, cache=plan.cache) as reward:
        await train(plan.settings, task, learner, reward, folder, facts=facts)
    return await _measured(learner, plan.task, plan.num_problems, plan.settings.seed)


def _check_same(folder: Path, plan: Plan, facts: dict[str, Any]) -> None:
    """Raises ConfigError where the finished run in the folder is another one."""
    try:
        found = json.loads((folder / "settings.json").read_bytes())
        measured = json.loads((folder / "final.json").read_bytes())["num_problems"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"out: {folder}: damaged: {error}; remove it, and it is run again") from error
    wanted = json.loads(json.dumps({**facts, **asdict(plan.settings)}))
    for name, value in wanted.items():
        if found.get(name) != value:
            raise ConfigError(
                f"{name}: this experiment has {value!r:.200}, the run in {folder} has {found.get(name)!r:.200}; take "
                "another folder"
            )
    if measured != plan.num_problems:
        raise ConfigError(
            f"num_problems: this experiment has {plan.num_problems}, the run in {folder} {measured}; take another "
            "folder"
        )


async def _measured(policy: Policy, task: TaskName, num_problems: int, seed: int) -> Measured:
    with ThreadPoolExecutor(1, "device") as device:
        found = await measure(policy, bundled_task(task), num_problems, seed, device)
    return _of_held_out(found)


def _of_held_out(found: HeldOut) -> Measured:
    assert found.truth_sampled is not None, "a bundled task knows the truth"
    assert found.truth_greedy is not None, "a bundled task knows the truth"
    return Measured(
        num_problems=found.num_problems,
        truth_sampled=found.truth_sampled,
        truth_greedy=found.truth_greedy,
        well_formed=found.well_formed,
        tokens_mean=found.sampled_tokens,
    )


def _write(path: Path, measured: Measured) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(json.dumps(asdict(measured), indent=1) + "\n", encoding="utf-8")
    os.replace(new, path)
