from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judges.store import Entry, key_bytes
from ruler.types import JudgeReply, Usage

# Half of a surrogate pair is text to Python, and comes out of JSON as it went in; two halves come out as one character.
texts = st.text(st.one_of(st.characters(), st.characters(categories=["Cs", "Cc", "Cf"])))
counts = st.integers(0, 2**70)
amounts = st.floats(0, sys.float_info.max)
usages = st.builds(
    Usage,
    calls=counts,
    input_tokens=counts,
    cached_input_tokens=counts,
    output_tokens=counts,
    cost_usd=st.none() | amounts,
    cache_hits=counts,
    retries=counts,
    wait_seconds=amounts,
)
replies = st.builds(
    JudgeReply,
    text=texts,
    model=texts,
    usage=usages,
    latency_seconds=amounts,
    finish_reason=st.none() | texts,
    distributions=st.none() | st.dictionaries(texts, st.dictionaries(st.integers(0, 100), st.floats(0, 1))),
)
entries = st.builds(Entry, judge=texts, created_at=st.floats(0, 2e11), reply=replies)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=10,
)
ENTRY = Entry(
    "judge",
    1.0,
    JudgeReply("text", "model", Usage(1, 10, 0, 5, 0.01), 1.5, "stop", distributions={"KQX": {10: 0.25, 90: 0.75}}),
)


def is_refused(text: str) -> bool:
    try:
        Entry.from_json(text)
    except ValueError:
        return True
    return False


def paired(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def paired_all(value: Any) -> Any:
    if isinstance(value, str):
        return paired(value)
    if isinstance(value, dict):
        return {paired_all(name): paired_all(item) for name, item in value.items()}
    return value


@given(entries)
def test_an_entry_comes_back_as_it_went_in(entry: Entry) -> None:
    text = entry.to_json()
    assert text.isascii()
    assert "\n" not in text
    read = Entry.from_json(text)
    assert read.judge == paired(entry.judge)
    assert read.created_at == entry.created_at
    for name in ("text", "model", "finish_reason", "distributions"):
        assert getattr(read.reply, name) == paired_all(getattr(entry.reply, name))
    assert read.reply.usage == entry.reply.usage
    assert read.reply.latency_seconds == entry.reply.latency_seconds
    assert read.to_json() == text


def test_numbers_keep_their_kinds() -> None:
    read = Entry.from_json(ENTRY.to_json())
    assert read == ENTRY
    assert read.reply.distributions == {"KQX": {10: 0.25, 90: 0.75}}
    assert read.reply.from_cache is False


@given(values)
def test_anything_else_is_a_value_error(value: object) -> None:
    assert is_refused(json.dumps(value))


@given(st.data())
def test_a_changed_entry_is_read_or_a_value_error(data: st.DataObject) -> None:
    record = json.loads(ENTRY.to_json())
    target = data.draw(
        st.sampled_from([record, record["usage"], record["distributions"], record["distributions"]["KQX"]])
    )
    target[data.draw(st.sampled_from(sorted(target)) | texts)] = data.draw(values)
    try:
        read = Entry.from_json(json.dumps(record))
    except ValueError:
        return
    assert Entry.from_json(read.to_json()) == read
    assert (read.reply.usage + Usage(wait_seconds=0.5)).wait_seconds >= 0.5


@given(st.text())
def test_text_that_is_no_json_is_a_value_error(text: str) -> None:
    assert is_refused(text)


@pytest.mark.parametrize("length", [0, 1, 30, 100, 200])
def test_half_an_entry_is_a_value_error(length: int) -> None:
    assert is_refused(ENTRY.to_json()[:length])


@pytest.mark.parametrize("text", ["[" * 100_000, '{"version":1,"judge":' * 50_000])
def test_depth_is_a_value_error(text: str) -> None:
    assert is_refused(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 2),
        ("version", None),
        ("judge", None),
        ("text", 5),
        ("text", None),
        ("finish_reason", 1),
        ("created_at", -1),
        ("created_at", float("nan")),
        ("created_at", float("inf")),
        ("created_at", 10**400),
        ("created_at", 1e12),
        ("created_at", "yesterday"),
        ("latency_seconds", True),
        ("usage", None),
        ("usage", {"calls": None}),
        ("usage", {"calls": -1}),
        ("usage", {"bills": 1}),
        ("distributions", ""),
        ("distributions", []),
        ("distributions", {"KQX": None}),
        ("distributions", {"KQX": {"ten": 0.5}}),
        ("distributions", {"KQX": {"10": "0.5"}}),
        ("distributions", {"KQX": {"10": 10**400}}),
        ("distributions", {"KQX": {"10": float("nan")}}),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_wrong_with_one_field(field: str, value: object) -> None:
    record = {**json.loads(ENTRY.to_json()), field: value}
    assert is_refused(json.dumps(record))


def test_a_missing_field_is_a_value_error() -> None:
    record = json.loads(ENTRY.to_json())
    for field in record:
        rest = {name: value for name, value in record.items() if name != field}
        with pytest.raises(ValueError, match=field):
            Entry.from_json(json.dumps(rest))


def test_key_bytes() -> None:
    assert key_bytes("00ff" * 16) == bytes([0, 255] * 16)
    for bad in ("", "00FF" * 16, "00ff" * 15, "00ff" * 16 + "\n", " " * 64, "gg" * 32):
        with pytest.raises(ValueError, match="key"):
            key_bytes(bad)
