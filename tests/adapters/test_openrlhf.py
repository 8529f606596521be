"""Executors as those of OpenRLHF 0.11.2, started as its actor does; its own file is run in tests/frameworks."""

from __future__ import annotations

import asyncio
import random
import re
import sys
from collections.abc import Callable, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judges.fences import find_rollouts, user_text
from judges.scripted import ScriptedJudge, scores_reply
from ruler import Ruler
from ruler.adapters.gathering import Gathering
from ruler.adapters.openrlhf import agent_executor
from ruler.errors import ConfigError, GroupError, JudgeError, JudgeUnavailable
from ruler.rewards import Gate, Rewards, Rule
from ruler.types import JudgeRequest

PROMPT = "<|im_start|>user\nSay a number.<|im_end|>\n<|im_start|>assistant\n"
END = "<|im_end|>"


class Tokenizer:
    """A token a character."""

    def __call__(self, text: str, **_: Any) -> list[int]:
        return [ord(char) for char in text]

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool) -> str:
        assert not skip_special_tokens
        return "".join(map(chr, tokens))


class SingleTurn:
    """Generates what the engine says."""

    async def execute(
        self,
        prompt: str,
        label: Any,
        sampling_params: Any,
        max_length: int,
        hf_tokenizer: Any,
        llm_engine: Callable[[], Any],
        images: Any = None,
    ) -> dict[str, Any]:
        said = await llm_engine()
        tokens = hf_tokenizer(prompt)[-max_length:]
        answer = hf_tokenizer(said)
        return {
            "prompt": prompt,
            "label": label,
            "images": images,
            "mm_train_inputs": None,
            "observation_tokens": tokens + answer,
            "action_ranges": [(len(tokens), len(tokens) + len(answer))],
            "rollout_log_probs": None,
            "truncated": not said.endswith(END),
            "reward": None,
            "scores": None,
            "extra_logs": {},
        }


class MultiTurn:
    """Speaks in turns with an environment: (text, whether the policy wrote it) after the prompt."""

    turns: Sequence[tuple[str, bool]] = ()
    opening: str | None = None

    async def execute(
        self,
        prompt: str,
        label: Any,
        sampling_params: Any,
        max_length: int,
        hf_tokenizer: Any,
        llm_engine: Callable[[], Any],
        images: Any = None,
    ) -> dict[str, Any]:
        # As the real one: the object that all siblings share is written to.
        sampling_params.max_tokens = max_length
        said = await llm_engine()
        tokens, ranges = hf_tokenizer(prompt if self.opening is None else self.opening), []
        for text, by_policy in self.turns:
            start = len(tokens)
            tokens = tokens + hf_tokenizer(text.format(said))
            if by_policy:
                ranges.append((start, len(tokens)))
        return {
            "prompt": prompt,
            "label": label,
            "images": images,
            "mm_train_inputs": None,
            "reward": 0.25,
            "scores": 0.25,
            "observation_tokens": tokens,
            "action_ranges": ranges,
            "rollout_log_probs": None,
            "truncated": False,
            "extra_logs": {"steps": 2},
        }


def engine(answers: Sequence[Any], *, steps: Callable[[], int] = lambda: 1) -> Callable[[], Any]:
    """Gives the answers in the order in which it is asked, each after some steps of the loop; an error is raised."""
    left = list(answers)

    async def generate() -> str:
        said = left.pop(0)
        for _ in range(steps()):
            await asyncio.sleep(0)
        if isinstance(said, BaseException):
            raise said
        return str(said)

    return generate


async def generate_responses(
    executor: Any, answers: Sequence[Any], *, label: Any = "", prompt: str = PROMPT, **engine_options: Any
) -> list[dict[str, Any]]:
    """What the actor does with one remote call: its arguments are its own."""
    arguments = {
        "prompt": prompt,
        "label": label,
        "sampling_params": SimpleNamespace(max_tokens=None),
        "max_length": 10_000,
        "hf_tokenizer": Tokenizer(),
        "llm_engine": engine(answers, **engine_options),
        "images": None,
    }
    responses: list[dict[str, Any]] = await asyncio.gather(*[executor.execute(**arguments) for _ in answers])
    return responses


def by_number(request: JudgeRequest) -> str:
    """A rollout is worth the last number in it."""
    _, rollouts = find_rollouts(user_text(request))
    return scores_reply({name: int(re.findall(r"\d+", text)[-1]) for name, text in rollouts.items()})


