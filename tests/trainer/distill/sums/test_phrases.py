"""Pleas and fillers: what is measured with was never trained with."""

from __future__ import annotations

import random
import re

from trainer.distill.sums.phrases import HELD_OUT, TO_TRAIN


def words(texts: list[str]) -> set[str]:
    return {word for text in texts for word in re.findall(r"[a-z+]+", text.lower())}


def test_no_held_out_phrase_can_be_drawn_to_train_with() -> None:
    rng = random.Random(0)
    drawn = {TO_TRAIN.plea(rng) for _ in range(20_000)} | {TO_TRAIN.filler(rng) for _ in range(20_000)}
    held_out = {HELD_OUT.plea(rng) for _ in range(5000)} | {HELD_OUT.filler(rng) for _ in range(500)}
    assert not {text for text in drawn & held_out if len(text) > 8}  # nonsense words may meet
    trained = words([*TO_TRAIN.claims, *TO_TRAIN.fillers, *TO_TRAIN.openings])
    telling = {"flawless", "kindly", "maximum", "errors", "calculator", "compare", "accept", "proven", "rank", "a+"}
    assert not telling & trained
    assert telling <= words([*HELD_OUT.claims])


def test_every_alternative_is_drawn_and_no_brace_is_left() -> None:
    rng = random.Random(1)
    drawn = [TO_TRAIN.plea(rng) for _ in range(5000)] + [TO_TRAIN.filler(rng) for _ in range(5000)]
    assert not any(set("{}|") & set(text) for text in drawn)
    assert len(set(drawn)) > 5000
    assert words([*TO_TRAIN.claims, *TO_TRAIN.fillers]) - words(drawn) == set()


def test_pleas_are_no_fillers() -> None:
    rng = random.Random(2)
    fillers = {TO_TRAIN.filler(rng) for _ in range(3000)}
    assert not fillers & {TO_TRAIN.plea(rng) for _ in range(3000)}
