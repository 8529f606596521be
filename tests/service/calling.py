"""The service in this process, called without a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI

from ruler.service import ServiceSettings, create_app
from ruler.service.service import Service

TWO: dict[str, Any] = {
    "group_id": "g",
    "task": "What is 6·7?",
    "rollouts": [{"id": "a", "messages": "42"}, {"id": "b", "messages": "It must be something like forty."}],
}


def settings(**given: Any) -> ServiceSettings:
    """Settings of a service with a judge that prefers short text, without a cache, unless given otherwise."""
    return ServiceSettings.model_validate({"judge": "simulated?noise=0", "cache": "off", **given})


@asynccontextmanager
async def calling(app: FastAPI, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the started app."""
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost", **options) as client,
    ):
        yield client


@asynccontextmanager
async def service(**given: Any) -> AsyncIterator[tuple[httpx.AsyncClient, Service]]:
    """A started service and its client."""
    app = create_app(settings(**given))
    async with calling(app) as client:
        yield client, app.state.service
