from __future__ import annotations

import asyncio
import gc
import inspect
import json
import os
import socket
import subprocess
import sys
import time
import traceback
import urllib.parse
from email.utils import formatdate

import aiohttp
import httpx
import openai
import pytest

from judges.litellm import LiteLLMJudge, mark_prefix
from judges.litellm_client import load_litellm
from judges.litellm_errors import judge_error, one_line
from ruler.errors import ConfigError, JudgeError, JudgeRejected, JudgeUnavailable, ReplyError
from ruler.types import JudgeRequest, Sampling, Usage
from tests.local_server import LocalServer, Response, completion, error

litellm = load_litellm()
library = litellm.exceptions

SCHEMA = {"type": "object", "properties": {"scores": {"type": "array"}}, "required": ["scores"]}
MESSAGES = (
    {"role": "system", "content": "You compare. Answer in JSON."},
    {"role": "user", "content": "Task\n<rollout KQX>\nfour\n</rollout KQX>\n<rollout BDF>\nfive\n</rollout BDF>"},
)
KEY = "sk-test-1234567890abcdefghij"


def request(**kwargs) -> JudgeRequest:
    return JudgeRequest(messages=MESSAGES, schema=SCHEMA, ids=("KQX", "BDF"), **kwargs)


@pytest.fixture
def server():
    with LocalServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch):
    for name in [name for name in os.environ if "KEY" in name or "TOKEN" in name]:
        monkeypatch.delenv(name)


def judge(server: LocalServer, **kwargs) -> LiteLLMJudge:
    return LiteLLMJudge(model="m", base_url=server.url, **kwargs)


# --- The exception table ---


def build(cls: type[Exception], **given) -> Exception:
    """A real object of an exception class, from whatever its constructor wants."""
    status = given.pop("status", 400)
    http_request = httpx.Request("POST", "http://judge/v1/chat/completions")
    values = {
        "message": "told you so",
        "model": "m",
        "llm_provider": "openai",
        "status_code": status,
        "request": http_request,
        "response": httpx.Response(status, headers=given.pop("headers", {}), request=http_request),
        "body": given.pop("body", None),
        "request_data": {},
        "current_cost": 2.0,
        "max_budget": 1.0,
        "failures": [],
        "raw_response": "",
        "schema": "",
        "entity_type": "PHONE",
        "route_to_model": "m2",
        "session_id": "s",
    } | given
    wanted = inspect.signature(cls.__init__).parameters
    return cls(**{name: value for name, value in values.items() if name in wanted})


LITELLM_CLASSES = {
    "APIConnectionError": JudgeUnavailable,
    "APIError": JudgeRejected,  # by status: 400 here
    "APIResponseValidationError": JudgeUnavailable,
    "AuthenticationError": JudgeRejected,
    "BadGatewayError": JudgeUnavailable,
    "BadRequestError": JudgeRejected,
    "BlockedPiiEntityError": JudgeRejected,
    "BudgetExceededError": JudgeRejected,
    "ContentPolicyViolationError": JudgeRejected,
    "ContextWindowExceededError": JudgeRejected,
    "GuardrailRaisedException": JudgeRejected,
    "ImageFetchError": JudgeRejected,
    "InternalServerError": JudgeUnavailable,
    "InvalidRequestError": JudgeRejected,
    "JSONSchemaValidationError": JudgeUnavailable,
    "LiteLLMUnknownProvider": JudgeRejected,
    "MidStreamFallbackError": JudgeUnavailable,
    "MockException": JudgeRejected,
    "ModelNotMappedError": JudgeRejected,
    "ModifyResponseException": JudgeRejected,
    "NotFoundError": JudgeRejected,
    "OpenAIError": JudgeUnavailable,
    "PaymentRequiredError": JudgeRejected,
    "PermissionDeniedError": JudgeRejected,
    "RateLimitError": JudgeUnavailable,
    "RejectedRequestError": JudgeRejected,
    "SensitiveDataRouteException": JudgeRejected,
    "ServiceUnavailableError": JudgeUnavailable,
    "Timeout": JudgeUnavailable,
    "UnprocessableEntityError": JudgeRejected,
    "UnsupportedParamsError": JudgeRejected,
    "VectorStoreSearchError": JudgeRejected,
}
STEPS_DOWN = {
    "BadRequestError",
    "InvalidRequestError",
    "LiteLLMUnknownProvider",
    "UnprocessableEntityError",
    "UnsupportedParamsError",
    "VectorStoreSearchError",
}


