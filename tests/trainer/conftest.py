"""Fixtures of the trainer's tests."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from trainer.policy import Policy


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random model with a ChatML template."""
    from tests.tiny_model import make_tiny_model

    return make_tiny_model(tmp_path_factory.mktemp("models") / "chat")


@pytest.fixture(scope="session")
def chat_policy(chat_model: Path) -> Policy:
    """That model as a policy; tests leave its weights alone."""
    from trainer.policy import Policy

    return Policy.load(str(chat_model))


@pytest.fixture
def device() -> Iterator[Executor]:
    """The thread for tensors."""
    with ThreadPoolExecutor(1) as executor:
        yield executor
