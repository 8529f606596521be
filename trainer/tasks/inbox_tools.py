"""What the assistant of the `inbox` task is told, the three tools it has, and what they answer.

All that they say is made of an inbox's own words and the constants below, whatever the call holds. So a policy with a
small closed vocabulary can read every reply, and nothing that a policy writes comes back to it, or to a judge, as the
tool's own words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.environments import ChatMessage, Start
from trainer.tasks.inbox_world import Inbox, Question

MAX_TURNS = 5
"""Search, read and answer take three; one more search and one more read are within it."""

INSTRUCTIONS = (
    "You answer a question about the user's e-mail. Find the mail that answers it: call `search` with a few words, "
    "`read` the mail that fits, then call `answer`. Do not guess: answer only what a mail says. Give the day, the "
    "place or the price alone, as the mail has it, such as Monday, library or 25. "
    f"Each of your turns is exactly one tool call and nothing else; you have {MAX_TURNS} turns."
)


def _tool(name: str, description: str, argument: str, kind: str, meaning: str) -> Mapping[str, Any]:
    parameters = {
        "type": "object",
        "properties": {argument: {"type": kind, "description": meaning}},
        "required": [argument],
    }
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TOOLS = (
    _tool(
        "search",
        "Finds mails that hold any of the words, best first, as lines of '#id subject'.",
        "query",
        "string",
        "A few words, such as a name and an event.",
    ),
    _tool("read", "Shows one mail.", "id", "integer", "The number of the mail, without the #."),
    _tool("answer", "Gives the final answer and ends the task.", "text", "string", "The answer alone."),
)

NO_HITS = "No mail holds any of these words."
NO_CALL = "Please call one of the tools: search, read or answer."
"""Said by the user to a turn without a call."""
NO_SUCH_TOOL = "Error: there is no such tool; there are search, read and answer."
NO_QUERY = 'Error: search needs "query": some words to look for.'
NO_ID = 'Error: read needs "id": the number of a mail, a whole number such as 17.'
NO_SUCH_MAIL = "Error: there is no mail with this id."
NO_TEXT = 'Error: answer needs "text": the answer, as text.'

REPLIES = (NO_HITS, NO_CALL, NO_SUCH_TOOL, NO_QUERY, NO_ID, NO_SUCH_MAIL, NO_TEXT)
"""All that is said other than hits and mails."""


def start(question: Question) -> Start:
    """What a policy is given: instructions, tools and the question; the answer for rules."""
    messages = ({"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": question.text})
    return Start(messages, TOOLS, question.answer)


def fault(name: object, arguments: object) -> str | None:
    """What is wrong with a call, said to whoever made it; None where it can be carried out.

    Other arguments than the one that a tool needs are passed over.
    """
    given = arguments if isinstance(arguments, Mapping) else {}
    if name == "search":
        query = given.get("query")
        return None if isinstance(query, str) and query.strip() else NO_QUERY
    if name == "read":
        mail_id = given.get("id")
        return None if isinstance(mail_id, int) and not isinstance(mail_id, bool) else NO_ID
    if name == "answer":
        text = given.get("text")
        return None if isinstance(text, str) and text.strip() else NO_TEXT
    return NO_SUCH_TOOL


def reply(inbox: Inbox, name: str, arguments: Mapping[str, Any]) -> str:
    """What a `search` or `read` without fault answers."""
    if name == "search":
        return (
            "\n".join(f"#{mail_id} {inbox.mails[mail_id - 1].subject}" for mail_id in inbox.search(arguments["query"]))
            or NO_HITS
        )
    mail = inbox.mail(arguments["id"])
    return NO_SUCH_MAIL if mail is None else mail.body


def same_answer(text: str, answer: str) -> bool:
    """Whether an answer is the right one: the same words, in whatever case."""
    return text.casefold().split() == answer.casefold().split()


def call_message(name: str, argument: str, value: object) -> ChatMessage:
    """An assistant's turn that makes one call."""
    call = {"type": "function", "function": {"name": name, "arguments": {argument: value}}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def tool_message(name: object, content: str, call_id: object = None) -> ChatMessage:
    """A tool's reply; with the id of the call where that has one, as some chat templates ask for."""
    message = {"role": "tool", "name": name, "content": content}
    return message if call_id is None else {**message, "tool_call_id": call_id}
