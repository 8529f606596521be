"""Rewards: the judge's scores and rules, put together by declared weights and gates.

    rewards = Rewards(
        judge_weight=1.0,
        rules=(
            Rule("format", strict_tags("reasoning", "answer"), weight=0.0),
            Rule("correct", numeric_answer(answer=inside_tag("answer")), weight=2.0),
        ),
        gates=(Gate("format", reward=-1.0),),
    )
    rewards.combine(group, result).rewards

A group has a reward for every rollout or for none: its rollouts share a baseline, so that a missing reward would move
all the others. No number ever stands in for a score that is not there. The checks are in `ruler.rules`; turning rewards
into advantages is another step (`ruler.advantages`).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Literal

from ruler.errors import ConfigError, GroupError, describe
from ruler.rules import Check
from ruler.types import FailedGroup, Group, Rollout, ScoredGroup

_JUDGE = "judge"
"""The judge's name among the parts of a reward."""

_SAME_SUM = 1e-9
"""Sums of rules closer than this share of the rules' total weight are equal: 0.1 + 0.2 is 0.3, whatever floating point
says."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A check with a name and a weight.

    Raises:
        ConfigError: no name, the name "judge", a check that cannot be called or is async, a weight that is not finite.
    """

    name: str
    check: Check
    weight: float = 1.0
    """What a value of 1.0 adds to the reward; negative for a penalty; 0.0: seen in the result and by gates only."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or self.name == _JUDGE:
            raise ConfigError(f"rule name: expected some text other than {_JUDGE!r}, got {self.name!r:.80}")
        if not callable(self.check):
            raise ConfigError(f"rule {self.name!r}: check: expected a function, got {self.check!r:.80}")
        if inspect.iscoroutinefunction(self.check):
            raise ConfigError(
                f"rule {self.name!r}: check: {self.check!r:.80} is async; await it before and put its outcome into "
                "the rollout's metadata, where a plain function can read it"
            )
        _check_number(f"rule {self.name!r}: weight", self.weight)

    def value(self, rollout: Rollout, group: Group) -> float:
        """The check's value for a rollout of this group, in [0, 1].

        Raises:
            GroupError: the check raised, or returned anything but a number in [0, 1]; names group, rollout and rule.
        """
        where = f"group {group.id!r}: rollout {rollout.id!r}: rule {self.name!r}"
        try:
            value: Any = self.check(rollout, group)
            if inspect.iscoroutine(value):
                value.close()
            elif not isinstance(value, int | float) and callable(getattr(value, "item", None)):
                value = value.item()  # of numpy or torch
            good = isinstance(value, int | float) and 0 <= value <= 1
            shown = "" if good else f"{value!r:.80}"
        except GroupError as error:
            raise GroupError(f"{where}: {error}") from error
        # A check may run what a policy wrote. One that ends the process would take a trainer's event loop along.
        except (Exception, SystemExit, GeneratorExit) as error:
            raise GroupError(f"{where}: raised {describe(error)}") from error
        if not good:
            raise GroupError(f"{where}: expected a number in [0, 1], got {shown}")
        return float(value)


@dataclass(frozen=True, slots=True)
class Gate:
    """A rule that a rollout has to pass; where it does not, the reward is set, whatever judge and other rules say.

    Raises:
        ConfigError: a threshold outside (0, 1], or a reward that is not finite.
    """

    rule: str
    """The name of one of the rules."""
    at_least: float = 1.0
    """The smallest value that passes, in (0, 1]."""
    reward: float = 0.0
    """What a rollout gets that does not pass; never more than the least reward of one that does."""

    def __post_init__(self) -> None:
        _check_number(f"gate {self.rule!r}: at_least", self.at_least)
        if not 0 < self.at_least <= 1:
            raise ConfigError(f"gate {self.rule!r}: at_least: expected a number in (0, 1], got {self.at_least!r}")
        _check_number(f"gate {self.rule!r}: reward", self.reward)


@dataclass(frozen=True, slots=True)
class RolloutReward:
    """One rollout's reward and what it was made of."""

    id: str
    reward: float | None
    """What the trainer gets: that of the gate in `gated_by`, else the sum of `parts`; None when the group failed."""
    score: float | None = None
    """The judge's score as it came, in [0, 1]; None where there is none."""
    gated_by: str | None = None
    """The rule whose gate set the reward; None when all were passed."""
    values: Mapping[str, float] = field(default_factory=dict)
    """Rule -> the value of its check, in [0, 1]."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Rule, or "judge" where that has a say -> what it adds to the reward; empty when a gate set it."""


