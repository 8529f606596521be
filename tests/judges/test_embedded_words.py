from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judges.embedded_words import (
    CLOSE,
    CUT_OFF,
    MAX_OWN_TOKENS,
    OPEN,
    OWN,
    OWN_CHARS,
    PATTERN,
    TASK,
    UNKNOWN,
    VOCABULARY,
    Words,
)
from tests.judges.embedded_folder import COMPETENCE, tokenizer
from tests.small_models import need_transformers
from trainer.tasks.arithmetic import operands, work_out

OF_THE_JUDGE = [word for word in VOCABULARY if word.startswith(("<score ", "<own ", "<task", "<pad", "<unk"))]
OF_THE_JUDGE += [OPEN, CLOSE, OWN]
TEXT_WORDS = ["<reasoning>", "</reasoning>", "<answer>", "</answer>", CUT_OFF, "[assistant] (empty)"]
TEXTS = st.lists(
    st.sampled_from([*OF_THE_JUDGE, *TEXT_WORDS, "<", "</", "reasoning", ">", "[cut off:", " here]", "3+4=7,", "\r\n"])
    | st.text(st.characters(codec=None), max_size=8),
    max_size=9,
).map("".join)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("words") / "tokenizer.json"
    path.write_text(json.dumps(tokenizer()))
    return path


@pytest.fixture(scope="module")
def words(path: Path) -> Words:
    return Words(path)


def said(tokens: list[int]) -> list[str]:
    return [VOCABULARY[token] for token in tokens]


class TestText:
    def test_is_read_as_whole_tags_and_single_characters(self, words: Words) -> None:
        text = f"<reasoning>\n7+8\n</reasoning><answer>x</answer>\n{CUT_OFF}"
        assert said(words.text(text)) == [
            *("<reasoning>", "\n", "7", "+", "8", "\n", "</reasoning>", "<answer>", "x", "</answer>", "\n", CUT_OFF)
        ]

    @pytest.mark.parametrize("text", ["<Answer>", "< answer>", "<answer >", "<answer"])
    def test_another_tag_is_characters(self, words: Words, text: str) -> None:
        assert said(words.text(text)) == list(text)

    @given(text=TEXTS)
    def test_loses_nothing_but_unknown_characters(self, words: Words, text: str) -> None:
        known = "".join(char if char == "\n" or " " <= char <= "~" else "\0" for char in text)
        assert "".join("\0" if word == UNKNOWN else word for word in said(words.text(text))) == known

    @given(text=TEXTS)
    def test_holds_no_token_of_the_judge(self, words: Words, text: str) -> None:
        assert not set(said(words.text(text))) & (set(OF_THE_JUDGE) - {UNKNOWN})

    def test_that_spells_a_token_of_the_judge_is_its_characters(self, words: Words) -> None:
        for word in OF_THE_JUDGE:
            assert said(words.text(word)) == list(word)

    @pytest.mark.parametrize("char", ["\0", "\r", "\t", "\x7f", "é", "٣", "\u202e", "\ud800", "\U0010ffff"])
    def test_an_unknown_character_is_one_token(self, words: Words, char: str) -> None:
        assert said(words.text(f"a{char}b")) == ["a", UNKNOWN, "b"]

    @given(text=TEXTS.filter(lambda text: text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)))
    def test_is_what_the_tokenizers_library_reads(self, library: Callable[[str], Any], words: Words, text: str) -> None:
        assert words.text(text) == library(text).ids


@pytest.fixture(scope="module")
def library(path: Path) -> Callable[[str], Any]:
    encode: Callable[[str], Any] = pytest.importorskip("tokenizers").Tokenizer.from_file(str(path)).encode
    return encode


