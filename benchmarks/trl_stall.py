"""What a step of TRL's GRPOTrainer waits for its rewards: by a plain or an async function, with one judge or two.

    python -m benchmarks.trl_stall                 # a judge of one second, 8 groups a step; three minutes
    python -m benchmarks.trl_stall --json out.json

Times are of this machine and this run; the wait is also given as a multiple of what the judge takes for a group.
Needs TRL (`make engines`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from judges.simulated import SimulatedJudge, hash_quality
from ruler import Group, JudgeReply, JudgeRequest, Ruler
from ruler.adapters.rewarder import Blocking
from ruler.adapters.trl import reward_function
from tests.tiny_model import make_tiny_model

_GROUPS = 8
_GROUP_SIZE = 8


class _Asked:
    """How many groups are with the judges at the moment, and were at most."""

    def __init__(self) -> None:
        self.now = self.most = 0


class _SlowJudge:
    """A simulated judge that takes its time for each group, and reads any number at once."""

    def __init__(self, seconds: float, name: str, asked: _Asked) -> None:
        self._seconds = seconds
        self._asked = asked
        self._judge = SimulatedJudge(hash_quality)
        self.info = replace(self._judge.info, model=name, cacheable=False)

    async def __call__(self, request: JudgeRequest) -> JudgeReply:
        self._asked.now += 1
        self._asked.most = max(self._asked.most, self._asked.now)
        await asyncio.sleep(self._seconds)
        self._asked.now -= 1
        return await self._judge(request)


def one_after_another(ruler: Ruler, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[Any]:
    """A reward function as one writes it by hand: group by group, each waited for."""
    rewards: list[Any] = []
    for first in range(0, len(prompts), _GROUP_SIZE):
        group = Group.of(completions[first : first + _GROUP_SIZE], task=prompts[first])
        rewards += ruler.score_sync(group).scores
    return rewards


def _by_hand(ruler: Ruler) -> Any:
    function = partial(one_after_another, ruler)
    function.__name__ = "judge"  # type: ignore[attr-defined]
    return function


def _asynchronous(ruler: Ruler) -> Any:
    return reward_function(ruler, num_generations=_GROUP_SIZE)


def _plain(ruler: Ruler) -> Any:
    return Blocking(_asynchronous(ruler))


ARMS: Mapping[str, tuple[Callable[[Ruler], Any], int]] = {
    "by hand: plain, one group after another": (_by_hand, 1),
    "plain": (_plain, 1),
    "async": (_asynchronous, 1),
    "plain, two judges": (_plain, 2),
    "async, two judges": (_asynchronous, 2),
}


def measure(seconds: float, steps: int) -> dict[str, Any]:
    """Medians over the steps of each arm."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model = make_tiny_model(Path(folder) / "model")
        arms = [{"arm": name, **_run(model, Path(folder), name, seconds, steps)} for name in ARMS]
    return {"judge_seconds": seconds, "groups": _GROUPS, "steps": steps, "arms": arms}


def _run(model: Path, folder: Path, arm: str, seconds: float, steps: int) -> dict[str, float]:
    make, num_judges = ARMS[arm]
    config = GRPOConfig(
        output_dir=str(folder / "out"),
        num_generations=_GROUP_SIZE,
        per_device_train_batch_size=_GROUPS * _GROUP_SIZE,
        max_completion_length=32,
        max_steps=steps + 1,
        bf16=False,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    asked = _Asked()
    trainer = GRPOTrainer(
        model=str(model),
        args=config,
        reward_funcs=[make(Ruler(_SlowJudge(seconds, f"slow {place}", asked))) for place in range(num_judges)],
        train_dataset=Dataset.from_list([{"prompt": f"Say something about {i}."} for i in range(64)]),
    )
    trainer.remove_callback(PrinterCallback)
    waited: list[float] = []
    ask = trainer._calculate_rewards

    def timed(*arguments: Any) -> Any:
        begun = time.perf_counter()
        rewards = ask(*arguments)
        waited.append(time.perf_counter() - begun)
        assert not torch.isnan(rewards).any(), "a group was not scored"
        return rewards

    trainer._calculate_rewards = timed
    begun = time.perf_counter()
    trainer.train()
    seconds_a_step = (time.perf_counter() - begun) / len(waited)
    stall = statistics.median(waited[1:])
    figures = {"stall_seconds": stall, "stall_ratio": stall / seconds, "step_seconds": seconds_a_step}
    return {**figures, "most_at_once": asked.most}


def report(figures: Mapping[str, Any]) -> None:
    """Prints the figures as Markdown."""
    print(f"## TRL's wait for a judge of {figures['judge_seconds']:g} s, {figures['groups']} groups a step: medians\n")
    print("| reward function | wait, s | times the judge's | step, s |\n|---|---|---|---|")
    for row in figures["arms"]:
        print(f"| {row['arm']} | {row['stall_seconds']:.2f} | {row['stall_ratio']:.2f} | {row['step_seconds']:.2f} |")


def main() -> None:
    """Measures and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="that a judge takes for a group")
    parser.add_argument("--steps", type=int, default=5, help="of each arm, after one that does not count")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    figures = measure(arguments.seconds, arguments.steps)
    report(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
