"""Runs the service in this process until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import uvicorn
from fastapi import FastAPI

from ruler.errors import ConfigError
from ruler.service.service import Service
from ruler.service.settings import ServiceSettings

_GRACE_SECONDS = 5.0
"""For answers to reach their callers after what is judged has been finished or given up."""


def serve(app: FastAPI, settings: ServiceSettings, *, ready: Callable[[str], None]) -> None:
    """Answers until SIGTERM or SIGINT, then ends as `Service.stop` says.

    Args:
        app: what `create_app` made.
        settings: where to listen, and how long a stop may take.
        ready: told the service's address once it listens.

    Raises:
        ConfigError: the address cannot be had.
    """
    _allow_many_connections()
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        access_log=False,  # one line a request tells less than the metrics, and names groups
        log_level="warning",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(settings.stop_seconds + _GRACE_SECONDS),
        server_header=False,
    )
    bound = _bound(settings.host, settings.port)
    host, port = bound.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal once more when it is done, for whoever was there before it: an orderly end is none.
        signal.signal(number, lambda *_: None)
    _Server(config, app, partial(ready, address)).run(sockets=[bound])


def _bound(host: str, port: int) -> socket.socket:
    # Not by uvicorn, which writes to standard error and exits when the address is taken.
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise ConfigError(f"{host} port {port}: cannot be had: {error.strerror or error}") from error
    return bound


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, app: FastAPI, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._service: Service = app.state.service
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Tells when it listens."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stops the service first: its callers are held by it, and uvicorn waits for them before it tells the app."""
        stopping = asyncio.create_task(self._service.stop())
        await super().shutdown(sockets)
        if self.force_exit:
            stopping.cancel()
        else:
            await stopping


def _allow_many_connections() -> None:
    """Held replies take a connection each; the usual limit of open files is 1,024."""
    with suppress(ImportError, OSError, ValueError):  # no such limit on Windows
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
