"""ms-swift: the judge as one of its `orms`.

orms["judge"] = orm(Client("http://judge:8000"))      # --external_plugins judge.py --reward_funcs judge

The contract is that of ms-swift 4.6: `orms[name](args=args)` makes the reward function; it is called with the
completions of this process's rows and, by keyword, with columns: `messages` holds the whole conversation, `prompt_id`
is equal for equal prompts, `request_id` for the training samples that one conversation was split into. An async one
runs in a new event loop each time. None is counted as 0 by swift, so it is never returned.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from ruler.adapters.groups import WHOLE_GROUPS, opening, split
from ruler.adapters.rewarded import RewardedGroup, mean_parts, read_failure_reward
from ruler.adapters.rewarder import Rewarder, Scorer
from ruler.errors import ConfigError, GroupError
from ruler.rewards import Rewards
from ruler.types import Group, Rollout

_logger = logging.getLogger("ruler.adapters")
_ROLES = {"tool_call": "assistant", "tool_response": "tool"}
"""swift's own; all others are those of everybody."""
_OF_THE_BATCH = ("trainer_state", "trajectory_inputs")
_NO_METADATA = ("messages", "response_token_ids")


def orm(
    scorer: Scorer,
    *,
    rewards: Rewards | None = None,
    reference: str | None = None,
    failure_reward: float | None = None,
) -> Callable[..., Callable[..., Awaitable[list[float]]]]:
    """What swift makes its reward function `judge` of; that is async and returns a number for every row.

    Args:
        scorer: a Ruler or a Client.
        rewards: how scores and rules make a reward. Rules find the dataset's columns in `rollout.metadata`.
        reference: the column with the reference answer, such as "solution"; None: there is none.
        failure_reward: what all rollouts of a group get that the judge failed; None: the function raises, and the run
            ends.

    Raises:
        ConfigError: a value out of range. When called: rows that are no whole groups, or no such column; and with
            BudgetExceeded where no group can be scored any more. JudgeError: the judge failed. GroupError: a
            conversation cannot be read.
    """
    rewarder, failure_reward = Rewarder(scorer, rewards), read_failure_reward(failure_reward)

    def make(args: Any, **_: Any) -> Callable[..., Awaitable[list[float]]]:
        sizes = _sizes(args)

        async def judge(completions: Sequence[str], **columns: Any) -> list[float]:
            rows = _rows(columns, len(completions), reference)
            # A conversation that was split has one reward: that of its last sample, which holds all of it.
            last = list({row["request_id"]: number for number, row in enumerate(rows)}.values())
            keys = [rows[number]["prompt_id"] for number in last]
            groups = [[last[i] for i in group] for group in split(keys, sizes, remedy=WHOLE_GROUPS)]
            rewarded = await rewarder.reward([_group([rows[i] for i in group], reference) for group in groups])
            by_request = {
                rows[i]["request_id"]: number
                for group, one in zip(groups, rewarded, strict=True)
                for i, number in zip(group, one.numbers(failure_reward), strict=True)
            }
            _log(rewarded, rewarder.rewards)
            return [by_request[row["request_id"]] for row in rows]

        return judge

    return make


def _sizes(args: Any) -> tuple[int, ...]:
    """The sizes that a group can have. swift does not say whether it evaluates."""
    size, size_eval = args.num_generations, args.num_generations_eval or args.num_generations
    if size == size_eval:
        return (size,)
    # Half a group of training may look like one of evaluation, so there must not be any.
    if args.per_device_train_batch_size * args.steps_per_generation % size:
        raise ConfigError(
            f"num_generations: {args.per_device_train_batch_size} × {args.steps_per_generation} rows are no whole "
            f"groups of {size}. {WHOLE_GROUPS}"
        )
    return (size, size_eval)


def _rows(columns: Mapping[str, Any], num_rows: int, reference: str | None) -> list[dict[str, Any]]:
    for name in ("messages", "prompt_id", "request_id", *([reference] if reference else [])):
        # A process without rows has no columns either.
        if num_rows and name not in columns:
            raise ConfigError(f"{name}: no such column; there are {sorted(columns)!r:.200}")
    by_row = {name: values for name, values in columns.items() if name not in _OF_THE_BATCH}
    return [{name: values[row] for name, values in by_row.items()} for row in range(num_rows)]


def _group(rows: Sequence[Mapping[str, Any]], reference: str | None) -> Group:
    rollouts = [
        Rollout.of(
            f"r{number + 1}",
            [{**message, "role": _ROLES.get(message["role"], message["role"])} for message in row["messages"]],
            tools=_tools(row.get("tools")),
            finish_reason=row["finish_reason"],
            metadata={name: value for name, value in row.items() if name not in _NO_METADATA},
        )
        for number, row in enumerate(rows)
    ]
    return Group.of(
        rollouts,
        task=opening(rollouts) or None,
        reference=rows[0][reference] if reference else None,
    )


def _log(rewarded: Sequence[RewardedGroup], rewards: Rewards) -> None:
    """One line a call. swift gives a reward function no place for metrics, and counts only what it returns."""
    failed = sum(one.failure is not None for one in rewarded)
    tied = sum(one.result.status == "tied" for one in rewarded)
    parts = mean_parts([one for one in rewarded if one.failure is None], rewards)
    means = ", ".join(f"{name} {mean:.4g}" for name, mean in parts.items())
    _logger.info("judge: %d groups, %d failed, %d tied: %s", len(rewarded), failed, tied, means)


def _tools(given: object) -> Any:
    try:
        return json.loads(given) if isinstance(given, str) else given
    except ValueError as error:
        raise GroupError(f"tools: expected JSON, got {given!r:.80}: {error}") from None