def test_every_exception_class_of_litellm_has_a_place():
    classes = {
        name: cls
        for name, cls in inspect.getmembers(library, inspect.isclass)
        if issubclass(cls, Exception) and cls.__module__ == "litellm.exceptions"
    }
    mapped = {name: judge_error(build(cls), "m") for name, cls in classes.items()}
    assert {name: type(found) for name, (found, _) in mapped.items()} == {
        name: LITELLM_CLASSES[name] for name in classes
    }
    assert {name for name, (_, may_be_form) in mapped.items() if may_be_form} == STEPS_DOWN & set(classes)


@pytest.mark.parametrize(
    ("name", "status", "expected"),
    [
        ("BadRequestError", 400, JudgeRejected),
        ("AuthenticationError", 401, JudgeRejected),
        ("PermissionDeniedError", 403, JudgeRejected),
        ("NotFoundError", 404, JudgeRejected),
        ("ConflictError", 409, JudgeUnavailable),
        ("UnprocessableEntityError", 422, JudgeRejected),
        ("RateLimitError", 429, JudgeUnavailable),
        ("InternalServerError", 500, JudgeUnavailable),
        ("APITimeoutError", 408, JudgeUnavailable),
        ("APIConnectionError", 500, JudgeUnavailable),
        ("APIResponseValidationError", 500, JudgeUnavailable),
        ("APIStatusError", 402, JudgeRejected),
        ("APIStatusError", 413, JudgeRejected),
        ("APIStatusError", 408, JudgeUnavailable),
        ("APIStatusError", 529, JudgeUnavailable),
        ("APIError", 500, JudgeUnavailable),
    ],
)
def test_exceptions_of_openai(name, status, expected):
    assert type(judge_error(build(getattr(openai, name), status=status), "m")[0]) is expected


@pytest.mark.parametrize("status", [402, 403, 404, 413, 451])
def test_an_api_error_without_class_goes_by_its_status(status):
    found, may_be_form = judge_error(build(library.APIError, status=status), "m")
    assert (type(found), may_be_form) == (JudgeRejected, False)
    assert f"HTTP {status}" in str(found)


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 529])
def test_an_api_error_that_may_pass_is_unavailable(status):
    assert type(judge_error(build(library.APIError, status=status), "m")[0]) is JudgeUnavailable


@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        (httpx.ConnectError("refused"), JudgeUnavailable),
        (httpx.ReadTimeout("slow"), JudgeUnavailable),
        (aiohttp.ServerDisconnectedError(), JudgeUnavailable),
        (ConnectionResetError("reset"), JudgeUnavailable),
        (TimeoutError(), JudgeUnavailable),
        (json.JSONDecodeError("Expecting value", "", 0), JudgeUnavailable),
        (TypeError("a bug"), None),
        (KeyError("a bug"), None),
        (ConfigError("no key"), None),
    ],
)
def test_what_is_not_litellms(exc, expected):
    found, may_be_form = judge_error(exc, "m")
    assert (found if expected is None else type(found)) is expected
    assert not may_be_form


@pytest.mark.parametrize(
    "cause", [ImportError("no boto3"), TypeError("bug"), UnicodeEncodeError("utf-8", "", 0, 1, "")]
)
def test_a_fault_of_litellm_itself_is_not_retried(cause):
    for cls in (library.APIConnectionError, library.InternalServerError):
        exc = build(cls)
        exc.__cause__ = cause
        assert type(judge_error(exc, "m")[0]) is JudgeRejected


