"""Scores and rules become rewards: what is promised of gates, ties and failures holds for every composition."""

from __future__ import annotations

import json
import math
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ruler.errors import ConfigError, GroupError
from ruler.results import json_line
from ruler.rewards import Gate, GroupRewards, Rewards, Rule, reward_record
from ruler.rules import exact_answer, finished, matches
from ruler.types import FailedGroup, Group, Rollout, Score, ScoredGroup, Usage
from tests.conftest import ROOT


def known(name: str, weight: float = 1.0) -> Rule:
    """A rule whose values stand in the rollouts' metadata."""
    return Rule(name, lambda rollout, group: rollout.metadata[name], weight)


def group_of(*values: Mapping[str, object]) -> Group:
    return Group(tuple(Rollout.of(f"r{i}", f"answer {i}", metadata=given) for i, given in enumerate(values)), id="g")


def scored(group: Group, scores: Sequence[float | None]) -> ScoredGroup:
    tied = all(score is None for score in scores)
    return ScoredGroup(
        group_id=group.id,
        group_digest=group.digest,
        rollouts_digest=group.rollouts_digest,
        status="tied" if tied else "scored",
        rollouts=tuple(Score(rollout.id, score) for rollout, score in zip(group.rollouts, scores, strict=True)),
        usage=Usage(),
        judge="scripted",
        model=None,
        rubric="default",
        prompt_version="1",
        orders=1,
        adaptive=False,
        orders_used=0 if tied else 1,
    )


def failed(group: Group) -> FailedGroup:
    return FailedGroup(
        group_id=group.id,
        group_digest=group.digest,
        rollouts_digest=group.rollouts_digest,
        reason="reply",
        message="no scores",
        rollout_ids=tuple(rollout.id for rollout in group.rollouts),
        judge="scripted",
        rubric="default",
        prompt_version="1",
        orders=1,
        adaptive=False,
    )


# Weights


def test_the_judge_alone_is_its_scores() -> None:
    group = group_of({}, {}, {})
    combined = Rewards().combine(group, scored(group, [0.9, 0.0, 0.4]))
    assert combined.rewards == (0.9, 0.0, 0.4)
    assert (combined.group_id, combined.status) == ("g", "scored")


def test_weights_penalties_and_rules_that_are_only_looked_at() -> None:
    group = group_of({"right": 1.0, "rude": 0.5, "long": 0.25}, {"right": 0.0, "rude": 0.0, "long": 1.0})
    rewards = Rewards(judge_weight=0.5, rules=(known("right", 2.0), known("rude", -1.0), known("long", 0.0)))
    first, second = rewards.combine(group, scored(group, [0.2, 0.8])).rollouts
    assert first.parts == {"right": 2.0, "rude": -0.5, "long": 0.0, "judge": 0.1}
    assert first.values == {"right": 1.0, "rude": 0.5, "long": 0.25}
    assert (first.id, first.score, first.gated_by) == ("r0", 0.2, None)
    assert first.reward == pytest.approx(1.6)
    assert second.reward == pytest.approx(0.4)
    assert str(second.parts["rude"]) == "0.0"


def test_rules_alone() -> None:
    group = group_of({"right": 1}, {"right": 0.25})
    rewards = Rewards(judge_weight=0.0, rules=(known("right", 2.0),))
    combined = rewards.combine(group, None)
    assert (combined.rewards, combined.status) == ((2.0, 0.5), "unjudged")
    assert [rollout.score for rollout in combined.rollouts] == [None, None]
    watched = rewards.combine(group, scored(group, [0.1, 0.9]))
    assert watched.rewards == combined.rewards
    assert [rollout.score for rollout in watched.rollouts] == [0.1, 0.9]
    assert rewards.combine(group, failed(group)).rewards == combined.rewards
    with pytest.raises(ConfigError, match=r"judge_weight: is 1.0, but group 'g' has no result"):
        replace(rewards, judge_weight=1.0).combine(group, None)


def test_a_group_of_one() -> None:
    group = group_of({"right": 0.5})
    assert Rewards(rules=(known("right"),)).combine(group, scored(group, [0.25])).rewards == (0.75,)
    tie_break = Rewards(rules=(known("right"),), judge_breaks_ties=True)
    assert tie_break.combine(group, scored(group, [0.25])).rewards == (0.5,)


