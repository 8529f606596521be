"""A judge's SPEC as text, read and checked: `openai/gpt-5-mini?temperature=0&requests_per_minute=500`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qsl

from ruler.errors import ConfigError
from ruler.types import Sampling

Kind = Literal["litellm", "vllm", "transformers", "embedded", "simulated"]


@dataclass(frozen=True, slots=True)
class Around:
    """How a judge is asked, whatever judge it is. A setting that was not given is not in its mapping."""

    limits: Mapping[str, int]
    """Of `judges.limits.Limits`."""
    retry: Mapping[str, Any]
    """Of `judges.retry.RetryingJudge`."""
    max_reasks: int

    @classmethod
    def parse(cls, query: str) -> Around:
        """The settings of a SPEC that are not the backend's: `concurrency=8&attempts=3`.

        Raises:
            ConfigError: names the setting and the value that cannot be used.
        """
        return cls._taken(_read("", _settings("", query), _AROUND))

    @classmethod
    def _taken(cls, values: dict[str, Any]) -> Around:
        """Takes its settings out of the values."""
        limits, retry = _take(values, _LIMITS), _take(values, _RETRY)
        if "deadline" in retry:
            retry["deadline_seconds"] = retry.pop("deadline")
        return cls(limits, retry, values.pop("reasks", 2))


@dataclass(frozen=True, slots=True)
class Spec:
    """What a SPEC says, grouped by who needs it. A setting that was not given is not in its mapping."""

    kind: Kind
    model: str
    """The model's name, path or id; empty for the simulated judge, and for the embedded one that ships with us."""
    base_url: str | None
    sampling: Sampling
    backend: Mapping[str, Any]
    """Settings of the backend, by the names of its constructor."""
    engine: Mapping[str, Any]
    """Settings of a vLLM engine, by vLLM's names."""
    around: Around

    @classmethod
    def parse(cls, text: str) -> Spec:
        """The SPEC that the text holds.

        Raises:
            ConfigError: names the setting and the value that cannot be used.
        """
        _refuse_secrets(text)
        name, _, query = text.partition("?")
        if "#" in query:
            raise ConfigError("judge: settings come after the model: http://host:port/v1#model?temperature=0")
        kind, model, base_url = _place(name)
        values = _read(name, _settings(name, query), _BACKEND[kind] | _AROUND)
        if kind == "simulated":
            values.setdefault("attempts", 1)  # the same request meets the same simulated outage again
        around = Around._taken(values)
        sampling = Sampling(**_take(values, _SAMPLING)) if kind in ("litellm", "vllm") else Sampling()
        engine = _take(values, _ENGINE) if kind == "vllm" else {}
        if "timeout" in values:
            values["timeout_seconds"] = values.pop("timeout")
        return cls(kind, model, base_url, sampling, values, engine, around)


def _place(name: str) -> tuple[Kind, str, str | None]:
    """(kind, model, base URL) of a SPEC without its settings."""
    if name == "simulated":
        return "simulated", "", None
    if name == "embedded":
        return "embedded", "", None
    for kind in _LOCAL:
        if name.startswith(f"{kind}:"):
            model = name.removeprefix(f"{kind}:")
            if not model:
                raise ConfigError(f"judge {name!r}: expected {kind}:{'PATH' if kind == 'embedded' else 'PATH_OR_ID'}")
            return kind, model, None
    scheme, separator, _ = name.partition("://")
    if not separator:
        return "litellm", name, None
    base_url, _, model = name.partition("#")
    if scheme.lower() not in ("http", "https"):
        raise ConfigError(f"judge {name!r}: an address begins with http:// or https://")
    if not model:
        raise ConfigError(f"judge {name!r}: expected http://host:port/v1#model, with the model after #")
    return "litellm", model, base_url


