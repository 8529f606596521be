"""Groups whose work says what it is worth, and judges that read it, honestly or not."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

from judges.scripted import ScriptedJudge, scores_reply
from ruler import Group, JudgeRequest
from ruler.records import LabelledGroup
from ruler.types import FENCE

WORTH = re.compile(r"worth (\d+)")


def labelled(number: int, size: int = 4) -> list[LabelledGroup]:
    """Groups of rollouts worth 20 to 69 points, all different in a group; truth is the points."""
    made = []
    for place in range(number):
        rng = random.Random(place)
        points = rng.sample(range(20, 70), size)
        group = Group.of(
            [f"worth {point} {'and so on ' * rng.randrange(9)}" for point in points],
            task=f"task {place}",
            id=f"g{place}",
            metadata={"source": "s", "split_key": f"key {place}"},
        )
        made.append(LabelledGroup(group, {one.id: p / 100 for one, p in zip(group.rollouts, points, strict=True)}))
    return made


def shown(request: JudgeRequest) -> dict[str, str]:
    """Label -> what stands between its fences."""
    text = request.messages[1]["content"]
    fences = list(FENCE.finditer(text))
    return {a["id"]: text[a.end() : b.start()] for a, b in zip(fences[::2], fences[1::2], strict=True)}


def worth(text: str) -> int:
    """Points that the work names; 0 where there is no work."""
    found = WORTH.search(text)
    return int(found[1]) if found else 0


def judge(points: Callable[[str], int]) -> ScriptedJudge:
    """Scores each rollout by its text alone."""
    return ScriptedJudge(lambda request: scores_reply({i: points(text) for i, text in shown(request).items()}))


def level(findings: Any) -> dict[str, str]:
    """Subject -> level."""
    return {finding.subject: finding.level for finding in findings}
