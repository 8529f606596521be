import gzip
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from ruler.errors import ConfigError, GroupError
from ruler.messages import Message, ToolCall
from ruler.records import (
    BadLine,
    LabelledGroup,
    count_lines,
    group_record,
    read_group,
    read_groups,
    read_labelled,
    read_record,
)
from ruler.results import json_line
from ruler.types import Group, Rollout

ROOT = Path(__file__).parent.parent
MADE_BY = {"judge": "m", "rubric": "default@1#0", "orders": 1, "prompt_version": "1"}
TEXT = st.text(st.characters(exclude_categories=()), max_size=8).filter(lambda text: text != "truth")

RECORD = {
    "group_id": "g/1",
    "source": "made up",
    "task": {"messages": [{"role": "user", "content": "2+2?"}], "reference": "4", "difficulty": "low"},
    "tools": [{"name": "add"}],
    "rollouts": [
        {"id": "a", "messages": [{"role": "assistant", "content": "4"}], "truth": 0.8125, "meta": {"model": "x"}},
        {"id": "b", "messages": "5", "truth": 0, "finish_reason": "length", "tools": [], "histories": {"s": "x"}},
        {"id": "c", "messages": [], "note": 1},
    ],
    "truth_kind": "graded",
}


def written(folder: Path, *lines: object, name: str = "groups.jsonl") -> str:
    content = b"".join(line if isinstance(line, bytes) else (json.dumps(line) + "\n").encode("utf-8") for line in lines)
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return str(folder / name)


def read_one(folder: Path, line: object) -> LabelledGroup:
    [found] = read_labelled(written(folder, line))
    assert isinstance(found, LabelledGroup), str(found)
    return found


@pytest.mark.parametrize("name", ["groups.jsonl", "groups.jsonl.gz"])
def test_a_record(tmp_path, name):
    [found] = read_labelled(written(tmp_path, RECORD, name=name))
    assert found.truth == {"a": 0.8125, "b": 0.0}
    group = found.group
    assert (group.id, group.reference, [r.id for r in group.rollouts]) == ("g/1", "4", ["a", "b", "c"])
    assert [m.content for m in group.task] == [("2+2?",)]
    assert group.tools[0].name == "add"
    assert group.metadata == {"source": "made up", "truth_kind": "graded", "task": {"difficulty": "low"}}
    a, b, c = group.rollouts
    assert (a.metadata, a.tools, a.finish_reason) == ({"meta": {"model": "x"}}, None, None)
    assert (b.tools, b.finish_reason, b.histories[0].name) == ((), "length", "s")
    assert (c.metadata, c.messages) == ({"note": 1}, ())
    assert list(read_groups(written(tmp_path, RECORD))) == [group]


def test_truth_is_no_part_of_the_group(tmp_path):
    record = {**RECORD, "truth": {"a": 0.8125}, "task": {**RECORD["task"], "truth": 0.8125}}
    shown = repr(read_one(tmp_path, record).group)
    assert "0.8125" not in shown
    assert "'truth'" not in shown


def test_the_digest_does_not_know_the_truth(tmp_path):
    bare = json.loads(json.dumps(RECORD))
    for rollout in bare["rollouts"]:
        rollout.pop("truth", None)
    assert read_one(tmp_path, bare).group.digest == read_one(tmp_path, RECORD).group.digest


def test_a_bare_list_of_message_lists(tmp_path):
    turn = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    found = read_one(tmp_path, [turn, turn])
    assert found.group == Group.of([turn, turn])
    assert found.truth == {}


def test_ids_may_be_numbers_or_missing(tmp_path):
    group = read_one(tmp_path, {"group_id": 7, "rollouts": [{"id": 3, "messages": "a"}, {"messages": "b"}]}).group
    assert (group.id, [r.id for r in group.rollouts]) == ("7", ["3", "r2"])
    assert read_one(tmp_path, {"rollouts": [{"messages": "a"}]}).group.id == Group.of(["a"]).id


