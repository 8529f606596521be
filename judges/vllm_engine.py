"""One vLLM engine and the thread that owns it: jobs go in from any thread and event loop, vLLM's outputs come out.

Nothing of vLLM is imported before the first job.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import hashlib
import json
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

from judges.local_model import local_name, model_folder, prompt_tokens
from judges.threads import end_all, hand_over
from ruler.errors import JudgeError, JudgeRejected, JudgeUnavailable
from ruler.types import JudgeRequest, Usage

_CANNOT_PASS = (ValueError, TypeError, NotImplementedError, AttributeError, ImportError, OSError)
"""What vLLM raises for a model or an argument that it does not take; trying again would change nothing."""
_ASKED = Usage(calls=1, cost_usd=0.0)
_EXIT_SECONDS = 15.0
_WATCH_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What to load."""

    judge: str
    """Its name, for messages."""
    model: str
    identity: str
    """The model's fingerprint when the judge was made; replies are stored under it."""
    arguments: Mapping[str, Any]
    """Of `vllm.LLM`."""


@dataclass(eq=False, slots=True)
class Job:
    """One request, and where its outcome is awaited."""

    request: JudgeRequest
    future: asyncio.Future[Any]
    id: str = ""
    """In the engine; empty before."""

    def settle(self, outcome: object) -> None:
        """Hands the outcome over, from any thread; an exception is raised where the job is awaited."""
        hand_over(self.future, outcome)


class EngineWorker:
    """One engine and its thread; knows nothing of the judge, so that the judge can be collected."""

    def __init__(self, spec: EngineSpec, after: EngineWorker | None) -> None:
        self._spec = spec
        self._after = after
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._ids = count()
        self._waiting: list[Job] = []
        self._running: dict[str, Job] = {}
        self._llm: Any = None
        self._stopping = self._stopped = False
        self._thread = threading.Thread(target=self._run, name="ruler-vllm", daemon=True)
        _workers.add(self)
        self._thread.start()

    @property
    def takes_jobs(self) -> bool:
        """False once it is told to stop, and in a forked process, which has no such thread."""
        return self._thread.is_alive() and not self._stopping

    def ask(self, job: Job) -> None:
        """Has the job done; its outcome, vLLM's output or a JudgeError, goes to its future."""
        self._inbox.put(partial(self._waiting.append, job))

    def drop(self, job: Job) -> None:
        """Takes the job out again, wherever it is; nothing happens when it is done."""
        self._inbox.put(partial(self._drop, job))

    def stop(self) -> None:
        """Rejects what is not done, frees the engine and ends; does not wait for it.

        It is called while objects are being collected, too, and so takes no lock.
        """
        self._stopping = True
        self._inbox.put(self._stop)

    def join(self, timeout: float | None = None) -> None:
        self._thread.join(timeout)

    def _run(self) -> None:
        if self._after is not None:
            # Two engines at once may not fit the device.
            self._after.join()
        while True:
            try:
                self._take(wait=not (self._running or self._stopped))
                if self._stopped:
                    break
                if self._waiting and self._llm is None:
                    self._load()
                while self._waiting:
                    self._add(self._waiting.pop(0))
                if self._running:
                    self._step()
            except BaseException as exc:  # noqa: BLE001 - whatever it was, those who wait must hear of it
                self._die(exc)
        self._fail(lambda: JudgeRejected(f"{self._spec.judge}: the judge was closed", usage=_ASKED))
        self._unload()

    def _take(self, *, wait: bool) -> None:
        """Does what came in; with `wait` sleeps until something does."""
        with suppress(queue.Empty):
            while True:
                self._inbox.get(block=wait)()
                wait = False

    def _stop(self) -> None:
        self._stopped = True

    def _drop(self, job: Job) -> None:
        if job in self._waiting:
            self._waiting.remove(job)
        elif self._running.pop(job.id, None):
            with suppress(Exception):  # if the engine is dead, the next step says so
                self._llm.llm_engine.abort_request([job.id])

    def _load(self) -> None:
        # A program's standard output is its own, and may be data.
        os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
        from vllm import LLM

        if (now := local_name(self._spec.model)) != self._spec.identity:
            raise ValueError(f"the model's files have changed since the judge was made; they are {now} now")
        self._llm = LLM(model=str(model_folder(self._spec.model)), **self._spec.arguments)
        # What is registered last runs first: before what vLLM registered just now.
        atexit.unregister(_stop_workers)
        atexit.register(_stop_workers)
        client = self._llm.llm_engine.engine_core
        if hasattr(client, "outputs_queue"):
            watch = threading.Thread(target=_watch, args=(client.resources, client.outputs_queue), daemon=True)
            watch.start()

    def _add(self, job: Job) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        if job.future.cancelled():
            return
        llm, name = self._llm, self._spec.judge
        try:
            tokens = prompt_tokens(llm.get_tokenizer(), job.request.messages)
            window = llm.model_config.max_model_len
            if len(tokens) >= window:
                raise JudgeRejected(f"the prompt has {len(tokens)} tokens, and the window {window}, the reply included")
            (prompt,) = llm.llm_engine.renderer.render_cmpl([{"prompt_token_ids": tokens}])
            job.id = str(next(self._ids))
            llm.llm_engine.add_request(job.id, prompt, _parameters(llm, job.request))
        except EngineDeadError:
            self._waiting.append(job)
            raise
        except Exception as exc:  # noqa: BLE001 - vLLM has no one class for what is wrong with a request
            with suppress(Exception):
                llm.llm_engine.abort_request([job.id])
            job.settle(JudgeRejected(f"{name}: {one_line(exc)}", usage=_ASKED))
        else:
            self._running[job.id] = job

    def _step(self) -> None:
        for output in self._llm.llm_engine.step():
            if output.finished and (job := self._running.pop(output.request_id, None)):
                job.settle(output)

    def _die(self, exc: BaseException) -> None:
        """Gives up the engine, or the attempt to load one, with all who wait."""
        self._take(wait=False)  # who came while it was loading must not have it loaded in vain again
        name, says = self._spec.judge, one_line(exc)
        if self._llm is not None:
            self._fail(lambda: JudgeUnavailable(f"{name}: the engine died: {says}", usage=_ASKED))
        elif isinstance(exc, _CANNOT_PASS) or _is_client_error(exc):
            self._fail(lambda: JudgeRejected(f"{name}: vLLM cannot load it: {says}", usage=_ASKED))
        else:
            self._fail(lambda: JudgeUnavailable(f"{name}: the engine did not start: {says}", usage=_ASKED))
        self._unload()

    def _fail(self, error: Callable[[], JudgeError]) -> None:
        for job in [*self._waiting, *self._running.values()]:
            job.settle(error())
        self._waiting.clear()
        self._running.clear()

    def _unload(self) -> None:
        llm, self._llm = self._llm, None
        if llm is not None:
            with suppress(Exception):
                llm.llm_engine.engine_core.shutdown()
            del llm
            gc.collect()