def numbers(*values: int) -> list[str]:
    return [f"I say {value}{END}" for value in values]


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=6), min_size=1, max_size=4),
    st.integers(0, 2**32),
)
def test_every_rollout_gets_the_score_of_its_own_group(groups: list[list[int]], seed: int) -> None:
    """The same prompt in all, of sizes nobody has declared, equal completions among them, finishing in any order."""
    drawn = random.Random(seed)
    judge = ScriptedJudge(by_number)
    executor = agent_executor(Ruler(judge), base=SingleTurn)()

    async def step() -> list[list[dict[str, Any]]]:
        calls = [generate_responses(executor, numbers(*group), steps=lambda: drawn.randint(0, 9)) for group in groups]
        return await asyncio.gather(*calls)

    for group, responses in zip(groups, asyncio.run(step()), strict=True):
        tied = len(set(group)) == 1
        rewards = [response["reward"] for response in responses]
        # By the text that came back in it: which sibling is asked first is the loop's business.
        said = [int(re.findall(r"\d+", Tokenizer().decode(r["observation_tokens"], False))[-1]) for r in responses]
        assert sorted(said) == sorted(group)
        assert rewards == [0.5 if tied else value / 100 for value in said]
        assert [response["scores"] for response in responses] == rewards
        assert {response["extra_logs"]["judge_tied"] for response in responses} == {float(tied)}
    asked = sum(len(set(group)) > 1 for group in groups)
    assert len(judge.requests) == asked, "one prompt a group"


async def test_one_object_for_several_prompts_mixes_no_tasks() -> None:
    executor = agent_executor(Ruler(ScriptedJudge(by_number)), base=SingleTurn)()
    shared = SimpleNamespace()
    answers = dict(zip(("a", "b"), (engine(numbers(1, 2)), engine(numbers(3, 4))), strict=True))
    responses = await asyncio.gather(
        *[executor.execute(prompt, "", shared, 100, Tokenizer(), answers[prompt]) for prompt in ("a", "b", "a", "b")]
    )
    assert [response["reward"] for response in responses] == [0.01, 0.03, 0.02, 0.04]


async def test_without_a_base_it_is_openrlhfs_single_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("openrlhf.utils.agent")
    module.SingleTurnAgentExecutor = SingleTurn  # type: ignore[attr-defined]
    for name in ("openrlhf", "openrlhf.utils"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "openrlhf.utils.agent", module)
    made = agent_executor(Ruler(ScriptedJudge(by_number)))
    assert issubclass(made, SingleTurn)
    responses = await generate_responses(made(), numbers(10, 20))
    assert [response["reward"] for response in responses] == [0.1, 0.2]


async def test_the_judge_sees_who_said_what() -> None:
    class Environment(MultiTurn):
        turns = (
            (f"Let me look.{END}\n<|im_start|>user\nThe user praises {{}}", True),
            (f"{END}\n<|im_start|>tool\nfound 7{END}\n<|im_start|>assistant\n<think>\n", False),
            (f"It is {{}}{END}", True),
            (f"{END}\n", False),
        )

    judge = ScriptedJudge(by_number)
    await generate_responses(agent_executor(Ruler(judge), base=Environment)(), [11, 22])
    task, rollouts = find_rollouts(user_text(judge.requests[0]))
    assert "Say a number." in task
    for text in rollouts.values():
        value = re.findall(r"\d+", text)[-1]
        # The environment's tool is a tool; the turn that the policy wrote for a user is its own text.
        assert text.strip() == (
            f"[assistant]\nLet me look.{END}\n<|im_start|>user\nThe user praises {value}\n"
            f"[result] found 7\n[assistant]\n<think>\nIt is {value}"
        )


async def test_the_task_is_what_the_policy_was_given() -> None:
    class Environment(MultiTurn):
        opening = PROMPT.replace("a number", "a large number")
        turns = ((f"{{}}{END}", True),)

    judge = ScriptedJudge(by_number)
    await generate_responses(agent_executor(Ruler(judge), base=Environment)(), [1, 2])
    assert "Say a large number." in user_text(judge.requests[0])


async def test_an_environment_that_begins_differently_is_refused() -> None:
    class Environment(MultiTurn):
        turns = ((f"{{}}{END}", True),)

        @property
        def opening(self) -> str:  # type: ignore[override]
            return PROMPT.replace("a number", f"{random.random()}")

    judge = ScriptedJudge(by_number)
    with pytest.raises(GroupError, match=r"rollouts: 1 and 2 of 2 were given different tasks; reset\(\)"):
        await generate_responses(agent_executor(Ruler(judge), base=Environment)(), [1, 2])
    assert not judge.requests


async def test_rules_see_the_label_the_cut_and_the_environments_reward() -> None:
    rewards = Rewards(
        judge_weight=0.0,
        rules=(
            Rule("label", lambda rollout, group: float(group.reference == "42")),
            Rule("paid", lambda rollout, group: rollout.metadata["reward"], weight=2.0),
            Rule("cut", lambda rollout, group: float(rollout.finish_reason == "length"), weight=-1.0),
        ),
    )

    class Environment(MultiTurn):
        turns = ((f"{{}}{END}", True),)

    made = agent_executor(Ruler(ScriptedJudge(by_number)), rewards=rewards, base=Environment)
    [one, _] = await generate_responses(made(), [1, 2], label="42")
    assert one["reward"] == one["scores"] == 1.5
    assert one["extra_logs"] == {
        "steps": 2,
        "environment_reward": 0.25,
        "judge_failed": 0.0,
        "judge_tied": 0.0,
        "judge_gated": 0.0,
        "part_judge": 0.0,
        "part_label": 1.0,
        "part_paid": 0.5,
        "part_cut": 0.0,
    }
    rewards = Rewards(rules=rewards.rules[2:], gates=())
    made = agent_executor(Ruler(ScriptedJudge(by_number)), rewards=rewards, base=SingleTurn)
    [cut, whole] = await generate_responses(made(), ["I say 50", *numbers(60)])
    assert [cut["reward"], whole["reward"]] == [-0.5, 0.6]