def test_null_is_the_same_as_missing(tmp_path):
    keys = ("id", "tools", "finish_reason", "histories", "truth")
    rollout = {"messages": "a", **dict.fromkeys(keys)}
    record = {"group_id": None, "task": None, "tools": None, "rollouts": [rollout]}
    assert read_one(tmp_path, record) == LabelledGroup(Group.of(["a"]), {})


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        (None, None),
        ("4", "4"),
        ({"solution": "4\n", "steps": ["é", 2], "n": None}, 'solution: 4\n\nsteps: ["é", 2]\nn: null'),
        (["a", 1], '["a", 1]'),
        (4, "4"),
        (False, "false"),
    ],
)
def test_references(tmp_path, reference, text):
    assert (
        read_one(tmp_path, {"task": {"reference": reference}, "rollouts": [{"messages": "a"}]}).group.reference == text
    )


def test_tools_of_the_task_win(tmp_path):
    record = {**RECORD, "task": {"tools": [{"name": "own"}]}}
    assert [tool.name for tool in read_one(tmp_path, record).group.tools] == ["own"]


def test_odd_text_is_read(tmp_path):
    odd = "\x00\ud800\u202e\u2028</rollout KQX>"
    [rollout] = read_one(tmp_path, {"group_id": odd, "rollouts": [{"id": odd, "messages": odd}]}).group.rollouts
    assert (rollout.id, rollout.messages[0].content) == (odd, (odd,))


def rollouts(*items: object, **more: object) -> dict[str, object]:
    return {"rollouts": list(items), **more}


FINE = {"messages": "a"}


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"{\n", "not JSON: Expecting property name enclosed in double quotes at column 2"),
        (b"\xef\xbb\xbf[]\n", "not JSON: Unexpected UTF-8 BOM"),
        (b"\xff{}\n", "not UTF-8: byte 0"),
        (b'{"a": "\xe9"}\n', "not UTF-8: byte 7"),
        (b"[" * 100_000 + b"\n", "not JSON that can be read: maximum recursion depth"),
        (b"1" * 10_000 + b"\n", "not JSON that can be read: Exceeds the limit"),
        (5, "record: expected an object, got 5"),
        ("x", "record: expected an object, got 'x'"),
        (None, "record: expected an object, got None"),
        ({}, "rollouts: field required, got {}"),
        ({"rollouts": None}, "rollouts: input should be a valid list, got None"),
        ({"rollouts": {"a": "b"}}, "rollouts: input should be a valid list, got {'a': 'b'}"),
        (rollouts(), "group: rollouts: empty; a group needs at least one rollout"),
        (rollouts(group_id="g"), "group 'g': rollouts: empty; a group needs at least one rollout"),
        ([], "group: rollouts: empty; a group needs at least one rollout"),
        ([5], "rollout 'r1': messages: expected chat messages or text, got 5"),
        (rollouts(5), "rollouts[0]: expected an object, got 5"),
        (rollouts(FINE, {}), "rollouts[1].messages: field required, got {}"),
        (rollouts({"messages": None}), "rollout 'r1': messages: expected chat messages or text, got None"),
        (
            rollouts({"id": "a", "messages": [{"role": "critic"}]}, group_id="g"),
            "group 'g': rollout 'a': messages[0].role: expected one of system, developer, user, human, assistant, ai, "
            "tool, function, got 'critic'",
        ),
        (rollouts({"id": "a", **FINE}, {"id": "a", **FINE}), "group: rollouts: the id 'a' occurs twice"),
        (rollouts({"id": "r2", **FINE}, FINE, group_id="g"), "group 'g': rollouts: the id 'r2' occurs twice"),
        (rollouts({"id": 1, **FINE}, {"id": "1", **FINE}), "group: rollouts: the id '1' occurs twice"),
        (rollouts({"id": "", **FINE}), "rollout id: expected a non-empty string, got ''"),
        (rollouts({"id": [], **FINE}), "rollouts[0].id: input should be a valid string, got []"),
        (rollouts({"id": True, **FINE}), "rollouts[0].id: input should be a valid string, got True"),
        (rollouts(FINE, group_id={}), "group_id: input should be a valid string, got {}"),
        (rollouts({**FINE, "truth": float("nan")}), "rollouts[0].truth: input should be a finite number, got nan"),
        (rollouts({**FINE, "truth": float("inf")}), "rollouts[0].truth: input should be a finite number, got inf"),
        (b'{"rollouts": [{"messages": "a", "truth": 1e999}]}\n', "rollouts[0].truth: input should be a finite number"),
        (rollouts({**FINE, "truth": "right"}), "rollouts[0].truth: input should be a valid number"),
        (rollouts({**FINE, "truth": "true"}), "rollouts[0].truth: input should be a valid number, got 'true'"),
        (rollouts({**FINE, "truth": [1]}), "rollouts[0].truth: input should be a valid number, got [1]"),
        (rollouts({**FINE, "finish_reason": 5}), "rollouts[0].finish_reason: input should be a valid string, got 5"),
        (rollouts({**FINE, "histories": []}), "rollouts[0].histories: input should be a valid dictionary, got []"),
        (
            rollouts({**FINE, "histories": {"s": 5}}),
            "rollout 'r1': histories['s']: expected chat messages or text, got 5",
        ),
        (rollouts({**FINE, "tools": "f"}), "rollout 'r1': tools: expected a list of tool definitions, got 'f'"),
        (rollouts(FINE, tools=[{}]), "tools[0].name: expected text, got None"),
        (rollouts(FINE, task=4), "task: expected an object, got 4"),
        (rollouts(FINE, task={"messages": 5}), "task.messages: expected chat messages or text, got 5"),
        (
            rollouts({"id": [], **FINE}, {}),
            "rollouts[0].id: input should be a valid string, got [] (and 1 more)",
        ),
        (
            [[{"role": "user", "content": "q1"}], [{"role": "user", "content": "q2"}]],
            "group: rollouts 'r1' and 'r2' differ at messages[0]",
        ),
    ],
)
def test_a_bad_line_gives_one_clear_error_and_hides_nothing(tmp_path, line, error):
    path = written(tmp_path, ["before"], b"\n", b" \t\r\n", line, ["after"])
    before, bad, after = read_labelled(path)
    assert (before.group, after.group) == (Group.of(["before"]), Group.of(["after"]))
    assert isinstance(bad, BadLine)
    assert str(bad).startswith(f"{path}:4: {error}")
    assert "\n" not in str(bad)
    assert len(str(bad)) < len(path) + 300


