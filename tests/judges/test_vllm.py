"""The judge over a fake of vLLM; the real one has its turn in test_vllm_engine.py."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from judges.local_model import local_name
from judges.vllm import VLLMJudge
from judges.vllm_engine import _stop_workers
from ruler.errors import ConfigError, JudgeRejected, JudgeUnavailable, ReplyError
from ruler.types import JudgeRequest, Sampling, Usage
from tests.judges.fake_vllm import EngineDeadError, FakeVLLM

pytestmark = pytest.mark.slow  # with a real tokenizer and real threads

SCHEMA = {"type": "object"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 900}))
    Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?")).save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVLLM]:
    fake = FakeVLLM()
    fake.install(monkeypatch)
    yield fake
    fake.loading.set()
    _stop_workers()  # as at the end of the process
    assert workers() == []


def request(text: str = "hello", **fields: object) -> JudgeRequest:
    return JudgeRequest(messages=({"role": "user", "content": text},), schema=SCHEMA, ids=(), **fields)


def long(text: str = "long") -> JudgeRequest:
    return request(text, sampling=Sampling(max_tokens=100_000))


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ruler-vllm"]


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.001)


async def until(condition: Callable[[], object]) -> None:
    await asyncio.to_thread(wait_until, condition)


# --- Making one ---


def test_without_vllm_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "vllm" else found(name))
    with pytest.raises(ConfigError, match=r"tiny.*pip install 'ruler-judge\[vllm\]'"):
        VLLMJudge(str(folder))


def test_importing_it_loads_neither_torch_nor_vllm() -> None:
    code = "import sys, judges.vllm; print({'torch', 'vllm', 'transformers', 'tokenizers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampling": Sampling(reasoning_effort="low")}, "reasoning_effort"),
        ({"sampling": Sampling(seed=-1)}, "seed.*-1"),
        ({"sampling": Sampling(seed=2**63)}, "seed"),
        ({"sampling": Sampling(temperature=-0.5)}, "temperature.*-0.5"),
        ({"sampling": Sampling(temperature=float("nan"))}, "temperature.*nan"),
        ({"sampling": Sampling(top_p=0.0)}, "top_p.*0.0"),
        ({"sampling": Sampling(max_tokens=0)}, "max_tokens.*0"),
        ({"context_tokens": 0}, "context_tokens.*0"),
        ({"engine": {"max_model_len": 100}}, "max_model_len is set by context_tokens"),
        ({"engine": {"model": "other"}}, "model is set by"),
    ],
)
def test_wrong_settings_are_named(vllm: FakeVLLM, folder: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VLLMJudge(str(folder), **settings)


def test_a_model_that_is_not_there(vllm: FakeVLLM, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        VLLMJudge(str(tmp_path / "nowhere"))


def test_a_config_or_tokenizer_that_cannot_be_read(vllm: FakeVLLM, folder: Path) -> None:
    (folder / "tokenizer.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"tokenizer\.json: cannot be read"):
        VLLMJudge(str(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json: cannot be read"):
        VLLMJudge(str(folder))


def test_what_it_says_of_itself(vllm: FakeVLLM, folder: Path) -> None:
    sampling = Sampling(temperature=0, seed=3)
    info = VLLMJudge(str(folder), sampling=sampling).info
    assert (info.backend, info.model) == ("vllm", f"vllm:{local_name(str(folder))}")
    assert (info.sampling, info.context_tokens, info.images, info.prefix_cache) == (sampling, 900, False, False)
    assert (info.input_price, info.output_price, info.cacheable) == (0.0, 0.0, True)
    assert info.count_tokens is not None
    assert (info.count_tokens("a"), info.count_tokens("\ud800")) == (1, 1)
    assert vllm.events == []


def test_only_what_may_change_the_answers_is_part_of_its_name(vllm: FakeVLLM, folder: Path) -> None:
    plain = VLLMJudge(str(folder)).info.model
    fast = VLLMJudge(str(folder), engine={"max_num_seqs": 4, "enforce_eager": True, "tensor_parallel_size": 2})
    assert fast.info.model == plain
    other = VLLMJudge(str(folder), engine={"quantization": "fp8", "hf_overrides": {"a": 1}, "max_num_seqs": 4})
    assert other.info.model == f'{plain}+hf_overrides={{"a": 1}}+quantization=fp8'


@pytest.mark.parametrize(
    ("config", "tokenizer_config", "tokens"),
    [
        ({"max_position_embeddings": 900, "seq_length": 800}, {}, 800),
        ({"text_config": {"max_position_embeddings": 700}, "seq_length": 5}, {}, 700),
        ({"max_position_embeddings": 900}, {"model_max_length": 512}, 512),
        ({"max_position_embeddings": 900}, {"model_max_length": int(1e30)}, 900),
        ({}, {}, None),
    ],
)
def test_its_window(vllm: FakeVLLM, folder: Path, config: object, tokenizer_config: object, tokens: int | None) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    assert VLLMJudge(str(folder)).info.context_tokens == tokens
    assert VLLMJudge(str(folder), context_tokens=300).info.context_tokens == 300


# --- One call ---


async def test_the_engine_is_loaded_by_the_first_call(vllm: FakeVLLM, folder: Path) -> None:
    judge = VLLMJudge(str(folder), context_tokens=300, engine={"dtype": "float32", "enable_prefix_caching": False})
    assert (vllm.events, workers()) == ([], [])
    reply = await judge(request())
    await judge(request())
    assert vllm.events == ["load"]
    (arguments,) = vllm.arguments
    assert arguments["model"] == str(folder)
    assert (arguments["max_model_len"], arguments["dtype"]) == (300, "float32")
    assert arguments["enable_prefix_caching"] is False
    num_tokens = len("user:\nhello\n\nassistant:\n")
    assert (reply.text, reply.model, reply.finish_reason) == ("{}", judge.info.model, "stop")
    assert reply.usage == Usage(calls=1, input_tokens=num_tokens, output_tokens=2, cost_usd=0.0)
    assert reply.latency_seconds > 0


async def test_sampling_comes_from_the_request_then_from_the_model(vllm: FakeVLLM, folder: Path) -> None:
    vllm.defaults = {"temperature": 0.6, "top_k": 20, "max_tokens": 7}
    judge = VLLMJudge(str(folder))
    await judge(request())
    await judge(request(sampling=Sampling(temperature=0, top_p=0.9, max_tokens=5, seed=3)))
    first, second = vllm.parameters
    assert (first.temperature, first.top_k, first.max_tokens, hasattr(first, "seed")) == (0.6, 20, None, False)
    assert (second.temperature, second.top_p, second.max_tokens, second.seed) == (0.0, 0.9, 5, 3)
    assert json.loads(second.structured_outputs.json) == SCHEMA


async def test_a_repeat_is_sampled_from_another_seed(vllm: FakeVLLM, folder: Path) -> None:
    judge = VLLMJudge(str(folder))
    for repeat in (0, 0, 1, 2, 1):
        await judge(request(sampling=Sampling(seed=3), repeat=repeat))
    seeds = [parameters.seed for parameters in vllm.parameters]
    assert seeds[:2] == [3, 3]
    assert seeds[2] == seeds[4]
    assert len(set(seeds)) == 3


async def test_prompts_that_cannot_be_asked_are_rejected_and_harm_nobody(vllm: FakeVLLM, folder: Path) -> None:
    judge = VLLMJudge(str(folder))
    with pytest.raises(JudgeRejected, match=r"tiny.*the prompt has 2019 tokens, and the window 1000") as caught:
        await judge(request("x" * 2000))
    assert caught.value.usage == Usage(calls=1, cost_usd=0.0)
    picture = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}]}
    with pytest.raises(JudgeRejected, match="image_url"):
        await judge(JudgeRequest(messages=(picture,), schema=SCHEMA, ids=()))
    with pytest.raises(JudgeRejected, match="this grammar is not supported"):
        await judge(JudgeRequest(messages=request().messages, schema={"unsupported": 1}, ids=()))
    with pytest.raises(ConfigError, match="reasoning_effort"):
        await judge(request(sampling=Sampling(reasoning_effort="low")))
    assert (await judge(request())).text == "{}"
    assert vllm.events == ["load"]


async def test_replies_that_are_none(vllm: FakeVLLM, folder: Path) -> None:
    judge = VLLMJudge(str(folder))
    vllm.text, vllm.finish_reason = " \n", "length"
    with pytest.raises(ReplyError, match="empty.*'length'.*cut off at 2 tokens") as caught:
        await judge(request())
    assert (caught.value.raw, caught.value.finish_reason) == (" \n", "length")
    assert caught.value.usage is not None
    assert caught.value.usage.output_tokens == 2
    vllm.text = '{"half'
    assert (await judge(request())).finish_reason == "length"
    vllm.finish_reason = "error"
    with pytest.raises(JudgeRejected, match="error"):
        await judge(request())
    vllm.finish_reason = "abort"
    with pytest.raises(JudgeUnavailable, match="aborted"):
        await judge(request())


# --- Many calls ---


async def test_who_comes_late_joins_the_running_batch_and_leaves_it_first(vllm: FakeVLLM, folder: Path) -> None:
    judge = VLLMJudge(str(folder))
    first = asyncio.create_task(judge(long()))
    await until(lambda: vllm.batches)
    await asyncio.gather(*[judge(request()) for _ in range(5)])
    assert not first.done()
    assert max(vllm.batches) == 6
    first.cancel()


async def test_a_cancelled_call_leaves_the_batch_and_the_others_stay(vllm: FakeVLLM, folder: Path) -> None:
    judge = VLLMJudge(str(folder))
    cancelled, stays = asyncio.create_task(judge(long())), asyncio.create_task(judge(long()))
    await until(lambda: vllm.batches[-1:] == [2])
    cancelled.cancel()
    await asyncio.wait([cancelled])
    await until(lambda: vllm.batches[-1] == 1)
    assert cancelled.cancelled()
    assert len(vllm.aborted) == 1
    assert not stays.done()
    assert (await judge(request())).text == "{}"
    stays.cancel()


async def test_a_call_cancelled_while_the_engine_loads_is_never_asked(vllm: FakeVLLM, folder: Path) -> None:
    judge = VLLMJudge(str(folder))
    vllm.loading.clear()
    cancelled, stays = asyncio.create_task(judge(long("no"))), asyncio.create_task(judge(request("yes")))
    await until(lambda: vllm.events)
    cancelled.cancel()
    await asyncio.wait([cancelled])
    vllm.loading.set()
    await stays
    assert len(vllm.prompts) == 1
    assert "yes" in vllm.prompts[0]


def test_several_event_loops_share_one_engine(vllm: FakeVLLM, folder: Path) -> None:
    judge = VLLMJudge(str(folder))
    replies: list[object] = []

    async def ask() -> None:
        replies.extend(await asyncio.gather(*[judge(request(sampling=Sampling(max_tokens=50))) for _ in range(8)]))

    threads = [threading.Thread(target=asyncio.run, args=(ask(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(replies) == 24
    assert vllm.events == ["load"]
    assert max(vllm.batches) > 8


# --- Failures ---


@pytest.mark.parametrize(
    ("fault", "error", "says"),
    [
        (RuntimeError("out\nof memory"), JudgeUnavailable, "the engine did not start: out of memory"),
        (SystemExit(1), JudgeUnavailable, "the engine did not start: 1"),
        (ValueError("no such architecture"), JudgeRejected, "vLLM cannot load it: no such architecture"),
        (TypeError("unexpected argument 'x'"), JudgeRejected, "cannot load it: unexpected argument"),
    ],
)
async def test_a_failed_load_fails_all_who_wait_at_once_and_the_next_call_tries_again(
    vllm: FakeVLLM, folder: Path, fault: BaseException, error: type[Exception], says: str
) -> None:
    judge = VLLMJudge(str(folder))
    vllm.load_error = fault
    vllm.loading.clear()
    first = asyncio.create_task(judge(request()))
    await until(lambda: vllm.events)
    late = [asyncio.create_task(judge(request())) for _ in range(3)]
    await asyncio.sleep(0)
    vllm.loading.set()
    outcomes = await asyncio.gather(first, *late, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [error] * 4
    assert says in str(outcomes[0])
    assert len({id(outcome) for outcome in outcomes}) == 4, "one exception object cannot be raised in four places"
    assert vllm.events == ["load"]
    vllm.load_error = None
    assert (await judge(request())).text == "{}"


@pytest.mark.parametrize("fault", [EngineDeadError("dead"), MemoryError("no room")])
async def test_an_engine_that_dies_fails_all_in_flight_and_the_next_call_loads_anew(
    vllm: FakeVLLM, folder: Path, fault: Exception
) -> None:
    judge = VLLMJudge(str(folder))
    tasks = [asyncio.create_task(judge(long())) for _ in range(3)]
    await until(lambda: vllm.batches[-1:] == [3])
    vllm.step_error = fault
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [JudgeUnavailable] * 3
    assert f"the engine died: {fault}" in str(outcomes[0])
    vllm.step_error = None
    assert (await judge(request())).text == "{}"
    assert vllm.events == ["load", "shut down", "load"]


async def test_files_that_change_before_the_engine_is_loaded(vllm: FakeVLLM, folder: Path) -> None:
    judge = VLLMJudge(str(folder))
    (folder / "model.safetensors").write_bytes(b"trained")
    with pytest.raises(JudgeRejected, match="the model's files have changed"):
        await judge(request())
    assert vllm.events == []


# --- The end ---


async def test_close_rejects_what_runs_frees_the_engine_and_the_next_call_loads_anew(
    vllm: FakeVLLM, folder: Path
) -> None:
    judge = VLLMJudge(str(folder))
    judge.close()
    running = asyncio.create_task(judge(long()))
    await until(lambda: vllm.batches)
    judge.close()
    judge.close()
    assert (vllm.events, workers()) == (["load", "shut down"], [])
    with pytest.raises(JudgeRejected, match="closed"):
        await running
    assert (await judge(request())).text == "{}"
    assert vllm.events == ["load", "shut down", "load"]


@pytest.mark.parametrize("fault", [None, RuntimeError("out of memory")])
async def test_close_while_the_engine_loads(vllm: FakeVLLM, folder: Path, fault: Exception | None) -> None:
    judge = VLLMJudge(str(folder))
    vllm.load_error = fault
    vllm.loading.clear()
    running = asyncio.create_task(judge(long()))
    await until(lambda: vllm.events)
    closing = asyncio.create_task(asyncio.to_thread(judge.close))
    await asyncio.sleep(0.05)
    assert not closing.done()
    vllm.loading.set()
    await asyncio.wait_for(closing, 10)
    with pytest.raises(JudgeUnavailable if fault else JudgeRejected):
        await running
    assert workers() == []


async def test_a_judge_that_is_dropped_frees_its_engine(vllm: FakeVLLM, folder: Path) -> None:
    judge = VLLMJudge(str(folder))
    await judge(request())
    assert len(workers()) == 1
    del judge
    gc.collect()
    await until(lambda: not workers())
    assert vllm.events == ["load", "shut down"]


async def test_it_sleeps_while_nobody_asks(vllm: FakeVLLM, folder: Path) -> None:
    judge = VLLMJudge(str(folder))
    await judge(request())
    steps = len(vllm.batches)
    await asyncio.sleep(0.05)
    assert len(vllm.batches) == steps
