"""A task's tiny policy, untrained: a Llama of 0.1 M weights, and a tokenizer of whole words.

The two load like any other model: into transformers, and into vLLM.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ruler.errors import ConfigError
from trainer.tasks import TinyPolicy

_PAD, _END = "<pad>", "<eos>"


def make_tiny_policy(tiny: TinyPolicy, *, seed: int) -> tuple[Any, PreTrainedTokenizerFast]:
    """A model with random weights, and its tokenizer; the same for the same seed.

    Raises:
        ConfigError: a word that is empty, that occurs twice, or that stands for padding or the end.
    """
    tokenizer = _tokenizer(tiny)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=2,  # 32 numbers a head: the smallest that vLLM has a CPU kernel for
        num_key_value_heads=2,
        max_position_embeddings=tiny.context_tokens,
        initializer_range=0.04,  # at the usual 0.02, made for large models, the first steps are lost
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    # Its weights are drawn from the global generator, which is put back after.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return model.eval(), tokenizer


def _tokenizer(tiny: TinyPolicy) -> PreTrainedTokenizerFast:
    """Reads text from the left, each time the longest word that fits; writes words with nothing between.

    What cannot be read so is an error, as there is no token for the unknown: text is never changed in silence.
    """
    words = tiny.words
    vocabulary = {word: number for number, word in enumerate((_PAD, _END, *words))}
    if len(vocabulary) != len(words) + 2 or not all(words):
        raise ConfigError(f"words: expected some, none empty, twice, {_PAD!r} or {_END!r}, got {words!r:.200}")
    tokenizer = Tokenizer(models.WordLevel(vocabulary))
    longest_first = sorted(words, key=len, reverse=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("|".join(map(re.escape, longest_first))), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=_PAD, eos_token=_END, clean_up_tokenization_spaces=False
    )
    wrapped.chat_template = tiny.chat_template
    wrapped.model_max_length = tiny.context_tokens
    return wrapped
