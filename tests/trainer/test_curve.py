"""A run as a picture and as a line of text."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruler.errors import ConfigError
from trainer.curve import plot, smoothed, text_curve


def test_the_text_curve_rises_with_the_values_between_first_and_last() -> None:
    assert text_curve([0.0, 0.25, 0.5, 0.75, 1.0]) == "0.00 ▁▃▅▇█ 1.00"
    assert text_curve([1.0, 0.0]) == "1.00 █▁ 0.00"
    assert text_curve([0.43, 0.43]) == "0.43 ▅▅ 0.43"
    assert text_curve([0.2]) == "0.20 ▅ 0.20"


def test_more_values_than_bars_are_averaged() -> None:
    assert text_curve([0.0, 1.0, 3.0, 5.0], width=2) == "0.00 ▁█ 5.00"
    assert text_curve([1.0, 3.0, 2.0, 2.0], width=2) == "1.00 ▅▅ 2.00"


def test_missing_values_leave_a_gap_and_count_in_no_mean() -> None:
    assert text_curve([None, 0.0, None, 1.0, None]) == "0.00  ▁ █  1.00"
    assert text_curve([0.0, None, 1.0, 1.0], width=2) == "0.00 ▁█ 1.00"
    assert text_curve([]) == text_curve([None, None]) == ""


@given(st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=60), st.integers(1, 50))
def test_no_text_curve_is_wider_than_allowed(values: list[float | None], width: int) -> None:
    text = text_curve(values, width)
    known = [value for value in values if value is not None]
    if known:
        bars = text.removeprefix(f"{known[0]:.2f} ").removesuffix(f" {known[-1]:.2f}")
        assert len(bars) == min(width, len(values))
        assert set(bars) <= set(" ▁▂▃▄▅▆▇█")
    else:
        assert text == ""


def test_smoothing_takes_two_neighbours_on_each_side() -> None:
    assert smoothed([0.0, 0.0, 10.0, 0.0, 0.0, 0.0]) == [10 / 3, 2.5, 2.0, 2.0, 2.5, 0.0]
    assert smoothed([3.0]) == [3.0]
    assert smoothed([]) == []


RUN = [
    {"step": 0, "held_out/truth_sampled": 0.4, "held_out/truth_greedy": 0.5},
    {"step": 1, "reward/mean": 0.2, "truth/mean": 0.4},
    {"step": 2, "reward/mean": None, "truth/mean": None},
    {"step": 3, "reward/mean": 0.6, "truth/mean": 0.5},
    {"step": 3, "held_out/truth_sampled": 0.6},
]


def drawn(tmp_path: Path, lines: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was drawn, panel by panel: (label, xs, ys) of every line, and the name of the axis."""
    from matplotlib.figure import Figure

    figures: list[Any] = []
    save = Figure.savefig

    def savefig(figure: Any, *arguments: Any, **settings: Any) -> None:
        figures.append(figure)
        save(figure, *arguments, **settings)

    monkeypatch.setattr(Figure, "savefig", savefig)
    metrics, picture = tmp_path / "metrics.jsonl", tmp_path / "curve.png"
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9, "rew')
    plot(metrics, picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    return [
        {
            "axis": axes.get_ylabel(),
            "lines": [[one.get_label(), list(one.get_xdata()), list(one.get_ydata())] for one in axes.get_lines()],
        }
        for axes in figures[0].axes
    ]


@pytest.mark.slow
def test_the_picture_shows_reward_truth_and_held_out_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    reward, truth = drawn(tmp_path, RUN, monkeypatch)
    assert reward["axis"] == "mean reward"
    assert [line[1:] for line in reward["lines"]] == [[[1, 3], [0.2, 0.6]], [[1, 3], [0.4, 0.4]]]
    assert truth["axis"] == "mean truth"
    assert [line[1:] for line in truth["lines"]] == [
        [[1, 3], [0.4, 0.5]],
        [[1, 3], [0.45, 0.45]],
        [[0, 3], [0.4, 0.6]],
        [[0], [0.5]],
    ]
    assert [line[0] for line in truth["lines"][2:]] == ["held out, sampled", "held out, greedy"]


@pytest.mark.slow
def test_without_truth_there_is_one_panel_and_without_anything_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    (reward,) = drawn(tmp_path, [{"step": 1, "reward/mean": 1.5, "truth/mean": None}], monkeypatch)
    assert [line[1:] for line in reward["lines"]] == [[[1], [1.5]], [[1], [1.5]]]
    monkeypatch.undo()
    (empty,) = drawn(tmp_path, [], monkeypatch)
    assert empty["lines"] == []


def test_a_metrics_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(ConfigError, match=r"metrics.jsonl: cannot be read: No such file"):
        plot(tmp_path / "metrics.jsonl", tmp_path / "curve.png")
