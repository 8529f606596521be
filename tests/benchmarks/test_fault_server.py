from __future__ import annotations

import asyncio
import gc
import json
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from benchmarks.fault_replies import Question, prompt_key, reply_text, right_scores
from benchmarks.fault_server import FaultServer
from benchmarks.faults import MIXED, Fault, FaultPlan, Mark, read_faults
from judges.litellm import LiteLLMJudge
from judges.litellm_client import load_litellm
from judges.reask import ReaskingJudge
from judges.simulated import hash_quality
from ruler.errors import JudgeRejected, JudgeUnavailable, ReplyError
from ruler.reply import read_reply, reply_schema
from ruler.types import JudgeReply, JudgeRequest
from tests.conftest import ROOT

pytestmark = pytest.mark.slow  # time-outs are waited for

load_litellm()  # seconds; before the first test, not in it

LABELS = ("KQX", "BDF", "MNP")
WAITING = (Fault.TIMEOUT, Fault.DRIP)
AT_LIMIT = (Fault.CUT_AT_LIMIT, Fault.EMPTY_AT_LIMIT)
QUICK = tuple(fault for fault in MIXED if fault not in (*WAITING, Fault.HUGE_BODY, Fault.ZIP_BOMB))
ERRORS = {Mark.TRANSIENT: JudgeUnavailable, Mark.REPLY: ReplyError, Mark.FINAL: JudgeRejected}


def messages_of(number: int = 0, *, padding: str = "", labels: Sequence[str] = LABELS) -> tuple[dict[str, str], ...]:
    rollouts = [f"<rollout {label}>\nanswer {number}{label}{padding}\n</rollout {label}>" for label in labels]
    return (
        {"role": "system", "content": "You compare. Answer in JSON."},
        {"role": "user", "content": "\n".join(["Task", *rollouts, "Reply."])},
    )


def request_of(messages: tuple[dict[str, str], ...]) -> JudgeRequest:
    return JudgeRequest(messages, reply_schema(notes=True), LABELS, check=lambda text: read_reply(text, LABELS))


async def ask(
    server: FaultServer, messages: tuple[dict[str, str], ...], *, timeout_seconds: float = 20.0
) -> JudgeReply:
    """A reply that has passed `check`."""
    request = request_of(messages)
    reply = await LiteLLMJudge(model="m", base_url=server.url, timeout_seconds=timeout_seconds)(request)
    assert request.check is not None
    request.check(reply.text)
    return reply


def scores_in(reply: JudgeReply) -> dict[str, int]:
    return {label: round(100 * score) for label, score in read_reply(reply.text, LABELS).scores.items()}


def http(body: bytes, *headers: str, first: str = "POST /v1/chat/completions HTTP/1.1") -> bytes:
    return "\r\n".join((first, f"Content-Length: {len(body)}", *headers, "\r\n")).encode() + body


def post(messages: object, *headers: str) -> bytes:
    return http(json.dumps({"model": "m", "messages": messages}).encode(), *(headers or ("Connection: close",)))


