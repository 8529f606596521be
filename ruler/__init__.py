"""A relative judge for reinforcement learning: N rollouts of one task in one prompt, comparable scores out.

from ruler import Group, Ruler

ruler = Ruler("openai/gpt-5-mini")
scored = await ruler.score(Group.of([messages_1, messages_2]))
scored.scores      # in [0, 1], in the order given; a judge failure raises and is never a number
"""

from typing import TYPE_CHECKING, Any

from ruler.errors import (
    BudgetExceeded,
    ConfigError,
    GroupError,
    JudgeError,
    JudgeRejected,
    JudgeUnavailable,
    PackingError,
    ReplyError,
    RulerError,
)
from ruler.packing import PackedPrompt
from ruler.rubric import DEFAULT_RUBRIC, Rubric
from ruler.scoring import JudgeCall, Ruler
from ruler.types import (
    FailedGroup,
    FailedOrder,
    Group,
    Judge,
    JudgedOrder,
    JudgeInfo,
    JudgeReply,
    JudgeRequest,
    Juror,
    Rollout,
    Sampling,
    Score,
    ScoredGroup,
    Usage,
)

if TYPE_CHECKING:
    from ruler.client import Client, JoinedScore

__all__ = [
    "DEFAULT_RUBRIC",
    "BudgetExceeded",
    "Client",
    "ConfigError",
    "FailedGroup",
    "FailedOrder",
    "Group",
    "GroupError",
    "JoinedScore",
    "Judge",
    "JudgeCall",
    "JudgeError",
    "JudgeInfo",
    "JudgeRejected",
    "JudgeReply",
    "JudgeRequest",
    "JudgeUnavailable",
    "JudgedOrder",
    "Juror",
    "PackedPrompt",
    "PackingError",
    "ReplyError",
    "Rollout",
    "Rubric",
    "Ruler",
    "RulerError",
    "Sampling",
    "Score",
    "ScoredGroup",
    "Usage",
]


def __getattr__(name: str) -> Any:
    # Loaded when it is wanted: most programs score in their own process, and need no HTTP.
    if name in ("Client", "JoinedScore"):
        import ruler.client

        return getattr(ruler.client, name)
    raise AttributeError(f"module 'ruler' has no attribute {name!r}")
