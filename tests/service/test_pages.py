from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from judges.scripted import ScriptedJudge, scores_reply
from ruler import Group, JudgeRequest, Ruler
from ruler.packing.neutralise import neutralise
from ruler.service import create_app
from ruler.service.page_rendering import HEADERS
from ruler.service.pages import COOKIE
from ruler.service.problems import STATUSES
from ruler.service.sessions import SESSION_SECONDS
from ruler.service.settings import ServiceSettings
from tests.service.judged_groups import (
    HOSTILE,
    add,
    failed_saying,
    fill,
    group_saying,
    scored_saying,
    service_with_pages,
)

pytestmark = pytest.mark.slow

ORIGIN = "http://127.0.0.1:8000"
KEYS = {"ops": "OPS_KEY", "team": "TEAM_KEY", "other": "OTHER_KEY"}
TAGS = frozenset(
    re.findall(
        r"\w+",
        """html head meta title link script body a header img nav form span button main div h1 h2 h3 h4 p section dl dt
        dd table colgroup col thead tbody tfoot tr th td bdi svg line circle rect text time pre code strong article
        details summary input label ul li""",
    )
)


class Page(HTMLParser):
    """One page, taken apart; anything that could run or leave this host fails at once."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__()
        self.shape: list[tuple[str, tuple[str, ...]]] = []
        self.links: list[str] = []
        self._pieces: list[str] = []
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        for name, value in HEADERS.items():
            assert response.headers[name] == value
        self.feed(response.text)
        self.close()

    @property
    def text(self) -> str:
        return " ".join("".join(self._pieces).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS
        self._pieces.append(" ")
        self.shape.append((tag, tuple(name for name, _ in attrs)))
        assert len(dict(attrs)) == len(attrs)
        for name, value in attrs:
            assert not name.startswith("on")
            assert name != "style"
            if name in ("href", "src", "action"):
                address = urlsplit(value or "")
                assert not address.scheme, value
                assert not address.netloc, value
                assert value, tag
                assert value[0] in "/#", value
                self.links.append(value)
        assert tag != "script" or dict(attrs)["src"]

    def handle_endtag(self, tag: str) -> None:
        self.shape.append((f"/{tag}", ()))
        self._pieces.append(" ")

    def handle_data(self, data: str) -> None:
        self._pieces.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(f"a declaration: {data}")


def client_of(app: FastAPI, **more: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=ORIGIN, **more)


@pytest.fixture
async def keyed(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[httpx.AsyncClient, Any]]:
    """A service with three keys, of which one sees everything."""
    for name, variable in KEYS.items():
        monkeypatch.setenv(variable, f"the-key-of-{name}")
    app, service = service_with_pages(keys=KEYS, operators=("ops",), host="0.0.0.0")
    async with client_of(app) as client:
        yield client, service


async def sign_in(client: httpx.AsyncClient, name: str, **more: str) -> httpx.Response:
    return await client.post("/login", data={"key": f"the-key-of-{name}", **more})


async def test_an_empty_service_says_how_to_begin() -> None:
    app, _ = service_with_pages()
    async with client_of(app) as client:
        page = Page(await client.get("/"))
    assert f"curl {ORIGIN}/v1/score --json" in page.text
    assert "No group has been judged yet" in page.text
    assert "No group waits" in page.text
    assert "No group failed" in page.text


async def test_the_command_to_begin_with_is_one_that_works() -> None:
    app, _ = service_with_pages()
    async with client_of(app) as client:
        text = Page(await client.get("/")).text
    body = json.loads(text.split("--json '")[1].split("'")[0])
    assert len(Group.of([rollout["messages"] for rollout in body["rollouts"]], task=body["task"]).rollouts) == 2


async def test_the_dashboard_shows_what_happened() -> None:
    app, service = service_with_pages(judges={"careful": {"judge": "simulated?noise=0.1"}})
    fill(service, "g")
    fake: Any = service
    fake.admission = SimpleNamespace(in_flight=3, waiting=7)
    async with client_of(app) as client:
        page = Page(await client.get("/"))
    for said in (
        "Judge g has changed.",
        "g 3 golden groups, checked",
        "not checked yet",
        "Median latency 1.2 s",
        "Cache hits 25 %",
        "calls at an unknown price",
        "Failed 1",
        "In flight 3 of 32; 7 of 256 queued",
        "g attempt 1 1 of 4",
        "reply the judge's reply could not be used 1 1",
        "Judges default careful",
        "0.25–0.75",
    ):
        assert said in page.text, said
    assert "/group?number=1" in page.links
    assert "/group?number=2" in page.links


async def test_groups_are_paged_and_old_numbers_are_no_error() -> None:
    app, service = service_with_pages()
    for place in range(30):
        add(service, replace(scored_saying("x"), group_id=f"group-{place}"), group_saying("x"))
    async with client_of(app) as client:
        first = Page(await client.get("/"))
        (older,) = {link for link in first.links if "before=" in link}
        second = Page(await client.get(older))
        third = Page(await client.get("/?before=1"))
    shown = [{link for link in page.links if "number=" in link} for page in (first, second)]
    assert [len(links) for links in shown] == [25, 5]
    assert not shown[0] & shown[1]
    assert "There are no older groups" in third.text


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("/?before=x", 422, "before: expected a whole number"),
        ("/?before=-1", 422, "before: expected a whole number"),
        ("/group", 422, "give the number or the id"),
        ("/group?number=1e3", 422, "number: expected a whole number"),
        ("/group?number=7", 404, "no such group"),
        ("/group?number=99999999999999999999999", 422, "number: expected"),
        ("/group?id=%00%ff<script>", 404, "no such group"),
        ("/static/none.css", 404, "no such file"),
        ("/static/..%2fpages.py", 404, ""),
    ],
)
async def test_what_cannot_be_shown_is_said(query: str, status: int, said: str) -> None:
    app, _ = service_with_pages()
    async with client_of(app) as client:
        response = await client.get(query)
    assert response.status_code == status
    if said:
        assert said in Page(response).text


async def test_a_group_is_shown_with_everything_known_of_it() -> None:
    app, service = service_with_pages()
    fill(service, "word")
    async with client_of(app) as client:
        page = Page(await client.get("/group?number=1"))
    for said in (
        "Agreement −0.50",
        "2 of full",
        "1 retries, 1 cache hits",
        "400 in 100 of them cached; 50 out",
        "unknown price",
        "reference answer word",
        "rank 1 of 2",
        "reads the same as 1word, judged once",
        "12 characters cut for the judge",
        "finished: word",
        "sub-agent word",
        "result of word",
        "code: | a | b",
        "[image ",
        "Orders that failed",
        "Mean 0.50 0.50",
        "1word: 0.25 ± 0.10",
    ):
        assert said in page.text, said


async def test_rollouts_stand_best_first_or_as_given_and_equal_ones_share_a_rank() -> None:
    scores = {"one": 40, "two": 90, "three": 90, "four": 10}

    def answer(request: JudgeRequest) -> str:
        prompt = str(request.messages[1]["content"])
        return scores_reply(
            {i: next(s for text, s in scores.items() if f"<rollout {i}>\n{text}\n" in prompt) for i in request.ids}
        )

    group = Group.of(list(scores), ids=[f"id-{text}" for text in scores])
    app, service = service_with_pages()
    add(service, await Ruler(ScriptedJudge(answer), notes=False).score(group), group)
    async with client_of(app) as client:
        best, given_order = [
            Page(await client.get(f"/group?number=1{more}"))
            .text.split("Rollouts Best first")[1]
            .split("Orders Each")[0]
            for more in ("", "&sort=given")
        ]
    for text, order in (
        (best, ["id-two", "id-three", "id-one", "id-four"]),
        (given_order, ["id-one", "id-two", "id-three", "id-four"]),
    ):
        assert sorted(order, key=text.index) == order
    assert best.count("rank 1 of 4") == 2
    assert "rank 3 of 4" in best
    assert "rank 2 of 4" not in best


async def test_failed_tied_and_single_groups_say_why_they_are_as_they_are() -> None:
    app, service = service_with_pages()
    group = Group.of(["same", "same"])
    add(service, failed_saying("it broke"), group)
    add(service, await Ruler("simulated").score(group), group)
    add(service, await Ruler("simulated", absolute=True).score(Group.of(["one"])), Group.of(["one"]))
    async with client_of(app) as client:
        failed, tied, single = [Page(await client.get(f"/group?number={n}")).text for n in (1, 2, 3)]
    assert "reply : the judge's reply could not be used. There are no scores." in failed
    assert "The reply that could not be used it broke" in failed
    assert "no score" in failed
    assert "All rollouts read the same, so no judge was asked" in tied
    assert "Its score compares with nothing." in single


async def test_without_content_the_scores_are_there_and_no_text_is() -> None:
    app, service = service_with_pages(content=False)
    fill(service, "secret")
    async with client_of(app) as client:
        page = Page(await client.get("/group?number=1"))
        record = (await client.get("/group.json?number=1")).json()
    assert "This service does not keep content" in page.text
    assert "0.25 ± 0.10" in page.text
    assert "the judge's note" not in page.text
    assert "assistant" not in page.text
    assert record["group"] is None


async def test_a_group_too_large_to_keep_says_so() -> None:
    app, service = service_with_pages(recent_bytes=20_000)
    service.recent.add(
        scored_saying("x"), group=group_saying("x"), size_bytes=10**6, owner="a", judge="j", rubric="r", seconds=1.0
    )
    async with client_of(app) as client:
        page = Page(await client.get("/group?number=1"))
    assert "larger than all the room" in page.text


async def test_the_json_of_a_group_has_all_of_it() -> None:
    app, service = service_with_pages()
    text = "y" * 100_000
    group = Group.of([text, "z"], id="long one")
    add(service, await Ruler("simulated").score(group), group)
    async with client_of(app) as client:
        page = Page(await client.get("/group", params={"id": "long one"}))
        record = (await client.get("/group.json?number=1")).json()
        missing = await client.get("/group.json?number=2")
    assert "80,001 characters are not shown here" in page.text
    assert len(page.text) < 40_000
    assert "/group.json?number=1" in page.links
    assert record["group"]["rollouts"][0]["messages"][0]["content"] == text
    assert record["result"]["rollouts"][0]["id"] == "r1"
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")


@pytest.fixture(scope="module")
def told() -> tuple[FastAPI, Any]:
    """One service for many texts: making its templates takes longer than using them."""
    return service_with_pages()


async def pages_saying(text: str, told: tuple[FastAPI, Any]) -> tuple[list[Page], list[str]]:
    """All pages of a service that was told this text everywhere."""
    app, service = told
    fill(service, text)
    failed, scored = service.recent.newest(None, 2)
    paths = ["/", *(f"/group?number={scored.number}{more}" for more in ("", "&sort=given"))]
    async with client_of(app) as client:
        responses = [await client.get(path) for path in (*paths, f"/group?number={failed.number}")]
    assert {response.status_code for response in responses} == {200}
    return [Page(response) for response in responses], [response.text for response in responses]


@pytest.mark.parametrize("text", HOSTILE)
async def test_no_text_becomes_markup_and_all_of_it_is_seen(text: str, told: tuple[FastAPI, Any]) -> None:
    for _ in range(13):  # a full page before and after
        fill(told[1], "x" * len(text))
    harmless, _ = await pages_saying("x" * len(text), told)
    pages, sources = await pages_saying(text, told)
    shown = " ".join(neutralise(text)[0].split())
    for page, same, source in zip(pages, harmless, sources, strict=True):
        assert page.shape == same.shape
        assert shown in page.text
        assert not any(char in source for char in "\x00\x07\x1b\u202e\u2066\u200b\ufeff\u2028")


@pytest.mark.slow
@given(text=st.text(min_size=1, max_size=40))
async def test_whatever_is_said_a_page_keeps_its_shape(text: str, told: tuple[FastAPI, Any]) -> None:
    for _ in range(13):
        fill(told[1], "x" * len(text))
    harmless, _ = await pages_saying("x" * len(text), told)
    pages, _ = await pages_saying(text, told)
    assert [page.shape for page in pages] == [page.shape for page in harmless]


async def test_huge_text_makes_no_huge_page() -> None:
    app, service = service_with_pages()
    fill(service, "<\u202e" * 50_000)
    async with client_of(app) as client:
        pages = [await client.get(path) for path in ("/", "/group?number=1", "/group?number=2")]
    assert {page.status_code for page in pages} == {200}
    sizes = [len(page.content) for page in pages]
    # An odd character is shown as eight, a bracket as four.
    assert sizes[0] < 60_000
    assert max(sizes) < 3_000_000


async def test_many_messages_make_no_huge_page() -> None:
    turns = [{"role": "user", "content": f"{place} " + "word " * 800} for place in range(300)]
    group = Group.of([[*turns, {"role": "assistant", "content": end}] for end in "ab"], task="t")
    app, service = service_with_pages()
    add(service, await Ruler("simulated").score(group), group)
    async with client_of(app) as client:
        response = await client.get("/group?number=1")
    assert "characters are not shown here" in Page(response).text
    assert len(response.content) < 600_000


async def test_a_large_group_in_many_orders_makes_no_huge_page() -> None:
    group = Group.of([f"answer {place} " * 200 for place in range(100)])
    result = await Ruler("simulated?noise=0.1", orders=4).score(group)
    assert len(result.judged) > 48
    app, service = service_with_pages()
    add(service, result, group)
    async with client_of(app) as client:
        response = await client.get("/group?number=1")
    page = Page(response)
    assert f"{len(result.judged) - 48} more prompts are in the JSON" in page.text
    assert sum(tag == "tr" for tag, _ in page.shape) == 1 + 100 + 1 + 48 + 1
    assert len(response.content) < 1_500_000


async def test_pages_ask_for_a_key_where_one_is_needed(keyed: tuple[httpx.AsyncClient, Any]) -> None:
    client, _ = keyed
    for path in ("/", "/group?number=1", "/group.json?number=1", "/docs"):
        response = await client.get(path)
        assert response.status_code == 303
        assert response.headers["location"].startswith("/login?next=")
        assert response.headers["cache-control"] == "no-store"
    for path in ("/login", "/static/style.css", "/static/live.js", "/static/icon.svg"):
        assert (await client.get(path)).status_code == 200


async def test_signing_in_and_out(keyed: tuple[httpx.AsyncClient, Any]) -> None:
    client, _ = keyed
    asked = await client.get("/group?number=3&sort=given")
    form = Page(await client.get(asked.headers["location"]))
    assert "/group?number=3&sort=given" in form.links
    signed = await sign_in(client, "team", next="/group?number=3&sort=given")
    assert (signed.status_code, signed.headers["location"]) == (303, "/group?number=3&sort=given")
    cookie = signed.headers["set-cookie"]
    for part in ("HttpOnly", "Path=/", "SameSite=strict", f"Max-Age={SESSION_SECONDS:.0f}"):
        assert part in cookie
    assert "Secure" not in cookie
    assert "the-key" not in cookie
    page = Page(await client.get("/"))
    assert "team Sign out" in page.text
    token = client.cookies[COOKIE]
    out = await client.post("/logout")
    assert (out.status_code, out.headers["location"]) == (303, "/login")
    assert COOKIE not in client.cookies
    stale = await client.get("/", headers={"Cookie": f"{COOKIE}={token}"})
    assert stale.status_code == 303


async def test_over_https_the_cookie_stays_there(keyed: tuple[httpx.AsyncClient, Any]) -> None:
    client, _ = keyed
    client.base_url = httpx.URL("https://ruler.example")
    assert "Secure" in (await sign_in(client, "team")).headers["set-cookie"]


@pytest.mark.parametrize("key", ["", "wrong", "the-key-of-team\x00", "the-key-of-teaм", "%ff", "x" * 3_000])
async def test_a_wrong_key_is_an_unknown_key(keyed: tuple[httpx.AsyncClient, Any], key: str) -> None:
    client, _ = keyed
    response = await client.post("/login", data={"key": key, "next": "/docs"})
    assert response.status_code == 401
    assert "set-cookie" not in response.headers
    assert "Unknown key." in Page(response).text
    assert 'name="next" value="/docs"' in response.text
    if key:
        assert key not in response.text


@pytest.mark.parametrize("content", [b"&" * 4_096, b"\xff\xfe\x00", b"key", b"key=a&key=b", b"=%", b""])
async def test_what_is_no_form_is_an_unknown_key(keyed: tuple[httpx.AsyncClient, Any], content: bytes) -> None:
    client, _ = keyed
    assert (await client.post("/login", content=content)).status_code == 401


async def test_a_form_that_is_too_long_is_not_read(keyed: tuple[httpx.AsyncClient, Any]) -> None:
    client, _ = keyed
    assert (await client.post("/login", data={"key": "x" * 5_000})).status_code == 413


@pytest.mark.parametrize(
    ("wanted", "target"),
    [
        ("//evil.example/", "/"),
        ("https://evil.example/", "/"),
        ("/\\evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("/logout", "/"),
        ("/group?number=1\r\nSet-Cookie: a=b", "/group?number=1%0D%0ASet-Cookie%3A+a%3Db"),
        ("/?before=5", "/?before=5"),
        ("/docs", "/docs"),
        ("", "/"),
    ],
)
async def test_signing_in_leads_nowhere_else(keyed: tuple[httpx.AsyncClient, Any], wanted: str, target: str) -> None:
    client, _ = keyed
    assert (await sign_in(client, "team", next=wanted)).headers["location"] == target
    Page(await client.get("/login", params={"next": wanted}))


async def test_a_caller_sees_its_own_groups_and_an_operator_all(keyed: tuple[httpx.AsyncClient, Any]) -> None:
    client, service = keyed
    for owner in ("team", "other"):
        add(service, replace(scored_saying("x"), group_id=f"group of {owner}"), group_saying("x"), owner)
    fill(service, "waits", "other")
    await sign_in(client, "team")
    own = Page(await client.get("/"))
    assert "group of team" in own.text
    assert "group of other" not in own.text
    assert "waits attempt" not in own.text
    assert "Key" not in own.text.split()
    by_number = [(await client.get(f"/group?number={number}")).status_code for number in (1, 2, 3, 4)]
    assert by_number == [200, 404, 404, 404]
    by_id = [(await client.get("/group", params={"id": f"group of {o}"})).status_code for o in ("team", "other")]
    assert by_id == [200, 404]
    assert (await client.get("/group.json?number=2")).status_code == 404
    await sign_in(client, "ops")
    every = Page(await client.get("/"))
    assert "group of team" in every.text
    assert "group of other" in every.text
    assert "waits attempt 1 other" in every.text
    assert "key other" in Page(await client.get("/group?number=2")).text


async def test_a_bearer_key_opens_pages_too(keyed: tuple[httpx.AsyncClient, Any]) -> None:
    client, _ = keyed
    good = await client.get("/", headers={"Authorization": "Bearer the-key-of-ops"})
    bad = await client.get("/", headers={"Authorization": "Bearer nonsense"})
    assert good.status_code == 200
    assert bad.status_code == 401
    assert "unknown key" in Page(bad).text


async def test_a_session_is_no_use_in_place_of_a_wrong_bearer_key(keyed: tuple[httpx.AsyncClient, Any]) -> None:
    client, _ = keyed
    await sign_in(client, "ops")
    assert (await client.get("/", headers={"Authorization": "Bearer nonsense"})).status_code == 401


async def test_under_another_app_all_links_stay_under_its_path() -> None:
    app, service = service_with_pages()
    fill(service, "x")
    outer = FastAPI()
    outer.mount("/judge", app)
    async with client_of(outer) as client:
        for path in ("/judge/", "/judge/group?number=1", "/judge/docs", "/judge/login", "/judge/group?number=9"):
            page = Page(await client.get(path))
            assert all(link.startswith(("/judge/", "#")) for link in page.links), path
        style = next(link for link in page.links if "style.css" in link)
        assert (await client.get(style)).status_code == 200


async def test_a_host_that_is_none_is_not_repeated() -> None:
    app, service = service_with_pages()
    async with client_of(app) as client:
        page = Page(await client.get("/", headers={"Host": "a'; rm -rf ~ #"}))
    assert "rm -rf" not in page.text
    assert f"http://{service.settings.host}:{service.settings.port}/v1/score" in page.text


async def test_static_files_are_kept_for_long_where_their_version_is_named() -> None:
    app, _ = service_with_pages()
    async with client_of(app) as client:
        page = Page(await client.get("/"))
        for link in {link for link in page.links if "/static/" in link}:
            named = await client.get(link)
            assert "immutable" in named.headers["cache-control"]
            plain = await client.get(link.split("?")[0])
            assert plain.headers["cache-control"] == "no-cache"
            again = await client.get(link, headers={"If-None-Match": plain.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
        page_headers = (await client.get("/")).headers
    assert page_headers["cache-control"] == "no-store"


async def test_the_script_makes_nothing_of_text() -> None:
    app, _ = service_with_pages()
    async with client_of(app) as client:
        script = (await client.get("/static/live.js")).text
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
        "http:",
        "https:",
    ):
        assert way not in script


def test_no_template_leaves_an_attribute_without_quotes_or_text_without_escapes() -> None:
    for template in Path(str(resources.files("ruler.service").joinpath("templates"))).glob("*.html"):
        source = template.read_text("utf-8")
        assert not re.search(r"=\s*\{[{%]", source), template
        assert not re.search(r"\bsafe\b|autoescape|Markup", source), template


@pytest.fixture(scope="module")
def whole_app() -> FastAPI:
    """The service with all its calls."""
    return create_app(ServiceSettings(judge="simulated", cache="off"))


async def test_the_docs_show_every_call_with_its_examples_and_every_error(whole_app: FastAPI) -> None:
    async with client_of(whole_app) as client:
        page = Page(await client.get("/docs"))
        document = (await client.get("/openapi.json")).json()
    examples = 0
    for path, methods in document["paths"].items():
        for method, call in methods.items():
            assert f"{method.upper()} {path}" in page.text
            assert call["summary"] in page.text
            bodies = [call.get("requestBody", {}), *call["responses"].values()]
            for body in (body for answer in bodies for body in answer.get("content", {}).values()):
                if isinstance(body.get("example"), dict):
                    examples += 1
                    assert " ".join(json.dumps(body["example"], ensure_ascii=False, indent=2).split()) in page.text
            for parameter in call.get("parameters", ()):
                assert parameter["name"] in page.text
    assert examples > 10
    for code, (status, meaning) in STATUSES.items():
        assert f"{code} {status} {meaning}" in page.text
    for name in document["components"]["schemas"]:
        assert f"#schema-{name}" in page.links or name in page.text


async def test_every_anchor_of_the_docs_is_there(whole_app: FastAPI) -> None:
    async with client_of(whole_app) as client:
        source = (await client.get("/docs")).text
    wanted = {piece.split('"')[0] for piece in source.split('href="#')[1:]}
    there = {piece.split('"')[0] for piece in source.split(' id="')[1:]}
    assert wanted <= there
    assert len(there) == source.count(' id="')


async def test_pages_are_no_part_of_the_document() -> None:
    app, _ = service_with_pages()
    assert app.openapi()["paths"] == {}


async def test_head_is_answered_without_a_body() -> None:
    app, _ = service_with_pages()
    async with client_of(app) as client:
        for path in ("/", "/docs", "/login", "/static/style.css"):
            assert (await client.head(path)).status_code == 200


async def test_a_service_that_stops_says_so() -> None:
    app, service = service_with_pages()
    service.stopping = True
    async with client_of(app) as client:
        assert "Stopping. Nothing new is taken" in Page(await client.get("/")).text
