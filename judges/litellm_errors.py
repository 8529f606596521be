"""What LiteLLM raises, as our errors: one table, and what it hides in the chain of causes.

Nothing here imports LiteLLM at module level; an exception of its can only come once it is loaded.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import quote

from ruler.errors import JudgeError, JudgeRejected, JudgeUnavailable
from ruler.types import Usage


class _Row(NamedTuple):
    names: str
    """Classes of `litellm.exceptions` or `openai`."""
    error: type[JudgeError] | None
    """None: by the HTTP status."""
    says: str
    may_be_form: bool = False
    """Whether this may be about the form of the reply that was asked for."""


_NO_COMPLETION = _Row("APIResponseValidationError", JudgeUnavailable, "sent no usable chat completion")
_TIMEOUT = _Row("Timeout APITimeoutError", JudgeUnavailable, "no reply in time")
_CONNECTION = _Row("APIConnectionError", None, "connection failed")
_ERRORS = (  # the first row that fits counts
    _Row("BudgetExceededError", JudgeRejected, "LiteLLM's own budget is spent"),
    _Row("ContextWindowExceededError", JudgeRejected, "the prompt does not fit the model's window"),
    _Row("ContentPolicyViolationError RejectedRequestError", JudgeRejected, "refused for its content"),
    _Row("PaymentRequiredError", JudgeRejected, "payment required"),
    _Row("ImageFetchError", JudgeRejected, "cannot fetch an image"),
    _Row("AuthenticationError PermissionDeniedError", JudgeRejected, "refused the key"),
    _Row("NotFoundError", JudgeRejected, "no such model or address"),
    _Row("BadRequestError UnprocessableEntityError", JudgeRejected, "refused the request", True),
    _Row("RateLimitError", JudgeUnavailable, "rate limited"),
    _TIMEOUT,
    _NO_COMPLETION,
    _Row("InternalServerError ServiceUnavailableError BadGatewayError", JudgeUnavailable, "server error"),
    _CONNECTION,
    _Row("APIError OpenAIError", None, "failed"),
)
_OVERLOADED = (408, 429, 529)
_WAIT_IS_VAIN = ("insufficient_quota", "Request too large")
"""Rate limits by name that no waiting lifts."""
_ASKING_IS_VAIN = (ImportError, TypeError, NotImplementedError, UnicodeEncodeError, FileNotFoundError)
"""LiteLLM raises its own faults as connection and server errors; with these causes they stay."""


def judge_error(exc: Exception, name: str, secrets: Sequence[str] = ()) -> tuple[JudgeError | None, bool]:
    """What LiteLLM raised, as an error of ours, and whether the form of the reply may be its cause.

    Args:
        exc: the exception. Its causes count too: LiteLLM leaves the true status and the headers there.
        name: the judge's name, for the message.
        secrets: kept out of the message, whole or in part.

    Returns:
        No error for what is neither LiteLLM's nor a transport's: a fault in a program.
    """
    import aiohttp
    import httpx
    import litellm
    import openai

    library = litellm.exceptions
    chain = list(_causes(exc))
    status = next((e.response.status_code for e in chain if isinstance(e, httpx.HTTPStatusError)), None)
    own_500 = (openai.APIConnectionError, openai.InternalServerError, openai.APIResponseValidationError)
    if status is None and isinstance(exc, openai.OpenAIError) and not isinstance(exc, own_500):
        status = getattr(exc, "status_code", None)
    row = next((row for row in _ERRORS if isinstance(exc, _classes(row.names, library, openai))), None)
    if isinstance(exc, openai.InternalServerError) and status is None and len(chain) > 1:
        # LiteLLM's own 500 stands for a refused connection and for every answer it cannot read.
        unconnected = any(isinstance(e, openai.APIConnectionError) for e in chain)
        row = _CONNECTION if unconnected else _NO_COMPLETION
    elif isinstance(exc, TimeoutError):
        row = _TIMEOUT
    elif row is None and isinstance(exc, json.JSONDecodeError):
        row = _NO_COMPLETION
    elif row is None and isinstance(exc, (httpx.HTTPError, aiohttp.ClientError, OSError)):
        row = _CONNECTION
    elif row is None and type(exc).__module__.startswith("litellm"):
        row = _Row("", JudgeRejected, "failed")
    if row is None:
        return None, False
    told = " ".join(f"{e} {getattr(e, 'body', '')}"[:_MAX_TOLD_CHARS] for e in chain)
    final = row.error is None and status is not None and status < 500 and status not in (408, 409, 425, 429)
    if row.says == "rate limited":
        final = any(phrase in told for phrase in _WAIT_IS_VAIN)
    elif status is None:
        final = any(isinstance(e, _ASKING_IS_VAIN) for e in chain)
    told_best = [e for kind in (OSError, httpx.TransportError) for e in chain if isinstance(e, kind) and str(e)]
    cause = told_best[0] if told_best and row is _CONNECTION else exc
    detail = one_line(str(cause), secrets)
    # An endpoint bills no error, and nothing that did not reach it; else nobody can say.
    unbilled = status is not None or any(
        isinstance(e, (httpx.ConnectError, aiohttp.ClientConnectorError)) for e in chain
    )
    usage = Usage(calls=1, cost_usd=0.0 if unbilled else None)
    message = f"{name}: {row.says}{f' (HTTP {status})' if status else ''}{f': {detail}' if detail else ''}"
    if final or row.error is JudgeRejected:
        return JudgeRejected(message, usage=usage), row.may_be_form and status in (None, 400, 422)
    overloaded = row is _TIMEOUT or row.says == "rate limited" or status in _OVERLOADED
    error = JudgeUnavailable(message, usage=usage, retry_after_seconds=_retry_after(chain), overloaded=overloaded)
    return error, False


def _classes(names: str, *modules: Any) -> tuple[type[BaseException], ...]:
    return tuple(getattr(module, name) for name in names.split() for module in modules if hasattr(module, name))


def _causes(exc: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = exc
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _retry_after(chain: Sequence[BaseException]) -> float | None:
    """What the endpoint's `Retry-After` says, a number of seconds or a date."""
    for exc in chain:
        for headers in (
            getattr(exc, "litellm_response_headers", None),
            getattr(_response(exc), "headers", None),
            getattr(exc, "headers", None),
        ):
            value = {str(k).lower(): str(v) for k, v in dict(headers or {}).items()}.get("retry-after")
            if value is None:
                continue
            try:
                seconds = float(value)
            except ValueError:
                with suppress(ValueError, OverflowError):
                    return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
                continue
            if math.isfinite(seconds):
                return max(0.0, seconds)
    return None