# Gates


def test_the_first_gate_that_is_not_passed_sets_the_reward() -> None:
    rules = (known("format", 0.0), known("right", 1.0))
    gates = (Gate("format", reward=-2.0), Gate("right", at_least=0.5, reward=-1.0))
    group = group_of(
        {"format": 0.0, "right": 0.0},
        {"format": 0.9, "right": 1.0},
        {"format": 1.0, "right": 0.4},
        {"format": 1.0, "right": 0.5},
    )
    combined = Rewards(rules=rules, gates=gates).combine(group, scored(group, [1.0, 1.0, 1.0, 0.0]))
    assert combined.rewards == (-2.0, -2.0, -1.0, 0.5)
    assert [rollout.gated_by for rollout in combined.rollouts] == ["format", "format", "right", None]
    assert combined.rollouts[1].parts == {}
    assert combined.rollouts[1].values == {"format": 0.9, "right": 1.0}
    assert combined.rollouts[1].score == 1.0


def test_a_gate_may_not_pay_more_than_passing_it() -> None:
    rules = (known("right", 2.0), known("rude", -0.5), known("long", -0.25))
    # What passes "right" has 2.0 of it, and may be rude and long.
    for gate in (Gate("right", reward=1.5), Gate("right", reward=1.26)):
        with pytest.raises(ConfigError, match=rf"gate 'right': reward: expected at most 1.25, .* got {gate.reward}"):
            Rewards(rules=rules, gates=(Gate("rude", reward=-1.0), gate))
    Rewards(rules=rules, gates=(Gate("right", reward=1.25),))
    with pytest.raises(ConfigError, match=r"expected at most 0.25, .* got 0.5"):
        Rewards(rules=rules, gates=(Gate("right", at_least=0.5, reward=0.5),))


# Ties that the judge breaks


def test_the_judge_orders_rollouts_that_are_equal_by_the_rules() -> None:
    group = group_of({"right": 1.0}, {"right": 0.0}, {"right": 0.0}, {"right": 0.5}, {"right": 0.5})
    rewards = Rewards(judge_weight=0.4, rules=(known("right"),), judge_breaks_ties=True)
    combined = rewards.combine(group, scored(group, [0.0, 1.0, 0.5, 0.1, 0.9]))
    # One of its kind: the rules have said all. The others: 0.4 fits below half the distance of 0.5 only as 0.25.
    assert combined.rewards == pytest.approx((1.0, 0.25, 0.125, 0.525, 0.725))
    assert "judge" not in combined.rollouts[0].parts
    assert combined.rollouts[1].parts == {"right": 0.0, "judge": 0.25}


def test_one_close_pair_of_sums_does_not_silence_the_judge_elsewhere() -> None:
    group = group_of({"right": 0.0}, {"right": 1e-6}, {"right": 1.0}, {"right": 1.0})
    rewards = Rewards(judge_weight=0.1, rules=(known("right"),), judge_breaks_ties=True)
    assert rewards.combine(group, scored(group, [0.0, 0.0, 0.0, 1.0])).rewards == (0.0, 1e-6, 1.0, 1.1)


def test_sums_that_differ_by_rounding_are_equal() -> None:
    assert 0.1 + 0.2 != 0.3
    group = group_of({"a": 1, "b": 1, "c": 0}, {"a": 0, "b": 0, "c": 1})
    rules = (known("a", 0.1), known("b", 0.2), known("c", 0.3))
    rewards = Rewards(judge_weight=0.1, rules=rules, judge_breaks_ties=True)
    for scores in ([1.0, 0.0], [0.0, 1.0]):
        combined = rewards.combine(group, scored(group, scores)).rewards
        assert combined == pytest.approx([0.3 + 0.1 * score for score in scores])


def test_gated_rollouts_are_tied_with_nobody() -> None:
    group = group_of({"right": 0.0}, {"right": 0.0}, {"right": 1.0})
    rewards = Rewards(rules=(known("right"),), gates=(Gate("right", reward=-1.0),), judge_breaks_ties=True)
    assert rewards.combine(group, scored(group, [0.3, 0.9, 0.5])).rewards == (-1.0, -1.0, 1.0)


# Tied and failed groups


