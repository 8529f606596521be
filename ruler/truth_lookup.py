"""Truth as the quality that a simulated judge scores by, found by the texts it reads in a prompt.

Truth never enters a request: the judge is shown what any judge is shown, and looks up what it reads there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import TypeAlias

from ruler.errors import ConfigError, PackingError
from ruler.scoring import Ruler
from ruler.types import Group

_Name: TypeAlias = tuple[str, str]
"""Id and digest of a group."""
_Text: TypeAlias = tuple[str, str]
"""The text before the first fence, and a rollout's."""


class TruthLookup:
    """A quality for `judges.simulated`: (text before the first fence, a rollout's text) -> its truth.

    The `ruler` that asks the judge has to be set before the first question: it knows how groups are laid out. A text
    that stands in several groups with different truth, as an answer that people preferred to one rival and not to
    another, has the mean of them: a judge of single texts cannot tell them apart.
    """

    def __init__(self) -> None:
        self._ruler: Ruler | None = None
        self._groups: dict[_Name, tuple[Group, Mapping[str, float]]] = {}
        self._texts: dict[_Name, set[_Text]] = {}
        self._waiting: set[_Name] = set()
        self._known: dict[_Text, dict[_Name, float]] = {}

    @property
    def ruler(self) -> Ruler | None:
        """The one that asks; with another one, what was learned is laid out again."""
        return self._ruler

    @ruler.setter
    def ruler(self, ruler: Ruler) -> None:
        if ruler is not self._ruler:
            self._ruler = ruler
            self._waiting = set(self._groups)

    def know(self, group_id: str, task: str, rollout: str, truth: float) -> None:
        """Makes the truth of one text known, for a group that is laid out by something else than a `Ruler`."""
        self._known.setdefault((task, rollout), {})[group_id, ""] = truth

    def learn(self, group: Group, truth: Mapping[str, float]) -> None:
        """Makes the truth of a group known: rollout id -> truth. It is laid out when something is first asked for."""
        name = group.id, group.digest
        self._groups[name] = (group, truth)
        self._waiting.add(name)

    def forget(self, group: Group) -> None:
        """Drops what is known of a group."""
        name = group.id, group.digest
        self._groups.pop(name, None)
        self._waiting.discard(name)
        for text in self._texts.pop(name, ()):
            values = self._known[text]
            values.pop(name, None)
            if not values:
                del self._known[text]

    def __call__(self, task: str, rollout: str) -> float:
        """The truth of the rollout with this text.

        Raises:
            ConfigError: nobody told the truth of it.
        """
        while self._waiting:
            self._lay_out(self._waiting.pop())
        values = self._known.get((task, rollout))
        if values is None:
            raise ConfigError("simulated: quality: the truth of a rollout that is asked for is not known")
        return math.fsum(values.values()) / len(values)

    def _lay_out(self, name: _Name) -> None:
        assert self._ruler is not None, "set before the first question"
        group, truth = self._groups[name]
        texts = self._texts.setdefault(name, set())
        with suppress(PackingError):  # of which the judge is never asked
            for prompt in self._ruler.pack(group):
                for label, shown in prompt.texts.items():
                    if (value := truth.get(prompt.rollouts[label][0])) is not None:
                        text = prompt.context, shown
                        texts.add(text)
                        self._known.setdefault(text, {})[name] = value
