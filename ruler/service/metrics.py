"""What the service counts: for Prometheus since it began, for the dashboard of the last minutes.

Labels hold names that the operator configured, routes, statuses, error codes and flags, never anything that a request
brings: the number of series stays small whatever is sent.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import prometheus_client as prometheus
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ruler.types import FailedGroup, ScoredGroup, Usage

CONTENT_TYPE = prometheus.CONTENT_TYPE_LATEST
"""Of `Metrics.text`."""

SNAPSHOT_SECONDS = 600
"""How far back a snapshot can look."""

_MAX_GROUPS = 20_000
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)


@dataclass(frozen=True, slots=True)
class Activity:
    """What happened in the last seconds."""

    groups: int
    """Groups that were finished: scored, tied or failed."""
    groups_per_second: float
    p50_seconds: float | None
    """Half of the groups took no longer; None without groups."""
    p99_seconds: float | None
    cache_hit_share: float | None
    """Of the questions those whose answer was there already, in [0, 1]; None without questions."""
    cost_usd: float
    """Of the groups whose cost is known."""
    unpriced_calls: int
    """Calls for the other groups."""
    failures: Mapping[str, int]
    """Reason -> groups that failed, the most frequent first."""


class _Finished(NamedTuple):
    at: float
    seconds: float
    usage: Usage
    reason: str | None


class Metrics:
    """The counts of one service, in a registry of their own. For one thread.

    Args:
        clock: seconds, from any zero.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started_at = clock()
        self._recent: deque[_Finished] = deque(maxlen=_MAX_GROUPS)
        self._dropped_at = -math.inf
        self._registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=self._registry)

        def counter(name: str, help: str, *labels: str) -> prometheus.Counter:
            return prometheus.Counter(name, help, labels, registry=self._registry)

        def histogram(name: str, help: str, *labels: str) -> prometheus.Histogram:
            return prometheus.Histogram(name, help, labels, buckets=_SECONDS, registry=self._registry)

        self._groups = counter(
            "ruler_groups_total",
            "Groups finished; reason is empty unless they failed.",
            *("judge", "rubric", "key", "status", "reason"),
        )
        self._group_seconds = histogram("ruler_group_seconds", "Time that a group took, queues included.", "judge")
        self._calls = counter("ruler_judge_calls_total", "Calls to judges, retries included.", "judge")
        self._tokens = counter(
            "ruler_judge_tokens_total",
            "Tokens of these calls; input are all that were sent, cached_input those that the provider had kept.",
            *("judge", "kind"),
        )
        self._cost = counter("ruler_judge_cost_usd_total", "Cost of these calls, where it is known.", "judge")
        self._unpriced = counter("ruler_unpriced_groups_total", "Groups of unknown cost.", "judge")
        self._cache_hits = counter("ruler_cache_hits_total", "Questions whose answer was there already.", "judge")
        self._retries = counter("ruler_retries_total", "Calls that repeated one the judge could not answer.", "judge")
        self._flags = counter("ruler_flagged_rollouts_total", "Rollouts with something odd in them.", "flag")
        self._constants = counter(
            "ruler_constant_rewards_total", "Groups without scores that a trainer was given a constant for.", "key"
        )
        self._requests = counter("ruler_http_requests_total", "Requests answered.", "route", "status")
        self._http_seconds = histogram("ruler_http_seconds", "Time to the end of the answer.", "route")

    def judged(self, result: ScoredGroup | FailedGroup, *, owner: str, judge: str, rubric: str, seconds: float) -> None:
        """Books a finished group.

        Args:
            result: scored, tied or failed.
            owner: name of the key that it came with.
            judge: its configured name.
            rubric: its configured name.
            seconds: from the moment the group was there until it was finished.
        """
        reason = result.reason if isinstance(result, FailedGroup) else None
        usage = result.usage
        self._groups.labels(judge, rubric, owner, result.status, reason or "").inc()
        self._group_seconds.labels(judge).observe(seconds)
        self._calls.labels(judge).inc(usage.calls)
        self._cache_hits.labels(judge).inc(usage.cache_hits)
        self._retries.labels(judge).inc(usage.retries)
        self._tokens.labels(judge, "input").inc(usage.input_tokens)
        self._tokens.labels(judge, "cached_input").inc(usage.cached_input_tokens)
        self._tokens.labels(judge, "output").inc(usage.output_tokens)
        if usage.cost_usd is None:
            self._unpriced.labels(judge).inc()
        else:
            self._cost.labels(judge).inc(usage.cost_usd)
        if isinstance(result, ScoredGroup):
            for rollout in result.rollouts:
                for flag in rollout.flags:
                    self._flags.labels(flag).inc()
        now = self._clock()
        if len(self._recent) == _MAX_GROUPS:
            self._dropped_at = self._recent[0].at
        self._recent.append(_Finished(now, seconds, usage, reason))
        while self._recent[0].at < now - SNAPSHOT_SECONDS:
            self._recent.popleft()

    def constant(self, owner: str) -> None:
        """Books a failed group whose rollouts were all given one constant, for a wire that has no other way."""
        self._constants.labels(owner).inc()

    def request(self, route: str, status: int, seconds: float) -> None:
        """Books an answer; `route` is the template of its path, the same for all paths that have none."""
        self._requests.labels(route, str(status)).inc()
        self._http_seconds.labels(route).observe(seconds)

    def watch(self, name: str, help: str, read: Callable[[], float]) -> None:
        """A gauge whose value is read whenever somebody asks for `text`.

        Raises:
            ValueError: the name is taken, or is none.
        """
        self._registry.register(_Gauge(name, help, (), lambda: {(): read()}))

    def watch_each(self, name: str, help: str, label: str, read: Callable[[], Mapping[str, float]]) -> None:
        """As `watch`, with a value for each value of the label; what is missing now is left out.

        Raises:
            ValueError: the name is taken, or is none.
        """
        self._registry.register(
            _Gauge(name, help, (label,), lambda: {(labelled,): value for labelled, value in read().items()})
        )

    def text(self) -> bytes:
        """All of it in Prometheus' text format, of the type CONTENT_TYPE."""
        return prometheus.generate_latest(self._registry)

    def snapshot(self, seconds: float = 60.0) -> Activity:
        """What happened in the last seconds, at most SNAPSHOT_SECONDS, or since the service began.

        Where more than 20,000 groups finished meanwhile, the figures are those of the newest, and of their time.
        """
        now = self._clock()
        since = max(now - min(seconds, SNAPSHOT_SECONDS), self._started_at, self._dropped_at)
        recent = [finished for finished in self._recent if finished.at >= since]
        durations = sorted(finished.seconds for finished in recent)
        usages = [finished.usage for finished in recent]
        hits = sum(usage.cache_hits for usage in usages)
        calls = sum(usage.calls for usage in usages)
        return Activity(
            groups=len(recent),
            groups_per_second=len(recent) / (now - since) if now > since else 0.0,
            p50_seconds=_quantile(durations, 0.5),
            p99_seconds=_quantile(durations, 0.99),
            cache_hit_share=hits / (hits + calls) if hits + calls else None,
            cost_usd=math.fsum(usage.cost_usd for usage in usages if usage.cost_usd is not None),
            unpriced_calls=sum(usage.calls for usage in usages if usage.cost_usd is None),
            failures=dict(Counter(one.reason for one in recent if one.reason is not None).most_common()),
        )


class _Gauge(Collector):
    """One that is read when it is asked for, and whose label values may come and go."""

    def __init__(
        self, name: str, help: str, labels: Sequence[str], read: Callable[[], Mapping[tuple[str, ...], float]]
    ) -> None:
        self._name = name
        self._help = help
        self._labels = labels
        self._read = read

    def describe(self) -> Iterator[Metric]:
        # Without it the registry would call `collect` to learn the name, before there is anything to read.
        yield GaugeMetricFamily(self._name, self._help, labels=self._labels)

    def collect(self) -> Iterator[Metric]:
        gauge = GaugeMetricFamily(self._name, self._help, labels=self._labels)
        for labelled, value in self._read().items():
            gauge.add_metric(labelled, value)
        yield gauge


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    """The least value that so many are not above."""
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else None
