from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import pytest
import uvicorn
from hypothesis import given, settings

from ruler.client import Client, JoinedScore, connections, join
from ruler.client.join import body_of, read_place
from ruler.errors import (
    BudgetExceeded,
    ConfigError,
    GroupError,
    JudgeError,
    JudgeRejected,
    JudgeUnavailable,
    PackingError,
    ReplyError,
    RulerError,
)
from ruler.messages import Message
from ruler.records import group_record, read_group, read_record
from ruler.results import json_line, result_record, usage_record
from ruler.types import FailedGroup, Group, JudgedOrder, Rollout, Score, ScoredGroup, Usage
from tests.test_records import groups

ROOT = Path(__file__).parents[1]
USAGE = Usage(1, 100, 0, 10, 0.25)
MADE_BY: dict[str, Any] = {"judge": "m", "rubric": "default@1#0", "orders": 1, "adaptive": False, "prompt_version": "2"}
GROUP = Group.of(["a", "bb"], task="q", id="g/1 é\ud800")
Answer = tuple[int, dict[str, str], bytes]

pytestmark = pytest.mark.slow


def judged(group: Group) -> ScoredGroup:
    """Longer rollouts score higher; rollouts that all read the same are tied."""
    lengths = [sum(len(str(message.content)) for message in rollout.messages) for rollout in group.rollouts]
    tied = len({rollout.messages for rollout in group.rollouts}) == 1
    scores = tuple(
        Score(rollout.id, None if tied else length / (1 + max(lengths)))
        for rollout, length in zip(group.rollouts, lengths, strict=True)
    )
    order = () if tied else (JudgedOrder("m", 0, 0, tuple(s.id for s in scores), tuple(s.score or 0 for s in scores)),)
    return ScoredGroup(
        group.id,
        group.digest,
        group.rollouts_digest,
        "tied" if tied else "scored",
        scores,
        USAGE,
        model=None if tied else "m-2025",
        orders_used=0 if tied else 1,
        judged=order,
        **MADE_BY,
    )


def answer(status: int, body: object, **headers: str) -> Answer:
    content = body if isinstance(body, bytes) else json_line(body)  # type: ignore[arg-type]
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, content


def problem(status: int, code: str, retry_after: str | None = None, **more: object) -> Answer:
    headers = {} if retry_after is None else {"retry_after": retry_after}
    return answer(status, {"error": {"code": code, "message": f"it is {code}", **more}}, **headers)


class Request:
    def __init__(self, scope: dict[str, Any], body: bytes) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query = {key: values[0] for key, values in parse_qs(scope["query_string"].decode()).items()}
        self.headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.port: int = scope["client"][1]
        self.body = json.loads(body) if body else None
        self.raw = body


class FakeService:
    """The service's contract in little: an ASGI application on a real socket, with everything in memory.

    `answers` are given, one a request, before anything of its own; None in it is its own answer. A callable makes one.
    """

    def __init__(self, answers: list[Answer | Callable[[Request], Answer] | None] | None = None) -> None:
        self.answers = answers or []
        self.requests: list[Request] = []
        self.groups: dict[tuple[str, int], tuple[dict[str, Rollout], asyncio.Event]] = {}
        self.most_at_once = 0
        self._at_once = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        request = Request(scope, body)
        self.requests.append(request)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            given = self.answers.pop(0) if self.answers else None
            made = given(request) if callable(given) else given
            status, headers, content = made or await self._answer(request)
        finally:
            self._at_once -= 1
        names = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": names})
        await send({"type": "http.response.body", "body": content})

    async def _answer(self, request: Request) -> Answer:
        if request.path == "/v1/score":
            await asyncio.sleep(0.001)
            return answer(200, result_record(judged(read_group(request.raw))))
        query = request.query
        if request.method == "POST":
            body = request.body
            key, rollout_id = (body["group_id"], body["attempt"]), body["rollout_id"]
            members, complete = self.groups.setdefault(key, ({}, asyncio.Event()))
            members[rollout_id] = read_record(
                {
                    "task": body.get("task"),
                    "rollouts": [{"id": rollout_id, "messages": body["messages"]}],
                }
            ).rollouts[0]
            if len(members) == body["group_size"]:
                complete.set()
        else:
            key, rollout_id = (query["group_id"], int(query["attempt"])), query["rollout_id"]
            if rollout_id not in self.groups.get(key, ({}, None))[0]:
                return problem(404, "not_found")
            members, complete = self.groups[key]
        try:
            async with asyncio.timeout(float(query["wait"])):
                await complete.wait()
        except TimeoutError:
            return answer(202, {"group_id": key[0], "attempt": key[1], "rollout_id": rollout_id, "status": "waiting"})
        result = judged(Group(tuple(members[name] for name in sorted(members)), (Message("user", ("q",)),), id=key[0]))
        [score] = [score for score in result.rollouts if score.id == rollout_id]
        return joined_answer(key[0], key[1], rollout_id, score, result.status, len(members))


def joined_answer(
    group_id: str, attempt: int, rollout_id: str, score: Score, status: str, size: int, more: Mapping[str, object] = {}
) -> Answer:
    record = {
        "group_id": group_id,
        "attempt": attempt,
        "rollout_id": rollout_id,
        "status": status,
        **({} if score.score is None else {"score": score.score, "rank": 1, "model": "m-2025"}),
        "group_size": size,
        "num_rollouts": size,
        "judge": "m",
        "rubric": "default@1#0",
        "prompt_version": "2",
    }
    return answer(200, {**record, **more})


