"""Words and thresholds that the findings of an audit share; their reasons stand in docs/audit.md."""

from __future__ import annotations

from typing import Literal, TypeAlias

from ruler.intervals import Estimate

Level: TypeAlias = Literal["good", "act", "unclear"]
"""good: nothing to do; act: something to do before training; unclear: these groups cannot tell."""
Said: TypeAlias = tuple[Level, str]

WIDE = 0.05
MIN_GROUPS = 10


def above(estimate: Estimate) -> bool:
    return estimate.interval is not None and estimate.interval[0] > 0


def percent(estimate: Estimate) -> str:
    value = estimate.value or 0.0
    return f"{value:.1%}" if 0 < value < 0.1 else f"{value:.0%}"


def interval_text(estimate: Estimate) -> str:
    return "" if estimate.interval is None else " ({:+.3f} to {:+.3f})".format(*estimate.interval)
