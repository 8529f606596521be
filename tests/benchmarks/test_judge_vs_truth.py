"""The whole benchmark on made-up groups, and the comparison of two of its results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.baseline_rows import baseline_rows
from benchmarks.compare_results import Results, compare
from benchmarks.compare_results import main as compare_main
from benchmarks.judge_vs_truth import main, read_dataset
from ruler.agreement import summarise
from ruler.errors import ConfigError
from ruler.evaluation import agreements
from tests.test_cli import run as ruler_command

pytestmark = pytest.mark.slow

TRUTHFUL = "simulated?quality=truth"
NOISY = "simulated?quality=truth&noise=0.4&scale=30&offset=35"


def record(name: str, truths: list[float], source: str = "made-up", **extra: Any) -> dict[str, Any]:
    rollouts = [
        {"id": f"r{n}", "messages": f"rollout {n} of {name} " + "x" * (7 * n), "truth": truth}
        for n, truth in enumerate(truths, 1)
    ]
    task = {"messages": f"task {name}", "reference": "7"}
    return {"group_id": name, "source": source, "task": task, "rollouts": rollouts, "truth_kind": "binary", **extra}


def records(count: int = 24) -> list[dict[str, Any]]:
    truths = ([1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 1.0])
    return [record(f"g{n}", list(truths[n % 4]), f"source {n % 2}") for n in range(count)]


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run(out: Path, *arguments: str | Path, status: int = 0) -> dict[str, Any]:
    assert main([*map(str, arguments), "--out", str(out), "--cache", "off"]) == status
    found: dict[str, Any] = json.loads((out / "results.json").read_bytes())
    return found


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    return write(tmp_path / "groups.jsonl", records())


def rows(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in results["rows"]}


def test_every_row_stands_in_one_table(groups: Path, tmp_path: Path) -> None:
    results = run(tmp_path / "out", groups, "--judge", TRUTHFUL, "--judge", NOISY)
    found = rows(results)
    settings = [f"k = {k}{notes}" for notes in ("", ", no notes") for k in (1, 2, 4)]
    settings += ["original layout", "pointwise", "pairwise", "tournament"]
    judged = [TRUTHFUL, NOISY.replace("30", "30.0").replace("35", "35.0")]
    for judge in judged:
        for setting in settings:
            assert f"{judge}: {setting}" in found
    flips = {f"truth, {share}% flipped" for share in (5, 10, 20, 40)}
    others = {"truth", "rules", "rules with reference", "shorter wins", "first wins", "random"}
    assert flips | others <= set(found)
    assert f"jury: {' + '.join(judged)}" in found
    assert len(found) == 2 * len(settings) + len(flips) + len(others) + 1
    for setting in settings:
        row = found[f"{TRUTHFUL}: {setting}"]
        assert row["overall"]["accuracy"] == 1.0, setting
        assert row["cost"]["tokens"] > 0
    assert found["truth"]["overall"]["accuracy"] == 1.0
    assert found["truth"]["cost"] is None
    html = (tmp_path / "out" / "report.html").read_text()
    assert "Judges against ground truth" in html
    assert "simulated" in html
    assert (tmp_path / "out" / "report.md").read_text().startswith("# ")


def test_asking_more_costs_more_and_pairs_cost_most(groups: Path, tmp_path: Path) -> None:
    found = rows(run(tmp_path / "out", groups, "--judge", TRUTHFUL))
    calls = {row["setting"]: row["cost"]["calls"] for row in found.values() if row["cost"]}
    base = found[f"{TRUTHFUL}: k = 1"]
    tokens = [cost["tokens"] for cost in base["costs"].values()]
    assert list(base["costs"]) == ["source 0", "source 1"]
    assert base["cost"]["tokens"] == pytest.approx(sum(tokens) / 2), "of as many groups"
    assert calls["k = 1"] == calls["original layout"] == 1
    assert (calls["k = 2"], calls["k = 4"]) == (2, 3), "of three rollouts two of the four orders are equal"
    assert (calls["pointwise"], calls["pairwise"], calls["tournament"]) == (3, 6, 4)


def test_forms_can_be_left_out_and_groups_limited(groups: Path, tmp_path: Path) -> None:
    results = run(tmp_path / "out", groups, "--judge", TRUTHFUL, "--forms", "listwise", "--limit", "3")
    assert {row["setting"] for row in results["rows"] if row["judge"]} >= {"k = 1", "k = 4, no notes"}
    assert not {row["setting"] for row in results["rows"]} & {"pairwise", "original layout"}
    assert [group["source"] for group in results["groups"]].count("source 0") == 3
    assert len(results["groups"]) == 6


def test_without_a_judge_there_are_truth_and_rules(groups: Path, tmp_path: Path) -> None:
    results = run(tmp_path / "out", groups)
    assert all(row["judge"] is None for row in results["rows"])
    assert "No judge was asked" in (tmp_path / "out" / "report.html").read_text()


def test_failures_are_counted_and_are_no_scores(groups: Path, tmp_path: Path) -> None:
    spec = "simulated?quality=truth&failure=0.5&attempts=1"
    found = rows(run(tmp_path / "out", groups, "--judge", spec, "--forms", "listwise,original", status=1))
    for row in found.values():
        if row["judge"] and "k = 1" in row["setting"]:
            assert 0 < row["overall"]["failed"] == len(row["failures"]) < 24
            assert all(row["scores"][name] is None for name in row["failures"])
            assert all("unavailable" in reason for reason in row["failures"].values())
    assert "What failed" in (tmp_path / "out" / "report.html").read_text()


def test_a_cap_that_is_reached_ends_the_run_and_says_so(groups: Path, tmp_path: Path) -> None:
    arguments = ["--judge", "simulated?quality=truth", "--forms", "listwise", "--max-total-tokens", "3000"]
    found = rows(run(tmp_path / "out", groups, *arguments, status=3))
    last = found["simulated?quality=truth: k = 4, no notes"]
    assert last["overall"]["failed"] == 24
    assert set(last["failures"].values()) != set()
    assert all(reason.startswith("budget: ") for reason in last["failures"].values())


def test_what_is_left_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "g.jsonl", [*records(), record("alone", [1.0])])
    path.write_text(path.read_text() + "no json\n" * 12)
    results = run(tmp_path / "out", path, status=1)
    assert (len(results["bad_lines"]), results["without_truth"]) == (12, 1)
    said = capsys.readouterr().err
    assert said.count("bad line: ") == 11
    assert "1 groups without truth" in said
    assert "left out: bad lines" in (tmp_path / "out" / "report.html").read_text()


def test_how_much_is_asked_is_said_before(groups: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(run(tmp_path / "out", groups, "--judge", TRUTHFUL))
    said = capsys.readouterr().err
    calls = sum(row["cost"]["calls"] * 24 for row in found.values() if row["cost"])
    assert f"at most {calls:,.0f} questions for each judge (listwise 288, original 24, pointwise 72" in said
    assert said.index("at most") < said.index("k = 1")


def test_the_same_command_gives_the_same_figures_whatever_the_order_of_groups(tmp_path: Path) -> None:
    first = run(tmp_path / "a", write(tmp_path / "g.jsonl", records()), "--judge", NOISY, "--forms", "listwise")
    second = run(tmp_path / "b", write(tmp_path / "h.jsonl", records()[::-1]), "--judge", NOISY, "--forms", "listwise")
    for one, other in zip(first["rows"], second["rows"], strict=True):
        assert one["overall"] == other["overall"], one["name"]
        assert one["scores"] == other["scores"]


def test_sources_that_are_apart_are_in_no_mean(tmp_path: Path) -> None:
    lines = records() + [record(f"t{n}", [0.0, 1.0], "tau2-bench-telecom") for n in range(6)]
    found = rows(run(tmp_path / "out", write(tmp_path / "g.jsonl", lines), status=1))
    assert set(found["rules with reference"]["failures"]) == {f"t{n}" for n in range(6)}, "a reference of another kind"
    row = found["first wins"]
    assert {source["source"]: source["apart"] for source in row["sources"]}["tau2-bench-telecom"] is True
    inside = [source["accuracy"] for source in row["sources"] if not source["apart"]]
    assert row["overall"]["accuracy"] == pytest.approx(sum(inside) / len(inside))


def test_coarse_rewards_need_a_gap(tmp_path: Path) -> None:
    lines = [record(f"i{n}", [0.67, 0.7, 1.0], "intercode-bash", truth_kind="graded") for n in range(4)]
    found = rows(run(tmp_path / "out", write(tmp_path / "g.jsonl", lines)))
    assert found["truth"]["overall"]["pairs"] == 4 * 2


def test_noise_is_that_of_checked_truth_alone(tmp_path: Path) -> None:
    lines = [record(f"h{n}", [0.0, 1.0], truth_kind="human_preference") for n in range(4)]
    found = rows(run(tmp_path / "out", write(tmp_path / "g.jsonl", lines)))
    assert found["first wins"]["overall"]["accuracy"] == 0.0
    assert found["first wins"]["pair_noise"]["noise"]["overall"]["value"] is None


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_flipped_truth_has_the_accuracy_that_its_name_says(tmp_path: Path, share: float) -> None:
    labelled = read_dataset([str(write(tmp_path / "g.jsonl", records(2000)))]).labelled
    row = next(row for row in baseline_rows(labelled) if row.name == f"truth, {share:.0%} flipped")
    found = agreements(labelled, [row.answers[item.group.id].scores for item in labelled])
    assert summarise(found).overall.accuracy == pytest.approx(1 - share, abs=0.02)


def test_flips_of_graded_truth_stay_in_the_range_of_the_group(tmp_path: Path) -> None:
    labelled = read_dataset([str(write(tmp_path / "g.jsonl", [record("g", [0.2, 0.5, 0.6])]))]).labelled
    for seed in range(20):
        for row in baseline_rows(labelled, seed=seed):
            if row.kind == "flips":
                scores = row.answers["g"].scores or ()
                allowed = ((0.2, 0.6), (0.5, 0.3), (0.6, 0.2))
                for score, values in zip(scores, allowed, strict=True):
                    assert any(score == pytest.approx(value) for value in values)


def test_a_flipped_value_ties_with_its_equals(tmp_path: Path) -> None:
    lines = [record(f"g{n}", [0.1, 0.3, 0.1, 0.3]) for n in range(30)]
    labelled = read_dataset([str(write(tmp_path / "g.jsonl", lines))]).labelled
    for row in baseline_rows(labelled):
        if row.kind == "flips":
            assert {score for answer in row.answers.values() for score in answer.scores or ()} == {0.1, 0.3}


def test_huge_truth_stays_finite(tmp_path: Path) -> None:
    lines = [record(f"g{n}", [-1e308, 1e308, 0.0]) for n in range(9)]
    found = rows(run(tmp_path / "out", write(tmp_path / "g.jsonl", lines)))
    assert found["truth"]["overall"]["accuracy"] == 1.0


def test_a_failed_question_makes_the_others_dearer_and_is_no_choice(groups: Path, tmp_path: Path) -> None:
    spec = "simulated?quality=truth&failure=0.4&attempts=1"
    found = rows(run(tmp_path / "out", groups, "--judge", spec, "--forms", "original", status=1))
    row = found["simulated?quality=truth&failure=0.4: original layout"]
    scored = 24 - row["overall"]["failed"]
    assert 0 < scored < 24
    assert row["cost"]["calls"] == pytest.approx(24 / scored)
    assert "Cheapest setting" not in (tmp_path / "out" / "report.html").read_text()


# --- Bad input ---


@pytest.mark.parametrize(
    ("lines", "arguments", "message"),
    [
        ([record("g", [1.0])], [], "truth: no group of two or more has it"),
        (records(), ["--judge", "simulated", "--judge", "simulated"], "'simulated?quality=length' is given twice"),
        (records(), ["--judge", "simulated?noise=x"], "noise"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: Any, arguments: list[str], message: str
) -> None:
    path = write(tmp_path / "g.jsonl", lines)
    assert main([str(path), *arguments, "--out", str(tmp_path / "out"), "--cache", "off"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert message in said[-1]
    assert said[-1].startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_a_group_in_two_files_is_refused(tmp_path: Path) -> None:
    one, other = write(tmp_path / "a.jsonl", records()), write(tmp_path / "b.jsonl", records())
    with pytest.raises(ConfigError, match=r"b\.jsonl: group_id: 'g0' stands in an earlier file"):
        read_dataset([str(one), str(other)])


@pytest.mark.parametrize(
    "arguments", [["--forms", "listwise,other"], ["--limit", "0"], ["--limit", "x"], ["--concurrency", "-1"]]
)
def test_bad_options_name_the_value(groups: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(groups), "--out", "out", *arguments])
    assert arguments[0] in capsys.readouterr().err


# --- Replay ---


def test_everything_is_replayed_from_an_exported_cache(groups: Path, tmp_path: Path) -> None:
    asked, replayed = tmp_path / "a.sqlite3", tmp_path / "b.sqlite3"
    judge = ["--judge", "simulated?quality=hash"]
    assert main([str(groups), *judge, "--out", str(tmp_path / "a"), "--cache", str(asked)]) == 0
    exported = tmp_path / "export.jsonl"
    assert ruler_command("cache", "export", exported, "--cache", asked).returncode == 0
    assert ruler_command("cache", "import", exported, "--cache", replayed).returncode == 0
    again = [str(groups), *judge, "--out", str(tmp_path / "b"), "--cache", str(replayed), "--cache-mode", "readonly"]
    assert main(again) == 0
    first, second = (json.loads((tmp_path / name / "results.json").read_bytes()) for name in ("a", "b"))
    assert first["rows"] == second["rows"], "what it takes to ask is known after a replay, too"
    assert (tmp_path / "a" / "report.html").read_bytes() == (tmp_path / "b" / "report.html").read_bytes()


def test_a_replay_without_the_answers_asks_nobody_and_scores_nothing(groups: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["--cache", str(tmp_path / "empty.sqlite3"), "--cache-mode", "readonly", "--forms", "listwise"]
    assert main([str(groups), "--judge", "simulated", *arguments, "--out", str(out)]) == 1
    found = rows(json.loads((out / "results.json").read_bytes()))
    row = found["simulated?quality=length: k = 1"]
    assert (row["overall"]["accuracy"], row["overall"]["failed"], row["cost"]) == (None, 24, None)


# --- Comparing two results ---


def test_two_results_are_compared_row_by_row(groups: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        run(tmp_path / name, groups, "--judge", f"{NOISY}&seed={seed}", "--forms", "listwise")
    paths = [tmp_path / name / "results.json" for name in ("a", "b")]
    found = {one.name: one for one in compare(*map(Results.read, paths))}
    assert found["truth"].change.same
    assert found["truth"].before == found["truth"].after == 1.0
    capsys.readouterr()
    assert compare_main([str(path) for path in paths]) == 0
    said = capsys.readouterr().out
    assert "the same on every group" in said
    old, new = (f"{NOISY.replace('30', '30.0').replace('35', '35.0')}&seed={seed}: k = 1" for seed in (1, 2))
    (pair,) = compare(*map(Results.read, paths), rows=(old, new))
    assert pair.before is not None
    assert pair.after is not None
    assert pair.change.overall.value == pytest.approx(pair.after - pair.before)


def test_results_with_another_truth_are_not_compared(groups: Path, tmp_path: Path) -> None:
    run(tmp_path / "a", groups)
    other = records()
    other[3]["rollouts"][0]["truth"] = 0.0
    run(tmp_path / "b", write(tmp_path / "other.jsonl", other))
    one, two = (Results.read(tmp_path / name / "results.json") for name in ("a", "b"))
    with pytest.raises(ConfigError, match="group 'g3': truth, source, cluster or rollouts differ"):
        compare(one, two)


def test_a_row_that_failed_everywhere_shows_nothing(
    groups: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [groups, "--forms", "original"]
    run(tmp_path / "a", *arguments, "--judge", "simulated?quality=truth&failure=1&attempts=1", status=1)
    run(tmp_path / "b", *arguments, "--judge", "simulated?quality=truth")
    names = [f"simulated?quality=truth{more}: original layout" for more in ("&failure=1.0", "")]
    capsys.readouterr()
    assert compare_main([str(tmp_path / "a"), str(tmp_path / "b"), "--rows", *names]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("no group to compare")


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        "{",
        '{"groups": [], "rows": [{"name": 1}]}',
        '{"rubric": "r", "groups": [], "rows": [{"name": "a", "failures": {}, "scores": {"g": [NaN]}}]}',
        '{"rubric": "r", "groups": [], "rows": [{"name": "a", "failures": {}, "scores": {"g": [true]}}]}',
    ],
)
def test_what_is_no_results_file_is_named(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    assert compare_main([str(path), str(path)]) == 2
    assert "results.json: is no" in capsys.readouterr().err
