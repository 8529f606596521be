"""A group, laid out once; any order of any of its rollouts becomes a request from it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ruler.messages import Message, Part, Tool
from ruler.packing import layout, shared_text, tools
from ruler.packing.labels import draw_labels
from ruler.packing.layout import PromptOptions
from ruler.packing.neutralise import neutralise
from ruler.packing.suspicion import suspicions
from ruler.packing.transcript import Transcript
from ruler.rubric import Rubric
from ruler.types import ChatMessage, Group, Rollout


@dataclass(frozen=True, slots=True)
class PackedRollout:
    """One rollout as the judge sees it; it may stand for several that read the same."""

    label: str
    parts: tuple[Part, ...]
    """All its text and media."""
    shown: tuple[Part, ...]
    """Text and media between its fences, with references to shared texts."""
    references: tuple[int, ...]
    """Numbers of the shared texts that it refers to, ascending."""
    rollout_ids: tuple[str, ...]
    """The caller's ids, in the caller's order."""


@dataclass(frozen=True, slots=True)
class PackedPrompt:
    """One order of rollouts, or one block of it, ready to be asked."""

    order: int
    """Which order of the plan, from 0."""
    block: int
    """Which block of that order, from 0."""
    messages: tuple[ChatMessage, ...]
    labels: tuple[str, ...]
    """In the order shown."""
    rollouts: Mapping[str, tuple[str, ...]]
    """Label -> the caller's ids of the rollouts it stands for."""
    cut_chars: Mapping[str, int]
    """Label -> characters of its tool outputs that are left out."""
    prefix_chars: int
    """Length of the user text that every order of these rollouts shares."""
    parts: tuple[tuple[str, str], ...]
    """(name, text) of each part in order: "rubric and contract", "context", "shared text" where there is some,
    "rollout KQX", …, "closing line"."""

    @property
    def context(self) -> str:
        """The user text before the first fence, with the shared texts."""
        return "".join(text for _, text in self.parts[1 : -1 - len(self.labels)])

    @property
    def texts(self) -> dict[str, str]:
        """Label -> the text between its fences; `restore` gives the full text."""
        fenced = self.parts[-1 - len(self.labels) : -1]
        return {
            label: text.split("\n", 1)[1].rsplit("\n", 2)[0]
            for label, (_, text) in zip(self.labels, fenced, strict=True)
        }

    def tokens(self, count: Callable[[str], int]) -> dict[str, int]:
        """Tokens per part, and of the whole under "total"; chat-template tokens and images are not counted.

        A tokenizer may join text across parts, so that the total can differ from the sum by a few.
        """
        account = {name: count(text) for name, text in self.parts}
        account["total"] = count(self.parts[0][1]) + count("".join(text for _, text in self.parts[1:]))
        return account


@dataclass(frozen=True, slots=True)
class PackedGroup:
    """What does not change between the requests of one group."""

    group: Group
    rollouts: tuple[PackedRollout, ...]
    """The different ones, sorted by key: arrival order leaves no trace."""
    context: tuple[Part, ...]
    """Task, shared opening, tools and reference."""
    shared_texts: Mapping[int, str]
    """Number -> long text that occurs again in the rollouts."""
    system: str
    seed: str
    """SHA-256 (hex) of the group's content as the judge sees it; equal for every arrival order."""
    images: bool
    flags: Mapping[str, tuple[str, ...]]
    """Rollout id -> what was odd about its text."""
    cut_chars: Mapping[str, int]
    """Rollout id -> characters of tool outputs that are left out, those of task and shared opening included."""
    longest_result_chars: int
    """Length of the longest tool output, uncut; 0 when there is none."""

    _frame: _Frame

    def cut(self, max_result_chars: int) -> PackedGroup:
        """The group with every longer tool output cut in its middle.

        Labels, seed and which rollouts are equal stay those of the uncut text.
        """
        draft = _Draft.of(self.group, self._frame.options, max_result_chars)
        return _packed(self.group, self._frame, draft)

    @property
    def representatives(self) -> dict[str, str]:
        """Rollout id -> id of the first rollout that reads the same, which may be itself."""
        return {name: rollout.rollout_ids[0] for rollout in self.rollouts for name in rollout.rollout_ids}

    @property
    def num_chars(self) -> dict[str, int]:
        """Rollout id -> characters of its text as it is laid out, with shared texts in place; in the caller's order."""
        length = {
            name: sum(len(part) for part in rollout.parts if isinstance(part, str))
            for rollout in self.rollouts
            for name in rollout.rollout_ids
        }
        return {rollout.id: length[rollout.id] for rollout in self.group.rollouts}

    def prompt(self, shown: Sequence[int], *, order: int = 0, block: int = 0) -> PackedPrompt:
        """The prompt that shows these rollouts (indices into `rollouts`) in this order.

        Of the shared texts it holds those that these rollouts refer to, under the same names in every prompt.
        """
        chosen = [self.rollouts[index] for index in shown]
        labels = tuple(rollout.label for rollout in chosen)
        last = layout.closing(labels)
        shared = self._shared_section(chosen)
        fenced = [layout.fenced(rollout.label, rollout.shown) for rollout in chosen]
        user = [*self.context, *shared, *(part for parts in fenced for part in parts), last]
        context, section = _text(self.context), _text(shared)
        return PackedPrompt(
            order=order,
            block=block,
            messages=layout.chat(self.system, user, images=self.images),
            labels=labels,
            rollouts={rollout.label: rollout.rollout_ids for rollout in chosen},
            cut_chars={rollout.label: self.cut_chars[rollout.rollout_ids[0]] for rollout in chosen},
            prefix_chars=len(context) + len(section),
            parts=(
                ("rubric and contract", self.system),
                ("context", context),
                *((("shared text", section),) if section else ()),
                *((f"rollout {label}", _text(parts)) for label, parts in zip(labels, fenced, strict=True)),
                ("closing line", last),
            ),
        )

    def _shared_section(self, chosen: Iterable[PackedRollout]) -> tuple[Part, ...]:
        numbers = sorted({number for rollout in chosen for number in rollout.references})
        texts = {number: self.shared_texts[number] for number in numbers}
        return layout.section(shared_text.TAG, (shared_text.block(texts),) if texts else ())


