"""The service's OpenAPI document as a page: every call with its parameters, bodies, answers and examples.

FastAPI's own page loads its scripts from another host.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ruler.service.page_text import AsIs

_MAX_DEPTH = 4
"""Levels of a schema that get lines of their own."""
_REFERENCE = "#/components/schemas/"


@dataclass(frozen=True, slots=True)
class Field:
    """One property of an object, or one parameter."""

    name: AsIs
    """With its path, `rollouts[].id`."""
    kind: AsIs
    required: bool
    words: tuple[tuple[str, AsIs], ...]
    """Its description, in pieces of ("code" or "text", words)."""


@dataclass(frozen=True, slots=True)
class Body:
    """One form of a request's or an answer's body."""

    media_type: AsIs
    schema: AsIs
    """Name of a schema on this page, or a type."""
    is_named: bool
    example: AsIs


@dataclass(frozen=True, slots=True)
class Answer:
    """One status that a call can end with."""

    status: AsIs
    words: tuple[tuple[str, AsIs], ...]
    bodies: tuple[Body, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """One method of one path."""

    anchor: AsIs
    method: AsIs
    path: AsIs
    summary: AsIs
    words: tuple[tuple[str, AsIs], ...]
    parameters: tuple[Field, ...]
    bodies: tuple[Body, ...]
    answers: tuple[Answer, ...]
    """Those with scores, or what else was asked for."""
    errors: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Schema:
    """One named schema; several alternatives where it has those."""

    name: AsIs
    alternatives: tuple[tuple[Field, ...], ...]


@dataclass(frozen=True, slots=True)
class Document:
    """The page."""

    title: AsIs
    version: AsIs
    sections: tuple[tuple[AsIs, tuple[Call, ...]], ...]
    """Tag -> its calls."""
    schemas: tuple[Schema, ...]


def read_document(document: Mapping[str, Any]) -> Document:
    """What the page shows of an OpenAPI 3.1 document."""
    sections: dict[str, list[Call]] = {}
    for path, methods in document["paths"].items():
        for method, call in methods.items():
            sections.setdefault(call.get("tags", ["Calls"])[0], []).append(_call(method, path, call))
    return Document(
        title=AsIs(document["info"]["title"]),
        version=AsIs(document["info"]["version"]),
        sections=tuple((AsIs(tag), tuple(calls)) for tag, calls in sections.items()),
        schemas=tuple(
            Schema(AsIs(name), tuple(tuple(_fields(one)) for one in schema.get("anyOf", [schema])))
            for name, schema in document.get("components", {}).get("schemas", {}).items()
        ),
    )


def _call(method: str, path: str, call: Mapping[str, Any]) -> Call:
    answers = [
        Answer(AsIs(status), _words(answer.get("description", "")), _bodies(answer.get("content", {})))
        for status, answer in sorted(call.get("responses", {}).items(), key=lambda item: str(item[0]))
    ]
    summary = call.get("summary", "")
    return Call(
        anchor=AsIs("".join(char if char.isalnum() else "-" for char in f"{method}{path}")),
        method=AsIs(method.upper()),
        path=AsIs(path),
        summary=AsIs(summary),
        words=_words(call.get("description", "")),
        parameters=tuple(_parameter(parameter) for parameter in call.get("parameters", ())),
        bodies=_bodies(call.get("requestBody", {}).get("content", {})),
        answers=tuple(answer for answer in answers if answer.status < "4"),
        errors=tuple(answer for answer in answers if answer.status >= "4"),
    )


def _parameter(parameter: Mapping[str, Any]) -> Field:
    schema = parameter.get("schema", {})
    words = parameter.get("description") or schema.get("description", "")
    return Field(AsIs(parameter["name"]), AsIs(_kind(schema)), parameter.get("required", False), _words(words))


def _bodies(content: Mapping[str, Any]) -> tuple[Body, ...]:
    return tuple(_body(media_type, body) for media_type, body in content.items())


def _body(media_type: str, body: Mapping[str, Any]) -> Body:
    schema = body.get("schema", {})
    example = body.get("example")
    text = example if isinstance(example, str) else json.dumps(example, ensure_ascii=False, indent=2)
    return Body(
        AsIs(media_type), AsIs(_kind(schema)), "$ref" in schema, AsIs("" if example is None else text.rstrip("\n"))
    )


def _fields(schema: Mapping[str, Any], path: str = "", depth: int = 0) -> Iterator[Field]:
    required = schema.get("required", ())
    for name, inner in schema.get("properties", {}).items():
        yield Field(AsIs(path + name), AsIs(_kind(inner)), name in required, _words(inner.get("description", "")))
        if depth < _MAX_DEPTH:
            yield from _fields(inner, f"{path}{name}.", depth + 1)
            yield from _fields(inner.get("items", {}), f"{path}{name}[].", depth + 1)


def _kind(schema: Mapping[str, Any]) -> str:
    """A schema in words: `list of Rollout`, `integer ≥ 1 or null`."""
    if "$ref" in schema:
        return str(schema["$ref"]).removeprefix(_REFERENCE)
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(one) for one in schema["anyOf"]))
    values = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    if values:
        return " | ".join(json.dumps(value) for value in values)
    named = schema.get("type", "any")
    return " or ".join(_one_kind(kind, schema) for kind in ([named] if isinstance(named, str) else named))


def _one_kind(kind: str, schema: Mapping[str, Any]) -> str:
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    low, high = schema.get("minimum"), schema.get("maximum")
    if kind not in ("integer", "number") or (low is None and high is None):
        return kind
    return (
        f"{kind} {low} … {high}"
        if None not in (low, high)
        else f"{kind} ≥ {low}"
        if high is None
        else f"{kind} ≤ {high}"
    )


def _words(description: str) -> tuple[tuple[str, AsIs], ...]:
    """The text between backticks as code."""
    pieces: Iterable[str] = " ".join(description.split()).split("`")
    return tuple(("code" if place % 2 else "text", AsIs(piece)) for place, piece in enumerate(pieces) if piece)
