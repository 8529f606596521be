"""A report as Markdown for GitHub: tables, figures as files, text that stays text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from benchmarks.report_blocks import (
    Block,
    Column,
    Figure,
    Notice,
    Report,
    Row,
    SideBySide,
    Table,
    cell_of,
    paragraphs,
    shortened,
    visible,
)

# `:` and `.` only where an address could begin: elsewhere they would make the source hard to read.
_SPECIAL = re.compile(r"[\\`*_{}\[\]<>|~$&]|(?<=[A-Za-z]):(?=/)|(?<=\bwww)\.", re.IGNORECASE)
_AT_START = re.compile(r"^(?:[-+=#]|\d+(?=[.)](?:\s|$)))")
_KINDS = {"caution": "CAUTION", "recommendation": "TIP"}


def to_markdown(report: Report) -> str:
    """The report as Markdown, its figures at `figures/NAME.svg` beside it.

    Text is escaped, so that it can make no link, image, tag or table of its own; texts of rollouts stand in fences.
    """
    parts = [f"# {_line(report.title)}", *_paragraphs(report.lead)]
    if report.facts:
        columns = (Column("What", numeric=False), Column("Value", numeric=False))
        parts.append(_table(Table(columns, [Row(fact) for fact in report.facts])))
    for section in report.sections:
        parts += [f"## {_line(section.heading)}", *_paragraphs(section.text)]
        for block in section.blocks:
            parts += _block(block)
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> list[str]:
    match block:
        case Table():
            return [*_paragraphs(block.caption), _table(block)]
        case Figure():
            image = f"![{_line(block.alt)}](figures/{block.name}.svg)"
            return [image, *_paragraphs(block.caption)]
        case Notice():
            lines = [f"[!{_KINDS[block.kind]}]", *"\n\n".join(_paragraphs(block.text)).split("\n")]
            return ["\n".join(f"> {line}".rstrip() for line in lines)]
        case SideBySide():
            return _side_by_side(block)


def _table(table: Table) -> str:
    lines = [
        _row([_line(column.name) for column in table.columns]),
        _row(["---:" if column.numeric else "---" for column in table.columns]),
    ]
    for group, rows in groupby(table.rows, key=lambda row: row.group):
        if group:
            lines.append(_row([f"**{_line(group)}**", *[""] * (len(table.columns) - 1)]))
        for row in rows:
            lines.append(_row([_cell(item.text, item.detail, row.strong) for item in map(cell_of, row.cells)]))
    return "\n".join(lines)


def _cell(text: str, detail: str, strong: bool) -> str:
    shown = _line(text)
    if strong and shown:
        shown = f"**{shown}**"
    return f"{shown} ({_line(detail)})" if detail else shown


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _side_by_side(block: SideBySide) -> list[str]:
    parts = [f"### {_line(block.title)}"]
    if block.context:
        parts.append(_fenced(block.context))
    for side in block.columns:
        parts.append(f"#### {_line(side.label)}")
        if side.facts:
            parts.append("\n".join(f"- {_line(name)}: {_line(value)}" for name, value in side.facts))
        if side.note:
            parts.append("\n>\n".join(f"> {paragraph}" for paragraph in _paragraphs(side.note)))
        parts.append(f"<details><summary>Text, {len(side.text):,} characters</summary>")
        parts += [_fenced(side.text), "</details>"]
    return parts


def _fenced(text: str) -> str:
    """The text in a fence that it cannot close."""
    shown = visible(shortened(text))
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    return f"{fence}text\n{shown}\n{fence}"


def _paragraphs(text: str) -> list[str]:
    return [_line(part) for part in paragraphs(text)]


def _line(text: str) -> str:
    """The text as one line that Markdown shows as it is."""
    shown = _SPECIAL.sub(_escaped, " ".join(visible(text).split()))
    return _AT_START.sub(lambda match: match[0] + "\\" if match[0].isdigit() else "\\" + match[0], shown)


def _escaped(match: re.Match[str]) -> str:
    return {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(match[0], "\\" + match[0])
