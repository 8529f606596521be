"""All sets of rules: on any text, on hostile text, and on the real groups."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.rules import RuleSet, rules_for, score
from ruler.agreement import GroupAgreement, agree, summarise
from ruler.errors import ConfigError
from ruler.records import LabelledGroup, read_labelled
from ruler.rewards import Rewards
from ruler.types import Group
from tests.benchmarks.rules.checking import says

REFERENCES: dict[str, Any] = {
    "gsm8k-model-solutions": {"solution": "work\nA: 72"},
    "intercode-bash": {"gold_command": "ls -l | wc"},
    "llmbar-natural": None,
    "mint-mbpp": {"reference": "assert f(1) == 1"},
    "mint-math": {"reference": 72.0},
    "qwen2.5-math-example": {"answer": "72", "solution": "work"},
    "tau2-bench-airline": {"evaluation_criteria": {"actions": [{"name": "book", "arguments": {"id": "a"}}]}},
}
"""One source of each set."""


def sets() -> Iterator[tuple[str, Rewards, Any]]:
    for source, reference in REFERENCES.items():
        rules = rules_for(source)
        assert rules is not None
        yield source, rules.blind, reference
        if rules.with_reference:
            yield source, rules.with_reference, reference


PIECES = (
    *(
        "A:",
        "<<3+4=7>>",
        "<solution>",
        "</solution>",
        "\\boxed{",
        "}",
        "```",
        "{",
        "[",
        "(",
        ")",
        "-",
        "*",
        "/",
        "%",
        "=",
    ),
    *(
        "1",
        "2.",
        ",5",
        "-3",
        "72",
        "\n",
        "\n\n",
        "observation:",
        "traceback",
        "def f(",
        "<execute>",
        "yes",
        "ls",
        "|",
        "$",
    ),
    *("'", '"', "\0", "\ud800", "²", "½", "٣", "ß", "İ", "😀", "\u2028", "\r\n"),
)
TEXT = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(PIECES), max_size=20).map(" ".join))
MESSAGES = st.lists(
    st.one_of(
        st.builds(lambda role, text: {"role": role, "content": text}, st.sampled_from(["user", "assistant"]), TEXT),
        st.builds(
            lambda name, arguments, result: [
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"id": "c", "function": {"name": name, "arguments": arguments}}],
                },
                {"role": "tool", "tool_call_id": "c", "content": result},
            ],
            st.sampled_from(["book", "get_it", "transfer_to_human_agents"]),
            st.one_of(TEXT, st.dictionaries(TEXT, st.one_of(TEXT, st.integers(), st.lists(TEXT))).map(json.dumps)),
            TEXT,
        ),
    ),
    max_size=5,
).map(lambda items: [m for item in items for m in (item if isinstance(item, list) else [item])])


@given(st.lists(MESSAGES, min_size=1, max_size=3), TEXT)
def test_no_text_makes_a_rule_fail(rollouts: list[Any], task: str) -> None:
    # The system message keeps rollouts from opening with the task's own messages.
    asked = [{"role": "system", "content": "policy"}, {"role": "user", "content": task}]
    for _, rewards, reference in sets():
        group = Group.of(rollouts, task=asked, reference=reference)
        found = score(rewards, group)
        assert len(found) == len(rollouts)
        assert all(map(math.isfinite, found))
        turned = Group.of(rollouts[::-1], task=asked, reference=reference)
        assert score(rewards, turned) == found[::-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "piece",
    [
        *("a", "9", " ", "\n", "<", "<<", "<<1=1>>", "<<(", "(", "-", ".", "!", ",", "=", "1=", "1+1=", "9,9", "1 "),
        *("{", "\\boxed{", "\\frac{", "\\frac{1}{", "<solution>", "</solution>", "<solution>(", "'", '"', "a/", "$"),
        *("A:", "\nA: 1", "- ", "1. x\n", "a:\n", "error", "observation", "You have 1 step left", "def f(", "'a' "),
        *("ß", "İ", "😀", "\ud800", "٣", "\u2028", "list 3 ", "a b c "),
    ],
)
def test_hostile_text_takes_linear_time(piece: str) -> None:
    """Quadratic work on 100,000 characters would take minutes for each rule: no time is asserted."""
    text = piece * (100_000 // len(piece))
    for end in ("", "x", "\n"):
        messages = [says(text + end), {"role": "user", "content": text}, says(text + end)]
        for _, rewards, reference in sets():
            assert all(
                map(math.isfinite, score(rewards, Group.of([messages], task="Count 3 'a' in /b", reference=reference)))
            )


@pytest.mark.parametrize("opening", ["[", '{"a":', '{"a":[', "-"])
def test_deeply_nested_arguments_are_no_arguments(opening: str) -> None:
    call = {"id": "c", "function": {"name": "book", "arguments": opening * 50_000}}
    for _, rewards, reference in sets():
        group = Group.of([[says("x") | {"tool_calls": [call]}]], task="?", reference=reference)
        assert all(map(math.isfinite, score(rewards, group)))


def test_rules_alone_without_a_judge() -> None:
    with pytest.raises(ConfigError, match="judge_weight"):
        score(Rewards(), Group.of(["a"]))
    for source, rewards, reference in sets():
        assert rewards.judge_weight == 0.0, source
        group = Group.of(["work\nA: 72", "ls"], reference=reference)
        assert score(pickle.loads(pickle.dumps(rewards)), group) == score(rewards, group)


def test_a_source_without_rules_has_none() -> None:
    assert rules_for("somebody's own") is None


@pytest.fixture(scope="module")
def labelled(data_folder: Path) -> list[LabelledGroup]:
    paths = sorted(data_folder.glob("*.jsonl*"))
    return [found for path in paths for found in read_labelled(str(path)) if isinstance(found, LabelledGroup)]


def agreements(labelled: list[LabelledGroup], *, blind: bool) -> Iterator[GroupAgreement]:
    for item in labelled:
        source = item.group.metadata["source"]
        rules = rules_for(source)
        assert isinstance(rules, RuleSet), source
        rewards = rules.blind if blind else rules.with_reference
        if rewards:
            scores = score(rewards, item.group)
            truth = [item.truth[rollout.id] for rollout in item.group.rollouts]
            yield agree(scores, truth, min_gap=0.15 if source == "intercode-bash" else 0.0, source=source)


@pytest.mark.slow
def test_every_real_group_has_finite_scores(labelled: list[LabelledGroup]) -> None:
    # `agree` refuses what is not finite
    assert len(list(agreements(labelled, blind=True))) == len(labelled) == 1251


@pytest.mark.slow
def test_with_the_reference_final_answers_are_checked_as_the_checker_did(labelled: list[LabelledGroup]) -> None:
    found = summarise(list(agreements(labelled, blind=False)), resamples=0)
    accuracy = {row.source: row.accuracy for row in found.sources}
    assert accuracy["gsm8k-model-solutions"] == pytest.approx(1.0, abs=0.01)
    assert accuracy["qwen2.5-math-example"] == pytest.approx(1.0, abs=0.01)
    # Elsewhere the reference is no checker; a rule that read the wrong field of it would be at chance.
    assert all(value is not None and value > 0.6 for value in accuracy.values())
