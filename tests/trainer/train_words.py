"""A run of the words task that can be killed: `python -m tests.trainer.train_words OUT CACHE CALLS STEPS`.

Its judge counts "a", remembers in the file CALLS what it was asked, and answers through a cache in CACHE.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

import torch

from judges.simulated import SimulatedJudge
from ruler import JudgeReply, JudgeRequest, Ruler
from ruler.config import Settings as JudgeSettings
from ruler.config import wrap_judge
from tests.trainer.words_task import share_of_a, words_task
from trainer.policy import Policy
from trainer.rewards import by_judge
from trainer.settings import Settings
from trainer.tiny import make_tiny_policy
from trainer.train import train


class Counting:
    """A judge by the share of "a", that writes down every call before it answers."""

    def __init__(self, calls: Path) -> None:
        self._calls = calls
        self._judge = SimulatedJudge(lambda task, rollout: share_of_a(rollout.split()))
        self.info = replace(self._judge.info, cacheable=True)

    async def __call__(self, request: JudgeRequest) -> JudgeReply:
        """The scores."""
        with self._calls.open("a") as file:
            file.write(request.prompt_hash() + "\n")
        await asyncio.sleep(0.01)
        return await self._judge(request)


async def main(out: Path, cache: Path, calls: Path, steps: int) -> None:
    torch.set_num_threads(1)
    task = words_task()
    assert task.tiny
    policy = Policy(*make_tiny_policy(task.tiny, seed=0))
    judge = wrap_judge(Counting(calls), settings=JudgeSettings(cache=str(cache)))
    settings = Settings(
        steps=steps,
        prompts_per_step=3,
        group_size=4,
        learning_rate=3e-3,
        evaluate_every=4,
        held_out_problems=2,
        checkpoint_every=3,
        num_iterations=2,
        beta=0.01,
    )
    await train(settings, task, policy, by_judge(Ruler(judge).score_many), out)


if __name__ == "__main__":
    given = sys.argv[1:]
    asyncio.run(main(Path(given[0]), Path(given[1]), Path(given[2]), int(given[3])))
