"""The calls as a client sees them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from ruler import Group, Ruler
from ruler.config import load_judge
from ruler.errors import ConfigError
from ruler.records import group_record
from ruler.results import read_result
from ruler.service import create_app
from tests.local_server import LocalServer, Response, completion, error, score_all
from tests.service.calling import TWO, calling, service, settings

EIGHT = [f"{'so ' * place}the answer is {place}" for place in range(8)]


def post_of(place: int, **more: Any) -> dict[str, Any]:
    return {
        "group_id": "g",
        "group_size": 8,
        "rollout_id": str(place),
        "task": "Add.",
        "messages": EIGHT[place],
        **more,
    }


def code_of(response: httpx.Response) -> str:
    return str(response.json()["error"]["code"])


async def test_a_group_gets_what_the_library_gives() -> None:
    group = Group.of(EIGHT, task="Add.", id="g")
    expected = await Ruler(load_judge("simulated?noise=0")).score(group)
    async with service() as (client, _):
        response = await client.post("/v1/score", json=group_record(group))
    assert response.status_code == 200
    assert read_result(response.json()) == expected


async def test_the_same_group_again_is_answered_from_the_cache(tmp_path: Path) -> None:
    with LocalServer() as server:
        async with service(judge=f"{server.url}#m", cache=str(tmp_path / "c.sqlite3")) as (client, _):
            first, again, *_ = await asyncio.gather(*(client.post("/v1/score", json=TWO) for _ in range(4)))
    assert first.json()["rollouts"] == again.json()["rollouts"]
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("body", "status", "code", "said"),
    [
        (b"", 422, "group", "not JSON"),
        (b"\xff", 422, "group", "not UTF-8: byte 0"),
        (b"[" * 100_000, 422, "group", "cannot|can be read|nested"),
        (b"{}", 422, "group", "rollouts: field required"),
        (b'{"rollouts": []}', 422, "group", "rollouts: empty"),
        (b'{"rollouts": [{"messages": "a"}]}', 422, "group", "only one"),
        (
            b'{"rollouts": [{"id": "x", "messages": "a"}, {"id": "x", "messages": "b"}]}',
            422,
            "group",
            "'x' occurs twice",
        ),
        (b'{"rollouts": [{"messages": "a"}, {"messages": [{"role": "wizard"}]}]}', 422, "group", "wizard"),
        (
            json.dumps({"rollouts": [{"messages": str(n)} for n in range(200)]}).encode(),
            413,
            "too_large",
            "128, got 200",
        ),
    ],
)
async def test_a_bad_group_is_told_where(body: bytes, status: int, code: str, said: str) -> None:
    async with service() as (client, the_service):
        response = await client.post("/v1/score", content=body)
        assert (response.status_code, code_of(response)) == (status, code)
        assert (await client.get("/healthz")).status_code == 200
        assert the_service.admission.waiting == 0
    assert re.search(said, response.json()["error"]["message"])


async def test_a_tied_group_has_no_score() -> None:
    async with service() as (client, _):
        response = await client.post("/v1/score", json={"rollouts": [{"messages": "a"}, {"messages": "a"}]})
    assert response.json()["status"] == "tied"
    assert all("score" not in rollout for rollout in response.json()["rollouts"])


@pytest.mark.parametrize(
    ("reply", "status", "code"),
    [
        (lambda body: error(401, "bad key"), 502, "rejected"),
        (lambda body: error(500, "down"), 503, "unavailable"),
        (lambda body: completion("no scores at all"), 502, "reply"),
        (lambda body: completion('{"scores": []}'), 502, "reply"),
    ],
)
async def test_a_judge_failure_is_an_error_and_never_a_number(reply: Any, status: int, code: str) -> None:
    with LocalServer(reply) as server:
        async with service(judge=f"{server.url}#m?attempts=1&reasks=0") as (client, _):
            response = await client.post("/v1/score", json=TWO)
            assert (response.status_code, code_of(response)) == (status, code)
            assert "score" not in response.json()
            assert response.json()["error"]["group_id"] == "g"
            assert ("retry-after" in response.headers) == (status == 503)
            posts = [client.post("/v1/rollouts", json=post_of(place)) for place in range(8)]
            answers = await asyncio.gather(*posts)
            assert [(one.status_code, code_of(one)) for one in answers] == [(status, code)] * 8
            # A judge that refuses this group may well answer the next.
            assert (await client.get("/readyz")).status_code == (503 if code == "unavailable" else 200)
            assert (await client.get("/healthz")).status_code == 200
            listed = (await client.get("/v1/groups")).json()["groups"]
            assert {one["reason"] for one in listed} == {code}


async def test_judges_and_rubrics_are_chosen_by_name(tmp_path: Path) -> None:
    (tmp_path / "long.md").write_text("Longer is better.")
    named = {"hashed": {"judge": "simulated?quality=hash&noise=0", "orders": 2}}
    async with service(judges=named, rubrics={"long": tmp_path / "long.md"}) as (client, _):
        plain = (await client.post("/v1/score", json=TWO)).json()
        other = (await client.post("/v1/score?judge=hashed&rubric=long", json=TWO)).json()
        assert (plain["orders"], other["orders"]) == (1, 2)
        assert [one["rubric"].partition("@")[0] for one in (plain, other)] == ["default", "long"]
        assert plain["judge"] != other["judge"]
        for query in ("judge=nope", "rubric=nope", "judge=http://evil/v1%23m"):
            response = await client.post(f"/v1/score?{query}", json=TWO)
            assert (response.status_code, code_of(response)) == (404, "not_found")
        response = await client.post("/v1/score?jugde=hashed", json=TWO)
        assert (response.status_code, code_of(response)) == (422, "group")
        assert "jugde" in response.json()["error"]["message"]


async def test_rollouts_meet_and_each_gets_its_own() -> None:
    expected = await Ruler(load_judge("simulated?noise=0")).score(
        Group.of(EIGHT, task="Add.", id="g", ids=[str(place) for place in range(8)])
    )
    async with service() as (client, _):
        answers = await asyncio.gather(
            *(client.post("/v1/rollouts", json=post_of(place)) for place in (3, 0, 7, 1, 2, 6, 5, 4, 3))
        )
        assert [one.json()["score"] for one in answers] == [expected.scores[n] for n in (3, 0, 7, 1, 2, 6, 5, 4, 3)]
        later = await client.get("/v1/rollouts", params={"group_id": "g", "rollout_id": "5"})
        assert later.json()["score"] == expected.scores[5]
        assert {later.json()[name] for name in ("group_size", "num_rollouts")} == {8}


async def test_a_client_may_ask_later() -> None:
    async with service() as (client, _):
        for place in range(7):
            response = await client.post("/v1/rollouts?wait=0", json=post_of(place))
            assert (response.status_code, response.json()["status"]) == (202, "waiting")
        query = {"group_id": "g", "rollout_id": "0"}
        assert (await client.get("/v1/rollouts", params=query)).status_code == 202
        assert (await client.post("/v1/rollouts?wait=30", json=post_of(7))).status_code == 200
        assert (await client.get("/v1/rollouts", params=query)).status_code == 200
        unknown = await client.get("/v1/rollouts", params={"group_id": "g", "rollout_id": "9"})
        assert (unknown.status_code, code_of(unknown)) == (404, "not_found")


@pytest.mark.parametrize(
    ("more", "status", "code", "said"),
    [
        ({"group_size": 0}, 422, "group", "group_size"),
        ({"group_size": True}, 422, "group", "group_size"),
        ({"group_size": 1000}, 413, "too_large", "group_size: at most 128, got 1000"),
        ({"group_id": ""}, 422, "group", "group_id"),
        ({"group_id": [7]}, 422, "group", "group_id"),
        ({"attempt": -1}, 422, "group", "attempt"),
        ({"atempt": 1}, 422, "group", "atempt"),
        ({"messages": None}, 422, "group", "messages"),
        ({"task": 7}, 422, "group", "task"),
        ({"histories": []}, 422, "group", "histories"),
    ],
)
async def test_a_bad_rollout_opens_no_group(more: dict[str, Any], status: int, code: str, said: str) -> None:
    async with service() as (client, the_service):
        response = await client.post("/v1/rollouts", json=post_of(0, **more))
        assert (response.status_code, code_of(response)) == (status, code)
        assert said in response.json()["error"]["message"]
        assert the_service.rendezvous.collecting == 0


@pytest.mark.parametrize("wait", ["-1", "1_0", "nan", "inf", "x", "1e9", ""])
async def test_a_bad_wait_is_refused(wait: str) -> None:
    async with service() as (client, _):
        response = await client.post(f"/v1/rollouts?wait={wait}", json=post_of(0))
    assert (response.status_code, code_of(response)) == (422, "group")
    assert "wait" in response.json()["error"]["message"]


async def test_a_batch_answers_each_line() -> None:
    lines = [json.dumps({**TWO, "group_id": f"g{n}"}) for n in range(20)]
    lines[3] = "not json"
    lines[5] = ""
    lines[7] = json.dumps({"group_id": "alone", "rollouts": [{"messages": "a"}]})
    async with service() as (client, _):
        response = await client.post("/v1/score/batch", content="\n".join(lines))
        assert response.headers["content-type"].startswith("application/x-ndjson")
        records = [json.loads(line) for line in response.text.splitlines()]
    assert len(records) == 19
    assert [record for record in records if "line" in record] == [
        {"line": 4, "error": {"code": "group", "message": "body: not JSON: Expecting value at line 1 column 1"}}
    ]
    by_id = {record["group_id"]: record for record in records if "group_id" in record}
    assert by_id.keys() == {f"g{n}" for n in range(20) if n not in (3, 5, 7)} | {"alone"}
    assert by_id["alone"]["status"] == "failed"
    assert all(record["status"] == "scored" for name, record in by_id.items() if name != "alone")


async def test_a_batch_waits_where_a_single_request_is_turned_away() -> None:
    lines = [json.dumps({**TWO, "group_id": f"g{n}"}) for n in range(30)]
    with LocalServer(lambda body: score_all(body)) as server:
        async with service(judge=f"{server.url}#m", concurrency=2, queue=1) as (client, _):
            response = await client.post("/v1/score/batch", content="\n".join(lines))
            singles = await asyncio.gather(*(client.post("/v1/score", content=line) for line in lines))
    assert {json.loads(line)["status"] for line in response.text.splitlines()} == {"scored"}
    refused = [one for one in singles if one.status_code != 200]
    assert {one.status_code for one in refused} == {503}
    assert all(int(one.headers["retry-after"]) >= 1 for one in refused)


async def test_a_line_that_is_too_long_is_answered_and_skipped() -> None:
    lines = [json.dumps({**TWO, "group_id": "g1"}), "x" * 5000, json.dumps({**TWO, "group_id": "g2"})]
    async with service(max_body_bytes=1000) as (client, the_service):
        response = await client.post("/v1/score/batch", content="\n".join(lines))
        assert client._transport.app.state.service is the_service  # type: ignore[attr-defined]
    records = [json.loads(line) for line in response.text.splitlines()]
    assert sorted(str(record.get("group_id")) for record in records) == ["None", "g1", "g2"]
    assert next(record for record in records if "line" in record)["error"]["code"] == "too_large"


async def test_bodies_are_bounded() -> None:
    async with service(max_body_bytes=100) as (client, _):
        declared = await client.post("/v1/score", content=b"x" * 101)

        async def chunks() -> Any:
            for _ in range(20):
                yield b"x" * 10

        chunked = await client.post("/v1/score", content=chunks())
    assert (declared.status_code, chunked.status_code) == (413, 413)
    async with service(max_body_bytes=1_000, max_buffered_bytes=2_000) as (client, _):
        bodies = [client.post("/v1/score", content=b"x" * 900) for _ in range(5)]
        statuses = sorted(one.status_code for one in await asyncio.gather(*bodies))
        assert statuses[0] == 422
        response = await client.post("/v1/score", json=TWO)
        assert response.status_code == 200
    async with service(max_requests=1) as (client, _):
        held = asyncio.create_task(client.post("/v1/rollouts", json=post_of(0)))
        await asyncio.sleep(0.05)
        response = await client.post("/v1/score", json=TWO)
        held.cancel()
    assert (response.status_code, code_of(response)) == (503, "overloaded")


async def test_requests_a_minute() -> None:
    async with service(requests_per_minute=2) as (client, _):
        statuses = [(await client.post("/v1/score", json=TWO)) for _ in range(3)]
    assert [one.status_code for one in statuses] == [200, 200, 429]
    assert 1 <= int(statuses[2].headers["retry-after"]) <= 60


async def test_tokens_a_minute() -> None:
    async with service(tokens_per_minute=400) as (client, _):
        statuses = [(await client.post("/v1/score", json=TWO)).status_code for _ in range(6)]
    assert statuses[0] == 200
    assert statuses[-1] == 429


async def test_a_group_of_single_rollouts_counts_once_and_by_its_text() -> None:
    async with service(tokens_per_minute=2_000, requests_per_minute=2) as (client, the_service):
        for group_id in ("g1", "g2", "g3"):
            posts = [post_of(place, group_id=group_id, group_size=4) for place in range(4)]
            answers = await asyncio.gather(*(client.post("/v1/rollouts", json=post) for post in posts))
            assert {one.status_code for one in answers} == ({200} if group_id != "g3" else {429})
        assert the_service.rendezvous.kept == 2


async def test_a_budget_that_is_reached() -> None:
    async with service(max_total_tokens=1) as (client, _):
        response = await client.post("/v1/score", json=TWO)
    assert (response.status_code, code_of(response)) == (402, "budget")


async def test_pack_shows_the_prompts_and_asks_nobody() -> None:
    with LocalServer() as server:
        async with service(judge=[f"{server.url}#a", f"{server.url}#b"], orders=2) as (client, _):
            response = await client.post("/v1/pack", json=TWO)
    records = [json.loads(line) for line in response.text.splitlines()]
    assert [record["order"] for record in records] == [0, 1, 0, 1]
    assert len({record["judge"] for record in records}) == 2
    assert all(record["tokens"]["total"] > 0 and record["messages"][0]["role"] == "system" for record in records)
    assert not server.requests


async def test_what_was_judged_can_be_looked_up() -> None:
    async with service() as (client, _):
        for number in range(3):
            await client.post("/v1/score", json={**TWO, "group_id": f"g/{number}"})
        listed = (await client.get("/v1/groups")).json()["groups"]
        assert [one["group_id"] for one in listed] == ["g/2", "g/1", "g/0"]
        older = (await client.get("/v1/groups", params={"limit": 1, "before": listed[0]["number"]})).json()["groups"]
        assert [one["group_id"] for one in older] == ["g/1"]
        one = (await client.get("/v1/groups", params={"id": "g/1"})).json()
        assert one["group"]["rollouts"][0]["messages"]
        assert one["result"]["rollouts"][0]["score"] is not None
        assert (await client.get("/v1/groups", params={"id": "nope"})).status_code == 404
        assert (await client.get("/v1/groups", params={"limit": "many"})).status_code == 422


async def test_content_is_not_kept_when_it_shall_not_be(caplog: pytest.LogCaptureFixture) -> None:
    async with service(content=False) as (client, _):
        secret = {"task": "SECRET", "rollouts": [{"messages": "SECRET a"}, {"messages": "SECRET b"}], "group_id": "g"}
        assert (await client.post("/v1/score", json=secret)).status_code == 200
        for path in ("/v1/groups", "/v1/groups?id=g", "/", "/group?id=g", "/metrics"):
            response = await client.get(path)
            assert response.status_code == 200
            assert "SECRET" not in response.text
    assert "SECRET" not in caplog.text


async def test_keys_divide_what_callers_see(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ALICE", "BOB", "OPS"):
        monkeypatch.setenv(name, f"{name}-secret-key")
    keys = {"alice": "ALICE", "bob": "BOB", "ops": "OPS"}

    def bearer(name: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {name}-secret-key"}

    async with service(keys=keys, operators=["ops"]) as (client, _):
        for path in ("/v1/score", "/v1/score/batch", "/v1/rollouts", "/v1/pack"):
            response = await client.post(path, json=TWO)
            assert (response.status_code, code_of(response)) == (401, "unauthorized")
        for path in ("/v1/groups", "/v1/rollouts?group_id=g&rollout_id=1", "/metrics"):
            assert (await client.get(path, headers=bearer("EVE"))).status_code == 401
        assert (await client.get("/healthz")).status_code == 200
        await client.post("/v1/score", json=TWO, headers=bearer("ALICE"))
        seen = {name: await client.get("/v1/groups", headers=bearer(name)) for name in ("ALICE", "BOB", "OPS")}
        assert {name: len(one.json()["groups"]) for name, one in seen.items()} == {"ALICE": 1, "BOB": 0, "OPS": 1}
        assert (await client.get("/v1/groups?id=g", headers=bearer("BOB"))).status_code == 404
        # Equal ids of two owners are two groups.
        for place in range(4):
            await client.post("/v1/rollouts?wait=0", json=post_of(place), headers=bearer("ALICE"))
            await client.post("/v1/rollouts?wait=0", json=post_of(place + 4), headers=bearer("BOB"))
        query = {"group_id": "g", "rollout_id": "0"}
        assert (await client.get("/v1/rollouts", params=query, headers=bearer("ALICE"))).status_code == 202
        assert (await client.get("/v1/rollouts", params=query, headers=bearer("BOB"))).status_code == 404
        assert "secret-key" not in (await client.get("/metrics", headers=bearer("OPS"))).text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://localhost"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1:8000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
    ],
)
async def test_pages_of_other_hosts_cannot_use_a_browser_against_it(headers: dict[str, str], status: int) -> None:
    async with service() as (client, _):
        response = await client.post("/v1/score", json=TWO, headers=headers)
    assert response.status_code == status


async def test_what_is_not_there() -> None:
    async with service() as (client, _):
        for method, path, status in (("GET", "/nope", 404), ("GET", "/v1/score", 405), ("DELETE", "/v1/groups", 405)):
            response = await client.request(method, path)
            assert response.status_code == status
            assert code_of(response) in ("not_found", "method")


async def test_a_fault_of_ours_tells_nothing_of_the_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(settings())

    async def broken(job: object) -> object:
        raise ZeroDivisionError("inside /secret/path")

    monkeypatch.setattr(app.state.service, "judge", broken)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        response = await client.post("/v1/score", json=TWO)
    assert (response.status_code, code_of(response)) == (500, "internal")
    assert not any(word in response.text for word in ("secret", "Traceback"))


async def test_stopping_finishes_what_is_judged_and_takes_nothing_new() -> None:
    with LocalServer(lambda body: Response(delay_seconds=0.3, body=score_all(body).body)) as server:
        app = create_app(settings(judge=f"{server.url}#m", stop_seconds=10))
        async with calling(app) as client:
            held = asyncio.create_task(client.post("/v1/score", json=TWO))
            waiting = asyncio.create_task(client.post("/v1/rollouts", json=post_of(0)))
            while not server.requests:  # noqa: ASYNC110  it is asked from a thread
                await asyncio.sleep(0.01)
            stopping = asyncio.create_task(app.state.service.stop())
            await asyncio.sleep(0)
            refused = await client.post("/v1/score", json=TWO)
            assert (refused.status_code, code_of(refused)) == (503, "stopping")
            assert (await client.get("/readyz")).status_code == 503
            assert (await held).status_code == 200
            alone = await waiting
            assert (alone.status_code, code_of(alone)) == (503, "stopping")
            await stopping


async def test_stopping_gives_up_after_its_time() -> None:
    with LocalServer(lambda body: Response(delay_seconds=30, body=score_all(body).body)) as server:
        app = create_app(settings(judge=f"{server.url}#m", stop_seconds=0.2, concurrency=1))
        async with calling(app) as client:
            held = [asyncio.create_task(client.post("/v1/score", json=TWO)) for _ in range(3)]
            while not server.requests:  # noqa: ASYNC110  it is asked from a thread
                await asyncio.sleep(0.01)
            await app.state.service.stop()
            assert {((await one).status_code, code_of(await one)) for one in held} == {(503, "stopping")}


async def test_the_document_describes_every_call() -> None:
    async with service() as (client, _):
        document = (await client.get("/openapi.json")).json()
    assert set(document["paths"]) >= {"/v1/score", "/v1/score/batch", "/v1/rollouts", "/v1/groups", "/v1/pack"}
    for calls in document["paths"].values():
        for call in calls.values():
            assert call["summary"]
            assert not any("HTTPValidationError" in str(answer) for answer in call["responses"].values())


def test_a_judge_of_the_policys_family_is_told_of_once(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    (tmp_path / "r.md").write_text("Shorter is better.")
    given = {
        "judge": "http://127.0.0.1:9/v1#qwen3-8b",
        "policy": "Qwen/Qwen2.5-7B",
        "rubrics": {"r": tmp_path / "r.md"},
    }
    create_app(settings(**given))
    assert caplog.text.count("judged by its own family") == 1


def test_settings_that_cannot_work_stop_it_before_it_starts() -> None:
    for given, said in (
        ({"judge": ()}, "no judge"),
        ({"judges": {"a": {"judge": "nope"}}}, "judges.a: "),
        ({"rubrics": {"r": "nope.md"}}, "nope.md"),
        ({"host": "0.0.0.0"}, "keys: "),
        ({"adaptive": True}, "adaptive"),
    ):
        with pytest.raises(ConfigError, match=said):
            create_app(settings(**given))


class Wire:
    """One request, driven by hand: pieces of its body come when they are told to, and so does its end."""

    def __init__(self, app: FastAPI, path: str, headers: dict[str, str] | None = None, root_path: str = "") -> None:
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: list[dict[str, Any]] = []
        given = {"host": "localhost", **(headers or {})}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": root_path + path.partition("?")[0],
            "raw_path": path.encode(),
            "root_path": root_path,
            "query_string": path.partition("?")[2].encode(),
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        }
        self.task = asyncio.create_task(app(scope, self.incoming.get, self._send))  # type: ignore[arg-type]

    async def _send(self, message: Any) -> None:
        self.sent.append(message)

    def body(self, piece: bytes, *, more: bool = False) -> None:
        self.incoming.put_nowait({"type": "http.request", "body": piece, "more_body": more})

    def hang_up(self) -> None:
        self.incoming.put_nowait({"type": "http.disconnect"})

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110  of what happens in other tasks and threads
            await asyncio.sleep(0.005)


async def test_who_hangs_up_while_it_waits_for_siblings_leaves_nothing_behind() -> None:
    app = create_app(settings())
    async with calling(app):
        wire = Wire(app, "/v1/rollouts")
        wire.body(json.dumps(post_of(0)).encode())
        await until(lambda: app.state.service.rendezvous.collecting)
        assert not wire.task.done()
        wire.hang_up()
        await wire.task
        assert wire.status == 499
        assert app.state.service.rendezvous.collecting == 1


async def test_of_a_batch_whose_sender_is_gone_what_was_begun_is_finished_and_no_more_begun(tmp_path: Path) -> None:
    lines = [json.dumps({**TWO, "group_id": f"g{n}"}).encode() + b"\n" for n in range(30)]
    for whole in (True, False):
        with LocalServer(lambda body: Response(delay_seconds=0.2, body=score_all(body).body)) as server:
            app = create_app(settings(judge=f"{server.url}#m", concurrency=2))
            async with calling(app):
                wire = Wire(app, "/v1/score/batch")
                wire.body(b"".join(lines), more=not whole)
                await until(lambda server=server: len(server.requests) == 2)
                wire.hang_up()
                await wire.task
                recent = app.state.service.recent.newest(None, 100)
                assert 2 <= len(recent) <= 4
                assert {one.result.status for one in recent} == {"scored"}


async def test_batches_that_hold_all_the_memory_finish_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    # One of them stalls, and may be the one that is let beyond the bound.
    monkeypatch.setattr("ruler.service.door._BODY_SECONDS", 0.3)
    app = create_app(settings(max_body_bytes=1_000, max_buffered_bytes=2_000))
    line = json.dumps({**TWO, "source": "x" * 700}).encode() + b"\n"
    async with calling(app) as client:
        wires = [Wire(app, "/v1/score/batch") for _ in range(8)]
        for wire in wires:
            wire.body(line[:600], more=True)
        for wire in wires[:-1]:
            wire.body(line[600:] + line)
        for wire in wires[:-1]:
            await wire.task
            assert wire.text.count('"scored"') == 2
        wires[-1].hang_up()
        await wires[-1].task
        assert (await client.post("/v1/score", json=TWO)).status_code == 200


async def test_a_body_that_is_on_its_way_at_a_stop_is_not_waited_for() -> None:
    app = create_app(settings())
    async with calling(app):
        wires = [Wire(app, path) for path in ("/v1/score", "/v1/score/batch", "/v1/rollouts")]
        for wire in wires:
            wire.body(b"{", more=True)
        await asyncio.sleep(0.01)
        await app.state.service.stop()
        for wire in wires:
            await wire.task
            assert '"stopping"' in wire.text


async def test_who_leaves_the_queue_is_not_judged_and_who_leaves_the_judge_is() -> None:
    with LocalServer(lambda body: Response(delay_seconds=0.3, body=score_all(body).body)) as server:
        app = create_app(settings(judge=f"{server.url}#m", concurrency=1))
        async with calling(app):
            wires = [Wire(app, "/v1/score") for _ in range(3)]
            for number, wire in enumerate(wires):
                wire.body(json.dumps({**TWO, "group_id": f"g{number}"}).encode())
            await until(lambda: server.requests)
            for wire in wires:
                wire.hang_up()
                await wire.task
                assert wire.status == 499
            await until(lambda: app.state.service.recent.newest(None, 10))
            assert app.state.service.admission.waiting == 0
        assert len(server.requests) == 1


async def test_a_length_that_is_no_length() -> None:
    app = create_app(settings())
    wire = Wire(app, "/v1/score", {"content-length": "0" * 5_000 + "2"})
    await wire.task
    assert wire.status == 413


async def test_a_group_that_can_never_fit_is_not_told_to_come_again() -> None:
    async with service(max_held_bytes=10_000) as (client, _):
        response = await client.post("/v1/rollouts", json=post_of(0, group_size=100))
    assert (response.status_code, code_of(response)) == (413, "too_large")


async def test_a_body_that_does_not_come_takes_no_place_in_the_queue() -> None:
    app = create_app(settings(concurrency=1, queue=1))
    async with calling(app) as client:
        wires = [Wire(app, "/v1/score") for _ in range(5)]
        for wire in wires:
            wire.body(b"{", more=True)
        await asyncio.sleep(0.01)
        assert (await client.post("/v1/score", json=TWO)).status_code == 200
        for wire in wires:
            wire.hang_up()
            await wire.task
            assert wire.status == 499


async def test_a_body_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ruler.service.door._BODY_SECONDS", 0.1)
    app = create_app(settings())
    async with calling(app):
        wire = Wire(app, "/v1/score")
        for _ in range(5):
            wire.body(b" ", more=True)
            await asyncio.sleep(0.03)
        await wire.task
        assert wire.status == 408
        assert (b"connection", b"close") in wire.sent[0]["headers"]


@pytest.mark.parametrize("headers", [{"Origin": "http://["}, {"Host": "["}, {"Origin": "null", "Host": ""}])
async def test_headers_that_are_no_addresses(headers: dict[str, str]) -> None:
    async with service() as (client, _):
        response = await client.post("/v1/score", json=TWO, headers=headers)
    assert (response.status_code, code_of(response)) == (403, "forbidden")


async def test_under_another_path_a_batch_is_a_batch() -> None:
    line = json.dumps(TWO) + "\n"
    app = create_app(settings(max_body_bytes=1_000))
    outer = FastAPI()
    outer.mount("/judge", app)
    transport = httpx.ASGITransport(outer)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        response = await client.post("/judge/v1/score/batch", content=line * 30)
    assert response.text.count('"scored"') == 30


async def test_a_stop_tells_the_lines_that_wait() -> None:
    app = create_app(settings(requests_per_minute=1))
    async with calling(app):
        wire = Wire(app, "/v1/score/batch")
        wire.body((json.dumps(TWO) + "\n").encode() * 2)
        await until(lambda: '"scored"' in wire.text)
        await app.state.service.stop()
        await wire.task
        assert '"stopping"' in wire.text


async def test_monitors_may_ask_by_head() -> None:
    async with service() as (client, _):
        assert [(await client.head(path)).status_code for path in ("/healthz", "/readyz")] == [200, 200]
        assert (await client.post("/v1/score/", json=TWO)).status_code == 404


async def test_metrics_are_for_operators_where_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ALICE", "OPS"):
        monkeypatch.setenv(name, f"{name}-secret-key")
    keys = {"alice": "ALICE", "ops": "OPS"}
    for operators, expected in (([], 200), (["ops"], 403)):
        async with service(keys=keys, operators=operators) as (client, _):
            headers = {"Authorization": "Bearer ALICE-secret-key"}
            assert (await client.get("/metrics", headers=headers)).status_code == expected