def test_in_a_tied_group_the_judge_adds_nothing() -> None:
    group = Group(tuple(Rollout.of(name, "42", metadata={"right": right}) for name, right in (("a", 1.0), ("b", 0.5))))
    combined = Rewards(rules=(known("right"),)).combine(group, scored(group, [None, None]))
    assert (combined.status, combined.rewards) == ("tied", (1.0, 0.5))
    assert all("judge" not in rollout.parts for rollout in combined.rollouts)
    assert len(set(Rewards().combine(group, scored(group, [None, None])).rewards)) == 1


def test_a_failed_group_has_no_reward_at_all() -> None:
    group = group_of({"right": 1.0}, {"right": 0.0})
    rewards = Rewards(rules=(known("right"),), gates=(Gate("right"),))
    combined = rewards.combine(group, failed(group))
    assert (combined.status, combined.rewards) == ("failed", (None, None))
    assert combined.rollouts[0].parts == combined.rollouts[0].values == {"right": 1.0}
    assert [rollout.gated_by for rollout in combined.rollouts] == [None, "right"]
    assert [rollout.score for rollout in combined.rollouts] == [None, None]


def test_a_failed_judge_that_was_not_needed_takes_nothing_away() -> None:
    group = group_of({"right": 0.0}, {"right": 0.5})
    gated = Rewards(rules=(known("right"),), gates=(Gate("right", reward=-1.0),))
    assert gated.combine(group, failed(group)).rewards == (-1.0, -1.0)
    untied = Rewards(rules=(known("right"),), judge_breaks_ties=True)
    assert untied.combine(group, failed(group)).rewards == (0.0, 0.5)


# What does not belong together


def test_what_settles_is_a_reward_or_a_reason() -> None:
    group = group_of({"right": 1.0}, {"right": 0.0})
    rewards = Rewards(rules=(known("right"),))
    assert rewards.settle(group, scored(group, [0.5, 0.25])) == (
        rewards.combine(group, scored(group, [0.5, 0.25])),
        None,
    )
    combined, failure = rewards.settle(group, failed(group))
    assert combined == rewards.combine(group, failed(group))
    assert failure == f"{failed(group).reason}: {failed(group).message}"
    # A rule that cannot tell fails the group, and not the run.
    strange = group_of({"right": 1.0}, {"right": 7.0})
    combined, failure = rewards.settle(strange, scored(strange, [0.5, 0.25]))
    assert combined.status == "failed"
    assert combined.rewards == (None, None)
    assert failure is not None
    assert failure.startswith("group: ")
    assert "7.0" in failure
    with pytest.raises(ConfigError, match="judge_weight"):
        rewards.settle(group, None)


def test_one_rollout_by_itself_has_the_reward_it_has_among_its_siblings() -> None:
    rewards = Rewards(0.5, (known("right", 2.0), known("fair", 1.0)), (Gate("fair", 0.5, -1.0),))
    values = [{"right": 1.0, "fair": 1.0}, {"right": 0.5, "fair": 0.75}, {"right": 1.0, "fair": 0.0}]
    group, scores = group_of(*values), [0.9, 0.5, 0.1]
    together = rewards.combine(group, scored(group, scores)).rollouts
    for place, score in enumerate(scores):
        alone = Group((group.rollouts[place],), group.task)
        assert rewards.combine_one(alone, score) == together[place]
    tied = rewards.combine(group, scored(group, [None] * 3)).rollouts
    assert rewards.combine_one(Group((group.rollouts[0],), group.task), None) == tied[0]


@pytest.mark.parametrize("score", [-0.1, 1.1, math.nan, math.inf])
def test_one_rollout_needs_a_usable_score(score: float) -> None:
    with pytest.raises(GroupError, match=r"score: expected one in \[0, 1\]"):
        Rewards().combine_one(group_of({}), score)


def test_one_rollout_is_one_and_breaks_no_ties() -> None:
    with pytest.raises(GroupError, match="rollouts: expected one, got 2"):
        Rewards().combine_one(group_of({}, {}), 0.5)
    with pytest.raises(ConfigError, match="judge_breaks_ties"):
        Rewards(rules=(known("right"),), judge_breaks_ties=True).combine_one(group_of({"right": 1.0}), 0.5)