def _response(exc: BaseException) -> Any:
    # httpx raises where an error has no response.
    with suppress(RuntimeError):
        return getattr(exc, "response", None)


def keys_in_environment(api_key_env: str | None) -> list[str]:
    """The named key, and whatever else looks like one in the environment: LiteLLM finds its keys there by itself."""
    named = {os.environ.get(api_key_env, "").strip()} if api_key_env else set()
    others = {value.strip() for name, value in os.environ.items() if re.search("(KEY|TOKEN|SECRET|PASSWORD)S?$", name)}
    # A short value, or a path to a key file, is no key; hiding it would spoil every message that holds the word.
    others = {value for value in others if len(value) >= _MIN_KEY_CHARS and not value.startswith(("/", "."))}
    return sorted((named | others) - {""}, key=len, reverse=True)


def mask(text: str, secrets: Sequence[str]) -> str:
    """The text without the secrets, also where they are quoted for an address or for JSON."""
    for secret in secrets:
        for form in {secret, quote(secret, safe=""), json.dumps(secret)[1:-1]}:
            text = text.replace(form, "[key]")
    return text


def one_line(text: str, secrets: Sequence[str]) -> str:
    """One short line without LiteLLM's prefixes, tracebacks, markup, control characters and keys."""
    # Cut first: the patterns below are not all linear, and an endpoint may answer with megabytes.
    text = mask(text, secrets)[:_MAX_TOLD_CHARS].partition("Traceback (most recent call last)")[0]
    if re.search("<html|<!doctype", text, re.IGNORECASE):
        text = re.sub(r"<[^>]*>", " ", text)
    text = re.sub(r" ssl:(?:<[^>]*>|\w+)", "", " ".join(text.split()))
    text = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    text = re.sub(r"^((litellm\.)?\w*(Error|Exception|Timeout)( Error)?\s*[:-]+\s*)+", "", text)
    for secret in secrets:
        if len(secret) >= _MIN_KEY_CHARS:
            # Some providers quote the key's head or tail, or both around dots or stars.
            piece = _PIECE_CHARS
            text = re.sub(rf"{re.escape(secret[:piece])}[\w.*…-]*|[\w.*…-]*{re.escape(secret[-piece:])}", "[key]", text)
    text = re.sub(r"\bsk-[\w*.…-]{6,}|[\w-]{0,80}\*{3,}[\w-]{0,80}", "[key]", text)
    return text if len(text) <= 300 else text[:299] + "…"


_MAX_TOLD_CHARS = 2_000
_MIN_KEY_CHARS = 12
_PIECE_CHARS = 6


def leaks(exc: BaseException, secrets: Sequence[str]) -> bool:
    """Whether a printed traceback of the exception would show a secret."""
    return any(mask(f"{cause!r} {cause} {vars(cause)}", secrets).count("[key]") for cause in _causes(exc))
