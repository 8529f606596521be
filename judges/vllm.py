"""A judge that is a vLLM engine of this program's own: no server, no key, nothing billed.

vLLM's batch interface answers a list of prompts and returns when the last one is done. Judge calls come one by one and
from anywhere, so here one thread owns the engine and steps it itself: a request joins the batch that runs when it
comes, and leaves it the moment it is done.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import math
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from judges.local_model import local_name, model_folder
from judges.vllm_engine import EngineSpec, EngineWorker, Job, one_line
from ruler.errors import ConfigError, JudgeRejected, JudgeUnavailable, ReplyError
from ruler.types import JudgeInfo, JudgeReply, JudgeRequest, Sampling, Usage

_ARGUMENTS = {
    "enable_prefix_caching": True,
    # The tokenizer as transformers loads it, which is what `prompt_tokens` reads.
    "tokenizer_mode": "hf",
    # One form of JSON: a model that may choose its whitespace can go on with it until its tokens are spent.
    "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
}
_TAKEN = {"model": "the judge's model", "max_model_len": "context_tokens"}
_SAME_ANSWERS = {
    "cpu_offload_gb",
    "disable_log_stats",
    "distributed_executor_backend",
    "enable_prefix_caching",
    "enforce_eager",
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "max_num_batched_tokens",
    "max_num_seqs",
    "pipeline_parallel_size",
    "tensor_parallel_size",
}
"""Engine arguments that decide how fast the model answers, but not what; all others stand in the judge's name."""
_WINDOW_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length")


class VLLMJudge:
    """A model that vLLM runs for this process alone.

    The engine is loaded by the first call and not before, so a run that is answered from a cache loads nothing. The
    judge may be called from several event loops and threads. A judge that is dropped frees its engine.

    Where vLLM puts the engine is left to vLLM. By default that is a process of its own, started anew ("spawn") on a CPU
    and once CUDA is in use: a script needs its `if __name__ == "__main__":`. With VLLM_ENABLE_V1_MULTIPROCESSING=0 it
    is this one; then vLLM sets this process's random seeds, and does not give all of a GPU's memory back.

    Args:
        model: a folder, or a model id on the Hugging Face hub.
        sampling: put into `info`, from where it comes back in every request. What is None is left to the model's
            generation_config.json, as vLLM does; without `max_tokens` a reply may take all that is left of the window.
            With a `seed`, another `repeat` of an equal request is sampled from another seed.
        context_tokens: the window, prompt and reply together; None: the model's own.
        engine: further arguments of `vllm.LLM`, such as dtype, enforce_eager, tensor_parallel_size,
            gpu_memory_utilization, max_num_seqs or quantization. Those that may change what the model answers become
            part of the judge's name.

    Raises:
        ConfigError: vLLM is not installed, the model cannot be found or read, or a setting is wrong. What only vLLM can
            tell, whether it knows the model and the engine arguments, the first call tells.
    """

    def __init__(
        self,
        model: str,
        *,
        sampling: Sampling = Sampling(),
        context_tokens: int | None = None,
        engine: Mapping[str, Any] | None = None,
    ) -> None:
        label = f"judge {f'vllm:{model}'!r}"
        if importlib.util.find_spec("vllm") is None:
            raise ConfigError(f"{label}: needs vLLM: pip install 'ruler-judge[vllm]'")
        _check_sampling(sampling, label)
        if context_tokens is not None and context_tokens < 1:
            raise ConfigError(f"{label}: context_tokens must be positive, got {context_tokens}")
        arguments = dict(engine or {})
        for key, instead in _TAKEN.items():
            if key in arguments:
                raise ConfigError(f"{label}: engine: {key} is set by {instead}")
        folder = model_folder(model)
        identity = local_name(model)
        changes = [f"{key}={_shown(value)}" for key, value in sorted(arguments.items()) if key not in _SAME_ANSWERS]
        self.info = JudgeInfo(
            backend="vllm",
            model="+".join([f"vllm:{identity}", *changes]),
            sampling=sampling,
            context_tokens=context_tokens or _window(folder),
            count_tokens=_token_counter(folder),
            input_price=0.0,
            output_price=0.0,
        )
        if context_tokens:
            arguments["max_model_len"] = context_tokens
        self._engine = EngineSpec(self.info.name, model, identity, {**_ARGUMENTS, **arguments})
        self._worker: EngineWorker | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"VLLMJudge({self.info.name!r})"

    async def __call__(self, request: JudgeRequest) -> JudgeReply:
        """Asks the engine, and loads it if there is none; the reply's text holds to the request's schema.

        A cancelled call leaves the engine's batch. After a failure of the engine the next call loads a new one.

        Raises:
            JudgeUnavailable: the engine could not be loaded now, or died.
            JudgeRejected: the prompt does not fit the window or holds more than text, the schema cannot be enforced,
                the model's files have changed, vLLM does not take the model or an argument, or `close` was called.
            ReplyError: the reply is empty.
        """
        started = time.perf_counter()
        _check_sampling(request.sampling, self.info.name)
        job = Job(request, asyncio.get_running_loop().create_future())
        worker = self._submit(job)
        try:
            output = await job.future
        finally:
            if job.future.cancelled():
                worker.drop(job)
        return self._read(output, request, time.perf_counter() - started)

    def close(self) -> None:
        """Frees the engine, and waits until that is done; calls in flight are rejected. The next call loads anew."""
        with self._lock:
            worker = self._worker
            if worker is not None:
                worker.stop()
        if worker is not None:
            worker.join()

    def _submit(self, job: Job) -> EngineWorker:
        with self._lock:
            # A thread does not survive a fork, and no engine is shared with the parent.
            if self._worker is None or not self._worker.takes_jobs:
                self._worker = EngineWorker(self._engine, after=self._worker)
                weakref.finalize(self, self._worker.stop).atexit = False
            self._worker.ask(job)
            return self._worker

    def _read(self, output: Any, request: JudgeRequest, latency_seconds: float) -> JudgeReply:
        completion = output.outputs[0]
        reason = completion.finish_reason
        cached = output.num_cached_tokens or 0
        usage = Usage(1, len(output.prompt_token_ids), cached, len(completion.token_ids), 0.0)
        if reason == "error":
            # Of a request's own making there is one such error: a grammar that cannot be compiled or followed.
            raise JudgeRejected(f"{self.info.name}: vLLM gave the request up (finish reason 'error')", usage=usage)
        if reason == "abort":
            raise JudgeUnavailable(f"{self.info.name}: the engine aborted the request", usage=usage)
        if not completion.text.strip():
            cut = f"; it was cut off at {usage.output_tokens} tokens" if reason == "length" else ""
            message = f"{self.info.name}: the reply is empty (finish reason {reason!r}){cut}"
            raise ReplyError(message, usage=usage, raw=completion.text, finish_reason=reason)
        return JudgeReply(completion.text, self.info.model, usage, latency_seconds, reason)


