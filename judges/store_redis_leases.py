"""The leases of one process in a Redis server: taken and given back by token, and renewed while their loop lives."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from judges.store import StoreError
from judges.store_redis_client import Session, evaluate

LEASE = "ruler:lease:"
"""A key of Redis is this and a key of the store; it holds the token of whoever has the lease."""

# The same token may come twice: a command is sent again when the connection broke before the reply.
_TAKE = """
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
if redis.call('GET', KEYS[1]) == ARGV[1] then return 1 end
return 0"""
_GIVE_BACK = """
for i = 1, #KEYS do
  if redis.call('GET', KEYS[i]) == ARGV[i] then redis.call('DEL', KEYS[i]) end
end"""
_RENEW = """
local kept = {}
for i = 1, #KEYS do
  kept[i] = 0
  if redis.call('GET', KEYS[i]) == ARGV[i + 1] then kept[i] = redis.call('PEXPIRE', KEYS[i], ARGV[1]) end
end
return kept"""


@dataclass(eq=False, slots=True)
class Held:
    """A lease that is held, or may be when its command comes back."""

    key: str
    session: Session
    token: str = field(default_factory=lambda: uuid.uuid4().hex)


class Leases:
    """What this process has leased, in all its event loops."""

    def __init__(self, lease_seconds: float) -> None:
        self._milliseconds = max(1, round(lease_seconds * 1000))
        self._renewal_seconds = lease_seconds / 3
        self._held: dict[str, Held] = {}
        self._timers: dict[Session, asyncio.TimerHandle] = {}

    def get(self, key: str) -> Held | None:
        """That of this key, if we have it."""
        return self._held.get(key)

    def all(self) -> list[Held]:
        """Every one that we have."""
        return list(self._held.values())

    def forget(self, held: Held) -> None:
        """Renews it no more: it is given back, or it runs out."""
        if self._held.get(held.key) is held:
            self._held.pop(held.key, None)

    def forget_all(self) -> None:
        """As `forget`, for those that a fork has brought along."""
        self._held = {}

    async def take(self, session: Session, key: str) -> bool:
        """Whether the key is leased from now on, by somebody in this event loop.

        Raises:
            StoreError: the server cannot say.
        """
        ours = Held(key, session)
        held = self._held.setdefault(key, ours)
        if held is not ours and held.session.loop.is_closed():
            # That one went down with its loop.
            self._held[key] = held = ours
        if held is not ours:
            return False
        task = session.start(self._take(ours))
        try:
            return bool(await asyncio.shield(task))
        except StoreError:
            raise
        except BaseException:
            # Else a lease that nobody knows of would be renewed for as long as this loop lives.
            task.add_done_callback(lambda _: session.start(self._give_back_quietly(session, [ours])))
            raise

    async def give_back(self, session: Session, leases: Collection[Held]) -> None:
        """Frees those that are still ours. Those that cannot be freed run out.

        Raises:
            StoreError: the server cannot be reached.
        """
        for held in leases:
            self.forget(held)
        if leases:
            names = [LEASE + held.key for held in leases]
            await session.ask(partial(evaluate, _GIVE_BACK, names, [held.token for held in leases]))

    async def leave(self, session: Session) -> None:
        """Gives back what was taken in this session, before it is closed."""
        if timer := self._timers.pop(session, None):
            timer.cancel()
        await self._give_back_quietly(session, self._of(session))

    def _of(self, session: Session) -> list[Held]:
        return [held for held in self.all() if held.session is session]

    async def _take(self, held: Held) -> bool:
        command = partial(evaluate, _TAKE, [LEASE + held.key], [held.token, self._milliseconds])
        try:
            taken = bool(await held.session.ask(command))
        except Exception:
            self.forget(held)
            raise
        if taken:
            self._renew_later(held.session)
        else:
            self.forget(held)
        return taken

    async def _give_back_quietly(self, session: Session, leases: Collection[Held]) -> None:
        with suppress(StoreError):
            await self.give_back(session, leases)

    def _renew_later(self, session: Session) -> None:
        if session not in self._timers:
            self._timers[session] = session.loop.call_later(self._renewal_seconds, self._renew_now, session)

    def _renew_now(self, session: Session) -> None:
        del self._timers[session]
        if leases := self._of(session):
            session.start(self._renew(session, leases))

    async def _renew(self, session: Session, leases: Collection[Held]) -> None:
        self._renew_later(session)
        names = [LEASE + held.key for held in leases]
        values = [self._milliseconds, *(held.token for held in leases)]
        with suppress(StoreError):  # there is time for another attempt before they run out
            kept = await session.ask(partial(evaluate, _RENEW, names, values))
            for held, is_ours in zip(leases, kept, strict=True):
                if not is_ours:
                    self.forget(held)
