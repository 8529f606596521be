"""The pages people look at: the dashboard, a group, the API's documentation, and the door to them.

No page has inline scripts or styles or anything from another host, and none needs scripts; `static/live.js` only
fetches the same page again and puts what is new in place of what was there.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Coroutine
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlencode

from starlette.requests import Request
from starlette.responses import Response

from ruler.service import group_page, home_page
from ruler.service.docs_page import Document, read_document
from ruler.service.page_rendering import Renderer, root_of
from ruler.service.page_text import AsIs
from ruler.service.problems import STATUSES, Problem
from ruler.service.replies import json_reply
from ruler.service.sessions import SESSION_SECONDS, Sessions
from ruler.service.wire import read_count, whole_record
from ruler.types import FailedGroup, ScoredGroup

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ruler.service.keys import Caller
    from ruler.service.metrics import Activity
    from ruler.service.recent import Judged
    from ruler.service.service import Service

COOKIE = "ruler_session"
_MAX_FORM_BYTES = 4_096
_MAX_NUMBER = 2**53
_SNAPSHOT_SECONDS = 1.0
"""Figures no older than this serve everybody who looks; counting 20,000 groups takes tens of milliseconds."""
_HOST = re.compile(r"[A-Za-z0-9._\-\[\]:]{1,260}")


def add_pages(app: FastAPI, service: Service) -> None:
    """Gives the app its pages; they are no part of its OpenAPI document."""
    pages = _Pages(app, service)
    for path, methods, endpoint in (
        ("/", ["GET", "HEAD"], pages.home),
        ("/group", ["GET", "HEAD"], pages.group),
        ("/group.json", ["GET", "HEAD"], pages.group_json),
        ("/docs", ["GET", "HEAD"], pages.docs),
        ("/login", ["GET", "HEAD"], pages.login_form),
        ("/login", ["POST"], pages.login),
        ("/logout", ["POST"], pages.logout),
        ("/static/{name}", ["GET", "HEAD"], pages.static),
    ):
        app.add_api_route(path, endpoint, methods=methods, include_in_schema=False, response_model=None)


class _Pages:
    def __init__(self, app: FastAPI, service: Service) -> None:
        self._app = app
        self._service = service
        self._sessions = Sessions()
        self._render = Renderer(keys_required=service.keys.required)
        self._counted_at = -_SNAPSHOT_SECONDS
        self._counted: tuple[Activity, Activity] | None = None

    async def home(self, request: Request) -> Response:
        """Activity, and what was judged lately."""
        return await self._for_caller(request, self._home)

    async def group(self, request: Request) -> Response:
        """One group, by `number`, or the newest by `id`."""
        return await self._for_caller(request, self._group)

    async def group_json(self, request: Request) -> Response:
        """One group as `/v1/groups` gives it, for whoever is signed in here."""
        return await self._for_caller(request, self._group_json)

    async def docs(self, request: Request) -> Response:
        """The API."""
        return await self._for_caller(request, self._docs)

    async def login_form(self, request: Request) -> Response:
        """Asks for a key."""
        return self._login_page(request, request.query_params.get("next", ""))

    async def login(self, request: Request) -> Response:
        """Opens a session for the key of the form."""
        try:
            form = await _read_form(request)
        except Problem as problem:
            return self._problem(request, problem)
        caller = self._service.keys.check(form.get("key", "").strip())
        if caller is None:
            return self._login_page(request, form.get("next", ""), failed=True)
        response = self._render.redirect(request, _inside(form.get("next", "")))
        response.set_cookie(
            COOKIE,
            self._sessions.open(caller),
            max_age=int(SESSION_SECONDS),
            path="/",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        return response

    async def logout(self, request: Request) -> Response:
        """Ends the session. Another site cannot: the cookie does not come with its requests."""
        self._sessions.close(request.cookies.get(COOKIE))
        response = self._render.redirect(request, "/login" if self._service.keys.required else "/")
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return response

    async def static(self, request: Request, name: str) -> Response:
        """A style sheet, script or icon of ours."""
        return self._render.file(request, name) or self._problem(request, Problem("not_found", "there is no such file"))

    async def _for_caller(
        self, request: Request, make: Callable[[Request, Caller], Coroutine[None, None, Response]]
    ) -> Response:
        try:
            caller = self._caller(request)
            if caller is not None:
                return await make(request, caller)
        except Problem as problem:
            return self._problem(request, problem)
        query = f"?{request.url.query}" if request.url.query else ""
        return self._render.redirect(request, "/login", next=request.url.path.removeprefix(root_of(request)) + query)

    def _caller(self, request: Request) -> Caller | None:
        """Whose request it is; None: nobody is signed in."""
        if "authorization" in request.headers or not self._service.keys.required:
            return self._service.keys.caller(request.headers)
        return self._sessions.find(request.cookies.get(COOKIE))

    async def _home(self, request: Request, caller: Caller) -> Response:
        service, now = self._service, time.time()
        before = read_count("before", request.query_params.get("before"), at_least=1, at_most=_MAX_NUMBER)
        minute, ten = self._activity()
        rows, has_older = home_page.rows(service, caller, before, now)
        waiting, more_waiting = home_page.waiting(service, caller)
        checked = home_page.checked(service, now)
        return self._render.page(
            request,
            "home.html",
            caller=caller,
            figures=home_page.figures(service, minute, ten),
            failures=home_page.failures(minute, ten),
            waiting=waiting,
            clock=time.monotonic(),
            more_waiting=more_waiting,
            checked=checked,
            alarms=[one for one in checked if one.alarm],
            rows=rows,
            older=rows[-1].judged.number if has_older else None,
            is_newest=before is None,
            judges=service.judge_names,
            rubrics=service.rubric_names,
            owners=service.keys.required and caller.sees_all,
            uptime_seconds=now - service.started_at,
            stopping=service.stopping,
            address=self._address(request),
        )

    async def _group(self, request: Request, caller: Caller) -> Response:
        # In a thread: text that is odd from end to end takes tenths of a second. Nothing it reads can change.
        return await asyncio.to_thread(self._group_page, request, caller, self._find(request, caller))

    async def _group_json(self, request: Request, caller: Caller) -> Response:
        return await asyncio.to_thread(lambda judged: json_reply(whole_record(judged)), self._find(request, caller))

    def _group_page(self, request: Request, caller: Caller, judged: Judged) -> Response:
        result, group = judged.result, judged.group
        scored = result if isinstance(result, ScoredGroup) else None
        failed = result if isinstance(result, FailedGroup) else None
        by_score = request.query_params.get("sort") != "given" and scored is not None and scored.status == "scored"
        return self._render.page(
            request,
            "group.html",
            caller=caller,
            judged=judged,
            result=result,
            scored=scored,
            group=group,
            content=self._service.recent.content,
            columns=group_page.columns(judged, by_score=by_score),
            by_score=by_score,
            task=group_page.task_turns(group) if group else (),
            tools=group_page.tool_lines(group.tools) if group else (),
            reference=group_page.reference_text(group) if group else None,
            orders=group_page.orders(scored) if scored else None,
            raw_reply=group_page.reply_text(failed.raw_reply) if failed and failed.raw_reply else None,
            meaning=STATUSES[failed.reason][1] if failed and failed.reason in STATUSES else None,
            age_seconds=time.time() - judged.finished_at,
            owners=self._service.keys.required and caller.sees_all,
        )

    async def _docs(self, request: Request, caller: Caller) -> Response:
        return self._render.page(
            request,
            "docs.html",
            caller=caller,
            document=self._document,
            errors=[(code, status, AsIs(meaning)) for code, (status, meaning) in STATUSES.items()],
            address=self._address(request),
        )

    def _find(self, request: Request, caller: Caller) -> Judged:
        query = request.query_params
        owner = None if caller.sees_all else caller.name
        number = read_count("number", query.get("number"), at_least=1, at_most=_MAX_NUMBER)
        group_id = query.get("id")
        if number is None and group_id is None:
            raise Problem("group", "query: give the number or the id of a group")
        recent = self._service.recent
        found = recent.get(group_id or "", owner) if number is None else recent.numbered(number, owner)
        if found is None:
            raise Problem("not_found", "there is no such group among those judged lately; the oldest are dropped")
        return found

    def _activity(self) -> tuple[Activity, Activity]:
        now = time.monotonic()
        if self._counted is None or now - self._counted_at >= _SNAPSHOT_SECONDS:
            metrics = self._service.metrics
            self._counted, self._counted_at = (metrics.snapshot(60), metrics.snapshot(600)), now
        return self._counted

    @cached_property
    def _document(self) -> Document:
        return read_document(self._app.openapi())

    def _login_page(self, request: Request, wanted: str, *, failed: bool = False) -> Response:
        page = self._render.page(request, "login.html", caller=None, failed=failed, next=_inside(wanted))
        page.status_code = 401 if failed else 200
        return page

    def _problem(self, request: Request, problem: Problem) -> Response:
        if request.url.path.endswith(".json"):
            return json_reply(problem.body(), problem.status, problem.all_headers())
        page = self._render.page(
            request, "problem.html", caller=None, problem=problem, meaning=STATUSES[problem.code][1]
        )
        page.status_code = problem.status
        page.headers.update(problem.all_headers())
        return page

    def _address(self, request: Request) -> str:
        """Where the service is, as the browser calls it, for command lines to copy."""
        host = request.headers.get("host", "")
        if not _HOST.fullmatch(host):
            host = f"{self._service.settings.host}:{self._service.settings.port}"
        return f"{request.url.scheme}://{host}{root_of(request)}"


def _inside(target: str) -> str:
    """The page to go to after signing in, where it is one of ours; else the first one."""
    path, _, query = target.partition("?")
    if path not in ("/", "/group", "/docs"):
        return "/"
    # Written anew, so that nothing can be in it that is no query.
    pairs = [(name, value) for name, values in parse_qs(query, errors="replace").items() for value in values]
    return f"{path}?{urlencode(pairs)}" if pairs else path


async def _read_form(request: Request) -> dict[str, str]:
    """The fields of a small form; of one that comes twice the last.

    Raises:
        Problem: `too_large`.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_FORM_BYTES:
            raise Problem("too_large", f"form: more than {_MAX_FORM_BYTES:,} bytes")
    fields = parse_qs(body.decode("ascii", "replace"), errors="replace")
    return {name: values[-1] for name, values in fields.items()}
