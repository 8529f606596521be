"""Rewards by a judge that a SPEC names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ruler.config import load_judges, read_settings
from ruler.orders import Orders
from ruler.rewards import Rewards
from ruler.scoring import Ruler
from ruler.truth_lookup import TruthLookup
from trainer.rewards import RewardFunction, by_judge
from trainer.tasks import Task


@asynccontextmanager
async def judged(
    spec: str, task: Task, rewards: Rewards, *, orders: Orders, cache: str | None
) -> AsyncIterator[tuple[RewardFunction, Ruler]]:
    """Rewards by this judge with the task's rubric, and the ruler that asks it; the judge is closed at the end.

    Args:
        spec: as in docs/judges.md; a simulated judge that is not told what to value goes by truth, which is known here.
        task: whose rubric.
        rewards: how scores and rules make a reward.
        orders: in how many the judge reads each group.
        cache: where its answers are kept, as `ruler score` has it; None: where that keeps them.

    Raises:
        ConfigError: the judge or the cache cannot be had.
    """
    truth = TruthLookup()
    loaded = load_judges(read_settings(judge=_with_truth(spec), cache=cache), truth=truth)
    try:
        ruler = truth.ruler = Ruler(loaded.judges, rubric=task.rubric, orders=orders)
        yield by_judge(ruler.score_many, rewards, truth=truth), ruler
    finally:
        await loaded.close()


def _with_truth(spec: str) -> str:
    kind, _, options = spec.partition("?")
    if kind.strip() != "simulated" or "quality=" in options:
        return spec
    return f"simulated?quality=truth{'&' if options else ''}{options}"
