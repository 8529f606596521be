"""The pages in a real browser: what it runs, fetches, shows, and lets a keyboard do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from ruler.records import read_groups
from ruler.scoring import Ruler
from ruler.service.door import Door
from ruler.service.service import Service
from ruler.types import Group
from tests.browser import chromium, serving
from tests.service.judged_groups import (
    HOSTILE,
    add,
    failed_saying,
    fill,
    group_saying,
    scored_saying,
    service_with_pages,
)

pytestmark = pytest.mark.slow

WIDTHS = (360, 1400)
SCHEMES = ("light", "dark")

# The contrast of every element that has text of its own, against the nearest ground behind it (WCAG 2.2, 1.4.3).
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (color) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = rgb(getComputedStyle(at).backgroundColor);
      if (color[3] === 255) return color;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.nodeValue.trim());
    if (!own || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const [a, b] = [light(rgb(element instanceof SVGElement ? style.fill : style.color)), light(ground(element))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) poor.push(`${contrast.toFixed(2)} ${element.outerHTML.slice(0, 120)}`);
  }
  return poor;
}"""

# What reaches beyond the right edge and is in no box that scrolls or clips.
OVERFLOW = """() => {
  const boxed = (element) => {
    for (let at = element.parentElement; at && at !== document.body; at = at.parentElement) {
      if (getComputedStyle(at).overflowX !== "visible") return true;
    }
    return false;
  };
  const found = [...document.querySelectorAll("body *")].filter((element) =>
    element.checkVisibility() && element.getBoundingClientRect().right > innerWidth + 0.5 && !boxed(element));
  return [document.documentElement.scrollWidth - innerWidth, ...found.map((e) => e.outerHTML.slice(0, 120))];
}"""


