"""The real `gather_trajectory_groups`, with rollouts that need no model."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

import art
import pytest
from art.metrics import MetricsBuilder

from judges.scripted import ScriptedJudge, scores_reply
from ruler import Group, Ruler
from ruler.adapters.art import GroupJudge, ruler_score_group
from ruler.errors import BudgetExceeded, ConfigError, JudgeUnavailable
from ruler.types import FailedGroup, JudgeRequest, ScoredGroup
from tests.frameworks.art.made import labels, points_judge, trajectory, user_text

POINTS = {"Oslo": 90, "Bergen": 30, "Rome": 10}


async def rollout(answer: str, *, fails: bool = False) -> art.Trajectory:
    await asyncio.sleep(0)
    if fails:
        raise RuntimeError("the environment broke")
    return trajectory(answer, reward=0.25, metadata={"answer": answer})


def outage_for(word: str) -> ScriptedJudge:
    def answer(request: JudgeRequest) -> str | JudgeUnavailable:
        if word in user_text(request):
            return JudgeUnavailable("503: overloaded")
        return scores_reply(labels(request, POINTS))

    return ScriptedJudge(answer)


def rewards(groups: Iterable[art.TrajectoryGroup]) -> list[dict[object, float]]:
    """Answer -> reward: ART puts trajectories in the order in which they finish."""
    return [{one.metadata["answer"]: one.reward for one in group} for group in groups]


async def test_a_failed_group_is_dropped_and_the_others_are_scored(caplog: pytest.LogCaptureFixture) -> None:
    judge = GroupJudge(Ruler(outage_for("Rome")))
    orders = []

    async def after_each(group: art.TrajectoryGroup) -> art.TrajectoryGroup | None:
        scored = await judge(group)
        if scored is not None:
            orders.append([[one.metadata["answer"] for one in each] for each in (group, scored)])
        return scored

    groups = await art.gather_trajectory_groups(
        [
            art.TrajectoryGroup([rollout("Oslo"), rollout("Bergen"), rollout("Oslo, or", fails=True)]),
            art.TrajectoryGroup([rollout("Rome"), rollout("Oslo")]),
            art.TrajectoryGroup([rollout("Bergen"), rollout("Oslo!")]),
        ],
        after_each=after_each,
        max_exceptions=1,
    )
    assert rewards(groups) == [{"Oslo": 0.9, "Bergen": 0.3}, {"Oslo!": 0.9, "Bergen": 0.3}]
    assert all(before == after for before, after in orders)
    assert [one.metrics["independent_reward"] for one in groups[0]] == [0.25, 0.25]
    assert [one.message for one in groups[0].exceptions] == ["the environment broke"]
    assert (judge.num_scored, judge.num_dropped) == (2, 1)
    warnings = [one for one in caplog.records if one.name == "ruler.adapters" and one.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "503: overloaded" in warnings[0].getMessage()


async def test_the_drop_in_drops_too() -> None:
    groups = await art.gather_trajectory_groups(
        (art.TrajectoryGroup([rollout(one), rollout("Oslo")]) for one in ("Rome", "Bergen")),
        after_each=lambda group: ruler_score_group(group, outage_for("Rome"), swallow_exceptions=True),
    )
    assert rewards(groups) == [{"Oslo": 0.9, "Bergen": 0.3}]


@pytest.mark.parametrize("error", [BudgetExceeded("the cap is reached"), ConfigError("no such judge")])
async def test_what_stops_every_group_stops_the_gather(error: BudgetExceeded | ConfigError) -> None:
    judge = ScriptedJudge(lambda _: error)
    for after_each in (
        GroupJudge(Ruler(judge)),
        lambda group: ruler_score_group(group, judge, swallow_exceptions=True),
    ):
        group = art.TrajectoryGroup([rollout("Rome"), rollout("Oslo")])
        with pytest.raises(type(error), match=str(error)):
            await art.gather_trajectory_groups([group], after_each=after_each)


async def test_a_scorer_that_breaks_takes_its_own_group_only(caplog: pytest.LogCaptureFixture) -> None:
    class Breaking:
        def __init__(self) -> None:
            self.ruler = Ruler(points_judge(POINTS))

        async def score_many(self, groups: Iterable[Group], /) -> list[ScoredGroup | FailedGroup]:
            groups = list(groups)
            if "Rome" in str(groups[0].rollouts):
                raise KeyError("oops")
            return await self.ruler.score_many(groups)

    judge = GroupJudge(Breaking())
    groups = await art.gather_trajectory_groups(
        (art.TrajectoryGroup([rollout(one), rollout("Oslo")]) for one in ("Rome", "Bergen")), after_each=judge
    )
    assert len(groups) == 1
    assert judge.num_dropped == 1
    assert "oops" in caplog.text


async def test_rollouts_that_all_failed_are_reported_and_cost_nothing() -> None:
    scripted = points_judge(POINTS)
    groups = await art.gather_trajectory_groups(
        [art.TrajectoryGroup([rollout("Oslo", fails=True), rollout("Rome", fails=True)])],
        after_each=GroupJudge(Ruler(scripted)),
        max_exceptions=2,
    )
    assert [(len(group), len(group.exceptions)) for group in groups] == [(0, 2)]
    assert scripted.requests == []


async def test_cost_and_dropped_groups_are_in_the_metrics_of_the_step() -> None:
    judge = GroupJudge(Ruler(outage_for("Rome")))
    builder = MetricsBuilder("train")
    with builder.activate_context():
        await art.gather_trajectory_groups(
            (art.TrajectoryGroup([rollout(one), rollout("Oslo")]) for one in ("Rome", "Bergen")), after_each=judge
        )
    metrics = await builder.flush()
    assert metrics["judge/dropped_groups"] == 1
    # The one that was answered cost nothing; what the other took nobody knows, and that is not 0.
    assert metrics["costs/train/judge/ruler"] == 0.0
