import gzip
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruler.errors import ConfigError
from ruler.results import ResultFile, json_line, read_result, read_usage, result_record, usage_record
from ruler.types import FailedGroup, FailedOrder, Group, JudgedOrder, Juror, Score, ScoredGroup, Usage

ROOT = Path(__file__).resolve().parent.parent
MADE_BY = {"judge": "m", "rubric": "default@1#0", "orders": 1, "adaptive": False, "prompt_version": "1"}
TEXT = st.text(st.characters(exclude_categories=()), max_size=8)


USAGE_RECORD = {
    "calls": 1,
    "input_tokens": 10,
    "cached_input_tokens": 0,
    "output_tokens": 5,
    "cost_usd": None,
    "cache_hits": 0,
    "retries": 0,
    "wait_seconds": 0.0,
}


def scored(id: str = "g", content: str = "a", **more: object) -> ScoredGroup:
    values: dict[str, object] = {
        "group_id": id,
        "group_digest": Group.of([content, "b"]).digest,
        "rollouts_digest": Group.of([content, "b"]).rollouts_digest,
        "status": "scored",
        "rollouts": (Score("b", 0.25, note="poor", flags=("fence",)), Score("a", 0.0, stderr=0.0)),
        "usage": Usage(1, 10, 0, 5, None),
        "model": "m-2025",
        "orders_used": 1,
        **MADE_BY,
    }
    return ScoredGroup(**(values | more))  # type: ignore[arg-type]


def tied(id: str = "t", content: str = "a") -> ScoredGroup:
    return scored(id, content, status="tied", rollouts=(Score("b", None), Score("a", None)), model=None, orders_used=0)


def failed(id: str = "f", content: str = "a", **more: object) -> FailedGroup:
    judged = Group.of([content, "b"])
    return FailedGroup(id, judged.digest, judged.rollouts_digest, "reply", "not JSON", ("b", "a"), **MADE_BY, **more)  # type: ignore[arg-type]


def group(id: str, content: str = "a") -> Group:
    return Group.of([content, "b"], id=id)


def test_a_scored_record():
    assert result_record(scored()) == {
        "group_id": "g",
        "group_digest": scored().group_digest,
        "rollouts_digest": scored().rollouts_digest,
        "status": "scored",
        "rollouts": [
            {"id": "b", "score": 0.25, "note": "poor", "flags": ["fence"]},
            {"id": "a", "score": 0.0, "stderr": 0.0},
        ],
        "model": "m-2025",
        "orders_used": 1,
        "judged": [],
        **MADE_BY,
        "usage": USAGE_RECORD,
    }
    assert result_record(scored(absolute=True))["absolute"] is True


def test_who_answered_stands_only_where_several_could_have():
    assert "answered_by" not in result_record(scored())
    assert result_record(scored(answered_by="second"))["answered_by"] == "second"


def test_the_jury_stands_only_where_there_is_one():
    assert "jury" not in result_record(scored())
    usage = Usage(1, 10, 0, 5, None)
    jury = (
        Juror("j", "j-2025", (0.5, 0.0), (None, "poor"), usage, answered_by="k"),
        Juror("l", "l-2025", (0.0, 0.0), (None, None), usage),
    )
    assert result_record(scored(judge="j + l", jury=jury))["jury"] == [
        {
            "judge": "j",
            "model": "j-2025",
            "answered_by": "k",
            "scores": [0.5, 0.0],
            "notes": [None, "poor"],
            "usage": USAGE_RECORD,
        },
        {"judge": "l", "model": "l-2025", "scores": [0.0, 0.0], "usage": USAGE_RECORD},
    ]


def test_a_usage_record_is_short():
    record = usage_record(Usage(2, 1, cost_usd=0.000125, cache_hits=1, retries=1, wait_seconds=1.23456))
    assert record["wait_seconds"] == 1.235
    assert (record["cache_hits"], record["retries"], record["cost_usd"]) == (1, 1, 0.000125)


