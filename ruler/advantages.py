"""Rewards -> advantages: a group's baseline taken off, optionally scaled, shrunk, or as a named trainer does it.

Plain numbers in, plain numbers out; no tensors, no lengths, no log-probabilities. What a trainer then does with an
advantage (mask, clip, whiten over tokens) is its own business.

    advantages([[0.9, 0.4, None], [0.7, 0.7]])      # ((0.25, -0.25, None), (0.0, 0.0))

Sources: DeepSeekMath (arXiv 2402.03300) for scaling by the group's deviation; Dr. GRPO (2503.20783) for not scaling;
"PPO Lite" (2508.08221) for the batch's deviation; RLOO (2402.14740) for leave-one-out; T. L. Kelley, "Fundamentals of
Statistics" (1947), for reliability x deviation from the group's mean as the best estimate of the true deviation. The
trainers' own formulas are read from their code: TRL 1.16.0 (`trl/trainer/grpo_trainer.py`, `rloo_trainer.py`, `nanstd`
in `utils.py`), verl 0.9.1 (`verl/trainer/ppo/core_algos.py`), OpenRLHF 0.11.2
(`openrlhf/trainer/ppo_utils/experience_maker.py`). All three divide by n - 1 in the deviation and add their epsilon
to the deviation, not to the variance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from numbers import Real
from typing import Literal, TypeAlias, get_args

from ruler.errors import ConfigError

ScaleRewards: TypeAlias = Literal["none", "group", "batch"]
Baseline: TypeAlias = Literal["mean", "leave_one_out"]
Formula: TypeAlias = Literal["trl", "verl", "openrlhf"]

_EPSILON: dict[Formula, float] = {"trl": 1e-4, "verl": 1e-6, "openrlhf": 1e-9}

_SCALES: dict[tuple[Formula, Baseline], tuple[ScaleRewards, ...]] = {
    ("trl", "mean"): ("none", "group", "batch"),  # GRPOConfig.scale_rewards
    ("trl", "leave_one_out"): ("none", "batch"),  # RLOOConfig.normalize_advantages
    ("verl", "mean"): ("none", "group"),  # grpo, norm_adv_by_std_in_grpo
    ("verl", "leave_one_out"): ("none",),  # rloo
    ("openrlhf", "mean"): ("none", "group"),  # dr_grpo, group_norm
    ("openrlhf", "leave_one_out"): ("none",),  # rloo
}
"""What each trainer has. Anything else would carry a trainer's name and be nobody's formula."""

_LARGEST = 1e300
"""Largest magnitude of a reward: up to here no sum, difference or advantage can overflow."""


def advantages(
    rewards: Sequence[Sequence[float | None]],
    *,
    scale_rewards: ScaleRewards = "none",
    baseline: Baseline = "mean",
    formula: Formula = "trl",
    reliability: float | Sequence[float | None] | None = None,
    min_spread: float = 0.0,
) -> tuple[tuple[float | None, ...], ...]:
    """The advantages of a batch of groups: reward minus the group's baseline, optionally scaled; same shape.

    (reward - baseline) / (max(deviation, min_spread) + epsilon) * reliability, without the divisor for "none".

    None in, None out: a rollout without a reward (a failed or tied judge) enters no mean and no deviation and has no
    advantage. A trainer masks it; where its wire knows no "none", 0.0 has the same effect on the gradient of that
    rollout, but not on a loss that is averaged over rollouts or tokens.

    Edge cases:
        - One reward in a group: 0.0, there is nothing to compare it with (so TRL). `formula="verl"` gives the reward
          itself, because verl does: baseline 0, deviation 1.
        - All rewards of a group equal: exactly 0.0, at any scale.
        - No rewards in a group: all None. An empty group or batch: an empty tuple.
        - "none" and "group" sum to 0 over a group and do not change when a constant is added to it. "batch" does: its
          deviation is over raw rewards, so it also holds the differences between the groups' means.
        - The order of rollouts, and of groups, changes no digit of any result.

    Args:
        rewards: one sequence per group, one finite number or None per rollout, any scale, at most 1e300 in magnitude.
            Groups may have different sizes.
        scale_rewards: "none": in units of reward. "group": divided by the group's deviation. "batch": divided by the
            deviation over all rewards of the batch (with "leave_one_out": over all its advantages, as TRL's RLOO).
        baseline: "mean" of the group, or the mean of the other rollouts in it: n / (n - 1) times as much.
        formula: whose epsilon (TRL 1e-4, verl 1e-6, OpenRLHF 1e-9) and whose rule for a group of one. OpenRLHF refuses
            those; here they are 0.0. With `reliability` and `min_spread` left alone, the trainer's exact formula.
        reliability: in [0, 1], one for the batch or one per group; None: not used. How much of the differences is
            signal; applied last, so that no deviation divides it away again. A group without rewards may have None.
        min_spread: >= 0, in units of reward: a deviation below it counts as this much, so that a group of equals, which
            differ by the judge's noise alone, is not blown up to full size. Only with "group" and "batch".

    Raises:
        ConfigError: a reward that is no number, NaN, infinite or too large (named by group and rollout, from 0); an
            unknown name; a scale that this trainer does not have; `reliability` or `min_spread` out of range, of the
            wrong length, or without effect.
    """
    _check_names(scale_rewards, baseline, formula)
    floor = _read_min_spread(min_spread, scale_rewards)
    groups = _read_rewards(rewards)
    weights = _read_reliability(reliability, groups)

    known = [[reward for reward in group if reward is not None] for group in groups]
    centred = [_minus_baseline(values, baseline, lone_keeps_reward=formula == "verl") for values in known]
    batch_deviation = 0.0
    if scale_rewards == "batch":
        # A lone reward has no leave-one-out advantage: TRL leaves it out rather than count it as 0.
        parts = known if baseline == "mean" else [values for values in centred if len(values) > 1]
        batch_deviation = _deviation(list(chain.from_iterable(parts)))

    results = []
    for group, rewards_known, values, weight in zip(groups, known, centred, weights, strict=True):
        divisor = 1.0
        if scale_rewards != "none":
            deviation = batch_deviation
            if scale_rewards == "group":
                deviation = 1.0 if formula == "verl" and len(values) == 1 else _deviation(rewards_known)
            divisor = max(deviation, floor) + _EPSILON[formula]
        scaled = iter([value / divisor * weight for value in values])
        results.append(tuple(None if reward is None else next(scaled) for reward in group))
    return tuple(results)


def _minus_baseline(values: Sequence[float], baseline: Baseline, *, lone_keeps_reward: bool) -> list[float]:
    if len(values) < 2:
        return [value if lone_keeps_reward else 0.0 for value in values]
    centred = _centred(values)
    if baseline == "mean":
        return centred
    stretch = len(values) / (len(values) - 1)
    return [value * stretch for value in centred]


def _centred(values: Sequence[float]) -> list[float]:
    """Each value minus the mean; exactly 0.0 where all are equal.

    The lowest is taken off first: the plain mean of three 0.1 is not 0.1, and a deviation of 1e-17 is what a small
    epsilon blows up. `fsum` rounds once, so the order of the values does not matter.
    """
    low = min(values)
    above = [value - low for value in values]
    mean = math.fsum(above) / len(above)
    return [value - mean for value in above]


def _deviation(values: Sequence[float]) -> float:
    """Standard deviation with n - 1, in units of the values; 0.0 for fewer than two."""
    if len(values) < 2:
        return 0.0
    # hypot neither overflows nor underflows where squares would; sorted, as its last digit may depend on the order.
    return math.hypot(*sorted(_centred(values))) / math.sqrt(len(values) - 1)


def _check_names(scale_rewards: ScaleRewards, baseline: Baseline, formula: Formula) -> None:
    for name, value, kind in (
        ("scale_rewards", scale_rewards, ScaleRewards),
        ("baseline", baseline, Baseline),
        ("formula", formula, Formula),
    ):
        if value not in get_args(kind):
            raise ConfigError(f"{name}: expected one of {', '.join(get_args(kind))}, got {value!r}")
    scales = _SCALES[formula, baseline]
    if scale_rewards not in scales:
        raise ConfigError(
            f"scale_rewards: formula {formula!r} with baseline {baseline!r} has {' and '.join(scales)}, "
            f"not {scale_rewards!r}"
        )


def _read_min_spread(min_spread: object, scale_rewards: ScaleRewards) -> float:
    floor = _finite(min_spread)
    if floor is None or floor < 0:
        raise ConfigError(f"min_spread: expected a finite number >= 0, got {min_spread!r:.80}")
    if floor and scale_rewards == "none":
        raise ConfigError(f"min_spread: {floor!r} has no effect with scale_rewards 'none', which divides by nothing")
    return floor


def _read_rewards(rewards: Iterable[object]) -> list[list[float | None]]:
    groups = []
    for at, group in enumerate(_items(rewards, "rewards: expected one sequence per group")):
        members: list[float | None] = []
        for place, value in enumerate(_items(group, f"rewards: group {at}: expected one reward per rollout")):
            reward = None if value is None else _finite(value)
            if value is not None and (reward is None or abs(reward) > _LARGEST):
                raise ConfigError(
                    f"rewards: group {at}, rollout {place}: expected a finite number (at most {_LARGEST:g} in "
                    f"magnitude), or None for a rollout without a reward, got {value!r:.80}"
                )
            members.append(reward)
        groups.append(members)
    return groups


def _read_reliability(reliability: object, groups: Sequence[Sequence[float | None]]) -> list[float]:
    if reliability is None:
        return [1.0] * len(groups)
    if isinstance(reliability, Real):
        return [_share(reliability, "reliability")] * len(groups)
    given = list(_items(reliability, "reliability: expected a number in [0, 1], or one per group"))
    if len(given) != len(groups):
        raise ConfigError(f"reliability: {len(given)} values for {len(groups)} groups")
    return [
        # What is not measured must not count as certain; only where nothing is weighted does it not matter.
        0.0 if value is None and all(reward is None for reward in group) else _share(value, f"reliability: group {at}")
        for at, (value, group) in enumerate(zip(given, groups, strict=True))
    ]


def _share(value: object, name: str) -> float:
    share = _finite(value)
    if share is None or not 0 <= share <= 1:
        raise ConfigError(f"{name}: expected a number in [0, 1], got {value!r:.80}")
    return share


def _finite(value: object) -> float | None:
    """The number as a float; None when it is none, NaN, infinite, or an integer that no float can hold."""
    if not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _items(value: object, expected: str) -> Iterable[object]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise ConfigError(f"{expected}, got {value!r:.80}")
    return value
