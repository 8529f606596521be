"""The cookbook's own rollouts, strategies, workers and advantages; only the policy is a list of texts."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import pytest
from tinker_cookbook.recipes.math_rl.arithmetic_env import ArithmeticDataset, ArithmeticEnv
from tinker_cookbook.renderers import get_renderer
from tinker_cookbook.rl.data_processing import compute_advantages
from tinker_cookbook.rl.metric_util import compute_trajectory_metrics
from tinker_cookbook.rl.preference_envs import PreferenceEnv
from tinker_cookbook.rl.problem_env import ProblemGroupBuilder
from tinker_cookbook.rl.rollout_strategy import FailFast, MinViableGroup, RetryOnFailure
from tinker_cookbook.rl.rollouts import (
    RolloutErrorCounter,
    do_group_rollout_and_filter_constant_reward,
    set_rollout_executor,
)
from tinker_cookbook.rl.types import Env, EnvGroupBuilder, TrajectoryGroup
from tinker_cookbook.tokenizer_utils import get_tokenizer, register_tokenizer
from tinker_cookbook.tool_use.agent_tool_message_env import build_agent_tool_env
from tinker_cookbook.tool_use.tools import simple_tool_result, tool

from judges.scripted import ScriptedJudge
from ruler import Client, Group, Ruler
from ruler.adapters.tinker import JudgedGroup
from ruler.errors import JudgeError, JudgeUnavailable
from ruler.rewards import Rewards, Rule
from ruler.rules import numeric_answer
from ruler.types import FailedGroup, ScoredGroup
from tests.service.running import ROOT, serving
from tests.tiny_model import _tokenizer

DOCS = ROOT / "docs" / "trainers" / "tinker.md"
TINY = "tiny/chatml"
register_tokenizer(TINY, cache(partial(_tokenizer, True)))


def renderer() -> Any:
    return get_renderer("qwen3_instruct", get_tokenizer(TINY), model_name=TINY)


class Policy:
    """A sampling client that says one text after another, each ended as the chat template ends it."""

    def __init__(self, *texts: str, cut: Sequence[str] = ()) -> None:
        self._texts, self._cut = list(texts), cut

    async def sample(self, **request: Any) -> SimpleNamespace:
        text = self._texts.pop(0)
        cut = text in self._cut
        tokens = get_tokenizer(TINY).encode(text + ("" if cut else "<|im_end|>"))
        said = SimpleNamespace(
            tokens=tokens, logprobs=[-1.0] * len(tokens), stop_reason="length" if cut else "stop", sequence_id=None
        )
        return SimpleNamespace(sequences=[said], prompt_cache_hit_tokens=0)


class Kept:
    """A scorer that keeps what it is asked."""

    def __init__(self, judge: Any = "simulated?noise=0") -> None:
        self._ruler = Ruler(judge)
        self.groups: list[Group] = []

    async def score_many(self, groups: Any, /) -> list[ScoredGroup | FailedGroup]:
        self.groups += groups
        return await self._ruler.score_many(groups)


@dataclass(frozen=True)
class JudgedSums(JudgedGroup, ProblemGroupBuilder):
    scorer: Any = field(default_factory=Kept, kw_only=True)
    rewards: Rewards | None = field(default=None, kw_only=True)


class Sum(ArithmeticEnv):
    """As it is, with no reward of its own, so that the judge's can be seen."""

    async def step(self, action: Any, *, extra: Any = None) -> Any:
        done = await super().step(action, extra=extra)
        done.reward = 0.0
        return done


def sums(num_envs: int, **settings: Any) -> JudgedSums:
    return JudgedSums(partial(Sum, 3, 4, renderer=renderer()), num_envs, **settings)


async def rolled_out(
    builder: EnvGroupBuilder, policy: Policy, strategy: Any = None, constant: bool = True
) -> TrajectoryGroup | None:
    return await do_group_rollout_and_filter_constant_reward(
        policy,  # type: ignore[arg-type]
        builder,
        max_tokens=100,
        temperature=1.0,
        do_remove_constant_reward_groups=not constant,
        strategy=strategy,
    )


