from __future__ import annotations

from random import Random

import pytest

from benchmarks.noise_recovery import recover
from ruler import Group
from ruler.errors import GroupError
from ruler.records import LabelledGroup


def groups(count: int) -> list[LabelledGroup]:
    """Groups of four, each with one to three right answers."""
    found = []
    for n in range(count):
        rng = Random(n)
        right = 1 + n % 3
        truths = [1.0] * right + [0.0] * (4 - right)
        rng.shuffle(truths)
        group = Group.of([f"{n} answers {k}" for k in range(4)], task=f"task {n}", id=f"g{n}")
        found.append(LabelledGroup(group, {f"r{k}": truth for k, truth in enumerate(truths, 1)}))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.1, 0.3])
async def test_a_known_flip_rate_is_recovered(rate: float) -> None:
    found = await recover(groups(100), rate, range(50))
    assert abs(found.bias) <= 0.01
    assert found.covered >= 43, "of 50 intervals of 95 %: fewer once in a thousand times"


async def test_a_judge_without_flips_has_no_noise() -> None:
    found = await recover(groups(12), 0.0, range(2))
    assert found.estimates == (0.0, 0.0)
    assert found.covered == 2


async def test_groups_that_cannot_tell_are_refused() -> None:
    item = LabelledGroup(Group.of(["a", "b"], task="t", id="g"), {"r1": 1.0, "r2": 1.0})
    with pytest.raises(GroupError, match="none has truth of 0 and 1 that differs"):
        await recover([item], 0.1, [0])
