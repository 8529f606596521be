"""From a group to its scores: pack, ask, read, combine.

ruler = Ruler("openai/gpt-5-mini", rubric="Prefer short, correct answers.")
scored = await ruler.score(Group.of([messages_1, messages_2]))
"""

from __future__ import annotations

import warnings
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, nullcontext
from dataclasses import dataclass
from functools import partial

from ruler.asking import Answer, Question, ask_all, check_window
from ruler.background import run_in_background
from ruler.errors import ConfigError, GroupError, ReplyError, RulerError
from ruler.families import family_warning
from ruler.jury import juror, mean_scores, read_judges
from ruler.orders import seeded_order
from ruler.packing import PackedGroup, PackedPrompt, PromptOptions, pack
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
    usage_of,
)

_MAX_MESSAGE_CHARS = 2_000


@dataclass(frozen=True, slots=True)
class JudgeCall:
    """One question as it was asked and answered, for an audit log."""

    group_id: str
    judge: str
    """Name of the judge that was asked."""
    request: JudgeRequest
    shown: Mapping[str, tuple[str, ...]]
    """Label -> the caller's rollout ids it stood for, in the order shown."""
    reply: JudgeReply | None
    error: RulerError | None
    """Why there are no scores; None when there are."""


class Ruler:
    """Scores groups of rollouts with one rubric and one judge, or several. Safe for concurrent use.

    Attributes:
        judges: the judges, in the order in which they were given and are asked.
        judge_name: the judge's name in results; the names of a jury joined by " + ".
        rubric: what they are told to value.
        prompt_version: of the prompts' layout, with the options that change it.
        orders: how many orders each judge is shown.
    """

    def __init__(
        self,
        judge: Judge | str | Sequence[Judge | str],
        *,
        rubric: Rubric | str = DEFAULT_RUBRIC,
        notes: bool = True,
        reasoning: bool = False,
        reference: bool = False,
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
            notes: have the judge write a short note on each rollout before it scores.
            reasoning: show what policies wrote under separate reasoning keys.
            reference: show the group's reference answer, where it has one.
            absolute: score groups of one; such a score compares with nothing.
            policy: name of the model that wrote the rollouts. Never shown to a judge: it only brings a UserWarning
                when a judge is of the same family.
            concurrency: how many groups `score_many` and `score_stream` have in flight.
            on_call: told of every question once it is settled; an exception that it raises stops the run.

        Raises:
            ConfigError: a bad SPEC, no judge, two judges of one name, no rubric, or a concurrency below 1.
        """
        if concurrency < 1:
            raise ConfigError(f"concurrency: expected at least 1, got {concurrency}")
        if not isinstance(policy, str | None):
            raise ConfigError(f"policy: expected the name of a model, got {policy!r:.80}")
        self.judges = read_judges(judge)
        infos = [judge_info(one) for one in self.judges]
        self._names = tuple(info.name for info in infos)
        self.judge_name = " + ".join(self._names)
        self.rubric = _rubric(rubric)
        self.options = PromptOptions(notes=notes, reasoning=reasoning, reference=reference)
        self.prompt_version = self.options.version + _images_version(infos)
        self.orders = 1
        self._absolute = absolute
        self._concurrency = concurrency
        self._on_call = on_call
        if related := family_warning(self._names, policy or ""):
            warnings.warn(related, stacklevel=2)

    def pack(self, group: Group) -> list[PackedPrompt]:
        """The prompts `score` would ask for this group, in the order of `judges`; nothing is asked.

        There is one for every question, because each is paid for: judges that would be shown the same have equal
        prompts here.
        """
        return [question.prompt for question in self._plan(self._pack(group))]

    async def score(self, group: Group) -> ScoredGroup:
        """The group's scores, in the caller's order.

        Rollouts that read the same are judged once and get the same score. When all read the same the group is
        "tied": nothing is asked and there is no score. A group of one is refused unless `absolute`.

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
        packed = self._pack(group)
        questions = self._plan(packed)
        if len(questions[0].prompt.labels) == 1 and len(group.rollouts) > 1:
            return self._result(packed, [])
        for question in questions:
            check_window(question, group.id)
        return self._result(packed, await ask_all(questions, partial(self._settled, group)))

    async def score_many(self, groups: Iterable[Group], *, progress: bool = False) -> list[ScoredGroup | FailedGroup]:
        """One result per group, in the given order; a failure is a FailedGroup and disturbs no other.

        After BudgetExceeded nothing more is asked and the remaining groups fail with the reason "budget". When this
        call is cancelled, so is every question in flight, and no task is left behind.

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
        return [results[index] for index in range(len(groups))]

    def score_stream(
        self, groups: Iterable[Group] | AsyncIterable[Group]
    ) -> AsyncGenerator[tuple[int, ScoredGroup | FailedGroup], None]:
        """(index, result) of each group as it finishes; groups are taken as places come free.

        A plain iterable is read on the event loop: one that waits (for a pipe, a trainer) holds up the questions in
        flight, and should be an async one. Close the stream (`contextlib.aclosing`) when leaving early: that cancels
        what is in flight.

        Raises:
            GroupError: an item is no Group.
        """
        return settle_all(groups, self._settle, self._failed, concurrency=self._concurrency)

    def score_sync(self, group: Group) -> ScoredGroup:
        """`score` for code that is not async: scripts, and notebooks with a running event loop.

        The work is done on one event loop in a background thread that lives as long as the process.
        """
        return run_in_background(self.score(group))

    def _pack(self, group: Group) -> dict[bool, PackedGroup]:
        """The group laid out without images, with them, or both: in nothing else do the judges' prompts differ."""
        shown = {judge_info(judge).images for judge in self.judges}
        return {images: pack(group, self.rubric, self.options, images=images) for images in shown}

    def _plan(self, packed: Mapping[bool, PackedGroup]) -> list[Question]:
        """What is to be asked, judge by judge."""
        prompts = {images: one.prompt(seeded_order(len(one.rollouts), one.seed)) for images, one in packed.items()}
        questions = []
        for name, judge in zip(self._names, self.judges, strict=True):
            info = judge_info(judge)
            prompt = prompts[info.images]
            questions.append(Question(judge, name, prompt, self._request(prompt, info)))
        return questions

    def _request(self, prompt: PackedPrompt, info: JudgeInfo) -> JudgeRequest:
        return JudgeRequest(
            messages=prompt.messages,
            schema=reply_schema(notes=self.options.notes),  # equal every time, and nobody's to change for the next
            ids=prompt.labels,
            sampling=info.sampling,
            prefix_chars=prompt.prefix_chars if self.orders > 1 else 0,
            check=partial(read_reply, ids=prompt.labels),
        )

    def _settled(self, group: Group, question: Question, reply: JudgeReply | None, error: RulerError | None) -> None:
        if self._on_call:
            shown = question.prompt.rollouts
            self._on_call(JudgeCall(group.id, question.judge_name, question.request, shown, reply, error))

    async def _settle(self, group: Group) -> ScoredGroup | FailedGroup:
        try:
            return await self.score(group)
        except RulerError as error:
            return self._failed(group, error)

    def _result(self, packed: Mapping[bool, PackedGroup], answers: Sequence[Answer]) -> ScoredGroup:
        """The group with what its judges say; tied without answers."""
        one = next(iter(packed.values()))
        group = one.group
        jurors = [juror(answer, group) for answer in answers]
        nothing = [None] * len(group.rollouts)
        rollouts = tuple(
            Score(id=rollout.id, score=score, note=note, flags=one.flags[rollout.id])
            for rollout, score, note in zip(
                group.rollouts,
                mean_scores(jurors) if jurors else nothing,
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
            usage=sum((answer.usage for answer in answers), Usage()),
            judge=self.judge_name,
            model=" + ".join(member.model for member in jurors) if jurors else None,
            rubric=self.rubric.id,
            prompt_version=self.prompt_version,
            orders=self.orders,
            orders_used=1 if jurors else 0,
            absolute=bool(jurors) and len(group.rollouts) == 1,
            answered_by=jurors[0].answered_by if len(jurors) == 1 else None,
            jury=tuple(jurors) if len(jurors) > 1 else (),
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
