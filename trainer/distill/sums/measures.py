"""How good a judge of sums is: on groups whose operands and words no training step saw, asked as every judge is.

    figures = await measure(EmbeddedJudge("judge"), num_groups=1000)

Any judge of the task can be measured, simulated ones too.
"""

from __future__ import annotations

from dataclasses import dataclass

from ruler.errors import ConfigError
from ruler.types import Judge
from trainer.distill.sums.baselines import EquivalentNoise, equivalent_noise, format_scores, majority_scores
from trainer.distill.sums.disturbances import (
    OrderFigures,
    PleaFigures,
    draw_plea_case,
    order_figures,
    plea_figures,
)
from trainer.distill.sums.graded_sets import SIZE, SetFigures, compared, draw_different, draw_set, ruler_of, set_figures
from trainer.distill.sums.groups import Kind, Split

SETS: tuple[tuple[str, Kind, int, Split], ...] = (
    (f"plain {SIZE}", "plain", SIZE, "held_out"),
    ("plain 2", "plain", 2, "held_out"),
    ("plain 4", "plain", 4, "held_out"),
    ("plain 6", "plain", 6, "held_out"),
    ("plain 12", "plain", 12, "held_out"),
    (f"mixed {SIZE}", "mixed", SIZE, "held_out"),
    (f"shared error {SIZE}", "shared_error", SIZE, "held_out"),
    (f"pleas {SIZE}", "pleas", SIZE, "held_out"),
    (f"shifted {SIZE}", "shifted", SIZE, "held_out"),
    (f"seen {SIZE}", "plain", SIZE, "train"),
)
"""Name, and what the groups are drawn like; the first set is the one that baselines are measured on, the last one has
operands and words of training, in new groups."""


@dataclass(frozen=True, slots=True)
class Figures:
    """All that is measured of a judge."""

    judge: str
    rubric: str
    prompt_version: str
    seed: int
    sets: tuple[SetFigures, ...]
    """As SETS."""
    orders: OrderFigures
    pleas: PleaFigures
    baselines: tuple[SetFigures, ...]
    """On the groups of the first set: form alone, and the answer of the majority with form; the latter also on groups
    that share an error, where the majority is wrong."""
    equivalent: EquivalentNoise | None
    """On the groups of the first set; None for a judge that is no better than chance."""


def check_num_groups(num_groups: int) -> None:
    """Raises ConfigError where there would be too few groups to measure anything on."""
    if num_groups < SIZE:
        raise ConfigError(f"num_groups: expected at least {SIZE}, got {num_groups}")


async def measure(judge: Judge, *, num_groups: int = 1000, seed: int = 0) -> Figures:
    """All figures of a judge; equal arguments draw equal groups.

    Args:
        judge: knows the task; it is not closed.
        num_groups: groups of each set, and cases of pleas; a quarter of them is shown in all orders.
        seed: of all that is drawn.

    Raises:
        ConfigError: fewer than 8 groups.
    """
    check_num_groups(num_groups)
    drawn = {name: draw_set(kind, size, split, num_groups, seed=seed) for name, kind, size, split in SETS}
    sets = [await set_figures(name, judge, groups) for name, groups in drawn.items()]
    plain, shared = drawn[f"plain {SIZE}"], drawn[f"shared error {SIZE}"]
    ruler = ruler_of(judge)
    return Figures(
        judge=ruler.judge_name,
        rubric=ruler.rubric.id,
        prompt_version=ruler.prompt_version,
        seed=seed,
        sets=tuple(sets),
        orders=await order_figures(judge, [draw_different(seed, number) for number in range(num_groups // 4)]),
        pleas=await plea_figures(judge, [draw_plea_case(seed, number) for number in range(num_groups)]),
        baselines=(
            compared("form alone", plain, [format_scores(group) for group in plain]),
            compared("majority and form", plain, [majority_scores(group) for group in plain]),
            compared(f"majority and form, shared error {SIZE}", shared, [majority_scores(group) for group in shared]),
        ),
        equivalent=await equivalent_noise(plain, sets[0].agreement.accuracy, seed=seed),
    )
