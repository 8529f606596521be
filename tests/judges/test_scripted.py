from __future__ import annotations

import pytest

from judges.scripted import ScriptedJudge, scores_reply
from ruler.errors import JudgeUnavailable
from ruler.types import JudgeReply, JudgeRequest

REQUEST = JudgeRequest(messages=(), schema={}, ids=("A",))


async def test_it_answers_in_turn_keeps_the_requests_and_says_when_the_script_ends() -> None:
    whole = JudgeReply("whole", model="m")
    judge = ScriptedJudge(["text", whole, JudgeUnavailable("down")])
    assert (await judge(REQUEST)).text == "text"
    assert await judge(REQUEST) is whole
    with pytest.raises(JudgeUnavailable):
        await judge(REQUEST)
    with pytest.raises(AssertionError, match="no answer to request 4"):
        await judge(REQUEST)
    assert judge.requests == [REQUEST] * 4


async def test_it_answers_by_a_function() -> None:
    judge = ScriptedJudge(lambda request: ",".join(request.ids))
    assert (await judge(REQUEST)).text == "A"


def test_scores_reply_puts_notes_first_and_values_as_they_are() -> None:
    text = scores_reply({"A": 101, "B": "x"}, {"A": "n"})
    assert text == (
        '{"notes": [{"id": "A", "note": "n"}], "scores": [{"id": "A", "score": 101}, {"id": "B", "score": "x"}]}'
    )
