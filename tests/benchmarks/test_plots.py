"""Figures as SVG: what they show, what they refuse, and that no label can do anything."""

from __future__ import annotations

import math
import random
import re
import sys
import warnings
from collections.abc import Callable
from functools import cache
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.number_text import fixed, plain
from benchmarks.plot_frame import fitted, text_width
from benchmarks.plots import (
    Bin,
    ForestRow,
    Level,
    Panel,
    Point,
    Priced,
    Reference,
    Series,
    best_buys,
    calibration,
    forest,
    frontier,
    levels,
    lines,
    panels,
    positions,
)

HOSTILE = "$a_b$ & <script>alert(1)</script> 中文 \x00 \ud800 \u202e | `x` \\frac{1}{2}"
SHOWN = "$a_b$ & <script>alert(1)</script> 中文 [U+0000] [U+D800] [U+202E] | `x` \\frac{1}{2}"


def parsed(svg: str) -> ElementTree.Element:
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    return root


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in parsed(svg).iter("{http://www.w3.org/2000/svg}text")]


def place_of(svg: str, text: str) -> tuple[float, float]:
    """Where a text of the drawing stands."""
    (element,) = [one for one in parsed(svg).iter("{http://www.w3.org/2000/svg}text") if one.text == text]
    return float(element.attrib["x"]), float(element.attrib["y"])


LEVEL = Level("truth", "", 0.2, (0.1, 0.3))
BESIDE = Series("truth", [Point(1, 0.2), Point(2, 0.4)])


@cache
def every_kind(label: str) -> dict[str, str]:
    return {
        "forest": forest([ForestRow(label, 0.5, (0.4, 0.6), group=label)], label, references=[Reference(0.5, label)]),
        "positions": positions(
            [Series(label, [Point(1, 0.1, (0.0, 0.2))]), Series("b", [Point(1, 0.3)])], label, label
        ),
        "calibration": calibration([Bin(0, 0.5, 0.2, (0.1, 0.3), 3), Bin(0.5, 1, None, None, 0)], label, label),
        "frontier": frontier([Priced(label, 10, 0.5), Priced("b", 0, 0.4)], label, label),
        "lines": lines([Series(label, [Point(1, 0.1), Point(2, 0.2)]), Series("b", [Point(1, 1.0)])], label, label),
        "levels": levels([Level(label, label, 0.1, (0.0, 0.2)), Level("b", "", 0.3)], label, label, beside=LEVEL),
        "panels": panels(
            [
                Panel(label, label, [Series(label, [Point(1, 0.1, (0.0, 0.2)), Point(2, 0.3)])], BESIDE),
                Panel("b", "", [Series("b", [Point(1, 0.1)])]),
            ],
            label,
            columns=2,
        ),
    }


def test_all_are_720_wide_scale_and_need_nothing_else() -> None:
    drawings = every_kind("a")
    for name, svg in drawings.items():
        root = parsed(svg)
        assert root.attrib["width"] == "720", name
        assert root.attrib["viewBox"].startswith("0 0 720 "), name
        assert "a" in texts(svg), name
        addresses = set(re.findall(r"https?://[^\s\"]+", svg)) - {"http://www.w3.org/2000/svg"}
        assert addresses == set(), name
        tags = {str(one.tag).rpartition("}")[2] for one in root.iter()}
        assert tags <= {"svg", "style", "defs", "g", "path", "use", "text", "clipPath", "rect"}, name
        assert not any("style" in one.attrib for one in root.iter()), name
    # Figures of one page share neither ids nor what refers to them.
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in drawings.values()]
    assert sum(len(one) for one in ids) == len(set().union(*ids)) > 0
    for svg, own in zip(drawings.values(), ids, strict=True):
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg)) == own


@pytest.mark.slow
def test_equal_arguments_give_equal_text_and_pyplot_is_never_loaded() -> None:
    assert every_kind.__wrapped__("a") == every_kind("a")
    assert "matplotlib.pyplot" not in sys.modules


