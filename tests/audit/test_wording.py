from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from ruler.audit.wording import audit_more, more_tasks
from ruler.intervals import Estimate


@given(st.integers(2, 500), st.floats(0.06, 1), st.floats(-0.5, 0.5))
def test_so_many_more_tasks_bring_the_interval_down(tasks: int, half: float, value: float) -> None:
    more = more_tasks(0.05, Estimate(value, (value - half, value + half), tasks, tasks))
    assert more is not None
    assert half * math.sqrt(tasks / (tasks + more)) <= 0.05 * (1 + 1e-9)
    # Two digits are kept, so at most a tenth is asked for in vain.
    exact = tasks * ((half / 0.05) ** 2 - 1)
    assert more <= max(exact + 1, 1.1 * exact + 1)


def test_where_nothing_is_missing_or_known_no_number_is_said() -> None:
    narrow, unknown = Estimate(0.1, (0.06, 0.14), 20, 20), Estimate(0.1, None, 1, 1)
    assert more_tasks(0.05, narrow) is more_tasks(0.05, unknown) is more_tasks(0.05) is None
    assert audit_more(None) == "audit more groups"
    wide = Estimate(0.0, (-0.1, 0.1), 20, 20)
    assert audit_more(more_tasks(0.05, narrow, wide, unknown)) == "audit more groups (about 60 more tasks)"