def test_a_rate_limit_without_credit_is_rejected():
    body = {"message": "You exceeded your current quota", "code": "insufficient_quota"}
    exc = build(library.RateLimitError, status=429, body=body, headers={"Retry-After": "1"})
    assert type(judge_error(exc, "m")[0]) is JudgeRejected
    exc = build(library.RateLimitError, status=429, body={"message": "quota for this minute", "code": "rate_limit"})
    assert type(judge_error(exc, "m")[0]) is JudgeUnavailable


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        ("7", 7, 7),
        ("0.25", 0.25, 0.25),
        ("-3", 0, 0),
        pytest.param(lambda: formatdate(time.time() + 60, usegmt=True), 50, 60, id="date ahead"),
        pytest.param(lambda: formatdate(time.time() - 60, usegmt=True), 0, 0, id="date past"),
        ("soon", None, None),
        ("inf", None, None),
        ("", None, None),
    ],
)
def test_retry_after(value, low, high):
    value = value() if callable(value) else value
    for found, _ in (
        judge_error(build(library.RateLimitError, status=429, headers={"Retry-After": value}), "m"),
        judge_error(build(library.ServiceUnavailableError, status=503, headers={"retry-after": value}), "m"),
    ):
        assert isinstance(found, JudgeUnavailable)
        seconds = found.retry_after_seconds
        assert seconds is None if low is None else low <= seconds <= high


def test_messages_are_one_short_line_without_keys():
    text = (
        f"OpenAIException - Incorrect API key provided: {KEY}.\nSeen also {KEY[:8]}...ghij, sk-proj-****wxyz "
        "and abcd****efgh" + " blah" * 200
    )
    found, _ = judge_error(build(library.AuthenticationError, status=401, message=text), "openai/m", [KEY])
    message = str(found)
    assert message.startswith("openai/m: refused the key (HTTP 401): Incorrect API key provided: [key]")
    assert "\n" not in message
    assert len(message) < 400
    assert not any(part in message for part in (KEY[:8], KEY[-4:], "sk-", "wxyz", "efgh"))
    exc = build(library.APIConnectionError, message="boom\nTraceback (most recent call last):\n  File secret.py")
    assert str(judge_error(exc, "m")[0]) == "m: connection failed: boom"


# --- Cache marks ---

MARK = {"cache_control": {"type": "ephemeral"}}


def test_marks_on_plain_text():
    before = json.dumps(MESSAGES)
    system, user = mark_prefix(MESSAGES, 5)
    assert system == {"role": "system", "content": [{"type": "text", "text": MESSAGES[0]["content"], **MARK}]}
    text = MESSAGES[1]["content"]
    assert user["content"] == [{"type": "text", "text": text[:5], **MARK}, {"type": "text", "text": text[5:]}]
    assert json.dumps(MESSAGES) == before


def test_no_prefix_marks_the_system_message_only():
    assert mark_prefix(MESSAGES, 0)[1]["content"] == [{"type": "text", "text": MESSAGES[1]["content"]}]


@pytest.mark.parametrize("prefix_chars", [1, 3, 4, 6, 7, 99])
def test_marks_among_parts_and_images(prefix_chars):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    parts = [{"type": "text", "text": "abc"}, image, {"type": "text", "text": "defg"}, image]
    (user,) = mark_prefix([{"role": "user", "content": parts}], prefix_chars)
    texts = [part for part in user["content"] if part["type"] == "text"]
    assert "".join(part["text"] for part in texts) == "abcdefg"
    assert all(part["text"] for part in texts)
    at = next(i for i, part in enumerate(texts) if "cache_control" in part)
    assert "".join(part["text"] for part in texts[: at + 1]) == "abcdefg"[:prefix_chars]
    assert sum("cache_control" in part for part in user["content"]) == 1
    assert [part for part in user["content"] if part["type"] == "image_url"] == [image, image]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("anthropic/claude-sonnet-4-5", True),
        ("bedrock/anthropic.claude-3-5-sonnet-20240620-v1:0", True),
        ("vertex_ai/claude-sonnet-4-5", True),
        ("vertex_ai/gemini-2.5-flash", False),
        ("openai/gpt-5-mini", False),
    ],
)
def test_who_wants_marks(monkeypatch, model, expected):
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert LiteLLMJudge(model=model).info.prefix_cache is expected


