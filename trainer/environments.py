"""What a policy acts in: the task it is given, and what the world answers to each of its turns.

One environment is one attempt at one problem; a group is G fresh environments of the same problem. The user owns the
environment: what it says, when it ends, and what is true of the attempt.

    class Echo:
        async def reset(self) -> Start:
            return Start([{"role": "user", "content": "Say hi."}])

        async def step(self, message: ChatMessage) -> Step:
            self.right = message["content"] == "hi"
            return Step(done=True)

        def truth(self) -> float | None:
            return float(self.right)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

ChatMessage: TypeAlias = Mapping[str, Any]
"""A message in the OpenAI form: `role`, `content`, and for an assistant that calls tools `tool_calls`."""


@dataclass(frozen=True, slots=True)
class Start:
    """What a policy is given before its first turn; the same for every environment of one problem."""

    messages: Sequence[ChatMessage]
    """System prompt and question."""
    tools: Sequence[Mapping[str, Any]] = ()
    """Tool definitions in the OpenAI form; the policy's chat template shows them, the judge sees them."""
    reference: str | None = None
    """The right answer, for rules; neither the policy nor, unless it is asked for, the judge sees it."""


@dataclass(frozen=True, slots=True)
class Step:
    """What the environment says to a turn of the policy."""

    messages: Sequence[ChatMessage] = ()
    """Tool results, or what a user says; never from the assistant. Also the last step may have some: the judge sees
    them, the policy does not."""
    done: bool = False
    """Whether the attempt has ended."""


class Environment(Protocol):
    """One attempt at one problem. An exception from any method fails the group: it is dropped and counted."""

    async def reset(self) -> Start:
        """What the policy is given. Called once, first."""
        ...

    async def step(self, message: ChatMessage) -> Step:
        """What follows a turn of the policy.

        Called for every turn that the policy ended itself; a turn that was cut off ends the attempt without it.

        Args:
            message: the turn, as `Policy.read_turn` reads it: `content` (text, maybe empty) and, where the text holds
                well-formed calls, `tool_calls` with `function.name` and `function.arguments` (a mapping).
        """
        ...

    def truth(self) -> float | None:
        """How good the attempt was, in [0, 1], by ground truth; None where it is not known.

        Called once, when the attempt has ended, whether by the environment, by `Task.max_turns` or cut off. The judge
        never sees it.
        """
        ...


Problem: TypeAlias = Callable[[], Environment]
"""Makes a fresh environment of one and the same problem."""
