"""What stands beside a judge of sums: two scorers that know no arithmetic, and a simulated judge that errs as often."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from judges.simulated import Behaviour, SimulatedJudge
from ruler.agreement import agree, summarise
from ruler.audit.figures import NOTHING
from ruler.evaluation import scores_of
from ruler.rules import inside_tag
from ruler.truth_lookup import TruthLookup
from ruler.types import FailedGroup, ScoredGroup
from trainer.distill.sums.graded_sets import SetFigures, judged, ruler_of, set_figures
from trainer.distill.sums.groups import GradedGroup
from trainer.distill.sums.quality import MAX_LEVEL, Attempt, Grade

_ANSWER = inside_tag("answer")
_COLUMN = r"\d+[+-][\d+-]*=-?\d+"
_COLUMNS = re.compile(rf"^{_COLUMN}(?:,{_COLUMN})*$", re.MULTILINE)


def format_scores(group: GradedGroup) -> list[float]:
    """Form alone, in [0, 1]: the points of form, and half of those for an answer where the tags hold one, whatever it
    is.
    """
    return [
        ((2.5 if _answer(attempt) else 0) + _form(attempt, grade)) / MAX_LEVEL
        for attempt, grade in zip(group.attempts, group.grades, strict=True)
    ]


def majority_scores(group: GradedGroup) -> list[float]:
    """Form, in [0, 1], and the points for an answer where it is the group's most frequent whole number; all that share
    the lead have them.
    """
    numbers = [_number(attempt) for attempt in group.attempts]
    votes = Counter(number for number in numbers if number)
    most = max(votes.values(), default=0)
    return [
        ((5 if number and votes[number] == most else 0) + _form(attempt, grade)) / MAX_LEVEL
        for number, attempt, grade in zip(numbers, group.attempts, group.grades, strict=True)
    ]


def _form(attempt: Attempt, grade: Grade) -> int:
    """The points of form as far as they can be given without working anything out."""
    if not any(char in "0123456789" for char in attempt.text):
        return 0
    return 2 * grade.well_formed + bool(_COLUMNS.search(attempt.text)) + grade.short


def _answer(attempt: Attempt) -> str | None:
    """What stands in the tags."""
    return None if attempt.cut_off else _ANSWER(attempt.text)


def _number(attempt: Attempt) -> str | None:
    """The answer, where it is a whole number."""
    found = _answer(attempt)
    return found.lstrip("0") or "0" if found and found.isdecimal() else None


# The simulated judge with as much noise


@dataclass(frozen=True, slots=True)
class EquivalentNoise:
    """The simulated judge that knows the levels and errs as often."""

    noise: float
    """Standard deviation of the noise on each score, in units of the scale from 0 to 1."""
    figures: SetFigures
    """Without an error: its scores stand on half of the scale, to leave room for noise."""


_MOST_NOISE = 4.0
_HALVINGS = 12
_CLOSE = 5e-4


async def equivalent_noise(
    groups: Sequence[GradedGroup], accuracy: float | None, *, seed: int
) -> EquivalentNoise | None:
    """The simulated judge that knows the levels, with the noise that brings its pairs to this accuracy.

    Found by halving, with the same draws of noise at every step; the accuracy is met to 0.0005, or to what a thousandth
    of noise changes. None for an accuracy that is not above chance.
    """
    if accuracy is None or accuracy <= 0.5:
        return None
    lookup = TruthLookup()
    # Any Ruler with these options lays groups out alike, whichever judge it asks.
    lookup.ruler = ruler_of(SimulatedJudge(lookup))
    for place, group in enumerate(groups):
        truth = {f"r{number}": grade.level / MAX_LEVEL for number, grade in enumerate(group.grades)}
        lookup.learn(group.group(str(place)), truth)

    def judge_of(noise: float) -> SimulatedJudge:
        # Half of the scale is for quality, or noise would be cut off at its ends.
        behaviour = Behaviour(noise=noise, scale=50, offset=25, seed=seed)
        return SimulatedJudge(lookup, quality_name="level", behaviour=behaviour)

    low, high = 0.0, _MOST_NOISE
    noise = 0.0
    found = 1.0
    for _ in range(_HALVINGS):
        if abs(found - accuracy) <= _CLOSE:
            break
        noise = (low + high) / 2
        found = _accuracy(groups, await judged(judge_of(noise), groups))
        low, high = (noise, high) if found > accuracy else (low, noise)
    figures = await set_figures("simulated, as much noise", judge_of(noise), groups)
    return EquivalentNoise(noise, replace(figures, error=NOTHING))


def _accuracy(groups: Sequence[GradedGroup], results: Sequence[ScoredGroup | FailedGroup]) -> float:
    known = [
        agree(scores, [grade.level for grade in group.grades])
        for group, result in zip(groups, results, strict=True)
        if (scores := scores_of(result))
    ]
    return summarise(known, resamples=0).overall.accuracy or 0.0
