"""Against fakes with the fields and the constructor of openpipe-art 0.5.18; the real one is in tests/frameworks/art."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel

from judges.scripted import ScriptedJudge, scores_reply
from ruler import Ruler
from ruler.adapters.art import GroupJudge, ruler, ruler_score_group
from ruler.adapters.art.spec import spec_of
from ruler.errors import ConfigError, JudgeError, JudgeUnavailable


class Trajectory(BaseModel):
    messages_and_choices: list[Any]
    tools: list[Any] | None = None
    additional_histories: list[Any] = []
    reward: float = 0.0
    metrics: dict[str, float] = {}
    metadata: dict[str, Any] = {}
    logs: list[str] = []


class TrajectoryGroup(BaseModel):
    trajectories: list[Trajectory]
    exceptions: list[str] = []
    metadata: dict[str, Any] = {}

    # As in ART: whatever copies a group by its class meets this.
    def __new__(cls, trajectories: Iterable[Trajectory], **_: Any) -> TrajectoryGroup:
        return super().__new__(cls)

    def __init__(self, trajectories: Iterable[Trajectory], **others: Any) -> None:
        super().__init__(trajectories=list(trajectories), **others)

    def __copy__(self) -> TrajectoryGroup:
        return type(self)(self.trajectories)


class TrajectoryScore(BaseModel):
    trajectory_id: str
    explanation: str
    score: float


def trajectory(answer: str, **fields: Any) -> Trajectory:
    said = SimpleNamespace(message={"role": "assistant", "content": answer}, finish_reason="stop")
    return Trajectory(messages_and_choices=[{"role": "user", "content": "6·7?"}, said], **fields)


def by_place() -> ScriptedJudge:
    return ScriptedJudge(lambda request: scores_reply({label: 10 * n for n, label in enumerate(request.ids, 1)}))


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What an active MetricsBuilder of ART's was told."""
    sums: dict[str, float] = {}

    def add(key: str, value: float) -> None:
        sums[key] = sums.get(key, 0.0) + value

    builder = SimpleNamespace(cost_context="eval", add_metric=add, add_cost=lambda path, usd: add(f"costs/{path}", usd))
    metrics = SimpleNamespace(MetricsBuilder=SimpleNamespace(get_active=lambda: builder))
    monkeypatch.setitem(sys.modules, "art.metrics", metrics)
    return sums


async def test_a_group_comes_back_as_a_copy_with_rewards(collected: dict[str, float]) -> None:
    given = TrajectoryGroup([trajectory("42", reward=2.0), trajectory("13")], exceptions=["e"], metadata={"id": 1})
    before = given.model_dump()
    judge = GroupJudge(Ruler(by_place()))
    scored = await judge(given)  # type: ignore[arg-type]
    assert type(scored) is TrajectoryGroup
    assert sorted(one.reward for one in scored.trajectories) == [0.1, 0.2]
    assert [one.metrics["ruler_score"] for one in scored.trajectories] == [one.reward for one in scored.trajectories]
    assert [one.metrics["independent_reward"] for one in scored.trajectories] == [2.0, 0.0]
    assert (scored.exceptions, scored.metadata) == (["e"], {"id": 1})
    assert given.model_dump() == before
    assert judge.num_scored == 1
    assert collected == {"judge/dropped_groups": 0.0, "costs/eval/judge/ruler": 0.0}


async def test_a_failed_group_is_none_and_counted(collected: dict[str, float]) -> None:
    judge = GroupJudge(Ruler(ScriptedJudge(lambda _: JudgeUnavailable("503"))))
    given: Any = TrajectoryGroup([trajectory("42"), trajectory("13")])
    assert await judge(given) is None
    assert (judge.num_scored, judge.num_dropped) == (0, 1)
    # What a failed call cost nobody knows: no number stands for it.
    assert collected == {"judge/dropped_groups": 1.0}
    with pytest.raises(JudgeError, match="503"):
        await ruler_score_group(given, ScriptedJudge([JudgeUnavailable("503")]))


