"""What a run shows while it lasts, and what stays: a progress line; metrics.jsonl, samples.jsonl and tensorboard/.

    with Monitor(folder, num_steps=80) as monitor:
        monitor.step(1, step_metrics(sampled, rewarded, well_formed=task.well_formed))
        monitor.samples(1, sampled[:1], rewarded[:1])
        position = monitor.position()                       # goes into the checkpoint
    Monitor(folder, num_steps=80, position=position)        # goes on there: every step stands in the files once

A line of metrics.jsonl is of a step or of an evaluation; METRICS in `trainer/metrics.py` says what its keys mean. One
of samples.jsonl is a group as `ruler score` and `ruler evaluate` read it, with rewards and the judge's notes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import Progress, TextColumn, TimeRemainingColumn

from ruler.errors import ConfigError
from trainer.episodes import SampledGroup
from trainer.metrics import sample_record
from trainer.rewards import Rewarded


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
        self.say(f"after step {step}, held out: {_measured(metrics)}")

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


def _measured(metrics: Mapping[str, float | None]) -> str:
    """`truth sampled 0.871 ± 0.014, greedy 0.900, well formed 0.995, 3 broken`, without what is not known.

    After ± is the standard error. It is shown where chance is greatest; the file has the greedy one as well.
    """
    sampled, stderr, greedy, form, broken = (
        metrics.get(f"held_out/{name}")
        for name in ("truth_sampled", "truth_sampled_stderr", "truth_greedy", "well_formed", "num_broken")
    )
    parts = []
    if sampled is not None:
        parts.append(f"truth sampled {_number(sampled)}" + ("" if stderr is None else f" ± {_number(stderr)}"))
    if greedy is not None:
        parts.append(f"greedy {_number(greedy)}")
    if form is not None:
        parts.append(f"well formed {_number(form)}")
    if broken:
        parts.append(f"{broken:.0f} broken")
    return ", ".join(parts)


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
