import gzip
import json
import math
import os
import random
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau, pearsonr

from ruler.agreement import GroupAgreement, agree, first_wins, shorter_wins, summarise

# Few different values, so that ties are common; the wide range finds rounding.
VALUES = st.one_of(st.integers(0, 3).map(float), st.floats(-1e6, 1e6))
LISTS = st.integers(0, 9).flatmap(
    lambda n: st.tuples(st.lists(VALUES, min_size=n, max_size=n), st.lists(VALUES, min_size=n, max_size=n))
)


def group(
    accuracy: float,
    source: str = "s",
    cluster: str | None = None,
    *,
    id: str = "g",
    pairs: int = 4,
    tau: float | None = 0,
    binary: bool = True,
    spread: float = 1.0,
) -> GroupAgreement:
    return GroupAgreement(
        group_id=id,
        source=source,
        cluster=cluster,
        pairs=pairs,
        correct=accuracy * pairs,
        tied_pairs=0,
        tau_b=tau,
        top_1=accuracy,
        r=tau,
        binary=binary,
        signal=True,
        spread=spread,
    )


def width(interval: tuple[float, float] | None) -> float:
    assert interval is not None
    return interval[1] - interval[0]


# --- one group ---------------------------------------------------------------


@given(LISTS)
def test_tau_b_is_scipys(lists: tuple[list[float], list[float]]) -> None:
    scores, truth = lists
    got = agree(scores, truth).tau_b
    if len(scores) < 2:
        assert got is None  # scipy warns of too small a sample
        return
    expected = kendalltau(scores, truth, variant="b").statistic
    assert got is None if math.isnan(expected) else got == pytest.approx(expected, abs=1e-12)


@given(LISTS, st.sampled_from([0.0, 0.5, 1.0, 2.0]))
def test_pairs_are_those_of_a_naive_double_loop(lists: tuple[list[float], list[float]], min_gap: float) -> None:
    scores, truth = lists
    usable = []
    for i in range(len(truth)):
        for j in range(len(truth)):
            if truth[i] > truth[j] and truth[i] - truth[j] >= min_gap - 1e-9:
                usable.append(1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0)
    got = agree(scores, truth, min_gap=min_gap)
    assert got.pairs == len(usable)
    assert got.correct == sum(usable)
    assert got.tied_pairs == usable.count(0.5)
    assert got.mixed == bool(usable)
    assert got.accuracy == (sum(usable) / len(usable) if usable else None)


@given(LISTS)
def test_a_monotone_transform_of_the_scores_changes_nothing(lists: tuple[list[float], list[float]]) -> None:
    scores, truth = lists
    ranks = [float(sorted(set(scores)).index(score)) ** 3 - 7 for score in scores]
    # Correlation and spread alone are of the scale.
    assert replace(agree(ranks, truth), r=None, spread=0) == replace(agree(scores, truth), r=None, spread=0)


@given(LISTS)
def test_reversed_scores_reverse_the_result(lists: tuple[list[float], list[float]]) -> None:
    scores, truth = lists
    forward, backward = agree(scores, truth), agree([-score for score in scores], truth)
    assert backward.correct == forward.pairs - forward.correct
    assert backward.tied_pairs == forward.tied_pairs
    assert backward.tau_b == (None if forward.tau_b is None else -forward.tau_b)
    assert backward.r == (None if forward.r is None else -forward.r)
    assert (backward.signal, backward.binary) == (forward.signal, forward.binary)


@given(LISTS, st.randoms())
def test_the_order_of_the_rollouts_does_not_matter(
    lists: tuple[list[float], list[float]], shuffler: random.Random
) -> None:
    scores, truth = lists
    order = list(range(len(scores)))
    shuffler.shuffle(order)
    assert agree([scores[i] for i in order], [truth[i] for i in order]) == agree(scores, truth)


