"""Golden groups through real `Ruler`s, with judges that change when they are told to and time that is an argument."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from judges.meter import Meter, MeteredJudge
from judges.scripted import ScriptedJudge, scores_reply
from ruler import ConfigError, Group, JudgeInfo, JudgeReply, JudgeRequest, JudgeUnavailable, Ruler, Usage
from ruler.service.drift import Drift, DriftState
from ruler.service.metrics import Metrics
from tests.fake_time import FakeTime
from tests.test_scoring import read_prompt

GROUPS = [Group.of([f"group {g} answer {n} secret" for n in range(4)], id=f"golden-{g}") for g in range(8)]
HOUR = 3600.0


class ChangingJudge:
    """Scores by the text. What it adds, whom it fails, and how it calls itself can be set.

    Attributes:
        asked: how often each group was asked about.
    """

    def __init__(self, name: str = "scripted") -> None:
        self.milder = 0.0
        self.reversed = False
        self.fails: set[int] = set()
        self.model = "m-2025"
        self.asked: dict[int, int] = {}
        self.hold: asyncio.Event | None = None
        self.in_flight = 0
        self.info = JudgeInfo("scripted", name)

    async def __call__(self, request: JudgeRequest) -> JudgeReply:
        scores = {}
        group = -1
        for label, text in read_prompt(request).items():
            _, group_text, _, number, _ = text.split()
            group = int(group_text)
            place = 3 - int(number) if self.reversed else int(number)
            scores[label] = 10 + 20 * place + group + self.milder
        self.asked[group] = self.asked.get(group, 0) + 1
        self.in_flight += 1
        try:
            if self.hold:
                await self.hold.wait()
        finally:
            self.in_flight -= 1
        if group in self.fails:
            raise JudgeUnavailable("down")
        return JudgeReply(scores_reply(scores), self.model, Usage(calls=1, input_tokens=100, output_tokens=10))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "golden.baseline.json"


@asynccontextmanager
async def running(
    judge: ChangingJudge | Mapping[str, Ruler], path: Path, *, groups: list[Group] = GROUPS, **options: Any
) -> AsyncIterator[tuple[Drift, FakeTime]]:
    """Checks every hour by a clock that `passes` moves."""
    time = FakeTime()
    rulers = {"default": Ruler(judge)} if isinstance(judge, ChangingJudge) else judge
    options = {"every_minutes": 60, **options}
    drift = Drift(rulers, groups, path, clock=time.clock, sleep=time.sleep, **options)
    await drift.start()
    try:
        yield drift, time
    finally:
        await drift.stop()
        assert all(one.get_name() != "ruler-drift" for one in asyncio.all_tasks())


async def until(condition: Callable[[], bool]) -> None:
    """Lets everybody else run; the baseline is written in a thread, so turns of the loop cannot be counted."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  nobody tells when it becomes true
            await asyncio.sleep(0)


async def hours(time: FakeTime, number: int = 1) -> None:
    """Waits until so many checks are over and the next one is waited for."""
    for _ in range(number):
        before = len(time.slept)
        await until(lambda: bool(time._waiting))
        await time.run(time.sleep(HOUR))
        await until(lambda before=before: len(time.slept) > before + 1)  # type: ignore[misc]


def read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def damage(path: Path, group: Group) -> None:
    """Leaves one score in each of the group's runs."""
    kept = json.loads(path.read_text())
    kept["judges"]["default"]["groups"][group.rollouts_digest] = [[0.5], [0.5], [0.5]]
    path.write_text(json.dumps(kept))


def baseline(path: Path) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads(path.read_text())["judges"]["default"]
    return kept


async def idle(time: FakeTime) -> None:
    """Waits until the check at the start is over."""
    await until(lambda: bool(time.slept))


async def test_the_first_start_makes_a_baseline_and_compares_nothing(path: Path) -> None:
    judge = ChangingJudge()
    async with running(judge, path) as (drift, time):
        assert drift.state() == {"default": DriftState()}
        await idle(time)
        assert judge.asked == dict.fromkeys(range(8), 3)
        state = drift.state()["default"]
        assert state.sentence == "a baseline was made of 8 golden groups, and nothing is compared yet"
        assert (state.alarm, state.checked_at, state.shift) == (False, None, None)


