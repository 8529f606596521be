from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from judges.like_length import like_length


@given(st.lists(st.text(max_size=30)), st.integers(1, 100))
def test_every_row_once_and_no_batch_too_large(rows: list[str], max_tokens: int) -> None:
    batches = list(like_length(rows, len, max_tokens))
    assert [row for batch in batches for row in batch] == sorted(rows, key=len)
    assert all(batch and (len(batch) == 1 or len(batch) * len(batch[-1]) <= max_tokens) for batch in batches)
    # No two neighbours would have fitted into one: the first row of the next was too much.
    for batch, following in itertools.pairwise(batches):
        assert (len(batch) + 1) * len(following[0]) > max_tokens
