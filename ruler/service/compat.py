"""Other people's wires over the rendezvous: OpenRLHF's remote reward model, and slime's `remote_rm`.

Both post one rollout at a time and wait for a number. Neither names the group, neither can be told "no score", and both
send an identical body again when a connection breaks or an answer is not 200. So here

- rollouts are grouped by what they have in common, see `Seating`;
- a failed group is an HTTP error, as everywhere: the trainer tries again, and stops in the end. Only with
  `failure_reward=X` in the address do all rollouts of a failed group get the constant X, which gives none of them an
  advantage. It is marked in the answer, and counted. To be equal for all, it is paid only where all of them are there:
  a group that is not complete in time fails, and that is an error;
- a tied group has no score either, but it is no failure: its rollouts read the same, and equal rewards are the truth
  about them. Each gets 0.5, the middle of the scale, so that a baseline over more than the group (a running mean, a
  whole batch) learns of neither a good nor a bad group. It is marked as well.

The facts are those of OpenRLHF 0.11.2 and slime 0.3.1.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from ruler.chat_text import ChatPrompt, read_prompt, read_response, response_in
from ruler.errors import GroupError, RulerError
from ruler.messages import Message, read_messages
from ruler.service import openapi
from ruler.service.bodies import is_awaited, nobody, read_body
from ruler.service.problems import Problem
from ruler.service.rendezvous import Answer, Post, Seat
from ruler.service.replies import json_reply
from ruler.service.seating import Place, Seating
from ruler.service.wire import BYTES_PER_TOKEN, check_query, read_count, read_json
from ruler.types import Rollout

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ruler.service.service import Service

TIED_REWARD = 0.5
"""What every rollout of a tied group is given."""

_PAYABLE = frozenset(("deadline", "internal", "judge", "packing", "rejected", "reply", "unavailable"))
"""What a constant may stand for: this group could not be scored. Where none can (`budget`, `config`), where another try
is to be made (`stopping`), and where the request is wrong, a constant would hide what somebody must see to."""
_MAX_BYTES = 4 * 2**20
_QUERY = ("group_size", "judge", "rubric", "failure_reward")


@dataclass(frozen=True, slots=True)
class _Wire:
    name: str
    collect_seconds: float
    judge_seconds: float


# OpenRLHF gives up after 180 s, slime after 120 s.
_OPENRLHF = _Wire("openrlhf", 90.0, 80.0)
_SLIME = _Wire("slime", 60.0, 50.0)


@dataclass(frozen=True, slots=True)
class _Posted:
    """One rollout as a trainer posted it."""

    prompt: object
    label: object
    said: str
    """What tells it from its siblings."""
    task: tuple[Message, ...]
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a request's headers and address say."""

    wire: _Wire
    owner: str
    group_size: int
    judge: str
    rubric: str
    failure_reward: float | None

    def is_paid(self, error: BaseException) -> bool:
        """Whether a whole group that failed with this gets the constant."""
        return self.failure_reward is not None and getattr(error, "code", None) in _PAYABLE

    def key(self, posted: _Posted) -> str:
        """Equal for siblings. How failures are paid is part of it: all must be paid alike."""
        shared = [self.owner, posted.prompt, posted.label, self.group_size, self.judge, self.rubric]
        return f"{self.wire.name}-{_digest(_json([*shared, self.failure_reward]))[:16]}"


def add_calls(app: FastAPI, service: Service) -> None:
    """Adds `POST /compat/openrlhf` and `POST /compat/slime`."""
    calls = Calls(service)
    app.post("/compat/openrlhf", **openapi.OPENRLHF)(calls.openrlhf)
    app.post("/compat/slime", **openapi.SLIME)(calls.slime)


