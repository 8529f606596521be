"""The service as an ASGI application."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from ruler.errors import RulerError
from ruler.service import compat
from ruler.service.api import new_router
from ruler.service.bodies import nobody
from ruler.service.door import Door
from ruler.service.keys import is_loopback
from ruler.service.pages import add_pages
from ruler.service.problems import Problem
from ruler.service.replies import problem_reply
from ruler.service.schemas import SCHEMAS
from ruler.service.service import Service
from ruler.service.settings import ServiceSettings

_log = logging.getLogger("ruler.service")


def build_app(settings: ServiceSettings) -> FastAPI:
    """As `ruler.service.create_app`; the `Service` is `app.state.service`."""
    service = Service(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.stop()

    app = FastAPI(
        title="ruler",
        summary="Relative judge: all rollouts of a task in one prompt, comparable scores out.",
        version=importlib.metadata.version("ruler-judge"),
        lifespan=lifespan,
        # Its pages load scripts from another host; `pages` makes one of our own.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would go to what the request calls our host
    )
    app.state.service = service
    app.include_router(new_router(service))
    compat.add_calls(app, service)
    add_pages(app, service)
    app.add_middleware(
        Door,
        max_body_bytes=settings.max_body_bytes,
        max_buffered_bytes=settings.max_buffered_bytes,
        max_requests=settings.max_requests,
        local_only=not service.keys.required and is_loopback(settings.host),
        booked=service.metrics.request,
        at_stop=service.at_stop.append,
    )
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RulerError, _ruler_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _bad_query)
    app.add_exception_handler(ClientDisconnect, _left)
    app.add_exception_handler(Exception, _fault)
    app.openapi = partial(_document, app)  # type: ignore[method-assign]
    return app


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return problem_reply(error)


async def _ruler_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RulerError)
    return problem_reply(Problem.of(error))


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method"}.get(error.status_code, "group")
    message = f"{request.method} {request.url.path}: {error.detail}"
    return problem_reply(Problem(code, message[:300], headers=error.headers or {}))


async def _bad_query(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return problem_reply(Problem("group", f"{place}: {first['msg'].lower()}, got {first.get('input')!r:.80}"))


async def _left(request: Request, error: Exception) -> Response:
    return nobody()


async def _fault(request: Request, error: Exception) -> Response:
    # What went wrong is in the log; a body may be read by anybody.
    return problem_reply(Problem("internal", "a fault of the service; its log tells more"))


def _document(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        document["components"] = {
            "schemas": SCHEMAS,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        }
        if app.state.service.keys.required:
            document["security"] = [{"key": []}]
        for path in document["paths"].values():
            for call in path.values():
                # FastAPI's own answer to bad parameters has another form than ours.
                call["responses"] = {
                    status: answer
                    for status, answer in call["responses"].items()
                    if "HTTPValidationError" not in str(answer)
                }
        app.openapi_schema = document
    return app.openapi_schema
