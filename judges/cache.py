"""No question is paid for twice: over orders, runs, restarts, processes and crashes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import time
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Literal, TypeVar, get_args

from judges.store import Entry, Store, StoreError
from judges.wrapper import JudgeWrapper
from ruler.errors import ConfigError, JudgeError, JudgeRejected, ReplyError, RulerError, describe
from ruler.types import Judge, JudgeInfo, JudgeReply, JudgeRequest, Sampling, Usage, judge_info, with_usage

CacheMode = Literal["use", "refresh", "readonly"]
_KEY_VERSION = 1
_SAMPLING = tuple(field.name for field in fields(Sampling))
_FIRST_LOOK_SECONDS = 0.02
_MAX_LOOK_SECONDS = 0.25
_OUTAGE_PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)

T = TypeVar("T")

_log = logging.getLogger(__name__)


def cache_key(info: JudgeInfo, request: JudgeRequest) -> str:
    """SHA-256 (hex) of what makes a question: backend, address, model, sampling, messages, schema, repeat.

    Two requests with one key are the same question. Labels are in the messages; `check`, `ids` and prices are not
    part of it, and neither is anything secret.
    """
    question = {
        "version": _KEY_VERSION,
        "backend": info.backend,
        "base_url": info.base_url,
        "model": info.model,
        # `dataclasses.asdict` copies deeply, which takes longer than all the rest.
        "sampling": {name: getattr(request.sampling, name) for name in _SAMPLING},
        "messages": request.messages,
        "schema": request.schema,
        "repeat": request.repeat,
    }
    # ASCII: a lone surrogate becomes an escape, where UTF-8 would refuse it.
    text = json.dumps(question, sort_keys=True, separators=(",", ":"), default=dict)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


class CachedJudge(JudgeWrapper):
    """A judge whose usable replies are kept, and whose equal questions in flight are asked once.

    Only a reply that passed `request.check` and was not cut off is kept. What comes out of the store is checked
    again: an entry that cannot be used is a miss, and is overwritten. A judge without `info`, one that is not
    `cacheable` and a request without `check` go past the cache.

    Equal questions share one call, in this process and in all that share the store. Who waits and is cancelled
    leaves the others waiting; when all have gone, so is the call. An error is shared like a reply. Who did not pay
    gets `Usage(cache_hits=1)`, or no usage with an error.

    Args:
        judge: asked when there is no usable reply.
        store: where replies are kept.
        mode: "use"; "refresh": entries older than this object are asked again and overwritten; "readonly": nothing
            is ever asked, a miss is JudgeRejected.
        clock: Unix seconds.
        sleep: waits so many seconds.

    Attributes:
        unreadable: entries met so far that could not be used.
    """

    def __init__(
        self,
        judge: Judge,
        store: Store,
        *,
        mode: CacheMode = "use",
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        super().__init__(judge)
        if mode not in get_args(CacheMode):
            raise ConfigError(f"cache mode: expected one of {', '.join(get_args(CacheMode))}, got {mode!r}")
        self.unreadable = 0
        self._store = store
        self._mode = mode
        self._clock = clock
        self._sleep = sleep
        self._given_up: set[str] = set()
        self._fresh_since = clock() if mode == "refresh" else -math.inf
        self._flights: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Flight]]
        self._flights = weakref.WeakKeyDictionary()

    async def __call__(self, request: JudgeRequest) -> JudgeReply:
        """The reply that is kept for an equal request, else that of the judge inside.

        Raises:
            JudgeError: the store could not be used for 15 seconds: nobody is asked, because the answer may be there
                and paid for. Not JudgeUnavailable, for which a chain would ask the next judge.
            JudgeRejected: the mode is "readonly" and there is no usable entry.
        """
        info = self.info
        readonly = self._mode == "readonly"
        if info is None or not info.cacheable or request.check is None:
            if readonly:
                message = f"{judge_info(self._judge).name}: cannot be cached, and in the mode readonly nothing is asked"
                raise JudgeRejected(message, usage=Usage())
            return await self._judge(request)
        key = cache_key(info, request)
        reply = await self._kept(key, request)
        if reply is not None:
            return reply
        if readonly:
            raise JudgeRejected(
                f"{info.name}: no usable reply in the cache {self._store.location}, and in the mode readonly nothing "
                "is asked",
                usage=Usage(),
            )
        return await self._shared(key, request)

    async def _kept(self, key: str, request: JudgeRequest, *, again: bool = False) -> JudgeReply | None:
        text = await self._patiently("read", lambda: self._store.get(key))
        if text is None:
            return None
        try:
            entry = Entry.from_json(text)
            assert request.check is not None
            request.check(entry.reply.text)
        except (ValueError, ReplyError) as error:
            if not again:
                self.unreadable += 1
                _log.warning("cache %s: entry %s cannot be used: %s", self._store.location, key, error)
            return None
        if entry.created_at < self._fresh_since:
            return None
        return _free(entry.reply)

    async def _shared(self, key: str, request: JudgeRequest) -> JudgeReply:
        flights = self._flights.setdefault(asyncio.get_running_loop(), {})
        flight = flights.get(key)
        if flight is None:
            flight = flights[key] = _Flight(asyncio.create_task(self._lead(key, request)))
            flight.task.add_done_callback(partial(_land, flights, key, flight))
        flight.waiting += 1
        try:
            reply = await asyncio.shield(flight.task)
        except Exception as error:
            if flight.pays():
                raise
            if isinstance(error, RulerError):
                raise with_usage(error, Usage()) from error
            raise JudgeError(f"the judge raised {describe(error)}", usage=Usage()) from error
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                # Out of sight first: who comes now must not join a call that is being given up.
                _land(flights, key, flight)
                flight.task.cancel()
                await asyncio.wait([flight.task])
        return reply if flight.pays() else _free(reply)

    async def _lead(self, key: str, request: JudgeRequest) -> JudgeReply:
        """Asks, unless somebody else is asking, or has asked since we looked."""
        delay = _FIRST_LOOK_SECONDS
        while not await self._patiently("lease", lambda: self._store.lease(key)):
            await self._sleep(delay)
            delay = min(2 * delay, _MAX_LOOK_SECONDS)
            reply = await self._kept(key, request, again=True)
            if reply is not None:
                return reply
        leased = True
        try:
            reply = await self._kept(key, request, again=True)
            if reply is not None:
                return reply
            reply = await self._judge(request)
            # One that was cut off is kept under no name: a higher limit may give a better one.
            if reply.finish_reason != "length" and _passes(request, reply):
                # `put` gives the lease back, and goes on when we are cancelled: to give it back here would let others
                # in before the answer is there.
                leased = False
                leased = not await self._keep(key, reply)
            return reply
        finally:
            if leased:
                with suppress(StoreError):  # it runs out by itself
                    await self._store.release(key)

    async def _patiently(self, what: str, use: Callable[[], Awaitable[T]]) -> T:
        """What the store gives, within a short outage of it: a restart of a server fails no run.

        Raises:
            JudgeError: it gave nothing for so long, or had just failed others for so long.
        """
        for pause in (*_OUTAGE_PAUSES_SECONDS, None):
            try:
                given = await use()
            except StoreError as error:
                if pause is None or what in self._given_up:
                    self._given_up.add(what)
                    raise JudgeError(f"the cache cannot be used: {error}", usage=Usage()) from error
                await self._sleep(pause)
            else:
                self._given_up.discard(what)
                return given
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _keep(self, key: str, reply: JudgeReply) -> bool:
        now = self._clock()
        entry = Entry(judge_info(self._judge).name, now, replace(reply, from_cache=False))
        try:
            await self._store.put(key, entry.to_json(), created_at=now)
        except (StoreError, TypeError, ValueError) as error:
            # The reply is good and paid for: not to be able to keep it is no reason to lose it.
            _log.warning("cache %s: a reply could not be kept: %s", self._store.location, error)
            return False
        return True


@dataclass(eq=False, slots=True)
class _Flight:
    task: asyncio.Task[JudgeReply]
    waiting: int = 0
    paid: bool = False

    def pays(self) -> bool:
        """True for the first one to come back, whoever began: who began may have been cancelled."""
        first, self.paid = not self.paid, True
        return first


def _land(flights: dict[str, _Flight], key: str, flight: _Flight, done: asyncio.Task[JudgeReply] | None = None) -> None:
    if flights.get(key) is flight:
        del flights[key]
    if done and not done.cancelled():
        done.exception()  # everybody who waited may have been cancelled: then nobody else asks for it


def _free(reply: JudgeReply) -> JudgeReply:
    return replace(
        reply,
        usage=Usage(cache_hits=1),
        latency_seconds=0.0,
        from_cache=True,
        paid=reply.paid or reply.usage,
        paid_seconds=reply.paid_seconds if reply.paid else reply.latency_seconds,
    )


def _passes(request: JudgeRequest, reply: JudgeReply) -> bool:
    try:
        assert request.check is not None
        request.check(reply.text)
    except ReplyError:
        return False
    return True
