"""Against fakes with the attributes of tinker-cookbook 0.6.1; with the real package in tests/frameworks/tinker."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from judges.scripted import ScriptedJudge, scores_reply
from ruler import Group, Ruler
from ruler.adapters.tinker import JudgedGroup
from ruler.errors import ConfigError, GroupError, JudgeError, JudgeUnavailable
from ruler.rewards import Rewards, Rule
from ruler.rules import exact_answer
from ruler.types import FailedGroup, JudgeRequest, ScoredGroup


class Renderer:
    """Tokens are characters."""

    def parse_response(self, tokens: list[int]) -> tuple[dict[str, Any], str]:
        return {"role": "assistant", "content": "".join(map(chr, tokens))}, "stop_sequence"


class ProblemEnv:
    def __init__(self, question: str = "What is 6·7?", answer: str = "42") -> None:
        self.renderer = Renderer()
        self.convo_prefix: list[dict[str, str]] = [{"role": "system", "content": "Be short."}]
        self.question, self.answer = question, answer

    def get_question(self) -> str:
        return self.question

    def get_reference_answer(self) -> str:
        return self.answer


def trajectory(*turns: str, stop_reason: str = "stop") -> SimpleNamespace:
    actions = [SimpleNamespace(tokens=[*map(ord, text)], stop_reason="stop") for text in turns]
    if actions:
        actions[-1].stop_reason = stop_reason
    return SimpleNamespace(transitions=[SimpleNamespace(ac=action) for action in actions])


class EnvGroupBuilder:
    async def compute_group_rewards(
        self, trajectory_group: Any, env_group: Any
    ) -> list[tuple[float, dict[str, float]]]:
        return [(0.0, {}) for _ in trajectory_group]


class Kept:
    """A scorer that keeps what it is asked."""

    def __init__(self, judge: Any) -> None:
        self._ruler = Ruler(judge)
        self.groups: list[Group] = []

    async def score_many(self, groups: Any, /) -> list[ScoredGroup | FailedGroup]:
        self.groups += groups
        return await self._ruler.score_many(groups)


def by_place(request: JudgeRequest) -> str:
    """Another score for every label; which is which does not matter here."""
    return scores_reply({label: 100 - 10 * place for place, label in enumerate(request.ids)})


def builder(judge: Any, rewards: Rewards | None = None, base: type = EnvGroupBuilder) -> Any:
    return type("Judged", (JudgedGroup, base), {"scorer": Kept(judge), "rewards": rewards})()


async def test_every_rollout_has_the_score_of_what_it_said() -> None:
    group = builder("simulated?noise=0")
    envs = [ProblemEnv() for _ in range(3)]
    said = ["42", "It is 42, I am sure of it.", "Forty-two."]
    rewarded = await group.compute_group_rewards([trajectory(text) for text in said], envs)
    [asked] = group.scorer.groups
    assert [[message.content for message in rollout.messages] for rollout in asked.rollouts] == [[(t,)] for t in said]
    assert [(message.role, message.content[0]) for message in asked.task] == [
        ("system", "Be short."),
        ("user", "What is 6·7?"),
    ]
    assert asked.reference == "42"
    rewards = [reward for reward, _ in rewarded]
    assert rewards[0] > rewards[2] > rewards[1]  # the simulated judge likes short text
    assert all(of_rollout["part_judge"] == reward for reward, of_rollout in rewarded)


async def test_a_failed_group_raises_and_gives_no_number() -> None:
    group = builder(ScriptedJudge([JudgeUnavailable("down")]))
    with pytest.raises(JudgeError, match=r"no reward for any rollout: unavailable: .*down"):
        await group.compute_group_rewards([trajectory("a"), trajectory("bb")], [ProblemEnv(), ProblemEnv()])


async def test_tied_rollouts_get_half_of_the_judge_and_their_rules() -> None:
    rewards = Rewards(judge_weight=2.0, rules=(Rule("right", exact_answer(), weight=1.0),))
    group = builder(ScriptedJudge([]), rewards)
    rewarded = await group.compute_group_rewards([trajectory("42")] * 2, [ProblemEnv(), ProblemEnv()])
    assert [reward for reward, _ in rewarded] == [2.0, 2.0]
    assert rewarded[0][1] == {
        "judge_failed": 0.0,
        "judge_tied": 1.0,
        "judge_gated": 0.0,
        "part_judge": 1.0,
        "part_right": 1.0,
    }


async def test_what_the_builder_gives_by_itself_is_kept() -> None:
    class Base:
        async def compute_group_rewards(self, trajectory_group: Any, env_group: Any) -> list[Any]:
            return [(float(place), {"own": place}) for place, _ in enumerate(trajectory_group)]

    group = builder(ScriptedJudge(by_place), base=Base)
    rewarded = await group.compute_group_rewards([trajectory("a"), trajectory("bb")], [ProblemEnv(), ProblemEnv()])
    for place, (reward, metrics) in enumerate(rewarded):
        assert metrics["own"] == place
        assert reward == place + metrics["part_judge"]


@dataclass
class ToolEnv:
    """As AgentToolMessageEnv: it keeps the conversation, but not a turn that was cut off."""

    initial_messages: list[dict[str, Any]] = field(default_factory=lambda: [{"role": "user", "content": "Go."}])
    history: list[Any] = field(default_factory=list)


async def test_the_history_of_a_message_env_and_the_turn_it_did_not_keep() -> None:
    call = {"type": "function", "id": "c1", "function": {"name": "look", "arguments": "{}"}}
    env = ToolEnv()
    env.history = [
        *env.initial_messages,
        {"role": "assistant", "content": "I look.", "tool_calls": [call]},
        {"role": "tool", "content": "nothing", "tool_call_id": "c1", "name": "look"},
    ]
    whole = ToolEnv(history=[*env.initial_messages, {"role": "assistant", "content": "Done."}])
    wrapped = [SimpleNamespace(renderer=Renderer(), message_env=inner) for inner in (env, whole)]
    group = builder(ScriptedJudge(by_place))
    said = [trajectory("I look.", "There is", stop_reason="length"), trajectory("Done.")]
    await group.compute_group_rewards(said, wrapped)
    [asked] = group.scorer.groups
    assert [[m.role for m in rollout.messages] for rollout in asked.rollouts] == [
        ["assistant", "tool", "assistant"],
        ["assistant"],
    ]
    assert asked.rollouts[0].messages[-1].content == ("There is",)
    assert [rollout.finish_reason for rollout in asked.rollouts] == ["length", None]


async def test_calls_that_the_renderer_could_not_read_are_shown() -> None:
    unread = SimpleNamespace(raw_text="<tool_call>{oops</tool_call>", error="no JSON")
    env = ToolEnv()
    env.history = [*env.initial_messages, {"role": "assistant", "content": "", "unparsed_tool_calls": [unread]}]
    group = builder("simulated?noise=0")
    wrapped = SimpleNamespace(renderer=Renderer(), message_env=env)
    messages = group.messages_of(trajectory("x"), wrapped)
    assert messages == [{**env.history[1], "content": ["", "<tool_call>{oops</tool_call>"]}]


async def test_hooks_take_the_place_of_what_is_not_known() -> None:
    unknown = SimpleNamespace(said="a b c")
    judge = ScriptedJudge(by_place)
    with pytest.raises(ConfigError, match="SimpleNamespace has its messages is not known; override task_of"):
        await builder(judge).compute_group_rewards([trajectory("a")], [unknown])
    own = builder(judge)
    type(own).task_of = lambda self, env: [{"role": "user", "content": "Go."}]
    with pytest.raises(ConfigError, match="no renderer .*; override messages_of"):
        await own.compute_group_rewards([trajectory("a")], [unknown])
    type(own).messages_of = lambda self, _, env: env.said
    await own.compute_group_rewards([trajectory("a")] * 2, [unknown, SimpleNamespace(said="d")])
    assert [rollout.messages[0].content for rollout in own.scorer.groups[0].rollouts] == [("a b c",), ("d",)]


async def test_environments_with_different_tasks_are_no_group() -> None:
    group = builder(ScriptedJudge([]))
    with pytest.raises(GroupError, match="open with different messages"):
        await group.compute_group_rewards([trajectory("a"), trajectory("b")], [ProblemEnv("1+1?"), ProblemEnv("2+2?")])


@dataclass(frozen=True)
class Problems(EnvGroupBuilder):
    num_envs: int


class JudgedProblems(JudgedGroup, Problems):
    scorer = Ruler(ScriptedJudge(by_place))
    rewards = Rewards(rules=(Rule("right", lambda rollout, group: 1.0),))


async def test_a_builder_pickles_without_its_scorer() -> None:
    packed = pickle.dumps(JudgedProblems(4))
    assert len(packed) < 150
    copy = pickle.loads(packed)
    assert copy == JudgedProblems(4)
    rewarded = await copy.compute_group_rewards([trajectory("a"), trajectory("b")], [ProblemEnv(), ProblemEnv()])
    assert [of_rollout["part_right"] for _, of_rollout in rewarded] == [1.0, 1.0]


def test_importing_it_imports_no_framework() -> None:
    code = (
        "import ruler.adapters.tinker, sys; print({'tinker', 'tinker_cookbook', 'torch', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
