"""What an endpoint answers: the right scores for a prompt, and every wrong answer that is a whole HTTP response."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from email.utils import formatdate
from functools import cached_property
from typing import Any

from benchmarks.faults import Fault
from benchmarks.raw_http import Response
from judges.simulated import Behaviour, SimulatedJudge, hash_quality
from ruler.errors import JudgeError
from ruler.types import FENCE, JudgeRequest

_CHARS_PER_TOKEN = 4
# A quality in [0, 1) times 100: scores spread evenly over the whole range.
_JUDGE = SimulatedJudge(hash_quality, behaviour=Behaviour(scale=100.0))


def prompt_key(messages: Sequence[Mapping[str, Any]]) -> str:
    """Sixteen hexadecimal digits that stand for the content of the first two messages.

    A re-ask, which adds messages, has its prompt's key; so has another repeat of it.
    """
    digest = hashlib.sha256()
    for message in messages[:2]:
        content = message.get("content")
        told = content if isinstance(content, str) else json.dumps(content, sort_keys=True)
        data = told.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return digest.hexdigest()[:16]


def right_scores(messages: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Label -> score in 0..100 for every rollout between the prompt's fences, in the order shown.

    Raises:
        ValueError: no user message, no fences, or broken ones.
    """
    reply = json.loads(Question(tuple(messages)).right_reply)
    return {item["id"]: item["score"] for item in reply["scores"]}


class Question:
    """A chat-completions request, as far as an answer depends on it.

    Raises:
        ValueError: it is none that can be answered; says why without quoting it.
    """

    def __init__(self, messages: Sequence[Any], schema: Mapping[str, Any] | None = None) -> None:
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError("messages: expected a list of objects")
        self.key = prompt_key(messages)
        texts = [_text(message.get("content")) for message in messages]
        users = (text for message, text in zip(messages, texts, strict=True) if message.get("role") == "user")
        self._user_text = next(users, "")
        self._schema = schema or {}
        self.labels = tuple(fence["id"] for fence in FENCE.finditer(self._user_text) if not fence["close"])
        if not self.labels:
            raise ValueError("messages: the first user message holds no rollout between fences")
        self.num_tokens = sum(map(len, texts)) // _CHARS_PER_TOKEN

    @classmethod
    def read(cls, body: bytes) -> Question:
        """The question in an HTTP body.

        Raises:
            ValueError: as the class; also for what is no JSON.
        """
        try:
            request = json.loads(body)
        except (ValueError, RecursionError):
            raise ValueError("the body is no JSON") from None
        messages = request.get("messages") if isinstance(request, dict) else None
        if not isinstance(messages, list):
            raise ValueError("messages: expected a list of objects")
        schema: Any = request
        for name in ("response_format", "json_schema", "schema"):
            schema = schema.get(name) if isinstance(schema, dict) else None
        return cls(messages, schema if _has_notes(schema) else None)

    @cached_property
    def right_reply(self) -> str:
        """The text of the right reply: the simulated judge's, with notes where the schema has them.

        Raises:
            ValueError: the prompt's fences are broken.
        """
        message = {"role": "user", "content": self._user_text}
        try:
            # The simulated judge waits for nothing: one step runs it to its end, without an event loop.
            _JUDGE(JudgeRequest((message,), self._schema, self.labels)).send(None)
        except StopIteration as done:
            text: str = done.value.text
            return text
        except JudgeError:
            raise ValueError("messages: the fences are broken") from None
        raise AssertionError("unreachable: the simulated judge waits for nothing")


def _text(content: object) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        texts = [part.get("text", "") for part in content if part.get("type") == "text"]
        if all(isinstance(text, str) for text in texts):
            return "".join(texts)
    raise ValueError("messages: expected content as text or as a list of parts")


def _has_notes(schema: object) -> bool:
    properties = schema.get("properties") if isinstance(schema, dict) else None
    return isinstance(properties, dict) and "notes" in properties


