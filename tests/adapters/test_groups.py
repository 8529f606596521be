from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruler.adapters.groups import split
from ruler.errors import ConfigError

PROMPTS = st.sampled_from(["a", "b", [{"role": "user", "content": "c"}], [{"role": "user", "content": "d"}]])


@given(prompts=st.lists(PROMPTS, max_size=6), size=st.integers(1, 5))
def test_adjacent_rows_are_cut_into_whole_groups(prompts: list[object], size: int) -> None:
    keys = [prompt for prompt in prompts for _ in range(size)]
    groups = split(keys, size)
    assert groups == [list(range(first, first + size)) for first in range(0, len(keys), size)]


@given(prompts=st.lists(PROMPTS, min_size=1, max_size=5), size=st.integers(2, 5), data=st.data())
def test_a_group_that_is_not_whole_is_refused(prompts: list[object], size: int, data: st.DataObject) -> None:
    keys = [prompt for prompt in prompts for _ in range(size)]
    del keys[data.draw(st.integers(0, len(keys) - 1))]
    with pytest.raises(ConfigError, match=f"{size} rows are a group, but of {len(keys)} rows"):
        split(keys, size)


@given(num_groups=st.integers(0, 6), size=st.integers(1, 4), seed=st.integers(0, 99))
def test_by_id_rows_may_stand_anywhere(num_groups: int, size: int, seed: int) -> None:
    keys = [f"id{i}" for i in range(num_groups) for _ in range(size)]
    random.Random(seed).shuffle(keys)
    groups = split(keys, size, adjacent=False)
    assert sorted(row for group in groups for row in group) == list(range(len(keys)))
    assert all(len({keys[row] for row in group}) == 1 and len(group) == size for group in groups)
    assert groups == split(keys, None, adjacent=False)


@pytest.mark.parametrize("num_processes", [2, 4])
def test_the_example_in_the_comments_of_trl_is_seen(num_processes: int) -> None:
    """Two generations, three rows a process: `0 0 1 | 1 2 2`."""
    rows = [prompt for prompt in range(3 * num_processes // 2) for _ in range(2)]
    for process in range(num_processes):
        with pytest.raises(ConfigError, match=r"1 belong together .*: \d+\. Change the batch"):
            split(rows[3 * process : 3 * process + 3], 2, remedy="Change the batch")


def test_of_several_sizes_one_holds_for_the_whole_batch() -> None:
    assert split(["p"] * 8 + ["q"] * 4, (8, 4)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert split(["p"] * 8, (8, 4)) == [list(range(8))]
    with pytest.raises(ConfigError, match="8 or 4 rows are a group, but of 11 rows 3 belong"):
        split(["p"] * 8 + ["q"] * 3, (8, 4))


def test_an_id_with_too_many_rows_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"2 rows are a group, but of 5 rows 3 belong together \(rows 0, 2, 4\): 'a'"):
        split(["a", "b", "a", "b", "a"], 2, adjacent=False)


def test_no_rows_are_no_groups() -> None:
    assert split([], 8) == split([], None, adjacent=False) == []


@pytest.mark.parametrize("size", [0, -1, True, 2.0, "8", (), (8, 0)])
def test_a_size_that_is_none_is_named(size: object) -> None:
    with pytest.raises(ConfigError, match="group_size"):
        split(["a"], size)  # type: ignore[arg-type]


def test_ids_must_be_ids() -> None:
    for key in (["b"], None, True, 1.0, float("nan"), b"b"):
        with pytest.raises(ConfigError, match="keys: row 1: expected an id, as text or a whole number, got "):
            split(["a", key], None, adjacent=False)
    with pytest.raises(ConfigError, match="keys: row 1: expected text or messages, got an array: ndarray"):
        split([np.zeros(2), np.zeros(2)], 2)
    assert split([np.str_("a"), np.str_("a")], 2) == [[0, 1]]
    with pytest.raises(ConfigError, match="group_size: expected a whole number of at least 1, got None"):
        split(["a"], None)
