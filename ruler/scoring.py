"""From a group to its scores: pack, ask, read.

ruler = Ruler("openai/gpt-5-mini", rubric="Prefer short, correct answers.")
scored = await ruler.score(Group.of([messages_1, messages_2]))
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing, nullcontext
from dataclasses import dataclass
from functools import partial

from ruler.background import run_in_background
from ruler.errors import BudgetExceeded, ConfigError, GroupError, JudgeError, PackingError, ReplyError, RulerError
from ruler.orders import seeded_order
from ruler.packing import PackedGroup, PackedPrompt, PromptOptions, pack
from ruler.reply import MAX_REPLY_CHARS, Verdict, read_reply, reply_schema
from ruler.rubric import DEFAULT_RUBRIC, Rubric
from ruler.types import (
    FailedGroup,
    Group,
    Judge,
    JudgeInfo,
    JudgeReply,
    JudgeRequest,
    Score,
    ScoredGroup,
    Usage,
    judge_info,
    usage_of,
)

_MAX_MESSAGE_CHARS = 2_000


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
            on_call: told of every question once it is settled; an exception that it raises stops the run.

        Raises:
            ConfigError: a bad SPEC, no judge, no rubric, or a concurrency below 1.
        """
        if concurrency < 1:
            raise ConfigError(f"concurrency: expected at least 1, got {concurrency}")
        if isinstance(judge, str):
            from ruler.config import load_judge  # the core knows no judges; only the SPEC form needs them

            self.judge = load_judge(judge)
        elif not callable(judge):
            raise ConfigError(f"judge: expected an async callable or a SPEC, got {judge!r:.80}")
        else:
            self.judge = judge
        self.judge_name = judge_info(self.judge).name
        self.rubric = _rubric(rubric)
        self.options = PromptOptions(notes=notes, reasoning=reasoning, reference=reference)
        # What a judge is shown of images changes the prompt, too.
        self.prompt_version = self.options.version + "+images" * judge_info(self.judge).images
        self.orders = 1
        self._absolute = absolute
        self._concurrency = concurrency
        self._on_call = on_call

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
        if not isinstance(group, Group):
            raise GroupError(f"expected a Group, got {type(group).__name__}: {group!r:.80}; Group.of makes one")
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

        Raises:
            GroupError: an item is no Group; nothing has been asked then.
        """
        groups = list(groups)
        for place, group in enumerate(groups):
            _check_item(group, f"groups[{place}]")
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
        self, groups: Iterable[Group] | AsyncIterable[Group]
    ) -> AsyncGenerator[tuple[int, ScoredGroup | FailedGroup], None]:
        """(index, result) of each group as it finishes; groups are taken as places come free.

        A plain iterable is read on the event loop: one that waits (for a pipe, a trainer) holds up the questions in
        flight, and should be an async one. Close the stream (`contextlib.aclosing`) when leaving early: that cancels
        what is in flight.

        Raises:
            GroupError: an item is no Group.
        """
        source = aiter(groups if isinstance(groups, AsyncIterable) else _async(groups))
        running: dict[asyncio.Task[ScoredGroup | FailedGroup], int] = {}
        upcoming: asyncio.Task[Group | None] | None = None
        stopped: FailedGroup | None = None
        exhausted = False
        num_taken = 0
        try:
            while True:
                if not exhausted and upcoming is None and len(running) < self._concurrency:
                    upcoming = asyncio.create_task(_next(source))
                if upcoming is None and not running:
                    return
                waiting = (*running, upcoming) if upcoming else running
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if upcoming in done:
                    group, upcoming = upcoming.result(), None
                    if group is None:
                        exhausted = True
                    elif stopped:
                        yield num_taken, self._failed(group, BudgetExceeded(stopped.message))
                    else:
                        running[asyncio.create_task(self._settle(group))] = num_taken
                    num_taken += group is not None
                for settled in [task for task in running if task in done]:
                    result = settled.result()
                    if isinstance(result, FailedGroup) and result.reason == BudgetExceeded.code:
                        stopped = result
                    yield running.pop(settled), result
        finally:
            left = [*running, *([upcoming] if upcoming else [])]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

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
        info = judge_info(self.judge)
        _check_window(packed.group, prompt, info)
        check = partial(read_reply, ids=prompt.labels)
        request = JudgeRequest(
            messages=prompt.messages,
            schema=reply_schema(notes=self.options.notes),  # equal every time, and nobody's to change for the next
            ids=prompt.labels,
            sampling=info.sampling,
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
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody cancelled us: something inside the judge gave up. It must not look like the end of the run.
            raise JudgeError("the judge was cancelled from inside") from error
        except Exception as error:
            # A user's judge may raise anything, and must not take the other groups down.
            raise JudgeError(f"the judge raised {type(error).__name__}: {error}") from error
        if not isinstance(reply, JudgeReply):
            raise JudgeError(f"the judge returned {type(reply).__name__}, not a JudgeReply")
        fault = _reply_fault(reply)
        if fault:
            raise JudgeError(f"the judge returned a JudgeReply with {fault}")
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
            rollouts_digest=group.rollouts_digest,
            status="scored" if verdict else "tied",
            rollouts=rollouts,
            usage=reply.usage if reply else Usage(),
            judge=self.judge_name,
            model=reply.model if reply else None,
            rubric=self.rubric.id,
            prompt_version=self.prompt_version,
            orders=self.orders,
            orders_used=1 if verdict else 0,
            absolute=verdict is not None and len(group.rollouts) == 1,
        )

    def _failed(self, group: Group, error: RulerError) -> FailedGroup:
        raw = error.raw if isinstance(error, ReplyError) else None
        return FailedGroup(
            group_id=group.id,
            group_digest=group.digest,
            rollouts_digest=group.rollouts_digest,
            reason=error.code,
            message=" ".join(str(error).split())[:_MAX_MESSAGE_CHARS],
            rollout_ids=tuple(rollout.id for rollout in group.rollouts),
            judge=self.judge_name,
            rubric=self.rubric.id,
            prompt_version=self.prompt_version,
            orders=self.orders,
            usage=usage_of(error),
            raw_reply=raw if raw is None else raw[:MAX_REPLY_CHARS],
        )


def _reply_fault(reply: JudgeReply) -> str | None:
    """What of the reply is not what its type says; a judge is other people's code."""
    if not isinstance(reply.text, str):
        return f"text {reply.text!r:.80}"
    if not isinstance(reply.model, str):
        return f"model {reply.model!r:.80}"
    usage = reply.usage
    if not isinstance(usage, Usage):
        return f"usage {usage!r:.80}"
    counts = (usage.calls, usage.input_tokens, usage.cached_input_tokens, usage.output_tokens)
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        return f"usage {usage!r:.200}"
    cost = usage.cost_usd
    if cost is not None and not (isinstance(cost, int | float) and 0 <= cost < math.inf):
        return f"usage.cost_usd {cost!r:.80}"
    return None


