"""One thread that answers calls from any number of event loops and threads, as many at a time as are waiting."""

from __future__ import annotations

import asyncio
import atexit
import copy
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from judges.threads import hand_over
from ruler.errors import JudgeRejected, RulerError, describe

_Question = TypeVar("_Question")
_Prepared = TypeVar("_Prepared")
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Answered(Generic[_Answer]):
    """An answer, and how long it took."""

    value: _Answer
    wait_seconds: float
    """Until the thread took the question up."""
    latency_seconds: float
    """From then on."""


@dataclass(eq=False, slots=True)
class _Job(Generic[_Question, _Answer]):
    question: _Question
    future: asyncio.Future[_Answer]
    started: float = 0.0

    def settle(self, result: _Answer | Exception) -> None:
        hand_over(self.future, result)


class BatchThread(Generic[_Question, _Prepared, _Answer]):
    """Runs `answer` on its own thread, which starts with the first question and sleeps while there is none.

    It ends, and lets go of what it owns, when this object is closed or dropped. A question whose caller has been
    cancelled before its batch begins is dropped.

    Args:
        name: of the thread.
        prepare: one question -> what `answer` takes; while it is at work, further questions may arrive for the batch.
        answer: prepared questions -> (index, answer or error) of each as it is done. What it raises goes to all that
            have no answer yet.
        release: called at the end, on the thread.

    `prepare`, `answer` and `release` must not refer to this object or its owner, or it is never dropped.
    """

    def __init__(
        self,
        name: str,
        *,
        prepare: Callable[[_Question], _Prepared],
        answer: Callable[[list[_Prepared]], Iterable[tuple[int, _Answer | Exception]]],
        release: Callable[[], None],
    ) -> None:
        self._queue: SimpleQueue[_Job[_Question, _Answer] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._name = name
        self._thread: threading.Thread | None = threading.Thread(
            target=_work, args=(self._queue, prepare, answer, release), name=name, daemon=True
        )
        weakref.finalize(self, self._queue.put, None).atexit = False

    async def ask(self, question: _Question) -> Answered[_Answer]:
        """The answer.

        Raises:
            JudgeRejected: closed; this process was forked after the first question; `prepare` or `answer` raised
                something unforeseen.
            RulerError: what `prepare` or `answer` raised or gave as the answer.
        """
        job: _Job[_Question, _Answer] = _Job(question, asyncio.get_running_loop().create_future())
        asked = time.perf_counter()
        with self._lock:
            if self._thread is None:
                raise JudgeRejected(f"{self._name} is closed")
            if self._thread.ident is not None and not self._thread.is_alive():
                # A model that threads were at when the process was forked cannot be used in the child, either.
                raise JudgeRejected(
                    f"{self._name}: was used before this process was forked; make a judge of its own here"
                )
            if self._thread.ident is None:
                _end_with_the_process()
                self._thread.start()
                _running[self._thread] = self._queue
            self._queue.put(job)
        value = await job.future
        return Answered(value, job.started - asked, time.perf_counter() - job.started)

    def close(self) -> None:
        """Answers what has been asked, then ends the thread and waits for its end. Closing twice is fine."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None and thread.ident is not None:
            self._queue.put(None)
            thread.join()


_running: weakref.WeakKeyDictionary[threading.Thread, SimpleQueue[Any]] = weakref.WeakKeyDictionary()
_EXIT_SECONDS = 10.0


@cache
def _end_with_the_process() -> None:
    # Registered late, so that it runs before whatever torch does at exit.
    atexit.register(_end_all)


def _end_all() -> None:
    """Waits for the threads: one that is still in torch when the interpreter goes away takes the process down."""
    running = list(_running.items())
    for _, queue in running:
        queue.put(None)
    ends = time.monotonic() + _EXIT_SECONDS
    for thread, _ in running:
        thread.join(max(0.0, ends - time.monotonic()))


def _work(
    queue: SimpleQueue[_Job[_Question, _Answer] | None],
    prepare: Callable[[_Question], _Prepared],
    answer: Callable[[list[_Prepared]], Iterable[tuple[int, _Answer | Exception]]],
    release: Callable[[], None],
) -> None:
    more = True
    while more:
        more = _work_once(queue, prepare, answer)
    release()


def _work_once(
    queue: SimpleQueue[_Job[_Question, _Answer] | None],
    prepare: Callable[[_Question], _Prepared],
    answer: Callable[[list[_Prepared]], Iterable[tuple[int, _Answer | Exception]]],
) -> bool:
    """Answers what is waiting, at least one question; False when there is to be no more."""
    jobs: list[_Job[_Question, _Answer]] = []
    prepared: list[_Prepared] = []
    job = queue.get()
    while job is not None:
        if not job.future.cancelled():
            job.started = time.perf_counter()
            try:
                prepared.append(prepare(job.question))
                jobs.append(job)
            except Exception as error:  # noqa: BLE001 it belongs to the caller
                job.settle(_for_caller(error))
        try:
            job = queue.get_nowait()
        except Empty:
            break
    wanted = [(job, item) for job, item in zip(jobs, prepared, strict=True) if not job.future.cancelled()]
    unanswered = dict(enumerate(job for job, _ in wanted))
    try:
        for index, result in answer([item for _, item in wanted]) if wanted else ():
            unanswered.pop(index).settle(result)
    except Exception as error:  # noqa: BLE001 it belongs to the callers
        for left in unanswered.values():
            left.settle(_for_caller(error))
    return job is not None


def _for_caller(error: Exception) -> Exception:
    """An exception of its own for each caller, without the frames that may hold the device's memory."""
    if isinstance(error, RulerError):
        return copy.copy(error)
    return JudgeRejected(" ".join(f"unforeseen: {describe(error)}".split())[:500])
