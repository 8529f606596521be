"""Imitation before rewards: a task's tiny policy learns the skill, and then some bad habits.

    python -m trainer.warm_up --task arithmetic --seed 0

Rewards change how often a policy does what it can do already; in a hundred steps they do not teach it to add. So it
imitates clean attempts until it has the skill, however many steps that takes with its seed, and then faulty ones for a
fixed number of steps: these are what rewards have to cure. All runs of a seed start from the one policy saved here.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import platformdirs
import torch
import transformers
import tyro

from ruler.errors import ConfigError
from trainer.held_out import HeldOut, attempts, mean_truth, measure
from trainer.policy import Policy
from trainer.tasks import Demonstration, Task, TinyPolicy
from trainer.tasks.arithmetic import Level
from trainer.tasks.bundled import TaskName, bundled_task
from trainer.tiny import make_tiny_policy
from trainer.unfinished import unfinished

_STEPS_BETWEEN_CHECKS = 50
"""A check of the skill costs as much as ten steps."""
_SKILL_PROBLEMS = 256
_HELD_OUT_PROBLEMS = 1000
_RISING_STEPS = 20
"""In which the first learning rate rises from 0: Adam's first steps are as long as all others, and blind."""


@dataclass(frozen=True, slots=True)
class Imitated:
    """What is written to `warm_up.json` beside the policy."""

    task: str
    seed: int
    recipe: str
    """Digest of what the policy is made of and what it imitated."""
    clean_steps: int
    """After which it had the skill."""
    habit_steps: int
    skill: float
    """Truth, greedy, after the clean steps, on problems of `Task.train`."""
    held_out: HeldOut
    """What it is worth in the end."""
    seconds: float
    torch: str
    transformers: str


async def warm_up(task: Task, *, seed: int, show: Callable[[str], None], folder: Path | None = None) -> Path:
    """The folder of the task's tiny policy, warmed up; it is made if it is not there.

    It is there when this task, seed and recipe have been warmed up before: the recipe is part of its name.

    Args:
        task: with a tiny policy.
        seed: of weights and demonstrations. On the same machine the same policy comes out.
        show: is given a line of text now and then.
        folder: where warm policies are kept; None: in the user's cache, for all runs.

    Raises:
        ConfigError: the task has no tiny policy, or with this seed it does not get the skill.
    """
    if task.tiny is None:
        raise ConfigError(f"task {task.name!r}: has no tiny policy to be warmed up; name a policy")
    recipe = _digest(task.tiny)
    folder = folder or platformdirs.user_cache_path("ruler") / "policies"
    place = folder / f"{task.name}-{seed}-{recipe[:8]}"
    if place.exists():
        return place
    show(f"warming up a tiny policy for {task.name}, seed {seed}, which is then kept in {place}")
    with ThreadPoolExecutor(1, "device") as device:
        policy, imitated = await _imitate(task, task.tiny, seed, recipe, show, device)
    _save(policy, imitated, place)
    return place


def _save(policy: Policy, imitated: Imitated, place: Path) -> None:
    """All of it or nothing."""
    try:
        with unfinished(place) as folder:
            policy.save(folder)
            (folder / "warm_up.json").write_text(json.dumps(asdict(imitated), indent=2) + "\n", encoding="utf-8")
    except OSError:
        if not place.exists():
            raise
        # Another process was faster, with the same policy.


async def _imitate(
    task: Task, tiny: TinyPolicy, seed: int, recipe: str, show: Callable[[str], None], device: Executor
) -> tuple[Policy, Imitated]:
    began = time.perf_counter()
    policy = Policy(*make_tiny_policy(tiny, seed=seed))
    optimiser = torch.optim.AdamW(policy.model.parameters(), betas=(0.9, 0.95), weight_decay=0.01)
    rng = random.Random(seed)
    loop = asyncio.get_running_loop()

    async def step(draw: Callable[[random.Random], Demonstration], learning_rate: float) -> float:
        demonstrations = [draw(rng) for _ in range(tiny.batch_size)]
        return await loop.run_in_executor(device, imitate, policy, optimiser, demonstrations, learning_rate)

    skill, clean_steps = 0.0, 0
    while skill < tiny.skill:
        if clean_steps >= tiny.max_clean_steps:
            raise ConfigError(
                f"task {task.name!r}: seed {seed}: {skill:.2f} right after {clean_steps} steps of imitation, expected "
                f"at least {tiny.skill} (TinyPolicy.skill, max_clean_steps): rewards do not teach a skill"
            )
        for _ in range(_STEPS_BETWEEN_CHECKS):
            clean_steps += 1
            loss = await step(tiny.clean, tiny.clean_learning_rate * min(1.0, clean_steps / _RISING_STEPS))
        tried = await attempts(policy, task, task.train[:_SKILL_PROBLEMS], temperature=0.0, seed=seed, device=device)
        truth, _ = mean_truth(tried)
        if truth is None:
            raise ConfigError(f"task {task.name!r}: does not know truth, by which the skill is measured")
        skill = truth
        if clean_steps % (2 * _STEPS_BETWEEN_CHECKS) == 0:
            show(f"step {clean_steps}: loss {loss:.3f}, {skill:.2f} right, until {tiny.skill} are")

    for done in range(tiny.habit_steps):
        await step(tiny.habits, tiny.habit_learning_rate * (1 - 0.9 * done / tiny.habit_steps))
    held_out = await measure(policy, task, _HELD_OUT_PROBLEMS, seed, device)
    seconds = time.perf_counter() - began
    show(
        f"warm after {clean_steps} clean and {tiny.habit_steps} faulty steps, {seconds:.0f} s: right on held-out "
        f"problems {held_out.truth_sampled:.2f} sampled, {held_out.truth_greedy:.2f} greedy"
    )
    return policy, Imitated(
        task=task.name,
        seed=seed,
        recipe=recipe,
        clean_steps=clean_steps,
        habit_steps=tiny.habit_steps,
        skill=skill,
        held_out=held_out,
        seconds=round(seconds, 1),
        torch=torch.__version__,
        transformers=transformers.__version__,
    )


