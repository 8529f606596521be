"""The same judge with its weights stored more coarsely: what that does to its scores."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from judges.embedded import EmbeddedJudge
from ruler.evaluation import scores_of
from trainer.distill.sums.graded_sets import SetFigures, compared, judged
from trainer.distill.sums.groups import GradedGroup

Weights: TypeAlias = NDArray[Any]
_FILE = "model.safetensors"


@dataclass(frozen=True, slots=True)
class StoredAs:
    """A judge whose weights were rounded so."""

    name: str
    figures: SetFigures
    largest_change: float
    """Of a score, from the judge as it is stored; in [0, 1]."""
    weight_bytes: int
    """What the weights take; of int8 with one float32 scale for each row."""


def as_float16(weights: Weights) -> Weights:
    """Rounded to float16."""
    return weights.astype(np.float16).astype(np.float32)


def as_int8(weights: Weights) -> Weights:
    """Each row of a matrix rounded to 255 levels, symmetric about 0, of which the outermost is its largest value;
    vectors, which take next to nothing, stay as they are.
    """
    if weights.ndim < 2:
        return weights.astype(np.float32)
    whole = weights.astype(np.float32)
    scale = np.abs(whole).max(axis=-1, keepdims=True) / 127
    scale[scale == 0] = 1
    rounded: Weights = np.round(whole / scale) * scale
    return rounded


def _bytes_as_float16(weights: Weights) -> int:
    return 2 * int(weights.size)


def _bytes_as_int8(weights: Weights) -> int:
    return int(weights.size) + 4 * int(weights.size // weights.shape[-1]) if weights.ndim > 1 else 4 * int(weights.size)


async def measure_weights(folder: Path, groups: Sequence[GradedGroup]) -> list[StoredAs]:
    """The judge as it is, then with each rounding, on the same groups.

    Raises:
        ConfigError: no such judge.
        RuntimeError: it fails on a group: there is nothing to compare.
    """
    stored = load_file(folder / _FILE)
    (precision,) = {str(weights.dtype) for weights in stored.values()}
    scores = await _scores(folder, groups)
    rows = [_row(f"as stored, {precision}", groups, scores, scores, sum(one.nbytes for one in stored.values()))]
    kinds: list[tuple[str, Callable[[Weights], Weights], Callable[[Weights], int]]] = [
        ("float16", as_float16, _bytes_as_float16),
        ("int8", as_int8, _bytes_as_int8),
    ]
    for name, rounded, num_bytes in kinds:
        with _copy(folder, {key: rounded(weights) for key, weights in stored.items()}) as copy:
            found = await _scores(copy, groups)
        rows.append(_row(name, groups, found, scores, sum(map(num_bytes, stored.values()))))
    return rows


def _row(
    name: str,
    groups: Sequence[GradedGroup],
    scores: Sequence[Sequence[float]],
    before: Sequence[Sequence[float]],
    weight_bytes: int,
) -> StoredAs:
    changes = (abs(a - b) for one, other in zip(scores, before, strict=True) for a, b in zip(one, other, strict=True))
    return StoredAs(name, compared(name, groups, scores), max(changes), weight_bytes)


async def _scores(folder: Path, groups: Sequence[GradedGroup]) -> list[Sequence[float]]:
    judge = EmbeddedJudge(folder)
    try:
        found = [scores_of(result) for result in await judged(judge, groups)]
    finally:
        judge.close()
    known: list[Sequence[float]] = [scores for scores in found if scores is not None]
    if len(known) < len(groups):
        raise RuntimeError(f"{folder}: {len(groups) - len(known)} of {len(groups)} groups have no scores")
    return known


@contextmanager
def _copy(folder: Path, weights: dict[str, Weights]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / folder.name
        shutil.copytree(folder, copy)
        save_file(weights, copy / _FILE)
        yield copy