@given(LISTS)
def test_r_is_scipys(lists: tuple[list[float], list[float]]) -> None:
    scores, truth = lists
    got = agree(scores, truth).r
    if len(set(scores)) < 2 or len(set(truth)) < 2:
        assert got is None
        return
    assert got is not None
    # Exact sums: scipy's are not, where values differ by less than their rounding.
    x, y = [Fraction(score) for score in scores], [Fraction(true) for true in truth]
    dx, dy = [v - sum(x) / len(x) for v in x], [v - sum(y) / len(y) for v in y]
    shared = sum(a * b for a, b in zip(dx, dy, strict=True))
    squared = shared**2 / (sum(a * a for a in dx) * sum(b * b for b in dy))
    assert got == pytest.approx(math.copysign(math.sqrt(squared), shared), abs=1e-6)
    if max(scores) - min(scores) > 1e-3 and max(truth) - min(truth) > 1e-3:
        assert got == pytest.approx(pearsonr(scores, truth).statistic, abs=1e-6)


def test_r_has_no_scale() -> None:
    for scale in (1e-300, 1e300):
        assert agree([scale, 2 * scale, 4 * scale], [1, 2, 4]).r == pytest.approx(1)
    assert agree([1e308, -1e308, 1e308], [1, 0, 1]).r == pytest.approx(1)


@given(LISTS)
def test_top_1_is_naive(lists: tuple[list[float], list[float]]) -> None:
    scores, truth = lists
    top = [i for i in range(len(scores)) if all(scores[i] >= other for other in scores)]
    right = [i for i in top if all(truth[i] >= other for other in truth)]
    assert agree(scores, truth).top_1 == (len(right) / len(top) if len(set(truth)) > 1 else None)


def test_groups_of_two() -> None:
    right = agree([0.9, 0.1], [1, 0])
    assert (right.accuracy, right.tau_b, right.top_1, right.r) == (1, 1, 1, pytest.approx(1))
    wrong = agree([0.1, 0.9], [1, 0])
    assert (wrong.accuracy, wrong.tau_b, wrong.top_1, wrong.r) == (0, -1, 0, pytest.approx(-1))
    tie = agree([0.5, 0.5], [1, 0])
    assert (tie.pairs, tie.correct, tie.tied_pairs) == (1, 0.5, 1)
    assert (tie.tau_b, tie.top_1, tie.r, tie.signal) == (None, 0.5, None, False)


def test_top_1_averages_ties_at_the_top_only() -> None:
    assert agree([2, 2, 2, 1], [1, 1, 0, 1]).top_1 == pytest.approx(2 / 3)
    assert agree([3, 1, 1, 1], [1, 1, 0, 1]).top_1 == 1


@pytest.mark.parametrize(
    ("truth", "binary"),
    [([0, 1], True), ([1.0, 1.0, 1.0], True), ([0, 0.5], False), ([0.5, 0.5], False), ([1], False), ([], False)],
)
def test_binary_truth(truth: list[float], binary: bool) -> None:
    assert agree([0.0] * len(truth), truth).binary is binary


@pytest.mark.parametrize(("scores", "truth"), [([], []), ([0.3], [1.0]), ([0.1, 0.9], [1.0, 1.0])])
def test_without_two_different_truths_there_is_nothing_to_measure(scores: list[float], truth: list[float]) -> None:
    got = agree(scores, truth)
    assert (got.pairs, got.accuracy, got.mixed) == (0, None, False)
    assert got.tau_b is got.top_1 is got.r is None
    assert got.signal is (len(scores) == 2)


def test_min_gap_includes_the_gap_itself_and_leaves_tau_alone() -> None:
    assert 0.82 - 0.67 < 0.15
    got = agree([3, 2, 1], [0.82, 0.67, 0.60], min_gap=0.15)
    assert (got.pairs, got.correct) == (2, 2)
    assert agree([1, 2], [1.0, 0.9], min_gap=0.5) == replace(agree([1, 2], [1.0, 0.9]), pairs=0, correct=0)


def test_what_names_the_group_is_kept() -> None:
    got = agree([1, 0], [1, 0], group_id="g", source="s", cluster="c")
    assert (got.group_id, got.source, got.cluster) == ("g", "s", "c")


def test_trivial_rules() -> None:
    assert agree(shorter_wins([5, 9, 1]), [0.5, 0.0, 1.0]).accuracy == 1
    assert agree(first_wins(3), [1.0, 0.5, 0.0]).accuracy == 1
    assert first_wins(0) == shorter_wins([]) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_refused_by_name(bad: float) -> None:
    with pytest.raises(ValueError, match=r"scores\[1\].*finite.*" + str(bad)):
        agree([0.0, bad], [0.0, 1.0])
    with pytest.raises(ValueError, match=r"truth\[2\]"):
        agree([0.0, 0.0, 0.0], [0.0, 1.0, bad])
    with pytest.raises(ValueError, match="min_gap"):
        agree([], [], min_gap=bad)


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="2 scores for 3 truth values"):
        agree([0.0, 1.0], [0.0, 1.0, 0.5])
    with pytest.raises(ValueError, match="min_gap"):
        agree([], [], min_gap=-0.1)