async def connect(server: FaultServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", urlsplit(server.url).port)


async def exchange(server: FaultServer, sent: bytes) -> tuple[int, bytes]:
    """Status and body of what comes back until the connection ends; status 0 when it is reset."""
    reader, writer = await connect(server)
    try:
        writer.write(sent)
        head, _, body = (await asyncio.wait_for(reader.read(), 20)).partition(b"\r\n\r\n")
        return int(head.split()[1]) if head else 0, body
    except ConnectionError:
        return 0, b""
    finally:
        writer.close()


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came to that")


def text_in(body: bytes) -> str:
    text = json.loads(body)["choices"][0]["message"]["content"]
    assert isinstance(text, str)
    return text


# --- What is right ---


async def test_without_faults_it_answers_rightly_and_counts_tokens() -> None:
    messages = messages_of()
    async with FaultServer() as server:
        reply = await ask(server, messages)
    texts = {label: f"answer 0{label}" for label in LABELS}
    assert right_scores(messages) == {label: round(100 * hash_quality("", text)) for label, text in texts.items()}
    assert scores_in(reply) == right_scores(messages)
    assert set(read_reply(reply.text, LABELS).notes) == set(LABELS)
    assert reply.usage.input_tokens == sum(len(message["content"]) for message in messages) // 4
    assert reply.usage.output_tokens == -(-len(reply.text) // 4)


def test_right_scores_spread_over_the_range() -> None:
    scores = [score for n in range(200) for score in right_scores(messages_of(n)).values()]
    assert min(scores) < 5
    assert max(scores) > 95
    assert len(set(scores)) > 80


def test_a_question_takes_parts_and_odd_text() -> None:
    system, user = messages_of(padding="\ud800\0")
    parts = [{"type": "text", "text": user["content"]}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    assert right_scores((system, {"role": "user", "content": parts})) == right_scores((system, user))
    assert prompt_key((system, user)) == prompt_key((system, user, {"role": "assistant", "content": "no"}))
    assert prompt_key((system, user)) != prompt_key((user, system))


@pytest.mark.parametrize("labels", [("KQX",), LABELS])
@pytest.mark.parametrize("fault", [fault for fault in Fault if fault.mark is Mark.REPLY])
def test_no_reply_to_be_refused_can_be_read(fault: Fault, labels: tuple[str, ...]) -> None:
    with pytest.raises(ReplyError):
        read_reply(reply_text(fault, Question(messages_of(labels=labels))), labels)


# --- Every kind, through the judge ---


@pytest.mark.parametrize("fault", Fault)
async def test_every_kind_does_to_the_judge_what_its_mark_says(fault: Fault) -> None:
    messages = messages_of()
    # Above what the judge reads of an answer.
    async with FaultServer(faults=[fault], rate=1.0, retry_after_seconds=3, huge_bytes=24 * 1024 * 1024) as server:
        asked = ask(server, messages, timeout_seconds=0.3 if fault in WAITING else 20.0)
        if fault.mark is Mark.USABLE:
            assert scores_in(await asked) == right_scores(messages)
        else:
            with pytest.raises(ReplyError if fault in AT_LIMIT else ERRORS[fault.mark]) as caught:
                await asked
            waits = caught.value.retry_after_seconds if isinstance(caught.value, JudgeUnavailable) else None
            if fault is Fault.RATE_LIMIT_SECONDS:
                assert waits == 3
            elif fault is Fault.RATE_LIMIT_DATE:
                assert waits is not None
                assert 0 <= waits <= 4
            else:
                assert waits is None
        # Nothing below the judge asks again by itself.
        assert server.kinds == {fault: 1}
        assert server.prompts[prompt_key(messages)].right == (fault.mark is Mark.USABLE)


async def test_a_huge_reply_that_the_judge_still_reads_is_no_reply() -> None:
    async with FaultServer(faults=[Fault.HUGE_BODY], rate=1.0, huge_bytes=2_000_000) as server:
        with pytest.raises(ReplyError, match="characters"):
            await ask(server, messages_of())


async def test_the_cut_off_reply_says_so() -> None:
    async with FaultServer(faults=[Fault.CUT_AT_LIMIT], rate=1.0) as server:
        judge = LiteLLMJudge(model="m", base_url=server.url)
        assert (await judge(request_of(messages_of()))).finish_reason == "length"


async def test_two_megabytes_of_prompt() -> None:
    messages = messages_of(padding=" and so on" * 70_000)
    async with FaultServer() as server:
        assert scores_in(await ask(server, messages)) == right_scores(messages)


async def test_a_reask_belongs_to_its_prompt_and_pays_once() -> None:
    messages = messages_of()
    key = prompt_key(messages)
    plan = FaultPlan((Fault.WRONG_ID,), 0.5)
    seed = next(s for s in range(99) if [replace(plan, seed=s).fault(key, n) for n in (0, 1)] == [Fault.WRONG_ID, None])
    async with FaultServer(faults="wrong_id", rate=0.5, seed=seed) as server:
        reply = await ReaskingJudge(LiteLLMJudge(model="m", base_url=server.url))(request_of(messages))
    assert scores_in(reply) == right_scores(messages)
    assert server.stats()["prompts"] == {key: [2, 1]}
    assert server.paid_twice == {}


# --- Which request meets which fault ---


@pytest.mark.parametrize("concurrency", [1, 8, 64])
async def test_the_seed_alone_decides_whatever_the_concurrency(concurrency: int) -> None:
    prompts = [messages_of(number) for number in range(20)]
    gate = asyncio.Semaphore(concurrency)

    async def client(server: FaultServer, sent: bytes) -> None:
        async with gate:
            await exchange(server, sent)

    async with FaultServer(faults=QUICK, rate=0.6, seed=3) as server:
        await asyncio.gather(*(client(server, post(messages)) for _ in range(3) for messages in prompts))
    keys = [prompt_key(messages) for messages in prompts]
    met = {key: [server.plan.fault(key, n) for n in range(3)] for key in keys}
    assert server.kinds == Counter(fault or "right" for faults in met.values() for fault in faults)
    assert server.stats()["prompts"] == {
        key: [3, sum(fault is None or fault.mark is Mark.USABLE for fault in faults)] for key, faults in met.items()
    }
    assert len(server.kinds) > 10


def test_the_rate_is_kept_and_every_kind_comes() -> None:
    plan = FaultPlan(MIXED, 0.2, seed=1)
    met = Counter(plan.fault(prompt_key(messages_of(number)), 0) for number in range(5000))
    assert met[None] == pytest.approx(4000, abs=120)
    assert set(met) == {None, *MIXED}
    other = replace(plan, seed=2)
    assert any(plan.fault(str(n), 0) is not other.fault(str(n), 0) for n in range(20))
    assert any(plan.fault("key", 0) is not plan.fault("key", n) for n in range(20))
    assert {replace(plan, rate=0.0).fault(str(n), 0) for n in range(20)} == {None}


def test_sets_of_kinds() -> None:
    assert read_faults("mixed") == MIXED
    assert {fault.mark for fault in MIXED} == {Mark.USABLE, Mark.TRANSIENT, Mark.REPLY}
    assert read_faults("all") == tuple(Fault)
    assert read_faults("none") == ()
    assert read_faults("reset, fenced,reset") == read_faults([Fault.RESET, Fault.FENCED]) == (Fault.FENCED, Fault.RESET)
    assert read_faults(Fault.RESET) == (Fault.RESET,)
    for wrong in ({"faults": "resett"}, {"rate": 1.5}, {"rate": float("nan")}, {"faults": "none", "rate": 0.1}):
        with pytest.raises(ValueError, match="faults|rate"):
            FaultServer(**wrong)


# --- Counts ---


async def test_stats_name_what_was_paid_twice() -> None:
    once, twice = messages_of(1), messages_of(2)
    async with FaultServer() as server:
        for messages in (once, twice, (*twice, {"role": "user", "content": "Again."})):
            assert (await exchange(server, post(messages)))[0] == 200
        gets = [http(b"", "Connection: close", first=f"GET {path} HTTP/1.1") for path in ("/stats", "/v1/stats?x=1")]
        told = [json.loads((await exchange(server, get))[1]) for get in gets]
    assert told[0] == told[1] == server.stats()
    assert told[0] == {
        "requests": 3,
        "kinds": {"right": 3},
        "malformed": 0,
        "left": 0,
        "right": 3,
        "paid_twice": {prompt_key(twice): 2},
        "prompts": {prompt_key(once): [1, 1], prompt_key(twice): [2, 2]},
    }


async def test_latency_is_waited_and_a_client_that_left_pays_nothing() -> None:
    async with FaultServer(latency_seconds=0.1) as server:
        loop = asyncio.get_running_loop()
        start = loop.time()
        assert (await exchange(server, post(messages_of(1))))[0] == 200
        assert loop.time() - start >= 0.09
        _, writer = await connect(server)
        writer.write(post(messages_of(2)))
        await until(lambda: server.requests == 2)
        writer.close()
        await until(lambda: server.left == 1)
        stats = server.stats()
    assert (stats["requests"], stats["right"], stats["left"]) == (2, 1, 1)


# --- HTTP ---


async def test_a_connection_serves_many_requests() -> None:
    async with FaultServer() as server:
        reader, writer = await connect(server)
        for number in range(3):
            writer.write(post(messages_of(number), "Connection: close" if number == 2 else "connection: Keep-Alive"))
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
            length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            assert scores_of(await reader.readexactly(length)) == right_scores(messages_of(number))
            assert (b"Connection: close" in answer) == (number == 2)
        assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.RESET_IN_BODY, Fault.CLOSED_IN_BODY])
async def test_how_connections_break(fault: Fault) -> None:
    async with FaultServer(faults=fault, rate=1.0) as server:
        reader, writer = await connect(server)
        writer.write(post(messages_of()))
        if fault is Fault.CLOSED_IN_BODY:
            head, _, body = (await asyncio.wait_for(reader.read(), 20)).partition(b"\r\n\r\n")
            assert 0 < len(body) < int(head.rpartition(b"Content-Length: ")[2])
        else:
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.read(), 20)
        writer.close()


