"""A SPEC of what ART's RULER gives to LiteLLM: a model's name and extra parameters."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

from ruler.errors import ConfigError

_SETTINGS = ("max_tokens", "reasoning_effort", "seed", "temperature", "timeout", "top_p")
_OPENAI_WIRE = ("hosted_vllm", "litellm_proxy", "lm_studio", "openai")
"""LiteLLM's providers that are asked at `api_base` as OpenAI is, for the model that follows them in the name."""


def spec_of(judge_model: str, params: Mapping[str, object]) -> str:
    """The SPEC for this model with these parameters, in one spelling whatever their order; None leaves one out.

    LiteLLM takes any parameter. Here one that no SPEC has is an error: without effect it would be worse.

    Raises:
        ConfigError: a parameter that is not known, or has no usable value; a key.
    """
    name, _, query = judge_model.partition("?")
    settings = [query] if query else []
    for key, value in sorted(params.items()):
        if key == "api_key":
            raise ConfigError(
                "extra_litellm_params: api_key: a key must not stand in a setting. Put it into an environment variable "
                "and name that: judge_model='openai/…?api_key_env=NAME'; for a server that wants none leave it out"
            )
        if key not in (*_SETTINGS, "api_base"):
            raise ConfigError(
                f"extra_litellm_params: unknown key {key!r}; known are {', '.join(sorted((*_SETTINGS, 'api_base')))}. "
                "Other settings stand in the SPEC: judge_model='openai/…?requests_per_minute=100'"
            )
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ConfigError(f"extra_litellm_params: {key}: expected a number or text, got {value!r:.80}")
        if key == "api_base":
            name = _at(str(value), name)
        else:
            settings.append(urlencode({key: value}))
    return f"{name}?{'&'.join(settings)}" if settings else name


def _at(api_base: str, name: str) -> str:
    provider, _, served = name.partition("/")
    if "://" in name or (served and provider not in _OPENAI_WIRE):
        raise ConfigError(
            f"extra_litellm_params: api_base: {api_base!r:.80} cannot be used with judge_model {name!r:.80}; an "
            "OpenAI-compatible server is judge_model='http://host:port/v1#model'"
        )
    return f"{api_base}#{served or name}"
