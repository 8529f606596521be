"""The rows of a comparison: what each scorer says of every group, and what it takes to ask it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from ruler import JudgedOrder, Usage
from ruler.scoring import JudgeCall
from ruler.types import usage_of


@dataclass(frozen=True, slots=True)
class Answer:
    """What one row of the table says of one group."""

    scores: tuple[float, ...] | None
    """In the order of the group's rollouts, on any finite scale, higher is better; None: failed, or, where `failure`
    is None, all rollouts read the same and nobody was asked."""
    failure: str | None = None
    """"reason: message"."""
    usage: Usage = field(default_factory=Usage)
    """What it takes to ask, whether a cache had the answer or not."""
    seconds: float = 0.0
    """Sum of the judge's latencies."""
    notes: tuple[str | None, ...] = ()
    """The judge's, in the order of the group's rollouts; empty where there are none."""
    judged: tuple[JudgedOrder, ...] = ()
    """Every prompt that showed the whole group or a block of it; empty where rollouts were shown otherwise."""


class AsIfAsked:
    """An `on_call` for `Ruler`: sums what questions take, by group, as if no cache had been there."""

    def __init__(self) -> None:
        self._usage: defaultdict[str, Usage] = defaultdict(Usage)
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def __call__(self, call: JudgeCall) -> None:
        """Counts one question."""
        reply = call.reply
        if reply is None:
            if call.error is not None:
                self._usage[call.group_id] += usage_of(call.error)
            return
        self._usage[call.group_id] += reply.paid or reply.usage
        self._seconds[call.group_id] += reply.paid_seconds if reply.paid else reply.latency_seconds

    def usage(self, group_id: str) -> Usage:
        """What this group's questions take."""
        return self._usage[group_id]

    def seconds(self, group_id: str) -> float:
        """The sum of their latencies."""
        return self._seconds[group_id]


Kind: TypeAlias = Literal["truth", "judge", "jury", "rules", "trivial", "flips"]


@dataclass(frozen=True, slots=True)
class Row:
    """One scorer on the groups it can score."""

    name: str
    """Unique in its table."""
    kind: Kind
    answers: Mapping[str, Answer]
    """By group id. A group that is not in it is none the scorer could say anything of, as rules without a reference."""
    judge: str | None = None
    """Name of the judge that was asked, where one was."""
    setting: str = ""
    """How it was asked: "k = 2, no notes", "pairwise"; empty where nobody was."""

    @property
    def failures(self) -> dict[str, str]:
        """Group id -> why there are no scores."""
        return {name: answer.failure for name, answer in self.answers.items() if answer.failure is not None}
