"""Orders, blocks and windows from the command line."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.test_cli import group, lines, run, write

pytestmark = pytest.mark.slow

NOISY = "simulated?quality=hash&noise=0.2&slot_bias=0.3"


def words(seed: int, number: int) -> str:
    rng = random.Random(seed)
    return " ".join(str(rng.randrange(10**6)) for _ in range(number))


@pytest.fixture
def fives(tmp_path: Path) -> Path:
    records = [group(f"g{n}", [words(10 * n + k, 20) for k in range(5)]) for n in range(12)]
    for record in records:
        for truth, rollout in enumerate(record["rollouts"]):
            rollout["truth"] = truth / 4
    return write(tmp_path / "groups.jsonl", records)


@pytest.fixture
def agents(tmp_path: Path) -> Path:
    """One group of tool users with long outputs, of which two got the same one."""
    rollouts = []
    for n, seed in enumerate((1, 1, 2), 1):
        call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
        messages = [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": words(seed, 3_000)},
            {"role": "assistant", "content": f"answer {n}"},
        ]
        rollouts.append({"id": f"r{n}", "messages": messages})
    return write(tmp_path / "agents.jsonl", [{"group_id": "agents", "task": "Look.", "rollouts": rollouts}])


def scores(path: Path) -> dict[str, dict[str, float]]:
    return {line["group_id"]: {one["id"]: one["score"] for one in line["rollouts"]} for line in lines(path)}


def test_results_of_several_orders(fives: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    done = run("score", fives, "--judge", NOISY, "--orders", "4", "--out", out)
    assert done.returncode == 0, done.stderr
    assert b"reliability 0." in done.stdout
    for line in lines(out):
        assert (line["orders"], line["adaptive"], line["orders_used"]) == (4, False, 4)
        assert [(judged["order"], judged["block"]) for judged in line["judged"]] == [(n, 0) for n in range(4)]
        assert line["usage"]["calls"] == 4
        for rollout in line["rollouts"]:
            given = [dict(zip(j["rollout_ids"], j["scores"], strict=True))[rollout["id"]] for j in line["judged"]]
            assert rollout["score"] == pytest.approx(sum(given) / 4, abs=1e-9)
            assert 0 <= rollout["stderr"] < 1


def test_more_orders_ask_only_what_was_not_asked_before(fives: Path, tmp_path: Path) -> None:
    cache = ("--cache", tmp_path / "cache.sqlite3", "--judge", NOISY)
    run("score", fives, *cache, "--orders", "2", "--out", tmp_path / "two.jsonl")
    done = run("score", fives, *cache, "--orders", "4", "--out", tmp_path / "four.jsonl")
    assert b"24 calls, 24 from the cache" in done.stdout
    done = run("score", fives, *cache, "--orders", "4", "--adaptive", "--out", tmp_path / "adaptive.jsonl")
    assert b"0 calls" in done.stdout


def test_adaptive_buys_for_some(fives: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    judge = "simulated?quality=hash&noise=0.35"
    assert run("score", fives, "--judge", judge, "--orders", "4", "--adaptive", "--out", out).returncode == 0
    used = Counter(line["orders_used"] for line in lines(out))
    assert set(used) == {2, 4}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (["--orders", "2"], "orders"),
        (["--orders", "4", "--adaptive"], "adaptive"),
        (["--orders", "4", "--max-block", "3"], "prompt_version"),
        (["--orders", "4", "--context-tokens", "9000"], "prompt_version"),
        (["--orders", "4", "--no-shared-text"], "prompt_version"),
    ],
)
def test_a_file_made_with_another_plan_is_refused(fives: Path, tmp_path: Path, changed: list[str], named: str) -> None:
    out = tmp_path / "out.jsonl"
    run("score", fives, "--judge", NOISY, "--orders", "4", "--out", out, "--limit", "2")
    done = run("score", fives, "--judge", NOISY, *changed, "--out", out)
    assert done.returncode == 2
    assert f"was made with {named} ".encode() in done.stderr
    assert run("score", fives, "--judge", NOISY, "--orders", "4", "--out", out).returncode == 0
    assert len(lines(out)) == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--orders", "3"], b"orders: expected 1, 2, 4 or \"full\", got '3'"),
        (["--orders", "all"], b"orders: expected"),
        (["--orders", "-1"], b"orders: expected"),
        (["--orders", "9" * 5_000], b"orders: expected"),
        (["--orders", "\u00b2"], b"orders: expected"),
        (["--orders", "2", "--adaptive"], b"adaptive: two orders are asked first"),
        (["--orders", "2", "--min-orders", "3"], b"min_orders: expected a whole number from 1 to orders (2), got 3"),
        (["--max-block", "1"], b"max_block: expected a whole number of at least 2, got 1"),
        (["--context-tokens", "0"], b"context_tokens: expected a whole number of at least 1, got 0"),
    ],
)
@pytest.mark.parametrize("command", ["score", "evaluate", "pack"])
def test_bad_plans_are_one_clear_line(command: str, options: list[str], message: bytes, fives: Path) -> None:
    if command == "pack" and len(options) > 2:
        return  # it asks nobody, so it has no such option
    done = run(command, fives, *(["--judge", NOISY] if command != "pack" else []), *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_large_groups_are_scored_in_blocks(tmp_path: Path) -> None:
    path = write(tmp_path / "large.jsonl", [group("large", [words(n, 5) for n in range(20)])])
    out = tmp_path / "out.jsonl"
    run("score", path, "--judge", NOISY, "--max-block", "6", "--out", out)
    (line,) = lines(out)
    assert (line["orders"], line["orders_used"]) == (1, 2)
    assert Counter(judged["order"] for judged in line["judged"]) == {0: 4, 1: 4}
    assert all(len(judged["rollout_ids"]) <= 6 for judged in line["judged"])
    assert len(line["rollouts"]) == 20


def test_cuts_are_reported(agents: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    run("score", agents, "--judge", NOISY, "--context-tokens", "12000", "--out", out)
    (line,) = lines(out)
    assert all(one["cut_chars"] > 5_000 and one["flags"] == ["cut"] for one in line["rollouts"])
    run("score", agents, "--judge", NOISY, "--out", tmp_path / "whole.jsonl")
    (line,) = lines(tmp_path / "whole.jsonl")
    assert not any("cut_chars" in one or "flags" in one for one in line["rollouts"])


def test_pack_prints_what_score_asks(fives: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    run(
        "score",
        fives,
        "--judge",
        NOISY,
        "--orders",
        "2",
        "--max-block",
        "4",
        "--audit-log",
        log,
        "--out",
        tmp_path / "o",
    )
    done = run("pack", fives, "--orders", "2", "--max-block", "4", "--json")
    packed = [json.loads(line) for line in done.stdout.splitlines()]
    asked = [json.loads(line) for line in log.read_bytes().splitlines()]

    def keys(found: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
        return sorted((one["group_id"], one["order"], one["block"], tuple(one["ids"])) for one in found)

    assert keys(packed) == keys(asked)
    assert len(packed) == 12 * 2 * 2


def test_pack_shows_orders_blocks_cuts_and_shared_text(agents: Path) -> None:
    done = run("pack", agents, "--orders", "2", "--context-tokens", "12000")
    shown = done.stdout.decode()
    assert shown.count("<shared_text>") == 1
    assert "[cut: " in shown
    assert "shared text" in shown
    assert "rollouts in the order shown (characters cut)" in shown
    assert "r1 (-" in shown
    assert "window of 12,000 tokens: the fullest prompt takes " in shown
    whole = run("pack", agents, "--no-shared-text").stdout.decode()
    assert "<shared_text>" not in whole
    assert "[cut: " not in whole


def test_pack_of_what_does_not_fit_and_of_what_reads_the_same(agents: Path, tmp_path: Path) -> None:
    done = run("pack", agents, "--context-tokens", "700")
    assert done.returncode == 1
    assert b"failed: group 'agents': the prompt that shows rollouts" in done.stderr
    same = write(tmp_path / "same.jsonl", [group("same", ["a", "a"])])
    done = run("pack", same)
    assert done.returncode == 0
    assert b"all rollouts read the same, so nothing would be asked" in done.stdout
    assert run("pack", same, "--json").stdout == b""


def test_evaluate_in_orders_says_how_far_the_judge_agrees_with_itself(tmp_path: Path) -> None:
    rng = random.Random(0)
    records = []
    for n in range(30):
        record = group(f"g{n}", [words(100 * n + k, 10) for k in range(6)])
        for rollout in record["rollouts"]:
            rollout["truth"] = rng.random()
        records.append(record)
    path = write(tmp_path / "truth.jsonl", records)
    judge = "simulated?quality=truth&noise=0.5"
    once = json.loads(run("evaluate", path, "--judge", judge, "--json").stdout)
    often = json.loads(run("evaluate", path, "--judge", judge, "--orders", "full", "--max-block", "4", "--json").stdout)
    assert once["reliability"] is None
    assert 0 < often["reliability"] < 1
    assert often["rows"]["judge"]["overall"]["accuracy"] > once["rows"]["judge"]["overall"]["accuracy"]
    assert b"reliability 0." in run("evaluate", path, "--judge", judge, "--orders", "2").stdout


def test_a_group_that_does_not_fit_leaves_the_others_their_truth(tmp_path: Path) -> None:
    records = [group(f"g{n}", [words(100 * n + k, 30) for k in range(3)]) for n in range(4)]
    records.append(group("big", [words(k, 5_000) for k in range(3)]))
    for record in records:
        for truth, rollout in enumerate(record["rollouts"]):
            rollout["truth"] = truth / 2
    path = write(tmp_path / "truth.jsonl", records)
    done = run("evaluate", path, "--judge", "simulated?quality=truth", "--context-tokens", "4000", "--json")
    report = json.loads(done.stdout)
    assert [failure["group_id"] for failure in report["failures"]] == ["big"]
    assert report["rows"]["judge"]["overall"]["accuracy"] == 1.0


def test_failed_orders_are_shown(fives: Path, tmp_path: Path) -> None:
    judge = f"{NOISY}&failure=0.2"
    out = tmp_path / "out.jsonl"
    done = run("score", fives, "--judge", judge, "--orders", "4", "--min-orders", "2", "--out", out)
    maimed = sum("failed_orders" in line for line in lines(out))
    assert maimed
    assert f" scored ({maimed} although orders failed)".encode() in done.stdout
    shown = run("score", fives, "--judge", judge, "--orders", "4", "--min-orders", "2").stdout
    assert b"3 orders (1 failed), " in shown


def test_failed_orders_are_asked_again_where_all_are_needed(fives: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    command = ("score", fives, "--judge", NOISY, "--orders", "2", "--out", out)
    assert run(*command).returncode == 0
    whole = lines(out)
    maimed = whole[0] | {"failed_orders": [{"judge": "m", "order": 1, "reason": "reply", "message": "no"}]}
    write(out, [maimed, *whole[1:]])
    assert b"0 scored, 0 tied, 0 failed, 12 already there" in run(*command, "--min-orders", "1").stdout
    assert any("failed_orders" in line for line in lines(out))
    assert b"1 scored, 0 tied, 0 failed, 11 already there" in run(*command).stdout
    assert sorted(line["group_id"] for line in lines(out)) == sorted(line["group_id"] for line in whole)
    assert not any("failed_orders" in line for line in lines(out))
