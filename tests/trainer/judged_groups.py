"""Groups of one step with their rewards: scored, with equal scores, tied, failed and broken."""

from __future__ import annotations

from typing import Any

from ruler.errors import JudgeUnavailable
from ruler.rewards import Rewards
from ruler.rules import final_answer
from ruler.types import FailedGroup, Group, Rollout, Score, ScoredGroup, Usage
from trainer.episodes import BrokenGroup, Episode, SampledGroup
from trainer.rewards import Rewarded

MADE_BY: dict[str, Any] = {"judge": "j", "rubric": "default", "prompt_version": "1", "orders": 1, "adaptive": False}


def well_formed(rollout: Rollout, group: Group) -> float:
    return float(final_answer(rollout).startswith("<answer>"))


def episode(num_sampled: int, truth: float | None, *, truncated: bool = False, entropy: float = 0.5) -> Episode:
    """Two tokens of a prompt, then sampled ones; what stands where nothing was sampled must not count."""
    return Episode(
        tokens=(1, 2, *range(num_sampled)),
        sampled=(False, False, *(True,) * num_sampled),
        logprobs=(0.0, 0.0, *(-0.5,) * num_sampled),
        entropies=(9.0, 9.0, *(entropy,) * num_sampled),
        truncated=truncated,
        truth=truth,
    )


def sampled(name: str, texts: list[str], episodes: list[Episode]) -> SampledGroup:
    return SampledGroup(7, Group.of(texts, task="2+3?", id=name), tuple(episodes))


def scored(group: Group, scores: list[float | None], usage: Usage, status: Any = "scored") -> ScoredGroup:
    return ScoredGroup(
        group_id=group.id,
        group_digest=group.digest,
        rollouts_digest=group.rollouts_digest,
        status=status,
        rollouts=tuple(
            Score(rollout.id, score, note=None if score is None else f"note on {rollout.id}")
            for rollout, score in zip(group.rollouts, scores, strict=True)
        ),
        usage=usage,
        model="m",
        orders_used=1,
        **MADE_BY,
    )


def judged(group: SampledGroup, result: ScoredGroup | FailedGroup, rewards: Rewards | None = None) -> Rewarded:
    combined = (rewards or Rewards()).combine(group.group, result)
    failure = f"{result.reason}: {result.message}" if isinstance(result, FailedGroup) else None
    return Rewarded(combined, result, failure)


GOOD = sampled(
    "good",
    ["<answer>5", "6", "<answer>7"],
    [episode(2, 1.0, entropy=0.2), episode(4, 0.0, truncated=True, entropy=1.0), episode(3, 0.0, entropy=0.2)],
)
EQUAL = sampled("equal", ["5", "6"], [episode(1, 1.0), episode(1, 0.0)])
SAME = sampled("same", ["5", "5"], [episode(1, 1.0), episode(1, 1.0)])
FAILED = sampled("failed", ["5", "<answer>6"], [episode(10, 1.0), episode(2, 0.0)])
BROKEN = BrokenGroup(3, "broken", "environment: ValueError: no such mail")

GOOD_REWARDED = judged(
    GOOD,
    scored(GOOD.group, [0.9, 0.5, 0.5], Usage(2, 100, 0, 20, 0.25, cache_hits=1, wait_seconds=3.0)),
)
EQUAL_REWARDED = judged(EQUAL, scored(EQUAL.group, [0.4, 0.4], Usage(1, 50, 0, 10, 0.25, wait_seconds=1.0)))
SAME_REWARDED = judged(SAME, scored(SAME.group, [None, None], Usage(), "tied"))
FAILED_REWARDED = judged(
    FAILED, FailedGroup.of(FAILED.group, JudgeUnavailable("503", usage=Usage(3, 0, 0, 0, 0.5, retries=2)), **MADE_BY)
)
GROUPS = [GOOD, EQUAL, SAME, FAILED]
REWARDED = [GOOD_REWARDED, EQUAL_REWARDED, SAME_REWARDED, FAILED_REWARDED]
