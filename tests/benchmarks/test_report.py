"""Reports as HTML, Markdown and JSON: what stands in them, and that no text in them does anything."""

from __future__ import annotations

import html.parser
import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page

from benchmarks.report import (
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
    number,
    to_html,
    to_markdown,
    write,
)
from benchmarks.report_blocks import MAX_CHARS, shortened
from tests.browser import chromium
from tests.service.judged_groups import HOSTILE
from tests.service.test_dashboard import CONTRAST, OVERFLOW

SVG = '<svg xmlns="http://www.w3.org/2000/svg" class="plot" viewBox="0 0 720 9"><path d="M0 0"/></svg>'


def saying(text: str, *, rows: int = 3) -> Report:
    """A report with every kind of block, and this text in every place that takes text."""
    table = Table(
        (Column(text, numeric=False), Column("accuracy"), *(Column(f"measure {place}") for place in range(9))),
        [
            Row(
                [text or "row", number(place / 7, interval=(0.0, 1.0)), Cell(text, text), *map(number, range(8))],
                group=text if place % 2 else "",
                strong=place == 1,
            )
            for place in range(rows)
        ],
        text,
    )
    sides = [Side(text, [(text, text)], text, text * 40), Side("r2", [], "", "short")]
    blocks = (
        table,
        Figure("forest", SVG, text, text),
        Notice(text, "caution"),
        Notice(text, "recommendation"),
        SideBySide(text, text, sides),
    )
    return Report(text, text, [(text, text)], [Section(text, text, blocks), Section("b", ""), Section("c", "")])


