"""A Redis server of the tests' own: a free port on the loopback, a folder of its own, gone at the end.

from tests.redis_server import redis_server_fixture  # noqa: F401 - pytest finds it by the name `redis_server`
def test(redis_server): RedisStore(redis_server.url)
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from types import TracebackType

import pytest


class RedisServer:
    """Runs while the `with` block does; skips the test where Redis is not installed, fails it under CI.

    Args:
        options: for its command line, for example `"--requirepass", "x"`.
    """

    def __init__(self, *options: str) -> None:
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self, *words: str) -> str:
        """The reply to one command, as `redis-cli` would show it, asked without any client library."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            request = f"*{len(words)}\r\n" + "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
            connection.sendall(request.encode())
            reader = connection.makefile("rb")
            head = reader.readline().decode().strip()
            if not head.startswith("$"):
                return head[1:]
            return reader.read(max(0, int(head[1:]))).decode("utf-8", "replace")

    def start(self) -> None:
        """Starts it; again on the port it had before."""
        program = shutil.which("redis-server")
        if program is None:
            if os.environ.get("CI"):
                pytest.fail("redis-server is not installed")
            pytest.skip("redis-server is not installed")
        for _ in range(10):
            self.port = self.port or _free_port()
            flags = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._folder, "--save", ""]
            self._process = subprocess.Popen([program, *flags, *self._options], stdout=subprocess.DEVNULL)
            while self._process.poll() is None:
                try:
                    self.command("PING")
                    return
                except OSError:
                    time.sleep(0.01)
            self.port = 0  # somebody else was faster
        pytest.fail("redis-server does not start")

    def stop(self) -> None:
        """Kills it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> RedisServer:
        self._folder = tempfile.mkdtemp(prefix="ruler-redis-")
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
        shutil.rmtree(self._folder)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session", name="redis_server")
def redis_server_fixture() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server
