"""The tiny policy of the `inbox` task: its words, its chat template, and the experts that it imitates.

It speaks the Hermes form of tool calls as a real model does, with most of that form in single tokens: an attempt is
about 45 tokens long.
"""

from __future__ import annotations

from random import Random

from trainer.environments import ChatMessage
from trainer.tasks import Demonstration, TinyPolicy
from trainer.tasks.inbox_tools import REPLIES, call_message, reply, start, tool_message
from trainer.tasks.inbox_world import (
    ASKING,
    EVENTS,
    NAMES,
    NUM_DISTRACTORS,
    NUM_MAIN_MAILS,
    VALUES,
    Inbox,
    Question,
    load_inbox,
)

NUM_DEMONSTRATION_INBOXES = 30
"""7,200 questions: so many that finding the asked value is learnt, and not which value goes with which question."""

CONTEXT_TOKENS = 192
"""Four times an attempt as the experts make it: `MAX_TURNS` turns of searches with long queries end before that."""

SLIP = 0.05
"""How often each decision of the expert with habits goes wrong."""

CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {%- if message.role == 'assistant' -%}
        {{- message.content or '' -}}
        {%- for call in message.tool_calls or [] -%}
            {{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' -}}
            {{- call.function.arguments | tojson -}}
            {{- '}\\n</tool_call>' -}}
        {%- endfor -%}
        {{- eos_token -}}
    {%- elif message.role != 'system' -%}
        {{- message.content + '\\n' -}}
    {%- endif -%}
{%- endfor -%}"""
"""Shows the question, turns and replies, each reply on its own; not instructions and tools, which never change."""


def tiny_policy() -> TinyPolicy:
    """Imitates `clean` until it can search, read and copy; `habits` has it search too widely and guess."""
    return TinyPolicy(_words(), CHAT_TEMPLATE, CONTEXT_TOKENS, clean=clean, habits=habits)


def _words() -> tuple[str, ...]:
    """All that an inbox's replies and well-formed calls are made of. Words have a space in front, ids have none."""
    calls = (
        '<tool_call>\n{"name": "search", "arguments": {"query": "',
        '<tool_call>\n{"name": "read", "arguments": {"id": ',
        '<tool_call>\n{"name": "answer", "arguments": {"text": "',
        '"}}\n</tool_call>',
        "}}\n</tool_call>",
    )
    replies = ("\n", "#", "\n#", "The", "On", ".", *REPLIES)
    phrases = tuple(
        f" {words}"
        for words in (
            *("with", "last year", "news from"),
            *("is on", "was on", "at the", "was at the", "and costs", "and cost", "and paid"),
            *NAMES,
            *EVENTS,
            *(value for values in VALUES.values() for value in values),
        )
    )
    ids = tuple(str(mail_id) for mail_id in range(1, NUM_MAIN_MAILS + NUM_DISTRACTORS + 1))
    return (*calls, *replies, *ASKING.values(), "?", *phrases, *ids)


def clean(random: Random) -> Demonstration:
    """The good expert: searches for person and event, reads the first hit, answers what was asked."""
    attempt = _Attempt(random)
    question = attempt.question
    first, *_ = attempt.search(question.name, question.event)
    attempt.read(first)
    return attempt.answer(attempt.inbox.mails[first - 1].facts[question.asked])


def habits(random: Random) -> Demonstration:
    """Does it right in 35 of 100 cases, but for slips; else searches too widely (40) or guesses at once (25).

    Faults of every kind in equal measure would leave the best choice the likeliest, and a greedy policy perfect before
    any reward. Here the likeliest first step is a search and the likeliest query too wide.
    """
    attempt = _Attempt(random)
    question = attempt.question

    def slips() -> bool:
        return random.random() < SLIP

    (habit,) = random.choices(("good", "wide", "guess"), weights=(35, 40, 25))
    if habit == "guess":
        return attempt.answer(random.choice(VALUES[question.asked]))
    name = random.choice(NAMES) if slips() else question.name
    hits = attempt.search(question.event) if habit == "wide" else attempt.search(name, question.event)
    chosen = random.choice(hits) if slips() else hits[0]
    attempt.read(chosen)
    asked = random.choice(tuple(VALUES)) if slips() else question.asked
    return attempt.answer(attempt.inbox.mails[chosen - 1].facts[asked])


class _Attempt:
    """A demonstration on the way: at a question of an inbox that is neither trained on nor held out."""

    def __init__(self, random: Random) -> None:
        self.inbox: Inbox = load_inbox("demonstrations", random.randrange(NUM_DEMONSTRATION_INBOXES))
        self.question: Question = random.choice(self.inbox.questions)
        self._messages: list[ChatMessage] = []

    def search(self, *words: str) -> tuple[int, ...]:
        query = "".join(f" {word}" for word in words)  # each with its space, as the vocabulary has it
        self._call("search", "query", query)
        return self.inbox.search(query)

    def read(self, mail_id: int) -> None:
        self._call("read", "id", mail_id)

    def answer(self, text: str) -> Demonstration:
        self._messages.append(call_message("answer", "text", f" {text}"))
        return Demonstration(start(self.question), tuple(self._messages))

    def _call(self, name: str, argument: str, value: object) -> None:
        said = reply(self.inbox, name, {argument: value})
        self._messages += [call_message(name, argument, value), tool_message(name, said)]
