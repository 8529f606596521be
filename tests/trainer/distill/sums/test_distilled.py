"""From a seed to a folder: whole, described, and nothing left after an error."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

from judges.embedded import EmbeddedJudge  # noqa: E402
from ruler.errors import ConfigError  # noqa: E402
from ruler.scoring import Ruler  # noqa: E402
from tests.trainer.distill.sums.test_learn import SMALL  # noqa: E402
from trainer.distill.sums.distilled import distill_sums  # noqa: E402
from trainer.distill.sums.graded_sets import draw_different  # noqa: E402

pytestmark = pytest.mark.slow


def test_a_folder_with_judge_figures_and_card(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    said: list[str] = []
    out = tmp_path / "deep" / "judge"
    figures = distill_sums(out, replace(SMALL, max_rollouts=12), seed=3, device="cpu", num_groups=8, show=said.append)
    assert sorted(path.name for path in out.iterdir()) == [
        *("README.md", "config.json", "judge.json", "measured_results.json", "model.safetensors", "tokenizer.json")
    ]
    assert [path.name for path in out.parent.iterdir()] == ["judge"]
    stored = json.loads((out / "measured_results.json").read_text())
    assert stored["facts"]["seed"] == 3
    weights = load_file(out / "model.safetensors")
    assert stored["facts"]["num_weights"] == sum(values.numel() for values in weights.values())
    assert {values.dtype for values in weights.values()} == {torch.float16}
    assert stored["figures"]["sets"][0]["agreement"]["accuracy"] == figures.sets[0].agreement.accuracy
    judge = EmbeddedJudge(out)
    scored = asyncio.run(Ruler(judge).score(draw_different(0, 0).group("x")))
    assert len(scored.scores) == 8
    assert any("measuring" in line for line in said)


def test_a_place_that_is_taken_is_said_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        distill_sums(tmp_path, SMALL, seed=0, device="cpu", num_groups=8, show=print)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_too_few_groups_are_said_before_anything_is_trained(tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(ConfigError, match="num_groups"):
        distill_sums(tmp_path / "judge", SMALL, seed=0, device="cpu", num_groups=3, show=said.append)
    assert said == []
    assert list(tmp_path.iterdir()) == []
