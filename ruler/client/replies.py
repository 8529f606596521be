"""Answers of the service, read into the library's errors, and how often one asks."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from ruler.errors import (
    BudgetExceeded,
    ConfigError,
    GroupError,
    JudgeError,
    JudgeRejected,
    JudgeUnavailable,
    PackingError,
    ReplyError,
    RulerError,
)
from ruler.results import read_usage
from ruler.types import Usage, usage_of, with_usage

if TYPE_CHECKING:
    from tenacity import RetryCallState

T = TypeVar("T")

_FIRST_BACKOFF_SECONDS = 0.5
_MAX_BACKOFF_SECONDS = 30.0
_MAX_RETRY_AFTER_SECONDS = 120.0
_QUOTED_CHARS = 200
UNKNOWN = Usage(cost_usd=None)
"""Of a request that got lost: something may have been spent, and nobody said how much."""

_ERRORS: Mapping[str, type[RulerError]] = {
    "group": GroupError,
    "conflict": GroupError,
    "superseded": GroupError,
    "too_large": GroupError,
    "packing": PackingError,
    "budget": BudgetExceeded,
    "judge": JudgeError,
    "internal": JudgeError,
    "rejected": JudgeRejected,
    "reply": ReplyError,
    "unavailable": JudgeUnavailable,
    "overloaded": JudgeUnavailable,
    "rate_limited": JudgeUnavailable,
    "stopping": JudgeUnavailable,
    "deadline": JudgeUnavailable,
    "slow_body": JudgeUnavailable,
    "unauthorized": ConfigError,
    "forbidden": ConfigError,
    "not_found": ConfigError,
    "method": ConfigError,
    "config": ConfigError,
}
"""The service's code -> class; the codes are those of `ruler.service.problems`."""
_INVITING = ("rate_limited", "overloaded", "stopping")
"""The service works and says when to come again: that is no failed attempt."""
_UNSAID = ("internal", "deadline")
"""With these the service cannot know what was spent."""
_FOREIGN: Mapping[int, type[RulerError]] = {
    401: ConfigError,
    403: ConfigError,
    404: ConfigError,
    405: ConfigError,
    407: ConfigError,
    413: GroupError,
    429: JudgeUnavailable,
    502: JudgeUnavailable,
    503: JudgeUnavailable,
    504: JudgeUnavailable,
}
"""HTTP status -> class, for answers that the service did not write: those of proxies, and of other servers."""


