from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from fractions import Fraction
from random import Random
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from ruler.errors import ConfigError  # noqa: E402
from trainer.environments import ChatMessage, Start, Step  # noqa: E402
from trainer.episodes import BrokenGroup, Episode, SampledGroup  # noqa: E402
from trainer.policy import Policy  # noqa: E402
from trainer.rollouts import Limits, collect  # noqa: E402

LIMITS = Limits(max_turn_tokens=6, max_turns=4)
QUESTION = "What is 3+4?"


@dataclass
class Talk:
    """An environment that answers each turn, for a number of turns, and notes what happens to it."""

    num_turns: int = 1
    wait: Callable[[], Any] | None = None
    question: str = QUESTION
    value: float | None = 0.5
    log: list[str] = field(default_factory=list)
    heard: list[ChatMessage] = field(default_factory=list)

    async def reset(self) -> Start:
        return Start([{"role": "user", "content": self.question}], reference="7")

    async def step(self, message: ChatMessage) -> Step:
        if self.wait:
            await self.wait()
        self.heard.append(message)
        self.log.append(f"step {len(self.heard)}")
        done = len(self.heard) >= self.num_turns
        return Step([{"role": "tool", "content": f"result {len(self.heard)}"}], done=done)

    def truth(self) -> float | None:
        self.log.append("truth")
        return self.value


class Ends:
    """The policy with its end tokens set: those of a random model come too seldom, or never."""

    def __init__(self, policy: Policy, ends: frozenset[int]) -> None:
        self.policy, self.ends = policy, ends

    def __getattr__(self, name: str) -> Any:
        return self.ends if name == "end_tokens" else getattr(self.policy, name)

    def encode_reply(self, messages: Sequence[ChatMessage]) -> list[int]:
        return self.policy.encode_reply(messages)


def always(policy: Policy) -> Any:
    """A policy whose every turn ends with its first token."""
    return Ends(policy, frozenset(range(512)))


def often(policy: Policy) -> Any:
    """A policy whose turns end at different lengths."""
    return Ends(policy, frozenset(range(0, 512, 4)))


async def attempt(
    policy: Any, makers: Sequence[Callable[[], Talk]], device: Executor, *, group_size: int = 3, **options: Any
) -> list[SampledGroup | BrokenGroup]:
    return await collect(
        policy,
        list(enumerate(makers, start=10)),
        group_size=group_size,
        limits=options.pop("limits", LIMITS),
        temperature=1.0,
        seed=options.pop("seed", 0),
        device=device,
        name="step-0",
        **options,
    )


def sampled_parts(episode: Episode) -> list[list[int]]:
    """The turns of the policy, as tokens."""
    parts: list[list[int]] = []
    for place, token in enumerate(episode.tokens):
        if episode.sampled[place]:
            if not episode.sampled[place - 1]:
                parts.append([])
            parts[-1].append(token)
    return parts


async def test_tokens_are_prompt_turns_and_replies_as_they_were(chat_policy: Policy, device: Executor) -> None:
    policy = often(chat_policy)
    groups = await attempt(policy, [lambda: Talk(3)] * 4, device)
    prompt = chat_policy.encode_start(await Talk().reset())
    multi_turn = 0
    for group in groups:
        assert isinstance(group, SampledGroup)
        for episode, rollout in zip(group.episodes, group.group.rollouts, strict=True):
            turns = sampled_parts(episode)
            expected = list(prompt)
            for number, turn in enumerate(turns, start=1):
                expected += turn
                if number < len(turns):
                    expected += policy.encode_reply([{"role": "tool", "content": f"result {number}"}])
            assert list(episode.tokens) == expected
            said = [message.content for message in rollout.messages if message.role == "assistant"]
            assert said == [(policy.decode_turn(turn),) if policy.decode_turn(turn) else () for turn in turns]
            multi_turn += len(turns) > 1
    assert multi_turn > 3


