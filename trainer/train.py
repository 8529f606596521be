"""The loop: sample, score, update.

    python -m trainer.train --task arithmetic --reward judge --judge simulated --steps 80 --out runs/first

`train` is all that a script of your own needs: it takes a task, a policy and a reward. Making these three from a
command line is the business of `trainer/command_line.py`.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from ruler.errors import ConfigError
from trainer.batch import Batch, to_learn_from
from trainer.episodes import Episode
from trainer.held_out import measure
from trainer.policy import Policy
from trainer.rewards import RewardFunction
from trainer.run import Run, RunStopped
from trainer.settings import Settings
from trainer.tasks import Task
from trainer.update import UpdateStatistics, update


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
        RunStopped: more groups than `max_failed_share` have no rewards, or the loss is infinite or NaN.
    """
    for name, problems in (("train", task.train), ("held_out", task.held_out)):
        if not len(problems):
            raise ConfigError(f"task {task.name!r}: {name}: expected at least one problem")
    reference = copy.deepcopy(policy.model).requires_grad_(False) if settings.beta else None
    optimiser = torch.optim.AdamW(
        policy.model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=settings.weight_decay
    )
    update_settings = settings.update_settings(max_completion_tokens=task.max_turn_tokens * task.max_turns)
    with (
        ThreadPoolExecutor(1, "device") as device,
        Run(out, settings, facts or {}, task, policy, optimiser, device) as run,
    ):

        async def sample_batch(number: int) -> Batch:
            batch = Batch(number, settings, reward)
            await batch.sample(task, policy, device)
            return batch

        async def evaluate() -> None:
            run.measured(await measure(policy, task, settings.held_out_problems, settings.seed, device))

        def learn(episodes: Sequence[Episode], values: Sequence[float]) -> UpdateStatistics:
            _set_learning_rate(optimiser, run.num_done, settings)
            try:
                statistics = update(policy, optimiser, episodes, values, update_settings, reference=reference)
            except FloatingPointError as error:
                raise RunStopped(f"step {run.num_done + 1}: {error}") from error
            policy.weights_changed()
            return statistics

        batch: Batch | None = None
        ahead: Batch | None = None
        updating = False
        try:
            while run.num_done < settings.steps:
                if run.num_done % settings.evaluate_every == 0:
                    await evaluate()
                clock = _Clock()

                # Sample. A group goes to its reward the moment it is finished, while others are still being sampled.
                batch = ahead or await sample_batch(run.num_done)
                ahead = None
                if settings.look_ahead and run.num_done + 1 < settings.steps:
                    ahead = await sample_batch(run.num_done + 1)
                clock.lap("time/sampling_seconds")

                # Score: wait for the rewards that are still missing.
                rewarded = await batch.rewards()
                clock.lap("judge_stall_seconds")
                run.check_failures(rewarded)

                # Update, in the thread of the device, so that the judge of the next batch is not kept waiting.
                learnt_from = to_learn_from(batch.groups, rewarded, settings.scale_rewards)
                updating = True
                statistics = await asyncio.get_running_loop().run_in_executor(device, learn, *learnt_from)
                clock.lap("time/update_seconds")

                await run.trained(batch.groups, rewarded, statistics, {**clock.metrics(), **batch.metrics()})
                updating = False
        except BaseException:
            # However the run ends, what was learnt is kept; in the middle of an update it is of no step.
            if not updating:
                run.save_what_is_done()
            raise
        finally:
            for unfinished in (batch, ahead):
                if unfinished:
                    await unfinished.cancel()
        await evaluate()
        run.finish()


def _set_learning_rate(optimiser: torch.optim.Optimizer, num_done: int, settings: Settings) -> None:
    share = min(1.0, (num_done + 1) / (settings.learning_rate_warm_up_steps + 1))
    for group in optimiser.param_groups:
        group["lr"] = settings.learning_rate * share


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