class Transient(Exception):
    """What came of one attempt, where another may fare better.

    Attributes:
        error: what is raised when there is no other.
        invited: whether the service asked to come again, so that this does not count as a failed attempt.
        answered: whether there was an answer, and not only silence.
    """

    def __init__(self, error: JudgeUnavailable, *, invited: bool = False, answered: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.invited = invited
        self.answered = answered


@dataclass(frozen=True)
class Reply:
    """One answer over HTTP."""

    server: str
    status: int
    content: bytes
    headers: Mapping[str, str]

    @cached_property
    def body(self) -> Mapping[str, Any] | None:
        """The JSON object that it holds; None when it holds none."""
        try:
            found = json.loads(self.content)
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    @property
    def code(self) -> str | None:
        """The service's code for what went wrong; None when nothing did, or when the service did not write this."""
        error = self.body.get("error") if self.body else None
        code = error.get("code") if isinstance(error, dict) else None
        return code if isinstance(code, str) and self.status >= 400 else None

    @property
    def retry_after_seconds(self) -> float | None:
        """What `Retry-After` says in seconds. A date, which the service never sends, is not read."""
        with suppress(ValueError):
            seconds = float(self.headers.get("retry-after", ""))
            return seconds if 0 <= seconds < math.inf else None
        return None

    def error(self) -> RulerError:
        """What went wrong, in the library's classes; an answer that nobody understands is a JudgeError."""
        code = self.code
        if code is None:
            kind = ConfigError if 300 <= self.status < 400 else _FOREIGN.get(self.status, JudgeError)
            moved = f", to {self.headers['location']!r:.200}" if "location" in self.headers else ""
            return self._made(kind, f"{self.status}{moved}, not from this service: {self.quoted()}", UNKNOWN)
        told = self.body["error"] if self.body else {}
        usage = UNKNOWN if code in _UNSAID else Usage()
        with suppress(ValueError):
            usage = read_usage(told["usage"]) if "usage" in told else usage
        message, group_id = str(told.get("message", code)), told.get("group_id")
        if isinstance(group_id, str) and repr(group_id) not in message:
            message = f"group {group_id!r:.80}: {message}"
        return self._made(_ERRORS.get(code, JudgeError), message, usage)

    def transient(self) -> Transient | None:
        """This answer as one after which the same may be asked again, None when it is not."""
        error = self.error() if self.status in (429, 503) or (self.code is None and self.status in (502, 504)) else None
        if not isinstance(error, JudgeUnavailable):
            return None
        invited = self.code in _INVITING and error.retry_after_seconds is not None
        return Transient(error, invited=invited, answered=True)

    def quoted(self) -> str:
        """The beginning of the text."""
        text = " ".join(self.content[: 4 * _QUOTED_CHARS].decode("utf-8", "replace").split())
        return repr(text if len(text) <= _QUOTED_CHARS else f"{text[:_QUOTED_CHARS]}...")

    def _made(self, kind: type[RulerError], message: str, usage: Usage) -> RulerError:
        message = f"{self.server}: {message}"
        if issubclass(kind, JudgeUnavailable):
            overloaded = self.status == 429 or self.code == "overloaded"
            return kind(message, usage=usage, retry_after_seconds=self.retry_after_seconds, overloaded=overloaded)
        return kind(message, usage=usage)


@dataclass(frozen=True)
class Patience:
    """How often, and how long, the same thing is asked."""

    attempts: int
    timeout_seconds: float
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[object]]
    jitter: Callable[[], float]

    def deadline(self) -> float:
        """When the time is over that begins now, by the clock."""
        return self.clock() + self.timeout_seconds

    def left(self, deadline: float) -> float:
        """Seconds until then; negative when it has passed."""
        return deadline - self.clock()

    async def ask(self, attempt: Callable[[], Awaitable[T]], deadline: float) -> tuple[T, Usage]:
        """What the attempt returns, and what was spent on those before it that raised Transient.

        Between two of them it waits what the service asked for, and a random time up to 0.5, 1, 2, … seconds, 30 at
        most ("full jitter").

        Raises:
            JudgeUnavailable: that of the last attempt, with the usage of all and why there was no other.
        """
        from tenacity import AsyncRetrying, retry_if_exception_type  # not loaded before something is sent

        spent = Usage()
        num_failed = 0
        answered: JudgeUnavailable | None = None

        async def once() -> T:
            nonlocal spent, num_failed, answered
            try:
                return await attempt()
            except Transient as transient:
                spent += usage_of(transient.error)
                num_failed += not transient.invited
                answered = transient.error if transient.answered else answered
                raise

        def pause(state: RetryCallState) -> float:
            longest = min(_MAX_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2.0 ** min(state.attempt_number - 1, 60))
            return min(_retry_after(state), _MAX_RETRY_AFTER_SECONDS) + longest * self.jitter()

        def stop(state: RetryCallState) -> bool:
            return num_failed >= self.attempts or state.upcoming_sleep >= self.left(deadline)

        async def sleep(seconds: float) -> None:
            await self.sleep(seconds)

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Transient), wait=pause, stop=stop, sleep=sleep, reraise=True
        )
        try:
            return await retrying(once), spent
        except Transient as transient:
            times = int(retrying.statistics["attempt_number"])
            asked = "asked once" if times == 1 else f"asked {times} times"
            ended = "" if num_failed >= self.attempts else f"; timeout_seconds={self.timeout_seconds:g}"
            error = transient.error
            # The last attempt may have had no time left: what the service said before is the reason.
            before = f"; before that: {answered}" if answered is not None and not transient.answered else ""
            raise with_usage(error, spent, message=f"{error} ({asked}{ended}){before}") from transient.__cause__
        except RulerError as error:
            raise with_usage(error, spent + usage_of(error)) from error.__cause__


def _retry_after(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    return (error.error.retry_after_seconds or 0.0) if isinstance(error, Transient) else 0.0
