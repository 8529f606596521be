from __future__ import annotations

import os
import sys

import pytest

from ruler.tokens import token_counter
from ruler.types import JudgeInfo


def test_the_judges_own_tokenizer_comes_first() -> None:
    name, count = token_counter(JudgeInfo("b", "my-model", count_tokens=lambda text: 7))
    assert (name, count("x")) == ("my-model", 7)


def test_cl100k_is_read_from_the_bundled_file_and_the_environment_is_left_alone() -> None:
    before = dict(os.environ)
    name, count = token_counter(None)
    assert (name, count("hello world"), count("<|endoftext|>") > 1) == ("cl100k", 2, True)
    assert dict(os.environ) == before


def test_without_it_the_count_is_called_an_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    name, count = token_counter(JudgeInfo("b", "m"))
    assert name.startswith("estimate")
    assert [count(""), count("abcde"), count("日本"), count("\ud800")] == [0, 2, 2, 1]
    assert "tiktoken" not in name
    assert sys.modules  # nothing was unloaded on the way
