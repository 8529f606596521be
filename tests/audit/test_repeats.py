from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judges.scripted import ScriptedJudge, scores_reply
from ruler import JudgeInfo, JudgeRequest, Ruler
from ruler.agreement import correlation
from ruler.audit.figures import group_change
from ruler.audit.repeats import RepeatedJudge, repeats, swaps
from ruler.intervals import Unit
from ruler.types import JudgedOrder
from tests.audit.askings import labelled

IDS = ("a", "b", "c", "d", "e", "f")


def orders(*scores: Sequence[float]) -> list[JudgedOrder]:
    return [JudgedOrder("judge", n, 0, IDS[: len(one)], tuple(one)) for n, one in enumerate(scores)]


def units(number: int) -> list[Unit]:
    return [Unit("", f"c{n}", f"g{n}") for n in range(number)]


async def test_a_repeated_judge_is_asked_the_same_and_says_that_it_is_another_time() -> None:
    info = JudgeInfo(backend="scripted", model="m", context_tokens=50_000)
    judge = ScriptedJudge(lambda request: scores_reply(dict.fromkeys(request.ids, 50)), info=info)
    again = RepeatedJudge(judge)
    assert again.info is info
    (item,) = labelled(1)
    await Ruler(judge).score(item.group)
    await Ruler(again).score(item.group)
    first, second = judge.requests
    assert (first.repeat, second.repeat) == (0, 1)
    assert JudgeRequest(**{n: getattr(second, n) for n in JudgeRequest.__dataclass_fields__} | {"repeat": 0}) == first


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=6))
def test_pairs_flip_tie_or_hold(scores: list[tuple[int, int]]) -> None:
    first = {IDS[n]: one / 4 for n, (one, _) in enumerate(scores)}
    second = {IDS[n]: other / 4 for n, (_, other) in enumerate(scores)}
    change = group_change(first, second)
    pairs = list(combinations(scores, 2))
    assert change.flipped == sum((a[0] - b[0]) * (a[1] - b[1]) < 0 for a, b in pairs) / len(pairs)
    assert change.tied == sum(a[0] == b[0] or a[1] == b[1] for a, b in pairs) / len(pairs)
    assert change.same == (first == second)
    assert change == group_change(second, first)
    # A call that is kinder to all changes nothing that trains.
    assert group_change(first, {name: score + 0.25 for name, score in first.items()}).moved == pytest.approx(0)


def noisy(number: int, noise: float, *, size: int = 6, repeat_of: float | None = None) -> list[list[JudgedOrder]]:
    found = []
    for place in range(number):
        rng = random.Random(place)
        quality = [rng.gauss(0.5, 0.1) for _ in range(size)]
        drawn = random.Random(f"{place} {repeat_of}") if repeat_of is not None else rng
        found.append(orders(*([q + drawn.gauss(0, noise) for q in quality] for _ in range(2))))
    return found


@pytest.mark.slow
def test_rho_and_what_orders_bring_are_those_of_the_noise() -> None:
    judged = noisy(400, 0.1)  # as much noise as quality
    truth = []
    for place in range(400):
        rng = random.Random(place)
        truth.append({name: rng.gauss(0.5, 0.1) for name in IDS})
    found = swaps(units(400), judged, truth)
    assert found.rho == pytest.approx(0.5, abs=0.05)
    assert [plan.orders for plan in found.planned] == [1, 2, 4]
    rho = found.rho
    assert rho is not None
    for plan in found.planned:
        assert plan.reliability == pytest.approx(plan.orders * rho / (1 + (plan.orders - 1) * rho))
    one, two, _ = (plan.r for plan in found.planned)
    assert one is not None
    assert two is not None
    both = [
        correlation([(x + y) / 2 for x, y in zip(a.scores, b.scores, strict=True)], list(known.values()))
        for (a, b), known in zip(judged, truth, strict=True)
    ]
    assert two == pytest.approx(math.fsum(r or 0 for r in both) / 400, abs=0.02)  # what two orders do bring
    assert two > one + 0.05
    flipped = found.change.flipped
    assert flipped.interval is not None
    assert flipped.interval[0] < math.acos(0.5) / math.pi < flipped.interval[1]


def test_without_truth_nothing_is_said_of_it_and_groups_without_scores_count_nowhere() -> None:
    judged = [*noisy(5, 0.1), []]
    found = swaps(units(6), judged, [None] * 6)
    assert all(plan.r is None for plan in found.planned)
    assert found.change.moved.groups == found.agreement.groups == 5