async def test_logprobs_are_those_of_one_pass_over_the_whole_episode(chat_policy: Policy, device: Executor) -> None:
    groups = await attempt(often(chat_policy), [lambda: Talk(3)] * 3, device)
    for group in groups:
        assert isinstance(group, SampledGroup)
        for episode in group.episodes:
            with torch.no_grad():
                logprobs = chat_policy.model(input_ids=torch.tensor([episode.tokens])).logits[0].log_softmax(-1)
            for place, token in enumerate(episode.tokens):
                expected = logprobs[place - 1, token].item() if episode.sampled[place] else 0.0
                assert episode.logprobs[place] == pytest.approx(expected, abs=2e-5)


async def test_a_group_is_what_a_judge_needs_and_holds_no_truth(chat_policy: Policy, device: Executor) -> None:
    (group,) = await attempt(always(chat_policy), [lambda: Talk(1, value=0.25)], device)
    assert isinstance(group, SampledGroup)
    assert group.problem == 10
    assert group.group.id == "step-0/0"
    assert group.group.reference == "7"
    assert [rollout.id for rollout in group.group.rollouts] == ["r1", "r2", "r3"]
    assert {rollout.finish_reason for rollout in group.group.rollouts} == {"stop"}
    assert [episode.truth for episode in group.episodes] == [0.25] * 3
    assert group.group.rollouts[0].messages[-1].role == "tool"  # what was said last is shown, too
    assert "0.25" not in repr(group.group)


async def test_attempts_are_cut_off_at_each_limit(chat_policy: Policy, device: Executor) -> None:
    endless = await attempt(Ends(chat_policy, frozenset({9_999})), [lambda: Talk(9)], device)
    turns = await attempt(always(chat_policy), [lambda: Talk(9)], device)
    window = Ends(chat_policy, frozenset(range(512)))
    window.context_tokens = len(chat_policy.encode_start(await Talk().reset())) + 20  # type: ignore[attr-defined]
    full = await attempt(window, [lambda: Talk(9)], device, limits=Limits(6, 99))
    for (group,), num_turns in ((endless, 1), (turns, 4), (full, 2)):
        assert isinstance(group, SampledGroup)
        assert {rollout.finish_reason for rollout in group.group.rollouts} == {"length"}
        for episode in group.episodes:
            assert episode.truncated
            assert episode.truth == 0.5
            assert len(sampled_parts(episode)) == num_turns
    assert [len(part) for part in sampled_parts(endless[0].episodes[0])] == [6]  # type: ignore[union-attr]


async def test_a_turn_ends_where_the_window_does(chat_policy: Policy, device: Executor) -> None:
    small = Ends(chat_policy, frozenset({9_999}))
    prompt = chat_policy.encode_start(await Talk().reset())
    small.context_tokens = len(prompt) + 2  # type: ignore[attr-defined]
    (group,) = await attempt(small, [Talk], device)
    assert isinstance(group, SampledGroup)
    assert [episode.num_sampled for episode in group.episodes] == [2, 2, 2]
    assert all(episode.truncated for episode in group.episodes)
    small.context_tokens = len(prompt)  # type: ignore[attr-defined]
    (none,) = await attempt(small, [Talk], device)
    assert isinstance(none, BrokenGroup)


async def test_what_nobody_answers_any_more_is_not_read(chat_policy: Policy, device: Executor) -> None:
    """A tool that says more than the window holds: the attempt ends, and its episode fits."""

    class Long(Talk):
        async def step(self, message: ChatMessage) -> Step:
            return Step([{"role": "tool", "content": "blah " * 5_000}])

    (group,) = await attempt(always(chat_policy), [lambda: Long(9)], device)
    assert isinstance(group, SampledGroup)
    for episode, rollout in zip(group.episodes, group.group.rollouts, strict=True):
        assert episode.truncated
        assert len(episode.tokens) <= chat_policy.context_tokens
        assert episode.sampled[-1]
        assert rollout.messages[-1].role == "tool"  # the judge sees it all the same


async def test_the_judge_sees_tools_and_which_problem_it_is(chat_policy: Policy, device: Executor) -> None:
    tool = {"type": "function", "function": {"name": "search", "parameters": {"type": "object", "properties": {}}}}

    class Equipped(Talk):
        async def reset(self) -> Start:
            return Start([{"role": "user", "content": QUESTION}], tools=[tool])

    (group,) = await attempt(always(chat_policy), [Equipped], device)
    assert isinstance(group, SampledGroup)
    assert [one.name for one in group.group.tools] == ["search"]
    assert group.group.metadata == {"problem": 10}


