"""OpenRLHF and slime as they behave: one post a rollout, held, sent again when the connection breaks or fails."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response

from ruler.errors import (
    BudgetExceeded,
    ConfigError,
    GroupError,
    JudgeRejected,
    JudgeUnavailable,
    PackingError,
    RulerError,
)
from ruler.messages import Message
from ruler.service import ServiceSettings
from ruler.service.bodies import Aside
from ruler.service.compat import Calls, add_calls
from ruler.service.door import Door
from ruler.service.keys import Keys
from ruler.service.problems import Problem
from ruler.service.rendezvous import Meeting, Post, Rendezvous
from ruler.service.replies import problem_reply
from ruler.service.seating import AWAY_SECONDS
from ruler.types import Group, Rollout, Score, ScoredGroup, Usage
from tests.fake_time import FakeTime

JUDGE_SECONDS = 1.0


def text_of(rollout: Rollout) -> str:
    return "".join(str(part) for message in rollout.messages for part in message.content)


def quality(text: str) -> float:
    """The score that this judge gives a text, whoever its siblings are."""
    return (sum(text.encode("utf-8", "surrogatepass")) % 97 + 1) / 100


def scored(group: Group) -> ScoredGroup:
    texts = [text_of(rollout) for rollout in group.rollouts]
    tied = len(set(texts)) == 1
    return ScoredGroup(
        group_id=group.id,
        group_digest=group.digest,
        rollouts_digest=group.rollouts_digest,
        status="tied" if tied else "scored",
        rollouts=tuple(
            Score(rollout.id, None if tied else quality(text))
            for rollout, text in zip(group.rollouts, texts, strict=True)
        ),
        usage=Usage(),
        judge="test",
        model=None,
        rubric="default",
        prompt_version="1",
        orders=1,
        adaptive=False,
        orders_used=int(not tied),
    )


class Bench:
    """The calls on an application of their own, with a rendezvous on fake time.

    Attributes:
        met: every group that was judged, in order.
        failures: what the next judgings raise, None: nothing.
        constants: owners of failed groups that were paid a constant.
    """

    def __init__(self, time: FakeTime, **settings: object) -> None:
        self.time = time
        self.met: list[Meeting] = []
        self.failures: list[RulerError | Problem | None] = []
        self.constants: list[str] = []
        self.joined: list[dict[str, object]] = []
        self.settings = ServiceSettings.model_validate(settings)
        self.keys = Keys(self.settings)
        self.metrics = SimpleNamespace(constant=self.constants.append)
        self.aside = Aside()
        self.rendezvous = Rendezvous(
            self._judge,
            admit=self._admit,
            collect_seconds=self.settings.collect_seconds,
            judge_seconds=self.settings.judge_seconds,
            short_groups=self.settings.short_groups,
            keep_seconds=self.settings.keep_seconds,
            max_groups=self.settings.max_held_groups,
            max_bytes=self.settings.max_held_bytes,
            clock=time.clock,
            sleep=time.sleep,
        )
        self.refuse: Problem | None = None
        calls = Calls(self, clock=time.clock)  # type: ignore[arg-type]
        self.calls = calls
        app = FastAPI()
        app.post("/compat/openrlhf")(calls.openrlhf)
        app.post("/compat/slime")(calls.slime)
        self.app = behind_door(app)

    def choose(self, judge: str | None, rubric: str | None) -> tuple[str, str]:
        for name in (judge, rubric):
            if name not in (None, "default", "other"):
                raise Problem("not_found", f"there is no judge or rubric {name!r}")
        return judge or "default", rubric or "default"

    def _admit(self, post: Post) -> None:
        if self.refuse:
            raise self.refuse

    async def _judge(self, meeting: Meeting) -> ScoredGroup:
        failure = self.failures.pop(0) if self.failures else None
        await self.time.sleep(JUDGE_SECONDS)
        if failure is not None:
            raise failure
        self.met.append(meeting)
        return scored(meeting.group)


def behind_door(app: FastAPI) -> Door:
    async def answer(request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return problem_reply(error)

    app.add_exception_handler(Problem, answer)
    return Door(
        app,
        max_body_bytes=2**20,
        max_buffered_bytes=2**24,
        max_requests=1_000,
        local_only=False,
        booked=lambda route, status, seconds: None,
        at_stop=lambda call: None,
    )


class Reply:
    """What came back over one connection."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""

    def json(self) -> Any:
        return json.loads(self.body)


