"""A store in memory, for tests of what is done with one; two views of one place play two processes."""

from __future__ import annotations

from collections.abc import AsyncIterator

from judges.store import StoreError


class MemoryStore:
    """One process's view of a place. `broken` names the methods that fail."""

    def __init__(self, place: MemoryStore | None = None) -> None:
        self.texts: dict[str, str] = place.texts if place else {}
        self.leases: dict[str, MemoryStore] = place.leases if place else {}
        self.broken: set[str] = set()

    @property
    def location(self) -> str:
        return "memory"

    def _may_fail(self, name: str) -> None:
        if name in self.broken:
            raise StoreError(f"memory: {name} failed")

    async def get(self, key: str) -> str | None:
        self._may_fail("get")
        return self.texts.get(key)

    async def put(self, key: str, text: str, *, created_at: float) -> None:
        self._may_fail("put")
        self.texts[key] = text
        await self.release(key)

    async def lease(self, key: str) -> bool:
        self._may_fail("lease")
        if key in self.leases:
            return False
        self.leases[key] = self
        return True

    async def release(self, key: str) -> None:
        if self.leases.get(key) is self:
            del self.leases[key]

    async def entries(self) -> AsyncIterator[tuple[str, str]]:
        for item in list(self.texts.items()):
            yield item

    async def add(self, key: str, text: str, *, created_at: float) -> bool:
        return self.texts.setdefault(key, text) is text

    async def delete(self, *, older_than: float | None = None) -> int:
        raise NotImplementedError

    async def size_bytes(self) -> int:
        return sum(map(len, self.texts.values()))

    async def close(self) -> None:
        pass
