from __future__ import annotations

from itertools import combinations
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.rows import Answer
from benchmarks.tournament import Bracket, ask_tournament
from judges.scripted import ScriptedJudge
from ruler import JudgeRequest, JudgeUnavailable
from tests.benchmarks.known_truth import KnownTruth, by_pair, group_of, last_number, stated, tell_nothing, texts_of

SIZES = st.integers(2, 20)


def played(bracket: Bracket, margin: dict[int, float]) -> list[list[tuple[int, int]]]:
    """The rounds of a bracket whose entrants differ by what they are worth."""
    rounds = []
    while bracket.due:
        rounds.append(list(bracket.due))
        bracket.take([margin[first] - margin[second] for first, second in bracket.due])
    return rounds


@settings(max_examples=40)
@given(SIZES, st.integers(0, 10**6))
def test_without_errors_all_come_out_in_their_true_order(size: int, seed: int) -> None:
    """Whichever is the anchor."""
    worth = dict(enumerate(Random(f"{seed}").sample([n / 100 for n in range(101)], size)))
    bracket = Bracket(range(size))
    rounds = played(bracket, worth)
    scores = bracket.scores()
    assert sorted(scores, key=scores.__getitem__) == sorted(worth, key=worth.__getitem__)
    assert rounds[0] == [(0, other) for other in range(1, size)]
    assert sum(map(len, rounds)) == 2 * size - 2
    assert len(rounds) == 1 + (size - 1).bit_length()


@settings(max_examples=40)
@given(SIZES, st.data())
def test_whatever_the_judge_says_nobody_stands_above_one_who_won_more(size: int, data: st.DataObject) -> None:
    bracket = Bracket(range(size))
    lost_in: dict[int, int] = {}
    round_number = 0
    while bracket.due:
        due = list(bracket.due)
        margins = data.draw(st.lists(st.sampled_from((-1.0, -0.5, 0.5, 1.0)), min_size=len(due), max_size=len(due)))
        bracket.take(margins)
        if round_number:
            losers = (second if above > 0 else first for (first, second), above in zip(due, margins, strict=True))
            lost_in |= dict.fromkeys(losers, round_number)
        round_number += 1
    scores = bracket.scores()
    (champion,) = set(scores) - set(lost_in)
    lost_in[champion] = round_number
    assert all(0 <= score <= 1 for score in scores.values())
    for one, other in combinations(scores, 2):
        if lost_in[one] != lost_in[other]:
            assert (scores[one] > scores[other]) == (lost_in[one] > lost_in[other])


def test_the_best_seeds_have_the_byes_and_the_two_best_meet_last() -> None:
    bracket = Bracket(range(6))
    rounds = played(bracket, {place: 1 - place / 10 for place in range(6)})
    assert [{frozenset(pair) for pair in one} for one in rounds[1:]] == [
        {frozenset({3, 4}), frozenset({2, 5})},
        {frozenset({0, 3}), frozenset({1, 2})},
        {frozenset({0, 1})},
    ]


def test_equal_margins_are_decided_by_seed_and_equal_seeds_by_the_order_of_the_entrants() -> None:
    bracket = Bracket([7, 3, 5])
    rounds = played(bracket, dict.fromkeys((7, 3, 5), 0.5))
    assert rounds == [[(7, 3), (7, 5)], [(3, 5)], [(7, 3)]]
    assert bracket.scores() == {7: 2.5 / 3, 3: 1.5 / 3, 5: 0.5 / 3}


def test_the_score_is_rounds_won_and_the_mean_level_above_the_anchor() -> None:
    bracket = Bracket([0, 1])
    bracket.take([-0.2])  # 1 stands 0.2 above the anchor
    assert bracket.due == [(1, 0)]
    bracket.take([-0.4])  # and loses to it
    assert bracket.scores() == pytest.approx(
        {0: (1 + (2 + (0.0 + 0.2 + 0.4) / 2) / 4) / 2, 1: (2 + (0.2 - 0.4) / 2) / 8}
    )