# --- Construction ---


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        ({"model": "no-such-model"}, "no-such-model"),
        ({"model": "nobody/m"}, "nobody/m"),
        ({"model": ""}, "empty"),
        ({"model": "openai/gpt-5-mini"}, "OPENAI_API_KEY"),
        ({"model": "anthropic/claude-sonnet-4-5"}, "ANTHROPIC_API_KEY"),
        ({"model": "openai/gpt-5-mini", "api_key_env": "RULER_TEST_NO_KEY"}, "RULER_TEST_NO_KEY"),
        ({"model": "m", "base_url": "http://h/v1", "api_key_env": "RULER_TEST_NO_KEY"}, "RULER_TEST_NO_KEY"),
        ({"model": "m", "base_url": "localhost:8000/v1"}, "localhost:8000/v1"),
        ({"model": "m", "base_url": "http://me:secret@h/v1"}, "api_key_env"),
        ({"model": "m", "base_url": "http://h/v1", "timeout_seconds": 0}, "timeout_seconds"),
        ({"model": "m", "base_url": "http://h/v1", "input_price": 1.0}, "output_price"),
        ({"model": "m", "base_url": "http://h/v1", "input_price": 1.0, "output_price": -1.0}, "output_price"),
    ],
)
def test_bad_settings_are_named(kwargs, named):
    with pytest.raises(ConfigError, match=named) as caught:
        LiteLLMJudge(**kwargs)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_extra_names_the_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "litellm", None)
    load_litellm.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install 'ruler-judge\[litellm\]'"):
        LiteLLMJudge(model="m", base_url="http://h/v1")


def test_info_of_a_hosted_model_comes_from_the_table_without_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError(f"network: {args}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("HUGGINGFACE_API_KEY", KEY)
    made = LiteLLMJudge(model="openai/gpt-5-mini", sampling=Sampling(max_tokens=9))
    info = made.info
    assert (info.backend, info.name, info.context_tokens, info.images) == (
        "litellm",
        "openai/gpt-5-mini?max_tokens=9",
        272_000,
        True,
    )
    assert info.sampling == Sampling(max_tokens=9)
    assert info.count_tokens is None
    assert KEY not in repr(made) + repr(info) + repr(vars(made))
    for model in ("huggingface/meta/llama-3-8b", "ollama/llama3", "lemonade/llama-3"):
        assert LiteLLMJudge(model=model).info.count_tokens is None
    assert LiteLLMJudge(model="openai/gpt-5-mini", context_tokens=5, images=False).info.context_tokens == 5


def test_an_endpoint_takes_nothing_from_the_table():
    info = LiteLLMJudge(model="gpt-5-mini", base_url="http://h/v1/").info
    assert (info.context_tokens, info.images, info.prefix_cache) == (None, False, False)
    assert info.name == "http://h/v1#gpt-5-mini"


def test_importing_the_module_does_not_importload_litellm():
    code = "import sys, judges.litellm; sys.exit('litellm' in sys.modules or 'openai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- Over a real socket ---


async def test_happy_path(server):
    sampling = Sampling(temperature=0.0, top_p=0.5, max_tokens=300, seed=7, reasoning_effort="low")
    reply = await judge(server, sampling=Sampling(temperature=1.0))(request(sampling=sampling, repeat=3))
    assert json.loads(reply.text) == {"notes": [], "scores": [{"id": "KQX", "score": 50}, {"id": "BDF", "score": 50}]}
    assert reply.usage == Usage(calls=1, input_tokens=100, output_tokens=10, cost_usd=None)
    assert (reply.model, reply.finish_reason, reply.from_cache) == ("served-model", "stop", False)
    assert 0 < reply.latency_seconds < 5
    assert server.bodies == [
        {
            "model": "m",
            "messages": [dict(message) for message in MESSAGES],
            "temperature": 0.0,
            "top_p": 0.5,
            "max_tokens": 300,
            "seed": 7,
            "reasoning_effort": "low",
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "scores", "strict": True, "schema": SCHEMA},
            },
        }
    ]


async def test_settings_that_are_none_are_not_sent(server):
    await judge(server)(request())
    assert set(server.bodies[0]) == {"model", "messages", "response_format"}


async def test_content_parts_arrive_as_they_are(server):
    parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]
    message = {"role": "user", "content": parts}
    await judge(server)(JudgeRequest(messages=(message,), schema=SCHEMA, ids=("KQX",), prefix_chars=1))
    assert server.bodies[0]["messages"] == [message]


