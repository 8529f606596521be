"""Where checked replies are kept: what an entry is, and what a store must do.

A store holds texts by key and hands out leases; what a key means and when to ask is the business of `judges.cache`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, fields
from typing import Any, Protocol

from ruler.types import JudgeReply, Usage

_ENTRY_VERSION = 1
_USAGE = tuple(field.name for field in fields(Usage))
_LATEST = 253_370_764_800.0


class StoreError(Exception):
    """The store cannot be read or written now; says where it is and why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One kept reply."""

    judge: str
    """Name of the judge that gave it."""
    created_at: float
    """Unix seconds."""
    reply: JudgeReply
    """As it came, with what it took then."""

    def to_json(self) -> str:
        """The entry as ASCII JSON text."""
        reply = self.reply
        record = {
            "version": _ENTRY_VERSION,
            "judge": self.judge,
            "created_at": self.created_at,
            "text": reply.text,
            "model": reply.model,
            "usage": {name: getattr(reply.usage, name) for name in _USAGE},
            "latency_seconds": reply.latency_seconds,
            "finish_reason": reply.finish_reason,
            "distributions": reply.distributions,
        }
        return json.dumps(record, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Entry:
        """The entry that `to_json` wrote.

        Raises:
            ValueError: it is something else, or half of it.
        """
        try:
            return cls._read(json.loads(text))
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"not an entry: {error!r}") from error

    @classmethod
    def _read(cls, record: Any) -> Entry:
        if record["version"] != _ENTRY_VERSION:
            raise ValueError(f"version: expected {_ENTRY_VERSION}, got {record['version']!r:.40}")
        for name, kind in (("judge", str), ("text", str), ("model", str), ("finish_reason", str | None)):
            if not isinstance(record[name], kind):
                raise ValueError(f"{name}: got {record[name]!r:.40}")
        usage = Usage(**record["usage"])
        numbers = {name: getattr(usage, name) for name in _USAGE}
        numbers |= {name: record[name] for name in ("created_at", "latency_seconds")}
        for name, number in numbers.items():
            if not (name == "cost_usd" and number is None):
                _check_number(name, number)
        if record["created_at"] > _LATEST:
            raise ValueError(
                f"created_at: expected Unix seconds before the year 9999, got {record['created_at']!r:.40}"
            )
        distributions = record["distributions"]
        reply = JudgeReply(
            text=record["text"],
            model=record["model"],
            usage=usage,
            latency_seconds=record["latency_seconds"],
            finish_reason=record["finish_reason"],
            distributions=None if distributions is None else _read_distributions(distributions),
        )
        return cls(record["judge"], record["created_at"], reply)


def _read_distributions(record: Any) -> dict[str, dict[int, float]]:
    for shares in record.values():
        for share in shares.values():
            _check_number("distributions", share)
    # JSON has no integer keys.
    return {label: {int(score): share for score, share in shares.items()} for label, shares in record.items()}


def _check_number(name: str, value: object) -> None:
    # The largest float: a longer integer can be read, and fails at the first sum.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= sys.float_info.max:
        raise ValueError(f"{name}: expected a number of at least 0, got {value!r:.40}")


def key_bytes(key: str) -> bytes:
    """The 32 bytes that a key stands for.

    Raises:
        ValueError: it is not 64 hexadecimal digits in lower case.
    """
    if not re.fullmatch("[0-9a-f]{64}", key):
        raise ValueError(f"key: expected 64 hexadecimal digits, got {key!r:.80}")
    return bytes.fromhex(key)


class Store(Protocol):
    """Texts by key, shared by every process that opens the same place. Safe from several event loops and threads.

    Every method raises StoreError when the place cannot be read or written, and ValueError for a key that is not 64
    hexadecimal digits in lower case or a text that is not Unicode. What `put` was awaited for is still there after a
    kill -9 of this process.
    """

    @property
    def location(self) -> str:
        """Where it is, for messages: a path or an address, without secrets."""

    async def get(self, key: str) -> str | None:
        """The text under this key."""

    async def put(self, key: str, text: str, *, created_at: float) -> None:
        """Keeps the text, in place of what was there, and gives back this store's lease on the key.

        It goes on when the caller is cancelled.
        """

    async def lease(self, key: str) -> bool:
        """Whether the caller now has the right to ask this question, until `put` or `release`.

        False while anybody has it: another process, or another caller in this one. It is renewed as long as this
        process lives, and free again seconds after the process has died.
        """

    async def release(self, key: str) -> None:
        """Gives the lease back with nothing to keep; nothing happens when there is none."""

    def entries(self) -> AsyncIterator[tuple[str, str]]:
        """Every (key, text), in any order, one at a time; entries that come or go meanwhile may be missed."""

    async def add(self, key: str, text: str, *, created_at: float) -> bool:
        """Keeps the text unless the key is there already; whether it was kept."""

    async def delete(self, *, older_than: float | None = None) -> int:
        """Removes the entries created before this time (Unix seconds), None: all; how many they were."""

    async def size_bytes(self) -> int:
        """What the entries take where they are kept."""

    async def close(self) -> None:
        """Gives back leases and connections; the store opens again at the next use."""
