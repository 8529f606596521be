"""Values by slot, over steps, and by score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.plot_frame import (
    NOTHING,
    SMALL,
    WIDTH,
    Box,
    Interval,
    Reference,
    axes_in,
    canvas,
    colour,
    drawn,
    finite,
    fitted,
    legend,
    legend_height,
    marker,
    name_axes,
    nothing,
    ordered,
    span,
    text_width,
    write,
)
from benchmarks.plot_svg import MUTED, RULE

_LEFT, _RIGHT = 56.0, 24.0
_BODY = 270.0
_NAME = 150.0
"""Greatest width of the names of references, which stand on the right of the axes."""


@dataclass(frozen=True, slots=True)
class Point:
    """A value somewhere, and how sure it is."""

    x: float
    y: float | None
    interval: Interval | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one kind."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class Bin:
    """The rollouts with scores from `low` to `high`."""

    low: float
    high: float
    truth: float | None
    """Their mean truth; None where there are none."""
    interval: Interval | None
    count: int


@drawn
def positions(series: Sequence[Series], x_label: str, y_label: str, *, references: Sequence[Reference] = ()) -> Figure:
    """Values by slot (`x` is a whole number), each with its interval; several series stand beside each other."""
    figure, axes = _frame("positions", series, x_label, y_label, references, room=0.6)
    if axes is None:
        return figure
    slots = sorted({point.x for one in series for point in one.points if point.y is not None})
    axes.set_xticks(slots if len(slots) <= 24 else slots[:: math.ceil(len(slots) / 24)])
    step = min(0.14, 0.6 / len(series))
    for place, one in enumerate(series):
        shift = (place - (len(series) - 1) / 2) * step
        _draw_points(axes, place, [Point(point.x + shift, point.y, point.interval) for point in one.points])
    return figure


@drawn
def lines(series: Sequence[Series], x_label: str, y_label: str, *, references: Sequence[Reference] = ()) -> Figure:
    """Values over steps as lines, their intervals as bands. A point without a value leaves a gap in its line."""
    figure, axes = _frame("lines", series, x_label, y_label, references)
    if axes is None:
        return figure
    for place, one in enumerate(series):
        for run in unbroken(one):
            _draw_line(axes, place, run)
    return figure


def unbroken(series: Series) -> list[list[Point]]:
    """Its points in order of x, parted where one has no value."""
    points = sorted(series.points, key=lambda point: point.x)
    return [list(run) for has_value, run in groupby(points, key=lambda point: point.y is not None) if has_value]


@drawn
def calibration(bins: Sequence[Bin], x_label: str, y_label: str, *, references: Sequence[Reference] = ()) -> Figure:
    """Mean truth by score, with intervals; below it how many rollouts each bin has."""
    for one in bins:
        finite("calibration", one.low, one.high, one.truth)
        ordered("calibration", one.interval)
        if one.high < one.low or one.count < 0:
            raise ValueError(f"calibration: expected low <= high and a count of 0 or more, got {one!r}")
    known = [Point((one.low + one.high) / 2, one.truth, one.interval) for one in bins if one.truth is not None]
    if not known:
        return nothing(NOTHING)
    box = (_LEFT, 36.0, _right(references), 36.0 + _BODY)
    counts_box = (_LEFT, box[3] + 26.0, box[2], box[3] + 96.0)
    figure = canvas(counts_box[3] + 50)
    x_limits = span([end for one in bins for end in (one.low, one.high)], margin=0.02)
    axes, below = axes_in(figure, *box), axes_in(figure, *counts_box)
    for one in (axes, below):
        one.set_xlim(*x_limits)
    axes.tick_params(labelbottom=False)
    axes.set_ylim(*span([*_heights(known), *(reference.value for reference in references)]))
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    _draw_references(figure, axes, references, box)
    _draw_points(axes, 0, known, joined=True)
    below.set_yticks([])
    below.set_ylim(0, max(max(one.count for one in bins), 1) * 1.35)
    below.axhline(0, color=RULE, linewidth=0.8)
    for one in bins:
        middle, width = (one.low + one.high) / 2, one.high - one.low
        below.bar(middle, one.count, width * 0.9, color=colour(0), alpha=0.35, linewidth=0)
        pixels = (box[2] - box[0]) * width / (x_limits[1] - x_limits[0])
        if text_width(f"{one.count:,}", SMALL) < max(pixels, 14):
            below.text(middle, one.count, f"{one.count:,}", ha="center", va="bottom", fontsize=SMALL, color=MUTED)
    name_axes(figure, box, "", y_label)
    name_axes(figure, counts_box, x_label, "rollouts")
    return figure


def _frame(
    figure_name: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    references: Sequence[Reference],
    room: float | None = None,
) -> tuple[Figure, Any]:
    """A figure with names and legend around these series, and its axes; None for them where nothing has a value.

    `room` is that between the first and last x and the edges, in units of x; None for a little.
    """
    for one in series:
        for point in one.points:
            finite(f"{figure_name}: {one.name}", point.x, point.y)
            ordered(f"{figure_name}: {one.name}", point.interval)
    finite(f"{figure_name}: references", *(reference.value for reference in references))
    known = [point for one in series for point in one.points if point.y is not None]
    if not known:
        return nothing(NOTHING), None
    names = [one.name for one in series]
    top = legend_height(names, 0) + 36
    box = (_LEFT, top, _right(references), top + _BODY)
    figure = canvas(box[3] + 50)
    legend(figure, names, left=0, top=0)
    axes = axes_in(figure, *box)
    xs = [point.x for point in known]
    if room is None:
        room = (max(xs) - min(xs)) * 0.02 or 0.5
    axes.set_xlim(min(xs) - room, max(xs) + room)
    axes.set_ylim(*span([*_heights(known), *(reference.value for reference in references)], margin=0.08))
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    if all(x == int(x) for x in xs):
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=(1, 2, 5, 10)))
    _draw_references(figure, axes, references, box)
    name_axes(figure, box, x_label, y_label)
    return figure, axes


def _heights(points: Sequence[Point]) -> list[float]:
    return [
        height
        for point in points
        if point.y is not None
        for height in (point.y, *(point.interval if point.interval else ()))
    ]


def _right(references: Sequence[Reference]) -> float:
    """Where axes end that leave room for these names."""
    names = [text_width(fitted(one.label, _NAME, SMALL), SMALL) + 8 for one in references if one.label]
    return WIDTH - max([_RIGHT, *names])


def _draw_references(figure: Figure, axes: Any, references: Sequence[Reference], box: Box) -> None:
    low, high = axes.get_ylim()
    lowest = math.inf
    for reference in sorted(references, key=lambda reference: reference.value):
        axes.axhline(reference.value, color=MUTED, linewidth=1.2, linestyle=(0, (2, 3)))
        y = box[3] - (box[3] - box[1]) * (reference.value - low) / (high - low)
        lowest = min(y, lowest - 14)
        write(figure, box[2] + 8, lowest, fitted(reference.label, _NAME, SMALL), color=MUTED, fontsize=SMALL)


def _draw_points(axes: Any, place: int, points: Sequence[Point], *, joined: bool = False) -> None:
    tint = colour(place)
    known = [point for point in points if point.y is not None]
    for point in known:
        if point.interval:
            axes.plot((point.x, point.x), point.interval, color=tint, linewidth=1.6, solid_capstyle="round")
    axes.plot(
        [point.x for point in known],
        [point.y for point in known],
        color=tint,
        marker=marker(place),
        markersize=6.5,
        linewidth=1.2,
        linestyle="-" if joined else "none",
        clip_on=False,
    )


def _draw_line(axes: Any, place: int, points: Sequence[Point]) -> None:
    tint = colour(place)
    sure = [point for point in points if point.interval]
    if sure:
        axes.fill_between(
            [point.x for point in sure],
            [point.interval[0] for point in sure if point.interval],
            [point.interval[1] for point in sure if point.interval],
            color=tint,
            alpha=0.16,
            linewidth=0,
        )
    axes.plot(
        [point.x for point in points],
        [point.y for point in points],
        color=tint,
        linewidth=1.8,
        marker=marker(place),
        markersize=5,
        markevery=max(1, len(points) // 12),
    )
