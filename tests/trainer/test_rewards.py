from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from judges.simulated import SimulatedJudge
from ruler import Group, JudgeRejected, JudgeReply, JudgeRequest, Ruler
from ruler.errors import ConfigError
from ruler.rewards import Rewards, Rule
from ruler.truth_lookup import TruthLookup
from ruler.types import FailedGroup, Rollout, ScoredGroup
from trainer.episodes import Episode, SampledGroup
from trainer.rewards import Rewarded, by_judge, by_rules, by_truth


def sampled(*answers: str, truths: Sequence[float | None] = (), id: str = "g") -> SampledGroup:
    group = Group.of(answers, task="What is 6 times 7?", id=id)
    values = truths or [1.0 if answer == "42" else 0.0 for answer in answers]
    return SampledGroup(
        0, group, tuple(Episode((1, 2), (False, True), (0.0, -0.5), (0.0, 0.1), False, truth) for truth in values)
    )


def short(rollout: Rollout, group: Group) -> float:
    return float(len(rollout.messages[0].content[0]) < 4)  # type: ignore[arg-type]


def raises(rollout: Rollout, group: Group) -> float:
    raise ZeroDivisionError("a rule's own fault")


async def refuses(request: JudgeRequest) -> JudgeReply:
    raise JudgeRejected("content filter")


async def test_a_judge_that_looks_up_the_truth_rewards_by_it() -> None:
    truth = TruthLookup()
    truth.ruler = Ruler(SimulatedJudge(truth))
    reward = by_judge(truth.ruler.score_many, truth=truth)
    one, other = await reward([sampled("42", "41", "40"), sampled("41", "42", id="h")])
    assert one.rewards.rewards == (1.0, 0.0, 0.0)
    assert other.rewards.rewards == (0.0, 1.0)
    assert isinstance(one.result, ScoredGroup)
    assert one.failure is None


async def test_judge_and_rules_add_up() -> None:
    truth = TruthLookup()
    truth.ruler = Ruler(SimulatedJudge(truth))
    rewards = Rewards(judge_weight=2.0, rules=(Rule("short", short, weight=0.5),))
    (found,) = await by_judge(truth.ruler.score_many, rewards, truth=truth)([sampled("42", "forty-one")])
    assert found.rewards.rewards == (2.5, 0.0)


async def test_a_failed_group_has_no_rewards_and_says_why() -> None:
    rewards = Rewards(rules=(Rule("short", short),))
    (found,) = await by_judge(Ruler(refuses).score_many, rewards)([sampled("42", "41")])
    assert found.rewards.rewards == (None, None)
    assert found.failure == "rejected: content filter"
    assert isinstance(found.result, FailedGroup)


async def test_a_group_of_equals_is_tied() -> None:
    (found,) = await by_judge(Ruler(refuses).score_many)([sampled("42", "42")])
    assert found.rewards.status == "tied"
    assert found.failure is None


async def test_a_rule_that_raises_fails_its_group_alone() -> None:
    (found,) = await by_rules(Rewards(judge_weight=0.0, rules=(Rule("odd", raises),)))([sampled("42", "41")])
    assert found.rewards.rewards == (None, None)
    assert found.failure
    assert found.failure.startswith("group: ")
    assert "a rule's own fault" in found.failure


async def test_rules_alone_ask_nobody() -> None:
    (found,) = await by_rules(Rewards(judge_weight=0.0, rules=(Rule("short", short),)))([sampled("42", "forty-one")])
    assert found.rewards.rewards == (1.0, 0.0)
    assert found.result is None


async def test_truth_is_the_reward_where_it_is_known() -> None:
    known, unknown = await by_truth()([sampled("42", "41"), sampled("42", "41", truths=[1.0, None])])
    assert known.rewards.rewards == (1.0, 0.0)
    assert unknown.rewards.rewards == (None, None)
    assert unknown.failure == "truth: the environment does not know it"


async def test_a_scorer_that_loses_groups_is_an_error() -> None:
    async def loses(groups: Sequence[Group]) -> Sequence[ScoredGroup | FailedGroup]:
        return []

    with pytest.raises(ConfigError, match="0 results for 1 groups"):
        await by_judge(loses)([sampled("42", "41")])


async def test_a_result_of_another_group_is_no_reward() -> None:
    other = await Ruler(SimulatedJudge()).score_many([Group.of(["a", "bb"], id="g")])

    async def confuses(groups: Sequence[Group]) -> Sequence[ScoredGroup | FailedGroup]:
        return other

    (found,) = await by_judge(confuses)([sampled("42", "41")])
    assert found.rewards.rewards == (None, None)
    assert found.failure


def test_numbers_of_your_own_are_one_finite_number_per_rollout() -> None:
    group = sampled("42", "41")
    found = Rewarded.of(group, [2, -0.5], name="taste")
    assert found.rewards.rewards == (2.0, -0.5)
    assert found.rewards.rollouts[1].parts == {"taste": -0.5}
    odd: list[Any] = [[1.0], [1.0, float("nan")], [1.0, float("inf")], [], ["1", "2"], [None, 1.0]]
    for wrong in odd:
        with pytest.raises(ConfigError, match="expected 2 finite numbers"):
            Rewarded.of(group, wrong)
    assert Rewarded.failed(group.group, "mine: no time").rewards.rewards == (None, None)
    with pytest.raises(ConfigError, match="and a failure, got"):
        Rewarded.failed(group.group, "")


async def test_truth_is_forgotten_once_a_group_is_judged_or_not() -> None:
    truth = TruthLookup()
    truth.ruler = Ruler(SimulatedJudge(truth))
    group = sampled("42", "41")
    await by_judge(truth.ruler.score_many, truth=truth)([group])

    async def breaks(groups: Sequence[Group]) -> Sequence[ScoredGroup | FailedGroup]:
        raise ConfigError("no key")

    with pytest.raises(ConfigError, match="no key"):
        await by_judge(breaks, truth=truth)([group])
    (prompt,) = truth.ruler.pack(group.group)
    for text in prompt.texts.values():
        with pytest.raises(ConfigError, match="not known"):
            truth(prompt.context, text)
