"""The loop: sample, score, update.

    python -m trainer.train --task arithmetic --reward judge --judge simulated --steps 80 --out runs/first

`train` is all that a script of your own needs: it takes a task, a policy and a reward. Making these three from a
command line is the business of `trainer/command_line.py`.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch

from ruler.advantages import advantages
from trainer.episodes import BrokenGroup, Episode, SampledGroup
from trainer.held_out import measure
from trainer.policy import Policy
from trainer.rewards import Rewarded, RewardFunction
from trainer.rollouts import Limits, collect
from trainer.run import Run
from trainer.settings import Settings
from trainer.tasks import Task
from trainer.update import update


async def train(
    settings: Settings,
    task: Task,
    policy: Policy,
    reward: RewardFunction,
    out: Path,
    *,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Trains the policy, and leaves the run in a folder: metrics, samples, a curve, checkpoints and the policy.

    Where the folder has a checkpoint of this run, the run goes on from there. On a CPU and without `look_ahead` what
    comes out is then, bit for bit, the run that was never interrupted.

    Args:
        settings: how it trains.
        task: what it learns.
        policy: who learns; its weights are changed.
        reward: what it learns from.
        out: the run's folder, made if it is not there.
        facts: what else makes this run, such as the name of the judge: kept with the settings, and a run with others
            does not go on here. Plain JSON values.

    Raises:
        ConfigError: the folder has another run, or task, policy and reward do not fit together.
        RunStopped: more groups than `max_failed_share` have no rewards.
    """
    reference = copy.deepcopy(policy.model).requires_grad_(False) if settings.beta else None
    optimiser = torch.optim.AdamW(
        policy.model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=settings.weight_decay
    )
    update_settings = settings.update(max_completion_tokens=task.max_turn_tokens * task.max_turns)
    with (
        Run(out, settings, facts or {}, task, policy, optimiser) as run,
        ThreadPoolExecutor(1, "device") as device,
    ):

        async def sample(step: int) -> _Batch:
            return await _sample(step, settings, task, policy, reward, device)

        async def evaluate() -> None:
            run.measured(await measure(policy, task, settings.held_out_problems, settings.seed, device))

        batch: _Batch | None = None
        ahead: _Batch | None = None
        try:
            while (step := run.num_done) < settings.steps:
                if step % settings.evaluate_every == 0:
                    await evaluate()
                clock = _Clock()

                # Sample. A group goes to its reward the moment it is finished, while others are still being sampled.
                batch = ahead or await sample(step)
                ahead = await sample(step + 1) if settings.look_ahead and step + 1 < settings.steps else None
                clock.lap("time/sampling_seconds")

                # Score: wait for the rewards that are still missing.
                rewarded = await batch.rewards()
                clock.lap("judge_stall_seconds")
                run.check_failures(rewarded)

                # Update, in the thread of the device, so that the judge of the next batch is not kept waiting.
                episodes, values = _to_learn_from(batch, rewarded, settings)
                _set_learning_rate(optimiser, step, settings)
                learn = partial(update, policy, optimiser, episodes, values, update_settings, reference=reference)
                statistics = await asyncio.get_running_loop().run_in_executor(device, learn)
                policy.weights_changed()
                clock.lap("time/update_seconds")

                run.trained(batch.groups, rewarded, statistics, {**clock.metrics(), **batch.metrics()})
        finally:
            for unfinished in (batch, ahead):
                if unfinished:
                    unfinished.cancel()
        await evaluate()
        run.finish()


@dataclass
class _Batch:
    """The groups of one step, and the rewards that are coming for them."""

    groups: list[SampledGroup | BrokenGroup]
    coming: dict[int, asyncio.Task[Rewarded]]
    """By the group's place; a group whose environment failed has none."""
    latencies: list[float]
    """Seconds from a finished group to its rewards, in the order in which they came."""

    async def rewards(self) -> list[Rewarded | BrokenGroup]:
        """For each group its rewards, in order."""
        await asyncio.gather(*self.coming.values())
        return [
            group if isinstance(group, BrokenGroup) else self.coming[place].result()
            for place, group in enumerate(self.groups)
        ]

    def metrics(self) -> dict[str, float | None]:
        """What is known once all rewards are there."""
        mean = sum(self.latencies) / len(self.latencies) if self.latencies else None
        return {"judge/latency_seconds": mean}

    def cancel(self) -> None:
        """Stops waiting for what has not come."""
        for task in self.coming.values():
            task.cancel()