async def test_what_a_group_cannot_hold_breaks_it_alone(chat_policy: Policy, device: Executor) -> None:
    class Unreadable(Talk):
        async def step(self, message: ChatMessage) -> Step:
            return Step([{"role": "tool", "content": object()}], done=True)

    class Speaks(Talk):
        async def step(self, message: ChatMessage) -> Step:
            return Step([{"role": "assistant", "content": "I am the policy."}], done=True)

    odd, speaks, good = await attempt(always(chat_policy), [Unreadable, Speaks, Talk], device)
    assert isinstance(odd, BrokenGroup)
    assert odd.message.startswith("group: ")
    assert isinstance(speaks, BrokenGroup)
    assert "role assistant" in speaks.message
    assert isinstance(good, SampledGroup)


async def test_a_task_that_fills_the_window_breaks_its_group(chat_policy: Policy, device: Executor) -> None:
    small = Ends(chat_policy, frozenset({1}))
    small.context_tokens = 5  # type: ignore[attr-defined]
    (group,) = await attempt(small, [Talk], device)
    assert isinstance(group, BrokenGroup)
    assert group.message.startswith("window: ")


class Broken(Talk):
    async def reset(self) -> Start:
        if self.question == "reset":
            raise OSError("no inbox")
        return await super().reset()

    async def step(self, message: ChatMessage) -> Step:
        if self.question == "step":
            raise KeyError("mail")
        return await super().step(message)

    def truth(self) -> float | None:
        if self.question == "truth":
            raise ZeroDivisionError
        return 1.5 if self.question == "range" else 1.0


@pytest.mark.parametrize(
    ("where", "message"),
    [("reset", "OSError: no inbox"), ("step", "mail"), ("truth", "ZeroDivisionError"), ("range", "1.5")],
)
async def test_an_environment_that_fails_breaks_its_group_alone(
    chat_policy: Policy, device: Executor, where: str, message: str
) -> None:
    told: list[int] = []
    makers = [lambda: Talk(2), lambda: Broken(question=where), lambda: Talk(3)]
    groups = await attempt(always(chat_policy), makers, device, finished=lambda place, group: told.append(place))
    assert [type(group) for group in groups] == [SampledGroup, BrokenGroup, SampledGroup]
    assert isinstance(groups[1], BrokenGroup)
    assert groups[1].message.startswith("environment: ")
    assert message in groups[1].message
    assert sorted(told) == [0, 1, 2]
    assert told.index(1) < told.index(2)


async def test_environments_of_one_problem_must_begin_alike(chat_policy: Policy, device: Executor) -> None:
    questions = iter(["What is 1+1?", "What is 2+2?", "What is 3+3?"])
    (group,) = await attempt(always(chat_policy), [lambda: Talk(question=next(questions))], device)
    assert isinstance(group, BrokenGroup)
    assert "same start" in group.message


async def test_a_group_is_handed_on_while_others_are_still_open(chat_policy: Policy, device: Executor) -> None:
    log: list[str] = []
    makers = [lambda: Talk(3, log=log), lambda: Talk(1)]
    await attempt(always(chat_policy), makers, device, finished=lambda place, group: log.append(f"group {place}"))
    assert log.index("group 1") < log.index("step 2") < log.index("group 0")


