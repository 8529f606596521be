"""A judge folder made without torch, as `trainer.distill.sums.export` writes one; its weights are mostly random.

Random weights would never end a solution of their own, so these say `1+2=3;3;` to every question. The grades are those
of chance, but they depend on every word that is read.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from judges.embedded_prompt import Competence
from judges.embedded_words import OWN, PATTERN, UNKNOWN, VOCABULARY
from ruler.rubric import DEFAULT_RUBRIC
from trainer.tasks.arithmetic import INSTRUCTIONS, arithmetic

SOLUTION = "1+2=3;3;"
"""What the judge of such a folder writes before it reads the rollouts."""

_NUMBER = "[1-9][0-9]"
COMPETENCE = Competence(
    task="arithmetic",
    instructions=INSTRUCTIONS,
    question="|".join(
        (
            rf"{_NUMBER}\+{_NUMBER}",
            *(rf"{tens}[0-9]-[1-{tens - 1}][0-9]" for tens in range(2, 10)),
            *(rf"([1-9]){units}-\{units + 1}[0-{units}]" for units in range(10)),
        )
    ),
    rubrics={rubric.name: rubric.text for rubric in (DEFAULT_RUBRIC, arithmetic().rubric)},
    max_rollouts=12,
    max_rollout_tokens=400,
)

CONFIG: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "dtype": "float32",
    "head_dim": 16,
    "hidden_act": "silu",
    "hidden_size": 32,
    "intermediate_size": 48,
    "max_position_embeddings": 2048,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "tie_word_embeddings": False,
    "vocab_size": len(VOCABULARY),
}


def make_folder(folder: Path, *, seed: int = 0, solves: bool = True, dtype: str = "float32", **config: Any) -> Path:
    """Writes the folder and returns it.

    Args:
        folder: made if it is not there.
        seed: of the weights.
        solves: False: all weights are random, and most questions get no solution.
        dtype: in which the weights are stored.
        config: what differs from CONFIG.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chosen = {**CONFIG, **config}
    weights = random_weights(chosen, seed)
    if solves:
        _teach(weights)
    stored = {name: value.astype(dtype) for name, value in weights.items()}
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(chosen))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
    (folder / "judge.json").write_text(json.dumps(asdict(COMPETENCE)))
    return folder


def random_weights(config: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Name -> array of a Llama."""
    rng = np.random.default_rng(seed)
    hidden, inner, num_words = config["hidden_size"], config["intermediate_size"], config["vocab_size"]

    def matrix(rows: int, columns: int, scale: float) -> Any:
        return rng.normal(size=(rows, columns)) * scale / columns**0.5

    weights = {
        "model.embed_tokens.weight": rng.normal(size=(num_words, hidden)),
        "model.norm.weight": rng.uniform(0.8, 1.2, hidden),
        "lm_head.weight": matrix(num_words, hidden, 1.0),
    }
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}"
        # Looks at few words at a time, and not too long a sum of what they say.
        for name, scale in (("q", 2.0), ("k", 2.0), ("v", 1.0), ("o", 0.7)):
            weights[f"{layer}.self_attn.{name}_proj.weight"] = matrix(hidden, hidden, scale)
        for name in ("gate", "up"):
            weights[f"{layer}.mlp.{name}_proj.weight"] = matrix(inner, hidden, 1.0)
        weights[f"{layer}.mlp.down_proj.weight"] = matrix(hidden, inner, 0.7)
        for name in ("input", "post_attention"):
            weights[f"{layer}.{name}_layernorm.weight"] = rng.uniform(0.8, 1.2, hidden)
    return weights


def tokenizer() -> dict[str, Any]:
    """What `tokenizers` writes for these words."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False},
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "WordLevel",
            "vocab": {word: number for number, word in enumerate(VOCABULARY)},
            "unk_token": UNKNOWN,
        },
    }


def _teach(weights: dict[str, Any]) -> None:
    """Behind each word of SOLUTION comes the next, whatever was read before."""
    embedded = weights["model.embed_tokens.weight"]
    words = [OWN, *(f"<own {char}>" for char in SOLUTION)]
    for word, following in sorted(set(itertools.pairwise(words))):
        weights["lm_head.weight"][VOCABULARY.index(following)] += embedded[VOCABULARY.index(word)]
