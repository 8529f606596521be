from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trainer.seeds import seed_of

ASKED = st.tuples(st.integers(), st.sampled_from(["sampling", "problems", "held out"]), st.integers(0, 10**6))


def test_a_run_that_goes_on_later_has_the_seeds_that_it_had() -> None:
    assert seed_of(0, "sampling", 0) == 1244218713883711
    assert seed_of(7, "held out", 256) == 61559854297082621


@given(ASKED, ASKED)
def test_every_seed_purpose_and_number_has_one_of_its_own(
    one: tuple[int, str, int], other: tuple[int, str, int]
) -> None:
    assert (seed_of(*one) == seed_of(*other)) == (one == other)
    assert 0 <= seed_of(*one) < 2**56
