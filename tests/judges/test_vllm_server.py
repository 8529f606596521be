"""The judge for OpenAI-compatible servers before a real vLLM server, with a tiny random model on the CPU."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from judges.litellm import LiteLLMJudge
from tests.judges.test_vllm_engine import ENVIRONMENT, assert_scores, need_vllm, once
from tests.judges.vllm_facts import DIGITS, fact, refused, request
from tests.tiny_model import CONTEXT_TOKENS, make_tiny_model

pytestmark = pytest.mark.slow

OPTIONS = {
    "--served-model-name": "tiny",
    "--host": "127.0.0.1",
    "--dtype": "float32",
    "--max-num-seqs": "16",
    "--gpu-memory-utilization": "0.3",
    # A random model would fill its reply with blanks.
    "--structured-outputs-config": json.dumps({"backend": "xgrammar", "disable_any_whitespace": True}),
}
START_SECONDS = 300


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The base URL of a server that lives as long as the block; all its processes end with it."""
    model = make_tiny_model(folder / "tiny")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [text for pair in (OPTIONS | {"--model": str(model), "--port": str(port)}).items() for text in pair]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager", *options],
            env=os.environ | ENVIRONMENT,
            stdout=log,
            stderr=log,
            start_new_session=True,  # a process group of its own
        )
    try:
        base = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_SECONDS
        while not healthy(f"{base}/health"):
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the server did not start:\n{(folder / 'log').read_text()[-6000:]}")
            time.sleep(0.2)
        yield f"{base}/v1"
    finally:
        try:
            server.terminate()
            with suppress(subprocess.TimeoutExpired):
                server.wait(20)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait(20)


def healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


async def ask(url: str) -> dict[str, Any]:
    judge = LiteLLMJudge(model="tiny", base_url=url)
    several = await asyncio.gather(*[judge(request(f"number {n}", max_tokens=200, seed=n)) for n in range(8)])
    first = await judge(request(max_tokens=200, seed=1))
    return {
        "first": fact(first) | {"model": first.model},
        "several": [fact(reply) for reply in several],
        "cut_off": fact(await judge(request(schema=DIGITS, max_tokens=20))),
        "too_long": await refused(judge(request("x" * 2 * CONTEXT_TOKENS, max_tokens=10))),
        "not_served": await refused(LiteLLMJudge(model="other", base_url=url)(request(max_tokens=10))),
    }


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    need_vllm()

    def find_out() -> dict[str, Any]:
        with serving(tmp_path_factory.mktemp("server")) as url:
            return asyncio.run(ask(url))

    return once(tmp_path_factory, "vllm_server", find_out)


def test_a_reply_in_the_form_of_the_schema_with_its_usage(facts: dict[str, Any]) -> None:
    first = facts["first"]
    assert_scores(first["text"])
    assert (first["model"], first["finish_reason"]) == ("tiny", "stop")
    calls, input_tokens, _, output_tokens, _ = first["usage"]
    assert calls == 1
    assert 10 < input_tokens < 100
    assert 20 < output_tokens < 200


def test_several_calls_at_once(facts: dict[str, Any]) -> None:
    assert len(facts["several"]) == 8
    for reply in facts["several"]:
        assert_scores(reply["text"])
    assert len({reply["text"] for reply in facts["several"]}) > 1


def test_a_reply_that_is_cut_off_says_so(facts: dict[str, Any]) -> None:
    assert facts["cut_off"]["finish_reason"] == "length"
    assert facts["cut_off"]["usage"][3] == 20


def test_a_prompt_over_the_window_is_rejected(facts: dict[str, Any]) -> None:
    kind, message = facts["too_long"]
    assert kind == "JudgeRejected", "what is unavailable would be asked again"
    assert str(CONTEXT_TOKENS) in message


def test_a_model_that_is_not_served_is_rejected(facts: dict[str, Any]) -> None:
    kind, message = facts["not_served"]
    assert kind == "JudgeRejected"
    assert "other" in message
