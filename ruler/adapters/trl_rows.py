"""Rows of TRL's batches, read into groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ruler.chat_text import read_prompt, read_response
from ruler.errors import ConfigError, GroupError
from ruler.types import Group, Rollout

_NO_COLUMNS = frozenset(("trainer_state", "log_extra", "log_metric", "environments", "completion_ids"))


@dataclass(frozen=True, slots=True)
class Row:
    """One rollout, as the trainer hands it over."""

    prompt: Any
    completion: Any
    columns: Mapping[str, Any]
    """The dataset's, with this row's values."""


def read_rows(
    prompts: Sequence[Any], completions: Sequence[Any], columns: Mapping[str, Any], *, reference: str | None
) -> list[Row]:
    """The batch, row by row.

    Raises:
        ConfigError: a column of another length, or none that is called as the reference.
    """
    kept = {name: values for name, values in columns.items() if name not in _NO_COLUMNS}
    if reference is not None and reference not in kept:
        raise ConfigError(f"reference: no column {reference!r:.80} in the dataset, which has {sorted(kept)!r:.200}")
    for name, values in {"completions": completions, **kept}.items():
        if not isinstance(values, Sequence) or len(values) != len(prompts):
            raise ConfigError(f"{name}: expected a list with an item for each of {len(prompts)} prompts")
    return [
        Row(prompt, completions[row], {name: values[row] for name, values in kept.items()})
        for row, prompt in enumerate(prompts)
    ]


def read_group(rows: Sequence[Row], *, reference: str | None, tools: object) -> Group:
    """The rows of one group. What their prompts share is the task; where they go apart, as with environments, the rest
    of each belongs to its rollout.

    Raises:
        GroupError: something cannot be read.
    """
    asked = [read_prompt(row.prompt) if isinstance(row.prompt, str) else None for row in rows]
    tasks = [read.messages if read else _messages(row.prompt, "prompt") for read, row in zip(asked, rows, strict=True)]
    said = [
        read_response(row.completion, read)
        if isinstance(row.completion, str)
        else _messages(row.completion, "completion")
        for read, row in zip(asked, rows, strict=True)
    ]
    shared = 0
    while all(len(task) > shared and task[shared] == tasks[0][shared] for task in tasks):
        shared += 1
    return Group.of(
        [
            Rollout.of(f"r{place + 1}", [*task[shared:], *messages], metadata=row.columns)
            for place, (task, messages, row) in enumerate(zip(tasks, said, rows, strict=True))
        ],
        task=tasks[0][:shared],
        tools=tools,
        reference=rows[0].columns[reference] if reference is not None else None,
    )


def _messages(value: Any, name: str) -> list[Any]:
    if isinstance(value, Mapping) or not isinstance(value, Sequence):
        raise GroupError(f"{name}: expected text or a list of messages, got {value!r:.80}")
    return list(value)
