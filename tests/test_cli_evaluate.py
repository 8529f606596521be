from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.test_cli import group, lines, run, write

pytestmark = pytest.mark.slow


def labelled(number: int = 20, **extra: Any) -> list[dict[str, Any]]:
    """Groups of three: the shorter the better, but for every fifth."""
    records = []
    for n in range(number):
        record = group(f"g{n}", [f"best {n}", f"middling {n} " + "x" * 30, f"worst {n} " + "x" * 90], **extra)
        truth = (1.0, 0.5, 0.0) if n % 5 else (0.0, 0.5, 1.0)
        for rollout, value in zip(record["rollouts"], truth, strict=True):
            rollout["truth"] = value
        records.append(record)
    return records


@pytest.fixture
def twenty(tmp_path: Path) -> Path:
    return write(tmp_path / "g.jsonl", labelled())


def test_it_says_whether_the_judge_beats_the_trivial_rules(twenty: Path) -> None:
    said = run("evaluate", twenty, "-j", "simulated?quality=truth").stdout.decode()
    assert "judge against shorter wins: +0.200 (" in said
    assert "): better" in said
    alike = run("evaluate", twenty, "-j", "simulated").stdout.decode()
    assert "judge against shorter wins: the same accuracy on every group" in alike
    assert "judge against first wins: the same accuracy on every group" in alike


def test_the_further_figures_are_there(twenty: Path) -> None:
    done = run("evaluate", twenty, "-j", "simulated", "--json")
    overall = json.loads(done.stdout)["rows"]["judge"]["overall"]
    assert overall["top_1"] == pytest.approx(0.8)
    assert 0 < overall["r"] < 1
    assert overall["failure_rate"] == 0.0
    said = run("evaluate", twenty, "-j", "simulated").stdout.decode()
    assert "top-1" in said
    assert "0/20" in said


def test_binary_truth_is_set_beside_noise(tmp_path: Path) -> None:
    records = labelled(40)
    for n, record in enumerate(records):
        for rollout in record["rollouts"]:
            rollout["truth"] = float(rollout["truth"] == 1.0 and n < 30)
    path = write(tmp_path / "g.jsonl", records)
    said = run("evaluate", path, "-j", "simulated").stdout.decode()
    assert "pair-equivalent noise 20 % (" in said
    assert "of 10 groups with nothing to tell apart 100 % (" in said
    report = json.loads(run("evaluate", path, "-j", "simulated", "--json").stdout)
    assert report["pair_noise"]["judge"]["noise"]["overall"]["value"] == pytest.approx(0.2)
    graded = run("evaluate", write(tmp_path / "h.jsonl", labelled()), "-j", "simulated").stdout.decode()
    assert "pair-equivalent" not in graded


def test_a_source_that_is_apart_is_reported_and_in_no_mean(tmp_path: Path) -> None:
    odd = labelled(5, source="odd")
    for record in odd:
        record["group_id"] = f"odd {record['group_id']}"
        for rollout, truth in zip(record["rollouts"], (0.0, 0.5, 1.0), strict=True):
            rollout["truth"] = truth
    path = write(tmp_path / "g.jsonl", [*labelled(5, source="even"), *odd])
    report = json.loads(run("evaluate", path, "-j", "simulated", "--apart", "odd", "--json").stdout)
    judge = report["rows"]["judge"]
    assert [(row["source"], row["apart"], row["accuracy"]) for row in judge["sources"]] == [
        ("even", False, pytest.approx(0.8)),
        ("odd", True, 0.0),
    ]
    assert judge["overall"]["accuracy"] == pytest.approx(0.8)
    assert b"odd (apart)" in run("evaluate", path, "-j", "simulated", "--apart", "odd").stdout


def test_stored_scores_are_compared_and_nobody_is_asked(twenty: Path, tmp_path: Path) -> None:
    for name, judge in (("a", "simulated"), ("b", "simulated?quality=hash")):
        run("score", twenty, "-j", judge, "-o", tmp_path / f"{name}.jsonl", "--cache", "off")
    a, b = str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")
    done = run("evaluate", twenty, "--scores", a, "--scores", b, "--json", RULER_JUDGE="simulated?failure=1")
    report = json.loads(done.stdout)
    assert list(report["rows"]) == [a, b, "shorter_wins", "first_wins"]
    assert report["rows"][a]["overall"]["accuracy"] == pytest.approx(0.8)
    assert report["usage"]["calls"] == 0
    assert report["judge"] is None
    pair = next(one for one in report["differences"] if (one["row"], one["other"]) == (a, b))
    assert (pair["overall"]["groups"], pair["verdict"]) == (20, "better")
    said = run("evaluate", twenty, "--scores", a, "--scores", b).stdout.decode()
    assert f"{a} against {b}: +" in said.replace("\n", " ")


