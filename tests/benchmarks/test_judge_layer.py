"""The benchmark of the layer, small: what it shows must hold at any size."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks import judge_layer
from benchmarks.judge_layer import MEASURES

pytestmark = pytest.mark.slow


@pytest.fixture
def arguments(data_folder: Path) -> argparse.Namespace:
    return argparse.Namespace(data=data_folder, groups=60, seed=1)


def test_nothing_is_lost_or_scored_wrongly_among_faults(arguments: argparse.Namespace, tmp_path: Path) -> None:
    figures = MEASURES["faults"](arguments, tmp_path)
    outcomes = {key: count for key, count in figures.items() if key.startswith(("scored", "failed", "tied"))}
    assert set(outcomes) <= {"scored_rightly", "tied", "failed_reply", "failed_unavailable"}
    assert sum(outcomes.values()) == figures["results"] == figures["groups"] == 60
    assert outcomes["scored_rightly"] >= 58
    assert figures["requests"] > 60
    assert figures["paid_twice"] == 0


def test_a_stored_answer_is_never_paid_again_after_a_kill(
    arguments: argparse.Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge_layer, "_KILLS", 2)
    figures = MEASURES["kills"](arguments, tmp_path)
    assert figures["kills"] == 2
    assert 0 < figures["stored_answers_after_each_run"][0] < 60
    assert figures["stored_answers_paid_again"] == 0
    assert figures["groups_scored_or_tied"] == figures["lines_in_the_file"] == 60
    assert figures["cache_integrity"] == "ok"


def test_the_figures_that_depend_on_the_machine_can_be_taken(
    arguments: argparse.Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("_ENTRIES", 1_000), ("_HITS", 50), ("_ROUNDS", 1), ("_CALLS", 5)):
        monkeypatch.setattr(judge_layer, name, value)
    for name in ("hits", "overhead", "concurrency"):
        (tmp_path / name).mkdir()
        figures = MEASURES[name](arguments, tmp_path / name)
        assert all(value >= 0 for key, value in figures.items() if not key.startswith("added"))