def test_settings_of_the_user_change_nothing_and_are_kept() -> None:
    import matplotlib

    before = forest([ForestRow("a", 0.5)], "x")
    with matplotlib.rc_context({"lines.linewidth": 9.0, "svg.fonttype": "path", "text.color": "red"}):
        assert forest([ForestRow("a", 0.5)], "x") == before
        assert matplotlib.rcParams["lines.linewidth"] == 9.0


def test_labels_are_text_whatever_they_hold() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, svg in every_kind(HOSTILE).items():
            assert "<script" not in svg, name
            whole = [text for text in texts(svg) if text == SHOWN or text.startswith("$a_b$ & <s")]
            assert whole, name


def test_every_colour_has_another_for_dark_screens() -> None:
    for svg in every_kind("a").values():
        root = parsed(svg)
        style = next(one.text or "" for one in root.iter("{http://www.w3.org/2000/svg}style"))
        for element in root.iter():
            for part in ("fill", "stroke"):
                if (used := element.attrib.get(part, "none")) != "none":
                    assert f'.plot [{part}="{used}"]' in style
            if element.tag.endswith("}text"):
                assert "fill" in element.attrib


def test_a_forest_has_a_line_for_each_row_and_its_figures() -> None:
    rows = [
        ForestRow("best", 0.75, (0.7, 0.8), group="judges", strong=True),
        ForestRow("other", 0.5, None, group="judges"),
        ForestRow("none", None, group="rules"),
    ]
    svg = forest(rows, "accuracy", references=[Reference(0.5, "chance"), Reference(0.52, "nearly chance")])
    shown = texts(svg)
    assert {"best", "0.75", "[0.70, 0.80]", "other", "0.50", "none", "–", "chance", "accuracy"} <= set(shown)
    assert shown.count("judges") == shown.count("rules") == 1
    heights = [place_of(svg, text)[1] for text in ("chance", "judges", "best", "other", "rules", "none")]
    assert heights == sorted(heights)
    # Names of lines that stand close to each other do not cover each other.
    assert place_of(svg, "nearly chance")[0] >= place_of(svg, "chance")[0] + text_width("chance", 11.5)
    assert "+0.030" in texts(forest([ForestRow("a", 0.03)], "x", signed=True, decimals=3))


