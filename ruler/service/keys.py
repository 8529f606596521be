"""Who may call: bearer keys by name, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass

from ruler.errors import ConfigError
from ruler.service.problems import Problem
from ruler.service.settings import ServiceSettings

_MIN_KEY_CHARS = 8


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request it is."""

    name: str
    """Name of the key; "anonymous" where none is needed."""
    sees_all: bool
    """Whether everybody's groups are shown to this caller, or only its own."""


class Keys:
    """The keys of a service; none are needed when it is bound to a loopback address, or `no_auth` is set.

    Attributes:
        required: whether a key is needed.

    Raises:
        ConfigError: a key's variable is not set, its key is too short or used twice, or a service that other hosts
            can reach has none.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self.required = bool(settings.keys)
        if not (self.required or settings.no_auth or is_loopback(settings.host)):
            raise ConfigError(
                f"keys: other hosts can reach {settings.host}, and there are none; name one (--key NAME=VARIABLE), "
                "or let anybody call (--no-auth)"
            )
        # Digests: comparing them takes the same time for a key of any length.
        self._callers: dict[bytes, Caller] = {}
        for name, variable in settings.keys.items():
            digest = _digest(_read(name, variable))
            if digest in self._callers:
                raise ConfigError(f"keys.{name}: is the same key as that of {self._callers[digest].name!r}")
            self._callers[digest] = Caller(name, sees_all=name in settings.operators)

    def caller(self, headers: Mapping[str, str]) -> Caller:
        """Who sends these headers.

        Raises:
            Problem: `unauthorized`.
        """
        if not self.required:
            return Caller("anonymous", sees_all=True)
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and (caller := self.check(key.strip())):
            return caller
        said = "unknown key" if key else "no key" if not scheme else "no bearer key"
        raise Problem(
            "unauthorized",
            f"{said}: send one as `Authorization: Bearer KEY`",
            headers={"WWW-Authenticate": 'Bearer realm="ruler"'},
        )

    def check(self, key: str) -> Caller | None:
        """Whose key this is. Takes the same time whether, and where, it differs."""
        given = _digest(key)
        found = None
        for digest, caller in self._callers.items():
            if hmac.compare_digest(digest, given):
                found = caller
        return found


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _read(name: str, variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(f"keys.{name}: the environment variable {variable} is not set")
    if len(key) < _MIN_KEY_CHARS or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(
            f"keys.{name}: the key in {variable} must be at least {_MIN_KEY_CHARS} characters of printable ASCII "
            "without spaces"
        )
    return key
