"""Odd text made visible: what a judge could not see, or could take for the prompt's own structure.

A policy must not be able to void its group, so nothing here raises. Readable letters of every script stay as they are.
"""

from __future__ import annotations

import re

# Some invisible characters are spelling, and are let through where they are: joiners beside letters of scripts that
# join and inside emoji, direction marks in Hebrew and Arabic text, variation selectors behind what has variants.
# Everywhere else they are shown, runs of them always: whole messages can be written in them.
_MARKS = "\u200e\u200f\u061c"
_JOINING = (
    "\u0620-\u07ff\u0840-\u109f\u1780-\u17b3\u17b6-\u17ff\u1820-\u18aa\u1a20-\u1aad\u1b00-\u1bff\ua840-\uabff"
    "\ufb50-\ufdff\ufe70-\ufefc\U00010a00-\U00011fff\U0001e900-\U0001e95f"
)
_EMOJI = "\u203c-\u205f\u2070-\u3299\U0001f000-\U0001faff"
_LEGITIMATE = "|".join(
    (
        f"(?<=[{_JOINING}])[\u200c\u200d](?![\u200c\u200d])",
        f"(?<![\u200c\u200d])[\u200c\u200d](?=[{_JOINING}])",
        f"(?<=[{_EMOJI}\ufe0f])\u200d(?=[{_EMOJI}])",
        f"(?<=[\u00a9\u00ae{_EMOJI}])[\ufe0e\ufe0f]",
        "(?<=[0-9#*])\ufe0f(?=\u20e3)",
        "(?<=[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])[\U000e0100-\U000e01ef]",
        "(?<=[\u1820-\u18aa])[\u180b-\u180f]",
        # The flags of England, Scotland and Wales.
        "(?<=\U0001f3f4)\U000e0067\U000e0062"
        "(?:\U000e0065\U000e006e\U000e0067|\U000e0073\U000e0063\U000e0074|\U000e0077\U000e006c\U000e0073)\U000e007f",
    )
)
_ODD_CHARS = (
    "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
    "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u061c\u2028-\u202e\u2060-\u206f"
    "\u3164\ufeff\uffa0\ufff9-\ufffb\ufe00-\ufe0f\ud800-\udfff\U000e0000-\U000e0fff"
)
_ODD_RUN = re.compile(f"[{_ODD_CHARS}]+")
_ODD = re.compile(
    f"(?P<legitimate>{_LEGITIMATE})|(?P<marks>(?<![{_MARKS}])[{_MARKS}]{{1,2}}(?![{_MARKS}]))"
    f"|(?P<odd>[{_ODD_CHARS}])(?P=odd)*"
)
_RIGHT_TO_LEFT = re.compile("[\u0590-\u061b\u061d-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069" + _MARKS)
_SURROGATE = re.compile("[\ud800-\udfff]")
_WITHOUT_MARKS = str.maketrans("", "", _MARKS)

_LINE_END = re.compile("\r\n?")
_FENCE_LIKE = re.compile(
    r"<(?=\\*\s*+(?:/\s*+)?(?:rollout\b|(?:reference_answer|shared_start|shared_text)\s*+>))", re.IGNORECASE
)
# No bracket of a Markdown link, except in the forms that hold a name: a name can hold anything.
_TURN_LIKE = re.compile(
    r"^((?:[^\S\n]|\u2800)*)\[(?=\\*[^\S\n]*+"
    r"(?:(?:system|user|assistant|tool|refusal|reasoning|(?:call|result)(?: \d+)?)[^\S\n]*+\](?!\()"
    r"|(?:nothing|(?:image|audio|video|file) [0-9a-f]{12}|result of [^\]\n]*"
    r"|(?:cut off|stopped|sub-agent|end of sub-agent|own tools|missing tools)\b[^\]\n]*)\]))",
    re.IGNORECASE | re.MULTILINE,
)
# A reference or the mark of a cut, wherever it stands, and without its end: what follows in a text of ours could be the
# rest of it.
_REFERENCE_LIKE = re.compile(r"\[(?=\\*\s*+(?:text\s++|cut\s*+:\s*+)\d)", re.IGNORECASE)
_REPLY_LIKE = re.compile(r'"scores"(?=\s*:\s*\[\s*\{\s*"(?:id|score)")', re.IGNORECASE)


