"""A store seen from outside: what is in it, how to empty it, how to carry it elsewhere."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from judges.store import Entry, Store, StoreError
from ruler.errors import ConfigError
from ruler.types import Usage

_KEY = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ArchiveStats:
    """What a store holds."""

    location: str
    entries: int
    unreadable: int
    """Those of the entries that cannot be read; each is a miss, and then overwritten."""
    size_bytes: int
    oldest: float | None
    """Unix seconds; None when nothing can be read."""
    newest: float | None
    judges: Mapping[str, tuple[int, Usage]]
    """Judge -> (entries, what they took when they were asked)."""


class Archive:
    """A store's entries as a whole. Every method raises ConfigError when the store cannot be read or written.

    Attributes:
        unreadable: entries that `export` left out so far.
    """

    def __init__(self, store: Store) -> None:
        self.unreadable = 0
        self._store = store

    @property
    def location(self) -> str:
        """Where it is: a path or an address."""
        return self._store.location

    async def stats(self) -> ArchiveStats:
        """Counts everything, which reads everything."""
        counts: dict[str, int] = defaultdict(int)
        usage: dict[str, Usage] = defaultdict(Usage)
        times: list[float] = []
        unreadable = 0
        with _as_config_error():
            async for _, text in self._store.entries():
                try:
                    entry = Entry.from_json(text)
                except ValueError:
                    unreadable += 1
                    continue
                counts[entry.judge] += 1
                usage[entry.judge] += entry.reply.usage
                times = (
                    [min(*times, entry.created_at), max(*times, entry.created_at)] if times else [entry.created_at] * 2
                )
            size_bytes = await self._store.size_bytes()
        return ArchiveStats(
            location=self.location,
            entries=sum(counts.values()) + unreadable,
            unreadable=unreadable,
            size_bytes=size_bytes,
            oldest=times[0] if times else None,
            newest=times[-1] if times else None,
            judges={name: (counts[name], usage[name]) for name in sorted(counts)},
        )

    async def clear(self, *, older_than: float | None = None) -> int:
        """Removes what was kept before this time (Unix seconds), None: everything; how many entries that were."""
        with _as_config_error():
            return await self._store.delete(older_than=older_than)

    async def export(self) -> AsyncIterator[dict[str, Any]]:
        """Every readable entry as a JSON object with its key; prompts are not in it."""
        with _as_config_error():
            async for key, text in self._store.entries():
                if not _is_readable(text):
                    self.unreadable += 1
                    continue
                yield {"key": key, **json.loads(text)}

    async def add(self, record: object) -> bool:
        """Takes what `export` gave, unless a readable entry is there already; whether it was taken.

        Raises:
            ValueError: the record is something else; names the field.
        """
        if not isinstance(record, dict):
            raise ValueError(f"expected an object, got {record!r:.80}")
        fields = dict(record)
        key = fields.pop("key", None)
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise ValueError(f"key: expected 64 hexadecimal digits, got {key!r:.80}")
        text = json.dumps(fields, separators=(",", ":"))
        entry = Entry.from_json(text)
        with _as_config_error():
            if await self._store.add(key, text, created_at=entry.created_at):
                return True
            there = await self._store.get(key)
            if there is not None and _is_readable(there):
                return False
            await self._store.put(key, text, created_at=entry.created_at)
            return True

    async def close(self) -> None:
        """Gives the store back."""
        with _as_config_error():
            await self._store.close()


def _is_readable(text: str) -> bool:
    try:
        Entry.from_json(text)
    except ValueError:
        return False
    return True


@contextmanager
def _as_config_error() -> Iterator[None]:
    try:
        yield
    except StoreError as error:
        raise ConfigError(f"cache: {error}") from error
