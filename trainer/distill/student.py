"""The student: a causal language model that learns to give scores, read in training as it will be read as a judge.

`judges.transformers` reads a score behind the prompt and the reply's fixed beginning, from the probabilities of the
tokens that may come. The loss stands at just these places, so nothing is learnt that is not read, and the distributions
are those of `JudgeReply.distributions`.

A prompt goes through the model once, and all its rollouts are read from copies of its key-value cache; gradients flow
back through the cache. One row of prompt and reply for each rollout would cost as many prompts as there are rollouts.
One row for all, with a mask that hides the replies from each other, would need no copies; but layers with a sliding
window or a recurrent state take no such mask.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from judges.local_model import model_folder, prompt_tokens, text_tokens
from judges.score_tokens import Decision, ScoreTokens
from judges.transformers_load import read_tokenizer
from judges.transformers_model import TransformersModel
from ruler.errors import ConfigError
from trainer.distill.lessons import Lesson, target
from trainer.progress_bars import without_progress_bars

Dtype: TypeAlias = Literal["float32", "bfloat16"]

_MAX_GRAD_NORM = 1.0


class Student:
    """A model in training. It reads as in evaluation, without dropout: what is trained is what will be asked.

    Weights are float32, because a step of 1e-6 is lost in bfloat16. With dtype "bfloat16" forward passes calculate in
    bfloat16, and so the weights are saved: the judge made of them then reads as fast.

    Attributes:
        model: as transformers loads it; its weights are changed in place.
        tokenizer: the model's own.
    """

    def __init__(self, model: Any, tokenizer: Any, *, dtype: Dtype = "float32") -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self._dtype = dtype
        self._scores = ScoreTokens(lambda text: text_tokens(tokenizer, text))
        # The judge's own way to read prompts and to copy caches; it makes no batches here, which need a bound.
        self._reader = TransformersModel(model, max_batch_tokens=1)
        self._optimiser = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.01)

    @classmethod
    def load(cls, name: str, *, device: str, dtype: Dtype) -> Student:
        """The model in a folder or on the hub, in float32; `TransformersJudge` says better what is wrong with one.

        Raises:
            ConfigError: there is no such model.
        """
        folder = model_folder(name)
        tokenizer = read_tokenizer(f"student {name}", folder)
        with without_progress_bars():
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, trust_remote_code=False, local_files_only=True
            )
        return cls(model.to(device), tokenizer, dtype=dtype)

    def losses(self, lesson: Lesson) -> Tensor:
        """For each label of the lesson the cross-entropy of `target` against the student's distribution, in nats.

        Shape (rollouts,), with gradients. The least there can be is the entropy of the target, 0 for a whole score and
        at most log 2.
        """
        rows = [
            row
            for place, (label, score) in enumerate(lesson.scores.items())
            for row in _rows(place, self._scores.first_decision(label), target(score))
        ]
        bfloat16 = self._dtype == "bfloat16"
        with torch.autocast(self.model.device.type, dtype=torch.bfloat16, enabled=bfloat16):
            _, past = self._reader.forward([prompt_tokens(self.tokenizer, lesson.messages)])
            logits, first = self._logits(rows, past.rows([0] * len(rows)).cache)

        found: defaultdict[tuple[int, int], list[Tensor]] = defaultdict(list)
        for row, own in zip(rows, logits.float(), strict=True):
            before: Tensor = sum((step.log_share(own[step.place - first], step.then) for step in row.steps), _ZERO)
            for whole, tokens in row.settles.items():
                found[row.rollout, whole].append(before + row.last.log_share(own[row.last.place - first], tokens))
        losses = []
        for place, score in enumerate(lesson.scores.values()):
            parts = [share * _log_sum(found[place, whole]) for whole, share in target(score).items()]
            losses.append(-torch.stack(parts).sum())
        return torch.stack(losses)

    def _logits(self, rows: Sequence[_Row], cache: Any) -> tuple[Tensor, int]:
        """(logits (rows, places, vocabulary), first place): what the model says after `place` tokens of a row."""
        longest = max(len(row.tokens) for row in rows)
        first = min(step.place for row in rows for step in (*row.steps, row.last))
        # Padded at the end: no token of a causal model sees what comes after it, so nothing needs a mask.
        tokens = [[*row.tokens, *[0] * (longest - len(row.tokens))] for row in rows]
        kept = longest - first + 1
        output = self.model(
            input_ids=torch.tensor(tokens, device=self.model.device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=kept,
        )
        return output.logits[:, -kept:], first

    def rehearse(self, lesson: Lesson) -> None:
        """Takes the gradient of one lesson and makes no step: what is wrong with the student shows before others work.

        Raises:
            ConfigError: no gradient goes through the model's cache, or memory runs out.
        """
        self._learn(lesson, 1)
        self._optimiser.zero_grad(set_to_none=True)

    def step(self, lessons: Sequence[Lesson], learning_rate: float) -> float:
        """One step of the optimiser on these lessons together; the mean loss over their rollouts, before it, in nats.

        On a CPU equal calls make equal weights, bit by bit.

        Raises:
            ConfigError: the loss or its gradient is not finite, or memory runs out; no step is made.
        """
        num_rollouts = sum(len(lesson.scores) for lesson in lessons)
        self._optimiser.zero_grad(set_to_none=True)
        # One prompt at a time: a batch would need padding before the prompts, and memory for all their caches.
        loss = math.fsum(self._learn(lesson, num_rollouts) for lesson in lessons)
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), _MAX_GRAD_NORM))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise ConfigError(
                f"learning_rate: the student's loss became {loss:g} and the length of its gradient {norm:g}; a smaller "
                "rate may help"
            )
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate
        self._optimiser.step()
        return loss

    def _learn(self, lesson: Lesson, num_rollouts: int) -> float:
        """Adds the gradient of the lesson's part in a mean over so many rollouts; returns that part."""
        try:
            part = self.losses(lesson).sum() / num_rollouts
            part.backward()
        except torch.OutOfMemoryError as error:
            size = len(prompt_tokens(self.tokenizer, lesson.messages))
            raise ConfigError(
                f"student: {self.model.device} has no memory to learn from a prompt of {size:,} tokens with "
                f"{len(lesson.scores)} rollouts"
            ) from error
        except RuntimeError as error:
            # Recurrent layers write over the states that their gradients need.
            said = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"student: no gradient goes through the cache of {type(self.model).__name__}; a model of attention "
                f"layers alone is needed ({said})"
            ) from error
        return float(part.detach())

    def save(self, folder: Path) -> None:
        """Writes weights and tokenizer in the form of Hugging Face, after the last step: in bfloat16 they are rounded.

        Raises:
            OSError: they cannot be written.
        """
        with without_progress_bars():
            self.model.to(getattr(torch, self._dtype)).save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