async def test_users_may_differ_after_a_common_start() -> None:
    def told(city: str) -> list[dict[str, str]]:
        return [
            {"role": "system", "content": "You are a guide."},
            {"role": "user", "content": f"I am in {city}."},
            {"role": "assistant", "content": f"{city} is nice."},
        ]

    given: Any = TrajectoryGroup(Trajectory(messages_and_choices=told(city)) for city in ("Oslo", "Rome"))
    judge = by_place()
    assert await ruler_score_group(given, judge) is not None
    text = judge.requests[0].messages[-1]["content"]
    assert text.count("You are a guide.") == 1
    assert text.count("I am in ") == 2


async def test_plain_scores_are_of_arts_own_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "art", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "art.rewards", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "art.rewards.ruler", SimpleNamespace(TrajectoryScore=TrajectoryScore))
    lists = [one.messages_and_choices for one in (trajectory("42"), trajectory("13"))]
    lists = [[question, said.message] for question, said in lists]
    scores = await ruler(lists, by_place())
    assert [type(one) for one in scores] == [TrajectoryScore] * 2
    assert [one.trajectory_id for one in scores] == ["1", "2"]


async def test_a_judge_is_loaded_once_for_each_spec_and_rubric(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def load(spec: str) -> ScriptedJudge:
        loaded.append(spec)
        return by_place()

    monkeypatch.setattr("ruler.config.load_judge", load)
    group: Any = TrajectoryGroup([trajectory("42"), trajectory("13")])
    for params in ({"seed": 1, "temperature": 0}, {"temperature": 0, "seed": 1}, {"seed": 2}):
        await ruler_score_group(group, "some/judge", dict(params))
    await ruler_score_group(group, "some/judge", {"seed": 2}, rubric="Prefer 42.")
    assert loaded == ["some/judge?seed=1&temperature=0", *["some/judge?seed=2"] * 2]


SPECS: list[tuple[str, dict[str, object], str]] = [
    ("openai/o3", {}, "openai/o3"),
    ("openai/o3", {"temperature": None}, "openai/o3"),
    ("openai/o3", {"top_p": 0.5, "seed": 3, "max_tokens": 10}, "openai/o3?max_tokens=10&seed=3&top_p=0.5"),
    ("openai/o3?attempts=2", {"reasoning_effort": "low"}, "openai/o3?attempts=2&reasoning_effort=low"),
    ("hosted_vllm/Qwen/Qwen3-32B", {"api_base": "http://h:1/v1"}, "http://h:1/v1#Qwen/Qwen3-32B"),
    ("my-judge", {"api_base": "http://h:1/v1", "timeout": 30}, "http://h:1/v1#my-judge?timeout=30"),
    ("openai/m?api_key_env=K", {"api_base": "https://h/v1"}, "https://h/v1#m?api_key_env=K"),
    ("http://h:1/v1#m", {"temperature": 0}, "http://h:1/v1#m?temperature=0"),
]


@pytest.mark.parametrize(("model", "params", "expected"), SPECS)
def test_parameters_for_litellm_become_settings(model: str, params: dict[str, object], expected: str) -> None:
    assert spec_of(model, params) == expected


@pytest.mark.parametrize(
    ("model", "params", "named"),
    [
        ("openai/o3", {"temprature": 0}, "'temprature'"),
        ("openai/o3", {"num_retries": 3}, "'num_retries'"),
        ("openai/o3", {"temperature": [0]}, r"temperature: .*\[0\]"),
        ("openai/o3", {"seed": True}, "seed: .*True"),
        ("openai/o3", {"api_key": "sk-secret"}, "api_key_env"),
        ("ollama_chat/qwen3", {"api_base": "http://h:11434"}, "'ollama_chat/qwen3'"),
        ("http://h:1/v1#m", {"api_base": "http://h:2/v1"}, "'http://h:1/v1#m'"),
    ],
)
async def test_a_parameter_without_effect_is_an_error(model: str, params: dict[str, object], named: str) -> None:
    group: Any = TrajectoryGroup([trajectory("42"), trajectory("13")])
    with pytest.raises(ConfigError, match=f"extra_litellm_params: .*{named}") as raised:
        await ruler_score_group(group, model, params, swallow_exceptions=True)
    assert "sk-secret" not in str(raised.value)
