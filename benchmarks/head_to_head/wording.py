"""What may be said of a difference, in words that claim no more than was shown."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.head_to_head.paired import Interval, Mean, Paired
from benchmarks.number_text import fixed, plain

DECIMALS = 3
"""Of shares: a difference is read against a margin of a few hundredths."""


def verdict_of(found: Paired, within: str, *, decimals: int = DECIMALS) -> str:
    """`equal within 0.02`, `higher`, `lower`, `no difference shown (± 0.034)`, or `too few seeds`.

    Args:
        found: of the differences.
        within: the margin, with its unit where it has one.
        decimals: of half the interval's width.
    """
    if found.verdict == "equal":
        return f"equal within {within}"
    if found.verdict == "not shown":
        return f"no difference shown{half_width_of(found.mean, decimals)}"
    return found.verdict


def half_width_of(mean: Mean, decimals: int = DECIMALS) -> str:
    """` (± 0.034)`; empty without an interval."""
    if mean.interval is None:
        return ""
    half = (mean.interval[1] - mean.interval[0]) / 2
    return f" (±\N{NO-BREAK SPACE}{fixed(half, decimals)})"


def amount_of(mean: Mean, *, signed: bool = False, decimals: int = DECIMALS) -> str:
    """`0.931 (0.912 to 0.950)`, without the interval where there is none; a dash where nothing was measured."""
    if mean.value is None:
        return "–"
    text = fixed(mean.value, decimals, signed=signed)
    if mean.interval is None:
        return text
    low, high = (fixed(end, decimals, signed=signed) for end in mean.interval)
    return f"{text} ({low} to {high})"


def as_share(mean: Mean) -> Mean:
    """The mean with its interval cut off at 0 and at 1, where a share ends and Student's t does not."""
    return mean if mean.interval is None else Mean(mean.num_seeds, mean.value, _cut(mean.interval))


def margin_text(margin: float) -> str:
    """`0.02`."""
    return plain(margin)


def quoted(names: Sequence[str]) -> str:
    """`“a”`, `“a” and “b”`, `“a”, “b” and “c”`: names of arms hold commas of their own."""
    return listed([f"“{name}”" for name in names])


def listed(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def counted(number: int, what: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _cut(interval: Interval) -> Interval:
    low, high = (min(max(end, 0.0), 1.0) for end in interval)
    return low, high
