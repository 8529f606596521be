"""What is measured in a run."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from ruler.rewards import GroupRewards, Rewards, RolloutReward, Rule  # noqa: E402
from ruler.types import Usage  # noqa: E402
from tests.trainer.judged_groups import (  # noqa: E402
    BROKEN,
    EQUAL,
    EQUAL_REWARDED,
    FAILED,
    FAILED_REWARDED,
    GOOD,
    GOOD_REWARDED,
    GROUPS,
    REWARDED,
    SAME,
    judged,
    scored,
    well_formed,
)
from trainer.held_out import HeldOut  # noqa: E402
from trainer.metrics import (  # noqa: E402
    METRICS,
    held_out_metrics,
    known_mean,
    sample_record,
    step_metrics,
    update_metrics,
)
from trainer.rewards import Rewarded  # noqa: E402
from trainer.update import UpdateStatistics  # noqa: E402

UPDATE = UpdateStatistics(
    loss=-0.25,
    grad_norm=1.5,
    clip_share_low=0.125,
    clip_share_high=0.0625,
    mean_ratio=1.01,
    kl=0.003,
    num_tokens=25,
    num_steps=2,
)
MEASURED = HeldOut(
    num_problems=97,
    num_broken=3,
    truth_sampled=0.871,
    truth_sampled_stderr=0.014,
    truth_greedy=0.9,
    truth_greedy_stderr=0.012,
    well_formed=0.995,
    sampled_tokens=12.5,
)


def test_the_figures_of_a_step() -> None:
    found = step_metrics(GROUPS, REWARDED, broken=[BROKEN], well_formed=well_formed)
    rewards = [0.9, 0.5, 0.5, 0.4, 0.4]
    mean = sum(rewards) / 5
    entropies = [0.2] * 5 + [1.0] * 4 + [0.5] * 16
    assert found == pytest.approx(
        {
            "reward/mean": mean,
            "reward/std": math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / 4),
            "truth/mean": 5 / 9,
            "truth/agreement": (1.0 + 0.5) / 2,
            "groups/zero_spread": 2 / 3,
            "groups/tied": 1,
            "groups/failed": 2,
            "groups/failed/environment": 1,
            "groups/failed/unavailable": 1,
            "rollouts/tokens": 25,
            "rollouts/tokens_mean": 25 / 9,
            "rollouts/tokens_max": 10,
            "rollouts/truncated": 1 / 9,
            "rollouts/well_formed": 3 / 9,
            "judge/score": mean,
            "judge/calls": 6,
            "judge/tokens": 180,
            "judge/cache_hits": 1,
            "judge/cost_usd": 1.0,
            "judge/wait_seconds": 4 / 3,
            "policy/entropy": sum(entropies) / 25,
        }
    )


def test_rewards_of_a_tied_group_are_left_out_though_rules_made_some() -> None:
    rules = Rewards(rules=(Rule("seven", lambda rollout, group: float(rollout.id == "r1"), weight=7.0),))
    result = scored(SAME.group, [None, None], Usage(), "tied")
    found = step_metrics([SAME], [judged(SAME, result, rules)], well_formed=well_formed)
    assert found["reward/mean"] is None
    assert found["groups/tied"] == 1
    assert found["groups/zero_spread"] == 0.0  # 7.0 and 0.0


def test_a_step_of_nothing_has_no_means_and_numbers_of_nothing() -> None:
    found = step_metrics([], [], broken=[BROKEN, BROKEN], well_formed=well_formed)
    numbers = {key: value for key, value in found.items() if value is not None}
    assert numbers == {
        "groups/tied": 0,
        "groups/failed": 2,
        "groups/failed/environment": 2,
        "rollouts/tokens": 0,
        "judge/calls": 0,
        "judge/tokens": 0,
        "judge/cache_hits": 0,
        "judge/cost_usd": 0.0,
    }


def test_where_truth_is_not_known_nothing_is_said_of_it() -> None:
    half = replace(GOOD, episodes=(GOOD.episodes[0], *(replace(one, truth=None) for one in GOOD.episodes[1:])))
    found = step_metrics([half], [GOOD_REWARDED], well_formed=well_formed)
    assert found["truth/mean"] == 1.0  # of the one that is known
    assert found["truth/agreement"] is None
    none = replace(GOOD, episodes=tuple(replace(one, truth=None) for one in GOOD.episodes))
    found = step_metrics([none], [GOOD_REWARDED], well_formed=well_formed)
    assert found["truth/mean"] is found["truth/agreement"] is None


def test_a_cost_that_is_not_known_is_none_and_rules_cost_nothing() -> None:
    unknown = judged(GOOD, scored(GOOD.group, [0.1, 0.2, 0.3], Usage(1, cost_usd=None)))
    found = step_metrics([GOOD, EQUAL], [unknown, EQUAL_REWARDED], well_formed=well_formed)
    assert found["judge/cost_usd"] is None
    rules = Rewards(judge_weight=0.0, rules=(Rule("form", well_formed),))
    found = step_metrics([GOOD], [Rewarded(rules.combine(GOOD.group, None))], well_formed=well_formed)
    assert found["judge/cost_usd"] == 0.0
    assert found["judge/score"] is found["judge/wait_seconds"] is None
    assert found["reward/mean"] == pytest.approx(2 / 3)


def test_rewards_that_differ_by_rounding_have_no_spread() -> None:
    rollouts = tuple(RolloutReward(f"r{n}", 0.3 + n * 1e-12) for n in range(1, 4))
    rewarded = Rewarded(GroupRewards("good", "unjudged", rollouts))
    assert step_metrics([GOOD], [rewarded], well_formed=well_formed)["groups/zero_spread"] == 1.0


def test_every_key_is_documented_and_every_documented_one_is_emitted() -> None:
    found = step_metrics(GROUPS, REWARDED, broken=[BROKEN], well_formed=well_formed)
    emitted = [
        *{"groups/failed/REASON" if key.startswith("groups/failed/") else key for key in found},
        *update_metrics(UPDATE),
        *held_out_metrics(MEASURED),
        # Known to the loop alone.
        "judge/latency_seconds",
        "judge_stall_seconds",
        "time/sampling_seconds",
        "time/update_seconds",
        "time/step_seconds",
        "alarm/hacking",
    ]
    assert sorted(emitted) == sorted(METRICS)
    assert all(sentence.endswith(".") for sentence in METRICS.values())


# Updates and measurements


def test_the_figures_of_an_update() -> None:
    assert update_metrics(UPDATE) == {
        "policy/loss": -0.25,
        "policy/grad_norm": 1.5,
        "policy/clip_share": 0.1875,
        "policy/kl": 0.003,
        "policy/ratio": 1.01,
    }


def test_what_was_not_measured_is_none_and_no_zero() -> None:
    nothing = UpdateStatistics(
        loss=None,
        grad_norm=None,
        clip_share_low=None,
        clip_share_high=None,
        mean_ratio=None,
        kl=None,
        num_tokens=25,
        num_steps=0,
    )
    assert set(update_metrics(nothing).values()) == {None}
    assert update_metrics(replace(UPDATE, clip_share_low=0.0, clip_share_high=0.0))["policy/clip_share"] == 0.0


def test_the_figures_of_a_measurement() -> None:
    assert held_out_metrics(MEASURED) == {
        "held_out/truth_sampled": 0.871,
        "held_out/truth_sampled_stderr": 0.014,
        "held_out/truth_greedy": 0.9,
        "held_out/truth_greedy_stderr": 0.012,
        "held_out/well_formed": 0.995,
        "held_out/tokens_mean": 12.5,
        "held_out/num_problems": 97,
        "held_out/num_broken": 3,
    }


@given(st.lists(st.none() | st.floats(-1e6, 1e6), max_size=8), st.randoms())
def test_a_mean_is_of_what_is_known_in_any_order(values: list[float | None], random: Any) -> None:
    known = [value for value in values if value is not None]
    mean = known_mean(values)
    if known:
        assert mean == pytest.approx(sum(known) / len(known), abs=1e-6)
        random.shuffle(values)
        assert known_mean(iter(values)) == mean
    else:
        assert mean is None


# Samples


def test_a_sample_has_what_was_said_and_what_became_of_it() -> None:
    rules = Rewards(rules=(Rule("form", well_formed, weight=0.5),))
    record = sample_record(4, GOOD, judged(GOOD, GOOD_REWARDED.result, rules))  # type: ignore[arg-type]
    assert record | {"rollouts": None} == {
        "step": 4,
        "problem": 7,
        "status": "scored",
        "failure": None,
        "group_id": "good",
        "task": {"messages": [{"role": "user", "content": "2+3?"}]},
        "rollouts": None,
    }
    assert record["rollouts"][1] == {
        "id": "r2",
        "messages": [{"role": "assistant", "content": "6"}],
        "reward": 0.5,
        "parts": {"form": 0.0, "judge": 0.5},
        "gated_by": None,
        "score": 0.5,
        "note": "note on r2",
        "truth": 0.0,
        "truncated": True,
    }


def test_a_failed_group_says_why() -> None:
    record = sample_record(4, FAILED, FAILED_REWARDED)
    assert (record["status"], record["failure"]) == ("failed", "unavailable: 503")
    assert [rollout["reward"] for rollout in record["rollouts"]] == [None, None]
