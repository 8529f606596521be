"""A run as a picture: reward, truth while training, truth on held-out problems; in a file, or in one line of text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from trainer.metrics import known_mean
from trainer.monitor import read_lines

_BARS = "▁▂▃▄▅▆▇█"
# Of Okabe and Ito's palette: told apart by colour-blind readers, and in grey.
_REWARD, _TRAIN, _SAMPLED, _GREEDY = "#0072B2", "#009E73", "#E69F00", "#D55E00"


def plot(metrics_path: Path, png_path: Path) -> None:
    """Draws the metrics file as a PNG: rewards above, truth below where any is known.

    A line is the mean of 5 steps, two on each side; the steps themselves are drawn faintly behind it. What is missing
    in a line of the file is left out.

    Raises:
        ConfigError: the metrics file cannot be read.
    """
    # Loaded here, because it takes half a second. Figure instead of pyplot, which keeps every figure it made.
    from matplotlib.figure import Figure

    lines = read_lines(metrics_path)
    truths = ("truth/mean", "held_out/truth_sampled", "held_out/truth_greedy")
    has_truth = any(_points(lines, key)[0] for key in truths)
    figure = Figure(figsize=(8, 6.5 if has_truth else 3.5), dpi=120, layout="constrained")
    axes = figure.subplots(2 if has_truth else 1, 1, sharex=True, squeeze=False)[:, 0]

    _draw_steps(axes[0], lines, "reward/mean", _REWARD, "mean of 5 steps")
    axes[0].set_ylabel("mean reward")
    if has_truth:
        _draw_steps(axes[1], lines, "truth/mean", _TRAIN, "training, mean of 5 steps")
        for key, colour, marker, label in (
            ("held_out/truth_sampled", _SAMPLED, "o", "held out, sampled"),
            ("held_out/truth_greedy", _GREEDY, "s", "held out, greedy"),
        ):
            steps, values = _points(lines, key)
            if steps:
                axes[1].plot(
                    steps, values, color=colour, marker=marker, markersize=7, linewidth=1, linestyle=":", label=label
                )
        axes[1].set_ylabel("mean truth")
        axes[1].set_ylim(-0.03, 1.03)
    axes[-1].set_xlabel("step")
    for one in axes:
        one.grid(color="0.9", linewidth=0.8)
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
        if one.get_legend_handles_labels()[0]:
            one.legend(loc="best", frameon=True, framealpha=0.85, edgecolor="none")
    figure.savefig(png_path)


def text_curve(values: Sequence[float | None], width: int = 40) -> str:
    """The values as one line of bars between the first and the last of them: `0.43 ▁▃▅▆▇█ 0.91`.

    The lowest bar is the least value, the highest the greatest; all equal ones are of middle height. With more values
    than `width` each bar is the mean of some neighbours; one that has no value is a space. No values at all: "".

    Args:
        values: finite ones, or None where there is none.
        width: most bars, at least 1.
    """
    known = [value for value in values if value is not None]
    if not known:
        return ""
    num_bars = min(width, len(values))
    edges = [bar * len(values) // num_bars for bar in range(num_bars + 1)]
    heights = [known_mean(values[start:end]) for start, end in pairwise(edges)]
    low = min(height for height in heights if height is not None)
    high = max(height for height in heights if height is not None)
    bars = "".join(" " if height is None else _bar(height, low, high) for height in heights)
    return f"{known[0]:.2f} {bars} {known[-1]:.2f}"


def smoothed(values: Sequence[float]) -> list[float]:
    """For each value the mean of it and the two on each side; at the ends of those that are there."""
    windows = (values[max(place - 2, 0) : place + 3] for place in range(len(values)))
    return [math.fsum(window) / len(window) for window in windows]


def _bar(height: float, low: float, high: float) -> str:
    share = (height - low) / (high - low) if high > low else 0.5
    return _BARS[min(int(share * len(_BARS)), len(_BARS) - 1)]


def _points(lines: Sequence[Mapping[str, Any]], key: str) -> tuple[list[int], list[float]]:
    """The steps that have a value for this key, and the values."""
    found = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
    return [step for step, _ in found], [value for _, value in found]


def _draw_steps(axes: Any, lines: Sequence[Mapping[str, Any]], key: str, colour: str, label: str) -> None:
    steps, values = _points(lines, key)
    if steps:
        axes.plot(steps, values, color=colour, alpha=0.3, linewidth=1)
        axes.plot(steps, smoothed(values), color=colour, linewidth=2, label=label)