def form_of(body) -> str:
    return body.get("response_format", {}).get("type", "text")


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("takes", ["json_object", "text"])
async def test_step_down_is_remembered(server, status, takes):
    def reply(body):
        if form_of(body) != takes:
            return error(status, "response_format is not supported", type="invalid_request_error")
        return completion("{}")

    server.reply = reply
    made = judge(server)
    first, second = await made(request()), await made(request())
    steps = ["json_schema", "json_object", "text"]
    steps = steps[: steps.index(takes) + 1]
    assert [form_of(body) for body in server.bodies] == [*steps, takes]
    # Every request counts, also one that was refused for its form.
    assert (first.usage.calls, second.usage.calls) == (len(steps), 1)
    await judge(server)(request())
    assert form_of(server.bodies[len(steps) + 1]) == "json_schema"


async def test_when_every_form_is_refused_the_first_error_counts_and_nothing_is_remembered(server):
    server.reply = lambda body: error(400, f"no {form_of(body)}")
    made = judge(server)
    for _ in range(2):
        with pytest.raises(JudgeRejected, match="no json_schema"):
            await made(request())
    assert [form_of(body) for body in server.bodies] == ["json_schema", "json_object", "text"] * 2


@pytest.mark.parametrize(
    "refusal",
    [
        error(400, "This model's maximum context length is 10 tokens", code="context_length_exceeded"),
        error(400, "no", type="invalid_request_error", code="content_policy_violation"),
        error(401, "no"),
        error(402, "no"),
        error(403, "no"),
        error(404, "no"),
        error(413, "no"),
        error(429, "no", code="insufficient_quota"),
    ],
    ids=["context", "content", "401", "402", "403", "404", "413", "quota"],
)
async def test_other_refusals_are_not_asked_again(server, refusal):
    server.reply = lambda body: refusal
    with pytest.raises(JudgeRejected):
        await judge(server)(request())
    assert len(server.bodies) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 529])
async def test_what_may_pass_is_unavailable_and_asked_once(server, status):
    server.reply = lambda body: error(status, "come back", {"Retry-After": "7"})
    with pytest.raises(JudgeUnavailable, match=rf"#m: .*\(HTTP {status}\).*come back") as caught:
        await judge(server)(request())
    assert caught.value.retry_after_seconds == 7
    assert len(server.bodies) == 1


async def test_an_outage_during_the_step_down_is_an_outage(server):
    server.reply = lambda body: error(400, "no") if form_of(body) == "json_schema" else error(503, "down")
    with pytest.raises(JudgeUnavailable, match="503"):
        await judge(server)(request())


@pytest.mark.parametrize(
    "body",
    [
        "<html><body>Welcome</body></html>",
        "",
        '{"choices": [tr',
        "[]",
        {"choices": []},
        {"id": 1},
        {"error": {"message": "x", "code": 500}},
    ],
    ids=["html", "nothing", "cut", "list", "no-choices", "no-key", "error"],
)
async def test_an_answer_that_is_no_completion_is_unavailable(server, body):
    server.reply = lambda _: Response(200, {"Content-Type": "text/html"}, body)
    with pytest.raises(JudgeUnavailable) as caught:
        await judge(server)(request())
    assert "HTTP 500" not in str(caught.value)
    assert len(server.bodies) == 1


async def test_connection_refused():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with pytest.raises(JudgeUnavailable, match=f"127.0.0.1:{port}.*: connection failed: "):
            await LiteLLMJudge(model="m", base_url=f"http://127.0.0.1:{port}/v1")(request())


async def test_timeout(server):
    server.reply = lambda body: Response(delay_seconds=10)
    started = time.monotonic()
    with pytest.raises(JudgeUnavailable, match="no reply in time"):
        await judge(server, timeout_seconds=0.2)(request())
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(("max_tokens", "named"), [(64, "max_tokens=64"), (None, "default for max_tokens")])
async def test_an_empty_body_cut_off_names_the_limit(server, max_tokens, named):
    usage = {"prompt_tokens": 100, "completion_tokens": 64, "total_tokens": 164}
    server.reply = lambda body: completion("", finish_reason="length", usage=usage)
    with pytest.raises(ReplyError, match=named) as caught:
        await judge(server)(request(sampling=Sampling(max_tokens=max_tokens)))
    assert caught.value.finish_reason == "length"
    assert caught.value.usage == Usage(1, 100, 0, 64, None)
    assert "thinking" in str(caught.value)


