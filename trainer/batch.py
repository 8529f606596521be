"""One batch: groups are sampled, each goes to its reward when it is finished, and what comes back is learnt from."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from functools import lru_cache
from random import Random

from ruler.advantages import ScaleRewards, advantages
from ruler.errors import ConfigError
from trainer.episodes import BrokenGroup, Episode, SampledGroup
from trainer.policy import Policy
from trainer.rewards import Rewarded, RewardFunction
from trainer.rollouts import Limits, collect
from trainer.seeds import seed_of
from trainer.settings import Settings
from trainer.tasks import Task


class Batch:
    """The groups of one step, and the rewards that are coming for them.

    Attributes:
        groups: all of them, once they are sampled; by place.
    """

    def __init__(self, number: int, settings: Settings, reward: RewardFunction) -> None:
        """Batch `number`, counted from 0; nothing is sampled yet."""
        self._number, self._settings, self._reward = number, settings, reward
        self.groups: list[SampledGroup | BrokenGroup] = []
        self._coming: dict[int, asyncio.Task[Rewarded]] = {}
        self._latencies: list[float] = []

    async def sample(self, task: Task, policy: Policy, device: Executor) -> None:
        """Samples all groups, and asks for the rewards of each when it is finished."""
        settings = self._settings
        try:
            self.groups = await collect(
                policy,
                [(index, task.train[index]) for index in problems_of(self._number, settings, len(task.train))],
                group_size=settings.group_size,
                limits=Limits(task.max_turn_tokens, task.max_turns),
                temperature=settings.temperature,
                seed=seed_of(settings.seed, "sampling", self._number),
                device=device,
                name=f"step-{self._number + 1}",
                finished=self._finished,
            )
        except BaseException:
            await self.cancel()
            raise

    def _finished(self, place: int, group: SampledGroup | BrokenGroup) -> None:
        if isinstance(group, SampledGroup):
            self._coming[place] = asyncio.create_task(self._rewards_of(group))

    async def _rewards_of(self, group: SampledGroup) -> Rewarded:
        began = time.perf_counter()
        found = await self._reward([group])
        self._latencies.append(time.perf_counter() - began)
        match found:
            case [Rewarded() as rewarded] if rewarded.rewards.group_id == group.group.id:
                return rewarded
        raise ConfigError(f"reward: expected one Rewarded, of group {group.group.id!r}, got {found!r:.200}")

    async def rewards(self) -> list[Rewarded | BrokenGroup]:
        """For each group its rewards, in order; what has none because its environment failed stands for itself."""
        await asyncio.gather(*self._coming.values())
        return [
            group if isinstance(group, BrokenGroup) else self._coming[place].result()
            for place, group in enumerate(self.groups)
        ]

    def metrics(self) -> dict[str, float | None]:
        """What is known once all rewards are there."""
        mean = sum(self._latencies) / len(self._latencies) if self._latencies else None
        return {"judge/latency_seconds": mean}

    async def cancel(self) -> None:
        """Nobody is asked any more; what has come has come."""
        for task in self._coming.values():
            task.cancel()
        await asyncio.gather(*self._coming.values(), return_exceptions=True)


def problems_of(number: int, settings: Settings, num_problems: int) -> list[int]:
    """Which problems a batch takes: all of them once in a random order, then in another one, and so on."""
    first = number * settings.prompts_per_step
    places = range(first, first + settings.prompts_per_step)
    return [_epoch(settings.seed, place // num_problems, num_problems)[place % num_problems] for place in places]


@lru_cache(maxsize=2)
def _epoch(seed: int, number: int, num_problems: int) -> list[int]:
    order = list(range(num_problems))
    Random(seed_of(seed, "problems", number)).shuffle(order)
    return order


def to_learn_from(
    groups: Sequence[SampledGroup | BrokenGroup],
    rewarded: Sequence[Rewarded | BrokenGroup],
    scale_rewards: ScaleRewards,
) -> tuple[list[Episode], list[float]]:
    """The episodes of all groups that have rewards, and their advantages; equally long.

    A group without rewards is left out altogether, also of what the loss is divided by. A tied one stays, with an
    advantage of 0, as any group whose rewards are all equal does.
    """
    kept = [
        (group, found.rewards)
        for group, found in zip(groups, rewarded, strict=True)
        if isinstance(group, SampledGroup) and isinstance(found, Rewarded) and found.failure is None
    ]
    # The rollouts of a tied group read the same: its rewards lack the judge's part, and there is nothing to learn.
    known = [[None] * len(found.rollouts) if found.status == "tied" else found.rewards for _, found in kept]
    values = advantages(known, scale_rewards=scale_rewards)
    return (
        [episode for group, _ in kept for episode in group.episodes],
        [value or 0.0 for of_group in values for value in of_group],
    )
