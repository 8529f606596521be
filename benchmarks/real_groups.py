"""Where the benchmarks find real groups."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def add_data_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--data`: the folder, by default that of RULER_DATA."""
    default = Path(os.environ.get("RULER_DATA") or "../shared/data")
    parser.add_argument("--data", type=Path, default=default, help="folder of JSONL groups, else RULER_DATA")


def data_paths(folder: Path, prefix: str = "") -> list[Path]:
    """Its files of groups whose names begin so, sorted; ends the program when there is none."""
    paths = sorted(folder.glob(f"{prefix}*.jsonl*"))
    if not paths:
        sys.exit(f"no groups in {folder}: set RULER_DATA or --data")
    return paths
