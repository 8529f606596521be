"""A causal language model on one device, and the probabilities it gives to scores. One thread at a time may use it.

Each prompt goes through the model once, several left-padded prompts together. What follows are rows on copies of the
prompts' key-value cache: one row for each rollout's forced text, and one for each token that leads to a further
decision. Nothing is padded there: only rows with equally many new tokens go together, so that models with a sliding
window or a recurrent state see what they would see without a batch.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from judges.score_tokens import Decision
from ruler.errors import JudgeError, JudgeRejected, JudgeUnavailable


@dataclass(eq=False)
class Reading:
    """One prompt and the scores to be read behind it; the model fills in the rest."""

    prompt: Sequence[int]
    """Token ids; at least one."""
    decisions: Sequence[Decision]
    """The first decision of each rollout. All are read behind the prompt alone: none sees another's text."""
    distributions: list[dict[int, float]] = field(default_factory=list)
    """For each rollout score 0..100 -> probability; each sums to 1."""
    fault: JudgeError | None = None
    """Why there are no distributions."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A decision to be read, and what is in the cache before its tokens."""

    reading: Reading
    rollout: int
    decision: Decision
    probability: float
    """That the reply comes to this decision."""
    parent: int
    """Row of the past that it continues."""


@dataclass(frozen=True, slots=True)
class Past:
    """What the model has seen, row by row: its cache, and a mask [rows, tokens] that is 0 on padding."""

    cache: Any
    mask: Any

    @property
    def num_tokens(self) -> int:
        return int(self.mask.shape[1])

    def rows(self, indices: Sequence[int]) -> Past:
        """Copies of these rows; a row may be taken many times."""
        import torch

        selected = torch.tensor(indices, device=self.mask.device)
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        for layer in cache.layers:
            # Recurrent layers keep their states in dicts, which the copy would share.
            vars(layer).update({name: dict(value) for name, value in vars(layer).items() if isinstance(value, dict)})
        cache.reorder_cache(selected)
        return Past(cache, self.mask[selected])


