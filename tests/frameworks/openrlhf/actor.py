"""OpenRLHF's rollout actor without Ray and vLLM: its executors, and how it loads and starts them, are its own files."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from tests.service.running import Running, serving

END = "<|im_end|>"


@contextmanager
def openrlhf_modules() -> Iterator[Any]:
    """The module `openrlhf.trainer.ray.vllm_engine`; `openrlhf.utils.agent` can be imported, too.

    What the packages import at their top (deepspeed, torch) is left out, and so are the engine and the cluster.
    """
    root = Path(str(distribution("openrlhf").locate_file("openrlhf")))
    packages = {
        name: [str(root.joinpath(*name.split(".")[1:]))]
        for name in ("openrlhf", "openrlhf.utils", "openrlhf.trainer", "openrlhf.trainer.ray")
    }
    stubs: dict[str, dict[str, Any]] = {
        "ray": {"remote": lambda made: made},
        "ray.util": {},
        "ray.util.placement_group": {"placement_group": None},
        "ray.util.scheduling_strategies": {"PlacementGroupSchedulingStrategy": None},
        "vllm": {},
        "vllm.inputs": {"TokensPrompt": None},
        "vllm.utils": {"random_uuid": None},
    }
    before = set(sys.modules)
    for name in (*packages, *stubs):
        assert name not in sys.modules
        module = ModuleType(name)
        if name in packages:
            module.__path__ = packages[name]
        vars(module).update(stubs.get(name, {}))
        sys.modules[name] = module
    try:
        yield importlib.import_module("openrlhf.trainer.ray.vllm_engine")
    finally:
        for name in set(sys.modules) - before:
            if name.split(".")[0] in ("openrlhf", "ray", "vllm"):
                del sys.modules[name]


@asynccontextmanager
async def service(judge: str, *, port: int = 0, **env: str) -> AsyncIterator[Running]:
    """`ruler serve` without a cache; the event loop goes on while it starts."""
    context = serving("--judge", judge, port=port, env={"RULER_CACHE": "off", **env})
    running = await asyncio.to_thread(context.__enter__)
    try:
        yield running
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)


class Tokenizer:
    """A token a character, marks of the chat template included."""

    def __call__(self, text: str, add_special_tokens: bool, return_tensors: str) -> Mapping[str, Sequence[Any]]:
        assert not add_special_tokens
        assert return_tensors == "pt"
        return {"input_ids": [SimpleNamespace(tolist=lambda: [ord(char) for char in text])]}

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool) -> str:
        assert not skip_special_tokens
        return "".join(map(chr, tokens))


Policy = Callable[[str], Any]
"""The text so far -> (await) what comes next."""


def make_actor(vllm_engine: Any, executor: Any, policy: Policy) -> Any:
    """An actor whose `generate_responses` is OpenRLHF's, with this executor, and with a policy for an engine."""

    class Actor(vllm_engine.RolloutRayActor):  # type: ignore[misc]
        async def __init__(self) -> None:
            pass

        async def generate(
            self, prompt_token_ids: list[int], sampling_params: Any, multi_modal_data: Any = None
        ) -> Any:
            text = await policy("".join(map(chr, prompt_token_ids)))
            tokens = [ord(char) for char in text + END]
            return SimpleNamespace(
                outputs=[SimpleNamespace(token_ids=tokens, text=text, finish_reason="stop", logprobs=None)]
            )

    actor = Actor.__new__(Actor)
    actor.executor = executor
    return actor


async def roll_out(actor: Any, prompt: str, label: str, num_samples: int) -> list[dict[str, Any]]:
    """One remote call: every one has sampling parameters of its own, as Ray makes them."""
    responses: list[dict[str, Any]] = await actor.generate_responses(
        prompt=prompt,
        label=label,
        sampling_params=SimpleNamespace(max_tokens=500, logprobs=None),
        max_length=10_000,
        hf_tokenizer=Tokenizer(),
        num_samples=num_samples,
    )
    return responses


def said(response: Mapping[str, Any]) -> str:
    """What the policy wrote first."""
    start, end = response["action_ranges"][0]
    return "".join(map(chr, response["observation_tokens"][start:end])).removesuffix(END)


async def step(actor: Any, prompts: Mapping[str, str], num_samples: int) -> list[list[dict[str, Any]]]:
    """One rollout batch: all prompts with their labels at once."""
    return await asyncio.gather(*[roll_out(actor, prompt, label, num_samples) for prompt, label in prompts.items()])
