"""Batches for models that read rows side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_Row = TypeVar("_Row")


def like_length(rows: Iterable[_Row], num_tokens: Callable[[_Row], int], max_tokens: int) -> Iterator[list[_Row]]:
    """The rows in batches, shortest first: rows of like length need little padding, and padding is read, too.

    A batch takes at most `max_tokens`, which is its number of rows times the length of the longest; a single row may
    take more. No rows make no batch.
    """
    batch: list[_Row] = []
    for row in sorted(rows, key=num_tokens):
        if batch and (len(batch) + 1) * num_tokens(row) > max_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