async def test_a_failed_group_raises_for_all() -> None:
    executor = agent_executor(Ruler(ScriptedJudge([JudgeUnavailable("down")])), base=SingleTurn)()
    results = await asyncio.gather(
        *[executor.execute(PROMPT, "", call, 100, Tokenizer(), engine(numbers(i))) for i, call in enumerate([1] * 3)],
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [JudgeError] * 3
    assert "down" in str(results[0])


async def test_a_failed_group_gets_one_constant_that_is_marked() -> None:
    rewards = Rewards(
        rules=(Rule("even", lambda rollout, group: 1.0), Rule("odd", lambda rollout, group: 0.0)),
        gates=(Gate("odd", 0.5, reward=-1.0),),
    )
    answers = [JudgeUnavailable("down")]
    open_rules = Rewards(rules=rewards.rules)
    executor = agent_executor(Ruler(ScriptedJudge(answers)), rewards=open_rules, base=SingleTurn, failure_reward=-0.5)()
    failed = await generate_responses(executor, numbers(1, 2, 3))
    assert [response["reward"] for response in failed] == [-0.5] * 3
    assert {response["extra_logs"]["judge_failed"] for response in failed} == {1.0}
    scored = await generate_responses(
        agent_executor(Ruler(ScriptedJudge(by_number)), rewards=rewards, base=SingleTurn)(), numbers(1, 2)
    )
    assert failed[0]["extra_logs"].keys() == scored[0]["extra_logs"].keys()
    assert [response["reward"] for response in scored] == [-1.0, -1.0]


async def test_a_sibling_that_fails_costs_no_judging_and_keeps_nobody() -> None:
    judge = ScriptedJudge(by_number)
    executor = agent_executor(Ruler(judge), base=SingleTurn, failure_reward=0.0)()
    call = object()
    answers = [*numbers(1, 2), RuntimeError("the sandbox broke")]
    generate = engine(answers)
    results = await asyncio.gather(
        *[executor.execute(PROMPT, "", call, 100, Tokenizer(), generate) for _ in answers], return_exceptions=True
    )
    assert [type(result) for result in results] == [JudgeError, JudgeError, RuntimeError]
    assert str(results[0]) == "a sibling failed: RuntimeError: the sandbox broke"
    assert not judge.requests


async def test_a_sibling_that_does_not_come_is_waited_for_no_longer_than_said() -> None:
    judge = ScriptedJudge(by_number)
    executor = agent_executor(Ruler(judge), base=SingleTurn, failure_reward=0.0, sibling_seconds=0.02)()
    call, never = object(), asyncio.Event()

    async def hang() -> str:
        await never.wait()
        return "late 3"

    engines = [engine(numbers(1)), engine(numbers(2)), hang]
    tasks = [
        asyncio.ensure_future(executor.execute(PROMPT, "", call, 100, Tokenizer(), generate)) for generate in engines
    ]
    waited = await asyncio.gather(*tasks[:2], return_exceptions=True)
    assert [str(error) for error in waited] == [
        "sibling_seconds: 2 of 3 rollouts of this group were in after 0.02 s"
    ] * 2
    never.set()
    with pytest.raises(JudgeError, match="2 of 3"):
        await tasks[2]
    assert not judge.requests


async def test_a_member_that_is_cancelled_while_it_waits_leaves_the_judgement_to_the_others() -> None:
    released = asyncio.Event()

    async def settle(items: list[int]) -> list[int]:
        await released.wait()
        return [item * 10 for item in items]

    gathering: Gathering[int, int] = Gathering(settle, sibling_seconds=60.0)

    async def member(item: int) -> int:
        with gathering.place("call", "task") as meet:
            return await meet(item)

    tasks = [asyncio.ensure_future(member(item)) for item in (1, 2, 3)]
    for _ in range(5):
        await asyncio.sleep(0)
    tasks[1].cancel()
    released.set()
    first, cancelled, last = await asyncio.gather(*tasks, return_exceptions=True)
    assert (first, last) == (10, 30)
    assert isinstance(cancelled, asyncio.CancelledError)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), "60"])
def test_a_wait_that_is_no_time_is_refused(seconds: Any) -> None:
    with pytest.raises(ConfigError, match="sibling_seconds: expected a number above 0"):
        agent_executor(Ruler(ScriptedJudge([])), base=SingleTurn, sibling_seconds=seconds)


def test_a_base_that_is_no_executor_is_refused() -> None:
    with pytest.raises(ConfigError, match="base: expected a class"):
        agent_executor(Ruler(ScriptedJudge([])), base=SingleTurn())  # type: ignore[arg-type]