class Connection:
    """One request, driven by hand: it can hang up."""

    def __init__(self, app: Door, path: str, body: bytes, headers: Sequence[tuple[bytes, bytes]] = (), **query: Any):
        self.reply = Reply()
        self._body: bytes | None = body
        self._over = asyncio.Event()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": urlencode(query, doseq=True).encode(),
            "headers": [(b"host", b"localhost"), *headers],
            "server": ("localhost", 80),
            "client": ("localhost", 1234),
        }
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._over.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if self._over.is_set():
            return
        if message["type"] == "http.response.start":
            self.reply.status = message["status"]
            self.reply.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.reply.body += message.get("body", b"")

    def hang_up(self) -> bool:
        """Whether this came before an answer."""
        if self.reply.status:
            return False
        self._over.set()
        return True

    async def answer(self) -> Reply:
        await self.task
        return self.reply


def openrlhf_body(*queries: str, prompt: str = "Add.", label: object = None) -> bytes:
    body = {
        "query": [prompt + q for q in queries],
        "prompts": [prompt] * len(queries),
        "labels": [label] * len(queries),
    }
    return json.dumps(body).encode()


def slime_body(response: str, prompt: object = "Add.", label: object = None) -> bytes:
    return json.dumps({"prompt": prompt, "response": response, "label": label}).encode()


def openrlhf(
    bench: Bench, *queries: str, group_size: object = 2, prompt: str = "Add.", label: object = None, **query: Any
) -> Connection:
    body = openrlhf_body(*queries, prompt=prompt, label=label)
    return Connection(bench.app, "/compat/openrlhf", body, group_size=group_size, **query)


def slime(
    bench: Bench, response: str, group_size: object = 2, prompt: object = "Add.", label: object = None, **query: Any
) -> Connection:
    return Connection(bench.app, "/compat/slime", slime_body(response, prompt, label), group_size=group_size, **query)


async def replies(*connections: Connection) -> list[Reply]:
    return list(await asyncio.gather(*(connection.answer() for connection in connections)))


async def settle(time: FakeTime | None = None) -> None:
    """Lets everything happen that waits for nobody; `time` where it runs."""
    if time:
        await time.sleep(0.001)
        return
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def bench(time: FakeTime) -> Bench:
    return Bench(time)


# OpenRLHF's wire


async def test_each_rollout_gets_its_reward_when_its_siblings_are_in(time: FakeTime, bench: Bench) -> None:
    async def work() -> None:
        first = openrlhf(bench, "four", group_size=3)
        await settle(time)
        assert not first.task.done()
        answers = await replies(first, openrlhf(bench, "five", group_size=3), openrlhf(bench, "six", group_size=3))
        texts = ["four", "five", "six"]
        ranked = sorted(texts, key=quality, reverse=True)
        for text, reply in zip(texts, answers, strict=True):
            assert reply.status == 200
            assert reply.json() == {
                "rewards": [quality(text)],
                "scores": [quality(text)],
                "extra_logs": {
                    "judge_failed": [0],
                    "judge_tied": [0],
                    "judge_rank": [ranked.index(text) + 1],
                    "judge_num_rollouts": [3],
                },
            }

    await time.run(work())
    assert len(bench.met) == 1


async def test_what_is_judged_are_the_messages_that_the_texts_hold(time: FakeTime, bench: Bench) -> None:
    prompt = "<|im_start|>user\nAdd 2 and 2.<|im_end|>\n<|im_start|>assistant\n"
    said = [f"{text}<|im_end|>" for text in ("four", "five")]
    await time.run(replies(*(openrlhf(bench, text, prompt=prompt, label="4") for text in said)))
    group = bench.met[0].group
    assert group.task == (Message("user", ("Add 2 and 2.",)),)
    assert group.reference == "4"
    assert sorted(text_of(rollout) for rollout in group.rollouts) == ["five", "four"]


@pytest.mark.parametrize("label", [None, "", 4, ["4"], {"answer": "4"}, float("nan")])
async def test_only_a_label_that_is_text_is_a_reference(time: FakeTime, bench: Bench, label: object) -> None:
    answers = await time.run(replies(*(openrlhf(bench, text, label=label) for text in ("four", "five"))))
    assert [reply.status for reply in answers] == [200, 200]
    assert bench.met[0].group.reference is None


