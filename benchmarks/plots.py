"""Figures for reports: intervals by row, by slot, by level, by score, over cost and over steps.

Each returns an SVG string, 720 CSS pixels wide, that scales, is readable in light, dark and print, and depends on its
arguments alone. Labels are text whatever they hold. A value of None has nothing to show, an interval of None is not
drawn; NaN and infinities are refused with a ValueError.
"""

from benchmarks.plot_forest import ForestRow, forest
from benchmarks.plot_frame import Reference
from benchmarks.plot_frontier import Priced, best_buys, frontier
from benchmarks.plot_levels import Level, levels
from benchmarks.plot_panels import Panel, panels
from benchmarks.plot_series import Bin, Point, Series, calibration, lines, positions

__all__ = [
    "Bin",
    "ForestRow",
    "Level",
    "Panel",
    "Point",
    "Priced",
    "Reference",
    "Series",
    "best_buys",
    "calibration",
    "forest",
    "frontier",
    "levels",
    "lines",
    "panels",
    "positions",
]
