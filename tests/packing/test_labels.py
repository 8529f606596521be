from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruler.packing.labels import ALPHABET, draw_labels

keys = st.lists(st.text("0123456789abcdef", min_size=1, max_size=8), unique=True, min_size=1, max_size=30)


@given(keys, st.text("0123456789abcdef", max_size=8), st.lists(st.text(ALPHABET + "AE ab\n", max_size=200), max_size=5))
def test_labels_are_short_distinct_consonants_that_stand_in_no_text(
    keys: list[str], seed: str, texts: list[str]
) -> None:
    labels = draw_labels(keys, seed, texts)
    assert len(labels) == len(set(labels)) == len(keys)
    for label in labels:
        assert re.fullmatch("[BCDFGHJKLMNPQRSTVWXZ]{3,}", label)
        assert not any(label in text for text in texts)


@given(keys, st.randoms())
def test_a_label_belongs_to_its_key_and_not_to_a_position(keys: list[str], random: object) -> None:
    shuffled = sorted(keys, key=lambda key: random.random())  # type: ignore[attr-defined]
    assert dict(zip(keys, draw_labels(keys, "seed", []), strict=True)) == dict(
        zip(shuffled, draw_labels(shuffled, "seed", []), strict=True)
    )


def test_stored_answers_depend_on_these_very_labels() -> None:
    assert draw_labels(["a", "b", "c"], "seed", []) == ("LLL", "HNF", "HNJ")


def test_another_seed_gives_other_labels() -> None:
    keys = [f"{number:02x}" for number in range(8)]
    one, other = draw_labels(keys, "1", []), draw_labels(keys, "2", [])
    assert not set(one) & set(other)


@pytest.mark.parametrize(("size", "length"), [(1, 3), (400, 3), (500, 4), (5000, 4), (20_000, 5)])
def test_large_groups_get_longer_labels(size: int, length: int) -> None:
    labels = draw_labels([f"{number:x}" for number in range(size)], "seed", [])
    assert len(set(labels)) == size
    assert {len(label) for label in labels} == {length}


@pytest.mark.parametrize("joint", [" ", "", "e"])
def test_a_text_that_holds_all_short_labels_gets_longer_ones(joint: str) -> None:
    text = joint.join(map("".join, itertools.product(ALPHABET, repeat=3)))
    labels = draw_labels(["a", "b", "c"], "seed", [text])
    assert all(len(label) > 3 and label not in text for label in labels)


def test_a_label_is_not_hidden_inside_a_longer_word() -> None:
    (label,) = draw_labels(["a"], "seed", [])
    assert draw_labels(["a"], "seed", [f"X{label}X"]) != (label,)
    assert draw_labels(["a"], "seed", [label.lower()]) == (label,)


def test_long_texts_of_consonants_are_read_once() -> None:
    labels = draw_labels(["a", "b"], "seed", [ALPHABET * 50_000, "BCD" * 300_000])
    assert len(set(labels)) == 2
