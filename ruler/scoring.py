"""From a group to its scores: pack, ask, read.

ruler = Ruler("openai/gpt-5-mini", rubric="Prefer short, correct answers.")
scored = await ruler.score(Group.of([messages_1, messages_2]))
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing, nullcontext
from dataclasses import dataclass
from functools import partial

from ruler.background import run_in_background
from ruler.errors import BudgetExceeded, ConfigError, GroupError, JudgeError, ReplyError, RulerError
from ruler.orders import seeded_order
from ruler.packing import PackedGroup, PackedPrompt, PromptOptions, pack
from ruler.reply import Verdict, read_reply, reply_schema
from ruler.rubric import DEFAULT_RUBRIC, Rubric
from ruler.types import (
    FailedGroup,
    Group,
    Judge,
    JudgeReply,
    JudgeRequest,
    Score,
    ScoredGroup,
    Usage,
    judge_info,
)


@dataclass(frozen=True, slots=True)
class JudgeCall:
    """One question as it was asked and answered, for an audit log."""

    group_id: str
    request: JudgeRequest
    shown: Mapping[str, tuple[str, ...]]
    """Label -> the caller's rollout ids it stood for, in the order shown."""
    reply: JudgeReply | None
    error: RulerError | None
    """Why there are no scores; None when there are."""