def test_a_result_of_another_group_is_refused() -> None:
    group = group_of({}, {})
    other = replace(group, id="h")
    with pytest.raises(GroupError, match=r"group 'g': the result is that of group 'h'"):
        Rewards().combine(group, scored(other, [0.5, 0.6]))
    others = Group(tuple(Rollout.of(f"r{i}", "something else") for i in range(2)), id="g")
    renamed = Group(tuple(replace(rollout, id=f"x{rollout.id}") for rollout in group.rollouts), id="g")
    swapped = Group(tuple(replace(one, id=f"r{1 - i}") for i, one in enumerate(group.rollouts)), id="g")
    for result in (scored(others, [0.5, 0.6]), failed(renamed), scored(swapped, [0.5, 0.6])):
        with pytest.raises(
            GroupError, match=r"group 'g': the result is of other rollouts, .*\['x?r0', 'x?r1'\]"
        ) as caught:
            Rewards().combine(group, result)
        assert result.rollouts_digest[:16] in str(caught.value)
        assert group.rollouts_digest[:16] in str(caught.value)


@pytest.mark.parametrize("score", [None, math.nan, math.inf, -0.1, 1.1])
def test_a_score_that_is_none_is_no_reward(score: float | None) -> None:
    group = group_of({}, {})
    with pytest.raises(GroupError, match=r"group 'g': rollout 'r1': score: expected a number in \[0, 1\], got"):
        Rewards(judge_weight=0.0, rules=(Rule("finished", finished),)).combine(group, scored(group, [0.5, score]))
    tied = replace(scored(group, [None, None]), rollouts=(Score("r0", None), Score("r1", 0.5)))
    with pytest.raises(GroupError, match=r"rollout 'r1': score: expected none in a tied group, got 0.5"):
        Rewards().combine(group, tied)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -0.001, 1.001, "1", [1.0]])
def test_a_rule_that_returns_no_value_in_range_is_an_error(value: object) -> None:
    group = group_of({"right": 1.0}, {"right": value})
    with pytest.raises(GroupError) as caught:
        Rewards(rules=(known("right", 0.0),)).combine(group, scored(group, [0.1, 0.2]))
    assert str(caught.value) == (f"group 'g': rollout 'r1': rule 'right': expected a number in [0, 1], got {value!r}")


def test_a_rule_may_say_yes_or_no() -> None:
    group = group_of({"right": True}, {"right": False})
    combined = Rewards(judge_weight=0.0, rules=(known("right", 2.0),)).combine(group, None)
    assert combined.rewards == (2.0, 0.0)
    assert [type(value) for value in combined.rollouts[0].values.values()] == [float]


def test_a_rule_that_raises_is_an_error() -> None:
    group = group_of({"right": 1.0}, {})
    with pytest.raises(
        GroupError, match=r"^group 'g': rollout 'r1': rule 'right': raised KeyError: 'right'$"
    ) as caught:
        Rewards(rules=(known("right"),)).combine(group, failed(group))
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(GroupError, match=r"^group 'g': rollout 'r0': rule 'exact': reference: the group has none$"):
        Rewards(judge_weight=0.0, rules=(Rule("exact", exact_answer()),)).combine(group, None)


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit()])
def test_a_rule_that_ends_the_process_is_an_error(error: BaseException) -> None:
    """It may have run what the policy wrote."""

    def ends(rollout: Rollout, group: Group) -> float:
        raise error

    with pytest.raises(GroupError, match=f"rule 'ends': raised {type(error).__name__}"):
        Rewards(rules=(Rule("ends", ends),)).combine(group_of({}), scored(group_of({}), [0.5]))


@pytest.mark.parametrize("value", [np.float32(0.5), np.float64(0.5), np.array(0.5), np.array([0.5])])
def test_a_rule_may_return_a_number_of_numpy(value: object) -> None:
    group = group_of({"right": value})
    rewards = Rewards(rules=(known("right"),)).combine(group, scored(group, [0.25])).rewards
    assert rewards == (0.75,)
    assert type(rewards[0]) is float


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize("value", [np.array([0.1, 0.2]), np.float32("nan"), Unshowable()])
def test_what_a_rule_may_not_return_fails_its_group(value: object) -> None:
    group = group_of({"right": value})
    rewards, failure = Rewards(rules=(known("right"),)).settle(group, scored(group, [0.25]))
    assert rewards.rewards == (None,)
    assert "rule 'right'" in str(failure)


