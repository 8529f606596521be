from __future__ import annotations

import random
import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from ruler.service.metrics import SNAPSHOT_SECONDS, Metrics
from ruler.types import FailedGroup, Score, ScoredGroup, Usage
from tests.fake_time import FakeTime

FREE = Usage()
PAID = Usage(calls=2, input_tokens=1000, cached_input_tokens=300, output_tokens=50, cost_usd=0.25, retries=1)


def scored(usage: Usage = PAID, *, flags: tuple[str, ...] = (), group_id: str = "g") -> ScoredGroup:
    rollouts = (Score("r1", 0.5, flags=flags), Score("r2", 0.7))
    return ScoredGroup(
        group_id, "d", "d", "scored", rollouts, usage, "openai/m", "m", "rubric@1#0", "2", 1, False, orders_used=1
    )


def failed(reason: str = "unavailable", usage: Usage = FREE) -> FailedGroup:
    return FailedGroup("g", "d", "d", reason, "text of a rollout", ("r1", "r2"), "m", "r", "2", 1, False, usage)


def book(metrics: Metrics, result: ScoredGroup | FailedGroup, *, owner: str = "anna", seconds: float = 1.0) -> None:
    metrics.judged(result, owner=owner, judge="default", rubric="short", seconds=seconds)


def values(metrics: Metrics) -> Mapping[str, float]:
    """Each sample, as it is written, to its value."""
    found = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_a_group_is_counted_under_configured_names() -> None:
    metrics = Metrics()
    book(metrics, scored(flags=("invisible", "score_plea")))
    book(metrics, scored(Usage(cache_hits=2)), owner="ben")
    book(metrics, scored(Usage(calls=1, input_tokens=10, output_tokens=1, cost_usd=None)))
    book(metrics, failed())
    found = values(metrics)
    group = "ruler_groups_total{judge=default,key=%s,reason=%s,rubric=short,status=%s}"
    assert found[group % ("anna", "", "scored")] == 2
    assert found[group % ("ben", "", "scored")] == 1
    assert found[group % ("anna", "unavailable", "failed")] == 1
    for name, value in {
        "ruler_judge_calls_total{judge=default}": 3,
        "ruler_judge_tokens_total{judge=default,kind=input}": 1010,
        "ruler_judge_tokens_total{judge=default,kind=cached_input}": 300,
        "ruler_judge_tokens_total{judge=default,kind=output}": 51,
        "ruler_judge_cost_usd_total{judge=default}": 0.25,
        "ruler_unpriced_groups_total{judge=default}": 1,
        "ruler_cache_hits_total{judge=default}": 2,
        "ruler_retries_total{judge=default}": 1,
        "ruler_flagged_rollouts_total{flag=invisible}": 1,
        "ruler_flagged_rollouts_total{flag=score_plea}": 1,
        "ruler_group_seconds_count{judge=default}": 4,
    }.items():
        assert found[name] == value, name


def test_requests_and_constants_are_counted() -> None:
    metrics = Metrics()
    metrics.request("/v1/score", 200, 0.1)
    metrics.request("/v1/score", 429, 0.001)
    metrics.request("/v1/rollouts", 200, 599)
    metrics.constant("anna")
    found = values(metrics)
    assert found["ruler_http_requests_total{route=/v1/score,status=200}"] == 1
    assert found["ruler_http_requests_total{route=/v1/score,status=429}"] == 1
    assert found["ruler_http_seconds_bucket{le=300.0,route=/v1/rollouts}"] == 0
    assert found["ruler_http_seconds_bucket{le=600.0,route=/v1/rollouts}"] == 1
    assert found["ruler_constant_rewards_total{key=anna}"] == 1


def test_nothing_that_a_request_brings_is_a_label() -> None:
    metrics = Metrics()
    for number in range(50):
        book(metrics, scored(group_id=f"secret-{number}"))
        book(metrics, failed())
    text = metrics.text().decode()
    assert "secret" not in text
    assert "text of a rollout" not in text
    assert len(re.findall(r"^ruler_groups_total\{", text, re.MULTILINE)) == 2


def test_two_services_in_one_process_do_not_share_counts() -> None:
    one, other = Metrics(), Metrics()
    book(one, scored())
    assert "ruler_groups_total{" in one.text().decode()
    assert "ruler_groups_total{" not in other.text().decode()


