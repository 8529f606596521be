"""Rules for customer service with tools (tau-bench and tau2-bench): careful writing calls, few errors, no hand-over.

What the policies ask for, as far as code can see it: consent before anything is changed, no invented ids, one call at
a time, a human only where nothing else helps. With the reference the writing calls are compared with the expected
ones; the end state they lead to is not computed, so another right way there is not seen. The weights were set before
any figure was looked at, and not fitted.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.rules.reading import falling, overlap, reference_json, share, text_of
from benchmarks.rules.rule_set import RuleSet
from benchmarks.rules.tool_calls import HAND_OVER, Call, calls_of, known_ids, writes
from ruler.errors import GroupError
from ruler.rewards import Rewards, Rule
from ruler.rules import tool_calls, tool_errors, turns
from ruler.types import Group, Rollout

_HAND_OVER_SENTENCE = "you are being transferred to a human agent"


def consent_before_writing(rollout: Rollout, group: Group) -> float:
    """The share of the writing calls right before which the user consented; 1.0 without any, or without a user."""
    return share(call.confirmed for call in calls_of(rollout) if writes(call.name))


def no_invented_ids(rollout: Rollout, group: Group) -> float:
    """The share of the ids in writing calls that task, user or tools had named before; 1.0 without any."""
    return share(known_ids(rollout, group))


def few_writes(rollout: Rollout, group: Group) -> float:
    """1.0 for up to three writing calls, falling to 0.0 at nine."""
    return falling(sum(writes(call.name) for call in calls_of(rollout)), full=3, none=9)


def no_repeated_calls(rollout: Rollout, group: Group) -> float:
    """The share of the calls that are made for the first time with these arguments; 1.0 without a call."""
    made = [(call.name, call.text) for call in calls_of(rollout)]
    return len(set(made)) / len(made) if made else 1.0


def one_call_at_a_time(rollout: Rollout, group: Group) -> float:
    """The share of the calling messages that make one call and say nothing to the user; 1.0 without any."""
    return share(
        len(message.tool_calls) == 1 and not text_of(message).strip()
        for message in rollout.messages
        if message.role == "assistant" and message.tool_calls
    )


def honest_hand_over(rollout: Rollout, group: Group) -> float:
    """0.0 when the user is told of a transfer to a human that no call made; else 1.0."""
    told = any(_HAND_OVER_SENTENCE in text_of(m).lower() for m in rollout.messages if m.role == "assistant")
    return float(not told or _hands_over(rollout))


def expected_writes(rollout: Rollout, group: Group) -> float:
    """F1 of the writing calls that did not fail against the expected ones, by name and arguments, in [0, 1]."""
    expected = [action for action in _expected(group, rollout) if writes(action.name)]
    made = [call for call in calls_of(rollout) if writes(call.name) and not call.failed]
    size, open_calls, common = len(expected) + len(made), list(made), 0
    for action in expected:
        place = next((n for n, call in enumerate(open_calls) if action.made_by(call)), None)
        if place is not None:
            common += 1
            del open_calls[place]
    return 2 * common / size if size else 1.0


def expected_kinds_of_writes(rollout: Rollout, group: Group) -> float:
    """As `expected_writes`, by name alone."""
    expected = [action.name for action in _expected(group, rollout) if writes(action.name)]
    return overlap((call.name for call in calls_of(rollout) if writes(call.name) and not call.failed), expected)


def expected_hand_over(rollout: Rollout, group: Group) -> float:
    """1.0 when the rollout hands over to a human just where the reference does; else 0.0."""
    return float(_hands_over(rollout) == any(action.name == HAND_OVER for action in _expected(group, rollout)))


def expected_told(rollout: Rollout, group: Group) -> float:
    """The share of what has to be told to the user that an assistant message says; 1.0 when there is nothing."""
    said = "\n".join(text_of(m) for m in rollout.messages if m.role == "assistant").lower().replace(",", "")
    return share(text.lower().replace(",", "") in said for text in _to_tell(group))


@dataclass(frozen=True, slots=True)
class _Action:
    name: str
    arguments: dict[str, object]
    """Those that are compared."""

    def made_by(self, call: Call) -> bool:
        return call.name == self.name and all(
            name in call.arguments and call.arguments[name] == value for name, value in self.arguments.items()
        )


def _hands_over(rollout: Rollout) -> bool:
    return any(call.name == HAND_OVER for message in rollout.messages for call in message.tool_calls)


def _expected(group: Group, rollout: Rollout) -> list[_Action]:
    """The expected actions; those of the user on a device of its own only where the agent has the device."""
    no_user = all(message.role != "user" for message in rollout.messages)
    actions = []
    for item in _listed(_criteria(group).get("actions")):
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise GroupError(f"reference: expected an action with a name, got {item!r:.80}")
        if item.get("requestor") == "user" and not no_user:
            continue
        arguments = item.get("kwargs", item.get("arguments"))
        arguments = arguments if isinstance(arguments, dict) else {}
        compared = item.get("compare_args")
        names = arguments if compared is None else [name for name in _listed(compared) if name in arguments]
        actions.append(_Action(item["name"], {str(name): arguments[name] for name in names}))
    return actions


def _to_tell(group: Group) -> list[str]:
    return [str(text) for text in _listed(_criteria(group).get("outputs"))]


def _criteria(group: Group) -> dict[str, object]:
    """The reference's `actions` and `outputs`, under the names of either benchmark."""
    criteria = reference_json(group, "evaluation_criteria")
    if isinstance(criteria, dict):
        return {"actions": criteria.get("actions"), "outputs": criteria.get("communicate_info")}
    actions = reference_json(group, "expected_actions")
    if actions is None:
        raise GroupError("reference: neither evaluation_criteria nor expected_actions in it")
    return {"actions": actions, "outputs": reference_json(group, "expected_outputs")}


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


TAU = RuleSet(
    name="tau",
    blind=Rewards(
        judge_weight=0.0,
        rules=(
            Rule("consent before writing", consent_before_writing, weight=1.0),
            Rule("no invented ids", no_invented_ids, weight=1.0),
            Rule("no tool errors", tool_errors(at_most=0, slope=5), weight=1.0),
            Rule("no hand-over", tool_calls(tool=HAND_OVER, at_most=0), weight=1.0),
            Rule("honest hand-over", honest_hand_over, weight=0.5),
            Rule("few writes", few_writes, weight=0.5),
            Rule("no repeated calls", no_repeated_calls, weight=0.5),
            Rule("one call at a time", one_call_at_a_time, weight=0.25),
            Rule("few turns", turns(at_most=15, slope=30), weight=0.25),
        ),
    ),
    with_reference=Rewards(
        judge_weight=0.0,
        rules=(
            Rule("expected writes", expected_writes, weight=2.0),
            Rule("expected kinds of writes", expected_kinds_of_writes, weight=1.0),
            Rule("expected told", expected_told, weight=1.0),
            Rule("expected hand-over", expected_hand_over, weight=0.5),
            Rule("no tool errors", tool_errors(at_most=0, slope=5), weight=0.25),
            Rule("few turns", turns(at_most=15, slope=30), weight=0.25),
        ),
    ),
)
