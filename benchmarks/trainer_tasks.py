"""What the bundled tasks come to with truth as the reward: how good the tiny policy gets, and in how many seconds."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import torch

from trainer import held_out
from trainer.held_out import HeldOut
from trainer.monitor import read_lines
from trainer.policy import Policy
from trainer.rewards import by_truth
from trainer.settings import Settings
from trainer.tasks import Task
from trainer.tasks.bundled import TaskName, bundled_task
from trainer.train import train
from trainer.warm_up import warm_up

_TASKS: tuple[TaskName, ...] = get_args(TaskName)
_STEPS = {"arithmetic": 80, "inbox": 40}
_PROMPTS = {"arithmetic": 16, "inbox": 32}
_GROUP_SIZE = 8
_LEARNING_RATE = 3e-4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this measurement."""
    parser.add_argument("--tasks", nargs="+", choices=_TASKS, default=list(_TASKS))
    parser.add_argument("--seeds", type=int, default=3, help="so many, from 0: of warm-up, training and sampling")
    parser.add_argument("--steps", type=int, help="of training; default: 80 for arithmetic, 40 for inbox")
    parser.add_argument("--problems", type=int, default=1_000, help="held-out ones, each tried sampled and greedily")
    parser.add_argument("--policies", type=Path, help="keep warm policies here, and take those that are; default: no")
    parser.add_argument("--threads", type=int, default=1, help="of torch")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """One row for each task and seed."""
    torch.set_num_threads(arguments.threads)
    rows = []
    with _policies(arguments.policies) as policies:
        for name in arguments.tasks:
            for seed in range(arguments.seeds):
                rows.append(asyncio.run(_run(name, seed, policies, arguments)))
                print(f"{name}, seed {seed}: sampled {_change(rows[-1], 'truth_sampled')}", file=sys.stderr)
    return {"threads": arguments.threads, "problems": arguments.problems, "runs": rows}


async def _run(name: TaskName, seed: int, policies: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    task = bundled_task(name)
    warm = await warm_up(task, seed=seed, show=lambda line: print(line, file=sys.stderr), folder=policies)
    imitated = json.loads((warm / "warm_up.json").read_text(encoding="utf-8"))
    settings = Settings(
        steps=arguments.steps or _STEPS[name],
        prompts_per_step=_PROMPTS[name],
        group_size=_GROUP_SIZE,
        learning_rate=_LEARNING_RATE,
        seed=seed,
        # Measured here, before and after, on more problems, and not within the seconds of training.
        evaluate_every=arguments.steps or _STEPS[name],
        held_out_problems=1,
    )
    policy = Policy.load(str(warm))
    before = await _held_out(policy, task, seed, arguments.problems)
    with tempfile.TemporaryDirectory() as out:
        began = time.perf_counter()
        await train(settings, task, policy, by_truth(), Path(out))
        seconds = time.perf_counter() - began
        lines = [line for line in read_lines(Path(out) / "metrics.jsonl") if "time/step_seconds" in line]
    after = await _held_out(policy, task, seed, arguments.problems)
    return {
        "task": name,
        "seed": seed,
        "clean_steps": imitated["clean_steps"],
        "warm_up_seconds": imitated["seconds"],
        "steps": settings.steps,
        "rollouts_a_step": settings.prompts_per_step * settings.group_size,
        "training_seconds": seconds,
        "step_seconds": statistics.median(line["time/step_seconds"] for line in lines),
        "tokens_per_second": sum(line["rollouts/tokens"] for line in lines) / seconds,
        "truth_by_step": [line["truth/mean"] for line in lines],
        "before": asdict(before),
        "after": asdict(after),
    }


async def _held_out(policy: Policy, task: Task, seed: int, problems: int) -> HeldOut:
    with ThreadPoolExecutor(1, "device") as device:
        return await held_out.measure(policy, task, problems, seed, device)


@contextlib.contextmanager
def _policies(kept: Path | None) -> Iterator[Path]:
    """Where warm policies are: in the folder that is asked for, or in one that is thrown away."""
    if kept:
        yield kept
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def report(figures: Mapping[str, Any]) -> None:
    """Prints the figures as Markdown."""
    print(f"## Truth as the reward: mean truth on {figures['problems']} held-out problems, before -> after\n")
    print("| task | seed | warm-up | training | sampled | greedy | well formed |\n|---|---|---|---|---|---|---|")
    for row in figures["runs"]:
        print(
            f"| {row['task']} | {row['seed']} | {row['warm_up_seconds']:.0f} s, {row['clean_steps']} clean steps ",
            end="",
        )
        print(f"| {row['training_seconds']:.1f} s, {row['steps']} × {row['rollouts_a_step']} ", end="")
        print(f"| {_change(row, 'truth_sampled')} | {_change(row, 'truth_greedy')} | {_change(row, 'well_formed')} |")
    for name in dict.fromkeys(row["task"] for row in figures["runs"]):
        rows = [row for row in figures["runs"] if row["task"] == name]
        means = {
            key: " -> ".join(f"{statistics.fmean(row[when][key] for row in rows):.2f}" for when in ("before", "after"))
            for key in ("truth_sampled", "truth_greedy", "well_formed")
        }
        seconds = [
            f"{statistics.fmean(row[key] for row in rows):.1f} s" for key in ("warm_up_seconds", "training_seconds")
        ]
        print(f"| {name} | mean | {' | '.join([*seconds, *means.values()])} |")


def _change(row: Mapping[str, Any], key: str) -> str:
    return f"{row['before'][key]:.2f} -> {row['after'][key]:.2f}"
