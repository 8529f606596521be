"""The words of the project as types: rollouts and groups go in, scores come out, a judge stands between.

How foreign messages are read is the business of `ruler.messages`; asking a judge is that of `ruler.scoring`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Literal, TypeAlias, TypeVar

from ruler.errors import GroupError, JudgeError, RulerError
from ruler.messages import Message, Tool, read_messages, read_reference, read_tools

_MAX_MESSAGE_CHARS = 2_000
FENCE = re.compile(r"^<(?P<close>/?)rollout (?P<id>[A-Z]+)>$", re.MULTILINE)
"""A fence, alone on its line: `<rollout KQX>` opens the rollout labelled KQX in a prompt, `</rollout KQX>` ends it."""


@dataclass(frozen=True, slots=True)
class History:
    """Messages of a sub-agent that worked for a rollout; shown to the judge as a section of that rollout."""

    name: str
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Rollout:
    """The record of one attempt at a task. Build it with `Rollout.of`."""

    id: str
    """Unique within its group; scores travel by it. The judge never sees it."""
    messages: tuple[Message, ...]
    """What the rollout did after the group's task messages."""
    tools: tuple[Tool, ...] | None = None
    """The tools this rollout could call; None: those of its group."""
    finish_reason: str | None = None
    """Why generation ended, in the OpenAI words; "length" is shown to the judge as cut off."""
    histories: tuple[History, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Kept for the caller; never shown to a judge."""

    @classmethod
    def of(
        cls,
        id: str,
        messages: object,
        *,
        tools: object = None,
        finish_reason: str | None = None,
        histories: Mapping[str, object] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Rollout:
        """A rollout read from what a framework has (see `ruler.messages.read_messages`).

        Args:
            id: any non-empty string, unique within the group.
            messages: a message list, one message, or a plain string (one assistant message).
            tools: tool definitions, when they differ from those of the group.
            finish_reason: wins over a finish reason found on the last message.
            histories: section name -> messages, for sub-agents.
            metadata: kept, never shown to a judge.

        Raises:
            GroupError: something cannot be read; names the rollout and the field.
        """
        if not isinstance(id, str) or not id:
            raise GroupError(f"rollout id: expected a non-empty string, got {id!r}")
        for field_name, value in (("histories", histories), ("metadata", metadata)):
            if not isinstance(value, Mapping | None):
                raise GroupError(f"rollout {id!r}: {field_name}: expected a mapping, got {value!r:.80}")
        try:
            read = read_messages(messages)
            return cls(
                id=id,
                messages=read.messages,
                tools=None if tools is None else read_tools(tools),
                finish_reason=finish_reason or read.finish_reason,
                histories=tuple(
                    History(name, read_messages(section, field=f"histories[{name!r}]").messages)
                    for name, section in (histories or {}).items()
                ),
                metadata=metadata or {},
            )
        except GroupError as error:
            raise GroupError(f"rollout {id!r}: {error}") from error


@dataclass(frozen=True)
class Group:
    """N rollouts of the same task instance. Build it with `Group.of`, or from `Rollout`s.

    Raises:
        GroupError: no rollouts, two with one id, or rollouts that open with different tasks.
    """

    rollouts: tuple[Rollout, ...]
    task: tuple[Message, ...] = ()
    """What every rollout was given: system prompt, question."""
    tools: tuple[Tool, ...] = ()
    id: str = ""
    """Known by this name in results; empty: the content digest takes its place."""
    reference: str | None = None
    """A reference answer; shown to the judge only when `Ruler(reference=True)`."""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        name = f"group {self.id!r}: " if self.id else "group: "
        self._check_types(name)
        if not self.rollouts:
            raise GroupError(name + "rollouts: empty; a group needs at least one rollout")
        seen: set[str] = set()
        for rollout in self.rollouts:
            if rollout.id in seen:
                raise GroupError(f"{name}rollouts: the id {rollout.id!r} occurs twice")
            seen.add(rollout.id)
        if not self.task:
            _check_one_task(self.rollouts, name)
        if not self.id:
            object.__setattr__(self, "id", self.digest[:16])

    def _check_types(self, name: str) -> None:
        for field_name, kind in (("rollouts", Rollout), ("task", Message), ("tools", Tool)):
            value = getattr(self, field_name)
            if not isinstance(value, tuple) or not all(isinstance(item, kind) for item in value):
                raise GroupError(
                    f"{name}{field_name}: expected a tuple of {kind.__name__}, got {value!r:.80}; "
                    "Group.of reads messages and tools in any form"
                )
        for rollout in self.rollouts:
            if not isinstance(rollout.messages, tuple):
                raise GroupError(
                    f"{name}rollout {rollout.id!r:.80}: messages: expected a tuple of Message, got "
                    f"{rollout.messages!r:.80}; Rollout.of reads messages in any form"
                )
        if not isinstance(self.id, str):
            raise GroupError(f"{name}id: expected text, got {self.id!r:.80}")
        if not isinstance(self.reference, str | None):
            raise GroupError(f"{name}reference: expected text, got {self.reference!r:.80}")
        if not isinstance(self.metadata, Mapping):
            raise GroupError(f"{name}metadata: expected a mapping, got {self.metadata!r:.80}")

    @classmethod
    def of(
        cls,
        rollouts: Iterable[object],
        *,
        task: object = None,
        id: str = "",
        ids: Sequence[str] | None = None,
        tools: object = None,
        reference: object = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Group:
        """A group read from what a framework has.

        Args:
            rollouts: for each rollout a message list, a plain string (one answer), or a `Rollout`. All hold the whole
                conversation, or all hold only what comes after `task`.
            task: the messages every rollout was given; a plain string is one user message.
            id: the group's name in results; empty: a digest of the content.
            ids: the rollouts' ids; None: a `Rollout` keeps its own, the others are r1, r2, … by place.
            tools: tool definitions that all rollouts had.
            reference: a reference answer, as text or JSON.
            metadata: kept, never shown to a judge.

        Raises:
            GroupError: names the rollout and the field that cannot be read.
        """
        name = f"group {id!r}: " if id else ""
        if isinstance(rollouts, str | bytes | Mapping) or not isinstance(rollouts, Iterable):
            raise GroupError(f"{name}rollouts: expected a list of message lists, got {rollouts!r:.80}")
        given = list(rollouts)
        if ids is not None and len(ids) != len(given):
            raise GroupError(f"{name}ids: {len(ids)} for {len(given)} rollouts")
        try:
            read = tuple(
                item
                if isinstance(item, Rollout) and ids is None
                else _named(item, f"r{place + 1}" if ids is None else ids[place])
                for place, item in enumerate(given)
            )
            shared = () if task is None else read_messages(task, field="task", role="user").messages
            read = _without_task(read, shared) if shared else read
            common = () if tools is None else read_tools(tools)
            answer = read_reference(reference)
        except GroupError as error:
            raise GroupError(f"{name}{error}") from error
        return cls(read, shared, common, id, answer, metadata or {})

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of task, tools, reference and rollouts; ids, metadata and arrival order do not change it."""
        return self._digests[0]

    @property
    def rollouts_digest(self) -> str:
        """As `digest`, with the rollouts' ids: equal only where each id stands for the same rollout."""
        return self._digests[1]

    @cached_property
    def _digests(self) -> tuple[str, str]:
        texts = [_canonical([r.messages, r.tools, r.finish_reason, r.histories]) for r in self.rollouts]
        shared = [self.task, self.tools, self.reference]
        digest = _sha256(_canonical([*shared, sorted(texts)]))
        named = sorted([rollout.id, _sha256(text)] for rollout, text in zip(self.rollouts, texts, strict=True))
        return digest, _sha256(_canonical([digest, named]))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _canonical(value: object) -> str:
    # ASCII JSON: a lone surrogate becomes an escape, where UTF-8 would refuse it.
    return json.dumps(value, default=_fields, sort_keys=True, separators=(",", ":"))


def _fields(value: Any) -> dict[str, Any]:
    # `dataclasses.asdict` copies deeply, which takes longer than all the rest.
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def _named(item: object, id: str) -> Rollout:
    return replace(item, id=id) if isinstance(item, Rollout) else Rollout.of(id, item)


def _without_task(rollouts: Sequence[Rollout], task: tuple[Message, ...]) -> tuple[Rollout, ...]:
    """The rollouts without the task, where they hold whole conversations: it is said once."""
    whole = [rollout.messages[: len(task)] == task for rollout in rollouts]
    if any(whole) and not all(whole):
        raise GroupError(
            f"rollouts: {rollouts[whole.index(True)].id!r} begins with the task messages and "
            f"{rollouts[whole.index(False)].id!r} does not; leave them out of all, or out of none"
        )
    if not all(whole):
        return tuple(rollouts)
    return tuple(replace(rollout, messages=rollout.messages[len(task) :]) for rollout in rollouts)


def _check_one_task(rollouts: Sequence[Rollout], name: str) -> None:
    """Without task messages every rollout must open alike up to its first assistant message."""
    openings = []
    for rollout in rollouts:
        opening = []
        for message in rollout.messages:
            if message.role == "assistant":
                break
            opening.append(message)
        openings.append(opening)
    for rollout, opening in zip(rollouts[1:], openings[1:], strict=True):
        if opening != openings[0]:
            at = next(
                (i for i, pair in enumerate(zip(opening, openings[0], strict=False)) if pair[0] != pair[1]),
                min(len(opening), len(openings[0])),
            )
            raise GroupError(
                f"{name}rollouts {rollouts[0].id!r} and {rollout.id!r} differ at messages[{at}], before any "
                "assistant message: these are rollouts of different tasks. If the task is the same and only a "
                "simulated user differs, give the shared messages as `task`"
            )


@dataclass(frozen=True, slots=True)
class Usage:
    """What was asked and paid. Sums with `+`; `cost_usd` is None as soon as one part's price is unknown."""

    calls: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    """Those of the input tokens that the provider read from its own prompt cache."""
    output_tokens: int = 0
    cost_usd: float | None = 0.0
    cache_hits: int = 0
    """Questions whose answer was there already, or was being fetched for somebody else: nothing was paid for them."""
    retries: int = 0
    """Those of the calls that repeated one the judge could not answer."""
    wait_seconds: float = 0.0
    """Time in queues and between attempts, beside that of the calls themselves."""

    def __add__(self, other: Usage) -> Usage:
        known = self.cost_usd is not None and other.cost_usd is not None
        return Usage(
            self.calls + other.calls,
            self.input_tokens + other.input_tokens,
            self.cached_input_tokens + other.cached_input_tokens,
            self.output_tokens + other.output_tokens,
            (self.cost_usd or 0.0) + (other.cost_usd or 0.0) if known else None,
            self.cache_hits + other.cache_hits,
            self.retries + other.retries,
            self.wait_seconds + other.wait_seconds,
        )


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the judge samples. None leaves a setting to the provider."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    reasoning_effort: str | None = None

    def __post_init__(self) -> None:
        # 0 and 0.0 are one setting, and must be one question to a cache.
        for name in ("temperature", "top_p"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else float(value))


@dataclass(frozen=True, slots=True)
class JudgeInfo:
    """What a judge says of itself. A judge without it still works; it is called by its function's name."""

    backend: str
    model: str
    base_url: str | None = None
    sampling: Sampling = Sampling()
    """Put into every request to this judge, and so part of the question."""
    context_tokens: int | None = None
    """The judge's window, prompt and reply together; None when unknown."""
    count_tokens: Callable[[str], int] | None = field(default=None, compare=False)
    images: bool = False
    """Whether the judge takes image parts; otherwise it is shown a placeholder."""
    prefix_cache: bool = False
    """Whether the provider has to be told where a reusable prefix ends."""
    cacheable: bool = True
    """Whether backend, address, model and sampling tell what answers; otherwise nothing may be stored under them."""
    input_price: float | None = field(default=None, compare=False)
    """USD per million input tokens; None when unknown, 0 where nothing is billed."""
    output_price: float | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """The judge's name in results, settings included: `openai/gpt-5-mini`, `http://host/v1#model?temperature=0`."""
        settings = "&".join(
            f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
            for key, value in asdict(self.sampling).items()
            if value is not None
        )
        name = f"{self.base_url}#{self.model}" if self.base_url else self.model
        return f"{name}?{settings}" if settings else name


ChatMessage: TypeAlias = Mapping[str, Any]
"""One OpenAI chat message, ready for JSON."""


@dataclass(frozen=True, slots=True)
class JudgeRequest:
    """One question to a judge. It knows nothing of groups, rubrics or truth."""

    messages: tuple[ChatMessage, ...]
    schema: Mapping[str, Any]
    """JSON schema of the reply; the same object for every request of a run."""
    ids: tuple[str, ...]
    """The labels to be scored, in the order they are shown."""
    sampling: Sampling = Sampling()
    repeat: int = 0
    """The n-th independent asking of an equal request; not a retry."""
    prefix_chars: int = 0
    """How much of the user text will be sent again in other requests; the system message always is."""
    check: Callable[[str], object] | None = field(default=None, compare=False, repr=False)
    """Raises ReplyError unless the text is a usable reply; set by scoring, so that any layer can tell."""

    def prompt_hash(self) -> str:
        """SHA-256 (hex) of the messages, for logs."""
        return _sha256(_canonical(self.messages))


@dataclass(frozen=True, slots=True)
class JudgeReply:
    """What came back: the text as it is, and what it took."""

    text: str
    model: str
    """The model that answered, in the backend's words."""
    usage: Usage = Usage(calls=1, cost_usd=None)
    latency_seconds: float = 0.0
    finish_reason: str | None = None
    from_cache: bool = False
    judge: str | None = None
    """Name of the judge that answered, where several could have."""
    distributions: Mapping[str, Mapping[int, float]] | None = None
    """Label -> score 0..100 -> probability, where the backend can read them."""
    paid: Usage | None = None
    """Of a reply that cost nothing, because it was there already: what it took when it was asked; else None."""
    paid_seconds: float = 0.0
    """The latency of that asking."""


def usage_of(error: RulerError) -> Usage:
    """What came with the error; for a failed judge that said nothing, one call at an unknown price, and not 0."""
    if error.usage is None and isinstance(error, JudgeError):
        return Usage(calls=1, cost_usd=None)
    return error.usage or Usage()


_Error = TypeVar("_Error", bound=RulerError)


def with_usage(error: _Error, usage: Usage, *, message: str | None = None) -> _Error:
    """A copy of the error with this usage, and this message if one is given.

    A copy, because a judge may keep and raise one object many times.
    """
    # Not by its constructor, nor by `copy`, which calls it: other people's subclasses may want further arguments.
    arguments = error.args if message is None else (message,)
    raised = type(error).__new__(type(error), *arguments)
    raised.args = arguments
    vars(raised).update(vars(error))
    raised.usage = usage
    return raised


def reply_fault(reply: object) -> str | None:
    """What of a judge's reply is not what its type says, None when all is: a judge is other people's code."""
    if not isinstance(reply, JudgeReply):
        return f"returned {type(reply).__name__}, not a JudgeReply"
    fault = _fault_inside(reply)
    return fault and f"returned a JudgeReply with {fault}"


def _fault_inside(reply: JudgeReply) -> str | None:
    if not isinstance(reply.text, str):
        return f"text {reply.text!r:.80}"
    if not isinstance(reply.model, str):
        return f"model {reply.model!r:.80}"
    if not isinstance(reply.judge, str | None):
        return f"judge {reply.judge!r:.80}"
    usage = reply.usage
    if not isinstance(usage, Usage):
        return f"usage {usage!r:.80}"
    for name in ("calls", "input_tokens", "cached_input_tokens", "output_tokens", "cache_hits", "retries"):
        count = getattr(usage, name)
        if not (isinstance(count, int) and count >= 0):
            return f"usage.{name} {count!r:.80}"
    if usage.cost_usd is not None and not _is_amount(usage.cost_usd):
        return f"usage.cost_usd {usage.cost_usd!r:.80}"
    if not _is_amount(usage.wait_seconds):
        return f"usage.wait_seconds {usage.wait_seconds!r:.80}"
    return None


def _is_amount(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value < math.inf


Judge: TypeAlias = Callable[[JudgeRequest], Awaitable[JudgeReply]]
"""Any async callable of this shape is a judge. It may carry `info: JudgeInfo`."""


def judge_info(judge: Judge) -> JudgeInfo:
    """The judge's own `info`, else one made from its name; never raises."""
    info = getattr(judge, "info", None)
    if isinstance(info, JudgeInfo):
        return info
    while isinstance(judge, partial):
        judge = judge.func
    name = getattr(judge, "__qualname__", None) or type(judge).__qualname__
    return JudgeInfo(backend="callable", model=name)


@dataclass(frozen=True, slots=True)
class Score:
    """The judge's value for one rollout."""

    id: str
    score: float | None
    """In [0, 1], higher is better; None when the group is tied."""
    stderr: float | None = None
    """Standard error of the score within its group, over orders; None with one order. See `ruler.aggregate.merge`."""
    note: str | None = None
    """The judge's note; of a jury that of its first judge, the others' are in `ScoredGroup.jury`."""
    same_as: str | None = None
    """Id of an earlier rollout that reads the same: the two were judged once."""
    cut_chars: int = 0
    """Characters of its tool outputs that were left out to fit a judge's window; of a jury the most."""
    flags: tuple[str, ...] = ()
    """What was odd or suspicious about its text, for example `invisible`, `cut_off`, `score_plea`; no score is changed
    by it. See docs/prompt.md and docs/attacks.md."""


@dataclass(frozen=True, slots=True)
class JudgedOrder:
    """What one judge said of one prompt: a whole group in one order, or one block of it."""

    judge: str
    order: int
    """Which order of the judge's plan, from 0."""
    block: int
    """Which block of that order, from 0; 0 where the whole group is one block."""
    rollout_ids: tuple[str, ...]
    """In the order shown; of rollouts that read the same only the first."""
    scores: tuple[float, ...]
    """In [0, 1] in the order shown, as the judge gave them."""


@dataclass(frozen=True, slots=True)
class FailedOrder:
    """One order that gave no scores, in a group that was scored from the others."""

    judge: str
    order: int
    """Which order of the judge's plan, from 0."""
    reason: str
    """The error's `code`: judge, unavailable, rejected or reply."""
    message: str


@dataclass(frozen=True, slots=True)
class Juror:
    """What one judge of a jury says of a group."""

    judge: str
    model: str
    """The model that answered, in the backend's words."""
    scores: tuple[float, ...]
    """In [0, 1] in the caller's order."""
    notes: tuple[str | None, ...]
    """In the caller's order."""
    usage: Usage
    """This judge's part of the group's usage."""
    answered_by: str | None = None
    """Name of the judge that answered, where this one is a chain of several; else None."""
    stderr: tuple[float, ...] | None = None
    """Standard errors of the scores, in the caller's order; None with one order."""


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """One group, judged. `status` is "tied" when all rollouts read the same: nothing was asked, no score exists."""

    group_id: str
    group_digest: str
    """`Group.digest`: what was judged."""
    rollouts_digest: str
    """`Group.rollouts_digest`: what was judged under which rollout id."""
    status: Literal["scored", "tied"]
    rollouts: tuple[Score, ...]
    """In the caller's order."""
    usage: Usage
    judge: str
    """The judge's name; the names of a jury joined by " + "."""
    model: str | None
    """The model that answered, in the backend's words, those of a jury joined by " + "; None when nothing was asked."""
    rubric: str
    prompt_version: str
    orders: int | Literal["full"]
    """Orders asked for; "full": each rollout once in each slot."""
    adaptive: bool
    """Whether orders beyond the second were asked only where the first two disagree."""
    orders_used: int
    """Different orders that were judged, of a jury the fewest of one judge; 0 when tied."""
    agreement: float | None = None
    """How far the first two orders agree, in [-1, 1], of a jury the mean over its judges; None with one order. See
    `ruler.aggregate.agreement`."""
    judged: tuple[JudgedOrder, ...] = ()
    """Every prompt that the scores are made of, judge by judge."""
    failed_orders: tuple[FailedOrder, ...] = ()
    """Orders without scores, which `Ruler(min_orders=…)` allows."""
    clipped: int = 0
    """Scores merged from blocks that would have been outside [0, 1] and stand on its border; over all judges."""
    absolute: bool = False
    """True for a group of one: the score compares with nothing."""
    answered_by: str | None = None
    """Name of the judge that answered, where the judge is a chain of several; None for a jury: each juror has one."""
    jury: tuple[Juror, ...] = ()
    """What each judge of a jury says, in the order asked; empty for a single judge and for a tied group."""

    @property
    def scores(self) -> tuple[float | None, ...]:
        """In [0, 1] in the caller's order; all None when tied."""
        return tuple(score.score for score in self.rollouts)

    @property
    def notes(self) -> tuple[str | None, ...]:
        """The judge's note on each rollout, in the caller's order; those of a jury's first judge."""
        return tuple(score.note for score in self.rollouts)

    @property
    def stderr(self) -> tuple[float | None, ...]:
        """Standard errors in the caller's order; None with one order."""
        return tuple(score.stderr for score in self.rollouts)


@dataclass(frozen=True, slots=True)
class FailedGroup:
    """One group without scores, and why. It holds no number that could be taken for one."""

    group_id: str
    group_digest: str
    rollouts_digest: str
    reason: str
    """The error's `code`: config, group, packing, budget, judge, unavailable, rejected or reply."""
    message: str
    rollout_ids: tuple[str, ...]
    judge: str
    rubric: str
    prompt_version: str
    orders: int | Literal["full"]
    adaptive: bool
    usage: Usage = Usage()
    raw_reply: str | None = None
    """The reply that could not be used, where there was one."""
    status: Literal["failed"] = "failed"

    @classmethod
    def of(cls, group: Group, error: RulerError, **made_by: Any) -> FailedGroup:
        """The group that this error stopped; `made_by` are the fields that neither of them knows."""
        return cls(
            group_id=group.id,
            group_digest=group.digest,
            rollouts_digest=group.rollouts_digest,
            reason=error.code,
            message=" ".join(str(error).split())[:_MAX_MESSAGE_CHARS],
            rollout_ids=tuple(rollout.id for rollout in group.rollouts),
            usage=usage_of(error),
            **made_by,
        )
