"""What is said of little, and of what only looks like nothing."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from judges.scripted import ScriptedJudge, scores_reply
from ruler import JudgeRejected, JudgeRequest, JudgeUnavailable
from ruler.audit import Audit, audit, audit_record, findings
from ruler.audit.findings import Finding
from tests.audit.askings import judge, labelled, level, shown, worth


def said(result: Audit, subject: str) -> Finding:
    (found,) = [finding for finding in findings(result) if finding.subject == subject]
    return found


def every_other_slot() -> ScriptedJudge:
    """Reads nothing: even slots 0, odd slots 100."""
    return ScriptedJudge(lambda request: scores_reply({i: 100 * (n % 2) for n, i in enumerate(request.ids)}))


@pytest.mark.parametrize(
    ("size", "orders"),
    [(4, 4), (4, 2), pytest.param(8, 4, marks=pytest.mark.slow), pytest.param(8, 2, marks=pytest.mark.slow)],
)
async def test_a_judge_of_every_other_slot_is_not_free_of_position(size: int, orders: Any) -> None:
    result = await audit(every_other_slot(), labelled(16, size), orders=orders, attacks=0)
    (found,) = result.positions.sizes
    assert found.share == pytest.approx(1)
    position = said(result, "position")
    assert position.level == "do"
    assert "slots explain 100.0% of the spread" in position.text
    if orders == 4:  # and it agrees with itself no more than by its slots
        assert result.swaps.change.moved.value == pytest.approx(2 / 3)
        assert said(result, "orders").level == "do"
    else:
        assert result.swaps.change.moved.value == 0
        assert "though the orders that were asked agree: they do not take it away, use --orders full" in position.text


async def test_two_orders_of_few_tasks_do_not_prove_that_slots_are_alike() -> None:
    result = await audit(every_other_slot(), labelled(10), orders=2, attacks=0)
    assert not result.positions.sizes[0].sure
    found = said(result, "position")
    assert found.level == "unclear"
    assert "every score is the same in the orders that were asked, but slots explain 100.0%" in found.text


async def test_of_one_group_nothing_is_called_fine_but_facts() -> None:
    result = await audit(judge(worth), labelled(1), attacks=4)
    levels = level(findings(result))
    assert levels.pop("cuts") == "fine"  # there is nothing to cut
    assert set(levels.values()) == {"unclear"}
    assert said(result, "signal").text == (
        "the scores differ in every scored group, but 1 task is too few to say that of others: audit at least 9 more"
    )
    for subject in ("position", "orders", "noise"):
        assert "1 task is too few" in said(result, subject).text


@pytest.mark.parametrize(
    ("equal", "number", "expected"),
    [
        (1, 10, "unclear"),
        (1, 1, "unclear"),
        (0, 9, "unclear"),
        (0, 10, "fine"),
        (1, 20, "fine"),
        (10, 10, "do"),
        (8, 16, "do"),
        pytest.param(3, 30, "unclear", marks=pytest.mark.slow),
        pytest.param(4, 40, "do", marks=pytest.mark.slow),
    ],
)
async def test_equal_scores_must_be_more_than_a_mishap(equal: int, number: int, expected: str) -> None:
    first = {item.group.rollouts_digest for item in labelled(equal, 2)}
    items = labelled(number, 2)
    alike = {
        str(rollout.messages[-1].content[0]).strip()
        for item in items
        if item.group.rollouts_digest in first
        for rollout in item.group.rollouts
    }

    def answer(request: JudgeRequest) -> str:
        texts = shown(request)
        same = all(text.strip() in alike for text in texts.values())
        return scores_reply({label: 50 if same else worth(text) for label, text in texts.items()})

    result = await audit(ScriptedJudge(answer), items, orders=2, attacks=0)
    assert result.signal.no_signal.value == pytest.approx(equal / number)
    assert said(result, "signal").level == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [pytest.param(JudgeUnavailable("down"), "unclear", marks=pytest.mark.slow), (JudgeRejected("no"), "do")],
)
async def test_where_most_attacked_groups_fail_the_rest_is_not_said_to_hold(error: Exception, expected: str) -> None:
    items = labelled(20)
    known = {str(rollout.messages[-1].content[0]).strip() for item in items for rollout in item.group.rollouts}

    def answer(request: JudgeRequest) -> str:
        texts = [text.strip() for text in shown(request).values()]
        hostile = [text for text in texts if text not in known]
        if hostile and random.Random(min(set(texts) & known)).random() < 0.8:
            raise error
        return scores_reply({label: worth(text) for label, text in shown(request).items()})

    result = await audit(ScriptedJudge(answer), items, orders=2, attacks=4)
    assert result.attacks is not None
    assert 40 < result.attacks.failed < 80
    found = said(result, "attacks")
    assert found.level == expected
    assert found.text.startswith(f"only {80 - result.attacks.failed} of 80 attacks could be compared, in which added ")
    assert ("void its group" in found.text) == (expected == "do")
    assert "hold" not in found.text


@pytest.mark.parametrize("scale", [1e308, 1e-200, 1e-320])
async def test_truth_of_any_scale_is_audited(scale: float) -> None:
    items = [
        replace(item, truth={name: scale * (1 if value > 0.4 else -1) for name, value in item.truth.items()})
        for item in labelled(12)
    ]
    result = await audit(judge(worth), items, orders=2, attacks=0)
    assert result.with_truth == 12
    r = result.swaps.planned[0].r
    assert r is not None
    assert 0.5 < r < 1


@pytest.mark.slow
async def test_the_order_of_the_file_changes_no_digit() -> None:
    items = labelled(15, 3)

    def noisy(request: JudgeRequest) -> str:
        # Thirds are no binary fractions, so that sums in another order differ.
        return scores_reply(
            {
                label: (worth(text) + random.Random(f"{n} {request.repeat} {text}").random() * 30) / 1.3
                for n, (label, text) in enumerate(shown(request).items())
            }
        )

    records = []
    for seed in range(4):
        random.Random(seed).shuffle(items)
        record = audit_record(await audit(ScriptedJudge(noisy), items, orders="full", attacks=1))
        del record["usage"]
        records.append(record)
    assert records[0] == records[1] == records[2] == records[3]
