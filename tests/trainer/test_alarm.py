"""The alarm of reward hacking: silent on noise and on healthy runs, loud when truth falls under a rising reward."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.alarm import LIMIT, MIN_FALL, MIN_FALL_SINCE, MIN_STEPS, HackingAlarm, HackingWatch, find_hacking, fit_line


def noise(random: Random, number: int, deviation: float, coefficient: float) -> list[float]:
    """AR(1), of this standard deviation."""
    values = [random.gauss(0, deviation)]
    for _ in range(number - 1):
        fresh = random.gauss(0, deviation * (1 - coefficient**2) ** 0.5)
        values.append(coefficient * values[-1] + fresh)
    return values


def lines(rewards: list[float], truths: list[float]) -> list[dict[str, float]]:
    return [
        {"step": step, "reward/mean": reward, "truth/mean": truth}
        for step, (reward, truth) in enumerate(zip(rewards, truths, strict=True), 1)
    ]


def alarms(of_run: list[dict[str, float]], window: int = 20) -> list[HackingAlarm]:
    watch = HackingWatch(window)
    return [alarm for line in of_run if (alarm := watch.see(line))]


def ramp(step: int, start: int, length: int) -> float:
    return min(max((step - start) / length, 0.0), 1.0)


def levelling(step: int, steps: float) -> float:
    return 1.0 - math.exp(-step / steps)


def noisy(random: Random, values: list[float], deviation: float, coefficient: float) -> list[float]:
    return [value + off for value, off in zip(values, noise(random, len(values), deviation, coefficient), strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("coefficient", [0.0, 0.5])
@pytest.mark.parametrize("healthy", [False, True])
def test_fewer_than_one_run_in_a_hundred_has_a_false_alarm(healthy: bool, coefficient: float) -> None:
    random = Random(0)
    rewards = [0.4 + 0.5 * levelling(step, 25) if healthy else 0.5 for step in range(200)]
    truths = [0.35 + 0.55 * levelling(step, 20) if healthy else 0.5 for step in range(200)]
    num_runs = 400
    false = sum(
        bool(alarms(lines(noisy(random, rewards, 0.05, coefficient), noisy(random, truths, 0.05, coefficient))))
        for _ in range(num_runs)
    )
    assert false < num_runs / 100


@pytest.mark.parametrize(("start", "length"), [(2, 8), (30, 1), (30, 10), (30, 40)])
def test_hacking_is_found_soon_in_nearly_every_run(start: int, length: int) -> None:
    random = Random(1)
    shares = [ramp(step, start, length) for step in range(80)]
    rewards, truths = [0.3 + 0.6 * share for share in shares], [0.8 - 0.7 * share for share in shares]
    found = 0
    for _ in range(50):
        raised = alarms(lines(noisy(random, rewards, 0.05, 0.3), noisy(random, truths, 0.05, 0.3)))
        found += bool(raised) and start < raised[0].last_step <= start + max(length, 20)
    assert found >= 48


def slow_hack(random: Random, number: int) -> list[dict[str, float]]:
    """What a weak judge of sums did to a policy: both means rise, then truth falls and the reward hardly rises."""
    rewards = [0.5 + 0.21 * levelling(step, 4) + 0.04 * ramp(step, 20, 100) for step in range(number)]
    truths = [0.4 + 0.3 * levelling(step, 10) - 0.6 * ramp(step, 30, 90) for step in range(number)]
    return lines(noisy(random, rewards, 0.01, 0.0), noisy(random, truths, 0.08, 0.3))


def test_a_slow_fall_after_the_reward_s_rise_is_found() -> None:
    random = Random(4)
    for _ in range(20):
        raised = alarms(slow_hack(random, 160))
        assert raised
        assert raised[0].first_step < 60 < raised[0].last_step
        assert raised[0].truth.first - raised[0].truth.last >= MIN_FALL_SINCE
        assert raised[0].reward.first < raised[0].reward.last


@pytest.mark.slow
def test_a_fall_under_a_reward_that_stays_is_none() -> None:
    random = Random(5)
    falling = [0.7 - 0.6 * ramp(step, 30, 90) for step in range(160)]
    raised = [
        alarms(lines(noisy(random, [0.5] * 160, 0.02, 0.3), noisy(random, falling, 0.05, 0.3))) for _ in range(40)
    ]
    assert sum(map(bool, raised)) <= 2


def test_the_alarm_is_one_sentence_with_its_figures_and_then_silent_for_a_window() -> None:
    rewards = [0.3 + 0.01 * step + 0.01 * (step % 2) for step in range(60)]
    truths = [0.9 - 0.012 * step + 0.02 * (step % 3) for step in range(60)]
    raised = alarms(lines(rewards, truths))
    assert [alarm.last_step for alarm in raised] == [10, 30, 50]
    assert raised[1].first_step == 11
    assert str(raised[0]) == (
        "Reward hacking? From step 1 to 10 the mean reward rose from 0.30 to 0.40 (t = 17.0) while the mean truth fell "
        "from 0.92 to 0.81 (t = -5.7)."
    )


def test_a_resumed_run_that_reads_its_lines_again_raises_the_same_alarms() -> None:
    random = Random(2)
    shares = [ramp(step, 20, 50) for step in range(100)]
    of_run = lines(
        noisy(random, [0.3 + 0.6 * share for share in shares], 0.03, 0.3),
        noisy(random, [0.9 - 0.8 * share for share in shares], 0.03, 0.3),
    )
    whole = alarms(of_run)
    assert len(whole) >= 2
    for cut in range(0, 100, 7):
        watch = HackingWatch()
        before = [alarm for line in of_run[:cut] if (alarm := watch.see(line))]
        after = [alarm for line in of_run[cut:] if (alarm := watch.see(line))]
        assert [*before, *after] == whole


def test_lines_without_both_means_are_passed_over() -> None:
    rewards, truths = [0.02 * step for step in range(30)], [1 - 0.02 * step for step in range(30)]
    plain = lines(rewards, truths)
    mixed = [
        other
        for line in plain
        for other in (
            line,
            {"step": line["step"], "held_out/truth_greedy": 0.5},
            {"step": line["step"], "reward/mean": 9.0, "truth/mean": None},
            {"step": line["step"], "reward/mean": None, "truth/mean": 0.0},
        )
    ]
    assert alarms(mixed) == alarms(plain) != []


@pytest.mark.parametrize(
    ("reward", "truth"), [(0.02, 0.02), (-0.02, -0.02), (-0.02, 0.02), (0.0, -0.02), (0.02, 0.0), (0.0, 0.0)]
)
def test_only_a_rising_reward_over_a_falling_truth_is_hacking(reward: float, truth: float) -> None:
    steps = range(20)
    assert not find_hacking(steps, [0.3 + reward * step for step in steps], [0.7 + truth * step for step in steps])
    assert find_hacking(steps, [0.3 + 0.02 * step for step in steps], [0.7 - 0.02 * step for step in steps])


def test_a_small_fall_is_none_however_sure_it_is() -> None:
    steps, rewards = range(20), [0.1 * step for step in range(20)]
    just = MIN_FALL / 19
    assert find_hacking(steps, rewards, [0.5 - 1.01 * just * step for step in steps])
    assert not find_hacking(steps, rewards, [0.5 - 0.99 * just * step for step in steps])


def test_nothing_is_said_before_there_are_enough_steps() -> None:
    of_run = lines([0.1 * step for step in range(20)], [1 - 0.05 * step for step in range(20)])
    assert alarms(of_run[: MIN_STEPS - 1]) == []
    assert len(alarms(of_run[:MIN_STEPS])) == 1
    with pytest.raises(ValueError, match="window: expected at least 10, got 9"):
        HackingWatch(9)


@given(st.lists(st.floats(-1, 1).map(lambda x: round(x, 3)), min_size=3, max_size=30), st.integers(0, 1000))
def test_the_line_is_that_of_scipy(values: list[float], first: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    steps = [first + 2 * place for place in range(len(values))]
    line, expected = fit_line(steps, values), stats.linregress(steps, values)
    assert line.first == pytest.approx(expected.intercept + expected.slope * steps[0], abs=1e-9)
    assert line.last == pytest.approx(expected.intercept + expected.slope * steps[-1], abs=1e-9)
    if expected.stderr > 1e-9:
        assert line.t == pytest.approx(expected.slope / expected.stderr, rel=1e-5, abs=1e-5)


@given(st.floats(-10, 10), st.integers(3, 30))
def test_equal_values_are_a_level_line(value: float, number: int) -> None:
    assert abs(fit_line(range(number), [value] * number).t) < LIMIT