def test_rules_are_plain_functions() -> None:
    async def remote(rollout: Rollout, group: Group) -> float:
        return 1.0

    with pytest.raises(ConfigError, match=r"rule 'remote': check: .* is async; await it before"):
        Rule("remote", remote)  # type: ignore[arg-type]
    group = group_of({})
    hidden = Rule("remote", lambda rollout, group: remote(rollout, group))  # type: ignore[arg-type,return-value]
    with pytest.raises(GroupError, match=r"rule 'remote': expected a number in \[0, 1\], got <coroutine"):
        Rewards(judge_weight=0.0, rules=(hidden,)).combine(group, None)


# Declarations


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, True, "1", None])
def test_what_must_be_a_finite_number(number: float) -> None:
    shown = re.escape(repr(number))
    with pytest.raises(ConfigError, match=rf"^judge_weight: expected a finite number, got {shown}"):
        Rewards(judge_weight=number)
    with pytest.raises(ConfigError, match=rf"^rule 'right': weight: expected a finite number, got {shown}"):
        known("right", number)
    with pytest.raises(ConfigError, match=rf"^gate 'right': at_least: expected a finite number, got {shown}"):
        Gate("right", at_least=number)
    with pytest.raises(ConfigError, match=rf"^gate 'right': reward: expected a finite number, got {shown}"):
        Gate("right", reward=number)


def test_declarations_that_mean_nothing() -> None:
    right = known("right")
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: Rewards(judge_weight=0.0), r"^judge_weight, rules: nothing has a weight, got 0.0 and rules \[\]"),
        (lambda: Rewards(judge_weight=0.0, rules=(known("right", 0.0),)), r"nothing has a weight, .*'right'"),
        (lambda: Rewards(judge_weight=-1.0), r"^judge_weight: expected at least 0, got -1.0"),
        (lambda: Rewards(rules=(right, right)), r"^rules: the name 'right' occurs twice"),
        (lambda: Rewards(rules=[right]), r"^rules: expected a tuple of Rule, got \[Rule"),  # type: ignore[arg-type]
        (lambda: Rewards(gates=("right",)), r"^gates: expected a tuple of Gate, got \('right'"),  # type: ignore[arg-type]
        (lambda: Rewards(rules=(right,), gates=(Gate("left"),)), r"^gate 'left': expected .*\['right'\]"),
        (
            lambda: Rewards(judge_weight=0.0, rules=(right,), judge_breaks_ties=True),
            r"^judge_breaks_ties: .*judge_weight=0.0",
        ),
        (lambda: Rewards(rules=(known("a", 1e308), known("b", 1e308))), r"^judge_weight, rules: have no finite sum"),
        (lambda: known("judge"), r"^rule name: expected .*, got 'judge'"),
        (lambda: known(""), r"^rule name: expected .*, got ''"),
        (lambda: Rule("right", 1.0), r"^rule 'right': check: expected a function, got 1.0"),  # type: ignore[arg-type]
        (lambda: Gate("right", at_least=0.0), r"^gate 'right': at_least: expected a number in \(0, 1\], got 0.0"),
        (lambda: Gate("right", at_least=1.1), r"^gate 'right': at_least: expected a number in \(0, 1\], got 1.1"),
    ]
    for make, message in cases:
        with pytest.raises(ConfigError, match=message):
            make()


def test_a_gate_alone_is_a_reward() -> None:
    group = group_of({"right": 1.0}, {"right": 0.0})
    rewards = Rewards(judge_weight=0.0, rules=(known("right", 0.0),), gates=(Gate("right", reward=-1.0),))
    assert rewards.combine(group, None).rewards == (0.0, -1.0)


def test_a_composition_travels_to_other_processes() -> None:
    rules = (Rule("digits", matches(r"\d"), 0.5), Rule("finished", finished))
    rewards = pickle.loads(pickle.dumps(Rewards(rules=rules, gates=(Gate("digits"),))))
    group = group_of({}, {})
    assert rewards.combine(group, scored(group, [0.25, 0.5])).rewards == (1.75, 2.0)


# Properties

NAMES = ("a", "b", "c")
# Few different values, so that sums are often equal, and some that are nearly so.
VALUE = st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.5, 1 / 3, 1.0]) | st.floats(0, 1)
WEIGHT = st.sampled_from([0.0, 0.1, 0.2, 0.3, 1.0, -0.5]) | st.floats(-1e6, 1e6)


