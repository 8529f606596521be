"""From a seed to a judge in a folder: train, write, measure, describe."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from judges.embedded import EmbeddedJudge
from judges.embedded_words import Words
from trainer.distill.sums.card import Facts, write_card
from trainer.distill.sums.export import PRECISION, write_competence, write_model
from trainer.distill.sums.learn import Learnt, Recipe, learn
from trainer.distill.sums.measures import Figures, check_num_groups, measure
from trainer.distill.sums.tokenizer import write_words
from trainer.unfinished import check_is_free, unfinished


def distill_sums(
    out: Path,
    recipe: Recipe,
    *,
    seed: int,
    device: str,
    num_groups: int,
    show: Callable[[str], None],
) -> Figures:
    """Makes a judge of sums, and returns what was measured of it; `out` is then a folder for `embedded:OUT`.

    Args:
        out: a folder that is not there, or is empty; nothing is left of it when training ends with an error.
        recipe: how it is made.
        seed: of weights and data.
        device: as torch names it.
        num_groups: of each set that it is measured on, as in `measure`.
        show: is given a line of text now and then.

    Raises:
        ConfigError: `out` is there, or `num_groups` is too small.
        OSError: it cannot be written.
    """
    check_is_free(out)
    check_num_groups(num_groups)
    with unfinished(out) as folder:
        learnt = learn(Words(write_words(folder)), recipe, seed=seed, device=device, show=show)
        write_model(learnt, folder)
        write_competence(learnt, folder)
        facts = facts_of(learnt, folder)
    # It is a judge already: a failure from here on costs the card, and not twenty minutes of training.
    show(f"{out} is written; measuring it on {num_groups:,} groups of each kind, and as many pleas")
    return asyncio.run(describe(out, facts, num_groups=num_groups))


async def describe(folder: Path, facts: Facts, *, num_groups: int) -> Figures:
    """Measures the judge in the folder, and writes its card."""
    judge = EmbeddedJudge(folder)
    try:
        figures = await measure(judge, num_groups=num_groups)
    finally:
        await asyncio.to_thread(judge.close)
    write_card(folder, facts, figures)
    return figures


def facts_of(learnt: Learnt, folder: Path) -> Facts:
    """What the judge in the folder is, and what it took."""
    return Facts(
        seed=learnt.seed,
        num_weights=learnt.num_weights,
        num_tokens=learnt.num_tokens,
        minutes=learnt.minutes,
        recipe=asdict(learnt.recipe),
        precision=PRECISION,
        size_bytes=sum(path.stat().st_size for path in folder.iterdir()),
    )