def test_equal_scores_have_no_rho_and_no_agreement() -> None:
    found = swaps(units(3), [orders([0.5, 0.5], [0.5, 0.5])] * 3, [None] * 3)
    assert (found.rho, found.planned, found.agreement.value) == (None, (), None)
    assert (found.change.flipped.value, found.change.tied.value) == (0, 1)


def test_noise_and_position_are_told_apart() -> None:
    pure = noisy(80, 0.05)
    again = noisy(80, 0.05, repeat_of=1)
    noise = repeats(units(80), pure, again, failed=0)
    assert noise.excess.interval is not None
    assert noise.excess.interval[0] < 0 < noise.excess.interval[1]
    assert not noise.deterministic
    biased = [
        orders(one.scores, [score + 0.1 * (slot - 2.5) for slot, score in enumerate(other.scores)])
        for one, other in noisy(80, 0.0)
    ]
    position = repeats(units(80), biased, noisy(80, 0.0), failed=2)
    assert position.deterministic
    assert (position.groups, position.identical, position.failed) == (80, 80, 2)
    assert position.excess.interval is not None
    assert position.excess.value == pytest.approx(position.other_order.moved.value)
    assert position.excess.interval[0] > 0


def test_nothing_asked_twice_is_not_deterministic() -> None:
    found = repeats(units(2), noisy(2, 0.1), [[], []], failed=2)
    assert not found.deterministic
    assert (found.groups, found.change.moved.value, found.other_order.moved.value) == (0, None, None)


def test_orders_beyond_the_first_two_are_compared() -> None:
    """What a shift by half leaves as it is: the scores of every other slot."""
    first, second = (1.0, 0.0, 1.0, 0.0), (0.0, 1.0, 0.0, 1.0)
    found = swaps(units(3), [orders(first, first, second, second)] * 3, [None] * 3)
    # Four of six pairs of orders are one of each: every score moves by 1, four of six pairs of rollouts turn round.
    assert found.change.moved.value == pytest.approx(4 / 6)
    assert found.change.flipped.value == pytest.approx(4 / 6 * 4 / 6)
    assert found.rho == pytest.approx(-1 / 3)  # two pairs of orders agree wholly, four are opposite


def test_orders_none_of_which_is_the_first_give_one_rho() -> None:
    (one, two), (three, four) = noisy(2, 0.1)
    shown = [one.scores, two.scores, three.scores, four.scores]
    rhos = {
        swaps(units(1), [orders(*(shown[place] for place in places))], [None]).rho
        for places in ((0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1))
    }
    assert len(rhos) == 1


@given(st.permutations(range(30)))
@settings(max_examples=5)
def test_the_order_of_the_file_changes_no_digit(places: list[int]) -> None:
    judged, where = noisy(30, 0.1), units(30)
    found = swaps([where[n] for n in places], [judged[n] for n in places], [None] * 30)
    assert found == swaps(where, judged, [None] * 30)


@pytest.mark.parametrize(
    ("values", "other", "expected"),
    [
        ((-1e308, 1e308, -1e308), (0, 1, 0), 1),
        ((1e-200, 2e-200, 3e-200), (3, 2, 1), -1),
        ((5e-324, 0.0), (0, 1), -1),
        ((1e308, 1e-200, -1.7e308), (1, 0, -1.7), 1),
        ((1.0, math.nextafter(1.0, 2), 1.0), (0, 1, 0), 1),
        ((1, 2, 3, 4), (1, 3, 2, 4), 0.8),
    ],
)
def test_correlation_copes_with_any_scale(values: Sequence[float], other: Sequence[float], expected: float) -> None:
    assert correlation(values, other) == pytest.approx(expected)
    assert correlation(other, values) == pytest.approx(expected)


def test_what_is_all_equal_has_no_correlation() -> None:
    assert correlation([1e308] * 3, [1, 2, 3]) is correlation([1, 2], [0.5, 0.5]) is None


@given(st.lists(st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * 2), min_size=2, max_size=6))
def test_correlation_of_finite_numbers_never_raises(pairs: list[tuple[float, float]]) -> None:
    found = correlation([a for a, _ in pairs], [b for _, b in pairs])
    assert (found is None) == (len({a for a, _ in pairs}) < 2 or len({b for _, b in pairs}) < 2)
    assert found is None or -1 <= found <= 1
