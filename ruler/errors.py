"""Every error this project raises on purpose.

RulerError
|- ConfigError(ValueError)      unknown name, missing extra, bad option
|- GroupError(ValueError)       empty group, duplicate ids, unreadable message
|- PackingError(ValueError)     the group cannot fit the judge's window
|- BudgetExceeded               the money or token cap is reached: nothing more is asked
`- JudgeError                   no usable reply
   |- JudgeUnavailable          rate limit, timeout, 5xx, connection: the only class that is worth a retry
   |- JudgeRejected             authentication, bad request, content filter, context overflow
   `- ReplyError(ValueError)    wrong ids, out of range, not JSON, cut off

To add one: derive it from the class whose handling it shares, give it a `code`, and keep every argument after the
message optional and by keyword, so that the error survives pickling.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from ruler.types import Usage


def describe(error: BaseException) -> str:
    """The class and message of other people's error; its class alone where the message cannot be had."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001  whatever their __str__ raises
        return type(error).__name__


class RulerError(Exception):
    """Root of the tree. `code` is the short reason that results, files and HTTP bodies carry.

    Attributes:
        usage: what was spent before it was raised, as far as anybody said; None when nothing is known.
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, usage: Usage | None = None) -> None:
        super().__init__(message)
        self.usage = usage


class ConfigError(RulerError, ValueError):
    """A setting is wrong: an unknown judge, a missing extra or key, an option out of range."""

    code = "config"


class GroupError(RulerError, ValueError):
    """A group cannot be read: the message names the group, the rollout and the field."""

    code = "group"


class PackingError(RulerError, ValueError):
    """A group cannot be laid out as a prompt for this judge."""

    code = "packing"


class BudgetExceeded(RulerError):
    """The cap on money or tokens is reached. Nothing more is asked; what was judged stays."""

    code = "budget"


class JudgeError(RulerError):
    """The judge gave no usable reply."""

    code = "judge"


class JudgeUnavailable(JudgeError):
    """The judge could not answer now: rate limit, timeout, 5xx, broken connection.

    Attributes:
        retry_after_seconds: how long the judge asked to be left alone; None when it did not say.
        overloaded: whether it asked for less (a rate limit) or was too slow (a timeout).
    """

    code = "unavailable"

    def __init__(
        self,
        message: str,
        *,
        usage: Usage | None = None,
        retry_after_seconds: float | None = None,
        overloaded: bool = False,
    ) -> None:
        super().__init__(message, usage=usage)
        self.retry_after_seconds = retry_after_seconds
        self.overloaded = overloaded


class JudgeRejected(JudgeError):
    """The judge will not answer this request, however often it is asked."""

    code = "rejected"


class ReplyError(JudgeError, ValueError):
    """The judge answered, but not with exactly the scores that were asked for.

    Attributes:
        raw: the reply's text as it came.
        finish_reason: the backend's word for why the reply ended; "length" means that it was cut off.
    """

    code = "reply"

    def __init__(
        self,
        message: str,
        *,
        usage: Usage | None = None,
        raw: str = "",
        finish_reason: str | None = None,
    ) -> None:
        super().__init__(message, usage=usage)
        self.raw = raw
        self.finish_reason = finish_reason