@pytest.mark.parametrize("result", [tied(), failed(), failed(raw_reply='{"scores": 5}')])
def test_there_is_no_score_where_there_is_none(result):
    record = result_record(result)
    assert record["rollouts"] == [{"id": "b"}, {"id": "a"}]
    assert '"score"' not in json.dumps(record)
    assert record.items() >= MADE_BY.items()


def test_a_failed_record_says_why():
    record = result_record(failed(raw_reply=""))
    assert (record["status"], record["reason"], record["message"]) == ("failed", "reply", "not JSON")
    assert record["raw_reply"] == ""
    assert "raw_reply" not in result_record(failed())


@given(st.dictionaries(TEXT, st.one_of(TEXT, st.integers(), st.none(), st.lists(TEXT))))
@settings(max_examples=100)
def test_a_json_line_is_one_line_that_round_trips(record):
    line = json_line(record)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert json.loads(line.decode("utf-8")) == record


def test_a_json_line_is_readable():
    assert json_line({"a": "é\ud83d"}) == b'{"a": "\\u00e9\\ud83d"}\n'
    assert json_line({"a": "é"}) == '{"a": "é"}\n'.encode()


def write(path: object, *results: ScoredGroup | FailedGroup, **made_by: object) -> None:
    file = ResultFile(str(path), made_by=MADE_BY | made_by)
    for result in results:
        file.write(result)
    file.close()


def content(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def records(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in content(path).splitlines()]


PLAIN_AND_GZ = pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])


@PLAIN_AND_GZ
def test_every_line_is_there_as_soon_as_it_is_written(tmp_path, name):
    path = tmp_path / name
    file = ResultFile(str(path), made_by=MADE_BY)
    file.write(scored())
    if name.endswith(".gz"):
        with gzip.open(path) as reader:
            assert json.loads(reader.readline()) == result_record(scored())
    else:
        assert records(path) == [result_record(scored())]
    file.close()
    assert records(path) == [result_record(scored())]


@PLAIN_AND_GZ
def test_continuing_keeps_scored_and_tied_and_asks_failed_again(tmp_path, name):
    path = tmp_path / name
    write(path, scored("a"), failed("b"), tied("c"), scored("\ud800"))
    file = ResultFile(str(path), made_by=MADE_BY)
    assert [file.take(group(id)) for id in ("a", "b", "c", "\ud800", "d")] == [True, False, True, True, False]
    file.write(scored("b"))
    file.close()
    assert [record["group_id"] for record in records(path)] == ["a", "c", "\ud800", "b"]
    assert os.listdir(tmp_path) == [name]


@PLAIN_AND_GZ
def test_continuing_what_is_whole_changes_no_byte_of_it(tmp_path, name):
    path = tmp_path / name
    write(path, scored("a"), tied("b"))
    before = path.read_bytes()
    write(path, scored("c"))
    assert path.read_bytes().startswith(before)
    assert len(records(path)) == 3


def test_other_content_under_the_same_id_is_not_there_yet(tmp_path):
    write(tmp_path / "out.jsonl", scored("a", "x"))
    file = ResultFile(str(tmp_path / "out.jsonl"), made_by=MADE_BY)
    assert not file.take(group("a", "y"))
    assert file.take(group("a", "x"))
    file.close()


def test_each_kept_line_answers_for_one_group(tmp_path):
    write(tmp_path / "out.jsonl", scored("a"), scored("a"))
    file = ResultFile(str(tmp_path / "out.jsonl"), made_by=MADE_BY)
    assert [file.take(group("a")) for _ in range(3)] == [True, True, False]
    file.close()


@pytest.mark.slow
def test_a_plain_file_cut_anywhere_in_its_last_line_is_continued(tmp_path):
    path = tmp_path / "out.jsonl"
    last = scored("é", rollouts=(Score("é", 0.5, note='é\ud800 "\\'),))
    write(path, tied("a"), last)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole) + 1):
        path.write_bytes(whole[:cut])
        file = ResultFile(str(path), made_by=MADE_BY)
        assert file.take(group("a"))
        kept = file.take(group("é"))
        # Without its line end alone the record is whole.
        assert kept == (cut >= len(whole) - 1)
        if not kept:
            file.write(last)
        file.close()
        assert path.read_bytes() == whole


