"""One judged group as its page shows it: scores, what the rollouts did, and in which orders they were judged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from statistics import fmean

from ruler.messages import Media, Message, Tool, ToolCall
from ruler.packing.tools import describe
from ruler.packing.transcript import Transcript
from ruler.service.page_text import AsIs, cut
from ruler.service.recent import Judged
from ruler.types import Group, Rollout, Score, ScoredGroup

MAX_PAGE_CHARS = 240_000
"""Of the transcripts on one page; every rollout has an equal share, and `_MIN_CHARS` in any case."""
_MIN_CHARS = 2_000
_MAX_PIECE_CHARS = 20_000
_LONG_CHARS = 1_600
"""Longer text is folded, but for the last words of a rollout."""
_LONG_LAST_CHARS = 6_000
_LONG_RESULT_CHARS = 500
_PREVIEW_CHARS = 140
_MAX_PARAMETERS_CHARS = 100_000
_MAX_ORDERS = 48
"""Orders and blocks that are listed; a large group that is asked in all orders has thousands of places."""


@dataclass(frozen=True, slots=True)
class Text:
    """One piece of text, cut to what a page can hold."""

    text: str
    num_chars: int
    """Before it was cut."""
    left_out: int = 0
    """Characters that are not shown."""
    folded: bool = False
    preview: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message, tool call or tool result."""

    kind: str
    """user, system, assistant, call, result, reasoning, refusal, or section: the name of a sub-agent."""
    label: str
    texts: tuple[Text, ...]


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one judge of a jury says of one rollout."""

    judge: str
    score: float
    stderr: float | None
    note: str | None


@dataclass(frozen=True, slots=True)
class Column:
    """One rollout."""

    place: int
    """In the caller's order, from 1."""
    score: Score
    rank: int | None
    """1 is the best, equal scores share it; None when tied."""
    opinions: tuple[Opinion, ...]
    turns: tuple[Turn, ...]
    finish_reason: str | None
    tools: tuple[AsIs, ...]
    """Its own, where they differ from the group's."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One prompt: what stood where, and what it got."""

    judge: str
    order: int
    block: int
    seats: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Orders:
    """All prompts, and what each position got in the mean."""

    shown: tuple[Shown, ...]
    left_out: int
    has_blocks: bool
    num_places: int
    means: tuple[float, ...]
    """By position over all prompts, also those that are not listed; empty for a single prompt."""


