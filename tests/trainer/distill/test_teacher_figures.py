from __future__ import annotations

import pytest

from ruler.records import LabelledGroup
from ruler.rubric import DEFAULT_RUBRIC
from ruler.types import Group, JudgeInfo
from trainer.distill.lessons import usable
from trainer.distill.teacher_figures import measured

SCORES = {"a": (0.9, 0.5, 0.1), "b": (0.2, 0.8, 0.8)}
"""The teacher's."""


def test_a_student_beside_teacher_and_truth() -> None:
    groups = {name: Group.of([f"{name}{place}" for place in range(3)], task="T", id=name) for name in ("a", "b", "c")}
    truth = {rollout.id: float(place) for place, rollout in enumerate(groups["a"].rollouts)}
    material = usable(
        [LabelledGroup(group, truth if name == "a" else {}) for name, group in groups.items()],
        JudgeInfo(backend="test", model="student"),
        DEFAULT_RUBRIC,
    ).material
    held_out = [
        (item, dict(zip((r.id for r in groups[name].rollouts), SCORES.get(name, (0.1, 0.2, 0.3)), strict=True)))
        for item in material
        for name in [item.group_id]
    ]
    own = {"a": (0.7, 0.3, 0.4), "b": (0.5, 0.5, 0.7)}
    found = measured(held_out, {item: own[item.group_id] for item, _ in held_out if item.group_id in own})
    # a: 2 of 3 pairs as the teacher has them; b: of 2 pairs one, and one is tied. Truth turns a round: 1 of 3.
    assert found.agreement.value == pytest.approx((2 / 3 + 3 / 4) / 2)
    assert found.agreement.groups == 2
    assert found.agreement.interval
    assert found.distance.value == pytest.approx((0.7 / 3 + 0.7 / 3) / 2)
    assert found.accuracy.value == pytest.approx(1 / 3)
    assert (found.accuracy.groups, found.accuracy.interval) == (1, None)
    assert found.failed == 1