@pytest.mark.slow
def test_a_compressed_file_cut_anywhere_is_continued(tmp_path):
    path = tmp_path / "out.jsonl.gz"
    write(path, scored("a"))
    first = path.stat().st_size
    write(path, *(scored(f"b{n}") for n in range(3)))
    whole = path.read_bytes()
    counts = []
    for cut in [0, *range(2, first, 7), *range(first + 2, len(whole), 7), len(whole)]:
        path.write_bytes(whole[:cut])
        file = ResultFile(str(path), made_by=MADE_BY)
        kept = [id for id in ("a", "b0", "b1", "b2") if file.take(group(id))]
        file.write(scored("z"))
        file.close()
        assert [record["group_id"] for record in records(path)] == [*kept, "z"]
        counts.append(len(kept))
    assert counts == sorted(counts)
    assert set(counts) == {0, 1, 2, 3, 4}


@PLAIN_AND_GZ
@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("judge", "other", "judge 'm', this run has 'other'"),
        ("rubric", "mine@1#0", "rubric 'default@1#0', this run has 'mine@1#0'"),
        ("orders", 2, "orders 1, this run has 2"),
        ("prompt_version", "2", "prompt_version '1', this run has '2'"),
    ],
)
def test_a_file_made_with_other_settings_is_refused_and_left_alone(tmp_path, name, key, value, shown):
    path = tmp_path / name
    write(path, scored(), failed())
    before = path.read_bytes()
    with pytest.raises(ConfigError) as caught:
        write(path, **{key: value})
    assert str(caught.value) == f"--out {path}: was made with {shown}; choose another --out"
    assert path.read_bytes() == before
    write(path)  # not locked by the refused run


FOREIGN = [
    b"notes\n",
    b"notes without a line end",
    b'{"key": "minified JSON"}',
    b'{"group_id": "g", "rollouts": []}',
    b'{"group_id": "g", "rollouts": []}\n',
    b"[]\n",
    b"5",
    b"\n",
    b"\xff\xfe\x00",
    json.dumps({**result_record(scored()), "status": "done"}).encode(),
    json.dumps({**result_record(scored()), "group_id": ["g"]}).encode() + b"\n",
]


@pytest.mark.parametrize("foreign", FOREIGN)
@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "plain.gz"])
def test_a_foreign_file_is_refused_and_left_alone(tmp_path, name, foreign):
    path = tmp_path / name
    path.write_bytes(gzip.compress(foreign) if name == "out.jsonl.gz" else foreign)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"^--out .*(line 1 is not a scored group|is damaged after line 1)"):
        ResultFile(str(path), made_by=MADE_BY)
    assert path.read_bytes() == before


def test_a_compressed_file_that_is_damaged_and_not_just_cut_is_left_alone(tmp_path):
    path = tmp_path / "out.jsonl.gz"
    write(path, *(scored(str(n)) for n in range(20)))
    damaged = bytearray(path.read_bytes())
    damaged[-6] ^= 0xFF  # the checksum
    path.write_bytes(damaged)
    with pytest.raises(ConfigError, match=r"is damaged after line 20: CRC check failed"):
        ResultFile(str(path), made_by=MADE_BY)
    assert path.read_bytes() == damaged


@pytest.mark.parametrize(
    ("name", "why"), [(".", "Is a directory"), ("no/out.jsonl", "No such file"), ("no/x.gz", "No")]
)
def test_a_path_that_cannot_be_written(tmp_path, name, why):
    path = os.path.join(tmp_path, name)
    with pytest.raises(ConfigError) as caught:
        ResultFile(path, made_by=MADE_BY)
    assert str(caught.value).startswith(f"--out {path}: cannot be written: {why}")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_one_clear_error():
    file = ResultFile("/dev/full", made_by=MADE_BY)
    with pytest.raises(ConfigError, match="--out /dev/full: cannot be written: No space left on device"):
        file.write(scored())
    with pytest.raises(ConfigError, match="--out /dev/full: cannot be written: No space left on device"):
        file.close()


