"""What the calls take and give, for the OpenAPI document and the page made of it. Every example is one that works."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ruler.service.problems import STATUSES
from ruler.service.schemas import (
    ANY,
    COUNT,
    EXAMPLE_ANSWER,
    EXAMPLE_GROUP,
    EXAMPLE_JUDGED,
    EXAMPLE_POST,
    EXAMPLE_RESULT,
    EXAMPLE_WAITING,
    NUMBER,
    TEXT,
    object_of,
)

_READ = ("group", "unauthorized", "forbidden", "not_found", "slow_body", "too_large", "overloaded", "internal")
_JUDGE = ("packing", "budget", "rate_limited", "config", "judge", "rejected", "reply", "unavailable", "stopping")
_MEET = (*_JUDGE, "conflict", "superseded", "deadline")


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _content(kind: str, schema: Mapping[str, Any], example: object) -> dict[str, Any]:
    return {kind: {"schema": dict(schema), "example": example}}


def _errors(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The answers that these codes stand for, by status."""
    by_status: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        status, meaning = STATUSES[code]
        answer = by_status.setdefault(status, {"description": "", "content": {}})
        answer["description"] += f"{'; ' if answer['description'] else ''}`{code}`: {meaning}"
        message = "group_size: expected at least 1, got 0" if code == "group" else meaning
        answer["content"] = answer["content"] or _content(
            "application/json", _ref("Error"), {"error": {"code": code, "message": message}}
        )
    return by_status


_PARAMETERS: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "judge": (TEXT, "Name of a configured judge; none: `default`."),
    "rubric": (TEXT, "Name of a configured rubric; none: `default`."),
    "wait": ({"type": "number", "minimum": 0}, "Seconds to wait for the answer; 0: answer at once."),
    "group_id": (TEXT, "As it was posted."),
    "rollout_id": (TEXT, "As it was posted."),
    "attempt": (COUNT, "None: the newest."),
    "id": (TEXT, "Of one group: the newest under this id."),
    "number": (COUNT, "Of one group: as in the list."),
    "limit": ({"type": "integer", "minimum": 1, "maximum": 500}, "How many are listed."),
    "before": (COUNT, "Only those with a smaller number."),
    "group_size": ({"type": "integer", "minimum": 1}, "How many rollouts the trainer samples for a prompt."),
    "failure_reward": (NUMBER, "What all rollouts of a failed group get, in place of an error."),
}


def _parameter(name: str) -> dict[str, Any]:
    schema, description = _PARAMETERS[name.removesuffix("!")]
    required = name.endswith("!")
    name = name.removesuffix("!")
    return {"name": name, "in": "query", "required": required, "schema": dict(schema), "description": description}


def _call(
    summary: str,
    answers: Mapping[int, tuple[str, str, Mapping[str, Any], object]],
    errors: Iterable[str],
    *,
    tag: str,
    body: tuple[str, Mapping[str, Any], object] | None = None,
    query: str = "",
) -> dict[str, Any]:
    """Arguments for a route's decorator.

    Args:
        summary: one line.
        answers: status -> what it means, media type, schema, example.
        errors: codes.
        tag: where the call stands in the page.
        body: media type, schema, example.
        query: names of parameters; "!" marks one that is needed.
    """
    responses: dict[int | str, dict[str, Any]] = {
        status: {"description": meaning, "content": _content(kind, schema, example)}
        for status, (meaning, kind, schema, example) in answers.items()
    }
    for status, answer in _errors(*errors).items():
        if status in responses:
            responses[status]["content"] |= answer["content"]
        else:
            responses[status] = answer
    extra: dict[str, Any] = {"parameters": [_parameter(name) for name in query.split()]} if query else {}
    if body is not None:
        extra["requestBody"] = {"required": True, "content": _content(*body)}
    return {
        "summary": summary,
        "tags": [tag],
        "responses": responses,
        "openapi_extra": extra,
        "response_model": None,
    }


_JSON, _NDJSON, _PLAIN = "application/json", "application/x-ndjson", "text/plain"

