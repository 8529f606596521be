"""Writes a trained judge into a folder that the `embedded` judge, and transformers, can load."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from judges.embedded_prompt import Competence
from ruler.rubric import DEFAULT_RUBRIC
from trainer.distill.sums.learn import Learnt
from trainer.progress_bars import without_progress_bars
from trainer.tasks.arithmetic import INSTRUCTIONS, arithmetic

PRECISION = "float16"
"""Of the weights as they are stored: its figures are those of float32 (`python -m benchmarks.embedded_judge`)."""
MAX_ROLLOUT_TOKENS = 400
"""The longest attempt that training draws."""


def write_model(learnt: Learnt, folder: Path) -> None:
    """Weights and config."""
    dtype: Any = getattr(torch, PRECISION)
    state = {name: weights.to(dtype).contiguous() for name, weights in learnt.model.state_dict().items()}
    with without_progress_bars():
        learnt.model.save_pretrained(folder, state_dict=state)
    (folder / "generation_config.json").unlink(missing_ok=True)


def write_competence(learnt: Learnt, folder: Path) -> None:
    """What it can judge: the bundled sums of two-digit numbers, by the default rubric or the task's own."""
    competence = Competence(
        task="arithmetic",
        instructions=INSTRUCTIONS,
        question=_QUESTION,
        rubrics={rubric.name: rubric.text.strip() for rubric in (DEFAULT_RUBRIC, arithmetic().rubric)},
        max_rollouts=learnt.recipe.max_rollouts,
        max_rollout_tokens=MAX_ROLLOUT_TOKENS,
    )
    (folder / "judge.json").write_text(json.dumps(asdict(competence), indent=2) + "\n", encoding="utf-8")


_NUMBER = "[1-9][0-9]"
_QUESTION = "|".join(
    (
        rf"{_NUMBER}\+{_NUMBER}",
        # Of a difference the larger number comes first.
        *(rf"{tens}[0-9]-[1-{tens - 1}][0-9]" for tens in range(2, 10)),
        *(rf"([1-9]){units}-\{units + 1}[0-{units}]" for units in range(10)),
    )
)
