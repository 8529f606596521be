"""A simulated judge that scores by truth, wired as a benchmark wires it; and a scripted one that reads numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from benchmarks.judge_rows import Truths
from judges.scripted import scores_reply
from judges.simulated import Behaviour, SimulatedJudge
from ruler import Group, JudgeRequest, Ruler
from ruler.types import FENCE


class KnownTruth:
    """Group id -> rollout id -> truth, and a judge that is told it, as the benchmark tells it."""

    def __init__(self, truth: Mapping[str, Mapping[str, float]], behaviour: Behaviour | None = None) -> None:
        truths = Truths(truth)
        self.judge = SimulatedJudge(truths, quality_name="truth", behaviour=behaviour)
        self.tell, self.know = truths.tell, truths.know


def tell_nothing(ruler: Ruler, parts: Iterable[tuple[Group, Group]]) -> None:
    """For judges that need no truth."""


def know_nothing(group: Group, before: str, texts: Mapping[str, str]) -> None:
    """For judges that need no truth."""


def texts_of(request: JudgeRequest) -> dict[str, str]:
    """Label -> text between its fences, in the order shown."""
    prompt = request.messages[1]["content"]
    fences = list(FENCE.finditer(prompt))
    return {a["id"]: prompt[a.end() + 1 : b.start() - 1] for a, b in zip(fences[::2], fences[1::2], strict=True)}


def stated(request: JudgeRequest) -> str:
    """A reply that scores each rollout by the last number in its text."""
    return scores_reply({label: last_number(text) for label, text in texts_of(request).items()})


def last_number(text: str) -> int:
    """The last number in the text."""
    return int(re.findall("[0-9]+", text)[-1])


def by_pair(better: Callable[[str, str], bool]) -> Callable[[JudgeRequest], str]:
    """Replies of 75 for the better of two and 25 for the other, as `better(one, other)` says of their texts."""

    def reply(request: JudgeRequest) -> str:
        (one, text), (other, opponent) = texts_of(request).items()
        wins = better(text, opponent)
        return scores_reply({one: 75 if wins else 25, other: 25 if wins else 75})

    return reply


def group_of(*texts: str, id: str = "g") -> Group:
    """One answer a rollout, with ids r1, r2 and so on."""
    return Group.of(texts, task=f"The task of {id}.", id=id)
