"""A judge behind LiteLLM: hosted models by their LiteLLM name, and every OpenAI-compatible endpoint.

LiteLLM takes almost two seconds to import, so it is imported when the first judge is made. What it raises is
translated in one place, `judges.litellm_errors`.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

from judges.litellm_client import endpoint_client, load_litellm, run
from judges.litellm_errors import judge_error, keys_in_environment, leaks, mask, one_line
from ruler.errors import ConfigError, JudgeError, JudgeRejected, JudgeUnavailable, ReplyError
from ruler.types import ChatMessage, JudgeInfo, JudgeReply, JudgeRequest, Sampling, Usage, usage_of

_CACHE_MARK = {"cache_control": {"type": "ephemeral"}}
_NUM_FORMS = 3
"""How a reply is asked for, strictest first: JSON schema, any JSON object, plain text."""


class LiteLLMJudge:
    """A judge that is asked through LiteLLM.

    Args:
        model: any LiteLLM name; with `base_url` the name the endpoint serves it under.
        base_url: an OpenAI-compatible endpoint, for example `http://localhost:8000/v1`.
        api_key_env: the environment variable that holds the key. Without it a hosted model takes its provider's own
            variable, and an endpoint gets no key at all: `OPENAI_API_KEY` is not for foreign servers.
        timeout_seconds: for one attempt, from the first byte sent to the last one received.
        sampling: put into `info`, from where it comes back in every request.
        context_tokens: the judge's window; None: LiteLLM's table for hosted models, else unknown.
        images: whether the judge takes images; None: LiteLLM's table for hosted models, else no.
        input_price: USD per million input tokens, cached ones included; None: LiteLLM's table for hosted models, else
            the cost is unknown.
        output_price: USD per million output tokens; given together with `input_price` or not at all.
        require_key: False: a missing key is no error before the judge is asked, as where a cache answers for it.

    Raises:
        ConfigError: the extra is not installed, the name or an option is wrong, or the key is missing.
    """

    def __init__(
        self,
        *,
        model: str,
        base_url: str | None = None,
        api_key_env: str | None = None,
        timeout_seconds: float = 120.0,
        sampling: Sampling = Sampling(),
        context_tokens: int | None = None,
        images: bool | None = None,
        input_price: float | None = None,
        output_price: float | None = None,
        require_key: bool = True,
    ) -> None:
        if not model:
            raise ConfigError("judge: the model name is empty")
        if not timeout_seconds > 0:
            raise ConfigError(f"judge {model!r}: timeout_seconds must be positive, got {timeout_seconds!r}")
        prices = [price for price in (input_price, output_price) if price is not None]
        if len(prices) == 1 or not all(price >= 0 for price in prices):
            raise ConfigError(f"judge {model!r}: give input_price and output_price, both at least 0, or neither")
        litellm = load_litellm()
        if api_key_env is not None and not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", api_key_env):
            # Not repeated: it may be the key itself.
            raise ConfigError(f"judge {model!r}: api_key_env: expected the name of an environment variable")
        self._name = f"openai/{model}" if base_url else model
        self._api_key_env = api_key_env
        self._hosted = not base_url
        self._timeout_seconds = timeout_seconds
        self._prices = (prices[0], prices[1]) if prices else None
        self._form = 0
        if require_key:
            self._key()
        if base_url:
            _check_url(base_url)
            table: Mapping[str, Any] = {}
            prefix_cache = False
            provider = "openai"
        else:
            bare, provider = _provider(model)
            if api_key_env is None and require_key:
                _check_environment(model)
            names = (model, bare, f"{provider}/{bare}")
            # Not litellm.get_model_info: for some providers it asks the network.
            table = next((litellm.model_cost[name] for name in names if name in litellm.model_cost), {})
            resells_claude = provider in ("bedrock", "vertex_ai", "vertex_ai_beta") and "claude" in bare.lower()
            prefix_cache = provider == "anthropic" or resells_claude
        self.info = JudgeInfo(
            backend="litellm",
            model=model,
            base_url=base_url.rstrip("/") if base_url else _base_url_in_environment(provider),
            sampling=sampling,
            context_tokens=context_tokens or table.get("max_input_tokens"),
            # LiteLLM counts with cl100k where it does not know better, and does not say so: no count is claimed.
            count_tokens=None,
            images=bool(table.get("supports_vision")) if images is None else images,
            prefix_cache=prefix_cache,
            input_price=prices[0] if prices else _price(table, "input_cost_per_token"),
            output_price=prices[1] if prices else _price(table, "output_cost_per_token"),
        )

    def __repr__(self) -> str:
        return f"LiteLLMJudge({self.info.name!r})"

    async def __call__(self, request: JudgeRequest) -> JudgeReply:
        """Asks once, and again in a simpler form only where the endpoint refuses the form of the reply.

        So the first call may be up to three requests; `usage.calls` counts them.

        Raises:
            JudgeUnavailable: rate limit, timeout, 5xx, connection, or an answer that is no chat completion.
            JudgeRejected: the request, the key or the content is refused.
            ReplyError: the reply is empty.
        """
        started = time.perf_counter()
        secrets = keys_in_environment(self._api_key_env)
        first: tuple[JudgeError, Exception | None] | None = None
        response = None
        refused = 0
        for form in range(self._form, _NUM_FORMS):
            try:
                response = await self._complete(request, form)
            except Exception as exc:
                error, form_refused = judge_error(exc, self.info.name, secrets)
                if error is None:
                    raise
                # A cause that quotes a key would show it in every logged traceback.
                cause = None if leaks(exc, secrets) else exc
                if not form_refused:
                    error.usage = usage_of(error) + Usage(calls=refused)
                    raise error from cause
                first = first or (error, cause)
                refused += 1
            else:
                self._form = max(self._form, form)
                break
        if response is None:
            assert first is not None
            first[0].usage = usage_of(first[0]) + Usage(calls=refused - 1)
            raise first[0] from first[1]
        return self._read(response, request, refused, time.perf_counter() - started, secrets)

    async def _complete(self, request: JudgeRequest, form: int) -> Any:
        arguments: dict[str, Any] = {k: v for k, v in asdict(request.sampling).items() if v is not None}
        if form == 0:
            schema = {"name": "scores", "strict": True, "schema": dict(request.schema)}
            arguments["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif form == 1:
            arguments["response_format"] = {"type": "json_object"}
        if not self._hosted:
            # LiteLLM knows the parameters of OpenAI's models; what is served here knows its own.
            arguments |= {"api_base": self.info.base_url, "allowed_openai_params": list(arguments)}
            arguments["client"] = endpoint_client(str(self.info.base_url), self._api_key_env, str(self._key()))
        if self.info.prefix_cache:
            messages = mark_prefix(request.messages, request.prefix_chars)
        else:
            messages = [dict(message) for message in request.messages]
        return await run(
            self._timeout_seconds,
            model=self._name,
            messages=messages,
            api_key=self._key(),
            timeout=self._timeout_seconds,
            num_retries=0,
            max_retries=0,
            caching=False,
            **arguments,
        )

    def _read(
        self, response: Any, request: JudgeRequest, refused: int, latency_seconds: float, secrets: Sequence[str]
    ) -> JudgeReply:
        name = self.info.name
        usage = self._usage(response) + Usage(calls=refused)
        if not response.choices:
            raise JudgeUnavailable(f"{name}: answered with no choices", usage=usage)
        choice = response.choices[0]
        reason = choice.finish_reason
        text = mask(choice.message.content or "", secrets)
        fields = getattr(choice.message, "provider_specific_fields", None) or {}
        refusal = getattr(choice.message, "refusal", None) or fields.get("refusal")
        if reason == "content_filter" or refusal:
            why = f"refused: {one_line(str(refusal), secrets)}" if refusal else "its content filter stopped the reply"
            raise JudgeRejected(f"{name}: {why}", usage=usage)
        if not text.strip():
            fault = f"the reply is empty (finish reason {reason!r})"
            if reason == "length":
                limit = request.sampling.max_tokens
                limit_text = f"max_tokens={limit}" if limit else "the provider's default for max_tokens"
                spent = f" ({usage.output_tokens} tokens spent)" if usage.output_tokens else ""
                fault = (
                    f"the reply was cut off at {limit_text} with no text yet{spent}; "
                    "raise max_tokens: a reasoning judge spends it on thinking first"
                )
            raise ReplyError(f"{name}: {fault}", usage=usage, raw=text, finish_reason=reason)
        return JudgeReply(
            text=text,
            model=response.model or self.info.model,
            usage=usage,
            latency_seconds=latency_seconds,
            finish_reason=reason,
        )

    def _usage(self, response: Any) -> Usage:
        usage = getattr(response, "usage", None)
        details = getattr(usage, "prompt_tokens_details", None)
        num_input = int(getattr(usage, "prompt_tokens", 0) or 0)
        num_output = int(getattr(usage, "completion_tokens", 0) or 0)
        cost = None
        if self._prices and num_input:
            cost = (num_input * self._prices[0] + num_output * self._prices[1]) / 1e6
        elif not self._prices and self._hosted:
            # LiteLLM says 0 where its table holds no price.
            cost = response._hidden_params.get("response_cost") or None
        cached = int(getattr(details, "cached_tokens", 0) or 0)
        return Usage(1, num_input, cached, num_output, cost)

    def _key(self) -> str | None:
        if self._api_key_env is None:
            # Given nothing, LiteLLM would send OPENAI_API_KEY to the endpoint.
            return None if self._hosted else "none"
        key = os.environ.get(self._api_key_env, "").strip()
        if not key:
            raise ConfigError(f"judge {self._name!r}: the environment variable {self._api_key_env} is not set or empty")
        return key


def _price(table: Mapping[str, Any], name: str) -> float | None:
    """USD per million tokens; LiteLLM's table has 0 where it knows no price."""
    return 1e6 * float(table.get(name) or 0.0) or None


