from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judges.score_tokens import NUM_SCORES, Decision, NoDecisionError, ScoreTokens, expectation, reply_text
from ruler.reply import read_reply

ENDS = ("}", '}, {"id": "', "}]}")
Weight = Callable[[tuple[int, ...], int], float]


class Greedy:
    """The longest piece that fits, from left to right; every character is a piece."""

    def __init__(self, pieces: Sequence[str] = ()) -> None:
        self.pieces = sorted({*pieces, *map(chr, range(32, 127))}, key=len, reverse=True)
        self._index = {piece: index for index, piece in enumerate(self.pieces)}
        self._any = re.compile("|".join(map(re.escape, self.pieces)))

    def __call__(self, text: str) -> list[int]:
        return [self._index[piece] for piece in self._any.findall(text)]

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(self.pieces[token] for token in tokens)


def continuations(encode: Callable[[str], Sequence[int]], id: str) -> dict[tuple[int, ...], int]:
    return {
        tuple(encode(f'{{"scores": [{{"id": "{id}", "score": {score}{end}')): score
        for score in range(101)
        for end in ENDS
    }


def weight_of(prefix: tuple[int, ...], token: int) -> float:
    """A model: some weight for every next token, the same every time."""
    return 1e-3 + hashlib.sha256(repr((prefix, token)).encode()).digest()[0]


def guided(paths: dict[tuple[int, ...], int], weight: Weight, at: int = 0) -> dict[int, float]:
    """What guided decoding would draw: token by token, among the tokens that some continuation has next."""
    if len(scores := set(paths.values())) == 1:
        return {scores.pop(): 1.0}  # only ends are left to choose from
    prefix = next(iter(paths))[:at]
    nexts = {path[at] for path in paths}
    total = sum(weight(prefix, token) for token in nexts)
    drawn: dict[int, float] = {}
    for token in nexts:
        below = guided({path: score for path, score in paths.items() if path[at] == token}, weight, at + 1)
        for score, probability in below.items():
            drawn[score] = drawn.get(score, 0.0) + probability * weight(prefix, token) / total
    return drawn


def walk(
    decision: Decision, weight: Weight, prefix: tuple[int, ...] = (), probability: float = 1.0
) -> dict[int, float]:
    """What the decisions say."""
    prefix += decision.tokens
    nexts = [*decision.settles, *decision.leads]
    total = sum(weight(prefix, token) for token in nexts)
    found: dict[int, float] = {}
    for token in nexts:
        share = probability * weight(prefix, token) / total
        following = decision.leads.get(token)
        below = walk(following, weight, prefix, share) if following else {decision.settles[token]: share}
        for score, part in below.items():
            found[score] = found.get(score, 0.0) + part
    return found


def inner(decision: Decision) -> int:
    return 1 + sum(map(inner, decision.leads.values()))


def check_shape(decision: Decision) -> None:
    assert decision.tokens
    assert not set(decision.settles) & set(decision.leads)
    assert len(decision.settles) + len(decision.leads) >= 2
    for token, following in decision.leads.items():
        assert following.tokens[0] == token
        check_shape(following)


def test_digit_by_digit_it_takes_eleven_decisions() -> None:
    encode = Greedy()
    decision = ScoreTokens(encode).first_decision("BDF")
    assert encode.decode(decision.tokens) == '{"scores": [{"id": "BDF", "score": '
    assert inner(decision) == 11
    assert decision.num_tokens == len(decision.tokens) + 10
    assert decision.depth == len(decision.tokens) + 2
    one = decision.leads[encode("1")[0]]
    assert one.settles[encode("}")[0]] == 1
    assert one.leads[encode("0")[0]].settles == {encode("}")[0]: 10, encode("0")[0]: 100}


@pytest.mark.parametrize("space", ["", " "])
def test_integers_that_are_tokens_take_one_decision(space: str) -> None:
    encode = Greedy([f"{space}{number}" for number in range(101)])
    decision = ScoreTokens(encode).first_decision("BDF")
    assert not decision.leads
    assert sorted(decision.settles.values()) == list(range(101))
    assert encode.decode(decision.tokens).endswith('"score":' if space else '"score": ')


