"""From a group to its scores: pack, ask, read, combine.

ruler = Ruler("openai/gpt-5-mini", rubric="Prefer short, correct answers.")
scored = await ruler.score(Group.of([messages_1, messages_2]))
"""

from __future__ import annotations

import asyncio
import math
import warnings
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import get_args

from ruler.aggregate import NoisePool, SlotMeans, merge
from ruler.asking import Question, ask_all, joint_error
from ruler.background import run_in_background
from ruler.errors import ConfigError, GroupError, ReplyError, RulerError
from ruler.families import family_warning
from ruler.jury import joint_stderr, mean_agreement, mean_scores, read_judges, with_stderr
from ruler.orders import Orders
from ruler.packing import PackedPrompt, PromptOptions
from ruler.plan import MAX_BLOCK, Plan, Planner, PlanOptions
from ruler.poll import Poll
from ruler.reply import MAX_REPLY_CHARS, read_reply, reply_schema
from ruler.rubric import DEFAULT_RUBRIC, Rubric
from ruler.stream import check_item, settle_all
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
)

_LARGE_CHARS = 200_000
"""Laying out a group with more text takes so long (tens of milliseconds) that the event loop must not wait for it."""


@dataclass(frozen=True, slots=True)
class JudgeCall:
    """One question as it was asked and answered, for an audit log."""

    group_id: str
    judge: str
    """Name of the judge that was asked."""
    order: int
    """Which order of the judge's plan, from 0."""
    block: int
    """Which block of that order, from 0."""
    request: JudgeRequest
    shown: Mapping[str, tuple[str, ...]]
    """Label -> the caller's rollout ids it stood for, in the order shown."""
    reply: JudgeReply | None
    error: RulerError | None
    """Why there are no scores; None when there are."""