@dataclass(frozen=True, slots=True)
class GroupRewards:
    """The rewards of one group; all are numbers, or all are None."""

    group_id: str
    status: Literal["scored", "tied", "failed", "unjudged"]
    """Of the judge's result; "unjudged" without one. A failed group has rewards where none of them needs the judge."""
    rollouts: tuple[RolloutReward, ...]
    """In the order of the group."""

    @property
    def rewards(self) -> tuple[float | None, ...]:
        """In the order of the group, all None or none: one group for `ruler.advantages`."""
        return tuple(rollout.reward for rollout in self.rollouts)


@dataclass(frozen=True, slots=True)
class Rewards:
    """How a reward is made. `Rewards()` is the judge alone, `Rewards(judge_weight=0.0, rules=…)` the rules alone.

    1. The rules are checked. The first gate that is not passed sets the rollout's reward.
    2. Else the reward is the sum of the rules' weight × value and of the judge's weight × score.
    3. With `judge_breaks_ties` rules come first: the judge adds only to rollouts whose sum of rules is also that of
       another one that passed, and at most half the distance to the next higher sum in the group. So it can order
       those that are equal by the rules, and no others.

    That a gated rollout never gets more than one that passed is checked when the value is made.

    Raises:
        ConfigError: nothing has a weight; a judge's weight that is negative or not finite; two rules of one name; a
            gate on no rule, or one that could pay more than passing it.
    """

    judge_weight: float = 1.0
    """What a score of 1.0 adds to the reward, >= 0. With `judge_breaks_ties` that is the most it adds."""
    rules: tuple[Rule, ...] = ()
    gates: tuple[Gate, ...] = ()
    """In this order; one rule may have several."""
    judge_breaks_ties: bool = False

    def __post_init__(self) -> None:
        _check_number("judge_weight", self.judge_weight)
        if self.judge_weight < 0:
            raise ConfigError(f"judge_weight: expected at least 0, got {self.judge_weight!r}; penalties are rules")
        for name, kind in (("rules", Rule), ("gates", Gate)):
            value = getattr(self, name)
            if not isinstance(value, tuple) or not all(isinstance(item, kind) for item in value):
                raise ConfigError(f"{name}: expected a tuple of {kind.__name__}, got {value!r:.80}")
        names = [rule.name for rule in self.rules]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"rules: the name {name!r} occurs twice")
        if not (self.judge_weight or self.gates or any(rule.weight for rule in self.rules)):
            raise ConfigError(
                f"judge_weight, rules: nothing has a weight, got {self.judge_weight!r} and rules {names!r}"
            )
        if self.judge_breaks_ties and not self.judge_weight:
            raise ConfigError("judge_breaks_ties: the judge has no weight (judge_weight=0.0) to do it with")
        if math.isinf(self.judge_weight + sum(abs(rule.weight) for rule in self.rules)):
            raise ConfigError(f"judge_weight, rules: have no finite sum, got {self.judge_weight!r} and rules {names!r}")
        passed = {name: max((g.at_least for g in self.gates if g.rule == name), default=0.0) for name in names}
        least = math.fsum(min(rule.weight * passed[rule.name], rule.weight) for rule in self.rules)
        for gate in self.gates:
            if gate.rule not in names:
                raise ConfigError(f"gate {gate.rule!r}: expected the name of a rule, one of {names!r}")
            if gate.reward > least:
                raise ConfigError(
                    f"gate {gate.rule!r}: reward: expected at most {least!r}, the least a rollout that passes can get, "
                    f"got {gate.reward!r}"
                )

    def combine(self, group: Group, result: ScoredGroup | FailedGroup | None) -> GroupRewards:
        """The group's rewards, in its order.

        - Scored: as described above.
        - Tied (all rollouts read the same, there is no score): the judge adds nothing, to none. Rewards still differ
          where a rule looks at what the judge is not shown, such as metadata. They compare inside the group only: its
          mean lacks the judge's part, so leave it out of statistics over groups.
        - Failed: every reward is None, also of rollouts that a gate stopped. Only where no reward needs the judge (all
          were stopped, no tie is to be broken, its weight is 0) the rewards are there.

        A group of one is no exception: its reward compares with nothing.

        Args:
            group: the rollouts the rules look at.
            result: the judge's, for this group; None: not judged, for rules alone.

        Raises:
            ConfigError: no result although the judge has a weight.
            GroupError: the result is of another group, of other rollouts, or has no usable score; a rule failed.
        """
        if result is None and self.judge_weight:
            raise ConfigError(
                f"judge_weight: is {self.judge_weight!r}, but group {group.id!r} has no result; 0.0 is rules alone"
            )
        scores = {} if result is None else _scores(group, result)
        rollouts = self._combined(group, scores, failed=isinstance(result, FailedGroup))
        return GroupRewards(group.id, "unjudged" if result is None else result.status, rollouts)

    def settle(self, group: Group, result: ScoredGroup | FailedGroup | None) -> tuple[GroupRewards, str | None]:
        """As `combine`, for code that goes on with other groups: one on which a rule raises has failed, too.

        Returns:
            The rewards, and why there are none, as `reason: message`; None where there are.

        Raises:
            ConfigError: as `combine`.
        """
        try:
            rewards = self.combine(group, result)
        except GroupError as error:
            nothing = tuple(RolloutReward(rollout.id, None) for rollout in group.rollouts)
            return GroupRewards(group.id, "failed", nothing), f"{error.code}: {error}"
        if None not in rewards.rewards:
            return rewards, None
        assert isinstance(result, FailedGroup), "nothing else takes rewards away"
        return rewards, f"{result.reason}: {result.message}"

    def combine_one(self, group: Group, score: float | None) -> RolloutReward:
        """The reward of one rollout that was judged with siblings which are elsewhere, as `Client.join` does it.

        Args:
            group: of this rollout alone, with its task and reference. That is all that rules can look at.
            score: the judge's, in [0, 1]; None: the group is tied, and the judge adds nothing.

        Raises:
            ConfigError: `judge_breaks_ties`, which takes the rules of the siblings.
            GroupError: more than one rollout, no usable score, or a rule failed.
        """
        if self.judge_breaks_ties:
            raise ConfigError("judge_breaks_ties: the siblings of a rollout that comes by itself are not known here")
        if len(group.rollouts) != 1:
            raise GroupError(f"group {group.id!r}: rollouts: expected one, got {len(group.rollouts)}")
        [rollout] = group.rollouts
        if score is not None and not 0 <= score <= 1:
            raise GroupError(
                f"group {group.id!r}: rollout {rollout.id!r}: score: expected one in [0, 1], got {score!r}"
            )
        return self._combined(group, {rollout.id: score})[0]

    def _combined(
        self, group: Group, scores: Mapping[str, float | None], *, failed: bool = False
    ) -> tuple[RolloutReward, ...]:
        values = [{rule.name: rule.value(rollout, group) for rule in self.rules} for rollout in group.rollouts]
        stopped = [self._stopped_by(of_rollout) for of_rollout in values]
        # + 0.0: a penalty that was not incurred is 0.0 and not -0.0.
        parts = [
            {} if gate else {rule.name: rule.weight * of_rollout[rule.name] + 0.0 for rule in self.rules}
            for of_rollout, gate in zip(values, stopped, strict=True)
        ]
        weights = self._judge_weights(
            [None if gate else math.fsum(p.values()) for p, gate in zip(parts, stopped, strict=True)]
        )
        failed = failed and any(weights)
        rollouts = []
        for place, rollout in enumerate(group.rollouts):
            score, gate = scores.get(rollout.id), stopped[place]
            if score is not None and weights[place]:
                parts[place][_JUDGE] = weights[place] * score
            reward = gate.reward if gate else math.fsum(parts[place].values())
            rollouts.append(
                RolloutReward(
                    id=rollout.id,
                    reward=None if failed else float(reward),
                    score=score,
                    gated_by=gate.rule if gate else None,
                    values=values[place],
                    parts=parts[place],
                )
            )
        return tuple(rollouts)

    def _stopped_by(self, values: Mapping[str, float]) -> Gate | None:
        return next((gate for gate in self.gates if values[gate.rule] < gate.at_least), None)

    def _judge_weights(self, sums: Sequence[float | None]) -> list[float]:
        """What a score of 1.0 adds, for each rollout; `sums` are those of its rules, None where a gate stopped it."""
        passed = {place: total for place, total in enumerate(sums) if total is not None}
        if not self.judge_breaks_ties:
            return [self.judge_weight if place in passed else 0.0 for place in range(len(sums))]
        # Half the distance to the next sum above keeps the order strict, and one close pair of sums does not
        # take the judge's say from ties elsewhere, as one range for the whole group would.
        tolerance = _SAME_SUM * math.fsum(abs(rule.weight) for rule in self.rules)
        levels: list[list[int]] = []
        for place in sorted(passed, key=passed.__getitem__):
            if levels and passed[place] - passed[levels[-1][0]] <= tolerance:
                levels[-1].append(place)
            else:
                levels.append([place])
        weights = [0.0] * len(sums)
        for level, above in zip_longest(levels, levels[1:]):
            gap = passed[above[0]] - passed[level[-1]] if above else math.inf
            for place in level if len(level) > 1 else ():
                weights[place] = min(self.judge_weight, gap / 2)
        return weights


