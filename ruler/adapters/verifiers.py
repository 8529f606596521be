"""verifiers 0.1.8 to 0.3.x: a judge among the functions of a `vf.Rubric`.

    rubric = vf.Rubric(**rubric_functions(Ruler("openai/gpt-5-mini")))

`Rubric.score_group` hands a function with a parameter named `states` all rollouts of an example at once. Later versions
have no Rubric; see `ruler.adapters.verifiers_env`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from statistics import fmean
from typing import Any, TypeAlias

from ruler.adapters.rewarded import metric_names, read_failure_reward
from ruler.adapters.rewarder import Rewarder, Scorer
from ruler.errors import GroupError
from ruler.rewards import Rewards
from ruler.types import Group, Rollout

State: TypeAlias = MutableMapping[str, Any]

RESULT = "judge_result"
"""The key of a state under which stands what the judge said of it: `score`, `note`, `failure`, and the metrics."""


def rubric_functions(
    scorer: Scorer, *, rewards: Rewards | None = None, failure_reward: float | None = None
) -> dict[str, list[Any]]:
    """The arguments `funcs` and `weights` of a `vf.Rubric`.

    The first function is `judge_reward`, for groups. It compares the states without an `error`, which need to be two;
    one with an error gets the mean of the others, which leaves their advantages as they are and gives it none. The
    functions after it have the weight 0 and put into the metrics what each reward is made of: see
    `RewardedGroup.metrics`.

    The framework makes a reward of 0 of every exception in a function. So a group without rewards comes back as a list
    that raises as soon as it is read, which is outside the framework's `try`: `score_group` raises.

    Args:
        scorer: a `Ruler` or a `Client`.
        rewards: how scores and rules make a reward; rules find the state's `answer` as the reference. None: the score
            is the reward.
        failure_reward: what every rollout of a failed group gets instead, marked by `judge_failed` in the metrics.
            None: a failed group raises.

    Raises:
        ConfigError: an argument is something else.
    """
    rewarder, failure_reward = Rewarder(scorer, rewards), read_failure_reward(failure_reward)

    # Known for a group function by the name of its parameter: the versions differ in which annotations they know.
    async def judge_reward(states: Sequence[State]) -> list[float]:
        try:
            return await _reward(rewarder, states, failure_reward)
        except Exception as error:  # noqa: BLE001  whatever it is, it must not become zeros
            return _Raising(error)

    names = metric_names(rewarder.rewards)
    return {"funcs": [judge_reward, *map(_metric, names)], "weights": [1.0, *[0.0] * len(names)]}


async def _reward(rewarder: Rewarder, states: Sequence[State], failure_reward: float | None) -> list[float]:
    left = [place for place, state in enumerate(states) if state.get("error") is None]
    for state in states:
        state[RESULT] = {"score": None, "note": None, "failure": None}
    if len(left) < min(2, len(states)):
        failure = f"{len(left)} of {len(states)} rollouts have no error: too few to compare"
        if failure_reward is None:
            errors = [state["error"] for state in states if state.get("error") is not None]
            raise GroupError(f"states: {failure}; the first error: {errors[0]!r:.500}")
        for state in states:
            state[RESULT] |= {"failure": failure, "judge_failed": 1.0}
        return [failure_reward] * len(states)
    [rewarded] = await rewarder.reward([_read_group([states[place] for place in left])])
    numbers = rewarded.numbers(failure_reward)
    filled = [fmean(numbers)] * len(states)
    if rewarded.failure is not None:
        for state in states:
            state[RESULT] |= {"failure": rewarded.failure, "judge_failed": 1.0}
    told = zip(left, numbers, rewarded.rewards.rollouts, rewarded.notes, rewarded.metrics(), strict=True)
    for place, number, rollout, note, metrics in told:
        filled[place] = number
        states[place][RESULT] = {"score": rollout.score, "note": note, "failure": rewarded.failure, **metrics}
    return filled


def _read_group(states: Sequence[State]) -> Group:
    first = states[0]
    for place, state in enumerate(states):
        if state["prompt"] != first["prompt"]:
            raise GroupError(f"states[{place}].prompt: differs from that of states[0]: these are not one group")
    # `is_truncated` also stands for limits of the environment; the judge is told that the rollout was cut off.
    rollouts = [
        Rollout.of(
            f"r{place + 1}",
            state["completion"],
            finish_reason="length" if state.get("is_truncated") else None,
        )
        for place, state in enumerate(states)
    ]
    # `tool_defs` is the later name; both are there and empty where the environment has no tools.
    tools = first.get("tool_defs") or first.get("oai_tools") or None
    return Group.of(rollouts, task=first["prompt"], tools=tools, reference=first.get("answer") or None)


def _metric(name: str) -> Callable[[Mapping[str, Any]], float]:
    def metric(state: Mapping[str, Any]) -> float:
        return float(state[RESULT].get(name, 0.0))

    metric.__name__ = name
    return metric


class _Raising(list[float]):
    """Raises when it is read.

    An exception that `except Exception` lets pass was rejected: it ends a request to the environment server without an
    answer, and its client waits for ever.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def __getitem__(self, place: object) -> Any:
        raise self._error

    def __iter__(self) -> Iterator[float]:
        raise self._error
