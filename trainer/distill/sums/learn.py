"""Trains a small judge from scratch on graded sums; a Llama that the embedded judge runs without torch.

Three stages, each at what the next one needs: sums alone, until the model can work them out; then the question with one
attempt; then whole groups, as a packed prompt shows them. Read apart, attempts are short and what decides on each is
near, so it finds out in minutes what to look at; in groups it learns to find that among eight others.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from judges.embedded_words import PAD, VOCABULARY, Words
from trainer.distill.sums.examples import NUM_REASONS, Row, batches, questions


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a small judge is made. The defaults make the one that ships, in about twenty minutes on one core."""

    hidden_size: int = 64
    num_layers: int = 4
    num_heads: int = 2
    window: int = 2048
    """Tokens of its longest prompt."""
    max_rollouts: int = 12
    """Most attempts in one prompt of its training."""
    question_steps: int = 200
    question_batch: int = 192
    single_steps: int = 1200
    single_tokens: int = 4096
    """Of one batch, padding included."""
    group_steps: int = 2000
    group_tokens: int = 6144
    learning_rate: float = 4e-3
    """Of matrices (Muon) and of all else (AdamW)."""
    text_weight: float = 0.3
    """Of predicting the text of the attempts; it keeps the judge's own solution intact."""


@dataclass(frozen=True, slots=True)
class Learnt:
    """A trained model, and what it took."""

    model: Any
    """A LlamaForCausalLM in evaluation mode."""
    recipe: Recipe
    seed: int
    num_weights: int
    num_tokens: int
    """Read in training, padding left out."""
    minutes: float


