"""Exit statuses of the `ruler` command; 0 is: all groups scored or tied."""

from __future__ import annotations

from collections.abc import Iterable

from ruler.errors import BudgetExceeded

FAILED = 1
"""Some groups failed, or some lines were broken."""
INPUT = 2
"""Bad input or configuration; also what typer uses for bad options."""
BUDGET = 3
INTERRUPTED = 130


def status_of(reasons: Iterable[str], num_bad_lines: int) -> int:
    """The status of a run that came to its end, by the reasons why groups failed."""
    found = set(reasons)
    if BudgetExceeded.code in found:
        return BUDGET
    return FAILED if found or num_bad_lines else 0
