"""verifiers 0.4: a judge that compares the traces of an episode, in `Env.finalize`.

    judge = EpisodeJudge(Ruler("openai/gpt-5-mini"))

    class JudgedEnv(BestOfNEnv):
        async def finalize(self, task, episode):
            await judge.record_rewards(task, episode)

A trace's own task and its plug-in judges see that trace alone. Here all attempts of an episode are at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ruler.adapters.rewarder import Rewarder, Scorer
from ruler.adapters.verifiers_traces import opening, read_rollout
from ruler.errors import ConfigError, GroupError
from ruler.rewards import Rewards
from ruler.types import Group
from ruler.types import Usage as JudgeUsage

REWARD = "judge_reward"
"""The name among a trace's rewards."""


class EpisodeJudge:
    """Compares what one agent of an environment did several times in an episode."""

    def __init__(
        self,
        scorer: Scorer,
        *,
        rewards: Rewards | None = None,
        reference: str | None = None,
        agent: str | None = None,
    ) -> None:
        """Asks nothing yet.

        Args:
            scorer: a `Ruler` or a `Client`.
            rewards: how scores and rules make a reward; rules find the rewards of the trace's own task in
                `rollout.metadata["rewards"]`. None: the score is the reward.
            reference: the field of the task's data that holds the reference answer; None: there is none.
            agent: whose traces are compared; None: there is only one agent.

        Raises:
            ConfigError: an argument is something else.
        """
        self._rewarder = Rewarder(scorer, rewards)
        self._reference = reference
        self._agent = agent

    async def record_rewards(self, task: Any, episode: Any) -> None:
        """Gives each trace the reward `judge_reward`, beside those of its own task, and the parts of it as metrics.

        The judge's note is in `trace.info["judge_note"]`, and what the judge took in the `extra_usage` of the first
        trace. Traces with an error are left out, and have None, the framework's word for "not scored".

        Args:
            task: as `Env.finalize` gets it.
            episode: as `Env.finalize` gets it.

        Raises:
            JudgeError: the group failed. Raised out of `finalize`, it fails the episode, which is what is retried.
            GroupError: fewer than two traces have no error, or a trace cannot be read.
            BudgetExceeded: the cap is reached.
            ConfigError: several agents have traces and none is named, the named one has none, the data has no field
                for the reference, or nothing can be scored with these settings.
        """
        traces = self._traces(episode)
        left = [trace for trace in traces if not trace.has_error]
        for trace in traces:
            trace.rewards[REWARD] = None
        if len(left) < min(2, len(traces)):
            raise GroupError(
                f"episode {episode.id!r}: {len(left)} of {len(traces)} traces have no error: too few to compare"
            )
        [rewarded] = await self._rewarder.reward([self._read_group(task, episode, left)])
        _record_usage(left[0], rewarded.result.usage)
        numbers = rewarded.numbers()
        for trace, number, note, metrics in zip(left, numbers, rewarded.notes, rewarded.metrics(), strict=True):
            trace.record_reward(REWARD, number)
            trace.record_metrics(metrics)
            if note is not None:
                trace.info["judge_note"] = note

    def _traces(self, episode: Any) -> list[Any]:
        by_agent = episode.by_agent
        if self._agent is None and len(by_agent) > 1:
            raise ConfigError(f"agent: whose traces are compared? Those with traces are {sorted(by_agent)!r}")
        traces = list(episode.traces) if self._agent is None else by_agent.get(self._agent, [])
        if not traces:
            raise ConfigError(f"agent: {self._agent!r} has no trace in the episode; {sorted(by_agent)!r} have")
        return traces

    def _read_group(self, task: Any, episode: Any, traces: Sequence[Any]) -> Group:
        if self._reference is not None and not hasattr(task.data, self._reference):
            raise ConfigError(f"reference: {type(task.data).__name__} has no field {self._reference!r}")
        tools = traces[0].tools
        same_tools = all(trace.tools == tools for trace in traces)
        openings = [opening(trace) for trace in traces]
        same_opening = all(opening == openings[0] for opening in openings)
        return Group.of(
            [read_rollout(trace, tools=None if same_tools else trace.tools) for trace in traces],
            # A harness may say something of its own to each attempt: then the task is what the data says.
            task=openings[0] if same_opening else task.data.prompt,
            id=episode.id,
            tools=tools if same_tools else None,
            reference=None if self._reference is None else getattr(task.data, self._reference),
        )


def _record_usage(trace: Any, usage: JudgeUsage) -> None:
    if not usage.calls:
        return
    from verifiers.v1.types import Usage

    trace.extra_usage.append(
        Usage(
            prompt_tokens=usage.input_tokens - usage.cached_input_tokens,
            completion_tokens=usage.output_tokens,
            cached_input_tokens=usage.cached_input_tokens,
            cost=usage.cost_usd,
        )
    )
