"""Exit statuses of the `ruler` command; 0 is: all groups scored or tied."""

from __future__ import annotations

from collections.abc import Iterable

from ruler.errors import BudgetExceeded
from ruler.types import FailedGroup

FAILED = 1
"""Some groups failed, or some lines were broken."""
INPUT = 2
"""Bad input or configuration; also what typer uses for bad options."""
BUDGET = 3
INTERRUPTED = 130


def status_of(failures: Iterable[FailedGroup], num_bad_lines: int) -> int:
    """The status of a run that came to its end."""
    reasons = {failure.reason for failure in failures}
    if BudgetExceeded.code in reasons:
        return BUDGET
    return FAILED if reasons or num_bad_lines else 0
