from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from typing import ClassVar

import pytest

torch = pytest.importorskip("torch")

from ruler.errors import GroupError  # noqa: E402
from tests.trainer.words_task import MAX_WORDS, Say, brevity, words_task  # noqa: E402
from trainer.environments import Start  # noqa: E402
from trainer.held_out import HeldOut, measure  # noqa: E402
from trainer.policy import Policy  # noqa: E402
from trainer.tasks import Task  # noqa: E402
from trainer.tiny import make_tiny_policy  # noqa: E402


class Broken(Say):
    async def reset(self) -> Start:
        raise RuntimeError("no such mail")


class Flaky(Say):
    """Fails at the attempts of its problem that are named; counted from 0, over all environments."""

    made: ClassVar[Counter[int]] = Counter()

    def __init__(self, problem: int, fails_at: Sequence[int]) -> None:
        super().__init__("a", counting)
        self._fails = Flaky.made[problem] in fails_at
        Flaky.made[problem] += 1

    async def reset(self) -> Start:
        if self._fails:
            raise RuntimeError("no such mail")
        return await super().reset()


class Unknown(Say):
    def truth(self) -> float | None:
        return None


def counting(words: Sequence[str]) -> float:
    return len(words) / MAX_WORDS


def with_problems(task: Task, num: int, broken: Sequence[int] = ()) -> Task:
    """The task with so many held-out problems, some of which cannot be begun."""
    return replace(
        task, held_out=[lambda place=n: (Broken if place in broken else Say)("a", counting) for n in range(num)]
    )


def tiny_policy(task: Task) -> Policy:
    assert task.tiny
    return Policy(*make_tiny_policy(task.tiny, seed=0))


def measured(policy: Policy, task: Task, device: Executor, *, num_problems: int = 100, seed: int = 0) -> HeldOut:
    return asyncio.run(measure(policy, task, num_problems, seed, device))


def test_a_policy_that_says_nothing(device: Executor) -> None:
    task = words_task(brevity)
    policy = tiny_policy(task)
    with torch.no_grad():
        policy.model.model.norm.weight.zero_()  # the same logits everywhere: all are 0 …
        policy.model.model.norm.weight[0] = 1.0
        policy.model.lm_head.weight.zero_()
        (end,) = policy.end_tokens
        policy.model.lm_head.weight[:, 0] = -1e6  # … but the end's, wherever the first number is above 0
        policy.model.lm_head.weight[end, 0] = 0.0
        policy.model.model.embed_tokens.weight[:, 0] = 100.0
    found = measured(policy, task, device)
    assert found == HeldOut(
        num_problems=2,
        num_broken=0,
        truth_sampled=1.0,
        truth_sampled_stderr=0.0,
        truth_greedy=1.0,
        truth_greedy_stderr=0.0,
        well_formed=1.0,
        sampled_tokens=1.0,
    )


def test_the_seed_decides_and_greedy_needs_none(device: Executor) -> None:
    task = with_problems(words_task(), 40)
    policy = tiny_policy(task)
    first, again, other = (measured(policy, task, device, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert other.truth_sampled != first.truth_sampled
    assert other.truth_greedy == first.truth_greedy
    assert first.truth_greedy_stderr == 0.0  # all problems are the same
    assert first.truth_sampled_stderr
    assert abs(other.truth_sampled - first.truth_sampled) < 5 * first.truth_sampled_stderr  # type: ignore[operator]


def test_any_seed_will_do(device: Executor) -> None:
    task = words_task()
    assert measured(tiny_policy(task), task, device, seed=2**63).num_problems == 2


def test_batches_have_luck_of_their_own(device: Executor) -> None:
    task = with_problems(words_task(), 512)
    policy = tiny_policy(task)
    first, both = (measured(policy, task, device, num_problems=num) for num in (256, 512))
    assert (first.num_problems, both.num_problems) == (256, 512)
    assert first.truth_sampled != both.truth_sampled
    assert first.truth_sampled_stderr
    assert both.truth_sampled_stderr == pytest.approx(first.truth_sampled_stderr / math.sqrt(2), rel=0.15)


def test_the_first_problems_are_measured_and_no_others(device: Executor) -> None:
    task = with_problems(words_task(), 6, broken=(4, 5))
    assert measured(tiny_policy(task), task, device, num_problems=4).num_broken == 0


def test_problems_whose_environment_fails_are_left_out_and_counted(device: Executor) -> None:
    whole, task = with_problems(words_task(), 3), with_problems(words_task(), 5, broken=(1, 3))
    policy = tiny_policy(whole)
    found = measured(policy, task, device)
    assert (found.num_problems, found.num_broken) == (3, 2)
    assert found == replace(measured(policy, whole, device), num_broken=2)


def flaky(fails_at: Sequence[Sequence[int]]) -> Task:
    """One problem for each of these; attempt 0 is sampled, attempt 1 greedy."""
    Flaky.made.clear()
    return replace(words_task(), held_out=[partial(Flaky, place, when) for place, when in enumerate(fails_at)])


def test_both_means_are_over_problems_that_failed_in_neither_attempt(device: Executor) -> None:
    task = flaky([(), (0,), (1,), (), (0, 1)])
    policy = tiny_policy(task)
    found = measured(policy, task, device)
    assert (found.num_problems, found.num_broken) == (2, 3)
    expected = measured(policy, with_problems(task, 5), device)
    assert (expected.num_problems, expected.num_broken) == (5, 0)
    assert found.truth_greedy == expected.truth_greedy  # the problems are all the same


def test_where_no_problem_is_left_for_both_there_is_no_number(device: Executor) -> None:
    task = flaky([(0,), (1,)])
    with pytest.raises(GroupError, match="none of 2 problems could be tried both sampled and greedily"):
        measured(tiny_policy(task), task, device)


def test_where_nothing_can_be_tried_there_is_no_number(device: Executor) -> None:
    task = with_problems(words_task(), 2, broken=(0, 1))
    with pytest.raises(GroupError, match="none of 2 problems.*no such mail"):
        measured(tiny_policy(task), task, device)
    with pytest.raises(GroupError, match="no problems"):
        measured(tiny_policy(task), replace(task, held_out=[]), device)


def test_without_truth_the_form_is_measured_all_the_same(device: Executor) -> None:
    task = replace(words_task(), held_out=[lambda: Unknown("a", counting)])
    found = measured(tiny_policy(task), task, device)
    assert found.truth_sampled is found.truth_sampled_stderr is found.truth_greedy is found.truth_greedy_stderr is None
    assert 0 <= found.well_formed <= 1
    assert 1 <= found.sampled_tokens <= task.max_turn_tokens
