"""The mathematics of GRPO: pure functions of tensors, without a model and without state.

Names and meaning are those of TRL 1.16.0 (`GRPOTrainer._compute_loss` in `trl/trainer/grpo_trainer.py`), which these
functions are tested against. On purpose every divisor is that of the whole batch, never that of the micro-batch at
hand: `loss_sums` returns sums, and the losses of the micro-batches, added up, are the loss of the batch.

Shapes: B episodes, T positions, V vocabulary.

Sources: PPO (arXiv 1707.06347) for the clip; DeepSeekMath (2402.03300) for `grpo` and its KL estimate, which is k3 of
J. Schulman, "Approximating KL divergence" (2020); DAPO (2503.14476) for `dapo` and `epsilon_high`; Dr. GRPO
(2503.20783) for `dr_grpo`; GSPO (2507.18071) for ratios of sequences; DeepSeek-V3.2 (2512.02556) for the weighted KL.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor

from ruler.errors import ConfigError

LossType: TypeAlias = Literal["dapo", "grpo", "dr_grpo"]
ImportanceSamplingLevel: TypeAlias = Literal["token", "sequence"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSettings:
    """What is minimised. Names and meaning as in TRL's GRPOConfig.

    Raises:
        ConfigError: an unknown name, or a number out of range.
    """

    max_completion_tokens: int
    """Most tokens that a policy may sample in one attempt: the divisor of `dr_grpo`. TRL: max_completion_length."""
    loss_type: LossType = "dapo"
    """What the tokens' losses are divided by. "dapo": the sampled tokens of the batch, so all tokens weigh the same.
    "grpo": each episode by its own tokens, then by the number of episodes, so all episodes weigh the same. "dr_grpo":
    the number of episodes x `max_completion_tokens`, a constant, so that no length is favoured."""
    epsilon: float = 0.2
    """The ratio is clipped at 1 - epsilon from below."""
    epsilon_high: float | None = None
    """The ratio is clipped at 1 + epsilon_high from above; None: the same as `epsilon`."""
    beta: float = 0.0
    """Weight of the KL divergence to a reference model; 0: none."""
    importance_sampling_level: ImportanceSamplingLevel = "token"
    """One ratio per token, or one per sequence: the geometric mean of its tokens' ratios."""

    def __post_init__(self) -> None:
        for name, value, kind in (
            ("loss_type", self.loss_type, LossType),
            ("importance_sampling_level", self.importance_sampling_level, ImportanceSamplingLevel),
        ):
            if value not in get_args(kind):
                raise ConfigError(f"{name}: expected one of {', '.join(get_args(kind))}, got {value!r:.80}")
        for name, number in (
            ("epsilon", self.epsilon),
            ("epsilon_high", self.upper_epsilon),
            ("beta", self.beta),
        ):
            if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < math.inf:
                raise ConfigError(f"{name}: expected a finite number >= 0, got {number!r:.80}")
        most = self.max_completion_tokens
        if isinstance(most, bool) or not isinstance(most, int) or most < 1:
            raise ConfigError(f"max_completion_tokens: expected a whole number >= 1, got {most!r:.80}")

    @property
    def upper_epsilon(self) -> float:
        """`epsilon_high`, or `epsilon` where that is None."""
        return self.epsilon if self.epsilon_high is None else self.epsilon_high


class LossSums(NamedTuple):
    """Sums over the sampled tokens of a micro-batch, each of shape (). Only `loss` has a gradient.

    A ratio of a sequence counts once for each sampled token of it, so that all shares are shares of tokens (as GSPO
    reports them; TRL counts sequences).
    """

    loss: Tensor
    """Weighted, so that those of all micro-batches add up to the loss of the batch."""
    ratio: Tensor
    """Importance ratios, before they are clipped."""
    clipped_low: Tensor
    """How many tokens lost their gradient because the ratio is below 1 - epsilon and the advantage negative."""
    clipped_high: Tensor
    """How many tokens lost their gradient because the ratio is above 1 + epsilon_high and the advantage positive."""
    kl: Tensor
    """Estimates of the divergence from the reference, times the ratio, in nats; 0 where there is no reference."""


