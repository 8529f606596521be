"""The embedded judge on what policies really write: rollouts sampled on held-out sums, graded and judged."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ruler.errors import GroupError
from trainer.distill.sums.graded_sets import SIZE
from trainer.distill.sums.groups import GradedGroup, graded
from trainer.distill.sums.quality import Attempt, Question
from trainer.episodes import SampledGroup
from trainer.policy import Policy
from trainer.rollouts import Limits, collect
from trainer.seeds import seed_of
from trainer.tasks.arithmetic import arithmetic

_AT_ONCE = 32
"""Problems that are sampled together."""


def sample_groups(folder: Path, num_groups: int, *, seed: int) -> list[GradedGroup]:
    """Groups of 8 that the policy samples at temperature 1 on the first held-out additions, graded.

    Args:
        folder: of a policy, as `trainer.warm_up` and `trainer.train` write it.
        num_groups: at most as many as there are held-out problems.
        seed: of sampling.

    Raises:
        ConfigError: no policy there.
        GroupError: a group could not be sampled.
    """
    return asyncio.run(_sample(Policy.load(str(folder)), num_groups, seed))


async def _sample(policy: Policy, num_groups: int, seed: int) -> list[GradedGroup]:
    task = arithmetic()
    problems = list(enumerate(task.held_out[:num_groups]))
    found: list[GradedGroup] = []
    with ThreadPoolExecutor(1, "device") as device:
        for first in range(0, len(problems), _AT_ONCE):
            sampled = await collect(
                policy,
                problems[first : first + _AT_ONCE],
                group_size=SIZE,
                limits=Limits(task.max_turn_tokens, task.max_turns),
                temperature=1.0,
                seed=seed_of(seed, "embedded judge", first),
                device=device,
                name="sampled",
            )
            for group in sampled:
                if not isinstance(group, SampledGroup):
                    raise GroupError(f"problem {group.problem}: {group.message}")
                found.append(graded_sample(group))
    return found


def graded_sample(sampled: SampledGroup) -> GradedGroup:
    """The group as graded attempts; none pleads, as the tiny policy has no words for it."""
    group = sampled.group
    asked = str(group.task[-1].content[0])
    first, sign, second = asked.partition("+")
    question = Question(sign, int(first), int(second))
    return graded(
        question,
        [
            Attempt("".join(map(str, rollout.messages[-1].content)), cut_off=rollout.finish_reason == "length")
            for rollout in group.rollouts
        ],
    )