async def test_the_file_holds_numbers_and_digests(path: Path) -> None:
    async with running(ChangingJudge(), path) as (_, time):
        await idle(time)
    text = read(path)
    assert text
    assert "secret" not in text
    assert "golden-" not in text
    assert "r1" not in text
    kept = baseline(path)
    assert kept["groups"][GROUPS[3].rollouts_digest] == [[0.13, 0.33, 0.53, 0.73]] * 3
    assert kept["made_by"]["judge"] == "scripted"
    assert kept["models"] == ["m-2025"]
    assert [one.name for one in path.parent.iterdir()] == [path.name]


async def test_a_judge_that_stays_raises_no_alarm(path: Path) -> None:
    async with running(ChangingJudge(), path) as (drift, time):
        await hours(time)
        state = drift.state()["default"]
        assert state == DriftState(
            sentence="unchanged: scores +0.000 on average (+0.000 to +0.000), "
            "differences within a group +0.000 beyond its own, over 8 golden groups",
            checked_at=time.now,
            num_groups=8,
            shift=0.0,
            shift_interval=(0.0, 0.0),
            disagreement=0.0,
            disagreement_low=0.0,
        )


async def test_an_alarm_rises_and_falls_with_the_judge(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    judge = ChangingJudge()
    async with running(judge, path) as (drift, time):
        await idle(time)
        judge.milder = -2.0
        await hours(time, 2)
        state = drift.state()["default"]
        assert state.alarm
        assert state.shift == pytest.approx(-0.02)
        assert state.sentence.startswith("stricter: scores -0.020 on average")
        assert len([one for one in caplog.records if "ALARM" in one.message]) == 1
        judge.milder = 0.0
        await hours(time)
        assert not drift.state()["default"].alarm
        assert [one.levelno for one in caplog.records if "the alarm is over" in one.message] == [logging.WARNING]


async def test_a_judge_that_ranks_otherwise_is_noticed_at_an_equal_level(path: Path) -> None:
    judge = ChangingJudge()
    async with running(judge, path) as (drift, time):
        await idle(time)
        judge.reversed = True
        await hours(time)
        state = drift.state()["default"]
        assert state.alarm
        assert state.shift == 0
        assert state.sentence.startswith("ranks otherwise: ")


async def test_a_change_over_a_restart_is_noticed(path: Path) -> None:
    async with running(ChangingJudge(), path) as (_, time):
        await idle(time)
    judge = ChangingJudge()
    judge.milder = 5.0
    judge.model = "m-2026"
    async with running(judge, path) as (drift, time):
        await idle(time)
        state = drift.state()["default"]
        assert judge.asked == dict.fromkeys(range(8), 1)
        assert state.alarm
        assert state.sentence.startswith("milder: ")
        assert state.sentence.endswith("; answered by m-2026, before by m-2025")


async def test_rollouts_in_another_order_in_the_file_are_the_same_group(path: Path) -> None:
    async with running(ChangingJudge(), path) as (_, time):
        await idle(time)
    turned = [Group(tuple(reversed(group.rollouts)), group.task, id=group.id) for group in GROUPS]
    async with running(ChangingJudge(), path, groups=turned) as (drift, time):
        await idle(time)
        assert drift.state()["default"].sentence.startswith("unchanged: ")


@pytest.mark.parametrize(
    ("options", "said"),
    [({"rubric": "Prefer long answers."}, "rubric"), ({"orders": 2}, "orders"), ({"notes": False}, "prompt_version")],
)
async def test_a_baseline_of_other_settings_is_made_again(
    path: Path, options: dict[str, Any], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(ChangingJudge(), path) as (_, time):
        await idle(time)
    judge = ChangingJudge()
    judge.milder = 5.0
    async with running({"default": Ruler(judge, **options)}, path) as (drift, time):
        await idle(time)
        assert drift.state()["default"].sentence.startswith("a baseline was made of 8 golden groups")
        assert f"the baseline was made with another {said}, and is made again" in caplog.text
        await hours(time)
        assert drift.state()["default"].sentence.startswith("unchanged: ")


async def test_a_new_golden_group_gets_its_own_baseline_and_the_others_keep_theirs(path: Path) -> None:
    async with running(ChangingJudge(), path, groups=GROUPS[:6]) as (_, time):
        await idle(time)
    judge = ChangingJudge()
    judge.milder = 5.0
    async with running(judge, path) as (drift, time):
        await idle(time)
        assert judge.asked == {**dict.fromkeys(range(6), 1), 6: 3, 7: 3}
        assert drift.state()["default"].num_groups == 6
        assert drift.state()["default"].alarm
        await hours(time)
        assert drift.state()["default"].num_groups == 8


async def test_groups_that_fail_are_left_out_and_said(path: Path) -> None:
    judge = ChangingJudge()
    async with running(judge, path) as (drift, time):
        await idle(time)
        judge.fails = {0, 5}
        await hours(time)
        state = drift.state()["default"]
        assert state.num_groups == 6
        assert state.sentence.endswith("over 6 golden groups; not judged: unavailable 2 times")


async def test_missing_data_neither_raises_nor_ends_an_alarm(path: Path) -> None:
    judge = ChangingJudge()
    async with running(judge, path) as (drift, time):
        await idle(time)
        judge.fails = set(range(4))
        judge.milder = 5.0
        await hours(time)
        state = drift.state()["default"]
        assert state == DriftState(
            sentence="no verdict: it takes 5 golden groups, 4 were judged; not judged: unavailable 4 times"
        )
        judge.fails = set()
        await hours(time)
        seen = drift.state()["default"]
        assert seen.alarm
        judge.fails = set(range(8))
        judge.milder = 0.0
        await hours(time)
        after = drift.state()["default"]
        assert after.alarm
        assert after.sentence.startswith("no verdict: ")
        assert after.checked_at == seen.checked_at


async def test_a_baseline_that_could_not_be_made_is_made_later(path: Path) -> None:
    judge = ChangingJudge()
    judge.fails = set(range(8))
    async with running(judge, path) as (drift, time):
        await idle(time)
        assert "baseline was made of 0 golden groups" in drift.state()["default"].sentence
        assert "unavailable 24 times" in drift.state()["default"].sentence
        assert read(path) is None
        judge.fails = {7}
        await hours(time)
        judge.fails = set()
        await hours(time)
        assert drift.state()["default"].num_groups == 7
        assert len(baseline(path)["groups"]) == 8


async def test_a_spent_budget_ends_the_checks_of_its_judge_alone(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    poor, rich = ChangingJudge("poor"), ChangingJudge("rich")
    metered = MeteredJudge(poor, Meter(max_total_tokens=3_000))
    async with running({"poor": Ruler(metered), "rich": Ruler(rich)}, path) as (drift, time):
        await hours(time)
        assert drift.state()["poor"].sentence == "checks have stopped: the budget is spent"
        assert not drift.state()["poor"].alarm
        asked = sum(poor.asked.values())
        await hours(time)
        assert sum(poor.asked.values()) == asked
        assert rich.asked == dict.fromkeys(range(8), 5)
        assert len([one for one in caplog.records if "judge poor: checks have stopped" in one.message]) == 1


async def test_so_many_judged_groups_are_a_reason_to_check(path: Path) -> None:
    judge = ChangingJudge()
    async with running(judge, path, every_minutes=None, every_groups=3) as (drift, _):
        await until(path.exists)
        await until(lambda: "baseline was made" in drift.state()["default"].sentence)
        for _ in range(2):
            drift.judged()
        for _ in range(200):
            await asyncio.sleep(0)
        assert sum(judge.asked.values()) == 24
        drift.judged()
        await until(lambda: drift.state()["default"].checked_at is not None)
        assert sum(judge.asked.values()) == 32


async def test_checks_never_overlap(path: Path) -> None:
    judge = ChangingJudge()
    async with running(judge, path, every_groups=1) as (drift, time):
        await idle(time)
        judge.hold = asyncio.Event()
        drift.judged()
        await until(lambda: judge.in_flight == 8)
        for _ in range(5):
            drift.judged()
        for _ in range(200):
            await asyncio.sleep(0)
        assert judge.in_flight == 8
        judge.hold.set()
        await until(lambda: sum(judge.asked.values()) == 24 + 8 + 8)  # those that came meanwhile: one more check


async def test_a_check_in_flight_is_given_up_at_the_stop(path: Path) -> None:
    judge = ChangingJudge()
    judge.hold = asyncio.Event()
    async with running(judge, path):
        await until(lambda: judge.in_flight > 0)
    assert judge.in_flight == 0
    assert read(path) is None


async def test_a_fault_in_a_check_does_not_end_the_later_ones(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running(ChangingJudge(), path) as (_, time):
        await idle(time)
    damage(path, GROUPS[0])
    async with running({"default": Ruler(ChangingJudge()), "other": Ruler(ChangingJudge())}, path) as (drift, time):
        await hours(time)
        assert drift.state()["default"].sentence.startswith("the check failed: ValueError: before, now: expected equal")
        assert drift.state()["other"].sentence.startswith("unchanged: ")
        assert "judge default: the check failed" in caplog.text


async def test_a_baseline_that_cannot_be_written_serves_until_the_end(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    judge = ChangingJudge()
    judge.hold = asyncio.Event()
    async with running(judge, path) as (drift, time):
        os.mkdir(path)  # a folder of its name cannot be replaced by a file
        judge.hold.set()
        await idle(time)
        assert f"the baseline {path} cannot be written" in caplog.text
        judge.milder = 3.0
        await hours(time)
        assert drift.state()["default"].alarm


async def test_gauges_show_what_is_known(path: Path) -> None:
    judge, metrics = ChangingJudge(), Metrics()
    async with running(judge, path) as (drift, time):
        drift.watch(metrics)
        await idle(time)
        text = metrics.text().decode()
        assert 'ruler_drift_alarm{judge="default"} 0.0' in text
        assert "ruler_drift_shift{" not in text
        judge.milder = 4.0
        await hours(time)
        text = metrics.text().decode()
        assert 'ruler_drift_alarm{judge="default"} 1.0' in text
        assert 'ruler_drift_shift{judge="default"} 0.04' in text
        assert 'ruler_drift_disagreement{judge="default"} 0.0' in text
        assert 'ruler_drift_groups{judge="default"} 8.0' in text
        assert f'ruler_drift_checked_timestamp_seconds{{judge="default"}} {time.now}' in text


def test_golden_groups_are_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "golden.jsonl"
    same = {"group_id": "same", "rollouts": [{"messages": "a"}, {"messages": "a"}]}
    alone = {"group_id": "alone", "rollouts": [{"messages": "a"}]}
    good = [{"group_id": f"g{n}", "rollouts": [{"messages": "a"}, {"messages": f"b{n}"}]} for n in range(5)]
    file.write_text("\n".join(map(json.dumps, [same, alone, *good])))
    assert [group.id for group in Drift.load_groups(file)] == [f"g{n}" for n in range(5)]

    file.write_text("\n".join(map(json.dumps, [same, alone, *good[:4]])))
    with pytest.raises(
        ConfigError, match=r"golden .*golden\.jsonl: expected at least 5 groups with rollouts that differ, got 4"
    ):
        Drift.load_groups(file)

    file.write_text("\n".join([*map(json.dumps, good), '{"rollouts": 3}']))
    with pytest.raises(ConfigError, match=r"golden .*golden\.jsonl:6: rollouts: "):
        Drift.load_groups(file)

    with pytest.raises(ConfigError, match=r"missing\.jsonl: cannot be read"):
        Drift.load_groups(tmp_path / "missing.jsonl")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_minutes": None}, "give golden_minutes, golden_groups, or both"),
        ({"every_minutes": 0}, "golden_minutes: expected a positive number, got 0"),
        ({"every_groups": -1}, "golden_groups: expected a positive number, got -1"),
        ({"repeats": 1}, "repeats: expected at least 2, got 1"),
    ],
)
def test_bad_options(path: Path, options: dict[str, Any], message: str) -> None:
    ruler = Ruler(ScriptedJudge([]))
    with pytest.raises(ConfigError, match=message):
        Drift({"default": ruler}, GROUPS, path, **{"every_minutes": 1, **options})
    with pytest.raises(ConfigError, match="there is no judge"):
        Drift({}, GROUPS, path, every_minutes=1)


def test_a_file_that_is_no_baseline_is_never_overwritten(path: Path) -> None:
    path.write_text('{"mine": 1}')
    with pytest.raises(ConfigError, match=r"golden\.baseline\.json is no baseline of ours: .*; move it away"):
        Drift({"default": Ruler(ScriptedJudge([]))}, GROUPS, path, every_minutes=1)
    assert path.read_text() == '{"mine": 1}'
    with pytest.raises(ConfigError, match="cannot be written there"):
        Drift({"default": Ruler(ScriptedJudge([]))}, GROUPS, path.parent / "none" / "b.json", every_minutes=1)