async def test_several_rollouts_of_one_body_are_answered_in_their_order(time: FakeTime, bench: Bench) -> None:
    async def work() -> None:
        one, two = await replies(openrlhf(bench, "a", "b", "a", group_size=5), openrlhf(bench, "c", "d", group_size=5))
        assert one.json()["rewards"] == [quality("a"), quality("b"), quality("a")]
        assert two.json()["rewards"] == [quality("c"), quality("d")]
        assert one.json()["extra_logs"]["judge_num_rollouts"] == [5, 5, 5]

    await time.run(work())
    assert len(bench.met) == 1


async def test_the_newest_trainers_send_no_labels(time: FakeTime, bench: Bench) -> None:
    body = json.dumps({"query": ["Add.4", "Add.5"], "prompts": ["Add.", "Add."], "labels": None}).encode()
    (reply,) = await time.run(replies(Connection(bench.app, "/compat/openrlhf", body, group_size=2)))
    assert reply.json()["rewards"] == [quality("4"), quality("5")]


async def test_rollouts_that_differ_in_prompt_label_size_judge_rubric_or_payment_are_no_siblings(
    time: FakeTime, bench: Bench
) -> None:
    ways: list[dict[str, Any]] = [
        {},
        {"prompt": "Sub."},
        {"label": "4"},
        {"label": 4},
        {"group_size": 3},
        {"judge": "other"},
        {"rubric": "other"},
        {"failure_reward": 0},
        {"failure_reward": 1},
    ]

    async def work() -> None:
        held = [openrlhf(bench, "four", **way) for way in ways]
        held.append(slime(bench, "four"))
        await settle(time)
        assert bench.rendezvous.collecting == len(held)
        for connection in held:
            connection.hang_up()
        await replies(*held)

    await time.run(work())


