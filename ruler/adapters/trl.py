"""TRL's GRPOTrainer, RLOOTrainer and AsyncGRPOTrainer: the judge as a reward function.

trainer = GRPOTrainer(model, reward_funcs=reward_function(Ruler("openai/gpt-5-mini"), num_generations=8), …)

The contract is that of TRL 1.6 to 1.16: called by keyword with columns, one list item a row; None for "no score", which
leaves the row out of baselines and gives it an advantage of 0 if no other function scores it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ruler.adapters.groups import WHOLE_GROUPS, split
from ruler.adapters.rewarded import mean_parts
from ruler.adapters.rewarder import Rewarder, Scorer
from ruler.adapters.trl_rows import read_group, read_rows
from ruler.errors import ConfigError, GroupError
from ruler.rewards import Rewards
from ruler.types import Group

_logger = logging.getLogger("ruler.adapters")


@dataclass(frozen=True)
class _Settings:
    rewarder: Rewarder
    num_generations: int
    num_generations_eval: int
    reference: str | None
    tools: object


def reward_function(
    scorer: Scorer,
    *,
    num_generations: int,
    num_generations_eval: int | None = None,
    rewards: Rewards | None = None,
    reference: str | None = None,
    tools: object = None,
) -> Callable[..., Awaitable[list[float | None]]]:
    """An async function for `reward_funcs`, called `judge`: a reward for every row, or None for all rows of a group.

    None has a group that the judge failed or that cannot be read, and one whose rollouts all read the same. Beside
    other reward functions such a group is trained on theirs alone. A plain function is `Blocking(reward_function(…))`
    of `ruler.adapters.rewarder`. Both pickle when the scorer does, as AsyncGRPOTrainer needs it.

    Logged are, as metrics, `judge/failed_groups`, `judge/tied_groups` (counts of a call, which TRL averages over calls
    and processes) and `judge/part_judge`, `judge/part_NAME` for each rule (means over rollouts with rewards; nan for a
    step in which a process has none); in the table of completions `judge_note` and `judge_failure`. AsyncGRPOTrainer
    takes no logs.

    Args:
        scorer: a Ruler or a Client.
        num_generations: as in the trainer's config.
        num_generations_eval: as there; None: the same.
        rewards: how scores and rules make a reward. Rules find the dataset's columns in `rollout.metadata`.
        reference: the column with the reference answer; None: there is none.
        tools: definitions of the tools that the policy has, to be shown to the judge.

    Raises:
        ConfigError: a value out of range. When called: rows that are no whole groups, other numbers of generations than
            in the trainer's config, or no such column; and with BudgetExceeded where no group can be scored any more.
    """
    size_eval = num_generations if num_generations_eval is None else num_generations_eval
    sizes = {"num_generations": num_generations, "num_generations_eval": size_eval}
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ConfigError(f"{name}: expected a whole number of at least 1, got {size!r:.80}")
    # Not an object: up to 1.8 TRL takes only functions and partials of them for async.
    function = partial(judge, _Settings(Rewarder(scorer, rewards), **sizes, reference=reference, tools=tools))
    function.__name__ = "judge"  # type: ignore[attr-defined]  # which these versions want, too
    return function


async def judge(
    settings: _Settings,
    /,
    prompts: Sequence[Any],
    completions: Sequence[Any],
    log_metric: Callable[[str, float], None] | None = None,
    log_extra: Callable[[str, list[Any]], None] | None = None,
    **columns: Any,
) -> list[float | None]:
    """What `reward_function` returns, once it has its settings."""
    # With environments each rollout has its own prompt, and equal prompts tell nothing.
    keys = [None] * len(prompts) if columns.get("environments") is not None else prompts
    rows = read_rows(prompts, completions, columns, reference=settings.reference)
    rewards: list[float | None] = [None] * len(prompts)
    notes: list[str | None] = [None] * len(prompts)
    failures: list[str | None] = [None] * len(prompts)
    readable: list[tuple[list[int], Group]] = []
    num_failed = 0
    for members in split(keys, _sizes(settings, log_metric), remedy=WHOLE_GROUPS):
        try:
            readable.append(
                (members, read_group([rows[i] for i in members], reference=settings.reference, tools=settings.tools))
            )
        except GroupError as error:
            _logger.warning("rows %d to %d: no reward for any rollout: %.500r", members[0], members[-1], str(error))
            num_failed += 1
            for row in members:
                failures[row] = f"{error.code}: {error}"
    rewarded = await settings.rewarder.reward([group for _, group in readable])
    for (members, _), one in zip(readable, rewarded, strict=True):
        for row, reward, note in zip(members, one.optional, one.notes, strict=True):
            rewards[row], notes[row], failures[row] = reward, note, one.failure
    if log_metric is not None:
        log_metric("judge/failed_groups", num_failed + sum(one.failure is not None for one in rewarded))
        log_metric("judge/tied_groups", sum(one.result.status == "tied" for one in rewarded))
        with_rewards = [one for one in rewarded if None not in one.optional]
        for name, mean in mean_parts(with_rewards, settings.rewarder.rewards).items():
            log_metric(f"judge/{name}", mean)
    if log_extra is not None:
        log_extra("judge_note", notes)
        log_extra("judge_failure", failures)
    return rewards


def _sizes(settings: _Settings, log_metric: object) -> tuple[int, ...]:
    # TRL says neither how large its groups are nor whether it evaluates. The trainer whose method this is knows both.
    trainer = getattr(log_metric, "__self__", None)
    model = getattr(trainer, "model", None)
    if model is None:
        return settings.num_generations, settings.num_generations_eval
    name = "num_generations" if model.training else "num_generations_eval"
    size = getattr(settings, name)
    if (theirs := getattr(trainer, name, size)) != size:
        raise ConfigError(
            f"{name}: {size} here, and {theirs} in the trainer's config; make it reward_function(…, {name}={theirs})"
        )
    return (size,)