def loss_sums(
    logprobs: Tensor,  # (B, T)
    old_logprobs: Tensor,  # (B, T)
    sampled: Tensor,  # (B, T) bool
    advantages: Tensor,  # (B,)
    weights: Tensor,  # (B,)
    settings: LossSettings,
    *,
    reference_logprobs: Tensor | None = None,  # (B, T)
) -> LossSums:
    """The loss of a micro-batch and what there is to know about it, summed over its sampled tokens.

    Args:
        logprobs: of the policy that is trained; natural logarithm, as all of them.
        old_logprobs: recorded when the tokens were sampled.
        sampled: True where the policy chose the token. Whatever stands elsewhere has no influence.
        advantages: one per episode.
        weights: what one token of each episode weighs: its part of `token_weights` of the whole batch.
        settings: the clip, `beta` and the level of the ratio; the loss type is in the weights.
        reference_logprobs: of the reference model; needed where `beta` > 0, else not used.

    Raises:
        ConfigError: `beta` > 0 without `reference_logprobs`.
    """
    if settings.beta > 0 and reference_logprobs is None:
        raise ConfigError(f"reference_logprobs: beta {settings.beta!r} needs those of a reference model")
    # Multiplying by the mask at the end is not enough: the exponential of a difference between tokens that nobody
    # sampled may be infinite, and infinity x 0 is NaN.
    logprobs = logprobs.masked_fill(~sampled, 0.0)
    old_logprobs = old_logprobs.masked_fill(~sampled, 0.0)
    ratios = importance_ratios(logprobs, old_logprobs, sampled, settings.importance_sampling_level)  # (B, T)
    advantages = advantages.unsqueeze(1)  # (B, 1)
    low, high = 1 - settings.epsilon, 1 + settings.upper_epsilon
    token_losses = -clipped_objectives(ratios, advantages, low=low, high=high)  # (B, T)
    kl = torch.zeros_like(ratios)
    if settings.beta > 0 and reference_logprobs is not None:
        # x ratio: the tokens come from the old policy, and the gradient has to be that of the new policy's divergence.
        # TRL does the same unless use_bias_correction_kl is turned off; the ratio is not clipped there either.
        kl = kl_estimates(logprobs, reference_logprobs.masked_fill(~sampled, 0.0)) * ratios
        token_losses = token_losses + settings.beta * kl

    def total(values: Tensor) -> Tensor:
        return (values * sampled).sum(dtype=ratios.dtype).detach()

    return LossSums(
        loss=(token_losses * weights.unsqueeze(1) * sampled).sum(),
        ratio=total(ratios),
        clipped_low=total((ratios < low) & (advantages < 0)),
        clipped_high=total((ratios > high) & (advantages > 0)),
        kl=total(kl),
    )


def importance_ratios(
    logprobs: Tensor,  # (B, T), 0 where not sampled
    old_logprobs: Tensor,  # (B, T), 0 where not sampled
    sampled: Tensor,  # (B, T) bool
    level: ImportanceSamplingLevel,
) -> Tensor:
    """How much likelier each token is than when it was sampled, (B, T); "sequence": the same for all T of an episode.

    Of a sequence it is the geometric mean over its sampled tokens, as the plain product of many ratios is either
    nearly 0 or huge (GSPO).
    """
    log_ratios = logprobs - old_logprobs  # (B, T)
    if level == "sequence":
        num_sampled = sampled.sum(dim=1, keepdim=True).clamp(min=1)  # (B, 1)
        log_ratios = (log_ratios.sum(dim=1, keepdim=True) / num_sampled).expand_as(log_ratios)
    return log_ratios.exp()


