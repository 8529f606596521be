"""Numbers as figures and tables show them, with a real minus sign."""

from __future__ import annotations


def plain(value: float) -> str:
    """A number as short as it goes, with a real minus sign: `0.5`, `−2`, `1200`."""
    return f"{round(value, 10):.10g}".replace("-", "−")


def fixed(value: float, decimals: int, *, signed: bool = False) -> str:
    """`0.71`, `−0.20`; `+0.03` where signed. What rounds to zero has no minus."""
    return f"{value:{'+' if signed else '-'}z.{decimals}f}".replace("-", "−")
