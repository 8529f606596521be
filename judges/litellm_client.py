"""LiteLLM as this package uses it: loaded when it is wanted, asked without retries, leaving nothing behind."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import os
import warnings
import weakref
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from functools import cache
from typing import Any

from ruler.errors import ConfigError

_MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""Of an endpoint of the user's own; a reply of the largest size that is read has a third of it."""


@cache
def load_litellm() -> Any:
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


_Clients = weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str | None], Any]]
_clients: _Clients = weakref.WeakKeyDictionary()
_closers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncGenerator[None, None]] = weakref.WeakKeyDictionary()


def endpoint_client(base_url: str, api_key_env: str | None, key: str) -> Any:
    """The running loop's client for an endpoint of the user's own.

    LiteLLM's would send it the OpenAI account's organisation, project and custom headers out of the environment, and
    would follow a redirect with the whole prompt to another host.
    """
    import httpx
    import openai

    clients = _clients.setdefault(asyncio.get_running_loop(), {})
    client = clients.get((base_url, api_key_env))
    if client is None:
        http_client = httpx.AsyncClient(
            follow_redirects=False,
            timeout=None,
            # Without limits on connections: how many calls run at once is not decided here.
            limits=httpx.Limits(),
            # What is packed may unpack to anything.
            headers={"Accept-Encoding": "identity"},
            event_hooks={"request": [_without_account], "response": [_cap]},
        )
        client = openai.AsyncOpenAI(api_key=key, base_url=base_url, max_retries=0, http_client=http_client)
        client._custom_headers = {}
        clients[base_url, api_key_env] = client
    client.api_key = key
    return client


async def _cap(response: Any) -> None:
    """Has the answer read to `_MAX_ANSWER_BYTES` at most, and not at all when it is packed.

    In a hook, not in a transport of ours: with one of those httpx forgets the proxies of the environment.
    """
    import httpx

    packed = response.headers.get("content-encoding", "identity")
    if packed != "identity":
        raise httpx.RemoteProtocolError(f"the answer is packed ({packed}), which was not asked for")
    whole = response.stream

    class Capped(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            num_bytes = 0
            async for part in whole:
                num_bytes += len(part)
                if num_bytes > _MAX_ANSWER_BYTES:
                    raise httpx.RemoteProtocolError(f"the answer has more than {_MAX_ANSWER_BYTES:,} bytes")
                yield part

        async def aclose(self) -> None:
            await whole.aclose()

    response.stream = Capped()


async def _without_account(request: Any) -> None:
    # At the last moment: LiteLLM sets the organisation on the client at every call.
    for name in ("openai-organization", "openai-project"):
        request.headers.pop(name, None)


async def run(timeout_seconds: float, **arguments: Any) -> Any:
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
    task = loop.create_task(load_litellm().acompletion(**arguments), context=context)
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
        clients = load_litellm().in_memory_llm_clients_cache
        for key in [key for key in clients.cache_dict if key.endswith(f"-{loop_id}")]:
            client = clients.cache_dict[key]
            clients.delete_cache(key)
            with suppress(Exception):
                await client.close()