class Reader(html.parser.HTMLParser):
    """The tags of a page, their attributes, and its visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)


def test_headings_come_in_order_and_tables_say_what_their_headers_head() -> None:
    page = Reader(to_html(saying("text")))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    scopes = [attributes.get("scope") for tag, attributes in page.tags if tag == "th"]
    assert scopes.count("col") == 11
    assert scopes.count("row") == 3
    assert scopes.count("rowgroup") == 1
    assert None not in scopes
    assert [attributes["aria-label"] for _, attributes in page.tags if attributes.get("role") == "img"] == ["text"]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    pointed = {str(attributes["href"])[1:] for tag, attributes in page.tags if tag == "a"}
    pointed |= {str(attributes["aria-labelledby"]) for _, attributes in page.tags if "aria-labelledby" in attributes}
    assert pointed <= set(ids)


def test_the_page_needs_nothing_from_outside() -> None:
    page = to_html(saying("text"))
    for _, attributes in Reader(page).tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert attributes.get(name, "#") is not None
            assert str(attributes.get(name, "#")).startswith("#")
    assert not re.search(r"url\(\s*['\"]?(?!#)", page)
    assert "@import" not in page
    assert set(re.findall(r"https?://[^\s\"'<]+", page)) == {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_adds_no_tag_and_is_shown(text: str) -> None:
    plain, hostile = to_html(saying("text" * 10)), to_html(saying(text + "x" * 40))
    # Long texts are folded, so both are made long enough.
    names = [(tag, sorted(attributes)) for tag, attributes in Reader(plain).tags]
    assert [(tag, sorted(attributes)) for tag, attributes in Reader(hostile).tags] == names
    hostile.encode()
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2028\u202a-\u202e\u2066-\u2069\ufeff]", hostile)


def test_odd_characters_are_shown_by_their_names() -> None:
    page = to_html(saying("a\x00b\ud800c\u202ed"))
    assert "a[U+0000]b[U+D800]c[U+202E]d" in page
    assert "a\\[U+0000\\]b\\[U+D800\\]c\\[U+202E\\]d" in to_markdown(saying("a\x00b\ud800c\u202ed"))


def test_a_strong_row_an_interval_a_group_and_a_numeric_column_show() -> None:
    table = Table(
        (Column("row", numeric=False), Column("accuracy")),
        [Row(["a", number(0.5, interval=(0.25, 0.75))], "judges"), Row(["b", number(None)], "judges", strong=True)],
    )
    page = to_html(Report("t", "l", [], [Section("s", "", [table])]))
    assert '<th scope="col" class="num">accuracy</th>' in page
    assert '<td class="num" data-value="0.5">0.50 <small>0.25 to 0.75</small></td>' in page
    assert '<th scope="rowgroup" colspan="2"><span>judges</span></th>' in page
    assert re.search(r'<tr class="strong">\s*<th scope="row">b</th>\s*<td class="num">–</td>', page)


def test_long_texts_are_folded_and_very_long_ones_lose_their_middle() -> None:
    def page(text: str) -> str:
        return to_html(Report("t", "l", [], [Section("s", "", [SideBySide("g", "", [Side("r", [], "", text)])])]))

    assert "<details>" not in page("word " * 100)
    assert "Text, 1,000 characters" in page("word " * 200)
    text = "a" * MAX_CHARS + "b" * 20 + "c" * MAX_CHARS
    assert shortened("a" * MAX_CHARS) == "a" * MAX_CHARS
    cut = shortened(text)
    assert f"[… {len(text) - MAX_CHARS:,} characters left out …]" in cut
    assert cut.startswith("a" * (MAX_CHARS // 2))
    assert cut.endswith("c" * (MAX_CHARS // 2))
    assert cut in page(text)


def test_markdown_has_everything_once() -> None:
    text = to_markdown(saying("text"))
    assert text.startswith("# text\n\ntext\n\n| What | Value |\n| --- | --- |\n| text | text |\n")
    assert "| text | 0.00 (0.00 to 1.00) | text (text) |" in text
    assert "| **text** | **0.14** (0.00 to 1.00) | **text** (text) |" in text
    assert "\n| **text** |  |" in text
    assert "\n![text](figures/forest.svg)\n" in text
    assert "> [!CAUTION]\n> text" in text
    assert "> [!TIP]\n> text" in text
    assert "\n### text\n\n```text\ntext\n```\n" in text
    assert "\n- text: text\n\n> text\n\n<details><summary>Text, 160 characters</summary>\n" in text


def test_text_is_no_markdown() -> None:
    def cell(text: str) -> str:
        table = Table((Column("c", numeric=False),), [Row([text])])
        return to_markdown(Report("t", "", [], [Section("s", "", [table])])).strip().split("\n")[-1][2:-2]

    assert cell("a | b\nc") == "a \\| b c"
    assert cell("![x](http://evil/p.png)") == "!\\[x\\](http\\://evil/p.png)"
    assert cell("<img src=x>&lt;") == "&lt;img src=x&gt;&amp;lt;"
    assert cell("`code` *b* _i_ ~s~ $x$ \\") == "\\`code\\` \\*b\\* \\_i\\_ \\~s\\~ \\$x\\$ \\\\"
    starts = ["# h", "- l", "+ l", "= l", "1. l"]
    assert [cell(start) for start in starts] == ["\\# h", "\\- l", "\\+ l", "\\= l", "1\\. l"]
    assert cell("www.evil.example, 0.5") == "www\\.evil.example, 0.5"
    assert cell("0.5") == "0.5"


@given(st.text(st.sampled_from("`~a \n<"), max_size=40))
def test_no_text_closes_its_fence(text: str) -> None:
    report = Report("t", "", [], [Section("s", "", [SideBySide("g", "", [Side("r", [], "", text)])])])
    body = to_markdown(report).split("</summary>\n\n", 1)[1]
    fence, _, rest = body.partition("text\n")
    inside, _, after = rest.rpartition(f"\n{fence}\n")
    assert set(fence) == {"`"}
    assert inside == text
    assert after == "\n</details>\n"
    assert fence not in inside


def test_equal_reports_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(saying("text"), {"rows": [{"accuracy": 0.5}]}, tmp_path / name)
    for path in ("results.json", "report.md", "report.html", "figures/forest.svg"):
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
    assert (tmp_path / "a/figures/forest.svg").read_text() == SVG
    found = sorted(str(path.relative_to(tmp_path / "a")) for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert found == ["figures/forest.svg", "report.html", "report.md", "results.json"]


def test_results_are_strict_json_or_nothing_is_written(tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    results: dict[str, Any] = {"rows": ({"accuracy": 0.5, "tau_b": None},), "odd": "\ud800 \x00 é"}
    write(saying("text"), results, tmp_path)
    read = json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)
    assert read == {"rows": [{"accuracy": 0.5, "tau_b": None}], "odd": "\ud800 \x00 é"}
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"^results\.rows\[1\]\.accuracy: expected a finite number, got nan$"):
        write(saying("other"), {"rows": [{}, {"accuracy": math.nan}]}, tmp_path)
    with pytest.raises(TypeError):
        write(saying("other"), {"rows": object()}, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_file_that_cannot_be_written_leaves_no_piece_behind(tmp_path: Path) -> None:
    (tmp_path / "report.md").mkdir()
    with pytest.raises(OSError, match="report.md"):
        write(saying("text"), {}, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.md", "results.json"]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rows\[0\]: expected 2 cells, got 1"):
        Table((Column("a"), Column("b")), [Row(["x"])])
    with pytest.raises(ValueError, match="columns: expected at least one"):
        Table((), [])
    with pytest.raises(ValueError, match=r"name: expected lower-case letters, digits and hyphens, got '\.\./x'"):
        Figure("../x", SVG, "")
    with pytest.raises(ValueError, match="number: expected a finite number, got nan"):
        number(math.nan)
    with pytest.raises(ValueError, match="number: expected a finite number, got inf"):
        number(0.5, interval=(0.0, math.inf))
    figure = Figure("a", SVG, "")
    with pytest.raises(ValueError, match="figures: expected names that differ, got 'a' twice"):
        Report("t", "", [], [Section("s", "", [figure]), Section("s", "", [figure])])


@pytest.mark.parametrize(
    "inside",
    [
        "<script>1</script>",
        "<image href='x.png'/>",
        "<path onload='x'/>",
        "<use href='http://evil/#a'/>",
        "<path fill='url(http://evil/)'/>",
        "<style>@import 'x'</style>",
        "<style>p{background:url(x)}</style>",
        "<g>",
    ],
)
def test_a_figure_is_a_drawing_and_nothing_else(inside: str) -> None:
    with pytest.raises(ValueError, match="svg: expected "):
        Figure("a", f'<svg xmlns="http://www.w3.org/2000/svg">{inside}</svg>', "")


def test_no_svg_of_another_kind_is_a_figure() -> None:
    with pytest.raises(ValueError, match="got <html>"):
        Figure("a", "<html/>", "")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


def opened(browser: Browser, path: Path, faults: list[str], **options: Any) -> Page:
    page = browser.new_context(**options).new_page()
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: faults.append(dialog.message))
    page.on("request", lambda request: None if request.url.startswith("file:") else faults.append(request.url))
    page.goto(path.as_uri())
    return page


def drawn(report: Report) -> Report:
    """The report with real figures in place of its own."""
    from benchmarks.plots import ForestRow, Priced, forest, frontier

    rows = [ForestRow(f"row {place}", place / 9, (0.0, 1.0), group="group") for place in range(8)]
    blocks = (
        Figure("all-rows", forest(rows, "accuracy"), "alt"),
        Figure("cost", frontier([Priced("a", 10, 0.5), Priced("b", 0, 0.4)], "tokens", "accuracy"), "alt"),
    )
    return replace(report, sections=[*report.sections, Section("figures", "", blocks)])


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_sticks_out_and_all_text_can_be_read(tmp_path: Path, browser: Browser, width: int, scheme: Any) -> None:
    write(drawn(saying(" ".join(HOSTILE) + "w" * 200, rows=12)), {}, tmp_path)
    faults: list[str] = []
    viewport: Any = {"width": width, "height": 900}
    page = opened(browser, tmp_path / "report.html", faults, viewport=viewport, color_scheme=scheme)
    for _ in range(2):
        assert page.evaluate(OVERFLOW) == [0]
        assert page.evaluate(CONTRAST) == []
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    # The name of a row stays where it is while its box scrolls.
    box = page.locator(".table .scroller").first
    left = "(box) => { box.scrollLeft = %d; return box.querySelector('tbody th').getBoundingClientRect().left; }"
    assert box.evaluate(left % 200) == box.evaluate(left % 0)
    assert page.evaluate("window.attacked") is None
    assert faults == []


@pytest.mark.slow
def test_headers_sort_within_groups_with_mouse_and_keyboard(tmp_path: Path, browser: Browser) -> None:
    rows = [("b", 2.0, "x"), ("a", None, "x"), ("c", 10.0, "x"), ("e", 1.0, "y"), ("d", 3.0, "y")]
    columns = (Column("name", numeric=False), Column("value"))
    table = Table(columns, [Row([name, number(value)], group) for name, value, group in rows])
    write(Report("t", "l", [], [Section("s", "", [table])]), {}, tmp_path)
    faults: list[str] = []
    page = opened(browser, tmp_path / "report.html", faults)

    def names() -> str:
        return "".join(page.locator("tbody th[scope=row]").all_text_contents())

    assert names() == "baced"
    value, name = page.get_by_role("button", name="value"), page.get_by_role("button", name="name")
    value.click()
    assert names() == "cbade"
    assert page.get_by_role("columnheader", name="value").get_attribute("aria-sort") == "descending"
    value.click()
    assert names() == "bcaed"
    name.focus()
    page.keyboard.press("Enter")
    assert names() == "abcde"
    assert page.locator("[aria-sort]").count() == 1
    assert page.locator("tbody tr:first-child").all_text_contents() == ["x", "y"]
    assert faults == []


@pytest.mark.slow
def test_printing_unfolds_everything_in_black_on_white(tmp_path: Path, browser: Browser) -> None:
    write(drawn(saying("some words " * 10)), {}, tmp_path)
    faults: list[str] = []
    viewport: Any = {"width": 680, "height": 900}
    page = opened(browser, tmp_path / "report.html", faults, color_scheme="dark", viewport=viewport)
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator("details[open]").count() == 0
    assert page.locator("details pre").first.is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('.plot text')).fill") == "rgb(87, 96, 106)"
    boxes = "[...document.querySelectorAll('.scroller, pre')].map((one) => getComputedStyle(one).overflowX)"
    assert set(page.evaluate(boxes)) == {"visible"}
    assert page.pdf().startswith(b"%PDF")
    assert page.locator("details[open]").count() == 0
    assert faults == []
