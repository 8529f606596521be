"""Short neutral labels by which the judge calls the rollouts of one prompt."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Sequence
from functools import cache

# Capital consonants spell no words and no verdicts; Y is left out because it passes for a vowel.
ALPHABET = "BCDFGHJKLMNPQRSTVWXZ"
_RUN = re.compile(f"[{ALPHABET}]{{3,}}")
_TRIES_PER_LENGTH = 16


def draw_labels(keys: Sequence[str], seed: str, texts: Iterable[str]) -> tuple[str, ...]:
    """One label per key, no two alike, none of which occurs in any of the texts.

    A label depends on the seed (the content of the whole group) and on its own key, not on any position; a rollout
    cannot foresee it, because its own text is part of the seed. Three letters, more when the group is large or the
    texts hold too many of the short ones.
    """
    runs = {run for text in texts for run in _RUN.findall(text)}

    @cache
    def taken(length: int) -> set[str]:
        # Inside a longer word, too: the judge must not find a label where none is meant.
        return {run[i : i + length] for run in runs for i in range(len(run) - length + 1)}

    shortest = next(length for length in itertools.count(3) if len(ALPHABET) ** length >= 20 * len(keys))
    labels = {}
    for key in sorted(keys):
        for salt in itertools.count():
            label = _derive(f"{seed}|{key}|{salt}", shortest + salt // _TRIES_PER_LENGTH)
            if label not in taken(len(label)):
                break
        taken(len(label)).add(label)
        labels[key] = label
    return tuple(labels[key] for key in keys)


def _derive(material: str, length: int) -> str:
    number = int.from_bytes(hashlib.sha256(material.encode("ascii")).digest(), "big")
    letters = []
    for _ in range(length):
        number, digit = divmod(number, len(ALPHABET))
        letters.append(ALPHABET[digit])
    return "".join(letters)
