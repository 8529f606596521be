from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from judges.batch_thread import BatchThread
from ruler.errors import ConfigError, JudgeRejected, JudgeUnavailable, RulerError

ROOT = __file__.rpartition("/tests/")[0]


class Squares:
    """What a thread may own: squares numbers, keeps the batches, and waits while the gate is closed."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.began = threading.Event()
        self.released = threading.Event()

    def prepare(self, question: int) -> int:
        if question < 0:
            raise JudgeRejected(f"{question} is negative")
        return question

    def answer(self, batch: list[int]) -> Iterator[tuple[int, int | Exception]]:
        self.threads.add(threading.get_ident())
        self.batches.append(batch)
        self.began.set()
        assert self.gate.wait(10)
        for index, number in reversed(list(enumerate(batch))):
            yield index, JudgeUnavailable("zero") if number == 0 else number**2

    def release(self) -> None:
        self.released.set()


def thread_for(owner: Squares) -> BatchThread[int, int, int]:
    return BatchThread("squares", prepare=owner.prepare, answer=owner.answer, release=owner.release)


def running() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "squares"]


async def test_what_waits_is_answered_together() -> None:
    owner = Squares()
    squares = thread_for(owner)
    owner.gate.clear()
    first = asyncio.create_task(squares.ask(2))
    await asyncio.to_thread(owner.began.wait)
    others = [asyncio.create_task(squares.ask(number)) for number in (3, 4, 5)]
    await asyncio.sleep(0)
    owner.gate.set()
    answered = await asyncio.gather(first, *others)
    assert [item.value for item in answered] == [4, 9, 16, 25]
    assert owner.batches == [[2], [3, 4, 5]]
    assert all(item.wait_seconds >= 0 and item.latency_seconds >= 0 for item in answered)
    squares.close()


async def test_no_thread_before_the_first_question_and_none_after_closing() -> None:
    owner = Squares()
    squares = thread_for(owner)
    assert not running()
    assert (await squares.ask(3)).value == 9
    assert len(running()) == 1
    squares.close()
    squares.close()
    assert not running()
    assert owner.released.is_set()
    with pytest.raises(JudgeRejected, match="squares is closed"):
        await squares.ask(3)


def test_closing_what_never_ran() -> None:
    thread_for(Squares()).close()


async def test_closing_answers_what_is_in_flight() -> None:
    owner = Squares()
    squares = thread_for(owner)
    owner.gate.clear()
    asked = [asyncio.create_task(squares.ask(number)) for number in (2, 3)]
    await asyncio.to_thread(owner.began.wait)
    closing = asyncio.create_task(asyncio.to_thread(squares.close))
    owner.gate.set()
    await closing
    assert [(await item).value for item in asked] == [4, 9]


@pytest.mark.slow
async def test_a_dropped_one_ends_its_thread_and_lets_go() -> None:
    owner = Squares()
    squares = thread_for(owner)
    assert (await squares.ask(3)).value == 9
    (thread,) = running()
    gone = weakref.ref(owner)
    released = owner.released
    del squares, owner
    gc.collect()
    await asyncio.to_thread(thread.join, 10)
    assert released.is_set()
    gc.collect()
    assert gone() is None


async def test_a_cancelled_question_is_not_asked() -> None:
    owner = Squares()
    squares = thread_for(owner)
    owner.gate.clear()
    first = asyncio.create_task(squares.ask(2))
    await asyncio.to_thread(owner.began.wait)
    unwanted, wanted = asyncio.create_task(squares.ask(3)), asyncio.create_task(squares.ask(4))
    await asyncio.sleep(0)
    unwanted.cancel()
    await asyncio.sleep(0)
    owner.gate.set()
    assert ((await first).value, (await wanted).value) == (4, 16)
    assert owner.batches == [[2], [4]]
    squares.close()


async def test_a_question_that_is_cancelled_in_the_batch_disturbs_no_other() -> None:
    owner = Squares()
    squares = thread_for(owner)
    owner.gate.clear()
    asked = [asyncio.create_task(squares.ask(number)) for number in (2, 3)]
    await asyncio.to_thread(owner.began.wait)
    asked[0].cancel()
    owner.gate.set()
    assert (await asked[1]).value == 9
    squares.close()


async def test_errors_belong_to_their_question() -> None:
    squares = thread_for(Squares())
    results = await asyncio.gather(*(squares.ask(number) for number in (2, -1, 0, 3)), return_exceptions=True)
    assert [type(result).__name__ for result in results] == [
        "Answered",
        "JudgeRejected",
        "JudgeUnavailable",
        "Answered",
    ]
    squares.close()


@pytest.mark.parametrize(
    ("raised", "expected", "words"),
    [
        (ConfigError("no weights"), ConfigError, "^no weights$"),
        (ZeroDivisionError("by\nzero"), JudgeRejected, "^unforeseen: ZeroDivisionError: by zero$"),
    ],
)
async def test_what_the_batch_raises_goes_to_each_without_an_answer(
    raised: Exception, expected: type[RulerError], words: str
) -> None:
    def answer(batch: list[int]) -> Iterator[tuple[int, int]]:
        yield 0, 1
        raise raised

    squares: BatchThread[int, int, int] = BatchThread(
        "squares", prepare=lambda number: number, answer=answer, release=lambda: None
    )
    results = await asyncio.gather(*(squares.ask(number) for number in (1, 2, 3)), return_exceptions=True)
    faults = [result for result in results if isinstance(result, expected)]
    assert faults
    assert len({id(fault) for fault in faults} | {id(raised)}) == len(faults) + 1  # none shares a traceback
    with pytest.raises(expected, match=words):
        raise faults[-1]
    assert (await squares.ask(7)).value == 1  # the thread lives on
    squares.close()


def test_many_event_loops_share_the_thread() -> None:
    owner = Squares()
    squares = thread_for(owner)

    def loop(number: int) -> int:
        return asyncio.run(squares.ask(number)).value

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(loop, range(1, 41))) == [number**2 for number in range(1, 41)]
    assert len(owner.threads) == 1
    squares.close()


def test_a_loop_that_is_gone_is_no_fault() -> None:
    owner = Squares()
    squares = thread_for(owner)
    owner.gate.clear()
    loop = asyncio.new_event_loop()
    task = loop.create_task(squares.ask(2))
    loop.run_until_complete(asyncio.sleep(0))
    assert owner.began.wait(10)
    task.cancel()
    loop.run_until_complete(asyncio.wait([task]))
    loop.close()
    owner.gate.set()
    assert asyncio.run(squares.ask(3)).value == 9
    squares.close()


def test_the_process_ends_with_a_batch_in_progress() -> None:
    code = """if True:
        import asyncio, time
        from judges.batch_thread import BatchThread
        def answer(batch):
            time.sleep(0.3)
            print("done", flush=True)
            return [(place, 1) for place in range(len(batch))]
        thread = BatchThread("t", prepare=lambda x: x, answer=answer, release=lambda: print("released", flush=True))
        async def main():
            asyncio.create_task(thread.ask(1))
            await asyncio.sleep(0.1)
        asyncio.run(main())
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["done", "released"], "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
def test_in_a_forked_child_it_says_so_and_does_not_hang() -> None:
    squares = thread_for(Squares())
    assert asyncio.run(squares.ask(3)).value == 9
    child = os.fork()
    if not child:
        signal.alarm(10)
        try:
            asyncio.run(squares.ask(4))
        except JudgeRejected as error:
            os._exit(7 if "forked" in str(error) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert asyncio.run(squares.ask(5)).value == 25
    squares.close()