async def test_a_group_is_rolled_out_judged_and_made_into_advantages() -> None:
    builder = sums(3, rewards=Rewards(rules=(Rule("right", numeric_answer(), weight=2.0),)))
    done = await rolled_out(builder, Policy("7", "It is seven, as far as I can see.", "7, of course."))
    assert done is not None
    [asked] = builder.scorer.groups
    assert [[message.content for message in one.messages] for one in asked.rollouts] == [
        [("7",)],
        [("It is seven, as far as I can see.",)],
        [("7, of course.",)],
    ]
    assert [message.content for message in asked.task] == [("What is 3 + 4?",)]
    assert asked.reference == "7"
    rewards = done.get_total_rewards()
    assert rewards[0] > rewards[2] > rewards[1]  # right, and then the shorter
    [advantages] = compute_advantages([done])
    assert advantages.tolist() == pytest.approx([reward - sum(rewards) / 3 for reward in rewards], abs=1e-6)
    metrics = compute_trajectory_metrics([done], [builder.logging_tags()])
    assert metrics["env/all/part_right"] == pytest.approx(2 / 3)
    assert metrics["env/all/part_judge"] == pytest.approx(sum(rewards) / 3 - 2 / 3)
    assert metrics["env/all/correct"] == pytest.approx(2 / 3)  # what the environment says itself is still there


