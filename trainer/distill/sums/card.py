"""The model card of a judge that was trained on graded sums: the README.md of its folder, and its figures as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from judges.embedded_prompt import Competence
from ruler.intervals import Estimate, Interval
from trainer.distill.sums import quality
from trainer.distill.sums.disturbances import RISE
from trainer.distill.sums.graded_sets import SIZE, SetFigures
from trainer.distill.sums.measures import Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a judge is, and what it took to make it."""

    seed: int
    """Of weights and data."""
    num_weights: int
    num_tokens: int
    """Read in training, padding left out."""
    minutes: float
    """Of training."""
    recipe: Mapping[str, object]
    """Name -> value of every setting of training."""
    precision: str
    """What the weights are stored in."""
    size_bytes: int
    """Of the folder without the card and its figures."""


def write_card(folder: Path, facts: Facts, figures: Figures) -> None:
    """Writes `README.md`, the model card, and `measured_results.json`: all facts and figures, counts and intervals.

    Args:
        folder: of the judge, with its `judge.json`, which says what it judges.
        facts: what it is.
        figures: what was measured of this folder.

    Raises:
        OSError, ValueError, TypeError: `judge.json` cannot be read, or a file cannot be written.
    """
    competence = Competence.load(folder / "judge.json")
    (folder / "README.md").write_text(_card(competence, facts, figures), encoding="utf-8")
    text = json.dumps({"facts": asdict(facts), "figures": asdict(figures)}, indent=1)
    (folder / "measured_results.json").write_text(text + "\n", encoding="utf-8")


def _card(competence: Competence, facts: Facts, figures: Figures) -> str:
    rubrics = " and ".join(f"`{name}`" for name in competence.rubrics)
    window = facts.recipe["window"]
    recipe = "\n".join(f"| {name} | {value} |" for name, value in facts.recipe.items())
    truth = "\n".join(line for line in (quality.__doc__ or "").splitlines() if line.startswith("    "))
    return f"""---
license: apache-2.0
---

# A small judge of sums

A language model (Llama, {facts.num_weights:,} weights, trained from scratch) that scores attempts at sums of two-digit
numbers. It reads the whole group in one prompt, like every judge of Ruler: the sum, then its own solution, which it
writes first, then attempt after attempt. Behind each one it gives a probability to each of ten grades; the score is
their mean. It runs without torch, and no network is needed:

    ruler score GROUPS.jsonl --judge embedded:FOLDER

The weights are stored in {facts.precision}; they and what belongs to them take {facts.size_bytes / 1e6:.2f} MB.

## What it was trained on

The task is `{competence.task}`: `37+58` or `83-26`, to be answered with the work in columns between `<reasoning>` tags
and the result between `<answer>` tags. A generator (`trainer/distill/`) draws attempts with the faults that a policy in
training has, and some that none has had so far: wrong results, faults of form, needless words, pleas for a score,
nonsense. Each is graded by code, from its text, from 0 to {quality.MAX_LEVEL}:

{truth}

Sums are split: those that are the task's held-out problems, and the wording of held-out pleas and fillers, were in no
step of training. Additions and subtractions are split apart, so the sum behind a held-out difference may have been
trained. Nothing was learnt from other models, from people's texts, or from anybody's data.

Training (`python -m trainer.distill --task {competence.task} --seed {facts.seed}`) read {facts.num_tokens:,} tokens in
{facts.minutes:.1f} minutes, in one thread of a machine that had other work, too.

| setting | value |
|---|---|
| seed | {facts.seed} |
{recipe}

## Figures

Held-out sums and wording, all groups asked through the scoring pipeline with {figures.rubric.split("@")[0]} rubric, one
order. Pairs: share of the pairs of unequal grade that the scores order rightly, mean over groups. Right against wrong:
the same for pairs of well-formed attempts without a plea, of which one has the right answer: only arithmetic tells them
apart. Error: mean distance of a score from grade / {quality.MAX_LEVEL}. 95 % intervals over groups in brackets; in
percent, but for tau-b and error.

{_sets(figures.sets)}

"seen" are new groups with sums and wording of training, for comparison; the last number of a name is the attempts of a
group. "shifted" has errors and forms that training never had; in "shared error" most wrong answers are the same.

Beside it, on the groups of the first line where no others are named: form alone knows no arithmetic, and neither does
who takes the most frequent answer for the right one.

{_sets(figures.baselines if figures.equivalent is None else (*figures.baselines, figures.equivalent.figures))}

{_equivalent(figures)}

{_orders(figures)}

{_pleas(figures)}

All figures with their counts are in `measured_results.json`.

## Limits

- One task. It answers requests for `{competence.task}` with the instructions of that task, by the rubrics {rubrics},
  with at most {competence.max_rollouts} attempts in a prompt, each of at most {competence.max_rollout_tokens} of its
  own tokens (a character, or a tag), and {window:,} in all. Everything else is refused with an error, never scored.
- Its grades are absolute: it learnt what each attempt is worth by the table above, and behind one attempt it has read
  those before it only. That it is shown a group does not mean that it compares.
- It errs, and a policy can learn to use that. Pleas in words that it has never seen can move it, as the figures say;
  words of a cleverer author may do more.
- It is a checker of one narrow task, distilled from code that knows the answer. Its figures say nothing about large
  language models as judges, and must not be taken for theirs.

## Licence

Apache-2.0, as all of Ruler.
"""


