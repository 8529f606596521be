from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from judges.batch_thread import BatchThread
from judges.in_process import refuse_sampling, reply_from
from ruler.errors import JudgeRejected
from ruler.types import JudgeReply, JudgeRequest, Sampling, Usage
from tests.judges.questions import answer, question


def reply(batch: list[JudgeRequest]) -> Iterator[tuple[int, JudgeReply]]:
    yield from ((index, answer()) for index, _ in enumerate(batch))


def refuse(batch: list[JudgeRequest]) -> Iterator[tuple[int, JudgeReply]]:
    raise JudgeRejected("not mine")


async def test_a_reply_comes_with_its_times_and_its_tokens() -> None:
    thread = BatchThread("m", prepare=lambda asked: asked, answer=reply, release=lambda: None)
    found = await reply_from(thread, question())
    thread.close()
    assert replace(found, usage=replace(found.usage, wait_seconds=0.0), latency_seconds=0.0) == answer()
    assert found.usage.wait_seconds > 0
    assert found.latency_seconds > 0


async def test_an_error_counts_as_a_call() -> None:
    thread = BatchThread("m", prepare=lambda asked: asked, answer=refuse, release=lambda: None)
    with pytest.raises(JudgeRejected, match="not mine") as caught:
        await reply_from(thread, question())
    thread.close()
    assert caught.value.usage == Usage(calls=1)


def test_sampling_is_refused_by_name() -> None:
    refuse_sampling("m", question())
    with pytest.raises(JudgeRejected, match=r"^m: temperature=0.0, seed=1: this judge reads probabilities"):
        refuse_sampling("m", question(sampling=Sampling(temperature=0.0, seed=1)))
