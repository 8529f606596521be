"""Seeds for all chance of a run, each made from the run's own."""

from __future__ import annotations

import hashlib


def seed_of(seed: int, purpose: str, number: int) -> int:
    """A seed of its own for each purpose and number, in [0, 2**56): what `random` and torch's generators take.

    It depends on nothing but the arguments, so nothing has to be remembered when a run goes on. Sums and products of
    the three would do that too, but there the seeds of two runs or purposes meet.

    Args:
        seed: of the run; any whole number.
        purpose: what is drawn, such as "sampling".
        number: which of the draws, such as the step.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{number}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
