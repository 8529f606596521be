"""The policy: a causal language model, its tokenizer, and how its chat template writes turns.

Any model of transformers with a chat template will do. Text goes into tokens once: the task before the first turn,
and what the environment says between turns. What the policy itself wrote is never tokenised again.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.cache_utils import DynamicLayer, LinearAttentionLayer

from ruler.errors import ConfigError
from trainer.chat_template import ChatTemplate, call_id
from trainer.environments import ChatMessage, Start
from trainer.progress_bars import without_progress_bars

Dtype: TypeAlias = Literal["float32", "bfloat16"]

_TOOL_CALL = re.compile(r"<tool_call>((?:(?!</?tool_call>).)*+)</tool_call>", re.DOTALL)
"""The Hermes form of a call, which Qwen and many others write. Never looks past the next tag: hostile text of any
length is read once."""


class Policy:
    """A causal language model that acts.

    Weights are float32 wherever they are trained: a step of 1e-6 is lost in bfloat16, whose neighbours are 0.4 % apart.
    With dtype "bfloat16" forward passes calculate in bfloat16, and sampling uses a copy of the weights in it.
    """

    def __init__(self, model: Any, tokenizer: Any, *, dtype: Dtype = "float32") -> None:
        """Takes the model as it is.

        Raises:
            ConfigError: no chat template, no end token, no known window, or layers that `sample` has no cache for.
        """
        if not tokenizer.chat_template:
            raise ConfigError(f"policy {tokenizer.name_or_path!r}: its tokenizer has no chat template")
        self.model = _without_dropout(model).eval()
        self.tokenizer = tokenizer
        self.dtype = dtype
        self.end_tokens = _end_tokens(model, tokenizer)
        _check_cache(model)
        self.context_tokens = _context_tokens(model)
        """Most tokens of prompt and turns together."""
        self._chat_template = ChatTemplate(tokenizer, self.end_tokens)
        self._sampling_model: Any = None

    @classmethod
    def load(cls, name: str, *, device: str = "cpu", dtype: Dtype = "float32") -> Policy:
        """The policy in a folder, or of this name on the Hugging Face hub.

        Raises:
            ConfigError: it cannot be loaded; says why.
        """
        try:
            with without_progress_bars():
                model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise ConfigError(f"policy: {name!r} cannot be loaded: {error}") from error
        try:
            model = model.to(device)
        except (RuntimeError, AssertionError) as error:  # the latter where torch was built without CUDA
            raise ConfigError(f"device: {device!r} cannot be used: {error}") from error
        if model.device.type == "cuda":
            model.gradient_checkpointing_enable()
        return cls(model, tokenizer, dtype=dtype)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.model.device
        return device

    @property
    def num_weights(self) -> int:
        """Numbers that are trained; tied ones count once."""
        return sum(weight.numel() for weight in self.model.parameters())

    @property
    def sampling_model(self) -> Any:
        """The model to draw tokens from: the weights as they are now."""
        if self.dtype == "float32":
            return self.model
        if self._sampling_model is None:
            self._sampling_model = copy.deepcopy(self.model).requires_grad_(False)
            # Not `.to`, which rounds buffers too: the angles of rotary positions would be wrong far from the start.
            for weight in self._sampling_model.parameters():
                weight.data = weight.data.to(torch.bfloat16)
            self._sampling_model.gradient_checkpointing_disable()
        return self._sampling_model

    def weights_changed(self) -> None:
        """Has to be called after each step of the optimiser, before tokens are drawn again."""
        if self._sampling_model is not None:
            with torch.no_grad():
                for ours, theirs in zip(self._sampling_model.parameters(), self.model.parameters(), strict=True):
                    ours.copy_(theirs)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """In which forward passes for gradients are made."""
        bfloat16 = self.dtype == "bfloat16"
        context: contextlib.AbstractContextManager[Any] = torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=bfloat16
        )
        return context

    def encode_start(self, start: Start) -> list[int]:
        """The task as tokens, up to where the policy's first turn begins.

        Raises:
            ConfigError: the chat template does not take these messages or tools.
            GroupError: a message has no text, or text that the tokenizer cannot take.
        """
        return self._chat_template.encode_start(start)

    def encode_reply(self, messages: Sequence[ChatMessage]) -> list[int]:
        """What the environment said after a turn, as tokens, up to where the policy's next turn begins.

        Only what follows the end of the turn: the end token is the policy's own. Special tokens that the environment
        spells out, such as `<|im_end|>`, stay plain text. A tool's message may have the `name` of the tool, which some
        templates show; ids are put in place of its own.

        Raises:
            ConfigError: the chat template does not take these messages or leaves one out, or does not end turns with an
                end token.
            GroupError: a message is of the assistant or has no text, or the tokenizer cannot take the text.
        """
        return self._chat_template.encode_reply(messages)

    def encode_turn(self, message: ChatMessage) -> list[int]:
        """A turn of the assistant that is to be imitated, as tokens, with its end token.

        Raises:
            ConfigError: the chat template does not take this message or leaves out its text or a call, or does not end
                turns with an end token, or the tokenizer cannot take the text.
        """
        return self._chat_template.encode_turn(message)

    def decode_turn(self, tokens: Sequence[int]) -> str:
        """The text of a turn, without its end token; other special tokens are shown."""
        kept = tokens[:-1] if tokens and tokens[-1] in self.end_tokens else tokens
        # Special tokens stay: a policy that writes the header of another turn must not look as if it had not.
        text: str = self.tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def read_turn(self, text: str) -> ChatMessage:
        """The turn as a message: `content`, and `tool_calls` where it holds well-formed calls in the Hermes form.

        A call that cannot be read stays in the content: the environment can say what is wrong with it, and the judge
        sees what the policy wrote.
        """
        calls: list[dict[str, Any]] = []

        def take(match: re.Match[str]) -> str:
            call = _read_call(match[1])
            if call is None:
                return match[0]
            calls.append({"id": call_id(len(calls)), "type": "function", "function": call})
            return ""

        content = _TOOL_CALL.sub(take, text)
        if not calls:
            return {"role": "assistant", "content": text}
        return {"role": "assistant", "content": content.strip(), "tool_calls": calls}

    def save(self, folder: Path) -> None:
        """Writes weights and tokenizer in the form of Hugging Face; `load` and vLLM take the folder."""
        with without_progress_bars():
            self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def _without_dropout(model: Any) -> Any:
    """The model, so that what is trained is what was sampled."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)
    return model


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """What ends a turn, as the model's generation settings and its tokenizer have it."""
    configured = model.generation_config.eos_token_id
    ends = {configured} if isinstance(configured, int) else set(configured or ())
    ends |= {tokenizer.eos_token_id} - {None}
    if not ends:
        raise ConfigError(f"policy {tokenizer.name_or_path!r}: neither model nor tokenizer has an end token")
    return frozenset(ends)


def _context_tokens(model: Any) -> int:
    config = model.config.get_text_config()
    window = getattr(config, "max_position_embeddings", None)
    if not isinstance(window, int):
        raise ConfigError(f"policy: {type(config).__name__} has no max_position_embeddings: its window is not known")
    return window


def _check_cache(model: Any) -> None:
    """Rows leave a batch as they end: states other than keys and values cannot be cut to the rows that stay."""
    odd = sorted(
        {
            type(layer).__name__
            for layer in DynamicCache(config=model.config).layers
            if isinstance(layer, LinearAttentionLayer) or not isinstance(layer, DynamicLayer)
        }
    )
    if odd or model._is_stateful:
        raise ConfigError(
            f"policy: {type(model).__name__} with {', '.join(odd) or 'recurrent'} layers cannot be sampled from here"
        )


def _read_call(text: str) -> dict[str, Any] | None:
    try:
        call = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments", {})
    return {"name": call["name"], "arguments": arguments} if isinstance(arguments, dict) else None
