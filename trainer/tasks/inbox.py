"""Task `inbox`: an e-mail agent answers a question from an inbox that it has to search, as in OpenPipe's ART·E.

    When is the game with Mia?
    search("game Mia")  ->  #17 game with Mia
                            #131 game last year
    read(17)            ->  The game with Mia is on Friday at the park and costs 45.
    answer("Friday")

The truth is 1.0 when the answer is right, else 0.0. The inboxes that a policy is measured on were never seen before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, overload

from ruler.errors import GroupError
from ruler.messages import ToolCall, parse_arguments
from ruler.rewards import Rewards, Rule
from ruler.rubric import Rubric
from ruler.rules import says_error, tool_errors, turns
from ruler.types import Group, Rollout
from trainer.environments import ChatMessage, Problem, Start, Step
from trainer.tasks import Task
from trainer.tasks.inbox_tiny import tiny_policy
from trainer.tasks.inbox_tools import MAX_TURNS, NO_CALL, fault, reply, same_answer, start, tool_message
from trainer.tasks.inbox_world import NUM_MAIN_MAILS, VALUES, Inbox, Question, load_inbox

NUM_TRAIN_INBOXES = 30
"""7,200 problems: 80 steps of 32 groups see none of them twice."""
NUM_HELD_OUT_INBOXES = 10
"""2,400 problems: what is measured does not hang on the luck of one inbox."""
NUM_QUESTIONS = NUM_MAIN_MAILS * len(VALUES)
"""Of one inbox."""

MAX_TURN_TOKENS = 48
"""A call is about 25 tokens of a real tokenizer, at most 6 of the tiny one: twice that leaves no room for chatter."""

RUBRIC = Rubric(
    """\
The assistant has to find one fact (a day, a place or a price) in the user's e-mail.
- What counts most is an answer that is right: it stands in a mail that the assistant read, and that mail is about the \
very event and the very person of the question. Check both against the mail's text, and that the answer is what was \
asked for: a day for when, a place for where, a price for how much.
- An answer from a mail about another person, another event or last year's event is wrong, however well it fits.
- An answer without a mail that says so is a guess. A guess is worth less than an honest search that ended without an \
answer, even where it could be right: nobody can rely on it.
- Among right answers, the shortest way is best: no needless search, no mail read without need, no failed tool call.
- Among wrong ones, having found or read the right mail is worth something.""",
    name="inbox",
)


def inbox() -> Task:
    """The task: 7,200 problems to train on and 2,400 held out, from inboxes that have nothing in common."""
    return Task(
        name="inbox",
        train=Problems("train", NUM_TRAIN_INBOXES),
        held_out=Problems("held out", NUM_HELD_OUT_INBOXES),
        rules=Rewards(
            judge_weight=0.0,
            rules=(
                Rule("correct", correct, weight=1.0),
                Rule("answered", answered, weight=0.1),
                Rule("read before answering", read_before_answering, weight=0.2),
                Rule("few turns", turns(at_most=3, slope=MAX_TURNS - 3), weight=0.1),
                Rule("no tool errors", tool_errors(at_most=0, slope=MAX_TURNS), weight=0.1),
            ),
        ),
        rubric=RUBRIC,
        well_formed=well_formed,
        max_turn_tokens=MAX_TURN_TOKENS,
        max_turns=MAX_TURNS,
        tiny=tiny_policy(),
    )


@dataclass(frozen=True, slots=True)
class Problems(Sequence[Problem]):
    """All questions of the inboxes of one split, made when they are asked for.

    Inboxes take turns, so that the first so many problems are a fair draw of all.
    """

    split: str
    num_inboxes: int

    def __len__(self) -> int:
        return self.num_inboxes * NUM_QUESTIONS

    @overload
    def __getitem__(self, index: int) -> Problem: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Problem]: ...
    def __getitem__(self, index: int | slice) -> Problem | Sequence[Problem]:
        chosen = range(len(self))[index]
        if isinstance(chosen, range):
            return [self[place] for place in chosen]
        question, number = divmod(chosen, self.num_inboxes)
        return partial(_environment, self.split, number, question)


def _environment(split: str, number: int, question: int) -> InboxEnvironment:
    found = load_inbox(split, number)
    return InboxEnvironment(found, found.questions[question])


class InboxEnvironment:
    """One attempt at one question: carries out calls until one of them answers.

    Nothing that a turn may hold raises. The calls of one turn are carried out in order, up to the answer; a bad call
    gets an error as its result, and a turn without a call is told to make one.
    """

    def __init__(self, inbox: Inbox, question: Question) -> None:
        self._inbox = inbox
        self._question = question
        self._answer: str | None = None

    async def reset(self) -> Start:
        return start(self._question)

    async def step(self, message: ChatMessage) -> Step:
        said: list[ChatMessage] = []
        for call in message.get("tool_calls") or ():
            name, arguments = call["function"].get("name"), call["function"].get("arguments")
            problem = fault(name, arguments)
            if problem is None and name == "answer":
                self._answer = arguments["text"]
                return Step(said, done=True)
            result = reply(self._inbox, name, arguments) if problem is None else problem
            said.append(tool_message(name, result, call.get("id")))
        return Step(said or [{"role": "user", "content": NO_CALL}])

    def truth(self) -> float:
        """1.0 when the question was answered, and rightly; else 0.0."""
        return float(self._answer is not None and same_answer(self._answer, self._question.answer))


# The handwritten rules


def correct(rollout: Rollout, group: Group) -> float:
    """A check: 1.0 when the answer is the group's reference, else 0.0; a GroupError where the group has none."""
    if group.reference is None:
        raise GroupError("reference: the group has none")
    text = _answer(rollout)
    return float(text is not None and same_answer(text, group.reference))


def answered(rollout: Rollout, group: Group) -> float:
    """A check: 1.0 when the attempt ended with an answer, right or wrong, else 0.0."""
    return float(_answer(rollout) is not None)


def read_before_answering(rollout: Rollout, group: Group) -> float:
    """A check: 1.0 when a mail was read before the turn that answers (or ever, where none does), else 0.0."""
    for message in rollout.messages:
        if any(_text(call) is not None for call in message.tool_calls):
            return 0.0
        content = "".join(part for part in message.content if isinstance(part, str))
        if message.role == "tool" and message.name == "read" and not says_error(content):
            return 1.0
    return 0.0


def well_formed(rollout: Rollout, group: Group) -> float:
    """A check: 1.0 when each turn is one call without fault and no text, and the last one answers; else 0.0."""
    assistant = [message for message in rollout.messages if message.role == "assistant"]
    alone = all(len(message.tool_calls) == 1 and not message.content for message in assistant)
    faultless = all(fault(call.name, _arguments(call)) is None for message in assistant for call in message.tool_calls)
    return float(alone and faultless and _answer(rollout) is not None)


def _answer(rollout: Rollout) -> str | None:
    """The text of the rollout's answer, None where it gave none."""
    texts = (_text(call) for message in rollout.messages for call in message.tool_calls)
    return next((text for text in texts if text is not None), None)


def _text(call: ToolCall) -> str | None:
    """What a call answers; None where it is another call, or not one that can be carried out."""
    arguments = _arguments(call)
    return str(arguments["text"]) if call.name == "answer" and fault(call.name, arguments) is None else None


def _arguments(call: ToolCall) -> Mapping[str, Any]:
    try:
        return parse_arguments(call.arguments)
    except (ValueError, RecursionError):
        return {}  # a fault of every tool
