"""A folder that is there whole, or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ruler.errors import ConfigError


def check_is_free(out: Path) -> None:
    """Raises ConfigError unless nothing is at this place, or an empty folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"out: {out} is there already, and is no empty folder")


@contextmanager
def unfinished(out: Path) -> Iterator[Path]:
    """A folder that becomes `out` at the end, and nothing after an error.

    Raises:
        OSError: it cannot be made, or something has come to stand at `out` in the meantime.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        yield folder
        folder.chmod(0o755)  # made for its owner alone
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
