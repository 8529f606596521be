from __future__ import annotations

import io

from rich.console import Console

from ruler.progress import ScoringProgress, cost_text
from ruler.types import FailedGroup, Usage

FAILED = FailedGroup(
    "g", "d", "d", "reply", "m", ("r1",), "judge", "rubric", "1", 1, False, Usage(1, 1000, 0, 500, None)
)


def test_the_bar_shows_done_failed_tokens_and_that_a_price_is_unknown() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with ScoringProgress(2, console=console) as bar:
        bar.add(FAILED)
        bar.add(FAILED)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "2/2" in shown
    assert "2 failed" in shown
    assert "3,000 tokens" in shown
    assert "cost unknown" in shown


def test_nothing_is_shown_where_there_is_no_terminal() -> None:
    console = Console(file=io.StringIO(), force_terminal=False)
    with ScoringProgress(1, console=console) as bar:
        assert not bar.is_visible
        bar.add(FAILED)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().strip() == ""


def test_an_unknown_cost_is_never_0() -> None:
    assert cost_text(Usage()) == "$0.0000"
    assert cost_text(Usage(cost_usd=None) + Usage(cost_usd=1.0)) == "cost unknown"
