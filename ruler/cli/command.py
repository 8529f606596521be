"""How a command ends: one line for what went wrong, and an exit status."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

from ruler.cli import exits
from ruler.cli.tables import say
from ruler.errors import RulerError


def run_command(run: Callable[[], int], *, kept: str = "nothing was kept") -> int:
    """The exit status of `run`; 2 for bad input, 130 when it was interrupted, 1 when the reader of its output has gone.

    Args:
        run: the command; returns its status.
        kept: what is said to be left of an interrupted run.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name or note that the terminal's encoding cannot hold is shown as an escape, and stops nothing.
            stream.reconfigure(errors="backslashreplace")
    try:
        status = run()
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has gone, as `| head` does; point stdout elsewhere so that exit does not fail again.
        sys.stdout = None
        return exits.FAILED
    except KeyboardInterrupt:
        say(f"interrupted: {kept}", err=True)
        return exits.INTERRUPTED
    except (RulerError, OSError) as error:
        say(f"error: {error}", err=True)
        return exits.INPUT
    return status
