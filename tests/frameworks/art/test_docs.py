"""The code of docs/trainers/art.md, run as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import art
import pytest

from tests.frameworks.art.made import group, trajectory
from tests.local_server import LocalServer

PAGE = Path(__file__).parents[3] / "docs" / "trainers" / "art.md"


async def test_the_lines_to_copy_run(monkeypatch: pytest.MonkeyPatch) -> None:
    async def rollout(model: str, scenario: str) -> art.Trajectory:
        number = next(numbers)
        return trajectory(f"{scenario} {number}", reward=float(number))

    numbers = iter(range(100))
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    with LocalServer() as server:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        page: dict[str, Any] = {}
        for block in blocks:
            exec(block, page)
        groups = await page["gather"](rollout, "model", ["a", "b"])
        scored = await page["score"](group("Oslo", "Rome"))
    assert [[one.reward for one in each] for each in groups] == [[0.5] * 8] * 2
    assert sorted(one.metrics["independent_reward"] for each in groups for one in each) == list(range(16))
    assert [one.reward for one in scored] == [0.5, 0.5]
    assert [body["model"] for body in server.bodies] == ["gpt-5-mini"] * 3
    assert server.bodies[2]["reasoning_effort"] == "low"
