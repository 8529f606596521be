"""What is said of hostile text: sure and large told apart, and belief and length."""

from __future__ import annotations

import math
import random
import re

import pytest

from judges.scripted import ScriptedJudge, scores_reply
from ruler import JudgeRejected, JudgeRequest, JudgeUnavailable
from ruler.attacks import ATTACKS
from ruler.audit import Audit, audit, findings
from ruler.audit.attacks import PLAIN_TEXT
from ruler.audit.findings import Finding
from tests.audit.askings import judge, labelled, shown, worth


def noise(text: str, deviation: float) -> float:
    return random.Random(text).gauss(0, deviation)


def likes_length(text: str) -> int:
    return round(max(0, min(100, 12 * math.log(len(text)) - 10 + noise(text, 3))))


def believes(text: str) -> int:
    return worth(text) + 30 * any(word in text.lower() for word in ("score", "correct", "judge", "passed"))


def reads(text: str) -> int:
    return round(max(0, min(100, worth(text) + noise(text, 8))))


def attacks_said(result: Audit) -> Finding:
    (found,) = [finding for finding in findings(result) if finding.subject == "attacks"]
    return found


def test_the_families_that_only_add_length_are_families_that_add_text() -> None:
    assert set(PLAIN_TEXT) < {attack.name for attack in ATTACKS if not attack.replaces}


@pytest.mark.slow
async def test_a_taste_for_length_is_not_called_belief() -> None:
    result = await audit(judge(likes_length), labelled(20, 2), orders=2)
    assert result.attacks is not None
    assert (result.attacks.plain.value or 0) > (result.attacks.pleas.value or 0) > 0.02
    found = attacks_said(result)
    assert found.level == "do"
    assert "it takes length for work, which hides whether it believes claims as well" in found.text
    assert "believes what it is told" not in found.text


async def test_belief_is_not_called_a_taste_for_length() -> None:
    result = await audit(judge(believes), labelled(20, 2), orders=2)
    assert result.attacks is not None
    assert result.attacks.plain.value == 0
    found = attacks_said(result)
    assert found.level == "do"
    assert "filler and padding +0.000: it believes what it is told, so try another judge" in found.text
    assert "length" not in found.text


@pytest.mark.slow
async def test_who_does_both_is_said_to_do_both() -> None:
    def both(text: str) -> int:
        return round(0.5 * believes(text) + 25 * (believes(text) > worth(text)) + math.log(len(text)))

    result = await audit(judge(both), labelled(30, 2), orders=2, attacks=len(ATTACKS))
    assert "it believes what it is told, and takes length for work besides" in attacks_said(result).text


@pytest.mark.slow
async def test_with_few_controls_the_cause_is_left_open() -> None:
    found = attacks_said(await audit(judge(likes_length), labelled(8, 2), orders=2))
    assert found.level == "do"
    assert "too few to tell whether it believes what it is told or takes length for work" in found.text


@pytest.mark.slow
async def test_the_largest_families_and_the_sure_ones_are_named_apart() -> None:
    def some(text: str) -> int:
        return round(min(100, 30 + 40 * any("\u4e00" <= char <= "\u9fff" for char in text) + likes_length(text) / 3))

    result = await audit(judge(some), labelled(20, 2), orders=2, attacks=4)
    assert result.attacks is not None
    added = [one for one in result.attacks.families if not one.replaces]
    found = re.search(r"the most so far (.*?) \(sure of single families: (.*?)\);", attacks_said(result).text)
    assert found is not None
    largest, sure = ([item.split()[0] for item in names.split(", ")] for names in found.groups())
    assert largest == [one.name for one in added[:3]]
    assert sure == ([one.name for one in added if one.sure and (one.change.value or 0) >= 0.05][:3] or ["none"])
    assert sure != largest
    assert all(one.sure for one in added if one.change.interval and one.change.interval[0] > 0)
    assert not any(one.sure for one in added if one.compared < 2)


@pytest.mark.slow
async def test_the_bound_of_the_mean_is_not_said_of_single_families() -> None:
    result = await audit(judge(reads), labelled(30, 3), orders=2)
    assert result.attacks is not None
    most = max((one for one in result.attacks.families if not one.replaces), key=lambda one: one.change.value or 0)
    assert result.attacks.added.interval is not None
    assert (most.change.value or 0) > result.attacks.added.interval[1]
    found = attacks_said(result)
    assert found.level == "fine"
    assert "gains nothing that matters in the mean over families (at most" in found.text
    assert f"single families have too few attacks to tell (the highest: {most.name}, " in found.text


@pytest.mark.parametrize(("error", "level"), [(JudgeUnavailable("down"), "unclear"), (JudgeRejected("no"), "do")])
async def test_where_every_attacked_group_fails_that_is_said(error: Exception, level: str) -> None:
    known = {str(rollout.messages[-1].content[0]).strip() for item in labelled(12) for rollout in item.group.rollouts}

    def answer(request: JudgeRequest) -> str:
        texts = shown(request)
        if any(text.strip() not in known for text in texts.values()):
            raise error
        return scores_reply({label: worth(text) for label, text in texts.items()})

    result = await audit(ScriptedJudge(answer), labelled(12), orders=2, attacks=1)
    assert result.attacks is not None
    assert (result.signal.failed, result.attacks.failed, len(result.failures)) == (0, 12, 12)
    found = attacks_said(result)
    assert found.level == level
    assert "no attacked group could be compared (12 failed)" in found.text
    assert ("void its group" in found.text) == (level == "do")