def test_another_judge_is_asked_about_what_was_scored_before(twenty: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    run("score", twenty, "-j", "simulated?quality=hash", "-o", out)
    report = json.loads(run("evaluate", twenty, "--scores", out, "-j", "simulated?quality=truth", "--json").stdout)
    assert list(report["rows"]) == ["judge", str(out), "shorter_wins", "first_wins"]
    assert report["rows"]["judge"]["overall"]["accuracy"] == 1.0
    assert report["differences"][0]["verdict"] == "better"


def test_rows_are_compared_on_the_groups_that_all_have(twenty: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    run("score", twenty, "-j", "simulated", "-o", out, "--limit", "8")
    report = json.loads(run("evaluate", twenty, "--scores", out, "-j", "simulated?quality=hash", "--json").stdout)
    assert {row["overall"]["groups"] for row in report["rows"].values()} == {8}


def test_stored_failures_count_as_such(twenty: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    run("score", twenty, "-j", "simulated?failure=0.5&attempts=1", "-o", out)
    failed = sum(line["status"] == "failed" for line in lines(out))
    assert 0 < failed < 20
    done = run("evaluate", twenty, "--scores", out, "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert report["rows"][str(out)]["overall"]["failed"] == failed == len(report["failures"])
    assert report["rows"]["shorter_wins"]["overall"]["groups"] == 20 - failed


def test_a_judge_that_fails_every_group_is_reported_with_its_reasons(twenty: Path) -> None:
    done = run("evaluate", twenty, "-j", "simulated?failure=1&attempts=1")
    said = done.stdout.decode()
    assert done.returncode == 1
    assert "20/20" in said
    assert "failed: g0: unavailable: " in said
    assert "judge against chance: no group to compare" in said


def test_what_is_not_shown_says_how_many_groups_would_show_it(tmp_path: Path) -> None:
    records = labelled(20)
    for n, record in enumerate(records):
        if n % 5 in (1, 2):
            for rollout, truth in zip(record["rollouts"], (0.0, 0.5, 1.0), strict=True):
                rollout["truth"] = truth
    said = run("evaluate", write(tmp_path / "g.jsonl", records), "-j", "simulated").stdout.decode()
    line = next(line for line in said.splitlines() if line.startswith("judge against chance"))
    assert line.startswith("judge against chance: -0.100 (")
    assert "no difference shown; about " in line
    clear = run("evaluate", write(tmp_path / "h.jsonl", labelled()), "-j", "simulated").stdout.decode()
    assert ": better\n" in clear[clear.index("judge against chance") :]


def test_a_judge_that_is_no_better_than_a_coin_is_called_so(tmp_path: Path) -> None:
    records = labelled(20)
    for record in records:
        for rollout, truth in zip(record["rollouts"], (0.0, 0.0, 1.0), strict=True):
            rollout["truth"] = truth
    said = run("evaluate", write(tmp_path / "g.jsonl", records), "-j", "simulated").stdout.decode()
    assert "pair-equivalent noise 100 % (" in said
    assert "labels of a coin would do as well (20 groups)" in said


def test_what_is_left_out_is_named(twenty: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in twenty.read_text().splitlines()]
    del lines[3]["rollouts"][1]["truth"]
    path = write(tmp_path / "h.jsonl", [*lines, group("alone", ["a"])])
    path.write_text(path.read_text() + "no json\n" * 14)
    done = run("evaluate", path, "-j", "simulated")
    assert b"2 groups without truth on every rollout, or of one rollout, were left out: g3, alone" in done.stdout
    assert b"14 lines could not be read" in done.stdout
    assert done.stderr.count(b"bad line: ") == 11
    assert b"and more of them" in done.stderr


def test_right_and_wrong_may_be_true_and_false(twenty: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in twenty.read_text().splitlines()]
    for line in lines:
        for rollout in line["rollouts"]:
            rollout["truth"] = rollout["truth"] == 1.0
    report = json.loads(run("evaluate", write(tmp_path / "h.jsonl", lines), "-j", "simulated", "--json").stdout)
    assert report["rows"]["judge"]["overall"]["accuracy"] == pytest.approx(0.8)


def test_a_json_array_is_told_from_a_file_of_lines(twenty: Path, tmp_path: Path) -> None:
    path = tmp_path / "array.json"
    path.write_text(json.dumps([json.loads(line) for line in twenty.read_text().splitlines()], indent=1))
    done = run("evaluate", path, "-j", "simulated")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) < 15
    assert b"a file has one group a line, and is no JSON array" in done.stderr


def test_each_row_has_its_own_failures_and_what_is_dropped_is_said(twenty: Path, tmp_path: Path) -> None:
    whole, half = tmp_path / "whole.jsonl", tmp_path / "half.jsonl"
    run("score", twenty, "-j", "simulated", "-o", whole)
    run("score", twenty, "-j", "simulated?failure=0.5&attempts=1", "-o", half, "--limit", "10")
    failed = sum(line["status"] == "failed" for line in lines(half))
    done = run("evaluate", twenty, "--scores", whole, "--scores", half, "--json")
    report = json.loads(done.stdout)
    assert report["rows"][str(whole)]["overall"]["failed"] == 0
    assert report["rows"][str(half)]["overall"]["failed"] == failed
    assert report["incomplete"] == 10 + failed
    said = run("evaluate", twenty, "--scores", whole, "--scores", half).stdout.decode()
    assert f"{10 + failed} groups are in no row" in said


@pytest.mark.parametrize("name", ["judge", "shorter_wins"])
def test_a_file_cannot_stand_for_a_row_of_ours(
    twenty: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run("score", twenty, "-j", "simulated", "-o", name)
    for arguments in (["--scores", name], ["--scores", "x", "--scores", "x"]):
        done = run("evaluate", twenty, *arguments, "-j", "simulated")
        assert done.returncode == 2
        assert b"stands for another row already" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--min-gap", "inf", "-j", "simulated"], b"--min-gap: expected a finite number, got inf"),
        (["--apart", "nosuch"], b"--apart 'nosuch': no such source; there are (no source)"),
        (["--scores", "s.jsonl", "--rubric", "r.md"], b"--rubric r.md: nobody is asked with --scores alone"),
    ],
)
def test_options_without_effect_are_refused(twenty: Path, arguments: list[str], message: bytes) -> None:
    done = run("evaluate", twenty, *arguments, RULER_JUDGE="simulated")
    assert done.returncode == 2
    assert message in done.stderr


def test_scores_of_other_groups_are_an_error_in_one_line(twenty: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    run("score", write(tmp_path / "h.jsonl", [group("h", ["a", "b"])]), "-j", "simulated", "-o", out)
    done = run("evaluate", twenty, "--scores", out)
    assert done.returncode == 2
    assert b"holds none of the 20 groups" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_pairs_below_the_gap_do_not_count(tmp_path: Path) -> None:
    records = labelled(10)
    for n, record in enumerate(records):
        # The shorter is the better in the pairs that differ by 0.2, and the worse in those that differ by more.
        for rollout, truth in zip(record["rollouts"], (0.2, 0.0, 1.0) if n else (0.0, 0.2, 0.0), strict=True):
            rollout["truth"] = truth
    path = write(tmp_path / "g.jsonl", records)
    found = {}
    for gap in ("0", "0.2", "0.21", "0.9"):
        report = json.loads(run("evaluate", path, "-j", "simulated", "--min-gap", gap, "--json").stdout)
        assert report["min_gap"] == float(gap)
        for name in ("judge", "shorter_wins"):
            overall = report["rows"][name]["overall"]
            found[gap, name] = overall["pairs"], overall["mixed_groups"], pytest.approx(overall["accuracy"])
    all_pairs, above, widest = (29, 10, (9 / 3 + 1 / 2) / 10), (18, 9, 0.0), (9, 9, 0.0)
    for name in ("judge", "shorter_wins"):
        assert [found[gap, name] for gap in ("0", "0.2", "0.21", "0.9")] == [all_pairs, all_pairs, above, widest]


def test_a_group_that_either_row_failed_is_in_no_row_and_fails_the_command(twenty: Path, tmp_path: Path) -> None:
    whole, other = tmp_path / "whole.jsonl", tmp_path / "other.jsonl"
    run("score", twenty, "-j", "simulated?failure=0.5&attempts=1", "-o", other)
    run("score", twenty, "-j", "simulated", "-o", whole)
    failed = {line["group_id"] for line in lines(other) if line["status"] == "failed"}
    assert 0 < len(failed) < 20
    for first, second in ((whole, other), (other, whole)):
        done = run("evaluate", twenty, "--scores", first, "--scores", second, "--json")
        report = json.loads(done.stdout)
        assert done.returncode == 1
        assert {row["overall"]["groups"] for row in report["rows"].values()} == {20 - len(failed)}
        assert report["incomplete"] == len(failed)
        assert {failure["group_id"] for failure in report["failures"]} == failed
        assert [report["rows"][str(path)]["overall"]["failed"] for path in (whole, other)] == [0, len(failed)]
