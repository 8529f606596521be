"""No test leaves the machine, reads the user's environment, or depends on when it runs."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "default",
    deadline=None,  # a busy machine is no fault of the code
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("default")
# `make quick`: fewer examples; `make test` draws them all.
settings.register_profile("quick", settings.get_profile("default"), max_examples=5)

ROOT = Path(__file__).parents[1]
FRAMEWORKS = ROOT / "tests" / "frameworks"
HEAVY = re.compile(r'^\w.*importorskip\("torch"\)|^(\w+ = )?load_litellm\(\)', re.MULTILINE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`make quick` leaves out files that load torch or litellm: seconds in every process, whatever they test.

    Those of other people's trainers run in environments of their own, and only when they are named.
    """
    named = (Path(argument.split("::")[0]).resolve() for argument in config.args)
    if collection_path == FRAMEWORKS and not any(path.is_relative_to(FRAMEWORKS) for path in named):
        return True
    if config.option.markexpr != "not slow" or collection_path.suffix != ".py":
        return None
    return HEAVY.search(collection_path.read_text(encoding="utf-8")) is not None or None


@pytest.fixture(scope="session", autouse=True)
def only_loopback() -> Iterator[None]:
    """Connecting anywhere but to this machine fails."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test tried to connect to {address}")
        connect(self, address)

    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", guarded)
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No judge, no key and no cache from the developer's shell and home."""
    for name in list(os.environ):
        if (name.startswith("RULER_") and name != "RULER_DATA") or name.endswith("_API_KEY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real groups with ground truth; they are not part of the project."""
    folder = Path(os.environ.get("RULER_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real groups at {folder}: set RULER_DATA")
    return folder


@pytest.fixture(scope="session")
def examples() -> Path:
    return ROOT / "examples" / "groups.jsonl"