async def test_a_client_that_waits_for_leave_to_send_gets_it() -> None:
    async with FaultServer() as server:
        reader, writer = await connect(server)
        head, _, body = post(messages_of(), "Expect: 100-continue", "Connection: close").partition(b"\r\n\r\n")
        writer.write(head + b"\r\n\r\n")
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
        writer.close()


def scores_of(body: bytes) -> dict[str, int]:
    return {item["id"]: item["score"] for item in json.loads(text_in(body))["scores"]}


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\0\1\2\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"POST /v1/chat/completions HTTP/2\r\n\r\n", 400),
        (b"POST /v1/chat/completions HTTP/1.1\r\n\r\n", 411),
        (b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 413),
        (b"POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
        (http(b"{}", first="GET /v1/chat/completions HTTP/1.1"), 404),
        (http(b"{}", first="POST /v1/completions HTTP/1.1"), 404),
        (http(b""), 400),
        (http(b"\xff{"), 400),
        (http(b"[" * 100_000), 400),
        (http(b"[]"), 400),
        (http(b'{"messages": {}}'), 400),
        (http(b'{"messages": [], "response_format": [1]}'), 400),
        (post([1]), 400),
        (post([{"role": "user", "content": 7}]), 400),
        (post([{"role": "user", "content": [{"type": "text", "text": 7}]}]), 400),
        (post([{"role": "user", "content": "SECRET"}]), 400),
        (post([{"role": "user", "content": "SECRET\n<rollout KQX>\nSECRET"}]), 400),
        (b"POST /v1/chat/completions HTTP/1.1\r\nX: " + b"x" * 600_000, None),
    ],
)
async def test_what_is_no_question_is_refused_and_harms_nobody(
    sent: bytes, status: int | None, capfd: pytest.CaptureFixture[str]
) -> None:
    async with FaultServer() as server:
        found, body = await exchange(server, sent)
        # The last byte of a request that is too large may be answered by a reset.
        assert found == status or (status is None and found in (431, 0))
        assert b"SECRET" not in body
        assert (server.malformed, server.requests) == (1, 0)
        assert (await exchange(server, post(messages_of())))[0] == 200
    assert capfd.readouterr() == ("", "")


