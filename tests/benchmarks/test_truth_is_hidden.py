"""No way of asking shows a judge truth, or what else a record says for people: the requests are the same without it."""

from __future__ import annotations

import asyncio
import copy
import gzip
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.original_asking import ask_original
from benchmarks.pairwise import ask_pairwise
from benchmarks.pointwise import ask_pointwise
from benchmarks.tournament import ask_tournament
from judges.scripted import ScriptedJudge, scores_reply
from ruler import Group, Judge, JudgeRequest, Ruler
from ruler.orders import Orders
from ruler.records import LabelledGroup, read_labelled
from tests.benchmarks.known_truth import know_nothing, tell_nothing, texts_of
from tests.test_real_groups import FILES

REFERENCE = "planted-in-the-reference"
ELSEWHERE = "planted-elsewhere"
Ask = Callable[[Judge, Sequence[Group]], Awaitable[object]]
Record = dict[str, Any]


def listwise(orders: Orders, *, notes: bool = True, reference: bool = False) -> Ask:
    """The library's own way."""
    return lambda judge, groups: Ruler(judge, orders=orders, notes=notes, reference=reference).score_many(groups)


FORMS: Mapping[str, Ask] = {
    **{f"listwise {k} {notes=}": listwise(k, notes=notes) for k in (1, 2, 4) for notes in (True, False)},
    "pointwise": lambda judge, groups: ask_pointwise(judge, groups, tell=tell_nothing),
    "pairwise": lambda judge, groups: ask_pairwise(judge, groups, tell=tell_nothing),
    "tournament": lambda judge, groups: ask_tournament(judge, groups, tell=tell_nothing),
    "original": lambda judge, groups: ask_original(judge, groups, know=know_nothing),
}


def reply(request: JudgeRequest) -> str:
    """By length, so that a tournament takes its course, in the form that is asked for."""
    if request.ids[0] == "1":
        items = [{"trajectory_id": name, "explanation": "", "score": 0.5} for name in request.ids]
        return json.dumps({"scores": items})
    return scores_reply({label: len(text) % 101 for label, text in texts_of(request).items()})


def requests_of(ask: Ask, records: Sequence[Record], path: Path) -> list[str]:
    """Everything that is asked about a file of these records, as text."""
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    read = list(read_labelled(str(path)))
    groups = [found.group for found in read if isinstance(found, LabelledGroup)]
    assert len(groups) == len(records)
    judge = ScriptedJudge(reply)
    asyncio.run(ask(judge, groups))  # type: ignore[arg-type]
    assert judge.requests
    shown = [{f.name: getattr(one, f.name) for f in fields(one) if f.name != "check"} for one in judge.requests]
    return sorted(json.dumps(one, default=repr) for one in shown)


def planted(record: Record) -> Record:
    """The record with a reference that can be told from all other text."""
    task = {**record["task"], "reference": {"solution": REFERENCE}}
    return {**copy.deepcopy(record), "task": task}


def altered(record: Record, truths: Sequence[float | None], said: object) -> Record:
    """The record with other truths, in turn, and this in place of whatever else is not for the judge."""
    other = copy.deepcopy(record)
    for place, rollout in enumerate(other["rollouts"]):
        rollout["truth"] = truths[place % len(truths)]
        rollout["meta"] = said
    return {**other, **dict.fromkeys(("meta", "split", "split_key", "truth_kind", "source", "license"), said)}


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES.split())
def test_real_groups_give_the_same_requests_whatever_their_truth(name: str, data_folder: Path, tmp_path: Path) -> None:
    path = data_folder / name
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        records = [planted(json.loads(line)) for line in islice(file, 3)]
    mirrored = [altered(record, [1 - r["truth"] for r in record["rollouts"]], ELSEWHERE) for record in records]
    absent = [altered(record, [None], {ELSEWHERE: 1}) for record in records]
    for form, ask in FORMS.items():
        asked = requests_of(ask, records, tmp_path / "groups.jsonl")
        assert asked == requests_of(ask, mirrored, tmp_path / "groups.jsonl"), form
        assert asked == requests_of(ask, absent, tmp_path / "groups.jsonl"), form
        assert not any(REFERENCE in request for request in asked), form
    assert all(REFERENCE in request for request in _with_reference(records, tmp_path))


def _with_reference(records: Sequence[Record], folder: Path) -> list[str]:
    return requests_of(listwise(1, reference=True), records, folder / "groups.jsonl")


MADE: Record = {
    "group_id": "g",
    "source": "s",
    "task": {"messages": [{"role": "user", "content": "How many?"}], "reference": {"solution": REFERENCE}},
    "rollouts": [
        {"id": f"r{n}", "messages": [{"role": "assistant", "content": "x" * n}], "truth": n / 3, "meta": {"model": "m"}}
        for n in range(1, 4)
    ],
    "truth_kind": "graded",
    "split": "dev",
    "meta": {"mix": "mixed"},
}
SAID = st.one_of(st.text(), st.integers(), st.none(), st.dictionaries(st.text(), st.text(), max_size=2))
TRUTHS = st.lists(st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)), min_size=1, max_size=3)


@settings(max_examples=6)
@given(truths=TRUTHS, said=SAID)
def test_a_group_gives_the_same_requests_whatever_its_truth(
    tmp_path_factory: pytest.TempPathFactory, truths: list[float | None], said: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "truth_is_hidden.jsonl"
    for form, ask in FORMS.items():
        asked = requests_of(ask, [MADE], path)
        assert asked == requests_of(ask, [altered(MADE, truths, said)], path), form
        assert not any(REFERENCE in request for request in asked), form


def test_only_reference_true_shows_the_reference(tmp_path: Path) -> None:
    assert all(REFERENCE in request for request in _with_reference([MADE], tmp_path))
    assert all(ELSEWHERE not in request for request in _with_reference([altered(MADE, [1], ELSEWHERE)], tmp_path))