def test_gauges_are_read_when_asked_for() -> None:
    metrics = Metrics()
    waiting = [3.0]
    alarms: dict[str, float] = {}
    metrics.watch("ruler_waiting_groups", "Groups that wait.", lambda: waiting[0])
    metrics.watch_each("ruler_alarm", "Alarms.", "judge", lambda: alarms)
    assert values(metrics)["ruler_waiting_groups"] == 3
    assert "ruler_alarm{" not in metrics.text().decode()
    waiting[0] = 5
    alarms["default"] = 1
    found = values(metrics)
    assert found["ruler_waiting_groups"] == 5
    assert found["ruler_alarm{judge=default}"] == 1


def test_a_gauge_is_not_read_before_it_is_asked_for() -> None:
    Metrics().watch("ruler_waiting_groups", "Groups that wait.", lambda: pytest.fail("read"))


def test_a_name_is_given_once() -> None:
    metrics = Metrics()
    metrics.watch("ruler_waiting_groups", "Groups that wait.", lambda: 0)
    with pytest.raises(ValueError, match="ruler_waiting_groups"):
        metrics.watch("ruler_waiting_groups", "Again.", lambda: 0)


def test_a_snapshot_without_groups() -> None:
    activity = Metrics(clock=FakeTime().clock).snapshot()
    assert (activity.groups, activity.groups_per_second) == (0, 0.0)
    assert (activity.p50_seconds, activity.p99_seconds, activity.cache_hit_share) == (None, None, None)
    assert (activity.cost_usd, activity.unpriced_calls, activity.failures) == (0.0, 0, {})


def test_a_snapshot_holds_what_happened_in_its_time() -> None:
    time = FakeTime()
    metrics = Metrics(clock=time.clock)
    time.now += 100
    book(metrics, failed("reply"))
    time.now += 100
    for seconds in (1.0, 2.0, 3.0, 4.0):
        book(metrics, scored(Usage(calls=1, cost_usd=0.5)), seconds=seconds)
    book(metrics, scored(Usage(cache_hits=3)), seconds=0.0)
    book(metrics, failed("budget"))
    book(metrics, failed("reply", Usage(calls=2, cost_usd=None)))
    time.now += 10
    activity = metrics.snapshot(60)
    assert activity.groups == 7
    assert activity.groups_per_second == pytest.approx(7 / 60)
    assert activity.p50_seconds == 1.0
    assert activity.p99_seconds == 4.0
    assert activity.cache_hit_share == pytest.approx(3 / 9)
    assert activity.cost_usd == 2.0
    assert activity.unpriced_calls == 2
    assert activity.failures == {"budget": 1, "reply": 1}
    assert metrics.snapshot(600).failures == {"reply": 2, "budget": 1}
    time.now += SNAPSHOT_SECONDS
    assert metrics.snapshot(10_000).groups == 0


def test_a_young_service_is_not_told_to_be_slow() -> None:
    time = FakeTime()
    metrics = Metrics(clock=time.clock)
    time.now += 2
    for _ in range(10):
        book(metrics, scored())
    assert metrics.snapshot(60).groups_per_second == 5.0


def test_more_groups_than_are_kept() -> None:
    time = FakeTime(now=0)
    metrics = Metrics(clock=time.clock)
    group = scored()
    for number in range(25_000):
        time.now = number / 1000
        book(metrics, group)
    activity = metrics.snapshot(600)
    assert activity.groups == 20_000
    assert activity.groups_per_second == pytest.approx(1000, rel=0.01)


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=200), st.randoms())
def test_quantiles_are_durations_that_were_seen(seconds: list[float], rng: random.Random) -> None:
    time = FakeTime()
    metrics = Metrics(clock=time.clock)
    for one in rng.sample(seconds, len(seconds)):
        book(metrics, scored(), seconds=one)
    activity = metrics.snapshot()
    for share, value in ((0.5, activity.p50_seconds), (0.99, activity.p99_seconds)):
        assert value in seconds
        assert sum(one <= value for one in seconds) >= share * len(seconds)
        assert sum(one < value for one in seconds) < share * len(seconds)
