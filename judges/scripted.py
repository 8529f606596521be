"""A judge that says what it is told: for tests, ours and yours.

judge = ScriptedJudge(['{"scores": [...]}', JudgeUnavailable("down")])
judge = ScriptedJudge(lambda request: scores_reply({i: 50 for i in request.ids}))
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping

from ruler.errors import RulerError
from ruler.types import JudgeInfo, JudgeReply, JudgeRequest, Usage

Answer = str | JudgeReply | RulerError


class ScriptedJudge:
    """Answers from a list, in turn, or from a function; an error in the script is raised.

    Attributes:
        requests: every request so far, in order.
        info: what it says of itself; give another to play a judge with a window, images or a prefix cache.
    """

    def __init__(
        self,
        answers: Iterable[Answer] | Callable[[JudgeRequest], Answer],
        *,
        info: JudgeInfo = JudgeInfo(backend="scripted", model="scripted"),
    ) -> None:
        self._answers = answers if callable(answers) else iter(answers)
        self.info = info
        self.requests: list[JudgeRequest] = []

    async def __call__(self, request: JudgeRequest) -> JudgeReply:
        """The next answer.

        Raises:
            RulerError: when that is what the script holds.
            AssertionError: the script is at its end.
        """
        self.requests.append(request)
        if callable(self._answers):
            answer = self._answers(request)
        else:
            try:
                answer = next(self._answers)
            except StopIteration:
                raise AssertionError(f"the script has no answer to request {len(self.requests)}") from None
        if isinstance(answer, RulerError):
            raise answer
        if isinstance(answer, str):
            return JudgeReply(answer, model=self.info.model, usage=Usage(calls=1), finish_reason="stop")
        return answer


def scores_reply(scores: Mapping[str, object], notes: Mapping[str, str] | None = None) -> str:
    """A reply in the form every judge is asked for, with these values as they are."""
    return json.dumps(
        {
            "notes": [{"id": name, "note": note} for name, note in (notes or {}).items()],
            "scores": [{"id": name, "score": score} for name, score in scores.items()],
        }
    )
