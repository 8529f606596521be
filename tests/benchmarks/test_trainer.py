"""The benchmarks of the trainer, small: that they run, and what must hold at any size."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _needs_torch() -> None:
    pytest.importorskip("torch")


def run(folder: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    """The figures and the printed tables; in a process of its own, as TRL changes much of the one it is in."""
    path = folder / "figures.json"
    command = [sys.executable, "-m", "benchmarks.trainer", *arguments, "--json", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(path.read_text()), done.stdout


def test_both_loops_do_the_same_work(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    # That all completions are of 32 tokens, on both sides, is asserted where they are timed.
    figures, tables = run(tmp_path, "speed", "--completions", "16", "--rounds", "2", "--steps", "1")
    (steps,) = figures["steps"]
    assert steps["completions"] == 16
    assert 0 < steps["ratio_least"] <= steps["ratio"] <= steps["ratio_most"]
    assert 0 < steps["ours_sampling_ms"] < steps["ours_on_the_clock_ms"]
    assert 0 < steps["TRL_sampling_ms"] < steps["TRL_ms"]
    (memory,) = figures["memory"]
    assert 0 < memory["ours_before_mb"] < memory["ours_peak_mb"]
    assert [row["sequences"] for row in figures["sampling"]] == [1, 8, 32, 128]
    assert tables.count("\n## ") == 2
    assert "| 16 |" in tables


def test_a_judge_is_waited_for_in_every_arm(tmp_path: Path) -> None:
    options = ("--seconds", "0.01", "--at-once", "8", "2", "--rounds", "1", "--steps", "1", "--max-tokens", "8")
    figures, tables = run(tmp_path, "stall", *options)
    arms = [(row["at_once"], row["arm"]) for row in figures["arms"]]
    assert arms == [(at_once, arm) for at_once in (8, 2) for arm in ("off", "on", "look_ahead")]
    for row in figures["arms"]:
        assert row["steps"] == 1
        assert row["stall_seconds"] + row["sampling_seconds"] + row["update_seconds"] <= row["step_seconds"] + 1e-6
    assert tables.count("\n| 8 |") == tables.count("\n| 2 |") == 3


async def test_without_overlap_nothing_is_sent_before_the_last_group_is_there() -> None:
    from benchmarks.trainer_stall import Together

    calls: list[Sequence[Any]] = []

    async def reward(groups: Sequence[Any]) -> Sequence[Any]:
        calls.append(groups)
        return [group.upper() for group in groups]

    together = Together(reward, 3)
    for step in ("abc", "def"):  # what is held is forgotten when it is sent
        first = [asyncio.create_task(together([group])) for group in step[:2]]
        await asyncio.sleep(0)
        assert list(step) not in calls
        assert [*await together([step[2]]), *await first[0], *await first[1]] == [step[2].upper(), *step[:2].upper()]
        assert calls.pop() == list(step)
        assert not calls


def test_a_task_is_trained_with_truth(tmp_path: Path) -> None:
    options = ("--tasks", "arithmetic", "--seeds", "1", "--steps", "2", "--problems", "16")
    figures, tables = run(tmp_path, "tasks", *options, "--policies", str(tmp_path / "policies"))
    (row,) = figures["runs"]
    assert (row["task"], row["seed"], row["steps"], row["rollouts_a_step"]) == ("arithmetic", 0, 2, 128)
    assert len(row["truth_by_step"]) == 2
    for when in ("before", "after"):
        assert row[when]["num_problems"] == 16
        assert 0 <= row[when]["truth_sampled"] <= 1
    assert row["before"] != row["after"]
    assert len(list((tmp_path / "policies").iterdir())) == 1
    assert "| arithmetic | mean |" in tables
