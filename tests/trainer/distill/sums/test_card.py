from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from judges.embedded_prompt import Competence
from judges.simulated import SimulatedJudge
from ruler.intervals import Estimate
from ruler.rubric import DEFAULT_RUBRIC
from trainer.distill.sums.baselines import EquivalentNoise, format_scores
from trainer.distill.sums.card import Facts, write_card
from trainer.distill.sums.disturbances import draw_plea_case, order_figures, plea_figures
from trainer.distill.sums.graded_sets import compared, draw_different, draw_set
from trainer.distill.sums.measures import Figures

FACTS = Facts(
    seed=3,
    num_weights=234_567,
    num_tokens=19_876_543,
    minutes=21.25,
    recipe={"hidden_size": 64, "learning_rate": 0.004, "window": 2048},
    precision="float16",
    size_bytes=512_345,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    competence = Competence(
        task="arithmetic",
        instructions="Add.",
        question="[0-9]+",
        rubrics={"default": "Right wins.", "own": "Right wins, too."},
        max_rollouts=11,
        max_rollout_tokens=321,
    )
    (tmp_path / "judge.json").write_text(json.dumps(asdict(competence)), encoding="utf-8")
    return tmp_path


@pytest.fixture
async def figures() -> Figures:
    groups = draw_set("plain", 8, "held_out", 4, seed=0)
    form = compared("plain 8", groups, [format_scores(group) for group in groups], failed={"rejected": 17})
    judge = SimulatedJudge()
    return Figures(
        judge="some judge",
        rubric=DEFAULT_RUBRIC.id,
        prompt_version="1",
        seed=0,
        sets=(replace(form, agreement=replace(form.agreement, accuracy=0.91234, accuracy_interval=(0.8, 0.95678))),),
        orders=replace(
            await order_figures(judge, [draw_different(0, 0), draw_different(0, 1)]),
            largest=Estimate(0.0213, (0.0105, 0.0309), 8, 2),
        ),
        pleas=replace(
            await plea_figures(judge, [draw_plea_case(0, 0)]), cases=1234, raised=0.0123, raised_interval=(0.004, 0.025)
        ),
        baselines=(replace(form, name="form alone"),),
        equivalent=EquivalentNoise(0.0765, replace(form, name="simulated")),
    )


def test_the_card_holds_facts_figures_and_limits(folder: Path, figures: Figures) -> None:
    write_card(folder, FACTS, figures)
    card = (folder / "README.md").read_text(encoding="utf-8")
    for fact in (
        "234,567",
        "19,876,543",
        "21.2 minutes",
        "| seed | 3 |",
        "| learning_rate | 0.004 |",
        "float16",
        "0.51 MB",
    ):
        assert fact in card, fact
    for figure in (
        "91.2 (80.0 to 95.7)",
        "17 rejected",
        "0.021 (0.011 to 0.031)",
        "1.2 (0.4 to 2.5) %",
        "1,234 attempts",
        "noise of 0.076",
        "| form alone | 4 |",
    ):
        assert figure in card, figure
    for limit in (
        "`default` and `own`",
        "at most 11 attempts",
        "at most 321 of its",
        "2,048 in all",
        "refused",
        "Apache-2.0",
    ):
        assert limit in card, limit
    assert "    right answer" in card, "the table of truth"
    assert "    no digit at all" in card
    assert "None" not in card


def test_the_figures_beside_it_are_the_ones_given(folder: Path, figures: Figures) -> None:
    write_card(folder, FACTS, figures)
    stored = json.loads((folder / "measured_results.json").read_text(encoding="utf-8"))
    assert stored == json.loads(json.dumps({"facts": asdict(FACTS), "figures": asdict(figures)}))


def test_what_has_no_value_is_said_to_have_none(folder: Path, figures: Figures) -> None:
    nothing = Estimate(None, None, 0, 0)
    poor = replace(
        figures,
        equivalent=None,
        pleas=replace(figures.pleas, raised=None, raised_interval=None, change=nothing),
        orders=replace(figures.orders, rho=None, largest=nothing, slots=()),
    )
    write_card(folder, FACTS, poor)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "no better than chance" in card
    assert "more than 0.05 in - %" in card
    assert "None" not in card


def test_without_a_judge_there_is_no_card(tmp_path: Path, figures: Figures) -> None:
    with pytest.raises(OSError, match="judge.json"):
        write_card(tmp_path, FACTS, figures)
    assert list(tmp_path.iterdir()) == []
