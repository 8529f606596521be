"""The tasks that come with the trainer, by name."""

from __future__ import annotations

from typing import Literal, TypeAlias

from trainer.tasks import Task
from trainer.tasks.arithmetic import Level, arithmetic
from trainer.tasks.inbox import inbox

TaskName: TypeAlias = Literal["arithmetic", "inbox"]


def bundled_task(name: TaskName, level: Level = "addition") -> Task:
    """The task of this name; `level` is of arithmetic alone."""
    return arithmetic(level) if name == "arithmetic" else inbox()
