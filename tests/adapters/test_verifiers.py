"""The adapters for verifiers against fakes written from its source: a Rubric of 0.1.8 to 0.3.1, an episode of 0.4.0."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from judges.fences import find_rollouts, user_text
from judges.scripted import Answer, ScriptedJudge, scores_reply
from ruler import Ruler
from ruler.adapters.verifiers import RESULT, rubric_functions
from ruler.adapters.verifiers_env import EpisodeJudge
from ruler.errors import BudgetExceeded, ConfigError, GroupError, JudgeError, JudgeUnavailable
from ruler.rewards import Gate, Rewards, Rule
from ruler.types import JudgeRequest

TEXTS = ("bad", "good", "best")
SCORES = {"bad": 10, "good": 60, "best": 90}
PROMPT = [{"role": "user", "content": "Sing."}]


def by_text(request: JudgeRequest) -> str:
    """Scores each rollout by the word in it."""
    rollouts = find_rollouts(user_text(request))[1]
    scores = {label: next(score for word, score in SCORES.items() if word in text) for label, text in rollouts.items()}
    return scores_reply(scores, {label: f"note on {score}" for label, score in scores.items()})


def ruler(answer: Callable[[JudgeRequest], Answer] = by_text) -> Ruler:
    return Ruler(ScriptedJudge(answer))


def down(request: JudgeRequest) -> Answer:
    return JudgeUnavailable("the judge is down")


class Rubric:
    """How `score_group` of 0.1.8 to 0.3.1 recognises, calls and reads the functions."""

    PLURAL = frozenset({"states", "prompts", "completions", "answers", "tasks", "infos"})

    def __init__(self, funcs: list[Any], weights: list[float]) -> None:
        assert len(funcs) == len(weights)
        self.funcs, self.weights = funcs, weights

    async def score_group(self, states: list[dict[str, Any]]) -> None:
        totals = [0.0] * len(states)
        metrics: list[dict[str, float]] = [{} for _ in states]
        for func, weight in zip(self.funcs, self.weights, strict=True):
            if self.PLURAL & set(inspect.signature(func).parameters):
                try:
                    scores = await func(states=states)
                except Exception:  # noqa: BLE001  as the framework does
                    scores = [0.0] * len(states)
            else:
                scores = [self.one(func, state) for state in states]
            for place in range(len(states)):
                totals[place] += scores[place] * weight
                metrics[place][func.__name__] = scores[place]
        for state, total, own in zip(states, totals, metrics, strict=True):
            state.update(reward=total, advantage=total - sum(totals) / len(totals), metrics=own)

    def one(self, func: Any, state: dict[str, Any]) -> float:
        try:
            return float(func(state=state))
        except Exception:  # noqa: BLE001
            return 0.0


def states(*texts: str, **fields: Any) -> list[dict[str, Any]]:
    return [
        {"prompt": PROMPT, "completion": [{"role": "assistant", "content": text}], "error": None, **fields}
        for text in texts
    ]


async def score(given: list[dict[str, Any]], scorer: Any = None, **settings: Any) -> list[float]:
    await Rubric(**rubric_functions(scorer or ruler(), **settings)).score_group(given)
    return [state["reward"] for state in given]


async def test_the_score_is_the_reward_and_the_parts_are_metrics() -> None:
    given = states(*TEXTS)
    assert await score(given) == pytest.approx([0.1, 0.6, 0.9])
    assert given[2]["metrics"] == {
        "judge_reward": 0.9,
        "judge_failed": 0.0,
        "judge_tied": 0.0,
        "judge_gated": 0.0,
        "part_judge": 0.9,
    }
    assert given[2][RESULT]["score"] == 0.9
    assert given[2][RESULT]["note"] == "note on 90"
    assert given[2][RESULT]["failure"] is None


async def test_the_metrics_are_those_of_the_core() -> None:
    rewards = Rewards(rules=(Rule("loud", lambda rollout, group: 1.0),))
    given = states(*TEXTS)
    await score(given, rewards=rewards)
    assert set(given[0]["metrics"]) - {"judge_reward"} == set(given[0][RESULT]) - {"score", "note", "failure"}


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (down, JudgeError),
        (lambda request: "no scores", JudgeError),
        (lambda request: BudgetExceeded("spent"), BudgetExceeded),
        (lambda request: 1 / 0, Exception),
    ],
)
async def test_a_failed_group_raises_past_the_frameworks_net(
    answer: Callable[[JudgeRequest], Answer], error: type[Exception]
) -> None:
    given = states(*TEXTS)
    with pytest.raises(error):
        await score(given, ruler(answer))
    assert all("reward" not in state for state in given)


async def test_what_comes_back_for_a_failed_group_cannot_be_read_in_any_way() -> None:
    [judge_reward, *_] = rubric_functions(ruler(down))["funcs"]
    failed = await judge_reward(states=states(*TEXTS))
    for read in (lambda: failed[0], lambda: failed[-1], lambda: list(failed), lambda: sum(failed)):
        with pytest.raises(JudgeError, match="the judge is down"):
            read()


async def test_a_constant_is_opt_in_and_marked(caplog: pytest.LogCaptureFixture) -> None:
    given = states(*TEXTS)
    with caplog.at_level(logging.WARNING, "ruler.adapters"):
        assert await score(given, ruler(down), failure_reward=0.25) == [0.25] * 3
    assert [state["metrics"]["judge_failed"] for state in given] == [1.0] * 3
    assert [state["advantage"] for state in given] == [0.0] * 3
    assert "the judge is down" in given[0][RESULT]["failure"]
    assert "the judge is down" in caplog.text


async def test_no_constant_stands_in_where_nothing_can_be_scored_any_more() -> None:
    with pytest.raises(BudgetExceeded):
        await score(states(*TEXTS), ruler(lambda request: BudgetExceeded("spent")), failure_reward=0.0)


@pytest.mark.parametrize("wrong", [True, "0", float("nan")])
def test_a_constant_is_a_number(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="failure_reward"):
        rubric_functions(ruler(), failure_reward=wrong)


async def test_equal_rollouts_are_tied_and_get_the_middle() -> None:
    judge = ScriptedJudge(by_text)
    given = states("good", "good")
    assert await score(given, Ruler(judge)) == [0.5, 0.5]
    assert [state["metrics"]["judge_tied"] for state in given] == [1.0, 1.0]
    assert judge.requests == []


async def test_rules_and_gates_stand_beside_the_judge() -> None:
    rewards = Rewards(
        rules=(Rule("answered", lambda rollout, group: float(group.reference in rollout.messages[-1].content[0])),),
        gates=(Gate("answered", reward=-1.0),),
    )
    given = states(*TEXTS, answer="best")
    assert await score(given, rewards=rewards) == pytest.approx([-1.0, -1.0, 1.9])
    assert [state["metrics"]["judge_gated"] for state in given] == [1.0, 1.0, 0.0]
    assert [state["metrics"]["part_answered"] for state in given] == [0.0, 0.0, 1.0]


async def test_a_rollout_with_an_error_is_not_judged_and_moves_no_advantage() -> None:
    given = states(*TEXTS)
    given[1].update(error=RuntimeError("model call failed"), completion=None)
    assert await score(given) == pytest.approx([0.1, 0.5, 0.9])
    assert [state["advantage"] for state in given] == pytest.approx([-0.4, 0.0, 0.4])
    assert given[1][RESULT] == {"score": None, "note": None, "failure": None}


@pytest.mark.parametrize("num_broken", [2, 3])
async def test_one_rollout_that_is_left_compares_with_nothing(num_broken: int) -> None:
    given = states(*TEXTS)
    for state in given[-num_broken:]:
        state.update(error=RuntimeError("model call failed"), completion=None)
    with pytest.raises(GroupError, match=f"{3 - num_broken} of 3 rollouts.*model call failed"):
        await score(given)
    assert await score(given, failure_reward=0.0) == [0.0] * 3
    assert [state["metrics"]["judge_failed"] for state in given] == [1.0] * 3


async def test_a_group_of_one_is_refused_unless_the_ruler_scores_it() -> None:
    with pytest.raises(JudgeError, match="absolute=True"):
        await score(states("good"))
    assert await score(states("good"), Ruler(ScriptedJudge(by_text), absolute=True)) == [0.6]


async def test_states_of_two_examples_are_refused() -> None:
    given = states("good") + states("best", prompt=[{"role": "user", "content": "Dance."}])
    with pytest.raises(GroupError, match=r"states\[1\]\.prompt"):
        await score(given)


async def test_the_judge_is_shown_tools_and_cut_rollouts() -> None:
    judge = ScriptedJudge(by_text)
    call = {"id": "1", "name": "hum", "arguments": '{"tune": "A"}'}
    given = states(*TEXTS, tool_defs=[{"name": "hum", "description": "Hums a tune.", "parameters": {}}])
    given[0]["completion"] = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "mmm"},
        {"role": "assistant", "content": "bad"},
    ]
    given[1]["is_truncated"] = True
    assert await score(given, Ruler(judge)) == pytest.approx([0.1, 0.6, 0.9])
    shown = user_text(judge.requests[0])
    assert "Hums a tune." in shown
    assert "mmm" in shown
    assert "cut off" in shown


# verifiers 0.4


@dataclass
class Node:
    message: dict[str, Any]
    sampled: bool


@dataclass
class Branch:
    index: int
    nodes: list[Node]

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [node.message for node in self.nodes]


class Message(dict[str, Any]):
    """A message of 0.4 has fields; the core reads it through its mapping."""

    content = property(lambda self: self["content"])


@dataclass
class Trace:
    """What the adapter uses of `Trace` of 0.4.0."""

    id: str
    branches: list[Branch]
    has_error: bool = False
    is_truncated: bool = False
    root_reply: str | None = None
    tools: list[Any] = field(default_factory=list)
    rewards: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    extra_usage: list[Any] = field(default_factory=list)
    agent: str = "agent"

    def record_reward(self, name: str, value: float, weight: float = 1.0) -> None:
        self.rewards[name] = SimpleNamespace(score=value, weight=weight)

    def record_metrics(self, values: Mapping[str, float]) -> None:
        self.metrics.update(values)


@dataclass
class Episode:
    traces: list[Trace]
    id: str = "e1"

    @property
    def by_agent(self) -> dict[str, list[Trace]]:
        grouped: dict[str, list[Trace]] = {}
        for trace in self.traces:
            grouped.setdefault(trace.agent, []).append(trace)
        return grouped


def node(role: str, content: str, *, sampled: bool = False) -> Node:
    return Node(Message(role=role, content=content), sampled)


def trace(place: int, text: str, **fields: Any) -> Trace:
    nodes = [node("user", "Sing."), node("assistant", text, sampled=True)]
    return Trace(f"t{place}", [Branch(0, nodes)], **fields)


def traces(*texts: str) -> list[Trace]:
    return [trace(place, text) for place, text in enumerate(texts)]


TASK = SimpleNamespace(data=SimpleNamespace(prompt="Sing.", answer="best"))


@pytest.fixture(autouse=True)
def usage_type(monkeypatch: pytest.MonkeyPatch) -> None:
    types = ModuleType("verifiers.v1.types")
    types.Usage = SimpleNamespace  # type: ignore[attr-defined]
    for name, module in (("verifiers", ModuleType("verifiers")), ("verifiers.v1", ModuleType("verifiers.v1"))):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "verifiers.v1.types", types)


async def test_every_trace_gets_its_reward() -> None:
    episode = Episode(traces(*TEXTS))
    await EpisodeJudge(ruler()).record_rewards(TASK, episode)
    assert [one.rewards["judge_reward"].score for one in episode.traces] == pytest.approx([0.1, 0.6, 0.9])
    assert [one.metrics["part_judge"] for one in episode.traces] == pytest.approx([0.1, 0.6, 0.9])
    assert episode.traces[0].info == {"judge_note": "note on 10"}
    assert [len(one.extra_usage) for one in episode.traces] == [1, 0, 0]


async def test_a_failed_episode_raises_and_has_no_reward() -> None:
    episode = Episode(traces(*TEXTS))
    with pytest.raises(JudgeError, match="the judge is down"):
        await EpisodeJudge(ruler(down)).record_rewards(TASK, episode)
    assert [one.rewards for one in episode.traces] == [{"judge_reward": None}] * 3


async def test_a_trace_with_an_error_is_left_out() -> None:
    episode = Episode([*traces("bad", "best"), Trace("t2", [], has_error=True)])
    await EpisodeJudge(ruler()).record_rewards(TASK, episode)
    assert [one.rewards["judge_reward"].score for one in episode.traces[:2]] == pytest.approx([0.1, 0.9])
    assert episode.traces[2].rewards == {"judge_reward": None}
    episode.traces[0].has_error = True
    with pytest.raises(GroupError, match="1 of 3 traces"):
        await EpisodeJudge(ruler()).record_rewards(TASK, episode)


async def test_rules_see_the_reference_and_the_tasks_own_rewards() -> None:
    rewards = Rewards(
        rules=(
            Rule("solved", lambda rollout, group: rollout.metadata["rewards"]["solved"], weight=0.0),
            Rule("right", lambda rollout, group: float(group.reference in rollout.messages[-1].content[0])),
        ),
        gates=(Gate("solved"),),
    )
    episode = Episode(traces(*TEXTS))
    for one, solved in zip(episode.traces, (0.0, 1.0, 1.0), strict=True):
        one.record_reward("solved", solved)
    await EpisodeJudge(ruler(), rewards=rewards, reference="answer").record_rewards(TASK, episode)
    assert [one.rewards["judge_reward"].score for one in episode.traces] == pytest.approx([0.0, 0.6, 1.9])


async def test_one_of_several_agents_has_to_be_named() -> None:
    episode = Episode([*traces(*TEXTS), trace(3, "good", agent="user")])
    with pytest.raises(ConfigError, match=r"agent.*'user'"):
        await EpisodeJudge(ruler()).record_rewards(TASK, episode)
    await EpisodeJudge(ruler(), agent="agent").record_rewards(TASK, episode)
    assert [("judge_reward" in one.rewards) for one in episode.traces] == [True, True, True, False]
    with pytest.raises(ConfigError, match="'solver' has no trace"):
        await EpisodeJudge(ruler(), agent="solver").record_rewards(TASK, episode)


async def test_an_unknown_reference_is_refused() -> None:
    with pytest.raises(ConfigError, match="'solution'"):
        await EpisodeJudge(ruler(), reference="solution").record_rewards(TASK, Episode(traces(*TEXTS)))


async def test_sub_agents_are_sections_of_the_rollout() -> None:
    judge = ScriptedJudge(by_text)
    episode = Episode(traces("best", "bad"))
    first = episode.traces[0]
    shared = first.branches[0].nodes[0]
    helper = [shared, node("assistant", "a helper's tune", sampled=True)]
    first.branches.append(Branch(1, helper))
    first.root_reply = "best"
    await EpisodeJudge(Ruler(judge)).record_rewards(TASK, episode)
    assert [one.rewards["judge_reward"].score for one in episode.traces] == pytest.approx([0.9, 0.1])
    shown = user_text(judge.requests[0])
    assert shown.count("Sing.") == 1
    assert "a helper's tune" in shown
    assert "branch 2" in shown


async def test_attempts_that_a_harness_opens_differently_are_compared_by_the_data_of_the_task() -> None:
    judge = ScriptedJudge(by_text)
    episode = Episode(traces("best", "bad"))
    for place, one in enumerate(episode.traces):
        one.branches[0].nodes.insert(0, node("system", f"You work in /box/{place}."))
        one.tools = [{"name": f"tool_{place}", "description": "Of this attempt."}]
    await EpisodeJudge(Ruler(judge)).record_rewards(TASK, episode)
    assert [one.rewards["judge_reward"].score for one in episode.traces] == pytest.approx([0.9, 0.1])
    shown = user_text(judge.requests[0])
    assert "/box/1" in shown
    assert "tool_1" in shown