class Calls:
    """What each call does. The forms are those of docs/service.md."""

    def __init__(self, service: Service, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._service = service
        self._seating = Seating(clock)

    async def openrlhf(self, request: Request) -> Response:
        """Rollouts in, each with its prompt and label; a reward for each when its siblings are in.

        `rewards` and `scores` are the same numbers. `extra_logs` holds numbers under the same keys in every answer, as
        OpenRLHF needs it: `judge_failed` and `judge_tied` are 0 or 1, `judge_rank` and `judge_num_rollouts` 0 where
        there are none.
        """
        asked = self._asked(request, _OPENRLHF)
        read = partial(_read_openrlhf, most=self._service.settings.max_rollouts)
        posted = await self._service.aside.read(read, await read_body(request))
        paid = await self._paid(request, asked, posted)
        if paid is None:
            return nobody()
        rewards = [reward for reward, _ in paid]
        answers = [outcome if isinstance(outcome, Answer) else None for _, outcome in paid]
        logs = {
            "judge_failed": [int(answer is None) for answer in answers],
            "judge_tied": [int(answer is not None and answer.score.score is None) for answer in answers],
            "judge_rank": [(answer.rank or 0) if answer else 0 for answer in answers],
            "judge_num_rollouts": [answer.num_rollouts if answer else 0 for answer in answers],
        }
        return json_reply({"rewards": rewards, "scores": rewards, "extra_logs": logs})

    async def slime(self, request: Request) -> Response:
        """One rollout in; the bare number that is its reward when its siblings are in.

        The header `X-Ruler-Failed` says why the number is a constant, `X-Ruler-Tied` that the group is tied.
        """
        asked = self._asked(request, _SLIME)
        posted = await self._service.aside.read(_read_slime, await read_body(request))
        paid = await self._paid(request, asked, [posted])
        if paid is None:
            return nobody()
        reward, outcome = paid[0]
        headers = {}
        if isinstance(outcome, Problem):
            headers = {"X-Ruler-Failed": outcome.code}
        elif outcome.score.score is None:
            headers = {"X-Ruler-Tied": "1"}
        return Response(json.dumps(reward), headers=headers, media_type="application/json")

    def _asked(self, request: Request, wire: _Wire) -> _Asked:
        owner = self._service.keys.caller(request.headers).name
        query = request.query_params
        check_query(request, _QUERY)
        for name in query:
            if len(query.getlist(name)) > 1:
                raise Problem("group", f"{name}: given {len(query.getlist(name))} times")
        group_size = read_count("group_size", query.get("group_size"), at_least=1, at_most=2**53)
        if group_size is None:
            raise Problem("group", "group_size: missing; say in the address how many rollouts a prompt has")
        if group_size > self._service.settings.max_rollouts:
            raise Problem("too_large", f"group_size: at most {self._service.settings.max_rollouts}, got {group_size}")
        failure_reward = _read_reward(query.get("failure_reward"))
        names = self._service.choose(query.get("judge"), query.get("rubric"))
        return _Asked(wire, owner, group_size, *names, failure_reward)

    async def _paid(
        self, request: Request, asked: _Asked, posted: Sequence[_Posted]
    ) -> list[tuple[float, Answer | Problem]] | None:
        """A reward for each rollout, and what it stands for; None when the client has hung up."""
        held: list[Place] = []
        try:
            for one in posted:
                held.append(self._take(asked, one))
            # The rendezvous counts them from here on.
            request.scope["ruler.held"].release()
            if not await is_awaited(request, asyncio.gather(*(place.answer for place in held), return_exceptions=True)):
                return None
            paid = [self._pay(asked, place) for place in held]
            while held:
                self._seating.deliver(held.pop())
            return paid
        finally:
            # Of one body all get their answers or none: after an error it is sent again as a whole.
            for place in held:
                self._seating.release(place)

    def _take(self, asked: _Asked, posted: _Posted) -> Place:
        settings, wire = self._service.settings, asked.wire

        def join(group_id: str, rollout_id: str) -> Seat:
            post = Post(
                owner=asked.owner,
                group_id=group_id,
                group_size=asked.group_size,
                attempt=0,
                rollout=Rollout(rollout_id, posted.messages),
                task=posted.task,
                tools=(),
                reference=posted.label if isinstance(posted.label, str) and posted.label else None,
                judge=asked.judge,
                rubric=asked.rubric,
                size_bytes=_num_bytes(posted.said) + _num_bytes(_json([posted.prompt, posted.label])),
                num_tokens=_num_bytes(posted.said) // BYTES_PER_TOKEN,
            )
            return self._service.rendezvous.join(
                post,
                collect_seconds=min(wire.collect_seconds, settings.collect_seconds),
                judge_seconds=min(wire.judge_seconds, settings.judge_seconds),
                short_groups="fail",
            )

        return self._seating.take(
            asked.key(posted), _digest(posted.said)[:32], asked.group_size, join, is_final=asked.is_paid
        )

    def _pay(self, asked: _Asked, place: Place) -> tuple[float, Answer | Problem]:
        error = place.answer.exception()
        if error is None:
            answer = place.answer.result()
            score = answer.score.score
            return (TIED_REWARD if score is None else score), answer
        problem = Problem.of(error, place.group.group_id) if isinstance(error, RulerError) else error
        if not isinstance(problem, Problem):
            raise problem
        # Of a group that was never whole nobody knows what the others got: scores, it may be, before a restart.
        if asked.failure_reward is None or not asked.is_paid(problem) or not place.group.is_whole:
            # A copy: what is raised keeps the frames it went through, and the place keeps what it failed with.
            raise replace(problem)
        if not place.group.constant:
            place.group.constant = True
            self._service.metrics.constant(asked.owner)
        return asked.failure_reward, problem


def _read_small(content: bytes) -> object:
    # Prompts are parsed as chat templates, which takes seconds for text that is made to be nothing but marks.
    if len(content) > _MAX_BYTES:
        raise Problem("too_large", f"body: at most {_MAX_BYTES:,} bytes on this wire, got {len(content):,}")
    return read_json(content)


def _read_openrlhf(content: bytes, *, most: int) -> list[_Posted]:
    body = _object(_read_small(content))
    queries, prompts = _texts(body, "query"), _texts(body, "prompts")
    if len(queries) > most:
        raise Problem("too_large", f"query: at most {most} rollouts, got {len(queries)}")
    labels = body.get("labels")
    if labels is None:
        labels = [None] * len(queries)
    if not isinstance(labels, list):
        raise Problem("group", f"labels: expected a list or null, got {_shown(labels)}")
    for name, others in (("prompts", prompts), ("labels", labels)):
        if len(others) != len(queries):
            raise Problem("group", f"{name}: {len(others)} for {len(queries)} in query")
    read = []
    for i, (query, prompt, label) in enumerate(zip(queries, prompts, labels, strict=True)):
        response = response_in(query, prompt)
        if response is None:
            raise Problem("group", f"query[{i}]: does not begin with prompts[{i}], {_shown(prompt)}")
        read.append(_posted(prompt, label, query, read_prompt(prompt), response))
    return read


def _read_slime(content: bytes) -> _Posted:
    body = _object(_read_small(content))
    prompt, response = body.get("prompt"), body.get("response")
    if not isinstance(response, str):
        raise Problem("group", f"response: expected text, got {_shown(response)}")
    if isinstance(prompt, str):
        return _posted(prompt, body.get("label"), response, read_prompt(prompt), response)
    if not isinstance(prompt, list) or not prompt:
        raise Problem("group", f"prompt: expected text or messages, got {_shown(prompt)}")
    return _posted(prompt, body.get("label"), response, None, response)


def _posted(prompt: object, label: object, said: str, read: ChatPrompt | None, response: str) -> _Posted:
    try:
        # Refuses what could be read but not written again.
        _json([prompt, label])
        task = read_messages(read.messages if read else prompt, field="prompt", role="user").messages
        messages = read_messages(read_response(response, read), field="response").messages
    except GroupError as error:
        raise Problem.of(error) from None
    except (RecursionError, ValueError) as error:
        raise Problem("group", f"prompt, label: cannot be read: {error}") from None
    return _Posted(prompt, label, said, task, messages)


def _object(data: object) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise Problem("group", f"body: expected an object, got {_shown(data)}")
    return data


def _texts(body: dict[str, Any], name: str) -> list[str]:
    texts = body.get(name)
    if not isinstance(texts, list) or not texts:
        raise Problem("group", f"{name}: expected a list of at least one text, got {_shown(texts)}")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise Problem("group", f"{name}[{i}]: expected text, got {_shown(text)}")
    return texts


def _read_reward(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        reward = float(text)
    except ValueError:
        reward = math.nan
    if not math.isfinite(reward):
        raise Problem("group", f"failure_reward: expected a finite number, got {text!r:.80}")
    return reward


def _shown(value: object) -> str:
    if isinstance(value, dict | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{value!r:.80}"


def _json(value: object) -> str:
    # ASCII: a lone surrogate becomes an escape, where UTF-8 would refuse it.
    return json.dumps(value)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _num_bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