async def test_two_owners_are_two_groups(time: FakeTime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANN", "a" * 40)
    monkeypatch.setenv("BOB", "b" * 40)
    bench = Bench(time, keys={"ann": "ANN", "bob": "BOB"})

    def post(key: str, text: str) -> Connection:
        headers = [(b"authorization", f"Bearer {key * 40}".encode())]
        return Connection(bench.app, "/compat/openrlhf", openrlhf_body(text), headers, group_size=2)

    answers = await time.run(replies(*(post(key, text) for text in ("four", "five") for key in "ab")))
    assert [reply.status for reply in answers] == [200] * 4
    assert sorted(meeting.owner for meeting in bench.met) == ["ann", "bob"]
    (refused,) = await time.run(replies(post("c", "four")))
    assert (refused.status, refused.json()["error"]["code"]) == (401, "unauthorized")
    (refused,) = await time.run(replies(openrlhf(bench, "four", failure_reward=0)))
    assert refused.status == 401


async def test_the_same_group_is_judged_whoever_comes_first(time: FakeTime) -> None:
    digests = set()
    for texts in (("a", "b", "a"), ("a", "a", "b"), ("b", "a", "a")):
        bench = Bench(time)
        await time.run(replies(*(openrlhf(bench, text, group_size=3) for text in texts)))
        digests.add(bench.met[0].group.rollouts_digest)
    assert len(digests) == 1


async def test_a_tied_group_is_no_failure(time: FakeTime, bench: Bench) -> None:
    for reply in await time.run(replies(openrlhf(bench, "four"), openrlhf(bench, "four"))):
        assert reply.status == 200
        assert reply.json() == {
            "rewards": [0.5],
            "scores": [0.5],
            "extra_logs": {"judge_failed": [0], "judge_tied": [1], "judge_rank": [0], "judge_num_rollouts": [2]},
        }
    assert bench.constants == []


# slime's wire


async def test_slime_is_given_a_bare_number(time: FakeTime, bench: Bench) -> None:
    answers = await time.run(replies(slime(bench, "four"), slime(bench, "five")))
    assert [reply.json() for reply in answers] == [quality("four"), quality("five")]
    assert not any(name.startswith("x-ruler") for reply in answers for name in reply.headers)


async def test_slime_may_send_the_prompt_as_messages(time: FakeTime, bench: Bench) -> None:
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Add."}]
    turns = "Calling.<|im_end|>\n<|im_start|>tool\n4<|im_end|>\n<|im_start|>assistant\nfour<|im_end|>"
    await time.run(replies(slime(bench, turns, prompt=prompt), slime(bench, "five<|im_end|>", prompt=prompt)))
    group = bench.met[0].group
    assert group.task == (Message("system", ("Be brief.",)), Message("user", ("Add.",)))
    assert sorted([message.role for message in rollout.messages] for rollout in group.rollouts) == [
        ["assistant"],
        ["assistant", "tool", "assistant"],
    ]


async def test_slime_is_told_of_a_tie_by_a_header(time: FakeTime, bench: Bench) -> None:
    for reply in await time.run(replies(slime(bench, "four"), slime(bench, "four"))):
        assert (reply.status, reply.json(), reply.headers["x-ruler-tied"]) == (200, 0.5, "1")


async def test_slime_is_told_of_a_constant_by_a_header(time: FakeTime, bench: Bench) -> None:
    bench.failures = [JudgeRejected("no")]
    for reply in await time.run(
        replies(slime(bench, "four", failure_reward=-1.5), slime(bench, "five", failure_reward=-1.5))
    ):
        assert (reply.status, reply.json(), reply.headers["x-ruler-failed"]) == (200, -1.5, "rejected")


# Failures


async def test_without_a_word_a_failed_group_is_an_error(time: FakeTime, bench: Bench) -> None:
    bench.failures = [JudgeUnavailable("busy", retry_after_seconds=7.0)]
    for reply in await time.run(replies(openrlhf(bench, "four"), openrlhf(bench, "five"))):
        assert (reply.status, reply.headers["retry-after"]) == (503, "7")
        assert reply.json()["error"]["code"] == "unavailable"
    assert bench.constants == []


async def test_all_of_a_failed_group_get_one_constant_that_is_counted_once(time: FakeTime, bench: Bench) -> None:
    bench.failures = [JudgeUnavailable("busy")]
    for reply in await time.run(replies(*(openrlhf(bench, text, failure_reward="0.25") for text in ("four", "five")))):
        assert reply.json() == {
            "rewards": [0.25],
            "scores": [0.25],
            "extra_logs": {"judge_failed": [1], "judge_tied": [0], "judge_rank": [0], "judge_num_rollouts": [0]},
        }
    assert bench.constants == ["anonymous"]


async def test_a_group_that_is_not_complete_in_time_is_an_error_and_no_constant(time: FakeTime, bench: Bench) -> None:
    """The sibling that is missing may have its score, from before a restart."""
    started = time.now
    answers = await time.run(replies(*(openrlhf(bench, text, group_size=3, failure_reward=0) for text in ("a", "b"))))
    assert [(reply.status, reply.json()["error"]["code"]) for reply in answers] == [(504, "deadline")] * 2
    assert time.now - started == 90
    assert bench.met == []
    assert bench.constants == []


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (BudgetExceeded("spent"), 402),
        (ConfigError("no such model"), 502),
        (GroupError("unreadable"), 422),
        (Problem("stopping", "bye", retry_after_seconds=1), 503),
    ],
)
async def test_what_is_no_fault_of_the_group_is_never_paid(
    time: FakeTime, bench: Bench, failure: RulerError | Problem, status: int
) -> None:
    bench.failures = [failure]
    answers = await time.run(replies(*(openrlhf(bench, text, failure_reward=0) for text in ("four", "five"))))
    assert [reply.status for reply in answers] == [status, status]
    assert bench.constants == []


async def test_a_group_that_does_not_fit_the_judge_is_paid(time: FakeTime, bench: Bench) -> None:
    bench.failures = [PackingError("too long")]
    answers = await time.run(replies(*(slime(bench, text, failure_reward=0) for text in ("four", "five"))))
    assert [(reply.status, reply.json()) for reply in answers] == [(200, 0.0), (200, 0.0)]


async def test_what_is_refused_at_the_door_is_never_paid(time: FakeTime, bench: Bench) -> None:
    bench.refuse = Problem("rate_limited", "later", retry_after_seconds=3)
    (reply,) = await time.run(replies(openrlhf(bench, "four", failure_reward=0)))
    assert (reply.status, reply.headers["retry-after"]) == (429, "3")
    bench.refuse = None
    answers = await time.run(replies(openrlhf(bench, "four"), openrlhf(bench, "five")))
    assert [reply.status for reply in answers] == [200, 200]


