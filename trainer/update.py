"""One batch of episodes -> a few steps of the optimiser, in micro-batches.

    statistics = update(policy, optimiser, episodes, advantages, settings)

The log-probabilities that the ratio compares with are always those recorded when the tokens were sampled, never
computed again. So the ratio also corrects what was sampled one step earlier, and the difference between the sampler's
arithmetic and the trainer's.

Shapes: B episodes of a micro-batch, T tokens of the longest, V vocabulary, K scored positions: from the first token
that any of the B episodes sampled to the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ruler.errors import ConfigError
from trainer.episodes import Episode
from trainer.losses import LossSettings, LossSums, loss_sums, token_logprobs, token_weights


class Trained(Protocol):
    """What is needed of a policy."""

    model: Any
    """A causal language model of transformers."""

    def autocast(self) -> AbstractContextManager[Any]:
        """In which forward passes are to be made."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateSettings:
    """How a batch becomes steps of the optimiser.

    Raises:
        ConfigError: a number out of range.
    """

    loss: LossSettings
    temperature: float
    """The one that was sampled at; > 0."""
    num_iterations: int = 1
    """Steps of the optimiser per batch, each over all of it. TRL: num_iterations."""
    max_grad_norm: float = 1.0
    """A longer gradient is shortened to this Euclidean length; infinity: never."""
    micro_batch_tokens: int = 4096
    """Most tokens, padding included, that go through the model at once; an episode that is longer goes alone. Decides
    memory and speed, not the gradient."""

    def __post_init__(self) -> None:
        for name, value in (("temperature", self.temperature), ("max_grad_norm", self.max_grad_norm)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ConfigError(f"{name}: expected a number > 0, got {value!r:.80}")
        if math.isinf(self.temperature):
            raise ConfigError("temperature: expected a finite number, got inf")
        for name, value in (("num_iterations", self.num_iterations), ("micro_batch_tokens", self.micro_batch_tokens)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name}: expected a whole number >= 1, got {value!r:.80}")


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateStatistics:
    """What a batch did. Means over the iterations; each is measured before the step that it leads to.

    Where no step was made nothing was measured: all means are None.
    """

    loss: float | None
    """Of the whole batch."""
    grad_norm: float | None
    """Euclidean length of the gradient, before it is shortened."""
    clip_share_low: float | None
    """Share of all sampled tokens that lost their gradient because they became too unlikely, in [0, 1]."""
    clip_share_high: float | None
    """Share of all sampled tokens that lost their gradient because they became too likely, in [0, 1]."""
    mean_ratio: float | None
    """Over the tokens that went through the model."""
    kl: float | None
    """To the reference, in nats per token; None without one."""
    num_tokens: int
    """Sampled tokens of the batch, also of episodes that did not have to go through the model."""
    num_steps: int
    """Of the optimiser: 0 where the batch had nothing to say, else `UpdateSettings.num_iterations`."""


class Row(NamedTuple):
    """One episode that the policy is trained on."""

    episode: Episode
    advantage: float
    token_weight: float
    """What one sampled token of it weighs in the loss of the whole batch."""


class MicroBatch(NamedTuple):
    """Some rows as tensors, padded at the right. Column k of `targets` and of what follows it is about one token."""

    inputs: Tensor  # (B, T - 1)
    """What the model reads: all tokens but the last, after which nothing is predicted."""
    targets: Tensor  # (B, K)
    """What it has to predict with its last K outputs."""
    sampled: Tensor  # (B, K) bool
    old_logprobs: Tensor  # (B, K)
    advantages: Tensor  # (B,)
    token_weights: Tensor  # (B,)


def update(
    policy: Trained,
    optimiser: torch.optim.Optimizer,
    episodes: Sequence[Episode],
    advantages: Sequence[float],
    settings: UpdateSettings,
    *,
    reference: Any = None,
) -> UpdateStatistics:
    """Trains the policy on a batch, and returns what happened.

    The result depends on nothing but the arguments: the micro-batches and their order are fixed, and nothing is drawn.
    On a CPU equal calls give bitwise equal weights. No gradient is left behind.

    A batch without anything to learn (no episodes, or all advantages 0 and no KL) makes no step: Adam would go on
    along its momentum and shrink the weights, though nothing was seen.

    Args:
        policy: its model is changed in place.
        optimiser: of the parameters of `policy.model`. Its learning rate is the caller's business.
        episodes: the whole batch: divisors and statistics are over all of it. Each begins with a prompt.
        advantages: one per episode.
        settings: loss, iterations, clipping and memory.
        reference: a frozen model with the same vocabulary, for the KL divergence; where `beta` > 0, and only there.

    Raises:
        ConfigError: a reference without `beta` or `beta` without one; not one advantage per episode.
        FloatingPointError: the loss or the gradient is infinite or NaN; no step is made with it. Those of earlier
            iterations have been made.
    """
    beta = settings.loss.beta
    if (beta > 0) != (reference is not None):
        raise ConfigError(f"reference: beta {beta!r} needs {'a model' if beta > 0 else 'none'}, got {reference!r:.80}")
    if len(advantages) != len(episodes):
        raise ConfigError(f"advantages: expected one for each of {len(episodes)} episodes, got {len(advantages)}")

    weights = token_weights([episode.num_sampled for episode in episodes], settings.loss)
    rows = [
        Row(episode, advantage, weight)
        for episode, advantage, weight in zip(episodes, advantages, weights, strict=True)
        # Without KL, an advantage of 0 makes a gradient of 0: the model need not read the episode. Its tokens are in
        # the divisors all the same.
        if advantage != 0 or beta > 0
    ]
    batches = [collate(part, device=policy.model.device) for part in split_by_length(rows, settings.micro_batch_tokens)]
    references: list[Tensor | None] = [None] * len(batches)
    if reference is not None:
        with torch.no_grad():
            references = [_logprobs(policy, reference, batch, settings.temperature) for batch in batches]

    num_iterations = settings.num_iterations if batches else 0
    # Transformers checkpoints gradients in training mode alone. Otherwise the model stays in evaluation mode, without
    # dropout: what is trained has to be what was sampled.
    policy.model.train(any(getattr(module, "gradient_checkpointing", False) for module in policy.model.modules()))
    iterations = [_step(policy, optimiser, batches, references, settings) for _ in range(num_iterations)]
    policy.model.eval()

    def mean(values: Iterable[float]) -> float | None:
        return math.fsum(values) / num_iterations if num_iterations else None

    num_tokens = sum(episode.num_sampled for episode in episodes)
    num_read = sum(row.episode.num_sampled for row in rows)
    return UpdateStatistics(
        loss=mean(sums.loss for sums, _ in iterations),
        grad_norm=mean(grad_norm for _, grad_norm in iterations),
        # Episodes that the model did not read have an advantage of 0, and are never clipped.
        clip_share_low=mean(sums.clipped_low / num_tokens for sums, _ in iterations),
        clip_share_high=mean(sums.clipped_high / num_tokens for sums, _ in iterations),
        mean_ratio=mean(sums.ratio / num_read for sums, _ in iterations),
        kl=mean(sums.kl / num_read for sums, _ in iterations) if beta > 0 else None,
        num_tokens=num_tokens,
        num_steps=num_iterations,
    )


def _step(
    policy: Trained,
    optimiser: torch.optim.Optimizer,
    batches: Sequence[MicroBatch],
    references: Sequence[Tensor | None],
    settings: UpdateSettings,
) -> tuple[LossSums, float]:
    """One step of the optimiser over the whole batch; returns the batch's sums and the length of its gradient."""
    optimiser.zero_grad()
    parts = []
    for batch, reference_logprobs in zip(batches, references, strict=True):
        sums = loss_sums(
            _logprobs(policy, policy.model, batch, settings.temperature),
            batch.old_logprobs,
            batch.sampled,
            batch.advantages,
            batch.token_weights,
            settings.loss,
            reference_logprobs=reference_logprobs,
        )
        sums.loss.backward()
        parts.append(torch.stack(sums).detach())
    # Here and not for every micro-batch: reading a number waits for the GPU.
    totals = LossSums(*torch.stack(parts).sum(dim=0, dtype=torch.float64).cpu())
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    grad_norm = float(torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm))
    finite = math.isfinite(totals.loss) and math.isfinite(grad_norm)
    if finite:
        optimiser.step()
    # Emptied at once: what comes next is sampling, which needs the memory.
    optimiser.zero_grad()
    if not finite:
        raise FloatingPointError(
            f"loss {float(totals.loss)}, length of the gradient {grad_norm}: no step was made with it"
        )
    return totals, grad_norm