@pytest.mark.parametrize(
    "shape",
    [
        '{"rollouts": [{"messages": "x"}], "task": {"reference": %s}}',
        '{"rollouts": [{"messages": %s}]}',
        '{"rollouts": %s}',
        '[[{"role": "user", "content": [{"type": "image", "url": %s}]}]]',
        '[[{"role": "assistant", "tool_calls": [{"name": "f", "arguments": %s}]}]]',
        '[[{"role": %s}]]',
        "%s",
    ],
)
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_no_depth_of_nesting_ends_the_file(tmp_path, shape, opening, closing):
    limit = sys.getrecursionlimit()
    depths = range(limit - 150, limit, 2 if opening == "[" else 1)
    inner = "" if opening == "[" else "1"
    lines = [(shape % (opening * depth + inner + closing * depth) + "\n").encode() for depth in depths]
    found = list(read_labelled(written(tmp_path, *lines, ["after"])))
    assert len(found) == len(depths) + 1
    assert isinstance(found[-1], LabelledGroup)


def test_the_last_line_needs_no_line_end(tmp_path):
    assert [str(found.group.rollouts[0].id) for found in read_labelled(written(tmp_path, b'["a"]'))] == ["r1"]


def test_an_empty_file_has_no_groups(tmp_path):
    assert list(read_labelled(written(tmp_path))) == []
    assert list(read_labelled(written(tmp_path, name="x.gz"))) == []


def test_one_id_for_two_contents(tmp_path):
    one, other = rollouts(FINE, group_id="g"), rollouts({"messages": "b"}, group_id="g")
    path = written(tmp_path, one, other, one)
    first, bad, again = read_labelled(path)
    assert isinstance(first, LabelledGroup)
    assert str(bad) == f"{path}:2: group_id: 'g' stands on line 1 with other rollouts"
    assert str(again) == f"{path}:3: group 'g': repeats line 1, which is judged once"


def test_ids_that_changed_places_are_other_rollouts(tmp_path):
    path = written(tmp_path, {"group_id": "g", "rollouts": [{"messages": "a"}, {"messages": "b"}]})
    swapped = written(
        tmp_path, {"group_id": "g", "rollouts": [{"messages": "b"}, {"messages": "a"}]}, name="swapped.jsonl"
    )
    [one], [other] = read_labelled(path), read_labelled(swapped)
    assert one.group.digest == other.group.digest
    assert one.group.rollouts_digest != other.group.rollouts_digest


