"""What teacher and student say of groups. A group that one of them fails on has no scores, and is counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing

from ruler.errors import ConfigError, JudgeError
from ruler.evaluation import scores_of
from ruler.rubric import Rubric
from ruler.scoring import Ruler
from ruler.types import FailedGroup, Judge, ScoredGroup
from trainer.distill.lessons import Material
from trainer.distill.teacher_figures import Scores

_MAX_FAILED_SHARE = 0.5
"""Of the groups that the teacher is asked about."""


async def student_scores(judge: Judge, material: Sequence[Material], rubric: Rubric) -> dict[Material, Scores]:
    """What the student says of these groups, in the order of their rollouts; those it cannot score are not in it.

    Raises:
        ConfigError: its weights cannot be loaded.
        JudgeError: it cannot score any of them.
    """
    results = await Ruler(judge, rubric=rubric).score_many(item.labelled.group for item in material)
    scored = {
        item: scores
        for item, result in zip(material, results, strict=True)
        if (scores := scores_of(result)) is not None
    }
    failed = [result for result in results if isinstance(result, FailedGroup)]
    for result in failed:
        if result.reason == ConfigError.code:
            raise ConfigError(result.message)
    if not scored:
        raise JudgeError(f"student: it cannot score any held-out group; the first: {failed[0].message}")
    return scored


async def teacher_scores(
    asker: Ruler, material: Sequence[Material], show: Callable[[str], None]
) -> dict[Material, Mapping[str, float]]:
    """What the teacher says of the groups that it has scores for: rollout id -> score in [0, 1].

    Raises:
        JudgeError: it has none for more than half of them; names the first reason.
    """
    results: dict[int, ScoredGroup | FailedGroup] = {}
    async with aclosing(asker.score_stream(item.labelled.group for item in material)) as stream:
        async for place, result in stream:
            results[place] = result
            if 10 * len(results) // len(material) > 10 * (len(results) - 1) // len(material):
                show(f"teacher: {len(results)} of {len(material)} groups asked")
    failed = [result for _, result in sorted(results.items()) if isinstance(result, FailedGroup)]
    if failed:
        first = f"group {failed[0].group_id!r}: {failed[0].reason}: {failed[0].message}"
        fault = f"teacher {asker.judge_name}: no scores for {len(failed)} of {len(material)} groups; the first, {first}"
        if len(failed) > _MAX_FAILED_SHARE * len(material):
            raise JudgeError(fault)
        show(fault)
    return {
        material[place]: {score.id: score.score for score in result.rollouts if score.score is not None}
        for place, result in results.items()
        # Shown in its own way, a group may be tied for the teacher and not for the student: then nobody scored it.
        if isinstance(result, ScoredGroup) and result.status == "scored"
    }
