"""Canonical messages as text a person or a judge can read.

One header a turn, nothing escaped that need not be. A rollout that is a single plain answer is shown without header.

    [user] Where is order 12?
    [call] find_order(number=12)
    [result] {"status":"shipped"}
    [assistant] It has been shipped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from ruler.messages import Media, Message, Part, ToolCall, join_text, parse_arguments
from ruler.packing.cut import cut_middle
from ruler.packing.neutralise import neutralise
from ruler.types import History

_NAME = re.compile(r"[\w.-]+")
_ESCAPED_CONTROL = re.compile(r"(?<!\\)(?:\\\\)*\\u00(?:[01][0-9a-f]|7f|[89][0-9a-f])", re.IGNORECASE)


class Transcript:
    """Collects lines and media; `parts` and `flags` are what came of it."""

    def __init__(
        self, *, reasoning: bool = False, previous: Sequence[Message] = (), max_result_chars: int | None = None
    ) -> None:
        """Starts empty.

        Args:
            reasoning: show what models wrote under separate reasoning keys.
            previous: messages that are shown elsewhere and come before; results may answer their calls.
            max_result_chars: cut every longer tool output in its middle; None: none.
        """
        self._reasoning = reasoning
        self._max_result_chars = max_result_chars
        self._parts: list[Part] = []
        self._latest_calls = 0
        self.flags: set[str] = set()
        self.cut_chars = 0
        self.longest_result_chars = 0
        for message in previous:
            self._latest_calls = len(message.tool_calls) or self._latest_calls

    @property
    def parts(self) -> tuple[Part, ...]:
        """Text and media in order; adjacent text is joined, each text ends without a line end."""
        return join_text(self._parts, "\n")

    @property
    def is_empty(self) -> bool:
        """Whether nothing was added yet."""
        return not self._parts

    def add_line(self, text: str) -> None:
        """Adds a line of our own, as it is."""
        self._parts.append(text)

    def add(self, messages: Sequence[Message], *, bare: str = "") -> None:
        """Adds turns; a message of the role `bare` that is all there is, and only content, gets no header."""
        if len(messages) == 1 and bare and messages[0].role == bare and self._is_content(messages[0]):
            self._add_content("", messages[0].content)
            return
        for message in messages:
            self._add_message(message)

    def add_history(self, history: History) -> None:
        """Adds a sub-agent's messages as a section."""
        name = self._clean(" ".join(history.name.split())) or "unnamed"
        self.add_line(f"[sub-agent {name}]")
        self.add(history.messages)
        self.add_line(f"[end of sub-agent {name}]")

    def _add_message(self, message: Message) -> None:
        if self._reasoning and message.reasoning:
            self._add_content("[reasoning]", (message.reasoning,))
        if message.role == "tool":
            content = tuple(self._result(part) if isinstance(part, str) else part for part in message.content)
            self._add_shown(self._result_header(message), content or ("(empty)",))
            return
        if message.content or not (message.tool_calls or message.refusal or message.reasoning):
            self._add_content(f"[{message.role}]", message.content or ("(empty)",))
        if message.refusal:
            self.flags.add("refusal")
            self._add_content("[refusal]", (message.refusal,))
        if message.tool_calls:
            self._latest_calls = len(message.tool_calls)
        for number, call in enumerate(message.tool_calls, 1):
            self._add_call(call, f"[call {number}]" if self._latest_calls > 1 else "[call]")

    def _result_header(self, message: Message) -> str:
        if message.answers is not None:
            return f"[result {message.answers + 1}]" if self._latest_calls > 1 else "[result]"
        return f"[result of {self._clean(' '.join(message.name.split()))}]" if message.name else "[result]"

    def _result(self, text: str) -> str:
        """A tool's output as it is shown."""
        text = self._clean(compact_json(text))
        self.longest_result_chars = max(self.longest_result_chars, len(text))
        if self._max_result_chars is None or len(text) <= self._max_result_chars:
            return text
        # After cleaning, because the marks of a cut are our own, and no cut may open a line that cleaning would mend.
        text, cut = cut_middle(text, self._max_result_chars)
        self.cut_chars += cut
        self.flags.add("cut")
        return text

    def _add_content(self, header: str, content: Iterable[Part]) -> None:
        self._add_shown(header, (self._clean(part) if isinstance(part, str) else part for part in content))

    def _add_shown(self, header: str, content: Iterable[Part]) -> None:
        for part in content:
            if isinstance(part, Media):
                if header:
                    self._parts.append(header)
                # The line stands for media that the judge is not shown, and names those that it is.
                self._parts += [f"[{part.kind} {part.digest}]", part]
            else:
                joint = "\n" if "\n" in part else " "
                self._parts.append(f"{header}{joint}{part}" if header else part)
            header = ""

    def _add_call(self, call: ToolCall, header: str) -> None:
        name = self._clean(" ".join(call.name.split()))
        if _ESCAPED_CONTROL.search(call.arguments):
            self.flags.add("control")
        shown: list[str] = []
        below: list[tuple[str, str]] = []
        try:
            for key, value in parse_arguments(call.arguments).items():
                key = key if _NAME.fullmatch(key) else _json(key)
                if isinstance(value, str) and "\n" in value:
                    # Code reads badly as a JSON string, and costs more.
                    shown.append(f"{key}=below")
                    below.append((key, value))
                else:
                    shown.append(f"{key}={_json(value)}")
        except (ValueError, RecursionError):
            self._add_content(f"{header} {name}", (f"({call.arguments})",))
            return
        self._parts.append(f"{header} {name}({self._clean(', '.join(shown))})")
        for key, value in below:
            lines = self._clean(value).split("\n")
            self._parts.append("\n".join([f"{self._clean(key)}:", *(f"| {line}" for line in lines)]))

    def _clean(self, text: str) -> str:
        text, flags = neutralise(text)
        self.flags |= flags
        return text

    def _is_content(self, message: Message) -> bool:
        hidden = bool(message.tool_calls or message.refusal) or (self._reasoning and bool(message.reasoning))
        return bool(message.content) and not hidden


def compact_json(text: str) -> str:
    r"""JSON as Python's `json.dumps` writes it, but without its spaces and `\uXXXX`; any other text as it is.

    Nothing is lost: where a number is spelled in another way or a key stands twice, the text is left alone. So is what
    was laid out over several lines to be read.
    """
    if not text.startswith(("{", "[")) or "\n" in text:
        return text
    try:
        value = json.loads(text)
        return _json(value) if json.dumps(value, ensure_ascii=text.isascii()) == text else text
    except (ValueError, RecursionError):
        return text


# One encoder for all: `json.dumps` makes a new one for each call.
_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
