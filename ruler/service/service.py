"""The parts of a running service, and the one way a group takes through them to its scores."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ruler.errors import JudgeUnavailable, RulerError
from ruler.service.admission import Admission, Ticket
from ruler.service.bodies import Aside
from ruler.service.drift import Drift
from ruler.service.keys import Keys
from ruler.service.metrics import Metrics
from ruler.service.problems import stopping
from ruler.service.recent import Recent
from ruler.service.rendezvous import Meeting, Post, Rendezvous
from ruler.service.scorers import Scorers
from ruler.service.settings import ServiceSettings
from ruler.types import FailedGroup, Group, ScoredGroup

if TYPE_CHECKING:
    from collections.abc import Callable

_READY_AGAIN_SECONDS = 10.0
"""After a failed judge the service calls itself ready again, because only a request can tell whether it is."""

_log = logging.getLogger("ruler.service")


@dataclass(frozen=True, slots=True)
class Job:
    """One group to be judged."""

    group: Group
    owner: str
    """Name of the caller's key."""
    judge: str
    """Its configured name."""
    rubric: str
    """Its configured name."""
    ticket: Ticket
    """What the admission gave for this group."""
    size_bytes: int
    """Of the group as it came."""


class Service:
    """What a process that scores over HTTP holds; all on one event loop.

    Attributes:
        scorers: judges and rubrics.
        keys: who may call.
        admission: how much is taken, and how much is judged at once.
        rendezvous: where rollouts of one group meet.
        recent: what was judged lately.
        metrics: counts.
        aside: where work is done that would hold up the event loop.
        drift: golden groups, None without.
        started_at: Unix seconds.
        stopping: whether nothing new is taken.
        at_stop: called when the service begins to stop.

    Raises:
        ConfigError: a setting is wrong, or a judge, rubric, key or file cannot be had.
    """

    def __init__(self, settings: ServiceSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self.keys = Keys(settings)
        self.scorers = Scorers(settings)
        self.metrics = Metrics()
        self.aside = Aside()
        self.recent = Recent(settings.recent_groups, settings.recent_bytes, content=settings.content)
        self.admission = Admission(
            concurrency=settings.concurrency,
            queue=settings.queue,
            requests_per_minute=settings.requests_per_minute,
            tokens_per_minute=settings.tokens_per_minute,
        )
        self.rendezvous = Rendezvous(
            self._judge_meeting,
            admit=self._admit,
            collect_seconds=settings.collect_seconds,
            judge_seconds=settings.judge_seconds,
            short_groups=settings.short_groups,
            keep_seconds=settings.keep_seconds,
            max_groups=settings.max_held_groups,
            max_bytes=settings.max_held_bytes,
        )
        self.drift = self._drift()
        self.started_at = time.time()
        self.stopping = False
        self._clock = clock
        self.at_stop: list[Callable[[], None]] = []
        self._judging: dict[asyncio.Task[Any], bool] = {}
        self._unready_since: float | None = None
        self._last_failure = ""
        self._stopped: asyncio.Task[None] | None = None
        self._watch()

    @property
    def judge_names(self) -> tuple[str, ...]:
        """Of the configured judges, in the operator's order."""
        return tuple(self.scorers.judges)

    @property
    def rubric_names(self) -> tuple[str, ...]:
        """Of the configured rubrics, in the operator's order."""
        return tuple(self.scorers.rubrics)

    def choose(self, judge: str | None, rubric: str | None) -> tuple[str, str]:
        """As `Scorers.choose`."""
        return self.scorers.choose(judge, rubric)

    def unready(self) -> str | None:
        """Why requests should go elsewhere for now; None when they may come here.

        It goes by the last outcome and asks no judge.
        """
        if self.stopping:
            return "the service is being stopped"
        if self._unready_since is not None and self._clock() - self._unready_since < _READY_AGAIN_SECONDS:
            return f"the last group could not be judged: {self._last_failure}"
        return None

    async def judge(self, job: Job) -> ScoredGroup:
        """The group's scores, once it is its turn. A result and a failed judge are booked; a stop is not.

        Raises:
            RulerError: as `Ruler.score`.
            Problem: `stopping`.
        """
        task = asyncio.current_task()
        assert task is not None, "runs in a task"
        begun = self._clock()
        self._judging[task] = False
        try:
            async with self.admission.place(job.ticket):
                if self.stopping:
                    raise stopping(job.group.id)
                self._judging[task] = True
                return await self._score(job, begun)
        except asyncio.CancelledError:
            # Ours, because the time to stop is over; or whoever waited for this group is gone.
            if task in self._judging:
                raise
            task.uncancel()
            raise stopping(job.group.id) from None
        finally:
            self._judging.pop(task, None)

    def leave(self, judging: asyncio.Task[ScoredGroup]) -> None:
        """Nobody waits for this judging any more: it is given up, unless it has begun and is paid for."""
        if not self._judging.get(judging, False):
            judging.cancel()
        judging.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _score(self, job: Job, begun: float) -> ScoredGroup:
        ruler = self.scorers.ruler(job.judge, job.rubric)
        try:
            result = await ruler.score(job.group)
        except RulerError as error:
            # What this judge makes of one group says nothing of the next.
            if isinstance(error, JudgeUnavailable):
                self._unready_since, self._last_failure = self._clock(), error.code
            self._book(job, ruler.failed(job.group, error), self._clock() - begun)
            raise
        self._unready_since = None
        self._book(job, result, self._clock() - begun)
        return result

    def _book(self, job: Job, result: ScoredGroup | FailedGroup, seconds: float) -> None:
        job.ticket.settle(result.usage)
        names = {"owner": job.owner, "judge": job.judge, "rubric": job.rubric}
        self.metrics.judged(result, seconds=seconds, **names)
        self.recent.add(result, group=job.group, size_bytes=job.size_bytes, seconds=seconds, **names)
        if self.drift:
            self.drift.judged()

    def _admit(self, post: Post) -> Ticket:
        # Not queued: it may wait for its siblings for minutes, and is bounded by the rendezvous.
        return self.admission.take(post.num_tokens * post.group_size, queued=False)

    async def _judge_meeting(self, meeting: Meeting) -> ScoredGroup:
        assert isinstance(meeting.admitted, Ticket)
        return await self.judge(
            Job(meeting.group, meeting.owner, meeting.judge, meeting.rubric, meeting.admitted, meeting.size_bytes)
        )

    async def start(self) -> None:
        """Begins what runs beside requests."""
        if self.drift:
            await self.drift.start()

    async def stop(self) -> None:
        """Takes nothing new, waits `stop_seconds` for what is being judged, fails the rest, and closes the judges.

        What was answered is in the cache by then. Called again it waits for the same end.
        """
        if self._stopped is None:
            self.stopping = True
            self._stopped = asyncio.create_task(self._stop())
        await asyncio.shield(self._stopped)

    async def _stop(self) -> None:
        seconds = self.settings.stop_seconds
        self.admission.stop()
        for call in self.at_stop:
            call()
        for task, begun in list(self._judging.items()):
            if not begun:
                self._give_up(task)
        drift = self.drift.stop() if self.drift else asyncio.sleep(0)
        await asyncio.gather(self.rendezvous.stop(seconds), self._finish(seconds), drift)
        await self.scorers.close()

    async def _finish(self, seconds: float) -> None:
        if self._judging:
            _log.info("waiting up to %g s for %d groups that are being judged", seconds, len(self._judging))
            await asyncio.wait(list(self._judging), timeout=seconds)
        left = list(self._judging)
        for task in left:
            self._give_up(task)
        if left:
            _log.warning("stopped while %d groups were being judged", len(left))
            await asyncio.wait(left, timeout=1.0)

    def _give_up(self, task: asyncio.Task[Any]) -> None:
        del self._judging[task]
        task.cancel()

    def _drift(self) -> Drift | None:
        settings = self.settings
        if settings.golden is None:
            return None
        return Drift(
            self.scorers.uncached(),
            Drift.load_groups(settings.golden),
            settings.golden.with_name(settings.golden.name + ".baseline.json"),
            every_minutes=settings.golden_minutes,
            every_groups=settings.golden_groups,
        )

    def _watch(self) -> None:
        watch = self.metrics.watch
        watch("ruler_groups_in_flight", "Groups that are being judged.", lambda: self.admission.in_flight)
        watch("ruler_groups_queued", "Groups that wait for their turn.", lambda: self.admission.waiting)
        for state in ("collecting", "judging", "kept"):
            watch(
                f"ruler_rendezvous_{state}_groups",
                f"Groups of single rollouts that are {state}.",
                partial(getattr, self.rendezvous, state),
            )
        watch("ruler_rendezvous_bytes", "Bytes that the rendezvous holds.", lambda: self.rendezvous.held_bytes)
        watch("ruler_spent_usd", "Spent by all judges, golden groups included; NaN: a price is unknown.", self._spent)
        if self.drift:
            self.drift.watch(self.metrics)

    def _spent(self) -> float:
        cost = self.scorers.usage.cost_usd
        return math.nan if cost is None else cost
