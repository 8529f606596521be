"""Long tool outputs cut in the middle, so that a group fits the judge's window."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

MIN_RESULT_CHARS = 1_000
"""No tool output is cut shorter than this."""

_ERROR = re.compile(
    r"\b(?:errors?|exceptions?|traceback|fail(?:ed|ure|s)?|fatal|denied|refused|invalid|not found|timed? ?out|panic)\b"
    r"|(?<=[a-z])(?:Error|Exception)\b",
    re.IGNORECASE,
)
_AROUND = 120
_SNAP = 40


def cut_middle(text: str, max_chars: int) -> tuple[str, int]:
    """The text with parts of its middle replaced by `[cut: 3,412 characters]`, and how many characters were left out.

    Kept are its beginning, its end, and up to half of `max_chars` of what speaks of an error in between: the line, or
    of a very long line what stands around the word. Without the marks at most `max_chars` characters are kept; a text
    no longer than that comes back whole, with 0. No line begins behind a mark that did not begin there before, so a
    cut cannot make a header of something that was none.

    Linear in the length of the text.
    """
    if len(text) <= max_chars:
        return text, 0
    # Errors first: what they need is taken from head and tail alike.
    spans = list(_errors(text, max_chars // 4, len(text) - max_chars // 4, max_chars // 2))
    rest = max_chars - sum(stop - start for start, stop in spans)
    head = _snap_back(text, rest - rest // 2)
    tail = _snap_forward(text, len(text) - rest // 2)
    kept = _joined([(0, head), *spans, (tail, len(text))])
    pieces = [text[start:stop] for start, stop in kept]
    marks = [f" [cut: {later[0] - earlier[1]:,} characters] " for earlier, later in itertools.pairwise(kept)]
    shown = pieces[0] + "".join(mark + piece for mark, piece in zip(marks, pieces[1:], strict=True))
    return shown, len(text) - sum(stop - start for start, stop in kept)


def _errors(text: str, start: int, stop: int, budget: int) -> Iterator[tuple[int, int]]:
    """Where errors are spoken of between `start` and `stop`: apart, in order, together no longer than the budget."""
    end = start
    for match in _ERROR.finditer(text, start, stop):
        if match.start() < end:
            continue
        line_start = text.rfind("\n", max(end, match.start() - _AROUND), match.start()) + 1
        begin = line_start or max(end, match.start() - _AROUND)
        line_end = text.find("\n", match.end(), match.end() + _AROUND)
        end = min(stop, match.end() + _AROUND) if line_end < 0 else line_end
        if end - begin > budget:
            return
        budget -= end - begin
        yield begin, end


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans, those that touch or overlap made one."""
    joined = spans[:1]
    for start, stop in spans[1:]:
        last_start, last_stop = joined[-1]
        if start <= last_stop:
            joined[-1] = last_start, max(last_stop, stop)
        else:
            joined.append((start, stop))
    return joined


def _snap_back(text: str, end: int) -> int:
    """The end of the last whole word before `end`, where there is one nearby."""
    space = max(text.rfind(sign, max(0, end - _SNAP), end) for sign in " \n")
    return space if space > 0 else end


def _snap_forward(text: str, start: int) -> int:
    """The beginning of the first whole word after `start`, where there is one nearby."""
    found = [at for sign in " \n" if (at := text.find(sign, start, start + _SNAP)) >= 0]
    return min(found) + 1 if found else start
