"""A run's folder: what is in it, where the run goes on after it was stopped, and when it has to stop.

- `settings.json`: how it trains; another run does not get into the folder.
- `metrics.jsonl`, `samples.jsonl`, `tensorboard/`: what it measures; see `trainer/monitor.py`.
- `checkpoints/`: the newest two; see `trainer/checkpoints.py`.
- `policy/` and `curve.png`: at the end. The policy is a Hugging Face folder.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ruler.errors import ConfigError, RulerError
from trainer import checkpoints
from trainer.alarm import HackingWatch
from trainer.curve import plot, text_curve
from trainer.episodes import BrokenGroup, SampledGroup
from trainer.held_out import HeldOut
from trainer.metrics import held_out_metrics, step_metrics, update_metrics
from trainer.monitor import Monitor, read_lines
from trainer.policy import Policy
from trainer.rewards import Rewarded
from trainer.settings import Settings
from trainer.tasks import Task
from trainer.update import UpdateStatistics

_MAY_CHANGE = (
    "steps",
    "evaluate_every",
    "held_out_problems",
    "checkpoint_every",
    "sample_every",
    "max_failed_share",
    "micro_batch_tokens",
)
"""Settings that a run may go on with in another value: its weights so far are those it would have had with it; with
other micro-batches up to the last digits."""


_FILES = ("metrics.jsonl", "samples.jsonl", "tensorboard", "checkpoints", "policy", "curve.png")


class RunStopped(RulerError):
    """The run ends before its last step. What it has learnt is in its newest checkpoint."""

    code = "stopped"


class Run:
    """One run in its folder; a context manager, for one process at a time."""

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        facts: Mapping[str, Any],
        task: Task,
        policy: Policy,
        optimiser: torch.optim.AdamW,
        device: Executor,
    ) -> None:
        """Begins the run, or puts policy and optimiser where its newest checkpoint has them.

        Raises:
            ConfigError: the folder has another run, a process works in it, or what is in it cannot be read.
        """
        self._folder, self._settings, self._task = folder, settings, task
        self._policy, self._optimiser, self._device = policy, optimiser, device
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(folder)
        try:
            self._begin({**facts, "task": task.name, "weights": weights_digest(policy.model), **asdict(settings)})
        except BaseException:
            os.close(self._lock)
            raise

    def _begin(self, described: Mapping[str, Any]) -> None:
        checkpoint = checkpoints.latest(self._folder / "checkpoints")
        _check_same_run(self._folder, described)
        position = None
        if checkpoint:
            try:
                position = checkpoints.load(checkpoint, self._policy.model, self._optimiser)["position"]
            except (ConfigError, KeyError) as error:
                raise ConfigError(f"{error}; without {checkpoint} the run goes on from the one before") from error
            self._policy.weights_changed()
        self.num_done: int = position["step"] if position else 0
        """Steps that have been done; the next one is made with the policy as it is now."""
        steps = self._settings.steps
        if self.num_done > steps:
            raise ConfigError(f"steps: the run in {self._folder} has done {self.num_done} already, got {steps}")
        metrics = self._folder / "metrics.jsonl"
        begins_anew = not checkpoint and metrics.exists() and metrics.stat().st_size > 0
        _write(self._folder / "settings.json", described)
        self._position: dict[str, int] | None = None
        """How far the files were before what stands in them of the next step; None: as far as they are."""
        self._monitor = Monitor(self._folder, num_steps=steps, position=position)
        self._watch = HackingWatch()
        for line in read_lines(metrics):
            self._watch.see(line)
        if checkpoint:
            self._monitor.say(f"goes on after step {self.num_done}, from {checkpoint}")
        elif begins_anew:
            self._monitor.say(f"begins anew: the run in {self._folder} was stopped before it had a checkpoint")

    def __enter__(self) -> Run:
        self._monitor.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._monitor.__exit__(*raised)
        os.close(self._lock)

    def measured(self, found: HeldOut) -> None:
        """Keeps what was measured on held-out problems, with the policy as it is now."""
        # A run that goes on after this step measures again: a checkpoint of it is of the time before.
        self._position = self._monitor.position()
        self._monitor.evaluation(self.num_done, held_out_metrics(found))

    def check_failures(self, rewarded: Sequence[Rewarded | BrokenGroup]) -> None:
        """Lets the step go on, unless too many of its groups have no rewards.

        Raises:
            RunStopped: more than `max_failed_share` have none; says why, and that the run can go on.
        """
        failures = [failure for found in rewarded if (failure := _failure(found)) is not None]
        if len(failures) <= self._settings.max_failed_share * len(rewarded):
            return
        reasons = Counter(failure.partition(":")[0] for failure in failures).most_common()
        raise RunStopped(
            f"step {self.num_done + 1}: {len(failures)} of {len(rewarded)} groups have no rewards "
            f"({', '.join(f'{reason} {count}' for reason, count in reasons)}), which is more than max_failed_share "
            f"{self._settings.max_failed_share}; the first: {failures[0]}. Nothing was learnt from this step; the same "
            "command goes on here"
        )

    async def trained(
        self,
        groups: Sequence[SampledGroup | BrokenGroup],
        rewarded: Sequence[Rewarded | BrokenGroup],
        statistics: UpdateStatistics,
        times: Mapping[str, float | None],
    ) -> None:
        """Keeps the step that was just done: its metrics, and now and then a group and a checkpoint.

        Args:
            groups: the batch.
            rewarded: their rewards, in the same order.
            statistics: of the update.
            times: how long the parts of the step took, by metric.
        """
        whole = [
            (group, found)
            for group, found in zip(groups, rewarded, strict=True)
            if isinstance(group, SampledGroup) and isinstance(found, Rewarded)
        ]
        sampled, found = [group for group, _ in whole], [rewards for _, rewards in whole]
        metrics = step_metrics(
            sampled,
            found,
            broken=[group for group in groups if isinstance(group, BrokenGroup)],
            well_formed=self._task.well_formed,
        )
        self.num_done += 1
        alarm = self._watch.see({"step": self.num_done, **metrics})
        alarmed = {"alarm/hacking": float(alarm is not None)}
        self._monitor.step(self.num_done, {**metrics, **update_metrics(statistics), **alarmed, **times})
        self._position = None
        if alarm:
            self._monitor.say(str(alarm))
        if self.num_done % self._settings.sample_every == 1 % self._settings.sample_every:
            self._monitor.samples(self.num_done, sampled[:1], found[:1])
        if self.num_done % self._settings.checkpoint_every == 0 or self.num_done == self._settings.steps:
            # In the device's thread: writing gigabytes must not keep judges waiting who answer meanwhile.
            await asyncio.get_running_loop().run_in_executor(self._device, self._save)

    def finish(self) -> None:
        """Leaves the trained policy and the curve, and shows the curve."""
        _replace(self._folder / "policy", self._policy)
        metrics = self._folder / "metrics.jsonl"
        plot(metrics, self._folder / "curve.png")
        lines = read_lines(metrics)
        for key in ("reward/mean", "truth/mean"):
            values = [line[key] for line in lines if key in line]
            if any(value is not None for value in values):
                self._monitor.say(f"{key:12} {text_curve(values)}")
        self._monitor.say(f"policy, metrics and curve.png are in {self._folder}")

    def _save(self) -> None:
        state = {"position": self._position or self._monitor.position()}
        checkpoints.save(self._folder / "checkpoints", self.num_done, self._policy.model, self._optimiser, state)

    def save_what_is_done(self) -> None:
        """A checkpoint of the steps so far, where there is none: the run ends before its time."""
        newest = checkpoints.latest(self._folder / "checkpoints")
        if self.num_done and (newest is None or newest.name != f"step-{self.num_done:06d}"):
            self._save()


def _failure(found: Rewarded | BrokenGroup) -> str | None:
    return found.message if isinstance(found, BrokenGroup) else found.failure


def _lock(folder: Path) -> int:
    """An open file that no other process can have open like this; the system lets go of it however this one ends."""
    lock = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise ConfigError(f"out: another process is at work in {folder}") from error
    return lock


def weights_digest(model: torch.nn.Module) -> str:
    """Of the weights that a run begins with, and that a divergence is measured from."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _check_same_run(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raises ConfigError where something else is in the folder: another run, or files of anything but a run."""
    path, metrics = folder / "settings.json", folder / "metrics.jsonl"
    if not path.exists():
        others = [name for name in _FILES if (folder / name).exists()]
        if others:
            raise ConfigError(
                f"out: {folder} has {', '.join(others)} and no settings.json: it is not the folder of a run"
            )
        return
    if checkpoints.latest(folder / "checkpoints") is None:
        lines = read_lines(metrics) if metrics.exists() else []
        if not any("reward/mean" in line for line in lines):
            return  # nothing was learnt: whatever was wrong may be put right
    ours = json.loads(json.dumps(settings))
    try:
        theirs = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: damaged: {error}") from error
    if not isinstance(theirs, dict):
        raise ConfigError(f"{path}: damaged: expected an object, got {theirs!r:.80}")
    for name in {**theirs, **ours}:
        if name not in _MAY_CHANGE and (name not in theirs or name not in ours or theirs[name] != ours[name]):
            raise ConfigError(
                f"{name}: this run has {ours.get(name)!r}, the one in {folder} has {theirs.get(name)!r}; "
                "take another folder, or the same settings to go on"
            )


def _write(path: Path, settings: Mapping[str, Any]) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    os.replace(new, path)


def _replace(folder: Path, policy: Policy) -> None:
    """Saves the policy; whoever looks finds the earlier one, for a moment none, or the new one, each of them whole."""
    new, old = folder.with_name("policy.new"), folder.with_name("policy.old")
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    policy.save(new)
    if folder.exists():
        os.rename(folder, old)
    os.rename(new, folder)
    shutil.rmtree(old, ignore_errors=True)
