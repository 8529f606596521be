"""What was sampled: one episode per attempt, token for token, and the finished group that a judge or rules can read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ruler.types import Group


@dataclass(frozen=True)
class Episode:
    """One attempt as tokens. The four sequences are equally long: prompt, turns and what the environment said.

    Token ids stand here as they were sampled. They are never made from text again: what a tokenizer makes of decoded
    text may be other tokens, which the policy never chose.
    """

    tokens: tuple[int, ...]
    sampled: tuple[bool, ...]
    """True where the policy chose the token: the loss is over these alone."""
    logprobs: tuple[float, ...]
    """Natural logarithm of the probability with which the token was chosen, at the sampling temperature; 0.0 where it
    was not sampled."""
    entropies: tuple[float, ...]
    """Entropy in nats of the distribution that the token was drawn from; 0.0 where it was not sampled."""
    truncated: bool
    """Whether it was cut off: a turn without an end, no room left, or too many turns."""
    truth: float | None = None
    """In [0, 1]; None where it is not known."""

    @cached_property
    def num_sampled(self) -> int:
        """Tokens that the policy chose; at least 1."""
        return sum(self.sampled)


@dataclass(frozen=True, slots=True)
class SampledGroup:
    """The finished attempts at one problem."""

    problem: int
    """Its place in `Task.train` or `Task.held_out`."""
    group: Group
    """What a judge or rules see; without truth."""
    episodes: tuple[Episode, ...]
    """In the order of `group.rollouts`."""


@dataclass(frozen=True, slots=True)
class BrokenGroup:
    """A group that has no rollouts to score, because an environment failed."""

    problem: int
    id: str
    message: str