async def test_a_cut_off_text_is_still_a_reply(server):
    server.reply = lambda body: completion('{"notes": [', finish_reason="length")
    reply = await judge(server)(request())
    assert (reply.text, reply.finish_reason) == ('{"notes": [', "length")


@pytest.mark.parametrize("text", ["", None, " \n"])
async def test_an_empty_reply(server, text):
    server.reply = lambda body: completion(text)
    with pytest.raises(ReplyError, match="empty"):
        await judge(server)(request())


@pytest.mark.parametrize(
    "refused",
    [
        completion("", finish_reason="content_filter"),
        completion('{"not', finish_reason="content_filter"),
        completion(None, refusal="I will not"),
    ],
)
async def test_refusals_are_rejected_with_their_usage(server, refused):
    server.reply = lambda body: refused
    with pytest.raises(JudgeRejected, match=r"content filter|I will not") as caught:
        await judge(server)(request())
    assert caught.value.usage == Usage(1, 100, 0, 10, None)


async def test_cached_tokens_and_given_prices(server):
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "prompt_tokens_details": {"cached_tokens": 640}}
    server.reply = lambda body: completion("{}", usage={**usage, "total_tokens": 1100})
    reply = await judge(server, input_price=2.0, output_price=10.0)(request())
    assert reply.usage == Usage(1, 1000, 640, 100, pytest.approx(0.003))


async def test_cost_is_unknown_at_an_endpoint_even_under_a_priced_name(server):
    reply = await LiteLLMJudge(model="gpt-4o-mini", base_url=server.url)(request())
    assert reply.usage.cost_usd is None