def _logprobs(policy: Trained, model: Any, batch: MicroBatch, temperature: float) -> Tensor:
    """What the model gives each target, (B, K)."""
    with policy.autocast():
        # No attention mask: padding stands at the right, where no real token of a causal model sees it, and what the
        # model makes of the padding itself is masked. Without a mask attention also takes its fastest kernel.
        outputs = model(input_ids=batch.inputs, logits_to_keep=batch.targets.shape[1], use_cache=False)
    return token_logprobs(outputs.logits, batch.targets, temperature)  # logits (B, K, V)


def split_by_length(rows: Sequence[Row], micro_batch_tokens: int) -> list[list[Row]]:
    """The rows in micro-batches of at most so many tokens with padding; a longer row is alone.

    Longest first, so that little is padded, and that memory, if it does not suffice, fails in the first one and not
    after a minute. Rows of one length keep their order.
    """
    parts: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: -len(row.episode.tokens)):
        if not parts or (len(parts[-1]) + 1) * len(parts[-1][0].episode.tokens) > micro_batch_tokens:
            parts.append([])
        parts[-1].append(row)
    return parts


def collate(rows: Sequence[Row], *, device: torch.device | str = "cpu") -> MicroBatch:
    """The rows as tensors. Here 7 8 is a prompt; 1 2 and 3 were sampled; 9 came from a tool; 0 is padding.

    >>> from trainer.episodes import Episode
    >>> turns = Episode(
    ...     tokens=(7, 8, 1, 9, 2),
    ...     sampled=(False, False, True, False, True),
    ...     logprobs=(0.0, 0.0, -0.5, 0.0, -0.25),
    ...     entropies=(0.0,) * 5,
    ...     truncated=False,
    ... )
    >>> short = Episode((7, 8, 3), (False, False, True), (0.0, 0.0, -1.0), (0.0,) * 3, truncated=False)
    >>> batch = collate([Row(turns, advantage=1.0, token_weight=0.25), Row(short, advantage=-1.0, token_weight=0.5)])
    >>> batch.inputs
    tensor([[7, 8, 1, 9],
            [7, 8, 3, 0]])
    >>> batch.targets  # K = 3: what follows 8, and so on; nobody wants to know how likely 8 is after 7
    tensor([[1, 9, 2],
            [3, 0, 0]])
    >>> batch.sampled
    tensor([[ True, False,  True],
            [ True, False, False]])
    >>> batch.old_logprobs
    tensor([[-0.5000,  0.0000, -0.2500],
            [-1.0000,  0.0000,  0.0000]])
    >>> batch.advantages, batch.token_weights
    (tensor([ 1., -1.]), tensor([0.2500, 0.5000]))

    Raises:
        ConfigError: an episode whose first token is sampled: nothing says how likely that is.
    """
    episodes = [row.episode for row in rows]
    first = min(episode.sampled.index(True) for episode in episodes)
    if first == 0:
        raise ConfigError("episode: its first token is sampled; there has to be a prompt before it")
    width = max(len(episode.tokens) for episode in episodes)

    def padded(sequences: Iterable[Sequence[float]], dtype: torch.dtype) -> Tensor:
        lists = [[*sequence, *[0] * (width - len(sequence))] for sequence in sequences]
        return torch.tensor(lists, dtype=dtype, device=device)  # (B, T)

    tokens = padded((episode.tokens for episode in episodes), torch.long)
    return MicroBatch(
        inputs=tokens[:, :-1],
        targets=tokens[:, first:],
        sampled=padded((episode.sampled for episode in episodes), torch.bool)[:, first:],
        old_logprobs=padded((episode.logprobs for episode in episodes), torch.float32)[:, first:],
        advantages=torch.tensor([row.advantage for row in rows], dtype=torch.float32, device=device),
        token_weights=torch.tensor([row.token_weight for row in rows], dtype=torch.float32, device=device),
    )