@given(LISTS)
def test_spread_is_the_deviation_of_the_scores(lists: tuple[list[float], list[float]]) -> None:
    scores, truth = lists
    expected = float(np.std(scores)) if scores else 0.0
    assert agree(scores, truth).spread == pytest.approx(expected, rel=1e-9, abs=1e-9)


# --- many groups -------------------------------------------------------------


def test_first_inside_a_group_then_over_groups_then_over_sources() -> None:
    groups = [
        # Source a: accuracies 1 (of 3 pairs), 0, 0, 0 (of 1 each): 1/4, where the pairs alone would say 1/2.
        agree([3, 2, 1], [3, 2, 1], group_id="a1", source="a"),
        *(agree([1, 2], [2, 1], group_id=id, source="a") for id in ("a2", "a3", "a4")),
        # Source b: 1, and a tie (1/2): 3/4; the third has nothing to get right.
        agree([2, 1], [2, 1], group_id="b1", source="b"),
        agree([1, 1], [2, 1], group_id="b2", source="b"),
        agree([1, 2], [1, 1], group_id="b3", source="b"),
    ]
    got = summarise(groups, failed={"b": 2, "c": 1})
    a, b, c = got.sources
    assert (a.source, a.accuracy, a.tie_rate, a.tau_b) == ("a", 0.25, 0, -0.5)
    assert (a.top_1, a.r) == (0.25, pytest.approx(-0.5))
    assert (a.groups, a.mixed_groups, a.tau_groups, a.clusters, a.pairs, a.failed) == (4, 4, 4, 4, 6, 0)
    assert (b.source, b.accuracy, b.tie_rate, b.tau_b) == ("b", 0.75, 0.5, 1)
    assert (b.top_1, b.r) == (0.75, pytest.approx(1))
    assert (b.groups, b.mixed_groups, b.tau_groups, b.clusters, b.pairs, b.failed) == (3, 2, 1, 2, 2, 2)
    assert (c.source, c.accuracy, c.tie_rate, c.tau_b, c.groups, c.failed) == ("c", None, None, None, 0, 1)
    assert (a.failure_rate, b.failure_rate, c.failure_rate) == (0, 0.4, 1)
    # Over the groups of both the accuracy would be 2.5 / 6.
    total = got.overall
    assert (total.source, total.accuracy, total.tie_rate, total.tau_b) == ("all", 0.5, 0.25, 0.25)
    assert (total.groups, total.mixed_groups, total.tau_groups, total.pairs, total.failed) == (7, 6, 5, 8, 3)
    assert (total.top_1, total.r, total.failure_rate) == (0.5, pytest.approx(0.25), 0.3)


def test_nothing_at_all() -> None:
    got = summarise([])
    assert got.sources == ()
    assert got.overall.accuracy is got.overall.accuracy_interval is got.overall.tau_b is got.overall.tie_rate is None
    assert got.overall.top_1 is got.overall.r is got.overall.failure_rate is None


def test_a_source_apart_has_a_row_and_no_part_in_the_whole() -> None:
    groups = many(9, sources=("a", "b", "c"))
    got = summarise(groups, failed={"b": 3, "d": 1}, apart={"b"}, resamples=200)
    assert [(row.source, row.apart) for row in got.sources] == [("a", False), ("b", True), ("c", False), ("d", False)]
    without = summarise([g for g in groups if g.source != "b"], failed={"d": 1}, resamples=200)
    assert got.overall == without.overall
    assert replace(got.sources[1], apart=False) == summarise(groups, failed={"b": 3}, resamples=200).sources[1]
    assert summarise([g for g in groups if g.source == "b"], apart={"b"}).overall.accuracy is None


def test_ties_of_a_source_apart_are_not_in_the_whole() -> None:
    half = [replace(group(0.5, "a"), tied_pairs=2), replace(group(0.5, "c"), tied_pairs=0)]
    got = summarise([*half, replace(group(0.5, "b"), tied_pairs=4)], apart={"b"}, resamples=0)
    assert [row.tie_rate for row in got.sources] == [0.5, 0.0, 1.0]
    assert got.overall.tie_rate == 0.25