def pack(
    group: Group,
    rubric: Rubric,
    options: PromptOptions = PromptOptions(),
    *,
    images: bool = False,
) -> PackedGroup:
    """The group, laid out: shared opening and tools once, equal rollouts once, long text once, odd text made visible.

    Never fails for what a rollout says. Linear in the length of the text and in the number of rollouts.

    Args:
        group: the rollouts and what they share.
        rubric: what the judge is told to value.
        options: what is shown and asked for.
        images: show images to the judge.
    """
    whole = _Draft.of(group, options, None)
    keys_of = [_digest(parts) for parts in whole.rollouts]
    keys = sorted(set(keys_of))
    seed = hashlib.sha256("|".join([_digest(whole.context), *keys]).encode("ascii")).hexdigest()
    system = layout.system_text(rubric, options)
    texts = [part for parts in (whole.context, *whole.rollouts) for part in parts if isinstance(part, str)]
    frame = _Frame(
        options=options,
        system=system,
        seed=seed,
        images=images,
        keys_of=tuple(keys_of),
        labels=dict(zip(keys, draw_labels(keys, seed, [system, *texts]), strict=True)),
        suspicions=tuple(
            suspicions(rollout.messages[whole.num_given :], rollout.histories, reasoning=options.reasoning)
            for rollout in group.rollouts
        ),
    )
    return _packed(group, frame, whole)


@dataclass(frozen=True, slots=True)
class _Frame:
    """What does not change when tool outputs are cut; the tuples are in the caller's order of rollouts."""

    options: PromptOptions
    system: str
    seed: str
    images: bool
    keys_of: tuple[str, ...]
    labels: Mapping[str, str]
    """Key -> label, sorted by key."""
    suspicions: tuple[frozenset[str], ...]


def _packed(group: Group, frame: _Frame, draft: _Draft) -> PackedGroup:
    parts_of = dict(zip(frame.keys_of, draft.rollouts, strict=True))
    full = [parts_of[key] for key in frame.labels]
    shared = shared_text.share(full) if frame.options.shared_text else shared_text.SharedText({}, tuple(full))
    ids: dict[str, list[str]] = {}
    for key, rollout in zip(frame.keys_of, group.rollouts, strict=True):
        ids.setdefault(key, []).append(rollout.id)
    rollouts = tuple(
        PackedRollout(label, parts, shown, shared_text.references(shown), tuple(ids[key]))
        for (key, label), parts, shown in zip(frame.labels.items(), full, shared.rollouts, strict=True)
    )
    names = [rollout.id for rollout in group.rollouts]
    flags = (tuple(sorted(odd | found)) for odd, found in zip(draft.flags, frame.suspicions, strict=True))
    return PackedGroup(
        group=group,
        rollouts=rollouts,
        context=draft.context,
        shared_texts=shared.texts,
        system=frame.system,
        seed=frame.seed,
        images=frame.images,
        flags=dict(zip(names, flags, strict=True)),
        cut_chars=dict(zip(names, draft.cut_chars, strict=True)),
        longest_result_chars=draft.longest_result_chars,
        _frame=frame,
    )