def learn(words: Words, recipe: Recipe, *, seed: int, device: str, show: Callable[[str], None]) -> Learnt:
    """A judge, trained.

    Args:
        words: its tokens.
        recipe: how it is made.
        seed: of weights and data. On the same machine with as many threads the same judge comes out.
        device: as torch names it.
        show: is given a line of text now and then.
    """
    began = time.perf_counter()
    rng = random.Random(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = _Student(words, recipe, device)
    stages: list[tuple[str, int, Iterator[list[Row]]]] = [
        ("sums", recipe.question_steps, questions(words, rng, batch_size=recipe.question_batch)),
        ("single attempts", recipe.single_steps, _batches(words, rng, recipe, together=False)),
        ("groups", recipe.group_steps, _batches(words, rng, recipe, together=True)),
    ]
    num_tokens = 0
    for stage, (name, num_steps, rows_of_steps) in enumerate(stages):
        for step, rows in zip(range(num_steps), rows_of_steps, strict=False):
            losses = student.step(rows, recipe.learning_rate * _rate(stage, step, num_steps))
            num_tokens += sum(len(row.tokens) for row in rows)
            if (step + 1) % _STEPS_BETWEEN_LINES == 0 or step + 1 == num_steps:
                said = ", ".join(f"{part} {loss:.3f}" for part, loss in losses.items())
                minutes = (time.perf_counter() - began) / 60
                show(f"seed {seed}: {name}: step {step + 1} of {num_steps}, {minutes:.1f} min: {said}")
    return Learnt(
        model=student.model.cpu().eval(),
        recipe=recipe,
        seed=seed,
        num_weights=sum(weights.numel() for weights in student.model.parameters()),
        num_tokens=num_tokens,
        minutes=(time.perf_counter() - began) / 60,
    )


_STEPS_BETWEEN_LINES = 100
_RISING_STEPS = 50
"""Of each stage: it begins with batches of another kind, on which the optimisers' memory misleads."""


def _batches(words: Words, rng: random.Random, recipe: Recipe, *, together: bool) -> Iterator[list[Row]]:
    max_tokens = recipe.group_tokens if together else recipe.single_tokens
    return batches(words, rng, max_tokens=max_tokens, max_rollouts=recipe.max_rollouts, together=together)


def _rate(stage: int, step: int, num_steps: int) -> float:
    """Share of the learning rate: it falls only in the second half of the last stage, to a fiftieth."""
    rising = min(1.0, (step + 1) / _RISING_STEPS)
    left = 1 - step / num_steps
    return rising * (max(0.02, min(1.0, 2 * left)) if stage == 2 else 1.0)


class _Student:
    """The model, what it is asked in training alone, and its optimisers."""

    def __init__(self, words: Words, recipe: Recipe, device: str) -> None:
        self._device = torch.device(device)
        self._levels = slice(words.levels[0], words.levels[-1] + 1)
        self.model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(VOCABULARY),
                hidden_size=recipe.hidden_size,
                intermediate_size=recipe.hidden_size * 5 // 2,
                num_hidden_layers=recipe.num_layers,
                num_attention_heads=recipe.num_heads,
                num_key_value_heads=recipe.num_heads,
                max_position_embeddings=recipe.window,
                initializer_range=0.04,  # at the usual 0.02, made for large models, the first steps are lost
                tie_word_embeddings=False,
                bos_token_id=None,
                eos_token_id=None,
                pad_token_id=VOCABULARY.index(PAD),
                dtype="float32",
            )
        )
        # Beside the levels: the reasons of each, whether an answer is right, and how far a line is.
        self._asked = torch.nn.Linear(recipe.hidden_size, NUM_REASONS + 3)
        self.model.to(self._device)
        self._asked.to(self._device)
        matrices: list[torch.nn.Parameter] = []
        rest = list(self._asked.parameters())
        for name, weights in self.model.named_parameters():
            (matrices if weights.ndim == 2 and ".layers." in name else rest).append(weights)
        self._text_weight = recipe.text_weight
        self._optimisers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, betas=(0.9, 0.95), weight_decay=0.0),
        ]

    def step(self, rows: list[Row], learning_rate: float) -> dict[str, float]:
        """One step of the optimisers; the losses before it."""
        losses = self._losses(rows)
        total = torch.stack([_WEIGHTS.get(part, self._text_weight) * loss for part, loss in losses.items()]).sum()
        for optimiser in self._optimisers:
            optimiser.zero_grad(set_to_none=True)
            for group in optimiser.param_groups:
                group["lr"] = learning_rate
        total.backward()
        torch.nn.utils.clip_grad_norm_([*self.model.parameters(), *self._asked.parameters()], 1.0)
        for optimiser in self._optimisers:
            optimiser.step()
        return {part: float(loss.detach()) for part, loss in losses.items()}

    def _losses(self, rows: list[Row]) -> dict[str, torch.Tensor]:
        """Nats: of its own solution and of the text of attempts per token, of the rest per answer."""
        longest = max(len(row.tokens) for row in rows)
        # Padded at the end: no token sees what comes after it, so nothing needs a mask but the losses.
        tokens = self._tensor([[*row.tokens, *[0] * (longest - len(row.tokens))] for row in rows])
        with torch.autocast(self._device.type, torch.bfloat16):
            read = self.model.model(input_ids=tokens, use_cache=False).last_hidden_state
            logits = self.model.lm_head(read[:, :-1])
        read = read.float()
        text = functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        text = text.view(len(rows), -1)
        own = torch.zeros(len(rows), longest, dtype=torch.bool, device=self._device)
        rest = torch.zeros_like(own)
        for place, row in enumerate(rows):
            own[place, row.own] = True
            rest[place, row.own.stop : len(row.tokens)] = True
        losses = {"own": text[own[:, 1:]].mean()}
        closings = [(place, at, level) for place, row in enumerate(rows) for at, level in row.levels]
        if not closings:
            return losses
        losses["text"] = text[rest[:, 1:]].mean()
        at_closings = read[[one[0] for one in closings], [one[1] for one in closings]]
        levels = functional.linear(at_closings, self.model.lm_head.weight[self._levels])
        losses["level"] = functional.cross_entropy(levels, self._tensor([one[2] for one in closings]))
        reasons = self._tensor([why for row in rows for why in row.reasons])
        losses["reasons"] = _binary(self._asked(at_closings)[:, :NUM_REASONS], reasons)
        answers = [(place, *one) for place, row in enumerate(rows) for one in row.answers]
        if answers:
            said = self._asked(read[[one[0] for one in answers], [one[1] for one in answers]])[:, NUM_REASONS]
            losses["answers"] = _binary(said, self._tensor([one[2] for one in answers]))
        prefixes = [(place, *one) for place, row in enumerate(rows) for one in row.prefixes]
        if prefixes:
            said = self._asked(read[[one[0] for one in prefixes], [one[1] for one in prefixes]])[:, NUM_REASONS + 1 :]
            losses["prefixes"] = _binary(said, self._tensor([one[2:] for one in prefixes]))
        return losses

    def _tensor(self, values: list[Any]) -> torch.Tensor:
        return torch.tensor(values, device=self._device)


_WEIGHTS = {"own": 1.0, "level": 1.0, "reasons": 1.0, "answers": 0.5, "prefixes": 1.0}
"""Of the losses; that of the text is in the recipe."""


def _binary(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(logits, truth)
