"""What the rows of a comparison are worth: agreement with truth, noise, differences, cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Literal, TypeAlias

from benchmarks.rows import Answer, Row
from benchmarks.sources import APART, MIN_GAPS
from ruler import Usage
from ruler.agreement import Agreement, GroupAgreement, summarise
from ruler.comparison import Difference, PairNoise, difference, pair_noise
from ruler.evaluation import agreements, is_checked, source_of
from ruler.records import LabelledGroup

CostUnit: TypeAlias = Literal["tokens", "usd"]

FEW_FAILURES = 0.02


@dataclass(frozen=True, slots=True)
class Cost:
    """What it takes to get the scores of one group: all that was asked, of failed groups too, by groups with scores.

    A cache changes nothing. Groups whose rollouts all read the same are not among them.
    """

    calls: float
    tokens: float
    """Input and output."""
    usd: float | None
    """None where a price is unknown."""
    seconds: float
    """Sum of the latencies of a group's questions, not the time that passes."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One row in numbers."""

    row: Row
    groups: tuple[GroupAgreement, ...]
    agreement: Agreement
    noise: PairNoise
    cost: Cost | None
    """Over the groups of sources that are not apart, as accuracy is; None where nobody is asked."""
    costs: Mapping[str, Cost]
    """The same by source; empty where nobody is asked."""
    versus_base: Difference | None
    """Accuracy less that of the same judge's base row; for rows without a judge, of the first judge's. None where there
    is no such row, and for that row itself."""
    base: str | None
    """The name of that row."""

    @property
    def is_base(self) -> bool:
        """Whether the other rows of this judge are compared with it."""
        return self.row.kind == "judge" and self.base is None


def figures_of(rows: Sequence[Row], labelled: Sequence[LabelledGroup]) -> list[Figures]:
    """The figures of every row, in order. The first row of each judge is its base.

    Args:
        rows: with unique names.
        labelled: the groups that the rows speak of.
    """
    measured = {row.name: _agreements(row, labelled) for row in rows}
    bases: dict[str | None, str] = {}
    for row in rows:
        if row.kind == "judge":
            bases.setdefault(row.judge, row.name)
    first = next(iter(bases.values()), None)
    found = []
    for row in rows:
        own = measured[row.name]
        base = bases.get(row.judge, first)
        versus = None if base in (None, row.name) else difference(own, measured[str(base)], apart=APART)
        found.append(
            Figures(
                row=row,
                groups=tuple(own),
                agreement=summarise(own, failed=_failed(row, labelled), apart=APART),
                noise=pair_noise(_checked(own, labelled), apart=APART),
                cost=_cost(row, [item.group.id for item in labelled if source_of(item.group) not in APART]),
                costs=_costs(row, labelled),
                versus_base=versus,
                base=None if versus is None else base,
            )
        )
    return found


def rivals(figures: Sequence[Figures]) -> list[tuple[Figures, Figures, Difference]]:
    """Every pair of judges by their bases, and the jury beside each, with the first's accuracy less the second's."""
    judges = [one for one in figures if one.is_base or one.row.kind == "jury"]
    return [(one, other, difference(one.groups, other.groups, apart=APART)) for one, other in combinations(judges, 2)]


def cheapest_within(figures: Sequence[Figures], unit: CostUnit, margin: float = 0.01) -> tuple[Figures, Figures] | None:
    """(the cheapest row whose accuracy is at most `margin` under the best, the best); None without any with a cost."""
    known = with_cost(figures, unit)
    if not known:
        return None
    best = max(known, key=lambda one: (accuracy(one), -cost_in(one, unit)))
    near = [one for one in known if accuracy(one) >= accuracy(best) - margin]
    return min(near, key=lambda one: (cost_in(one, unit), -accuracy(one))), best


def with_cost(figures: Sequence[Figures], unit: CostUnit) -> list[Figures]:
    """The rows that have an accuracy and a known cost, and failed on no more than FEW_FAILURES of the groups.

    Accuracy on the groups that did not fail is no choice between rows that failed on others.
    """
    return [
        one
        for one in figures
        if one.agreement.overall.accuracy is not None
        and one.cost is not None
        and getattr(one.cost, unit) is not None
        and (one.agreement.overall.failure_rate or 0.0) <= FEW_FAILURES
    ]


def accuracy(figures: Figures) -> float:
    """Over all sources; only of a row that has one."""
    assert figures.agreement.overall.accuracy is not None
    return figures.agreement.overall.accuracy


def cost_in(figures: Figures, unit: CostUnit) -> float:
    """The cost of one group; only of a row that has one."""
    assert figures.cost is not None
    return float(getattr(figures.cost, unit))


def figures_record(figures: Figures) -> dict[str, Any]:
    """One row of results.json."""
    row = figures.row
    return {
        "name": row.name,
        "kind": row.kind,
        "judge": row.judge,
        "setting": row.setting,
        "overall": asdict(figures.agreement.overall),
        "sources": [asdict(source) for source in figures.agreement.sources],
        "pair_noise": asdict(figures.noise),
        "cost": figures.cost and asdict(figures.cost),
        "costs": {source: asdict(cost) for source, cost in figures.costs.items()},
        "versus": figures.versus_base
        and {"row": figures.base, "verdict": figures.versus_base.verdict, **asdict(figures.versus_base)},
        "failures": row.failures,
        "scores": {name: answer.scores and list(answer.scores) for name, answer in row.answers.items()},
    }


def even_if_tied(answer: Answer | None, size: int) -> Sequence[float] | None:
    """The scores; equal ones where all rollouts read the same; None where it failed or says nothing."""
    if answer is None or answer.failure is not None:
        return None
    return (0.0,) * size if answer.scores is None else answer.scores


def _agreements(row: Row, labelled: Sequence[LabelledGroup]) -> list[GroupAgreement]:
    scores = [even_if_tied(row.answers.get(item.group.id), len(item.group.rollouts)) for item in labelled]
    return agreements(labelled, scores, min_gaps=MIN_GAPS)


def _failed(row: Row, labelled: Sequence[LabelledGroup]) -> Mapping[str, int]:
    failures = row.failures
    return Counter(source_of(item.group) for item in labelled if item.group.id in failures)


def _checked(groups: Sequence[GroupAgreement], labelled: Sequence[LabelledGroup]) -> list[GroupAgreement]:
    checked = {item.group.id for item in labelled if is_checked(item.group)}
    return [group for group in groups if group.group_id in checked]


def _costs(row: Row, labelled: Sequence[LabelledGroup]) -> dict[str, Cost]:
    by_source: dict[str, list[str]] = {}
    for item in labelled:
        by_source.setdefault(source_of(item.group), []).append(item.group.id)
    costs = {source: _cost(row, names) for source, names in by_source.items()}
    return {source: cost for source, cost in costs.items() if cost is not None}


def _cost(row: Row, group_ids: Iterable[str]) -> Cost | None:
    answers = [row.answers[name] for name in group_ids if name in row.answers]
    scored = sum(answer.scores is not None for answer in answers)
    if row.judge is None or not scored:
        return None
    usage = sum((answer.usage for answer in answers), Usage())
    return Cost(
        calls=usage.calls / scored,
        tokens=(usage.input_tokens + usage.output_tokens) / scored,
        usd=None if usage.cost_usd is None else usage.cost_usd / scored,
        seconds=math.fsum(answer.seconds for answer in answers) / scored,
    )