def test_no_interval_with_fewer_than_two_mixed_clusters() -> None:
    unmixed = group(0.0, id="u", pairs=4)
    unmixed = replace(unmixed, pairs=0, correct=0.0, tau_b=None)
    one = summarise([group(1.0, cluster="c", id="1"), group(0.0, cluster="c", id="2"), unmixed]).overall
    assert (one.accuracy, one.accuracy_interval, one.tau_b_interval, one.clusters) == (0.5, None, None, 1)
    two = summarise([group(1.0, cluster="c"), group(0.0, cluster="d", tau=None)]).overall
    assert two.accuracy_interval == pytest.approx((0, 1), abs=0.01)
    assert two.tau_b == 0
    assert two.tau_b_interval is None  # only one cluster has a tau-b


def test_the_whole_has_no_interval_unless_each_source_in_it_has_one() -> None:
    groups = [group(1.0, "a", id="1"), group(0.0, "a", id="2"), group(1.0, "b")]
    got = summarise(groups)
    assert got.sources[0].accuracy_interval is not None
    assert got.overall.accuracy == 0.75
    assert got.overall.accuracy_interval is None
    # A source that does not count in the mean does not matter.
    assert summarise(groups[:2], failed={"b": 1}).overall.accuracy_interval is not None


def test_groups_without_a_cluster_stand_alone() -> None:
    same_name = [group(1.0, cluster=""), group(0.0, cluster=None), group(0.5)]
    assert summarise(same_name).overall.clusters == 3


def many(seed: int, clusters: int = 60, sources: tuple[str, ...] = ("a", "b")) -> list[GroupAgreement]:
    rng = random.Random(seed)
    return [
        group(rng.randint(0, 4) / 4, source, f"c{c}", id=f"{source}{c}/{g}", tau=rng.choice([None, -1.0, 0.5, 1.0]))
        for source in sources
        for c in range(clusters)
        for g in range(rng.randint(1, 3))
    ]


def test_the_seed_decides_and_the_order_of_groups_does_not() -> None:
    groups = many(1)
    first = summarise(groups, resamples=200)
    assert summarise(groups, resamples=200) == first
    assert summarise(groups, resamples=200, seed=1) != first
    shuffled = random.Random(2).sample(groups, len(groups))
    again = summarise(shuffled, resamples=200)
    assert again.overall == first.overall
    assert set(again.sources) == set(first.sources)


def test_intervals_are_the_same_in_another_process() -> None:
    code = (
        "from ruler.agreement import *; import sys; print(summarise([agree([1, i % 3], [2, 1], group_id=str(i), "
        "cluster=str(i % 7), source='\\ud800') for i in range(20)], resamples=50).overall.accuracy_interval)"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hashseed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hashseed in ("1", "2")
    }
    assert len(runs) == 1


def test_equal_structure_is_resampled_alike_whatever_the_scores() -> None:
    # 1 - accuracy in every group mirrors the interval exactly only if the same clusters were drawn.
    groups = many(3)
    mirrored = [replace(g, correct=g.pairs - g.correct) for g in groups]
    low, high = summarise(groups, resamples=300).overall.accuracy_interval or (0, 0)
    assert summarise(mirrored, resamples=300).overall.accuracy_interval == pytest.approx((1 - high, 1 - low))


def test_a_source_is_drawn_alike_whatever_others_stand_beside_it() -> None:
    groups = many(4)
    alone = summarise([g for g in groups if g.source == "b"], resamples=200)
    assert summarise(groups, resamples=200).sources[1] == alone.sources[0]


def test_sources_are_drawn_independently() -> None:
    twins = [replace(g, source=source) for g in many(8, clusters=60, sources=("a",)) for source in ("a", "b")]
    got = summarise(twins)
    # Drawn in step, the whole would be as uncertain as one of them; independently, 1 / sqrt(2) of it.
    assert width(got.overall.accuracy_interval) < 0.8 * width(got.sources[0].accuracy_interval)


