"""Asking judges: all questions about one group at once, each answered with a usable verdict or an error."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ruler.errors import BudgetExceeded, JudgeError, PackingError, ReplyError, RulerError
from ruler.packing import PackedPrompt
from ruler.reply import Verdict, read_reply
from ruler.types import Judge, JudgeReply, JudgeRequest, Usage, judge_info, reply_fault, usage_of, with_usage


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt for one judge."""

    judge: Judge
    judge_name: str
    prompt: PackedPrompt
    request: JudgeRequest


@dataclass(frozen=True, slots=True)
class Answer:
    """A usable reply, and what it says."""

    question: Question
    reply: JudgeReply
    verdict: Verdict

    @property
    def usage(self) -> Usage:
        return self.reply.usage


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Why a question has no usable reply."""

    question: Question
    error: RulerError

    @property
    def usage(self) -> Usage:
        return usage_of(self.error)


def check_window(question: Question, group_id: str) -> None:
    """Raises PackingError when prompt and reply cannot fit; counts tokens only where bytes do not settle it."""
    info = judge_info(question.judge)
    if info.context_tokens is None:
        return
    room = info.context_tokens - (info.sampling.max_tokens or 0)
    if sum(len(text.encode()) for _, text in question.prompt.parts) <= room:
        return  # no tokenizer makes more tokens than bytes
    from ruler.tokens import token_counter  # loads a tokenizer, which most groups do not need

    tokenizer, count = token_counter(info)
    total = question.prompt.tokens(count)["total"]
    if total > room:
        raise PackingError(
            f"group {group_id!r}: the prompt has {total:,} tokens ({tokenizer}), "
            f"the window of judge {question.judge_name} has room for {room:,}"
        )


Settled = Callable[[Question, JudgeReply | None, RulerError | None], None]
"""Told of a question, the reply if one came, and the error if there are no scores."""


async def ask_all(questions: Sequence[Question], settled: Settled) -> list[Answer]:
    """The answers, in the order of the questions, which are all asked at once.

    When one fails, the others are waited for and not cancelled: what is in flight is paid for, a cache inside the
    judge keeps it for the next attempt, and only a finished call can say what it cost. When the caller is cancelled
    or `settled` raises, all are cancelled. No task is left behind in any case.

    Raises:
        RulerError: not every question has a usable reply. It is that of the first question that failed, but a reached
            budget goes before any other, because it must stop the run. Of several questions, the message names
            each judge that failed, and the usage is what all of them spent.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_ask(question, settled)) for question in questions]
    except BaseExceptionGroup as raised:
        # What `settled` raised is the caller's own, who knows nothing of our tasks.
        raise raised.exceptions[0] from None
    outcomes = [task.result() for task in tasks]
    answers = [outcome for outcome in outcomes if isinstance(outcome, Answer)]
    if len(answers) < len(outcomes):
        raise _joint_error(outcomes)
    return answers


def _joint_error(outcomes: Sequence[Answer | NoAnswer]) -> RulerError:
    failures = [outcome for outcome in outcomes if isinstance(outcome, NoAnswer)]
    failures.sort(key=lambda failure: not isinstance(failure.error, BudgetExceeded))
    error = failures[0].error
    if len(outcomes) == 1:
        return error
    message = "; ".join(f"judge {failure.question.judge_name}: {failure.error}" for failure in failures)
    joint = with_usage(error, sum((outcome.usage for outcome in outcomes), Usage()), message=message)
    joint.__cause__ = error
    return joint


async def _ask(question: Question, settled: Settled) -> Answer | NoAnswer:
    reply: JudgeReply | None = None
    try:
        reply = await _call(question)
        answer = Answer(question, reply, _read(question, reply))
    except RulerError as error:
        settled(question, reply, error)
        return NoAnswer(question, error)
    settled(question, reply, None)
    return answer


async def _call(question: Question) -> JudgeReply:
    try:
        reply = await question.judge(question.request)
    except RulerError:
        raise
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # Nobody cancelled us: something inside the judge gave up. It must not look like the end of the run.
        raise JudgeError("the judge was cancelled from inside") from error
    except (Exception, SystemExit, GeneratorExit) as error:
        # A user's judge may raise anything, and must not take the other groups down.
        raise JudgeError(f"the judge raised {type(error).__name__}: {error}") from error
    fault = reply_fault(reply)
    if fault:
        raise JudgeError(f"the judge {fault}")
    return reply


def _read(question: Question, reply: JudgeReply) -> Verdict:
    try:
        return read_reply(reply.text, question.request.ids)
    except ReplyError as error:
        raise ReplyError(str(error), usage=reply.usage, raw=error.raw, finish_reason=reply.finish_reason) from None
