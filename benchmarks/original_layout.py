"""The prompt layout of the first relative judge, for comparison: written from a description of it, not from its code.

System message: what the task is, grading standards. User message: the shared messages as one JSON list in `<context>`,
the first trajectory's tools, then each trajectory's remaining messages as a JSON list in `<trajectory id="1">`, in the
order they came. JSON is dumped with escapes for everything that is not ASCII; tool calls stay JSON inside JSON; ids are
positions. Where all trajectories are equal, or there is one, one stands whole as the first, and nothing is shared.

One thing is not copied: a slip indented some of its system message's lines by eight spaces.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ruler.types import ChatMessage

# Its wording is its authors'; these sentences say the same at the same length.
_SYSTEM = """\
Every trajectory below was given one and the same goal. Give each of them a score from 0 to 1. Go by your best \
understanding of the goal that the agent was meant to reach in it.

Grading standards:
- A trajectory that reaches its goal should always get a score that is markedly higher than that of a trajectory that \
fails to reach its goal.
- A trajectory that reaches its goal in a more efficient way (for example without unproductive detours) should get a \
higher score than one that reaches its goal less efficiently.
- When one trajectory is only a little better than another, the difference of scores should be small. When it is much \
better, the difference of scores should be large.
- Some partial credit may be given to a trajectory that makes progress towards its goal without completing it.
"""


def original_messages(
    task: Sequence[Mapping[str, Any]],
    rollouts: Sequence[Sequence[Mapping[str, Any]]],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
) -> tuple[ChatMessage, ...]:
    """System and user message for rollouts that come after the shared task messages."""
    words, context, trajectories = original_parts(task, rollouts, tools=tools)
    return ({"role": "system", "content": words}, {"role": "user", "content": "".join([context, *trajectories])})


def original_parts(
    task: Sequence[Mapping[str, Any]],
    rollouts: Sequence[Sequence[Mapping[str, Any]]],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
) -> tuple[str, str, list[str]]:
    """That text as (fixed words, shared messages and tools, one text a trajectory)."""
    lists = [[*task, *messages] for messages in rollouts]
    shared = 0
    if all(messages == lists[0] for messages in lists):
        lists = lists[:1]
    else:
        for column in zip(*lists, strict=False):
            if any(message != column[0] for message in column[1:]):
                break
            shared += 1
    context = f"<context>\n{json.dumps(lists[0][:shared])}\n</context>\n\n" if shared else ""
    listed = f"<available_tools>\n{json.dumps(tools)}\n</available_tools>\n\n" if tools else ""
    trajectories = [
        f'<trajectory id="{number}">\n{json.dumps(messages[shared:])}\n</trajectory>'
        for number, messages in enumerate(lists, 1)
    ]
    return _SYSTEM, f"{context}{listed}Trajectories:", [f"\n\n{text}" for text in trajectories]
