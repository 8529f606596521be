"""How good a policy is, on problems that it was not trained on."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from ruler.errors import GroupError
from trainer.environments import Problem
from trainer.episodes import SampledGroup
from trainer.policy import Policy
from trainer.rollouts import Limits, collect
from trainer.seeds import seed_of
from trainer.tasks import Task

_BATCH = 256
"""Attempts that are sampled together: it bounds memory, and more of them is hardly faster on a CPU."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """One measurement: each problem was tried twice, once at temperature 1 and once greedily.

    The two differ: rewards often make a policy surer of what it could do already, which sampling shows and greedy does
    not.
    """

    num_problems: int
    """Those that both attempts were made at: all numbers below are about them."""
    num_broken: int
    """Further ones, left out because an environment failed in one attempt or in both."""
    truth_sampled: float | None
    """Mean truth at temperature 1, in [0, 1]; None where truth is not known."""
    truth_sampled_stderr: float | None
    """Standard error over problems; None without truth, or with one problem."""
    truth_greedy: float | None
    """Mean truth of always the most probable token; None where truth is not known."""
    truth_greedy_stderr: float | None
    """As that of sampled."""
    well_formed: float
    """Share of the sampled attempts that have the form which the task asks for (`Task.well_formed`), in [0, 1]."""
    sampled_tokens: float
    """Mean of the tokens that the policy wrote in an attempt at temperature 1."""


async def measure(policy: Policy, task: Task, num_problems: int, seed: int, device: Executor) -> HeldOut:
    """What the policy makes of the first problems of `Task.held_out`: always the same ones, to compare over a run.

    Args:
        policy: who is measured.
        task: whose problems.
        num_problems: all of them where the task has no more.
        seed: of sampling. With the same weights the same numbers come out.
        device: as in `collect`.

    Raises:
        GroupError: no problem is left, because environments failed.
    """
    problems = [task.held_out[place] for place in range(min(num_problems, len(task.held_out)))]
    sampled = await attempts(policy, task, problems, temperature=1.0, seed=seed, device=device)
    greedy = await attempts(policy, task, problems, temperature=0.0, seed=seed, device=device)
    # An environment may fail in one attempt alone. What is compared has to be about the same problems.
    tried = {one.problem for one in sampled} & {one.problem for one in greedy}
    if not tried:
        raise GroupError(
            f"task {task.name!r}: none of {len(problems)} problems could be tried both sampled and greedily"
        )
    sampled = [one for one in sampled if one.problem in tried]
    greedy = [one for one in greedy if one.problem in tried]
    truth_sampled, truth_sampled_stderr = mean_truth(sampled)
    truth_greedy, truth_greedy_stderr = mean_truth(greedy)
    return HeldOut(
        num_problems=len(tried),
        num_broken=len(problems) - len(tried),
        truth_sampled=truth_sampled,
        truth_sampled_stderr=truth_sampled_stderr,
        truth_greedy=truth_greedy,
        truth_greedy_stderr=truth_greedy_stderr,
        well_formed=statistics.fmean(task.well_formed(one.group.rollouts[0], one.group) for one in sampled),
        sampled_tokens=statistics.fmean(one.episodes[0].num_sampled for one in sampled),
    )


async def attempts(
    policy: Policy, task: Task, problems: Sequence[Problem], *, temperature: float, seed: int, device: Executor
) -> list[SampledGroup]:
    """One attempt at each problem, in order, without those whose environment failed.

    Raises:
        GroupError: the environments of all problems failed.
    """
    found: list[SampledGroup] = []
    failure = "no problems"
    for first in range(0, len(problems), _BATCH):
        groups = await collect(
            policy,
            list(enumerate(problems[first : first + _BATCH], start=first)),
            group_size=1,
            limits=Limits(task.max_turn_tokens, task.max_turns),
            temperature=temperature,
            # Another one for each batch, or all would have the same luck.
            seed=seed_of(seed, "held out", first),
            device=device,
            name=f"measured-{first}",
        )
        for group in groups:
            if isinstance(group, SampledGroup):
                found.append(group)
            else:
                failure = group.message
    if not found:
        raise GroupError(f"task {task.name!r}: none of {len(problems)} problems could be tried: {failure}")
    return found


def mean_truth(groups: Sequence[SampledGroup]) -> tuple[float | None, float | None]:
    """Mean truth of groups of one attempt and its standard error, each None where it is not known."""
    truths = [group.episodes[0].truth for group in groups]
    known = [truth for truth in truths if truth is not None]
    if not known or len(known) < len(truths):
        return None, None
    error = statistics.stdev(known) / math.sqrt(len(known)) if len(known) > 1 else None
    return statistics.fmean(known), error
