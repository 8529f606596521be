"""Exit statuses of the `ruler` command; 0 is: all groups scored or tied."""

FAILED = 1
"""Some groups failed, or some lines were broken."""
INPUT = 2
"""Bad input or configuration; also what typer uses for bad options."""
BUDGET = 3
INTERRUPTED = 130
