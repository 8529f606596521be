"""`--reward.remote_url` to our service: OpenRLHF's executor posts, over a bad network, to a process that is killed."""

from __future__ import annotations

import asyncio
import signal
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from typing import Any

import pytest

from ruler import Group, Ruler
from tests.frameworks.openrlhf.actor import make_actor, openrlhf_modules, said, service, step
from tests.frameworks.openrlhf.bad_network import BadNetwork

NUM_SAMPLES = 8
JUDGE = "simulated?quality=hash"


def prompt(number: int) -> str:
    return f"<|im_start|>user\nTask {number}?<|im_end|>\n<|im_start|>assistant\n"


PROMPTS = {prompt(number): f"label {number}" for number in range(5)}


@pytest.fixture(scope="module")
def vllm_engine() -> Iterator[Any]:
    with openrlhf_modules() as module:
        yield module


class Policy:
    """Says something else each time, but the third answer to a prompt is the second once more.

    Attributes:
        held: until it is set, only half of a prompt's answers are given.
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = defaultdict(int)
        self.held = asyncio.Event()
        self.held.set()

    async def __call__(self, text: str) -> str:
        number = self._counts[text]
        self._counts[text] += 1
        if number >= NUM_SAMPLES // 2:
            await self.held.wait()
        return f"Answer {1 if number == 2 else number} to {text[16:-33]}"


async def expected() -> Mapping[str, float]:
    """Answer -> its score, by the judge alone: it looks at one answer, whoever stands beside it."""
    policy, scores = Policy(), {}
    for text in PROMPTS:
        answers = list(dict.fromkeys([await policy(text) for _ in range(NUM_SAMPLES)]))
        scored = await Ruler(JUDGE).score(Group.of(answers, task=text))
        scores.update(zip(answers, scored.scores, strict=True))
    assert len(set(scores.values())) > len(scores) / 2, "too alike to tell whose score it is"
    return scores  # type: ignore[return-value]


async def check(groups: list[list[dict[str, Any]]]) -> None:
    scores = await expected()
    assert len(groups) == len(PROMPTS)
    for group in groups:
        assert len(group) == NUM_SAMPLES
        for response in group:
            # As they stand in the answer: OpenRLHF makes tensors of lists of one.
            assert response["reward"] == response["scores"] == [scores[said(response)]]
            assert response["extra_logs"]["judge_failed"] == [0]
            assert response["extra_logs"]["judge_num_rollouts"] == [NUM_SAMPLES]


def make(vllm_engine: Any, port: int, policy: Any) -> Any:
    url = f"http://127.0.0.1:{port}/compat/openrlhf?group_size={NUM_SAMPLES}"
    return make_actor(vllm_engine, vllm_engine.SingleTurnAgentExecutor([url]), policy)


async def test_every_group_gets_its_scores(vllm_engine: Any) -> None:
    async with service(JUDGE) as running:
        await check(await step(make(vllm_engine, running.port, Policy()), PROMPTS, NUM_SAMPLES))


@pytest.mark.parametrize("seed", range(3))
async def test_cut_connections_and_a_service_that_is_killed_cost_no_score(vllm_engine: Any, seed: int) -> None:
    async with AsyncExitStack() as services:
        first = await services.enter_async_context(service(JUDGE))
        network = BadNetwork(first.port, seed)
        async with network.up() as port:
            policy = Policy()
            policy.held.clear()
            network.waiting = True
            running = asyncio.ensure_future(step(make(vllm_engine, port, policy), PROMPTS, NUM_SAMPLES))
            await network.reached("delivered", len(PROMPTS) * NUM_SAMPLES // 2)
            # Every group waits for its other half when everything that the service knew is gone.
            network.waiting = False
            first.stop(signal.SIGKILL)
            await services.enter_async_context(service(JUDGE, port=first.port))
            policy.held.set()
            await check(await running)
            # And once more, with the same texts.
            await check(await step(make(vllm_engine, port, Policy()), PROMPTS, NUM_SAMPLES))
    assert network.fates["lost"] > 10, network.fates
    assert network.fates["dropped"] > 5, network.fates


async def test_a_service_killed_between_two_answers_makes_no_false_number(vllm_engine: Any) -> None:
    """Who has been answered has the score; the rest of the group can never be complete again."""
    text = prompt(0)
    arrived = 0
    everybody = asyncio.Event()
    killed = asyncio.Event()

    async def deliver(answer: bytes) -> bool:
        nonlocal arrived
        if killed.is_set():
            return True
        arrived += 1
        mine = arrived
        if arrived == NUM_SAMPLES:
            everybody.set()
        await everybody.wait()
        if mine <= 5:
            return True
        await killed.wait()
        return False

    async with AsyncExitStack() as services:
        first = await services.enter_async_context(service(JUDGE))
        network = BadNetwork(first.port, seed=None)
        network.deliver = deliver
        async with network.up() as port:
            running = asyncio.ensure_future(step(make(vllm_engine, port, Policy()), {text: PROMPTS[text]}, NUM_SAMPLES))
            await everybody.wait()
            first.stop(signal.SIGKILL)
            await services.enter_async_context(service(JUDGE, port=first.port, RULER_COLLECT_SECONDS="0.5"))
            killed.set()
            [group] = await running
    scores = await expected()
    known = [response for response in group if response["reward"] is not None]
    assert len(known) == 5
    assert all(response["reward"] == [scores[said(response)]] for response in known)