_ZERO = torch.zeros(())


@dataclass(frozen=True, slots=True)
class _Step:
    """A decision on the way to a score."""

    place: int
    """How many tokens of its row stand before it."""
    allowed: tuple[int, ...]
    then: tuple[int, ...] = ()
    """The token that is written next; none for the last decision of a row."""

    def log_share(self, logits: Tensor, tokens: Sequence[int]) -> Tensor:
        """Log of the probability of these tokens among those allowed; `logits` are (vocabulary,)."""
        shares = torch.log_softmax(logits[list(self.allowed)], dim=0)
        return torch.logsumexp(shares[[self.allowed.index(token) for token in tokens]], dim=0)


@dataclass(frozen=True, slots=True)
class _Row:
    """What is written for one rollout, up to a decision that settles a score that is wanted."""

    rollout: int
    tokens: tuple[int, ...]
    steps: tuple[_Step, ...]
    """The decisions before the last."""
    last: _Step
    settles: Mapping[int, tuple[int, ...]]
    """Score that is wanted -> the tokens that settle it."""


def _rows(
    rollout: int,
    decision: Decision,
    wanted: Mapping[int, float],
    written: tuple[int, ...] = (),
    steps: tuple[_Step, ...] = (),
) -> Iterator[_Row]:
    """All ways to the scores that are wanted; several tokens, at several decisions, may settle the same score."""
    written = (*written, *decision.tokens)
    allowed = (*decision.settles, *decision.leads)
    settles = {
        score: tokens
        for score in wanted
        if (tokens := tuple(token for token, settled in decision.settles.items() if settled == score))
    }
    if settles:
        yield _Row(rollout, written, steps, _Step(len(written), allowed), settles)
    for token, following in decision.leads.items():
        step = _Step(len(written), allowed, (token,))
        yield from _rows(rollout, following, wanted, written, (*steps, step))


def _log_sum(logarithms: Sequence[Tensor]) -> Tensor:
    return torch.logsumexp(torch.stack(list(logarithms)), dim=0)
