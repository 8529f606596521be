"""What an audit asks: prepared as a whole, so that it can be counted before anything is paid for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from ruler.audit.attacks import Attacked, attacked_groups
from ruler.audit.cuts import Cut, cut_group
from ruler.audit.repeats import RepeatedJudge
from ruler.audit.style import GroupStyle, group_style
from ruler.errors import ConfigError, PackingError
from ruler.packing import pack
from ruler.packing.cut import MIN_RESULT_CHARS
from ruler.records import LabelledGroup
from ruler.scoring import Ruler
from ruler.types import FailedGroup, Group, Judge, ScoredGroup, judge_info

Tell: TypeAlias = Callable[[Ruler, Iterable[tuple[Group, Group]]], None]
"""Told, before this Ruler asks, of every (group that will be asked, group of the file that it was made of)."""
_MAX_CUT_GROUPS = 100
"""Prompts with long tool outputs are the dearest ones."""
_CHARS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Questions:
    """How many questions an audit asks at most; a cache may have the answer to any."""

    as_they_are: int
    """Every group in all orders."""
    again: int
    """The first orders once more."""
    attacked: int
    cut: int
    prompt_chars: int
    """Text of all these prompts together."""

    @property
    def total(self) -> int:
        """All questions."""
        return self.as_they_are + self.again + self.attacked + self.cut

    @property
    def prompt_tokens(self) -> int:
        """Estimated at four characters a token."""
        return self.prompt_chars // _CHARS_PER_TOKEN


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of everything that was asked. Sequences are in the order of `Asking.labelled`, or as said."""

    results: Sequence[ScoredGroup | FailedGroup]
    again: Sequence[ScoredGroup | FailedGroup | None]
    """None: not asked, because the group has no scores to compare with."""
    attacked: Sequence[Attacked]
    """Those that were asked: not of groups without scores."""
    after_attack: Sequence[ScoredGroup | FailedGroup]
    """One for each of `attacked`."""
    cuts: Sequence[Cut]
    """Those that were asked."""
    after_cut: Sequence[ScoredGroup | FailedGroup]
    """One for each of `cuts`."""


class Asking:
    """Everything one audit asks about these groups.

    Attributes:
        labelled: the groups that are audited: those of two rollouts or more.
        ruler: asks about them as they are.
        styles: of each group.
        long_outputs: groups with a tool output longer than the shortest cut, whether it could be cut or not.
        questions: how many there are.
    """

    def __init__(
        self, judge: Judge | str, labelled: Sequence[LabelledGroup], *, orders: Any, attacks: int, **options: Any
    ) -> None:
        """Lays everything out; asks nothing.

        Args:
            judge: the one judge.
            labelled: groups of two rollouts or more.
            orders: as of `Ruler`, and more than 1.
            attacks: families for each attacked group.
            **options: further ones of `Ruler`.
        """
        self.labelled = labelled
        self.ruler = Ruler(judge, orders=orders, **options)
        (self._judge,) = self.ruler.judges
        self._again = Ruler(RepeatedJudge(self._judge), orders=1, **options)
        self._concurrency: int = options["concurrency"]
        groups = [item.group for item in labelled]
        images = judge_info(self._judge).images
        packed = [pack(group, self.ruler.rubric, self.ruler.options, images=images) for group in groups]
        self.styles: list[GroupStyle] = [group_style(one) for one in packed]
        # Nobody is asked about a group whose rollouts all read the same, so nothing can be compared with it.
        self._comparable = [index for index, one in enumerate(packed) if len(one.rollouts) > 1]
        self._attacked = [
            Attacked(one.group, self._comparable[one.index], one.rollout_id, one.attack)
            for one in attacked_groups([groups[index] for index in self._comparable], families=attacks)
        ]
        self.long_outputs = sum(packed[index].longest_result_chars > MIN_RESULT_CHARS for index in self._comparable)
        small = partial(self._small_window, options)
        found = (cut_group(groups[index], index, self.ruler, small) for index in self._comparable)
        self._cuts = _first([cut for cut in found if cut is not None], _MAX_CUT_GROUPS)
        self.questions = self._count(groups)

    def _small_window(self, options: dict[str, Any], context_tokens: int) -> Ruler:
        return Ruler(self._judge, orders=1, **options | {"context_tokens": context_tokens})

    def _count(self, groups: Sequence[Group]) -> Questions:
        as_they_are, again, attacked, cut = (
            [length for ruler, group in asked for length in _prompt_lengths(ruler, group)]
            for asked in (
                [(self.ruler, group) for group in groups],
                [(self._again, group) for group in groups],
                [(self.ruler, one.group) for one in self._attacked],
                [(one.ruler, one.group) for one in self._cuts],
            )
        )
        chars = sum(map(sum, (as_they_are, again, attacked, cut)))
        return Questions(len(as_they_are), len(again), len(attacked), len(cut), chars)

    async def ask(self, *, tell: Tell | None, progress: bool) -> Outcome:
        """Asks it all, the groups as they are first; what needs their scores is not asked where there are none."""
        groups = [item.group for item in self.labelled]
        told: Tell = tell or _nobody
        told(self.ruler, [(group, group) for group in groups])
        results = await self.ruler.score_many(groups, progress=progress)
        scored = {index for index, result in enumerate(results) if result.status == "scored"}
        told(self._again, [(groups[index], groups[index]) for index in sorted(scored)])
        repeated = iter(await self._again.score_many([groups[index] for index in sorted(scored)], progress=progress))
        again = [next(repeated) if index in scored else None for index in range(len(groups))]
        attacked = [one for one in self._attacked if one.index in scored]
        told(self.ruler, [(one.group, groups[one.index]) for one in attacked])
        after_attack = await self.ruler.score_many([one.group for one in attacked], progress=progress)
        cuts = [cut for cut in self._cuts if cut.index in scored]
        for cut in cuts:
            told(cut.ruler, [(cut.group, cut.group)])
        return Outcome(results, again, attacked, after_attack, cuts, await self._ask_cut(cuts))

    async def _ask_cut(self, cuts: Sequence[Cut]) -> list[ScoredGroup | FailedGroup]:
        places = asyncio.Semaphore(self._concurrency)

        async def one(cut: Cut) -> ScoredGroup | FailedGroup:
            async with places:
                (result,) = await cut.ruler.score_many([cut.group])
                return result

        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(one(cut)) for cut in cuts]
        return [task.result() for task in asked]


def check_audit(orders: object, attacks: object, most: int) -> None:
    """Raises ConfigError for what an audit cannot do."""
    if orders == 1:
        raise ConfigError('orders: an audit compares orders: expected 2, 4 or "full", got 1')
    if isinstance(attacks, bool) or not isinstance(attacks, int) or not 0 <= attacks <= most:
        raise ConfigError(f"attacks: expected a whole number from 0 to {most}, got {attacks!r:.80}")


def _prompt_lengths(ruler: Ruler, group: Group) -> list[int]:
    """Of a group that does not fit the window nothing is asked."""
    try:
        return [sum(len(text) for _, text in prompt.parts) for prompt in ruler.pack(group)]
    except PackingError:
        return []


def _first(cuts: Sequence[Cut], most: int) -> list[Cut]:
    """At most so many, chosen by content and not by their place in the file."""
    chosen = sorted(cuts, key=lambda cut: cut.group.rollouts_digest)[:most]
    return sorted(chosen, key=lambda cut: cut.index)


def _nobody(ruler: Ruler, groups: Iterable[tuple[Group, Group]]) -> None:
    """Tells nobody anything."""