class Ruler:
    """Scores groups of rollouts with one rubric and one judge, or several. Safe for concurrent use.

    It pickles when its judges do. A SPEC does: where it is read again the environment counts that is there, with its
    keys, and a cap on money is counted from 0.

    Attributes:
        judges: the judges, in the order in which they were given and are asked.
        judge_name: the judge's name in results; the names of a jury joined by " + ".
        rubric: what they are told to value.
        options: what of a group is shown, and what is asked for.
        prompt_version: of the prompts' layout, with the options that change it.
        orders: in how many orders each judge is shown a group; "full": each rollout once in each slot.
        adaptive: whether orders beyond the second are asked only where the first two disagree.
        min_orders: how many orders must have an answer; None: all.
    """

    def __init__(
        self,
        judge: Judge | str | Sequence[Judge | str],
        *,
        rubric: Rubric | str = DEFAULT_RUBRIC,
        orders: Orders = 1,
        adaptive: bool = False,
        min_orders: int | None = None,
        max_block: int = MAX_BLOCK,
        context_tokens: int | None = None,
        notes: bool = True,
        reasoning: bool = False,
        reference: bool = False,
        shared_text: bool = True,
        absolute: bool = False,
        policy: str | None = None,
        concurrency: int = 16,
        on_call: Callable[[JudgeCall], None] | None = None,
    ) -> None:
        """Makes a scorer; asks nothing yet.

        Args:
            judge: an async callable, or a SPEC such as `openai/gpt-5-mini` (see `ruler.config.load_judge`). A sequence
                of them is a jury: all are asked about each group, and the score is the mean of theirs.
            rubric: what to value; a string is a rubric named "custom".
            orders: in how many orders a group is shown, for a mean score with a standard error: 1, 2, 4, or "full" for
                as many as it has rollouts. Two orders that are equal are asked once. See docs/orders.md.
            adaptive: ask two orders first, and the others only where these disagree; `orders` is the most.
            min_orders: score a group from the others when orders fail for good, if at least this many are left;
                None: every order is needed.
            max_block: most rollouts in one prompt. A larger group is judged in blocks, each rollout in two or more.
            context_tokens: the judge's window (prompt and reply), where it is not known or shall not be used up.
            notes: have the judge write a short note on each rollout before it scores.
            reasoning: show what policies wrote under separate reasoning keys.
            reference: show the group's reference answer, where it has one.
            shared_text: show long text that occurs several times in a group once.
            absolute: score groups of one; such a score compares with nothing.
            policy: name of the model that wrote the rollouts. Never shown to a judge: it only brings a UserWarning
                when a judge is of the same family.
            concurrency: how many groups `score_many` and `score_stream` have in flight.
            on_call: told of every question once it is settled; an exception that it raises stops the run.

        Raises:
            ConfigError: a bad SPEC, no judge, two judges of one name, no rubric, or a value out of range.
        """
        # What a copy is made from, also in another process.
        self._given = {name: value for name, value in locals().items() if name != "self"}
        if concurrency < 1:
            raise ConfigError(f"concurrency: expected at least 1, got {concurrency}")
        _check_orders(orders, adaptive, min_orders)
        _check_count("max_block", max_block, at_least=2)
        if context_tokens is not None:
            _check_count("context_tokens", context_tokens, at_least=1)
        if not isinstance(policy, str | None):
            raise ConfigError(f"policy: expected the name of a model, got {policy!r:.80}")
        self.judges = read_judges(judge)
        infos = [judge_info(one) for one in self.judges]
        for info in infos:
            if info.context_tokens is not None:
                _check_count(f"judge {info.name}: context_tokens", info.context_tokens, at_least=1)
        self._names = tuple(info.name for info in infos)
        self.judge_name = " + ".join(self._names)
        self.rubric = _rubric(rubric)
        self.options = PromptOptions(notes=notes, reasoning=reasoning, reference=reference, shared_text=shared_text)
        self.orders = orders
        self.adaptive = adaptive
        self._plan_options = PlanOptions(orders=orders, max_block=max_block, context_tokens=context_tokens)
        self.prompt_version = self.options.version + self._plan_options.version + _images_version(infos)
        self.min_orders = min_orders
        self._slots = SlotMeans()
        self._noise = NoisePool()
        self._absolute = absolute
        self._concurrency = concurrency
        self._on_call = on_call
        if related := family_warning(self._names, policy or ""):
            warnings.warn(related, stacklevel=2)

    def __reduce__(self) -> tuple[Callable[[], Ruler], tuple[()]]:
        """A copy is made from what this one was made from: judges that were given as SPECs are loaded anew."""
        return partial(type(self), **self._given), ()

    def pack(self, group: Group) -> list[PackedPrompt]:
        """The prompts `score` would ask for this group, judge by judge in the order of `judges`; nothing is asked.

        There is one for every question, because each is paid for: judges that would be shown the same have equal
        prompts here. With `adaptive` these are the most that would be asked. A group whose rollouts all read the same
        has none.

        Raises:
            PackingError: the group does not fit a judge's window.
        """
        return [prompt for plan in self._plans(group) for blocks in plan.orders for prompt in blocks]

    async def score(self, group: Group) -> ScoredGroup:
        """The group's scores, in the caller's order.

        Rollouts that read the same are judged once and get the same score. When all read the same the group is
        "tied": nothing is asked and there is no score. A group of one is refused unless `absolute`.

        All orders are asked at once, with `adaptive` the first two before the others. When one fails, so does the
        group, unless `min_orders` of that judge are left.

        A jury scores only together: when one of its judges fails, the group does. The error names that judge and
        carries what all of them spent.

        Raises:
            GroupError: a group of one.
            PackingError: the group does not fit a judge's window; nobody has been asked then.
            BudgetExceeded: a judge's cap is reached.
            JudgeError: no usable reply (JudgeUnavailable, JudgeRejected, ReplyError).
        """
        if not isinstance(group, Group):
            raise GroupError(f"expected a Group, got {type(group).__name__}: {group!r:.80}; Group.of makes one")
        if len(group.rollouts) == 1 and not self._absolute:
            raise GroupError(
                f"group {group.id!r}: rollouts: only one, so there is nothing to compare; "
                "absolute=True (--absolute) scores it all the same"
            )
        polls = [
            Poll(judge, name, plan, partial(self._request, judge_info(judge), plan))
            for judge, name, plan in zip(self.judges, self._names, await self._planned(group), strict=True)
        ]
        if self.adaptive:
            await self._ask(group, polls, [poll.questions(2) for poll in polls])
            # Nothing more is bought for a group that fails in any case.
            if not any(poll.is_lost(self.min_orders) for poll in polls):
                await self._ask(group, polls, [poll.questions() if poll.is_disputed() else [] for poll in polls])
        else:
            await self._ask(group, polls, [poll.questions() for poll in polls])
        lacking = [poll for poll in polls if not poll.suffices(self.min_orders)]
        if lacking:
            raise joint_error(
                [outcome for poll in lacking for outcome in poll.outcomes], sum((poll.usage for poll in polls), Usage())
            )
        return self._result(group, polls)

    async def score_many(self, groups: Iterable[Group], *, progress: bool = False) -> list[ScoredGroup | FailedGroup]:
        """One result per group, in the given order; a failure is a FailedGroup and disturbs no other.

        After BudgetExceeded nothing more is asked and the remaining groups fail with the reason "budget". When this
        call is cancelled, so is every question in flight, and no task is left behind. Standard errors rest on what all
        groups tell of the judge's slots, so they do not depend on which group was ready first.

        Raises:
            GroupError: an item is no Group; nothing has been asked then.
        """
        groups = list(groups)
        for place, group in enumerate(groups):
            check_item(group, f"groups[{place}]")
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
        return with_stderr([results[index] for index in range(len(groups))], self._slots)

    def score_stream(
        self, groups: Iterable[Group] | AsyncIterable[Group]
    ) -> AsyncGenerator[tuple[int, ScoredGroup | FailedGroup], None]:
        """(index, result) of each group as it finishes; groups are taken as places come free.

        A plain iterable is read on the event loop: one that waits (for a pipe, a trainer) holds up the questions in
        flight, and should be an async one. Close the stream (`contextlib.aclosing`) when leaving early: that cancels
        what is in flight.

        Standard errors rest on the groups that were ready before, and those of the first groups on little.

        Raises:
            GroupError: an item is no Group.
        """
        return settle_all(groups, self._settle, self.failed, concurrency=self._concurrency)

    def score_sync(self, group: Group) -> ScoredGroup:
        """`score` for code that is not async: scripts, and notebooks with a running event loop.

        The work is done on one event loop in a background thread that lives as long as the process.
        """
        return run_in_background(self.score(group))

    async def _planned(self, group: Group) -> list[Plan]:
        if _num_chars(group) <= _LARGE_CHARS:
            return self._plans(group)
        return await asyncio.to_thread(self._plans, group)

    def _plans(self, group: Group) -> list[Plan]:
        """What each judge is to be asked."""
        planner = Planner(group, self.rubric, self.options, self._plan_options)
        return [planner.plan(name, judge_info(judge)) for name, judge in zip(self._names, self.judges, strict=True)]

    def _request(self, info: JudgeInfo, plan: Plan, prompt: PackedPrompt) -> JudgeRequest:
        return JudgeRequest(
            messages=prompt.messages,
            schema=reply_schema(notes=self.options.notes),  # equal every time, and nobody's to change for the next
            ids=prompt.labels,
            sampling=info.sampling,
            prefix_chars=plan.prefix_chars(prompt),
            check=partial(read_reply, ids=prompt.labels),
        )

    async def _ask(self, group: Group, polls: Sequence[Poll], questions: Sequence[Sequence[Question]]) -> None:
        """Asks each poll's questions, all at once."""
        settled = partial(self._settled, group)
        outcomes = iter(await ask_all([question for own in questions for question in own], settled))
        for poll, own in zip(polls, questions, strict=True):
            poll.take(list(islice(outcomes, len(own))))

    def _settled(self, group: Group, question: Question, reply: JudgeReply | None, error: RulerError | None) -> None:
        if self._on_call:
            prompt = question.prompt
            call = JudgeCall(
                group_id=group.id,
                judge=question.judge_name,
                order=prompt.order,
                block=prompt.block,
                request=question.request,
                shown=prompt.rollouts,
                reply=reply,
                error=error,
            )
            self._on_call(call)

    async def _settle(self, group: Group) -> ScoredGroup | FailedGroup:
        try:
            return await self.score(group)
        except RulerError as error:
            return self.failed(group, error)

    def _result(self, group: Group, polls: Sequence[Poll]) -> ScoredGroup:
        """The group with what its judges say; tied when nobody was asked."""
        asked = [poll for poll in polls if poll.orders_used]
        judged = [poll.judged for poll in asked]
        for one in chain.from_iterable(judged):
            self._slots.add(one)
        for orders in judged if self.adaptive else ():
            self._noise.add(orders, self._slots)
        noise = self._noise if self.adaptive else None
        merged = [merge(orders, self._slots, noise=noise) for orders in judged]
        jurors = [poll.juror(one, group) for poll, one in zip(asked, merged, strict=True)]
        packed = [poll.plan.packed for poll in polls]
        first = packed[0].representatives
        nothing = [None] * len(group.rollouts)
        rollouts = tuple(
            Score(
                id=rollout.id,
                score=score,
                stderr=stderr,
                note=note,
                same_as=None if first[rollout.id] == rollout.id else first[rollout.id],
                cut_chars=max(one.cut_chars[rollout.id] for one in packed),
                flags=tuple(sorted({flag for one in packed for flag in one.flags[rollout.id]})),
            )
            for rollout, score, stderr, note in zip(
                group.rollouts,
                mean_scores(jurors) if jurors else nothing,
                joint_stderr(jurors) or nothing,
                jurors[0].notes if jurors else nothing,
                strict=True,
            )
        )
        return ScoredGroup(
            group_id=group.id,
            group_digest=group.digest,
            rollouts_digest=group.rollouts_digest,
            status="scored" if jurors else "tied",
            rollouts=rollouts,
            usage=sum((poll.usage for poll in polls), Usage()),
            judge=self.judge_name,
            model=" + ".join(member.model for member in jurors) if jurors else None,
            rubric=self.rubric.id,
            prompt_version=self.prompt_version,
            orders=self.orders,
            adaptive=self.adaptive,
            orders_used=min((poll.orders_used for poll in asked), default=0),
            agreement=mean_agreement(judged),
            judged=tuple(chain.from_iterable(judged)),
            failed_orders=tuple(failed for poll in polls for failed in poll.failed_orders()),
            clipped=sum(one.clipped for one in merged),
            absolute=bool(jurors) and len(group.rollouts) == 1,
            answered_by=jurors[0].answered_by if len(jurors) == 1 else None,
            jury=tuple(jurors) if len(jurors) > 1 else (),
        )

    def failed(self, group: Group, error: RulerError) -> FailedGroup:
        """What `score_many` gives for a group that `score` raised this error for."""
        raw = error.raw if isinstance(error, ReplyError) else None
        return FailedGroup.of(
            group,
            error,
            judge=self.judge_name,
            rubric=self.rubric.id,
            prompt_version=self.prompt_version,
            orders=self.orders,
            adaptive=self.adaptive,
            raw_reply=raw if raw is None else raw[:MAX_REPLY_CHARS],
        )


