"""The HTTP scoring service: `ruler serve`, or `create_app` inside another ASGI server.

Needs the extra `service`; the modules here are not loaded with `ruler`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ruler.errors import ConfigError
from ruler.service.settings import ServiceSettings, read_service_settings

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["ServiceSettings", "create_app", "read_service_settings"]


def create_app(settings: ServiceSettings | None = None) -> FastAPI:
    """The service as an ASGI application; it opens its judges when it is started and closes them when it is stopped.

    Run it in one process: rollouts of one group meet in its memory. See docs/service.md for several servers. Most
    servers tell an application of their end only when the last caller has been answered; to have held rollouts settled
    at once, call `await app.state.service.stop()` first, as `ruler serve` does.

    Args:
        settings: None: those of the file that RULER_SETTINGS names, and of the environment.

    Raises:
        ConfigError: a setting is wrong, a judge, rubric or key cannot be had, or the extra `service` is missing.
    """
    try:
        from ruler.service.app import build_app
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] in ("fastapi", "jinja2", "prometheus_client", "starlette"):
            raise ConfigError(f"the service needs {error.name}: pip install 'ruler-judge[service]'") from error
        raise
    return build_app(read_service_settings() if settings is None else settings)
