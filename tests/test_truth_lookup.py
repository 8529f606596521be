from __future__ import annotations

import pytest

from judges.scripted import ScriptedJudge
from ruler import Group, Ruler
from ruler.errors import ConfigError
from ruler.truth_lookup import TruthLookup


def group(*answers: str, id: str = "g") -> Group:
    return Group.of(answers, task="What is 6 times 7?", id=id)


def lookup() -> TruthLookup:
    found = TruthLookup()
    found.ruler = Ruler(ScriptedJudge([]), orders=2)
    return found


def shown(known: TruthLookup, of: Group) -> dict[str, float]:
    """The truth of every rollout, asked for by the texts of the prompts that the judge would get."""
    assert known.ruler
    return {
        prompt.rollouts[label][0]: known(prompt.context, text)
        for prompt in known.ruler.pack(of)
        for label, text in prompt.texts.items()
    }


def test_it_finds_the_truth_by_the_text_of_every_order() -> None:
    known, one = lookup(), group("42", "41")
    known.learn(one, {"r1": 1.0, "r2": 0.0})
    assert shown(known, one) == {"r1": 1.0, "r2": 0.0}


def test_groups_learned_later_are_found_and_forgotten_ones_are_not() -> None:
    known, one, other = lookup(), group("42", "41"), group("6", "7", id="other")
    known.learn(one, {"r1": 1.0, "r2": 0.0})
    assert shown(known, one)
    known.learn(other, {"r1": 0.25, "r2": 0.5})
    assert shown(known, other) == {"r1": 0.25, "r2": 0.5}
    known.forget(other)
    assert shown(known, one) == {"r1": 1.0, "r2": 0.0}
    with pytest.raises(ConfigError, match="truth of a rollout that is asked for is not known"):
        shown(known, other)


def test_forgetting_a_group_leaves_another_with_the_same_texts() -> None:
    known = lookup()
    for name in ("a", "b"):
        known.learn(group("42", "41", id=name), {"r1": 1.0, "r2": 0.0})
    assert shown(known, group("42", "41"))
    known.forget(group("42", "41", id="a"))
    assert shown(known, group("42", "41")) == {"r1": 1.0, "r2": 0.0}


def test_truth_that_is_missing_for_one_rollout_is_no_number() -> None:
    known, one = lookup(), group("42", "41")
    known.learn(one, {"r1": 1.0})
    with pytest.raises(ConfigError, match="not known"):
        shown(known, one)


def test_another_ruler_lays_out_again_what_was_learned() -> None:
    known, one = lookup(), group("42", "41")
    known.learn(one, {"r1": 1.0, "r2": 0.0})
    assert shown(known, one)
    known.ruler = Ruler(ScriptedJudge([]), reference=True)
    told = Group.of(["42", "41"], task="What is 6 times 7?", id="told", reference="42")
    known.learn(told, {"r1": 1.0, "r2": 0.0})
    assert shown(known, told) == {"r1": 1.0, "r2": 0.0}
    assert shown(known, one) == {"r1": 1.0, "r2": 0.0}


def test_the_truth_of_a_text_can_be_told() -> None:
    known = lookup()
    known.know("a", "task", "answer", 0.75)
    assert known("task", "answer") == 0.75
    known.know("b", "task", "answer", 0.25)
    assert known("task", "answer") == 0.5, "the mean, as of groups that are laid out"
    with pytest.raises(ConfigError, match="not known"):
        known("another task", "answer")


def test_a_text_with_a_different_truth_in_each_group_has_the_mean() -> None:
    known = lookup()
    known.learn(group("42", "41", id="a"), {"r1": 1.0, "r2": 0.0})
    known.learn(group("42", "forty-two", id="b"), {"r1": 0.0, "r2": 1.0})
    assert shown(known, group("42", "41", id="a")) == {"r1": 0.5, "r2": 0.0}
    known.forget(group("42", "forty-two", id="b"))
    assert shown(known, group("42", "41", id="a")) == {"r1": 1.0, "r2": 0.0}


def test_what_was_learned_before_is_found_as_another_ruler_shows_it() -> None:
    known = lookup()
    one = Group.of(["42", "41"], task="What is 6 times 7?", id="g", reference="forty-two")
    known.learn(one, {"r1": 1.0, "r2": 0.0})
    assert shown(known, one)
    # It is told the reference, so the text before the first fence is another.
    known.ruler = Ruler(ScriptedJudge([]), reference=True)
    assert shown(known, one) == {"r1": 1.0, "r2": 0.0}
