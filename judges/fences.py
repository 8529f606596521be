"""Where the rollouts stand in a packed prompt, for judges that find them by code."""

from __future__ import annotations

from ruler.errors import JudgeRejected
from ruler.types import FENCE, JudgeRequest


def user_text(request: JudgeRequest) -> str:
    """The text of the first user message; its images are left out."""
    content = next(message["content"] for message in request.messages if message["role"] == "user")
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def find_rollouts(prompt: str) -> tuple[str, dict[str, str]]:
    """The text before the first fence, and label -> text of each rollout in the order shown.

    Raises:
        JudgeRejected: the fences are broken.
    """
    rollouts: dict[str, str] = {}
    opened: tuple[str, int] | None = None
    start = len(prompt)
    for fence in FENCE.finditer(prompt):
        if opened is None and not fence["close"] and fence["id"] not in rollouts:
            opened = fence["id"], fence.end() + 1
            start = min(start, fence.start())
        elif opened and fence["close"] and fence["id"] == opened[0]:
            rollouts[opened[0]] = prompt[opened[1] : fence.start() - 1]
            opened = None
        else:
            raise JudgeRejected(f"the prompt's fences are broken at {fence[0]!r}")
    if opened:
        raise JudgeRejected(f"the prompt's fence <rollout {opened[0]}> is never closed")
    return prompt[:start], rollouts
