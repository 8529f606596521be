"""The shapes of bodies, as JSON schemas, and examples of them that work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ruler.service.problems import STATUSES

TEXT = {"type": "string"}
NUMBER = {"type": "number"}
COUNT = {"type": "integer", "minimum": 0}
SHARE = {"type": "number", "minimum": 0, "maximum": 1}
ANY: dict[str, Any] = {}

EXAMPLE_GROUP = {
    "group_id": "task-17",
    "task": "What is 6·7?",
    "rollouts": [
        {"id": "a", "messages": [{"role": "assistant", "content": "6·7 = 42"}]},
        {"id": "b", "messages": "forty"},
    ],
}
EXAMPLE_USAGE = {
    "calls": 1,
    "input_tokens": 412,
    "cached_input_tokens": 0,
    "output_tokens": 61,
    "cost_usd": 0.0002,
    "cache_hits": 0,
    "retries": 0,
    "wait_seconds": 0.0,
}
EXAMPLE_RESULT = {
    "group_id": "task-17",
    "group_digest": "9f…",
    "rollouts_digest": "c1…",
    "status": "scored",
    "rollouts": [{"id": "a", "score": 0.95, "note": "right"}, {"id": "b", "score": 0.1, "note": "wrong"}],
    "model": "gpt-5-mini-2025-08-07",
    "orders_used": 1,
    "judged": [{"order": 0, "block": 0, "rollout_ids": ["b", "a"], "scores": [0.1, 0.95]}],
    "judge": "openai/gpt-5-mini",
    "rubric": "default@1#b5d9c7a2e0f1",
    "orders": 1,
    "adaptive": False,
    "prompt_version": "2",
    "usage": EXAMPLE_USAGE,
}
EXAMPLE_POST = {
    "group_id": "step-3/task-17",
    "group_size": 8,
    "rollout_id": "0",
    "attempt": 0,
    "task": "What is 6·7?",
    "messages": [{"role": "assistant", "content": "6·7 = 42"}],
}
EXAMPLE_ANSWER = {
    "group_id": "step-3/task-17",
    "attempt": 0,
    "rollout_id": "0",
    "status": "scored",
    "score": 0.95,
    "rank": 1,
    "group_size": 8,
    "num_rollouts": 8,
    "judge": "openai/gpt-5-mini",
    "model": "gpt-5-mini-2025-08-07",
    "rubric": "default@1#b5d9c7a2e0f1",
    "prompt_version": "2",
}
EXAMPLE_WAITING = {
    "group_id": "step-3/task-17",
    "attempt": 0,
    "rollout_id": "0",
    "status": "waiting",
    "group_size": 8,
    "num_rollouts": 3,
}
EXAMPLE_JUDGED = {
    "number": 12,
    "group_id": "task-17",
    "status": "scored",
    "finished_at": 1790000000.0,
    "seconds": 1.7,
    "owner": "anonymous",
    "judge": "default",
    "rubric": "default",
    "num_rollouts": 2,
    "usage": EXAMPLE_USAGE,
}


def object_of(properties: Mapping[str, Any], required: Iterable[str] | None = None, **more: Any) -> dict[str, Any]:
    """The schema of an object; all properties are required, unless told otherwise."""
    names = list(properties if required is None else required)
    return {"type": "object", "properties": dict(properties), "required": names, **more}


_MESSAGES = {
    "description": "A message list in the OpenAI, Anthropic or Responses form, one message, or a plain string.",
    "anyOf": [
        {"type": "array", "items": {"type": "object"}},
        {"type": "object"},
        {"type": "string"},
    ],
}
_TASK = {
    "description": "What every rollout was given: messages, or an object with `messages`, `tools` and `reference`.",
    "anyOf": [*_MESSAGES["anyOf"], {"type": "null"}],
}
_ROLLOUT = object_of(
    {
        "id": {"type": ["string", "integer"], "description": "Unique in its group; missing: r1, r2, …"},
        "messages": _MESSAGES,
        "tools": {"type": ["array", "null"], "items": {"type": "object"}},
        "finish_reason": {"type": ["string", "null"], "description": "`length` is shown to the judge as cut off."},
        "histories": {"type": ["object", "null"], "description": "Section name -> messages of a sub-agent."},
    },
    ["messages"],
)
_USAGE = object_of(
    {
        **dict.fromkeys(("calls", "input_tokens", "cached_input_tokens", "output_tokens", "cache_hits"), COUNT),
        "retries": COUNT,
        "cost_usd": {"type": ["number", "null"], "minimum": 0, "description": "null: a price is unknown"},
        "wait_seconds": {"type": "number", "minimum": 0},
    }
)
_GROUP = object_of(
    {
        "group_id": {"type": ["string", "integer", "null"], "description": "Missing: a digest of the content."},
        "task": _TASK,
        "tools": {"type": ["array", "null"], "items": {"type": "object"}},
        "rollouts": {"type": "array", "minItems": 1, "items": _ROLLOUT},
    },
    ["rollouts"],
)
_SCORE = object_of(
    {
        "id": TEXT,
        "score": {**SHARE, "description": "Missing where there is no score; never 0 in its place."},
        "stderr": {"type": "number", "minimum": 0},
        "note": TEXT,
        "same_as": TEXT,
        "cut_chars": COUNT,
        "flags": {"type": "array", "items": TEXT},
    },
    ["id"],
)
_RESULT = object_of(
    {
        "group_id": TEXT,
        "group_digest": TEXT,
        "rollouts_digest": TEXT,
        "status": {"enum": ["scored", "tied", "failed"]},
        "reason": {"type": "string", "description": "Of a failed group: the error's code."},
        "message": TEXT,
        "rollouts": {"type": "array", "items": _SCORE},
        "judged": {"type": "array", "items": {"type": "object"}},
        "judge": TEXT,
        "rubric": TEXT,
        "orders": {"type": ["integer", "string"]},
        "adaptive": {"type": "boolean"},
        "prompt_version": TEXT,
        "usage": _USAGE,
    },
    ["group_id", "group_digest", "rollouts_digest", "status", "rollouts", "judge", "rubric", "prompt_version", "usage"],
)
_POST = object_of(
    {
        "group_id": {"type": ["string", "integer"], "minLength": 1, "maxLength": 1000},
        "group_size": {"type": "integer", "minimum": 1, "description": "How many rollouts the group will have."},
        "rollout_id": {
            "type": ["string", "integer"],
            "minLength": 1,
            "maxLength": 1000,
            "description": "Kept over retries.",
        },
        "attempt": {
            "type": "integer",
            "minimum": 0,
            "maximum": 2**53,
            "description": "A higher one begins the group anew and settles the callers of lower ones.",
        },
        "messages": _MESSAGES,
        "task": _TASK,
        "tools": {"type": ["array", "null"], "items": {"type": "object"}},
        "reference": ANY,
        "finish_reason": {"type": ["string", "null"]},
        "histories": {"type": ["object", "null"]},
    },
    ["group_id", "group_size", "rollout_id", "messages"],
    additionalProperties=False,
)
_ANSWER = object_of(
    {
        "group_id": TEXT,
        "attempt": COUNT,
        "rollout_id": TEXT,
        "status": {"enum": ["scored", "tied"]},
        "score": {**SHARE, "description": "Missing when the group is tied."},
        "stderr": {"type": "number", "minimum": 0},
        "note": TEXT,
        "same_as": TEXT,
        "cut_chars": COUNT,
        "flags": {"type": "array", "items": TEXT},
        "rank": {"type": "integer", "minimum": 1},
        "group_size": {"type": "integer", "description": "As declared."},
        "num_rollouts": {"type": "integer", "description": "Those that came in time and were judged."},
        "judge": TEXT,
        "model": TEXT,
        "rubric": TEXT,
        "prompt_version": TEXT,
    },
    ["group_id", "attempt", "rollout_id", "status", "group_size", "num_rollouts", "judge", "rubric", "prompt_version"],
)
_WAITING = object_of(
    {
        "group_id": TEXT,
        "attempt": COUNT,
        "rollout_id": TEXT,
        "status": {"const": "waiting"},
        "group_size": {"type": "integer", "description": "As declared."},
        "num_rollouts": {"type": "integer", "description": "Those that have come so far."},
    },
)
_JUDGED = object_of(
    {
        "number": COUNT,
        "group_id": TEXT,
        "status": {"enum": ["scored", "tied", "failed"]},
        "reason": TEXT,
        "finished_at": NUMBER,
        "seconds": NUMBER,
        "owner": TEXT,
        "judge": TEXT,
        "rubric": TEXT,
        "num_rollouts": COUNT,
        "usage": _USAGE,
    },
    ["number", "group_id", "status", "finished_at", "seconds", "owner", "judge", "rubric", "num_rollouts", "usage"],
)
_LISTED = {
    "anyOf": [
        object_of({"groups": {"type": "array", "items": _JUDGED}}),
        object_of(
            {**_JUDGED["properties"], "result": _RESULT, "group": {"type": ["object", "null"]}}, ["number", "result"]
        ),
    ]
}
_ERROR = object_of(
    {
        "error": object_of(
            {"code": {"enum": sorted(STATUSES)}, "message": TEXT, "group_id": TEXT, "usage": _USAGE},
            ["code", "message"],
        )
    }
)

SCHEMAS = {
    "Group": _GROUP,
    "Rollout": _POST,
    "Result": _RESULT,
    "Answer": _ANSWER,
    "Waiting": _WAITING,
    "Judged": _LISTED,
    "Error": _ERROR,
}
"""By name, for `components.schemas`."""
