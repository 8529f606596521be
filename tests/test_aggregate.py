from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from statistics import correlation, fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruler.aggregate import Merged, NoisePool, SlotMeans, agreement, disagree, merge, reliability, spearman_brown
from ruler.jury import mean_scores
from ruler.least_squares import Design
from ruler.orders import Orders, plan_blocks
from ruler.types import JudgedOrder, Juror, Score, ScoredGroup, Usage

SCORES = st.floats(0, 1)


def whole(*columns: Sequence[float], ids: Sequence[str] | None = None) -> list[JudgedOrder]:
    """One prompt for each column; the rollouts are shown in a cyclic shift that is another for each."""
    names = ids or [f"r{place}" for place in range(len(columns[0]))]
    judged = []
    for order, column in enumerate(columns):
        shown = [*range(order, len(names)), *range(order)] if order < len(names) else list(range(len(names)))
        judged.append(
            JudgedOrder("j", order, 0, tuple(names[i] for i in shown), tuple(float(column[i]) for i in shown))
        )
    return judged


def pool(judged: Sequence[JudgedOrder]) -> SlotMeans:
    slots = SlotMeans()
    for one in judged:
        slots.add(one)
    return slots


def merged(judged: Sequence[JudgedOrder]) -> Merged:
    return merge(judged, pool(judged))


