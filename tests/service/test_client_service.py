"""The client against the real service, in processes of their own."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from ruler.client import Client, JoinedScore
from ruler.errors import ConfigError, GroupError
from ruler.records import group_record, read_groups
from ruler.results import json_line
from ruler.scoring import Ruler
from ruler.types import Group, Rollout, Usage
from tests.service.running import Running, serving
from tests.test_records import groups

pytestmark = pytest.mark.slow
SPEC = "simulated?noise=0"
OPTIONS = ("--judge", SPEC, "--cache", "off")


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(*OPTIONS) as running:
        yield running


def rollouts(n: int) -> list[Rollout]:
    return [Rollout.of(f"r{k}", f"answer {n} " + "word " * k) for k in range(4)]


def group(n: int) -> Group:
    return Group.of(rollouts(n), task=f"question {n}", id=f"g{n}")


async def test_the_service_gives_what_the_library_gives(running: Running, examples: Path) -> None:
    many = [found for found in read_groups(str(examples)) if isinstance(found, Group)]
    local = await Ruler(SPEC).score_many(many)
    served = await Client(running.url).score_many(many)
    assert [replace(one, usage=Usage()) for one in served] == [replace(one, usage=Usage()) for one in local]


@given(group=groups())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_group_is_judged_as_it_is(running: Running, group: Group) -> None:
    # The client refuses a result that is not of these very rollouts.
    try:
        json_line(group_record(group))
    except GroupError:
        return
    if len(group.rollouts) == 1:
        with pytest.raises(GroupError, match="rollouts: only one"):
            Client(running.url).score_sync(group)
        return
    scored = Client(running.url).score_sync(group)
    assert scored.group_digest == group.digest


async def test_rollouts_meet(running: Running) -> None:
    client = Client(running.url)

    async def one(rollout: Rollout, n: int) -> JoinedScore:
        return await client.join(rollout, group_id=f"g{n}", group_size=4, task=f"question {n}")

    found = await asyncio.gather(*(one(rollout, n) for n in range(60) for rollout in rollouts(n)))
    expected = await Ruler(SPEC).score_many([group(n) for n in range(60)])
    assert [one.score for one in found] == [score for result in expected for score in result.rollouts]  # type: ignore[union-attr]
    with pytest.raises(GroupError, match=f"^{running.url}: .*g0"):
        await client.join("something else", rollout_id="r0", group_id="g0", group_size=4, task="question 0")


async def test_names_that_the_service_does_not_know(running: Running) -> None:
    for client in (Client(running.url, judge="careful"), Client(running.url, rubric="support")):
        with pytest.raises(ConfigError, match=f"^{running.url}: .*(careful|support)"):
            await client.score(group(1))
        with pytest.raises(ConfigError, match=f"^{running.url}: .*(careful|support)"):
            await client.join("a", rollout_id="a", group_id="g", group_size=2)
    with pytest.raises(ConfigError, match="/nowhere/v1/score"):
        await Client(running.url + "/nowhere").score(group(1))


async def test_rollouts_that_wait_survive_a_service_that_is_killed() -> None:
    with serving(*OPTIONS) as first:
        client = Client(first.url, attempts=10_000, jitter=lambda: 0.01)
        waiting = [
            asyncio.create_task(client.join(rollout, group_id=f"g{n}", group_size=4, task=f"question {n}"))
            for n in range(20)
            for rollout in rollouts(n)[1:]
        ]
        here = await client._sender.connections.here()
        while len(here.asking) < 20:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        first.stop(signal.SIGKILL)
        with serving(*OPTIONS, port=first.port):
            last = [
                client.join(rollouts(n)[0], group_id=f"g{n}", group_size=4, task=f"question {n}") for n in range(20)
            ]
            found = await asyncio.gather(*last, *waiting)
    expected = await Ruler(SPEC).score_many([group(n) for n in range(20)])
    scores = {(result.group_id, score.id): score for result in expected for score in result.rollouts}  # type: ignore[union-attr]
    assert {(one.group_id, one.score.id): one.score for one in found} == scores
