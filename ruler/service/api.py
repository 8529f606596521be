"""The calls under /v1, and what monitors ask."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from functools import partial

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from ruler.errors import RulerError
from ruler.results import json_line, prompt_record, result_record
from ruler.service import openapi
from ruler.service.batch import BatchReply
from ruler.service.bodies import is_awaited, nobody, read_body
from ruler.service.metrics import CONTENT_TYPE
from ruler.service.problems import Problem, stopping
from ruler.service.rendezvous import Seat
from ruler.service.replies import json_reply
from ruler.service.service import Job, Service
from ruler.service.wire import (
    BYTES_PER_TOKEN,
    answer_record,
    check_query,
    judged_record,
    read_count,
    read_group,
    read_post,
    read_seconds,
    whole_record,
)
from ruler.types import FailedGroup, Group, ScoredGroup

_LISTED = 100
_MAX_LISTED = 500

_log = logging.getLogger("ruler.service")


def new_router(service: Service) -> APIRouter:
    """All calls of the service but those of other people's wires and the pages."""
    router = APIRouter()
    calls = Calls(service)
    router.post("/v1/score", **openapi.SCORE)(calls.score)
    router.post("/v1/score/batch", **openapi.BATCH)(calls.batch)
    router.post("/v1/rollouts", **openapi.JOIN)(calls.join)
    router.get("/v1/rollouts", **openapi.FIND)(calls.find)
    router.get("/v1/groups", **openapi.GROUPS)(calls.groups)
    router.post("/v1/pack", **openapi.PACK)(calls.pack)
    for path, call, described in (
        ("/healthz", calls.healthz, openapi.HEALTH),
        ("/readyz", calls.readyz, openapi.READY),
    ):
        router.get(path, **described)(call)
        router.head(path, include_in_schema=False)(call)
    router.get("/metrics", **openapi.METRICS)(calls.metrics)
    return router


