from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from ruler.orders import seeded_order


@given(st.integers(0, 200), st.text(max_size=10))
def test_it_is_a_permutation_that_the_seed_alone_decides(size: int, seed: str) -> None:
    order = seeded_order(size, seed)
    assert sorted(order) == list(range(size))
    assert order == seeded_order(size, seed)


def test_stored_answers_depend_on_these_very_orders() -> None:
    assert seeded_order(8, "seed") == (0, 5, 6, 4, 7, 3, 2, 1)


def test_every_rollout_stands_in_every_place_equally_often() -> None:
    first = Counter(seeded_order(4, str(seed))[0] for seed in range(4000))
    assert set(first) == {0, 1, 2, 3}
    assert all(850 < count < 1150 for count in first.values())
