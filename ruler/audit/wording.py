"""Words and thresholds that the findings of an audit share; their reasons stand in docs/audit.md."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

from ruler.intervals import Estimate

Level: TypeAlias = Literal["fine", "do", "unclear"]
"""fine: nothing to do; do: something to do before training; unclear: these groups cannot tell."""
Said: TypeAlias = tuple[Level, str]

WIDE = 0.05
MIN_GROUPS = 10
CAP = "the cap on cost or tokens"


def above(estimate: Estimate) -> bool:
    return estimate.interval is not None and estimate.interval[0] > 0


def percent(estimate: Estimate) -> str:
    value = estimate.value or 0.0
    return f"{value:.1%}" if 0 < value < 0.1 else f"{value:.0%}"


def interval_text(estimate: Estimate) -> str:
    return "" if estimate.interval is None else " ({:+.3f} to {:+.3f})".format(*estimate.interval)


def more_tasks(half_width: float, *estimates: Estimate) -> int | None:
    """How many further tasks would bring half of each interval down to this; None where they are there, or unknown.

    Intervals shrink with the square root of the tasks. Of few tasks that is more than will be needed, because Student's
    t shrinks, too. Two digits are kept, rounded up.
    """
    missing = [
        estimate.clusters * (((estimate.interval[1] - estimate.interval[0]) / 2 / half_width) ** 2 - 1)
        for estimate in estimates
        if estimate.interval
    ]
    more = math.ceil(max(missing, default=0.0))
    if more <= 0:
        return None
    unit = int(10 ** max(0, len(str(more)) - 2))
    return math.ceil(more / unit) * unit


def audit_more(tasks: int | None) -> str:
    return "audit more groups" if tasks is None else f"audit more groups (about {counted(tasks, 'more task')})"


def counted(number: int, noun: str) -> str:
    """The number with its noun, in the plural unless it is one."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def too_few(number: int, noun: str, which: str = "") -> str:
    """`which`: what follows the noun, with its space."""
    return f"{counted(number, noun)}{which} {'is' if number == 1 else 'are'} too few"