class Simulation:
    """Groups with truth, judged by the model that `ruler.aggregate` states."""

    def __init__(
        self,
        size: int,
        orders: Orders,
        *,
        max_block: int = 8,
        spread: float = 0.12,
        noise: float = 0.07,
        slot_bias: float = 0.07,
        shape: str = "linear",
        leniency: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._size, self._orders, self._max_block = size, orders, max_block
        self._spread, self._noise, self._slot_bias, self._shape = spread, noise, slot_bias, shape
        self._leniency = leniency
        self._rng = random.Random(f"{size}|{orders}|{seed}")
        self._num_groups = 0

    def group(self) -> tuple[list[float], list[JudgedOrder]]:
        """(truth, what the judge said)."""
        self._num_groups += 1
        truth = [self._rng.gauss(0.5, self._spread) for _ in range(self._size)]
        judged = []
        for order, blocks in enumerate(plan_blocks(self._size, self._max_block, self._orders, str(self._num_groups))):
            for block, shown in enumerate(blocks):
                slots = [
                    -slot if self._shape == "linear" else abs(slot - (len(shown) - 1) / 2) for slot in range(len(shown))
                ]
                middle = fmean(slots)
                deviation = math.sqrt(fmean((slot - middle) ** 2 for slot in slots)) or 1.0
                call = self._rng.gauss(0, self._leniency)
                scores = tuple(
                    truth[i] + call + self._slot_bias * (slot - middle) / deviation + self._rng.gauss(0, self._noise)
                    for i, slot in zip(shown, slots, strict=True)
                )
                judged.append(JudgedOrder("j", order, block, tuple(map(str, shown)), scores))
        return truth, judged

    def errors(self, num_groups: int, num_runs: int) -> tuple[float, float]:
        """(mean squared error of the scores within their groups, mean of the squared standard errors)."""
        true, said = [], []
        for _ in range(num_runs):
            slots = SlotMeans()
            for _ in range(num_groups):
                truth, judged = self.group()
                for one in judged:
                    slots.add(one)
                result = merge(judged, slots)
                if result.stderr is None:
                    continue
                error = [result.scores[str(i)] - value for i, value in enumerate(truth)]
                true.append(fmean((e - fmean(error)) ** 2 for e in error))
                said.append(fmean(e**2 for e in result.stderr.values()))
        return fmean(true), fmean(said)


class TestSlotMeans:
    def test_it_gives_each_slots_mean_less_that_of_the_prompt(self) -> None:
        slots = pool([JudgedOrder("j", 0, 0, ("a", "b"), (0.9, 0.5)), JudgedOrder("j", 1, 0, ("b", "a"), (0.6, 0.6))])
        assert slots.of("j", 2).means == pytest.approx((0.1, -0.1))
        assert slots.of("j", 2).num_prompts == 2
        assert slots.of("j", 2).squares == pytest.approx(4 * 0.1**2)

    def test_judges_and_sizes_are_kept_apart(self) -> None:
        slots = pool([JudgedOrder("j", 0, 0, ("a", "b"), (0.9, 0.5)), JudgedOrder("k", 0, 0, ("a", "b"), (0.1, 0.5))])
        assert slots.of("j", 2).means == pytest.approx((0.2, -0.2))
        assert slots.of("k", 2).means == pytest.approx((-0.2, 0.2))
        assert slots.of("j", 3).num_prompts == 0
        assert slots.of("j", 3).means == (0, 0, 0)

    @given(st.lists(st.tuples(SCORES, SCORES, SCORES), min_size=1, max_size=8), st.randoms(use_true_random=False))
    def test_the_order_of_adding_changes_nothing(
        self, columns: list[tuple[float, ...]], shuffle: random.Random
    ) -> None:
        judged = [JudgedOrder("j", 0, 0, ("a", "b", "c"), column) for column in columns]
        one = pool(judged).of("j", 3)
        shuffle.shuffle(judged)
        other = pool(judged).of("j", 3)
        assert one.means == pytest.approx(other.means, abs=1e-12)
        assert one.squares == pytest.approx(other.squares, abs=1e-12)
        assert one.num_prompts == other.num_prompts


class TestScores:
    @given(st.lists(SCORES, min_size=1, max_size=10))
    def test_of_one_order_they_are_untouched(self, column: list[float]) -> None:
        result = merged(whole(column))
        assert list(result.scores.values()) == column
        assert (result.stderr, result.clipped, agreement(whole(column))) == (None, 0, None)

    @given(st.integers(2, 6).flatmap(lambda size: st.lists(st.tuples(*[SCORES] * size), min_size=2, max_size=5)))
    def test_of_whole_orders_they_are_the_mean_that_a_jury_would_get(self, columns: list[tuple[float, ...]]) -> None:
        jurors = [
            Juror(judge="j", model="m", scores=column, notes=(None,) * len(column), usage=Usage()) for column in columns
        ]
        result = merged(whole(*columns))
        assert tuple(result.scores[f"r{i}"] for i in range(len(columns[0]))) == mean_scores(jurors)
        assert result.clipped == 0

    def test_means_that_only_arithmetic_keeps_apart_are_ties(self) -> None:
        result = merged(whole((0.01, 0.03), (0.06, 0.04)))
        assert result.scores["r0"] == result.scores["r1"]

    @given(st.integers(3, 20), st.integers(2, 6), st.sampled_from([2, 4]), st.randoms(use_true_random=False))
    @settings(max_examples=40)
    def test_the_sequences_order_changes_nothing(
        self, size: int, max_block: int, orders: Orders, shuffle: random.Random
    ) -> None:
        _, judged = Simulation(size, orders, max_block=max_block).group()
        slots = pool(judged)
        first = merge(judged, slots)
        shuffle.shuffle(judged)
        assert merge(judged, slots) == first

    @given(st.integers(9, 40), st.sampled_from([2, 4]), st.integers(0, 5))
    @settings(max_examples=30)
    def test_without_noise_blocks_give_the_differences_of_truth(self, size: int, orders: Orders, seed: int) -> None:
        truth, judged = Simulation(size, orders, noise=0.0, slot_bias=0.0, spread=0.05, seed=seed).group()
        result = merged(judged)
        assert [result.scores[str(i)] for i in range(size)] == pytest.approx(truth, abs=1e-9)

    def test_a_block_offset_takes_out_what_a_call_adds_to_all(self) -> None:
        truth, judged = Simulation(32, 4, noise=0.0, slot_bias=0.0, spread=0.1).group()
        lenient = [
            replace(one, scores=tuple(score + 0.2 for score in one.scores)) if (one.order, one.block) == (1, 0) else one
            for one in judged
        ]
        scores = merged(lenient).scores
        raised = {name for one in judged if (one.order, one.block) == (1, 0) for name in one.rollout_ids}
        moved = [scores[str(i)] - truth[i] for i in range(32)]
        gap = fmean(m for i, m in enumerate(moved) if str(i) in raised)
        gap -= fmean(m for i, m in enumerate(moved) if str(i) not in raised)
        # A plain mean over four orders leaves 0.05; the ridge a little.
        assert 0 < gap < 0.012

    def test_blocks_are_clipped_and_counted(self) -> None:
        judged = [
            JudgedOrder("j", 0, 0, ("a", "b"), (1.0, 0.0)),
            JudgedOrder("j", 0, 1, ("c", "d"), (1.0, 0.9)),
            JudgedOrder("j", 1, 0, ("c", "a"), (0.2, 1.0)),
            JudgedOrder("j", 1, 1, ("d", "b"), (0.1, 0.0)),
        ]
        result = merged(judged)
        assert result.clipped == 1
        assert result.scores["a"] == max(result.scores.values()) == 1.0
        assert min(result.scores.values()) > 0

    def test_blocks_that_share_no_rollout_are_left_as_they_are(self) -> None:
        judged = [JudgedOrder("j", 0, 0, ("a", "b"), (0.9, 0.1)), JudgedOrder("j", 0, 1, ("c", "d"), (0.3, 0.2))]
        assert merged(judged).scores == {"a": 0.9, "b": 0.1, "c": 0.3, "d": 0.2}
        assert merged(judged).stderr is None

    def test_blocks_of_equal_scores_are_ties(self) -> None:
        judged = [replace(one, scores=(0.5,) * len(one.scores)) for one in Simulation(16, 2).group()[1]]
        result = merged(judged)
        assert set(result.scores.values()) == {0.5}
        assert result.stderr is not None
        assert set(result.stderr.values()) == {0.0}

    def test_prompts_of_two_judges_or_none_are_refused(self) -> None:
        judged = whole((0.1, 0.2), (0.3, 0.4))
        with pytest.raises(ValueError, match=r"prompts of one judge, got those of \['j', 'k'\]"):
            merge([judged[0], replace(judged[1], judge="k")], pool(judged))
        with pytest.raises(ValueError, match=r"got those of \[\]"):
            merge([], SlotMeans())

    def test_prompts_outside_the_pool_are_refused(self) -> None:
        judged = whole((0.1, 0.2, 0.4), (0.3, 0.4, 0.2))
        with pytest.raises(ValueError, match="the pool for prompts of 3 holds 1"):
            merge(judged, pool(judged[:1]))


@pytest.mark.slow
class TestStandardErrors:
    @pytest.mark.parametrize(("size", "orders"), [(8, 2), (8, 4), (8, "full"), (4, 2), (4, 4), (3, "full"), (5, 4)])
    @pytest.mark.parametrize("num_groups", [1, 20])
    def test_their_square_is_the_squared_error_from_the_first_group_on(
        self, size: int, orders: Orders, num_groups: int
    ) -> None:
        # Of what two orders leave of a linear bias they know nothing; nothing is left of this one.
        shape = "u" if orders == 2 else "linear"
        simulation = Simulation(size, orders, shape=shape)
        true, said = simulation.errors(num_groups, 5600 // (size * num_groups))
        tolerance = {(4, 2): 0.15, (5, 4): 0.1}.get((size, int(orders)) if orders != "full" else (0, 0), 0.08)
        assert said == pytest.approx(true, rel=tolerance)

    @pytest.mark.parametrize(("size", "orders"), [(2, 2), (3, 2), (5, 2)])
    def test_of_two_or_an_odd_number_in_two_orders_there_are_none_in_the_first_group(
        self, size: int, orders: Orders
    ) -> None:
        simulation = Simulation(size, orders)
        slots = SlotMeans()
        found = []
        for _ in range(2):
            _, judged = simulation.group()
            for one in judged:
                slots.add(one)
            found.append(merge(judged, slots).stderr is not None)
        assert found == [False, True]

    @pytest.mark.parametrize("size", [2, 3])
    def test_of_two_and_three_rollouts_in_two_orders(self, size: int) -> None:
        true, said = Simulation(size, 2, slot_bias=0.07 if size == 2 else 0.0).errors(40, 40)
        assert said == pytest.approx(true, rel=0.12)

    def test_the_part_of_a_linear_bias_that_two_orders_leave_is_not_in_them(self) -> None:
        true, said = Simulation(8, 2, shape="linear", slot_bias=0.07, noise=0.07).errors(30, 30)
        left = 0.07**2 * 1.25 / 5.25  # slots p and p + 4 of eight: the variance of 0, 1, 2, 3 in that of 0 … 7
        assert said == pytest.approx(true - left, rel=0.07)
        assert said < 0.75 * true

    @pytest.mark.parametrize(("size", "orders"), [(10, 4), (16, 2), (32, 4)])
    def test_of_blocks(self, size: int, orders: Orders) -> None:
        simulation = Simulation(size, orders, leniency=0.07, shape="u" if orders == 2 else "linear")
        true, said = simulation.errors(10, 320 // size)
        assert said == pytest.approx(true, rel=0.12)

    def test_a_judge_that_never_wavers_has_none_and_slot_bias_is_no_noise(self) -> None:
        simulation = Simulation(8, 4, noise=0.0, slot_bias=0.07)
        judged = [one for _ in range(30) for one in simulation.group()[1]]
        slots = pool(judged)
        result = merge(judged[-4:], slots)
        assert result.stderr is not None
        assert max(result.stderr.values()) < 1e-6

    def test_a_rollout_of_which_the_orders_disagree_has_a_larger_one(self) -> None:
        result = merged(whole((0.9, 0.5, 0.3, 0.2), (0.9, 0.5, 0.3, 0.8), (0.9, 0.5, 0.3, 0.2), (0.9, 0.5, 0.3, 0.8)))
        assert result.stderr is not None
        assert result.stderr["r3"] == pytest.approx(max(result.stderr.values()))
        assert result.stderr["r3"] > 1.2 * result.stderr["r0"]
        assert min(result.stderr.values()) > 0

    def test_leniency_of_a_call_is_none(self) -> None:
        judged = whole((0.3, 0.5, 0.4, 0.2), (0.4, 0.4, 0.3, 0.3), (0.2, 0.5, 0.4, 0.1))
        lenient = [judged[0], replace(judged[1], scores=tuple(score + 0.3 for score in judged[1].scores)), judged[2]]
        one, other = merged(judged).stderr, merged(lenient).stderr
        assert one is not None
        assert one == pytest.approx(other)

    def test_a_rollout_on_which_two_orders_agree_by_chance_has_an_error_too(self) -> None:
        pooled = [one for n in range(30) for one in whole((0.8, 0.6, 0.4, n % 5 / 10), (0.8, 0.5, 0.4, n % 7 / 10))]
        slots = pool(pooled)
        errors = merge(pooled[:2], slots).stderr
        assert errors is not None
        assert min(errors.values()) > 0.01

    @settings(max_examples=60)
    @given(
        st.lists(st.lists(st.integers(0, 810), min_size=4, max_size=4), min_size=2, max_size=4),
        st.floats(0, 0.1),
    )
    def test_what_is_added_to_a_whole_prompt_changes_no_error(self, rows: list[list[int]], added: float) -> None:
        # Fractions whose sums nearly cancel: equal prompt means leave a system of rounding errors to be solved.
        first = [[value * 0.001234 / 1.25 for value in row] for row in rows]
        middle = [sum(row) / 4 for row in first]
        levelled = [[value - mean / 2 for value in row] for row, mean in zip(first, middle, strict=True)]
        moved = [[value + added * (place == 0) for value in row] for place, row in enumerate(levelled)]
        one, other = merged(whole(*levelled)), merged(whole(*moved))
        assert agreement(whole(*levelled)) == pytest.approx(agreement(whole(*moved)), abs=1e-6)
        assert (one.stderr is None) == (other.stderr is None)
        if one.stderr is not None and other.stderr is not None:
            # They are roots: what is 1e-16 in a variance is 1e-8 here.
            assert list(one.stderr.values()) == pytest.approx(list(other.stderr.values()), abs=1e-7)
            assert all(0 <= error < 1 for error in one.stderr.values())


class TestNoisePool:
    def test_errors_of_groups_that_were_picked_for_agreeing_are_not_too_small(self) -> None:
        simulation = Simulation(4, 4, slot_bias=0.0, noise=0.07)
        groups = [simulation.group() for _ in range(600)]
        kept = [(truth, judged if disagree(judged) else judged[:2]) for truth, judged in groups]
        slots = pool([one for _, judged in kept for one in judged])
        noise = NoisePool()
        for _, judged in kept:
            noise.add(judged, slots)
        assert noise.of("j") == pytest.approx(0.07**2, rel=0.1)
        for number in (2, 4):
            own, common, true = [], [], []
            for truth, judged in kept:
                if len(judged) != number:
                    continue
                result = merge(judged, slots, noise=noise)
                picked = merge(judged, slots)
                assert result.scores == picked.scores
                assert result.stderr is not None
                assert picked.stderr is not None
                common += [error**2 for error in result.stderr.values()]
                own += [error**2 for error in picked.stderr.values()]
                wrong = [result.scores[str(place)] - value for place, value in enumerate(truth)]
                true += [(one - sum(wrong) / len(wrong)) ** 2 for one in wrong]
            assert len(true) > 200
            assert sum(common) == pytest.approx(sum(true), rel=0.12)
            if number == 2:
                assert sum(own) < 0.9 * sum(true)

    def test_without_two_orders_nothing_is_known(self) -> None:
        judged = whole((0.1, 0.2, 0.3, 0.4))
        noise = NoisePool()
        noise.add(judged, pool(judged))
        assert noise.of("j") is None
        twice = whole((0.1, 0.2, 0.3, 0.4), (0.2, 0.1, 0.3, 0.4))
        assert merge(twice, pool(twice), noise=noise).stderr is None


@pytest.mark.parametrize(
    ("agreement", "orders", "expected"),
    [(None, 2, None), (-1.0, 2, 0.0), (0.0, 4, 0.0), (0.5, 2, 2 / 3), (0.5, 4, 0.8), (1.0, 8, 1.0), (0.5, 1, 0.5)],
)
def test_reliability_of_a_mean_of_orders(agreement: float | None, orders: int, expected: float | None) -> None:
    assert spearman_brown(agreement, orders) == (expected if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("size", [2, 3, 8])
def test_offsets_of_whole_orders_are_the_differences_of_their_means(size: int) -> None:
    # Where the means are nearly equal, what is to be solved is rounding errors, and the system is singular.
    rng = random.Random(size)
    for _ in range(300):
        judged = whole(*([round(rng.gauss(0.5, 0.01), 6) for _ in range(size)] for _ in range(2)))
        values = [one.scores for one in judged]
        half = (sum(values[0]) - sum(values[1])) / size / 2
        assert Design(judged).offsets(values, 0.0) == pytest.approx([half, -half], abs=1e-12)


def test_offsets_of_blocks_stay_small_where_their_means_are_equal() -> None:
    rng = random.Random(0)
    for n in range(200):
        blocks = [block for order in plan_blocks(9, 4, 2, f"{n}") for block in order]
        scores = [round(rng.gauss(0.5, 0.01), 6) for _ in range(9)]
        judged = [
            JudgedOrder("j", number // 3, number % 3, tuple(map(str, block)), tuple(scores[i] for i in block))
            for number, block in enumerate(blocks)
        ]
        assert max(map(abs, Design(judged).offsets([one.scores for one in judged], 0.0))) < 1e-9


def scored(scores: Sequence[float | None], stderr: Sequence[float | None], same: Sequence[str | None]) -> ScoredGroup:
    rollouts = tuple(
        Score(f"r{at}", score, error, same_as=twin)
        for at, (score, error, twin) in enumerate(zip(scores, stderr, same, strict=True))
    )
    return ScoredGroup(
        group_id="g",
        group_digest="d",
        rollouts_digest="d",
        status="tied" if scores[0] is None else "scored",
        rollouts=rollouts,
        usage=Usage(),
        judge="j",
        model="m",
        rubric="r",
        prompt_version="1",
        orders=2,
        adaptive=False,
        orders_used=2,
    )


def with_errors(*pairs: tuple[float | None, float | None]) -> ScoredGroup:
    return scored([score for score, _ in pairs], [error for _, error in pairs], [None] * len(pairs))


class TestReliability:
    def test_it_is_the_part_of_the_spread_that_is_no_noise(self) -> None:
        groups = [with_errors((0.2, 0.1), (0.4, 0.1)), with_errors((0.5, 0.0), (0.5, 0.0))]
        assert reliability(groups) == pytest.approx(1 - (0.01 + 0.01) / 0.02)
        assert reliability([with_errors((0.2, 0.05), (0.4, 0.05))]) == pytest.approx(1 - 0.005 / 0.02)

    def test_it_is_clipped(self) -> None:
        assert reliability([with_errors((0.2, 0.9), (0.4, 0.9))]) == 0.0

    def test_groups_without_standard_errors_do_not_count(self) -> None:
        one = with_errors((0.2, 0.05), (0.4, 0.05))
        others = [
            with_errors((0.2, None), (0.9, None)),
            with_errors((None, None), (None, None)),
            with_errors((0.5, 0.1)),
        ]
        assert reliability([one, *others]) == reliability([one])
        assert reliability(others) is None
        assert reliability([]) is None

    def test_equal_scores_have_none_of_it(self) -> None:
        assert reliability([with_errors((0.5, 0.0), (0.5, 0.0))]) == 0.0

    def test_rollouts_that_read_the_same_count_once(self) -> None:
        once = scored([0.2, 0.4], [0.05, 0.05], [None, None])
        twice = scored([0.2, 0.4, 0.4], [0.05, 0.05, 0.05], [None, None, "r1"])
        assert reliability([twice]) == reliability([once])

    @pytest.mark.parametrize("orders", [2, 4, "full"])
    def test_it_is_the_squared_correlation_with_truth_of_an_unbiased_judge(self, orders: Orders) -> None:
        simulation = Simulation(8, orders, shape="u", noise=0.12)
        slots = SlotMeans()
        results, x, y = [], [], []
        for _ in range(500):
            truth, judged = simulation.group()
            for one in judged:
                slots.add(one)
            result = merge(judged, slots)
            assert result.stderr is not None
            names = list(result.scores)
            results.append(scored([result.scores[n] for n in names], [result.stderr[n] for n in names], [None] * 8))
            x += [result.scores[n] - fmean(result.scores.values()) for n in names]
            y += [truth[int(n)] - fmean(truth) for n in names]
        assert reliability(results) == pytest.approx(correlation(x, y) ** 2, abs=0.03)


class TestDisagree:
    def test_two_rollouts_disagree_when_the_orders_prefer_different_ones(self) -> None:
        assert disagree(whole((0.2, 0.8), (0.6, 0.4)))
        assert not disagree(whole((0.2, 0.8), (0.4, 0.6)))
        assert disagree(whole((0.5, 0.5), (0.4, 0.6)))

    @given(SCORES, SCORES, st.integers(2, 12))
    def test_equal_scores_agree(self, one: float, other: float, size: int) -> None:
        assert not disagree(whole([one] * size, [other] * size))

    def test_one_order_has_nothing_to_disagree_with(self) -> None:
        assert not disagree(whole((0.2, 0.8)))

    @pytest.mark.parametrize("columns", list(permutations(((0.1, 0.5, 0.9), (0.9, 0.5, 0.1), (0.1, 0.5, 0.9)))))
    def test_the_first_two_orders_decide(self, columns: tuple[tuple[float, ...], ...]) -> None:
        assert disagree(whole(*columns)) == (columns[0] != columns[1])

    @given(st.lists(st.tuples(SCORES, SCORES), min_size=2, max_size=10))
    def test_agreement_is_the_intraclass_correlation(self, pairs: list[tuple[float, float]]) -> None:
        x, y = ([value - fmean(column) for value in column] for column in zip(*pairs, strict=True))
        judged = whole(*zip(*pairs, strict=True))
        found = agreement(judged)
        assert found is not None
        assert -1 <= found <= 1
        assert disagree(judged) == (found < 1 / 3)
        squares = sum(a * a for a in x) + sum(b * b for b in y)
        if squares > 1e-6:
            expected = 2 * sum(a * b for a, b in zip(x, y, strict=True)) / squares
            assert found == pytest.approx(expected, abs=1e-6)

    def test_blocks_disagree_by_what_is_left_without_their_offsets(self) -> None:
        steady = Simulation(32, 2, noise=0.01, slot_bias=0.0, leniency=0.3)
        assert not any(disagree(steady.group()[1]) for _ in range(20))

    # A ring of pairs has one degree of freedom: it seldom tells, but must not always agree.
    @pytest.mark.parametrize(("max_block", "at_least"), [(2, 15), (4, 34), (8, 45)])
    def test_that_offsets_were_fitted_is_no_agreement(self, max_block: int, at_least: int) -> None:
        nothing = Simulation(32, 2, max_block=max_block, spread=0.0, noise=0.1, slot_bias=0.0)
        assert sum(disagree(nothing.group()[1]) for _ in range(60)) >= at_least

    @pytest.mark.slow
    @pytest.mark.parametrize("max_block", [2, 4, 8])
    def test_agreement_about_nothing_is_not_above_0_in_the_mean(self, max_block: int) -> None:
        nothing = Simulation(32, 2, max_block=max_block, spread=0.0, noise=0.1, slot_bias=0.0, seed=1)
        found = [agreement(nothing.group()[1]) or 0.0 for _ in range(200)]
        assert -0.15 < fmean(found) < (0.2 if max_block == 2 else 0.05)

    def test_further_orders_change_nothing(self) -> None:
        simulation = Simulation(16, 4, noise=0.2)
        for _ in range(10):
            _, judged = simulation.group()
            first = [one for one in judged if one.order < 2]
            assert agreement(judged) == agreement(judged[::-1]) == agreement(first)


def test_five_hundred_rollouts_are_merged() -> None:
    truth, judged = Simulation(500, 4, spread=0.1, noise=0.05).group()
    result = merged(judged)
    assert correlation([result.scores[str(i)] for i in range(500)], truth) > 0.95
    assert result.stderr is not None
    error = [result.scores[str(i)] - truth[i] for i in range(500)]
    middle = fmean(error)
    assert fmean(e**2 for e in result.stderr.values()) == pytest.approx(
        fmean((e - middle) ** 2 for e in error), rel=0.2
    )
