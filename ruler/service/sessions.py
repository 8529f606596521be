"""Who is signed in to the dashboard. In memory: a restart signs everybody out."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

from ruler.service.keys import Caller

SESSION_SECONDS = 12 * 3600.0
_MAX_SESSIONS = 1_000


class Sessions:
    """Callers by random token; each ends after 12 hours, and the oldest makes room for the thousand-and-first."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._open: OrderedDict[str, tuple[Caller, float]] = OrderedDict()  # in the order in which they end

    def __len__(self) -> int:
        return len(self._open)

    def open(self, caller: Caller) -> str:
        """The token of a new session of this caller."""
        if len(self._open) >= _MAX_SESSIONS:
            self._open.popitem(last=False)
        token = secrets.token_urlsafe(32)
        self._open[token] = caller, self._clock() + SESSION_SECONDS
        return token

    def find(self, token: str | None) -> Caller | None:
        """Whose session this is; None: nobody's, or it has ended."""
        while self._open and next(iter(self._open.values()))[1] <= self._clock():
            self._open.popitem(last=False)
        found = self._open.get(token or "")
        return found and found[0]

    def close(self, token: str | None) -> None:
        """Ends a session, if there is one."""
        self._open.pop(token or "", None)