class Served(uvicorn.Server):
    """A service in a thread, on a free port, while the `with` block runs."""

    def __init__(self, app: Any, port: int = 0) -> None:
        config = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_keep_alive=60, ws="none")
        super().__init__(config)
        self._socket = socket.create_server(("127.0.0.1", port))
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._ready.set()

    def __enter__(self) -> Served:
        self._thread = threading.Thread(target=self.run, args=([self._socket],), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.should_exit = self.force_exit = True
        self.drop_connections()
        self._thread.join(10)

    def drop_connections(self) -> None:
        """Cuts all of them, whatever they are waiting for."""

        def cut() -> None:
            for connection in list(self.server_state.connections):
                connection.transport.abort()  # type: ignore[union-attr]

        assert self._loop is not None
        self._loop.call_soon_threadsafe(cut)


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def served(service: FakeService) -> Iterator[Served]:
    with Served(service) as served:
        yield served


@pytest.fixture
def url(served: Served) -> str:
    return served.url


class Clock:
    """A clock that a sleep turns forward at once."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def patient(url: str, time: Clock, **more: Any) -> Client:
    return Client(url, clock=time.clock, sleep=time.sleep, jitter=lambda: 0.5, **more)


# Scores


async def test_a_group_is_scored(service: FakeService, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", " secret\n")
    client = Client(url + "/", judge="careful", rubric="support", api_key_env="MY_KEY")
    assert await client.score(GROUP) == judged(GROUP)
    [request] = service.requests
    assert (request.method, request.path) == ("POST", "/v1/score")
    assert request.query == {"judge": "careful", "rubric": "support"}
    assert request.body == group_record(GROUP)
    assert request.headers["authorization"] == "Bearer secret"
    assert request.headers["content-type"] == "application/json"
    assert unquote(request.headers["x-ruler-group"], errors="surrogatepass") == GROUP.id


async def test_without_names_and_key_nothing_is_sent_of_them(service: FakeService, url: str) -> None:
    await Client(url).score(GROUP)
    assert service.requests[0].query == {}
    assert "authorization" not in service.requests[0].headers


async def test_the_address_and_the_key_come_from_the_environment(
    service: FakeService, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RULER_URL", url)
    client = Client()
    for key in ("one", "two"):
        monkeypatch.setenv("RULER_API_KEY", key)
        await client.score(GROUP)
    assert [request.headers["authorization"] for request in service.requests] == ["Bearer one", "Bearer two"]


def test_the_synchronous_doors(url: str) -> None:
    client = Client(url)
    assert client.score_sync(GROUP) == judged(GROUP)
    assert client.score_many_sync([GROUP, GROUP]) == [judged(GROUP)] * 2
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda name: join_one(client, name), "abc"))
    assert [one.score.id for one in found] == ["a", "b", "c"]


def join_one(client: Client, name: str) -> JoinedScore:
    return client.join_sync(name * (ord(name) - 90), rollout_id=name, group_id="g", group_size=3, task="q")


# Errors


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (422, "group", GroupError),
        (422, "packing", PackingError),
        (401, "unauthorized", ConfigError),
        (402, "budget", BudgetExceeded),
        (403, "forbidden", ConfigError),
        (404, "not_found", ConfigError),
        (405, "method", ConfigError),
        (408, "slow_body", JudgeUnavailable),
        (409, "conflict", GroupError),
        (409, "superseded", GroupError),
        (413, "too_large", GroupError),
        (500, "internal", JudgeError),
        (502, "config", ConfigError),
        (502, "judge", JudgeError),
        (502, "rejected", JudgeRejected),
        (502, "reply", ReplyError),
        (504, "deadline", JudgeUnavailable),
        (418, "something_new", JudgeError),
    ],
)
async def test_what_the_service_says_is_raised_as_the_library_would_and_never_asked_again(
    service: FakeService, url: str, status: int, code: str, kind: type[RulerError]
) -> None:
    service.answers = [problem(status, code, "1", group_id="g", usage=usage_record(USAGE))]
    with pytest.raises(RulerError) as caught:
        await Client(url).score(GROUP)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"{url}: group 'g': it is {code}")
    assert caught.value.usage == USAGE
    assert len(service.requests) == 1


def test_every_code_of_the_service_is_known() -> None:
    problems = pytest.importorskip("ruler.service.problems")
    from ruler.client.replies import _ERRORS

    assert set(problems.STATUSES) == set(_ERRORS)


@pytest.mark.parametrize(("code", "usage"), [("reply", Usage()), ("deadline", Usage(cost_usd=None))])
async def test_usage_that_is_not_said_is_none_or_unknown(
    service: FakeService, url: str, code: str, usage: Usage
) -> None:
    service.answers = [problem(502, code)]
    with pytest.raises(JudgeError) as caught:
        await Client(url).score(GROUP)
    assert caught.value.usage == usage


async def test_a_missing_key_is_named(service: FakeService, url: str) -> None:
    service.answers = [problem(401, "unauthorized")]
    with pytest.raises(ConfigError, match="it is unauthorized; no key was sent, RULER_API_KEY is not set"):
        await Client(url).score(GROUP)


PAGE = b"<html><head><title>502</title></head>\n  nginx " + b"x" * 1000


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        (answer(200, PAGE), JudgeError, "200 with what is no result: .*<html>"),
        (answer(200, [5]), JudgeError, "no result"),
        (answer(200, b"[" * 100_000), JudgeError, "no result"),
        (answer(202, {}), JudgeError, "202 with what is no result"),
        (answer(200, {"status": "scored"}), JudgeError, "no result: group_id: field required"),
        (answer(400, PAGE), JudgeError, "400, not from this service: '<html>"),
        (answer(500, {"error": "text"}), JudgeError, "500, not from this service"),
        (answer(404, {"detail": "Not Found"}), ConfigError, "404, not from this service: '.*Not Found"),
        (answer(413, PAGE), GroupError, "413, not from this service"),
        (answer(307, b"", location="http://elsewhere/"), ConfigError, "307, to 'http://elsewhere/', not from this"),
        (answer(200, result_record(judged(Group.of(["a", "bb"], id="other")))), JudgeError, "of group 'other'"),
        (answer(200, result_record(judged(Group.of(["a", "c"], task="q", id=GROUP.id)))), JudgeError, "other rollouts"),
        (
            answer(200, result_record(judged(Group.of(["a", "bb"], task="q", id=GROUP.id, ids=["r2", "r1"])))),
            JudgeError,
            "other rollouts",
        ),
    ],
)
async def test_answers_that_are_no_result_are_errors_and_quoted_shortly(
    service: FakeService, url: str, given: Answer, kind: type[RulerError], said: str
) -> None:
    service.answers = [given]
    with pytest.raises(RulerError, match=said) as caught:
        await Client(url).score(GROUP)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"{url}: ")
    assert len(str(caught.value)) < 600
    assert len(service.requests) == 1


@pytest.mark.parametrize("score", [None, 1.5, -0.1, float("nan"), "0.5", True])
async def test_no_broken_score_gets_through(service: FakeService, url: str, score: object) -> None:
    record = result_record(judged(GROUP))
    record["rollouts"][1]["score"] = score
    service.answers = [answer(200, record)]
    with pytest.raises(JudgeError, match=r"no result: rollouts\[1\].score") as caught:
        await Client(url).score(GROUP)
    assert caught.value.usage == Usage(cost_usd=None)


async def test_a_failed_group_with_status_200_is_no_score(service: FakeService, url: str) -> None:
    failed = FailedGroup(GROUP.id, GROUP.digest, GROUP.rollouts_digest, "reply", "bad", ("r1", "r2"), **MADE_BY)
    service.answers = [answer(200, result_record(failed))]
    with pytest.raises(JudgeError, match="bad"):
        await Client(url).score(GROUP)


async def test_no_redirect_is_followed_with_the_key(
    service: FakeService, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RULER_API_KEY", "secret")
    other = FakeService()
    with Served(other) as elsewhere:
        service.answers = [answer(307, b"", location=f"{elsewhere.url}/v1/score")]
        with pytest.raises(ConfigError, match="307"):
            await Client(url).score(GROUP)
    assert other.requests == []


# Asking again


@pytest.mark.parametrize(
    "given",
    [
        problem(429, "rate_limited", "3"),
        problem(503, "overloaded", "3"),
        problem(503, "stopping", "3"),
        problem(503, "unavailable", "3"),
        answer(429, PAGE, retry_after="3"),
        answer(502, PAGE),
        answer(503, PAGE),
        answer(504, b""),
    ],
)
async def test_what_may_pass_is_asked_again(service: FakeService, url: str, given: Answer) -> None:
    service.answers = [given, given]
    time = Clock()
    result = await patient(url, time).score(GROUP)
    assert replace(result, usage=USAGE) == judged(GROUP)
    asked = float(given[1].get("retry-after", 0))
    assert time.slept == [asked + 0.25, asked + 0.5]


async def test_a_wait_that_is_too_long_or_no_number_is_not_kept(service: FakeService, url: str) -> None:
    service.answers = [problem(503, "unavailable", wait) for wait in ("100000", "nan", "-5", "soon", "inf")]
    time = Clock()
    await patient(url, time).score(GROUP)
    assert time.slept == [120.25, 0.5, 1.0, 2.0, 4.0]


async def test_pauses_grow_to_half_a_minute_at_most(service: FakeService, url: str) -> None:
    service.answers = [problem(503, "unavailable")] * 9
    time = Clock()
    await patient(url, time).score(GROUP)
    assert time.slept == [0.25, 0.5, 1, 2, 4, 8, 15, 15, 15]


async def test_attempts_are_bounded(service: FakeService, url: str) -> None:
    service.answers = [problem(503, "unavailable", usage=usage_record(USAGE))] * 9
    with pytest.raises(JudgeUnavailable, match=r"it is unavailable \(asked 3 times\)") as caught:
        await patient(url, Clock(), attempts=3).score(GROUP)
    assert len(service.requests) == 3
    assert caught.value.usage == USAGE + USAGE + USAGE


async def test_a_service_that_says_when_to_come_again_uses_up_time_and_no_attempts(
    service: FakeService, url: str
) -> None:
    service.answers = [problem(429, "rate_limited", "10")] * 30
    assert await patient(url, Clock(), attempts=1).score(GROUP) == judged(GROUP)
    service.answers = [problem(429, "rate_limited", "10")] * 30
    time = Clock()
    with pytest.raises(JudgeUnavailable, match=r"\(asked \d+ times; timeout_seconds=100\)") as caught:
        await patient(url, time, timeout_seconds=100).score(GROUP)
    assert 60 < time.now < 100
    assert (caught.value.retry_after_seconds, caught.value.overloaded) == (10, True)


async def test_usage_has_what_failed_attempts_took(service: FakeService, url: str) -> None:
    service.answers = [problem(503, "unavailable", usage=usage_record(USAGE)), problem(503, "overloaded", "1")]
    assert (await patient(url, Clock()).score(GROUP)).usage == USAGE + USAGE
    service.answers = [answer(502, PAGE)]
    assert (await patient(url, Clock()).score(GROUP)).usage == replace(USAGE, cost_usd=None)


async def test_a_server_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
    time = Clock()
    with pytest.raises(JudgeUnavailable, match=rf"^{url}: cannot be reached: ConnectError.*asked 4 times") as caught:
        await patient(url, time, attempts=4).score(GROUP)
    assert caught.value.usage == Usage()
    assert len(time.slept) == 3


async def test_a_server_that_hangs_up_or_talks_nonsense() -> None:
    replies = [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"]
    asked = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await reader.readuntil(b"\r\n\r\n")
        writer.write(replies[asked % 3])
        asked += 1
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        client = patient(url, Clock(), attempts=6)
        with pytest.raises(JudgeUnavailable, match=r"the answer got lost: \w+: .* \(asked 6 times\)") as caught:
            await client.score(GROUP)
        await client.aclose()
    assert asked == 6
    assert caught.value.usage == Usage(cost_usd=None)


async def test_a_server_that_never_answers() -> None:
    hung_up = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        hung_up.set()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        client = Client(url, timeout_seconds=0.05)
        with pytest.raises(JudgeUnavailable, match=r"no answer within 0.0\d+ s \(asked once; timeout_seconds=0.05\)"):
            await client.score(GROUP)
        await hung_up.wait()


# Many groups


async def test_many_groups_in_order_and_failures_in_their_places(service: FakeService, url: str) -> None:
    many = [Group.of([f"{n}", "b" * n], id=f"g{n}") for n in range(2, 40)]

    def refuse_g7(request: Request) -> Answer | None:
        return problem(502, "reply", usage=usage_record(USAGE)) if request.body["group_id"] == "g7" else None

    service.answers = [refuse_g7] * len(many)  # type: ignore[list-item]
    results = await Client(url, judge="careful", concurrency=5).score_many(many)
    failed = results.pop(5)
    assert results == [judged(group) for group in many if group.id != "g7"]
    assert failed == FailedGroup(
        "g7",
        many[5].digest,
        many[5].rollouts_digest,
        "reply",
        f"{url}: it is reply",
        ("r1", "r2"),
        judge="careful",
        rubric="",
        prompt_version="",
        orders=0,
        adaptive=False,
        usage=USAGE,
    )
    assert service.most_at_once <= 5


async def test_after_a_reached_budget_nothing_more_is_asked(service: FakeService, url: str) -> None:
    many = [Group.of([f"{n}", "b" * n], id=f"g{n}") for n in range(2, 20)]
    service.answers = [None, problem(402, "budget")]
    results = await Client(url, concurrency=1).score_many(many)
    assert results[0] == judged(many[0])
    assert {(r.reason, r.message) for r in results[1:] if isinstance(r, FailedGroup)} == {
        ("budget", f"{url}: it is budget")
    }
    assert len(results) == len(many)
    assert len(service.requests) == 2


async def test_no_groups_and_what_is_no_group(service: FakeService, url: str) -> None:
    assert await Client(url).score_many([]) == []
    with pytest.raises(GroupError, match=r"groups\[1\]: expected a Group, got 5"):
        await Client(url).score_many([GROUP, 5])  # type: ignore[list-item]
    with pytest.raises(GroupError, match="group: expected a Group"):
        await Client(url).score([GROUP])  # type: ignore[arg-type]
    with pytest.raises(GroupError, match="role"):
        await Client(url).score(Group((Rollout("a", (Message("critic", ("x",)),)),)))
    assert service.requests == []


async def test_single_groups_wait_for_a_place_and_their_time_does_not_run(service: FakeService, url: str) -> None:
    client = Client(url, concurrency=2)
    many = [Group.of([f"{n}", "b" * n], id=f"g{n}") for n in range(2, 12)]
    assert await asyncio.gather(*map(client.score, many)) == [judged(group) for group in many]
    assert service.most_at_once == 2


# Joining


def joins(client: Client, *names: str, **more: Any) -> list[asyncio.Task[JoinedScore]]:
    """A group of these rollouts and one more, `z`, each sent by itself; longer names score higher."""
    more = {"group_id": "g", "group_size": len(names) + 1, "task": "q"} | more
    return [asyncio.create_task(client.join(name, rollout_id=name, **more)) for name in (*names, "z")]


async def sent(service: FakeService, num_requests: int) -> None:
    while len(service.requests) < num_requests:  # noqa: ASYNC110  the server runs in another thread
        await asyncio.sleep(0.001)


async def test_rollouts_that_are_sent_by_themselves_get_the_scores_of_their_group(
    service: FakeService, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RULER_API_KEY", "secret")
    client = Client(url, judge="careful", rubric="support")
    found = await asyncio.gather(*joins(client, "aaa", "bb", group_id="g/ü&?", attempt=2))
    expected = judged(Group.of(["aaa", "bb", "z"], ids=["aaa", "bb", "z"], task="q", id="g/ü&?"))
    assert [one.score for one in found] == list(expected.rollouts)
    assert found[0] == JoinedScore(
        "g/ü&?", 2, expected.rollouts[0], "scored", 1, 3, 3, "m", "m-2025", "default@1#0", "2"
    )
    posts = [request for request in service.requests if request.method == "POST"]
    asked = [request for request in service.requests if request.method == "GET"]
    assert [post.query for post in posts] == [{"judge": "careful", "rubric": "support", "wait": "0"}] * 3
    [of_aaa] = [post.body for post in posts if post.body["rollout_id"] == "aaa"]
    assert of_aaa == {
        "group_id": "g/ü&?",
        "group_size": 3,
        "rollout_id": "aaa",
        "attempt": 2,
        "task": {"messages": [{"role": "user", "content": "q"}]},
        "messages": [{"role": "assistant", "content": "aaa"}],
    }
    assert 1 <= len(asked) <= 4
    for request in asked:
        assert float(request.query.pop("wait")) in (0, 20)
        assert request.query.pop("rollout_id") in ("aaa", "bb", "z")
        assert request.query == {"group_id": "g/ü&?", "attempt": "2"}
    for request in service.requests:
        assert unquote(request.headers["x-ruler-group"]) == "g/ü&?"
        assert request.headers["authorization"] == "Bearer secret"


async def test_a_tied_group_has_no_score(url: str) -> None:
    client = Client(url)
    found = await asyncio.gather(
        *(client.join("same", rollout_id=name, group_id="g", group_size=2, task="q") for name in "ab")
    )
    assert {(one.status, one.score.score, one.rank, one.model) for one in found} == {("tied", None, None, None)}


async def test_rollouts_that_wait_take_no_place_from_their_siblings(service: FakeService, url: str) -> None:
    names = [f"{n:02}" * n for n in range(1, 30)]
    found = await asyncio.gather(*joins(Client(url, concurrency=1), *names))
    assert [one.score.id for one in found] == [*names, "z"]
    assert service.most_at_once == 2  # one that is sent, or asks briefly, and the question that is held


async def test_siblings_let_one_of_them_ask(service: FakeService, url: str) -> None:
    client = Client(url)
    tasks = joins(client, "aaa", "bb", group_size=4)
    await sent(service, 4)
    [first] = [request.query["rollout_id"] for request in service.requests if request.method == "GET"]
    for task, name in zip(tasks, ("aaa", "bb", "z"), strict=True):
        if name == first:
            task.cancel()
    await sent(service, 5)  # another one asks in its place
    assert service.requests[-1].method == "GET"
    assert service.requests[-1].query["rollout_id"] != first
    await client.join("y", rollout_id="y", group_id="g", group_size=4, task="q")
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(one, JoinedScore) for one in found] == [name != first for name in ("aaa", "bb", "z")]


async def test_when_many_wait_some_ask_briefly(service: FakeService, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_NUM_LONG_POLLS", 2)
    monkeypatch.setattr(join, "_FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(join, "_SHORT_POLLS_PER_SECOND", 2000)
    client = Client(url)

    def one(name: str, n: int) -> asyncio.Task[JoinedScore]:
        return asyncio.create_task(client.join(name, rollout_id=name, group_id=f"g{n}", group_size=2, task="q"))

    first = [one("a", n) for n in range(8)]
    await sent(service, 30)
    waits = [float(request.query["wait"]) for request in service.requests if request.method == "GET"]
    assert set(waits) == {0, 20}
    assert waits.count(20) == 2
    last = [one("zz", n) for n in range(8)]
    assert [found.rank for found in await asyncio.gather(*first, *last)] == [1] * 16
    assert {found.group_id for found in await asyncio.gather(*last)} == {f"g{n}" for n in range(8)}


async def test_what_the_service_forgot_is_sent_again(service: FakeService, served: Served) -> None:
    client = patient(served.url, Clock())
    tasks = joins(client, "aaa", "bb", group_size=4)
    await sent(service, 4)
    service.groups.clear()
    served.drop_connections()
    await sent(service, 11)  # three questions in vain, three posts, one question
    last = await client.join("yyyy", rollout_id="y", group_id="g", group_size=4, task="q")
    found = [*await asyncio.gather(*tasks), last]
    assert [one.score.id for one in found] == ["aaa", "bb", "z", "y"]
    assert [one.score for one in found if one.score.id == "aaa"] == [
        one for one in expected_of(found) if one.id == "aaa"
    ]
    posts = [request.body["rollout_id"] for request in service.requests if request.method == "POST"]
    assert sorted(posts) == ["aaa", "aaa", "bb", "bb", "y", "z", "z"]


def expected_of(found: list[JoinedScore]) -> tuple[Score, ...]:
    texts = {"aaa": "aaa", "bb": "bb", "z": "z", "y": "yyyy"}
    ids = [one.score.id for one in found]
    return judged(Group.of([texts[name] for name in ids], ids=ids, task="q")).rollouts


async def test_a_question_that_got_lost_is_asked_again(service: FakeService, served: Served) -> None:
    client = patient(served.url, Clock())
    tasks = joins(client, "aaa", group_size=3)
    await sent(service, 3)
    for num_requests in (4, 5):
        served.drop_connections()
        await sent(service, num_requests)
    service.answers = [answer(502, PAGE), answer(504, PAGE)]
    served.drop_connections()
    await sent(service, 8)
    await client.join("y", rollout_id="y", group_id="g", group_size=3, task="q")
    assert [one.score.id for one in await asyncio.gather(*tasks)] == ["aaa", "z"]
    assert sum(request.method == "POST" for request in service.requests) == 3


@pytest.mark.parametrize("code", ["unavailable", "overloaded", "stopping"])
async def test_a_group_that_may_be_begun_anew_is_sent_again(service: FakeService, url: str, code: str) -> None:
    waiting = answer(202, {"status": "waiting"})
    service.answers = [waiting, problem(503, code, "4")]
    time = Clock()
    found = await patient(url, time).join("a", rollout_id="a", group_id="g", group_size=1, task="q")
    assert found.status == "tied"
    assert [request.method for request in service.requests] == ["POST", "GET", "POST", "GET"][: len(service.requests)]
    assert time.slept == [4.25]


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ([problem(409, "conflict")], GroupError),
        ([problem(404, "not_found")], ConfigError),
        ([answer(202, {}), problem(409, "superseded")], GroupError),
        ([answer(202, {}), problem(502, "reply")], ReplyError),
        ([answer(202, {}), problem(504, "deadline")], JudgeUnavailable),
        ([answer(202, {}), answer(202, {}), problem(402, "budget")], BudgetExceeded),
        ([answer(202, {}), answer(200, PAGE)], JudgeError),
        ([answer(202, {}), answer(404, PAGE)], ConfigError),
        ([answer(201, {})], JudgeError),
    ],
)
async def test_a_group_that_failed_for_good(
    service: FakeService, url: str, answers: list[Answer | None], kind: type[RulerError]
) -> None:
    service.answers = [*answers]
    with pytest.raises(RulerError) as caught:
        await patient(url, Clock()).join("a", rollout_id="a", group_id="g", group_size=2)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"{url}: ")
    assert len(service.requests) == len(answers)


async def test_a_service_that_holds_no_question_is_asked_with_growing_pauses(service: FakeService, url: str) -> None:
    service.answers = [answer(202, {})] * 9
    time = Clock()
    with pytest.raises(JudgeUnavailable, match="no score within timeout_seconds=27"):
        await patient(url, time, timeout_seconds=27).join("a", rollout_id="a", group_id="g", group_size=2)
    assert time.slept == [0.5, 1, 2, 4, 8, 10, 1.5]


async def test_a_service_that_forgets_again_and_again_is_given_up(service: FakeService, url: str) -> None:
    service.answers = [answer(202, {}), problem(404, "not_found")] * 9
    with pytest.raises(JudgeUnavailable, match=r"group 'g', attempt 0: rollout 'a': .* forgotten it \(asked 3 times\)"):
        await patient(url, Clock(), attempts=3).join("a", rollout_id="a", group_id="g", group_size=2)
    assert len(service.requests) == 6


async def test_siblings_that_never_come(service: FakeService, url: str) -> None:
    time = Clock()

    def later(request: Request) -> Answer:
        time.now += 30
        return answer(202, {})

    service.answers = [later] * 9
    with pytest.raises(JudgeUnavailable, match=r"rollout 'a': no score within timeout_seconds=100"):
        await patient(url, time, timeout_seconds=100).join("a", rollout_id="a", group_id="g", group_size=2)
    waits = [request.query["wait"] for request in service.requests]
    assert waits == ["0", "20.000", "20.000", "10.000"]


@pytest.mark.parametrize(
    "body",
    [
        {"rollout_id": "b"},
        {"group_id": "h"},
        {"attempt": 1},
        {"score": 2},
        {"score": None},
        {"status": "tied"},
        {"status": "failed"},
        {"rank": 0},
        {"num_rollouts": "2"},
        {"judge": None},
    ],
)
async def test_an_answer_that_is_not_this_rollouts_score_is_none(
    service: FakeService, url: str, body: dict[str, object]
) -> None:
    service.answers = [joined_answer("g", 0, "a", Score("a", 0.5), "scored", 2, body)]
    with pytest.raises(JudgeError, match=r"rollout 'a': 200 with what is no score: .*") as caught:
        await Client(url).join("a", rollout_id="a", group_id="g", group_size=2)
    assert type(caught.value) is JudgeError


async def test_arguments_are_checked_before_anything_is_sent(service: FakeService, url: str) -> None:
    fine: dict[str, Any] = {"rollout_id": "a", "group_id": "g", "group_size": 2}
    for more, said in [
        ({"rollout_id": None}, "rollout_id: missing; give one"),
        ({"rollout_id": ""}, "rollout_id: expected text"),
        ({"rollout_id": "\ud800"}, "rollout_id: expected text.* half surrogate"),
        ({"group_id": ""}, "group_id: expected text"),
        ({"group_id": 5}, "group_id: expected text.*got 5"),
        ({"group_size": 0}, "group_size: expected a whole number of at least 1, got 0"),
        ({"group_size": True}, "group_size: .*got True"),
        ({"attempt": -1}, "attempt: expected a whole number of at least 0, got -1"),
        ({"attempt": 2**60}, "attempt"),
        ({"task": 5}, "group 'g': task: expected chat messages"),
        ({"tools": [{}]}, r"tools\[0\].name"),
    ]:
        with pytest.raises(GroupError, match=said):
            await Client(url).join("a", **{**fine, **more})
    with pytest.raises(GroupError, match=r"rollout 'a': messages\[0\].role"):
        await Client(url).join([{"role": "critic"}], **fine)
    with pytest.raises(GroupError, match="rollout_id: 'a' for a Rollout, which has its own: 'b'"):
        await Client(url).join(Rollout.of("b", "x"), **fine)
    with pytest.raises(GroupError, match="tools: given for the group"):
        await Client(url).join(Rollout.of("b", "x", tools=[]), **{**fine, "rollout_id": None, "tools": [{"name": "f"}]})
    assert service.requests == []


def posted(group: Group, rollout: Rollout) -> dict[str, Any]:
    body = body_of(
        read_place("g", len(group.rollouts), rollout.id, 0),
        rollout,
        task=group.task or None,
        tools=group.tools or None,
        reference=group.reference,
    )
    return dict(json.loads(body))


@given(group=groups())
@settings(max_examples=100)
def test_a_rollout_of_a_group_is_read_as_it_is(group: Group) -> None:
    for rollout in group.rollouts:
        rollout = replace(rollout, id="a", tools=None)
        body = posted(group, rollout)
        own = {key: body[key] for key in ("messages", "finish_reason", "histories") if key in body}
        read = read_record({"group_id": "g", "task": body.get("task"), "rollouts": [{"id": "a", **own}]})
        again = rollout.messages[: len(group.task)] == group.task  # taken for a whole conversation
        expected = rollout if not again else replace(rollout, messages=rollout.messages[len(group.task) :])
        there = Group((replace(expected, metadata={}),), group.task, group.tools, "g", group.reference)
        assert read.rollouts_digest == there.rollouts_digest


def test_tools_of_the_rollout_stand_for_those_of_the_group() -> None:
    rollout = Rollout.of("a", "x", tools=[{"name": "f", "parameters": {"type": "object"}}])
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    assert posted(Group((rollout,)), rollout)["task"]["tools"] == tools
    assert posted(Group((rollout,), tools=rollout.tools or ()), replace(rollout, tools=None))["task"]["tools"] == tools


# Settings


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"base_url": None}, "base_url: no address was given, and RULER_URL is not set"),
        ({"base_url": ""}, "base_url: expected an address"),
        ({"base_url": "judge:8000"}, "base_url: expected an address such as http"),
        ({"base_url": "ftp://judge"}, "base_url"),
        ({"base_url": "http://"}, "base_url"),
        ({"base_url": "http://judge:99999"}, "base_url"),
        ({"base_url": "http://judge?x=1"}, "base_url"),
        ({"base_url": 5}, "base_url: expected an address, got 5"),
        ({"judge": ""}, "judge: expected a name, got ''"),
        ({"rubric": 5}, "rubric: expected a name, got 5"),
        ({"api_key_env": ""}, "api_key_env"),
        ({"timeout_seconds": 0}, "timeout_seconds: expected a positive number, got 0"),
        ({"timeout_seconds": float("inf")}, "timeout_seconds"),
        ({"timeout_seconds": True}, "timeout_seconds"),
        ({"attempts": 0}, "attempts: expected a whole number of at least 1, got 0"),
        ({"concurrency": 1.5}, "concurrency: .* got 1.5"),
    ],
)
def test_bad_settings(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Client(**{"base_url": "http://judge:8000", **more})


@pytest.mark.parametrize(
    "url", ["http://user:hunter2@judge", "ftp://user:hunter2@judge", "http://user:hunter2@judge?x"]
)
def test_a_password_in_the_address_is_refused_and_not_shown(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="//[*]{3}@judge") as caught:
        Client(url)
    assert "hunter2" not in str(caught.value)
    monkeypatch.setenv("RULER_URL", url)
    with pytest.raises(ConfigError, match="^RULER_URL: "):
        Client()


async def test_the_key_is_nowhere_but_in_the_request(
    service: FakeService, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RULER_API_KEY", "hunter2")
    client = Client(url, judge="careful")
    await client.score(GROUP)
    service.answers = [problem(401, "unauthorized"), answer(400, PAGE), answer(200, {})]
    shown = [repr(client), str(pickle.dumps(client))]
    for _ in range(3):
        with pytest.raises(RulerError) as caught:
            await client.score(GROUP)
        shown += [str(caught.value), repr(caught.value), str(pickle.dumps(caught.value))]
    assert "hunter2" not in " ".join(shown)
    settings = "api_key_env='RULER_API_KEY', timeout_seconds=900.0, attempts=10, concurrency=64"
    assert repr(client) == f"Client({url!r}, judge='careful', {settings})"


@pytest.mark.parametrize("key", ["hunter2\nX-Other: 1", "hunter2\x00", "hünter2"])
async def test_a_key_that_no_header_can_carry_is_not_quoted(
    service: FakeService, url: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "\x00" in key:
        monkeypatch.setattr(os, "environ", {**os.environ, "RULER_API_KEY": key})
    else:
        monkeypatch.setenv("RULER_API_KEY", key)
    with pytest.raises(ConfigError, match="^RULER_API_KEY: holds a character that no HTTP header can carry$"):
        await Client(url).score(GROUP)
    assert service.requests == []


async def test_a_pickled_client_has_the_same_settings_and_connections_of_its_own(url: str) -> None:
    client = patient(
        url, Clock(), judge="careful", rubric="r", api_key_env="K", timeout_seconds=5, attempts=2, concurrency=3
    )
    await client.score(GROUP)
    copy = pickle.loads(pickle.dumps(client))
    assert repr(copy) == repr(client)
    assert await copy.score(GROUP) == judged(GROUP)


async def test_without_httpx_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    client = Client("http://judge")
    with pytest.raises(ConfigError, match=r"pip install 'ruler-judge\[client\]'"):
        await client.score(GROUP)
    with pytest.raises(ConfigError, match="httpx"):
        await client.score_many([GROUP])


async def test_a_proxy_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "gopher://localhost")
    with pytest.raises(ConfigError, match="proxy"):
        await Client("http://judge").score(GROUP)


def test_loading_it_loads_no_http_library() -> None:
    code = "import ruler.client, sys; print({'httpx', 'tenacity', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"


# Event loops, threads and processes


async def test_connections_are_used_again_until_they_are_closed(service: FakeService, url: str) -> None:
    client = Client(url)
    await client.aclose()
    for _ in range(3):
        await client.score(GROUP)
    await client.aclose()
    await client.score(GROUP)
    first, *same, other = [request.port for request in service.requests]
    assert same == [first, first]
    assert other != first


def test_every_loop_has_connections_of_its_own_and_none_is_left(service: FakeService, url: str) -> None:
    client = Client(url)
    for _ in range(5):
        assert asyncio.run(client.score(GROUP)) == judged(GROUP)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: asyncio.run(client.score(GROUP)), range(8)))
    assert found == [judged(GROUP)] * 8
    assert len({request.port for request in service.requests}) == 13
    assert not client._sender.connections._process.loops


def test_loops_that_ended_without_a_word_are_forgotten(url: str) -> None:
    client = Client(url)
    for _ in range(3):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(client.score(GROUP))
        found = client._sender.connections._process.loops[loop][0]
        assert len(client._sender.connections._process.loops) == 1
        loop.run_until_complete(found.close())  # for this test's sake: pytest would see open sockets
        loop.close()


async def test_what_a_client_leaves_open_that_is_no_more_is_closed_by_the_next(service: FakeService, url: str) -> None:
    for _ in range(3):
        await Client(url).score(GROUP)
    here = asyncio.get_running_loop()
    assert sum(here in process.loops for process in connections._held) == 1
    await Client(url).aclose()


@pytest.mark.slow
def test_a_loop_for_each_call_leaves_no_warning(url: str) -> None:
    code = f"""
import asyncio, gc, sys
from ruler.client import Client
from ruler.types import Group
client = Client({url!r})
groups = [Group.of(["a", "b" * n]) for n in range(2, 9)]
async def step():
    results = await client.score_many(groups)
    return [result.status for result in results]
for n in range(3):
    assert asyncio.run(step()) == ["scored"] * 7
    gc.collect()
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_children_leave_the_connections_of_their_parent_alone(service: FakeService, url: str) -> None:
    code = f"""
import asyncio, gc, os, sys
from ruler.client import Client, connections
from ruler.types import Group
connections._KEPT_SECONDS = 60
client = Client({url!r})
group = Group.of(["a", "bb"])
def children():
    for ends in (os._exit, sys.exit):
        for synchronous in (True, False):
            child = os.fork()
            if child == 0:
                scored = client.score_sync(group) if synchronous else asyncio.run(client.score(group))
                gc.collect()
                ends(0 if scored.status == "scored" else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
client.score_sync(group)
children()
client.score_sync(group)
child = os.fork()
if child == 0:
    client = None
    gc.collect()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
client.score_sync(group)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    first, *of_children, again, last = [request.port for request in service.requests]
    assert first == again == last
    assert len({first, *of_children}) == 5


@pytest.mark.slow
def test_spawned_children_score_with_a_pickled_client(service: FakeService, url: str, tmp_path: Path) -> None:
    code = f"""
import multiprocessing
from ruler.client import Client
from ruler.types import Group
if __name__ == "__main__":
    client = Client({url!r}, judge="careful")
    group = Group.of(["a", "bb"])
    client.score_sync(group)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.map(client.score_sync, [group] * 4)
    assert [scored.status for scored in found] == ["scored"] * 4
"""
    (tmp_path / "main.py").write_text(code)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "main.py")],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [request.query for request in service.requests] == [{"judge": "careful"}] * 5


@pytest.mark.slow
def test_rollouts_that_wait_survive_a_server_that_is_killed(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    code = f"from tests.test_client import *; Served(FakeService(), {port}).__enter__()._thread.join()"

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)

    async def scores() -> list[JoinedScore]:
        client = Client(f"http://127.0.0.1:{port}", attempts=10_000, jitter=lambda: 0.01)
        running = start()
        tasks = [task for n in range(20) for task in joins(client, "a" * 5, "b" * 9, group_id=f"g{n}", group_size=4)]
        try:
            while len((await client._sender.connections.here()).asking) < 20:
                assert not any(task.done() for task in tasks)
                await asyncio.sleep(0.01)
            running.send_signal(signal.SIGKILL)
            running.wait()
            running = start()
            last = [client.join("y", rollout_id="y", group_id=f"g{n}", group_size=4, task="q") for n in range(20)]
            return await asyncio.gather(*tasks, *last)
        finally:
            running.kill()
            running.wait()

    found = asyncio.run(scores())
    assert [one.score.id for one in found] == ["aaaaa", "bbbbbbbbb", "z"] * 20 + ["y"] * 20
    assert {(one.score.id, round(one.score.score or 0, 6)) for one in found} == {
        (score.id, round(score.score or 0, 6))
        for score in judged(Group.of(["a" * 5, "b" * 9, "y", "z"], ids=["aaaaa", "bbbbbbbbb", "y", "z"])).rollouts
    }
