"""How a judge's endpoint misbehaves: the kinds of fault, and which request meets which. No sockets here.

`benchmarks.fault_replies` says what an endpoint sends under each kind, `benchmarks.fault_server` sends it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Mark(StrEnum):
    """What a client owes to a kind of fault."""

    USABLE = "usable"
    """The answer is odd in form and right: it must be scored."""
    TRANSIENT = "transient"
    """Worth a retry of the same request: JudgeUnavailable."""
    REPLY = "reply"
    """Worth a re-ask that names the fault: ReplyError, from the judge or from `request.check`."""
    FINAL = "final"
    """Asking again is vain: it fails with its reason at once."""


class Fault(StrEnum):
    """One way to misbehave. Its value is its name on the command line and in the counts."""

    mark: Mark

    def __new__(cls, value: str, mark: Mark) -> Fault:
        member = str.__new__(cls, value)
        member._value_ = value
        member.mark = mark
        return member

    FENCED = "fenced", Mark.USABLE
    """The right JSON in a Markdown code fence."""
    PROSE = "prose", Mark.USABLE
    """The right JSON with sentences before and after it."""
    PLAIN_TYPE = "plain_type", Mark.USABLE
    """The right completion, declared as text/plain. A client may refuse it; a wrong number must not come of it."""

    RATE_LIMIT = "rate_limit", Mark.TRANSIENT
    """429 without Retry-After."""
    RATE_LIMIT_SECONDS = "rate_limit_seconds", Mark.TRANSIENT
    """429 with Retry-After in seconds."""
    RATE_LIMIT_DATE = "rate_limit_date", Mark.TRANSIENT
    """429 with Retry-After as an HTTP date, in whole seconds, rounded up."""
    ERROR_500 = "error_500", Mark.TRANSIENT
    """500 with an error object."""
    ERROR_502 = "error_502", Mark.TRANSIENT
    """502 with an error object."""
    ERROR_503 = "error_503", Mark.TRANSIENT
    """503 with an error object."""
    RESET = "reset", Mark.TRANSIENT
    """The connection is reset (RST) before the first byte of the response."""
    RESET_IN_BODY = "reset_in_body", Mark.TRANSIENT
    """The connection is reset (RST) in the middle of the body."""
    CLOSED_IN_BODY = "closed_in_body", Mark.TRANSIENT
    """The connection ends in good order (FIN) in the middle of the body."""
    TIMEOUT = "timeout", Mark.TRANSIENT
    """The request is taken and never answered; ends when the client leaves."""
    DRIP = "drip", Mark.TRANSIENT
    """Headers, then a blank now and then, for ever: no single read times out; ends when the client leaves."""
    NO_BODY = "no_body", Mark.TRANSIENT
    """200 with an empty HTTP body."""
    CUT_BODY = "cut_body", Mark.TRANSIENT
    """200, a whole HTTP response, and half of the completion's JSON in it."""
    HTML_200 = "html_200", Mark.TRANSIENT
    """An HTML page with status 200, as a captive portal sends it."""
    HTML_502 = "html_502", Mark.TRANSIENT
    """An HTML page with status 502, as a proxy sends it."""
    HUGE_BODY = "huge_body", Mark.TRANSIENT
    """A completion whose text takes tens of megabytes, in chunks, its length not told."""
    ZIP_BOMB = "zip_bomb", Mark.TRANSIENT
    """As huge_body, packed by gzip into some kilobytes; its length told."""

    EMPTY_TEXT = "empty_text", Mark.REPLY
    """A completion without text, finish reason stop."""
    CUT_TEXT = "cut_text", Mark.REPLY
    """The reply's JSON stops among the scores, finish reason stop."""
    WRONG_ID = "wrong_id", Mark.REPLY
    """One id that was not asked for in the place of one that was."""
    MISSING_ID = "missing_id", Mark.REPLY
    """One id has no score."""
    DOUBLE_ID = "double_id", Mark.REPLY
    """One id is scored twice, differently."""
    OUT_OF_RANGE = "out_of_range", Mark.REPLY
    """The scores 173 and -5."""
    NOT_FINITE = "not_finite", Mark.REPLY
    """The scores NaN and Infinity."""
    TEXT_SCORES = "text_scores", Mark.REPLY
    """All scores are strings."""
    CONTRADICTION = "contradiction", Mark.REPLY
    """A well-formed object with wrong numbers, then one with the right numbers in a form that was not asked for."""

    CUT_AT_LIMIT = "cut_at_limit", Mark.FINAL
    """As cut_text, finish reason length: the same limit would cut it again (ReplyError)."""
    EMPTY_AT_LIMIT = "empty_at_limit", Mark.FINAL
    """A completion without text, finish reason length: a reasoning judge spent it all on thinking (ReplyError)."""
    REFUSAL = "refusal", Mark.FINAL
    """A completion whose message holds a refusal and no text."""
    CONTENT_FILTER = "content_filter", Mark.FINAL
    """A completion with finish reason content_filter."""
    CONTEXT_OVERFLOW = "context_overflow", Mark.FINAL
    """400: the prompt does not fit the model's window."""
    UNAUTHORIZED = "unauthorized", Mark.FINAL
    """401: the key is refused."""


MIXED = tuple(fault for fault in Fault if fault.mark is not Mark.FINAL)
"""Every kind after which the prompt can still be scored."""
_SETS = {"mixed": MIXED, "all": tuple(Fault), "none": ()}


def read_faults(faults: str | Iterable[Fault]) -> tuple[Fault, ...]:
    """The kinds meant, each once, in the order of `Fault`.

    Args:
        faults: kinds, or text: mixed, all, none, or names parted by commas.

    Raises:
        ValueError: a name that is no kind.
    """
    if not isinstance(faults, str) or isinstance(faults, Fault):
        named = {faults} if isinstance(faults, Fault) else set(faults)
    elif faults in _SETS:
        named = set(_SETS[faults])
    else:
        names = {name.strip() for name in faults.split(",")}
        unknown = sorted(names - set(Fault))
        if unknown:
            raise ValueError(f"faults: no kind {unknown[0]!r}; there are {', '.join((*_SETS, *Fault))}")
        named = {Fault[name.upper()] for name in names}
    return tuple(fault for fault in Fault if fault in named)


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """Which request meets which fault: a pure function, so that a run can be repeated whatever its concurrency.

    Raises:
        ValueError: a rate outside [0, 1], or a rate without any kind of fault.
    """

    faults: tuple[Fault, ...]
    rate: float
    """Probability that a request misbehaves at all; each kind is then equally likely."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ValueError(f"rate: expected a probability, got {self.rate!r}")
        if self.rate and not self.faults:
            raise ValueError(f"rate: {self.rate!r} of the requests shall misbehave, and no kind of fault is given")

    def fault(self, key: str, asked_before: int) -> Fault | None:
        """What a request meets, None for the right answer.

        Args:
            key: the prompt's, see `benchmarks.fault_replies.prompt_key`.
            asked_before: how many requests with this key came earlier.
        """
        if not self.rate:
            return None
        draw = hashlib.sha256(f"{self.seed}|{key}|{asked_before}".encode()).digest()
        if int.from_bytes(draw[:8], "big") >= self.rate * 2**64:
            return None
        return self.faults[int.from_bytes(draw[8:16], "big") % len(self.faults)]
