"""What a run does."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.head_to_head.arms import Arm
from trainer.settings import Settings
from trainer.tasks.bundled import TaskName


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run."""

    task: TaskName
    arm: Arm
    settings: Settings
    num_problems: int
    """Held-out problems of the final measurement."""
    cache: str
    """For answers of judges that cost something."""
