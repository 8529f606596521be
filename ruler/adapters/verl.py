"""verl from 0.7.1: rewards come one rollout at a time, so the rollouts of a group meet in the scoring service.

    reward.reward_manager.source=importlib reward.reward_manager.name=JudgeRewardManager
    reward.reward_manager.module.path=pkg://ruler.adapters.verl

Written from verl 0.9.1 (experimental/reward_loop, `_compute_score` of the agent loop, trainer/ppo/v1) and 0.7.1: one of
`reward.num_workers` actors, any, is given a finished trajectory with the fields of its prompt. Nothing says who the
siblings are but `uid`, and nothing whether this is validation. For verl up to 0.6 see `ruler.adapters.verl_batch`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from ruler.adapters.rewarded import metric_names, read_failure_reward, tied_part
from ruler.adapters.verl_rows import read_row
from ruler.client import Client, JoinedScore
from ruler.errors import ConfigError, JudgeError, JudgeUnavailable, PackingError
from ruler.rewards import Rewards
from ruler.types import Group

_logger = logging.getLogger("ruler.adapters")


class JudgedRollouts:
    """All of `JudgeRewardManager` but its base, which is verl's. Its settings are attributes of a subclass of yours.

    Attributes:
        client: asks the service; None: the one in RULER_URL.
        rewards: how score and rules make a reward. Rules see `reward_model.ground_truth` as the group's reference, and
            `extra_info` as its metadata.
        failure_reward: what all rollouts get of a group that the judge failed, for verl's trainer before V1, which ends
            with the first error; None: it raises. JudgeUnavailable raises all the same: it may be one rollout's alone.
    """

    client: Client | None = None
    rewards: Rewards = Rewards()
    failure_reward: float | None = None

    def __init__(self, config: Any, tokenizer: Any, compute_score: Any = None, **_: object) -> None:
        """As verl's loader calls it, in each reward worker.

        Raises:
            ConfigError: no address; `judge_breaks_ties`; or, unless `group_size` is overridden, groups of one, or
                validation with groups of another size.
        """
        super().__init__(config, tokenizer, compute_score)  # type: ignore[call-arg]
        self._tokenizer, self._rollout = tokenizer, config.actor_rollout_ref.rollout
        if self.rewards.judge_breaks_ties:
            raise ConfigError("judge_breaks_ties: verl rewards one rollout at a time, and does not show its siblings")
        if type(self).group_size is JudgedRollouts.group_size:
            _check_sizes(self._rollout, config.get("trainer") or {})
        self._failure_reward = read_failure_reward(self.failure_reward)
        self._client = self.client or Client()

    def group_size(self, fields: Mapping[str, Any]) -> int:
        """How many rollouts the prompt with these fields has: `rollout.n`. 1: the rules alone make its reward."""
        return int(self._rollout.n)

    async def run_single(self, data: Any) -> dict[str, Any]:
        """The reward of the trajectory (its last row), and what it is made of, once the siblings are in and judged.

        Raises:
            JudgeError: the group failed.
            GroupError: `uid` or `raw_prompt` is missing, something cannot be read, or a rule failed.
            ConfigError, BudgetExceeded: no group can be scored any more.
        """
        row = data[-1]
        length = int(self._rollout.response_length)
        alone = await asyncio.to_thread(read_row, row, self._tokenizer, response_length=length)
        size = self.group_size(row.non_tensor_batch)
        if size == 1:
            if not self.rewards.rules:
                raise ConfigError("group_size: 1, and there are no rules: one rollout compares with nothing")
            return self._made(alone, None)
        try:
            joined = await self._client.join(
                alone.rollouts[0],
                group_id=alone.id,
                group_size=size,
                # A run that goes on from a checkpoint may ask for a prompt again under its old uid.
                attempt=int(row.non_tensor_batch.get("global_steps", 0)),
                task=alone.task,
                reference=alone.reference,
            )
        except (JudgeError, PackingError) as error:
            # A judge that is away, a lost connection and a late sibling look alike, and are no failure of all rollouts.
            if self._failure_reward is None or isinstance(error, JudgeUnavailable):
                raise
            _logger.warning("group %.80r: %r for all rollouts: %.500r", alone.id, self._failure_reward, str(error))
            return self._reported(self._failure_reward, {}, failed=True)
        return self._made(alone, joined)

    def _made(self, alone: Group, joined: JoinedScore | None) -> dict[str, Any]:
        one = self.rewards.combine_one(alone, joined.score.score if joined else None)
        assert one.reward is not None
        tied = joined is not None and joined.status == "tied"
        middle = {"judge": tied_part(self.rewards)} if tied and one.gated_by is None else {}
        reward = one.reward + sum(middle.values())
        return self._reported(reward, {**one.parts, **middle}, tied=tied, gated=one.gated_by is not None)

    def _reported(self, reward: float, parts: Mapping[str, float], **happened: bool) -> dict[str, Any]:
        # verl takes the keys of the first sample and expects them in every other.
        flags = {f"judge_{name}": float(value) for name, value in happened.items()}
        said = {**flags, **{f"part_{name}": value for name, value in parts.items()}}
        info = {name: said.get(name, 0.0) for name in metric_names(self.rewards)}
        return {"reward_score": reward, "reward_extra_info": info}


def _check_sizes(rollout: Any, trainer: Mapping[str, Any]) -> None:
    size, validated = int(rollout.n), int(rollout.val_kwargs.n)
    validates = trainer.get("val_before_train") or trainer.get("val_only") or (trainer.get("test_freq") or -1) > 0
    if size < 2:
        raise ConfigError(f"actor_rollout_ref.rollout.n: {size}; one rollout compares with nothing")
    if validates and validated != size:
        raise ConfigError(
            f"actor_rollout_ref.rollout.val_kwargs.n: {validated}, but rollout.n is {size}, and verl does not tell "
            "validation from training. Make them equal (with val_kwargs.do_sample=True), leave validation out "
            "(trainer.val_before_train=False trainer.test_freq=-1), or override JudgeRewardManager.group_size"
        )


def __getattr__(name: str) -> Any:
    # verl wants a subclass of its own base class. Made when it is asked for: importing this module loads no verl.
    if name != "JudgeRewardManager":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase

    made = type(name, (JudgedRollouts, RewardManagerBase), {"__module__": __name__, "__doc__": JudgedRollouts.__doc__})
    return globals().setdefault(name, made)
