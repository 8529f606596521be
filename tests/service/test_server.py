"""`ruler serve` as a process: it starts, is told to stop, is killed, and comes back."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.local_server import LocalServer, Response, score_all, user_text
from tests.service.calling import TWO
from tests.service.running import serving, start

pytestmark = pytest.mark.slow


def slowly(seconds: float) -> Any:
    return lambda body: Response(delay_seconds=seconds, body=score_all(body).body)


def test_it_says_where_it_is_and_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "terse.md").write_text("Shorter is better.")
    options = ("--judge", "simulated", "--named-judge", "hashed=simulated?quality=hash", "--cache", "off")
    with serving(*options, "--named-rubric", f"terse={tmp_path / 'terse.md'}") as running:
        assert httpx.get(f"{running.url}/healthz").text == "ok\n"
        response = httpx.post(f"{running.url}/v1/score?judge=hashed&rubric=terse", json=TWO)
        assert response.json()["rubric"].startswith("terse@")
        status, err = running.stop()
        assert running.process.stdout is not None
    assert (status, err) == (0, "")


def test_a_stop_answers_what_is_held_and_loses_nothing_that_was_paid(tmp_path: Path) -> None:
    cache = str(tmp_path / "c.sqlite3")
    with LocalServer(slowly(0.5)) as judge:
        options = ("--judge", f"{judge.url}#m", "--cache", cache)
        with serving(*options) as running:
            answers: list[httpx.Response] = []
            threads = [
                threading.Thread(target=lambda: answers.append(httpx.post(f"{running.url}/v1/score", json=TWO)))
                for _ in range(3)
            ]
            for thread in threads:
                thread.start()
            while not judge.requests:
                pass
            status, _ = running.stop()
            for thread in threads:
                thread.join()
        assert status == 0
        # Those that were in before the signal are answered; one that came too late is told so.
        assert all(one.status_code in (200, 503) for one in answers)
        assert any(one.status_code == 200 for one in answers)
        with serving(*options) as running:
            again = httpx.post(f"{running.url}/v1/score", json=TWO)
        assert again.json()["usage"]["cache_hits"] == 1
        assert len(judge.requests) == 1


def test_a_stop_does_not_wait_for_ever() -> None:
    with LocalServer(slowly(60)) as judge:
        env = {"RULER_STOP_SECONDS": "0.5"}
        with serving("--judge", f"{judge.url}#m", "--cache", "off", env=env) as running:
            answers: list[httpx.Response] = []
            thread = threading.Thread(
                target=lambda: answers.append(httpx.post(f"{running.url}/v1/score", json=TWO, timeout=30))
            )
            thread.start()
            while not judge.requests:
                pass
            status, _ = running.stop()
            thread.join()
    assert status == 0
    assert (answers[0].status_code, answers[0].json()["error"]["code"]) == (503, "stopping")


def test_interrupted_by_hand_it_ends_as_well() -> None:
    with serving("--judge", "simulated", "--cache", "off") as running:
        status, err = running.stop(signal.SIGINT)
    assert (status, "Traceback" in err) == (0, False)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "no judge"),
        (["--judge", "simulated", "--host", "0.0.0.0"], "keys: other hosts can reach"),
        (["--judge", "simulated", "--key", "alice"], "--key: expected NAME=VALUE, got 'alice'"),
        (["--judge", "simulated", "--key", "a=NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE is not set"),
        (["--judge", "simulated", "--named-judge", "a b=simulated"], "judges"),
        (["--judge", "simulated", "--orders", "3"], "orders"),
        (["--settings", "nope.toml"], "nope.toml"),
        (["--judge", "simulated", "--host", "203.0.113.1", "--no-auth"], "203.0.113.1 port 0: cannot be had"),
    ],
)
def test_what_cannot_work_is_one_line(options: list[str], said: str) -> None:
    command = [str(Path(sys.executable).with_name("ruler")), "serve", "--port", "0", "--cache", "off", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("error: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert said in done.stderr


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AssertionError, match=f"port {port}: cannot be had: Address already in use"):
            start("--judge", "simulated", "--cache", "off", port=port)


def test_a_batch_is_answered_while_it_is_being_sent() -> None:
    line = json.dumps(TWO).encode() + b"\n"
    with (
        serving("--judge", "simulated", "--cache", "off") as running,
        socket.create_connection(("127.0.0.1", running.port)) as connection,
    ):
        connection.settimeout(30)
        head = b"POST /v1/score/batch HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        received = b""
        for _ in range(3):
            connection.sendall(b"%x\r\n%b\r\n" % (len(line), line))
            seen = received.count(b'"group_id": "g"')
            while received.count(b'"group_id": "g"') == seen:
                received += connection.recv(65536)
        connection.sendall(b"0\r\n\r\n")
        while piece := connection.recv(65536):
            received += piece
    assert received.count(b'"status": "scored"') == 3


def test_a_sender_who_goes_away_leaves_nothing_behind() -> None:
    line = json.dumps(TWO).encode() + b"\n"
    with serving("--judge", "simulated", "--cache", "off") as running:
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", running.port)) as connection:
                connection.sendall(
                    b"POST /v1/score/batch HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n" + 5 * line
                )
        while "\nruler_groups_in_flight 0.0\n" not in httpx.get(f"{running.url}/metrics").text:
            pass
        status, err = running.stop()
    # A group of theirs may still have begun after the last look; a stop says that it waits for it.
    assert (status, [line for line in err.splitlines() if "that are being judged" not in line]) == (0, [])


async def test_killed_under_load_it_comes_back_and_pays_for_nothing_twice(tmp_path: Path) -> None:
    """Clients that retry get right scores; only what was in flight at a kill is asked again."""
    from ruler import Client, Group, ScoredGroup

    answered: Counter[str] = Counter()
    lock = threading.Lock()

    def reply(body: dict[str, Any]) -> Response:
        with lock:
            answered[user_text(body)] += 1
        return Response(delay_seconds=0.05, body=score_all(body).body)

    groups = [Group.of([f"{n} {place}" for place in range(4)], task="Count.", id=f"g{n}") for n in range(60)]
    with LocalServer(reply) as judge:
        options = ("--judge", f"{judge.url}#m", "--cache", str(tmp_path / "c.sqlite3"), "--concurrency", "4")
        running = start(*options)
        port = running.port
        client = Client(running.url, timeout_seconds=120, attempts=50)
        work = asyncio.create_task(client.score_many(groups))
        try:
            for _ in range(3):
                await asyncio.sleep(0.6)
                running.process.kill()
                running.process.communicate()
                running = start(*options, port=port)
            results = await work
        finally:
            running.process.kill()
            running.process.communicate()
            await client.aclose()
    assert all(isinstance(result, ScoredGroup) for result in results)
    assert [result.group_id for result in results] == [group.id for group in groups]
    assert len(answered) == len(groups)
    # Four were in flight at each of three kills.
    assert answered.total() - len(groups) <= 12