def test_a_file_that_is_cut(tmp_path):
    lines = [[os.urandom(200).hex()] for _ in range(50)]
    path = written(tmp_path, *lines, name="x.jsonl.gz")
    Path(path).write_bytes(Path(path).read_bytes()[:-500])
    *groups, bad = read_labelled(path)
    assert 30 < len(groups) < 50
    assert all(isinstance(found, LabelledGroup) for found in groups)
    assert str(bad).startswith(f"{path}:{len(groups) + 1}: the file is damaged from here on: Compressed file ended")


def test_a_file_that_is_not_compressed(tmp_path):
    path = tmp_path / "x.jsonl.gz"
    path.write_text('["a"]\n')
    [bad] = read_labelled(str(path))
    assert str(bad).startswith(f"{path}:1: the file is damaged from here on: Not a gzipped file")


@pytest.mark.parametrize(("name", "why"), [("missing.jsonl", "No such file"), (".", "Is a directory")])
def test_a_file_that_cannot_be_opened(tmp_path, name, why):
    path = os.path.join(tmp_path, name)
    with pytest.raises(ConfigError) as caught:
        list(read_labelled(path))
    assert str(caught.value).startswith(f"{path}: cannot be read: {why}")


def test_standard_input_and_output():
    code = (
        "from ruler.records import *\n"
        "print([str(found) if isinstance(found, BadLine) else found.group.id for found in read_labelled('-')])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=b'["a"]\n{\n["b"]\n', stdout=subprocess.PIPE, cwd=ROOT, check=True
    )
    a, b = (Group.of([text]).id for text in "ab")
    bad = "-:2: not JSON: Expecting property name enclosed in double quotes at column 2"
    assert done.stdout.decode().strip() == str([a, bad, b])


RECORDS = st.fixed_dictionaries(
    {
        "group_id": TEXT,
        "task": st.fixed_dictionaries({}, optional={"messages": TEXT, "reference": TEXT, "truth": st.just(0.8125)}),
        "rollouts": st.lists(
            st.fixed_dictionaries(
                {"messages": TEXT, "truth": st.sampled_from([0.8125, 8125.5, -0.8125]), "meta": TEXT}
            ),
            min_size=1,
            max_size=4,
        ),
    },
    optional={"truth_kind": TEXT, "truth": st.lists(st.just(0.8125))},
)


@given(record=RECORDS)
@settings(max_examples=100)
def test_no_truth_reaches_any_group(tmp_path_factory, record):
    found = read_one(tmp_path_factory.getbasetemp(), record)
    assert list(found.truth.values()) == [rollout["truth"] for rollout in record["rollouts"]]
    shown = repr(found.group)
    assert "8125" not in shown
    assert "'truth'" not in shown


# Shared data


@pytest.mark.slow
def test_all_sample_groups_are_read_and_none_knows_its_truth(data_folder):
    count = 0
    for path in sorted(map(str, data_folder.glob("*.jsonl*"))):
        opened = gzip.open if path.endswith(".gz") else open
        with opened(path, "rb") as file:
            records = [json.loads(line) for line in file]
        for record, found in zip(records, read_labelled(path), strict=True):
            assert isinstance(found, LabelledGroup), str(found)
            assert found.truth == {rollout["id"]: rollout["truth"] for rollout in record["rollouts"]}
            group = found.group
            assert not hasattr(group, "truth")
            for metadata in (group.metadata, *(rollout.metadata for rollout in group.rollouts)):
                assert "truth" not in metadata
            stripped = replace(group, rollouts=tuple(replace(r, metadata={}) for r in group.rollouts), metadata={})
            assert "'truth'" not in repr(stripped)
            count += 1
    assert count == 1251


def test_standard_input_that_is_no_file(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("x"))
    with pytest.raises(ConfigError, match="-: cannot be read: "):
        list(read_labelled("-"))


def test_counting_lines_leaves_out_blank_ones_and_what_is_damaged(tmp_path):
    assert count_lines(written(tmp_path, ["a"], b"\n", ["b"])) == 2
    whole = gzip.compress(b'["a"]\n' * 1000)
    (tmp_path / "cut.gz").write_bytes(whole[:-9])
    assert count_lines(str(tmp_path / "cut.gz")) <= 1000


