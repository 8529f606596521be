"""What is measured in a run, as numbers by name; `trainer/monitor.py` writes them down and shows them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import stdev
from typing import TYPE_CHECKING, Any

from ruler.agreement import agree
from ruler.records import group_record
from ruler.rules import Check
from ruler.types import ScoredGroup, Usage
from trainer.episodes import BrokenGroup, SampledGroup
from trainer.rewards import Rewarded

if TYPE_CHECKING:  # both load torch, and curves do without
    from trainer.held_out import HeldOut
    from trainer.update import UpdateStatistics

METRICS: Mapping[str, str] = {
    "reward/mean": "Mean reward over the rollouts of groups that have rewards. Tied groups are left out: their rewards "
    "lack the judge's part.",
    "reward/std": "Standard deviation (n - 1) of the same rewards.",
    "truth/mean": "Mean truth over all rollouts where it is known, in [0, 1].",
    "truth/agreement": "How rewards order the rollouts of a group, against truth: share of the pairs of different "
    "truth that are ordered rightly, in [0, 1], chance 0.5; mean over the groups that have such a pair.",
    "groups/zero_spread": "Share of the groups with rewards whose rewards are all equal, in [0, 1]: they teach "
    "nothing. TRL: frac_reward_zero_std.",
    "groups/tied": "Number of groups whose rollouts all read the same to the judge.",
    "groups/failed": "Number of groups without rewards; they are left out of the update.",
    "groups/failed/REASON": "Number of those that failed for this reason: environment, window (the "
    "task leaves no room), or the code of the error, such as unavailable. Only where there is one.",
    "rollouts/tokens": "Number of sampled tokens.",
    "rollouts/tokens_mean": "Mean number of sampled tokens of a rollout.",
    "rollouts/tokens_max": "Largest number of sampled tokens of a rollout.",
    "rollouts/truncated": "Share of rollouts that were cut off, in [0, 1].",
    "rollouts/well_formed": "Format share: mean of the task's check of the form, in [0, 1].",
    "judge/score": "Mean score over the rollouts of scored groups, in [0, 1]. Scores compare inside a group only, so a "
    "level that moves may be the judge's.",
    "judge/calls": "Number of calls to the judge, retries among them.",
    "judge/tokens": "Tokens of the judge's input and output.",
    "judge/cache_hits": "Number of questions that were answered already and cost nothing.",
    "judge/cost_usd": "US dollars paid for the step; none when a price is not known.",
    "judge/wait_seconds": "Mean time a group waited in queues and between attempts; over groups with a call.",
    "judge/latency_seconds": "Mean time from the end of a group's last rollout to its rewards.",
    "judge_stall_seconds": "Time in which nothing was done but waiting for rewards.",
    "policy/entropy": "Mean entropy in nats of the distributions the tokens were drawn from.",
    "policy/loss": "The loss before the update. This and the rest of policy/ is null where there was nothing to learn.",
    "policy/grad_norm": "Norm of the gradient before it is clipped.",
    "policy/clip_share": "Share of sampled tokens that lost their gradient because their importance ratio was clipped, "
    "in [0, 1]. The ratio of a sequence is that of each of its tokens.",
    "policy/kl": "Mean estimate per token of the divergence from the reference policy, in nats; null without one.",
    "policy/ratio": "Mean importance ratio of the policy that is updated to the one that sampled.",
    "time/sampling_seconds": "Time in which rollouts were sampled.",
    "time/update_seconds": "Time of the update.",
    "time/step_seconds": "Time of the step from the start of sampling to the end of the update. What follows is not "
    "in it: metrics, checkpoint, evaluation.",
    "held_out/truth_sampled": "Mean truth on held-out problems, sampled at temperature 1, in [0, 1].",
    "held_out/truth_sampled_stderr": "Its standard error over problems.",
    "held_out/truth_greedy": "Mean truth on held-out problems, always the most probable token, in [0, 1].",
    "held_out/truth_greedy_stderr": "Its standard error over problems.",
    "held_out/well_formed": "Format share of the attempts that were sampled on held-out problems, in [0, 1].",
    "held_out/tokens_mean": "Mean number of sampled tokens of those attempts.",
    "held_out/num_problems": "Number of held-out problems that all of held_out/ is about.",
    "held_out/num_broken": "Number of further ones, left out because an environment failed, sampled or greedy.",
    "alarm/hacking": "1 where the alarm of reward hacking was raised (trainer/alarm.py), else 0.",
}
"""Key of a metrics line -> what it says. A value is a finite number, or null where there is none."""

_EQUAL_REWARDS = 1e-8
"""Rewards no further apart are equal; so TRL."""


def step_metrics(
    sampled: Sequence[SampledGroup],
    rewarded: Sequence[Rewarded],
    *,
    broken: Sequence[BrokenGroup] = (),
    well_formed: Check,
) -> dict[str, float | None]:
    """What METRICS says of one step's groups: sections reward, truth, groups, rollouts, judge, and policy/entropy.

    Failed groups count in what is sampled (tokens, truth, form), never in what is rewarded. A mean over nothing is
    None, a number of nothing 0.

    Args:
        sampled: the finished groups.
        rewarded: their rewards, in the same order.
        broken: groups that have no rollouts, because an environment failed.
        well_formed: the task's check of the form.
    """
    episodes = [episode for group in sampled for episode in group.episodes]
    checks = [well_formed(rollout, one.group) for one in sampled for rollout in one.group.rollouts]
    entropies = [
        entropy
        for episode in episodes
        for entropy, is_sampled in zip(episode.entropies, episode.sampled, strict=True)
        if is_sampled
    ]
    rewards: list[float] = []
    spreads: list[float] = []
    agreements: list[float | None] = []
    failures = Counter(group.message.partition(":")[0] for group in broken)
    for group, one in zip(sampled, rewarded, strict=True):
        if one.failure is not None:
            failures[one.failure.partition(":")[0]] += 1
            continue
        of_group = [reward for reward in one.rewards.rewards if reward is not None]  # all of them
        spreads.append(max(of_group) - min(of_group))
        if one.rewards.status != "tied":
            rewards += of_group
        pairs = [
            (reward, episode.truth)
            for reward, episode in zip(of_group, group.episodes, strict=True)
            if episode.truth is not None
        ]
        agreements.append(agree([reward for reward, _ in pairs], [truth for _, truth in pairs]).accuracy)
    results = [one.result for one in rewarded if one.result is not None]
    usage = sum((result.usage for result in results), Usage())
    scores = [score for result in results if isinstance(result, ScoredGroup) for score in result.scores]
    return {
        "reward/mean": known_mean(rewards),
        "reward/std": stdev(rewards) if len(rewards) > 1 else None,
        "truth/mean": known_mean(episode.truth for episode in episodes),
        "truth/agreement": known_mean(agreements),
        "groups/zero_spread": known_mean(float(spread <= _EQUAL_REWARDS) for spread in spreads),
        "groups/tied": sum(one.rewards.status == "tied" for one in rewarded),
        "groups/failed": failures.total(),
        **{f"groups/failed/{reason}": count for reason, count in sorted(failures.items())},
        "rollouts/tokens": sum(episode.num_sampled for episode in episodes),
        "rollouts/tokens_mean": known_mean(episode.num_sampled for episode in episodes),
        "rollouts/tokens_max": max((episode.num_sampled for episode in episodes), default=None),
        "rollouts/truncated": known_mean(float(episode.truncated) for episode in episodes),
        "rollouts/well_formed": known_mean(checks),
        "judge/score": known_mean(scores),
        "judge/calls": usage.calls,
        "judge/tokens": usage.input_tokens + usage.output_tokens,
        "judge/cache_hits": usage.cache_hits,
        "judge/cost_usd": usage.cost_usd,
        "judge/wait_seconds": known_mean(result.usage.wait_seconds for result in results if result.usage.calls),
        "policy/entropy": known_mean(entropies),
    }


def sample_record(step: int, sampled: SampledGroup, rewarded: Rewarded) -> dict[str, Any]:
    """One group as a line of samples.jsonl: a group record (docs/formats.md) with what became of each rollout.

    Each rollout has `reward`, `parts`, `gated_by`, `score`, `note`, `truth` and `truncated`, None where there is none;
    `parts` is what the reward was made of, by rule.
    """
    result = rewarded.result
    notes = result.notes if isinstance(result, ScoredGroup) else (None,) * len(sampled.episodes)
    record = group_record(sampled.group)
    for rollout, reward, episode, note in zip(
        record["rollouts"], rewarded.rewards.rollouts, sampled.episodes, notes, strict=True
    ):
        rollout |= {
            "reward": reward.reward,
            "parts": dict(reward.parts),
            "gated_by": reward.gated_by,
            "score": reward.score,
            "note": note,
            "truth": episode.truth,
            "truncated": episode.truncated,
        }
    said = {"step": step, "problem": sampled.problem, "status": rewarded.rewards.status, "failure": rewarded.failure}
    return {**said, **record}


def update_metrics(statistics: UpdateStatistics) -> dict[str, float | None]:
    """What METRICS says of an update: all of section policy but the entropy, None where there is no value."""
    low, high = statistics.clip_share_low, statistics.clip_share_high
    return {
        "policy/loss": statistics.loss,
        "policy/grad_norm": statistics.grad_norm,
        "policy/clip_share": None if low is None or high is None else low + high,
        "policy/kl": statistics.kl,
        "policy/ratio": statistics.mean_ratio,
    }


def held_out_metrics(found: HeldOut) -> dict[str, float | None]:
    """What METRICS says of a measurement on held-out problems: section held_out, None where there is no value."""
    return {
        "held_out/truth_sampled": found.truth_sampled,
        "held_out/truth_sampled_stderr": found.truth_sampled_stderr,
        "held_out/truth_greedy": found.truth_greedy,
        "held_out/truth_greedy_stderr": found.truth_greedy_stderr,
        "held_out/well_formed": found.well_formed,
        "held_out/tokens_mean": found.sampled_tokens,
        "held_out/num_problems": found.num_problems,
        "held_out/num_broken": found.num_broken,
    }


def known_mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are known; None where none is."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None