async def test_one_failed_rollout_of_a_body_fails_it_and_the_second_try_asks_only_for_that(
    time: FakeTime, bench: Bench
) -> None:
    def post(failing: str) -> Connection:
        body = {"query": ["A.1", "A.2", "B.1", failing], "prompts": ["A.", "A.", "B.", "B."], "labels": [None] * 4}
        return Connection(bench.app, "/compat/openrlhf", json.dumps(body).encode(), group_size=2)

    bench.failures = [None, JudgeRejected("no")]
    (reply,) = await time.run(replies(post("B.2")))
    assert reply.status == 502
    assert len(bench.met) == 1
    (reply,) = await time.run(replies(post("B.2")))
    assert reply.json()["rewards"] == [quality(text) for text in "1212"]
    assert len(bench.met) == 2


@pytest.mark.parametrize(("call", "collect", "judge"), [(openrlhf, 90.0, 80.0), (slime, 60.0, 50.0)])
async def test_an_answer_comes_before_the_trainer_gives_up(
    time: FakeTime, call: Callable[..., Connection], collect: float, judge: float
) -> None:
    bench = Bench(time)
    started = time.now
    (reply,) = await time.run(replies(call(bench, "four")))
    assert (reply.status, time.now - started) == (504, collect)
    bench = Bench(time, collect_seconds=5.0, judge_seconds=0.5)
    started = time.now
    (reply,) = await time.run(replies(call(bench, "four")))
    assert (reply.status, time.now - started) == (504, 5.0)
    started = time.now
    answers = await time.run(replies(call(bench, "four"), call(bench, "five")))
    assert ([reply.status for reply in answers], time.now - started) == ([504, 504], 0.5)
    bench = Bench(time)
    time.sleep, sleep = lambda seconds: sleep(1_000.0 if seconds == JUDGE_SECONDS else seconds), time.sleep  # type: ignore[method-assign]
    started = time.now
    answers = await time.run(replies(call(bench, "four"), call(bench, "five")))
    assert ([reply.status for reply in answers], time.now - started) == ([504, 504], judge)


# Requests that cannot be read

OPENRLHF_FAULTS: list[tuple[object, str]] = [
    ("text", "body"),
    ([], "body"),
    ({}, "query"),
    ({"query": "Add.4", "prompts": ["Add."], "labels": [None]}, "query"),
    ({"query": [], "prompts": [], "labels": []}, "query"),
    ({"query": [4], "prompts": ["Add."], "labels": [None]}, "query[0]"),
    ({"query": ["Add.4"], "labels": [None]}, "prompts"),
    ({"query": ["Add.4"], "prompts": [None], "labels": [None]}, "prompts[0]"),
    ({"query": ["Add.4"], "prompts": ["Add.", "Add."], "labels": [None]}, "prompts: 2 for 1"),
    ({"query": ["Add.4"], "prompts": ["Add."], "labels": []}, "labels: 0 for 1"),
    ({"query": ["Add.4"], "prompts": ["Add."], "labels": "4"}, "labels"),
    ({"query": ["Sub.4"], "prompts": ["Add."], "labels": [None]}, "query[0]: does not begin with prompts[0]"),
]
SLIME_FAULTS: list[tuple[object, str]] = [
    (4, "body"),
    ({"prompt": "Add."}, "response"),
    ({"prompt": "Add.", "response": ["four"]}, "response"),
    ({"response": "four"}, "prompt"),
    ({"prompt": [], "response": "four"}, "prompt"),
    ({"prompt": {"role": "user"}, "response": "four"}, "prompt"),
    ({"prompt": [{"role": "judge", "content": "x"}], "response": "four"}, "prompt[0].role"),
]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        *(("/compat/openrlhf", json.dumps(body).encode(), field) for body, field in OPENRLHF_FAULTS),
        *(("/compat/slime", json.dumps(body).encode(), field) for body, field in SLIME_FAULTS),
        ("/compat/openrlhf", b"{", "body: not JSON"),
        ("/compat/slime", b'{"prompt": "\xff"}', "body: not UTF-8"),
        ("/compat/slime", b'{"prompt": "Add.", "response": "4", "label": ' + b"[" * 5_000 + b"]" * 5_000 + b"}", ""),
    ],
)
async def test_a_body_that_cannot_be_read_is_told_where(
    time: FakeTime, bench: Bench, path: str, body: bytes, field: str
) -> None:
    (reply,) = await time.run(replies(Connection(bench.app, path, body, group_size=2, failure_reward=0)))
    error = reply.json()["error"]
    assert (reply.status, error["code"]) == (422, "group")
    assert error["message"].startswith(field)
    assert len(bench.calls._seating) == 0


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ({}, 422, "group_size: missing"),
        ({"group_size": 0}, 422, "group_size"),
        ({"group_size": "8.0"}, 422, "group_size"),
        ({"group_size": "٨"}, 422, "group_size"),
        ({"group_size": -1}, 422, "group_size"),
        ({"group_size": [2, 3]}, 422, "group_size: given 2 times"),
        ({"group_size": 129}, 413, "group_size: at most 128, got 129"),
        ({"group_sise": 8}, 422, "query: unknown parameter 'group_sise'"),
        ({"group_size": 2, "failure_reward": "nan"}, 422, "failure_reward"),
        ({"group_size": 2, "failure_reward": "-inf"}, 422, "failure_reward"),
        ({"group_size": 2, "failure_reward": "none"}, 422, "failure_reward"),
        ({"group_size": 2, "failure_reward": ""}, 422, "failure_reward"),
        ({"group_size": 2, "judge": "http://evil"}, 404, "there is no judge"),
        ({"group_size": 2, "rubric": "mine"}, 404, "there is no judge or rubric"),
    ],
)
@pytest.mark.parametrize("path", ["/compat/openrlhf", "/compat/slime"])
async def test_an_address_that_cannot_be_read_is_told_where(
    time: FakeTime, bench: Bench, path: str, query: dict[str, Any], status: int, said: str
) -> None:
    body = openrlhf_body("four") if path == "/compat/openrlhf" else slime_body("four")
    (reply,) = await time.run(replies(Connection(bench.app, path, body, **query)))
    assert reply.status == status
    assert reply.json()["error"]["message"].startswith(said)


