from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from benchmarks.head_to_head.arms import Arm, arms_of
from benchmarks.head_to_head.rewards import reward_of
from ruler.errors import ConfigError
from ruler.types import Group, Message, Rollout
from trainer.episodes import Episode, SampledGroup
from trainer.tasks.arithmetic import INSTRUCTIONS, arithmetic
from trainer.tasks.inbox import inbox

RIGHT = "<reasoning>\n7+8=15,3+5+1=9\n</reasoning>\n<answer>\n95\n</answer>\n"
WRONG = "<reasoning>\n7+8=15,3+5=8\n</reasoning>\n<answer>\n85\n</answer>\n"
BARE = "95"
ARMS = {arm.name: arm for arm in arms_of("arithmetic", ["embedded"])}


def sampled(*texts: str, id: str = "step-1.0") -> SampledGroup:
    """Attempts at 37+58; an episode has a token for each character."""
    task = (Message("system", (INSTRUCTIONS,)), Message("user", ("37+58",)))
    rollouts = [Rollout(str(place), (Message("assistant", (text,)),)) for place, text in enumerate(texts)]
    episodes = [
        Episode(
            (1, *range(len(text))),
            (False, *(True,) * len(text)),
            (0.0,) * (len(text) + 1),
            (0.0,) * (len(text) + 1),
            False,
            float(text == RIGHT),
        )
        for text in texts
    ]
    return SampledGroup(0, Group(id=id, task=task, rollouts=tuple(rollouts), reference="95"), tuple(episodes))


async def rewards(arm: Arm, groups: Sequence[SampledGroup], *, seed: int = 0) -> list[tuple[float | None, ...]]:
    async with reward_of(arm, arithmetic(), seed=seed, cache="off") as (reward, _):
        found = await reward(groups)
    assert all(one.failure is None for one in found)
    return [one.rewards.rewards for one in found]


async def test_truth_rules_length_and_form() -> None:
    group = sampled(RIGHT, WRONG, BARE)
    assert await rewards(ARMS["truth"], [group]) == [(1.0, 0.0, 0.0)]
    ((right, wrong, bare),) = await rewards(ARMS["rules"], [group])
    assert right > wrong > bare  # type: ignore[operator]
    assert await rewards(ARMS["format"], [group]) == [(1.0, 1.0, 0.0)]
    ((long, shorter, shortest),) = await rewards(ARMS["shorter"], [group])
    assert 1 > shortest > shorter > long  # type: ignore[operator]


@pytest.mark.slow
async def test_the_embedded_judge_in_one_order_in_two_and_with_rules() -> None:
    group = sampled(RIGHT, WRONG, BARE)
    ((right, wrong, bare),) = await rewards(ARMS["embedded"], [group])
    assert right > wrong > bare  # type: ignore[operator]
    async with reward_of(ARMS["embedded, two orders"], arithmetic(), seed=0, cache="off") as (reward, _):
        (twice,) = await reward([group])
    assert twice.result is not None
    assert twice.result.usage.calls == 2
    ((with_rules, *_),) = await rewards(ARMS["embedded and rules"], [group])
    ((by_rules, *_),) = await rewards(ARMS["rules"], [group])
    assert with_rules == pytest.approx(right + by_rules)


async def test_a_simulated_judge_is_worth_as_much_as_truth() -> None:
    exact = replace(ARMS["noise 0.25"], judge=str(ARMS["noise 0.25"].judge).replace("noise=0.25", "noise=0"))
    ((right, wrong, bare),) = await rewards(exact, [sampled(RIGHT, WRONG, BARE)])
    assert wrong == bare
    assert right - wrong == pytest.approx(1)  # type: ignore[operator]


async def test_chance_hangs_on_seed_group_and_place_alone() -> None:
    groups = [sampled(RIGHT, WRONG, RIGHT, WRONG, id=f"step-{number}.0") for number in range(200)]
    for name in ("random", "truth, 10 % flipped", "truth, 20 % flipped"):
        arm = ARMS[name]
        first = await rewards(arm, groups)
        assert await rewards(arm, groups[::-1]) == first[::-1]
        assert await rewards(arm, groups, seed=1) != first
        if name == "random":
            mean = sum(sum(group) for group in first) / 800  # type: ignore[arg-type]
            assert mean == pytest.approx(0.5, abs=0.08)
        else:
            flips = sum(abs(value - truth) for group in first for value, truth in zip(group, (1, 0, 1, 0), strict=True))  # type: ignore[operator]
            assert flips / 800 == pytest.approx(arm.flip, abs=0.05)


async def test_what_was_sampled_together_is_flipped_apart() -> None:
    first = await rewards(ARMS["random"], [sampled(*[RIGHT] * 8)])
    assert len(set(first[0])) == 2


async def test_every_arm_of_both_tasks_can_be_had() -> None:
    for task, name in ((arithmetic(), "arithmetic"), (inbox(), "inbox")):
        for arm in arms_of(name, ["simulated"]):  # type: ignore[arg-type]
            async with reward_of(arm, task, seed=0, cache="off"):
                pass


async def test_a_judge_that_cannot_be_had() -> None:
    with pytest.raises(ConfigError, match="embedded:/nowhere"):
        async with reward_of(replace(ARMS["embedded"], judge="embedded:/nowhere"), arithmetic(), seed=0, cache="off"):
            pass


async def test_facts_tell_rewards_apart_and_nothing_else() -> None:
    facts = []
    for arm in [*ARMS.values(), replace(ARMS["rules"], name="other", says="Other words.", section="noise")]:
        async with reward_of(arm, arithmetic(), seed=0, cache="off") as (_, found):
            facts.append(found)
    assert facts[-1] == facts[list(ARMS).index("rules")]
    assert all(one not in facts[:place] for place, one in enumerate(facts[:-1]))
    embedded = facts[list(ARMS).index("embedded")]
    assert embedded["rubric"] == arithmetic().rubric.id
    assert embedded["judge"].startswith("embedded:arithmetic@")  # with a digest of its weights


@pytest.mark.slow
async def test_the_embedded_judge_says_the_same_whatever_is_asked_at_the_same_time() -> None:
    groups = [sampled(RIGHT, f"{BARE}{number}", WRONG * (number % 3), id=str(number)) for number in range(24)]
    together = await rewards(ARMS["embedded"], groups)
    alone = [(await rewards(ARMS["embedded"], [group]))[0] for group in groups]
    assert together == alone
