"""Settings from strings and the environment: a judge SPEC becomes a judge.

The only place of the library that knows the `judges` package, and it loads it only when a judge is wanted.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import math
import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from ruler.errors import ConfigError
from ruler.types import Judge, Sampling

if TYPE_CHECKING:
    from judges.simulated import Quality

_NO_JUDGE = (
    "no judge: give one (--judge, or RULER_JUDGE in the environment), for example openai/gpt-5-mini with "
    "OPENAI_API_KEY set, or http://localhost:8000/v1#model for a server of your own; "
    "to try without a key: --judge simulated"
)
_LATER = ("vllm:", "transformers:", "embedded")


def load_judge(spec: str | None = None, *, truth: Quality | None = None) -> Judge:
    """The judge that a SPEC names, with corrective re-asks around it.

    Args:
        spec: any LiteLLM name (`openai/gpt-5-mini`), `http://host:port/v1#model` for an OpenAI-compatible server, or
            `simulated`; settings follow as `?temperature=0&max_tokens=4000&timeout=60&api_key_env=NAME`. None or
            empty: the environment's RULER_JUDGE.
        truth: what `simulated?quality=truth` scores by; only evaluation has it.

    Raises:
        ConfigError: no judge, an unknown one, a bad setting, a missing extra or key; names the value.
    """
    spec = (spec or os.environ.get("RULER_JUDGE") or "").strip()
    if not spec:
        raise ConfigError(_NO_JUDGE)
    name, settings = _split(spec)
    if name == "simulated":
        backend = _simulated(settings, truth)
    elif name.startswith(_LATER):
        raise ConfigError(f"judge {spec!r}: this kind of judge is not in this version yet")
    else:
        backend = _litellm(name, settings)
    judge: Judge = _judges_module("reask").ReaskingJudge(backend)
    return judge


def _split(spec: str) -> tuple[str, dict[str, str]]:
    name, _, query = spec.partition("?")
    if "#" in query:
        raise ConfigError(f"judge {spec!r}: settings come after the model: http://host:port/v1#model?temperature=0")
    settings: dict[str, str] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        raise ConfigError(f"judge {spec!r}: expected settings as key=value&key=value, got {query!r}") from None
    for key, value in pairs:
        if key in settings:
            raise ConfigError(f"judge {spec!r}: the setting {key!r} is given twice")
        settings[key] = value
    return name, settings


def _simulated(settings: Mapping[str, str], truth: Quality | None) -> Judge:
    module = _judges_module("simulated")
    numbers = ("noise", "flip", "slot_bias", "length_bias", "failure", "scale", "offset")
    readers: dict[str, Callable[[str], Any]] = {"quality": str, "shape": str, "seed": int}
    values = _read("simulated", settings, readers | dict.fromkeys(numbers, float))
    feature = values.pop("quality", "length")
    features: dict[str, Quality] = dict(module.FEATURES)
    if truth:
        features["truth"] = truth
    if feature not in features:
        hint = " (truth is known to `ruler evaluate` alone)" if feature == "truth" else ""
        raise ConfigError(f"simulated: quality: expected one of {', '.join(features)}, got {feature!r}{hint}")
    judge: Judge = module.SimulatedJudge(features[feature], quality_name=feature, behaviour=module.Behaviour(**values))
    return judge


def _litellm(name: str, settings: Mapping[str, str]) -> Judge:
    module = _judges_module("litellm")
    sampling: dict[str, Callable[[str], Any]] = {
        "temperature": _at_least_0,
        "top_p": _at_least_0,
        "max_tokens": _positive,
        "seed": int,
        "reasoning_effort": str,
    }
    others: dict[str, Callable[[str], Any]] = {
        "timeout": _positive_number,
        "api_key_env": str,
        "context_tokens": _positive,
        "images": _flag,
        "input_price": _at_least_0,
        "output_price": _at_least_0,
    }
    values = _read(name, settings, sampling | others)
    if "timeout" in values:
        values["timeout_seconds"] = values.pop("timeout")
    chosen = Sampling(**{key: values.pop(key) for key in sampling if key in values})
    if name.startswith(("http://", "https://")):
        base_url, _, model = name.partition("#")
        if not model:
            raise ConfigError(f"judge {name!r}: expected http://host:port/v1#model, with the model after #")
        if "@" in base_url:
            # The address stands in every result; a password must not.
            raise ConfigError("judge: the address holds a user or password; put the key into api_key_env=NAME")
        values["base_url"] = base_url
    else:
        model = name
    judge: Judge = module.LiteLLMJudge(model=model, sampling=chosen, **values)
    return judge


def _read(name: str, settings: Mapping[str, str], readers: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
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
    if value < 1:
        raise _Range("expected at least 1")
    return value


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise _Range("expected true or false")
    return text == "true"


def _judges_module(name: str) -> ModuleType:
    """`judges.NAME` of ours; PyPI has other packages that install a top-level `judges`."""
    ours = Path(__file__).resolve().parents[1] / "judges"
    try:
        package = importlib.import_module("judges")
    except ImportError as error:
        raise ConfigError(f"the package `judges` cannot be imported: {error}{_owned_by(_other_owners())}") from error
    found = Path(package.__file__ or "").resolve().parent
    if found != ours:
        owned = _owned_by(_other_owners())
        raise ConfigError(f"the imported package `judges` is another one: {found}{owned}; use a clean environment")
    if mixed := _other_owners(ours):
        raise ConfigError(f"the folder {ours} is mixed with another package{_owned_by(mixed)}; use a clean environment")
    return importlib.import_module(f"judges.{name}")


@cache
def _other_owners(folder: Path | None = None) -> tuple[str, ...]:
    """Distributions but ours that have a `judges` package; in this folder, when one is given."""
    names = set(importlib.metadata.packages_distributions().get("judges", ())) - {"ruler-judge"}
    if folder is None:
        return tuple(sorted(names))
    places = {name: importlib.metadata.distribution(name).locate_file("judges") for name in names}
    return tuple(sorted(name for name, place in places.items() if Path(str(place)).resolve() == folder))


def _owned_by(distributions: tuple[str, ...]) -> str:
    return f", which belongs to {' and '.join(distributions)}" if distributions else ""
