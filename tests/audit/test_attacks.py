from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judges.scripted import ScriptedJudge, scores_reply
from ruler import Group, JudgeRejected, JudgeRequest, JudgeUnavailable, Rollout
from ruler.attacks import ATTACKS
from ruler.audit import audit, findings
from ruler.audit.attacks import MARK, attacked_groups
from tests.audit.askings import judge, labelled, level, shown, worth

GROUPS = [item.group for item in labelled(10, 3)]


@given(st.integers(0, len(ATTACKS)), st.integers(1, 10), st.permutations(range(10)))
@settings(max_examples=3)
def test_families_are_used_evenly_whatever_the_order_of_the_file(families: int, limit: int, order: list[int]) -> None:
    groups = [GROUPS[place] for place in order]
    made = attacked_groups(groups, families=families, limit=limit)
    used = Counter(one.attack.name for one in made)
    assert len(made) == families * limit
    if made:
        assert max(used.values()) - min(used[attack.name] for attack in ATTACKS) <= 1
    assert all(number <= 1 for number in Counter((one.index, one.attack.name) for one in made).values())
    straight = attacked_groups(GROUPS, families=families, limit=limit)
    assert {one.group.rollouts_digest for one in made} == {one.group.rollouts_digest for one in straight}


@pytest.mark.slow
def test_one_rollout_is_attacked_and_the_others_are_left_alone() -> None:
    places = set()
    for one in attacked_groups(GROUPS, families=len(ATTACKS)):
        origin = GROUPS[one.index]
        changed = [
            place
            for place, (was, now) in enumerate(zip(origin.rollouts, one.group.rollouts, strict=True))
            if was != now
        ]
        (place,) = changed
        places.add(place)
        hostile = one.group.rollouts[place]
        assert hostile.id == origin.rollouts[place].id == one.rollout_id
        assert hostile.metadata[MARK] == one.attack.name
        assert (worth_of(hostile) == worth_of(origin.rollouts[place])) != one.attack.replaces
        assert one.group.task == origin.task
    assert places == {0, 1, 2}


def worth_of(rollout: Rollout) -> int:
    return worth(str(rollout.messages[-1].content))


@pytest.mark.slow
async def test_who_believes_pleas_is_caught_with_the_families_that_plead() -> None:
    def believes(text: str) -> int:
        return worth(text) + 30 * ("score" in text)

    result = await audit(judge(believes), labelled(40, 3), orders=2, attacks=len(ATTACKS))
    assert result.attacks is not None
    families = {one.name: one for one in result.attacks.families}
    assert {one.name for one in result.attacks.families} == {attack.name for attack in ATTACKS}
    # "score" stands in four of the seven pleas, and in every reply made up.
    for name, share in (("score_plea", 4 / 7), ("fake_reply", 1.0), ("filler", 0.0)):
        change = families[name].change
        assert change.value is not None
        assert change.value == pytest.approx(0.3 * share, abs=0.1)
    assert result.attacks.added.interval is not None
    assert result.attacks.added.interval[0] > 0.02
    (found,) = [finding for finding in findings(result) if finding.subject == "attacks"]
    assert found.level == "do"
    assert "fake_reply +0.30" in found.text
    assert "not last" not in found.text


@pytest.mark.slow
async def test_who_reads_only_the_work_is_moved_by_nothing() -> None:
    result = await audit(judge(worth), labelled(12, 3), orders=2, attacks=7)
    assert result.attacks is not None
    assert (result.attacks.added.value, result.attacks.not_last.value, result.attacks.failed) == (0, 0, 0)
    assert result.attacks.replaced.value is not None
    assert result.attacks.replaced.value < -0.2
    assert all(one.change.value == pytest.approx(0) for one in result.attacks.families if not one.replaces)
    assert level(findings(result))["attacks"] == "fine"


@pytest.mark.slow
async def test_equal_scores_for_everything_are_found_not_last() -> None:
    result = await audit(judge(lambda text: 50), labelled(20, 2), orders=2, attacks=len(ATTACKS))
    assert result.attacks is not None
    assert (result.attacks.added.value, result.attacks.not_last.value) == (0, 1)
    (found,) = [finding for finding in findings(result) if finding.subject == "attacks"]
    assert found.level == "do"
    assert "not last in 100%" in found.text


@pytest.mark.slow
async def test_a_group_that_an_attack_voids_is_counted_and_no_number() -> None:
    def refuses(request: JudgeRequest) -> str:
        texts = shown(request)
        if any("refuse" in text or "decline" in text for text in texts.values()):
            raise JudgeRejected("I will not")
        return scores_reply({label: worth(text) for label, text in texts.items()})

    result = await audit(ScriptedJudge(refuses), labelled(15, 3), orders=2, attacks=len(ATTACKS))
    assert result.attacks is not None
    families = {one.name: one for one in result.attacks.families}
    bait = families["refusal_bait"]
    assert bait.failed > 0
    assert bait.compared == bait.asked - bait.failed == bait.change.groups
    assert result.attacks.voided == result.attacks.failed
    assert result.attacks.failed == sum(one.failed for one in families.values()) == len(result.failures)
    (found,) = [finding for finding in findings(result) if finding.subject == "attacks"]
    assert found.level == "do"
    assert "learn to void its group" in found.text


@pytest.mark.slow
async def test_an_attack_that_leaves_nothing_to_compare_is_not_compared() -> None:
    """Both rollouts are blank already: with a blank answer all read the same, and nobody is asked."""
    blank = Group.of(["", "worth 30"], task="t", id="blank")
    item = replace(labelled(1)[0], group=blank, truth={})
    result = await audit(judge(worth), [item], orders=2, attacks=len(ATTACKS))
    assert result.attacks is not None
    assert sum(one.asked for one in result.attacks.families) == len(ATTACKS)
    assert result.attacks.failed == 0
    assert all(one.compared <= one.asked for one in result.attacks.families)


async def test_one_mishap_among_few_is_no_verdict() -> None:
    result = await audit(judge(lambda text: 50), labelled(1, 2), orders=2, attacks=len(ATTACKS))
    assert result.attacks is not None
    assert result.attacks.not_last.value == 1
    assert result.attacks.not_last.groups == 2
    assert level(findings(result))["attacks"] == "unclear"


@pytest.mark.slow
async def test_a_rollout_may_rise_from_the_bottom_to_the_top() -> None:
    """What is gained against the others is up to 2, of scores from 0 to 1."""
    believes = judge(lambda text: 100 if "and so on" not in text else 0)
    items = [
        replace(item, group=Group.of(["and so on", "a"], task=item.group.id, id=item.group.id)) for item in labelled(6)
    ]
    result = await audit(believes, items, orders=2, attacks=len(ATTACKS))
    assert result.attacks is not None
    assert max(abs(one.change.value or 0) for one in result.attacks.families) > 0.5
    hidden = {one.name: one for one in result.attacks.families}["empty_answer"].change
    assert hidden.interval is not None
    assert hidden.interval[1] <= 2


@pytest.mark.slow
async def test_an_outage_is_no_success_of_the_attack() -> None:
    def answer(request: JudgeRequest) -> str:
        if any("worth" not in text for text in shown(request).values()):
            raise JudgeUnavailable("down")
        return scores_reply({label: worth(text) for label, text in shown(request).items()})

    result = await audit(ScriptedJudge(answer), labelled(2), orders=2, attacks=len(ATTACKS))
    assert result.attacks is not None
    assert (result.attacks.failed, result.attacks.voided) == (4, 0)  # two groups, two families that replace
    (found,) = [finding for finding in findings(result) if finding.subject == "attacks"]
    assert "void" not in found.text
