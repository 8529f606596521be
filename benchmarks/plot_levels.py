"""Values at a few levels that stand side by side whatever lies between them, such as each twice the one before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

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
    marker,
    name_axes,
    nothing,
    ordered,
    span,
    text_width,
    write,
)
from benchmarks.plot_svg import MUTED, RULE

_LEFT, _TOP, _BODY = 56.0, 36.0, 250.0
_NAME = 150.0
"""Greatest width of the name of what they are compared with."""


@dataclass(frozen=True, slots=True)
class Level:
    """One of them."""

    label: str
    note: str
    """What is to be said of it, in a word or two; below the label, may be empty."""
    value: float | None
    interval: Interval | None = None


@drawn
def levels(levels: Sequence[Level], x_label: str, y_label: str, *, beside: Level | None = None) -> Figure:
    """A point and its interval for each level, joined by a line, over equal distances.

    Args:
        levels: from left to right; one without a value keeps its place.
        x_label: what the levels are.
        y_label: what the values are.
        beside: what they are compared with: a broken grey line, its interval as a band, its label on the right.

    Raises:
        ValueError: a number is NaN or infinite, or an interval is the wrong way round.
    """
    for one in (*levels, *([beside] if beside else [])):
        finite(f"levels: {one.label}", one.value)
        ordered(f"levels: {one.label}", one.interval)
    known = [(place, one.value, one.interval) for place, one in enumerate(levels) if one.value is not None]
    if not known:
        return nothing(NOTHING)
    name = fitted(beside.label, _NAME, SMALL) if beside and beside.value is not None else ""
    box = (_LEFT, _TOP, WIDTH - max(24.0, text_width(name, SMALL) + 12), _TOP + _BODY)
    figure = canvas(box[3] + 68)
    axes = axes_in(figure, *box)
    ends = [end for _, value, interval in known for end in (value, *(interval or ()))]
    if beside and beside.value is not None:
        ends += [beside.value, *(beside.interval or ())]
    low, high = span(ends, margin=0.08)
    axes.set_ylim(low, high)
    axes.set_xlim(-0.5, len(levels) - 0.5)
    axes.set_xticks([])
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    if beside and beside.value is not None:
        if beside.interval:
            axes.axhspan(*beside.interval, color=MUTED, alpha=0.16, linewidth=0)
        axes.axhline(beside.value, color=MUTED, linewidth=1.4, linestyle=(0, (4, 3)))
        y = box[3] - _BODY * (beside.value - low) / (high - low)
        write(figure, box[2] + 8, y, name, color=MUTED, fontsize=SMALL)
    tint = colour(0)
    for place, _, interval in known:
        if interval:
            axes.plot((place, place), interval, color=tint, linewidth=1.8, solid_capstyle="round")
    axes.plot(
        [place for place, _, _ in known],
        [value for _, value, _ in known],
        color=tint,
        marker=marker(0),
        markersize=7,
        linewidth=1.2,
        clip_on=False,
    )
    width = (box[2] - box[0]) / len(levels)
    for place, one in enumerate(levels):
        middle = box[0] + width * (place + 0.5)
        write(figure, middle, box[3] + 14, fitted(one.label, width - 6), ha="center")
        note = fitted(one.note, width - 6, SMALL)
        write(figure, middle, box[3] + 31, note, ha="center", color=MUTED, fontsize=SMALL)
    name_axes(figure, (box[0], box[1], box[2], box[3] + 18), x_label, y_label)
    return figure
