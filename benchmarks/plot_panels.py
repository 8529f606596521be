"""Many small figures of one kind beside each other, each with what it is compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.plot_frame import (
    NOTHING,
    SMALL,
    WIDTH,
    Interval,
    axes_in,
    canvas,
    colour,
    drawn,
    finite,
    fitted,
    legend,
    legend_height,
    marker,
    nothing,
    ordered,
    span,
    write,
)
from benchmarks.plot_series import Point, Series, unbroken
from benchmarks.plot_svg import INK, MUTED, RULE

_LEFT, _GAP = 34.0, 14.0
"""For the numbers of the y axis; between one panel and the numbers of the next."""
_HEAD, _BODY, _FOOT = 44.0, 118.0, 34.0
"""Title and note, axes, numbers of the x axis."""
_BOLD = 1.15
"""How much wider than others bold letters are."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One of them."""

    title: str
    note: str
    """Below the title; may be empty."""
    series: Sequence[Series]
    """Those of one name have one colour in all panels."""
    beside: Series | None = None
    """What they are compared with: a broken grey line, without intervals."""
    limits: Interval | None = None
    """Of the y axis; None: around the values."""


@drawn
def panels(panels: Sequence[Panel], x_label: str, *, columns: int) -> Figure:
    """Lines over steps in a grid, row by row, intervals as bands; x is the same in all of them, y each panel's own.

    A point without a value leaves a gap in its line; a panel without values says so.

    Args:
        panels: in order.
        x_label: stands once, below the last row.
        columns: of the grid, two or three.

    Raises:
        ValueError: a number is NaN or infinite, or an interval or limits are the wrong way round.
    """
    for panel in panels:
        _require_finite(panel)
    xs = [point.x for panel in panels for series in _all_of(panel) for point in series.points if point.y is not None]
    if not xs:
        return nothing(NOTHING)
    names = list(dict.fromkeys(series.name for panel in panels for series in panel.series))
    beside = list(dict.fromkeys(panel.beside.name for panel in panels if panel.beside))
    top = legend_height([*names, *beside], 0) + 4
    row_height = _HEAD + _BODY + _FOOT
    figure = canvas(top + row_height * math.ceil(len(panels) / columns) + 12)
    legend(figure, names, left=0, top=0, beside=beside)
    width = (WIDTH - _GAP * (columns - 1)) / columns
    room = (max(xs) - min(xs)) * 0.02 or 0.5
    for place, panel in enumerate(panels):
        left = (width + _GAP) * (place % columns)
        upper = top + row_height * (place // columns)
        write(figure, left, upper + 12, fitted(panel.title, width / _BOLD), fontweight="bold")
        write(figure, left, upper + 29, fitted(panel.note, width, SMALL), color=MUTED, fontsize=SMALL)
        axes = axes_in(figure, left + _LEFT, upper + _HEAD, left + width - 6, upper + _HEAD + _BODY)
        axes.set_xlim(min(xs) - room, max(xs) + room)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=(1, 2, 5, 10)))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 2.5, 5, 10)))
        axes.grid(axis="y", color=RULE, linewidth=0.8)
        _draw_panel(axes, panel, names)
    bottom = top + row_height * math.ceil(len(panels) / columns)
    write(figure, WIDTH - 6, bottom + 2, fitted(x_label, WIDTH), ha="right", color=MUTED, fontsize=SMALL)
    return figure


def _all_of(panel: Panel) -> list[Series]:
    return [*panel.series, *([panel.beside] if panel.beside else [])]


def _require_finite(panel: Panel) -> None:
    ordered(f"panels: {panel.title}", panel.limits)
    for series in _all_of(panel):
        for point in series.points:
            finite(f"panels: {panel.title}: {series.name}", point.x, point.y)
            ordered(f"panels: {panel.title}: {series.name}", point.interval)


def _draw_panel(axes: Any, panel: Panel, names: Sequence[str]) -> None:
    known = [point for series in _all_of(panel) for point in series.points if point.y is not None]
    ends = [end for point in known for end in (point.y, *(point.interval or ())) if end is not None]
    axes.set_ylim(*(panel.limits or span(ends, margin=0.08)))
    if not any(point.y is not None for series in panel.series for point in series.points):
        axes.text(
            0.5, 0.5, "no values", ha="center", va="center", fontsize=SMALL, color=MUTED, transform=axes.transAxes
        )
    if panel.beside:
        for run in unbroken(panel.beside):
            axes.plot(
                [point.x for point in run],
                [point.y for point in run],
                color=MUTED,
                linewidth=1.4,
                linestyle=(0, (4, 3)),
            )
    for series in panel.series:
        for run in unbroken(series):
            _draw_run(axes, names.index(series.name), run)
    axes.axhline(axes.get_ylim()[0], color=INK, linewidth=0.8)


def _draw_run(axes: Any, place: int, points: Sequence[Point]) -> None:
    sure = [(point.x, *point.interval) for point in points if point.interval]
    if sure:
        x, low, high = zip(*sure, strict=True)
        axes.fill_between(x, low, high, color=colour(place), alpha=0.16, linewidth=0)
    axes.plot(
        [point.x for point in points],
        [point.y for point in points],
        color=colour(place),
        linewidth=1.7,
        marker=marker(place),
        markersize=3.6,
        markevery=max(1, len(points) // 6),
    )
