"""Trajectories judged by a real `ruler serve`: no judge, no key and no LiteLLM in the trainer's process."""

from __future__ import annotations

from ruler import Client
from ruler.adapters.art import GroupJudge, ruler_score_group
from tests.frameworks.art.made import group
from tests.service.running import serving


async def test_a_service_judges_and_a_judge_that_fails_drops_the_group() -> None:
    with serving("--judge", "simulated?noise=0", "--cache", "off") as running:
        judge = GroupJudge(Client(running.url))
        scored = await judge(group("Oslo", "Oslo, " * 400))
        assert scored is not None
        short, long = scored.trajectories
        assert short.reward > long.reward
        assert short.metrics["ruler_score"] == short.reward
        assert await ruler_score_group(group("Oslo", "Rome"), Client(running.url)) is not None
    with serving("--judge", "simulated?failure=1", "--cache", "off") as running:
        judge = GroupJudge(Client(running.url, attempts=1))
        assert await judge(group("Oslo", "Rome")) is None
        assert judge.num_dropped == 1