@st.composite
def compositions(draw: st.DrawFn, *, judge_breaks_ties: bool | None = None) -> Rewards:
    rules = tuple(known(name, draw(WEIGHT)) for name in NAMES[: draw(st.integers(1, 3))])
    least = math.fsum(min(0.0, rule.weight) for rule in rules)
    gates = draw(
        st.lists(
            st.builds(
                Gate,
                rule=st.sampled_from([rule.name for rule in rules]),
                at_least=st.floats(0, 1, exclude_min=True),
                reward=st.just(least) | st.floats(least - 10, least),
            ),
            max_size=2,
        )
    )
    ties = draw(st.booleans()) if judge_breaks_ties is None else judge_breaks_ties
    judge = draw(st.floats(0.01, 10))
    return Rewards(judge_weight=judge, rules=rules, gates=tuple(gates), judge_breaks_ties=ties)


@st.composite
def judged_groups(draw: st.DrawFn) -> tuple[Group, ScoredGroup]:
    values = draw(st.lists(st.fixed_dictionaries(dict.fromkeys(NAMES, VALUE)), min_size=1, max_size=8))
    group = group_of(*values)
    scores = draw(st.lists(st.floats(0, 1), min_size=len(values), max_size=len(values)))
    return group, scored(group, scores)


def sum_of_rules(rewards: Rewards, group: Group) -> list[float]:
    return [math.fsum(rule.weight * one.metadata[rule.name] for rule in rewards.rules) for one in group.rollouts]


def numbers(combined: GroupRewards) -> list[float]:
    found = [reward for reward in combined.rewards if reward is not None]
    assert len(found) == len(combined.rewards)
    return found


@given(compositions(), judged_groups())
def test_the_parts_make_the_reward(rewards: Rewards, judged: tuple[Group, ScoredGroup]) -> None:
    group, result = judged
    rules = {rule.name: rule for rule in rewards.rules}
    combined = rewards.combine(group, result)
    for rollout, judged_one, score in zip(combined.rollouts, group.rollouts, result.scores, strict=True):
        assert (rollout.id, rollout.score) == (judged_one.id, score)
        assert score is not None
        assert rollout.values == {name: judged_one.metadata[name] for name in rules}
        stopping = [gate for gate in rewards.gates if rollout.values[gate.rule] < gate.at_least]
        if stopping:
            assert (rollout.gated_by, rollout.reward, rollout.parts) == (stopping[0].rule, stopping[0].reward, {})
        else:
            assert rollout.gated_by is None
            assert rollout.reward == math.fsum(rollout.parts.values())
            assert all(rollout.parts[name] == rules[name].weight * rollout.values[name] for name in rules)
            if not rewards.judge_breaks_ties:
                assert rollout.parts["judge"] == rewards.judge_weight * score


@given(compositions(), judged_groups(), st.data())
def test_the_judge_cannot_lift_a_gated_rollout(
    rewards: Rewards, judged: tuple[Group, ScoredGroup], data: st.DataObject
) -> None:
    group, result = judged
    combined = rewards.combine(group, result)
    by_id = dict(zip((one.id for one in combined.rollouts), numbers(combined), strict=True))
    gated = {one.id: by_id[one.id] for one in combined.rollouts if one.gated_by is not None}
    passed = [reward for name, reward in by_id.items() if name not in gated]
    assert all(low <= high for low in gated.values() for high in passed)
    scores = data.draw(st.lists(st.floats(0, 1), min_size=len(result.scores), max_size=len(result.scores)))
    again = rewards.combine(group, scored(group, scores))
    assert {one.id: one.reward for one in again.rollouts if one.gated_by is not None} == gated


@given(compositions(judge_breaks_ties=True), judged_groups())
def test_the_judge_breaks_ties_and_nothing_else(rewards: Rewards, judged: tuple[Group, ScoredGroup]) -> None:
    rewards = replace(rewards, gates=())
    assume(any(rule.weight for rule in rewards.rules))
    group, result = judged
    found = numbers(rewards.combine(group, result))
    sums = sum_of_rules(rewards, group)
    closest = 1e-9 * math.fsum(abs(rule.weight) for rule in rewards.rules)
    for i, reward in enumerate(found):
        assert 0 <= reward - sums[i] <= rewards.judge_weight * (1 + 1e-9) + closest
        for j, other in enumerate(found):
            if sums[i] - sums[j] > 2 * closest:
                assert reward > other
            elif sums[i] == sums[j] and result.rollouts[i].score >= result.rollouts[j].score:  # type: ignore[operator]
                assert reward >= other