def clipped_objectives(ratios: Tensor, advantages: Tensor, *, low: float, high: float) -> Tensor:
    """PPO's objective for each ratio, (B, T), to be maximised; `advantages` (B, 1).

    The smaller of the two: a token gets no gradient once its ratio has left [low, high] in the direction that its
    advantage pulls. Against that direction it keeps it.
    """
    return torch.min(ratios * advantages, ratios.clamp(low, high) * advantages)


def kl_estimates(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """An estimate of KL(policy || reference) from each sampled token, in nats, same shape, never below 0 (k3).

    With d = reference - policy it is exp(d) - d - 1: unbiased, and of less variance than the plain -d.
    """
    differences = reference_logprobs - logprobs
    # expm1: near the reference, exp(d) - 1 - d would lose all its digits in float32.
    return torch.expm1(differences) - differences


def token_weights(num_sampled: Sequence[int], settings: LossSettings) -> list[float]:
    """What the loss of one sampled token weighs, for each episode of the *whole* batch: 1 / its divisor.

    Args:
        num_sampled: sampled tokens of each episode, all of the batch, also of those that are left out later because
            their gradient is 0. None of them is 0.
        settings: `loss_type`, and `max_completion_tokens` for "dr_grpo".
    """
    num_episodes, num_tokens = len(num_sampled), sum(num_sampled)
    divisors: dict[LossType, Callable[[int], int]] = {
        "dapo": lambda own: num_tokens,
        "grpo": lambda own: own * num_episodes,
        "dr_grpo": lambda own: settings.max_completion_tokens * num_episodes,
    }
    return [1 / divisors[settings.loss_type](own) for own in num_sampled]


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """The log-probability of each token at a temperature, (B, T), in nats; float32, or float64 if the logits are.

    Args:
        logits: (B, T, V), any floating type; `logits[b, t]` is the distribution that `tokens[b, t]` was drawn from.
        tokens: (B, T), whole numbers in [0, V).
        temperature: > 0; the logits are divided by it.
    """
    flat: Tensor = _TokenLogprobs.apply(logits.flatten(0, 1), tokens.flatten(), temperature)  # (B x T,)
    return flat.view(tokens.shape)


class _TokenLogprobs(torch.autograd.Function):  # type: ignore[misc]
    """log softmax(logits / temperature)[tokens], some tokens at a time; N = B x T tokens.

    With 150 000 words in the vocabulary it is the logits that fill the memory. Autograd would keep a float32 copy of
    all of them and make more on the way back. Here there are the logits and their gradient, both in their own type.
    """

    @staticmethod
    def forward(context: Any, logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
        context.save_for_backward(logits, tokens)
        context.temperature = temperature
        tokens = tokens.unsqueeze(1)  # (N, 1)
        size = _chunk_tokens(logits)
        return torch.cat(
            [
                _scaled(logits_chunk, temperature).log_softmax(1).gather(1, tokens_chunk)
                for logits_chunk, tokens_chunk in zip(logits.split(size), tokens.split(size), strict=True)
            ]
        ).squeeze(1)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        # d log p(token) / d logit(v) = ((1 if v is the token else 0) - p(v)) / temperature
        logits, tokens = context.saved_tensors
        tokens = tokens.unsqueeze(1)  # (N, 1)
        scales = gradient.unsqueeze(1) / context.temperature  # (N, 1)
        size = _chunk_tokens(logits)
        result = torch.empty_like(logits)  # (N, V)
        for start in range(0, len(logits), size):
            chunk = slice(start, start + size)
            slopes = _scaled(logits[chunk], context.temperature).softmax(1).mul_(-scales[chunk])
            result[chunk] = slopes.scatter_add_(1, tokens[chunk], scales[chunk])
        return result, None, None


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    """At least float32: bfloat16 has 8 bits, a log-probability of -5 would be off by 0.016, and a ratio by 1.6 %."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature


def _chunk_tokens(logits: Tensor) -> int:
    """How many tokens at a time: for a CPU what stays in its cache, for a GPU what keeps it busy (64 MiB)."""
    vocabulary: int = logits.shape[1]
    return max(1, (2**18 if logits.device.type == "cpu" else 2**24) // vocabulary)