def _refuse_secrets(text: str) -> None:
    """Raises before any other message could repeat a password or key that stands in the SPEC."""
    address, _, query = text.partition("?")
    if "://" in address and "@" in address.partition("#")[0]:
        # The address stands in every result, too.
        raise ConfigError("judge: the address holds a user or password; put the key into api_key_env=NAME")
    if re.search(r"(?i)(^|&)[^=&]*(key|token|secret|password)(=|&|$)", query) or re.search(r"(?i)\bsk-\w", text):
        raise ConfigError(
            "judge: a key must not stand in the SPEC; put it into an environment variable and name that: "
            "api_key_env=NAME"
        )


def _settings(name: str, query: str) -> dict[str, str]:
    settings: dict[str, str] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        raise ConfigError(f"judge {name!r}: expected settings as key=value&key=value, got {query!r}") from None
    for key, value in pairs:
        if key in settings:
            raise ConfigError(f"judge {name!r}: the setting {key!r} is given twice")
        settings[key] = value
    return settings


def _take(values: dict[str, Any], names: Mapping[str, object]) -> dict[str, Any]:
    return {key: values.pop(key) for key in names if key in values}


def _read(name: str, settings: Mapping[str, str], readers: Mapping[str, _Reader]) -> dict[str, Any]:
    values = {}
    for key, text in settings.items():
        if key not in readers:
            raise ConfigError(f"judge {name!r}: unknown setting {key!r}; known are {', '.join(sorted(readers))}")
        try:
            values[key] = readers[key](text)
        except ValueError as error:
            reason = f" ({error})" if type(error) is _Range else ""
            raise ConfigError(f"judge {name!r}: {key}: cannot use {text!r}{reason}") from None
    return values


_LARGEST = 10**12


class _Range(ValueError):
    pass


def _at_least_0(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise _Range("expected at least 0")
    return value


def _positive_number(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise _Range("expected a positive number")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if not 1 <= value <= _LARGEST:
        raise _Range("expected at least 1" if value < 1 else f"expected at most {_LARGEST:,}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise _Range("expected at least 0")
    return value


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise _Range("expected true or false")
    return text == "true"


_Reader = Callable[[str], Any]
_LOCAL: tuple[Kind, ...] = ("vllm", "transformers", "embedded")
_SAMPLING: dict[str, _Reader] = {
    "temperature": _at_least_0,
    "top_p": _at_least_0,
    "max_tokens": _positive,
    "seed": int,
    "reasoning_effort": str,
}
_ENGINE: dict[str, _Reader] = {
    "dtype": str,
    "quantization": str,
    "tensor_parallel_size": _positive,
    "gpu_memory_utilization": _positive_number,
    "max_num_seqs": _positive,
    "enforce_eager": _flag,
}
_LIMITS: dict[str, _Reader] = {
    "concurrency": _positive,
    "requests_per_minute": _positive,
    "tokens_per_minute": _positive,
}
_RETRY: dict[str, _Reader] = {"attempts": _positive, "deadline": _positive_number}
_AROUND: dict[str, _Reader] = _LIMITS | _RETRY | {"reasks": _count}
_BACKEND: dict[Kind, dict[str, _Reader]] = {
    "litellm": _SAMPLING
    | {
        "timeout": _positive_number,
        "api_key_env": str,
        "context_tokens": _positive,
        "images": _flag,
        "input_price": _at_least_0,
        "output_price": _at_least_0,
    },
    "vllm": {key: reader for key, reader in _SAMPLING.items() if key != "reasoning_effort"}
    | _ENGINE
    | {"context_tokens": _positive},
    "transformers": {
        "context_tokens": _positive,
        "device": str,
        "dtype": str,
        "max_batch_tokens": _positive,
    },
    "embedded": {},
    "simulated": {
        "quality": str,
        "shape": str,
        "seed": int,
        **dict.fromkeys(
            ("noise", "flip", "slot_bias", "length_bias", "long_list", "failure", "scale", "offset"), float
        ),
    },
}
