"""Rows to learn from: the tokens that the judge will read, and the truth at each place in them."""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path

import pytest

pytest.importorskip("tokenizers")

from hypothesis import given
from hypothesis import strategies as st

from judges.embedded_words import VOCABULARY, Words
from tests.trainer.distill.sums.asked import shown_to_judges
from trainer.distill.sums.examples import Row, batches, questions, rows_of
from trainer.distill.sums.groups import draw_group, graded
from trainer.distill.sums.quality import Attempt, Question
from trainer.distill.sums.tokenizer import write_words
from trainer.tasks.arithmetic import operands

SUM = Question("+", 37, 58)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Words:
    return Words(write_words(tmp_path_factory.mktemp("words")))


def spelt(row: Row) -> list[str]:
    return [VOCABULARY[token] for token in row.tokens]


def test_a_row_is_the_question_its_solution_and_the_attempts(words: Words) -> None:
    (row,) = rows_of(words, graded(SUM, [Attempt("95"), Attempt("", cut_off=True)]), together=True)
    assert "".join(spelt(row)) == (
        "<task>37+58<own>" + "".join(f"<own {char}>" for char in "7+8=15,3+5+1=9;95;") + "<rollout>95</rollout>"
        "<rollout>[assistant] (empty)\n[cut off: the rollout reached its token limit here]</rollout>"
    )
    assert "".join(spelt(row)[row.own]) == "".join(f"<own {char}>" for char in "7+8=15,3+5+1=9;95;")
    assert [spelt(row)[place] for place, _ in row.levels] == ["</rollout>", "</rollout>"]
    assert [level for _, level in row.levels] == [3, 0]
    assert row.reasons == ((0.0, 0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0, 0.0))


def test_attempts_apart_are_rows_of_their_own_with_the_same_truth(words: Words) -> None:
    group = draw_group(random.Random(5), 6, "train", "train")
    (together,) = rows_of(words, group, together=True)
    apart = rows_of(words, group, together=False)
    assert [level for row in apart for _, level in row.levels] == [level for _, level in together.levels]
    assert [len(row.levels) for row in apart] == [1] * 6
    assert tuple(why for row in apart for why in row.reasons) == together.reasons
    assert [truth for row in apart for _, truth in row.answers] == [truth for _, truth in together.answers]


def test_what_is_asked_on_the_way_stands_at_its_place(words: Words) -> None:
    text = "<reasoning>\n7+8=15,3+5=8\n</reasoning>\n<answer>\n95\n</answer>\n<answer>\n9\n</answer>\n"
    (row,) = rows_of(words, graded(SUM, [Attempt(text)]), together=True)
    tokens = spelt(row)
    assert [(tokens[place], truth) for place, truth in row.answers] == [("</answer>", 1.0), ("</answer>", 0.0)]
    lines = "".join(tokens[place] for place, _, _ in row.prefixes)
    assert lines == "7+8=15,3+5=8959"
    assert [columns for _, columns, _ in row.prefixes] == [1.0] * 10 + [0.0] * 2 + [0.0] * 3
    assert [result for _, _, result in row.prefixes] == [0.0] * 12 + [1.0, 1.0, 1.0]


@given(st.integers(0, 10_000))
def test_places_are_within_the_row_and_of_its_attempts(words: Words, seed: int) -> None:
    group = draw_group(random.Random(seed), 4, "train", "train")
    (row,) = rows_of(words, group, together=True)
    last = 0
    for attempt, (place, _) in zip(group.attempts, row.levels, strict=True):
        lines = [at for at, _, _ in row.prefixes if last < at < place]
        shown = "".join(VOCABULARY[row.tokens[at]] for at in lines if row.tokens[at] != 1)
        known = [char for char in attempt.text if " " <= char <= "~"]
        assert set(shown) <= set(known)
        last = place
    assert last == len(row.tokens) - 1


@given(st.integers(0, 10_000))
def test_the_judge_reads_what_the_student_read(words: Words, seed: int) -> None:
    group = draw_group(random.Random(seed), 3, "train", "train")
    texts = {attempt.text for attempt in group.attempts}
    if len(texts) < 3 or any(mark in text for text in texts for mark in ("[", "<task", "Q: ", "�")):
        return
    trained = {row.tokens[row.own.stop :] for row in rows_of(words, group, together=False)}
    assert {tuple(words.rollout(text)) for text in shown_to_judges(group)} == trained


def test_batches_hold_what_they_may_and_rows_of_like_length(words: Words) -> None:
    for together in (False, True):
        drawn = list(islice(batches(words, random.Random(0), max_tokens=2048, max_rollouts=6, together=together), 30))
        for rows in drawn:
            longest = max(len(row.tokens) for row in rows)
            assert len(rows) == 1 or len(rows) * longest <= 2048
        padded = sum(len(rows) * max(len(row.tokens) for row in rows) for rows in drawn)
        assert sum(len(row.tokens) for rows in drawn for row in rows) > 0.8 * padded
    assert {len(row.levels) for rows in drawn for row in rows} >= {1, 2, 3, 4, 5, 6}


def test_bare_questions_have_nothing_but_their_solution(words: Words) -> None:
    (rows,) = islice(questions(words, random.Random(0), batch_size=5), 1)
    assert len(rows) == 5
    assert all(row.levels == () and row.own.stop == len(row.tokens) for row in rows)


def test_the_tokenizer_is_written_once_and_equal(tmp_path: Path) -> None:
    first = write_words(tmp_path).read_bytes()
    assert write_words(tmp_path).read_bytes() == first


def test_nothing_held_out_is_trained_on(words: Words) -> None:
    """Neither operands, nor words of pleas and fillers."""
    rng = random.Random(0)
    held_out = {
        *(f"{first}+{second}" for first, second in operands("addition")[1]),
        *(f"{first}-{second}" for first, second in operands("subtraction")[1]),
    }
    drawn = [
        *islice(questions(words, rng, batch_size=200), 3),
        *islice(batches(words, rng, max_tokens=4096, max_rollouts=8, together=False), 60),
    ]
    texts = ["".join(spelt(row)) for rows in drawn for row in rows]
    asked = {text.removeprefix("<task>").partition("<own>")[0] for text in texts}
    assert len(asked) > 500
    assert not asked & held_out
    telling = ("flawless", "kindly", "calculator", "Regards", "Wolfram", "Stacking", "Column by column")
    assert not [text for text in texts if any(word in text for word in telling)]
    assert [text for text in texts if "trust me" in text or "full marks" in text]