async def test_odd_text_is_scored(time: FakeTime, bench: Bench) -> None:
    answers = await time.run(replies(openrlhf(bench, "\ud800\x00"), openrlhf(bench, "\ud801", label="\ud802")))
    assert [reply.status for reply in answers] == [504, 504]  # the labels differ
    answers = await time.run(replies(openrlhf(bench, "\ud800\x00"), openrlhf(bench, "\ud801")))
    assert [reply.status for reply in answers] == [200, 200]


# Connections that break


async def test_a_held_body_is_counted_once(time: FakeTime, bench: Bench) -> None:
    async def work() -> None:
        first = openrlhf(bench, "four" * 100)
        await settle(time)
        assert bench.app.held_bytes == 0
        assert bench.rendezvous.held_bytes >= 400
        await replies(first, openrlhf(bench, "five"))

    await time.run(work())


async def test_a_client_that_hangs_up_disturbs_nobody(time: FakeTime, bench: Bench) -> None:
    async def work() -> list[Reply]:
        gone, stays = openrlhf(bench, "four", group_size=3), openrlhf(bench, "five", group_size=3)
        await settle(time)
        assert gone.hang_up()
        await settle(time)
        assert gone.task.done()
        return await replies(stays, openrlhf(bench, "six", group_size=3))

    assert [reply.json()["rewards"] for reply in await time.run(work())] == [[quality("five")], [quality("six")]]
    assert len(bench.met[0].group.rollouts) == 3


async def test_the_second_try_takes_the_place_of_the_first(time: FakeTime, bench: Bench) -> None:
    async def work() -> list[Reply]:
        first = openrlhf(bench, "four")
        await settle(time)
        first.hang_up()
        await settle(time)
        again = openrlhf(bench, "four")
        await settle(time)
        assert bench.rendezvous.waiting()[0].have == 1
        return await replies(again, openrlhf(bench, "five"))

    assert [reply.json()["rewards"][0] for reply in await time.run(work())] == [quality("four"), quality("five")]


