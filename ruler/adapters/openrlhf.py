"""OpenRLHF: an agent executor whose rollouts are judged with their siblings.

AgentExecutor = agent_executor(Client("http://judge:8000"))           # in the file of --train.agent_func_path

The contract is that of OpenRLHF 0.11.2: one executor an actor; `generate_responses` calls its `execute` once for each
rollout of a prompt and gathers them, with one `SamplingParams` for all, which is a new one for each remote call. A
reward has to be a number, and the metrics in `extra_logs` have to be the same for every rollout.

Without any code OpenRLHF posts its rollouts to `/compat/openrlhf` of the service, as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ruler.adapters.gathering import Gathering
from ruler.adapters.rewarded import read_failure_reward
from ruler.adapters.rewarder import Rewarder, Scorer
from ruler.chat_text import ChatMessages, ChatPrompt, read_prompt, read_response, response_in
from ruler.errors import ConfigError, GroupError
from ruler.rewards import Rewards
from ruler.types import Group, Rollout


@dataclass(frozen=True, slots=True)
class _Made:
    """One rollout on its way to its siblings."""

    task: ChatMessages
    rollout: Rollout
    label: object


def agent_executor(
    scorer: Scorer,
    *,
    rewards: Rewards | None = None,
    base: type[Any] | None = None,
    failure_reward: float | None = None,
    sibling_seconds: float = 3600.0,
) -> type[Any]:
    """A class to be called `AgentExecutor`: generates as `base` does, then waits for its siblings and the judge.

    Rules find in `rollout.metadata` what the environment paid (`reward`, `scores`) and logged (`extra_logs`); the label
    is the reference. `extra_logs` has the environment's logs, its reward as `environment_reward`, and the parts of the
    reward (see `RewardedGroup.metrics`).

    Args:
        scorer: a Ruler or a Client.
        rewards: how scores and rules make a reward.
        base: an executor class that is made without arguments; None: OpenRLHF's `SingleTurnAgentExecutor`.
        failure_reward: what all rollouts of a group get that the judge failed; None: `execute` raises and ends the run.
        sibling_seconds: how long the first rollout of a group waits for the last one, before all of them raise.

    Raises:
        ConfigError: a value out of range; the class raises it when no group can be scored any more, or BudgetExceeded.
            JudgeError, GroupError: of its rollouts, when the judge failed, a sibling did not come, or the environment
            gave siblings different tasks.
    """
    parent: Any = base
    if base is None:
        from openrlhf.utils.agent import SingleTurnAgentExecutor

        parent = SingleTurnAgentExecutor
    if not isinstance(parent, type) or not hasattr(parent, "execute"):
        raise ConfigError(f"base: expected a class of OpenRLHF's executors, got {base!r:.80}")
    rewarder, failure_reward = Rewarder(scorer, rewards), read_failure_reward(failure_reward)

    async def settle(made: list[_Made]) -> Sequence[tuple[float, dict[str, float]]]:
        [rewarded] = await rewarder.reward([_group(made)])
        return list(zip(rewarded.numbers(failure_reward), rewarded.metrics(), strict=True))

    # One for all that `base` may be made of: siblings share an executor, and others have other sampling parameters.
    siblings: Gathering[_Made, tuple[float, dict[str, float]]] = Gathering(settle, sibling_seconds=sibling_seconds)

    class AgentExecutor(parent):  # type: ignore[misc]
        async def execute(
            self,
            prompt: str,
            label: Any,
            sampling_params: Any,
            max_length: int,
            hf_tokenizer: Any,
            llm_engine: Any,
            images: Any = None,
        ) -> dict[str, Any]:
            with siblings.place(sampling_params, prompt) as meet:
                response: dict[str, Any] = await super().execute(
                    prompt, label, sampling_params, max_length, hf_tokenizer, llm_engine, images
                )
                paid, logs = response["reward"], dict(response["extra_logs"] or {})
                reward, parts = await meet(_read(response, hf_tokenizer))
            if paid is not None:
                logs["environment_reward"] = paid
            return {**response, "reward": reward, "scores": reward, "extra_logs": {**logs, **parts}}

    return AgentExecutor


def _read(response: dict[str, Any], tokenizer: Any) -> _Made:
    """The rollout by its tokens: what lies in `action_ranges` the policy wrote, all else the environment."""
    tokens, ranges = response["observation_tokens"], response["action_ranges"]
    ends = [start for start, _ in ranges[1:]] + [len(tokens)]

    def text(start: int, end: int) -> str:
        decoded: str = tokenizer.decode(tokens[start:end], skip_special_tokens=False)
        return decoded

    opening = text(0, ranges[0][0]) if ranges else text(0, len(tokens))
    # What the policy saw, where that was not the prompt: cut off on the left, or written by the environment's reset.
    # With images the tokens hold nothing but their places.
    beyond = response_in(opening, response["prompt"])
    same = response["images"] or (beyond is not None and not beyond.strip())
    asked = read_prompt(response["prompt"] if same else opening)
    messages: ChatMessages = []
    prefill = asked.prefill
    for (start, end), until in zip(ranges, ends, strict=True):
        # Without a template: where its turn ends is known, and turns that it plays itself stay text.
        messages += read_response(text(start, end), ChatPrompt([], prefill))
        heard, prefill = text(end, until), ""
        if read_response(heard, ChatPrompt([]))[0]["content"].strip():
            answered = read_prompt(heard)
            messages, prefill = messages + answered.messages, answered.prefill
    metadata = {name: response[name] for name in ("reward", "scores", "extra_logs")}
    finish_reason = "length" if response["truncated"] else None
    return _Made(
        asked.messages, Rollout.of("1", messages, finish_reason=finish_reason, metadata=metadata), response["label"]
    )


def _group(made: Sequence[_Made]) -> Group:
    for number, one in enumerate(made):
        if one.task != made[0].task:
            raise GroupError(
                f"rollouts: 1 and {number + 1} of {len(made)} were given different tasks; reset() has to begin all "
                f"rollouts of a prompt alike: {one.task!r:.80}"
            )
    ids = [f"r{number + 1}" for number in range(len(made))]
    # A dataset without labels has "" for each.
    return Group.of([one.rollout for one in made], ids=ids, task=made[0].task, reference=made[0].label or None)
