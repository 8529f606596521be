"""Tiny random models of other kinds than `tests.tiny_model`: other tokenizers, other architectures.

They cost milliseconds each once torch and transformers are loaded, which nothing here does on import.
"""

from __future__ import annotations

import importlib.util
import os
import random
import string
from pathlib import Path
from typing import Any

import pytest

NO_SYSTEM_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ '[' + m['role'] + ']' + m['content'] | trim + '[/]' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
_CHARACTERS = [*string.printable[:95], "\n"]


def need_transformers() -> None:
    """Skips without torch and transformers, except where the whole suite has to run."""
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing and os.environ.get("CI"):
        pytest.fail(f"{' and '.join(missing)} not installed: pip install 'ruler-judge[local]'")
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed")


def integer_tokenizer() -> Any:
    """Every character a token, and so are 0 to 100, with and without a space in front. A beginning, no template."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    numbers = [str(number) for number in range(101)]
    texts = dict.fromkeys(["<unk>", "<s>", *_CHARACTERS, *numbers, *(f" {number}" for number in numbers)])
    tokenizer = Tokenizer(models.WordLevel({text: index for index, text in enumerate(texts)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[0-9]+|.|\n"), behavior="isolated")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>")


def merging_tokenizer() -> Any:
    """Merges what is frequent in replies, across digits and punctuation: ` 73},`. Its template takes no system role."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    rng = random.Random(0)
    replies = []
    for _ in range(300):
        ids = ["".join(rng.choices(string.ascii_uppercase, k=3)) for _ in range(3)]
        items = ", ".join(f'{{"id": "{id}", "score": {rng.randrange(101)}}}' for id in ids)
        replies.append(f'{{"scores": [{items}]}}')
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(" "), behavior="merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=_CHARACTERS, show_progress=False)
    tokenizer.train_from_iterator(replies, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=NO_SYSTEM_TEMPLATE)


def digitless_tokenizer() -> Any:
    """Letters and punctuation; every digit is unknown."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    texts = ["<unk>", *(text for text in _CHARACTERS if not text.isdigit())]
    tokenizer = Tokenizer(models.WordLevel({text: index for index, text in enumerate(texts)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r".|\n"), behavior="isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def save_model(folder: Path, config: Any, tokenizer: Any, *, kind: str = "AutoModelForCausalLM", seed: int = 0) -> Path:
    """Saves random weights for the config, and the tokenizer; returns the folder."""
    import torch
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, kind)
        model = model.from_config(config) if kind.startswith("Auto") else model(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def gpt2_config(tokenizer: Any) -> Any:
    """Learned positions, 2,048 of them."""
    from transformers import GPT2Config

    return GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=2048,
        initializer_range=0.2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=None,
        dtype="float32",
    )


def llama_config(tokenizer: Any, **changes: Any) -> Any:
    """Rotary positions, shared key-value heads."""
    from transformers import LlamaConfig

    return LlamaConfig(**_ROTARY | {"vocab_size": len(tokenizer)} | changes)


def sliding_config(tokenizer: Any, *, window: int) -> Any:
    """Every layer sees the last `window` tokens only."""
    from transformers import MistralConfig

    return MistralConfig(**_ROTARY, vocab_size=len(tokenizer), sliding_window=window)


def recurrent_config(tokenizer: Any) -> Any:
    """A linear-attention layer, with a recurrent state, and one of full attention."""
    from transformers import Qwen3NextConfig

    return Qwen3NextConfig(
        **_ROTARY,
        vocab_size=len(tokenizer),
        head_dim=16,
        layer_types=["linear_attention", "full_attention"],
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        num_experts=4,
        num_experts_per_tok=2,
    )


_ROTARY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "dtype": "float32",
}
