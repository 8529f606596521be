"""One request after another to the service, until there is an answer or the time is over."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ruler.client.connections import Connections
from ruler.client.replies import Patience, Reply
from ruler.errors import ConfigError, RulerError


@dataclass(frozen=True)
class Sender:
    """Sends requests with the names that were chosen, each within the time that is left."""

    connections: Connections
    patience: Patience
    names: Mapping[str, str]
    """Of judge and rubric, where they were chosen."""

    async def request(self, method: str, path: str, deadline: float, **request: Any) -> Reply:
        """The answer to one request, whatever its status; see `Connections.send`."""
        seconds = max(0.0, self.patience.left(deadline))
        return await self.connections.send(method, path, seconds=seconds, **request)

    async def post(
        self, path: str, deadline: float, *, params: Mapping[str, str] | None = None, **request: Any
    ) -> Reply:
        """The answer to a post, when it is none of an error.

        Raises:
            Transient: the same may be sent again.
            RulerError: it may not.
        """
        return self.checked(
            await self.request("POST", path, deadline, params={**self.names, **(params or {})}, **request)
        )

    def checked(self, reply: Reply) -> Reply:
        """The reply, when it is none of an error.

        Raises:
            Transient: the same may be sent again.
            RulerError: it may not.
        """
        if transient := reply.transient():
            raise transient
        if 200 <= reply.status < 300:
            return reply
        raise self._explained(reply)

    def _explained(self, reply: Reply) -> RulerError:
        error = reply.error()
        key = self.connections.api_key_env
        if reply.status == 401 and not os.environ.get(key, "").strip():
            return ConfigError(f"{error}; no key was sent, {key} is not set", usage=error.usage)
        return error
