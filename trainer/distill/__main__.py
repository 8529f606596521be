"""Trains a small judge: from the truth of a bundled task, or from another judge's scores.

    python -m trainer.distill --task arithmetic --out runs/judge
    python -m trainer.distill --teacher openai/gpt-5-mini --student Qwen/Qwen3-0.6B --out runs/judge GROUPS.jsonl

Then `--judge embedded:runs/judge`, and `--judge transformers:runs/judge`.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from rich.console import Console

from judges.transformers_load import choose_device
from ruler.config import load_judges, read_settings
from ruler.errors import ConfigError, RulerError
from ruler.records import BadLine, LabelledGroup, read_labelled
from ruler.rubric import DEFAULT_RUBRIC, Rubric
from trainer.distill.sums.distilled import distill_sums
from trainer.distill.sums.learn import Recipe
from trainer.distill.teacher import TeacherSettings, distill_teacher


@dataclass(frozen=True, kw_only=True)
class CommandLine:
    """Train a small judge, from the truth of a bundled task or from the scores of another judge."""

    groups: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """With --teacher: files of groups, as `ruler score` reads them."""
    out: Path
    """The judge's folder; nothing may be there yet."""
    seed: int = 0
    """Of weights and data."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where the model is that learns."""
    threads: int = 1
    """Threads of a CPU that calculate together. With another number the same seed gives other last digits."""

    task: Literal["arithmetic"] = "arithmetic"
    """Without --teacher: what to judge. The judge is trained from scratch, for `embedded:OUT`."""
    num_groups: int | None = None
    """Without --teacher: groups that it is measured on in the end, at least 8; None: 1000."""

    teacher: str | None = None
    """SPEC of the judge whose scores are learnt (docs/judges.md)."""
    student: str | None = None
    """With --teacher: the causal language model that learns, a folder or hub id of Hugging Face."""
    rubric: Path | None = None
    """With --teacher: a file with what the teacher values; None: the default rubric."""
    orders: Literal[1, 2, 4] | None = None
    """With --teacher: in how many orders it reads each group; None: 1."""
    epochs: int | None = None
    """With --teacher: how often the student reads each group; None: 3."""
    learning_rate: float | None = None
    """With --teacher: the highest. None: 2e-5, for models of some hundred million weights; tiny ones want 1e-3."""
    cache: str | None = None
    """With --teacher: where its answers are kept: a file, `redis://…`, or `off`; None: as `ruler score`."""


def main() -> None:
    """Runs the command line; exit status as of `ruler score`."""
    arguments = tyro.cli(CommandLine, prog="python -m trainer.distill")
    try:
        if arguments.threads < 1:
            raise ConfigError(f"threads: expected at least 1, got {arguments.threads}")
        torch.set_num_threads(arguments.threads)
        if arguments.teacher is None:
            _from_truth(arguments)
        else:
            asyncio.run(_from_teacher(arguments, arguments.teacher))
    except (RulerError, OSError) as error:
        _say(f"error: {error}")
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        _say("interrupted: nothing was written")
        sys.exit(130)


def _say(text: str) -> None:
    Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)


def _from_truth(arguments: CommandLine) -> None:
    for name in ("groups", "student", "rubric", "orders", "epochs", "learning_rate", "cache"):
        if getattr(arguments, name) not in (None, ()):
            raise ConfigError(f"{name}: goes with --teacher; without one the judge learns from truth, from scratch")
    figures = distill_sums(
        arguments.out,
        Recipe(),
        seed=arguments.seed,
        device=choose_device("trainer.distill", arguments.device),
        num_groups=1000 if arguments.num_groups is None else arguments.num_groups,
        show=_say,
    )
    first = figures.sets[0]
    for name, accuracy in (("pairs", first.agreement.accuracy), ("right against wrong", first.right_vs_wrong.accuracy)):
        _say(f"{first.name}: {name}: {'-' if accuracy is None else format(100 * accuracy, '.1f')} %")
    _say(f"--judge embedded:{arguments.out}   (all figures: {arguments.out / 'README.md'})")


async def _from_teacher(arguments: CommandLine, teacher: str) -> None:
    if arguments.num_groups is not None:
        raise ConfigError(
            "num_groups: goes without --teacher; a student is measured on a fifth of the teacher's groups"
        )
    if not arguments.groups:
        raise ConfigError("groups: expected at least one file for the teacher to score")
    if arguments.student is None:
        raise ConfigError("student: expected a causal language model to train, a Hugging Face folder or hub id")
    settings = TeacherSettings(
        rubric=Rubric.load(arguments.rubric) if arguments.rubric else DEFAULT_RUBRIC,
        orders=arguments.orders or 1,
        epochs=3 if arguments.epochs is None else arguments.epochs,
        learning_rate=2e-5 if arguments.learning_rate is None else arguments.learning_rate,
        seed=arguments.seed,
        device=arguments.device,
    )
    groups = [group for path in arguments.groups for group in _groups(path)]
    loaded = load_judges(read_settings(judge=teacher, cache=arguments.cache))
    try:
        await distill_teacher(groups, loaded.judges, arguments.student, arguments.out, settings, _say)
    finally:
        await loaded.close()
    _say(f"--judge transformers:{arguments.out}   (all figures: {arguments.out / 'distilled_results.json'})")


def _groups(path: str) -> list[LabelledGroup]:
    groups = []
    for found in read_labelled(path):
        if isinstance(found, BadLine):
            raise ConfigError(str(found))
        groups.append(found)
    return groups


if __name__ == "__main__":
    main()