class TestLayout:
    def test_a_question_stands_before_the_judges_own_solution(self, words: Words) -> None:
        assert said(words.question("37+58")) == [TASK, *"37+58", OWN]

    def test_a_rollout_is_closed_by_the_token_behind_which_it_is_scored(self, words: Words) -> None:
        assert said(words.rollout("95")) == [OPEN, "9", "5", CLOSE]
        assert said(words.rollout("")) == [OPEN, CLOSE]
        assert VOCABULARY[words.close] == CLOSE

    def test_the_levels_are_in_order(self, words: Words) -> None:
        assert said(list(words.levels)) == [f"<score {level}>" for level in range(10)]

    def test_the_own_solution_has_words_of_its_own(self, words: Words) -> None:
        tokens = words.own("7+8=15,3+5+1=9", 95)
        assert said(tokens) == [f"<own {char}>" for char in "7+8=15,3+5+1=9;95;"]
        assert set(tokens) <= set(words.own_ids)
        assert words.own_end == tokens[-1]
        assert len(words.own_ids) == len(OWN_CHARS)

    @pytest.mark.parametrize("level", ["addition", "subtraction"])
    def test_every_solution_is_read_back_and_can_be_written(self, words: Words, level: Any) -> None:
        sign = "-" if level == "subtraction" else "+"
        for first, second in (pair for pairs in operands(level) for pair in pairs):
            columns, result = work_out(sign, first, second)
            tokens = words.own(columns, int(result))
            assert words.own_text(tokens) == f"{columns};{result}"
            assert len(tokens) <= MAX_OWN_TOKENS

    @pytest.mark.parametrize("text", ["", "7", "7+8=15", "7+8=15;", "7+8=15;95", ";", "=" * MAX_OWN_TOKENS])
    def test_a_solution_without_its_two_ends_is_none(self, words: Words, text: str) -> None:
        assert words.own_text([words.own_ids[OWN_CHARS.index(char)] for char in text]) is None

    @given(st.data())
    def test_a_solution_with_other_words_in_it_is_none(self, words: Words, data: st.DataObject) -> None:
        tokens = words.own("7+8=15,3+5+1=9", 95)
        place = data.draw(st.integers(0, len(tokens) - 2))
        other = data.draw(st.sampled_from(sorted(set(range(len(VOCABULARY))) - set(words.own_ids))))
        assert words.own_text([*tokens[:place], other, *tokens[place + 1 :]]) is None

    def test_what_stands_behind_the_second_end_is_no_part_of_the_solution(self, words: Words) -> None:
        assert words.own_text([*words.own("7+8=15", 15), *words.own_ids]) == "7+8=15;15"


class TestFile:
    @pytest.mark.parametrize(
        ("change", "fault"),
        [
            ({"model": {"type": "BPE", "vocab": {}}}, "expected a WordLevel model, got 'BPE'"),
            ({"model": {"type": "WordLevel", "vocab": {"<pad>": 1}}}, "words numbered from 0"),
            ({"model": {"type": "WordLevel", "vocab": {"<pad>": 0, "a": 0}}}, "words numbered from 0"),
            ({"model": {"type": "WordLevel", "vocab": {"<pad>": 0}}}, "lacks the word '<unknown>'"),
            ({"pre_tokenizer": {"pattern": {"Regex": rf"<score 3>|{PATTERN}"}}}, "a rollout could say '<score 3>'"),
        ],
    )
    def test_of_another_kind_is_refused(self, tmp_path: Path, change: dict[str, Any], fault: str) -> None:
        (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer() | change))
        with pytest.raises(ValueError, match=f"^tokenizer.json: .*{fault}"):
            Words(tmp_path / "tokenizer.json")

    def test_has_as_many_words_as_the_vocabulary(self, words: Words) -> None:
        assert words.num_words == len(VOCABULARY) == len(set(VOCABULARY))

    @pytest.mark.slow  # torch
    def test_is_what_an_export_writes(self, tmp_path: Path) -> None:
        """So that all tests with a folder made by hand say something of a trained one."""
        need_transformers()
        from judges.embedded_prompt import Competence
        from trainer.distill.sums.export import write_competence
        from trainer.distill.sums.learn import Learnt, Recipe
        from trainer.distill.sums.tokenizer import write_words

        assert json.loads(write_words(tmp_path).read_text(encoding="utf-8")) == tokenizer()
        write_competence(Learnt(None, Recipe(), 0, 0, 0, 0.0), tmp_path)
        assert Competence.load(tmp_path / "judge.json") == COMPETENCE
