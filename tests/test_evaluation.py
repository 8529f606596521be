from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from judges.scripted import ScriptedJudge, scores_reply
from ruler import Group, JudgeRequest, Ruler
from ruler.agreement import summarise
from ruler.evaluation import agreements, cluster_of, has_truth, scores_of, source_of, truth_of
from ruler.records import LabelledGroup
from ruler.types import FailedGroup


def labelled(truth: dict[str, float], **metadata: Any) -> LabelledGroup:
    return LabelledGroup(Group.of(["a", "b", "c"], id="g", task="t", metadata=metadata), truth)


FULL = {"r1": 1.0, "r3": 0.0, "r2": 0.5}


def test_truth_is_in_the_order_of_the_rollouts() -> None:
    assert truth_of(labelled(FULL)) == (1.0, 0.5, 0.0)


def test_only_groups_of_two_with_truth_on_every_rollout_can_be_compared() -> None:
    assert has_truth(labelled(FULL))
    assert not has_truth(labelled({"r1": 1.0, "r2": 0.0}))
    assert not has_truth(LabelledGroup(Group.of(["a"], id="one", task="t"), {"r1": 1.0}))


@pytest.mark.parametrize(
    ("metadata", "expected"), [({}, "(no source)"), ({"source": ""}, "(no source)"), ({"source": 0}, "0")]
)
def test_a_source_is_text(metadata: dict[str, Any], expected: str) -> None:
    assert source_of(labelled(FULL, **metadata).group) == expected


def test_source_and_cluster_come_from_the_metadata() -> None:
    group = labelled(FULL, source="s", split_key=7).group
    assert (source_of(group), cluster_of(group), cluster_of(labelled(FULL).group)) == ("s", "7", None)


async def test_scores_of_a_tied_group_are_equal_and_of_a_failed_one_there_are_none() -> None:
    tied = await Ruler(ScriptedJudge([])).score(Group.of(["a", "a"], task="t"))
    (failed,) = await Ruler(ScriptedJudge(["no json"] * 9)).score_many([Group.of(["a", "b"], task="t")])
    assert scores_of(tied) == (0.0, 0.0)
    assert isinstance(failed, FailedGroup)
    assert scores_of(failed) is None


async def test_scores_are_in_the_order_of_the_caller() -> None:
    def reply(request: JudgeRequest) -> str:
        return scores_reply({label: 10 * place for place, label in enumerate(request.ids, 1)})

    group = Group.of(["a", "b", "c"], task="t")
    (prompt,) = Ruler(ScriptedJudge([])).pack(group)
    place = {prompt.rollouts[label][0]: number / 10 for number, label in enumerate(prompt.labels, 1)}
    assert scores_of(await Ruler(ScriptedJudge(reply)).score(group)) == (place["r1"], place["r2"], place["r3"])


def test_groups_without_scores_are_left_out_and_gaps_are_by_source() -> None:
    items = [labelled(FULL, source="coarse"), labelled(FULL, source="fine"), labelled(FULL, source="fine")]
    coarse, fine = agreements(items, [(3, 2, 1), (1, 2, 3), None], min_gaps={"coarse": 0.6})
    assert (coarse.source, coarse.pairs, coarse.accuracy) == ("coarse", 1, 1.0)
    assert (fine.source, fine.pairs, fine.accuracy) == ("fine", 3, 0.0)


def test_groups_of_one_task_make_the_interval_wider() -> None:
    def width(*, alike: bool) -> float:
        items = [labelled(FULL, **({"split_key": place // 10} if alike else {})) for place in range(40)]
        scores = [(3, 2, 1)] * 10 + [(1, 2, 3)] * 10 + [(3, 2, 1)] * 10 + [(1, 2, 3)] * 10
        overall = summarise(agreements(items, scores)).overall
        assert (overall.accuracy, overall.clusters) == (0.5, 4 if alike else 40)
        assert overall.accuracy_interval is not None
        return overall.accuracy_interval[1] - overall.accuracy_interval[0]

    # Four tasks that are all right or all wrong, not forty groups: sqrt(10) times as wide, but for the bounds.
    assert width(alike=True) > 2 * width(alike=False)


def test_scores_for_other_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="0 for 1 groups"):
        agreements([labelled(FULL)], [])


def test_it_reads_what_the_records_keep(tmp_path: Path) -> None:
    from ruler.records import read_labelled

    rollouts = [{"id": "x", "messages": "a", "truth": 0.0}, {"id": "y", "messages": "b", "truth": 1.0}]
    path = tmp_path / "g.jsonl"
    path.write_text(json.dumps({"group_id": "g", "source": "s", "split_key": "k", "rollouts": rollouts}) + "\n")
    (found,) = read_labelled(str(path))
    assert isinstance(found, LabelledGroup)
    assert (source_of(found.group), cluster_of(found.group), truth_of(found)) == ("s", "k", (0.0, 1.0))
