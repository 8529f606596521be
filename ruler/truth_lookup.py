"""Truth as the quality that a simulated judge scores by, found by the texts it reads in a prompt.

Truth never enters a request: the judge is shown what any judge is shown, and looks up what it reads there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from ruler.errors import ConfigError, PackingError
from ruler.scoring import Ruler
from ruler.types import Group


class TruthLookup:
    """A quality for `judges.simulated`: (text before the first fence, a rollout's text) -> its truth.

    The `ruler` that asks the judge has to be set before the first question: it knows how groups are laid out.
    """

    def __init__(self) -> None:
        self.ruler: Ruler | None = None
        self._groups: dict[tuple[str, str], tuple[Group, Mapping[str, float]]] = {}
        self._texts: dict[tuple[str, str], list[tuple[str, str]]] = {}
        self._known: dict[tuple[str, str], float] = {}

    def learn(self, group: Group, truth: Mapping[str, float]) -> None:
        """Makes the truth of a group known: rollout id -> truth. It is laid out when it is first asked for."""
        self._groups[group.id, group.digest] = (group, truth)

    def forget(self, group: Group) -> None:
        """Drops what is known of a group."""
        name = group.id, group.digest
        self._groups.pop(name, None)
        for text in self._texts.pop(name, ()):
            self._known.pop(text, None)

    def __call__(self, task: str, rollout: str) -> float:
        """The truth of the rollout with this text.

        Raises:
            ConfigError: nobody told the truth of it.
        """
        text = task, rollout
        if text not in self._known:
            self._lay_out([name for name in self._groups if name not in self._texts])
        if text not in self._known:  # another group with the same text was forgotten
            self._lay_out(list(self._groups))
        if text not in self._known:
            raise ConfigError("simulated: quality: the truth of a rollout that is asked for is not known")
        return self._known[text]

    def _lay_out(self, names: Sequence[tuple[str, str]]) -> None:
        assert self.ruler is not None, "set before the first question"
        for name in names:
            group, truth = self._groups[name]
            texts = self._texts[name] = []
            with suppress(PackingError):  # of which the judge is never asked
                for prompt in self.ruler.pack(group):
                    for label, shown in prompt.texts.items():
                        if (value := truth.get(prompt.rollouts[label][0])) is not None:
                            texts.append((prompt.context, shown))
                            self._known[texts[-1]] = value
