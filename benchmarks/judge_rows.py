"""Rows of one judge: all rollouts in one prompt in 1, 2 and 4 orders, and the other ways of asking."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Literal

from benchmarks.original_asking import ask_original
from benchmarks.pairwise import ask_pairwise
from benchmarks.pointwise import ask_pointwise
from benchmarks.rows import Answer, AsIfAsked, Row
from benchmarks.tournament import ask_tournament
from ruler import Group, Judge, Rubric, Ruler
from ruler.audit import Tell
from ruler.truth_lookup import TruthLookup
from ruler.types import FailedGroup, ScoredGroup, judge_info

FORMS = ("listwise", "original", "pointwise", "pairwise", "tournament")
"""Ways of asking; the first is ours, with and without notes."""
ORIGINAL = "original layout"
_ORDERS: tuple[Literal[1, 2, 4], ...] = (1, 2, 4)


class Truths:
    """What a simulated judge with `quality=truth` scores by, for one way of asking after the other."""

    def __init__(self, truth: Mapping[str, Mapping[str, float]]) -> None:
        """`truth`: group id of the file -> rollout id -> truth."""
        self._truth = truth
        self._lookup = TruthLookup()

    def __call__(self, task: str, rollout: str) -> float:
        """The truth of the rollout that reads so."""
        return self._lookup(task, rollout)

    def tell(self, ruler: Ruler, parts: Iterable[tuple[Group, Group]]) -> None:
        """A `Tell`; what another Ruler asked is forgotten."""
        if self._lookup.ruler is not ruler:
            self._lookup = TruthLookup()
            self._lookup.ruler = ruler
        for part, whole in parts:
            self._lookup.learn(part, self._truth[whole.id])

    def know(self, group: Group, task: str, texts: Mapping[str, str]) -> None:
        """Learns what each rollout of a group reads like where no Ruler lays it out: rollout id -> text."""
        for rollout, text in texts.items():
            self._lookup.know(group.id, task, text, self._truth[group.id][rollout])


def most_questions(groups: Sequence[Group], forms: Collection[str]) -> dict[str, int]:
    """Form -> the most questions that it asks one judge, where groups fit into one prompt."""
    sizes = [len(group.rollouts) for group in groups]
    # Orders that come out equal are asked once: two rollouts have two, three have three.
    listwise = sum(2 * sum(min(orders, size) for orders in _ORDERS) for size in sizes)
    counts = {
        "listwise": listwise,
        "original": len(sizes),
        "pointwise": sum(sizes),
        "pairwise": sum(size * (size - 1) for size in sizes),
        "tournament": sum(2 * size - 2 for size in sizes),
    }
    return {form: counts[form] for form in FORMS if form in forms}


async def judge_rows(
    judge: Judge,
    groups: Sequence[Group],
    truths: Truths,
    *,
    rubric: Rubric,
    forms: Collection[str] = FORMS,
    concurrency: int = 16,
) -> AsyncIterator[Row]:
    """The rows of one judge; the first is what the others are compared with.

    Args:
        judge: with its cache around it, orders that rows have in common are asked once.
        groups: all of them, whatever their truth.
        truths: told what is asked, for simulated judges.
        rubric: what to value; the original layout has its own.
        forms: of FORMS.
        concurrency: groups in flight.
    """
    name = judge_info(judge).name
    if "listwise" in forms:
        for notes in (True, False):
            for orders in _ORDERS:
                setting = f"k = {orders}" + ", no notes" * (not notes)
                calls = AsIfAsked()
                ruler = Ruler(judge, rubric=rubric, orders=orders, notes=notes, concurrency=concurrency, on_call=calls)
                answers = await listwise(ruler, groups, truths.tell, calls)
                yield Row(f"{name}: {setting}", "judge", answers, name, setting)
    if "original" in forms:
        answers = await ask_original(judge, groups, know=truths.know, concurrency=concurrency)
        yield Row(f"{name}: {ORIGINAL}", "judge", answers, name, ORIGINAL)
    for form, ask in (("pointwise", ask_pointwise), ("pairwise", ask_pairwise), ("tournament", ask_tournament)):
        if form in forms:
            answers = await ask(judge, groups, tell=truths.tell, rubric=rubric, concurrency=concurrency)
            yield Row(f"{name}: {form}", "judge", answers, name, form)


async def jury_row(
    judges: Sequence[Judge], groups: Sequence[Group], truths: Truths, *, rubric: Rubric, concurrency: int = 16
) -> Row:
    """All judges together, one order each: the mean of their scores."""
    calls = AsIfAsked()
    ruler = Ruler(judges, rubric=rubric, concurrency=concurrency, on_call=calls)
    answers = await listwise(ruler, groups, truths.tell, calls)
    return Row(f"jury: {ruler.judge_name}", "jury", answers, ruler.judge_name, "jury, k = 1")


async def listwise(
    ruler: Ruler,
    groups: Sequence[Group],
    tell: Tell,
    calls: AsIfAsked,
) -> dict[str, Answer]:
    """What a Ruler says of every group; `calls` is its `on_call`."""
    tell(ruler, [(group, group) for group in groups])
    answers = {}
    async with aclosing(ruler.score_stream(groups)) as results:
        async for _, result in results:
            answers[result.group_id] = _answer(result, calls)
    return answers


def _answer(result: ScoredGroup | FailedGroup, calls: AsIfAsked) -> Answer:
    usage, seconds = calls.usage(result.group_id), calls.seconds(result.group_id)
    if isinstance(result, FailedGroup):
        return Answer(None, f"{result.reason}: {result.message}", usage, seconds)
    scores = [score for score in result.scores if score is not None]
    whole = tuple(scores) if len(scores) == len(result.rollouts) else None
    return Answer(whole, None, usage, seconds, result.notes, result.judged)
