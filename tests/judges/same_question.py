"""A process with many tasks that all ask the same question: `python -m tests.judges.same_question STORE CALLS GO`.

Each call of its judge appends a line to the file CALLS. It begins when the file GO is there, and prints what its tasks
were told.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from pathlib import Path

from judges.cache import CachedJudge
from ruler.config import open_store
from ruler.types import JudgeInfo
from tests.judges.questions import answer, question

NUM_TASKS = 200


async def main(location: str, calls: Path, go: Path) -> dict[tuple[bool, int, int], int]:
    """(right reply, calls, cache hits) -> tasks that were told so."""

    async def judge(request):
        with calls.open("a") as file:
            file.write(f"{os.getpid()}\n")
        await asyncio.sleep(0.5)
        return answer()

    judge.info = JudgeInfo(backend="test", model="same")
    store = open_store(location)
    assert store is not None
    cached = CachedJudge(judge, store)
    await asyncio.to_thread(wait_for, go)
    replies = await asyncio.gather(*(cached(question(str(calls))) for _ in range(NUM_TASKS)))
    await store.close()
    return Counter((reply.text == answer().text, reply.usage.calls, reply.usage.cache_hits) for reply in replies)


def wait_for(go: Path) -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while not go.exists():
        time.sleep(0.005)


if __name__ == "__main__":
    told = asyncio.run(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
    sys.stdout.write(f"{dict(told)}\n")
