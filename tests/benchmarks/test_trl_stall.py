"""The benchmark of TRL's wait, small: that it runs, and what must hold at any size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow


def test_every_arm_waits_for_its_judge(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    path = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.trl_stall", "--seconds", "0.05", "--steps", "1", "--json", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    arms = json.loads(path.read_text())["arms"]
    assert len(arms) == 5
    at_once = {arm["arm"]: arm["most_at_once"] for arm in arms}
    assert at_once == {
        "by hand: plain, one group after another": 1,
        "plain": 8,
        "async": 8,
        "plain, two judges": 8,
        "async, two judges": 16,
    }
    assert done.stdout.count("\n| async") == 2