def mark_prefix(messages: Sequence[ChatMessage], prefix_chars: int) -> list[dict[str, Any]]:
    """Copies of the messages in which Anthropic's cache marks stand.

    Args:
        messages: left as they are.
        prefix_chars: the mark goes behind so many characters of the user's text; 0: on the system message only.
    """
    marked = []
    for message in messages:
        content = message.get("content")
        parts: list[dict[str, Any]]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else [dict(p) for p in content or ()]
        if message["role"] == "system" and content:
            parts[-1] |= _CACHE_MARK
        elif message["role"] == "user" and prefix_chars > 0:
            parts = _mark_text(parts, prefix_chars)
            prefix_chars = 0  # a correction comes later, in a user message of its own
        marked.append({**message, "content": parts})
    return marked


def _mark_text(parts: list[dict[str, Any]], prefix_chars: int) -> list[dict[str, Any]]:
    left = prefix_chars
    texts = [at for at, part in enumerate(parts) if part.get("type") == "text" and part["text"]]
    for at in texts:
        text = parts[at]["text"]
        if left <= len(text) or at == texts[-1]:
            head, tail = text[:left], text[left:]
            rest = [{**parts[at], "text": tail}] if tail else []
            return [*parts[:at], {**parts[at], "text": head, **_CACHE_MARK}, *rest, *parts[at + 1 :]]
        left -= len(text)
    return parts


