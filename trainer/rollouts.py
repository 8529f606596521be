"""Many attempts at once: from problems to finished groups.

Attempts go on in rounds. In a round every attempt that is still open gets one turn, all of them sampled as one batch;
each environment answers as soon as its turn has ended, while others are still being sampled. A group is handed on the
moment its last attempt ends. The next round begins when all environments have answered: so the tokens depend on the
seed, and never on how fast somebody answered.

At each turn the whole conversation is read anew by the model, as tokens that are already there. Keeping caches across
turns would save that, and cost holes in the cache where turns are of different lengths.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch

from ruler.errors import RulerError, describe
from ruler.types import Group, Rollout
from trainer.chat_template import TemplateError
from trainer.environments import ChatMessage, Environment, Problem, Start
from trainer.episodes import BrokenGroup, Episode, SampledGroup
from trainer.policy import Policy
from trainer.sampling import Completion, sample


@dataclass(frozen=True, slots=True)
class Limits:
    """How far an attempt may go; the policy's window is a third limit."""

    max_turn_tokens: int
    """Most tokens of one turn of the policy, at least 1."""
    max_turns: int
    """Most turns of the policy, at least 1."""


@dataclass
class _Attempt:
    """One rollout while it is being made."""

    environment: Environment
    tokens: list[int] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    messages: list[ChatMessage] = field(default_factory=list)
    num_turns: int = 0
    ended: bool = False
    truncated: bool = False
    truth: float | None = None

    def read(self, tokens: Sequence[int]) -> None:
        """Tokens that the policy is given."""
        self._add(tokens, [0.0] * len(tokens), [0.0] * len(tokens), sampled=False)

    def write(self, completion: Completion, message: ChatMessage) -> None:
        """A turn of the policy."""
        self._add(completion.tokens, completion.logprobs, completion.entropies, sampled=True)
        self.messages.append(message)
        self.num_turns += 1

    def _add(
        self, tokens: Sequence[int], logprobs: Sequence[float], entropies: Sequence[float], *, sampled: bool
    ) -> None:
        self.tokens += tokens
        self.sampled += [sampled] * len(tokens)
        self.logprobs += logprobs
        self.entropies += entropies

    def end(self, *, truncated: bool) -> None:
        self.ended, self.truncated = True, truncated
        truth = self.environment.truth()
        if isinstance(truth, str) or (truth is not None and not 0 <= truth <= 1):
            raise ValueError(f"truth: expected a number in [0, 1] or None, got {truth!r:.80}")
        self.truth = None if truth is None else float(truth)  # it may be a bool, or a number of NumPy or torch

    def episode(self) -> Episode:
        return Episode(
            tuple(self.tokens),
            tuple(self.sampled),
            tuple(self.logprobs),
            tuple(self.entropies),
            self.truncated,
            self.truth,
        )


@dataclass
class _Attempts:
    """The attempts of one group."""

    problem: int
    id: str
    start: Start
    members: list[_Attempt]
    failure: str | None = None
    """What an environment raised: the group is lost, and none of its attempts goes on."""

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """Around calls of environments: what they raise fails this group, and no other."""
        try:
            yield
        except TemplateError:
            raise
        except Exception as error:  # noqa: BLE001  environments are other people's code
            self.failure = self.failure or f"environment: {describe(error)}"

    def open_attempts(self) -> list[_Attempt]:
        """Those that go on."""
        return [] if self.failure else [attempt for attempt in self.members if not attempt.ended]

    def finished(self) -> SampledGroup | BrokenGroup | None:
        """The group, once nothing more is to come."""
        if self.failure is None and not all(attempt.ended for attempt in self.members):
            return None
        if self.failure is None:
            try:
                return SampledGroup(self.problem, self._group(), tuple(attempt.episode() for attempt in self.members))
            except RulerError as error:
                self.failure = f"{error.code}: {error}"
        return BrokenGroup(self.problem, self.id, self.failure)

    def _group(self) -> Group:
        rollouts = [
            Rollout.of(f"r{place}", attempt.messages, finish_reason="length" if attempt.truncated else "stop")
            for place, attempt in enumerate(self.members, start=1)
        ]
        return Group.of(
            rollouts,
            task=list(self.start.messages),
            id=self.id,
            tools=list(self.start.tools),
            reference=self.start.reference,
            metadata={"problem": self.problem},
        )