@dataclass
class Seen:
    """What a page did besides showing itself."""

    url: str
    faults: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> Page:
        page.on("console", lambda m: self.faults.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("dialog", lambda dialog: self.faults.append(dialog.message))
        page.on("request", lambda r: None if r.url.startswith(self.url) else self.faults.append(r.url))
        return page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@contextmanager
def opened(browser: Browser, url: str, *, width: int = 1400, **options: Any) -> Iterator[tuple[Page, Seen]]:
    """A page at this width; at the end it has no fault to show."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **options)
    seen = Seen(url)
    try:
        yield seen.watch(context.new_page()), seen
    finally:
        context.close()
    assert seen.faults == []


@pytest.fixture
def dashboard(examples: object) -> Iterator[tuple[str, asyncio.AbstractEventLoop, Service]]:
    """A service behind its door that has judged the examples, failed once, and was told hostile text."""
    app, service = service_with_pages()
    app.add_middleware(
        Door,
        max_body_bytes=10_000,
        max_buffered_bytes=10**6,
        max_requests=1_000,
        local_only=True,
        booked=service.metrics.request,
        at_stop=service.at_stop.append,
    )
    groups = [group for group in read_groups(str(examples)) if isinstance(group, Group)]
    ruler = Ruler("simulated?noise=0.1", orders=4)
    for group in groups:
        add(service, ruler.score_sync(group), group)
    text = " ".join(HOSTILE)
    fill(service, text)
    large = Group.of([f"{text} {place} " * 20 for place in range(20)], task=text, id="n" * 500)
    add(service, ruler.score_sync(large), large)
    with serving(app) as (url, loop):
        yield url, loop, service


def test_through_the_list_to_a_group_and_its_rollouts(dashboard: Any, browser: Browser) -> None:
    url, _, _ = dashboard
    with opened(browser, url) as (page, _):
        page.goto(url)
        expect(page.get_by_role("heading", name="Dashboard")).to_be_visible()
        page.get_by_role("link", name="examples/agent").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("examples/agent")
        expect(page.get_by_role("article")).to_have_count(4)
        best = page.get_by_role("article").first
        expect(best).to_contain_text("rank 1 of 4")
        # Side by side: the columns' tops are level.
        tops = page.get_by_role("article").evaluate_all("all => all.map(e => e.getBoundingClientRect().top)")
        assert len(set(tops)) == 1
        page.get_by_role("link", name="As given").click()
        expect(page.get_by_role("article").first).to_contain_text("r1")
        page.get_by_role("link", name="Dashboard").first.click()
        page.get_by_role("link", name="API").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("API")


def test_with_the_keyboard_alone(dashboard: Any, browser: Browser) -> None:
    url, _, _ = dashboard
    with opened(browser, url) as (page, _):
        page.goto(url)

        def focused() -> str:
            return str(page.evaluate("document.activeElement.textContent.trim()"))

        page.keyboard.press("Tab")
        assert focused() == "Skip to the content"
        ring = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert ring == "solid"
        page.keyboard.press("Enter")
        for _ in range(40):
            page.keyboard.press("Tab")
            if focused() == "examples/sum":
                break
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_contain_text("examples/sum")
        reached = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.add(focused())
        assert "As given" in reached
        assert "All of it as JSON" in reached


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_sticks_out_and_all_text_can_be_read(dashboard: Any, browser: Browser, width: int, scheme: Any) -> None:
    url, _, service = dashboard
    numbers = [judged.number for judged in service.recent.newest(None, 100)]
    paths = ["/", "/docs", "/login", "/group?number=999", *(f"/group?number={number}" for number in numbers)]
    with opened(browser, url, width=width, color_scheme=scheme) as (page, seen):
        for path in paths:
            page.goto(url + path)
            assert page.evaluate(OVERFLOW) == [0], path
            assert page.evaluate(CONTRAST) == [], path
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 21, 25)"
        assert dark == (scheme == "dark")
        # Chromium reports the group that is not there.
        seen.faults = [fault for fault in seen.faults if "404" not in fault]


def test_hostile_text_runs_nothing(dashboard: Any, browser: Browser) -> None:
    url, _, service = dashboard
    with opened(browser, url) as (page, _):
        for path in ["/", *(f"/group?number={judged.number}" for judged in service.recent.newest(None, 100))]:
            page.goto(url + path)
            for details in page.locator("details").all():
                details.evaluate("element => { element.open = true; }")
            assert page.evaluate("window.attacked") is None
            assert page.locator("main script, main img, main iframe, main style, [onerror], [onfocus]").count() == 0
        expect(page.get_by_role("heading", level=1)).not_to_have_text("new page")


def test_a_new_group_comes_without_a_reload_and_takes_no_focus(dashboard: Any, browser: Browser) -> None:
    url, loop, service = dashboard
    with opened(browser, url) as (page, _):
        page.clock.install()
        page.goto(url)
        page.evaluate("window.stayed = true")
        link = page.get_by_role("link", name="examples/agent")
        link.focus()
        page.evaluate("scrollTo(0, 200)")
        added = replace(scored_saying("x"), group_id="<b>brand new</b>")
        loop.call_soon_threadsafe(add, service, added, group_saying("x"))
        page.clock.run_for(4_000)
        expect(page.locator("#rows tr").first).to_contain_text("<b>brand new</b>")
        assert page.evaluate("window.stayed") is True
        expect(link).to_be_focused()
        assert page.evaluate("scrollY") >= 200
        assert page.evaluate("window.attacked") is None
        ids = page.locator("#rows tr").evaluate_all("rows => rows.map(row => +row.id.slice(4))")
        assert ids == sorted(ids, reverse=True)


def test_the_refresh_can_be_paused(dashboard: Any, browser: Browser) -> None:
    url, loop, service = dashboard
    with opened(browser, url) as (page, _):
        page.clock.install()
        page.goto(url)
        page.get_by_role("button", name="Pause").click()
        expect(page.locator("#live-text")).to_have_text("Paused")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        loop.call_soon_threadsafe(add, service, failed_saying("later"), group_saying("later"))
        page.clock.run_for(60_000)
        assert asked == []
        page.get_by_role("button", name="Go on").click()
        expect(page.locator("#rows tr").first).to_contain_text("later")


def test_a_server_that_is_gone_is_told_and_found_again(dashboard: Any, browser: Browser) -> None:
    url, _, _ = dashboard
    with opened(browser, url) as (page, seen):
        page.clock.install()
        page.goto(url)
        page.route("**/*", lambda route: route.abort())
        page.clock.run_for(4_000)
        expect(page.locator("#live-text")).to_have_text("No answer; trying again")
        page.unroute_all()
        page.clock.run_for(30_000)
        expect(page.locator("#live-text")).to_have_text("Live")
        seen.faults = [fault for fault in seen.faults if "ERR_FAILED" not in fault]


def test_without_scripts_everything_is_there(dashboard: Any, browser: Browser) -> None:
    url, _, _ = dashboard
    with opened(browser, url, java_script_enabled=False) as (page, _):
        page.goto(url)
        expect(page.get_by_role("button", name="Pause")).to_be_hidden()
        page.get_by_role("link", name="examples/agent").click()
        expect(page.get_by_role("article")).to_have_count(4)


def test_signing_in_and_out_through_the_door(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_KEY", "the-key-of-team")
    app, service = service_with_pages(keys={"team": "TEAM_KEY"})
    app.add_middleware(
        Door,
        max_body_bytes=10_000,
        max_buffered_bytes=10**6,
        max_requests=1_000,
        local_only=False,
        booked=service.metrics.request,
        at_stop=service.at_stop.append,
    )
    add(service, scored_saying("own"), group_saying("own"), "team")
    with serving(app) as (url, _), opened(browser, url) as (page, seen):
        page.goto(f"{url}/group?number=1")
        expect(page.get_by_label("Key")).to_be_focused()
        page.keyboard.type("not the key")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("Unknown key.")
        page.get_by_label("Key").fill("the-key-of-team")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_text("team", exact=True)).to_be_visible()
        page.goto(f"{url}/group?number=1")
        expect(page.get_by_role("heading", level=1)).to_contain_text("own")
        assert page.evaluate("document.cookie") == ""
        page.get_by_role("button", name="Sign out").click()
        expect(page).to_have_url(f"{url}/login")
        page.goto(url)
        expect(page).to_have_url(f"{url}/login?next=%2F")
        # Chromium reports the 401.
        seen.faults = [fault for fault in seen.faults if "401" not in fault]
