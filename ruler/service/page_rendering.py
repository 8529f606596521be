"""Templates made into pages, the files that belong to them, and the headers that guard both."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ruler.service.page_text import FILTERS, shown

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not "no-referrer": under it browsers say `Origin: null` even to the page's own host, and signing in would look as
    # if it came from another.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
"""Of every page, script and style sheet."""

_MEDIA_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


class Renderer:
    """Makes pages of templates.

    Args:
        known: what every template may print, by name.
    """

    def __init__(self, **known: object) -> None:
        self._known = known
        self._files = _static_files()
        self._templates = _templates()

    def page(self, request: Request, template: str, **context: Any) -> Response:
        """The page that a template makes of this."""
        root = root_of(request)

        def url(path: str, **query: object) -> str:
            return f"{root}{path}?{urlencode(query)}" if query else root + path

        text = self._templates.get_template(template).render(
            context,
            url=url,
            static=lambda name: url(f"/static/{name}", v=self._files[name][2]),
            path=request.url.path.removeprefix(root),
            **self._known,
        )
        # Pages hold what rollouts say; no cache on the way, nor the browser's, is to keep it.
        return Response(text, headers={**HEADERS, "Cache-Control": "no-store"}, media_type="text/html")

    def redirect(self, request: Request, path: str, **query: str) -> Response:
        """Sends the browser to another page of ours."""
        target = root_of(request) + path + (f"?{urlencode(query)}" if query else "")
        return RedirectResponse(target, 303, headers={**HEADERS, "Cache-Control": "no-store"})

    def file(self, request: Request, name: str) -> Response | None:
        """A style sheet, script or icon; None when there is none of this name."""
        if name not in self._files:
            return None
        content, media_type, version = self._files[name]
        fresh = request.query_params.get("v") == version
        headers = {
            **HEADERS,
            "ETag": f'"{version}"',
            "Cache-Control": "public, max-age=31536000, immutable" if fresh else "no-cache",
        }
        if request.headers.get("if-none-match") == f'"{version}"':
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=media_type)


def root_of(request: Request) -> str:
    """The path under which another app has mounted this one."""
    return str(request.scope.get("root_path", "")).rstrip("/")


@cache
def _templates() -> Environment:
    """All templates, made now: making one takes tens of milliseconds, for which requests would wait."""
    templates = Environment(
        loader=PackageLoader("ruler.service"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    templates.filters |= FILTERS
    for name in templates.list_templates():
        templates.get_template(name)
    return templates


def _static_files() -> dict[str, tuple[bytes, str, str]]:
    """Name -> content, media type, version."""
    files = {}
    for file in resources.files("ruler.service").joinpath("static").iterdir():
        kind = file.name.rpartition(".")[2]
        if kind in _MEDIA_TYPES:
            content = file.read_bytes()
            files[file.name] = content, _MEDIA_TYPES[kind], hashlib.sha256(content).hexdigest()[:16]
    return files