class Ruler:
    """Scores groups of rollouts with one judge and one rubric. Safe for concurrent use."""

    def __init__(
        self,
        judge: Judge | str,
        *,
        rubric: Rubric | str = DEFAULT_RUBRIC,
        notes: bool = True,
        reasoning: bool = False,
        reference: bool = False,
        absolute: bool = False,
        concurrency: int = 16,
        on_call: Callable[[JudgeCall], None] | None = None,
    ) -> None:
        """Makes a scorer; asks nothing yet.

        Args:
            judge: an async callable, or a SPEC such as `openai/gpt-5-mini` (see `ruler.config.load_judge`).
            rubric: what to value; a string is a rubric named "custom".
            notes: have the judge write a short note on each rollout before it scores.
            reasoning: show what policies wrote under separate reasoning keys.
            reference: show the group's reference answer, where it has one.
            absolute: score groups of one; such a score compares with nothing.
            concurrency: how many groups `score_many` and `score_stream` have in flight.
            on_call: told of every question once it is settled.

        Raises:
            ConfigError: a bad SPEC, or a concurrency below 1.
        """
        if concurrency < 1:
            raise ConfigError(f"concurrency: expected at least 1, got {concurrency}")
        if isinstance(judge, str):
            from ruler.config import load_judge  # the core knows no judges; only the SPEC form needs them

            self.judge = load_judge(judge)
        else:
            self.judge = judge
        self.judge_name = judge_info(self.judge).name
        self.rubric = Rubric(rubric) if isinstance(rubric, str) else rubric
        self.options = PromptOptions(notes=notes, reasoning=reasoning, reference=reference)
        self.orders = 1
        self._absolute = absolute
        self._concurrency = concurrency
        self._on_call = on_call
        self._schema = reply_schema(notes=notes)

    def pack(self, group: Group) -> list[PackedPrompt]:
        """The prompts `score` would ask for this group, in order; nothing is asked."""
        return self._prompts(self._pack(group))

    async def score(self, group: Group) -> ScoredGroup:
        """The group's scores, in the caller's order.

        Rollouts that read the same are judged once and get the same score. When all read the same the group is
        "tied": nothing is asked and there is no score. A group of one is refused unless `absolute`.

        Raises:
            GroupError: a group of one.
            PackingError: the group does not fit the judge's window.
            BudgetExceeded: the judge's cap is reached.
            JudgeError: no usable reply (JudgeUnavailable, JudgeRejected, ReplyError).
        """
        if len(group.rollouts) == 1 and not self._absolute:
            raise GroupError(
                f"group {group.id!r}: rollouts: only one, so there is nothing to compare; "
                "absolute=True (--absolute) scores it all the same"
            )
        packed = self._pack(group)
        if len(packed.rollouts) == 1 and len(group.rollouts) > 1:
            return self._result(packed, None, None)
        (prompt,) = self._prompts(packed)
        reply, verdict = await self._ask(packed, prompt)
        return self._result(packed, reply, verdict)

    async def score_many(self, groups: Iterable[Group], *, progress: bool = False) -> list[ScoredGroup | FailedGroup]:
        """One result per group, in the given order; a failure is a FailedGroup and disturbs no other.

        After BudgetExceeded nothing more is asked and the remaining groups fail with the reason "budget". When this
        call is cancelled, so is every question in flight, and no task is left behind.
        """
        groups = list(groups)
        results: dict[int, ScoredGroup | FailedGroup] = {}
        if progress:
            from ruler.progress import ScoringProgress  # rich is not loaded with the library

            bar: ScoringProgress | nullcontext[None] = ScoringProgress(total=len(groups))
        else:
            bar = nullcontext()
        async with aclosing(self.score_stream(groups)) as stream:
            with bar as shown:
                async for index, result in stream:
                    results[index] = result
                    if shown is not None:
                        shown.add(result)
        return [results[index] for index in range(len(groups))]

    async def score_stream(
        self, groups: Iterable[Group]
    ) -> AsyncGenerator[tuple[int, ScoredGroup | FailedGroup], None]:
        """(index, result) of each group as it finishes; groups are taken from the iterable as places come free.

        Close it (`contextlib.aclosing`) when leaving early: that cancels what is in flight.
        """
        source = enumerate(groups)
        running: dict[asyncio.Task[ScoredGroup | FailedGroup], int] = {}
        stopped: FailedGroup | None = None
        exhausted = False
        try:
            while True:
                while not exhausted and len(running) < self._concurrency:
                    index, group = next(source, (-1, None))
                    if group is None:
                        exhausted = True
                    elif stopped:
                        yield index, self._failed(group, BudgetExceeded(stopped.message))
                    else:
                        running[asyncio.create_task(self._settle(group))] = index
                if not running:
                    return
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in sorted(done, key=running.__getitem__):
                    result = task.result()
                    if isinstance(result, FailedGroup) and result.reason == BudgetExceeded.code:
                        stopped = result
                    yield running.pop(task), result
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def score_sync(self, group: Group) -> ScoredGroup:
        """`score` for code that is not async: scripts, and notebooks with a running event loop.

        The work is done on one event loop in a background thread that lives as long as the process.
        """
        return run_in_background(self.score(group))

    def _pack(self, group: Group) -> PackedGroup:
        return pack(group, self.rubric, self.options, images=judge_info(self.judge).images)

    def _prompts(self, packed: PackedGroup) -> list[PackedPrompt]:
        return [packed.prompt(seeded_order(len(packed.rollouts), packed.seed))]

    async def _ask(self, packed: PackedGroup, prompt: PackedPrompt) -> tuple[JudgeReply, Verdict]:
        check = partial(read_reply, ids=prompt.labels)
        request = JudgeRequest(
            messages=prompt.messages,
            schema=self._schema,
            ids=prompt.labels,
            sampling=judge_info(self.judge).sampling,
            prefix_chars=prompt.prefix_chars if self.orders > 1 else 0,
            check=check,
        )
        reply: JudgeReply | None = None
        error: RulerError | None = None
        try:
            reply = await self._call(request)
            return reply, self._read(reply, check)
        except RulerError as raised:
            error = raised
            raise
        finally:
            if self._on_call and (reply or error):
                self._on_call(JudgeCall(packed.group.id, request, prompt.rollouts, reply, error))

    async def _call(self, request: JudgeRequest) -> JudgeReply:
        try:
            reply = await self.judge(request)
        except RulerError:
            raise
        except Exception as error:
            # A user's judge may raise anything, and must not take the other groups down.
            raise JudgeError(f"the judge raised {type(error).__name__}: {error}") from error
        if not isinstance(reply, JudgeReply):
            raise JudgeError(f"the judge returned {type(reply).__name__}, not a JudgeReply")
        return reply

    @staticmethod
    def _read(reply: JudgeReply, check: Callable[[str], Verdict]) -> Verdict:
        try:
            return check(reply.text)
        except ReplyError as error:
            raise ReplyError(str(error), usage=reply.usage, raw=error.raw, finish_reason=reply.finish_reason) from None

    async def _settle(self, group: Group) -> ScoredGroup | FailedGroup:
        try:
            return await self.score(group)
        except RulerError as error:
            return self._failed(group, error)

    def _result(self, packed: PackedGroup, reply: JudgeReply | None, verdict: Verdict | None) -> ScoredGroup:
        group = packed.group
        label_of = {name: rollout.label for rollout in packed.rollouts for name in rollout.rollout_ids}
        rollouts = tuple(
            Score(
                id=rollout.id,
                score=verdict.scores[label_of[rollout.id]] if verdict else None,
                note=verdict.notes.get(label_of[rollout.id]) if verdict else None,
                flags=packed.flags[rollout.id],
            )
            for rollout in group.rollouts
        )
        return ScoredGroup(
            group_id=group.id,
            group_digest=group.digest,
            status="scored" if verdict else "tied",
            rollouts=rollouts,
            usage=reply.usage if reply else Usage(),
            judge=self.judge_name,
            model=reply.model if reply else None,
            rubric=self.rubric.id,
            prompt_version=self.options.version,
            orders=self.orders,
            orders_used=1 if verdict else 0,
            absolute=verdict is not None and len(group.rollouts) == 1,
        )

    def _failed(self, group: Group, error: RulerError) -> FailedGroup:
        usage = error.usage if isinstance(error, JudgeError) else None
        return FailedGroup(
            group_id=group.id,
            group_digest=group.digest,
            reason=error.code,
            message=str(error),
            rollout_ids=tuple(rollout.id for rollout in group.rollouts),
            judge=self.judge_name,
            rubric=self.rubric.id,
            prompt_version=self.options.version,
            orders=self.orders,
            usage=usage or Usage(),
            raw_reply=error.raw if isinstance(error, ReplyError) else None,
        )
