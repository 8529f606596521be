"""A real service in a process of its own, as a user starts it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Running:
    """One `ruler serve`.

    Attributes:
        url: its address.
        process: the process.
    """

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Sends the signal and waits for the end: the exit status, and what it wrote to standard error."""
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=60)
        return self.process.returncode, err


def start(*options: str, port: int = 0, env: dict[str, str] | None = None) -> Running:
    """Starts it on this port (0: any) and waits until it listens."""
    command = [str(Path(sys.executable).with_name("ruler")), "serve", "--port", str(port), *options]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RULER_")}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env={**clean, **(env or {})}
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://\S+", line)
    if not found:
        process.kill()
        out, err = process.communicate(timeout=30)
        raise AssertionError(f"it did not start: {line}{out}{err}")
    # The port is bound before the line is printed: connections queue until it answers.
    return Running(process, found[0])


@contextmanager
def serving(*options: str, port: int = 0, env: dict[str, str] | None = None) -> Iterator[Running]:
    """As `start`; it is killed at the end if it still runs."""
    running = start(*options, port=port, env=env)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
            running.process.communicate(timeout=30)
