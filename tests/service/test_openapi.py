"""Requests made from our own OpenAPI document: what is answered is what the document says, and never a 500."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from ruler.service import create_app
from tests.service import calling

pytestmark = pytest.mark.slow


CALLS = [
    ("POST", "/v1/score"),
    ("POST", "/v1/rollouts"),
    ("GET", "/v1/rollouts"),
    ("GET", "/v1/groups"),
    ("POST", "/v1/pack"),
    ("POST", "/compat/openrlhf"),
    ("POST", "/compat/slime"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
]


@pytest.fixture(scope="module")
def document() -> BaseSchema:
    # Rollouts that wait for siblings do so for a moment only. The host lets the caller's test client in.
    chosen = calling.settings(collect_seconds=0.01, host="0.0.0.0", no_auth=True)
    return schemathesis.openapi.from_asgi("/openapi.json", create_app(chosen))


def test_all_calls_are_tried(document: BaseSchema) -> None:
    found = {(one.ok().method.upper(), one.ok().path) for one in document.get_all_operations()}
    # A batch is no JSON, and nothing here can make one: `python -m benchmarks.service fuzz` does.
    assert found == {*CALLS, ("POST", "/v1/score/batch")}


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_it_answers_as_documented(document: BaseSchema, method: str, path: str) -> None:
    checks = [status_code_conformance, content_type_conformance, response_schema_conformance]

    @settings(max_examples=100, suppress_health_check=list(HealthCheck))
    @given(case=document[path][method].as_strategy())
    def answers(case: schemathesis.Case) -> None:
        response = case.call()
        assert response.status_code != 500, response.text
        case.validate_response(response, checks=checks)

    answers()
