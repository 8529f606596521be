"""Real episodes of verifiers 0.4.0, best of n: its environment, agents, interception server and retries run.

Only the two ends are ours: the policy is a server on this machine, and the harness is a loop in this process, because
those that ship install programs from the network.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import verifiers.v1 as vf
from verifiers import __version__
from verifiers.v1.clients import EvalClientConfig, ModelContext
from verifiers.v1.envs.best_of_n import BestOfNEnv
from verifiers.v1.runtimes import ProgramResult, SubprocessRuntime

from judges.fences import find_rollouts, user_text
from judges.scripted import Answer, ScriptedJudge, scores_reply
from judges.simulated import SimulatedJudge
from ruler import Client, Ruler
from ruler.adapters.verifiers_env import EpisodeJudge
from ruler.errors import JudgeUnavailable
from ruler.rewards import Gate, Rewards, Rule
from ruler.types import JudgeRequest
from tests.local_server import LocalServer, Response, completion, error
from tests.service.running import ROOT, serving

PAGE = ROOT / "docs" / "trainers" / "verifiers.md"
TEXTS = ("It is 41.", "It is 42, as six times seven is.", "Is it 42?!", "No idea at all, sorry about that.")
TOOL = {
    "type": "function",
    "function": {"name": "multiply", "description": "Multiplies two numbers.", "parameters": {"type": "object"}},
}


class SumData(vf.TaskData):
    answer: str = "42"


class SumTask(vf.Task[SumData]):
    @vf.reward(weight=0.0)
    async def right(self, trace: vf.Trace) -> float:
        return float(self.data.answer in trace.last_reply)


class Sums(vf.Taskset[SumTask]):
    def load(self) -> Iterable[SumTask]:
        yield SumTask(SumData(prompt="What is 6 x 7?", system_prompt="Be short."), self.config.task)


class LoopConfig(vf.HarnessConfig):
    id: str = "sums"
    tools: bool = False


class Loop(vf.Harness[LoopConfig]):
    """Asks the model, answers its tool calls, and ends with its first message without one."""

    APPENDS_SYSTEM_PROMPT = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self, ctx: Any, trace: Any, runtime: Any, endpoint: str, secret: str, mcp_urls: Any, data: Any
    ) -> ProgramResult:
        system_prompt, prompt = self.resolve_prompt(data)
        messages = [{"role": "system", "content": system_prompt}, {"role": "user", "content": prompt}]
        async with httpx.AsyncClient(base_url=endpoint, headers={"Authorization": f"Bearer {secret}"}) as http:
            while True:
                body = {"model": ctx.model, "messages": messages, **({"tools": [TOOL]} if self.config.tools else {})}
                reply = await http.post("/chat/completions", json=body)
                if reply.is_error:
                    return ProgramResult(exit_code=1, stdout="", stderr=reply.text)
                messages.append(reply.json()["choices"][0]["message"])
                calls = messages[-1].get("tool_calls")
                if not calls:
                    return ProgramResult(exit_code=0, stdout="", stderr="")
                messages += [{"role": "tool", "tool_call_id": call["id"], "content": "42"} for call in calls]


def by_length(request: JudgeRequest) -> str:
    """The shorter the answer, the better."""
    rollouts = find_rollouts(user_text(request))[1]
    return scores_reply({label: 100 - len(text) for label, text in rollouts.items()}, dict.fromkeys(rollouts, "short"))


def down(request: JudgeRequest) -> Answer:
    return JudgeUnavailable("the judge is down")


def judged(judge: EpisodeJudge) -> type[BestOfNEnv]:
    class JudgedEnv(BestOfNEnv):
        async def finalize(self, task: vf.Task, episode: vf.Episode) -> None:
            await judge.record_rewards(task, episode)
            await super().finalize(task, episode)

    return JudgedEnv


def scripted(answer: Callable[[JudgeRequest], Answer] = by_length, **settings: Any) -> type[BestOfNEnv]:
    return judged(EpisodeJudge(Ruler(ScriptedJudge(answer)), **settings))


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What an installed package would export, and no folder of the user's."""
    module = ModuleType("sums")
    module.__all__ = ["Sums", "Loop"]  # type: ignore[attr-defined]
    module.Sums, module.Loop = Sums, Loop  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sums", module)
    monkeypatch.setattr("verifiers.v1.runtimes.subprocess.CACHE_DIR", tmp_path)
    monkeypatch.setattr(SubprocessRuntime, "scripts_dir", str(tmp_path))


