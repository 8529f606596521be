import math
import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm, t

from ruler.intervals import MANY_CLUSTERS, Design, Estimate, Interval, Unit, design, wilson


def units(*sizes: int, source: str = "s") -> list[Unit]:
    """Clusters of these sizes."""
    return [Unit(source, f"c{at:04}", f"{at}/{place}") for at, size in enumerate(sizes) for place in range(size)]


def interval(estimate: Estimate) -> Interval:
    assert estimate.interval is not None
    return estimate.interval


def one(values: Sequence[float | None], **options: float) -> Estimate:
    """Of one source in which every group is its own cluster."""
    return Design(units(*[1] * len(values)), resamples=200).means(values, **options).overall  # type: ignore[arg-type]


# Each cluster is one to three groups.
CLUSTERS = st.lists(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=3), min_size=2, max_size=30)


# --- a formula ---------------------------------------------------------------


@given(st.integers(1, 400), st.data(), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_wilson_is_scipys(trials: int, data: st.DataObject, confidence: float) -> None:
    right = data.draw(st.integers(0, trials))
    expected = binomtest(right, trials).proportion_ci(confidence, method="wilson")
    assert wilson(right / trials, trials, norm.ppf((1 + confidence) / 2)) == pytest.approx(tuple(expected), abs=1e-9)


@given(CLUSTERS, st.sampled_from([0.5, 0.9, 0.95]))
def test_few_clusters_have_wilsons_interval_at_the_effective_size(
    clusters: list[list[float]], confidence: float
) -> None:
    count = len(clusters)
    groups = sum(map(len, clusters))
    mean = sum(map(sum, clusters)) / groups
    spread = sum((sum(values) - mean * len(values)) ** 2 for values in clusters) / groups**2 * count / (count - 1)
    got = Design(units(*map(len, clusters)), confidence=confidence).means([v for c in clusters for v in c]).overall
    assert got.value == pytest.approx(mean)
    assert (got.groups, got.clusters) == (groups, count)
    if spread < 1e-15:
        other = wilson(0, count, norm.ppf((1 + confidence) / 2))[1]
        expected = mean * (1 - other), mean + (1 - mean) * other
    else:
        deviate = t.ppf((1 + confidence) / 2, count - 1)
        # The roots of |p - mean| = deviate * sqrt(p (1 - p) / size), which is what Wilson's interval is.
        size = mean * (1 - mean) / spread
        a, b, c = 1 + deviate**2 / size, -(2 * mean + deviate**2 / size), mean**2
        root = math.sqrt(max(b * b - 4 * a * c, 0.0))
        expected = (-b - root) / (2 * a), (-b + root) / (2 * a)
    assert interval(got) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("count", [2, 5, 59, 60, 300])
def test_clusters_that_are_all_right_have_the_binomial_interval(count: int) -> None:
    expected = tuple(binomtest(count, count).proportion_ci(0.95, method="wilson"))
    assert interval(one([1.0] * count)) == pytest.approx(expected)
    assert interval(one([0.0] * count)) == pytest.approx((1 - expected[1], 1 - expected[0]))


@pytest.mark.parametrize("count", [2, 20, 200])
def test_equal_values_between_the_bounds_could_be_others_at_either(count: int) -> None:
    low, high = interval(one([0.1] * count))
    other = binomtest(0, count).proportion_ci(0.95, method="wilson").high
    assert (low, high) == pytest.approx((0.1 - 0.1 * other, 0.1 + 0.9 * other))
    # Of equal differences in [-1, 1] likewise.
    assert interval(one([0.0] * count, bounds=(-1, 1))) == pytest.approx((-other, other))


def test_many_clusters_with_few_errors_have_the_formula() -> None:
    values = [0.0] * 10 + [1.0] * 90
    deviate = t.ppf(0.975, 99)
    assert interval(one(values)) == pytest.approx(wilson(0.9, 99, deviate))
    assert interval(one([1 - v for v in values])) == pytest.approx(wilson(0.1, 99, deviate))


# --- draws -------------------------------------------------------------------


def drawn_means(clusters: Sequence[Sequence[float]], resamples: int, source: str, seed: int = 0) -> np.ndarray:
    """Numpy's mean of the same draws, widened."""
    rng = random.Random(f"{seed} {source!a}")
    count = len(clusters)
    draws = np.array([rng.choices(range(count), k=count) for _ in range(resamples)])
    sums, sizes = np.array([sum(c) for c in clusters]), np.array([len(c) for c in clusters])
    mean = sums.sum() / sizes.sum()
    return mean + (sums[draws].sum(1) / sizes[draws].sum(1) - mean) * math.sqrt(count / (count - 1))


@given(st.integers(0, 10**6), st.integers(MANY_CLUSTERS, 90), st.sampled_from([0.5, 0.9, 0.95]))
@settings(max_examples=25)
def test_many_clusters_have_numpys_percentiles_of_the_same_draws(seed: int, count: int, confidence: float) -> None:
    rng = random.Random(seed)
    clusters = [[rng.choice([0.0, 0.5, 1.0]) for _ in range(rng.choice((1, 1, 2, 3)))] for _ in range(count)]
    made = Design(units(*map(len, clusters)), resamples=150, seed=seed, confidence=confidence)
    expected = np.quantile(drawn_means(clusters, 150, "s", seed), [(1 - confidence) / 2, (1 + confidence) / 2])
    values = [v for c in clusters for v in c]
    got = made.means(values)
    assert interval(got.overall) == pytest.approx(expected)
    assert got.sources["s"] == got.overall
    # Other bounds move the values, and nothing else.
    moved = made.means([4 * v - 1 for v in values], bounds=(-1, 3)).overall
    assert interval(moved) == pytest.approx(4 * expected - 1)


def test_over_sources_draws_are_averaged_and_small_sources_widened() -> None:
    rng = random.Random(5)
    groups, values, drawn = [], [], []
    for source, count in {"large": 90, "small": 12, "other": 40, "third": 40}.items():
        clusters = [[rng.choice([0.0, 0.5, 1.0]) for _ in range(rng.choice((1, 2)))] for _ in range(count)]
        groups += units(*map(len, clusters), source=source)
        values += [v for c in clusters for v in c]
        drawn.append(drawn_means(clusters, 300, source))
    # Without the small one: its 12 clusters would have most of the variance, and few degrees of freedom.
    got = Design(groups, resamples=300, apart={"small"}).means(values).overall
    expected = np.quantile((drawn[0] + drawn[2] + drawn[3]) / 3, [0.025, 0.975])
    assert interval(got) == pytest.approx(expected)


def test_groups_without_a_value_leave_the_draws_of_the_others_as_they_are() -> None:
    clusters = [[float(at % 3 > 0), float(at % 2)] for at in range(70)]
    made = Design(units(*[2] * 70), resamples=200)
    whole = made.means([v for c in clusters for v in c]).overall
    half = made.means([v for c in clusters for v in (c[0], None)]).overall
    assert (half.groups, half.clusters, whole.groups) == (70, 70, 140)
    expected = np.quantile(drawn_means([c[:1] for c in clusters], 200, "s"), [0.025, 0.975])
    assert interval(half) == pytest.approx(expected)
    assert half.value == np.mean([c[0] for c in clusters])
    # Again after another kind of value, whose groups are others.
    assert made.means([v for c in clusters for v in c]).overall == whole


def test_clusters_without_any_value_count_for_nothing() -> None:
    got = Design(units(2, 1, 1, 1)).means([1.0, None, 0.0, None, None]).overall
    assert (got.value, got.groups, got.clusters) == (0.5, 2, 2)
    assert got == Design(units(1, 1)).means([1.0, 0.0]).overall


def test_the_same_draws_whatever_the_order_and_whoever_stands_beside() -> None:
    rng = random.Random(3)
    groups = [Unit(source, f"c{rng.randrange(70)}", str(at)) for source in "ab" for at in range(150)]
    values = [rng.choice([0.0, 1.0]) for _ in groups]
    first = Design(groups, resamples=100).means(values)
    order = rng.sample(range(len(groups)), len(groups))
    again = Design([groups[at] for at in order], resamples=100).means([values[at] for at in order])
    assert again.overall == first.overall
    assert dict(again.sources) == dict(first.sources)
    alone = Design(groups[:150], resamples=100).means(values[:150])
    assert alone.sources["a"] == first.sources["a"]
    assert Design(groups, resamples=100, seed=1).means(values).overall != first.overall


def test_clusters_are_those_of_a_source_and_groups_without_stand_alone() -> None:
    same = [Unit("a", "c", "1"), Unit("a", "c", "2"), Unit("b", "c", "1"), Unit("a", "", "x"), Unit("a", None, "x")]
    got = Design(same).means([0.0, 1.0, 1.0, 1.0, 1.0])
    assert (got.sources["a"].clusters, got.sources["b"].clusters, got.overall.clusters) == (3, 1, 4)


def test_a_design_is_made_once() -> None:
    groups = units(1, 2)
    assert design(groups) is design(list(groups), apart=[])
    assert design(groups) is not design(groups, apart=["s"])
    assert design(groups) is not design(groups, seed=1)
    values = [0.0, 1.0, 1.0]
    assert design(groups, confidence=0.5).means(values) == Design(groups, confidence=0.5).means(values)


# --- over sources ------------------------------------------------------------


def test_overall_is_the_plain_mean_over_sources_that_have_a_value() -> None:
    groups = [*units(1, 1, 1, source="a"), *units(1, source="b"), *units(1, 1, source="c"), *units(1, source="d")]
    got = Design(groups, apart={"d"}).means([1.0, 1.0, 0.0, 0.0, None, None, 1.0])
    assert [estimate.value for estimate in got.sources.values()] == [pytest.approx(2 / 3), 0.0, None, 1.0]
    assert got.overall == Estimate(pytest.approx(1 / 3), None, 4, 4)  # b has a single cluster
    assert got.sources["c"] == Estimate(None, None, 0, 0)


def test_a_single_source_is_the_whole() -> None:
    rng = random.Random(4)
    for count in (2, 7, 59, 60, 200):
        for right in (0.5, 0.9, 1.0):
            values = [float(rng.random() < right) for _ in range(count)]
            got = Design(units(*[1] * count), resamples=50).means(values)
            assert got.overall == got.sources["s"]


def test_one_small_source_makes_few_clusters_of_many() -> None:
    rng = random.Random(6)
    groups = [*units(*[1] * 400, source="large"), *units(*[1] * 6, source="small")]
    values = [float(rng.random() < 0.7) for _ in range(400)] + [1.0, 0.0, 1.0, 0.0, 1.0, 1.0]
    low, high = interval(Design(groups).means(values).overall)
    # Nearly all of the variance, and of the width, is that of the small one, with five degrees of freedom.
    error = math.sqrt((2 / 9) * 6 / 5 / 6) / 2
    assert high - low == pytest.approx(2 * t.ppf(0.975, 5) * error, rel=0.2)
    assert high - low > 1.1 * 2 * 1.96 * error


def test_a_small_source_without_an_error_does_not_make_the_whole_sure() -> None:
    groups = [*units(*[1] * 400, source="large"), *units(*[1] * 10, source="small")]
    values = [float(at % 10 > 0) for at in range(400)] + [1.0] * 10
    got = Design(groups).means(values)
    small = interval(got.sources["small"])
    low, high = interval(got.overall)
    assert got.overall.value == pytest.approx(0.95)
    assert low < 0.95 - (1 - small[0]) / 2
    assert high < 0.97
    # Where no source has an error, the whole is as sure as its sources are together.
    low, high = interval(Design(groups).means([1.0] * 410).overall)
    large = binomtest(400, 400).proportion_ci(0.95, method="wilson").low
    assert (low, high) == pytest.approx((1 - math.hypot(1 - small[0], 1 - large) / 2, 1))


@given(st.lists(CLUSTERS, min_size=1, max_size=4))
@settings(max_examples=40)
def test_every_interval_holds_its_value_and_stays_in_the_bounds(sources: list[list[list[float]]]) -> None:
    groups = [unit for at, clusters in enumerate(sources) for unit in units(*map(len, clusters), source=str(at))]
    values = [v for clusters in sources for c in clusters for v in c]
    got = Design(groups, resamples=50).means(values)
    for estimate in (*got.sources.values(), got.overall):
        low, high = interval(estimate)
        assert estimate.value is not None
        assert 0 <= low <= estimate.value + 1e-9
        assert estimate.value - 1e-9 <= high <= 1
        assert low < high
    mirrored = interval(Design(groups, resamples=50).means([1 - v for v in values]).overall)
    low, high = interval(got.overall)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-9)


