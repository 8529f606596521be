"""A cap on cost or tokens that is reached: what was not asked is no fault of the judge, and nothing is said of it."""

from __future__ import annotations

import pytest

from judges.scripted import ScriptedJudge, scores_reply
from ruler import BudgetExceeded, JudgeRequest
from ruler.audit import Audit, audit, audit_record, findings
from tests.audit.askings import shown, worth
from tests.audit.test_cuts import agents


async def audited(calls: int) -> Audit:
    """Twelve groups with long tool outputs: 24 questions as they are, 12 again, 24 attacked, 12 cut."""
    asked = 0

    def answer(request: JudgeRequest) -> str:
        nonlocal asked
        asked += 1
        if asked > calls:
            raise BudgetExceeded("the cap of 1 token is reached")
        return scores_reply({label: worth(text) for label, text in shown(request).items()})

    return await audit(ScriptedJudge(answer), agents(12, 2), orders=2, attacks=1, concurrency=1)


async def test_a_cap_among_the_groups_as_they_are() -> None:
    result = await audited(7)
    assert (result.signal.scored, result.signal.failed, result.accuracy_groups) == (3, 0, 3)
    assert result.signal.failed_share.value == 0
    assert (result.stopped.as_they_are, result.stopped.again, result.stopped.total) == (9, 3, 9 + 3 + 3 + 3)
    found = {finding.subject: finding for finding in findings(result)}
    assert {finding.level for finding in found.values()} == {"unclear"}
    assert found["signal"].text.startswith("the cap on cost or tokens stopped it after 3 of 12 groups")
    assert "stopped it before any group was asked again" in found["noise"].text
    assert "stopped it before any attacked group had scores" in found["attacks"].text
    assert "12 groups hold tool outputs of more than 1,000 characters, but the cap" in found["cuts"].text
    assert audit_record(result)["stopped"]["as_they_are"] == 9


@pytest.mark.parametrize(
    ("calls", "stopped"),
    [
        pytest.param(0, (12, 0, 0, 0), marks=pytest.mark.slow),
        pytest.param(30, (0, 6, 12, 12), marks=pytest.mark.slow),
        pytest.param(46, (0, 0, 7, 12), marks=pytest.mark.slow),
        pytest.param(66, (0, 0, 0, 6), marks=pytest.mark.slow),
    ],
)
async def test_each_part_says_what_it_has(calls: int, stopped: tuple[int, int, int, int]) -> None:
    result = await audited(calls)
    assert result.stopped.total == sum(stopped)
    assert (result.stopped.as_they_are, result.stopped.again, result.stopped.attacked, result.stopped.cut) == stopped
    assert result.attacks is not None
    assert (result.noise.failed, result.attacks.failed, result.cuts.failed) == (0, 0, 0)
    if not stopped[0]:
        assert (result.noise.groups, result.cuts.groups) == (12 - stopped[1], 12 - stopped[3])
        assert sum(one.asked for one in result.attacks.families) == 12 - stopped[2]
    assert len(result.failures) == result.stopped.total  # the exit status knows of it
    (signal, *others) = findings(result)
    if stopped[0]:
        assert "stopped it before any of the 12 groups had scores" in signal.text
        assert {other.text for other in others} == {"there are no scores to tell by"}
    else:
        assert signal.level == "fine"
