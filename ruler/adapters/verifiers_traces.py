"""Traces of verifiers 0.4, read into rollouts."""

from __future__ import annotations

from typing import Any

from ruler.errors import GroupError
from ruler.types import Rollout


def opening(trace: Any) -> list[Any]:
    """What the trace's agent was given before its first answer."""
    messages = []
    for node in _main_branch(trace).nodes:
        if node.sampled:
            break
        messages.append(node.message)
    return messages


def _main_branch(trace: Any) -> Any:
    """The branch that ends with the root agent's reply; sub-agents and compacted contexts have branches, too."""
    branches = trace.branches
    if not branches:
        raise GroupError(f"trace {trace.id!r}: has no messages")
    ends = [branch for branch in branches if trace.root_reply and _text(branch).strip() == trace.root_reply.strip()]
    return (ends or branches)[-1]


def _text(branch: Any) -> str:
    content = branch.nodes[-1].message.content
    return content if isinstance(content, str) else ""


def read_rollout(trace: Any, *, tools: object) -> Rollout:
    """What the judge is shown of a trace: its main branch, and what other branches hold beyond that as sections.

    Args:
        trace: with messages.
        tools: those of this trace, where its siblings had others.

    Raises:
        GroupError: there are no messages, or some cannot be read.
    """
    main = _main_branch(trace)
    seen = {id(node) for node in main.nodes}
    histories = {}
    for branch in trace.branches:
        own = [node.message for node in branch.nodes if id(node) not in seen]
        seen.update(id(node) for node in branch.nodes)
        if own:
            histories[f"branch {branch.index + 1}"] = own
    return Rollout.of(
        trace.id,
        main.messages,
        tools=tools,
        finish_reason="length" if trace.is_truncated else None,
        histories=histories,
        metadata={"rewards": {name: one.score for name, one in trace.rewards.items() if one is not None}},
    )