@dataclass(frozen=True, slots=True)
class _Draft:
    """A group's texts; the tuples are in the caller's order of rollouts."""

    context: tuple[Part, ...]
    rollouts: tuple[tuple[Part, ...], ...]
    flags: tuple[set[str], ...]
    """What the transcripts found odd, that of the shared opening for each rollout."""
    cut_chars: tuple[int, ...]
    num_given: int
    """How many of each rollout's messages the task section shows."""
    longest_result_chars: int

    @classmethod
    def of(cls, group: Group, options: PromptOptions, max_result_chars: int | None) -> _Draft:
        task, start = _shared_opening(group, options)
        common, differences = tools.split(
            [group.tools if rollout.tools is None else rollout.tools for rollout in group.rollouts]
        )
        asked = Transcript(reasoning=options.reasoning, max_result_chars=max_result_chars)
        asked.add(task, bare="user")
        begun = Transcript(reasoning=options.reasoning, previous=task, max_result_chars=max_result_chars)
        begun.add(start)
        opening = (*task, *start)
        skip = len(opening) - len(group.task)
        rollouts = []
        transcripts = []
        for rollout, (own, missing) in zip(group.rollouts, differences, strict=True):
            head = [f"[own tools]\n{tools.describe(own)}"] if own else []
            head += [f"[missing tools] {_list(missing)}"] if missing else []
            transcript = Transcript(reasoning=options.reasoning, previous=opening, max_result_chars=max_result_chars)
            # An answer without a header would run into the lines about tools.
            _add_rollout(transcript, rollout, skip, bare="" if head else "assistant")
            transcripts.append(transcript)
            rollouts.append((*head, *transcript.parts))
        every = [asked, begun, *transcripts]
        common_flags = begun.flags | ({"cut"} & asked.flags)  # the task is not the rollouts' own
        common_cuts = asked.cut_chars + begun.cut_chars
        return cls(
            context=_context(group, asked, begun, common, options),
            rollouts=tuple(rollouts),
            flags=tuple(transcript.flags | common_flags for transcript in transcripts),
            cut_chars=tuple(transcript.cut_chars + common_cuts for transcript in transcripts),
            num_given=skip - len(start),
            longest_result_chars=max(transcript.longest_result_chars for transcript in every),
        )


def _shared_opening(group: Group, options: PromptOptions) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """The task messages, and what all rollouts did alike after them; never some rollout's last answer."""
    lists = [rollout.messages for rollout in group.rollouts]
    if not options.reasoning:
        # What is not shown must not keep equal turns apart.
        lists = [tuple(replace(m, reasoning="") if m.reasoning else m for m in messages) for messages in lists]
    limit = min(_last_answer(messages) for messages in lists)
    shared = 0
    for column in zip(*lists, strict=False):
        if shared == limit or any(message != column[0] for message in column[1:]):
            break
        shared += 1
    opening = lists[0][:shared]
    given = next((i for i, message in enumerate(opening) if message.role == "assistant"), shared)
    # Nothing is shared by a group of one: what it did stays in its own fence.
    return (*group.task, *opening[:given]), opening[given:] if len(lists) > 1 else ()


def _last_answer(messages: Sequence[Message]) -> int:
    """Where the last assistant message stands; the end, if there is none."""
    return max((i for i, message in enumerate(messages) if message.role == "assistant"), default=len(messages))


def _context(
    group: Group, asked: Transcript, begun: Transcript, common: Sequence[Tool], options: PromptOptions
) -> tuple[Part, ...]:
    """The sections before the rollouts: task, tools, shared opening, reference."""
    reference = neutralise(group.reference)[0] if options.reference and group.reference else ""
    sections = (
        ("task", asked.parts),
        ("tools", (tools.describe(common),) if common else ()),
        ("shared_start", begun.parts),
        ("reference_answer", (reference,) if reference else ()),
    )
    return tuple(part for tag, parts in sections for part in layout.section(tag, parts))


def _add_rollout(transcript: Transcript, rollout: Rollout, skip: int, *, bare: str) -> None:
    """Adds what the rollout did from its message `skip` on, its sub-agents, and how it ended."""
    transcript.add(rollout.messages[skip:], bare=bare)
    for history in rollout.histories:
        transcript.add_history(history)
    if not rollout.histories and not any(m.content or m.tool_calls or m.refusal for m in rollout.messages[skip:]):
        transcript.flags.add("empty")
    if transcript.is_empty:
        transcript.add_line("[nothing]")
    if rollout.finish_reason == "length":
        transcript.flags.add("cut_off")
        transcript.add_line("[cut off: the rollout reached its token limit here]")
    elif rollout.finish_reason == "content_filter":
        transcript.flags.add("filtered")
        transcript.add_line("[stopped by a content filter]")


def _list(names: Sequence[str]) -> str:
    # Where every rollout has tools of its own, naming all others in each would grow with the square.
    more = f" and {len(names) - _MAX_MISSING} more" if len(names) > _MAX_MISSING else ""
    return neutralise(", ".join(names[:_MAX_MISSING]))[0] + more


_MAX_MISSING = 20


def _digest(parts: Sequence[Part]) -> str:
    # NUL stands in no shown text: parts that join to the same characters stay apart.
    shown = "\0".join(part for part in parts if isinstance(part, str))
    return hashlib.sha256(shown.encode("utf-8", "surrogatepass")).hexdigest()


def _text(parts: Sequence[Part]) -> str:
    return "".join(part for part in parts if isinstance(part, str))