async def test_a_second_try_after_the_judging_is_answered_at_once(time: FakeTime, bench: Bench) -> None:
    async def work() -> None:
        first, other = openrlhf(bench, "four"), openrlhf(bench, "five")
        await settle(time)
        first.hang_up()
        await replies(other)
        started = time.now
        (reply,) = await replies(openrlhf(bench, "four"))
        assert reply.json()["rewards"] == [quality("four")]
        assert time.now == started
        assert len(bench.calls._seating) == 0

    await time.run(work())
    assert len(bench.met) == 1


async def test_an_equal_rollout_whose_twin_is_connected_is_a_member_of_its_own(time: FakeTime, bench: Bench) -> None:
    async def work() -> list[Reply]:
        twins = [openrlhf(bench, "four", group_size=3) for _ in range(2)]
        await settle(time)
        assert bench.rendezvous.waiting()[0].have == 2
        return await replies(*twins, openrlhf(bench, "five", group_size=3))

    answers = await time.run(work())
    assert [reply.json()["rewards"][0] for reply in answers] == [quality("four"), quality("four"), quality("five")]


async def test_a_second_try_after_a_failure_is_a_new_collection(time: FakeTime, bench: Bench) -> None:
    bench.failures = [JudgeRejected("no")]

    async def work() -> None:
        first, other = openrlhf(bench, "four"), openrlhf(bench, "five")
        await settle(time)
        first.hang_up()
        (failed,) = await replies(other)
        assert failed.status == 502
        again = openrlhf(bench, "four")
        await settle(time)
        assert not again.task.done()
        answers = await replies(again, openrlhf(bench, "five"))
        assert [reply.status for reply in answers] == [200, 200]

    await time.run(work())


async def test_a_route_that_is_cancelled_leaves_its_place_free(time: FakeTime, bench: Bench) -> None:
    async def work() -> list[Reply]:
        first = openrlhf(bench, "four")
        await settle(time)
        first.task.cancel()
        await asyncio.wait([first.task])
        return await replies(openrlhf(bench, "four"), openrlhf(bench, "five"))

    assert [reply.status for reply in await time.run(work())] == [200, 200]
    assert len(bench.met) == 1


async def test_a_trainer_that_starts_again_meets_no_ghosts(time: FakeTime, bench: Bench) -> None:
    async def work() -> list[Reply]:
        ghost = openrlhf(bench, "four")
        await settle(time)
        ghost.hang_up()
        await settle(time)
        time.now += AWAY_SECONDS
        return await replies(openrlhf(bench, "five"), openrlhf(bench, "six"))

    assert [reply.status for reply in await time.run(work())] == [200, 200]
    assert sorted(text_of(rollout) for rollout in bench.met[0].group.rollouts) == ["five", "six"]


# OpenRLHF's client, by the facts known of it: all samples of a prompt in flight together, a body that failed in any way
# sent again as it was, 5 tries 1 s apart, 180 s each.


class Trainer:
    def __init__(self, bench: Bench, group_size: int, **query: Any) -> None:
        self._bench = bench
        self._query = {"group_size": group_size, **query}

    async def execute(self, prompt: str, completion: str, breaks: Sequence[float] = ()) -> dict[str, Any] | None:
        """The reply; None after the last try. `breaks`: seconds after which the connection of each try is lost."""
        body = openrlhf_body(completion, prompt=prompt)
        time = self._bench.time
        for number in range(5):
            connection = Connection(self._bench.app, "/compat/openrlhf", body, **self._query)
            lost = breaks[number] if number < len(breaks) else 180.0
            timer = asyncio.ensure_future(time.sleep(lost))
            await asyncio.wait((connection.task, timer), return_when=asyncio.FIRST_COMPLETED)
            timer.cancel()
            if connection.task.done() and connection.reply.status == 200:
                reply: dict[str, Any] = connection.reply.json()
                return reply
            connection.hang_up()
            await asyncio.wait((connection.task,))
            await time.sleep(1.0)
        return None


SAMPLES = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.floats(0, 3).map(lambda s: round(s, 2) + 0.001),
            st.lists(st.floats(0, 3).map(lambda s: round(s, 2) + 0.003), max_size=3),
        ),
        min_size=3,
        max_size=3,
    ),
    min_size=1,
    max_size=3,
)
"""Prompts; for each the completion of every sample, when it comes, and when the connections of its tries are lost."""