class TransformersModel:
    """Weights in memory, ready to read.

    Args:
        model: a causal language model as transformers loads it, on its device; see `judges.transformers_load`.
        max_batch_tokens: rows times length that go through the model together; a single row may be longer. Halved
            whenever the device runs out of memory.
    """

    def __init__(self, model: Any, *, max_batch_tokens: int) -> None:
        self._model = model
        self._max_batch_tokens = max_batch_tokens
        self._arguments = inspect.signature(model.forward).parameters
        rope = str(getattr(model.config.get_text_config(decoder=True), "rope_parameters", None))
        # There the longest prompt of a batch decides how the positions of all are read.
        self._alone = "longrope" in rope

    def read(self, readings: Sequence[Reading]) -> Iterator[Reading]:
        """The readings as they are done, in any order, each with its distributions or its fault."""
        import torch

        for batch in self._batches(readings):
            with torch.inference_mode():
                self._read(batch)
            yield from batch

    def _batches(self, readings: Sequence[Reading]) -> Iterator[list[Reading]]:
        # Prompts of like length together: less padding.
        waiting = sorted(readings, key=lambda reading: len(reading.prompt))
        while waiting:
            size = 1
            while (
                not self._alone
                and size < len(waiting)
                and (size + 1) * len(waiting[size].prompt) <= self._max_batch_tokens
            ):
                size += 1
            yield waiting[:size]
            waiting = waiting[size:]

    def _read(self, batch: list[Reading]) -> None:
        past = self._attempt(lambda: self.forward([reading.prompt for reading in batch])[1], len(batch))
        if past is None and len(batch) > 1:
            self._read(batch[: len(batch) // 2])
            self._read(batch[len(batch) // 2 :])
            return
        if past is None:
            batch[0].fault = self._out_of_memory(len(batch[0].prompt))
            return
        for reading in batch:
            reading.distributions = [{} for _ in reading.decisions]
        self._decide(
            past,
            [
                _Row(reading, rollout, decision, 1.0, parent)
                for parent, reading in enumerate(batch)
                for rollout, decision in enumerate(reading.decisions)
            ],
        )

    def _decide(self, past: Past, rows: Sequence[_Row]) -> None:
        """Reads the decisions of all rows, and those that follow, into their readings."""

        def length(row: _Row) -> int:
            return len(row.decision.tokens)

        for num_new, alike in groupby(sorted(rows, key=length), length):
            waiting = list(alike)
            while waiting:
                size = max(1, self._max_batch_tokens // (past.num_tokens + num_new))
                chunk, waiting = waiting[:size], waiting[size:]
                chunk = [row for row in chunk if row.reading.fault is None]
                if chunk:
                    self._decide_together(past, chunk)

    def _decide_together(self, past: Past, rows: list[_Row]) -> None:
        tokens = [row.decision.tokens for row in rows]
        done = self._attempt(lambda: self.forward(tokens, past.rows([row.parent for row in rows])), len(rows))
        if done is None and len(rows) > 1:
            self._decide_together(past, rows[: len(rows) // 2])
            self._decide_together(past, rows[len(rows) // 2 :])
            return
        if done is None:
            rows[0].reading.fault = self._out_of_memory(past.num_tokens + len(tokens[0]))
            return
        logits, extended = done
        self._decide(extended, list(_divide(rows, logits)))

    def forward(self, tokens: Sequence[Sequence[int]], past: Past | None = None) -> tuple[Any, Past]:
        """(logits [rows, vocabulary] behind the last token of each row, what the model has seen then).

        Args:
            tokens: of each row, at least one; shorter rows are padded on the left. With a past all are equally long.
            past: the row that each of them continues; None: each begins a text. The cache is used up.
        """
        import torch

        device = self._model.device
        longest = max(map(len, tokens))
        padding = [longest - len(row) for row in tokens]
        ids = torch.tensor([[0] * gap + list(row) for gap, row in zip(padding, tokens, strict=True)], device=device)
        new = torch.tensor([[0] * gap + [1] * (longest - gap) for gap in padding], device=device)
        mask = new if past is None else torch.cat([past.mask, new], dim=1)
        arguments = {
            "position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -longest:],
            "logits_to_keep": 1,
        }
        output = self._model(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=past.cache if past else None,
            use_cache=True,
            **{name: value for name, value in arguments.items() if name in self._arguments},
        )
        return output.logits[:, -1], Past(output.past_key_values, mask)

    def _attempt(self, forward: Callable[[], Any], num_rows: int) -> Any | None:
        """What `forward` returns; None when memory ran out."""
        import torch

        try:
            return forward()
        except torch.OutOfMemoryError:
            pass
        # Outside of the handler: the exception held on to the tensors.
        torch.cuda.empty_cache()
        if num_rows > 1:
            self._max_batch_tokens = max(1, self._max_batch_tokens // 2)
        return None

    def _out_of_memory(self, num_tokens: int) -> JudgeError:
        return JudgeUnavailable(f"{self._model.device} has no memory for a single row of {num_tokens:,} tokens")


def _divide(rows: Sequence[_Row], logits: Any) -> Iterator[_Row]:
    """Settles what the rows' decisions settle, and gives the rows that are left to read.

    The probability of a next token is that among the tokens which the reply's form allows: what guided decoding at
    temperature 1 would draw from.
    """
    import torch

    columns = sorted({token for row in rows for token in (*row.decision.settles, *row.decision.leads)})
    place = {token: column for column, token in enumerate(columns)}
    # One transfer, in the precision the model answered in.
    table = logits[:, torch.tensor(columns, device=logits.device)].cpu().double()
    for index, (row, values) in enumerate(zip(rows, table, strict=True)):
        decision = row.decision
        tokens = [*decision.settles, *decision.leads]
        allowed = values[[place[token] for token in tokens]]
        if not bool(torch.isfinite(allowed).all()):
            row.reading.fault = JudgeRejected(
                "the model's logits are not finite; a larger number format (dtype=bfloat16 or float32) may help"
            )
            continue
        distribution = row.reading.distributions[row.rollout]
        for token, share in zip(tokens, torch.softmax(allowed, dim=0).tolist(), strict=True):
            probability = row.probability * share
            if token in decision.settles:
                score = decision.settles[token]
                distribution[score] = distribution.get(score, 0.0) + probability
            else:
                yield _Row(row.reading, row.rollout, decision.leads[token], probability, index)
