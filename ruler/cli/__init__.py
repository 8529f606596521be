"""The `ruler` command."""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Annotated

import typer

from ruler.cli import cache
from ruler.cli.audit import audit
from ruler.cli.command import run_command
from ruler.cli.evaluate import evaluate
from ruler.cli.pack import pack
from ruler.cli.score import score
from ruler.cli.serve import serve

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its tables leave a terminal of 80 columns no room for the words
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(importlib.metadata.version("ruler-judge"))
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
]


@app.callback()
def options(version: VersionOption = False) -> None:
    """Relative judge: all rollouts of a task in one prompt, comparable scores out."""


app.command()(score)
app.command()(pack)
app.command()(evaluate)
app.command()(audit)
app.command()(serve)
app.add_typer(cache.app, name="cache")


def main() -> None:
    """Runs the command line. Input and configuration errors are one line and exit status 2."""
    sys.exit(run_command(_run))


def _run() -> int:
    app()  # which ends by itself, with the command's status
    return 0