@pytest.fixture
def policy() -> Iterator[LocalServer]:
    texts = itertools.cycle(TEXTS)
    with LocalServer(lambda body: completion(next(texts))) as server:
        yield server


async def played(
    env_class: type[BestOfNEnv],
    policy: LocalServer,
    *,
    n: int = 4,
    tools: bool = False,
    max_retries: int = 0,
    concurrent: int | None = 1,
) -> vf.Episode:
    """One episode of the one task."""
    module = ModuleType("judged_sums")
    module.__all__, module.JudgedEnv = ["JudgedEnv"], env_class  # type: ignore[attr-defined]
    sys.modules["judged_sums"] = module
    try:
        config = vf.resolve_env_config(
            {
                "id": "judged-sums",
                "n": n,
                "taskset": {"id": "sums"},
                "agent": {"runtime": {"type": "subprocess"}, "harness": {"id": "sums", "tools": tools}},
                "retries": {"max_retries": max_retries},
                "max_concurrent_agents": concurrent,
                "interception": {"type": "server"},
            }
        )
        env = vf.load_environment(config)
        [task] = env.taskset
        ctx = ModelContext("policy", EvalClientConfig(base_url=policy.url, api_key_var="POLICY_KEY"))
        async with env.serving():
            [slot] = env.slots(task)
            return await env.run_slot(slot, ctx)
    finally:
        del sys.modules["judged_sums"]


async def test_the_attempts_of_an_episode_are_compared(policy: LocalServer) -> None:
    judge = SimulatedJudge(quality=lambda task, rollout: 1 - len(rollout) / 100)
    episode = await played(judged(EpisodeJudge(Ruler(judge))), policy)
    assert episode.ok, episode.errors
    assert len(episode.traces) == 4
    for trace in episode.traces:
        assert trace.rewards["judge_reward"].score == pytest.approx(1 - len(trace.last_reply) / 100)
        assert trace.reward == trace.rewards["judge_reward"].value
        assert trace.metrics["part_judge"] == trace.rewards["judge_reward"].score
        assert trace.metrics["best"] == float(trace.last_reply == min(TEXTS, key=len))


async def test_the_judges_cost_and_notes_are_recorded(policy: LocalServer) -> None:
    judge = ScriptedJudge(by_length)
    episode = await played(judged(EpisodeJudge(Ruler(judge))), policy, concurrent=None)
    assert [trace.info["judge_note"] for trace in episode.traces] == ["short"] * 4
    assert sum(len(trace.extra_usage) for trace in episode.traces) == 1
    assert vf.WireEpisode.model_validate(episode.to_record()).traces[0].rewards["judge_reward"]
    shown = user_text(judge.requests[0])
    assert shown.count("What is 6 x 7?") == 1
    assert shown.count("Be short.") == 1


async def test_a_failed_judge_fails_the_episode_and_leaves_no_number(policy: LocalServer) -> None:
    episode = await played(scripted(down), policy)
    assert not episode.ok
    assert [one.type for one in episode.errors] == ["EnvError"]
    assert "the judge is down" in episode.errors[0].message
    assert [trace.rewards["judge_reward"] for trace in episode.traces] == [None] * 4


async def test_a_failed_episode_is_retried_whole(policy: LocalServer) -> None:
    answers = iter([down, by_length])
    judge = ScriptedJudge(lambda request: next(answers)(request))
    episode = await played(judged(EpisodeJudge(Ruler(judge))), policy, max_retries=1)
    assert episode.ok
    assert all(trace.rewards["judge_reward"] for trace in episode.traces)
    assert len(policy.requests) == 8


