from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from judges.scripted import ScriptedJudge
from judges.simulated import SimulatedJudge
from ruler import Group, Ruler
from ruler.errors import ConfigError, JudgeError
from ruler.results import json_line, result_record
from ruler.stored_results import stored_results
from ruler.types import ScoredGroup


def groups() -> list[Group]:
    return [Group.of([f"a{n}", f"bb{n}" * 9], task="t", id=f"g{n}") for n in range(3)]


def write(path: Path, chosen: list[Group]) -> Path:
    results = [Ruler(SimulatedJudge()).score_sync(group) for group in chosen]
    path.write_bytes(b"".join(json_line(result_record(result)) for result in results))
    return path


def test_results_are_found_for_their_groups_in_whatever_order(tmp_path: Path) -> None:
    path = write(tmp_path / "s.jsonl", groups()[::-1])
    found = stored_results(str(path), groups())
    assert [result and result.group_id for result in found] == ["g0", "g1", "g2"]
    assert all(isinstance(result, ScoredGroup) for result in found)


def test_a_group_that_is_not_there_has_none_and_others_do_not_matter(tmp_path: Path) -> None:
    path = write(tmp_path / "s.jsonl", groups()[1:])
    found = stored_results(str(path), groups()[:2])
    assert [result and result.group_id for result in found] == [None, "g1"]


def test_the_last_line_of_a_group_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "s.jsonl", groups()[:1])
    ruler = Ruler(ScriptedJudge([]))
    failed = ruler.failed(groups()[0], JudgeError("no"))
    path.write_bytes(json_line(result_record(failed)) + b"\n" + path.read_bytes())
    (found,) = stored_results(str(path), groups()[:1])
    assert found is not None
    assert found.status == "scored"


def test_compressed_files_are_read(tmp_path: Path) -> None:
    plain = write(tmp_path / "s.jsonl", groups())
    packed = tmp_path / "s.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert stored_results(str(packed), groups()) == stored_results(str(plain), groups())
    packed.write_bytes(packed.read_bytes()[:-12])
    with pytest.raises(ConfigError, match="is damaged after line"):
        stored_results(str(packed), groups())


def test_results_of_other_rollouts_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "s.jsonl", groups())
    changed = Group.of(["other", "text"], task="t", id="g1")
    with pytest.raises(ConfigError, match=r"s\.jsonl: group 'g1' was scored with other rollouts"):
        stored_results(str(path), [changed])


def test_results_of_the_same_rollouts_under_each_others_ids_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "s.jsonl", groups())
    (one, *_) = groups()
    swapped = Group.of(["bb0" * 9, "a0"], task="t", id="g0")
    assert swapped.digest == one.digest, "a group is the same in whatever order its rollouts arrive"
    with pytest.raises(ConfigError, match=r"s\.jsonl: group 'g0' was scored with other rollouts"):
        stored_results(str(path), [swapped])
    moved = Group.of(["bb0" * 9, "a0"], task="t", id="g0", ids=["r2", "r1"])
    assert stored_results(str(path), [moved]) == stored_results(str(path), [one])


def test_a_file_of_other_groups_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "s.jsonl", groups())
    with pytest.raises(ConfigError, match="holds none of the 1 groups, the first of which is 'h'"):
        stored_results(str(path), [Group.of(["a", "b"], task="t", id="h")])


@pytest.mark.parametrize(
    "line", ["{", "[]", "3", json.dumps({"group_id": "g", "rollouts": []}), '"\\ud800"', "[" * 99999]
)
def test_what_is_no_result_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text(f"\n{line}\n")
    with pytest.raises(ConfigError, match=r"s\.jsonl: line 2 is no scored group"):
        stored_results(str(path), groups())


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.jsonl: cannot be read: No such file"):
        stored_results(str(tmp_path / "none.jsonl"), groups())