async def collect(
    policy: Policy,
    problems: Sequence[tuple[int, Problem]],
    *,
    group_size: int,
    limits: Limits,
    temperature: float,
    seed: int,
    device: Executor,
    name: str,
    finished: Callable[[int, SampledGroup | BrokenGroup], None] | None = None,
) -> list[SampledGroup | BrokenGroup]:
    """One finished group per problem, in order.

    Args:
        policy: who acts.
        problems: each with its place in its task; at least one.
        group_size: attempts at each problem.
        limits: an attempt that reaches them is truncated.
        temperature: 0 is greedy.
        seed: of all chance in sampling. With the same weights the same tokens come out.
        device: one thread, in which all work on tensors is done: the event loop stays free for environments and judges.
        name: what the ids of groups begin with.
        finished: told a group's place and the group, the moment its last attempt has ended.

    Raises:
        ConfigError: the policy's chat template does not take the messages.
    """
    loop = asyncio.get_running_loop()
    generator = torch.Generator(policy.device).manual_seed(seed)
    groups = await asyncio.gather(
        *(
            _begin(policy, index, problem, group_size, f"{name}/{place}")
            for place, (index, problem) in enumerate(problems)
        )
    )
    results: list[SampledGroup | BrokenGroup | None] = [None] * len(groups)

    def hand_on(place: int) -> None:
        if results[place] is None and (result := groups[place].finished()):
            results[place] = result
            if finished:
                finished(place, result)

    async def turn_ended(turn: _Turn, completion: Completion) -> None:
        with groups[turn.place].failing():
            await _answer(policy, turn.attempt, completion, limits)
        hand_on(turn.place)

    for place in range(len(groups)):
        hand_on(place)
    # The first turns of a group continue one prompt, which is prefilled once; after these each has its own.
    copies = group_size
    while turns := [_Turn(place, one) for place, group in enumerate(groups) for one in group.open_attempts()]:
        prompts = [turn.attempt.tokens for turn in turns[::copies]]
        answers = _Answers([partial(turn_ended, turn) for turn in turns])
        sample_turns = partial(
            sample,
            policy.sampling_model,
            prompts,
            max_new_tokens=[min(limits.max_turn_tokens, policy.context_tokens - len(prompt)) for prompt in prompts],
            end_tokens=policy.end_tokens,
            temperature=temperature,
            generator=generator,
            copies=copies,
            ended=answers.begin_from_thread,
        )
        try:
            await loop.run_in_executor(device, sample_turns)
            await answers.all()
        finally:
            await answers.close()
        copies = 1
    return [result for result in results if result is not None]


class _Turn(NamedTuple):
    """Whose turn it is."""

    place: int
    """Of the group."""
    attempt: _Attempt


class _Answers:
    """What environments say to the turns of one round: begun while the others are still being sampled."""

    def __init__(self, answers: Sequence[Callable[[Completion], Coroutine[None, None, None]]]) -> None:
        """Nothing is begun yet; `answers` has one for each row that is sampled."""
        self._loop = asyncio.get_running_loop()
        self._answers = answers
        self._begun: list[asyncio.Task[None]] = []
        self._closed = False

    def begin_from_thread(self, row: int, completion: Completion) -> None:
        """Called by the thread that samples, the moment a turn has ended."""
        self._loop.call_soon_threadsafe(self._begin, row, completion)

    def _begin(self, row: int, completion: Completion) -> None:
        if not self._closed:
            self._begun.append(self._loop.create_task(self._answers[row](completion)))

    async def all(self) -> None:
        """Waits for them, once the thread is done: by then all have begun, for the loop was told of each before."""
        await asyncio.gather(*self._begun)

    async def close(self) -> None:
        """Nothing begins from here on, and what has begun comes to its end; after a fault or when cancelled."""
        self._closed = True
        for task in self._begun:
            task.cancel()
        await asyncio.gather(*self._begun, return_exceptions=True)


async def _begin(policy: Policy, problem: int, make: Problem, group_size: int, id: str) -> _Attempts:
    attempts = _Attempts(problem, id, Start([]), [])
    with attempts.failing():
        attempts.members = [_Attempt(make()) for _ in range(group_size)]
        starts = await asyncio.gather(*(attempt.environment.reset() for attempt in attempts.members))
        attempts.start = starts[0]
        if any(start != starts[0] for start in starts):
            raise ValueError(f"reset: environments of problem {problem} do not give the same start")
        prompt = policy.encode_start(attempts.start)
        if len(prompt) >= policy.context_tokens:
            attempts.failure = f"window: {len(prompt)} tokens of task leave no room in {policy.context_tokens}"
        for attempt in attempts.members:
            attempt.read(prompt)
    return attempts


async def _answer(policy: Policy, attempt: _Attempt, completion: Completion, limits: Limits) -> None:
    """Writes a turn of the policy into its attempt, and what the environment says to it."""
    message = policy.read_turn(policy.decode_turn(completion.tokens))
    attempt.write(completion, message)
    if completion.truncated:
        return attempt.end(truncated=True)
    step = await attempt.environment.step(message)
    said = list(step.messages)
    if any(message.get("role") == "assistant" for message in said):
        raise ValueError("step: a message of the environment has the role assistant, which is the policy's own")
    attempt.messages += said
    if step.done:
        return attempt.end(truncated=False)
    reply = policy.encode_reply(said)
    # What is not answered any more need not be read: there would be nothing to learn from it.
    if attempt.num_turns >= limits.max_turns or len(attempt.tokens) + len(reply) >= policy.context_tokens:
        return attempt.end(truncated=True)
    attempt.read(reply)
