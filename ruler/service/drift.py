"""Golden groups, judged again and again past the cache: hosted models change, and nobody says so."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ruler.drift import MIN_GROUPS, MIN_RUNS, Change, GoldenScores, compare
from ruler.errors import BudgetExceeded, ConfigError, describe
from ruler.packing import pack
from ruler.records import BadLine, read_groups
from ruler.rubric import DEFAULT_RUBRIC
from ruler.scoring import Ruler
from ruler.service.baseline import Baseline, BaselineScores
from ruler.service.metrics import Metrics
from ruler.types import FailedGroup, Group, ScoredGroup

_log = logging.getLogger(__name__)

_MAX_MODEL_CHARS = 200
"""Of the names of models in a sentence."""


@dataclass(frozen=True, slots=True)
class DriftState:
    """What is known of one judge. The figures are those of the last comparison, as in `ruler.drift.Change`."""

    sentence: str = "not checked yet"
    """The last check in words."""
    alarm: bool = False
    """Whether the last comparison found a change; a check that could not compare leaves it as it was."""
    checked_at: float | None = None
    """Of the last comparison, in Unix seconds; None: there was none."""
    num_groups: int = 0
    shift: float | None = None
    shift_interval: tuple[float, float] | None = None
    disagreement: float | None = None
    disagreement_low: float | None = None


class Drift:
    """One background task that compares judges with their baseline. For one event loop.

    The baseline of a judge is made when there is none: each golden group is judged `repeats` times. It is kept in a
    file, so that a change is noticed over a restart too, and made again when judge, rubric, prompt version, orders or
    repeats are others. A golden group that has none yet, because it is new or could not be judged before, gets its own.
    To take a changed judge as it is now, stop the service and delete the file.

    All judges are checked, one after another, when the task starts, and then whenever one of the intervals has passed.
    A judge whose budget is spent is checked no more.

    Args:
        rulers: by the judge's configured name; their judges must not answer from a cache, nor have a fallback, which
            would stand in as a judge that has changed.
        groups: from `load_groups`.
        baseline_path: where the baseline is kept; it may be missing.
        every_minutes: None: not by time.
        every_groups: so many judged groups; None: not by their number.
        repeats: runs of each group in the baseline.
        clock: Unix seconds.
        sleep: waits so many seconds.

    Raises:
        ConfigError: the file is there and is no baseline, or cannot be written; no judge; no interval; a number out of
            range.
    """

    def __init__(
        self,
        rulers: Mapping[str, Ruler],
        groups: Sequence[Group],
        baseline_path: Path,
        *,
        every_minutes: float | None = None,
        every_groups: int | None = None,
        repeats: int = 3,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        if not rulers:
            raise ConfigError("golden: there is no judge to check")
        if every_minutes is None and every_groups is None:
            raise ConfigError("golden: give golden_minutes, golden_groups, or both")
        for name, value in (("golden_minutes", every_minutes), ("golden_groups", every_groups)):
            if value is not None and not value > 0:
                raise ConfigError(f"{name}: expected a positive number, got {value!r}")
        if repeats < MIN_RUNS:
            raise ConfigError(f"repeats: expected at least {MIN_RUNS}, got {repeats!r}")
        self._rulers = dict(rulers)
        self._groups = tuple(groups)
        self._every_seconds = None if every_minutes is None else 60 * every_minutes
        self._every_groups = every_groups
        self._repeats = repeats
        self._clock = clock
        self._sleep = sleep
        self._baseline = Baseline(baseline_path)
        self._states = {name: DriftState() for name in rulers}
        self._unspent = set(rulers)
        self._judged = 0
        self._due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @staticmethod
    def load_groups(path: Path) -> list[Group]:
        """The golden groups of a file in the form of docs/formats.md; those that need no judge are left out.

        Raises:
            ConfigError: it cannot be read, a line is no group, or fewer than MIN_GROUPS groups have rollouts that
                read differently; names the file.
        """
        groups: list[Group] = []
        for found in read_groups(str(path)):
            if isinstance(found, BadLine):
                raise ConfigError(f"golden {found}")
            if len(pack(found, DEFAULT_RUBRIC).rollouts) > 1:
                groups.append(found)
        if len(groups) < MIN_GROUPS:
            raise ConfigError(
                f"golden {path}: expected at least {MIN_GROUPS} groups with rollouts that differ, got {len(groups)}"
            )
        return groups

    async def start(self) -> None:
        """Begins to check, in a task beside the caller's.

        Raises:
            RuntimeError: it has begun already.
        """
        if self._task is not None:
            raise RuntimeError("Drift.start: the checks have begun already")
        self._task = asyncio.create_task(self._run(), name="ruler-drift")

    async def stop(self) -> None:
        """Ends the checks; what a check in flight has asked is given up."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def judged(self) -> None:
        """Counts a group that the service has judged."""
        self._judged += 1
        if self._every_groups is not None and self._judged >= self._every_groups:
            self._due.set()

    def state(self) -> Mapping[str, DriftState]:
        """By the judge's configured name."""
        return dict(self._states)

    def watch(self, metrics: Metrics) -> None:
        """Adds gauges; those of a comparison are missing until there is one."""

        def figure(read: Callable[[DriftState], float | None]) -> Callable[[], Mapping[str, float]]:
            return lambda: {name: value for name, state in self._states.items() if (value := read(state)) is not None}

        for name, help, read in (
            ("alarm", "1 while the judge differs from its baseline.", lambda state: float(state.alarm)),
            ("shift", "Mean score of the golden groups less that of the baseline.", lambda state: state.shift),
            ("disagreement", "How much further from its baseline than from itself.", lambda state: state.disagreement),
            ("groups", "Golden groups in the last comparison.", lambda state: state.num_groups),
            ("checked_timestamp_seconds", "When it was last compared.", lambda state: state.checked_at),
        ):
            metrics.watch_each(f"ruler_drift_{name}", help, "judge", figure(read))

    async def _run(self) -> None:
        while True:
            self._judged = 0
            self._due.clear()
            for name in self._rulers:
                if name in self._unspent:
                    await self._check_safely(name)
            if not self._unspent:
                return
            await self._until_due()

    async def _until_due(self) -> None:
        waits: list[asyncio.Future[object]] = [asyncio.ensure_future(self._due.wait())]
        if self._every_seconds is not None:
            waits.append(asyncio.ensure_future(_object(self._sleep(self._every_seconds))))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _check_safely(self, name: str) -> None:
        try:
            await self._check(name)
        except Exception as error:  # noqa: BLE001  a fault of one check, of whatever kind, must not end all later ones
            _log.exception("golden groups, judge %s: the check failed", name)
            self._states[name] = replace(self._states[name], sentence=f"the check failed: {describe(error)}")

    async def _check(self, name: str) -> None:
        """Compares the groups that have a baseline, and makes one for the others."""
        ruler = self._rulers[name]
        made_by = self._made_by(ruler)
        if others := self._baseline.others(name, made_by):
            _log.warning(
                "golden groups, judge %s: the baseline was made with another %s, and is made again",
                name,
                ", ".join(others),
            )
        scores = self._baseline.scores(name, made_by)
        known = [group for group in self._groups if group.rollouts_digest in scores.groups]
        missing = [group for group in self._groups if group.rollouts_digest not in scores.groups]
        results = await ruler.score_many([*known, *(group for group in missing for _ in range(self._repeats))])
        scored = [one if isinstance(one, ScoredGroup) and one.status == "scored" else None for one in results]
        if added := self._add(scores, missing, scored[len(known) :]):
            await self._save(name, scores, added)
        faults = Counter(_fault(one) for one, kept in zip(results, scored, strict=True) if kept is None)
        left_out = "; not judged: " + ", ".join(f"{why} {count} times" for why, count in faults.items())
        left_out *= bool(faults)
        compared = [one for one in scored[: len(known)] if one is not None]
        if BudgetExceeded.code in faults:
            self._unspent.discard(name)
            self._say(name, "checks have stopped: the budget is spent")
            _log.warning("golden groups, judge %s: checks have stopped: the budget is spent", name)
        elif not known:
            self._say(name, f"a baseline was made of {added} golden groups, and nothing is compared yet{left_out}")
        elif len(compared) < MIN_GROUPS:
            self._say(name, f"no verdict: it takes {MIN_GROUPS} golden groups, {len(compared)} were judged{left_out}")
        else:
            change = compare([_golden(scores, one) for one in compared])
            self._take(name, change, left_out + _other_models(scores.models, compared))

    def _made_by(self, ruler: Ruler) -> dict[str, Any]:
        return {
            "judge": ruler.judge_name,
            "rubric": ruler.rubric.id,
            "prompt_version": ruler.prompt_version,
            "orders": ruler.orders,
            "adaptive": ruler.adaptive,
            "min_orders": ruler.min_orders,
            "repeats": self._repeats,
        }

    def _add(self, scores: BaselineScores, groups: Sequence[Group], results: Sequence[ScoredGroup | None]) -> int:
        """Takes up the groups of which every run has scores; returns how many these are."""
        models = set(scores.models)
        added = 0
        for place, group in enumerate(groups):
            runs = [run for run in results[place * self._repeats : (place + 1) * self._repeats] if run is not None]
            if len(runs) == self._repeats:
                scores.groups[group.rollouts_digest] = [_in_order(run) for run in runs]
                models |= {run.model for run in runs if run.model}
                added += 1
        scores.models = sorted(models)
        return added

    async def _save(self, name: str, scores: BaselineScores, new: int) -> None:
        _log.info("golden groups, judge %s: baseline made of %d groups", name, new)
        try:
            await asyncio.to_thread(self._baseline.save, name, scores)
        except OSError as error:
            # It serves as long as the process lives.
            _log.warning("golden groups: the baseline %s cannot be written: %s", self._baseline.path, describe(error))

    def _say(self, name: str, sentence: str) -> None:
        self._states[name] = replace(self._states[name], sentence=sentence)

    def _take(self, name: str, change: Change, more: str) -> None:
        alarm = change.shifted or change.ranks_otherwise
        sentence = _sentence(change) + more
        before = self._states[name].alarm
        self._states[name] = DriftState(
            sentence=sentence,
            alarm=alarm,
            checked_at=self._clock(),
            num_groups=change.num_groups,
            shift=change.shift,
            shift_interval=change.shift_interval,
            disagreement=change.disagreement,
            disagreement_low=change.disagreement_low,
        )
        if alarm and not before:
            _log.warning("golden groups, judge %s: ALARM: %s", name, sentence)
        elif before and not alarm:
            _log.warning("golden groups, judge %s: the alarm is over: %s", name, sentence)


