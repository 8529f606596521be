"""As much of vLLM as the judge touches, without a model: one token a step for every request in the batch."""

from __future__ import annotations

import sys
import threading
import time
from types import ModuleType, SimpleNamespace

import pytest


class EngineDeadError(Exception):
    pass


class Tokenizer:
    """One token for each character."""

    chat_template = None
    bos_token_id = None
    added_tokens_decoder: dict[int, object] = {}  # noqa: RUF012 - as transformers has it

    def encode(self, text: str, **options: object) -> list[int]:
        return [ord(character) for character in text]


class Engine:
    def __init__(self, fake: FakeVLLM) -> None:
        self._fake = fake
        self._batch: dict[str, SimpleNamespace] = {}
        self.renderer = SimpleNamespace(render_cmpl=lambda prompts: prompts)
        self.engine_core = SimpleNamespace(shutdown=self._shutdown)

    def add_request(self, request_id: str, prompt: dict[str, list[int]], parameters: SimpleNamespace) -> None:
        self._fake.parameters.append(parameters)
        self._fake.prompts.append("".join(map(chr, prompt["prompt_token_ids"])))
        if "unsupported" in parameters.structured_outputs.json:
            raise RuntimeError("this grammar\nis not supported")
        self._batch[request_id] = SimpleNamespace(left=parameters.max_tokens or 3, prompt=prompt["prompt_token_ids"])

    def abort_request(self, request_ids: list[str]) -> None:
        self._fake.aborted += [i for i in request_ids if self._batch.pop(i, None)]

    def step(self) -> list[SimpleNamespace]:
        self._fake.batches.append(len(self._batch))
        if self._fake.step_error:
            raise self._fake.step_error
        time.sleep(0.001)
        done = []
        for request_id, state in list(self._batch.items()):
            state.left -= 1
            if not state.left:
                del self._batch[request_id]
                done.append(self._output(request_id, state))
        return done

    def _output(self, request_id: str, state: SimpleNamespace) -> SimpleNamespace:
        completion = SimpleNamespace(text=self._fake.text, token_ids=[1, 2], finish_reason=self._fake.finish_reason)
        return SimpleNamespace(
            request_id=request_id,
            finished=True,
            prompt_token_ids=state.prompt,
            num_cached_tokens=None,
            outputs=[completion],
        )

    def _shutdown(self) -> None:
        self._fake.events.append("shut down")


class FakeVLLM:
    """What happened, and what shall happen."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.arguments: list[dict[str, object]] = []
        """Of each engine."""
        self.parameters: list[SimpleNamespace] = []
        """Of each request."""
        self.prompts: list[str] = []
        self.batches: list[int] = []
        """Requests in the batch at each step."""
        self.aborted: list[str] = []
        self.text = "{}"
        self.finish_reason = "stop"
        self.load_error: BaseException | None = None
        self.step_error: Exception | None = None
        self.loading = threading.Event()
        """Cleared by a test, a load waits for it."""
        self.loading.set()
        self.defaults: dict[str, object] = {}
        """What the model's generation_config.json says."""

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fake = self

        class LLM:
            def __init__(self, model: str, **arguments: object) -> None:
                fake.events.append("load")
                fake.arguments.append({"model": model, **arguments})
                fake.loading.wait()
                if fake.load_error:
                    raise fake.load_error
                self.model_config = SimpleNamespace(max_model_len=arguments.get("max_model_len", 1000))
                self.llm_engine = Engine(fake)
                self.default_sampling_params: dict[str, object] | None = None

            def get_tokenizer(self) -> Tokenizer:
                return Tokenizer()

            def get_default_sampling_params(self) -> None:
                self.default_sampling_params = fake.defaults

        for name, contents in {
            "vllm": {"LLM": LLM, "SamplingParams": SimpleNamespace},
            "vllm.sampling_params": {"StructuredOutputsParams": SimpleNamespace},
            "vllm.v1": {},
            "vllm.v1.engine": {},
            "vllm.v1.engine.exceptions": {"EngineDeadError": EngineDeadError},
        }.items():
            module = ModuleType(name)
            vars(module).update(contents)
            # What find_spec looks at for a module that is loaded.
            module.__spec__ = SimpleNamespace(name=name)  # type: ignore[assignment]
            monkeypatch.setitem(sys.modules, name, module)
