"""What the cache, the caps and the layers look like from the command line."""

from __future__ import annotations

import gzip
import json
import os
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from judges.scripted import scores_reply
from ruler.cli import app
from ruler.errors import ConfigError
from ruler.types import FENCE
from tests.local_server import LocalServer, Response, completion, error, user_text
from tests.redis_server import RedisServer, redis_server_fixture  # noqa: F401 - pytest finds it by its name
from tests.test_cli import COMMAND, group, lines, run, write

pytestmark = pytest.mark.slow


def call(*arguments: str | Path, exit_code: int = 0, **options) -> str:
    """Standard output of the command, run in this process."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], **options)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == exit_code, result.output
    return result.stdout


def scores(body) -> Response:
    """50 for every rollout; the longer the text, the more."""
    ids = [fence["id"] for fence in FENCE.finditer(user_text(body)) if not fence["close"]]
    return completion(scores_reply(dict.fromkeys(ids, 50)))


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    return write(tmp_path / "groups.jsonl", [group(f"g{n}", ["short", "longer " * n]) for n in range(1, 9)])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "replies.sqlite3"
    monkeypatch.setenv("RULER_CACHE", str(path))
    return path


# --- The same question is never paid twice ---


def test_a_second_run_into_another_file_asks_nothing(groups: Path, tmp_path: Path, cache: Path) -> None:
    replies: list[Callable] = [lambda body: completion("no json at all"), scores]
    with LocalServer(lambda body: replies[len(body["messages"]) > 2](body)) as server:
        judge = f"{server.url}#m"
        first = call("score", groups, "--judge", judge, "--out", tmp_path / "a.jsonl")
        asked = len(server.requests)
        second = call("score", groups, "--judge", judge, "--out", tmp_path / "b.jsonl")
        assert len(server.requests) == asked == 16, "each group was asked again once, for its unusable reply"
    assert "8 scored, 0 tied, 0 failed; 16 calls" in first
    assert "8 scored, 0 tied, 0 failed; 0 calls, 8 from the cache" in second

    def told(path: Path) -> list[tuple]:
        return sorted((line["group_id"], str(line["rollouts"])) for line in lines(path))

    assert told(tmp_path / "a.jsonl") == told(tmp_path / "b.jsonl")


def test_without_a_cache_everything_is_asked_again(groups: Path, tmp_path: Path) -> None:
    with LocalServer(scores) as server:
        for out in ("a.jsonl", "b.jsonl"):
            call("score", groups, "--judge", f"{server.url}#m", "--out", tmp_path / out, "--cache", "off")
        assert len(server.requests) == 16


@pytest.mark.slow
def test_two_runs_beside_each_other_pay_once(groups: Path, tmp_path: Path, cache: Path) -> None:
    def slowly(body) -> Response:
        reply = scores(body)
        return Response(reply.status, reply.headers, reply.body, delay_seconds=0.3)

    with LocalServer(slowly) as server:
        outs = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
        commands = [
            [*COMMAND, "score", str(groups), "--judge", f"{server.url}#m", "--out", str(out), "--concurrency", "2"]
            for out in outs
        ]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for command in commands]
        said = [process.communicate(timeout=60) for process in running]
        assert [process.returncode for process in running] == [0, 0], said
        assert len(server.requests) == 8
    assert [len(lines(out)) for out in outs] == [8, 8]


@pytest.mark.slow
def test_what_was_answered_before_a_kill_is_not_asked_again(groups: Path, tmp_path: Path, cache: Path) -> None:
    prompts: list[str] = []
    answered: set[str] = set()
    third = threading.Event()

    def reply(body) -> Response:
        prompts.append(user_text(body))
        if len(prompts) > 3 and not third.is_set():
            third.set()
            return Response(delay_seconds=30)
        return scores(body)

    with LocalServer(reply) as server:
        command = [*COMMAND, "score", str(groups), "--judge", f"{server.url}#m", "--concurrency", "1"]
        process = subprocess.Popen([*command, "--out", str(tmp_path / "a.jsonl")], stderr=subprocess.PIPE)
        assert third.wait(30)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        answered = set(prompts[:3])
        prompts.clear()
        began = time.monotonic()
        done = run("score", groups, "--judge", f"{server.url}#m", "--out", tmp_path / "b.jsonl")
        assert done.returncode == 0, done.stderr
        assert b"5 calls, 3 from the cache" in done.stdout
        assert not answered & set(prompts)
        assert time.monotonic() - began < 45, "the dead process's lease ran out"


def test_the_cache_in_a_redis_server(groups: Path, tmp_path: Path, redis_server: RedisServer) -> None:
    cache = ["--cache", redis_server.url]
    with LocalServer(scores) as server:
        for out in ("a.jsonl", "b.jsonl"):
            said = call("score", groups, "--judge", f"{server.url}#m", "--out", tmp_path / out, *cache)
        assert len(server.requests) == 8
    assert "0 calls, 8 from the cache" in said
    assert json.loads(call("cache", "stats", "--json", *cache))["entries"] == 8
    assert call("cache", "clear", "--yes", *cache) == "8 replies removed\n"


# --- Failures on the way ---


@pytest.mark.slow
def test_an_outage_is_retried_and_shown(groups: Path, tmp_path: Path, cache: Path) -> None:
    failures = iter([True, False, True] + [False] * 100)

    def reply(body) -> Response:
        return error(429, "slow down", {"Retry-After": "0.1"}) if next(failures) else scores(body)

    with LocalServer(reply) as server:
        said = call("score", groups, "--judge", f"{server.url}#m", "--out", tmp_path / "a.jsonl", "--concurrency", "1")
    assert "8 scored, 0 tied, 0 failed; 10 calls, 2 retries, " in said
    assert " s waited, " in said


def test_a_refusal_is_not_retried(groups: Path, tmp_path: Path, cache: Path) -> None:
    with LocalServer(lambda body: error(401, "no such key")) as server:
        call("score", groups, "--judge", f"{server.url}#m", "--limit", "1", exit_code=1)
        assert len(server.requests) == 1


def test_a_fallback_answers_and_is_named(groups: Path, tmp_path: Path, cache: Path) -> None:
    out = tmp_path / "a.jsonl"
    with LocalServer(lambda body: error(401, "no")) as server:
        judge = f"{server.url}#m"
        call("score", groups, "--judge", judge, "--fallback", "simulated", "--out", out)
    for line in lines(out):
        assert line["judge"] == f"{judge} -> simulated?quality=length"
        assert line["answered_by"] == "simulated?quality=length"


def test_a_jury_says_what_each_judge_took(groups: Path, tmp_path: Path, cache: Path) -> None:
    out = tmp_path / "a.jsonl"
    said = call("score", groups, "-j", "simulated", "-j", "simulated?quality=hash", "--out", out)
    assert "16 calls" in said
    assert "\n  simulated?quality=length: 8 calls" in said
    assert "\n  simulated?quality=hash: 8 calls" in said
    assert [juror["judge"] for juror in lines(out)[0]["jury"]] == ["simulated?quality=length", "simulated?quality=hash"]


def test_a_judge_of_the_policys_family_is_warned_of(groups: Path, cache: Path) -> None:
    with LocalServer(scores) as server:
        done = run("score", groups, "--judge", f"{server.url}#Qwen/Qwen3-32B", "--policy", "Qwen/Qwen2.5-7B")
    assert done.returncode == 0
    assert done.stderr.startswith(b"warning: ")
    assert b"qwen" in done.stderr.lower()
    assert b".py" not in done.stderr


@pytest.mark.slow
def test_an_interrupted_run_says_what_its_unfinished_groups_took(groups: Path, tmp_path: Path, cache: Path) -> None:
    asked = threading.Event()

    def reply(body) -> Response:
        if len(server.requests) > 3:
            asked.set()
            return Response(delay_seconds=30)
        return completion("no json")

    with LocalServer(reply) as server:
        command = [*COMMAND, "score", str(groups), "--judge", f"{server.url}#m?reasks=50", "--concurrency", "1"]
        process = subprocess.Popen([*command, "--out", str(tmp_path / "a")], stdout=subprocess.PIPE)
        assert asked.wait(30)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=30)[0]
        assert process.returncode == 130
    assert b"0 scored, 0 tied, 0 failed; 4 calls, 300 input and 30 output tokens, cost unknown" in said


# --- Caps ---


def test_a_cap_on_money_stops_before_it_is_passed_and_keeps_what_is_there(
    groups: Path, tmp_path: Path, cache: Path
) -> None:
    out = tmp_path / "a.jsonl"
    with LocalServer(scores) as server:  # 100 and 10 tokens a reply
        judge = f"{server.url}#m?input_price=1000&output_price=1000&max_tokens=20"
        command = ["score", groups, "--judge", judge, "--out", out, "--concurrency", "1", "--max-cost-usd", "0.7"]
        said = call(*command, exit_code=3)
        asked = len(server.requests)
    assert 1 <= asked <= 6, "a reply costs $0.11"
    assert f"{asked} scored, 0 tied, {8 - asked} failed" in said
    assert "budget: the cap of $0.7 is reached" in said
    assert [line["status"] for line in lines(out)].count("scored") == asked


def test_a_cap_needs_a_known_price(groups: Path, cache: Path) -> None:
    with pytest.raises(ConfigError, match="max_cost_usd: the price of .*#m is unknown"):
        call("score", groups, "--judge", "http://127.0.0.1:9/v1#m", "--max-cost-usd", "1")


def test_a_settings_file_says_the_same_as_options(groups: Path, tmp_path: Path) -> None:
    settings = tmp_path / "judge.toml"
    settings.write_text(f'judge = "simulated"\ncache = "{tmp_path / "here.db"}"\nmax_total_tokens = 2000\n')
    said = call("score", groups, "--settings", settings, "--concurrency", "1", "--out", tmp_path / "a", exit_code=3)
    assert "the cap of 2,000 tokens is reached" in said
    assert (tmp_path / "here.db").exists()
    call("score", groups, "--settings", settings, "--max-total-tokens", "2000000", "--out", tmp_path / "a")


# --- ruler cache ---


def test_stats_clear_export_import_and_replay_without_a_key(groups: Path, tmp_path: Path, cache: Path) -> None:
    with LocalServer(scores) as server:
        judge = f"{server.url}#m"
        call("score", groups, "--judge", judge, "--out", tmp_path / "a.jsonl")
    figures = json.loads(call("cache", "stats", "--json"))
    assert (figures["entries"], figures["unreadable"]) == (8, 0)
    assert figures["location"] == str(cache)
    assert figures["size_bytes"] >= os.path.getsize(cache)
    assert figures["judges"][judge]["entries"] == 8
    assert figures["judges"][judge]["usage"]["input_tokens"] == 800
    assert f"{cache}: 8 replies" in call("cache", "stats")

    exported = tmp_path / "replies.jsonl.gz"
    call("cache", "export", exported)
    records = [json.loads(line) for line in gzip.decompress(exported.read_bytes()).splitlines()]
    assert len({record["key"] for record in records}) == 8
    assert "task g1" not in gzip.decompress(exported.read_bytes()).decode(), "prompts stay here"
    assert call("cache", "import", exported) == "0 replies added, 8 were there already\n"

    elsewhere = tmp_path / "elsewhere.sqlite3"
    assert call("cache", "import", exported, "--cache", elsewhere) == "8 replies added, 0 were there already\n"
    replay = ["--cache", elsewhere, "--cache-mode", "readonly"]
    said = call("score", groups, "--judge", f"{judge}?api_key_env=NOT_SET", *replay, "--out", tmp_path / "b.jsonl")
    assert "8 scored, 0 tied, 0 failed; 0 calls, 8 from the cache" in said

    assert call("cache", "clear", "--older-than", "1h", "--yes") == "0 replies removed\n"
    assert call("cache", "clear", "--yes") == "8 replies removed\n"
    assert json.loads(call("cache", "stats", "--json"))["entries"] == 0


def test_import_mends_an_entry_that_cannot_be_read(groups: Path, tmp_path: Path, cache: Path) -> None:
    call("score", groups, "--judge", "simulated", "--limit", "1")
    exported = tmp_path / "replies.jsonl"
    call("cache", "export", exported)
    with sqlite3.connect(cache) as database:
        database.execute("UPDATE entries SET text = 'half a li'")
    database.close()
    assert json.loads(call("cache", "stats", "--json"))["unreadable"] == 1
    assert call("cache", "import", exported) == "1 replies added, 0 were there already\n"
    said = call(
        "score",
        groups,
        "--judge",
        "simulated",
        "--limit",
        "1",
        "--cache-mode",
        "readonly",
        "--json",
        "-o",
        tmp_path / "z",
    )
    assert json.loads(said)["usage"]["cache_hits"] == 1


def test_refresh_asks_again_and_keeps_the_new_answers(groups: Path, tmp_path: Path, cache: Path) -> None:
    value = [50]

    def reply(body) -> Response:
        ids = [fence["id"] for fence in FENCE.finditer(user_text(body)) if not fence["close"]]
        return completion(scores_reply(dict.fromkeys(ids, value[0])))

    with LocalServer(reply) as server:
        judge = ["--judge", f"{server.url}#m"]
        call("score", groups, *judge, "--out", tmp_path / "a")
        value[0] = 60
        assert "8 calls" in call("score", groups, *judge, "--out", tmp_path / "b", "--cache-mode", "refresh")
        call("score", groups, *judge, "--out", tmp_path / "c")
        assert len(server.requests) == 16
    assert {rollout["score"] for line in lines(tmp_path / "c") for rollout in line["rollouts"]} == {0.6}


@pytest.mark.parametrize(
    "refusal",
    [
        error(400, "This model's maximum context length is 100 tokens", code="context_length_exceeded"),
        error(400, "content management policy", code="content_filter"),
        completion("", finish_reason="content_filter"),
        error(403, "forbidden"),
    ],
)
def test_what_no_waiting_mends_is_asked_once_through_the_whole_stack(groups: Path, cache: Path, refusal) -> None:
    with LocalServer(lambda body: refusal) as server:
        call("score", groups, "--judge", f"{server.url}#m", "--limit", "1", exit_code=1)
        assert len(server.requests) <= 3, "at most once for each form of the reply"
        assert len({request.body.get("response_format", {}).get("type") for request in server.requests}) == len(
            server.requests
        )


def test_a_cap_holds_with_many_calls_at_once_and_for_a_whole_jury(groups: Path, tmp_path: Path, cache: Path) -> None:
    with LocalServer(scores) as one, LocalServer(scores) as two:  # $0.11 a reply
        prices = "input_price=1000&output_price=1000&max_tokens=20"
        judges = ["-j", f"{one.url}#m?{prices}", "-j", f"{two.url}#m?{prices}"]
        said = call("score", groups, *judges, "--max-cost-usd", "0.9", "--out", tmp_path / "a", exit_code=3)
        asked = len(one.requests) + len(two.requests)
    assert 2 <= asked <= 9
    assert "budget: " in said


def test_clear_asks_first(groups: Path, cache: Path) -> None:
    call("score", groups, "--judge", "simulated")
    with pytest.raises(ConfigError, match=f"would remove all replies from {cache}; say --yes"):
        call("cache", "clear")
    assert json.loads(call("cache", "stats", "--json"))["entries"] == 8


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: no exported reply"),
        ("[]", r"line 2: no exported reply: expected an object, got \[\]"),
        ('{"key": "zz"}', "line 2: no exported reply: key: expected 64 hexadecimal digits, got 'zz'"),
        (json.dumps({"key": "0" * 64}), "line 2: no exported reply: not an entry"),
        (json.dumps({"key": "0" * 64, "version": 9}), "version: expected 1, got 9"),
    ],
)
def test_a_broken_line_is_named_and_what_was_before_it_is_kept(
    groups: Path, tmp_path: Path, cache: Path, line: str, message: str
) -> None:
    call("score", groups, "--judge", "simulated")
    exported = tmp_path / "replies.jsonl"
    call("cache", "export", exported)
    first = exported.read_text().splitlines()[0]
    exported.write_text(f"{first}\n{line}\n")
    elsewhere = tmp_path / "elsewhere.db"
    with pytest.raises(ConfigError, match=message) as caught:
        call("cache", "import", exported, "--cache", elsewhere)
    assert "1 replies before it were added" in str(caught.value)
    assert json.loads(call("cache", "stats", "--json", "--cache", elsewhere))["entries"] == 1


def test_an_export_that_cannot_be_written_leaves_nothing(groups: Path, tmp_path: Path, cache: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere/x.jsonl: cannot be written"):
        call("cache", "export", tmp_path / "nowhere" / "x.jsonl")
    call("cache", "export", tmp_path / "x.jsonl")
    assert [path.name for path in tmp_path.glob("x.jsonl*")] == ["x.jsonl"]


def test_an_export_never_replaces_the_cache_or_what_is_no_file(groups: Path, tmp_path: Path, cache: Path) -> None:
    call("score", groups, "--judge", "simulated")
    link = tmp_path / "link"
    link.symlink_to(cache)
    for place in (cache, f"{cache}-wal", link):
        with pytest.raises(ConfigError, match="is the cache itself"):
            call("cache", "export", place)
    call("cache", "export", "/dev/null")
    assert not Path("/dev/null").is_file()
    target = tmp_path / "target.jsonl"
    target.touch()
    (tmp_path / "to_target").symlink_to(target)
    call("cache", "export", tmp_path / "to_target")
    assert len(lines(target)) == json.loads(call("cache", "stats", "--json"))["entries"] == 8


def test_a_full_disk_is_told_with_the_file(groups: Path, cache: Path) -> None:
    call("score", groups, "--judge", "simulated")
    with pytest.raises(ConfigError, match="/dev/full: cannot be written: No space left"):
        call("cache", "export", "/dev/full")


def test_the_cache_is_no_place_for_other_output(groups: Path, tmp_path: Path, cache: Path) -> None:
    call("score", groups, "--judge", "simulated")
    for option in ("--audit-log", "--out"):
        with pytest.raises(ConfigError, match=f"{option} {cache}: is the same file as --cache"):
            call("score", groups, "--judge", "simulated", option, cache)
    assert json.loads(call("cache", "stats", "--json"))["entries"] == 8


@pytest.mark.parametrize("text", ["30", "-1d", "1w", "d", "1d2h"])
def test_a_bad_age_is_named(text: str, cache: Path) -> None:
    with pytest.raises(ConfigError, match=f"--older-than: .*got '{text}'"):
        call("cache", "clear", f"--older-than={text}", "--yes")


def test_a_file_that_is_no_cache_is_refused_and_left_alone(groups: Path, tmp_path: Path) -> None:
    before = groups.read_bytes()
    for command in (["cache", "stats"], ["score", groups, "--judge", "simulated"]):
        with pytest.raises(ConfigError, match=str(groups)):
            call(*command, "--cache", groups)
    assert groups.read_bytes() == before
