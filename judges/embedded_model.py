"""A small Llama in numpy: the forward pass of the embedded judge, without torch.

It reads a folder as `save_pretrained` writes it (`config.json`, `model.safetensors`), so that the same files run in
transformers, and computes in float32 whatever precision they are stored in. At so few weights a framework takes
longer to start than to give a thousand answers.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from judges.embedded_words import MAX_OWN_TOKENS

Floats: TypeAlias = NDArray[np.float32]
Tokens: TypeAlias = NDArray[np.int64]


@dataclass(slots=True)
class Past:
    """Keys and values of all tokens that were read so far, one pair per layer: float32 [rows, heads, tokens, size]."""

    layers: list[tuple[Floats, Floats]] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        """How many tokens of each row they are of."""
        return self.layers[0][0].shape[2] if self.layers else 0


class Llama:
    """The weights, and what they make of tokens.

    Args:
        folder: with `config.json` and `model.safetensors` of a Llama with as many key heads as heads, and without
            biases, shared embeddings or stretched positions.

    Raises:
        OSError, ValueError, TypeError, KeyError, SafetensorError: the files cannot be read, or are of another kind of
            model.
    """

    def __init__(self, folder: Path) -> None:
        from safetensors.numpy import load_file

        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self._num_heads: int = config["num_attention_heads"]
        size = config["hidden_size"] // self._num_heads
        positions = config["rope_parameters"]
        kind = config["model_type"], config["hidden_act"], config["head_dim"], positions["rope_type"]
        if kind != ("llama", "silu", size, "default"):
            raise ValueError(f"config.json: expected a Llama with silu and plain rotary positions, got {kind}")
        stored: dict[str, NDArray[Any]] = load_file(folder / "model.safetensors")
        shapes = _shapes(config)
        for name in sorted(shapes.keys() | stored.keys()):
            shape = stored[name].shape if name in stored else None
            if shape != shapes.get(name):
                raise ValueError(f"model.safetensors: {name}: expected {shapes.get(name)}, got {shape}")
            if not np.isfinite(stored[name]).all():
                raise ValueError(f"model.safetensors: {name}: not all numbers are finite")
        self._weights: dict[str, Floats] = {name: value.astype(np.float32) for name, value in stored.items()}
        self._num_layers: int = config["num_hidden_layers"]
        self._epsilon = np.float32(config["rms_norm_eps"])
        self.num_words: int = config["vocab_size"]
        """Tokens that it knows."""
        self.window: int = config["max_position_embeddings"]
        """Most tokens in one row."""
        angles = np.outer(np.arange(self.window), float(positions["rope_theta"]) ** (-np.arange(0, size, 2) / size))
        angles = np.concatenate([angles, angles], axis=1)
        self._cosine: Floats = np.cos(angles).astype(np.float32)
        self._sine: Floats = np.sin(angles).astype(np.float32)

    def read(self, tokens: Tokens, past: Past) -> Floats:
        """What the model makes of each token: float32 [rows, new tokens, hidden size], ready for `logits`.

        Args:
            tokens: [rows, new tokens]. No token sees what comes after it, so rows may be padded at the end.
            past: what was read before, empty at first; these tokens are added to it.
        """
        weights = self._weights
        first, last = past.num_tokens, past.num_tokens + tokens.shape[1]
        cosine, sine = self._cosine[first:last], self._sine[first:last]
        scale = np.float32((self._weights["model.norm.weight"].size // self._num_heads) ** -0.5)
        # Row: a new token; column: one it may look at.
        hidden_from = np.triu(np.full((tokens.shape[1], last), np.float32(-np.inf)), k=first + 1)
        read: Floats = weights["model.embed_tokens.weight"][tokens]
        for number in range(self._num_layers):
            layer = f"model.layers.{number}"
            normed = self._norm(read, f"{layer}.input_layernorm.weight")
            query, key, value = (
                self._heads(normed @ weights[f"{layer}.self_attn.{name}_proj.weight"].T) for name in "qkv"
            )
            query, key = _rotate(query, cosine, sine) * scale, _rotate(key, cosine, sine)
            if first:
                earlier_key, earlier_value = past.layers[number]
                key = np.concatenate([earlier_key, key], axis=2)
                value = np.concatenate([earlier_value, value], axis=2)
                past.layers[number] = key, value
            else:
                past.layers.append((key, value))
            # In place: these are by far the largest arrays, and a fresh one for each step costs more than the step.
            scores = query @ key.swapaxes(2, 3)
            scores += hidden_from
            scores -= scores.max(axis=3, keepdims=True)
            np.exp(scores, out=scores)
            seen = scores @ value / scores.sum(axis=3, keepdims=True)
            seen = seen.swapaxes(1, 2).reshape(read.shape)
            read = read + seen @ weights[f"{layer}.self_attn.o_proj.weight"].T
            normed = self._norm(read, f"{layer}.post_attention_layernorm.weight")
            gate = normed @ weights[f"{layer}.mlp.gate_proj.weight"].T
            up = normed @ weights[f"{layer}.mlp.up_proj.weight"].T
            read = read + (gate / (1 + np.exp(-gate)) * up) @ weights[f"{layer}.mlp.down_proj.weight"].T
        return self._norm(read, "model.norm.weight")

    def write(
        self, prompts: Collection[tuple[int, ...]], allowed: Sequence[int], end: int
    ) -> dict[tuple[int, ...], list[int]]:
        """What the model writes behind each prompt: always the likeliest allowed token, until `end` stands twice.

        At most MAX_OWN_TOKENS tokens, with or without an end.
        """
        written: dict[tuple[int, ...], list[int]] = {}
        choice = np.array(allowed)
        for _, alike in groupby(sorted(prompts, key=lambda prompt: (len(prompt), prompt)), len):
            rows = list(alike)
            past, new = Past(), np.array(rows)
            texts: list[list[int]] = [[] for _ in rows]
            while len(texts[0]) < MAX_OWN_TOKENS and any(text.count(end) < 2 for text in texts):
                logits = self.logits(self.read(new, past)[:, -1])
                chosen = choice[logits[:, choice].argmax(axis=1)]
                for text, token in zip(texts, chosen.tolist(), strict=True):
                    text.append(token)
                new = chosen[:, None]
            for row, text in zip(rows, texts, strict=True):
                ends = [place for place, token in enumerate(text) if token == end]
                written[row] = text[: ends[1] + 1] if len(ends) > 1 else text
        return written

    def next_tokens(
        self, rows: Sequence[Sequence[int]], after: int, choice: Sequence[int]
    ) -> list[NDArray[np.float64]]:
        """For each row the probabilities of the next token, among `choice`, behind each token `after`.

        Returns:
            One float64 [number of `after` in the row, size of choice] per row; each line sums to 1.
        """
        longest = max(map(len, rows))
        tokens = np.array([[*row, *[0] * (longest - len(row))] for row in rows])
        read = self.read(tokens, Past())
        found = []
        for row, line in zip(rows, read, strict=True):
            places = [place for place, token in enumerate(row) if token == after]
            values = self.logits(line[places])[:, list(choice)].astype(np.float64)
            values = np.exp(values - values.max(axis=1, keepdims=True))
            found.append(values / values.sum(axis=1, keepdims=True))
        return found

    def logits(self, read: Floats) -> Floats:
        """Of the next token: float32 [..., vocabulary] for what `read` gave, [..., hidden size]."""
        found: Floats = read @ self._weights["lm_head.weight"].T
        return found

    def _norm(self, values: Floats, name: str) -> Floats:
        mean: Floats = np.mean(values * values, axis=-1, keepdims=True)
        normed: Floats = values / np.sqrt(mean + self._epsilon) * self._weights[name]
        return normed

    def _heads(self, values: Floats) -> Floats:
        rows, tokens, _ = values.shape
        return values.reshape(rows, tokens, self._num_heads, -1).swapaxes(1, 2)


def _shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of each weight that the model has, and no others."""
    hidden, inner, num_words = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (num_words, hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (num_words, hidden),
    }
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}"
        shapes |= {f"{layer}.{name}_layernorm.weight": (hidden,) for name in ("input", "post_attention")}
        shapes |= {f"{layer}.self_attn.{name}_proj.weight": (hidden, hidden) for name in "qkvo"}
        shapes |= {f"{layer}.mlp.{name}_proj.weight": (inner, hidden) for name in ("gate", "up")}
        shapes[f"{layer}.mlp.down_proj.weight"] = hidden, inner
    return shapes


def _rotate(values: Floats, cosine: Floats, sine: Floats) -> Floats:
    """Rotary positions, as transformers pairs the numbers: the first half with the second."""
    half = values.shape[-1] // 2
    turned: Floats = np.concatenate([-values[..., half:], values[..., :half]], axis=-1)
    rotated: Floats = values * cosine + turned * sine
    return rotated
