"""What every judge that wraps a judge has in common."""

from __future__ import annotations

from ruler.types import Judge, JudgeInfo, judge_info


class JudgeWrapper:
    """Says of itself what the judge inside says."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self.__qualname__ = judge_info(judge).name

    @property
    def info(self) -> JudgeInfo | None:
        """That of the judge inside; None when it has none, so that nobody takes a name for an identity."""
        info = getattr(self._judge, "info", None)
        return info if isinstance(info, JudgeInfo) else None
