"""Groups judged in parts: which of their rollouts differ, each part as a group of its own, and what came of it.

Every way of asking that is not "the whole group in one prompt" is made of this. Rollouts that read the same are one
entrant, judged once, with one score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from benchmarks.rows import Answer, AsIfAsked
from ruler import FailedGroup, Group, Judge, Ruler, Usage
from ruler.audit import Tell
from ruler.errors import GroupError
from ruler.packing import pack
from ruler.types import ScoredGroup


@dataclass(frozen=True, slots=True)
class Lineup:
    """The rollouts of a group that read differently."""

    group: Group
    entrants: tuple[int, ...]
    """The place of each in the group, of copies that of the first; in an order that hangs on how they read alone."""
    entrant_of: tuple[int, ...]
    """For each rollout of the group the place of its entrant."""

    @classmethod
    def of(cls, group: Group, ruler: Ruler) -> Lineup:
        """The group's, with what this Ruler shows of its rollouts."""
        packed = pack(group, ruler.rubric, ruler.options)
        place_of = {rollout.id: place for place, rollout in enumerate(group.rollouts)}
        entrants = tuple(place_of[rollout.rollout_ids[0]] for rollout in packed.rollouts)
        first = packed.representatives
        return cls(group, entrants, tuple(place_of[first[rollout.id]] for rollout in group.rollouts))

    @property
    def all_read_the_same(self) -> bool:
        """Whether there is nothing to ask; False for a group of one."""
        return len(self.entrants) == 1 < len(self.group.rollouts)

    def answer(self, parts: Sequence[Answer], scores: Mapping[int, float], notes: Mapping[int, str | None]) -> Answer:
        """What the parts say together: their first failure, or each rollout's score; and what all of them took.

        `scores` and `notes` are by entrant, and may be incomplete where a part failed.
        """
        failure = next((part.failure for part in parts if part.failure is not None), None)
        unscored = failure is not None or self.all_read_the_same
        return Answer(
            scores=None if unscored else tuple(scores[entrant] for entrant in self.entrant_of),
            failure=failure,
            usage=sum((part.usage for part in parts), Usage()),
            seconds=sum(part.seconds for part in parts),
            notes=() if unscored or not notes else tuple(notes[entrant] for entrant in self.entrant_of),
        )

    def lonely(self) -> Answer | None:
        """The failed answer where pairs are asked for and there is one rollout; else None."""
        if len(self.group.rollouts) > 1:
            return None
        return Answer(None, f"{GroupError.code}: only one rollout, so there is nothing to compare")


@dataclass(frozen=True)
class Part:
    """Some rollouts of a group, with all that the group says of their task."""

    whole: Group
    places: tuple[int, ...]
    """Of its rollouts in the whole group."""
    stage: str = ""
    """Keeps parts of the same rollouts apart."""

    @cached_property
    def group(self) -> Group:
        """The part as a group of its own."""
        name = "|".join(filter(None, [self.whole.id, self.stage, "-".join(map(str, self.places))]))
        return replace(self.whole, id=name, rollouts=tuple(self.whole.rollouts[place] for place in self.places))


class PartJudge:
    """Asks one judge about parts of groups.

    Attributes:
        ruler: the one that asks.
    """

    def __init__(self, judge: Judge, tell: Tell, **options: Any) -> None:
        """`options` are those of `Ruler`."""
        self._counted = AsIfAsked()
        self._tell = tell
        self.ruler = Ruler(judge, on_call=self._counted, **options)

    async def ask(self, parts: Sequence[Part]) -> list[Answer]:
        """What came of each part, in their order; scores are None, without a failure, where its rollouts read the same.

        Failures begin with a reason and the ids of the part's rollouts.
        """
        self._tell(self.ruler, [(part.group, part.whole) for part in parts])
        answers: dict[int, Answer] = {}
        async with aclosing(self.ruler.score_stream(part.group for part in parts)) as results:
            async for index, result in results:
                answers[index] = self._answer(parts[index], result)
        return [answers[index] for index in range(len(parts))]

    def _answer(self, part: Part, result: ScoredGroup | FailedGroup) -> Answer:
        took = Answer(None, usage=self._counted.usage(part.group.id), seconds=self._counted.seconds(part.group.id))
        if isinstance(result, FailedGroup):
            return replace(took, failure=f"{result.reason}: {' and '.join(result.rollout_ids)}: {result.message}")
        scores = tuple(score for score in result.scores if score is not None)
        return replace(took, scores=scores or None, notes=result.notes)
