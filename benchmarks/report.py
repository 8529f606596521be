"""Reports that anybody can read anywhere: one HTML file that needs nothing else, Markdown, and the figures as JSON.

A report is data (`benchmarks.report_blocks`) and knows nothing of what was measured. Its text may come from rollouts,
judges and file names: it is shown, never obeyed. Equal reports give equal bytes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from benchmarks.report_blocks import (
    Block,
    Cell,
    Column,
    Figure,
    Notice,
    Report,
    Row,
    Section,
    Side,
    SideBySide,
    Table,
    cell_of,
    figures,
    number,
    paragraphs,
    shortened,
    visible,
)
from benchmarks.report_markdown import to_markdown

__all__ = [
    "Block",
    "Cell",
    "Column",
    "Figure",
    "Notice",
    "Report",
    "Row",
    "Section",
    "Side",
    "SideBySide",
    "Table",
    "number",
    "to_html",
    "to_markdown",
    "write",
]

FOLDED = 700
"""Texts with more characters are folded away until the reader opens them."""


def to_html(report: Report) -> str:
    """The report as one HTML file, with its style, figures and script inside and no address of anything outside.

    Readable from 360 pixels up, in light and dark, and printed on A4; the script only sorts tables by a click on their
    headers and unfolds texts for printing.
    """
    return _template().render(report=report)


def write(report: Report, results: Mapping[str, Any], folder: Path) -> None:
    """Writes `results.json`, `report.md`, `report.html` and `figures/NAME.svg` into the folder, and makes it.

    Each file is there whole or as it was before; nothing is written where anything cannot be made. Other files in the
    folder stay.

    Args:
        report: what to show.
        results: the same for programs; strict JSON, so no NaN.
        folder: where to.

    Raises:
        ValueError: results hold NaN or an infinity; the message says where.
        TypeError: results hold what JSON has no way to say.
        OSError: a file cannot be written.
    """
    for place, value in _floats(results, "results"):
        if not math.isfinite(value):
            raise ValueError(f"{place}: expected a finite number, got {value!r}")
    files = {
        "results.json": json.dumps(results, indent=1, allow_nan=False) + "\n",
        "report.md": to_markdown(report),
        "report.html": to_html(report),
        **{f"figures/{figure.name}.svg": figure.svg for figure in figures(report)},
    }
    for name, text in files.items():
        _put(folder / name, text)


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _floats(value: Any, place: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, float):
        yield place, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _floats(item, f"{place}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _floats(item, f"{place}[{index}]")


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        paragraphs=paragraphs,
        shortened=shortened,
        cells=lambda row: [cell_of(item) for item in row.cells],
        groups=lambda rows: [(name, list(members)) for name, members in groupby(rows, key=lambda row: row.group)],
        kind=lambda block: type(block).__name__,
        drawing=lambda svg: Markup(svg),
        folded=lambda text: len(text) > FOLDED,
        opening=lambda text: f"{' '.join(text[:400].split())[:160]} …",
    )
    return environment.get_template("report.html")


def _shown(value: object) -> object:
    """What the template prints: text made visible; Jinja escapes it after that."""
    if value is None:
        raise TypeError("the template prints None")
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
