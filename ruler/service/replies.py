"""Answers in JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from ruler.results import json_line
from ruler.service.problems import Problem


def json_reply(record: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """The record as the body of an answer."""
    return Response(json_line(record), status, dict(headers or {}), "application/json")


def problem_reply(problem: Problem) -> Response:
    """The answer to a request that gets no scores."""
    return json_reply(problem.body(), problem.status, problem.all_headers())
