"""Requests and replies for tests of the layers around a judge."""

from __future__ import annotations

from functools import partial

from judges.scripted import scores_reply
from ruler.reply import read_reply, reply_schema
from ruler.types import JudgeReply, JudgeRequest, Sampling, Usage

IDS = ("KQX", "BDF")
GOOD = scores_reply({"KQX": 70, "BDF": 20})


def question(text: str = "Which is better?", *, checked: bool = True, **fields) -> JudgeRequest:
    """A request as scoring makes it."""
    messages = ({"role": "system", "content": "You compare."}, {"role": "user", "content": text})
    fields = {"sampling": Sampling(), "check": partial(read_reply, ids=IDS) if checked else None, **fields}
    return JudgeRequest(messages=messages, schema=reply_schema(notes=False), ids=IDS, **fields)


def answer(text: str = GOOD, **fields) -> JudgeReply:
    """A usable reply that took 100 and 10 tokens and a cent."""
    usage = Usage(calls=1, input_tokens=100, output_tokens=10, cost_usd=0.01)
    return JudgeReply(**{"text": text, "model": "served", "usage": usage, "finish_reason": "stop", **fields})
