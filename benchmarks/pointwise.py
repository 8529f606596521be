"""Each rollout judged alone: what a judge is worth that compares nothing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice

from benchmarks.parts import Lineup, Part, PartJudge
from benchmarks.rows import Answer
from ruler import DEFAULT_RUBRIC, Group, Judge, Rubric
from ruler.audit import Tell


async def ask_pointwise(
    judge: Judge, groups: Sequence[Group], *, tell: Tell, rubric: Rubric | str = DEFAULT_RUBRIC, concurrency: int = 16
) -> dict[str, Answer]:
    """Group id -> each rollout's score in [0, 1] from a prompt that shows it alone; one call a rollout.

    Rollouts that read the same are asked once; where all do, nothing is asked and there are no scores. A group fails
    with its first rollout that does.
    """
    asker = PartJudge(judge, tell, rubric=rubric, absolute=True, concurrency=concurrency)
    lineups = [Lineup.of(group, asker.ruler) for group in groups]
    parts = [_parts(lineup) for lineup in lineups]
    answers = iter(await asker.ask(list(chain.from_iterable(parts))))
    return {
        lineup.group.id: _answer(lineup, list(islice(answers, len(own))))
        for lineup, own in zip(lineups, parts, strict=True)
    }


def _parts(lineup: Lineup) -> list[Part]:
    return [] if lineup.all_read_the_same else [Part(lineup.group, (place,)) for place in lineup.entrants]


def _answer(lineup: Lineup, answers: Sequence[Answer]) -> Answer:
    said = [(place, one) for place, one in zip(lineup.entrants, answers, strict=False) if one.scores]
    scores = {place: one.scores[0] for place, one in said if one.scores}
    notes = {place: one.notes[0] for place, one in said}
    return lineup.answer(answers, scores, notes)
