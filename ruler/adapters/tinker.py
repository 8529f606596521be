"""tinker-cookbook: a group of environments whose rollouts the judge compares.

    class JudgedProblems(JudgedGroup, ProblemGroupBuilder):
        scorer = Client("http://judge:8000")

Written from tinker-cookbook 0.6.1: `EnvGroupBuilder.compute_group_rewards` (rl/types.py), called once all rollouts of a
group are there (rl/rollouts.py); what it gives is added to the rewards of the steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ruler.adapters.rewarder import Rewarder, Scorer
from ruler.errors import ConfigError, GroupError
from ruler.rewards import Rewards
from ruler.types import Group, Rollout


class JudgedGroup:
    """Goes in front of an `EnvGroupBuilder`, in a class of your own; sets the reward of the group.

    `scorer` and `rewards` are attributes of your class, and so no part of what is pickled with a builder: a process
    that unpickles one makes its own by importing your module. As fields of the builder they have to pickle.

    What the builder beside it gives by itself is kept: its rewards are added to these, and so are its metrics.

    Attributes:
        scorer: a `Ruler` or a `Client`.
        rewards: how scores and rules make a reward; None: the score is the reward.
    """

    scorer: Scorer
    rewards: Rewards | None = None

    def task_of(self, env: Any) -> Sequence[Any]:
        """The messages that an environment opens with; override it for environments that are not known here.

        Known are `ProblemEnv`, `PreferenceEnv`, and `EnvFromMessageEnv` around an `AgentToolMessageEnv` or another that
        has `initial_messages`, by the attributes they have.

        Raises:
            ConfigError: another environment.
        """
        match env:
            case object(message_env=object(initial_messages=task)):
                return list(task)
            case object(convo_prefix=task, get_question=question):
                return [*task, {"role": "user", "content": question()}]
            case object(convo_prefix=task):
                return list(task)
        raise ConfigError(f"env: where {type(env).__name__} has its messages is not known; override task_of")

    def messages_of(self, trajectory: Any, env: Any) -> Sequence[Any]:
        """The messages that came after the task, in any form; override it for environments that are not known here.

        Those that `env` has kept, in `message_env.history`, and of turns that it has not kept (cut off, or not
        parsed) what its renderer reads in the tokens.

        Raises:
            ConfigError: an environment without a renderer.
        """
        kept: list[Any] = []
        match env:
            case object(message_env=object(initial_messages=task, history=history)):
                kept = history[len(task) :]
        match env:
            case object(renderer=renderer) | object(policy_renderer=renderer):
                turns = [turn.ac.tokens for turn in trajectory.transitions if turn.ac.tokens]
                num_kept = sum(message["role"] == "assistant" for message in kept)
                return [_whole(one) for one in [*kept, *(renderer.parse_response(t)[0] for t in turns[num_kept:])]]
        raise ConfigError(f"env: {type(env).__name__} has no renderer that could read its turns; override messages_of")

    def reference_of(self, env: Any) -> object:
        """The reference answer, for rules, and for judges that are to see it; None where there is none."""
        reference = getattr(env, "get_reference_answer", None)
        return reference() if callable(reference) else None

    async def compute_group_rewards(
        self, trajectory_group: Sequence[Any], env_group: Sequence[Any]
    ) -> list[tuple[float, dict[str, float]]]:
        """For each rollout its reward, and what that is made of. Tied rollouts get half of what the judge can add.

        Raises:
            JudgeError: the group failed. A strategy that catches errors of groups skips it, `FailFast` ends the run.
            GroupError: the environments have different tasks, or messages that cannot be read.
            BudgetExceeded, ConfigError: no group can be scored any more.
        """
        tasks = [self.task_of(env) for env in env_group]
        if any(task != tasks[0] for task in tasks):
            raise GroupError("task: the environments of a group open with different messages; what they do is no group")
        rollouts = [
            Rollout.of(f"r{place}", self.messages_of(trajectory, env), finish_reason=_finish_reason(trajectory))
            for place, (trajectory, env) in enumerate(zip(trajectory_group, env_group, strict=True), 1)
        ]
        group = Group.of(rollouts, task=tasks[0], reference=self.reference_of(env_group[0]))
        own = await super().compute_group_rewards(trajectory_group, env_group)  # type: ignore[misc]
        [judged] = await Rewarder(self.scorer, self.rewards).reward([group])
        return [
            (reward + number, {**metrics, **of_judge})
            for (reward, metrics), number, of_judge in zip(own, judged.numbers(), judged.metrics(), strict=True)
        ]


def _whole(message: Any) -> Any:
    """The message with the tool calls in it that the renderer could not read, as text: the policy did write them."""
    unread = [call.raw_text for call in message.get("unparsed_tool_calls") or ()]
    content = message["content"]
    parts = [content] if isinstance(content, str) else list(content)
    return {**message, "content": [*parts, *unread]} if unread else message


def _finish_reason(trajectory: Any) -> str | None:
    cut = any(turn.ac.stop_reason == "length" for turn in trajectory.transitions[-1:])
    return "length" if cut else None