@given(judged_groups(), st.sampled_from([0.5, 1.0, 3.0]), st.floats(0.01, 10))
def test_where_rules_are_apart_the_judge_orders_every_tie(
    judged: tuple[Group, ScoredGroup], weight: float, judge: float
) -> None:
    """Values on a grid: the reward orders rollouts as the pair of rule sum and score does, strictly."""
    group, result = judged
    group = Group(
        tuple(replace(one, metadata={"a": round(one.metadata["a"] * 4) / 4}) for one in group.rollouts), id=group.id
    )
    scores = [round(score * 100) / 100 for score in result.scores if score is not None]
    found = numbers(Rewards(judge, (known("a", weight),), judge_breaks_ties=True).combine(group, scored(group, scores)))
    keys = list(zip((one.metadata["a"] for one in group.rollouts), scores, strict=True))
    for i, reward in enumerate(found):
        for j, other in enumerate(found):
            assert (reward > other) == (keys[i] > keys[j])


@given(compositions(), judged_groups())
def test_a_failed_group_has_all_its_rewards_or_none(rewards: Rewards, judged: tuple[Group, ScoredGroup]) -> None:
    group, result = judged
    rewarded, unrewarded = rewards.combine(group, result), rewards.combine(group, failed(group))
    needed = any("judge" in rollout.parts for rollout in rewarded.rollouts)
    assert unrewarded.rewards == ((None,) * len(group.rollouts) if needed else rewarded.rewards)
    for with_score, without in zip(rewarded.rollouts, unrewarded.rollouts, strict=True):
        assert without.score is None
        assert without.values == with_score.values
        assert without.gated_by == with_score.gated_by
        assert without.parts == {name: part for name, part in with_score.parts.items() if name != "judge"}


@given(compositions(), judged_groups(), st.randoms(use_true_random=False))
def test_the_order_of_rollouts_is_irrelevant(
    rewards: Rewards, judged: tuple[Group, ScoredGroup], random: object
) -> None:
    group, result = judged
    combined = rewards.combine(group, result)
    shuffle = random.shuffle  # type: ignore[attr-defined]
    places = list(range(len(group.rollouts)))
    shuffle(places)
    moved = replace(group, rollouts=tuple(group.rollouts[place] for place in places))
    shuffled = list(result.rollouts)
    shuffle(shuffled)
    again = rewards.combine(moved, replace(result, rollouts=tuple(shuffled)))
    assert again.rollouts == tuple(combined.rollouts[place] for place in places)


@given(compositions(), judged_groups(), st.sampled_from(["scored", "tied", "failed"]))
def test_the_record_is_plain_json(rewards: Rewards, judged: tuple[Group, ScoredGroup], status: str) -> None:
    group, result = judged
    nobody = scored(group, [None] * len(group.rollouts))
    results: dict[str, ScoredGroup | FailedGroup] = {"scored": result, "tied": nobody, "failed": failed(group)}
    combined = rewards.combine(group, results[status])
    record = reward_record(combined)
    line = json_line(record)
    assert json.loads(line, parse_constant=pytest.fail) == record
    assert record["status"] == status
    for told, rollout in zip(record["rollouts"], combined.rollouts, strict=True):
        assert told == {
            "id": rollout.id,
            "values": rollout.values,
            "parts": rollout.parts,
            **({} if rollout.reward is None else {"reward": rollout.reward}),
            **({} if rollout.score is None else {"score": rollout.score}),
            **({} if rollout.gated_by is None else {"gated_by": rollout.gated_by}),
        }


def test_the_example_in_the_docs_prints_what_it_says() -> None:
    text = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n(?P<code>.*?)```\n\n```\n(?P<output>.*?)```", text, re.DOTALL)
    assert found is not None
    with redirect_stdout(StringIO()) as printed:
        exec(found["code"], {})
    assert printed.getvalue() == found["output"]
