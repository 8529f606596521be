"""The cache between processes, on the real stores."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.judges.same_question import NUM_TASKS
from tests.redis_server import RedisServer, redis_server_fixture  # noqa: F401 - pytest finds the fixture by its name

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(params=["sqlite", "redis"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "replies.sqlite3")
    server: RedisServer = request.getfixturevalue("redis_server")
    return server.url


def start(location: str, folder: Path) -> subprocess.Popen[str]:
    arguments = [location, str(folder / "calls"), str(folder / "go")]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.judges.same_question", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_many_tasks_of_many_processes_ask_once(location: str, tmp_path: Path) -> None:
    processes = [start(location, tmp_path) for _ in range(4)]
    (tmp_path / "go").touch()
    said: Counter[tuple[bool, int, int]] = Counter()
    for process in processes:
        said.update(ast.literal_eval(process.communicate(timeout=60)[0]))
    assert len((tmp_path / "calls").read_text().splitlines()) == 1
    assert said == {(True, 1, 0): 1, (True, 0, 1): 4 * NUM_TASKS - 1}


def test_when_the_one_that_asks_is_killed_another_asks(location: str, tmp_path: Path) -> None:
    first = start(location, tmp_path)
    (tmp_path / "go").touch()
    calls = tmp_path / "calls"
    while not calls.exists() or not calls.read_text():
        assert first.poll() is None
    first.kill()
    first.communicate()
    second = start(location, tmp_path)
    said = ast.literal_eval(second.communicate(timeout=60)[0])
    assert said == {(True, 1, 0): 1, (True, 0, 1): NUM_TASKS - 1}
    assert len(calls.read_text().splitlines()) == 2