def test_a_group_from_bytes():
    assert read_group(json.dumps(RECORD).encode()).id == "g/1"
    assert read_group(b'["a", "b"]\r\n') == read_record(["a", "b"]) == Group.of(["a", "b"])


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"", "not JSON: Expecting value at column 1"),
        (b'{"rollouts": []}', "group: rollouts: empty; a group needs at least one rollout"),
        (b'{"rollouts": [{"messages": %s}]}' % (b"[" * 900 + b"]" * 900), None),
    ],
)
def test_bytes_that_are_no_group(line, error):
    with pytest.raises(GroupError) as caught:
        read_group(line)
    assert error is None or str(caught.value) == error


# Writing a group


def test_a_group_as_a_record():
    group = Group.of(
        [
            [
                {"role": "assistant", "tool_calls": [{"id": "x9", "name": "add", "arguments": {"a": 2}}]},
                {"role": "tool", "tool_call_id": "x9", "content": "4"},
                {"role": "assistant", "content": "4", "reasoning": "easy", "refusal": "no"},
            ],
            Rollout.of("b", "5", tools=[], finish_reason="length", histories={"s": "x"}, metadata={"kept": "here"}),
        ],
        id="g",
        task=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}, "2+2?"]}],
        tools=[{"name": "add", "description": "sum", "input_schema": {"type": "object"}}],
        reference="4",
        metadata={"kept": "here"},
    )
    call = {"id": "call_0", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}
    tool = {"name": "add", "description": "sum", "parameters": {"type": "object"}}
    assert group_record(group) == {
        "group_id": "g",
        "task": {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image", "url": "data:,x"}, {"type": "text", "text": "2+2?"}],
                }
            ],
            "tools": [{"type": "function", "function": tool}],
            "reference": "4",
        },
        "rollouts": [
            {
                "id": "r1",
                "messages": [
                    {"role": "assistant", "content": "", "tool_calls": [call]},
                    {"role": "tool", "content": "4", "tool_call_id": "call_0"},
                    {"role": "assistant", "content": "4", "reasoning_content": "easy", "refusal": "no"},
                ],
            },
            {
                "id": "b",
                "messages": [{"role": "assistant", "content": "5"}],
                "tools": [],
                "finish_reason": "length",
                "histories": {"s": [{"role": "assistant", "content": "x"}]},
            },
        ],
    }


ODD = st.text(st.characters(exclude_categories=()), max_size=4)
CALL_IDS = st.sampled_from([None, "", "x", "y", "call_0", "none", 3])
NAMES = st.sampled_from(["f", "g", ""])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ODD,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(ODD, inner, max_size=2),
    max_leaves=4,
)
MEDIA = st.sampled_from(["image_url", "input_audio", "video", "file"]).flatmap(
    lambda kind: st.one_of(ODD.map(lambda url: {"type": kind, "url": url}), st.just({"type": kind, "x": "\ud800"}))
)
CONTENT = st.one_of(
    st.none(),
    ODD,
    st.lists(st.one_of(ODD, MEDIA, st.fixed_dictionaries({"type": st.just("refusal"), "refusal": ODD})), max_size=3),
)
CALLS = st.lists(
    st.fixed_dictionaries(
        {"id": CALL_IDS, "function": st.fixed_dictionaries({"name": NAMES, "arguments": JSON | JSON.map(json.dumps)})}
    ),
    max_size=3,
)
MESSAGE = st.one_of(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "assistant"]), "content": CONTENT},
        optional={
            "tool_calls": CALLS,
            "reasoning": ODD,
            "refusal": ODD,
            "finish_reason": st.sampled_from(["", "stop", "length"]),
        },
    ),
    st.fixed_dictionaries(
        {"role": st.just("tool"), "content": CONTENT}, optional={"tool_call_id": CALL_IDS, "name": NAMES}
    ),
)
TOOL = st.fixed_dictionaries({"name": st.sampled_from("fg")}, optional={"description": ODD, "parameters": JSON})
FIRST = st.just({"role": "assistant", "content": "first"})  # groups without a task have to open alike
ROLLOUT = st.fixed_dictionaries(
    {"messages": st.lists(MESSAGE, max_size=4)},
    optional={
        "tools": st.lists(TOOL, max_size=1),
        "finish_reason": st.sampled_from(["", "stop"]),
        "histories": st.dictionaries(ODD, st.lists(MESSAGE, max_size=2), max_size=2),
    },
)


