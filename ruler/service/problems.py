"""What the service answers when it cannot give what was asked for: a status, and one form of body.

{"error": {"code": "reply", "message": "…", "group_id": "task-17"}}
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ruler.errors import JudgeUnavailable, RulerError
from ruler.results import usage_record
from ruler.types import Usage, usage_of

STATUSES: Mapping[str, tuple[int, str]] = {
    "group": (422, "the group, or the request, cannot be read; the message names the field and the value"),
    "packing": (422, "the group does not fit the judge's window"),
    "unauthorized": (401, "no bearer key, or an unknown one"),
    "budget": (402, "the service's cap on money or tokens is reached"),
    "forbidden": (403, "a browser sent this from a page of another host, or it is for operators"),
    "not_found": (404, "there is no such call, judge, rubric, group or rollout"),
    "method": (405, "the call exists, with another method"),
    "slow_body": (408, "the body did not arrive in time"),
    "conflict": (409, "another rollout came under the same id, or the group was declared otherwise"),
    "superseded": (409, "a newer attempt at this group has begun"),
    "too_large": (413, "too many bytes, or too many rollouts"),
    "rate_limited": (429, "too many requests or tokens in this minute; Retry-After says when to come again"),
    "internal": (500, "a fault of the service"),
    "config": (502, "the operator has set up this judge wrongly"),
    "judge": (502, "the judge failed"),
    "rejected": (502, "the judge will not answer this"),
    "reply": (502, "the judge's reply could not be used"),
    "unavailable": (503, "the judge cannot answer now"),
    "overloaded": (503, "the queue or the memory set aside for requests is full"),
    "stopping": (503, "the service is being stopped"),
    "deadline": (504, "the siblings, or the judge, took too long"),
}
"""Code -> HTTP status, and what it means."""
_STOP_SECONDS = 5.0
"""When to come again: until then the process is a new one."""


@dataclass(eq=False)
class Problem(Exception):
    """A request that gets no scores, and why. `code` is one of STATUSES."""

    code: str
    message: str
    group_id: str | None = None
    retry_after_seconds: float | None = None
    usage: Usage | None = None
    """What was spent for nothing, where that is known."""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, error: RulerError, group_id: str | None = None) -> Problem:
        """What the library raised, as it is told over HTTP."""
        retry_after = error.retry_after_seconds if isinstance(error, JudgeUnavailable) else None
        code = error.code if error.code in STATUSES else "judge"
        if code == "unavailable" and retry_after is None:
            retry_after = 1.0
        return cls(code, str(error), group_id, retry_after, usage_of(error))

    def __str__(self) -> str:
        return self.message

    @property
    def status(self) -> int:
        """The HTTP status."""
        return STATUSES[self.code][0]

    def all_headers(self) -> dict[str, str]:
        """Those given, and `Retry-After` in whole seconds where it says when to come again."""
        retry = {} if self.retry_after_seconds is None else {"Retry-After": str(math.ceil(self.retry_after_seconds))}
        return {**self.headers, **retry}

    def body(self) -> dict[str, Any]:
        """The body, ready for JSON."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.group_id is not None:
            error["group_id"] = self.group_id
        if self.usage is not None and self.usage != Usage():
            error["usage"] = usage_record(self.usage)
        return {"error": error}


def stopping(group_id: str | None = None) -> Problem:
    """What is answered while the service ends."""
    return Problem("stopping", "the service is being stopped", group_id, _STOP_SECONDS)
