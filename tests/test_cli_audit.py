"""The audit from the command line: what it costs is said first, what to do is said last."""

from __future__ import annotations

import json
import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from tests.test_cli import group, run, write

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


@pytest.fixture
def fours(tmp_path: Path) -> Path:
    """Twelve groups of four, with truth."""
    records = []
    for n in range(12):
        record = group(f"g{n}", [f"answer {n} {k} {'and so on ' * ((n + 3 * k) % 5)}" for k in range(4)])
        for k, rollout in enumerate(record["rollouts"]):
            rollout["truth"] = ((n + k) % 4) / 4
        records.append(record | {"source": "made"})
    return write(tmp_path / "groups.jsonl", records)


def test_the_bill_comes_first_and_every_subject_has_its_sentence(fours: Path) -> None:
    done = run("audit", fours, "--judge", "simulated?quality=hash&noise=0.1", "--attacks", "2", COLUMNS="80")
    assert done.returncode == 0, done.stderr
    bill = done.stderr.decode().splitlines()[0]
    # Twelve groups in four orders, once again, and two attacks on each in four orders.
    assert bill.startswith("at most 156 questions (48 as they are, 12 asked again, 96 attacked), about ")
    text = done.stdout.decode()
    for title in ("Signal", "Position", "Orders", "Noise", "Style", "Attacks", "Cuts"):
        assert len(re.findall(rf"^{title}: .*\?$", text, re.MULTILINE)) == 1
    assert len(re.findall(r"^  (fine|do|unclear):  ", text, re.MULTILINE)) == 7
    assert "no group holds a tool output of more than 1,000 characters" in text
    assert "156 calls" in text
    # The summary and the JSON speak of the sections by their titles.
    named = re.findall(r"^(?:something to do|unclear|fine): (.*)$", text, re.MULTILINE)
    assert sorted(", ".join(named).split(", ")) == [
        "attacks", "cuts", "noise", "orders", "position", "signal", "style",
    ]  # fmt: skip


def test_truth_as_a_judge_is_told_of_attacked_and_cut_groups(fours: Path) -> None:
    judge = "simulated?quality=truth&scale=50&offset=50"
    done = run("audit", fours, "--judge", judge, "--attacks", "4", "--orders", "2", "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert (record["accuracy"], record["failures"], record["bad_lines"]) == (1.0, [], 0)
    # The work is still there below an added text, and worth nothing where it is replaced.
    assert record["attacks"]["added"]["value"] == record["attacks"]["not_last"]["value"] == 0
    assert {finding["subject"]: finding["level"] for finding in record["findings"]}["attacks"] == "fine"
    assert record["questions"]["total"] == record["usage"]["calls"] == 24 + 12 + 96


def test_a_second_audit_is_free(fours: Path, tmp_path: Path) -> None:
    command = ("audit", fours, "--judge", "simulated?quality=hash&noise=0.2", "--attacks", "1", "--json")
    cache = ("--cache", tmp_path / "cache.sqlite3")
    first, second = (json.loads(run(*command, *cache).stdout) for _ in range(2))
    assert first["usage"]["calls"] == second["usage"]["cache_hits"] == 108
    assert second["usage"]["calls"] == 0
    for record in (first, second):
        del record["usage"]
    assert first == second


def test_without_truth_and_with_a_limit(tmp_path: Path) -> None:
    path = write(tmp_path / "g.jsonl", [group(f"g{n}", ["a", "b b"]) for n in range(5)])
    done = run("audit", path, "--judge", "simulated", "--limit", "3", "--attacks", "0", "--orders", "2")
    assert done.returncode == 0, done.stderr
    assert b"at most 9 questions (6 as they are, 3 asked again)" in done.stderr
    assert b"accuracy: unknown, no group has truth on every rollout" in done.stdout
    assert b"Attacks" not in done.stdout


def test_what_fails_is_named_and_sets_the_exit_status(fours: Path) -> None:
    done = run("audit", fours, "--judge", "simulated?quality=hash&failure=0.2", "--attacks", "1")
    assert done.returncode == 1
    text = done.stdout.decode()
    assert len(re.findall(r"^failed: g\d+.*: unavailable: ", text, re.MULTILINE)) == 10
    assert re.search(r"^and \d+ more; --json has all$", text, re.MULTILINE)


def test_a_budget_stops_it_with_its_own_status(fours: Path) -> None:
    done = run("audit", fours, "--judge", "simulated", "--max-total-tokens", "9000", "--cache", "off")
    assert done.returncode == 3
    text = done.stdout.decode()
    assert text.startswith("stopped by the cap on cost or tokens: groups left out: ")
    assert "failed" not in text
    assert "stopped: budget: " in text
    assert text.count("the cap on cost or tokens stopped it before any") == 2  # group was asked again, attacked


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--judge", "simulated", "--judge", "simulated?seed=1"), "an audit is of one judge, got 2"),
        (("--judge", "simulated", "--orders", "1"), "an audit compares orders"),
        (("--judge", "simulated", "--attacks", "29"), "less than or equal to 28"),
        ((), "judge"),
    ],
)
def test_what_cannot_be_audited_is_one_line(fours: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run("audit", fours, *arguments)
    assert done.returncode == 2
    assert message in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_a_group_of_one_alone_is_refused(tmp_path: Path) -> None:
    done = run("audit", write(tmp_path / "g.jsonl", [group("g", ["a"])]), "--judge", "simulated")
    assert done.returncode == 2
    assert b"none has two rollouts or more" in done.stderr


def test_the_example_in_the_docs_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = re.search(r"```python\n(?P<code>.*?)```", (ROOT / "docs" / "audit.md").read_text("utf-8"), re.DOTALL)
    assert found is not None
    write(tmp_path / "groups.jsonl", [group(f"g{n}", ["a", "b b"]) for n in range(2)])
    monkeypatch.chdir(tmp_path)
    with redirect_stdout(StringIO()) as printed:
        exec(found["code"], {})
    subjects = [line.split()[:2] for line in printed.getvalue().splitlines()]
    assert [subject for subject, _ in subjects] == [
        "signal", "position", "orders", "noise", "style", "attacks", "cuts",
    ]  # fmt: skip
    assert {level for _, level in subjects} <= {"fine", "do", "unclear"}