async def test_a_trace_whose_policy_failed_is_left_out() -> None:
    texts = iter(TEXTS[:3])

    def reply(body: dict[str, Any]) -> Response:
        text = next(texts, None)
        return error(400, "out of service") if text is None else completion(text)

    judge = ScriptedJudge(by_length)
    with LocalServer(reply) as policy:
        episode = await played(judged(EpisodeJudge(Ruler(judge))), policy)
    assert len(judge.requests[0].ids) == 3
    assert [trace.rewards["judge_reward"] is None for trace in episode.traces] == [
        trace.has_error for trace in episode.traces
    ]
    assert sum(trace.has_error for trace in episode.traces) == 1
    assert [one.type for one in episode.errors] == []


async def test_one_attempt_that_is_left_fails_the_episode() -> None:
    texts = iter(TEXTS[:1])

    def reply(body: dict[str, Any]) -> Response:
        text = next(texts, None)
        return error(400, "out of service") if text is None else completion(text)

    with LocalServer(reply) as policy:
        episode = await played(scripted(), policy, n=3)
    assert "1 of 3 traces have no error" in episode.errors[0].message


async def test_equal_attempts_are_tied() -> None:
    with LocalServer(lambda body: completion("42")) as policy:
        episode = await played(judged(EpisodeJudge(Ruler(ScriptedJudge([])))), policy)
    assert [trace.rewards["judge_reward"].score for trace in episode.traces] == [0.5] * 4
    assert [trace.metrics["judge_tied"] for trace in episode.traces] == [1.0] * 4
    assert all(trace.extra_usage == [] for trace in episode.traces)


async def test_rules_see_the_answer_and_the_rewards_of_the_task(policy: LocalServer) -> None:
    rewards = Rewards(
        rules=(
            Rule("solved", lambda rollout, group: rollout.metadata["rewards"]["right"], weight=0.0),
            Rule("asks", lambda rollout, group: float(group.reference == "42"), weight=0.5),
        ),
        gates=(Gate("solved", reward=-1.0),),
    )
    episode = await played(scripted(rewards=rewards, reference="answer"), policy)
    for trace in episode.traces:
        text = trace.last_reply
        expected = 0.5 + (100 - len(text)) / 100 if "42" in text else -1.0
        assert trace.rewards["judge_reward"].score == pytest.approx(expected)
        assert trace.metrics["judge_gated"] == float("42" not in text)


async def test_tool_calls_and_results_reach_the_judge() -> None:
    numbers = itertools.count()
    call = {"id": "c1", "type": "function", "function": {"name": "multiply", "arguments": '{"a": 6, "b": 7}'}}

    def reply(body: dict[str, Any]) -> Response:
        if body["messages"][-1]["role"] == "tool":
            return completion(f"It is {body['messages'][-1]['content']}{'!' * next(numbers)}")
        return completion(None, finish_reason="tool_calls", tool_calls=[call])

    judge = ScriptedJudge(by_length)
    with LocalServer(reply) as policy:
        episode = await played(judged(EpisodeJudge(Ruler(judge))), policy, n=2, tools=True)
    assert episode.ok, episode.errors
    shown = user_text(judge.requests[0])
    assert "Multiplies two numbers." in shown
    assert shown.count("It is 42") == 2
    assert episode.traces[0].reward != episode.traces[1].reward


async def test_a_client_of_the_service_scores(policy: LocalServer) -> None:
    with serving("--judge", "simulated") as server:
        episode = await played(judged(EpisodeJudge(Client(server.url))), policy)
    by_size = sorted(episode.traces, key=lambda trace: len(trace.last_reply))
    assert by_size[0].reward > by_size[-1].reward


async def test_the_docs_run(policy: LocalServer) -> None:
    _, code = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    made: dict[str, Any] = {"__name__": "judged_sums"}
    exec(code.replace("openai/gpt-5-mini", "simulated"), made)
    episode = await played(made["JudgedEnv"], policy)
    assert episode.ok, episode.errors
    by_size = sorted(episode.traces, key=lambda trace: len(trace.last_reply))
    assert by_size[0].reward > by_size[-1].reward
    assert by_size[0].metrics["best"] == 1.0


def test_the_docs_say_what_is_tested() -> None:
    assert __version__ in PAGE.read_text(encoding="utf-8")
