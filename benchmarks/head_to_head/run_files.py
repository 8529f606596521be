"""What runs left in their folders."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.head_to_head.outcomes import ArmRun, Evaluation, Measured, Spent, TrainingStep
from ruler.errors import ConfigError
from trainer.monitor import read_lines


def read_run(folder: Path, start: Path, seed: int) -> ArmRun:
    """What came of a run that is at its end.

    Args:
        folder: of the run.
        start: the file of `measure_start`.
        seed: of the run.

    Raises:
        ConfigError: the folder's files cannot be read.
    """
    lines = read_lines(folder / "metrics.jsonl")
    steps = [line for line in lines if "reward/mean" in line]
    tokens = [0]
    for line in steps:
        tokens.append(tokens[-1] + line["rollouts/tokens"])
    return ArmRun(
        seed=seed,
        start=_measured(start),
        final=_measured(folder / "final.json"),
        evaluations=tuple(
            Evaluation(line["step"], tokens[line["step"]], _of_line(line))
            for line in lines
            if "held_out/truth_sampled" in line
        ),
        steps=tuple(
            TrainingStep(
                step=line["step"],
                reward=line["reward/mean"],
                truth=line["truth/mean"],
                agreement=line["truth/agreement"],
                well_formed=line["rollouts/well_formed"],
                tokens_mean=line["rollouts/tokens_mean"],
                failed=line["groups/failed"],
                tied=line["groups/tied"],
                alarm=bool(line["alarm/hacking"]),
            )
            for line in steps
        ),
        spent=_spent(steps),
    )


def _of_line(line: dict[str, Any]) -> Measured:
    return Measured(
        num_problems=line["held_out/num_problems"],
        truth_sampled=line["held_out/truth_sampled"],
        truth_greedy=line["held_out/truth_greedy"],
        well_formed=line["held_out/well_formed"],
        tokens_mean=line["held_out/tokens_mean"],
    )


def _spent(steps: list[dict[str, Any]]) -> Spent:
    costs = [line["judge/cost_usd"] for line in steps]
    return Spent(
        seconds=sum(line["time/step_seconds"] for line in steps),
        stall_seconds=sum(line["judge_stall_seconds"] for line in steps),
        calls=sum(line["judge/calls"] for line in steps),
        cache_hits=sum(line["judge/cache_hits"] for line in steps),
        tokens=sum(line["judge/tokens"] for line in steps),
        cost_usd=None if None in costs else sum(costs),
    )


def _measured(path: Path) -> Measured:
    found = read_object(path)
    try:
        return Measured(**{name: found[name] for name in Measured.__dataclass_fields__})
    except KeyError as error:
        raise ConfigError(f"{path}: damaged: {error} is missing; remove it, and it is measured again") from error


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ConfigError: there is none.
    """
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: damaged: {error}; remove it, and it is made again") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: damaged: expected an object, got {found!r:.80}; remove it, and it is made again")
    return found


def require_same(
    what: str, folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any], *, names: Iterable[str]
) -> None:
    """Raises ConfigError where one of the names has another value in what is found in the folder."""
    for name in names:
        if found.get(name) != wanted.get(name):
            raise ConfigError(
                f"{name}: this {what} has {wanted.get(name)!r}, the one in {folder} has {found.get(name)!r}; take "
                "another folder"
            )


def write_object(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON object; it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    os.replace(new, path)