def test_copies_inside_a_cluster_bring_no_certainty() -> None:
    originals = [group(random.Random(i).randint(0, 4) / 4, cluster=f"c{i:02}", id=f"g{i:02}") for i in range(40)]
    copies = [replace(g, group_id=f"{g.group_id}/{k}") for g in originals for k in range(4)]
    loose = [replace(g, cluster=None) for g in copies]
    once, clustered, unclustered = (summarise(g).overall for g in (originals, copies, loose))
    assert once.accuracy == pytest.approx(clustered.accuracy) == pytest.approx(unclustered.accuracy)
    assert clustered.accuracy_interval == pytest.approx(once.accuracy_interval)
    assert width(clustered.accuracy_interval) > 1.6 * width(unclustered.accuracy_interval)  # 2 in the limit


def test_intervals_hold_the_estimate_and_grow_with_confidence() -> None:
    groups = many(5)
    wide, narrow = summarise(groups, confidence=0.95), summarise(groups, confidence=0.5)
    for row, inner in zip((*wide.sources, wide.overall), (*narrow.sources, narrow.overall), strict=True):
        assert row.accuracy is not None
        assert row.accuracy_interval is not None
        assert 0 <= row.accuracy_interval[0] < row.accuracy < row.accuracy_interval[1] <= 1
        assert width(inner.accuracy_interval) < width(row.accuracy_interval)
        assert width(inner.tau_b_interval) < width(row.tau_b_interval)
    assert wide.confidence == 0.95


def test_the_interval_is_a_naive_bootstraps() -> None:
    groups = many(6, clusters=60)
    by_source: dict[str, dict[str, list[GroupAgreement]]] = {}
    for g in groups:
        by_source.setdefault(g.source, {}).setdefault(g.cluster or "", []).append(g)
    rng = random.Random(0)
    means = []
    for _ in range(4000):
        of_sources = []
        for clusters in by_source.values():
            drawn = [g for name in rng.choices(list(clusters), k=len(clusters)) for g in clusters[name]]
            of_sources.append(sum(g.accuracy or 0.0 for g in drawn) / len(drawn))
        means.append(sum(of_sources) / len(of_sources))
    means.sort()
    assert summarise(groups, resamples=4000).overall.accuracy_interval == pytest.approx(
        (means[100], means[-101]), abs=0.01
    )


@pytest.mark.parametrize("confidence", [0.0, 1.0, -1.0, math.nan])
def test_a_confidence_out_of_range_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence"):
        summarise([], confidence=confidence)


def test_resamples() -> None:
    assert summarise(many(7), resamples=0).overall.accuracy_interval is None
    with pytest.raises(ValueError, match="resamples"):
        summarise([], resamples=-1)


def test_a_whole_benchmark_can_be_summarised() -> None:
    groups = [g for s in range(20) for g in many(s, clusters=32, sources=(f"s{s}",))]
    assert len(groups) > 1200
    assert summarise(groups, resamples=2000).overall.accuracy_interval is not None


# --- real groups -------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "source", "groups", "pairs", "shorter", "first"),
    [
        ("gsm8k.jsonl.gz", "gsm8k-model-solutions", 420, 1214, 0.47, 0.53),
        ("llmbar.jsonl", "llmbar-neighbor", 94, 94, 0.88, 0.54),
        ("pandalm.jsonl", "pandalm-testset-v1", 55, 215, 0.29, 0.53),
    ],
)
def test_the_published_figures_of_the_trivial_rules(
    file: str, source: str, groups: int, pairs: int, shorter: float, first: float, data_folder: Path
) -> None:
    opener = gzip.open if file.endswith(".gz") else open
    by_length, by_place = [], []
    with opener(data_folder / file, "rt", encoding="utf-8") as lines:
        for record in map(json.loads, lines):
            if record["source"] == source:
                truth = [rollout["truth"] for rollout in record["rollouts"]]
                lengths = [sum(len(m["content"]) for m in rollout["messages"]) for rollout in record["rollouts"]]
                by_length.append(agree(shorter_wins(lengths), truth))
                by_place.append(agree(first_wins(len(truth)), truth))
    assert len(by_length) == groups
    assert sum(g.pairs for g in by_length) == pairs
    # data/README.md counts pairs, not groups.
    assert sum(g.correct for g in by_length) / pairs == pytest.approx(shorter, abs=0.006)
    assert sum(g.correct for g in by_place) / pairs == pytest.approx(first, abs=0.006)