@pytest.mark.parametrize(("above", "winner"), [(0.01, 1), (0.0, 1), (-0.01, 0), (-0.05, 0)])
def test_the_smallest_margin_wins_a_match(above: float, winner: int) -> None:
    bracket = Bracket([0, 1])
    bracket.take([-0.2])  # 1 stands 0.2 above the anchor, and so before it as a seed
    assert bracket.due == [(1, 0)]
    bracket.take([above])
    scores = bracket.scores()
    assert scores[winner] > scores[1 - winner]


@pytest.mark.parametrize("size", [2, 3, 4, 5, 8, 9])
async def test_two_for_each_rollout_but_one_are_asked(size: int) -> None:
    judge = ScriptedJudge(stated)
    groups = [group_of(*(str(10 * n) for n in range(size))), group_of("1", "2", id="other")]
    found = await ask_tournament(judge, groups, tell=tell_nothing)
    assert found["g"].usage.calls == 2 * size - 2
    assert len(judge.requests) == 2 * size
    assert all(len(request.ids) == 2 for request in judge.requests)
    scores = found["g"].scores
    assert scores is not None
    assert list(scores) == sorted(set(scores))


async def test_neither_arrival_nor_ids_nor_company_change_a_score() -> None:
    texts = ["40", "10", "60", "61", "30"]

    async def scores(texts: list[str], *others: str) -> dict[str, float]:
        groups = [group_of(*texts), *(group_of(other, "1", id=other) for other in others)]
        judge = ScriptedJudge(by_pair(lambda one, other: (last_number(one) * last_number(other)) % 7 > 3))
        answer = (await ask_tournament(judge, groups, tell=tell_nothing, concurrency=1 + len(others)))["g"]
        return dict(zip(texts, answer.scores or (), strict=True))

    first = await scores(texts)
    assert len(first) == 5
    assert first == await scores(texts[::-1]) == await scores(texts[2:] + texts[:2], "8", "9")


async def test_a_judge_that_knows_truth_orders_every_pair_rightly() -> None:
    truth = {f"r{n}": value / 100 for n, value in enumerate((41, 3, 98, 40, 77, 52, 0, 100, 97), 1)}
    known = KnownTruth({"g": truth})
    scores = (await ask_tournament(known.judge, [group_of(*map(str, range(9)))], tell=known.tell))["g"].scores
    assert scores is not None
    pairs = combinations(zip(scores, truth.values(), strict=True), 2)
    assert all((a - b) * (x - y) > 0 for (a, x), (b, y) in pairs)


async def test_rollouts_that_read_the_same_play_as_one() -> None:
    judge = ScriptedJudge(stated)
    groups = [group_of("50", "70", "50"), group_of("8", "8", id="same")]
    found = await ask_tournament(judge, groups, tell=tell_nothing)
    assert found["same"] == Answer(None)
    scores = found["g"].scores
    assert scores is not None
    assert scores[0] == scores[2] < scores[1]
    assert len(judge.requests) == 2


async def test_a_group_of_one_has_nothing_to_compare() -> None:
    found = await ask_tournament(ScriptedJudge([]), [group_of("a")], tell=tell_nothing)
    assert found == {"g": Answer(None, "group: only one rollout, so there is nothing to compare")}


@pytest.mark.parametrize(("calls_before", "calls"), [(0, 4), (4, 5), (5, 7)])
async def test_a_failed_comparison_ends_its_groups_tournament_alone(calls_before: int, calls: int) -> None:
    """Four with the anchor, one match and three byes, two matches, and a last one that is never played."""

    def reply(request: JudgeRequest) -> str | JudgeUnavailable:
        own = all(text.startswith("5") for text in texts_of(request).values())
        asked = sum("The task of b." in one.messages[1]["content"] for one in judge.requests)
        return JudgeUnavailable("down") if own and asked > calls_before else stated(request)

    judge = ScriptedJudge(reply)
    groups = [group_of("1", "2", id="a"), group_of("50", "52", "53", "54", "55", id="b"), group_of("3", "4", id="c")]
    found = await ask_tournament(judge, groups, tell=tell_nothing)
    failure = found["b"].failure
    assert failure is not None
    assert failure.startswith("unavailable: r")
    assert found["b"].scores is None
    assert found["b"].usage.calls == calls
    for name in "ac":
        scores = found[name].scores
        assert scores is not None
        assert scores[0] < scores[1]
