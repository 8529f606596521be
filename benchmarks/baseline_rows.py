"""Rows that ask nobody: truth itself, truth with errors, handwritten rules, trivial rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from random import Random

from benchmarks.rows import Answer, Row
from benchmarks.rules import rules_for, score
from ruler import Group
from ruler.agreement import first_wins, shorter_wins
from ruler.errors import GroupError
from ruler.evaluation import shown_lengths, source_of, truth_of
from ruler.records import LabelledGroup
from ruler.rewards import Rewards

FLIPS = (0.05, 0.10, 0.20, 0.40)


def baseline_rows(labelled: Sequence[LabelledGroup], *, seed: int = 0) -> Iterator[Row]:
    """The rows, one after the other; the same for the same groups and seed, in whatever order they come."""
    yield Row("truth", "truth", {item.group.id: Answer(truth_of(item)) for item in labelled})
    for share in FLIPS:
        flipped = {item.group.id: Answer(_flipped(item, share, seed)) for item in labelled}
        yield Row(f"truth, {share:.0%} flipped", "flips", flipped)
    yield _rules("rules", labelled, with_reference=False)
    yield _rules("rules with reference", labelled, with_reference=True)
    lengths = {item.group.id: shown_lengths(item.group) for item in labelled}
    yield Row("shorter wins", "trivial", {name: Answer(tuple(shorter_wins(own))) for name, own in lengths.items()})
    yield Row("first wins", "trivial", {name: Answer(tuple(first_wins(len(own)))) for name, own in lengths.items()})
    yield Row("random", "trivial", {item.group.id: Answer(_random(item.group, seed)) for item in labelled})


def _rules(name: str, labelled: Sequence[LabelledGroup], *, with_reference: bool) -> Row:
    answers = {}
    for item in labelled:
        rules = rules_for(source_of(item.group))
        rewards: Rewards | None = None
        if rules is not None:
            rewards = rules.with_reference if with_reference else rules.blind
        if rewards is not None and not (with_reference and item.group.reference is None):
            answers[item.group.id] = _checked(rewards, item.group)
    return Row(name, "rules", answers)


def _checked(rewards: Rewards, group: Group) -> Answer:
    try:
        return Answer(score(rewards, group))
    except GroupError as error:  # a reference that is not as the source has it
        return Answer(None, f"{error.code}: {error}")


def _flipped(item: LabelledGroup, share: float, seed: int) -> tuple[float, ...]:
    """Truth, each rollout's mirrored in the group's range with this probability: of 0 and 1 that exchanges them."""
    truth = truth_of(item)
    rng = Random(f"{seed} {share} {item.group.rollouts_digest}")
    # Exactly: a mirrored value has to tie with the others of its kind, and 0.1 + 0.3 - 0.1 is not 0.3 in floats.
    middle = Fraction(min(truth)) + Fraction(max(truth))
    return tuple(float(middle - Fraction(value)) if rng.random() < share else value for value in truth)


def _random(group: Group, seed: int) -> tuple[float, ...]:
    rng = Random(f"{seed} {group.rollouts_digest}")
    return tuple(rng.random() for _ in group.rollouts)