@pytest.mark.slow
def test_a_forest_of_sixty_rows_grows_by_the_row() -> None:
    def height(count: int) -> float:
        rows = [ForestRow(str(place), place / 60, (0.0, 1.0)) for place in range(count)]
        return float(parsed(forest(rows, "x")).attrib["height"])

    assert height(60) - height(1) == pytest.approx(59 * 22)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: forest([], "x"),
        lambda: positions([], "x", "y"),
        lambda: positions([Series("a", [])], "x", "y"),
        lambda: lines([Series("a", [Point(1, None)])], "x", "y"),
        lambda: levels([Level("a", "", None)], "x", "y", beside=LEVEL),
        lambda: panels([], "x", columns=2),
        lambda: panels([Panel("a", "b", [Series("c", [Point(1, None)])])], "x", columns=3),
        lambda: calibration([], "x", "y"),
        lambda: calibration([Bin(0, 1, None, None, 0)], "x", "y"),
        lambda: frontier([], "x", "y"),
    ],
)
def test_nothing_to_show_is_said(draw: Callable[[], str]) -> None:
    assert texts(draw()) == ["There are no values to show."]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: forest([ForestRow("a", 0.5), ForestRow("b", 0.5)], "x"),
        lambda: forest([ForestRow("a", 0.0, (0.0, 0.0))], "x", references=[Reference(0.0)]),
        lambda: forest([ForestRow("a", None)], "x"),
        lambda: lines([Series("", [Point(0, 0.0)])], "x", "y"),
        lambda: positions([Series("a", [Point(1, 0.0), Point(2, None)])], "x", "y"),
        lambda: levels([Level("a", "", 0.0, (0.0, 0.0)), Level("b", "", None)], "x", "y"),
        lambda: panels([Panel("a", "", [Series("b", [Point(1, 0.0)])])], "x", columns=2),
        lambda: calibration([Bin(0.5, 0.5, 1.0, None, 1)], "x", "y"),
        lambda: frontier([Priced("a", 0, 0.5), Priced("b", 0, 0.5)], "x", "y"),
        lambda: frontier([Priced("a", 100, 0.5), Priced("b", 100, 0.5)], "x", "y"),
        lambda: frontier([Priced("a", 1e-9, -5.0), Priced("b", 1e12, 5.0)], "x", "y"),
    ],
)
def test_one_point_and_all_equal_can_be_drawn(draw: Callable[[], str]) -> None:
    svg = draw()
    assert "There are no" not in svg
    assert "nan" not in svg


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused(bad: float) -> None:
    draws: list[Callable[[], str]] = [
        lambda: forest([ForestRow("a", bad)], "x"),
        lambda: forest([ForestRow("a", 0.5, (0.1, bad))], "x"),
        lambda: forest([ForestRow("a", 0.5)], "x", references=[Reference(bad)]),
        lambda: positions([Series("a", [Point(bad, 0.1)])], "x", "y"),
        lambda: lines([Series("a", [Point(1, 0.1, (bad, 1.0))])], "x", "y"),
        lambda: levels([Level("a", "", 0.1)], "x", "y", beside=Level("b", "", bad)),
        lambda: panels([Panel("a", "", [], Series("b", [Point(1, bad)]))], "x", columns=2),
        lambda: calibration([Bin(0, 1, bad, None, 1)], "x", "y"),
        lambda: frontier([Priced("a", bad, 0.5)], "x", "y"),
    ]
    for draw in draws:
        with pytest.raises(ValueError, match=r"expected finite numbers, got -?(nan|inf)"):
            draw()


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match=r"forest: a: expected an interval as \(low, high\), got \(0.6, 0.4\)"):
        forest([ForestRow("a", 0.5, (0.6, 0.4))], "x")
    with pytest.raises(ValueError, match=r"frontier: a: expected a cost of 0 or more, got -1"):
        frontier([Priced("a", -1, 0.5)], "x", "y")
    with pytest.raises(ValueError, match=r"calibration: expected low <= high"):
        calibration([Bin(1, 0, 0.5, None, 1)], "x", "y")


priced = st.builds(Priced, st.just("a"), st.integers(0, 9).map(float), st.integers(0, 9).map(float))


@given(st.lists(priced, max_size=12))
def test_the_frontier_is_what_nothing_beats(points: list[Priced]) -> None:
    def beats(one: Priced, other: Priced) -> bool:
        return (one.cost <= other.cost and one.value > other.value) or (
            one.cost < other.cost and one.value >= other.value
        )

    naive = {(point.cost, point.value) for point in points if not any(beats(other, point) for other in points)}
    found = [(points[place].cost, points[place].value) for place in best_buys(points)]
    assert set(found) == naive
    assert found == sorted(set(found))


def test_the_frontier_names_its_points_and_what_is_free_stands_left_of_all() -> None:
    costs = {"free": (0, 0.5), "cheap": (100, 0.6), "worse": (5_000, 0.55), "dear": (9_000, 0.7)}
    points = [Priced(label, cost, value) for label, (cost, value) in costs.items()]
    svg = frontier(points, "tokens", "accuracy")
    assert {"free", "cheap", "worse", "dear", "0", "100", "1k", "tokens", "accuracy"} <= set(texts(svg))
    assert place_of(svg, "0")[0] < place_of(svg, "100")[0] < place_of(svg, "1k")[0]


@pytest.mark.slow
@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6))
def test_names_of_the_frontier_do_not_cover_each_other(seed: int) -> None:
    draw = random.Random(f"names/{seed}")
    points = [Priced(f"judge {place}, k = {place % 4}", 10 ** draw.uniform(2, 5), draw.random()) for place in range(14)]
    best = {points[place].label for place in best_buys(points)}
    boxes = []
    for element in parsed(frontier(points, "tokens", "accuracy")).iter("{http://www.w3.org/2000/svg}text"):
        if (element.text or "").startswith("judge"):
            size = float(element.attrib["font-size"].removesuffix("px"))
            x, y = float(element.attrib["x"]), float(element.attrib["y"])
            boxes.append((x, y, text_width(element.text or "", size), element.text))
            assert x >= 0
            assert x + text_width(element.text or "", size) <= 720.5
    assert best <= {box[3] for box in boxes}
    for place, (x, y, width, _) in enumerate(boxes):
        for other_x, other_y, other_width, _ in boxes[:place]:
            wide = min(x + width, other_x + other_width) - max(x, other_x)
            assert wide <= 6 or abs(y - other_y) >= 9


