"""What a step waits for a judge of one second: overlap off, overlap on, and with the next batch sampled meanwhile."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks.trainer_loops import Question, questions
from judges.simulated import SimulatedJudge, hash_quality
from ruler import DEFAULT_RUBRIC, JudgeReply, JudgeRequest, Ruler
from ruler.rewards import Rewards, Rule
from ruler.rules import finished
from tests.tiny_model import make_tiny_model
from trainer.episodes import SampledGroup
from trainer.monitor import read_lines
from trainer.policy import Policy
from trainer.rewards import Rewarded, RewardFunction, by_judge
from trainer.settings import Settings
from trainer.tasks import Task
from trainer.train import train

_GROUPS = 8
_GROUP_SIZE = 8
_END_TOKENS = range(400, 404)
"""Of 512: a turn ends at one of these, after a hundred tokens or so, so that groups end at different times."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this measurement."""
    parser.add_argument("--seconds", type=float, default=1.0, help="that the judge takes for a group")
    parser.add_argument("--at-once", type=int, nargs="+", default=[8, 2], help="groups that it reads at a time")
    parser.add_argument("--rounds", type=int, default=2, help="in each, every arm trains once")
    parser.add_argument("--steps", type=int, default=6, help="of each arm in a round, after one that does not count")
    parser.add_argument("--max-tokens", type=int, default=512, help="of a completion; how long sampling takes")
    parser.add_argument("--threads", type=int, default=1, help="of torch")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Medians over all steps of all rounds, by arm and by what the judge reads at once."""
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        _save_model(model)
        lines: dict[tuple[int, str], list[dict[str, Any]]] = {}
        for _ in range(arguments.rounds):
            for at_once in arguments.at_once:
                for arm in ARMS:
                    lines.setdefault((at_once, arm), []).extend(_run(model, arm, at_once, arguments))
    return {
        "judge_seconds": arguments.seconds,
        "groups": _GROUPS,
        "arms": [
            {
                "at_once": at_once,
                "arm": arm,
                "steps": len(found),
                **{
                    name: statistics.median(line[key] for line in found)
                    for name, key in (
                        ("stall_seconds", "judge_stall_seconds"),
                        ("sampling_seconds", "time/sampling_seconds"),
                        ("update_seconds", "time/update_seconds"),
                        ("step_seconds", "time/step_seconds"),
                    )
                },
            }
            for (at_once, arm), found in lines.items()
        ],
    }


ARMS = {
    "off": "overlap off: all groups are sampled, then all are sent at once",
    "on": "overlap on: a group is sent when its last rollout ends",
    "look_ahead": "overlap on, and the next batch is sampled before this one is waited for (look_ahead)",
}


def _run(model: Path, arm: str, at_once: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The metrics of the steps that count."""
    judge = _SlowJudge(arguments.seconds, at_once)
    reward = by_judge(Ruler(judge).score_many)
    if arm == "off":
        reward = Together(reward, _GROUPS)
    settings = Settings(
        # The first step may be slow, with look_ahead it samples twice, and the last one not at all.
        steps=arguments.steps + 2,
        prompts_per_step=_GROUPS,
        group_size=_GROUP_SIZE,
        learning_rate=1e-6,  # so that completions stay as long as they are
        look_ahead=arm == "look_ahead",
        evaluate_every=arguments.steps + 2,
        held_out_problems=1,
        checkpoint_every=arguments.steps + 2,
    )
    ask = partial(Question, when_asked=lambda: None)
    problems = [partial(ask, text) for text in questions()]
    task = Task(
        name="stall",
        train=problems[1:],
        held_out=problems[:1],
        rules=Rewards(judge_weight=0.0, rules=(Rule("finished", finished),)),
        rubric=DEFAULT_RUBRIC,
        well_formed=finished,
        max_turn_tokens=arguments.max_tokens,
        max_turns=1,
    )
    with tempfile.TemporaryDirectory() as out:
        asyncio.run(train(settings, task, Policy.load(str(model)), reward, Path(out)))
        lines = [line for line in read_lines(Path(out) / "metrics.jsonl") if "time/step_seconds" in line]
    assert not any(line["groups/failed"] for line in lines)
    return lines[1:-1]


class _SlowJudge:
    """A simulated judge that takes its time, and reads so many prompts at once; others wait in a queue."""

    def __init__(self, seconds: float, at_once: int) -> None:
        self._seconds = seconds
        self._free = asyncio.Semaphore(at_once)
        self._judge = SimulatedJudge(hash_quality)
        self.info = replace(self._judge.info, model="slow", cacheable=False)

    async def __call__(self, request: JudgeRequest) -> JudgeReply:
        async with self._free:
            await asyncio.sleep(self._seconds)
            return await self._judge(request)


class Together:
    """Holds groups until all of a step are there, and then has them rewarded in one call."""

    def __init__(self, reward: RewardFunction, groups: int) -> None:
        """Around this reward; so many groups are a step."""
        self._reward = reward
        self._groups = groups
        self._held: list[SampledGroup] = []
        self._rewarded: asyncio.Future[Sequence[Rewarded]] | None = None

    async def __call__(self, groups: Sequence[SampledGroup]) -> Sequence[Rewarded]:
        """The rewards of these groups, once all of the step have theirs."""
        if self._rewarded is None:
            self._rewarded = asyncio.get_running_loop().create_future()
        rewarded, first = self._rewarded, len(self._held)
        self._held += groups
        if len(self._held) == self._groups:
            held, self._held, self._rewarded = self._held, [], None
            rewarded.set_result(await self._reward(held))
        return (await rewarded)[first : first + len(groups)]


def _save_model(folder: Path) -> None:
    make_tiny_model(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.generation_config.eos_token_id = list(_END_TOKENS)
    model.save_pretrained(folder)


def report(figures: Mapping[str, Any]) -> None:
    """Prints the figures as Markdown."""
    print(f"## Waiting for a judge of {figures['judge_seconds']:g} s, {figures['groups']} groups a step: medians, s\n")
    print("| judge reads at once | | stall | sampling | update | step |\n|---|---|---|---|---|---|")
    for row in figures["arms"]:
        print(f"| {row['at_once']} | {ARMS[row['arm']]} | {row['stall_seconds']:.2f} ", end="")
        print(f"| {row['sampling_seconds']:.2f} | {row['update_seconds']:.2f} | {row['step_seconds']:.2f} |")
