from __future__ import annotations

import pytest

from ruler import Group, Rubric
from ruler.audit.style import GroupStyle, count_markdown, group_style, style
from ruler.audit.text_findings import style_finding
from ruler.intervals import Unit
from ruler.packing import pack


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("plain text, 2 * 3 - 4 = 2 and a_b_c, **", 0),
        ("# A\n\n## B\nnot # this", 2),
        ("- one\n  * two\n+ three\n12) four\n3. five\n-six\n2024. ", 5),
        ("so **bold** and __bold__, ** not this **", 2),
        ("```python\nx = 1\n```\n~~~\n", 3),
        ("\n" * 100_000 + " " * 100_000 + "- one", 1),
        ("**" * 50_000 + "_" * 50_000, 0),
    ],
)
def test_marks_are_counted(text: str, number: int) -> None:
    assert count_markdown(text) == number


def test_the_amounts_are_of_the_text_as_laid_out_with_shared_text_in_place() -> None:
    shared = "A long passage that both rollouts repeat word by word. " * 40
    group = Group.of([f"# A\n{shared}", f"{shared}"], task="t")
    amounts = group_style(pack(group, Rubric("r")))
    assert amounts.markdown["r1"] > amounts.markdown["r2"] == 0
    assert abs(amounts.length["r1"] - amounts.length["r2"]) < 0.01


def test_correlations_of_scores_and_truth_with_length() -> None:
    groups = [Group.of(["x" * n, "y" * (n + 5), "z" * (n + 9)], task="t", id=f"{n}") for n in range(10, 30)]
    styles = [group_style(pack(group, Rubric("r"))) for group in groups]
    units = [Unit("", group.id, group.id) for group in groups]
    longer = {"r1": 0.1, "r2": 0.5, "r3": 0.9}
    found = style(units, styles, [longer] * 19 + [None], [None] + [{"r1": 1.0, "r2": 0.5, "r3": 0.0}] * 19).length
    assert found.judge.value == pytest.approx(1, abs=0.02)
    assert found.truth.value == pytest.approx(-1, abs=0.02)
    assert found.excess.value == pytest.approx(2, abs=0.04)
    assert (found.judge.groups, found.truth.groups, found.excess.groups) == (19, 19, 18)


def test_equal_scores_and_equal_lengths_have_no_correlation() -> None:
    group = Group.of(["aaa", "bbb"], task="t", id="g")
    styles = [group_style(pack(group, Rubric("r")))]
    found = style([Unit("", "g", "g")], styles, [{"r1": 0.1, "r2": 0.2}], [None])
    assert found.length.judge.value is None
    assert found.markdown.judge.value is None


def test_tastes_that_cancel_over_the_groups_are_not_called_absent() -> None:
    """Without truth, pairs have correlations of 1 and -1: a mean of just 0 says nothing."""
    units = [Unit("", f"{n}", f"{n}") for n in range(12)]
    styles = [GroupStyle({"r1": 1.0, "r2": 2.0}, {"r1": 0.0, "r2": 0.0})] * 12
    scores = [{"r1": 0.1, "r2": 0.9}, {"r1": 0.9, "r2": 0.1}] * 6
    found = style(units, styles, scores, [None] * 12)
    assert found.length.judge.value == 0
    level, text = style_finding(found)
    assert level == "unclear"
    assert "one of the size that matters may hide: audit more groups (about" in text
