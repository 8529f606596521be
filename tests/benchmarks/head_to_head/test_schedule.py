from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import platformdirs
import pytest

torch = pytest.importorskip("torch")

from benchmarks.head_to_head.__main__ import main  # noqa: E402
from trainer.policy import Policy  # noqa: E402
from trainer.tasks.arithmetic import arithmetic  # noqa: E402
from trainer.tiny import make_tiny_policy  # noqa: E402
from trainer.warm_up import _digest  # noqa: E402

pytestmark = pytest.mark.slow

SMALL = ("--prompts-per-step", "2", "--group-size", "4", "--problems", "24", "--processes", "2")
ARMS = ("--arms", "random", "shorter", "embedded")
"""What an untrained policy learns something from."""


@pytest.fixture
def cold() -> None:
    """Untrained policies where warm ones of the first two seeds are looked for: a warm-up takes half a minute."""
    tiny = arithmetic().tiny
    assert tiny
    for seed in (0, 1):
        place = platformdirs.user_cache_path("ruler") / "policies" / f"arithmetic-{seed}-{_digest(tiny)[:8]}"
        Policy(*make_tiny_policy(tiny, seed=seed)).save(place)


def command(out: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.head_to_head", *SMALL, *options, "--out", str(out)]


def run(out: Path, *options: str, status: int = 0) -> str:
    """What it says."""
    done = subprocess.run(command(out, *options), capture_output=True, text=True, timeout=300)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def lines(out: Path) -> int:
    """Steps and evaluations that are on the disk."""
    return sum(len(path.read_text().splitlines()) for path in out.glob("runs/*/*/metrics.jsonl"))


@pytest.mark.usefixtures("cold")
def test_killed_at_any_moment_it_goes_on_to_the_same_results(tmp_path: Path) -> None:
    options = (*ARMS, "--seeds", "2", "--steps", "14")
    run(tmp_path / "whole", *options, "--processes", "1")  # the numbers do not depend on it
    whole = (tmp_path / "whole" / "results.json").read_bytes()

    for at_least in (4, 60, 120):
        running = subprocess.Popen(
            command(tmp_path / "killed", *options), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        until = time.monotonic() + 200
        while lines(tmp_path / "killed") < at_least and running.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
        # The pipe is closed when the last of its workers is gone, too.
        _, _ = running.communicate(timeout=60)
        assert running.returncode == -signal.SIGKILL, "it was done before it could be killed"
    said = run(tmp_path / "killed", *options)

    assert (tmp_path / "killed" / "results.json").read_bytes() == whole
    assert "8 of 8 runs" in said
    found = read(tmp_path / "whole" / "results.json")
    assert list(found["arms"]) == ["truth", "embedded", "random", "shorter"]
    for arm in found["arms"].values():
        assert [run["seed"] for run in arm["runs"]] == [0, 1]
        assert all(len(run["steps"]) == 14 for run in arm["runs"])
    # All arms of a seed start from one policy.
    starts = [[run["start"] for run in arm["runs"]] for arm in found["arms"].values()]
    assert all(start == starts[0] for start in starts)
    assert starts[0][0] != starts[0][1]
    lengths = found["arms"]["shorter"]["runs"][0]
    assert lengths["final"]["tokens_mean"] < lengths["start"]["tokens_mean"]

    spent = read(tmp_path / "killed" / "spent.json")
    assert spent["embedded"]["0"]["calls"] > 0
    assert spent["truth"]["1"]["calls"] == 0
    assert {"report.html", "report.md", "figures", "results.json"} <= {p.name for p in (tmp_path / "killed").iterdir()}


@pytest.mark.usefixtures("cold")
def test_what_is_done_is_not_done_again_and_another_experiment_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--seeds", "1", "--steps", "2")
    run(out, "--arms", "random", *options)
    final = next(out.glob("runs/random-*/seed-0/final.json"))
    before = final.stat().st_mtime_ns
    said = run(out, "--arms", "random", "shorter", *options)  # arms may be added
    assert "3 of 3 runs" in said
    assert final.stat().st_mtime_ns == before
    run(out, "--arms", "random", "--seeds", "2", "--steps", "2")  # seeds, too
    assert final.stat().st_mtime_ns == before

    for change, said in (
        (("--steps", "3"), "steps: this experiment has 3, the one in"),
        (("--problems", "25"), "held_out_problems: this experiment has 25, the one in"),
        (("--margin", "0.05"), "margin: this experiment has 0.05, the one in"),
        (("--task", "inbox"), "task: this experiment has 'inbox', the one in"),
    ):
        found = run(out, "--arms", "random", *options, *change, status=2)
        assert said in found
        assert found.count("\n") == 1, found

    final.write_text("{")
    assert f"error: {final}: damaged" in run(out, "--arms", "random", *options, status=2)


@pytest.mark.usefixtures("cold")
def test_arms_do_not_begin_with_another_policy_than_those_before_them(tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--seeds", "1", "--steps", "2")
    run(out, "--arms", "random", *options)
    (place,) = (platformdirs.user_cache_path("ruler") / "policies").glob("arithmetic-0-*")
    tiny = arithmetic().tiny
    assert tiny
    Policy(*make_tiny_policy(tiny, seed=7)).save(place)
    said = run(out, "--arms", "random", "shorter", *options, status=2)
    assert said.startswith("error: seed 0: its warm policy")


@pytest.mark.usefixtures("cold")
def test_a_process_that_is_killed_ends_it_in_one_line_and_what_is_done_stays(tmp_path: Path) -> None:
    options = ("--arms", "random", "--seeds", "2", "--steps", "60")
    running = subprocess.Popen(
        command(tmp_path, *options), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 100
    while lines(tmp_path) < 5 and time.monotonic() < until:
        time.sleep(0.05)
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    workers = [child for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]
    os.kill(int(workers[0]), signal.SIGKILL)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 2
    assert said.splitlines()[-1].startswith("error: a process was killed, for want of memory perhaps")
    assert "Traceback" not in said
    assert "4 of 4 runs" in run(tmp_path, *options)


@pytest.mark.usefixtures("cold")
def test_an_arm_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    spec = "simulated?failure=1"
    options = ("--judge", spec, "--arms", "shorter", spec, "--seeds", "1", "--steps", "2")
    said = run(out, *options, status=1)
    assert f"{spec}, seed 0: failed: step 1: 2 of 2 groups have no rewards" in said
    found = read(out / "results.json")["arms"]
    assert (found[spec]["runs"], list(found[spec]["failures"])) == ([], ["0"])
    assert found[spec]["findings"]["truth_sampled"]["value"] is None
    assert len(found["shorter"]["runs"]) == 1
    assert "no rewards" in (out / "report.md").read_text()


@pytest.mark.usefixtures("cold")
def test_two_at_a_time_are_refused(tmp_path: Path) -> None:
    options = ("--arms", "random", "--seeds", "1", "--steps", "200")
    first = subprocess.Popen(command(tmp_path, *options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 100
        while not (tmp_path / "runs").exists() and time.monotonic() < until:
            time.sleep(0.05)
        said = run(tmp_path, *options, status=2)
        assert said == f"error: out: another process is at work in {tmp_path}\n"
        os.kill(first.pid, signal.SIGINT)
        assert first.wait(timeout=60) == 130
    finally:
        first.kill()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--seeds", "0"), "--seeds: expected at least 1, got 0"),
        (("--margin", "0"), "--margin: expected a share between 0 and 1, got 0.0"),
        (("--margin", "nan"), "--margin: expected a share between 0 and 1, got nan"),
        (("--problems", "5000"), "--problems: arithmetic has 2182 problems held out, got 5000"),
        (("--steps", "0"), "steps: expected a whole number of at least 1, got 0"),
        (("--group-size", "1"), "group_size: expected a whole number of at least 2, got 1"),
        (("--prompts-per-step", "0"), "prompts_per_step: expected a whole number of at least 1, got 0"),
        (("--arms", "coin"), "arms: no arm is called 'coin'"),
        (("--judge", "openai/m?api_key=sk-1", "--arms", "rules"), "api_key"),
        (("--judge", "embedded:/nowhere"), "embedded:/nowhere"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_trained(
    options: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", command(out, *options)[2:])
    assert main() == 2
    found = capsys.readouterr().err
    assert said in found
    assert found.startswith("error: ")
    assert found.count("\n") == 1
    assert "sk-1" not in found
    assert not out.exists()


def test_the_arms_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", command(tmp_path / "out", "--task", "inbox", "--list")[2:])
    assert main() == 0
    found = capsys.readouterr().out
    assert found.splitlines()[0] == f"{'truth':32}  The truth that the task knows: 1 for a right answer."
    assert "embedded" not in found
    assert not (tmp_path / "out").exists()
