from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.service.running import serving  # noqa: E402
from trainer.command_line import main  # noqa: E402
from trainer.monitor import read_lines  # noqa: E402
from trainer.policy import Policy  # noqa: E402
from trainer.tasks.arithmetic import arithmetic  # noqa: E402
from trainer.tasks.inbox import inbox  # noqa: E402
from trainer.tiny import make_tiny_policy  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of an untrained policy for arithmetic."""
    folder = tmp_path_factory.mktemp("policy")
    tiny = arithmetic().tiny
    assert tiny
    Policy(*make_tiny_policy(tiny, seed=0)).save(folder)
    return str(folder)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit status of the command line."""
    monkeypatch.setattr(sys, "argv", ["train", *map(str, arguments)])
    try:
        main()
    except SystemExit as exit:
        return int(exit.code or 0)
    return 0


SMALL = ("--steps", 2, "--prompts-per-step", 2, "--group-size", 3, "--held-out-problems", 4, "--cache", "off")


@pytest.mark.parametrize("reward", ["truth", "rules", "judge", "judge_and_rules"])
def test_every_reward_trains(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, policy: str, reward: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run(monkeypatch, "--policy", policy, "--reward", reward, "--out", out, *SMALL) == 0
    steps = [line for line in read_lines(out / "metrics.jsonl") if "reward/mean" in line]
    assert len(steps) == 2
    assert all(line["groups/failed"] == 0 for line in steps)
    assert ("judge simulated?quality=truth&noise=0.3" in capsys.readouterr().err) == reward.startswith("judge")
    assert json.loads((out / "settings.json").read_text())["reward"] == reward


def test_the_same_command_finds_the_run_finished_and_another_judge_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, policy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--policy", policy, "--out", tmp_path, *SMALL)
    assert run(monkeypatch, *given) == 0
    lines = (tmp_path / "metrics.jsonl").read_text()
    assert run(monkeypatch, *given) == 0
    assert len((tmp_path / "metrics.jsonl").read_text()) == len(lines)
    assert run(monkeypatch, *given, "--judge", "simulated?noise=0.9") == 2
    assert "error: judge: this run has 'simulated?noise=0.9'" in capsys.readouterr().err


def test_an_agent_with_tools_trains_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tiny = inbox().tiny
    assert tiny
    Policy(*make_tiny_policy(tiny, seed=0)).save(tmp_path / "policy")
    given = ("--task", "inbox", "--policy", tmp_path / "policy", "--out", tmp_path / "run")
    assert run(monkeypatch, *given, "--sample-every", 1, *SMALL) == 0
    samples = read_lines(tmp_path / "run" / "samples.jsonl")
    assert [sample["step"] for sample in samples] == [1, 2]
    assert {tool["function"]["name"] for tool in samples[0]["task"]["tools"]} == {"search", "read", "answer"}


def test_an_interrupt_says_how_to_go_on(tmp_path: Path, policy: str) -> None:
    command = [sys.executable, "-m", "trainer.train", "--policy", policy, "--out", str(tmp_path), "--cache", "off"]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted: the same command goes on from the newest checkpoint" in said
    assert "Traceback" not in said


def test_a_service_judges_in_another_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, policy: str) -> None:
    with serving("--judge", "simulated", "--cache", "off") as server:
        assert run(monkeypatch, "--policy", policy, "--out", tmp_path, "--service", server.url, *SMALL) == 0
    steps = [line for line in read_lines(tmp_path / "metrics.jsonl") if "reward/mean" in line]
    assert [line["groups/failed"] for line in steps] == [0, 0]
    assert all(0 < line["judge/score"] <= 1 for line in steps)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--group-size", 1), 2, "group_size: expected a whole number of at least 2, got 1"),
        (("--policy", "/nowhere"), 2, "policy: '/nowhere' cannot be loaded"),
        (("--judge", "nobody:such"), 2, "judge"),
        (("--device", "abacus"), 2, "error: device: 'abacus' cannot be used"),
        (("--judge", "simulated?failure=1"), 1, "2 of 2 groups have no rewards (unavailable 2)"),
        (("--threads", 0), 2, "error: threads: expected at least 1, got 0"),
        (("--out", __file__), 1, "error: "),
        (("--loss-type", "ppo"), 2, "ppo"),
        (("--stepz", 3), 2, "stepz"),
    ],
)
def test_what_cannot_be_done_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    policy: str,
    capsys: pytest.CaptureFixture[str],
    arguments: Any,
    status: int,
    message: str,
) -> None:
    given = ["--policy", policy, "--out", tmp_path / "run", *SMALL, *arguments]
    assert run(monkeypatch, *given) == status
    said = capsys.readouterr()
    assert message in " ".join((said.err + said.out).split())
    assert "Traceback" not in said.err
