from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from ruler.errors import ConfigError  # noqa: E402
from ruler.rewards import GroupRewards, RolloutReward  # noqa: E402
from ruler.types import Group  # noqa: E402
from trainer.batch import problems_of, to_learn_from  # noqa: E402
from trainer.episodes import BrokenGroup, Episode, SampledGroup  # noqa: E402
from trainer.rewards import Rewarded  # noqa: E402
from trainer.settings import Settings  # noqa: E402


def sampled(number: int, size: int = 2) -> SampledGroup:
    """A group whose episodes can be told apart by their first token."""
    group = Group.of([f"answer {place}" for place in range(size)], task="?", id=f"g{number}")
    episodes = [
        Episode((10 * number + place, 1), (False, True), (0.0, -1.0), (0.0, 1.0), truncated=False)
        for place in range(size)
    ]
    return SampledGroup(number, group, tuple(episodes))


def tied(group: SampledGroup) -> Rewarded:
    """Rewards of a tied group that differ all the same, by a rule that sees what the judge does not."""
    rollouts = [RolloutReward(rollout.id, float(place)) for place, rollout in enumerate(group.group.rollouts)]
    return Rewarded(GroupRewards(group.group.id, "tied", tuple(rollouts)))


GROUPS = [sampled(1), sampled(2), BrokenGroup(3, "g3", "environment: OSError"), sampled(4), sampled(5, size=3)]


@pytest.mark.parametrize(
    ("scale", "first", "last"),
    [
        ("none", [0.5, -0.5], [-1.0, 0.0, 1.0]),
        ("group", [0.5 / (math.sqrt(0.5) + 1e-4), -0.5 / (math.sqrt(0.5) + 1e-4)], [-1 / 1.0001, 0.0, 1 / 1.0001]),
        # Over the five rewards that there are, 1 0 0 1 2: their deviation is the root of 0.7.
        ("batch", [0.5 / (math.sqrt(0.7) + 1e-4), -0.5 / (math.sqrt(0.7) + 1e-4)], [-1 / 0.83676, 0.0, 1 / 0.83676]),
    ],
)
def test_failed_groups_are_left_out_and_tied_ones_teach_nothing(
    scale: str, first: list[float], last: list[float]
) -> None:
    one, failed, broken, equal, other = GROUPS
    assert isinstance(one, SampledGroup)
    assert isinstance(failed, SampledGroup)
    assert isinstance(broken, BrokenGroup)
    assert isinstance(equal, SampledGroup)
    assert isinstance(other, SampledGroup)
    rewarded = [
        Rewarded.of(one, [1.0, 0.0]),
        Rewarded.failed(failed.group, "unavailable: down"),
        broken,
        tied(equal),
        Rewarded.of(other, [0.0, 1.0, 2.0]),
    ]
    episodes, values = to_learn_from(GROUPS, rewarded, scale)  # type: ignore[arg-type]
    assert [episode.tokens[0] for episode in episodes] == [10, 11, 40, 41, 50, 51, 52]
    assert values == pytest.approx([*first, 0.0, 0.0, *last], abs=1e-4)


def test_nothing_to_learn_from_is_nothing() -> None:
    broken = BrokenGroup(3, "g3", "environment: OSError")
    assert to_learn_from([broken], [broken], "none") == ([], [])


def test_half_a_reward_is_refused() -> None:
    for rewards, failure in (
        ([1.0, None], None),
        ([None, None], None),
        ([1.0, 0.0], "judge: no"),
        ([1.0, None], "x: y"),
    ):
        rollouts = tuple(RolloutReward(f"r{place}", reward) for place, reward in enumerate(rewards))
        with pytest.raises(ConfigError, match="rewards of group 'g1'"):
            Rewarded(GroupRewards("g1", "unjudged", rollouts), failure=failure)


def test_every_problem_comes_once_in_an_epoch() -> None:
    settings = Settings(prompts_per_step=3)
    drawn = [problem for number in range(10) for problem in problems_of(number, settings, 10)]
    epochs = [drawn[start : start + 10] for start in range(0, 30, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert drawn[:3] != problems_of(0, Settings(prompts_per_step=3, seed=1), 10)


def test_a_batch_may_hold_several_epochs() -> None:
    drawn = problems_of(0, Settings(prompts_per_step=7), 2)
    assert [sorted(drawn[start : start + 2]) for start in (0, 2, 4)] == [[0, 1]] * 3