class Calls:
    """What each call does. Parameters are read here, because FastAPI takes longer over them than over all else."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def score(self, request: Request) -> Response:
        """One group in, its scores out. Asked again, it is answered from the cache."""
        owner = self._owner(request, ("judge", "rubric"))
        names = self._names(request)
        if self._service.stopping:
            raise stopping()
        admission = self._service.admission
        admission.check(0)  # before the body is read: what is refused costs no memory
        body = await read_body(request)
        group = await self._read_group(body)
        ticket = admission.take(len(body) // BYTES_PER_TOKEN)
        judging = asyncio.create_task(self._service.judge(Job(group, owner, *names, ticket, len(body))))
        judging.add_done_callback(lambda _: ticket.drop())  # it may be given up before it has begun
        if not await is_awaited(request, judging):
            self._service.leave(judging)
            return nobody()
        try:
            return json_reply(result_record(judging.result()))
        except RulerError as error:
            raise Problem.of(error, group.id) from error

    async def batch(self, request: Request) -> Response:
        """Groups in, a line each; results out as they finish. A bad line is answered by an error with its number."""
        owner = self._owner(request, ("judge", "rubric"))
        names = self._names(request)
        if self._service.stopping:
            raise stopping()
        max_bytes = self._service.settings.max_body_bytes

        async def answer(number: int, line: bytes | None) -> bytes:
            try:
                if line is None:
                    raise Problem("too_large", f"more than {max_bytes:,} bytes")
                return json_line(result_record(await self._settle(line, owner, names)))
            except RulerError as error:
                problem = Problem.of(error)
            except Problem as raised:
                problem = raised
            except Exception:  # noqa: BLE001  the other lines are to be answered
                _log.exception("batch: line %d", number)
                problem = Problem("internal", "a fault of the service; its log tells more")
            return json_line({"line": number, **problem.body()})

        return BatchReply(request, answer, concurrency=self._service.settings.concurrency, max_line_bytes=max_bytes)

    async def join(self, request: Request) -> Response:
        """One rollout in; its score out when its siblings are in and the group is judged."""
        owner = self._owner(request, ("judge", "rubric", "wait"))
        query = request.query_params
        seconds = read_seconds(query.get("wait"))
        names = self._names(request)
        read = partial(
            read_post, owner=owner, judge=names[0], rubric=names[1], max_rollouts=self._service.settings.max_rollouts
        )
        # No name for the post: what it holds must be gone while the answer is waited for.
        seat = self._service.rendezvous.join(await self._service.aside.read(read, await read_body(request)))
        request.scope["ruler.held"].release()  # the rendezvous counts it from here on
        return await self._answer(request, seat, seconds)

    async def find(self, request: Request) -> Response:
        """The score of a rollout that was posted before."""
        owner = self._owner(request, ("group_id", "rollout_id", "attempt", "wait"))
        query = request.query_params
        seconds = read_seconds(query.get("wait"))
        for name in ("group_id", "rollout_id"):
            if name not in query:
                raise Problem("group", f"{name}: missing in the address")
        attempt = read_count("attempt", query.get("attempt"), at_least=0, at_most=2**53)
        seat = self._service.rendezvous.find(owner, query["group_id"], query["rollout_id"], attempt)
        await read_body(request)
        return await self._answer(request, seat, seconds or 0.0)

    async def groups(self, request: Request) -> Response:
        """What was judged lately, the newest first; with `id` or `number` one group, with its content."""
        caller = self._service.keys.caller(request.headers)
        check_query(request, ("id", "number", "limit", "before"))
        owner = None if caller.sees_all else caller.name
        recent, query = self._service.recent, request.query_params
        group_id = query.get("id")
        number, before = (read_count(name, query.get(name), at_least=0, at_most=2**53) for name in ("number", "before"))
        if group_id is not None or number is not None:
            judged = recent.get(group_id, owner) if group_id is not None else recent.numbered(number or 0, owner)
            if judged is None:
                raise Problem("not_found", "there is no such group among those judged lately", group_id)
            return json_reply(whole_record(judged))
        limit = read_count("limit", query.get("limit"), at_least=1, at_most=_MAX_LISTED)
        listed = recent.newest(owner, limit or _LISTED, before)
        return json_reply({"groups": [judged_record(judged) for judged in listed]})

    async def pack(self, request: Request) -> Response:
        """The prompts that would be asked for a group, and their token accounts; nobody is asked."""
        self._owner(request, ("judge", "rubric"))
        names = self._names(request)
        group = await self._read_group(await read_body(request))
        lines = await self._service.aside.run(partial(self._packed, group, *names))
        return Response(b"".join(lines), media_type="application/x-ndjson")

    async def healthz(self) -> Response:
        """200 while the process answers."""
        return PlainTextResponse("ok\n")

    async def readyz(self) -> Response:
        """200 when requests may come here, else 503 and why. It goes by the last outcome; no judge is asked."""
        reason = self._service.unready()
        return PlainTextResponse(f"{reason or 'ready'}\n", 503 if reason else 200)

    async def metrics(self, request: Request) -> Response:
        """Counts in the Prometheus text format."""
        caller = self._service.keys.caller(request.headers)
        if not caller.sees_all and self._service.settings.operators:
            raise Problem("forbidden", "metrics name all keys: they are for operators")
        return Response(self._service.metrics.text(), media_type=CONTENT_TYPE)

    def _owner(self, request: Request, query: Collection[str]) -> str:
        owner = self._service.keys.caller(request.headers).name
        check_query(request, query)
        return owner

    def _names(self, request: Request) -> tuple[str, str]:
        query = request.query_params
        return self._service.choose(query.get("judge"), query.get("rubric"))

    async def _read_group(self, body: bytes) -> Group:
        read = partial(read_group, max_rollouts=self._service.settings.max_rollouts)
        return await self._service.aside.read(read, body)

    async def _settle(self, line: bytes, owner: str, names: tuple[str, str]) -> ScoredGroup | FailedGroup:
        """What came of one line of a batch; waits for its turn, where a single request would be told to come again."""
        group = await self._read_group(line)
        ticket = await self._service.admission.take_patiently(len(line) // BYTES_PER_TOKEN)
        try:
            return await self._service.judge(Job(group, owner, *names, ticket, len(line)))
        except RulerError as error:
            return self._service.scorers.ruler(*names).failed(group, error)

    async def _answer(self, request: Request, seat: Seat, seconds: float | None) -> Response:
        answer = await seat.answer(0.0)
        if answer is None and seconds != 0:
            if not await is_awaited(request, seat.settled, seconds):
                return nobody()
            answer = await seat.answer(0.0)
        return json_reply(answer_record(seat, answer), 202 if answer is None else 200)

    def _packed(self, group: Group, judge: str, rubric: str) -> list[bytes]:
        return [
            json_line(prompt_record(group.id, prompt, count, judge=name))
            for name, ruler, count in self._service.scorers.packers(judge, rubric)
            for prompt in ruler.pack(group)
        ]