def reward_record(rewards: GroupRewards) -> dict[str, Any]:
    """The rewards as a JSON object; there is no `reward`, `score` or `gated_by` key where there is none."""
    return {
        "group_id": rewards.group_id,
        "status": rewards.status,
        "rollouts": [
            {
                key: value
                for key, value in (
                    ("id", rollout.id),
                    ("reward", rollout.reward),
                    ("score", rollout.score),
                    ("gated_by", rollout.gated_by),
                    ("values", dict(rollout.values)),
                    ("parts", dict(rollout.parts)),
                )
                if value is not None
            }
            for rollout in rewards.rollouts
        ],
    }


def _scores(group: Group, result: ScoredGroup | FailedGroup) -> dict[str, float | None]:
    """Rollout id -> score, None in a tied or failed group; checks that the result is this group's."""
    if result.group_id != group.id:
        raise GroupError(f"group {group.id!r}: the result is that of group {result.group_id!r}")
    if result.rollouts_digest != group.rollouts_digest:
        found = result.rollout_ids if isinstance(result, FailedGroup) else tuple(score.id for score in result.rollouts)
        raise GroupError(
            f"group {group.id!r}: the result is of other rollouts, {list(found)!r:.80} with digest "
            f"{result.rollouts_digest[:16]!r}; those of the group are {[one.id for one in group.rollouts]!r:.80} with "
            f"{group.rollouts_digest[:16]!r}"
        )
    if isinstance(result, FailedGroup):
        return {}
    scores = {score.id: score.score for score in result.rollouts}
    for rollout in group.rollouts:
        score = scores.get(rollout.id)
        good = score is None if result.status == "tied" else score is not None and 0 <= score <= 1
        if not good:
            raise GroupError(
                f"group {group.id!r}: rollout {rollout.id!r}: score: expected "
                f"{'none in a tied group' if result.status == 'tied' else 'a number in [0, 1]'}, got {score!r:.80}"
            )
    return scores


def _check_number(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{name}: expected a finite number, got {value!r:.80}")
