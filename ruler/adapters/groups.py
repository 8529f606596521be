"""Which rows of a trainer's batch are one group, and what the rollouts of a group share."""

from __future__ import annotations

from collections.abc import Sequence

from ruler.errors import ConfigError
from ruler.messages import Message
from ruler.types import Rollout

WHOLE_GROUPS = (
    "Each process asks about its own rows, and these have to be whole groups: make per_device_train_batch_size × "
    "steps_per_generation a multiple of num_generations, and per_device_eval_batch_size one of num_generations_eval"
)
"""The remedy for trainers with these settings of transformers and TRL."""


def split(
    keys: Sequence[object],
    group_size: int | Sequence[int] | None,
    *,
    adjacent: bool = True,
    remedy: str = "",
) -> list[list[int]]:
    """The rows of each group, in the order of their first rows; every row is in exactly one. No rows: no groups.

    A group that is not whole is refused: scores compare, and those of half a group compare with something else.

    Args:
        keys: for each row what it has in common with its siblings: the prompt, or an id.
        group_size: how many rows a group has. Of several sizes the first one that fits the whole batch is taken, so
            the last can hide a group that is not whole; give one where it is known. None: as many as share a key, for
            rows that are not adjacent.
        adjacent: the rows of a group follow each other, and groups with equal keys may, too. Else rows with equal keys
            are one group, wherever they stand.
        remedy: what the user can change; ends the message.

    Raises:
        ConfigError: a group is not whole, or a size is no whole number of at least 1.
    """
    sizes = _read_sizes(group_size, adjacent)
    runs = _runs(keys) if adjacent else _equal(keys)
    if sizes is None:
        return runs
    size = next((size for size in sizes if all(_fits(len(run), size, adjacent) for run in runs)), None)
    if size is None:
        odd = next(run for run in runs if not _fits(len(run), sizes[0], adjacent))
        rows = f"{odd[0]} to {odd[-1]}" if adjacent and len(odd) > 1 else ", ".join(map(str, odd[:8]))
        raise ConfigError(
            f"group_size: {' or '.join(map(str, sizes))} rows are a group, but of {len(keys)} rows {len(odd)} belong "
            f"together (rows {rows}): {keys[odd[0]]!r:.80}" + (f". {remedy}" if remedy else "")
        )
    return [run[first : first + size] for run in runs for first in range(0, len(run), size)]


def _read_sizes(group_size: object, adjacent: bool) -> tuple[int, ...] | None:
    if group_size is None and not adjacent:
        return None
    sizes = tuple(group_size) if isinstance(group_size, Sequence) else (group_size,)
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ConfigError(f"group_size: expected a whole number of at least 1, got {size!r:.80}")
    if not sizes:
        raise ConfigError("group_size: no size is given")
    return sizes


def _fits(num_rows: int, size: int, adjacent: bool) -> bool:
    return num_rows % size == 0 if adjacent else num_rows == size


def _runs(keys: Sequence[object]) -> list[list[int]]:
    runs: list[list[int]] = []
    for row, key in enumerate(keys):
        equal: object = bool(runs) and key == keys[runs[-1][0]]
        if hasattr(equal, "__len__"):
            raise ConfigError(f"keys: row {row}: expected text or messages, got an array: {type(key).__name__}")
        if equal:
            runs[-1].append(row)
        else:
            runs.append([row])
    return runs


def _equal(keys: Sequence[object]) -> list[list[int]]:
    found: dict[str | int, list[int]] = {}
    for row, key in enumerate(keys):
        # 1, 1.0 and True are one key of a dict, and nan is none at all.
        if isinstance(key, bool) or not isinstance(key, str | int):
            raise ConfigError(f"keys: row {row}: expected an id, as text or a whole number, got {key!r:.80}")
        found.setdefault(key, []).append(row)
    return list(found.values())


def opening(rollouts: Sequence[Rollout]) -> list[Message]:
    """The messages that all rollouts were told, and told alike, before any of them answered."""
    shared: list[Message] = []
    for told in zip(*(rollout.messages for rollout in rollouts), strict=False):
        if told[0].role == "assistant" or any(message != told[0] for message in told):
            break
        shared.append(told[0])
    return shared