SCORE = _call(
    "Score one group",
    {200: ("The scores, in the order of the rollouts sent.", _JSON, _ref("Result"), EXAMPLE_RESULT)},
    (*_READ, *_JUDGE),
    query="judge rubric",
    tag="Groups",
    body=(_JSON, _ref("Group"), EXAMPLE_GROUP),
)
BATCH = _call(
    "Score many groups",
    {
        200: (
            "A line per group as it is judged, failed ones included (`status: failed`); for a line that cannot be read "
            '`{"line": 3, "error": {…}}`.',
            _NDJSON,
            {"type": "string"},
            "one result per line",
        )
    },
    (*_READ, "stopping"),
    query="judge rubric",
    tag="Groups",
    body=(_NDJSON, {"type": "string"}, "one group per line"),
)
JOIN = _call(
    "Post one rollout of a group",
    {
        200: ("The score of this rollout.", _JSON, _ref("Answer"), EXAMPLE_ANSWER),
        202: (
            "`wait` is over and there is no answer yet; ask again.",
            _JSON,
            _ref("Waiting"),
            EXAMPLE_WAITING,
        ),
    },
    (*_READ, *_MEET),
    query="judge rubric wait",
    tag="Single rollouts",
    body=(_JSON, _ref("Rollout"), EXAMPLE_POST),
)
FIND = _call(
    "Ask for a rollout's score",
    {
        200: ("The score of this rollout.", _JSON, _ref("Answer"), EXAMPLE_ANSWER),
        202: (
            "There is no answer yet.",
            _JSON,
            _ref("Waiting"),
            EXAMPLE_WAITING,
        ),
    },
    (*_READ, *_MEET),
    query="group_id! rollout_id! attempt wait",
    tag="Single rollouts",
)
GROUPS = _call(
    "What was judged lately",
    {200: ("A list, or one group.", _JSON, _ref("Judged"), {"groups": [EXAMPLE_JUDGED]})},
    ("group", "unauthorized", "forbidden", "not_found", "internal"),
    query="id number limit before",
    tag="Groups",
)
PACK = _call(
    "See the prompts for a group",
    {200: ("A line per request, with its messages and tokens.", _NDJSON, {"type": "string"}, "one request per line")},
    (*_READ, "packing", "config"),
    query="judge rubric",
    tag="Groups",
    body=(_JSON, _ref("Group"), EXAMPLE_GROUP),
)
HEALTH = _call(
    "Is the process there", {200: ("It is.", _PLAIN, TEXT, "ok\n")}, ("forbidden", "internal"), tag="Monitoring"
)
READY = _call(
    "May requests come here",
    {
        200: ("They may.", _PLAIN, TEXT, "ready\n"),
        503: ("They should go elsewhere for now.", _PLAIN, TEXT, "the service is being stopped\n"),
    },
    ("forbidden", "internal"),
    tag="Monitoring",
)
METRICS = _call(
    "Counts for Prometheus",
    {200: ("The text format.", _PLAIN, TEXT, "ruler_groups_in_flight 3.0\n")},
    ("unauthorized", "forbidden", "internal"),
    tag="Monitoring",
)
OPENRLHF = _call(
    "Rollouts as OpenRLHF posts them",
    {
        200: (
            "A reward for each. `extra_logs` marks constants paid for failed groups, and ties.",
            _JSON,
            object_of(
                {
                    "rewards": {"type": "array", "items": NUMBER},
                    "scores": {"type": "array", "items": NUMBER},
                    "extra_logs": {"type": "object"},
                }
            ),
            {
                "rewards": [0.95],
                "scores": [0.95],
                "extra_logs": {
                    "judge_failed": [0],
                    "judge_tied": [0],
                    "judge_rank": [1],
                    "judge_num_rollouts": [8],
                },
            },
        )
    },
    (*_READ, *_MEET),
    tag="Other people's wires",
    body=(
        _JSON,
        object_of(
            {
                "query": {"type": "array", "minItems": 1, "items": TEXT},
                "prompts": {"type": "array", "minItems": 1, "items": TEXT},
                "labels": {"type": ["array", "null"]},
            },
            ["query", "prompts"],
        ),
        {"query": ["What is 6·7?42"], "prompts": ["What is 6·7?"], "labels": ["42"]},
    ),
    query="group_size! judge rubric failure_reward",
)
SLIME = _call(
    "A rollout as slime's remote_rm posts it",
    {200: ("The reward, a bare number. Headers mark constants and ties.", _JSON, NUMBER, 0.95)},
    (*_READ, *_MEET),
    tag="Other people's wires",
    body=(
        _JSON,
        object_of(
            {
                "prompt": {"anyOf": [TEXT, {"type": "array", "items": {"type": "object"}}]},
                "response": TEXT,
                "label": ANY,
            },
            ["prompt", "response"],
        ),
        {"prompt": "What is 6·7?", "response": "42", "label": "42"},
    ),
    query="group_size! judge rubric failure_reward",
)