def _num_chars(group: Group) -> int:
    histories = (history.messages for rollout in group.rollouts for history in rollout.histories)
    conversations = chain([group.task], (rollout.messages for rollout in group.rollouts), histories)
    return sum(
        sum(len(part) for part in message.content if isinstance(part, str))
        + sum(len(call.arguments) for call in message.tool_calls)
        for messages in conversations
        for message in messages
    )


def _rubric(rubric: Rubric | str) -> Rubric:
    if isinstance(rubric, Rubric):
        return rubric
    if not isinstance(rubric, str):
        raise ConfigError(f"rubric: expected a Rubric or text, got {rubric!r:.80}")
    if "\n" not in rubric and rubric.endswith((".md", ".txt", ".toml")):
        raise ConfigError(f"rubric: {rubric!r} looks like a file; Rubric.load reads one")
    return Rubric(rubric)


def _images_version(infos: Sequence[JudgeInfo]) -> str:
    """What a judge is shown of images changes its prompt, and is no part of its name: of a mixed jury it says whose."""
    seeing = [info.name for info in infos if info.images]
    if len(seeing) in (0, len(infos)):
        return "+images" * bool(seeing)
    return f"+images({', '.join(seeing)})"


def _check_orders(orders: object, adaptive: object, min_orders: object) -> None:
    if not isinstance(orders, int | str) or isinstance(orders, bool) or orders not in get_args(Orders):
        raise ConfigError(f'orders: expected 1, 2, 4 or "full", got {orders!r:.80}')
    if not isinstance(adaptive, bool):
        raise ConfigError(f"adaptive: expected True or False, got {adaptive!r:.80}")
    if adaptive and orders in (1, 2):
        raise ConfigError(
            f'adaptive: two orders are asked first; orders, the most, must be 4 or "full", got {orders!r}'
        )
    if min_orders is None:
        return
    most = orders if isinstance(orders, int) else math.inf
    if isinstance(min_orders, bool) or not isinstance(min_orders, int) or not 1 <= min_orders <= most:
        raise ConfigError(f"min_orders: expected a whole number from 1 to orders ({orders}), got {min_orders!r:.80}")


def _check_count(name: str, value: object, *, at_least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise ConfigError(f"{name}: expected a whole number of at least {at_least}, got {value!r:.80}")
