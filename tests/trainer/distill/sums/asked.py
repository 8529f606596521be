"""What a packed prompt shows of a drawn group."""

from __future__ import annotations

from judges.scripted import ScriptedJudge
from ruler.scoring import Ruler
from trainer.distill.sums.groups import GradedGroup


def shown_to_judges(group: GradedGroup) -> list[str]:
    """The text between the fences of each rollout, in the order shown."""
    (prompt,) = Ruler(ScriptedJudge([])).pack(group.group("x"))
    return list(prompt.texts.values())
