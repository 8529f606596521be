from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.rules import score
from benchmarks.rules.tau import (
    TAU,
    consent_before_writing,
    expected_hand_over,
    expected_kinds_of_writes,
    expected_told,
    expected_writes,
    few_writes,
    honest_hand_over,
    no_invented_ids,
    no_repeated_calls,
    one_call_at_a_time,
)
from ruler.errors import GroupError
from ruler.types import Group
from tests.benchmarks.rules.checking import hears, says, value

WANTED: dict[str, Any] = {"reservation_id": "EHGLP3", "payments": [{"id": "gift_card_1", "amount": 5}]}
OLD = {
    "user_instruction": 'You want out.\nexpected_actions: ["not these"]',
    "expected_actions": [{"name": "get_user_details", "kwargs": {}}, {"name": "cancel_it", "kwargs": WANTED}],
    "expected_outputs": ["1,628"],
}
TRANSFER = {
    "name": "transfer_to_human_agents",
    "requestor": "assistant",
    "arguments": {"summary": "x"},
    "compare_args": [],
}


def new(*actions: object, **more: object) -> dict[str, object]:
    return {"user_scenario": {"a": "b"}, "evaluation_criteria": {"actions": list(actions), **more}}


def calls(name: str, arguments: object, result: str = "done", text: str = "") -> list[dict[str, Any]]:
    function = {"name": name, "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments)}
    return [
        {"role": "assistant", "content": text, "tool_calls": [{"id": "c", "function": function}]},
        {"role": "tool", "tool_call_id": "c", "content": result},
    ]


def test_consent_is_the_users_latest_word() -> None:
    write = calls("cancel_it", WANTED)
    assert value(consent_before_writing, [hears("Yes, do."), *write]) == 1.0
    assert value(consent_before_writing, [hears("Yes."), hears("Wait!"), *write]) == 0.0
    assert value(consent_before_writing, [hears("No."), *write, hears("Yes"), *write]) == 0.5
    assert value(consent_before_writing, write) == 1.0  # nobody to ask
    assert value(consent_before_writing, [hears("No."), *calls("get_it", {})]) == 1.0


def test_ids_are_known_before_they_are_used() -> None:
    write = calls(
        "cancel_it", {"id": "EHGLP3", "of": [{"card": "gift_card_7"}], "on": "2024-05-20", "city": "New York 1"}
    )
    assert value(no_invented_ids, [hears("ehglp3 with gift_card_7"), *write]) == 1.0
    assert value(no_invented_ids, [hears("EHGLP3"), *write]) == 0.5
    assert value(no_invented_ids, [*write, hears("EHGLP3 gift_card_7")]) == 0.0
    assert value(no_invented_ids, [*calls("get_it", {}, "EHGLP3, gift_card_7"), *write]) == 1.0
    assert value(no_invented_ids, calls("get_it", {"id": "EHGLP3"})) == 1.0
    assert value(no_invented_ids, [says("EHGLP3 gift_card_7"), *write]) == 0.0  # the agent's own word proves nothing


def test_counts_of_calls() -> None:
    write, read = calls("cancel_it", WANTED), calls("get_it", {})
    assert value(few_writes, write * 3) == 1.0
    assert value(few_writes, write * 6 + read * 9) == 0.5
    assert value(few_writes, write * 9) == 0.0
    assert value(no_repeated_calls, write + read) == value(no_repeated_calls, []) == 1.0
    assert value(no_repeated_calls, read * 4) == 0.25
    assert value(one_call_at_a_time, read + calls("get_it", {}, text="I look it up")) == 0.5
    two = {"role": "assistant", "content": "", "tool_calls": [read[0]["tool_calls"][0] | {"id": n} for n in "ab"]}
    assert value(one_call_at_a_time, [two]) == 0.0


def test_a_hand_over_is_made_and_not_only_told() -> None:
    told = says("YOU ARE BEING TRANSFERRED TO A HUMAN AGENT. PLEASE HOLD ON.")
    assert value(honest_hand_over, [told]) == 0.0
    assert value(honest_hand_over, [*calls("transfer_to_human_agents", {}), told]) == 1.0
    assert value(honest_hand_over, []) == 1.0


@pytest.mark.parametrize(
    "reference",
    [OLD, new({"name": "cancel_it", "requestor": "assistant", "arguments": WANTED, "compare_args": None})],
)
def test_the_expected_writes(reference: object) -> None:
    right, again = calls("cancel_it", WANTED | {"more": 1}), calls("cancel_it", WANTED, "Error: not found")
    other = calls("cancel_it", WANTED | {"reservation_id": "XXXXX1"})
    for messages, exact, kinds in (
        (right, 1.0, 1.0),
        (again + right, 1.0, 1.0),
        (right + right, 2 / 3, 2 / 3),
        (other, 0.0, 1.0),
        (again, 0.0, 0.0),
        (calls("book_it", WANTED), 0.0, 0.0),
        (calls("cancel_it", "no JSON"), 0.0, 1.0),
        ([], 0.0, 0.0),
    ):
        assert value(expected_writes, messages, reference=reference) == pytest.approx(exact)
        assert value(expected_kinds_of_writes, messages, reference=reference) == pytest.approx(kinds)


def test_nothing_is_to_be_written() -> None:
    for reference in (new(), {"evaluation_criteria": {"nl_assertions": ["no"]}}):
        assert value(expected_writes, calls("get_it", {}), reference=reference) == 1.0
        assert value(expected_writes, calls("cancel_it", WANTED), reference=reference) == 0.0


def test_the_users_own_actions_are_expected_where_the_agent_has_the_device() -> None:
    reference = new({"name": "toggle_data", "requestor": "user", "arguments": {}, "compare_args": None})
    assert value(expected_writes, calls("toggle_data", {}), reference=reference) == 1.0
    assert value(expected_writes, [], reference=reference) == 0.0
    assert value(expected_writes, [hears("hello")], reference=reference) == 1.0


def test_compared_arguments() -> None:
    action = {"name": "cancel_it", "arguments": {"id": "a", "why": "b"}, "compare_args": ["id"]}
    assert value(expected_writes, calls("cancel_it", {"id": "a", "why": "c"}), reference=new(action)) == 1.0
    assert value(expected_writes, calls("cancel_it", {"id": "c", "why": "b"}), reference=new(action)) == 0.0


def test_hand_over_and_outputs_as_expected() -> None:
    handing = calls("transfer_to_human_agents", {"summary": "y"})
    assert value(expected_hand_over, handing, reference=new(TRANSFER)) == 1.0
    assert value(expected_hand_over, [], reference=new(TRANSFER)) == 0.0
    assert value(expected_hand_over, handing, reference=OLD) == 0.0
    assert value(expected_hand_over, [], reference=OLD) == 1.0
    assert value(expected_told, [says("That is $1,628.")], reference=OLD) == 1.0
    assert value(expected_told, [hears("1628")], reference=OLD) == 0.0
    assert value(expected_told, [says("1628 and")], reference=new(communicate_info=["1628", "7"])) == 0.5
    assert value(expected_told, [], reference=new()) == 1.0


@pytest.mark.parametrize("reference", [None, "none of them", "expected_actions: [", 'expected_actions: ["book"]'])
def test_a_reference_that_cannot_be_read_is_an_error(reference: str | None) -> None:
    with pytest.raises(GroupError, match="reference"):
        value(expected_writes, [], reference=reference)


def test_scores() -> None:
    good = [hears("Cancel EHGLP3 with gift_card_1, yes"), *calls("cancel_it", WANTED), says("You get 1628.")]
    bad = [hears("Cancel it"), *calls("cancel_it", {"reservation_id": "A1B2C3"}, "Error: no") * 3, says("Sorry.")]
    assert TAU.with_reference is not None
    for rewards in (TAU.blind, TAU.with_reference):
        found = score(rewards, Group.of([bad, good], task="policy", reference=OLD))
        assert found[1] == max(found) > found[0]
    assert score(TAU.with_reference, Group.of([good], task="policy", reference=OLD)) == (5.0,)
