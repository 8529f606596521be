"""Real environments of verifiers 0.3.1, played by a policy behind an OpenAI-compatible server of our own."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import verifiers as vf
from datasets import Dataset

from judges.fences import find_rollouts, user_text
from judges.scripted import Answer, ScriptedJudge, scores_reply
from judges.simulated import SimulatedJudge
from ruler import Client, Ruler
from ruler.adapters.verifiers import rubric_functions
from ruler.errors import JudgeError, JudgeUnavailable
from ruler.rewards import Gate, Rewards, Rule
from ruler.types import JudgeRequest
from tests.local_server import LocalServer, Response, completion
from tests.local_server import error as server_error
from tests.service.running import ROOT, serving

TEXTS = ("It is 41.", "It is 42, as six times seven is.", "Is it 42?", "No idea at all, sorry about that.")
PAGE = ROOT / "docs" / "trainers" / "verifiers.md"


def by_length(request: JudgeRequest) -> str:
    """The shorter the answer, the better."""
    _, rollouts = find_rollouts(user_text(request))
    return scores_reply({label: 100 - len(text) for label, text in rollouts.items()})


def down(request: JudgeRequest) -> Answer:
    return JudgeUnavailable("the judge is down")


def ruler(answer: Callable[[JudgeRequest], Answer] = by_length) -> Ruler:
    return Ruler(ScriptedJudge(answer))


def answering(texts: Iterator[str]) -> Callable[[dict[str, Any]], Response]:
    return lambda body: completion(next(texts))


@pytest.fixture
def policy() -> Iterator[LocalServer]:
    with LocalServer(answering(itertools.cycle(TEXTS))) as server:
        yield server


@pytest.fixture
def client(policy: LocalServer, monkeypatch: pytest.MonkeyPatch) -> vf.ClientConfig:
    monkeypatch.setenv("POLICY_KEY", "none")
    return vf.ClientConfig(api_base_url=policy.url, api_key_var="POLICY_KEY", max_retries=0)


def environment(rubric: vf.Rubric, num_examples: int = 2) -> vf.SingleTurnEnv:
    questions = [{"question": f"What is 6 x 7, asked {i} times?", "answer": "42"} for i in range(num_examples)]
    return vf.SingleTurnEnv(dataset=Dataset.from_list(questions), rubric=rubric, system_prompt="Be short.")


def shorter_wins(outputs: list[dict[str, Any]]) -> bool:
    """Whether the shortest answer has more than the longest: what the bare simulated judge holds."""
    by_size = sorted(outputs, key=lambda one: len(one["completion"][-1]["content"]))
    return bool(by_size[0]["reward"] > by_size[-1]["reward"])


async def evaluated(rubric: vf.Rubric, client: vf.ClientConfig, n: int = 4, **settings: Any) -> list[dict[str, Any]]:
    results = await environment(rubric).evaluate(
        client, model="policy", num_examples=2, rollouts_per_example=n, **settings
    )
    return results["outputs"]


async def test_an_environment_is_rewarded_by_the_judge(client: vf.ClientConfig) -> None:
    judge = SimulatedJudge(quality=lambda task, rollout: 1 - len(rollout) / 100)
    rubric = vf.Rubric(**rubric_functions(Ruler(judge)))
    outputs = await evaluated(rubric, client, state_columns=["judge_result"])
    assert len(outputs) == 8
    assert len({one["reward"] for one in outputs}) > 1
    for one in outputs:
        assert one["reward"] == pytest.approx(1 - len(one["completion"][-1]["content"]) / 100)
        assert one["reward"] == one["metrics"]["judge_reward"] == one["metrics"]["part_judge"]
        assert one["metrics"]["judge_failed"] == 0.0
        assert one["judge_result"]["score"] == one["reward"]


async def test_it_is_known_as_a_group_function_and_the_others_are_not() -> None:
    rubric = vf.Rubric(**rubric_functions(ruler()))
    assert rubric.has_group_rewards
    assert [rubric._is_group_func(func) for func in rubric.funcs] == [True] + [False] * 4
    assert environment(rubric).requires_group_rollouts


async def test_a_failed_group_ends_the_evaluation(client: vf.ClientConfig) -> None:
    with pytest.raises(JudgeError, match="the judge is down"):
        await evaluated(vf.Rubric(**rubric_functions(ruler(down))), client, max_retries=2)


async def test_a_bare_exception_would_be_a_silent_zero(client: vf.ClientConfig) -> None:
    async def naive(states: list[vf.State]) -> list[float]:
        raise JudgeError("the judge is down")

    outputs = await evaluated(vf.Rubric(funcs=[naive]), client)
    assert [one["reward"] for one in outputs] == [0.0] * 8
    assert all(one.get("error") is None for one in outputs)


async def test_a_constant_is_marked_in_the_metrics(client: vf.ClientConfig) -> None:
    outputs = await evaluated(vf.Rubric(**rubric_functions(ruler(down), failure_reward=0.5)), client)
    assert [one["reward"] for one in outputs] == [0.5] * 8
    assert [one["metrics"]["judge_failed"] for one in outputs] == [1.0] * 8


async def test_rules_gates_and_functions_of_the_users_own(client: vf.ClientConfig) -> None:
    def short(completion: vf.Messages) -> float:
        return float(len(completion[-1]["content"]) < 20)

    rewards = Rewards(
        rules=(Rule("right", lambda rollout, group: float(group.reference in rollout.messages[-1].content[0])),),
        gates=(Gate("right", reward=-1.0),),
    )
    rubric = vf.Rubric(**rubric_functions(ruler(), rewards=rewards))
    rubric.add_reward_func(short, weight=0.25)
    for one in await evaluated(rubric, client):
        text = one["completion"][-1]["content"]
        own = 0.25 * (len(text) < 20)
        judged = 1.0 + (100 - len(text)) / 100 if "42" in text else -1.0
        assert one["reward"] == pytest.approx(own + judged)
        assert one["metrics"]["judge_gated"] == float("42" not in text)
        assert one["metrics"]["part_right"] == float("42" in text)


async def test_equal_answers_are_tied(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = ScriptedJudge([])
    monkeypatch.setenv("POLICY_KEY", "none")
    with LocalServer(answering(itertools.repeat("42"))) as server:
        client = vf.ClientConfig(api_base_url=server.url, api_key_var="POLICY_KEY")
        outputs = await evaluated(vf.Rubric(**rubric_functions(Ruler(judge))), client)
    assert [one["reward"] for one in outputs] == [0.5] * 8
    assert [one["metrics"]["judge_tied"] for one in outputs] == [1.0] * 8


async def test_a_rollout_whose_policy_failed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = ScriptedJudge(by_length)
    monkeypatch.setenv("POLICY_KEY", "none")
    texts = iter(TEXTS[:3])

    def reply(body: dict[str, Any]) -> Response:
        text = next(texts, None)
        return server_error(400, "out of service") if text is None else completion(text)

    with LocalServer(reply) as server:
        client = vf.ClientConfig(api_base_url=server.url, api_key_var="POLICY_KEY", max_retries=0)
        results = await environment(vf.Rubric(**rubric_functions(Ruler(judge))), 1).evaluate(
            client, model="policy", num_examples=1, rollouts_per_example=4
        )
    outputs = results["outputs"]
    broken = [one for one in outputs if one.get("error")]
    judged = [one["reward"] for one in outputs if not one.get("error")]
    assert len(broken) == 1
    assert sorted(judged) == pytest.approx(sorted((100 - len(text)) / 100 for text in TEXTS[:3]))
    assert broken[0]["reward"] == pytest.approx(sum(judged) / 3)
    assert len(judge.requests[0].ids) == 3


async def test_tool_calls_and_results_reach_the_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    def multiply(a: int, b: int) -> int:
        """Multiplies two numbers."""
        return a * b

    numbers = itertools.count()
    call = {"id": "c1", "type": "function", "function": {"name": "multiply", "arguments": '{"a": 6, "b": 7}'}}

    def reply(body: dict[str, Any]) -> Response:
        if body["messages"][-1]["role"] == "tool":
            return completion(f"It is {body['messages'][-1]['content']}{'!' * next(numbers)}")
        return completion(None, finish_reason="tool_calls", tool_calls=[call])

    judge = ScriptedJudge(by_length)
    monkeypatch.setenv("POLICY_KEY", "none")
    environment = vf.ToolEnv(
        tools=[multiply],
        dataset=Dataset.from_list([{"question": "What is 6 x 7?", "answer": "42"}]),
        rubric=vf.Rubric(**rubric_functions(Ruler(judge))),
    )
    with LocalServer(reply) as server:
        client = vf.ClientConfig(api_base_url=server.url, api_key_var="POLICY_KEY")
        results = await environment.evaluate(client, model="policy", num_examples=1, rollouts_per_example=2)
    assert len({one["reward"] for one in results["outputs"]}) == 2
    shown = user_text(judge.requests[0])
    assert "Multiplies two numbers." in shown
    assert "multiply" in shown
    assert shown.count("It is 42") == 2


async def test_two_rubrics_in_a_group(client: vf.ClientConfig) -> None:
    rewards = Rewards(judge_weight=0.5)
    judged = [vf.Rubric(**rubric_functions(ruler(), rewards=each)) for each in (None, rewards)]
    outputs = await evaluated(vf.RubricGroup(rubrics=judged), client)
    for one in outputs:
        assert one["reward"] == pytest.approx(1.5 * (100 - len(one["completion"][-1]["content"])) / 100)


async def test_a_client_of_the_service_scores(client: vf.ClientConfig) -> None:
    with serving("--judge", "simulated") as server:
        outputs = await evaluated(vf.Rubric(**rubric_functions(Client(server.url))), client)
    assert shorter_wins(outputs)


async def test_the_docs_run(client: vf.ClientConfig) -> None:
    code, _ = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    made: dict[str, Any] = {}
    exec(code.replace("openai/gpt-5-mini", "simulated"), made)
    results = await made["load_environment"]().evaluate(client, "policy", num_examples=1, rollouts_per_example=4)
    assert shorter_wins(results["outputs"])


def test_the_docs_say_what_is_tested() -> None:
    assert f"verifiers {vf.__version__}" in PAGE.read_text(encoding="utf-8")
