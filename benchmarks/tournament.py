"""Seeded single elimination, as ArenaRL (arXiv 2601.06487) ranks the rollouts of a group with a number of comparisons
that grows with their number, not with its square.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, islice
from statistics import fmean

from benchmarks.pairwise import margin
from benchmarks.parts import Lineup, Part, PartJudge
from benchmarks.rows import Answer
from ruler import DEFAULT_RUBRIC, Group, Judge, Rubric
from ruler.audit import Tell


async def ask_tournament(
    judge: Judge, groups: Sequence[Group], *, tell: Tell, rubric: Rubric | str = DEFAULT_RUBRIC, concurrency: int = 16
) -> dict[str, Answer]:
    """Group id -> each rollout's score in [0, 1]: the round of the bracket it reached, then its level there.

    2 N - 2 calls a group, each with two rollouts in one order, which their content draws. All groups play a round
    before any plays the next. Two things are not as in ArenaRL: its anchor is a rollout that the policy wrote without
    randomness, which these groups lack, so content draws it, too; and it asks every match in both orders, for twice
    the calls. A match that repeats a comparison with the anchor is the same question, which a cache answers: it is
    counted as if it had been asked again.

    Rollouts that read the same are one entrant and have one score; where all do, nothing is asked and there are no
    scores. A group of one fails, and so does a group of which a comparison does; it plays no further round.
    """
    asker = PartJudge(judge, tell, rubric=rubric, concurrency=concurrency)
    contests = [_Contest(Lineup.of(group, asker.ruler)) for group in groups]
    stage = 0
    while playing := [contest for contest in contests if contest.due]:
        parts = [[Part(one.lineup.group, pair, f"round {stage}") for pair in one.due] for one in playing]
        answers = iter(await asker.ask(list(chain.from_iterable(parts))))
        for contest in playing:
            contest.take(list(islice(answers, len(contest.due))))
        stage += 1
    return {contest.lineup.group.id: contest.answer() for contest in contests}


class _Contest:
    """The bracket of one group, and what its comparisons said and took."""

    def __init__(self, lineup: Lineup) -> None:
        self.lineup = lineup
        self._bracket = Bracket(lineup.entrants)
        self._answers: list[Answer] = []

    @property
    def due(self) -> list[tuple[int, int]]:
        """What is to be asked now; nothing after a failure."""
        return [] if any(answer.failure is not None for answer in self._answers) else self._bracket.due

    def take(self, answers: Sequence[Answer]) -> None:
        self._answers += answers
        if not any(answer.failure is not None for answer in answers):
            self._bracket.take([margin(answer) for answer in answers])

    def answer(self) -> Answer:
        return self.lineup.lonely() or self.lineup.answer(self._answers, self._bracket.scores(), {})


class Bracket:
    """Who meets whom, and who comes out how.

    Everybody is compared with the first entrant, which ranks them as seeds. The bracket is that of as many places as
    the next power of two: the best seeds, who would meet nobody there, have a bye in the first round; the two best can
    meet in the last one only. Equal margins are decided by seed, equal seeds by the order of the entrants.

    Attributes:
        due: the comparisons of the round that comes next; empty when all is over.
    """

    def __init__(self, entrants: Sequence[int]) -> None:
        anchor, *others = entrants
        self.due = [(anchor, other) for other in others]
        self._seeds: list[int] = []
        """The entrants, best first; empty before they are ranked."""
        self._places: list[int | None] = []
        """Of the round that comes next, neighbours meet; None: nobody."""
        self._above_anchor = dict.fromkeys(entrants, 0.0)
        self._levels: dict[int, list[float]] = {entrant: [] for entrant in entrants}
        """How far above the anchor, by each comparison."""
        self._rounds_won = dict.fromkeys(entrants, 0)

    def take(self, margins: Sequence[float]) -> None:
        """Takes the results of `due`: how far the first of each stands above the second, in [-1, 1]."""
        results = dict(zip(self.due, margins, strict=True))
        if self._seeds:
            self._play(results)
        else:
            self._rank(results)
        matches = zip(self._places[::2], self._places[1::2], strict=False)
        self.due = [(first, second) for first, second in matches if first is not None and second is not None]

    def scores(self) -> dict[int, float]:
        """Entrant -> (rounds won + (2 + level) / 4) / (rounds + 1), in [0, 1]; a bye counts as won.

        The level, in [-2, 2], is the mean over its comparisons of how far it stands above the anchor: its margin, and
        that by which its opponent was found above the anchor. Margins alone would punish whoever met the best, and a
        judge without error would not order a group rightly. It moves nobody past one who won more rounds.
        """
        rounds = max(self._rounds_won.values())
        levels = {entrant: fmean(found or [0.0]) for entrant, found in self._levels.items()}
        return {entrant: (won + (2 + levels[entrant]) / 4) / (rounds + 1) for entrant, won in self._rounds_won.items()}

    def _rank(self, results: Mapping[tuple[int, int], float]) -> None:
        for (_, other), above in results.items():
            self._above_anchor[other] = -above
        for entrant, level in self._above_anchor.items():
            self._levels[entrant].append(level)
        self._seeds = sorted(self._above_anchor, key=self._above_anchor.__getitem__, reverse=True)
        seeds = [0]
        while len(seeds) < len(self._seeds):
            seeds = [seed for one in seeds for seed in (one, 2 * len(seeds) - 1 - one)]
        self._places = [self._seeds[seed] if seed < len(self._seeds) else None for seed in seeds]

    def _play(self, results: Mapping[tuple[int, int], float]) -> None:
        winners: list[int | None] = []
        for first, second in zip(self._places[::2], self._places[1::2], strict=True):
            winner = self._winner(first, second, results)
            self._rounds_won[winner] += 1
            winners.append(winner)
        self._places = winners
        for (first, second), above in results.items():
            self._levels[first].append(self._above_anchor[second] + above)
            self._levels[second].append(self._above_anchor[first] - above)

    def _winner(self, first: int | None, second: int | None, results: Mapping[tuple[int, int], float]) -> int:
        if first is None or second is None:
            present = first if second is None else second
            assert present is not None, "fewer places are empty than there are matches"
            return present
        above = results[first, second]
        if above == 0:
            return min(first, second, key=self._seeds.index)
        return first if above > 0 else second