async def test_a_group_is_handed_on_while_others_are_still_being_sampled(
    chat_policy: Policy, device: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed_on = asyncio.Event()
    loop = asyncio.get_running_loop()
    import trainer.rollouts

    real = trainer.rollouts.sample

    def waits(*arguments: Any, **options: Any) -> Any:
        """Sampling that does not come to its end before the first group has been handed on."""
        told = options.pop("ended")
        left = 3

        def ended(row: int, completion: Any) -> None:
            nonlocal left
            told(row, completion)
            left -= row < 3
            if row < 3 and not left:
                asyncio.run_coroutine_threadsafe(handed_on.wait(), loop).result(timeout=20)

        return real(*arguments, ended=ended, **options)

    monkeypatch.setattr(trainer.rollouts, "sample", waits)
    policy = Ends(chat_policy, frozenset(range(512)))
    groups = await attempt(
        policy, [Talk, Talk], device, finished=lambda place, group: handed_on.set() if place == 0 else None
    )
    assert all(isinstance(group, SampledGroup) for group in groups)


async def test_how_fast_environments_answer_changes_nothing(chat_policy: Policy, device: Executor) -> None:
    random = Random(1)

    async def wait() -> None:
        for _ in range(random.randrange(5)):
            await asyncio.sleep(0)

    policy = often(chat_policy)
    calm = await attempt(policy, [lambda: Talk(3)] * 4, device, seed=5)
    hasty = await attempt(policy, [lambda: Talk(3, wait=wait)] * 4, device, seed=5)
    other = await attempt(policy, [lambda: Talk(3)] * 4, device, seed=6)
    tokens = [[episode.tokens for episode in group.episodes] for group in calm]  # type: ignore[union-attr]
    assert tokens == [[episode.tokens for episode in group.episodes] for group in hasty]  # type: ignore[union-attr]
    assert tokens != [[episode.tokens for episode in group.episodes] for group in other]  # type: ignore[union-attr]


async def test_a_template_that_cannot_take_a_reply_stops_the_run(chat_policy: Policy, device: Executor) -> None:
    tokenizer = copy.deepcopy(chat_policy.tokenizer)
    refusal = "{% if messages[-1]['role'] == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    tokenizer.chat_template = refusal + tokenizer.chat_template
    with pytest.raises(ConfigError, match="chat template does not take the messages: no tools here"):
        await attempt(always(Policy(chat_policy.model, tokenizer)), [lambda: Talk(2)], device)


async def test_a_reply_without_content_breaks_its_group_alone(chat_policy: Policy, device: Executor) -> None:
    class Mute(Talk):
        async def step(self, message: ChatMessage) -> Step:
            return Step([{"role": "tool", "content": None}])

    mute, other = await attempt(always(chat_policy), [Mute, lambda: Talk(2)], device)
    assert isinstance(mute, BrokenGroup)
    assert isinstance(other, SampledGroup)


@pytest.mark.parametrize("content", [None, "\ud83d", {"text": "?"}])
async def test_a_task_that_cannot_be_read_breaks_its_group_alone(
    chat_policy: Policy, device: Executor, content: Any
) -> None:
    class Odd(Talk):
        async def reset(self) -> Start:
            return Start([{"role": "user", "content": content}])

    odd, other = await attempt(always(chat_policy), [Odd, Talk], device)
    assert isinstance(odd, BrokenGroup)
    assert isinstance(other, SampledGroup)


async def test_an_environments_own_configuration_fault_breaks_its_group_alone(
    chat_policy: Policy, device: Executor
) -> None:
    class Unset(Talk):
        async def step(self, message: ChatMessage) -> Step:
            raise ConfigError("no judge")

    unset, other = await attempt(always(chat_policy), [Unset, Talk], device)
    assert isinstance(unset, BrokenGroup)
    assert "no judge" in unset.message
    assert isinstance(other, SampledGroup)


@pytest.mark.parametrize("value", [True, 1, torch.tensor(1.0), Fraction(1)])
async def test_truth_is_a_plain_number_whatever_it_was(chat_policy: Policy, device: Executor, value: Any) -> None:
    (group,) = await attempt(always(chat_policy), [lambda: Talk(value=value)], device)
    assert isinstance(group, SampledGroup)
    assert {type(episode.truth) for episode in group.episodes} == {float}


async def test_messages_may_come_one_by_one(chat_policy: Policy, device: Executor) -> None:
    class Streams(Talk):
        async def step(self, message: ChatMessage) -> Step:
            return Step(({"role": "tool", "content": "once"} for _ in range(1)), done=True)  # type: ignore[arg-type]

    (group,) = await attempt(always(chat_policy), [Streams], device)
    assert isinstance(group, SampledGroup)
    assert group.group.rollouts[0].messages[-1].role == "tool"
