"""Every two rollouts of a group side by side, in both orders: the most that comparing can cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain, combinations, islice
from statistics import fmean

from benchmarks.parts import Lineup, Part, PartJudge
from benchmarks.rows import Answer
from ruler import DEFAULT_RUBRIC, Group, Judge, Rubric
from ruler.audit import Tell


async def ask_pairwise(
    judge: Judge, groups: Sequence[Group], *, tell: Tell, rubric: Rubric | str = DEFAULT_RUBRIC, concurrency: int = 16
) -> dict[str, Answer]:
    """Group id -> each rollout's score in [0, 1]: the mean over its opponents of (1 + own score - opponent's) / 2.

    N (N - 1) calls a group. The scores of a pair's two orders are averaged before they are compared: small judges lose
    much when each order only votes for a winner (arXiv 2503.03064). Rollouts that read the same are one opponent and
    have one score; where all do, nothing is asked and there are no scores. A group of one fails, and so does a group of
    which a pair does, with its first such pair.
    """
    asker = PartJudge(judge, tell, rubric=rubric, orders=2, concurrency=concurrency)
    lineups = [Lineup.of(group, asker.ruler) for group in groups]
    parts = [[Part(lineup.group, pair) for pair in combinations(lineup.entrants, 2)] for lineup in lineups]
    answers = iter(await asker.ask(list(chain.from_iterable(parts))))
    return {
        lineup.group.id: _answer(lineup, own, list(islice(answers, len(own))))
        for lineup, own in zip(lineups, parts, strict=True)
    }


def margin(pair: Answer) -> float:
    """How far the first rollout of a pair stands above the second, in [-1, 1]; 0 where they read the same."""
    if pair.scores is None:
        return 0.0
    first, second = pair.scores
    return first - second


def _answer(lineup: Lineup, parts: Sequence[Part], answers: Sequence[Answer]) -> Answer:
    shares: defaultdict[int, list[float]] = defaultdict(list)
    for part, answer in zip(parts, answers, strict=True):
        first, second = part.places
        above = margin(answer)
        shares[first].append((1 + above) / 2)
        shares[second].append((1 - above) / 2)
    return lineup.lonely() or lineup.answer(answers, {place: fmean(own) for place, own in shares.items()}, {})