async def test_a_client_that_leaves_early_harms_nobody() -> None:
    async with FaultServer() as server:
        for sent in (b"", b"POST", post(messages_of())[:-5]):
            _, writer = await connect(server)
            writer.write(sent)
            await writer.drain()
            writer.close()
        assert (await exchange(server, post(messages_of())))[0] == 200
        assert (server.requests, server.malformed) == (1, 0)


# --- Starting and ending ---


@pytest.mark.parametrize("fault", [None, *WAITING, Fault.HUGE_BODY])
def test_it_ends_with_connections_open(fault: Fault | None) -> None:
    async def run() -> None:
        latency = 0.0 if fault else 30.0
        faults, rate = ([fault], 1.0) if fault else ("none", 0.0)
        async with FaultServer(faults=faults, rate=rate, latency_seconds=latency) as server:
            clients = [await connect(server) for _ in range(10)]
            for number, (_, writer) in enumerate(clients[:5]):
                writer.write(post(messages_of(number)))
            await until(lambda: server.requests == 5)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await leave(clients)

    asyncio.run(run())
    gc.collect()  # pytest turns a warning from the collector into an error


@pytest.mark.parametrize("turns", range(8))
def test_it_ends_while_connections_come(turns: int) -> None:
    async def run() -> None:
        async with FaultServer() as server:
            clients = [asyncio.create_task(connect(server)) for _ in range(20)]
            for _ in range(turns):
                await asyncio.sleep(0)
        assert asyncio.all_tasks() - set(clients) == {asyncio.current_task()}
        done = await asyncio.gather(*clients, return_exceptions=True)
        await leave([client for client in done if isinstance(client, tuple)])

    asyncio.run(run())
    gc.collect()


async def leave(clients: Sequence[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> None:
    for _, writer in clients:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for _, writer in clients), return_exceptions=True)


def fetch(url: str, body: bytes | None = None) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=20) as response:
        data = response.read()
        assert isinstance(data, bytes)
        return data


def test_from_synchronous_code() -> None:
    body = json.dumps({"messages": messages_of()}).encode()
    with FaultServer() as server:
        assert scores_of(fetch(f"{server.url}/chat/completions", body)) == right_scores(messages_of())
        taken = FaultServer(port=urlsplit(server.url).port or 0)
        with pytest.raises(OSError, match="in use"), taken:
            pass
        assert server.stats()["requests"] == 1
    gc.collect()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_from_the_command_line(number: signal.Signals) -> None:
    command = [sys.executable, "-W", "always", "-m", "benchmarks.fault_server", "--faults", "fenced", "--rate", "1"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        body = json.dumps({"messages": messages_of()}).encode()
        assert text_in(fetch(f"{url}/chat/completions", body)).startswith("```json")
        assert json.loads(fetch(f"{url}/stats"))["kinds"] == {"fenced": 1}
        process.send_signal(number)
        rest, errors = process.communicate(timeout=20)
    assert (process.returncode, rest, errors) == (0, "", "")


def test_the_command_line_names_a_wrong_kind() -> None:
    command = [sys.executable, "-m", "benchmarks.fault_server", "--faults", "resett"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no kind 'resett'" in done.stderr
