"""The judge's text -> scores by id, or ReplyError. Nothing is guessed: no other scale, no missing id, no repair."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ruler.errors import ReplyError
from ruler.packing.neutralise import neutralise

MAX_REPLY_CHARS = 1_000_000
"""A longer reply is refused unread: 500 rollouts with notes need a tenth of it."""
_MAX_NOTE_CHARS = 2_000

_ITEM = {"id": {"type": "string"}}


def _array(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {**_ITEM, name: value},
            "required": ["id", name],
            "additionalProperties": False,
        },
    }


def reply_schema(*, notes: bool) -> dict[str, Any]:
    """The JSON schema of a reply: the same for every request of a run, ids are data in it.

    The range 0..100 stands in the prompt and is enforced here, not in the schema: several providers refuse schemas
    with numeric bounds.
    """
    properties = {"notes": _array("note", {"type": "string"})} if notes else {}
    properties["scores"] = _array("score", {"type": "integer"})
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a usable reply says."""

    scores: Mapping[str, float]
    """Every id that was asked, once; in [0, 1]."""
    notes: Mapping[str, str]
    """Notes on ids that were asked, odd text made visible; some or all may be missing."""


def read_reply(text: str, ids: Sequence[str]) -> Verdict:
    """The scores and notes in a judge's reply.

    Code fences and prose around the JSON are tolerated. Of several objects the last complete one that scores one of
    `ids` counts, and it must score exactly `ids`, each once, as numbers in 0..100 (fractions accepted).

    Raises:
        ReplyError: says what is wrong in words that a judge can act on; keeps the text as `raw`.
    """
    try:
        return _read(text, ids)
    except _Fault as fault:
        raise ReplyError(f"unusable reply: {fault}", raw=text) from None


class _Fault(Exception):
    pass


def _read(text: str, ids: Sequence[str]) -> Verdict:
    if not text.strip():
        raise _Fault("it is empty")
    if len(text) > MAX_REPLY_CHARS:
        raise _Fault(f"it has {len(text):,} characters, more than {MAX_REPLY_CHARS:,}")
    asked = set(ids)
    chosen: dict[str, Any] | None = None
    between: list[str] = []
    done = 0
    for found, start, stop in _objects(text):
        if not isinstance(found.get("scores"), list):
            continue
        between.append(text[done:start])
        done = stop
        if _AMBIGUOUS in found or _mentions(found["scores"], asked):
            chosen, between = found, []
    if chosen is None:
        raise _Fault('no complete JSON object with "scores" for the ids that were asked')
    if _AMBIGUOUS in chosen:
        raise _Fault("the object has a key twice")
    if any(map(_NEWER.search, (*between, text[done:]))):
        raise _Fault("after the scores begins another reply that is cut off, broken or wrapped")
    return Verdict(_scores(chosen["scores"], ids), _notes(chosen.get("notes"), asked))


# An opening brace with a key behind it: prose and LaTeX are full of others.
_OPENING = re.compile(r'\{\s*"')
_MAX_BROKEN = 500
_MAX_READS = 8
_NEWER = re.compile(r'"(?:scores|notes)"\s*:', re.IGNORECASE)


def _objects(text: str) -> Iterator[tuple[dict[str, Any], int, int]]:
    """The complete top-level JSON objects in the text, with where each begins and ends.

    An object inside a broken one is part of something that was cut off, and none of them.
    """
    decoder = json.JSONDecoder(object_pairs_hook=_pairs)
    position = broken = read = reach = 0
    while match := _OPENING.search(text, position):
        try:
            value, position = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError) as error:
            stop = error.pos if isinstance(error, json.JSONDecodeError) else len(text)
            reach = max(reach, stop)
            # Each broken one may be read to its end: bounds keep a hostile reply from costing minutes.
            broken += 1
            read += stop - match.start()
            if broken > _MAX_BROKEN or read > _MAX_READS * len(text):
                raise _Fault("it holds too many broken JSON objects") from None
            position = match.start() + 1
            continue
        if position > reach:
            yield value, match.start(), position


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    merged = dict(pairs)
    if len(merged) < len(pairs):
        # json keeps the last of two equal keys; which one the judge meant cannot be known.
        merged[_AMBIGUOUS] = True
    return merged


_AMBIGUOUS = "\0ambiguous"


def _mentions(items: list[Any], asked: set[str]) -> bool:
    # Scores of none of our ids are something the judge quoted. Without any id they are a failed attempt at ours.
    named = [item["id"] for item in items if isinstance(item, dict) and isinstance(item.get("id"), str)]
    meant = {name.casefold() for name in asked}
    return not named or any(name.strip().casefold() in meant for name in named)


def _scores(items: list[Any], ids: Sequence[str]) -> dict[str, float]:
    scores: dict[str, float] = {}
    for item in items:
        if not isinstance(item, dict) or not isinstance(item.get("id"), str):
            raise _Fault(f'"scores" holds {_shown(item)} where {{"id": …, "score": …}} is due')
        name, score = item["id"], item.get("score")
        if _AMBIGUOUS in item:
            raise _Fault(f"the item of {_shown(name)} has a key twice")
        if name not in ids:
            raise _Fault(f"unknown id {_shown(name)}; the ids are {', '.join(ids)}")
        if name in scores:
            raise _Fault(f"the id {name} is scored twice")
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise _Fault(f"the score of {name} is {_shown(score)}, not a number")
        if not 0 <= score <= 100:  # false for NaN, too
            raise _Fault(f"the score of {name} is {_shown(score)}, not in 0..100")
        scores[name] = score / 100 + 0.0  # no -0.0
    missing = [name for name in ids if name not in scores]
    if missing:
        raise _Fault(f"no score for {', '.join(missing)}")
    return scores


def _notes(items: object, asked: set[str]) -> dict[str, str]:
    notes = {}
    for item in items if isinstance(items, list) else ():
        name, note = (item.get("id"), item.get("note")) if isinstance(item, dict) else (None, None)
        if isinstance(name, str) and name in asked and isinstance(note, str):
            notes[name] = neutralise(note[:_MAX_NOTE_CHARS])[0]
    return notes


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
