"""The `ruler` command."""

from __future__ import annotations

import sys

import typer

from ruler.cli import exits
from ruler.cli.evaluate import evaluate
from ruler.cli.pack import pack
from ruler.cli.score import score
from ruler.errors import RulerError

app = typer.Typer(
    help="Relative judge: all rollouts of a task in one prompt, comparable scores out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(score)
app.command()(pack)
app.command()(evaluate)


def main() -> None:
    """Runs the command line. Input and configuration errors are one line and exit status 2."""
    try:
        app()
    except RulerError as error:
        # Written as it is: rich would take brackets in quoted user text for markup.
        sys.stderr.write(f"error: {error}\n".encode("utf-8", "backslashreplace").decode())
        sys.exit(exits.INPUT)
    except BrokenPipeError:
        # The reader of our output has gone, as `| head` does; point stdout elsewhere so that exit does not fail again.
        sys.stdout = None
        sys.exit(1)
