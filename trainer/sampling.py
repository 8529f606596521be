"""Tokens drawn from a causal language model, many sequences at once, with a key-value cache.

`generate` of transformers does much more (beams, processors, streamers) and does not do what a trainer needs: the
log-probability of each token as it was drawn, one prefill for all rollouts of a group, and word of every sequence the
moment it ends. Sequences that have ended leave the batch, so that the last long one does not pay for the others.

Letters in shapes: R rows (sequences) still in the batch, P tokens of the longest prompt, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

_DROP_SHARE = 0.25
"""Ended rows leave the batch when they are this share of it: each leaving copies the cache of those who stay, and a
row that waits costs one more row of every step."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What was drawn for one sequence. The three tuples are equally long, at least 1."""

    tokens: tuple[int, ...]
    """With the end token, where there is one."""
    logprobs: tuple[float, ...]
    """Natural logarithm of each token's probability in the distribution it was drawn from, temperature included."""
    entropies: tuple[float, ...]
    """Of these distributions, in nats."""
    truncated: bool
    """Whether it was stopped by its limit, without an end token."""


@torch.inference_mode()  # type: ignore[untyped-decorator]  # mypy does not look into torch
def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: Sequence[int],
    end_tokens: Collection[int],
    temperature: float,
    generator: torch.Generator,
    copies: int = 1,
    ended: Callable[[int, Completion], None] | None = None,
) -> list[Completion]:
    """One completion for each copy of each prompt: those of the first prompt first.

    Args:
        model: a causal language model of transformers; its weights are not touched.
        prompts: token ids, at least one in each; of any lengths.
        max_new_tokens: the limit for each prompt, at least 1.
        end_tokens: a completion ends with the first of these.
        temperature: divides the logits. 0: the likeliest token, always; log-probabilities and entropies are then those
            at temperature 1.
        generator: where chance comes from, on the model's device. With the same generator, prompts and weights the
            same tokens come out.
        copies: how often each prompt is continued; its prefill is done once.
        ended: told the place of a completion in the result, and the completion, the moment it has ended.
    """
    device = model.device
    ids, mask = _left_padded(prompts, device)  # (P prompts, P tokens)
    padded = not bool(mask.all())
    cache = DynamicCache(config=model.config)
    logits = model(
        input_ids=ids,
        # Left out where nothing is padded: attention has a faster path then.
        attention_mask=mask if padded else None,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]  # (P prompts, V)
    longest = max(max_new_tokens)
    lengths = mask.sum(1).repeat_interleave(copies)  # (R,)
    if copies > 1:
        cache.batch_repeat_interleave(copies)
        logits = logits.repeat_interleave(copies, dim=0)
        mask = mask.repeat_interleave(copies, dim=0)
    mask = torch.cat([mask, mask.new_ones(len(mask), longest)], dim=1)  # (R, P + longest)

    limits = [limit for limit in max_new_tokens for _ in range(copies)]
    ends = torch.tensor(sorted(end_tokens), device=device)
    num_rows = len(limits)
    tokens = torch.zeros(num_rows, longest, dtype=torch.long, device=device)
    logprobs = torch.zeros(num_rows, longest, device=device)
    entropies = torch.zeros(num_rows, longest, device=device)
    completions: list[Completion | None] = [None] * num_rows
    rows = torch.arange(num_rows, device=device)  # (R,): whose place in the result each row of the batch has
    waiting = list(range(num_rows))  # the same, as numbers; an ended one is -1 until it leaves the batch
    for drawn in range(longest):
        all_logprobs = (logits.float() / (temperature or 1.0)).log_softmax(-1)  # (R, V)
        probabilities = all_logprobs.exp()
        if temperature:
            # The token in whose part of [0, 1) a random number falls: one number a row, where `multinomial` draws one
            # for each word of the vocabulary. In float64: the sums of a large vocabulary lose its rare words otherwise.
            bounds = probabilities.cumsum(-1, dtype=torch.float64)  # (R, V)
            chance = torch.rand(len(bounds), 1, dtype=torch.float64, device=device, generator=generator)
            # right: a word without probability has no part, and is never drawn.
            token = torch.searchsorted(bounds, chance * bounds[:, -1:], right=True)[:, 0]  # (R,)
            token = token.clamp(max=bounds.shape[1] - 1)  # rounding may lead past the last one
        else:
            token = all_logprobs.argmax(-1)
        tokens[rows, drawn] = token
        logprobs[rows, drawn] = all_logprobs.gather(-1, token[:, None])[:, 0]
        # 0 · log 0 is 0, and not the NaN that 0 · -inf would give: as far as float32 goes, -inf is a finite number.
        entropies[rows, drawn] = -(probabilities * all_logprobs.clamp(min=torch.finfo(torch.float32).min)).sum(-1)

        is_end = torch.isin(token, ends).tolist()
        for place, row in enumerate(waiting):
            if row < 0 or not (is_end[place] or drawn + 1 == limits[row]):
                continue
            completion = Completion(
                tuple(tokens[row, : drawn + 1].tolist()),
                tuple(logprobs[row, : drawn + 1].tolist()),
                tuple(entropies[row, : drawn + 1].tolist()),
                truncated=not is_end[place],
            )
            completions[row] = completion
            waiting[place] = -1
            if ended:
                ended(row, completion)
        num_ended = waiting.count(-1)
        if num_ended == len(waiting):
            break
        if num_ended >= _DROP_SHARE * len(waiting):
            stay = torch.tensor([place for place, row in enumerate(waiting) if row >= 0], device=device)
            cache.batch_select_indices(stay)
            rows, token, mask, lengths = rows[stay], token[stay], mask[stay], lengths[stay]
            waiting = [row for row in waiting if row >= 0]
        logits = model(
            input_ids=token[:, None],
            attention_mask=mask[:, : ids.shape[1] + drawn + 1] if padded else None,
            position_ids=(lengths + drawn)[:, None],
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
    return [completion for completion in completions if completion is not None]


def _left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask (1 where there is a token), padded on the left: then all rows go on at the same place."""
    longest = max(len(prompt) for prompt in prompts)
    ids = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