@pytest.mark.parametrize("strategy", [RetryOnFailure(), MinViableGroup()], ids=lambda one: type(one).__name__)
async def test_a_strategy_that_tolerates_errors_skips_a_failed_group(
    strategy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    counter = RolloutErrorCounter()
    builder = sums(2, scorer=Kept(ScriptedJudge([JudgeUnavailable("the judge is away")])))
    with caplog.at_level(logging.WARNING):
        skipped = await rolled_out(builder, Policy("7", "8"), strategy)
    counter.ingest(skipped)
    assert skipped is None
    assert "skipping group" in caplog.text
    assert "the judge is away" in caplog.text
    assert counter.get_metrics()["rollout_errors/groups_skipped"] == 1


async def test_the_default_strategy_ends_the_run() -> None:
    builder = sums(2, scorer=Kept(ScriptedJudge([JudgeUnavailable("the judge is away")])))
    with pytest.raises(JudgeError, match="the judge is away"):
        await rolled_out(builder, Policy("7", "8"), FailFast())


async def test_a_tied_group_has_the_middle_and_is_removed_with_constant_groups() -> None:
    done = await rolled_out(sums(2), Policy("7", "7"))
    assert done is not None
    assert done.get_total_rewards() == [0.5, 0.5]
    assert [metrics["judge_tied"] for metrics in done.metrics_G] == [1.0, 1.0]
    assert await rolled_out(sums(2), Policy("7", "7"), constant=False) is None


async def test_what_a_strategy_lost_is_not_missed() -> None:
    class Flaky(Policy):
        async def sample(self, **request: Any) -> SimpleNamespace:
            if len(self._texts) == 3:
                self._texts.pop()
                raise ConnectionError("lost")
            return await super().sample(**request)

    builder = sums(3)
    done = await rolled_out(builder, Flaky("7", "8 I think", "9"), MinViableGroup(min_successful=2, max_retries=0))
    assert done is not None
    assert [len(group.rollouts) for group in builder.scorer.groups] == [2]
    # In the order of completion, which the strategy chooses.
    said = [one.messages[0].content[0] for one in builder.scorer.groups[0].rollouts]
    assert dict(zip(said, done.final_rewards_G, strict=True))["7"] == max(done.final_rewards_G)


@tool
async def look_up(word: str) -> Any:
    """Looks a word up."""
    return simple_tool_result(f"{word}: a number")


async def no_reward(history: Any) -> tuple[float, dict[str, float]]:
    return 0.0, {}


@dataclass(frozen=True)
class JudgedAgents(JudgedGroup, EnvGroupBuilder):
    scorer: Kept = field(default_factory=Kept)

    async def make_envs(self) -> list[Env]:
        task = [{"role": "user", "content": "What is a dozen?"}]
        return [build_agent_tool_env(renderer(), [look_up], list(task), no_reward) for _ in range(2)]


async def test_an_agent_is_shown_with_calls_results_and_the_turn_that_was_cut_off() -> None:
    builder = JudgedAgents()
    call = '<tool_call>\n{"name": "look_up", "arguments": {"word": "dozen"}}\n</tool_call>'
    broken = '<tool_call>\n{"name": "look_up", oops}\n</tool_call>'
    done = await rolled_out(builder, Policy(call, f"I try. {broken}", "Twel", cut=["Twel"]))
    assert done is not None
    [asked] = builder.scorer.groups
    second, first = sorted(asked.rollouts, key=lambda one: len(one.messages))
    assert [(m.role, m.content, [c.name for c in m.tool_calls]) for m in first.messages] == [
        ("assistant", (), ["look_up"]),
        ("tool", ("dozen: a number",), []),
        ("assistant", ("Twel",), []),
    ]
    assert first.messages[1].answers == 0
    assert first.finish_reason == "length"
    assert [m.role for m in second.messages] == ["assistant"]
    assert "oops" in str(second.messages[0].content)


def test_a_preference_env_is_known() -> None:
    env = PreferenceEnv([{"role": "user", "content": "Hi"}], renderer())
    assert sums(1).task_of(env) == [{"role": "user", "content": "Hi"}]
    said = SimpleNamespace(transitions=[SimpleNamespace(ac=SimpleNamespace(tokens=[*b"x"], stop_reason="stop"))])
    assert len(sums(1).messages_of(said, env)) == 1


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving("--judge", "simulated?noise=0") as running:
        yield running.url


async def test_a_spawned_worker_judges_with_what_was_pickled(url: str) -> None:
    builder = sums(2, scorer=Client(url), rewards=Rewards(rules=(Rule("right", numeric_answer(), weight=2.0),)))
    copy = pickle.loads(pickle.dumps(builder))
    assert (copy.num_envs, repr(copy.scorer)) == (2, repr(builder.scorer))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        set_rollout_executor(pool)
        try:
            done = await rolled_out(builder, Policy("7", "It may be eight."))
        finally:
            set_rollout_executor(None)
    assert done is not None
    assert [metrics["part_right"] for metrics in done.metrics_G] == [2.0, 0.0]
    assert done.final_rewards_G[0] > 2 > done.final_rewards_G[1]


async def test_the_docs_run(url: str) -> None:
    first, second = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    made: dict[str, Any] = {}
    exec(first.replace("http://127.0.0.1:8000", url), made)
    exec(second, made)

    class Dataset(ArithmeticDataset):
        def _make_env_group_builder(self, rng: Any) -> ProblemGroupBuilder:
            plain = super()._make_env_group_builder(rng)
            return made["JudgedProblems"](plain.env_thunk, plain.num_envs)

    [builder] = Dataset(1, renderer(), group_size=2).get_batch(0)
    done = await rolled_out(builder, Policy("7", "It may be eight."))
    assert done is not None
    assert done.final_rewards_G[0] > done.final_rewards_G[1]
    essays = made["JudgedEssays"](lambda: None, 2)
    envs = [SimpleNamespace(topic="Sea", essay=text, model_answer=None) for text in ("Blue.", "It is wide and blue.")]
    rewarded = await essays.compute_group_rewards([SimpleNamespace(transitions=[])] * 2, envs)
    assert rewarded[0][0] > rewarded[1][0]


def test_the_versions_in_the_docs_are_those_that_are_tested() -> None:
    text = DOCS.read_text(encoding="utf-8")
    for name in ("tinker-cookbook", "tinker"):
        assert f"{name} {version(name)}" in text
