"""In which order the rollouts of a group are shown."""

from __future__ import annotations

import hashlib


def seeded_order(size: int, seed: str) -> tuple[int, ...]:
    """One permutation of `range(size)`, the same for the same seed on every machine and Python version.

    Positions carry bias, so the order must not follow arrival (which follows length and latency). `random.shuffle`
    was rejected: its sequence is not promised across Python versions, and stored answers depend on it.
    """
    return tuple(sorted(range(size), key=lambda index: hashlib.sha256(f"{seed}|order|{index}".encode()).digest()))
