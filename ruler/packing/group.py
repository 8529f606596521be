"""A group, laid out once; any order of any of its rollouts becomes a request from it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ruler.messages import Message, Part, Tool
from ruler.packing import layout, tools
from ruler.packing.labels import draw_labels
from ruler.packing.layout import PromptOptions
from ruler.packing.neutralise import neutralise
from ruler.packing.transcript import Transcript
from ruler.rubric import Rubric
from ruler.types import ChatMessage, Group, Rollout


@dataclass(frozen=True, slots=True)
class PackedRollout:
    """One rollout as the judge sees it; it may stand for several that read the same."""

    label: str
    parts: tuple[Part, ...]
    """Text and media between its fences."""
    rollout_ids: tuple[str, ...]
    """The caller's ids, in the caller's order."""


@dataclass(frozen=True, slots=True)
class PackedPrompt:
    """One order of rollouts, ready to be asked."""

    messages: tuple[ChatMessage, ...]
    labels: tuple[str, ...]
    """In the order shown."""
    rollouts: Mapping[str, tuple[str, ...]]
    """Label -> the caller's ids of the rollouts it stands for."""
    prefix_chars: int
    """Length of the user text that every order of this group shares."""
    parts: tuple[tuple[str, str], ...]
    """(name, text) of each part in order: "rubric and contract", "context", "rollout KQX", …, "closing line"."""

    @property
    def context(self) -> str:
        """The user text before the first fence."""
        return self.parts[1][1]

    @property
    def texts(self) -> dict[str, str]:
        """Label -> the text between its fences."""
        fenced = self.parts[2 : 2 + len(self.labels)]
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
    system: str
    seed: str
    """SHA-256 (hex) of the group's content as the judge sees it; equal for every arrival order."""
    images: bool
    flags: Mapping[str, tuple[str, ...]]
    """Rollout id -> what was odd about its text."""

    def prompt(self, order: Sequence[int]) -> PackedPrompt:
        """The prompt that shows these rollouts (indices into `rollouts`) in this order."""
        chosen = [self.rollouts[index] for index in order]
        labels = tuple(rollout.label for rollout in chosen)
        last = layout.closing(labels)
        fenced = [layout.fenced(rollout.label, rollout.parts) for rollout in chosen]
        user = [*self.context, *(part for parts in fenced for part in parts), last]
        context = _text(self.context)
        return PackedPrompt(
            messages=layout.chat(self.system, user, images=self.images),
            labels=labels,
            rollouts={rollout.label: rollout.rollout_ids for rollout in chosen},
            prefix_chars=len(context),
            parts=(
                ("rubric and contract", self.system),
                ("context", context),
                *((f"rollout {label}", _text(parts)) for label, parts in zip(labels, fenced, strict=True)),
                ("closing line", last),
            ),
        )


def pack(
    group: Group, rubric: Rubric, options: PromptOptions = PromptOptions(), *, images: bool = False
) -> PackedGroup:
    """The group, laid out: shared opening and tools once, equal rollouts once, odd text made visible.

    Never fails for what a rollout says. Linear in the length of the text and in the number of rollouts.
    """
    task, start = _shared_opening(group, options)
    common, differences = tools.split(
        [group.tools if rollout.tools is None else rollout.tools for rollout in group.rollouts]
    )
    context, shared_flags = _context(group, task, start, common, options)
    opening = (*task, *start)
    skip = len(opening) - len(group.task)
    flags: dict[str, tuple[str, ...]] = {}
    shown: dict[str, tuple[Part, ...]] = {}
    ids: dict[str, list[str]] = {}
    for rollout, (own, missing) in zip(group.rollouts, differences, strict=True):
        head = [f"[own tools]\n{tools.describe(own)}"] if own else []
        head += [f"[missing tools] {_list(missing)}"] if missing else []
        # An answer without a header would run into the lines about tools.
        transcript = _rollout(rollout, opening, skip, options, bare="" if head else "assistant")
        parts = (*head, *transcript.parts)
        key = _digest(parts)
        shown.setdefault(key, parts)
        ids.setdefault(key, []).append(rollout.id)
        flags[rollout.id] = tuple(sorted(transcript.flags | shared_flags))
    keys = sorted(shown)
    seed = hashlib.sha256("|".join([_digest(context), *keys]).encode("ascii")).hexdigest()
    system = layout.system_text(rubric, options)
    texts = [part for parts in (context, *shown.values()) for part in parts if isinstance(part, str)]
    labels = draw_labels(keys, seed, [system, *texts])
    rollouts = tuple(PackedRollout(label, shown[key], tuple(ids[key])) for key, label in zip(keys, labels, strict=True))
    return PackedGroup(group, rollouts, context, system, seed, images, flags)


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
    group: Group,
    task: Sequence[Message],
    start: Sequence[Message],
    common: Sequence[Tool],
    options: PromptOptions,
) -> tuple[tuple[Part, ...], set[str]]:
    """The sections before the rollouts (task, tools, shared opening, reference); the flags of what all did alike."""
    asked = Transcript(reasoning=options.reasoning)
    asked.add(task, bare="user")
    begun = Transcript(reasoning=options.reasoning, previous=task)
    begun.add(start)
    reference = neutralise(group.reference)[0] if options.reference and group.reference else ""
    sections = (
        ("task", asked.parts),
        ("tools", (tools.describe(common),) if common else ()),
        ("shared_start", begun.parts),
        ("reference_answer", (reference,) if reference else ()),
    )
    return tuple(part for tag, parts in sections for part in layout.section(tag, parts)), begun.flags


def _rollout(
    rollout: Rollout, opening: Sequence[Message], skip: int, options: PromptOptions, *, bare: str
) -> Transcript:
    transcript = Transcript(reasoning=options.reasoning, previous=opening)
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
    return transcript


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
