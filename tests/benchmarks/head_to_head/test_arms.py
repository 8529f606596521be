from __future__ import annotations

import pytest

from benchmarks.head_to_head.arms import DEFAULT_JUDGES, POINTS, TRUTH, arms_of, chosen
from ruler.errors import ConfigError
from ruler.spec import Spec


def test_every_arm_has_a_name_of_its_own_and_truth_comes_first() -> None:
    arms = arms_of("arithmetic", ["embedded", "openai/gpt-5-mini?temperature=0"])
    names = [arm.name for arm in arms]
    assert names[0] == TRUTH
    assert len(set(names)) == len(names)
    assert len({arm.says for arm in arms}) == len(arms)
    for spec in ("embedded", "openai/gpt-5-mini?temperature=0"):
        assert {spec, f"{spec}, two orders", f"{spec} and rules"} <= set(names)


def test_simulated_judges_err_as_their_arm_says_and_leave_room_for_it() -> None:
    arms = {arm.name: arm for arm in arms_of("inbox", DEFAULT_JUDGES["inbox"])}
    for noise in (0.25, 4.0):
        arm = arms[f"noise {noise:g}"]
        assert arm.judge is not None
        backend = Spec.parse(arm.judge).backend
        assert backend["noise"] == arm.noise == noise
        # Half of truth stands in the middle of the scale, and a difference of 1 is worth 1 as a reward.
        assert backend["offset"] + backend["scale"] / 2 == 50
        assert backend["scale"] / 100 * arm.judge_weight == 1
    assert backend["scale"] == POINTS


def test_both_arms_of_the_study_of_slots_ask_one_judge() -> None:
    biased = [arm for arm in arms_of("inbox", ()) if arm.section == "slot bias"]
    assert [arm.kind for arm in biased] == ["judge", "naive order"]
    assert len({(arm.judge, arm.judge_weight) for arm in biased}) == 1


def test_some_arms_alone() -> None:
    arms = arms_of("arithmetic", ["embedded"])
    assert chosen(arms, None) == arms
    assert [arm.name for arm in chosen(arms, ["random", "embedded"])] == ["truth", "embedded", "random"]
    with pytest.raises(ConfigError, match=r"arms: no arm is called 'coin'; there are 'truth', 'rules', 'embedded'"):
        chosen(arms, ["coin"])


def test_a_judge_named_twice() -> None:
    with pytest.raises(ConfigError, match="judge: 'embedded': two arms would have this name"):
        arms_of("arithmetic", ["embedded", "embedded"])
    with pytest.raises(ConfigError, match="judge: 'random'"):
        arms_of("arithmetic", ["random"])
