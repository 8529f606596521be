"""What a report is made of; all text in it is plain text from anywhere, and shown as such.

In the longer texts an empty line parts paragraphs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias
from xml.etree import ElementTree

from benchmarks.number_text import fixed
from ruler.packing.neutralise import neutralise

MAX_CHARS = 8_000
"""Longest text of a rollout or task that a report shows whole."""
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_ADDRESS = re.compile(r"url\(\s*['\"]?(?!#)|@import", re.IGNORECASE)
_ACTIVE = {"script", "foreignObject", "iframe", "image", "animate", "set", "a"}


@dataclass(frozen=True, slots=True)
class Cell:
    """What stands in one place of a table."""

    text: str
    detail: str = ""
    """Small, below the text: its interval, what it was measured on."""
    value: float | None = None
    """What sorting goes by; without one it goes by the text where the column is no numeric one."""


def number(
    value: float | None, decimals: int = 2, *, interval: tuple[float, float] | None = None, signed: bool = False
) -> Cell:
    """A cell with this number and its interval below it; a dash for None.

    Raises:
        ValueError: the value, or an end of the interval, is NaN or infinite.
    """
    if value is None:
        return Cell("–")
    for one in (value, *(interval or ())):
        if not math.isfinite(one):
            raise ValueError(f"number: expected a finite number, got {one!r}")
    ends = [fixed(end, decimals, signed=signed) for end in interval or ()]
    return Cell(fixed(value, decimals, signed=signed), " to ".join(ends), value)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    name: str
    numeric: bool = True
    """Whether it stands on the right, with digits of one width."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table; its first cell names it."""

    cells: Sequence[Cell | str]
    group: str = ""
    """Rows that follow each other and share it stand under it as a sub-heading."""
    strong: bool = False
    """Whether it stands out."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells.

    Raises:
        ValueError: no columns, or a row that has not one cell for each.
    """

    columns: Sequence[Column]
    rows: Sequence[Row]
    caption: str = ""

    def __post_init__(self) -> None:
        if not self.columns:
            raise ValueError("columns: expected at least one")
        for place, row in enumerate(self.rows):
            if len(row.cells) != len(self.columns):
                raise ValueError(f"rows[{place}]: expected {len(self.columns)} cells, got {len(row.cells)}")


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing, as the functions of `benchmarks.plots` make them.

    Raises:
        ValueError: the name is no plain one, or the drawing is not one `<svg>` that needs and does nothing else.
    """

    name: str
    """Of the file beside a Markdown report, without ending: lower-case letters, digits and hyphens."""
    svg: str
    alt: str
    """What a reader who cannot see it has to know."""
    caption: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"name: expected lower-case letters, digits and hyphens, got {self.name!r}")
        _require_inert(self.svg)


@dataclass(frozen=True, slots=True)
class Notice:
    """A sentence or two that nobody should miss."""

    text: str
    kind: Literal["caution", "recommendation"]


@dataclass(frozen=True, slots=True)
class Side:
    """One of the things that stand next to each other."""

    label: str
    facts: Sequence[tuple[str, str]]
    """(name, value), such as ("truth", "1.00")."""
    note: str
    """What somebody said of it; may be empty."""
    text: str
    """Kept as it is laid out; the middle of more than `MAX_CHARS` is left out."""


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Things next to each other under what they have in common."""

    title: str
    context: str
    """Such as the task; kept as it is laid out, the middle of more than `MAX_CHARS` left out."""
    columns: Sequence[Side]


Block: TypeAlias = Table | Figure | Notice | SideBySide


@dataclass(frozen=True, slots=True)
class Section:
    """Text, then blocks, under a heading."""

    heading: str
    text: str
    blocks: Sequence[Block] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """All of it.

    Raises:
        ValueError: two figures have one name.
    """

    title: str
    lead: str
    """What it found, for readers who stop here."""
    facts: Sequence[tuple[str, str]]
    """(name, value): what was measured, how, with which version and command."""
    sections: Sequence[Section]

    def __post_init__(self) -> None:
        names = [figure.name for figure in figures(self)]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"figures: expected names that differ, got {name!r} twice")


def figures(report: Report) -> list[Figure]:
    """All of its figures, in order."""
    return [block for section in report.sections for block in section.blocks if isinstance(block, Figure)]


def cell_of(item: Cell | str) -> Cell:
    """The cell that a text alone stands for."""
    return item if isinstance(item, Cell) else Cell(item)


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a longer text; no line of them begins with a `%` that belongs to a number."""
    text = re.sub(r"(?<=\d) (?=%)", "\N{NO-BREAK SPACE}", text)
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]


def shortened(text: str) -> str:
    """The text, or its beginning and end around a mark where it is longer than `MAX_CHARS`."""
    if len(text) <= MAX_CHARS:
        return text
    half = MAX_CHARS // 2
    return f"{text[:half]}\n\n[… {len(text) - 2 * half:,} characters left out …]\n\n{text[-half:]}"


def visible(text: str) -> str:
    """The text with everything that cannot be seen, or could not be stored, shown by its name."""
    return neutralise(text)[0]


def _require_inert(svg: str) -> None:
    try:
        root = ElementTree.fromstring(svg)
    except ElementTree.ParseError as error:
        raise ValueError(f"svg: expected an <svg> element: {error}") from error
    if root.tag != "{http://www.w3.org/2000/svg}svg":
        raise ValueError(f"svg: expected an <svg> element, got <{root.tag}>")
    for element in root.iter():
        tag = str(element.tag).rpartition("}")[2]
        if tag in _ACTIVE:
            raise ValueError(f"svg: expected a drawing alone, got <{tag}>")
        if tag == "style" and _ADDRESS.search(element.text or ""):
            raise ValueError("svg: expected no addresses of other files in its style")
        for name, value in element.attrib.items():
            local = name.rpartition("}")[2]
            outside = (local in ("href", "src") and not value.startswith("#")) or _ADDRESS.search(value)
            if local.startswith("on") or outside:
                raise ValueError(f"svg: expected a drawing alone, got {local}={value!r}")
