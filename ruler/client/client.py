"""The client: what users call."""

from __future__ import annotations

import asyncio
import math
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from ruler.background import run_in_background
from ruler.client.connections import Connections, load_httpx
from ruler.client.join import JoinedScore, Joining, body_of, read_place
from ruler.client.replies import UNKNOWN, Patience, Reply
from ruler.client.sender import Sender
from ruler.errors import ConfigError, GroupError, JudgeError, RulerError
from ruler.records import group_record
from ruler.results import json_line, read_result
from ruler.stream import check_item, settle_all
from ruler.types import FailedGroup, Group, Rollout, ScoredGroup, Usage


class Client:
    """Scores groups as `Ruler` does, by a service. Safe for concurrent use, in any number of event loops and threads.

    Connections are opened when they are first wanted, for each process and event loop its own; they are closed when
    the loop ends (`asyncio.run` does what it takes) or by `aclose`. A forked child leaves those of its parent alone. A
    pickled client carries its settings only: not the key, and neither clock, sleep nor jitter.

    What got lost, and what the service had no room for (429, 503), is sent again, with growing pauses. That is safe:
    the service answers the same content from its cache, and a rollout that has its place in a group takes no second.
    Redirects are not followed, because the key would go with them. Proxies are those of the environment, as httpx
    reads them.

    What is raised is what `Ruler` raises, with the server's address in front of the message. The `usage` of an error
    and of a result has all attempts in it; its cost is None where an attempt got lost and nobody knows.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        judge: str | None = None,
        rubric: str | None = None,
        api_key_env: str = "RULER_API_KEY",
        timeout_seconds: float = 900.0,
        attempts: int = 10,
        concurrency: int = 64,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Makes a client; nothing is sent, and httpx is not loaded yet.

        Args:
            base_url: the service's address, such as `http://judge:8000`; None: that in RULER_URL.
            judge: name under which the service knows the judge; None: its default.
            rubric: name under which the service knows the rubric; None: its default.
            api_key_env: name of the environment variable with the bearer key. It is read for each request; without a
                value no key is sent.
            timeout_seconds: how long `score` and `join` take at most, from when they are first sent. It should be
                longer than what the service waits for rollouts and for the judge: 600 s and 300 s unless set otherwise.
            attempts: how often a request is sent at most that got lost, or failed with 503. Where the service works
                and says when to come again (a rate limit, a full queue, a restart), only the time counts.
            concurrency: how many groups `score` and `score_many` have under way in an event loop. Rollouts that wait
                for their siblings in `join` take no place, and are sent as they come, a few at once.
            clock: seconds that never go back.
            sleep: waits so many seconds.
            jitter: a number in [0, 1).

        Raises:
            ConfigError: no address, one that is none, or a value out of range.
        """
        for name, value in (("judge", judge), ("rubric", rubric)):
            if not isinstance(value, str | None) or value == "":
                raise ConfigError(f"{name}: expected a name, got {value!r:.80}")
        if not isinstance(api_key_env, str) or not api_key_env:
            raise ConfigError(f"api_key_env: expected the name of an environment variable, got {api_key_env!r:.80}")
        if (
            isinstance(timeout_seconds, bool)
            or not isinstance(timeout_seconds, int | float)
            or not 0 < timeout_seconds < math.inf
        ):
            raise ConfigError(f"timeout_seconds: expected a positive number, got {timeout_seconds!r:.80}")
        for name, count in (("attempts", attempts), ("concurrency", concurrency)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ConfigError(f"{name}: expected a whole number of at least 1, got {count!r:.80}")
        self._judge = judge
        self._rubric = rubric
        self._concurrency = concurrency
        names = {"judge": judge, "rubric": rubric}
        self._sender = Sender(
            Connections(_read_url(base_url), api_key_env, concurrency=concurrency),
            Patience(attempts, timeout_seconds, clock, sleep, jitter),
            {name: value for name, value in names.items() if value is not None},
        )

    async def score(self, group: Group) -> ScoredGroup:
        """The group's scores, in the caller's order, as `Ruler.score` gives them.

        Raises:
            GroupError: no group, one that JSON cannot hold, or one that the service refuses.
            PackingError: the group does not fit the judge's window.
            BudgetExceeded: the service's cap is reached.
            ConfigError: a wrong address, key, judge or rubric; httpx is not installed.
            JudgeUnavailable: no answer in time, or none now.
            JudgeError: no usable reply of the judge (JudgeRejected, ReplyError), or of the server.
        """
        check_item(group, "group")
        content = json_line(group_record(group))
        sender = self._sender
        async with (await sender.connections.here()).scores:
            deadline = sender.patience.deadline()
            post = partial(sender.post, "/v1/score", deadline, group_id=group.id, content=content)
            reply, spent = await sender.patience.ask(post, deadline)
        return _read_scored(reply, group, spent)

    async def score_many(self, groups: Iterable[Group]) -> list[ScoredGroup | FailedGroup]:
        """One result per group, in the given order; a failure is a FailedGroup and disturbs no other.

        After BudgetExceeded nothing more is asked and the remaining groups fail with the reason "budget". When this
        call is cancelled, so are all requests in flight.

        A FailedGroup says what is known here: `judge` and `rubric` are the names chosen, "" for the service's default;
        `prompt_version` is "", `orders` is 0 and `adaptive` False, because only the service knows them.

        Raises:
            GroupError: an item is no Group; nothing has been asked then.
            ConfigError: httpx is not installed.
        """
        load_httpx()
        groups = list(groups)
        for place, group in enumerate(groups):
            check_item(group, f"groups[{place}]")
        results: dict[int, ScoredGroup | FailedGroup] = {}
        async with aclosing(settle_all(groups, self._settle, self._failed, concurrency=self._concurrency)) as stream:
            async for index, result in stream:
                results[index] = result
        return [results[index] for index in range(len(groups))]

    async def join(
        self,
        rollout: object,
        *,
        group_id: str,
        group_size: int,
        rollout_id: str | int | None = None,
        attempt: int = 0,
        task: object = None,
        tools: object = None,
        reference: object = None,
    ) -> JoinedScore:
        """The rollout's score, once its siblings are in, whoever sends them, and the group is judged.

        It is sent once and then asked for, so that rollouts that wait never keep their siblings from being sent. When
        the service forgets it, as by a restart, it is sent again; the group meets anew as long as all its rollouts are
        waited for.

        Args:
            rollout: a `Rollout`, or its messages in any form (then with `rollout_id`): the whole conversation, or what
                comes after `task`.
            group_id: the same for all rollouts of the group, and no other group's: a task that is tried again in a
                later step is another group.
            group_size: how many rollouts the group has.
            rollout_id: unique within the group; None: the Rollout's own.
            attempt: 0, 1, … where a group is begun anew; a newer one makes older ones fail.
            task: the messages that every rollout was given; a plain string is one user message.
            tools: tool definitions that all rollouts had; None: the Rollout's own. The service knows those of a group
                only.
            reference: a reference answer, as text or JSON.

        Raises:
            GroupError: a value that is none of these, another rollout under this id, or a newer attempt.
            JudgeUnavailable: siblings, judge or service took too long.
            RulerError: as `score`.
        """
        if isinstance(rollout, Rollout):
            if rollout_id is not None:
                raise GroupError(f"rollout_id: {rollout_id!r:.80} for a Rollout, which has its own: {rollout.id!r:.80}")
            place = read_place(group_id, group_size, rollout.id, attempt)
        else:
            place = read_place(group_id, group_size, rollout_id, attempt)
            rollout = Rollout.of(place.rollout_id, rollout)
        content = body_of(place, rollout, task=task, tools=tools, reference=reference)
        here = await self._sender.connections.here()
        return await Joining(self._sender, here, place, content, self._sender.patience.deadline()).score()

    def score_sync(self, group: Group) -> ScoredGroup:
        """`score` for code that is not async; it runs on one event loop in a background thread."""
        return run_in_background(self.score(group))

    def score_many_sync(self, groups: Iterable[Group]) -> list[ScoredGroup | FailedGroup]:
        """`score_many` for code that is not async."""
        return run_in_background(self.score_many(groups))

    def join_sync(
        self,
        rollout: object,
        *,
        group_id: str,
        group_size: int,
        rollout_id: str | int | None = None,
        attempt: int = 0,
        task: object = None,
        tools: object = None,
        reference: object = None,
    ) -> JoinedScore:
        """`join` for code that is not async. It blocks: siblings come from other threads or processes."""
        return run_in_background(
            self.join(
                rollout,
                group_id=group_id,
                group_size=group_size,
                rollout_id=rollout_id,
                attempt=attempt,
                task=task,
                tools=tools,
                reference=reference,
            )
        )

    async def aclose(self) -> None:
        """Closes the connections of the running event loop; the next call opens new ones."""
        await self._sender.connections.close_here()

    def __repr__(self) -> str:
        settings = self._settings()
        url = settings.pop("base_url")
        return (
            f"Client({url!r}{''.join(f', {name}={value!r}' for name, value in settings.items() if value is not None)})"
        )

    def __reduce__(self) -> tuple[Callable[[], Client], tuple[()]]:
        return partial(Client, **self._settings()), ()

    def _settings(self) -> dict[str, Any]:
        return {
            "base_url": self._sender.connections.url,
            "judge": self._judge,
            "rubric": self._rubric,
            "api_key_env": self._sender.connections.api_key_env,
            "timeout_seconds": self._sender.patience.timeout_seconds,
            "attempts": self._sender.patience.attempts,
            "concurrency": self._concurrency,
        }

    async def _settle(self, group: Group) -> ScoredGroup | FailedGroup:
        try:
            return await self.score(group)
        except RulerError as error:
            return self._failed(group, error)

    def _failed(self, group: Group, error: RulerError) -> FailedGroup:
        return FailedGroup.of(
            group,
            error,
            judge=self._judge or "",
            rubric=self._rubric or "",
            prompt_version="",
            orders=0,
            adaptive=False,
        )


def _read_url(given: object) -> str:
    """The address without a slash at its end."""
    source = "base_url"
    if given is None:
        source, given = "RULER_URL", os.environ.get("RULER_URL", "").strip()
        if not given:
            raise ConfigError("base_url: no address was given, and RULER_URL is not set; try http://127.0.0.1:8000")
    if not isinstance(given, str):
        raise ConfigError(f"{source}: expected an address, got {given!r:.80}")
    try:
        parts = urlsplit(given)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fine = False
    if not fine or not given.isascii() or any(mark in given for mark in "?# "):
        raise ConfigError(f"{source}: expected an address such as http://127.0.0.1:8000, got {_hidden(given)!r:.200}")
    if "@" in parts.netloc:
        raise ConfigError(
            f"{source}: {_hidden(given)!r:.200} has a user or password in it; a key is named by api_key_env"
        )
    return given.rstrip("/")


def _hidden(url: str) -> str:
    """The text without what may be a password in it."""
    address, mark, _ = url.partition("?")
    before, at, after = address.rpartition("@")
    return (f"{before.partition('//')[0]}//***@{after}" if at else address) + (f"{mark}***" if mark else "")


def _read_scored(reply: Reply, group: Group, spent: Usage) -> ScoredGroup:
    try:
        result = read_result(reply.body if reply.status == 200 and reply.body is not None else {})
    except ValueError as error:
        raise JudgeError(
            f"{reply.server}: {reply.status} with what is no result: {error}: {reply.quoted()}", usage=spent + UNKNOWN
        ) from error
    usage = spent + result.usage
    if isinstance(result, FailedGroup):
        raise JudgeError(f"{reply.server}: {result.message}", usage=usage)
    ids = tuple(rollout.id for rollout in group.rollouts)
    got = tuple(score.id for score in result.rollouts)
    if (result.group_id, got, result.rollouts_digest) != (group.id, ids, group.rollouts_digest):
        # A proxy that mixes answers up, or a service of another version, which reads groups otherwise.
        raise JudgeError(
            f"{reply.server}: group {group.id!r:.80}: the result is that of other rollouts, of group "
            f"{result.group_id!r:.80}",
            usage=usage,
        )
    return replace(result, usage=usage)