def _check_sampling(sampling: Sampling, name: str) -> None:
    if sampling.reasoning_effort is not None:
        raise ConfigError(f"{name}: reasoning_effort: vLLM knows no such setting")
    if sampling.seed is not None and not 0 <= sampling.seed < 2**63:
        raise ConfigError(f"{name}: seed: expected 0 to 2**63 - 1, got {sampling.seed}")
    if sampling.temperature is not None and not 0 <= sampling.temperature < math.inf:
        raise ConfigError(f"{name}: temperature: expected at least 0, got {sampling.temperature}")
    if sampling.top_p is not None and not 0 < sampling.top_p <= 1:
        raise ConfigError(f"{name}: top_p: expected more than 0 and at most 1, got {sampling.top_p}")
    if sampling.max_tokens is not None and sampling.max_tokens < 1:
        raise ConfigError(f"{name}: max_tokens must be positive, got {sampling.max_tokens}")


def _window(folder: Path) -> int | None:
    """The longest prompt and reply the model was made for, by the keys and the rule that vLLM goes by."""
    config, tokenizer = _read_json(folder / "config.json"), _read_json(folder / "tokenizer_config.json")
    text = config.get("text_config")
    found = [(text if isinstance(text, dict) else config).get(key) for key in _WINDOW_KEYS]
    # Tokenizers without a limit say 10**30.
    sizes = [size for size in [*found, tokenizer.get("model_max_length")] if isinstance(size, int) and size < 2**40]
    return min(sizes, default=None)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    return read if isinstance(read, dict) else {}


def _token_counter(folder: Path) -> Callable[[str], int] | None:
    """The model's own count, without loading transformers; None where the tokenizer is not in the common form."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise ConfigError(f"{path}: cannot be read: {one_line(error)}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def count_tokens(text: str) -> int:
        return len(tokenizer.encode(text.encode("utf-8", "replace").decode(), add_special_tokens=False))

    return count_tokens


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=repr)
