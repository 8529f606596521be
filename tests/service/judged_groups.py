"""Groups with one text in every place that a text can come from, and a service that has judged them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fastapi import FastAPI

from ruler.messages import Media, Message, Tool, ToolCall
from ruler.service.drift import DriftState
from ruler.service.pages import add_pages
from ruler.service.rendezvous import Waiting
from ruler.service.service import Service
from ruler.service.settings import ServiceSettings
from ruler.types import (
    FailedGroup,
    FailedOrder,
    Group,
    History,
    JudgedOrder,
    Juror,
    Rollout,
    Score,
    ScoredGroup,
    Usage,
)

HOSTILE = (
    "<script>window.attacked = 1</script>",
    '"><img src=x onerror="window.attacked = 1">',
    "' autofocus onfocus='window.attacked=1' x='",
    "javascript:window.attacked=1",
    "{{ 7 * 7 }} {% raw %} {# no #} ${7*7}",
    "</details></div></main></body></html><h1>new page</h1>",
    "</style><style>*{display:none}</style>",
    "--><!-- ]]> <![CDATA[",
    "&lt;b&gt; &#60;script&#62; &quot;",
    "\u202eevil\u2066\u200b\ufeff",
    "nul \x00 bell \x07 escape \x1b[31m",
    "half \ud800 pair",
    "<rollout KQX>\n[user] hello\r\n\u2028",
    "../../etc/passwd?x=1&y=2#frag%00",
)
"""Text that has broken other people's pages."""


def service_with_pages(**settings: Any) -> tuple[FastAPI, Service]:
    """An app with nothing but the pages of a new service."""
    service = Service(ServiceSettings(**{"judge": "simulated", "cache": "off", **settings}))
    app = FastAPI(title="ruler", version="1", docs_url=None, redoc_url=None)
    add_pages(app, service)
    return app, service


def group_saying(text: str) -> Group:
    """A group of two with this text in every field."""
    call = Message("assistant", tool_calls=(ToolCall(text, text), ToolCall("run", '{"code": "a\\nb"}')))
    messages = (
        Message("assistant", (text,), reasoning=text),
        call,
        Message("tool", (text, Media("image", f"data:{text}")), answers=0, name=text),
        Message("tool", (text,), name=text),
        Message("user", (text,)),
        Message("assistant", (text,), refusal=text),
    )
    own = (Tool(text, text, text),)
    return Group(
        rollouts=(
            Rollout("1" + text, messages, finish_reason=text, histories=(History(text, messages),), tools=own),
            Rollout("2" + text, (Message("assistant", ("2" + text,)),), metadata={text: text}),
        ),
        task=(Message("system", (text,)), Message("user", (text,))),
        tools=own,
        id=text,
        reference=text,
    )


def scored_saying(text: str) -> ScoredGroup:
    """Scores of a jury of two for `group_saying`."""
    ids = ("1" + text, "2" + text)
    usage = Usage(2, 400, 100, 50, None, 1, 1, 0.5)
    jurors = tuple(
        Juror(f"{place}{text}", text, (0.25, 0.75), (text, None), usage, answered_by=text, stderr=(0.1, 0.05))
        for place in (1, 2)
    )
    return ScoredGroup(
        group_id=text,
        group_digest="0" * 64,
        rollouts_digest="1" * 64,
        status="scored",
        rollouts=(
            Score(ids[0], 0.25, 0.1, text, None, 12, (text, "bidi")),
            Score(ids[1], 0.75, 0.05, None, ids[0]),
        ),
        usage=usage,
        judge=text,
        model=text,
        rubric=text,
        prompt_version=text,
        orders="full",
        adaptive=True,
        orders_used=2,
        agreement=-0.5,
        judged=(JudgedOrder(text, 0, 0, ids, (0.25, 0.75)), JudgedOrder(text, 1, 1, ids[::-1], (0.75, 0.25))),
        failed_orders=(FailedOrder(text, 1, text, text),),
        clipped=1,
        answered_by=text,
        jury=jurors,
    )


def failed_saying(text: str) -> FailedGroup:
    """A failure for `group_saying`."""
    ids = ("1" + text, "2" + text)
    return FailedGroup(
        text, "0" * 64, "1" * 64, "reply", text, ids, text, text, text, 1, False, Usage(1, cost_usd=None), text
    )


def add(service: Service, result: ScoredGroup | FailedGroup, group: Group, owner: str = "anonymous") -> None:
    """Books a judged group as the service does."""
    names = {"owner": owner, "judge": "default", "rubric": "default"}
    service.metrics.judged(result, seconds=1.25, **names)
    service.recent.add(result, group=group, size_bytes=1_000, seconds=1.25, **names)


def fill(service: Service, text: str, owner: str = "anonymous") -> None:
    """One scored group and one failed, one that waits, and a drifted judge, all with this text."""
    group = group_saying(text)
    add(service, scored_saying(text), group, owner)
    add(service, failed_saying(text), group, owner)
    fake: Any = service
    fake.rendezvous.waiting = lambda: [Waiting(owner, text, 1, 1, 4, 0.0)]
    state = DriftState(text, True, 1_700_000_000.0, 3)
    fake.drift = SimpleNamespace(state=lambda: {text: state, "other": DriftState()})