def test_a_device_is_written_and_never_read():
    for _ in range(2):
        write("/dev/null", scored())


@PLAIN_AND_GZ
def test_a_second_writer_is_refused_and_takes_nothing_from_the_first(tmp_path, name):
    path = tmp_path / name
    first = ResultFile(str(path), made_by=MADE_BY)
    first.write(scored("a"))
    first.write(failed("b"))  # the second run would drop this line
    with pytest.raises(ConfigError) as caught:
        ResultFile(str(path), made_by=MADE_BY)
    assert str(caught.value) == f"--out {path}: another run is writing to this file"
    first.write(scored("c"))
    first.close()
    assert [record["group_id"] for record in records(path)] == ["a", "b", "c"]
    write(path)


@PLAIN_AND_GZ
def test_a_run_that_dropped_lines_holds_the_lock_too(tmp_path, name):
    path = tmp_path / name
    write(path, scored("a"), failed("b"))
    first = ResultFile(str(path), made_by=MADE_BY)
    with pytest.raises(ConfigError, match="another run is writing"):
        ResultFile(str(path), made_by=MADE_BY)
    first.write(scored("c"))
    first.close()
    assert [record["group_id"] for record in records(path)] == ["a", "c"]


def test_a_file_replaced_between_opening_and_locking_is_refused(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    path, other = tmp_path / "out.jsonl", tmp_path / "other.jsonl"
    write(path, scored("a"))
    write(other, scored("b"))
    lock = fcntl.flock

    def lock_late(*args):
        os.replace(other, path)
        lock(*args)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    with pytest.raises(ConfigError, match="another run is writing"):
        ResultFile(str(path), made_by=MADE_BY)
    assert [record["group_id"] for record in records(path)] == ["b"]


def test_dropping_lines_keeps_the_link_and_the_mode(tmp_path):
    real, link = tmp_path / "real.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(real)
    write(link, scored("a"), failed("b"))
    real.chmod(0o640)
    write(link, scored("c"))
    assert link.is_symlink()
    assert [record["group_id"] for record in records(real)] == ["a", "c"]
    assert real.stat().st_mode & 0o777 == 0o640


def test_standard_output_carries_only_results(tmp_path):
    code = "from tests.test_results import *\nwrite('-', scored('a'), failed('b'))\nprint('still open')\n"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT, check=True)
    *lines, last = done.stdout.splitlines()
    assert [json.loads(line)["group_id"] for line in lines] == ["a", "b"]
    assert last == b"still open"


def test_what_orders_blocks_and_cuts_leave_in_a_record() -> None:
    record = result_record(
        scored(
            rollouts=(Score("b", 0.25, 0.125, cut_chars=70), Score("a", 0.25, 0.125, same_as="b")),
            orders=4,
            adaptive=True,
            orders_used=1,
            agreement=0.5,
            judged=(JudgedOrder("m", 1, 0, ("b",), (0.25,)),),
            failed_orders=(FailedOrder("m", 0, "reply", "not JSON"),),
            clipped=2,
        )
    )
    assert record["rollouts"] == [
        {"id": "b", "score": 0.25, "stderr": 0.125, "cut_chars": 70},
        {"id": "a", "score": 0.25, "stderr": 0.125, "same_as": "b"},
    ]
    assert record["judged"] == [{"order": 1, "block": 0, "rollout_ids": ("b",), "scores": (0.25,)}]
    assert record["failed_orders"] == [{"judge": "m", "order": 0, "reason": "reply", "message": "not JSON"}]
    assert (record["agreement"], record["clipped"], record["orders"], record["adaptive"]) == (0.5, 2, 4, True)
    plain = result_record(scored())
    assert not {"agreement", "clipped", "failed_orders"} & set(plain)


def test_the_judge_of_an_order_stands_where_there_are_several() -> None:
    judged = (JudgedOrder("m", 0, 0, ("b", "a"), (0.25, 0.0)), JudgedOrder("n", 0, 0, ("b", "a"), (0.5, 0.5)))
    jurors = tuple(Juror(name, name, (0.25, 0.0), (None, None), Usage(), stderr=(0.5, 0.25)) for name in "mn")
    record = result_record(scored(judged=judged, jury=jurors))
    assert [one["judge"] for one in record["judged"]] == ["m", "n"]
    assert [one["stderr"] for one in record["jury"]] == [[0.5, 0.25]] * 2