@st.composite
def groups(draw: st.DrawFn) -> Group:
    """Groups read from what frameworks have, with whole conversations and without, and with tasks said again."""
    task = draw(st.lists(MESSAGE, max_size=3))
    opening = task * draw(st.integers(0, 2)) if task else [draw(FIRST)]
    names = draw(st.lists(ODD.filter(bool), min_size=1, max_size=3, unique=True))
    given = [draw(ROLLOUT) for _ in names]
    rollouts = [
        Rollout.of(name, [*opening, *one.pop("messages")], **one) for name, one in zip(names, given, strict=True)
    ]
    tools, reference = draw(st.none() | st.lists(TOOL, max_size=2)), draw(st.none() | JSON)
    try:
        return Group.of(rollouts, task=task or None, id=draw(ODD), tools=tools, reference=reference, metadata={"m": 1})
    except GroupError:  # by chance only some of them begin with the task
        reject()


@pytest.mark.slow
@given(group=groups())
@settings(max_examples=400)
def test_what_is_written_is_read_as_the_same_group(group):
    ids = [rollout.id for rollout in group.rollouts]
    try:
        line = json_line(group_record(group))
    except GroupError as error:
        assert "as two surrogates" in str(error)  # noqa: PT017  the one text that JSON cannot tell from another
        return
    read = read_group(line)
    assert (read.id, [rollout.id for rollout in read.rollouts]) == (group.id, ids)
    assert read.rollouts_digest == group.rollouts_digest
    assert read.metadata == {}


CALLING = {"role": "assistant", "tool_calls": [{"id": "a", "name": "f"}, {"id": "b", "name": "f"}]}


@pytest.mark.parametrize(
    ("task", "rest", "said"),
    [
        ([{"role": "user", "content": "q"}], [{"role": "assistant", "content": "a"}], 1),
        ([{"role": "user", "content": "q"}], [{"role": "user", "content": "q"}], 3),
        ([CALLING], [{"role": "tool", "tool_call_id": "b", "content": "4"}], 3),
        ([CALLING], [CALLING, {"role": "tool", "tool_call_id": "b", "content": "4"}], 3),
        ([CALLING], [{"role": "tool", "tool_call_id": "c", "content": "4"}], 1),
    ],
)
def test_the_task_stands_in_the_rollouts_only_where_they_are_not_read_without_it(task, rest, said):
    group = Group.of([[*task, *rest], [*task, *rest, *rest]], task=task)
    record = group_record(group)
    tasks = [record["task"]["messages"], *(one["messages"][:1] for one in record["rollouts"])]
    assert sum(one == tasks[0] for one in tasks) == said
    assert read_group(json_line(record)) == group


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (Message("critic", ("x",)), "role"),
        (Message("user", ("x", "y")), "'x', 'y'"),
        (Message("tool", ("x",), answers=0), "answers=0"),
        (Message("assistant", tool_calls=(ToolCall("f", ""),)), "arguments=''"),
    ],
)
def test_messages_made_by_hand_that_no_chat_can_say_are_refused_before_they_are_sent(message, named):
    with pytest.raises(GroupError, match=f"^group 'g': rollout 'a': .*{named}"):
        group_record(Group((Rollout("a", (message,)),), id="g"))


def test_an_id_that_json_would_change_is_refused():
    with pytest.raises(GroupError, match="rollout id: .* two surrogates"):
        group_record(Group.of(["a"], ids=["\ud83d\ude00"]))
    with pytest.raises(GroupError, match="id: .* two surrogates"):
        group_record(Group.of(["a"], id="\ud83d\ude00"))


@pytest.mark.slow
def test_all_sample_groups_are_written_as_they_were_read(data_folder):
    for path in sorted(map(str, data_folder.glob("*.jsonl*"))):
        for group in list(read_groups(path))[:40]:
            assert isinstance(group, Group)
            assert read_group(json_line(group_record(group))).rollouts_digest == group.rollouts_digest
