"""Long tool outputs are cut in the middle: ends and errors stay, what is gone is said."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruler.packing.cut import cut_middle

MARK = re.compile(r" \[cut: ([\d,]+) characters\] ")
LINES = st.lists(
    st.sampled_from(["", "ok", "Error: no such file", "x" * 90, "the request failed", "é" * 30, '{"status": "done"}']),
    max_size=80,
).map("\n".join)


def restored_length(shown: str) -> int:
    marks = [int(count.replace(",", "")) for count in MARK.findall(shown)]
    return len(MARK.sub("", shown)) + sum(marks)


@given(LINES | st.text(max_size=3_000), st.integers(100, 2_000))
def test_what_is_kept_and_what_is_cut_add_up(text: str, max_chars: int) -> None:
    shown, gone = cut_middle(text, max_chars)
    if MARK.search(text):
        return
    if len(text) <= max_chars:
        assert (shown, gone) == (text, 0)
        return
    assert gone > 0
    assert restored_length(shown) == len(text)
    assert len(MARK.sub("", shown)) == len(text) - gone <= max_chars


@given(LINES, st.integers(100, 2_000))
def test_every_piece_is_a_piece_of_the_text_in_its_order(text: str, max_chars: int) -> None:
    shown, _ = cut_middle(text, max_chars)
    at = 0
    pieces = MARK.split(shown)[::2]
    for piece in pieces:
        at = text.index(piece, at) + len(piece)
    assert text.startswith(pieces[0])
    assert text.endswith(pieces[-1])


@given(LINES, st.integers(100, 2_000))
def test_a_cut_makes_no_new_line(text: str, max_chars: int) -> None:
    shown, _ = cut_middle(text, max_chars)
    lines = set(text.split("\n"))
    for line in shown.split("\n"):
        first = MARK.split(line)[0]
        assert any(whole.startswith(first) for whole in lines)


def test_error_in_the_middle_stays() -> None:
    text = "a " * 5_000 + "\nTypeError: bad operand\n" + "b " * 5_000
    shown, _ = cut_middle(text, 1_000)
    assert "TypeError: bad operand" in shown
    assert shown.startswith("a a")
    assert shown.endswith("b b ")


def test_error_inside_one_long_line_stays_with_what_is_around_it() -> None:
    text = "x, " * 4_000 + '"status": "payment failed", "code": 7, ' + "y, " * 4_000
    shown, _ = cut_middle(text, 1_000)
    assert '"status": "payment failed", "code": 7' in shown
    assert len(shown) < 1_100


def test_errors_take_no_more_than_half() -> None:
    text = "start " + "error " * 10_000 + " end"
    shown, _ = cut_middle(text, 1_000)
    assert shown.startswith("start error")
    assert shown.endswith("error  end")
    assert len(MARK.sub("", shown)) <= 1_000


@pytest.mark.parametrize("max_chars", [1_000, 5_000])
def test_equal_texts_are_cut_alike(max_chars: int) -> None:
    text = "line of output\n" * 2_000
    assert cut_middle(text, max_chars) == cut_middle(str(text), max_chars)
    assert cut_middle(text, max_chars)[1] >= len(text) - max_chars


def test_errors_that_are_shown_anyway_take_no_room_from_others() -> None:
    text = "error " * 40 + "a " * 3_000 + "\nKeyError: 'total'\n" + "b " * 3_000
    assert "KeyError: 'total'" in cut_middle(text, 1_000)[0]
