"""Two small results beside each other, with every value told by counting."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare_results import Results, compare, main
from ruler.errors import ConfigError

RIGHT, WRONG = [0.9, 0.1], [0.1, 0.9]


def group(name: str, source: str = "s", **changed: Any) -> dict[str, Any]:
    """Two rollouts of which the first is right."""
    return {"id": name, "digest": f"of {name}", "source": source, "cluster": None, "truth": [1.0, 0.0], **changed}


def groups(count: int, source: str = "s") -> list[dict[str, Any]]:
    return [group(f"{source} {n}", source) for n in range(count)]


def results(
    members: Sequence[Mapping[str, Any]],
    scores: Mapping[str, Sequence[float] | None],
    failures: Mapping[str, str] | None = None,
    *,
    name: str = "row",
    rubric: str = "default",
) -> dict[str, Any]:
    row = {"name": name, "failures": failures or {}, "scores": dict(scores)}
    return {"rubric": rubric, "groups": members, "rows": [row]}


def read(record: Mapping[str, Any]) -> Results:
    return Results.model_validate(record)


def said(members: Sequence[Mapping[str, Any]], *scores: Sequence[float] | None) -> dict[str, Sequence[float] | None]:
    """These for the first groups, the last for all others."""
    return {one["id"]: scores[min(place, len(scores) - 1)] for place, one in enumerate(members)}


def test_the_change_is_after_less_before() -> None:
    members = groups(20)
    before, after = results(members, said(members, *[WRONG] * 10, RIGHT)), results(members, said(members, RIGHT))
    (found,) = compare(read(before), read(after))
    assert (found.name, found.before, found.after) == ("row", 0.5, 1.0)
    assert (found.change.overall.value, found.change.verdict) == (0.5, "better")
    (back,) = compare(read(after), read(before))
    assert (back.change.overall.value, back.change.verdict) == (-0.5, "worse")


def test_failures_are_left_out_of_both_and_groups_that_read_the_same_tie() -> None:
    members = groups(4)
    failed = results(members, said(members, None, None, WRONG, RIGHT), {"s 0": "reply: no JSON"})
    after = results(members, said(members, RIGHT, WRONG, RIGHT))
    (found,) = compare(read(failed), read(after))
    # Without s 0: a tie, wrong, right; then wrong, right, right. As a tie s 0 would make it 1/2 and 3/4.
    assert (found.before, found.after) == (0.5, pytest.approx(2 / 3))
    assert found.change.overall.groups == 3
    assert found.change.overall.value == pytest.approx((-0.5 + 1 + 0) / 3)
    (back,) = compare(read(after), read(failed))
    assert (back.before, back.after) == (pytest.approx(2 / 3), 0.5)


def test_before_and_after_are_of_the_groups_that_both_rows_have() -> None:
    members, more = groups(4), groups(6)
    before = results(members, said(members[1:], WRONG, RIGHT))
    after = results(more, said(more[:3], RIGHT) | said(more[3:], WRONG))
    (found,) = compare(read(before), read(after))
    # s 1 to s 3: wrong, right, right; then right, right, wrong.
    assert (found.before, found.after) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert found.change.overall.groups == 3


def test_sources_that_are_apart_have_no_part_in_it() -> None:
    members = [*groups(4), *groups(4, "tau2-bench-telecom")]
    before = results(members, said(members[:4], WRONG, RIGHT) | said(members[4:], RIGHT))
    after = results(members, said(members[:4], RIGHT) | said(members[4:], WRONG))
    (found,) = compare(read(before), read(after))
    assert (found.before, found.after, found.change.overall.value) == (0.75, 1.0, 0.25)
    assert found.change.sources["tau2-bench-telecom"].value == -1.0


def test_coarse_rewards_need_their_gap() -> None:
    truth = [0.9, 0.8, 0.5]
    members = [group("i", "intercode-bash", truth=truth), group("f", truth=truth)]
    (found,) = compare(*(read(results(members, said(members, scores))) for scores in ([3, 2, 1], [2, 3, 1])))
    # The judge errs on the pair that differs by 0.1, which counts in one source alone.
    assert found.change.sources["intercode-bash"].value == 0.0
    assert found.change.sources["s"].value == pytest.approx(-1 / 3)
    assert found.after == pytest.approx((1 + 2 / 3) / 2)


def test_groups_of_one_task_are_one_cluster() -> None:
    loose = groups(40)
    alike = [{**one, "cluster": f"task {place // 10}"} for place, one in enumerate(loose)]
    before, after = said(loose, RIGHT), said(loose, *[WRONG] * 10, RIGHT)
    widths = []
    for members in (loose, alike):
        (found,) = compare(read(results(members, before)), read(results(members, after)))
        assert found.change.overall.interval is not None
        widths.append(found.change.overall.interval[1] - found.change.overall.interval[0])
    assert widths[1] > 2 * widths[0]


@pytest.mark.parametrize(
    "changed", [{"digest": "other"}, {"truth": [0.0, 1.0]}, {"source": "other"}, {"cluster": "other"}]
)
def test_a_group_that_is_not_the_same_in_both_is_refused(changed: dict[str, Any]) -> None:
    one, other = groups(3), groups(3)
    other[1] |= changed
    with pytest.raises(ConfigError, match="group 's 1': truth, source, cluster or rollouts differ"):
        compare(read(results(one, said(one, RIGHT))), read(results(other, said(other, RIGHT))))


def test_scores_of_another_number_of_rollouts_are_refused() -> None:
    members = groups(2)
    good, bad = results(members, said(members, RIGHT)), results(members, said(members, RIGHT, [0.5]))
    with pytest.raises(ConfigError, match="row 'row': group 's 1': 1 scores for 2 rollouts"):
        compare(read(good), read(bad))


def test_two_rows_of_different_names_can_be_named() -> None:
    members = groups(4)
    old = results(members, said(members, WRONG), name="old")
    new = results(members, said(members, RIGHT), name="new")
    (found,) = compare(read(old), read(new), ("old", "new"))
    assert (found.name, found.before, found.after) == ("old -> new", 0.0, 1.0)
    with pytest.raises(ConfigError, match="no row or no group in common"):
        compare(read(old), read(new))
    with pytest.raises(ConfigError, match="--rows: no row 'old'; there are:\n  new"):
        compare(read(old), read(new), ("old", "old"))
    others = groups(4, "elsewhere")
    with pytest.raises(ConfigError, match="no row or no group in common"):
        compare(read(old), read(results(others, said(others, RIGHT), name="old")))


def test_what_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = groups(20)
    paths = []
    for place, scores in enumerate((said(members, *[WRONG] * 10, RIGHT), said(members, RIGHT))):
        record = results(members[place:], scores, rubric=f"rubric {place}")
        record["rows"].append({"name": f"extra {place}", "failures": {}, "scores": {}})
        record["rows"].append({"name": "same", "failures": {}, "scores": said(members, RIGHT)})
        paths.append(tmp_path / f"{place}.json")
        paths[-1].write_text(json.dumps(record))
    assert main([str(path) for path in paths]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "the rubrics differ: rubric 0, then rubric 1",
        "only in the first: extra 0",
        "only in the second: extra 1",
        "19 groups are in both",
        "      before  after   change",
    ]
    assert lines[5].startswith("row   0.526   1.000   +0.474 (+0.")
    assert lines[5].endswith("): better")
    assert lines[6:] == ["same  1.000   1.000   the same on every group"]
