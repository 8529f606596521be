"""A judge behind LiteLLM: hosted models by their LiteLLM name, and every OpenAI-compatible endpoint.

LiteLLM takes almost two seconds to import, so it is imported when the first judge is made. What it raises is
translated in one place, `judges.litellm_errors`.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import os
import re
import time
import warnings
import weakref
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from judges.litellm_errors import judge_error, keys_in_environment, leaks, mask, one_line
from ruler.errors import ConfigError, JudgeError, JudgeRejected, JudgeUnavailable, ReplyError
from ruler.types import ChatMessage, JudgeInfo, JudgeReply, JudgeRequest, Sampling, Usage

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
    ) -> None:
        if not model:
            raise ConfigError("judge: the model name is empty")
        if not timeout_seconds > 0:
            raise ConfigError(f"judge {model!r}: timeout_seconds must be positive, got {timeout_seconds!r}")
        prices = [price for price in (input_price, output_price) if price is not None]
        if len(prices) == 1 or not all(price >= 0 for price in prices):
            raise ConfigError(f"judge {model!r}: give input_price and output_price, both at least 0, or neither")
        litellm = _litellm()
        self._name = f"openai/{model}" if base_url else model
        self._api_key_env = api_key_env
        self._hosted = not base_url
        self._timeout_seconds = timeout_seconds
        self._prices = (prices[0], prices[1]) if prices else None
        self._form = 0
        self._key()
        if base_url:
            _check_url(base_url)
            table: Mapping[str, Any] = {}
            prefix_cache = False
        else:
            bare, provider = _provider(model)
            if api_key_env is None:
                _check_environment(model)
            names = (model, bare, f"{provider}/{bare}")
            # Not litellm.get_model_info: for some providers it asks the network.
            table = next((litellm.model_cost[name] for name in names if name in litellm.model_cost), {})
            resells_claude = provider in ("bedrock", "vertex_ai", "vertex_ai_beta") and "claude" in bare.lower()
            prefix_cache = provider == "anthropic" or resells_claude
        self.info = JudgeInfo(
            backend="litellm",
            model=model,
            base_url=base_url.rstrip("/") if base_url else None,
            sampling=sampling,
            context_tokens=context_tokens or table.get("max_input_tokens"),
            # LiteLLM counts with cl100k where it does not know better, and does not say so: no count is claimed.
            count_tokens=None,
            images=bool(table.get("supports_vision")) if images is None else images,
            prefix_cache=prefix_cache,
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
                    raise error from cause
                first = first or (error, cause)
                refused += 1
            else:
                self._form = max(self._form, form)
                break
        if response is None:
            assert first is not None
            raise first[0] from first[1]
        reply = self._read(response, request, time.perf_counter() - started, secrets)
        return replace(reply, usage=replace(reply.usage, calls=1 + refused))

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
            arguments["client"] = _endpoint_client(str(self.info.base_url), self._api_key_env, str(self._key()))
        if self.info.prefix_cache:
            messages = mark_prefix(request.messages, request.prefix_chars)
        else:
            messages = [dict(message) for message in request.messages]
        return await _run(
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

    def _read(self, response: Any, request: JudgeRequest, latency_seconds: float, secrets: Sequence[str]) -> JudgeReply:
        name = self.info.name
        usage = self._usage(response)
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
                fault = (
                    f"the reply was cut off at {limit_text} with no text yet ({usage.output_tokens} tokens spent); "
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


# --- Construction ---


@cache
def _litellm() -> Any:
    # Else prices, Anthropic's header names and tokenizers are fetched from the network.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS", "True")
    try:
        import litellm
    except ImportError as exc:
        raise ConfigError(f"this judge needs LiteLLM ({exc}): pip install 'ruler-judge[litellm]'") from exc
    litellm.disable_hf_tokenizer_download = True
    litellm.suppress_debug_info = True
    litellm.telemetry = False
    with warnings.catch_warnings():
        # Its types are built at the first use, with a warning where LiteLLM's own filter is not in force.
        warnings.simplefilter("ignore")
        litellm.ModelResponse()
    return litellm


def _provider(model: str) -> tuple[str, str]:
    litellm = _litellm()
    try:
        bare, provider, _, _ = litellm.get_llm_provider(model)
    except litellm.exceptions.BadRequestError as exc:
        raise ConfigError(
            f"judge {model!r}: LiteLLM knows no such model or provider; names look like openai/gpt-5-mini or "
            "anthropic/claude-sonnet-4-5, an OpenAI-compatible server is http://host:port/v1#model"
        ) from exc
    return str(bare), str(provider)


def _check_environment(model: str) -> None:
    missing = _litellm().validate_environment(model)["missing_keys"]
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


# --- One call, leaving nothing behind ---

_Clients = weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str | None], Any]]
_clients: _Clients = weakref.WeakKeyDictionary()
_closers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncGenerator[None, None]] = weakref.WeakKeyDictionary()


def _endpoint_client(base_url: str, api_key_env: str | None, key: str) -> Any:
    """The running loop's client for an endpoint of the user's own.

    LiteLLM's would send it the OpenAI account's organisation, project and custom headers out of the environment, and
    would follow a redirect with the whole prompt to another host.
    """
    import httpx
    import openai

    clients = _clients.setdefault(asyncio.get_running_loop(), {})
    client = clients.get((base_url, api_key_env))
    if client is None:
        # Without limits on connections: how many calls run at once is not decided here.
        hooks = {"request": [_without_account]}
        http_client = httpx.AsyncClient(follow_redirects=False, timeout=None, limits=httpx.Limits(), event_hooks=hooks)
        client = openai.AsyncOpenAI(api_key=key, base_url=base_url, max_retries=0, http_client=http_client)
        client._custom_headers = {}
        clients[base_url, api_key_env] = client
    client.api_key = key
    return client


async def _without_account(request: Any) -> None:
    # At the last moment: LiteLLM sets the organisation on the client at every call.
    for name in ("openai-organization", "openai-project"):
        request.headers.pop(name, None)


async def _run(timeout_seconds: float, **arguments: Any) -> Any:
    """`litellm.acompletion`, bounded in time, with no task, coroutine or connection left over."""
    loop = asyncio.get_running_loop()
    if loop not in _closers:
        _closers[loop] = closer = _close_clients(id(loop))
        await anext(closer)
    context = contextvars.copy_context()
    with suppress(ImportError):
        # LiteLLM's logging worker serves callbacks we do not have and would stay on the loop as a task.
        from litellm._internal_context import is_internal_call

        context.run(is_internal_call.set, True)
    # A task of its own: the chain of causes then holds nothing of what the caller is handling.
    task = loop.create_task(_litellm().acompletion(**arguments), context=context)
    try:
        # LiteLLM's timeout is one for each read: an endpoint that trickles would never meet it.
        async with asyncio.timeout(timeout_seconds):
            return await asyncio.shield(task)
    except TimeoutError as exc:
        raise TimeoutError(f"timeout_seconds={timeout_seconds:g}") from exc
    finally:
        if not task.done():
            await _cancel(task)


async def _cancel(task: asyncio.Task[Any]) -> None:
    """Cancels, but not while LiteLLM makes the coroutine in its thread pool: nobody would ever await that one."""
    try:
        for _ in range(1000):
            if not _is_dispatching(task):
                break
            await asyncio.sleep(0.001)
    finally:
        task.cancel()
        await asyncio.wait([task])


def _is_dispatching(task: asyncio.Task[Any]) -> bool:
    coroutine: Any = task.get_coro()
    while inspect.iscoroutine(getattr(coroutine, "cr_await", None)):
        coroutine = coroutine.cr_await
    return not task.done() and getattr(coroutine, "__qualname__", "") == "acompletion"


async def _close_clients(loop_id: int) -> AsyncGenerator[None, None]:
    """Closes LiteLLM's HTTP clients of one event loop when that loop shuts its asynchronous generators down.

    LiteLLM keeps them past the end of their loop, where nobody can close them any more.
    """
    try:
        yield
    finally:
        _closers.pop(asyncio.get_running_loop(), None)
        for client in _clients.pop(asyncio.get_running_loop(), {}).values():
            with suppress(Exception):
                await client.close()
        clients = _litellm().in_memory_llm_clients_cache
        for key in [key for key in clients.cache_dict if key.endswith(f"-{loop_id}")]:
            client = clients.cache_dict[key]
            clients.delete_cache(key)
            with suppress(Exception):
                await client.close()
