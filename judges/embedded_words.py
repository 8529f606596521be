"""The words of the embedded judge, and the order in which it reads them.

    <task> 37+58 <own> 7+8=15,3+5+1=9;95; <rollout> … </rollout> <rollout> … </rollout>

Between <own> and the first rollout stands the judge's own solution, which it writes itself; the score of a rollout is
read behind its closing token. No text of a rollout can hold any of these tokens: text is read as the words below.
Training and judging build their tokens here alone.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

NUM_LEVELS = 10
PAD, UNKNOWN, TASK, OWN, OPEN, CLOSE = "<pad>", "<unknown>", "<task>", "<own>", "<rollout>", "</rollout>"
OWN_CHARS = "0123456789+-=,;"
"""Those of the judge's own solution. They are words apart from those of the rollouts: whatever a rollout writes, there
is one place only where these can be found."""
MAX_OWN_TOKENS = 24
"""Of its own solution; the longest right one has 20."""
CUT_OFF = "[cut off: the rollout reached its token limit here]"
"""How a packed prompt marks it."""
_WORDS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>", CUT_OFF, "[assistant] (empty)")
_CHARS = ("\n", *map(chr, range(32, 127)))

VOCABULARY: tuple[str, ...] = (
    *(PAD, UNKNOWN, TASK, OWN, OPEN, CLOSE),
    *(f"<score {level}>" for level in range(NUM_LEVELS)),
    *(f"<own {char}>" for char in OWN_CHARS),
    *_WORDS,
    *_CHARS,
)
_OF_THE_JUDGE = VOCABULARY[: -len(_WORDS) - len(_CHARS)]
"""No text is ever read as one of these."""
PATTERN = "|".join(map(re.escape, _WORDS)) + r"|[\s\S]"
"""Cuts text into words; the longer ones win, all else is single characters."""


class Words:
    """The tokens of one judge, as the `tokenizer.json` in its folder has them.

    Args:
        path: a file in the form of the `tokenizers` library: whole words, cut by one regular expression.

    Raises:
        OSError, ValueError, TypeError, KeyError, re.error: the file cannot be read, or is of another kind.
    """

    def __init__(self, path: Path) -> None:
        file: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if file["model"]["type"] != "WordLevel":
            raise ValueError(f"{path.name}: expected a WordLevel model, got {file['model']['type']!r}")
        self._ids: dict[str, int] = file["model"]["vocab"]
        self.num_words = len(self._ids)
        """How many there are; their tokens are 0, 1, …"""
        if sorted(self._ids.values()) != list(range(self.num_words)):
            raise ValueError(f"{path.name}: expected words numbered from 0")
        self._words = re.compile(file["pre_tokenizer"]["pattern"]["Regex"])
        for word in _OF_THE_JUDGE:
            if word not in self._ids:
                raise ValueError(f"{path.name}: it lacks the word {word!r}")
            if self._words.fullmatch(word):
                raise ValueError(f"{path.name}: a rollout could say {word!r}")
        self._unknown = self._ids[UNKNOWN]
        self._own = {self._ids[f"<own {char}>"]: char for char in OWN_CHARS}
        self.own_ids = tuple(self._own)
        self.own_end = self._ids["<own ;>"]
        """Ends the columns, and then the result."""
        self.close = self._ids[CLOSE]
        self.levels = tuple(self._ids[f"<score {level}>"] for level in range(NUM_LEVELS))
        """The token of each score."""

    def text(self, text: str) -> list[int]:
        """The tokens of a text; characters that the judge does not know are one and the same."""
        return [self._ids.get(word, self._unknown) for word in self._words.findall(text)]

    def question(self, question: str) -> list[int]:
        """What the judge's own solution is written behind."""
        return [self._ids[TASK], *self.text(question), self._ids[OWN]]

    def rollout(self, text: str) -> list[int]:
        """One rollout, with the token behind which its score is read."""
        return [self._ids[OPEN], *self.text(text), self.close]

    def own(self, columns: str, result: int) -> list[int]:
        """The judge's own solution, as it learns to write it."""
        return [self._ids[f"<own {char}>"] for char in f"{columns};{result};"]

    def own_text(self, tokens: list[int]) -> str | None:
        """What such tokens say, up to the end of the solution: `7+8=15,3+5+1=9;95`; None where they have no end."""
        text = "".join(self._own.get(token, "?") for token in tokens)
        found = re.match(r"[^;]*;[^;]*(?=;)", text)
        return found[0] if found and "?" not in found[0] else None