# (pattern, a character that every match holds, what is shown, flag). Most text holds none of the brackets.
_LOOKALIKES = (
    (_FENCE_LIKE, "<", "<\\\\", "fence"),
    (_TURN_LIKE, "[", r"\1[\\", "turn"),
    (_REFERENCE_LIKE, "[", r"[\\", "reference"),
    (_REPLY_LIKE, '"', r'\\"scores\\"', "reply_json"),
)


def neutralise(text: str) -> tuple[str, frozenset[str]]:
    r"""The text as a judge may see it, and the names of what was odd about it.

    Returns:
        The text with line ends as `\n`, invisible characters as `[U+200B]` (a run of them once, with its length),
        lookalikes of fences as `<\rollout …`, of turn headers as `[\user]`, of references to shared text as
        `[\text 1]`, of the reply as `\"scores\"`; and a subset of {"surrogate", "control", "bidi", "invisible",
        "fence", "turn", "reference", "reply_json"}.
    """
    flags: set[str] = set()
    if "\r" in text:
        text = _LINE_END.sub("\n", text)
    if not text.isascii() and _SURROGATE.search(text):
        # Halves that stand side by side are one character that was decoded badly.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    if not text.isascii() or not text.isprintable():
        text = _show_odd(text, flags)
    for pattern, char, shown, flag in _LOOKALIKES:
        if char in text:
            text, count = pattern.subn(shown, text)
            if count:
                flags.add(flag)
    return text, frozenset(flags)


def escape_closing(text: str, tag: str) -> str:
    """The text with `</tag>` made harmless, for the section that this tag closes."""
    return re.sub(rf"<(?=\s*+/\s*+{tag}\s*+>)", r"<\\", text, flags=re.IGNORECASE)


def _show_odd(text: str, flags: set[str]) -> str:
    if not _ODD_RUN.search(text):
        return text
    if not _RIGHT_TO_LEFT.search(text):
        return _ODD_RUN.sub(_Show(text, flags, marks=True), text)
    found: set[str] = set()
    shown = _ODD_RUN.sub(_Show(text, found, marks=False), text)
    bare = shown.translate(_WITHOUT_MARKS)
    if len(bare) < len(shown) and any(
        sum(1 for _ in pattern.finditer(bare)) > sum(1 for _ in pattern.finditer(shown)) for pattern, *_ in _LOOKALIKES
    ):
        # Marks that hide a lookalike from us would not hide it from the judge.
        return _ODD_RUN.sub(_Show(text, flags, marks=True), text)
    flags |= found
    return shown


class _Show:
    """Replaces one match of `_ODD_RUN`; remembers what it said, for text that is odd from end to end."""

    def __init__(self, text: str, flags: set[str], *, marks: bool) -> None:
        self._text = text
        self._flags = flags
        self._marks = marks
        self._known: dict[str, str] = {}
        self._runs: dict[str, str] = {}

    def __call__(self, match: re.Match[str]) -> str:
        start, stop = match.span()
        # What is legitimate depends on the neighbours, which are no part of the run and stay.
        around = self._text[start - 1 if start else 0 : stop + 1]
        shown = self._known.get(around)
        if shown is None:
            shown = _ODD.sub(self._one, around)
            shown = shown[1 if start else 0 : -1 if stop < len(self._text) else None]
            self._known[around] = shown
        return shown

    def _one(self, match: re.Match[str]) -> str:
        run = match[0]
        if match["odd"] is None and (match["marks"] is None or not self._marks):
            return run
        shown = self._runs.get(run)
        if shown is None:
            shown = self._runs[run] = self._describe(run)
        return shown

    def _describe(self, run: str) -> str:
        for char in set(run):
            if char < "\x20" or "\x7f" <= char <= "\x9f":
                self._flags.add("control")
            elif "\ud800" <= char <= "\udfff":
                self._flags.add("surrogate")
            else:
                self._flags.add("bidi" if char in _BIDI else "invisible")
        if len(run) > 1 and run == run[0] * len(run):
            return f"[U+{ord(run[0]):04X} x{len(run)}]"
        return "".join(f"[U+{ord(char):04X}]" for char in run)