def _provider(model: str) -> tuple[str, str]:
    litellm = load_litellm()
    try:
        bare, provider, _, _ = litellm.get_llm_provider(model)
    except litellm.exceptions.BadRequestError as exc:
        raise ConfigError(
            f"judge {model!r}: LiteLLM knows no such model or provider; names look like openai/gpt-5-mini or "
            "anthropic/claude-sonnet-4-5, an OpenAI-compatible server is http://host:port/v1#model"
        ) from exc
    return str(bare), str(provider)


def _base_url_in_environment(provider: str) -> str | None:
    """Where the environment sends a provider's calls; None: to the provider itself.

    LiteLLM heeds these variables, so they say who answers: without them in the judge's identity a cache would give one
    server's answers for another's.
    """
    prefixes = (provider.upper().replace("-", "_"), *_OTHER_PREFIXES.get(provider, ()))
    names = [f"{prefix}_{suffix}" for prefix in prefixes for suffix in ("API_BASE", "BASE_URL", "ENDPOINT", "API_URL")]
    found = sorted({os.environ[name].strip().rstrip("/") for name in names if os.environ.get(name, "").strip()})
    for address in found:
        _check_url(address)
    return " or ".join(found) or None


_OTHER_PREFIXES = {
    "azure": ("AZURE_OPENAI",),
    "bedrock": ("AWS_BEDROCK_RUNTIME",),
    "huggingface": ("HF",),
    "text-completion-openai": ("OPENAI",),
    "vertex_ai": ("VERTEXAI", "VERTEX"),
}


def _check_environment(model: str) -> None:
    missing = list(load_litellm().validate_environment(model)["missing_keys"])
    own = f"{_provider(model)[1].upper()}_API_KEY"
    if not os.environ.get(own, "set").strip():
        missing.append(own)  # for LiteLLM a variable that is empty is set
    # Amazon and Azure have other ways to log in, and not every variable in LiteLLM's list is needed.
    keys = [name for name in missing if re.search("KEY|TOKEN", name) and not re.match("AWS_|AZURE_", name)]
    if keys:
        raise ConfigError(f"judge {model!r}: no key: set {' or '.join(keys)} in the environment, or give api_key_env")


def _check_url(base_url: str) -> None:
    try:
        parts = urlsplit(base_url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or not base_url.isprintable() or " " in base_url:
        raise ConfigError(f"base_url: expected http://host:port/v1 or https://…, got {base_url!r}")
    if parts.password or parts.username:
        raise ConfigError("base_url: holds a user or password; give the key by api_key_env")
