"""`--train.agent_func_path` with our executor: the files of docs/trainers/openrlhf.md, loaded and run by OpenRLHF."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from judges.fences import find_rollouts, user_text
from judges.scripted import ScriptedJudge, scores_reply
from ruler import Client, Ruler
from ruler.adapters.openrlhf import agent_executor
from ruler.errors import JudgeError
from tests.frameworks.openrlhf.actor import END, make_actor, openrlhf_modules, roll_out, service, step

PAGE = Path(__file__).parents[3] / "docs" / "trainers" / "openrlhf.md"
PROMPTS = {f"<|im_start|>user\nTask {number}?{END}\n<|im_start|>assistant\n": f"label {number}" for number in range(4)}
HEADER = "<|im_start|>"
JUDGE = "simulated"


@pytest.fixture(scope="module")
def vllm_engine() -> Iterator[Any]:
    with openrlhf_modules() as module:
        yield module


@pytest.fixture
def my_environment(monkeypatch: pytest.MonkeyPatch, vllm_engine: Any) -> None:
    """An environment with a tool and two turns."""
    agent = sys.modules["openrlhf.utils.agent"]

    class Environment(agent.AgentInstanceBase):  # type: ignore[misc]
        def __init__(self) -> None:
            self.turns = 0

        async def step(self, state_dict: Mapping[str, Any], **_: Any) -> dict[str, Any]:
            self.turns += 1
            done = self.turns == 2
            return {
                "rewards": SimpleNamespace(item=lambda: 0.25),
                "environment_feedback": "" if done else f"\n{HEADER}tool\nfound{END}\n{HEADER}assistant\n",
                "done": done,
                "extra_logs": {"turns": self.turns},
            }

    class MyExecutor(agent.MultiTurnAgentExecutor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(Environment)

    module = ModuleType("my_environment")
    module.MyExecutor = MyExecutor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_environment", module)


def executor_of_page(vllm_engine: Any, folder: Path, url: str, base: str = "") -> Any:
    """The page's file, with a base if the page's line for that is taken, loaded by OpenRLHF's loader."""
    page = PAGE.read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    if base:
        [with_base] = re.findall(rf"`(agent_executor\(.*base={base}\))`", page)
        code = f"from my_environment import {base}\n" + re.sub(r"agent_executor\(.*\)$", with_base, code, flags=re.M)
        assert f"base={base}" in code
    file = folder / "judge.py"
    file.write_text(code.replace("http://judge:8000", url), encoding="utf-8")
    return vllm_engine._load_agent_executor(str(file))


