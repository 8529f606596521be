"""What judges and rows are called in a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.row_figures import Figures

_KINDS = {
    "truth": "Truth",
    "flips": "Truth with errors",
    "rules": "Handwritten rules",
    "trivial": "Trivial rules",
    "jury": "All judges",
}


@dataclass(frozen=True, slots=True)
class Names:
    """Judges have long names: where there are several, letters stand for them."""

    letters: Mapping[str, str]

    @classmethod
    def of(cls, bases: Sequence[Figures]) -> Names:
        judges = [one.row.judge or "" for one in bases]
        return cls({judge: _letter(place) if len(judges) > 1 else "" for place, judge in enumerate(judges)})

    def letter(self, one: Figures) -> str:
        """Empty where there is one judge."""
        return self.letters.get(one.row.judge or "", "")

    def label(self, one: Figures) -> str:
        """The row in a few words, without those around it."""
        letter = self.letter(one)
        return f"{letter}: {one.row.setting}" if letter else one.row.setting or one.row.name

    def judge(self, one: Figures) -> str:
        """Who judges, in a few words."""
        return f"judge {self.letter(one)}" if self.letter(one) else "the judge"

    def heading(self, one: Figures) -> str:
        """Under what the row stands in a table."""
        if one.row.kind in _KINDS:
            return _KINDS[one.row.kind]
        return f"{self.letter(one)}: {one.row.judge}" if self.letter(one) else one.row.judge or ""


def _letter(place: int) -> str:
    return chr(ord("A") + place) if place < 26 else f"J{place + 1}"
