"""What judges share that read the probabilities of a model in this process, on a thread of its own."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from judges.batch_thread import BatchThread
from ruler.errors import JudgeError, JudgeRejected
from ruler.types import JudgeReply, JudgeRequest, Usage, with_usage


async def reply_from(thread: BatchThread[JudgeRequest, Any, JudgeReply], request: JudgeRequest) -> JudgeReply:
    """The thread's reply, with the time that it waited and took; a JudgeError counts as a call."""
    try:
        answered = await thread.ask(request)
    except JudgeError as error:
        raise with_usage(error, Usage(calls=1)) from None
    reply = answered.value
    usage = replace(reply.usage, wait_seconds=answered.wait_seconds)
    return replace(reply, usage=usage, latency_seconds=answered.latency_seconds)


def refuse_sampling(name: str, request: JudgeRequest) -> None:
    """Raises JudgeRejected, in the name of the judge, if the request asks for a temperature or the like."""
    asked = [f"{key}={value}" for key, value in asdict(request.sampling).items() if value is not None]
    if asked:
        raise JudgeRejected(f"{name}: {', '.join(asked)}: this judge reads probabilities and samples nothing")
