"""An OpenAI-compatible chat-completions server for tests: real sockets on the loopback, answers from a function.

with LocalServer() as server:                      # answers 50 for every rollout it finds
    judge = LiteLLMJudge(model="m", base_url=server.url)
with LocalServer(lambda body: error(429, "slow down", {"Retry-After": "3"})) as server: ...
server.requests[0].body["response_format"]         # what was asked
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from ruler.types import FENCE


@dataclass(frozen=True)
class Response:
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: object = b""
    """Bytes as they are, text as UTF-8, anything else as JSON."""
    delay_seconds: float = 0.0
    """Waits before answering; closing the server ends the wait."""


@dataclass(frozen=True)
class Request:
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: dict[str, Any]


def completion(text: str | None, *, finish_reason: str = "stop", usage: object = None, **message: object) -> Response:
    """A chat completion; further keywords go into its message, for example `refusal`."""
    choice = {
        "index": 0,
        "finish_reason": finish_reason,
        "message": {"role": "assistant", "content": text, **message},
    }
    usage = usage or {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    body = {"id": "c1", "object": "chat.completion", "created": 1, "model": "served-model"}
    return Response(body={**body, "choices": [choice], "usage": usage})


def error(status: int, message: str, headers: Mapping[str, str] | None = None, **fields: object) -> Response:
    """An error in OpenAI's form; further keywords go beside its message, for example `code`."""
    return Response(status, headers or {}, {"error": {"message": message, **fields}})


def user_text(body: Mapping[str, Any]) -> str:
    """The text of all user messages of a request."""
    texts = []
    for message in body["messages"]:
        if message["role"] == "user":
            content = message["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            texts += [part["text"] for part in parts if part["type"] == "text"]
    return "\n".join(texts)


def score_all(body: Mapping[str, Any], score: float = 50) -> Response:
    """The same score for every rollout whose fence stands in the request."""
    ids = dict.fromkeys(match["id"] for match in FENCE.finditer(user_text(body)) if not match["close"])
    return completion(json.dumps({"notes": [], "scores": [{"id": label, "score": score} for label in ids]}))


class LocalServer:
    """Serves `POST …/chat/completions` from a thread of its own while the `with` block runs.

    Args:
        reply: from the request's body to the response; called in many threads at once.
    """

    def __init__(self, reply: Callable[[dict[str, Any]], Response] = score_all) -> None:
        self.reply = reply
        self.requests: list[Request] = []
        self._closing = threading.Event()
        self._httpd: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        """The base URL, ending in `/v1`."""
        assert self._httpd is not None, "the server runs only inside its `with` block"
        return f"http://127.0.0.1:{self._httpd.server_address[1]}/v1"

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """The bodies of all requests so far, in the order they came."""
        return [request.body for request in self.requests]

    def __enter__(self) -> LocalServer:
        self._httpd = _Httpd(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        assert self._httpd is not None
        self._closing.set()
        self._httpd.shutdown()
        self._httpd.server_close()
        self._httpd = None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1
            timeout = 30

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                headers = {name.lower(): value for name, value in self.headers.items()}
                server.requests.append(Request(self.path, headers, body))
                if self.path.endswith("/chat/completions"):
                    response = server.reply(body)
                else:
                    response = error(404, f"no such path: {self.path}")
                if response.delay_seconds and server._closing.wait(response.delay_seconds):
                    self.close_connection = True
                    return
                sent = response.body
                if not isinstance(sent, (bytes, str)):
                    sent = json.dumps(sent)
                payload = sent.encode() if isinstance(sent, str) else sent
                self.send_response(response.status)
                for name, value in {"Content-Type": "application/json", **response.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *args: object) -> None:
                pass

        return Handler


class _Httpd(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are part of the tests."""