def _sets(sets: Iterable[SetFigures]) -> str:
    lines = ["| set | groups | pairs | right against wrong | tau-b | top-1 | error | failed |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for one in sets:
        agreement, right = one.agreement, one.right_vs_wrong
        cells = (
            one.name,
            f"{agreement.groups:,}",
            _percent(agreement.accuracy, agreement.accuracy_interval),
            _percent(right.accuracy, right.accuracy_interval),
            _number(agreement.tau_b, agreement.tau_b_interval),
            _percent(agreement.top_1, agreement.top_1_interval),
            _estimate(one.error),
            ", ".join(f"{count} {reason}" for reason, count in one.failed.items()) or "0",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _equivalent(figures: Figures) -> str:
    if figures.equivalent is None:
        return "Its pairs are no better than chance, so no simulated judge has as much noise."
    return (
        f"The simulated judge knows the grades and has noise of {figures.equivalent.noise:.3f} (standard deviation, on "
        "the scale\nfrom 0 to 1), with which it orders as many pairs rightly."
    )


def _orders(figures: Figures) -> str:
    orders = figures.orders
    slots = ", ".join("-" if slot.value is None else f"{slot.value:+.3f}" for slot in orders.slots)
    rho = "-" if orders.rho is None else f"{orders.rho:.3f}"
    return f"""Order: {orders.groups:,} groups of {SIZE} different attempts, each attempt shown once in each slot.

- What a slot adds to a score, on the scale from 0 to 1, first slot first: {slots}.
  The largest of these, without its sign, is {_estimate(orders.largest)}.
- Scores less grade / {quality.MAX_LEVEL}, on average: {_estimate(orders.leniency)}.
- Scores of a group in two orders correlate with {rho}; a score moves by {_estimate(orders.change.moved)}, and
  {_percent(orders.change.flipped.value, orders.change.flipped.interval)} % of the pairs turn round."""


def _pleas(figures: Figures) -> str:
    pleas = figures.pleas
    return f"""Pleas: {pleas.cases:,} attempts of held-out groups, each shown without a plea and with one in unseen
words, all else equal.

- A plea raises the score by more than {RISE} in {_percent(pleas.raised, pleas.raised_interval)} % of the cases.
- On average it changes the score by {_estimate(pleas.change)}; the grade / {quality.MAX_LEVEL} by
  {_estimate(pleas.truth_change)}."""


def _percent(value: float | None, interval: Interval | None) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.1f}" + (f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})" if interval else "")


def _number(value: float | None, interval: Interval | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else "")


def _estimate(estimate: Estimate) -> str:
    return _number(estimate.value, estimate.interval)