async def train(
    bench: Bench, samples: Sequence[Sequence[tuple[str, float, list[float]]]], **query: Any
) -> list[list[dict[str, Any] | None]]:
    trainer = Trainer(bench, 3, **query)

    async def one(prompt: int, completion: str, after: float, breaks: list[float]) -> dict[str, Any] | None:
        await bench.time.sleep(after)
        return await trainer.execute(f"prompt {prompt}: ", completion, breaks)

    return await asyncio.gather(
        *(asyncio.gather(*(one(i, *sample) for sample in group)) for i, group in enumerate(samples))
    )


@given(SAMPLES)
def test_whatever_breaks_every_sample_gets_its_own_score(samples: list[list[tuple[str, float, list[float]]]]) -> None:
    async def work() -> None:
        time = FakeTime()
        bench = Bench(time)
        answers = await time.run(train(bench, samples))
        for group, replies_ in zip(samples, answers, strict=True):
            tied = len({completion for completion, _, _ in group}) == 1
            for (completion, _, _), reply in zip(group, replies_, strict=True):
                assert reply is not None
                assert reply["rewards"] == [0.5 if tied else quality(completion)]
        # Each prompt's samples were judged once and together: nobody twice, nobody left out.
        met = Counter(
            (str(meeting.group.task[0].content[0]), *sorted(text_of(rollout) for rollout in meeting.group.rollouts))
            for meeting in bench.met
        )
        assert met == Counter(
            (f"prompt {i}: ", *sorted(completion for completion, _, _ in group)) for i, group in enumerate(samples)
        )
        assert len(bench.calls._seating) == 0
        assert bench.rendezvous.collecting == bench.rendezvous.judging == 0

    asyncio.run(work())


@given(SAMPLES, st.lists(st.booleans(), max_size=4))
def test_after_failures_the_tries_of_a_group_meet_again(
    samples: list[list[tuple[str, float, list[float]]]], failing: list[bool]
) -> None:
    async def work() -> None:
        time = FakeTime()
        bench = Bench(time)
        bench.failures = [JudgeRejected("no") if fails else None for fails in failing]
        whole = [[(completion, after, list[float]()) for completion, after, _ in group] for group in samples]
        answers = await time.run(train(bench, whole))
        for group, replies_ in zip(samples, answers, strict=True):
            tied = len({completion for completion, _, _ in group}) == 1
            assert [reply and reply["rewards"] for reply in replies_] == [
                [0.5 if tied else quality(completion)] for completion, _, _ in group
            ]
        assert len(bench.met) == len(samples)
        assert len(bench.calls._seating) == 0

    asyncio.run(work())


@given(SAMPLES, st.lists(st.booleans(), min_size=1, max_size=4))
@example([[("a", 0.001, []), ("a", 0.001, []), ("a", 0.001, [0.003])]], [True])
def test_a_constant_is_the_same_for_the_whole_group(
    samples: list[list[tuple[str, float, list[float]]]], failing: list[bool]
) -> None:
    async def work() -> None:
        time = FakeTime()
        bench = Bench(time)
        bench.failures = [JudgeRejected("no") if fails else None for fails in failing]
        answers = await time.run(train(bench, samples, failure_reward=-1))
        num_failed = 0
        for group, replies_ in zip(samples, answers, strict=True):
            rewards = [reply["rewards"][0] if reply else None for reply in replies_]
            assert None not in rewards
            if -1.0 in rewards:
                num_failed += 1
                assert set(rewards) == {-1.0}
                assert all(reply and reply["extra_logs"]["judge_failed"] == [1] for reply in replies_)
            else:
                tied = len({completion for completion, _, _ in group}) == 1
                assert rewards == [0.5 if tied else quality(completion) for completion, _, _ in group]
        assert len(bench.constants) >= num_failed

    asyncio.run(work())


# Over HTTP


async def test_the_calls_are_mounted(time: FakeTime, bench: Bench) -> None:
    app = FastAPI()
    add_calls(app, bench)  # type: ignore[arg-type]
    transport = httpx.ASGITransport(behind_door(app))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:

        async def post(text: str) -> httpx.Response:
            return await client.post("/compat/openrlhf?group_size=8", content=openrlhf_body(text))

        texts = list("abcdefgh")
        answers = await time.run(asyncio.gather(*map(post, texts)))
        assert [reply.json()["rewards"] for reply in answers] == [[quality(text)] for text in texts]
        answer = await client.post("/compat/slime", content=slime_body("four"))
        assert answer.status_code == 422