def task_turns(group: Group) -> tuple[Turn, ...]:
    """What every rollout was given."""
    return tuple(_Reader(MAX_PAGE_CHARS // 4).read(group.task or _opening(group)))


def reference_text(group: Group) -> Text | None:
    """The reference answer, if there is one."""
    return _Reader(_MAX_PIECE_CHARS).piece(group.reference, _LONG_CHARS) if group.reference else None


def tool_lines(tools: Sequence[Tool]) -> tuple[AsIs, ...]:
    """A line a tool; names alone where the definitions are too long to be read."""
    if sum(len(tool.parameters) + len(tool.description) for tool in tools) > _MAX_PARAMETERS_CHARS:
        tools = [Tool(cut(tool.name, 200)) for tool in tools]
    return tuple(AsIs(cut(line, 1_000)) for line in describe(tools[:200]).split("\n") if line)


def columns(judged: Judged, *, by_score: bool) -> tuple[Column, ...]:
    """The rollouts, the best first or in the caller's order; of a failed group all are without score."""
    result = judged.result
    if isinstance(result, ScoredGroup):
        scores: Sequence[Score] = result.rollouts
    else:
        scores = [Score(rollout_id, None) for rollout_id in result.rollout_ids]
    rollouts: dict[str, Rollout] = {}
    if judged.group:
        said = 0 if judged.group.task else len(_opening(judged.group))
        rollouts = {one.id: replace(one, messages=one.messages[said:]) for one in judged.group.rollouts}
    budget = max(_MIN_CHARS, MAX_PAGE_CHARS // max(1, len(scores)))
    ranks = _ranks(scores)
    found = [
        _column(place, one, rank, _opinions(result, place), rollouts.get(one.id), budget)
        for place, (one, rank) in enumerate(zip(scores, ranks, strict=True))
    ]
    # Sorting is stable: equal scores stay in the caller's order.
    return tuple(sorted(found, key=lambda column: -(column.score.score or 0.0)) if by_score else found)


def orders(result: ScoredGroup) -> Orders:
    """The prompts that the scores are made of."""
    num_places = max((len(judged.scores) for judged in result.judged), default=0)
    means = [fmean(j.scores[place] for j in result.judged if place < len(j.scores)) for place in range(num_places)]
    return Orders(
        shown=tuple(
            Shown(j.judge, j.order, j.block, tuple(zip(j.rollout_ids, j.scores, strict=True)))
            for j in result.judged[:_MAX_ORDERS]
        ),
        left_out=max(0, len(result.judged) - _MAX_ORDERS),
        has_blocks=any(judged.block for judged in result.judged),
        num_places=num_places,
        means=tuple(means) if len(result.judged) > 1 else (),
    )


def reply_text(raw: str) -> Text:
    """A judge's reply that could not be used."""
    return replace(_Reader(_MAX_PIECE_CHARS).piece(raw, _LONG_CHARS), folded=False)


def _opening(group: Group) -> tuple[Message, ...]:
    """What the rollouts of a group without task messages begin with, up to the first assistant message."""
    return tuple(takewhile(lambda message: message.role != "assistant", group.rollouts[0].messages))


def _ranks(scores: Sequence[Score]) -> list[int | None]:
    ordered = sorted((one.score for one in scores if one.score is not None), reverse=True)
    first = {value: place for place, value in reversed(list(enumerate(ordered, 1)))}
    return [None if one.score is None else first[one.score] for one in scores]


def _opinions(result: object, place: int) -> tuple[Opinion, ...]:
    if not isinstance(result, ScoredGroup):
        return ()
    return tuple(
        Opinion(j.judge, j.scores[place], None if j.stderr is None else j.stderr[place], j.notes[place])
        for j in result.jury
    )


def _column(
    place: int, score: Score, rank: int | None, opinions: tuple[Opinion, ...], rollout: Rollout | None, budget: int
) -> Column:
    turns: list[Turn] = []
    if rollout:
        reader = _Reader(budget)
        turns = reader.read(rollout.messages)
        for history in rollout.histories:
            turns += [Turn("section", f"sub-agent {cut(history.name, 80)}", ()), *reader.read(history.messages)]
        turns = _last_words_unfolded(turns)
    return Column(
        place=place + 1,
        score=score,
        rank=rank,
        opinions=opinions,
        turns=tuple(turns),
        finish_reason=rollout.finish_reason if rollout else None,
        tools=tool_lines(rollout.tools) if rollout and rollout.tools is not None else (),
    )


def _last_words_unfolded(turns: list[Turn]) -> list[Turn]:
    for place in reversed(range(len(turns))):
        if turns[place].kind == "assistant":
            texts = tuple(replace(text, folded=text.num_chars > _LONG_LAST_CHARS) for text in turns[place].texts)
            return [*turns[:place], replace(turns[place], texts=texts), *turns[place + 1 :]]
    return turns


class _Reader:
    """Turns messages into what is shown of them, until its characters are spent."""

    def __init__(self, max_chars: int) -> None:
        self._left = max_chars
        self._num_calls = 0

    def read(self, messages: Iterable[Message]) -> list[Turn]:
        return [turn for message in messages for turn in self._turns(message)]

    def _turns(self, message: Message) -> Iterable[Turn]:
        if message.reasoning:
            yield Turn("reasoning", "reasoning", (self.piece(message.reasoning, _LONG_RESULT_CHARS),))
        if message.role == "tool":
            yield Turn("result", self._result_label(message), self._content(message, _LONG_RESULT_CHARS))
            return
        if message.content or not (message.tool_calls or message.refusal or message.reasoning):
            yield Turn(message.role, message.role, self._content(message, _LONG_CHARS))
        if message.refusal:
            yield Turn("refusal", "refusal", (self.piece(message.refusal, _LONG_CHARS),))
        if message.tool_calls:
            self._num_calls = len(message.tool_calls)
        for number, call in enumerate(message.tool_calls, 1):
            yield Turn("call", f"call {number}" if self._num_calls > 1 else "call", (self._call(call),))

    def _result_label(self, message: Message) -> str:
        if message.answers is not None:
            return f"result {message.answers + 1}" if self._num_calls > 1 else "result"
        return f"result of {cut(message.name, 80)}" if message.name else "result"

    def _content(self, message: Message, long_chars: int) -> tuple[Text, ...]:
        # Media are named and never fetched: their addresses were written by a policy or its tools.
        return tuple(
            self.piece(AsIs(f"[{part.kind} {part.digest}]") if isinstance(part, Media) else part, long_chars)
            for part in message.content
        )

    def _call(self, call: ToolCall) -> Text:
        arguments = self.piece(call.arguments, _LONG_CHARS)
        # As the judge is shown it: code in arguments stands below the call, line by line.
        transcript = Transcript()
        transcript.add((Message("assistant", tool_calls=(ToolCall(cut(call.name, 200), arguments.text),)),))
        text = str(transcript.parts[0]).removeprefix("[call] ")
        return replace(arguments, text=AsIs(text), preview=AsIs(cut(" ".join(text.split()), _PREVIEW_CHARS)))

    def piece(self, text: str, long_chars: int) -> Text:
        kept = cut(text, max(1, min(_MAX_PIECE_CHARS, self._left)))
        self._left = max(0, self._left - len(kept))
        return Text(
            text=kept,
            num_chars=len(text),
            left_out=len(text) - len(kept) + 1 if len(kept) < len(text) else 0,
            folded=len(text) > long_chars,
            preview=cut(" ".join(kept[: 4 * _PREVIEW_CHARS].split()), _PREVIEW_CHARS),
        )