def imitate(
    policy: Policy, optimiser: torch.optim.Optimizer, demonstrations: Sequence[Demonstration], learning_rate: float
) -> float:
    """One step of the optimiser; returns the loss before it, in nats per token that the assistant wrote.

    Only these tokens count: what the task and the environment say is given.

    Raises:
        ConfigError: a demonstration that does not fit the policy's window, or its chat template.
    """
    rows = [tokens_of(policy, demonstration) for demonstration in demonstrations]
    longest = max(len(tokens) for tokens, _ in rows)
    # Padded at the end: no token sees what comes after it, so nothing needs a mask but the loss.
    tokens = torch.tensor([tokens + [0] * (longest - len(tokens)) for tokens, _ in rows], device=policy.device)
    written = torch.tensor([marks + [False] * (longest - len(marks)) for _, marks in rows], device=policy.device)
    logits = policy.model(input_ids=tokens, use_cache=False).logits[:, :-1]  # (B, T - 1, V)
    loss = torch.nn.functional.cross_entropy(logits[written[:, 1:]], tokens[:, 1:][written[:, 1:]])
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
    for group in optimiser.param_groups:
        group["lr"] = learning_rate
    optimiser.step()
    return float(loss.detach())


def tokens_of(policy: Policy, demonstration: Demonstration) -> tuple[list[int], list[bool]]:
    """The demonstration as tokens, and for each of them whether the assistant wrote it; equally long.

    The same tokens as in an episode in which the policy does just that.
    """
    tokens = policy.encode_start(demonstration.start)
    written = [False] * len(tokens)
    for by_assistant, messages in itertools.groupby(demonstration.messages, lambda one: one["role"] == "assistant"):
        said = list(messages)
        new = (
            [token for one in said for token in policy.encode_turn(one)] if by_assistant else policy.encode_reply(said)
        )
        tokens += new
        written += [by_assistant] * len(new)
    if len(tokens) > policy.context_tokens:
        raise ConfigError(f"demonstration: has {len(tokens)} tokens, and the policy's window {policy.context_tokens}")
    return tokens, written


def _digest(tiny: TinyPolicy) -> str:
    """Of all that decides, with a seed, which policy comes out: model, vocabulary, numbers and demonstrations."""
    rng = random.Random(0)
    model, _ = make_tiny_policy(tiny, seed=0)
    config = model.config.to_dict()
    del config["transformers_version"]
    recipe: dict[str, Any] = {"model": config}
    for field in fields(TinyPolicy):
        value = getattr(tiny, field.name)
        # Code has no digest, and its output does: so many demonstrations show every kind of fault.
        recipe[field.name] = [asdict(value(rng)) for _ in range(200)] if callable(value) else value
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def main(
    task: TaskName = "arithmetic",
    level: Level = "addition",
    seed: int = 0,
    out: Path | None = None,
) -> None:
    """Warm up a task's tiny policy, and print its folder.

    Args:
        task: what to learn.
        level: of arithmetic.
        seed: of weights and demonstrations.
        out: where warm policies are kept; None: in the user's cache, where `trainer.train` looks for them.
    """
    torch.set_num_threads(1)  # as `trainer.train` has it
    chosen = bundled_task(task, level)
    try:
        place = asyncio.run(warm_up(chosen, seed=seed, folder=out, show=_show))
    except ConfigError as error:
        _show(f"error: {error}")
        sys.exit(2)
    sys.stdout.write(f"{place}\n")


def _show(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    tyro.cli(main, prog="python -m trainer.warm_up")
