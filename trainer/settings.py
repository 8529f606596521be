"""How a run trains: every number of it, checked. Saved with the run, and compared when the run goes on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

from ruler.advantages import ScaleRewards
from ruler.errors import ConfigError
from trainer.losses import ImportanceSamplingLevel, LossSettings, LossType
from trainer.update import UpdateSettings


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a run trains. The defaults are for the tiny policies; a real model wants `learning_rate` 1e-6.

    Raises:
        ConfigError: a number out of range or an unknown name; says which.
    """

    steps: int = 80
    """Steps of the run, each with one batch."""
    prompts_per_step: int = 16
    """Groups in a batch."""
    group_size: int = 8
    """Rollouts in a group, at least 2: they are compared with each other."""
    temperature: float = 1.0
    """Divides the logits when rollouts are sampled; above 0."""
    seed: int = 0
    """Of sampling and of the order of problems."""

    learning_rate: float = 3e-4
    """Of AdamW with betas 0.9 and 0.95."""
    learning_rate_warm_up_steps: int = 5
    """Steps over which the learning rate rises from a share of itself to all of it; it stays there."""
    weight_decay: float = 0.0
    """Of AdamW."""
    max_grad_norm: float = 1.0
    """The gradient is scaled down to this norm where it is larger."""
    micro_batch_tokens: int = 4096
    """Tokens, padding included, that go through the model at once in an update. It changes memory, not results."""

    loss_type: LossType = "dapo"
    """What the loss is divided by; see `trainer/losses.py`, also for the next four. Names as in TRL."""
    epsilon: float = 0.2
    """How far below 1 the importance ratio counts."""
    epsilon_high: float | None = None
    """How far above 1 the importance ratio counts; None: the same."""
    beta: float = 0.0
    """Weight of the KL divergence to the policy as it was at the start; 0: none."""
    importance_sampling_level: ImportanceSamplingLevel = "token"
    """One ratio per token or per sequence."""
    num_iterations: int = 1
    """Inner epochs: optimiser steps per batch."""
    scale_rewards: ScaleRewards = "none"
    """What advantages are divided by: nothing, or the deviation of the group or the batch (`ruler/advantages.py`)."""

    look_ahead: bool = False
    """Whether the next batch is sampled while the judge reads this one. Its rollouts are then by a policy one step
    older than the one that learns from them; the importance ratio corrects that."""
    max_failed_share: float = 0.5
    """The run stops at a step in which more than this share of the groups has no rewards."""
    evaluate_every: int = 20
    """Steps between measurements on held-out problems; there is one before the first step and one after the last."""
    held_out_problems: int = 256
    """Problems in such a measurement."""
    checkpoint_every: int = 10
    """Steps between checkpoints; the last step has one."""
    sample_every: int = 10
    """Steps between groups that are written to samples.jsonl."""

    def __post_init__(self) -> None:
        if not isinstance(self.look_ahead, bool):
            raise ConfigError(f"look_ahead: expected True or False, got {self.look_ahead!r:.80}")
        for name, least in (
            ("steps", 1),
            ("prompts_per_step", 1),
            ("group_size", 2),
            ("learning_rate_warm_up_steps", 0),
            ("evaluate_every", 1),
            ("held_out_problems", 1),
            ("checkpoint_every", 1),
            ("sample_every", 1),
            ("seed", 0),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{name}: expected a whole number of at least {least}, got {value!r:.80}")
        for name, most in (("learning_rate", math.inf), ("weight_decay", math.inf), ("max_failed_share", 1.0)):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value <= most or math.isinf(value):
                raise ConfigError(f"{name}: expected a number from 0 to {most}, got {value!r:.80}")
        if self.scale_rewards not in get_args(ScaleRewards):
            raise ConfigError(
                f"scale_rewards: expected one of {', '.join(get_args(ScaleRewards))}, got {self.scale_rewards!r:.80}"
            )
        self.update_settings(max_completion_tokens=1)

    def update_settings(self, *, max_completion_tokens: int) -> UpdateSettings:
        """How a batch becomes steps of the optimiser.

        Args:
            max_completion_tokens: most tokens a policy may sample in one attempt, as the task has it.
        """
        return UpdateSettings(
            loss=LossSettings(
                loss_type=self.loss_type,
                epsilon=self.epsilon,
                epsilon_high=self.epsilon_high,
                beta=self.beta,
                importance_sampling_level=self.importance_sampling_level,
                max_completion_tokens=max_completion_tokens,
            ),
            temperature=self.temperature,
            num_iterations=self.num_iterations,
            max_grad_norm=self.max_grad_norm,
            micro_batch_tokens=self.micro_batch_tokens,
        )