async def test_cost_of_a_hosted_model_comes_from_the_table(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_BASE", server.url)
    monkeypatch.setitem(litellm.model_cost, "gpt-4o-mini", {**litellm.model_cost["gpt-4o-mini"]})
    server.reply = lambda body: Response(body={**completion("{}").body, "model": "gpt-4o-mini"})
    reply = await LiteLLMJudge(model="openai/gpt-4o-mini")(request())
    price = litellm.model_cost["gpt-4o-mini"]
    expected = 100 * price["input_cost_per_token"] + 10 * price["output_cost_per_token"]
    assert reply.usage.cost_usd == pytest.approx(expected)
    server.reply = lambda body: completion("{}")
    reply = await LiteLLMJudge(model="openai/a-model-of-tomorrow")(request())
    assert reply.usage.cost_usd is None


async def test_the_key_is_read_at_the_call_and_goes_nowhere_else(server, monkeypatch):
    monkeypatch.setenv("RULER_TEST_KEY", "sk-of-yesterday-1234")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-for-this-server")
    made = judge(server, api_key_env="RULER_TEST_KEY")
    monkeypatch.setenv("RULER_TEST_KEY", f"{KEY}\n")
    await made(request())
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    server.reply = lambda body: error(401, f"Incorrect API key provided: {KEY}, also {KEY[:10]}***{KEY[-4:]}")
    with pytest.raises(JudgeRejected, match="refused the key") as caught:
        await made(request())
    shown = str(caught.value) + repr(caught.value) + repr(made) + repr(made.info)
    assert not any(part in shown for part in (KEY, KEY[:10], KEY[-4:]))
    monkeypatch.delenv("RULER_TEST_KEY")
    with pytest.raises(ConfigError, match="RULER_TEST_KEY"):
        await made(request())
    server.reply = lambda body: completion("{}")
    await judge(server)(request())
    assert "sk-" not in server.requests[-1].headers["authorization"]


# --- What is left behind ---


def others() -> list[str]:
    return [str(task) for task in asyncio.all_tasks() - {asyncio.current_task()}]


@pytest.mark.slow
def test_one_judge_in_many_loops_at_high_concurrency(server):
    made = judge(server)

    async def many(count: int) -> int:
        replies = await asyncio.gather(*(made(request()) for _ in range(count)))
        assert not others()
        return len(replies)

    assert [asyncio.run(many(count)) for count in (100, 1, 1)] == [100, 1, 1]
    assert len(server.bodies) == 102
    # Connections are closed with their loops: pytest turns a warning from the collector into an error.
    gc.collect()


def test_cancelled_calls_leave_nothing(server):
    server.reply = lambda body: Response(delay_seconds=10)
    made = judge(server)

    async def cancel_after(seconds: float) -> None:
        tasks = [asyncio.create_task(made(request())) for _ in range(8)]
        await asyncio.sleep(seconds)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        assert not others()

    for seconds in (0, 0.001, 0.003, 0.01, 0.03, 0.1):
        asyncio.run(cancel_after(seconds))
    gc.collect()


@pytest.mark.slow
def test_a_process_ends_without_warnings(server):
    code = f"""
import asyncio, judges.litellm
from ruler.types import JudgeRequest
judge = judges.litellm.LiteLLMJudge(model="m", base_url={server.url!r})
question = JudgeRequest(messages=({{"role": "user", "content": "x"}},), schema={{}}, ids=())
for _ in range(2):
    asyncio.run(judge(question))
"""
    done = subprocess.run(
        [sys.executable, "-W", "always", "-W", "ignore::DeprecationWarning", "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")


async def test_the_error_does_not_drag_in_what_the_caller_handles(server):
    server.reply = lambda body: error(500, "down")
    try:
        raise TypeError("the caller's own trouble")
    except TypeError:
        with pytest.raises(JudgeUnavailable) as caught:
            await judge(server)(request())
    assert isinstance(caught.value, JudgeError)
    assert caught.value.__cause__ is not None
    assert "the caller's own trouble" not in "".join(traceback.format_exception(caught.value.__cause__))


ACCOUNT = {
    "OPENAI_API_KEY": KEY,
    "OPENAI_ORG_ID": "org-1",
    "OPENAI_ORGANIZATION": "org-2",
    "OPENAI_PROJECT_ID": "project-1",
    "OPENAI_CUSTOM_HEADERS": "X-Private: something",
}


async def test_an_endpoint_of_ones_own_learns_nothing_of_the_openai_account(server, monkeypatch):
    for name, value in ACCOUNT.items():
        monkeypatch.setenv(name, value)
    await judge(server)(request())
    told = repr(server.requests[0].headers)
    for value in (KEY, "org-1", "org-2", "project-1", "something"):
        assert value not in told


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_takes_the_prompt_nowhere(server, status):
    with LocalServer() as elsewhere:
        server.reply = lambda body: Response(status, {"Location": f"{elsewhere.url}/chat/completions"}, b"")
        with pytest.raises(JudgeRejected):
            await judge(server)(request())
        assert elsewhere.requests == []


@pytest.mark.parametrize("key", ["ab/cdefghSECRET==", "s3cr3t", "abc+def/SECRET==xyz", KEY])
async def test_the_named_key_never_shows(server, monkeypatch, key):
    monkeypatch.setenv("MY_KEY", key)
    for reply in (
        lambda body: error(401, f"bad key {key}"),
        lambda body: error(500, json.dumps({"key": key, "quoted": urllib.parse.quote(key, safe="")})),
        lambda body: completion(None, refusal=f"no {key}"),
    ):
        server.reply = reply
        with pytest.raises(JudgeError) as caught:
            await judge(server, api_key_env="MY_KEY")(request())
        shown = "".join(traceback.format_exception(caught.value))
        assert key not in shown
        assert urllib.parse.quote(key, safe="") not in shown
    server.reply = lambda body: completion(f"Invalid API key: {key}")
    assert key not in (await judge(server, api_key_env="MY_KEY")(request())).text


def test_a_long_error_text_is_read_in_no_time():
    for text in ("x" * 2_000_000, "<" * 2_000_000, "-*" * 1_000_000, "<html" + "<" * 1_000_000):
        assert len(one_line(text, ["some-secret-key"])) <= 300


# --- What failures tell the layers around ---


@pytest.mark.parametrize(
    ("response", "overloaded", "cost"),
    [
        (error(429, "slow down"), True, 0.0),
        (error(503, "busy"), False, 0.0),
        (error(529, "overloaded"), True, 0.0),
        (Response(delay_seconds=5), True, None),
        (Response(body="<html>"), False, None),
    ],
)
async def test_a_failure_says_whether_less_is_asked_for_and_what_it_may_have_cost(response, overloaded, cost):
    with LocalServer(lambda body: response) as server, pytest.raises(JudgeUnavailable) as caught:
        await judge(server, timeout_seconds=0.5)(request())
    assert caught.value.overloaded is overloaded
    assert caught.value.usage == Usage(calls=1, cost_usd=cost)


async def test_what_was_never_reached_bills_nothing():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(JudgeUnavailable) as caught:
        await LiteLLMJudge(model="m", base_url=f"http://127.0.0.1:{port}/v1")(request())
    assert caught.value.usage == Usage(calls=1, cost_usd=0.0)
    assert not caught.value.overloaded


async def test_refused_forms_are_counted_in_failures_too():
    with LocalServer(lambda body: error(400, "response_format is not supported")) as server:
        with pytest.raises(JudgeRejected) as caught:
            await judge(server)(request())
        assert caught.value.usage.calls == len(server.requests) == 3


async def test_an_answer_that_is_too_large_is_not_read_to_its_end():
    huge = completion("x" * (17 * 1024 * 1024))
    with LocalServer(lambda body: huge) as server, pytest.raises(JudgeUnavailable, match="more than 16,777,216 bytes"):
        await judge(server)(request())


async def test_an_answer_that_is_packed_unasked_is_not_unpacked():
    packed = Response(headers={"Content-Encoding": "gzip"}, body=b"\x1f\x8b\x08\x00")
    with LocalServer(lambda body: packed) as server:
        with pytest.raises(JudgeUnavailable, match="packed .gzip., which was not asked for"):
            await judge(server)(request())
        assert server.requests[0].headers["accept-encoding"] == "identity"


def test_prices_are_told_where_they_are_known(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    hosted = LiteLLMJudge(model="openai/gpt-4o-mini").info
    assert (hosted.input_price, hosted.output_price) == (pytest.approx(0.15), pytest.approx(0.6))
    own = LiteLLMJudge(model="m", base_url="http://h/v1").info
    assert (own.input_price, own.output_price) == (None, None)
    priced = LiteLLMJudge(model="m", base_url="http://h/v1", input_price=1.0, output_price=0.0).info
    assert (priced.input_price, priced.output_price) == (1.0, 0.0)


def test_who_only_wants_to_know_it_needs_no_key():
    assert LiteLLMJudge(model="openai/gpt-4o-mini", require_key=False).info.images
    named = LiteLLMJudge(model="m", base_url="http://h/v1", api_key_env="NOT_SET", require_key=False)
    assert named.info.name == "http://h/v1#m"


async def test_an_endpoint_behind_a_proxy_is_reached_through_it(monkeypatch):
    with LocalServer() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.removesuffix("/v1"))
        monkeypatch.setenv("NO_PROXY", "")
        reply = await LiteLLMJudge(model="m", base_url="http://judge.invalid/v1")(request())
        assert reply.text
        assert proxy.requests[0].path.startswith("http://judge.invalid/v1/")


async def test_who_answers_by_the_environment_is_part_of_who_the_judge_is(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with LocalServer(lambda body: completion("one")) as one, LocalServer(lambda body: completion("two")) as two:
        names = {LiteLLMJudge(model="openai/gpt-4o-mini").info.name}
        for server, variable in ((one, "OPENAI_BASE_URL"), (two, "OPENAI_BASE_URL"), (one, "HOSTED_VLLM_API_BASE")):
            monkeypatch.setenv(variable, server.url)
            hosted = LiteLLMJudge(model="hosted_vllm/m" if "VLLM" in variable else "openai/gpt-4o-mini")
            assert hosted.info.base_url == server.url
            assert (await hosted(request())).text == ("one" if server is one else "two")
            names.add(hosted.info.name)
        assert len(names) == 4
    monkeypatch.setenv("OPENAI_BASE_URL", "http://me:hunter2@h/v1")
    with pytest.raises(ConfigError) as caught:
        LiteLLMJudge(model="openai/gpt-4o-mini")
    assert "hunter2" not in str(caught.value)