def _watch(resources: Any, outputs: queue.Queue[Any]) -> None:
    """Ends the step that waits for an engine whose process was killed, for example because memory ran out.

    vLLM notices the death, says so in `resources`, and lets the step wait for ever. It says the same after a shutdown,
    where nobody reads the exception.
    """
    while not resources.engine_dead:
        time.sleep(_WATCH_SECONDS)
    outputs.put(RuntimeError("its process ended"))


_workers: weakref.WeakSet[EngineWorker] = weakref.WeakSet()


def _stop_workers() -> None:
    """Ends the engines in their own threads, before the interpreter takes vLLM apart under them."""
    end_all(_workers, seconds=_EXIT_SECONDS)


# --- From our words to vLLM's ---


def _parameters(llm: Any, request: JudgeRequest) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    sampling = request.sampling
    # Keeps what it read of the model's generation_config.json in the attribute.
    llm.get_default_sampling_params()
    given = {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": _seed(request)}
    return SamplingParams(
        **{
            **(llm.default_sampling_params or {}),
            **{key: value for key, value in given.items() if value is not None},
            "max_tokens": sampling.max_tokens,
            "structured_outputs": StructuredOutputsParams(json=json.dumps(request.schema)),
        }
    )


def _seed(request: JudgeRequest) -> int | None:
    seed = request.sampling.seed
    if seed is None or not request.repeat:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}|{request.repeat}".encode()).digest()[:4])


def one_line(exc: BaseException) -> str:
    """What the exception says, on one line of at most 500 characters; its class where it says nothing."""
    return " ".join(f"{exc}".split())[:500] or type(exc).__name__


def _is_client_error(exc: BaseException) -> bool:
    return any(kind.__name__ == "VLLMClientError" for kind in type(exc).__mro__)
