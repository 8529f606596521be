"""Forest plots: a value and its interval on each of many rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from matplotlib.figure import Figure

from benchmarks.number_text import fixed
from benchmarks.plot_frame import (
    NOTHING,
    SMALL,
    WIDTH,
    Interval,
    Reference,
    axes_in,
    canvas,
    colour,
    drawn,
    finite,
    fitted,
    nothing,
    ordered,
    span,
    text_width,
    write,
)
from benchmarks.plot_svg import GROUND, INK, MUTED, RULE

_ROW, _HEADING = 22, 32


@dataclass(frozen=True, slots=True)
class ForestRow:
    """One line of a forest plot."""

    label: str
    value: float | None
    interval: Interval | None = None
    group: str = ""
    """Rows that follow each other and share it stand under it as a heading."""
    strong: bool = False
    """Whether it stands out, as the row that the others are compared with."""


@drawn
def forest(
    rows: Sequence[ForestRow],
    axis: str,
    *,
    references: Sequence[Reference] = (),
    decimals: int = 2,
    signed: bool = False,
) -> Figure:
    """A point and its interval on each row, with label and figures as text; for up to about 60 rows.

    Args:
        rows: from top to bottom.
        axis: what the values are.
        references: values with a line through all rows, such as chance.
        decimals: of the figures.
        signed: whether positive figures have a plus, as differences do.
    """
    for row in rows:
        finite(f"forest: {row.label}", row.value)
        ordered(f"forest: {row.label}", row.interval)
    finite("forest: references", *(reference.value for reference in references))
    if not rows:
        return nothing(NOTHING)
    figures = [_figures(row, decimals, signed) for row in rows]
    left = min(max(text_width(fitted(row.label, 300)) for row in rows) + 14, 290.0)
    interval_width = max(text_width(interval, SMALL) for _, interval in figures)
    value_end = WIDTH - (interval_width + 10 if interval_width else 0)
    right = value_end - max(text_width(value) for value, _ in figures) - 22
    names = [reference for reference in references if reference.label]
    top = 34.0 if names else 8.0
    places, y = [], top
    for heading, members in groupby(rows, key=lambda row: row.group):
        y += _HEADING if heading else 4
        for _ in members:
            places.append(y + _ROW / 2)
            y += _ROW
    bottom = y + 6
    figure = canvas(bottom + 48)
    axes = axes_in(figure, left, top, right, bottom)
    known = [row.value for row in rows if row.value is not None]
    ends = [end for row in rows if row.interval and row.value is not None for end in row.interval]
    low, high = span([*known, *ends, *(reference.value for reference in references)])
    axes.set_xlim(low, high)
    axes.set_ylim(bottom, top)
    axes.set_yticks([])
    axes.grid(axis="x", color=RULE, linewidth=0.8)
    for reference in references:
        axes.axvline(reference.value, color=MUTED, linewidth=1.2, linestyle=(0, (2, 3)))
    _name_references(figure, names, low, high, left, right)
    for place, row in enumerate(rows):
        if row.group and (place == 0 or rows[place - 1].group != row.group):
            write(
                figure, 0, places[place] - 24, fitted(row.group, right), fontweight="bold", fontsize=SMALL, color=MUTED
            )
        _draw_row(figure, axes, row, figures[place], places[place], left, value_end)
    write(figure, right, bottom + 36, fitted(axis, right), ha="right", color=MUTED, fontsize=SMALL)
    return figure


def _figures(row: ForestRow, decimals: int, signed: bool) -> tuple[str, str]:
    """Value and interval as text."""
    if row.value is None:
        return "–", ""
    ends = [fixed(end, decimals, signed=signed) for end in row.interval] if row.interval else []
    return fixed(row.value, decimals, signed=signed), f"[{ends[0]}, {ends[1]}]" if ends else ""


def _draw_row(
    figure: Figure, axes: Any, row: ForestRow, figures: tuple[str, str], y: float, left: float, value_end: float
) -> None:
    weight = "bold" if row.strong else "normal"
    value, interval = figures
    write(figure, 0, y, fitted(row.label, left - 14), fontweight=weight, color=MUTED if row.value is None else INK)
    write(figure, value_end, y, value, ha="right", fontweight=weight)
    if interval:
        write(figure, WIDTH, y, interval, ha="right", color=MUTED, fontsize=SMALL)
    if row.value is None:
        return
    tint = colour(1 if row.strong else 0)
    if row.interval:
        axes.plot(row.interval, (y, y), color=tint, linewidth=2.2 if row.strong else 1.6, solid_capstyle="round")
    # Without an interval nothing says how sure it is: a hollow point.
    face = tint if row.interval else GROUND
    shape = "D" if row.strong else "o"
    axes.plot(
        [row.value],
        [y],
        marker=shape,
        markersize=6.5,
        color=tint,
        markerfacecolor=face,
        linestyle="none",
        clip_on=False,
    )


def _name_references(
    figure: Figure, references: Sequence[Reference], low: float, high: float, left: float, right: float
) -> None:
    """Names above their lines, from left to right, each where the one before leaves room."""
    end = 0.0
    for reference in sorted(references, key=lambda reference: reference.value):
        text = fitted(reference.label, 160, SMALL)
        width = text_width(text, SMALL)
        middle = left + (right - left) * (reference.value - low) / (high - low)
        start = min(max(middle - width / 2, end), WIDTH - width)
        write(figure, start, 14, text, color=MUTED, fontsize=SMALL)
        end = start + width + 10
