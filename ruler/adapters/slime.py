"""slime: the judge as the reward of a group.

judge = group_reward(Client("http://judge:8000"))            # --group-rm --custom-rm-path our_module.judge

The contract is that of slime 0.3.1: `await function(args, samples)` once for each prompt, with all its samples; a
reward for each comes back. There is no "no score", only `Sample.remove_sample`, which takes a sample out of the loss.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ruler.adapters.rewarded import read_failure_reward
from ruler.adapters.rewarder import Rewarder, Scorer
from ruler.chat_text import read_prompt, read_response
from ruler.errors import ConfigError, GroupError
from ruler.rewards import Rewards
from ruler.types import Group, Rollout


def group_reward(
    scorer: Scorer, *, rewards: Rewards | None = None, failure_reward: float | None = None
) -> Callable[..., Awaitable[list[Any]]]:
    """An async function for `--custom-rm-path`: a number for each sample, `{reward_key: number}` under --reward-key.

    Each sample's `metadata["judge"]` says what its reward is made of (see `RewardedGroup.metrics`), with the judge's
    `note` and the `failure` where there are some. Rules find the sample's metadata in `rollout.metadata`; its label is
    the reference.

    Args:
        scorer: a Ruler or a Client.
        rewards: how scores and rules make a reward.
        failure_reward: what all samples of a group get that the judge failed; they are taken out of the loss, too
            (`remove_sample`). None: the function raises, and the run ends.

    Raises:
        ConfigError: a value out of range. When called: not with --group-rm, or with samples that a generate function
            made several of; and with BudgetExceeded where no group can be scored any more.
            JudgeError: the judge failed. GroupError: a sample cannot be read, or they are of several prompts.
    """
    rewarder, failure_reward = Rewarder(scorer, rewards), read_failure_reward(failure_reward)

    async def judge(args: Any, samples: Sequence[Any], **_: Any) -> list[Any]:
        if not args.group_rm or not isinstance(samples, Sequence):
            raise ConfigError("group_rm: a relative judge takes whole groups; start slime with --group-rm")
        for number, sample in enumerate(samples):
            if isinstance(sample, Sequence):
                raise ConfigError(
                    f"samples[{number}]: {len(sample)} samples of one rollout, made by a custom generate function; "
                    "slime has no group reward for these. Return one Sample for each rollout"
                )
        [rewarded] = await rewarder.reward([_group(samples)])
        numbers = rewarded.numbers(failure_reward)
        for sample, parts, note in zip(samples, rewarded.metrics(), rewarded.notes, strict=True):
            said = {"note": note, "failure": rewarded.failure}
            told = {name: text for name, text in said.items() if text is not None}
            # A new one: a custom generate function may have given its samples one dict.
            sample.metadata = {**(sample.metadata or {}), "judge": {**parts, **told}}
            sample.remove_sample = sample.remove_sample or rewarded.failure is not None
        return [{args.reward_key: number} for number in numbers] if args.reward_key else list(numbers)

    return judge


def _group(samples: Sequence[Any]) -> Group:
    if not samples:
        raise GroupError("samples: none")
    first = samples[0]
    for number, sample in enumerate(samples):
        if (sample.group_index, sample.prompt) != (first.group_index, first.prompt):
            raise GroupError(
                f"samples[{number}]: of group {sample.group_index!r} with prompt {sample.prompt!r:.80}; "
                f"samples[0] is of group {first.group_index!r} with {first.prompt!r:.80}"
            )
    asked = read_prompt(first.prompt) if isinstance(first.prompt, str) else None
    return Group.of(
        [
            Rollout.of(
                f"r{number + 1}",
                read_response(sample.response, asked),
                finish_reason="length" if sample.status.value == "truncated" else None,
                metadata=sample.metadata,
            )
            for number, sample in enumerate(samples)
        ],
        task=asked.messages if asked else first.prompt,
        reference=first.label if first.label not in (None, "") else None,
    )
