"""What the dashboard's first page shows of a running service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ruler.service.page_text import count, duration, rate, share, usd
from ruler.service.problems import STATUSES
from ruler.service.recent import Judged
from ruler.types import FailedGroup

if TYPE_CHECKING:
    from ruler.service.keys import Caller
    from ruler.service.metrics import Activity
    from ruler.service.rendezvous import Waiting
    from ruler.service.service import Service

ROWS = 25
"""Recent groups on a page."""
_MAX_WAITING = 12
_MAX_DOTS = 32
"""Scores drawn in a row of the list; of a larger group its best, its worst, and others evenly between."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of the service's activity."""

    name: str
    value: str
    beside: str
    """What belongs to it."""
    is_bad: bool = False
    section: str = ""
    """Id of the part of the page that tells more."""


@dataclass(frozen=True, slots=True)
class Failures:
    """How often groups failed for one reason."""

    reason: str
    meaning: str
    minute: int
    ten_minutes: int


@dataclass(frozen=True, slots=True)
class Row:
    """One recent group."""

    judged: Judged
    reason: str
    """Why it failed; empty where it did not."""
    num_rollouts: int
    scores: tuple[float, ...]
    """From the worst to the best, as drawn."""
    age_seconds: float


@dataclass(frozen=True, slots=True)
class Checked:
    """Whether one judge still scores golden groups as it did."""

    judge: str
    alarm: bool
    sentence: str
    num_groups: int
    age_seconds: float | None
    """None: not checked yet."""


def figures(service: Service, minute: Activity, ten: Activity) -> list[Figure]:
    """The numbers on top: the last minute, and beside it the last ten."""
    settings, admission = service.settings, service.admission
    failed, failed_ten = sum(minute.failures.values()), sum(ten.failures.values())
    unpriced = f"; {count(ten.unpriced_calls)} calls at an unknown price" if ten.unpriced_calls else ""
    collecting = service.rendezvous.collecting
    return [
        Figure("Throughput", rate(minute.groups_per_second), f"10 min: {rate(ten.groups_per_second)}"),
        Figure(
            "Median latency",
            duration(minute.p50_seconds),
            f"p99 {duration(minute.p99_seconds)}; 10 min: {duration(ten.p50_seconds)}, p99 {duration(ten.p99_seconds)}",
        ),
        Figure("Cache hits", share(minute.cache_hit_share), f"10 min: {share(ten.cache_hit_share)}"),
        Figure("Cost", usd(minute.cost_usd), f"10 min: {usd(ten.cost_usd)}{unpriced}"),
        Figure("Failed", count(failed), f"10 min: {count(failed_ten)}", failed > 0, "failures"),
        Figure(
            "In flight",
            count(admission.in_flight),
            f"of {count(settings.concurrency)}; {count(admission.waiting)} of {count(settings.queue)} queued",
        ),
        Figure(
            "Collecting",
            count(collecting),
            f"group{'' if collecting == 1 else 's'} without all rollouts",
            False,
            "waiting",
        ),
    ]


def failures(minute: Activity, ten: Activity) -> list[Failures]:
    """By reason, the most frequent of ten minutes first."""
    reasons = sorted({*minute.failures, *ten.failures}, key=lambda reason: (-ten.failures.get(reason, 0), reason))
    return [
        Failures(
            reason,
            STATUSES[reason][1] if reason in STATUSES else "",
            minute.failures.get(reason, 0),
            ten.failures.get(reason, 0),
        )
        for reason in reasons
    ]


def waiting(service: Service, caller: Caller) -> tuple[list[Waiting], int]:
    """The caller's groups that lack rollouts, the oldest first, and how many more there are than these."""
    found = [group for group in service.rendezvous.waiting() if caller.sees_all or group.owner == caller.name]
    return found[:_MAX_WAITING], max(0, len(found) - _MAX_WAITING)


def rows(service: Service, caller: Caller, before: int | None, now: float) -> tuple[list[Row], bool]:
    """A page of the caller's recent groups, the newest first, and whether there are older ones."""
    owner = None if caller.sees_all else caller.name
    found = service.recent.newest(owner, ROWS + 1, before)
    return [_row(judged, now) for judged in found[:ROWS]], len(found) > ROWS


def checked(service: Service, now: float) -> list[Checked]:
    """The state of every judge that golden groups are asked of; empty where there are none."""
    if service.drift is None:
        return []
    return [
        Checked(
            judge,
            state.alarm,
            state.sentence,
            state.num_groups,
            None if state.checked_at is None else now - state.checked_at,
        )
        for judge, state in service.drift.state().items()
    ]


def _row(judged: Judged, now: float) -> Row:
    result = judged.result
    return Row(
        judged=judged,
        reason=result.reason if isinstance(result, FailedGroup) else "",
        num_rollouts=judged.num_rollouts,
        scores=() if isinstance(result, FailedGroup) else _drawn(result.scores),
        age_seconds=now - judged.finished_at,
    )


def _drawn(scores: Sequence[float | None]) -> tuple[float, ...]:
    ordered = sorted(score for score in scores if score is not None)
    if len(ordered) <= _MAX_DOTS:
        return tuple(ordered)
    last = len(ordered) - 1
    return tuple(ordered[place * last // (_MAX_DOTS - 1)] for place in range(_MAX_DOTS))