# --- edges -------------------------------------------------------------------


def test_no_units() -> None:
    assert Design([]).means([]).overall == Estimate(None, None, 0, 0)


def test_one_cluster_has_no_interval() -> None:
    assert Design(units(3)).means([1.0, 0.0, 1.0]).overall == Estimate(pytest.approx(2 / 3), None, 3, 1)


def test_no_resamples_no_interval() -> None:
    assert Design(units(1, 1), resamples=0).means([1.0, 0.0]).overall == Estimate(0.5, None, 2, 2)


def test_bad_arguments_are_named() -> None:
    for confidence in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="confidence"):
            Design([], confidence=confidence)
    with pytest.raises(ValueError, match="resamples"):
        Design([], resamples=-1)
    with pytest.raises(ValueError, match="2 values for 1 units"):
        Design(units(1)).means([0.0, 0.0])
    with pytest.raises(ValueError, match="bounds"):
        Design([]).means([], bounds=(1, 1))
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"values\[1\]: expected a number from 0.0 to 1.0"):
            Design(units(1, 1)).means([0.0, bad])
    assert one([0.1 + 0.2, 1 + 1e-12]).value == pytest.approx(0.65)  # rounding is no fault


# --- coverage ----------------------------------------------------------------


def right_or_wrong(rng: np.random.Generator, mean: float, tasks: np.ndarray) -> np.ndarray:
    """Groups of two rollouts: those of one task share a chance of being right."""
    chances = rng.beta(10 * mean, 10 * (1 - mean), tasks.max() + 1)
    return (rng.random(len(tasks)) < chances[tasks]).astype(float)


