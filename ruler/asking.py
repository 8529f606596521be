"""Asking judges: questions about one group, all at once, each answered with a usable verdict or an error."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ruler.errors import BudgetExceeded, JudgeError, ReplyError, RulerError, describe
from ruler.packing import PackedPrompt
from ruler.reply import Verdict, read_reply
from ruler.types import Judge, JudgedOrder, JudgeReply, JudgeRequest, Usage, reply_fault, usage_of, with_usage


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

    @property
    def judged(self) -> JudgedOrder:
        """The scores by rollout, in the order shown."""
        prompt = self.question.prompt
        return JudgedOrder(
            judge=self.question.judge_name,
            order=prompt.order,
            block=prompt.block,
            rollout_ids=tuple(prompt.rollouts[label][0] for label in prompt.labels),
            scores=tuple(self.verdict.scores[label] for label in prompt.labels),
        )


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Why a question has no usable reply."""

    question: Question
    error: RulerError

    @property
    def usage(self) -> Usage:
        return usage_of(self.error)


Settled = Callable[[Question, JudgeReply | None, RulerError | None], None]
"""Told of a question, the reply if one came, and the error if there are no scores."""


async def ask_all(questions: Sequence[Question], settled: Settled) -> list[Answer | NoAnswer]:
    """What came of each question, in their order; all are asked at once.

    When one fails, the others are waited for and not cancelled: what is in flight is paid for, a cache inside the
    judge keeps it for the next attempt, and only a finished call can say what it cost. When the caller is cancelled
    or `settled` raises, all are cancelled. No task is left behind in any case.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_ask(question, settled)) for question in questions]
    except BaseExceptionGroup as raised:
        # What `settled` raised is the caller's own, who knows nothing of our tasks.
        raise raised.exceptions[0] from None
    return [task.result() for task in tasks]


def joint_error(outcomes: Sequence[Answer | NoAnswer], usage: Usage) -> RulerError:
    """Why a group has no scores.

    Args:
        outcomes: of the judges that leave too much unanswered; at least one question has no usable reply.
        usage: what all questions about the group took, those of other judges included.

    Returns:
        The error of the first question that failed, but a reached budget goes before any other, because it must stop
        the run. Of several questions, the message names each judge that failed and why.
    """
    failures = [outcome for outcome in outcomes if isinstance(outcome, NoAnswer)]
    failures.sort(key=lambda failure: not isinstance(failure.error, BudgetExceeded))
    error = failures[0].error
    if len(outcomes) == 1 and usage == outcomes[0].usage:
        return error
    # Orders of one judge mostly fail alike: each complaint stands once.
    complaints = dict.fromkeys(f"judge {failure.question.judge_name}: {failure.error}" for failure in failures)
    joint = with_usage(error, usage, message="; ".join(complaints))
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
        raise JudgeError(f"the judge raised {describe(error)}") from error
    fault = reply_fault(reply)
    if fault:
        raise JudgeError(f"the judge {fault}")
    return reply


def _read(question: Question, reply: JudgeReply) -> Verdict:
    try:
        return read_reply(reply.text, question.request.ids)
    except ReplyError as error:
        raise ReplyError(str(error), usage=reply.usage, raw=error.raw, finish_reason=reply.finish_reason) from None
