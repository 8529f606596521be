"""The page: what stands on it, whatever was run, and how it looks in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from benchmarks.head_to_head.arms import TRUTH, arms_of, chosen
from benchmarks.head_to_head.outcomes import Experiment
from benchmarks.head_to_head.report import report_of
from benchmarks.report import Notice, Report, to_html, to_markdown, write
from benchmarks.report_blocks import figures
from tests.benchmarks.head_to_head.made_up import found, made_up
from tests.browser import chromium
from tests.service.judged_groups import HOSTILE
from tests.service.test_dashboard import CONTRAST, OVERFLOW

ARMS = arms_of("arithmetic", ("embedded",))
FACTS = [("command", "python -m benchmarks.head_to_head"), ("version", "1.2.3")]


def report(experiment: Experiment, **settings: Any) -> Report:
    return report_of(experiment, found(experiment, **settings), FACTS)


def text_of(page: Report, heading: str) -> str:
    (section,) = [section for section in page.sections if section.heading == heading]
    return section.text


@pytest.fixture(scope="module")
def whole() -> Report:
    return report(made_up(failures={("embedded", 3): "judge unavailable: 503."}), long_enough=[TRUTH])


def test_a_chosen_few_arms_have_the_sections_that_they_need() -> None:
    experiment = made_up(arms=chosen(ARMS, []), seeds=2, steps=20, failures={(TRUTH, 1): "killed", (TRUTH, 0): "x"})
    page = report(experiment)
    assert [section.heading for section in page.sections] == [
        "All arms against truth",
        "Rewards: rules and judges",
        "Where it would end",
        "What it cost",
        "How to read this",
    ]
    assert page.facts == FACTS
    (notice,) = [block for block in page.sections[0].blocks if isinstance(block, Notice)]
    assert notice.text.split("\n\n") == [
        "2 runs did not come to the end and are in no figure.",
        "“truth”, seed 0: x.",
        "“truth”, seed 1: killed.",
    ]


@pytest.mark.slow
def test_everything_is_on_the_page(whole: Report) -> None:
    assert [section.heading for section in whole.sections] == [
        "All arms against truth",
        "Rewards: rules and judges",
        "How much noise a judge may have",
        "Controls, and what falls",
        "What position bias does",
        "Where it would end",
        "What it cost",
        "How to read this",
    ]
    assert [figure.name for figure in figures(whole)] == [
        "less-truth",
        "truth-rewards",
        "form-rewards",
        "hacking-rewards",
        "noise-sweep",
        "truth-noise",
        "truth-controls",
        "tokens-controls",
        "truth-slot-bias",
        "tokens-slot-bias",
        "hacking-slot-bias",
    ]
    (notice,) = [block for block in whole.sections[0].blocks if isinstance(block, Notice)]
    assert (
        notice.text
        == "1 run did not come to the end and is in no figure.\n\n“embedded”, seed 3: judge unavailable: 503."
    )
    assert text_of(whole, "Where it would end").endswith(" Here: 1 of 17 arms.")
    reading = text_of(whole, "How to read this")
    for said in (
        "temperature 1",
        "same policy",
        "16 differences",
        "5 seeds",
        "0.02, was declared before",
        "large models",
    ):
        assert said in reading
    for name in (arm.name for arm in ARMS):
        assert to_html(whole).count(name) > 3
        assert to_markdown(whole).count(f"\n| {name} |") >= 3 or name == TRUTH


@pytest.mark.slow
def test_what_falls_is_named_with_the_likely_reason_and_what_does_not_is_not(whole: Report) -> None:
    said = text_of(whole, "Controls, and what falls").split("\n\n")
    assert [part.partition(" falls, −0.")[0] for part in said[1:]] == [
        "“noise 4”",
        "“random”",
        "“shorter”",
        "“format”",
    ]
    assert said[2].endswith(
        "): a coin teaches nothing, and still the policy does not stay where it is. Likely, and not isolated here: "
        "Adam makes steps of full size out of gradients whose mean is zero, and most steps away from a trained policy "
        "lead down."
    )
    assert said[4].endswith("): nothing in that reward asks for right answers.")
    noisy = report(made_up(arms=chosen(ARMS, ["noise 4"]), steps=20))
    assert "so much noise leaves little of truth in the reward" in text_of(noisy, "What falls")
    few = report(made_up(arms=chosen(ARMS, ["random"]), seeds=1, steps=20))
    assert text_of(few, "Controls, and what falls").split("\n\n")[1].startswith("“random” is not shown to fall: −0.")


@pytest.mark.slow
def test_equal_arguments_give_equal_bytes(tmp_path: Path) -> None:
    arms = chosen(ARMS, ["embedded", "noise 1", "slot bias, seeded orders"])
    for name in ("a", "b"):
        write(report(made_up(arms=arms, steps=20)), {}, tmp_path / name)
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert len(files) > 5
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


def hostile() -> Report:
    arms = arms_of("arithmetic", HOSTILE[::3])
    failures = {(arms[2].name, seed): f"{HOSTILE[1]} {HOSTILE[10]}" for seed in range(2)}
    return report(made_up(arms=arms, seeds=2, steps=20, failures=failures))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["whole", "hostile", "one seed"])
def test_nothing_sticks_out_and_all_text_can_be_read(
    tmp_path: Path, browser: Browser, whole: Report, kind: str
) -> None:
    page = {"whole": lambda: whole, "hostile": hostile, "one seed": lambda: report(made_up(seeds=1))}[kind]()
    write(page, {}, tmp_path)
    faults: list[str] = []
    schemes: list[Any] = ["light", "dark"]
    for width, scheme in zip((1100, 360), schemes, strict=True):
        opened = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
        opened.on("console", lambda message: faults.append(message.text))
        opened.on("pageerror", lambda error: faults.append(str(error)))
        opened.on("request", lambda request: None if request.url.startswith("file:") else faults.append(request.url))
        opened.goto((tmp_path / "report.html").as_uri())
        assert opened.evaluate(OVERFLOW) == [0]
        assert opened.evaluate(CONTRAST) == []
        assert opened.evaluate("window.attacked") is None
        if width == 1100 and kind == "whole":  # the table of all arms needs no scrolling
            box = opened.locator(".table .scroller").first
            assert box.evaluate("(box) => box.scrollWidth - box.clientWidth") == 0
    assert faults == []