def test_every_usual_end_of_an_integer_counts() -> None:
    # A model that writes `},` for a brace and a comma must not have its 10 read as 100.
    encode = Greedy(["},", "}]}"])
    (comma,), (brace,), (close,), (zero,) = encode("},"), encode("}"), encode("}]}"), encode("0")
    decision = ScoreTokens(encode).first_decision("BDF")
    ten = decision.leads[encode("1")[0]].leads[zero]
    assert ten.settles == {comma: 10, brace: 10, close: 10, zero: 100}

    def model(prefix: tuple[int, ...], token: int) -> float:
        return {comma: 0.98, zero: 0.02}.get(token, 1e-9)

    assert walk(ten, model)[10] == pytest.approx(0.98, abs=1e-6)


def test_ends_that_are_merged_with_the_digit() -> None:
    encode = Greedy(["3}", "7}", '": 7', "10}"])
    decision = ScoreTokens(encode).first_decision("BDF")
    check_shape(decision)
    found = walk(decision, weight_of)
    assert found == pytest.approx(guided(continuations(encode, "BDF"), weight_of))


PIECES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "},",
                "}]",
                "}]}",
                '},{"',
                '", "',
                '": ',
                ' "',
                "score",
                '"score": ',
                '"score":',
                ': [{"',
                '{"',
                '}, {"id": "',
            ]
        ),
        st.from_regex(r"[ ]?[0-9]{1,3}[}]?,?", fullmatch=True),
        st.from_regex(r'[A-Z]{1,3}(", "s)?', fullmatch=True),
    ),
    max_size=25,
)


@pytest.mark.slow
@settings(max_examples=40)
@given(PIECES, st.from_regex(r"[A-Z]{3,4}", fullmatch=True))
def test_the_decisions_draw_what_guided_decoding_draws(pieces: list[str], id: str) -> None:
    encode = Greedy(pieces)
    decision = ScoreTokens(encode).first_decision(id)
    check_shape(decision)
    found = walk(decision, weight_of)
    assert set(found) == set(range(NUM_SCORES))
    assert math.fsum(found.values()) == pytest.approx(1, abs=1e-9)
    assert found == pytest.approx(guided(continuations(encode, id), weight_of), abs=1e-9)


def test_an_id_that_merges_with_what_stands_behind_it() -> None:
    encode = Greedy(['X", "score": 1', 'X", "score": '])
    scores = ScoreTokens(encode)
    for id in ("BDF", "KQX"):
        decision = scores.first_decision(id)
        assert walk(decision, weight_of) == pytest.approx(guided(continuations(encode, id), weight_of))


def test_an_id_is_written_as_json() -> None:
    encode = Greedy()
    decision = ScoreTokens(encode).first_decision('a"b\\c')
    assert encode.decode(decision.tokens) == '{"scores": [{"id": "a\\"b\\\\c", "score": '


def test_a_tokenizer_that_knows_no_digits() -> None:
    def encode(text: str) -> list[int]:
        return [0 if character.isdigit() else ord(character) for character in text]

    with pytest.raises(NoDecisionError, match="different scores with the same tokens"):
        ScoreTokens(encode)


def test_the_expectation_has_four_decimals_and_stays_in_range() -> None:
    assert expectation({70: 0.5, 73: 0.25, 100: 0.25}) == 78.25
    assert expectation({1: 1 / 3, 0: 2 / 3}) == 0.3333
    assert expectation(dict.fromkeys(range(101), 1 / 101)) == 50
    assert expectation({100: 1.0}) == 100
    assert expectation({0: 1.0}) == 0


def test_the_reply_is_in_the_contracts_form_and_order() -> None:
    text = reply_text({"KQX": 73.2518, "BDF": 0.0})
    assert json.loads(text) == {"scores": [{"id": "KQX", "score": 73.2518}, {"id": "BDF", "score": 0.0}]}
    assert read_reply(text, ["BDF", "KQX"]).scores == {"KQX": 0.732518, "BDF": 0.0}
