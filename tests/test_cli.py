from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ruler.cli import main
from ruler.types import FENCE
from tests.local_server import LocalServer, Response, completion, user_text

COMMAND = [sys.executable, "-c", "from ruler.cli import main; main()"]


def run(*arguments: str | Path, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The whole command, `main` and its error handling included, in this process but on real files for its streams."""
    command = ["ruler", *map(str, arguments)]
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        files = {name: stack.enter_context(tempfile.TemporaryFile()) for name in ("stdin", "stdout", "stderr")}
        files["stdin"].write(stdin)
        files["stdin"].seek(0)
        for name, file in files.items():
            encoding = environment.get("PYTHONIOENCODING", "utf-8")
            copy = os.fdopen(os.dup(file.fileno()), "r" if name == "stdin" else "w", encoding=encoding)
            patch.setattr(sys, name, stack.enter_context(copy))
        patch.setattr(sys, "argv", command)
        for name, value in environment.items():
            patch.setenv(name, value)
        status: object = 0
        streams = (sys.stdout, sys.stderr)
        try:
            main()
        except SystemExit as ended:
            status = ended.code
        for stream in streams:
            stream.flush()
        told = []
        for name in ("stdout", "stderr"):
            files[name].seek(0)
            told.append(files[name].read())
    return subprocess.CompletedProcess(command, int(status or 0), *told)  # type: ignore[call-overload]


def group(name: str, texts: Sequence[str], **extra: Any) -> dict[str, Any]:
    rollouts = [{"id": f"r{n}", "messages": text} for n, text in enumerate(texts, 1)]
    return {"group_id": name, "task": {"messages": f"task {name}"}, "rollouts": rollouts, **extra}


def write(path: Path, records: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def three(tmp_path: Path) -> Path:
    return write(tmp_path / "groups.jsonl", [group(f"g{n}", ["short", "longer " * n]) for n in (1, 2, 3)])


def test_score_writes_one_valid_line_per_group_and_says_what_it_did(three: Path, tmp_path: Path) -> None:
    out = tmp_path / "scored.jsonl"
    done = run("score", three, "--judge", "simulated", "--out", out)
    assert done.returncode == 0, done.stderr
    assert b"3 scored, 0 tied, 0 failed; 3 calls" in done.stdout
    assert b"judge simulated?quality=length" in done.stdout
    results = lines(out)
    assert sorted(result["group_id"] for result in results) == ["g1", "g2", "g3"]
    for result in results:
        assert result["status"] == "scored"
        assert [rollout["id"] for rollout in result["rollouts"]] == ["r1", "r2"]
        assert all(0 <= rollout["score"] <= 1 for rollout in result["rollouts"])
        assert result["prompt_version"] == "2"
        assert result["judge"] == "simulated?quality=length"


def test_without_out_the_scores_are_shown_as_tables(examples: Path) -> None:
    done = run("score", examples, "--judge", "simulated")
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode()
    assert "examples/agent  scored  judge simulated?quality=length" in text
    assert "simulated, from length: nobody read this" in text
    assert "[cut_off]" in text


def test_text_that_looks_like_markup_is_shown_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "g.jsonl", [group("[/red]", ["a", "b"]), group("[bold]x", ["[/INST]"])])
    done = run("score", path, "--judge", "simulated")
    assert b"[/red]" in done.stdout
    assert b"[bold]x" in done.stdout
    assert b"Traceback" not in done.stderr


def test_gz_in_and_out_and_stdin_to_stdout(three: Path, tmp_path: Path) -> None:
    packed = tmp_path / "g.jsonl.gz"
    packed.write_bytes(gzip.compress(three.read_bytes()))
    assert run("score", packed, "-j", "simulated", "-o", tmp_path / "s.jsonl.gz").returncode == 0
    assert len(lines(tmp_path / "s.jsonl.gz")) == 3
    done = run("score", "-", "-j", "simulated", "-o", "-", stdin=three.read_bytes())
    assert done.returncode == 0
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 3
    assert b"3 scored" in done.stderr


def test_limit_and_resume_ask_only_for_what_is_missing(three: Path, tmp_path: Path) -> None:
    out = tmp_path / "scored.jsonl"
    assert b"2 scored" in run("score", three, "-j", "simulated", "-o", out, "--limit", "2").stdout
    done = run("score", three, "-j", "simulated", "-o", out)
    assert b"1 scored, 0 tied, 0 failed, 2 already there; 1 calls" in done.stdout
    again = run("score", three, "-j", "simulated", "-o", out)
    assert (again.returncode, b"0 calls" in again.stdout) == (0, True)
    assert len(lines(out)) == 3


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (["--judge", "simulated?quality=hash"], "judge"),
        (["--judge", "simulated", "--no-notes"], "prompt_version"),
        (["--judge", "simulated", "--reference"], "prompt_version"),
        (["--judge", "simulated", "--rubric", "RUBRIC"], "rubric"),
    ],
)
def test_resume_refuses_a_file_made_otherwise(three: Path, tmp_path: Path, changed: list[str], named: str) -> None:
    out, rubric = tmp_path / "scored.jsonl", tmp_path / "rubric.md"
    rubric.write_text("Be brief.")
    run("score", three, "-j", "simulated", "-o", out)
    before = out.read_bytes()
    done = run("score", three, "-o", out, *[str(rubric) if item == "RUBRIC" else item for item in changed])
    assert done.returncode == 2
    assert f"was made with {named}".encode() in done.stderr
    assert out.read_bytes() == before


@pytest.mark.slow
def test_failed_groups_are_listed_kept_out_of_scores_and_asked_again(three: Path, tmp_path: Path) -> None:
    out = tmp_path / "scored.jsonl"

    def down_for_g2(body: dict[str, Any]) -> Response:
        return Response(401, body="no") if "task g2" in user_text(body) else score_by_length(body)

    with LocalServer(down_for_g2) as server:
        done = run("score", three, "-j", f"{server.url}#m", "-o", out)
    assert done.returncode == 1
    assert b"failed: g2: rejected:" in done.stdout
    (failed,) = [result for result in lines(out) if result["status"] == "failed"]
    assert (failed["reason"], failed["rollouts"]) == ("rejected", [{"id": "r1"}, {"id": "r2"}])
    assert "score" not in json.dumps(failed["rollouts"])


def score_by_length(body: dict[str, Any]) -> Response:
    """What a model would have to do: find the rollouts by their fences; answers last first."""
    text = user_text(body)
    fences = list(FENCE.finditer(text))
    scores = [
        {"id": opened["id"], "score": min(100, closed.start() - opened.end())}
        for opened, closed in zip(fences[::2], fences[1::2], strict=True)
    ]
    return completion(json.dumps({"notes": [], "scores": scores[::-1]}))


@pytest.mark.slow
def test_a_judge_behind_a_real_socket_scores_every_rollout_by_its_id(three: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "scored.jsonl", tmp_path / "audit.jsonl"
    with LocalServer(score_by_length) as server:
        done = run("score", three, "-j", f"{server.url}#my-model", "-o", out, "--audit-log", log)
        assert done.returncode == 0, done.stderr
        assert len(server.requests) == 3
        name = f"{server.url}#my-model"
    for result in lines(out):
        short, longer = (rollout["score"] for rollout in result["rollouts"])
        number = int(result["group_id"][1:])
        assert (short, longer) == (0.07, (2 + 7 * number) / 100)
        assert result["judge"] == name
        assert result["usage"]["cost_usd"] is None
    assert b"cost unknown" in done.stdout
    for entry in lines(log):
        assert json.loads(entry["reply"])["scores"]
        assert sorted(entry["rollouts"].values()) == [["r1"], ["r2"]]
        assert (entry["order"], entry["block"], entry["ids"]) == (0, 0, list(entry["rollouts"]))
        assert len(entry["prompt_sha256"]) == 64
        assert entry["usage"]["calls"] == 1
        assert entry["latency_seconds"] > 0


@pytest.mark.slow
def test_an_unusable_reply_is_asked_again_over_the_wire_then_failed_with_the_raw_reply(tmp_path: Path) -> None:
    path = write(tmp_path / "g.jsonl", [group("g", ["a", "b"])])
    out, log = tmp_path / "scored.jsonl", tmp_path / "audit.jsonl"
    with LocalServer(lambda body: completion("both are fine")) as server:
        done = run("score", path, "-j", f"{server.url}#m", "-o", out, "--audit-log", log)
        assert len(server.requests) == 3
        assert "Not accepted" in server.requests[1].body["messages"][-1]["content"]
    assert done.returncode == 1
    (result,) = lines(out)
    assert (result["reason"], result["raw_reply"], result["usage"]["calls"]) == ("reply", "both are fine", 3)
    (entry,) = lines(log)
    assert entry["error"]["code"] == "reply"
    assert (entry["usage"]["calls"], entry["finish_reason"]) == (3, "stop")
    assert entry["reply"] == "both are fine"


def test_broken_lines_are_named_and_do_not_stop_the_others(three: Path, tmp_path: Path) -> None:
    path = tmp_path / "mixed.jsonl"
    good = three.read_text().splitlines()
    path.write_text("\n".join([good[0], "{", good[1], '{"group_id": "x", "rollouts": []}', good[2]]) + "\n")
    done = run("score", path, "-j", "simulated", "-o", tmp_path / "s.jsonl")
    assert done.returncode == 1
    assert b"3 scored, 0 tied, 0 failed, 2 bad lines" in done.stdout
    assert f"bad line: {path}:2: not JSON".encode() in done.stderr
    assert f"bad line: {path}:4: group 'x': rollouts: empty".encode() in done.stderr
    strict = run("score", path, "-j", "simulated", "-o", tmp_path / "t.jsonl", "--strict")
    assert strict.returncode == 2
    assert f"error: {path}:2: not JSON".encode() in strict.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["score", "GROUPS"], "no judge: give one"),
        (["score", "GROUPS", "-j", "simulated?x=1"], "unknown setting 'x'"),
        pytest.param(["score", "GROUPS", "-j", "no-such-judge"], "no-such-judge", marks=pytest.mark.slow),
        pytest.param(["score", "GROUPS", "-j", "openai/gpt-4o-mini"], "OPENAI_API_KEY", marks=pytest.mark.slow),
        (["score", "missing.jsonl", "-j", "simulated"], "missing.jsonl: cannot be read: No such file"),
        (["score", "GROUPS", "-j", "simulated", "-o", "/nowhere/x.jsonl"], "--out /nowhere/x.jsonl: cannot be written"),
        (["score", "GROUPS", "-j", "simulated", "-o", "GROUPS"], "is the same file as GROUPS"),
        (["score", "GROUPS", "-j", "simulated", "--audit-log", "/nowhere/l"], "--audit-log /nowhere/l: cannot be"),
        (["score", "GROUPS", "-j", "simulated", "--rubric", "none.md"], "rubric none.md: cannot be read"),
        (["score", "GROUPS", "-j", "simulated", "--json", "-o", "-"], "--json"),
        (["score", "GROUPS", "-j", "simulated", "--json", "-o", "/dev/stdout"], "would both go to standard output"),
        (["score", "GROUPS", "-j", "simulated", "--json"], "give the scores a place with --out"),
        (["score", "GROUPS", "-j", "simulated", "--audit-log", "x.gz"], "choose a name without .gz"),
        (["score", "/dev/null", "-j", "simulated"], "holds no group that can be read"),
        (["score", "GROUPS", "-j", "simulated", "--limit", "0"], "--limit"),
        (["pack", "GROUPS", "--index", "7"], "has 3 groups, there is no group 7"),
        (["evaluate", "GROUPS", "-j", "simulated"], "truth: no group"),
    ],
)
def test_bad_input_is_one_clear_line_and_status_2(three: Path, arguments: list[str], message: str) -> None:
    done = run(*[str(three) if item == "GROUPS" else item for item in arguments])
    assert done.returncode == 2
    assert message.encode() in done.stderr
    assert b"Traceback" not in done.stderr
    if done.stderr.startswith(b"error"):
        assert done.stderr.count(b"\n") == 1


def test_the_summary_as_json(three: Path, tmp_path: Path) -> None:
    done = run("score", three, "-j", "simulated?failure=1", "-o", tmp_path / "s.jsonl", "--json")
    summary = json.loads(done.stdout)
    assert (summary["failed"], summary["scored"], done.returncode) == (3, 0, 1)
    assert summary["failures"][0]["reason"] == "unavailable"


def test_a_group_of_one_fails_with_its_reason_unless_absolute(tmp_path: Path) -> None:
    path = write(tmp_path / "g.jsonl", [group("one", ["only"])])
    assert b"failed: one: group:" in run("score", path, "-j", "simulated", "-o", tmp_path / "s").stdout
    done = run("score", path, "-j", "simulated", "-o", tmp_path / "t", "--absolute")
    assert done.returncode == 0
    assert lines(tmp_path / "t")[0]["absolute"] is True


def slow_server() -> LocalServer:
    def reply(body: dict[str, Any]) -> Response:
        done = score_by_length(body)
        return Response(done.status, done.headers, done.body, delay_seconds=0.15)

    return LocalServer(reply)


def wait_for_lines(path: Path, number: int) -> None:
    deadline = time.monotonic() + 50
    while time.monotonic() < deadline:
        if path.exists() and path.read_bytes().count(b"\n") >= number:
            return
        time.sleep(0.02)
    raise AssertionError(f"{path} has no {number} lines")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_a_valid_file_that_the_same_command_continues(
    tmp_path: Path, how: signal.Signals
) -> None:
    path = write(tmp_path / "g.jsonl", [group(f"g{n}", ["a", "bb"]) for n in range(40)])
    out = tmp_path / "scored.jsonl"
    with slow_server() as server:
        arguments = ["score", str(path), "-j", f"{server.url}#m", "-o", str(out), "--concurrency", "2"]
        process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        wait_for_lines(out, 5)
        process.send_signal(how)
        stdout, stderr = process.communicate(timeout=30)
        assert b"Traceback" not in stderr
        if how is signal.SIGINT:
            assert process.returncode == 130
            assert b"interrupted; the same command continues" in stdout
        kept = len(lines(out))
        assert 5 <= kept < 40
        asked = len(server.requests)
        assert run(*arguments[:-2]).returncode == 0
        # What was written before is not paid for again, nor what had been answered and was not written yet.
        assert 40 - kept - 2 <= len(server.requests) - asked <= 40 - kept
    assert sorted(result["group_id"] for result in lines(out)) == sorted(f"g{n}" for n in range(40))


def start_on_a_pipe() -> subprocess.Popen[bytes]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*COMMAND, "score", "-", "-j", "simulated", "-o", "-"], **pipes)


def test_answers_come_out_while_more_groups_are_still_to_come() -> None:
    process = start_on_a_pipe()
    assert process.stdin
    assert process.stdout
    for name in ("g1", "g2"):
        process.stdin.write(json.dumps(group(name, ["a", "bb"])).encode() + b"\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["group_id"] == name
    process.stdin.close()
    assert process.wait(timeout=30) == 0
    process.stdout.close()
    assert process.stderr
    process.stderr.close()


def test_an_interrupt_while_waiting_for_a_silent_pipe_ends_the_run() -> None:
    process = start_on_a_pipe()
    assert process.stdin
    assert process.stdout
    process.stdin.write(json.dumps(group("g", ["a", "bb"])).encode() + b"\n")
    process.stdin.flush()
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    _, stderr = process.communicate()
    assert b"interrupted" in stderr
    assert b"Traceback" not in stderr


@pytest.mark.slow
def test_two_runs_never_write_into_one_file(tmp_path: Path) -> None:
    path = write(tmp_path / "g.jsonl", [group(f"g{n}", ["a", "bb"]) for n in range(5)])
    out = tmp_path / "scored.jsonl"
    second_is_done = threading.Event()

    def reply(body: dict[str, Any]) -> Response:
        if "task g0" not in user_text(body):
            second_is_done.wait(60)
        return score_by_length(body)

    with LocalServer(reply) as server:
        arguments = ["score", str(path), "-j", f"{server.url}#m", "-o", str(out), "--concurrency", "1"]
        first = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.DEVNULL)
        wait_for_lines(out, 1)
        second = run(*arguments)
        second_is_done.set()
        assert second.returncode == 2
        assert b"another run is writing to this file" in second.stderr
        assert first.wait(timeout=60) == 0
    assert len(lines(out)) == 5


def test_pack_shows_the_prompt_and_an_exact_account(examples: Path) -> None:
    done = run("pack", examples, "--index", "1")
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode()
    assert "===== system =====" in text
    assert "[call] get_order(order_id=" in text
    assert "tokens (cl100k)" in text
    assert "rubric and contract" in text
    assert FENCE.search(text)


def test_pack_json_is_one_line_per_request_for_all_groups(examples: Path) -> None:
    done = run("pack", examples, "--json")
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(records) == 5
    for record in records:
        assert set(record) == {"group_id", "order", "block", "ids", "rollouts", "messages", "tokens"}
        assert [message["role"] for message in record["messages"]] == ["system", "user"]
        found = [fence["id"] for fence in FENCE.finditer(record["messages"][1]["content"]) if not fence["close"]]
        assert found == record["ids"] == list(record["rollouts"])
        parts = {name: count for name, count in record["tokens"].items() if name != "total"}
        assert abs(sum(parts.values()) - record["tokens"]["total"]) <= len(parts)
    one = run("pack", examples, "--json", "--index", "2")
    assert [json.loads(line) for line in one.stdout.splitlines()] == records[2:3]


def test_pack_to_a_closed_pipe_is_quiet(examples: Path) -> None:
    command = " ".join(f"'{part}'" for part in [*COMMAND, "pack", str(examples), "--json"])
    done = subprocess.run(f"{command} | head -c 10", shell=True, capture_output=True, check=False)
    assert b"Traceback" not in done.stderr


def test_the_reference_is_shown_only_when_asked_for(examples: Path) -> None:
    hidden = run("pack", examples, "--index", "0").stdout
    shown = run("pack", examples, "--index", "0", "--reference").stdout
    assert b"<reference_answer>" not in hidden
    assert b"<reference_answer>" in shown


def test_evaluate_with_truth_as_quality_is_right_and_with_noise_less_so(tmp_path: Path) -> None:
    records = []
    for n in range(60):
        record = group(f"g{n}", [f"good {n}", f"bad {n} " + "x" * n, f"middling {n}"], source=f"s{n % 2}")
        for rollout, truth in zip(record["rollouts"], (1.0, 0.0, 0.5), strict=True):
            rollout["truth"] = truth
        records.append(record)
    path = write(tmp_path / "g.jsonl", [*records, group("unlabelled", ["a", "b"])])
    report = json.loads(run("evaluate", path, "-j", "simulated?quality=truth", "--json").stdout)
    overall = report["rows"]["judge"]["overall"]
    assert (overall["accuracy"], overall["tau_b"], overall["tie_rate"]) == (1.0, 1.0, 0.0)
    assert report["rows"]["first_wins"]["overall"]["accuracy"] == pytest.approx(2 / 3)
    assert report["without_truth"] == 1
    assert [source["source"] for source in report["rows"]["judge"]["sources"]] == ["s0", "s1"]
    noisy = json.loads(run("evaluate", path, "-j", "simulated?quality=truth&noise=0.5", "--json").stdout)
    low, high = noisy["rows"]["judge"]["overall"]["accuracy_interval"]
    assert low < noisy["rows"]["judge"]["overall"]["accuracy"] < high < 1
    table = run("evaluate", path, "-j", "simulated?quality=truth&failure=0.2")
    assert table.returncode == 1
    assert b"95 %" in table.stdout
    assert b"1 groups without truth" in table.stdout


def test_what_the_terminal_cannot_show_stops_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "g.jsonl", [group("größe-\ud800", ["a", "b"]), group("größe", ["a"])])
    done = run("score", path, "-j", "simulated", PYTHONIOENCODING="ascii")
    assert done.returncode == 1
    assert b"gr\\xf6\\xdfe-[U+D800]  scored" in done.stdout
    assert b"Traceback" not in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_an_audit_log_that_cannot_be_written_ends_the_run_in_one_line(three: Path, tmp_path: Path) -> None:
    done = run("score", three, "-j", "simulated", "-o", tmp_path / "s.jsonl", "--audit-log", "/dev/full")
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_a_file_whose_ids_changed_places_is_scored_anew(tmp_path: Path) -> None:
    out = tmp_path / "s.jsonl"
    run("score", write(tmp_path / "g.jsonl", [group("g", ["a", "bb" * 200])]), "-j", "simulated", "-o", out)
    done = run("score", write(tmp_path / "h.jsonl", [group("g", ["bb" * 200, "a"])]), "-j", "simulated", "-o", out)
    assert b"1 scored, 0 tied, 0 failed; 0 calls, 1 from the cache" in done.stdout, "arrival order is no new question"
    first, second = ([rollout["score"] for rollout in line["rollouts"]] for line in lines(out))
    assert first == second[::-1] != second


def test_resume_refuses_a_judge_with_other_settings(three: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.jsonl"
    run("score", three, "-j", "simulated", "-o", out)
    done = run("score", three, "-j", "simulated?seed=1", "-o", out)
    assert done.returncode == 2
    assert b"was made with judge 'simulated?quality=length', this run has" in done.stderr


def test_ids_cannot_forge_lines_or_steer_the_terminal(tmp_path: Path) -> None:
    path = write(tmp_path / "g.jsonl", [group("a\x1b[31m\nfailed: fake", ["x"]), group("b\x1b[2J", ["x", "y"])])
    for arguments in (["-o", tmp_path / "s.jsonl"], []):
        done = run("score", path, "-j", "simulated", *arguments)
        assert b"\x1b" not in done.stdout
        assert not any(line.startswith(b"failed: fake") for line in done.stdout.splitlines())


def test_the_version() -> None:
    assert run("--version").stdout.strip() == b"0.1.0"


def test_help_lists_the_commands() -> None:
    done = run("--help")
    assert done.returncode == 0
    for name in (b"score", b"pack", b"evaluate"):
        assert name in done.stdout
