"""The command line: each wrong use is one clear line, and a teacher is learnt from end to end."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from ruler.config import load_judge  # noqa: E402
from ruler.scoring import Ruler  # noqa: E402
from tests.trainer.distill.reading_student import groups, make_student  # noqa: E402
from trainer.distill.__main__ import main  # noqa: E402

pytestmark = pytest.mark.slow


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit status."""
    monkeypatch.setattr(sys, "argv", ["trainer.distill", *arguments])
    monkeypatch.setenv("COLUMNS", "200")
    threads = torch.get_num_threads()
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    finally:
        torch.set_num_threads(threads)
    return 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["groups.jsonl", "--out", "new"], "groups: goes with --teacher"),
        (["--student", "x", "--out", "new"], "student: goes with --teacher"),
        (["--teacher", "simulated", "--student", "x", "--out", "new"], "groups: expected at least one file"),
        (["--teacher", "simulated", "groups.jsonl", "--out", "new"], "student: expected a causal language model"),
        (["--teacher", "simulated", "none.jsonl", "--student", "x", "--out", "new"], "none.jsonl"),
        (["--teacher", "simulated", "bad.jsonl", "--student", "x", "--out", "new"], "bad.jsonl:1: "),
        (["--teacher", "nobody/", "groups.jsonl", "--student", "x", "--out", "new"], "nobody"),
        (["--out", "taken"], "out: taken is there already"),
        (["--out", "new", "--num-groups", "3"], "num_groups: expected at least 8, got 3"),
        (["--epochs", "1", "--out", "new"], "epochs: goes with --teacher"),
        (
            ["--teacher", "simulated", "groups.jsonl", "--student", "x", "--out", "new", "--num-groups", "9"],
            "num_groups",
        ),
        (["--out", "new", "--device", "tpu"], "tpu"),
        (["--out", "new", "--threads", "0"], "threads: expected at least 1, got 0"),
    ],
)
def test_wrong_use_is_one_line_and_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "groups.jsonl").write_text(json.dumps(["a", "bb"]) + "\n")
    (tmp_path / "bad.jsonl").write_text("{}\n")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    assert run(monkeypatch, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jsonl", "groups.jsonl", "taken"]


def test_a_teacher_is_learnt_from_and_the_folder_is_a_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_student(tmp_path / "student")
    lines = []
    for labelled in groups(60, seed=5):
        rollouts = [
            {"id": rollout.id, "messages": [{"role": "assistant", "content": rollout.messages[0].content[0]}]}
            for rollout in labelled.group.rollouts
        ]
        task = [{"role": message.role, "content": message.content[0]} for message in labelled.group.task]
        lines.append(json.dumps({"group_id": labelled.group.id, "task": {"messages": task}, "rollouts": rollouts}))
    (tmp_path / "groups.jsonl").write_text("\n".join(lines) + "\n")
    status = run(
        monkeypatch,
        *("--teacher", "simulated?scale=500&offset=-410", "groups.jsonl", "--student", "student", "--out", "judge"),
        *("--learning-rate", "2e-3", "--epochs", "1", "--cache", "cache.sqlite3", "--device", "cpu"),
    )
    said = capsys.readouterr().err
    assert status == 0, said
    after = json.loads((tmp_path / "judge" / "distilled_results.json").read_text())["after"]["agreement"]["value"]
    assert f"held out: {after:.1%} (" in said
    monkeypatch.setenv("RULER_CACHE", "off")
    judge = load_judge("transformers:judge?device=cpu")
    results = asyncio.run(Ruler(judge).score_many([labelled.group for labelled in groups(2, seed=6)]))
    assert [result.status for result in results] == ["scored", "scored"]
