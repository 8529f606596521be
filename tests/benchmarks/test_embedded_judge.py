from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks import embedded_judge
from benchmarks.embedded_judge import spread_table
from benchmarks.embedded_judge_weights import as_float16, as_int8, measure_weights
from tests.judges.embedded_folder import make_folder
from trainer.distill.sums.graded_sets import draw_set


def test_int8_keeps_each_row_to_a_two_hundred_and_fiftieth_of_its_largest_weight() -> None:
    weights = np.random.default_rng(1).normal(0, [[1.0], [100.0], [1e-3]], (3, 50)).astype(np.float32)
    weights[0, 0] = 0.0
    rounded = as_int8(weights)
    largest = np.abs(weights).max(axis=1, keepdims=True)
    assert (np.abs(rounded - weights) <= largest / 254 * 1.001).all()
    assert all(len(np.unique(row)) <= 255 for row in rounded)
    assert np.abs(rounded).max(axis=1, keepdims=True) == pytest.approx(largest)
    assert (rounded != weights).any()
    assert (as_int8(np.zeros((2, 3), np.float32)) == 0).all()
    vector = weights[0]
    assert (as_int8(vector) == vector).all(), "vectors stay"


def test_float16_keeps_three_digits() -> None:
    weights = np.array([[0.1, 1.0, -3.14159]], np.float32)
    rounded = as_float16(weights)
    assert rounded.dtype == np.float32
    assert (rounded == weights).tolist() == [[False, True, False]]
    assert rounded == pytest.approx(weights, rel=1e-3)


async def test_coarser_weights_change_scores_and_the_folder_stays(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "judge")
    before = (folder / "model.safetensors").read_bytes()
    stored, half, byte = await measure_weights(folder, draw_set("plain", 4, "held_out", 4, seed=0))
    assert stored.name == "as stored, float32"
    assert stored.largest_change == 0.0 < half.largest_change < byte.largest_change < 0.1
    assert stored.weight_bytes == 2 * half.weight_bytes > 2 * byte.weight_bytes
    assert stored.figures.agreement.groups == byte.figures.agreement.groups == 4
    assert (folder / "model.safetensors").read_bytes() == before


def test_judges_are_compared_by_mean_and_range() -> None:
    console = Console(width=80)
    with console.capture() as printed:
        console.print(spread_table([{"a": 0.25, "b": None}, {"a": 0.75, "b": 1.0}]))
    rows = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in printed.get().splitlines()]
    assert ["a", "0.500", "0.250", "0.750"] in rows
    assert ["b", "-", "-", "-"] in rows


@pytest.mark.slow
def test_two_judges_are_measured_compared_and_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [make_folder(tmp_path / name) for name in ("one", "two")]
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["embedded_judge", *map(str, folders), "--groups", "8", "--out", str(out)])
    assert embedded_judge.main() == 0
    printed = capsys.readouterr().out
    for said in ("plain 12", "form alone", "slot 8 adds", "int8", "32 in flight", "2 judges", "results.json"):
        assert said in printed, said
    one, two = json.loads((out / "results.json").read_text(encoding="utf-8"))["judges"]
    for mine, other in zip(one["figures"]["sets"], two["figures"]["sets"], strict=True):
        assert mine["agreement"]["pairs"] == other["agreement"]["pairs"], "the same groups"
        # What is read together differs, and with it the last digits.
        assert mine["agreement"]["accuracy"] == pytest.approx(other["agreement"]["accuracy"], abs=0.05)
        assert mine["error"]["value"] == pytest.approx(other["error"]["value"], abs=1e-4)
    assert one["folder_bytes"] == sum(file.stat().st_size for file in folders[0].iterdir())
    times = one["times"]
    assert 0 < times["simulated_alone_ms"] < times["alone_ms"]
    assert one["figures"]["sets"][0]["failed"] == {}


@pytest.mark.slow
def test_rollouts_of_a_policy_are_graded_as_the_task_has_them(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from benchmarks.embedded_judge_policies import sample_groups
    from trainer.policy import Policy
    from trainer.tasks.arithmetic import arithmetic
    from trainer.tiny import make_tiny_policy

    task = arithmetic()
    assert task.tiny is not None
    Policy(*make_tiny_policy(task.tiny, seed=0)).save(tmp_path)
    groups = sample_groups(tmp_path, 3, seed=0)
    assert [group.question.text for group in groups] == [problem().question for problem in task.held_out[:3]]
    assert all(len(group.attempts) == 8 for group in groups)
    assert any(attempt.text for group in groups for attempt in group.attempts)
    assert not any(grade.right for group in groups for grade in group.grades), "it was never trained"
    assert groups == sample_groups(tmp_path, 3, seed=0)


def test_a_folder_without_a_judge_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["embedded_judge", str(tmp_path / "none"), "--out", str(tmp_path / "out")])
    assert embedded_judge.main() == 2
    assert "none" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
