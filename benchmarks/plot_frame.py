"""What all figures share: size, type, axes, legends, numbers as text.

Figures are never pyplot's, and matplotlib's settings are those below, whatever the user's own are.
"""

from __future__ import annotations

import math
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeAlias

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from benchmarks.number_text import plain
from benchmarks.plot_svg import INK, MUTED, SERIES, to_svg
from ruler.packing.neutralise import neutralise

Interval: TypeAlias = tuple[float, float]
Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels from the figure's upper left corner."""

WIDTH = 720
"""Of every figure, in CSS pixels; all lengths here are in these."""
SMALL, NORMAL = 11.5, 12.5
"""Sizes of type."""
NOTHING = "There are no values to show."

MARKERS = ("o", "s", "D", "^", "v", "P")
_SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "plot", "text.parse_math": False, "path.simplify": False}
_Arguments = ParamSpec("_Arguments")


@dataclass(frozen=True, slots=True)
class Reference:
    """A value that others are compared with, such as chance; a dotted line."""

    value: float
    label: str = ""


def drawn(draw: Callable[_Arguments, Figure]) -> Callable[_Arguments, str]:
    """The function with its figure turned into SVG; equal arguments give equal text."""

    @wraps(draw)
    def draw_svg(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> str:
        with matplotlib.rc_context(), warnings.catch_warnings():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(_SETTINGS)
            # matplotlib's own font lacks many scripts; the reader's has them.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            return to_svg(draw(*args, **kwargs))

    return draw_svg


def canvas(height: float) -> Figure:
    """An empty figure of this height."""
    return Figure(figsize=(WIDTH / 72, height / 72), dpi=72, facecolor="none")


def axes_in(figure: Figure, left: float, top: float, right: float, bottom: float) -> Any:
    """Axes in the box between these distances from the figure's left and upper edge: no frame, no grid, quiet ticks."""
    height = figure.get_figheight() * 72
    axes = figure.add_axes((left / WIDTH, 1 - bottom / height, (right - left) / WIDTH, (bottom - top) / height))
    axes.set_facecolor("none")
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0, pad=5, labelsize=SMALL, labelcolor=MUTED)
    axes.set_axisbelow(True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=(1, 2, 5, 10)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    return axes


def write(figure: Figure, x: float, y: float, text: str, **options: Any) -> None:
    """Puts one line of text at this distance from the left and upper edge; `y` is the middle of its height."""
    height = figure.get_figheight() * 72
    settings = {"va": "center_baseline", "fontsize": NORMAL, "color": INK, **options}
    figure.text(x / WIDTH, 1 - y / height, line_of(text), **settings)


def name_axes(figure: Figure, box: Box, x_label: str, y_label: str) -> None:
    """Names the axes in a box (left, top, right, bottom): below its right end, and level above its upper left corner.

    Upright names would have to be read with the head on one side.
    """
    left, top, right, bottom = box
    write(figure, right, bottom + 36, fitted(x_label, right - left), ha="right", color=MUTED, fontsize=SMALL)
    write(figure, left, top - 16, fitted(y_label, right - left), color=MUTED, fontsize=SMALL)


def legend(figure: Figure, names: Sequence[str], *, left: float, top: float, beside: Sequence[str] = ()) -> None:
    """Writes the names beside their colours and markers, in the room that `legend_height` says.

    `beside` are those of broken grey lines; they come last, and `legend_height` has to know them, too.
    """
    if len(names) + len(beside) < 2:
        return
    height = figure.get_figheight() * 72
    for place, (x, row) in enumerate(_legend_places([*names, *beside], left)):
        y = top + 20 * row + 10
        is_series = place < len(names)
        mark = Line2D(
            [x / WIDTH, (x + 18) / WIDTH],
            [1 - y / height] * 2,
            color=colour(place) if is_series else MUTED,
            linewidth=1.8,
            linestyle="-" if is_series else (0, (4, 3)),
            transform=None,
        )
        mark.set_transform(figure.transFigure)
        figure.add_artist(mark)
        if is_series:
            dot = Line2D([(x + 9) / WIDTH], [1 - y / height], color=colour(place), marker=marker(place), markersize=6)
            dot.set_transform(figure.transFigure)
            figure.add_artist(dot)
        write(figure, x + 26, y, fitted((*names, *beside)[place], 300))


def legend_height(names: Sequence[str], left: float) -> float:
    """How much room `legend` takes; 0 for fewer than two names, which need none."""
    return 20.0 * (_legend_places(names, left)[-1][1] + 1) + 10 if len(names) > 1 else 0.0


def colour(place: int) -> str:
    """Of the series at this place."""
    return SERIES[place % len(SERIES)]


def marker(place: int) -> str:
    """Of the series at this place; from the seventh on in another colour than before."""
    return MARKERS[(place + place // len(SERIES)) % len(MARKERS)]


def line_of(text: str) -> str:
    """The text in one line, with what cannot be seen made visible."""
    return " ".join(neutralise(text)[0].split())


def fitted(text: str, width: float, size: float = NORMAL) -> str:
    """The text in one line, or its beginning and end around a `…` where it would be wider than this."""
    text = line_of(text)
    if text_width(text, size) <= width:
        return text
    # Names that differ do so at the end as often as at the beginning.
    kept = len(text)
    while kept > 1:
        kept -= 1
        tail = kept * 2 // 5
        cut = f"{text[: kept - tail].rstrip()}…{text[len(text) - tail :].lstrip()}"
        if text_width(cut, size) <= width:
            return cut
    return "…"


def text_width(text: str, size: float = NORMAL) -> float:
    """About how wide a line is, rather too much than too little: readers' fonts differ."""
    return sum(_em(char) for char in text) * size


def finite(what: str, *values: float | None) -> None:
    """Refuses what cannot be drawn; None is no value.

    Raises:
        ValueError: a value is NaN or infinite.
    """
    for value in values:
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{what}: expected finite numbers, got {value!r}")


def ordered(what: str, interval: Interval | None) -> None:
    """Refuses an interval that is not (low, high).

    Raises:
        ValueError: its ends are not finite, or the wrong way round.
    """
    if interval is not None:
        finite(what, *interval)
        if interval[0] > interval[1]:
            raise ValueError(f"{what}: expected an interval as (low, high), got {interval!r}")


def span(values: Sequence[float], *, margin: float = 0.05) -> Interval:
    """Limits of an axis around the values, with some room; (0, 1) where there are none."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    room = (high - low) * margin if high > low else max(abs(high), 1.0) * margin
    return low - room, high + room


def nothing(message: str) -> Figure:
    """A low figure that says why it shows nothing."""
    figure = canvas(60)
    write(figure, WIDTH / 2, 30, message, ha="center", color=MUTED)
    return figure


def _legend_places(names: Sequence[str], left: float) -> list[tuple[float, int]]:
    """Where each name begins: distance from the left edge, line."""
    places: list[tuple[float, int]] = []
    x, row = left, 0
    for name in names:
        width = 26 + text_width(fitted(name, 300)) + 22
        if x > left and x + width > WIDTH:
            x, row = left, row + 1
        places.append((x, row))
        x += width
    return places


def _em(char: str) -> float:
    if unicodedata.east_asian_width(char) in "WF":
        return 1.0
    if char in "iljtfrI.,:;|!'()[] ":
        return 0.37
    if char in "mwMW@%+−=<>~":
        return 0.9
    return 0.68 if char.isupper() or char.isdigit() else 0.61