# Reading

COUNTS = st.integers(0, 10**12)
UNIT = st.floats(0, 1)
AMOUNTS = st.floats(0, 1e12)
USAGE = st.builds(
    Usage, COUNTS, COUNTS, COUNTS, COUNTS, st.none() | AMOUNTS, COUNTS, COUNTS, AMOUNTS.map(lambda s: round(s, 3))
)
MAYBE = st.none() | TEXT


@st.composite
def results(draw: st.DrawFn) -> ScoredGroup | FailedGroup:
    ids = tuple(draw(st.lists(TEXT, min_size=1, max_size=4, unique=True)))
    made: dict[str, object] = {
        "judge": draw(TEXT),
        "rubric": draw(TEXT),
        "orders": draw(st.sampled_from([1, 2, 4, "full"])),
        "adaptive": draw(st.booleans()),
        "prompt_version": draw(TEXT),
        "usage": draw(USAGE),
    }
    named = (draw(TEXT), draw(TEXT), draw(TEXT))
    status = draw(st.sampled_from(["scored", "tied", "failed"]))
    if status == "failed":
        return FailedGroup(*named, draw(TEXT), draw(TEXT), ids, raw_reply=draw(MAYBE), **made)  # type: ignore[arg-type]

    def each(values: st.SearchStrategy[object]) -> tuple[object, ...]:
        return tuple(draw(st.lists(values, min_size=len(ids), max_size=len(ids))))

    is_scored = status == "scored"
    jury = [
        Juror(
            draw(TEXT),
            draw(TEXT),
            each(UNIT),
            each(MAYBE),
            draw(USAGE),
            draw(MAYBE),
            draw(st.none() | st.just(each(AMOUNTS))),
        )  # type: ignore[arg-type]
        for _ in range(draw(st.sampled_from([0, 0, 2])) if is_scored else 0)
    ]
    judges = [juror.judge for juror in jury] or [str(made["judge"])]
    return ScoredGroup(
        *named,
        status,
        tuple(
            Score(
                name,
                draw(UNIT) if is_scored else None,
                draw(st.none() | AMOUNTS) if is_scored else None,
                draw(MAYBE),
                draw(st.none() | st.sampled_from(ids)),
                draw(COUNTS),
                tuple(draw(st.lists(TEXT, max_size=2))),
            )
            for name in ids
        ),
        model=draw(MAYBE),
        orders_used=draw(COUNTS),
        agreement=draw(st.none() | st.floats(-1, 1)),
        judged=tuple(
            JudgedOrder(judge, draw(COUNTS), draw(COUNTS), tuple(draw(st.permutations(ids))), each(UNIT))  # type: ignore[arg-type]
            for judge in judges
        ),
        failed_orders=tuple(draw(st.lists(st.builds(FailedOrder, TEXT, COUNTS, TEXT, TEXT), max_size=2))),
        clipped=draw(COUNTS),
        absolute=draw(st.booleans()),
        answered_by=draw(MAYBE),
        jury=tuple(jury),
        **made,  # type: ignore[arg-type]
    )


@given(result=results())
@settings(max_examples=300)
def test_a_result_that_is_written_is_read_as_it_was(result):
    assert read_result(json.loads(json_line(result_record(result)))) == result


def test_time_in_queues_is_read_to_the_millisecond():
    usage = Usage(1, 10, 0, 5, 0.25, wait_seconds=1.23456)
    assert read_result(result_record(scored(usage=usage))) == scored(usage=replace(usage, wait_seconds=1.235))
    assert read_usage(usage_record(usage)) == replace(usage, wait_seconds=1.235)


def test_keys_that_are_not_known_are_left_out():
    record = result_record(scored())
    record["rollouts"][0]["mood"] = record["mood"] = "good"
    assert read_result(record) == scored()