async def _sample(
    step: int, settings: Settings, task: Task, policy: Policy, reward: RewardFunction, device: Executor
) -> _Batch:
    """The batch of a step, all of it sampled, its rewards on their way."""
    coming: dict[int, asyncio.Task[Rewarded]] = {}
    latencies: list[float] = []

    async def rewards_of(group: SampledGroup) -> Rewarded:
        began = time.perf_counter()
        (rewarded,) = await reward([group])
        latencies.append(time.perf_counter() - began)
        return rewarded

    def finished(place: int, group: SampledGroup | BrokenGroup) -> None:
        if isinstance(group, SampledGroup):
            coming[place] = asyncio.create_task(rewards_of(group))

    groups = await collect(
        policy,
        [(index, task.train[index]) for index in _problems(step, settings, len(task.train))],
        group_size=settings.group_size,
        limits=Limits(task.max_turn_tokens, task.max_turns),
        temperature=settings.temperature,
        seed=_seed(settings.seed, "sampling", step),
        device=device,
        name=f"step-{step + 1}",
        finished=finished,
    )
    return _Batch(groups, coming, latencies)


def _problems(step: int, settings: Settings, num_problems: int) -> list[int]:
    """Which problems a step takes: all of them once in a random order, then in another one, and so on."""
    first = step * settings.prompts_per_step
    epochs: dict[int, list[int]] = {}
    chosen = []
    for place in range(first, first + settings.prompts_per_step):
        epoch, at = divmod(place, num_problems)
        if epoch not in epochs:
            epochs[epoch] = list(range(num_problems))
            Random(_seed(settings.seed, "problems", epoch)).shuffle(epochs[epoch])
        chosen.append(epochs[epoch][at])
    return chosen


def _to_learn_from(
    batch: _Batch, rewarded: Sequence[Rewarded | BrokenGroup], settings: Settings
) -> tuple[list[Episode], list[float]]:
    """The episodes of all groups with rewards, and their advantages."""
    kept = [
        (group, found.rewards)
        for group, found in zip(batch.groups, rewarded, strict=True)
        if isinstance(group, SampledGroup) and isinstance(found, Rewarded) and found.failure is None
    ]
    # The rollouts of a tied group read the same: its rewards lack the judge's part, and there is nothing to learn.
    known = [[None] * len(found.rollouts) if found.status == "tied" else found.rewards for _, found in kept]
    values = advantages(known, scale_rewards=settings.scale_rewards)
    return (
        [episode for group, _ in kept for episode in group.episodes],
        [value or 0.0 for of_group in values for value in of_group],
    )


def _set_learning_rate(optimiser: torch.optim.Optimizer, step: int, settings: Settings) -> None:
    share = min(1.0, (step + 1) / (settings.learning_rate_warm_up_steps + 1))
    for group in optimiser.param_groups:
        group["lr"] = settings.learning_rate * share


def _seed(seed: int, purpose: str, number: int) -> int:
    """A seed of its own for each purpose and number: so nothing has to be remembered when a run goes on."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{number}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


class _Clock:
    """Seconds that the parts of a step take."""

    def __init__(self) -> None:
        self._began = self._last = time.perf_counter()
        self._seconds: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Gives the time since the last lap to this name."""
        now = time.perf_counter()
        self._seconds[name] = now - self._last
        self._last = now

    def metrics(self) -> dict[str, float]:
        """The laps, and the whole until the last of them."""
        return {**self._seconds, "time/step_seconds": self._last - self._began}


if __name__ == "__main__":
    from trainer.command_line import main

    main()
