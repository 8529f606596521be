"""What a run shows while it lasts, and what stays: a progress line; metrics.jsonl, samples.jsonl and tensorboard/.

    with Monitor(folder, num_steps=80) as monitor:
        monitor.step(1, step_metrics(sampled, rewarded, well_formed=task.well_formed))
        monitor.samples(1, sampled[:1], rewarded[:1])
        position = monitor.position()                       # goes into the checkpoint
    Monitor(folder, num_steps=80, position=position)        # goes on there: every step stands in the files once

A line of metrics.jsonl is of a step or of an evaluation; METRICS says what its keys mean. One of samples.jsonl is a
group as `ruler score` and `ruler evaluate` read it, with rewards and the judge's notes.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import Progress, TextColumn, TimeRemainingColumn

from ruler.agreement import agree
from ruler.errors import ConfigError
from ruler.records import group_record
from ruler.rules import Check
from ruler.types import ScoredGroup, Usage
from trainer.episodes import BrokenGroup, SampledGroup
from trainer.rewards import Rewarded

METRICS: Mapping[str, str] = {
    "reward/mean": "Mean reward over the rollouts of groups that have rewards. Tied groups are left out: their rewards "
    "lack the judge's part.",
    "reward/std": "Standard deviation (n - 1) of the same rewards.",
    "truth/mean": "Mean truth over all rollouts where it is known, in [0, 1].",
    "truth/agreement": "How rewards order the rollouts of a group, against truth: share of the pairs of different "
    "truth that are ordered rightly, in [0, 1], chance 0.5; mean over the groups that have such a pair.",
    "groups/zero_spread": "Share of the groups with rewards whose rewards are all equal, in [0, 1]: they teach "
    "nothing. TRL: frac_reward_zero_std.",
    "groups/tied": "Number of groups whose rollouts all read the same to the judge.",
    "groups/failed": "Number of groups without rewards; they are left out of the update.",
    "groups/failed/REASON": "Number of those that failed for this reason: environment, window (the "
    "task leaves no room), or the code of the error, such as unavailable. Only where there is one.",
    "rollouts/tokens": "Number of sampled tokens.",
    "rollouts/tokens_mean": "Mean number of sampled tokens of a rollout.",
    "rollouts/tokens_max": "Largest number of sampled tokens of a rollout.",
    "rollouts/truncated": "Share of rollouts that were cut off, in [0, 1].",
    "rollouts/well_formed": "Format share: mean of the task's check of the form, in [0, 1].",
    "judge/score": "Mean score over the rollouts of scored groups, in [0, 1]. Scores compare inside a group only, so a "
    "level that moves may be the judge's.",
    "judge/calls": "Number of calls to the judge, retries among them.",
    "judge/tokens": "Tokens of the judge's input and output.",
    "judge/cache_hits": "Number of questions that were answered already and cost nothing.",
    "judge/cost_usd": "US dollars paid for the step; none when a price is not known.",
    "judge/wait_seconds": "Mean time a group waited in queues and between attempts; over groups with a call.",
    "judge/latency_seconds": "Mean time from the end of a group's last rollout to its rewards.",
    "judge_stall_seconds": "Time in which nothing was done but waiting for rewards.",
    "policy/entropy": "Mean entropy in nats of the distributions the tokens were drawn from.",
    "policy/loss": "The loss before the update.",
    "policy/grad_norm": "Norm of the gradient before it is clipped.",
    "policy/clip_share": "Share of sampled tokens (or sequences) whose importance ratio was clipped, in [0, 1].",
    "policy/kl": "Mean estimate per token of the divergence from the reference policy, in nats.",
    "policy/ratio": "Mean importance ratio of the policy that is updated to the one that sampled.",
    "time/sampling_seconds": "Time in which rollouts were sampled.",
    "time/update_seconds": "Time of the update.",
    "time/step_seconds": "Time of the whole step.",
    "held_out/truth_sampled": "Mean truth on held-out problems, sampled at temperature 1, in [0, 1].",
    "held_out/truth_greedy": "Mean truth on held-out problems, always the most probable token, in [0, 1].",
    "held_out/well_formed": "Format share of the attempts that were sampled on held-out problems, in [0, 1].",
    "held_out/tokens_mean": "Mean number of sampled tokens of those attempts.",
    "alarm/hacking": "1 where the alarm of reward hacking was raised (trainer/alarm.py), else 0.",
}
"""Key of a metrics line -> what it says. A value is a finite number, or null where there is none."""

_EQUAL_REWARDS = 1e-8
"""Rewards no further apart are equal; so TRL."""


def step_metrics(
    sampled: Sequence[SampledGroup],
    rewarded: Sequence[Rewarded],
    *,
    broken: Sequence[BrokenGroup] = (),
    well_formed: Check,
) -> dict[str, float | None]:
    """What METRICS says of one step's groups: sections reward, truth, groups, rollouts, judge, and policy/entropy.

    Failed groups count in what is sampled (tokens, truth, form), never in what is rewarded. A mean over nothing is
    None, a number of nothing 0.

    Args:
        sampled: the finished groups.
        rewarded: their rewards, in the same order.
        broken: groups that have no rollouts, because an environment failed.
        well_formed: the task's check of the form.
    """
    episodes = [episode for group in sampled for episode in group.episodes]
    checks = [well_formed(rollout, one.group) for one in sampled for rollout in one.group.rollouts]
    entropies = [
        entropy
        for episode in episodes
        for entropy, is_sampled in zip(episode.entropies, episode.sampled, strict=True)
        if is_sampled
    ]
    rewards: list[float] = []
    spreads: list[float] = []
    agreements: list[float | None] = []
    failures = Counter(group.message.partition(":")[0] for group in broken)
    for group, one in zip(sampled, rewarded, strict=True):
        of_group = [reward for reward in one.rewards.rewards if reward is not None]
        if not of_group:
            failures[(one.failure or "unknown").partition(":")[0]] += 1
            continue
        spreads.append(max(of_group) - min(of_group))
        if one.rewards.status != "tied":
            rewards += of_group
        pairs = [
            (reward, episode.truth)
            for reward, episode in zip(of_group, group.episodes, strict=True)
            if episode.truth is not None
        ]
        agreements.append(agree([reward for reward, _ in pairs], [truth for _, truth in pairs]).accuracy)
    results = [one.result for one in rewarded if one.result is not None]
    usage = sum((result.usage for result in results), Usage())
    scores = [score for result in results if isinstance(result, ScoredGroup) for score in result.scores]
    return {
        "reward/mean": _mean(rewards),
        "reward/std": _deviation(rewards),
        "truth/mean": _mean(episode.truth for episode in episodes),
        "truth/agreement": _mean(agreements),
        "groups/zero_spread": _mean(float(spread <= _EQUAL_REWARDS) for spread in spreads),
        "groups/tied": sum(one.rewards.status == "tied" for one in rewarded),
        "groups/failed": failures.total(),
        **{f"groups/failed/{reason}": count for reason, count in sorted(failures.items())},
        "rollouts/tokens": sum(episode.num_sampled for episode in episodes),
        "rollouts/tokens_mean": _mean(episode.num_sampled for episode in episodes),
        "rollouts/tokens_max": max((episode.num_sampled for episode in episodes), default=None),
        "rollouts/truncated": _mean(float(episode.truncated) for episode in episodes),
        "rollouts/well_formed": _mean(checks),
        "judge/score": _mean(scores),
        "judge/calls": usage.calls,
        "judge/tokens": usage.input_tokens + usage.output_tokens,
        "judge/cache_hits": usage.cache_hits,
        "judge/cost_usd": usage.cost_usd,
        "judge/wait_seconds": _mean(result.usage.wait_seconds for result in results if result.usage.calls),
        "policy/entropy": _mean(entropies),
    }


def sample_record(step: int, sampled: SampledGroup, rewarded: Rewarded) -> dict[str, Any]:
    """One group as a line of samples.jsonl: a group record (docs/formats.md) with what became of each rollout.

    Each rollout has `reward`, `parts`, `gated_by`, `score`, `note`, `truth` and `truncated`, None where there is none;
    `parts` is what the reward was made of, by rule.
    """
    result = rewarded.result
    notes = result.notes if isinstance(result, ScoredGroup) else (None,) * len(sampled.episodes)
    record = group_record(sampled.group)
    for rollout, reward, episode, note in zip(
        record["rollouts"], rewarded.rewards.rollouts, sampled.episodes, notes, strict=True
    ):
        rollout |= {
            "reward": reward.reward,
            "parts": dict(reward.parts),
            "gated_by": reward.gated_by,
            "score": reward.score,
            "note": note,
            "truth": episode.truth,
            "truncated": episode.truncated,
        }
    said = {"step": step, "problem": sampled.problem, "status": rewarded.rewards.status, "failure": rewarded.failure}
    return {**said, **record}


class AppendedLines:
    """A file of JSON objects, one per line, that only grows; a new process goes on at a known length."""

    def __init__(self, path: Path, length: int) -> None:
        """Opens the file for appending, made where it is not there.

        Args:
            path: the file.
            length: bytes to be kept, the end of a line; 0 for none. What follows was written after the checkpoint that
                says so, and may end in a torn line: it is cut off.

        Raises:
            ConfigError: the file is shorter than that, or no line ends there: it is not the one that was written.
        """
        self._file = open(path, "a+b")  # noqa: SIM115  closed by `close`
        size = os.fstat(self._file.fileno()).st_size
        self._file.seek(max(min(length, size) - 1, 0))
        if length > size or (length and self._file.read(1) != b"\n"):
            self._file.close()
            raise ConfigError(f"{path}: expected a line that ends at byte {length}; the file has {size} bytes")
        self._file.truncate(length)
        self._length = length

    def append(self, record: Mapping[str, Any]) -> None:
        """Writes one line and hands it to the system. Numbers that are not finite, which JSON has none of, are null."""
        text = json.dumps(_finite(record), ensure_ascii=False, allow_nan=False)
        # A lone surrogate has no UTF-8. What this puts in its place is what JSON has for it.
        line = text.encode("utf-8", "backslashreplace") + b"\n"
        self._file.write(line)
        self._file.flush()
        self._length += len(line)

    def sync(self) -> int:
        """The length in bytes, all of them on the disk: what a checkpoint may say of the file."""
        os.fsync(self._file.fileno())
        return self._length

    def close(self) -> None:
        self._file.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; a torn last line, as a killed run leaves it, is passed over.

    Raises:
        ConfigError: the file cannot be read, or another line is no JSON object; names the line.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    records = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(record, dict):
            raise ConfigError(f"{path}:{number}: expected an object, got {record!r:.80}")
        records.append(record)
    return records


class Monitor:
    """Writes down what a run measures, and shows it: a live line on a terminal, else a plain line now and then.

    Both go to standard error. A context manager: at the end of the block files are closed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        num_steps: int,
        position: Mapping[str, int] | None = None,
        print_every: int = 10,
        console: Console | None = None,
    ) -> None:
        """A monitor of the run in this folder.

        Args:
            folder: holds metrics.jsonl, samples.jsonl and tensorboard/; made where it is not there.
            num_steps: of the whole run.
            position: what `position` returned for the checkpoint the run goes on from; None: what earlier runs wrote
                here is removed.
            print_every: without a terminal the first, the last and every so-manieth step is printed.
            console: where to; None: standard error.

        Raises:
            ConfigError: the files are not those that were written before.
        """
        # TensorBoard takes a fifth of a second, and rewards and curves do without.
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        position = position or {"step": 0, "metrics": 0, "samples": 0}
        self._step = position["step"]
        self._num_steps = num_steps
        self._print_every = print_every
        self._metrics = AppendedLines(folder / "metrics.jsonl", position["metrics"])
        self._samples = AppendedLines(folder / "samples.jsonl", position["samples"])
        # A killed run may have written further than its checkpoint: TensorBoard is told to forget those steps.
        self._tensorboard = SummaryWriter(str(folder / "tensorboard"), purge_step=self._step + 1 if self._step else 0)
        self._console = console or Console(stderr=True)
        self._progress = Progress(
            # No bar: the figures need all of 80 columns.
            TextColumn("{task.description}", markup=False),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._task = self._progress.add_task(f"{self._step}/{num_steps}", total=num_steps, completed=self._step)

    def __enter__(self) -> Monitor:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._console.is_terminal:
            self._progress.stop()
        self._metrics.close()
        self._samples.close()
        self._tensorboard.close()

    def step(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Writes down and shows one step; steps are counted from 1."""
        self._write(step, metrics)
        self._step = step
        line = f"{step}/{self._num_steps}  {_figures(metrics)}"
        self._progress.update(self._task, completed=step, description=line)
        if not self._console.is_terminal and (step in (1, self._num_steps) or step % self._print_every == 0):
            self.say(f"step {line}")

    def evaluation(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Writes down and prints what was measured on held-out problems after so many steps."""
        self._write(step, metrics)
        shown = (
            f"{key.removeprefix('held_out/').replace('_', ' ')} {_number(value)}" for key, value in metrics.items()
        )
        self.say(f"after step {step}, held out: {', '.join(shown)}")

    def samples(self, step: int, sampled: Sequence[SampledGroup], rewarded: Sequence[Rewarded]) -> None:
        """Writes down these groups, with their rewards in the same order."""
        for group, rewards in zip(sampled, rewarded, strict=True):
            self._samples.append(sample_record(step, group, rewards))

    def say(self, text: str) -> None:
        """Prints a line, on a terminal above the live one."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def position(self) -> dict[str, int]:
        """What a checkpoint keeps of this: the last step, and the lengths of the files in bytes, on the disk."""
        return {"step": self._step, "metrics": self._metrics.sync(), "samples": self._samples.sync()}

    def _write(self, step: int, metrics: Mapping[str, float | None]) -> None:
        self._metrics.append({"step": step, **metrics})
        for key, value in metrics.items():
            if value is not None and math.isfinite(value):
                self._tensorboard.add_scalar(key, value, step)
        self._tensorboard.flush()


def _figures(metrics: Mapping[str, float | None]) -> str:
    """`reward 0.712  truth 0.640  failed 0  stall 0.8 s  5,200 tokens/s`, without what is not known."""
    reward, truth, failed, stall, tokens, seconds = map(
        metrics.get,
        ("reward/mean", "truth/mean", "groups/failed", "judge_stall_seconds", "rollouts/tokens", "time/step_seconds"),
    )
    parts = [f"reward {_number(reward)}"]
    if truth is not None:
        parts.append(f"truth {_number(truth)}")
    if failed is not None:
        parts.append(f"failed {failed:.0f}")
    if stall is not None:
        parts.append(f"stall {stall:.1f} s")
    if tokens is not None and seconds:
        parts.append(f"{tokens / seconds:,.0f} tokens/s")
    return "  ".join(parts)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _finite(value: Any) -> Any:
    """The value with None in place of every number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values there are."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _deviation(values: Sequence[float]) -> float | None:
    """Standard deviation, n - 1; None for fewer than two."""
    mean = _mean(values)
    if mean is None or len(values) < 2:
        return None
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