def _sentence(change: Change) -> str:
    found = [
        *(["milder" if change.shift > 0 else "stricter"] if change.shifted else []),
        *(["ranks otherwise"] if change.ranks_otherwise else []),
    ]
    low, high = change.shift_interval
    return (
        f"{' and '.join(found) or 'unchanged'}: scores {change.shift:+.3f} on average ({low:+.3f} to {high:+.3f}), "
        f"differences within a group {change.disagreement:+.3f} beyond its own, over {change.num_groups} golden groups"
    )


def _other_models(before: Sequence[str], results: Sequence[ScoredGroup]) -> str:
    """A model of another name is no alarm: what counts is what it says."""
    new = ", ".join(sorted({one.model for one in results if one.model} - set(before)))
    old = ", ".join(before)
    return f"; answered by {new:.{_MAX_MODEL_CHARS}}, before by {old:.{_MAX_MODEL_CHARS}}" if new else ""


def _fault(result: ScoredGroup | FailedGroup) -> str:
    return result.reason if isinstance(result, FailedGroup) else result.status


def _in_order(result: ScoredGroup) -> list[float]:
    """The scores sorted by rollout id: the baseline keeps no ids, and a file may list rollouts in another order."""
    return [score.score for score in sorted(result.rollouts, key=lambda one: one.id) if score.score is not None]


def _golden(scores: BaselineScores, result: ScoredGroup) -> GoldenScores:
    before = tuple(map(tuple, scores.groups[result.rollouts_digest]))
    return GoldenScores(before, tuple(_in_order(result)))


async def _object(waiting: Awaitable[object]) -> object:
    return await waiting