async def _async(groups: Iterable[Group]) -> AsyncGenerator[Group, None]:
    for group in groups:
        yield group


async def _next(source: AsyncIterator[Group]) -> Group | None:
    """The next group; None at the end."""
    try:
        group = await anext(source)
    except StopAsyncIteration:
        return None
    _check_item(group, "groups")
    return group


def _check_item(item: object, field: str) -> None:
    if not isinstance(item, Group):
        raise GroupError(f"{field}: expected a Group, got {item!r:.80}; Group.of makes one")


def _rubric(rubric: Rubric | str) -> Rubric:
    if isinstance(rubric, Rubric):
        return rubric
    if not isinstance(rubric, str):
        raise ConfigError(f"rubric: expected a Rubric or text, got {rubric!r:.80}")
    if "\n" not in rubric and rubric.endswith((".md", ".txt", ".toml")):
        raise ConfigError(f"rubric: {rubric!r} looks like a file; Rubric.load reads one")
    return Rubric(rubric)


def _check_window(group: Group, prompt: PackedPrompt, info: JudgeInfo) -> None:
    """Raises PackingError when prompt and reply cannot fit; counts tokens only where bytes do not settle it."""
    if info.context_tokens is None:
        return
    room = info.context_tokens - (info.sampling.max_tokens or 0)
    if sum(len(text.encode()) for _, text in prompt.parts) <= room:
        return  # no tokenizer makes more tokens than bytes
    from ruler.tokens import token_counter  # loads a tokenizer, which most groups do not need

    tokenizer, count = token_counter(info)
    total = prompt.tokens(count)["total"]
    if total > room:
        raise PackingError(
            f"group {group.id!r}: the prompt has {total:,} tokens ({tokenizer}), "
            f"the judge's window has room for {room:,}"
        )
