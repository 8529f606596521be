"""What quality costs: value over tokens or USD on a log axis, and the best that each price buys."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from matplotlib.figure import Figure

from benchmarks.number_text import plain
from benchmarks.plot_frame import (
    NORMAL,
    NOTHING,
    SMALL,
    WIDTH,
    Box,
    Interval,
    axes_in,
    canvas,
    colour,
    drawn,
    finite,
    fitted,
    name_axes,
    nothing,
    ordered,
    span,
    text_width,
    write,
)
from benchmarks.plot_svg import GROUND, INK, MUTED, RULE

_LEFT, _RIGHT, _TOP, _BODY = 56.0, 24.0, 40.0, 360.0
_FREE = 46.0
"""Width of the strip for what costs nothing, which has no place on a log axis."""
_BEARABLE = 50.0
"""Area of a name that other things may cover: that of the lines of two intervals."""
_GAPS = (10.0, 20.0, 32.0, 50.0, 70.0)
"""How far names may stand from their points."""
_SUFFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True, slots=True)
class Priced:
    """One way to do it: what it costs and what that buys."""

    label: str
    cost: float
    value: float
    interval: Interval | None = None


def best_buys(points: Sequence[Priced]) -> list[int]:
    """Places of the points of the frontier, cheapest first: none that costs as little has as high a value.

    Of points that are equal in both the first counts.
    """
    found: list[int] = []
    for place in sorted(range(len(points)), key=lambda place: (points[place].cost, -points[place].value, place)):
        if not found or points[place].value > points[found[-1]].value:
            found.append(place)
    return found


@drawn
def frontier(points: Sequence[Priced], cost_label: str, value_label: str) -> Figure:
    """Points over what they cost, on a log axis; those of the frontier are filled, joined and named first.

    Names stand where there is room, with a line to their point where that is not beside it; where there is none a
    name is left out, never one of the frontier. What costs nothing stands in a strip of its own on the left.

    Raises:
        ValueError: a cost is negative; a value is not finite.
    """
    for point in points:
        finite(f"frontier: {point.label}", point.cost, point.value)
        ordered(f"frontier: {point.label}", point.interval)
        if point.cost < 0:
            raise ValueError(f"frontier: {point.label}: expected a cost of 0 or more, got {point.cost!r}")
    if not points:
        return nothing(NOTHING)
    best = best_buys(points)
    figure = canvas(_TOP + _BODY + 50)
    priced = [math.log10(point.cost) for point in points if point.cost > 0]
    left = _LEFT + (_FREE if len(priced) < len(points) else 0)
    box = (left, _TOP, WIDTH - _RIGHT, _TOP + _BODY)
    axes = axes_in(figure, *box)
    x_low, x_high = _cost_limits(priced)
    y_low, y_high = span([end for point in points for end in (point.value, *(point.interval or ()))], margin=0.08)
    axes.set_xlim(x_low, x_high)
    axes.set_ylim(y_low, y_high)
    ticks = _cost_ticks(x_low, x_high) if priced else []
    axes.set_xticks([math.log10(tick) for tick in ticks], [_cost_text(tick) for tick in ticks])
    axes.grid(color=RULE, linewidth=0.8)
    if left > _LEFT:
        _draw_strip(figure, axes, box, has_scale=bool(priced))

    def pixels(point: Priced) -> tuple[float, float]:
        share = (point.value - y_low) / (y_high - y_low)
        y = box[3] - share * (box[3] - box[1])
        if point.cost == 0:
            return _LEFT + _FREE / 2, y
        return box[0] + (math.log10(point.cost) - x_low) / (x_high - x_low) * (box[2] - box[0]), y

    places = [pixels(point) for point in points]
    sheet = axes_in(figure, 0, 0, WIDTH, _TOP + _BODY + 50)
    sheet.set_axis_off()
    sheet.set_xlim(0, WIDTH)
    sheet.set_ylim(_TOP + _BODY + 50, 0)
    scale = (box[3] - box[1]) / (y_high - y_low)
    intervals = [
        [y - (end - point.value) * scale for end in point.interval or ()]
        for point, (_, y) in zip(points, places, strict=True)
    ]
    _draw(sheet, places, intervals, best)
    _name(figure, sheet, points, places, intervals, best)
    name_axes(figure, (_LEFT, _TOP, box[2], box[3]), cost_label, value_label)
    return figure


def _draw_strip(figure: Figure, axes: Any, box: Box, *, has_scale: bool) -> None:
    axes.tick_params(axis="y", pad=5 + _FREE)
    strip = axes_in(figure, _LEFT, box[1], box[0] - 8, box[3])
    strip.set_facecolor(RULE)
    strip.patch.set_alpha(0.35)
    strip.set_xticks([])
    strip.set_yticks([])
    write(figure, _LEFT + (_FREE - 8) / 2, box[3] + 11, "0", ha="center", color=MUTED, fontsize=SMALL)
    if not has_scale:
        axes.set_xticks([])


def _draw(
    sheet: Any,
    places: Sequence[tuple[float, float]],
    intervals: Sequence[Sequence[float]],
    best: Sequence[int],
) -> None:
    for place, ((x, _), ends) in enumerate(zip(places, intervals, strict=True)):
        if ends:
            tint = colour(1) if place in best else MUTED
            sheet.plot((x, x), ends, color=tint, linewidth=1.4, alpha=0.55, solid_capstyle="round")
    sheet.plot([places[at][0] for at in best], [places[at][1] for at in best], color=colour(1), linewidth=1.6)
    for place, (x, y) in enumerate(places):
        on_frontier = place in best
        tint = colour(1) if on_frontier else MUTED
        sheet.plot(
            [x],
            [y],
            marker="o",
            markersize=8 if on_frontier else 6,
            color=tint,
            linestyle="none",
            markerfacecolor=tint if on_frontier else GROUND,
        )


def _name(
    figure: Figure,
    sheet: Any,
    points: Sequence[Priced],
    places: Sequence[tuple[float, float]],
    intervals: Sequence[Sequence[float]],
    best: Sequence[int],
) -> None:
    taken: list[Box] = [(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    taken += [(x - 1, min(ends), x + 1, max(ends)) for (x, _), ends in zip(places, intervals, strict=True) if ends]
    for start, end in pairwise(best):
        taken += _along(places[start], places[end])
    for place in (*best, *(place for place in range(len(points)) if place not in best)):
        on_frontier = place in best
        size = NORMAL if on_frontier else SMALL
        text = fitted(points[place].label, 190, size)
        found = _room(places[place], text_width(text, size), taken, must=on_frontier)
        if found is None:
            continue
        taken.append(found)
        x, y = places[place]
        left, top, right, bottom = found
        near = min(max(x, left), right), min(max(y, top + 4), bottom - 4)
        if math.dist(near, (x, y)) > 16:
            sheet.plot((x, near[0]), (y, near[1]), color=MUTED, linewidth=0.7, zorder=1)
        write(figure, left, (top + bottom) / 2, text, fontsize=size, color=INK if on_frontier else MUTED)


def _room(at: tuple[float, float], width: float, taken: Sequence[Box], *, must: bool) -> Box | None:
    """Where a name of this width is near its point and covers little; None where there is no such place.

    Args:
        at: the point.
        width: of the name.
        taken: what it should not cover.
        must: whether it is worth a place that is far off or covers much.
    """
    x, y = at
    boxes: list[tuple[float, Box]] = []
    for gap in _GAPS if must else _GAPS[:3]:
        for left, middle in (
            (x + gap, y), (x - gap - width, y), (x - width / 2, y - gap - 4), (x - width / 2, y + gap + 4),
            (x + gap * 0.7, y - gap), (x + gap * 0.7, y + gap), (x - gap * 0.7 - width, y - gap),
            (x - gap * 0.7 - width, y + gap),
        ):  # fmt: skip
            left = min(max(left, _LEFT), WIDTH - width)
            if middle - 8 >= _TOP - 6 and middle + 8 <= _TOP + _BODY:
                boxes.append((gap, (left, middle - 8, left + width, middle + 8)))
    clashes = [sum(_overlap(box, other) for other in taken) for _, box in boxes]
    best = min(range(len(boxes)), key=lambda place: clashes[place] + boxes[place][0])
    return boxes[best][1] if must or clashes[best] <= _BEARABLE else None


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _along(start: tuple[float, float], end: tuple[float, float]) -> list[Box]:
    """Small boxes that cover a line."""
    steps = max(1, int(math.dist(start, end) / 6))
    middles = [tuple(a + (b - a) * step / steps for a, b in zip(start, end, strict=True)) for step in range(1, steps)]
    return [(x - 3, y - 3, x + 3, y + 3) for x, y in middles]


def _cost_limits(logs: Sequence[float]) -> Interval:
    low, high = (min(logs), max(logs)) if logs else (0.0, 1.0)
    room = max((high - low) * 0.08, 0.15)
    return low - room, high + room


def _cost_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between these logarithms, with 2 and 5 times them where there are few."""
    steps: tuple[float, ...] = (1, 1.5, 2, 3, 5, 7) if high - low < 0.8 else (1, 2, 5) if high - low < 2.5 else (1,)
    exponents = range(math.floor(low), math.ceil(high) + 1, max(1, round((high - low) / 7)))
    pairs = [(step, exponent) for exponent in exponents for step in steps]
    return [step * 10.0**exponent for step, exponent in pairs if low <= math.log10(step) + exponent <= high]


def _cost_text(cost: float) -> str:
    """`0.002`, `20`, `5k`, `1M`."""
    for size, suffix in _SUFFIXES:
        if cost >= size * (1 - 1e-9):
            return plain(cost / size) + suffix
    return plain(cost) if cost >= 1e-6 else f"{cost:.0e}"