def share_of_pairs(rng: np.random.Generator, mean: float, tasks: np.ndarray) -> np.ndarray:
    """Groups of four rollouts, one of them right: it is scored above each of the others, or not."""
    shift = norm.ppf(mean) * math.sqrt(2 + 0.16) + 0.4 * rng.standard_normal(tasks.max() + 1)
    best = shift[tasks] + rng.standard_normal(len(tasks))
    return (best[:, None] > rng.standard_normal((len(tasks), 3))).mean(1)


@pytest.mark.slow
@pytest.mark.parametrize("make", [right_or_wrong, share_of_pairs])
@pytest.mark.parametrize(
    ("sources", "mean", "least", "most"),
    [
        ((10,), 0.75, 0.93, 0.99),
        ((20,), 0.9, 0.92, 0.99),
        ((40,), 0.6, 0.93, 0.98),
        ((100,), 0.6, 0.93, 0.97),
        ((100,), 0.9, 0.93, 0.97),
        ((200,), 0.75, 0.93, 0.97),
        ((400, 10), 0.9, 0.94, 0.995),
        ((150, 30, 20, 20, 12, 12, 10, 8), 0.75, 0.93, 0.97),
        ((150, 30, 20, 20, 12, 12, 10, 8), 0.9, 0.93, 0.97),
    ],
)
def test_intervals_hold_the_truth_as_often_as_they_say(
    make: Callable[[np.random.Generator, float, np.ndarray], np.ndarray],
    sources: tuple[int, ...],
    mean: float,
    least: float,
    most: float,
) -> None:
    rng = np.random.default_rng([*sources, round(100 * mean)])
    runs, hits = 500, 0
    for run in range(runs):
        groups: list[Unit] = []
        values: list[float] = []
        for source, clusters in enumerate(sources):
            sizes = rng.choice((1, 1, 2, 3), clusters)
            groups += units(*sizes, source=str(source))
            values += make(rng, mean, np.repeat(np.arange(clusters), sizes)).tolist()
        low, high = interval(Design(groups, resamples=200, seed=run).means(values).overall)
        hits += low <= mean <= high
    # What is expected, less or more by what chance does to that many data sets in 1 of 1000 cases.
    assert hits / runs >= least - 3.1 * math.sqrt(least * (1 - least) / runs)
    assert hits / runs <= most + 3.1 * math.sqrt(most * (1 - most) / runs)