def test_a_missing_step_leaves_a_gap_in_its_line() -> None:
    def strokes(points: list[Point]) -> int:
        svg = lines([Series("a", points)], "x", "y")
        return len(re.findall(r'stroke="#0068a3" stroke-width="1.8"', svg))

    assert strokes([Point(1, 0.1), Point(2, 0.2), Point(3, 0.3)]) == 1
    assert strokes([Point(1, 0.1), Point(2, None), Point(3, 0.3)]) == 2


def test_panels_stand_in_a_grid_and_share_their_colours() -> None:
    both = [Series("a", [Point(1, 0.1), Point(40, 0.3)]), Series("b", [Point(1, 0.2), Point(40, 0.2)])]
    names = ["first", "second", "third"]
    kinds = [both, both[1:], [Series("b", [])]]
    svg = panels(
        [Panel(name, f"{name} note", own, BESIDE) for name, own in zip(names, kinds, strict=True)], "x", columns=2
    )
    (x1, y1), (x2, y2), (x3, y3) = (place_of(svg, name) for name in names)
    assert x1 == x3 < x2
    assert y1 == y2 < y3
    assert place_of(svg, "first note")[1] > y1
    shown = texts(svg)
    assert [shown.count(name) for name in ("a", "b", "truth", "x", "no values")] == [1, 1, 1, 1, 1]
    strokes = [len(re.findall(f'stroke="{tint}" stroke-width="1.7"', svg)) for tint in ("#0068a3", "#b8450a")]
    assert strokes == [1, 2]
    # The line that they are compared with stands in each panel; once more in the legend.
    assert len(re.findall(r'stroke-dasharray="[^"]+"', svg)) == 4


def test_levels_stand_at_equal_distances_with_their_notes_below() -> None:
    steps = [Level("0.25", "equal", 0.9), Level("0.5", "not known", None), Level("4", "lower", 0.1, (0.0, 0.2))]
    svg = levels(steps, "noise", "truth", beside=Level("trained with truth", "", 0.9))
    (first, _), (second, _), (third, top) = (place_of(svg, text) for text in ("0.25", "0.5", "4"))
    assert third - second == pytest.approx(second - first, abs=0.02)
    assert place_of(svg, "lower")[1] > top
    assert {"equal", "not known", "trained with truth", "noise", "truth"} <= set(texts(svg))
    assert "trained with truth" not in texts(
        levels(steps, "noise", "truth", beside=Level("trained with truth", "", None))
    )


def test_long_names_are_cut_in_the_middle_and_fit() -> None:
    name = "anthropic/claude with a name that goes on and on, k = 4"
    cut = fitted(name, 200)
    assert cut.startswith("anthropic")
    assert cut.endswith("k = 4")
    assert text_width(cut) <= 200
    assert fitted("short", 200) == "short"
    assert fitted("two\n lines", 200) == "two lines"


@given(st.text(max_size=80), st.floats(5, 300))
def test_fitted_text_fits_or_is_an_ellipsis(text: str, width: float) -> None:
    cut = fitted(text, width)
    assert cut == "…" or text_width(cut) <= width


def test_numbers_have_a_real_minus_and_no_negative_zero() -> None:
    assert [fixed(-0.204, 2), fixed(-0.001, 2), fixed(0.5, 1)] == ["−0.20", "0.00", "0.5"]
    assert [fixed(0.03, 2, signed=True), fixed(-0.001, 2, signed=True)] == ["+0.03", "+0.00"]
    assert [plain(0.1 + 0.2), plain(-2.0), plain(1200.0)] == ["0.3", "−2", "1200"]
