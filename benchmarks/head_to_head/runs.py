"""One run: a policy of one seed, trained with the rewards of one arm, and measured at the end. Each in a folder.

A run that was stopped goes on where it was; one that came to its end is not done again.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from benchmarks.head_to_head.outcomes import Measured
from benchmarks.head_to_head.plan import Plan
from benchmarks.head_to_head.rewards import reward_of
from benchmarks.head_to_head.run_files import read_object, require_same, write_object
from ruler.errors import ConfigError
from trainer.held_out import HeldOut, measure
from trainer.policy import Policy
from trainer.run import weights_digest
from trainer.tasks.bundled import TaskName, bundled_task
from trainer.train import train


def measure_start(task: TaskName, policy: Path, num_problems: int, seed: int, folder: Path) -> None:
    """Measures the policy that all arms of a seed start from, and writes it to `start-SEED.json`, if nobody has.

    Raises:
        ConfigError: that file is of another policy.
    """
    path = folder / f"start-{seed}.json"
    learner = Policy.load(str(policy))
    weights = weights_digest(learner.model)
    if not path.exists():
        found = asyncio.run(_measured(learner, task, num_problems, seed))
        write_object(path, {"weights": weights, **asdict(found)})
    before = read_object(path).get("weights")
    if before != weights:
        raise ConfigError(
            f"seed {seed}: its warm policy, {policy}, has the weights {weights}; the arms in {folder} began with "
            f"{before!r}; take another folder"
        )


def run(plan: Plan, policy: Path, folder: Path) -> None:
    """Trains and measures; writes `final.json` into the run's folder when all is done.

    Args:
        plan: what to do.
        policy: the folder of the one to start from.
        folder: of the run; see `trainer.run`.

    Raises:
        ConfigError: the folder has a run of another reward, or from another policy.
        RulerError: as `trainer.train.train`; the run may be tried again.
    """
    asyncio.run(_run(plan, policy, folder))


async def _run(plan: Plan, policy: Path, folder: Path) -> None:
    task, final = bundled_task(plan.task), folder / "final.json"
    learner = Policy.load(str(policy))
    async with reward_of(plan.arm, task, seed=plan.settings.seed, cache=plan.cache) as (reward, facts):
        if final.exists():
            wanted = {**facts, "weights": weights_digest(learner.model)}  # the rest is the experiment's
            require_same("run", folder, read_object(folder / "settings.json"), wanted, names=wanted)
            return
        await train(plan.settings, task, learner, reward, folder, facts=facts)
    write_object(final, asdict(await _measured(learner, plan.task, plan.num_problems, plan.settings.seed)))


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