B_SCORE, JURY = ("rollouts", 0, "score"), ("jury", 0)


def broken(at: tuple[str | int, ...], value: object, result: ScoredGroup | FailedGroup) -> dict[str, object]:
    """The result's record, with this value at that place; `...` takes the key away."""
    record = json.loads(json_line(result_record(result)))
    *path, last = at
    inner = record
    for key in path:
        inner = inner[key]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return record


FULL = scored(
    judged=(JudgedOrder("j", 0, 0, ("b", "a"), (0.25, 0.0)),),
    jury=(Juror("j", "j", (0.5, 0.0), (None, "poor"), Usage(), stderr=(0.5, 0.25)),),
)


@pytest.mark.parametrize(
    ("at", "value", "error"),
    [
        (B_SCORE, ..., "rollouts[0].score: missing; the status is 'scored'"),
        (B_SCORE, None, "rollouts[0].score: missing; the status is 'scored'"),
        (B_SCORE, 1.5, "rollouts[0].score: input should be less than or equal to 1, got 1.5"),
        (B_SCORE, -0.1, "rollouts[0].score: input should be greater than or equal to 0, got -0.1"),
        (B_SCORE, float("nan"), "rollouts[0].score: input should be a finite number, got nan"),
        (B_SCORE, float("inf"), "rollouts[0].score: input should be a finite number, got inf"),
        (B_SCORE, "0.5", "rollouts[0].score: input should be a valid number, got '0.5'"),
        (B_SCORE, True, "rollouts[0].score: input should be a valid number, got True"),
        (("rollouts", 0, "stderr"), -1.0, "rollouts[0].stderr: input should be greater than or equal to 0, got -1.0"),
        (("rollouts", 0, "id"), 5, "rollouts[0].id: input should be a valid string, got 5"),
        (("rollouts", 0, "id"), "a", "rollouts: the id 'a' stands twice"),
        (("rollouts", 0), "b", "rollouts[0]: expected an object, got 'b'"),
        (("rollouts",), [], "rollouts: list should have at least 1 item"),
        (("status",), "tied", "rollouts[0].score: 0.25, though the status is 'tied'"),
        (("status",), "done", "status: input should be 'scored', 'tied' or 'failed', got 'done'"),
        (("status",), ..., "status: field required"),
        (("group_id",), None, "group_id: input should be a valid string, got None"),
        (("usage", "calls"), -1, "usage.calls: input should be greater than or equal to 0, got -1"),
        (("usage", "calls"), 1.5, "usage.calls: input should be a valid integer"),
        (("usage", "cost_usd"), float("inf"), "usage.cost_usd: input should be a finite number, got inf"),
        (("usage",), ..., "usage: field required"),
        (("agreement",), 2, "agreement: input should be less than or equal to 1, got 2"),
        (("orders",), "many", "orders"),
        (("judged", 0, "scores"), [0.5], "judged[0].scores: 1 for 2 rollouts"),
        (("judged", 0, "scores", 1), 7, "judged[0].scores[1]: input should be less than or equal to 1, got 7"),
        (("judged", 0, "rollout_ids", 1), "z", "judged[0].rollout_ids: 'z' is no rollout of this group"),
        ((*JURY, "scores"), [0.5], "jury[0].scores: 1 for 2 rollouts"),
        ((*JURY, "stderr"), [0.5], "jury[0].stderr: 1 for 2 rollouts"),
        ((*JURY, "notes"), ["x"] * 3, "jury[0].notes: 3 for 2 rollouts"),
    ],
)
def test_what_is_no_result_is_never_read_as_one(at, value, error):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the text is compared below
        read_result(broken(at, value, FULL))
    assert str(caught.value).startswith(error)


def test_a_failed_group_never_carries_a_score():
    with pytest.raises(ValueError, match=r"^rollouts\[0\].score: 0.5, though the status is 'failed'"):
        read_result(broken(B_SCORE, 0.5, failed()))


@pytest.mark.parametrize("record", [None, 5, "scored", [], {}])
def test_other_things_are_no_result(record):
    with pytest.raises(ValueError, match=r"expected an object|field required"):
        read_result(record)