class Policy:
    """Answers of different lengths; the third to a prompt is the second once more."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = defaultdict(int)

    async def __call__(self, text: str) -> str:
        number = self._counts[text]
        self._counts[text] += 1
        await asyncio.sleep(0)
        return "x" * (10 + 20 * (1 if number == 2 else number))


def check(group: list[dict[str, Any]]) -> None:
    """The simulated judge likes short rollouts: the same order, and equal where they are equal."""
    assert all(isinstance(response["reward"], float) for response in group)
    pairs = {(len(response["observation_tokens"]), response["reward"]) for response in group}
    assert len(pairs) >= len(group) - 1
    assert [reward for _, reward in sorted(pairs)] == sorted((reward for _, reward in pairs), reverse=True)
    assert len({length for length, _ in pairs}) == len({reward for _, reward in pairs}) == len(pairs)
    assert all(response["scores"] == response["reward"] for response in group)
    assert len({frozenset(response["extra_logs"]) for response in group}) == 1


async def test_the_three_lines_for_single_turns(vllm_engine: Any, tmp_path: Path) -> None:
    async with service(JUDGE) as running:
        executor = executor_of_page(vllm_engine, tmp_path, running.url)
        assert isinstance(executor, sys.modules["openrlhf.utils.agent"].SingleTurnAgentExecutor)
        actor = make_actor(vllm_engine, executor, Policy())
        for group in await step(actor, PROMPTS, 8):
            assert len(group) == 8
            check(group)
            assert group[0]["extra_logs"] == {
                "judge_failed": 0.0,
                "judge_tied": 0.0,
                "judge_gated": 0.0,
                "part_judge": group[0]["reward"],
            }


async def test_evaluation_beside_training_with_another_number_of_samples(vllm_engine: Any, tmp_path: Path) -> None:
    [(prompt, label)] = list(PROMPTS.items())[:1]
    async with service(JUDGE) as running:
        executor = executor_of_page(vllm_engine, tmp_path, running.url)
        actor = make_actor(vllm_engine, executor, Policy())
        trained, evaluated = await asyncio.gather(roll_out(actor, prompt, label, 8), roll_out(actor, prompt, label, 4))
    assert (len(trained), len(evaluated)) == (8, 4)
    check(trained)
    rewards = [response["reward"] for response in evaluated]
    assert rewards == sorted(rewards, reverse=True)
    assert len(set(rewards)) == 4


@pytest.mark.usefixtures("my_environment")
async def test_an_executor_with_an_environment(vllm_engine: Any, tmp_path: Path) -> None:
    async with service(JUDGE) as running:
        executor = executor_of_page(vllm_engine, tmp_path, running.url, "MyExecutor")
        actor = make_actor(vllm_engine, executor, Policy())
        groups = await step(actor, PROMPTS, 8)
    for group in groups:
        check(group)
        assert all(response["extra_logs"]["turns"] == 2 for response in group)
        assert all(response["extra_logs"]["environment_reward"] == 0.5 for response in group)


@pytest.mark.usefixtures("my_environment")
async def test_the_judge_is_shown_who_said_what(vllm_engine: Any) -> None:
    from my_environment import MyExecutor  # type: ignore[import-not-found]

    judge = ScriptedJudge(lambda request: scores_reply(dict.fromkeys(request.ids, 50)))
    actor = make_actor(vllm_engine, agent_executor(Ruler(judge), base=MyExecutor)(), Policy())
    [(prompt, label)] = list(PROMPTS.items())[:1]
    await roll_out(actor, prompt, label, 2)
    task, rollouts = find_rollouts(user_text(judge.requests[0]))
    assert "Task 0?" in task
    assert sorted(text.strip() for text in rollouts.values()) == [
        "[assistant] xxxxxxxxxx\n[result] found\n[assistant] xxxxxxxxxx",
        "[assistant] " + "x" * 30 + "\n[result] found\n[assistant] xxxxxxxxxx",
    ]


async def test_a_service_that_is_killed_in_the_middle_costs_nothing(vllm_engine: Any) -> None:
    async with service(JUDGE) as first:
        executor = agent_executor(Client(first.url))()
        await step(make_actor(vllm_engine, executor, Policy()), PROMPTS, 8)
        first.stop(signal.SIGKILL)
        running = asyncio.ensure_future(step(make_actor(vllm_engine, executor, Policy()), PROMPTS, 8))
        await asyncio.sleep(0.5)
        assert not running.done()
        async with service(JUDGE, port=first.port):
            groups = await running
    for group in groups:
        assert len(group) == 8
        check(group)


async def test_a_judge_that_fails(vllm_engine: Any) -> None:
    [(prompt, label)] = list(PROMPTS.items())[:1]
    async with service("simulated?failure=1") as running:
        client = Client(running.url, attempts=1)
        strict = make_actor(vllm_engine, agent_executor(client)(), Policy())
        with pytest.raises(JudgeError, match="no reward for any rollout"):
            await roll_out(strict, prompt, label, 4)
        paid = make_actor(vllm_engine, agent_executor(client, failure_reward=0.0)(), Policy())
        group = await roll_out(paid, prompt, label, 4)
    assert [response["reward"] for response in group] == [0.0] * 4
    assert all(response["extra_logs"]["judge_failed"] == 1.0 for response in group)