def respond(fault: Fault | None, question: Question, *, retry_after_seconds: float) -> Response:
    """The response of a server under this fault; without one, or where the fault is in the sending, the right one.

    Raises:
        ValueError: the question cannot be answered.
    """
    if fault in _ERRORS:
        status, message, code = _ERRORS[fault]
        return Response(error(message, code), status, retry_after=_retry_after(fault, retry_after_seconds))
    if fault in (Fault.HTML_200, Fault.HTML_502):
        return Response(_PAGE, 502 if fault is Fault.HTML_502 else 200, "text/html; charset=utf-8")
    if fault is Fault.NO_BODY:
        return Response(b"")
    if fault is Fault.REFUSAL:
        return Response(completion(question, None, refusal="I cannot compare these."))
    if fault is Fault.CONTENT_FILTER:
        return Response(completion(question, "", finish_reason="content_filter"))
    text = reply_text(fault, question)
    limited = fault in (Fault.CUT_AT_LIMIT, Fault.EMPTY_AT_LIMIT)
    body = completion(question, text, finish_reason="length" if limited else "stop")
    if fault is Fault.CUT_BODY:
        return Response(body[: len(body) // 2])
    content_type = "text/plain" if fault is Fault.PLAIN_TYPE else "application/json"
    return Response(body, content_type=content_type)


_ERRORS: Mapping[Fault | None, tuple[int, str, str]] = {
    Fault.RATE_LIMIT: (429, "Too many requests", "rate_limit_exceeded"),
    Fault.RATE_LIMIT_SECONDS: (429, "Too many requests", "rate_limit_exceeded"),
    Fault.RATE_LIMIT_DATE: (429, "Too many requests", "rate_limit_exceeded"),
    Fault.ERROR_500: (500, "The server had an error", "server_error"),
    Fault.ERROR_502: (502, "No answer from the model", "bad_gateway"),
    Fault.ERROR_503: (503, "The model is loading", "overloaded"),
    Fault.CONTEXT_OVERFLOW: (400, "This model's maximum context length is 8192 tokens", "context_length_exceeded"),
    Fault.UNAUTHORIZED: (401, "Incorrect API key provided", "invalid_api_key"),
}
_PAGE = b"<!DOCTYPE html>\n<html><head><title>Error</title></head><body><h1>Try again later</h1></body></html>\n"


def _retry_after(fault: Fault | None, seconds: float) -> str | None:
    if fault is Fault.RATE_LIMIT_SECONDS:
        return f"{seconds:g}"
    if fault is Fault.RATE_LIMIT_DATE:
        return formatdate(math.ceil(time.time() + seconds), usegmt=True)
    return None


def reply_text(fault: Fault | None, question: Question) -> str:
    """The judge's text under this fault; the right one where the fault is not in the text.

    Raises:
        ValueError: the question cannot be answered.
    """
    right = question.right_reply
    if fault is None:
        return right
    if fault in (Fault.EMPTY_TEXT, Fault.EMPTY_AT_LIMIT):
        return ""
    if fault in (Fault.CUT_TEXT, Fault.CUT_AT_LIMIT):
        # Behind the last score's first digit: what is left looks most like an answer.
        return right[: right.rindex(":") + 3]
    if fault is Fault.FENCED:
        return f"```json\n{right}\n```\n"
    if fault is Fault.PROSE:
        return f"I read all of them with care.\n\n{right}\n\nTell me if you need more."
    reply = json.loads(right)
    scores = reply["scores"]
    if fault is Fault.WRONG_ID:
        scores[-1]["id"] = max(question.labels, key=len) + "X"
    elif fault is Fault.MISSING_ID:
        del scores[-1]
    elif fault is Fault.DOUBLE_ID:
        scores.append({"id": scores[0]["id"], "score": 99 if scores[0]["score"] < 50 else 1})
    elif fault is Fault.OUT_OF_RANGE:
        scores[0]["score"], scores[-1]["score"] = 173, -5
    elif fault is Fault.NOT_FINITE:
        scores[0]["score"], scores[-1]["score"] = math.nan, math.inf
    elif fault is Fault.TEXT_SCORES:
        reply["scores"] = [{"id": item["id"], "score": str(item["score"])} for item in scores]
    elif fault is Fault.CONTRADICTION:
        wrong = [{"id": item["id"], "score": 100 - item["score"]} for item in scores]
        last = {"scores": {item["id"]: item["score"] for item in scores}}
        return f"{json.dumps({'scores': wrong})}\n\nOn second thought:\n\n{json.dumps(last)}"
    return json.dumps(reply)


def completion(question: Question, text: str | None, *, finish_reason: str = "stop", **message: object) -> bytes:
    """A chat completion as JSON, tokens estimated at four characters each; keywords go into its message."""
    num_output = -(-len(text or "") // _CHARS_PER_TOKEN)
    usage = {
        "prompt_tokens": question.num_tokens,
        "completion_tokens": num_output,
        "total_tokens": question.num_tokens + num_output,
    }
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, **message},
        "finish_reason": finish_reason,
    }
    body = {
        "id": f"chatcmpl-{question.key}",
        "object": "chat.completion",
        "created": 1,
        "model": "fault-server",
        "choices": [choice],
        "usage": usage,
    }
    return json.dumps(body).encode()


def error(message: str, code: str) -> bytes:
    """An error object in OpenAI's form."""
    return json.dumps({"error": {"message": message, "type": code, "param": None, "code": code}}).encode()
