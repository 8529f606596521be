"""Long text that occurs again in a group: it stands once before the rollouts, and they refer to it by name.

    <shared_text>
    Long texts that occur more than once. In a rollout, [text N] stands for the text under that name here.
    [text 1]
    {"order_id":"W1","status":"shipped","address":"…"}
    </shared_text>
    <rollout KQX>
    [call] find_order(order_id="W1")
    [result] [text 1]
    </rollout KQX>

What is shared is a run of whole lines of one turn, most often a whole tool result. It never reaches over the header of
a turn or the name of a call: each rollout still shows every step it took, in its own place. Pieces of lines are not
shared: a result with holes in it costs a reader more than it saves.
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ruler.messages import Part

MIN_CHARS = 200
"""Shorter runs stay where they are. One of this length that stands twice just pays for the words of the block."""

_MUCH = 0.1
"""Part of all text that may still stand several times before it is tried the other way round."""

TAG = "shared_text"
EXPLANATION = "Long texts that occur more than once. In a rollout, [text N] stands for the text under that name here."
_REFERENCE = re.compile(r"\[text ([0-9]+)\]")
_DEFINITION = re.compile(r"^\[text ([0-9]+)\]\n", re.MULTILINE)
# What stands before the content of a turn. Where foreign text holds something alike, a run ends; no more harm is done.
_HEADER = re.compile(
    r"(?P<call>\[call(?: \d+)?\] [^(]*\(?)"
    r"|\[(?:system|user|assistant|tool|refusal|reasoning|result|image|audio|video|file|nothing|cut off|stopped"
    r"|sub-agent|end of sub-agent|own tools|missing tools)\b[^\]]*\] ?"
)


@dataclass(frozen=True, slots=True)
class SharedText:
    """The long texts of a group that occur again, and its rollouts with references in their place."""

    texts: Mapping[int, str]
    """Number -> text, from 1, in the order of the rollouts and of the text in them."""
    rollouts: tuple[tuple[Part, ...], ...]
    """What is shown of each rollout; media as they were."""


def share(rollouts: Sequence[Sequence[Part]]) -> SharedText:
    """Finds the runs of lines that occur again, in other rollouts or in the same.

    No text may hold a reference (`neutralise` sees to it). The result depends on the order of the rollouts, so they
    should come sorted by content. Linear in the length of the text.
    """
    parts = [part for rollout in rollouts for part in rollout if isinstance(part, str)]
    texts, shown, repeated = _share(parts)
    if repeated > _MUCH * sum(map(len, parts)):
        # The first to hold a text is its original. One that quotes it with gaps makes a poor one for all the others.
        back_texts, back_shown, _ = _share(parts[::-1])
        if _size(back_texts, back_shown) < _size(texts, shown):
            texts, shown = back_texts, back_shown[::-1]
    each = iter(shown)
    return SharedText(
        texts,
        tuple(tuple(next(each) if isinstance(part, str) else part for part in rollout) for rollout in rollouts),
    )


def _share(parts: Sequence[str]) -> tuple[dict[int, str], list[str], int]:
    """Number -> text, the parts with references, and how many characters of lines that occur again are left there."""
    lines = _Lines(parts)
    texts, runs = _name(lines, _find_copies(lines))
    times = Counter(lines.content)
    repeated = sum(
        stop - start
        for start, stop, content in zip(lines.start, lines.stop, lines.content, strict=True)
        if times[content] > 1
    ) - sum(lines.num_chars(first, end) for first, end, _ in runs)
    return texts, _refer(lines, runs), repeated


def _size(texts: Mapping[int, str], shown: Sequence[str]) -> int:
    return sum(map(len, texts.values())) + sum(map(len, shown))


def references(parts: Iterable[Part]) -> tuple[int, ...]:
    """The numbers of the shared texts that a rollout refers to, ascending, each once."""
    texts = (part for part in parts if isinstance(part, str))
    return tuple(sorted({int(number) for text in texts for number in _REFERENCE.findall(text)}))


def block(texts: Mapping[int, str]) -> str:
    """What stands between the tags of the shared text."""
    return "\n".join([EXPLANATION, *(f"[text {number}]\n{text}" for number, text in texts.items())])


def restore(context: str, texts: Mapping[str, str]) -> dict[str, str]:
    """The full text of each rollout: what `share` did, undone.

    Args:
        context: the user text before the first fence (`PackedPrompt.context`).
        texts: label -> what stands between its fences (`PackedPrompt.texts`).

    Raises:
        KeyError: a text refers to what the context does not hold; never for a prompt of `PackedGroup.prompt`.
    """
    _, _, shared = context.rpartition(f"<{TAG}>\n")
    # [words, number, text, number, text, …]
    found = _DEFINITION.split(shared.rpartition(f"</{TAG}>\n")[0])
    named = {number: text.removesuffix("\n") for number, text in zip(found[1::2], found[2::2], strict=True)}
    return {label: _REFERENCE.sub(lambda match: named[match[1]], text) for label, text in texts.items()}


class _Lines:
    """All lines of all parts in one row: where the content of each stands, and which ones may be named together."""

    def __init__(self, parts: Sequence[str]) -> None:
        self.parts = parts
        self.part: list[int] = []
        self.start: list[int] = []
        self.stop: list[int] = []
        """Where the content of the line begins and ends in its part, without a header."""
        self.content: list[int] = []
        """A number per different content."""
        self.last: list[int] = []
        """The last line that may be named together with this one."""
        numbers: dict[str, int] = {}
        for number, text in enumerate(parts):
            self._add(number, text, numbers)

    def _add(self, number: int, text: str, numbers: dict[str, int]) -> None:
        at = 0
        for line in text.split("\n"):
            start, stop = at, at + len(line)
            at = stop + 1
            if line.startswith("[") and (header := _HEADER.match(line)):
                self._close()
                start += header.end()
                if header["call"] and start < stop and line.endswith(")"):
                    stop -= 1
            self.part.append(number)
            self.start.append(start)
            self.stop.append(stop)
            self.content.append(numbers.setdefault(text[start:stop], len(numbers)))
            if at - 1 > stop:
                self._close()
        self._close()

    def _close(self) -> None:
        """What comes next may not be named together with what is there."""
        num_open = len(self.start) - len(self.last)
        self.last += [len(self.start) - 1] * num_open

    def __len__(self) -> int:
        return len(self.start)

    def text(self, first: int, end: int) -> str:
        """The lines from `first` to before `end`, which stand in one turn."""
        return self.parts[self.part[first]][self.start[first] : self.stop[end - 1]]

    def num_chars(self, first: int, end: int) -> int:
        """The length of that text; 0 when it is empty."""
        return self.stop[end - 1] - self.start[first] if end > first else 0


def _find_copies(lines: _Lines) -> list[tuple[int, int, int]]:
    """(first line, first line of the original, number of lines) of each run that stands earlier, too.

    Originals hold no copies: a run ends where its original would.
    """
    copies: list[tuple[int, int, int]] = []
    seen: dict[tuple[str, int], int] = {}
    original = bytearray(b"\1") * len(lines)
    line = reach = 0
    while line < len(lines):
        # The shortest run from here that is long enough; where it ends grows with where it starts.
        reach = max(reach, line)
        while reach < lines.last[line] and lines.num_chars(line, reach + 1) < MIN_CHARS:
            reach += 1
        if lines.num_chars(line, reach + 1) < MIN_CHARS or lines.start[line] == lines.stop[line]:
            line += 1
            continue
        # The last line stands for itself by its number: hashing a long one for each short line before it would add up.
        before = lines.parts[lines.part[line]][lines.start[line] : lines.start[reach]]
        source = seen.setdefault((before, lines.content[reach]), line)
        length = 0
        limit = min(lines.last[line] - line, lines.last[source] - source, line - source - 1)
        while length <= limit and original[source + length]:
            if lines.content[source + length] != lines.content[line + length]:
                break
            length += 1
        if lines.num_chars(line, line + length) < MIN_CHARS:
            line += 1
            continue
        copies.append((line, source, length))
        original[line : line + length] = bytes(length)
        line += length
    return copies


def _name(lines: _Lines, copies: Sequence[tuple[int, int, int]]) -> tuple[dict[int, str], list[tuple[int, int, int]]]:
    """Number -> text, and (first line, end, number) of each run that a reference stands for, in order.

    Copies of one original may overlap: it is cut where any of them begins or ends.
    """
    kept, cuts = _agree(lines, copies)
    number_of: dict[int, int] = {}
    numbers: dict[str, int] = {}
    runs: list[tuple[int, int, int]] = []
    end_of = dict(itertools.pairwise(cuts))
    for _, source, length in sorted(kept, key=lambda copy: copy[1]):
        first = source
        while first < source + length:
            end = end_of[first]
            if first not in number_of and lines.num_chars(first, end) >= MIN_CHARS:
                number_of[first] = numbers.setdefault(lines.text(first, end), len(numbers) + 1)
                runs.append((first, end, number_of[first]))
            first = end
    for line, source, length in kept:
        first = source
        while first < source + length:
            end = end_of[first]
            if first in number_of:
                runs.append((line + first - source, line + end - source, number_of[first]))
            first = end
    return {number: text for text, number in numbers.items()}, sorted(runs)


def _agree(lines: _Lines, copies: Sequence[tuple[int, int, int]]) -> tuple[list[tuple[int, int, int]], list[int]]:
    """The copies that can be referred to together, and where their originals are cut, ascending.

    The longest go first. One that would cut a piece of theirs too short stays as it is: otherwise a rollout that
    quotes a text in many small pieces would bring it back in full into all the others.
    """
    kept = []
    cuts: list[int] = []
    covered = bytearray(len(lines) + 1)
    for line, source, length in sorted(copies, key=lambda copy: (-lines.num_chars(copy[1], copy[1] + copy[2]), copy)):
        ends = (source, source + length)
        fits = True
        for at in ends:
            place = bisect.bisect_left(cuts, at)
            if at > 0 and covered[at - 1] and covered[at] and cuts[place] != at:
                pieces = (lines.num_chars(cuts[place - 1], at), lines.num_chars(at, cuts[place]))
                fits = fits and min(pieces) >= MIN_CHARS
        if not fits:
            continue
        kept.append((line, source, length))
        covered[source : source + length] = b"\1" * length
        for at in ends:
            place = bisect.bisect_left(cuts, at)
            if place == len(cuts) or cuts[place] != at:
                cuts.insert(place, at)
    return kept, cuts


def _refer(lines: _Lines, runs: Iterable[tuple[int, int, int]]) -> list[str]:
    """The parts with references for these runs."""
    shown: list[list[str]] = [[] for _ in lines.parts]
    done = [0] * len(lines.parts)
    for first, end, number in runs:
        part = lines.part[first]
        shown[part] += (lines.parts[part][done[part] : lines.start[first]], f"[text {number}]")
        done[part] = lines.stop[end - 1]
    for part, text in enumerate(lines.parts):
        shown[part].append(text[done[part] :])
    return ["".join(pieces) for pieces in shown]
