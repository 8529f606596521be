"""Trajectories and judges for the tests."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import art
from openai.types.chat.chat_completion import Choice

from judges.scripted import Answer, ScriptedJudge, scores_reply
from ruler.types import JudgeInfo, JudgeRequest

SYSTEM = {"role": "system", "content": "Answer in one word."}
QUESTION = {"role": "user", "content": "What is the capital of Norway?"}


def choice(content: str | None, *, finish_reason: str = "stop", **message: Any) -> Choice:
    return Choice.model_validate(
        {
            "index": 0,
            "finish_reason": finish_reason,
            "message": {"role": "assistant", "content": content, **message},
            "logprobs": {"content": [{"token": "a", "logprob": -0.1, "top_logprobs": []}], "refusal": None},
        }
    )


def trajectory(*said: Any, **fields: Any) -> art.Trajectory:
    """After the question, what was said: text of the policy, or messages and choices as they are."""
    later = [choice(one) if isinstance(one, str) else one for one in said]
    return art.Trajectory(messages_and_choices=[SYSTEM, QUESTION, *later], **fields)


def group(*answers: str, **fields: Any) -> art.TrajectoryGroup:
    return art.TrajectoryGroup([trajectory(answer) for answer in answers], **fields)


def user_text(request: JudgeRequest) -> str:
    content = request.messages[-1]["content"]
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def shown(request: JudgeRequest) -> dict[str, str]:
    """Label -> the text between its fences."""
    found = re.findall(r"^<rollout ([A-Z]+)>\n(.*?)\n</rollout \1>$", user_text(request), re.MULTILINE | re.DOTALL)
    return dict(found)


def labels(request: JudgeRequest, points: Mapping[str, float]) -> dict[str, float]:
    """Label -> the points of the first key that its text holds."""
    return {label: next(p for key, p in points.items() if key in text) for label, text in shown(request).items()}


def points_judge(points: Mapping[str, float], **info: Any) -> ScriptedJudge:
    """Scores by what a rollout's text holds; it says its scores in the opposite order, with a note that quotes it."""

    def answer(request: JudgeRequest) -> Answer:
        scores = labels(request, points)
        texts = shown(request)
        return scores_reply(
            dict(reversed(scores.items())), {label: f"said {texts[label]}" for label in reversed(scores)}
        )

    return ScriptedJudge(answer, info=JudgeInfo(backend="scripted", model="scripted", **info))


def raw_judge(entries: Any) -> ScriptedJudge:
    """Its scores are what a function makes of the labels, as they are."""
    return ScriptedJudge(lambda request: json.dumps({"notes": [], "scores": entries(list(request.ids))}))
