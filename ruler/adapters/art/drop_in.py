"""ART's RULER functions, by their names and signatures, over this judge (openpipe-art 0.5.18, art/rewards/ruler.py)."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ruler.adapters.art.groups import group_of, with_rewards
from ruler.adapters.art.judge import reward_group, reward_trajectories
from ruler.adapters.art.spec import spec_of
from ruler.adapters.rewarded import RewardedGroup
from ruler.adapters.rewarder import Rewarder, Scorer
from ruler.errors import BudgetExceeded, ConfigError, RulerError
from ruler.rubric import DEFAULT_RUBRIC, Rubric
from ruler.scoring import Ruler
from ruler.types import Judge, Rollout

if TYPE_CHECKING:
    from art import TrajectoryGroup
    from art.rewards.ruler import TrajectoryScore

_TIED = "All trajectories read the same: the judge was not asked, and 0.5 is no verdict."


async def ruler(
    message_lists: list[list[Any]],
    judge_model: str | Judge | Scorer = "openai/o3",
    extra_litellm_params: dict[str, object] | None = None,
    rubric: str | Rubric = DEFAULT_RUBRIC,
    tools: list[Any] | None = None,
    *,
    debug: bool = False,
) -> list[TrajectoryScore]:
    """One score for each message list, in their order; no lists, no scores.

    Lists that all read the same get 0.5 each, without a question, and an explanation that says so.

    Args:
        message_lists: whole conversations, of messages or choices in any form, that begin with the same message.
        judge_model: a SPEC (docs/judges.md), a judge, or a `Ruler` or `Client`, which have a rubric of their own.
        extra_litellm_params: for a SPEC: temperature, top_p, max_tokens, seed, reasoning_effort, timeout, and api_base
            for an OpenAI-compatible server. Other settings stand in the SPEC: `openai/o3?requests_per_minute=100`.
        rubric: what to value.
        tools: definitions of the tools that all had.
        debug: write ids, scores and explanations to standard error, as one line of JSON.

    Raises:
        GroupError: they cannot be read.
        JudgeError: there are no scores; the message says why. A single list is never scored: it compares with nothing.
        BudgetExceeded: the cap is reached.
        ConfigError: a judge, parameter or rubric that cannot be used.
    """
    if not message_lists:
        return []
    rewarder = _rewarder(judge_model, extra_litellm_params, rubric)
    rollouts = [Rollout.of(str(place), messages) for place, messages in enumerate(message_lists, 1)]
    try:
        from art.rewards.ruler import TrajectoryScore
    except ImportError as error:
        raise ConfigError(f"ART's results need ART ({error}): pip install 'ruler-judge[art]'") from error
    scores = _scores(await reward_group(rewarder, group_of(rollouts, tools=tools)), debug)
    return [TrajectoryScore(**score) for score in scores]


async def ruler_score_group(
    group: TrajectoryGroup,
    judge_model: str | Judge | Scorer = "openai/o3",
    extra_litellm_params: dict[str, object] | None = None,
    rubric: str | Rubric = DEFAULT_RUBRIC,
    *,
    swallow_exceptions: bool = False,
    debug: bool = False,
) -> TrajectoryGroup | None:
    """A copy of the group whose rewards are the judge's scores, as `GroupJudge` makes it; the group stays as it was.

    Args:
        group: the trajectories.
        judge_model: as in `ruler`.
        extra_litellm_params: as in `ruler`.
        rubric: what to value.
        swallow_exceptions: None, and a warning in the log, for a group that cannot be read or scored. What stops every
            group, a reached cap or a wrong setting, is raised all the same.
        debug: as in `ruler`.

    Raises:
        GroupError, JudgeError, BudgetExceeded, ConfigError: as `ruler`.
    """
    rewarder = _rewarder(judge_model, extra_litellm_params, rubric)
    if not group.trajectories:
        return group
    try:
        rewarded = await reward_trajectories(rewarder, group)
    except (BudgetExceeded, ConfigError):
        raise
    except RulerError:
        if swallow_exceptions:
            return None
        raise
    _scores(rewarded, debug)
    return with_rewards(group, rewarded)


def _rewarder(judge_model: object, params: Mapping[str, object] | None, rubric: str | Rubric) -> Rewarder:
    if isinstance(judge_model, str):
        return _of_spec(spec_of(judge_model, params or {}), rubric)
    if params:
        raise ConfigError(f"extra_litellm_params: {', '.join(params)}: only a SPEC takes them, got {judge_model!r:.80}")
    if not hasattr(judge_model, "score_many"):
        return Rewarder(Ruler(judge_model, rubric=rubric))  # type: ignore[arg-type]
    if rubric is not DEFAULT_RUBRIC:
        raise ConfigError(f"rubric: {judge_model!r:.80} has its own; leave it out here")
    return Rewarder(judge_model)


@lru_cache(maxsize=64)
def _of_spec(spec: str, rubric: str | Rubric) -> Rewarder:
    """One for all calls of this process: they share its limits, its cap, and questions in flight."""
    return Rewarder(Ruler(spec, rubric=rubric))


def _scores(rewarded: RewardedGroup, debug: bool) -> list[dict[str, Any]]:
    tied = rewarded.result.status == "tied"
    scores = [
        {"trajectory_id": rollout.id, "explanation": _TIED if tied else note or "", "score": score}
        for rollout, note, score in zip(rewarded.group.rollouts, rewarded.notes, rewarded.numbers(), strict=True)
    ]
    if debug:
        sys.stderr.write(json.dumps(scores, ensure_ascii=False) + "\n")
    return scores
