"""verl up to 0.6: one call for the whole batch, its rows in any order.

    compute_score = batch_reward(Client("http://judge:8000"), task="question")

Written from verl 0.6.1: `reward_model.reward_manager=batch` (workers/reward_manager/batch.py) calls a function by
`data_sources`, `solution_strs`, `ground_truths`, `extra_infos` and takes a number or a dict with `score` for each row.
Rows are reordered before, and neither the prompt nor `uid` is passed: both have to be found in `extra_info`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ruler.adapters.groups import split
from ruler.adapters.rewarded import read_failure_reward
from ruler.adapters.rewarder import Rewarder, Scorer
from ruler.adapters.verl_rows import without_arrays
from ruler.errors import GroupError
from ruler.rewards import Rewards
from ruler.types import Group


def batch_reward(
    scorer: Scorer,
    *,
    task: str,
    group_by: str = "index",
    rewards: Rewards | None = None,
    failure_reward: float | None = None,
) -> Callable[..., list[dict[str, float]]]:
    """A function to be `custom_reward_function.name` beside `reward_model.reward_manager=batch`.

    It returns a dict for each row: `score`, the reward, and what that is made of. Tied rollouts get half of what the
    judge can add. It raises JudgeError where a group failed, and ends the run by that; GroupError for a row without
    `task` or `group_by`; BudgetExceeded and ConfigError where no group can be scored any more.

    Args:
        scorer: a `Ruler` or a `Client`.
        task: the key of `extra_info` with what was asked, as text or messages.
        group_by: the key of `extra_info` that the rollouts of a prompt share, and no other prompt of its data source.
        rewards: how scores and rules make a reward, the reference being the ground truth; None: the score is it.
        failure_reward: what all rollouts of a failed group get instead of an error. verl knows numbers only.
    """
    return partial(_compute_score, Rewarder(scorer, rewards), task, group_by, read_failure_reward(failure_reward))


def _compute_score(
    rewarder: Rewarder,
    task: str,
    group_by: str,
    failure_reward: float | None,
    data_sources: Sequence[Any],
    solution_strs: Sequence[str],
    ground_truths: Sequence[Any],
    extra_infos: Sequence[Mapping[str, Any]],
    **_: object,
) -> list[dict[str, float]]:
    for row, info in enumerate(extra_infos):
        for key in (task, group_by):
            if key not in (info or {}):
                raise GroupError(f"extra_infos[{row}].{key}: missing; there are {sorted(info or {})!r:.200}")
    for name, column in {"solution_strs": solution_strs, "ground_truths": ground_truths}.items():
        if len(column) != len(extra_infos):
            raise GroupError(f"{name}: {len(column)} for {len(extra_infos)} rows")
    tasks = [without_arrays(info[task]) for info in extra_infos]
    keys = [
        _key(source, info[group_by], row)
        for row, (source, info) in enumerate(zip(data_sources, extra_infos, strict=True))
    ]
    members = split(keys, None, adjacent=False)
    for rows in members:
        for row in rows:
            if tasks[row] != tasks[rows[0]]:
                raise GroupError(
                    f"extra_infos[{row}].{task}: another one than row {rows[0]} has, though {group_by} is equal: "
                    f"{tasks[row]!r:.80}, {tasks[rows[0]]!r:.80}"
                )
    groups = [
        Group.of(
            [solution_strs[row] for row in rows],
            task=tasks[rows[0]],
            reference=without_arrays(ground_truths[rows[0]]),
            metadata=extra_infos[rows[0]],
        )
        for rows in members
    ]
    made: dict[int, dict[str, float]] = {}
    for rows, judged in zip(members, rewarder.reward_sync(groups), strict=True):
        for row, reward, metrics in zip(rows, judged.numbers(failure_reward), judged.metrics(), strict=True):
            made[row] = {"score": reward, **metrics}
    return [made[row] for row in range(len(solution_strs))]


def _key(source: object, value: object, row: int) -> str:
    plain = without_arrays(value)
    if plain is None or plain != plain:
        raise GroupError(f"extra_infos[{row}]: expected an id of the prompt, got {plain!r}")
    return json.dumps([str(source), plain], sort_keys=True)
