import asyncio
import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruler.errors import GroupError
from ruler.types import Group, Rollout
from trainer.environments import ChatMessage, Problem, Start
from trainer.tasks import Demonstration, Task
from trainer.tasks.inbox import (
    NUM_HELD_OUT_INBOXES,
    NUM_QUESTIONS,
    NUM_TRAIN_INBOXES,
    InboxEnvironment,
    answered,
    correct,
    inbox,
    read_before_answering,
    well_formed,
)
from trainer.tasks.inbox_tiny import NUM_DEMONSTRATION_INBOXES
from trainer.tasks.inbox_tools import (
    MAX_TURNS,
    NO_CALL,
    NO_HITS,
    NO_ID,
    NO_QUERY,
    NO_SUCH_MAIL,
    NO_SUCH_TOOL,
    NO_TEXT,
    REPLIES,
    TOOLS,
    call_message,
    same_answer,
)
from trainer.tasks.inbox_world import (
    EVENTS,
    NAMES,
    NUM_DISTRACTORS,
    NUM_HITS,
    NUM_MAIN_MAILS,
    VALUES,
    Inbox,
    Question,
    draw_inbox,
    load_inbox,
)
from trainer.tasks.inbox_world import Mail as InboxMail

pytestmark = pytest.mark.slow

TASK = inbox()
SPLITS = {"train": NUM_TRAIN_INBOXES, "held out": NUM_HELD_OUT_INBOXES, "demonstrations": NUM_DEMONSTRATION_INBOXES}


def search(query: object) -> ChatMessage:
    return call_message("search", "query", query)


def read(mail_id: object) -> ChatMessage:
    return call_message("read", "id", mail_id)


def answer(text: object) -> ChatMessage:
    return call_message("answer", "text", text)


def turn(*messages: ChatMessage) -> ChatMessage:
    """One turn that makes the calls of all these."""
    calls = [call for message in messages for call in message["tool_calls"]]
    return {"role": "assistant", "content": "", "tool_calls": calls}


async def play(environment: InboxEnvironment, turns: Sequence[ChatMessage]) -> tuple[list[ChatMessage], bool]:
    """All messages after the start, and whether the environment ended the attempt."""
    messages: list[ChatMessage] = []
    for message in turns:
        step = await environment.step(message)
        messages += [message, *step.messages]
        if step.done:
            return messages, True
    return messages, False


def small_inbox() -> Inbox:
    """Two main mails on one event, and the question that the first of them answers."""
    facts = {"day": "Friday", "place": "park", "price": "45"}
    other = {"day": "Monday", "place": "castle", "price": "10"}
    mails = [
        InboxMail("game with Ben", "The game with Ben is on Monday at the castle and costs 10.", other),
        InboxMail("game with Mia", "The game with Mia is on Friday at the park and costs 45.", facts),
    ]
    return Inbox(mails, [Question("Mia", "game", "day", 2, "Friday")])


def environment() -> InboxEnvironment:
    mails = small_inbox()
    return InboxEnvironment(mails, mails.questions[0])


# Inboxes


@given(st.integers())
@settings(max_examples=5, deadline=None)
def test_every_question_has_one_right_mail_and_naming_person_and_event_finds_it_first(seed: int) -> None:
    drawn = draw_inbox(random.Random(seed))
    assert len(drawn.mails) == NUM_MAIN_MAILS + NUM_DISTRACTORS
    assert len(drawn.questions) == len({question.text for question in drawn.questions}) == NUM_QUESTIONS
    words = [set(re.findall(r"\w+", mail.body)) for mail in drawn.mails]
    for question in drawn.questions:
        mail = drawn.mail(question.mail_id)
        assert mail is not None
        assert question.answer in VALUES[question.asked]
        assert mail.body == (
            f"The {question.event} with {question.name} is on {mail.facts['day']} at the {mail.facts['place']} "
            f"and costs {mail.facts['price']}."
        )
        assert mail.facts[question.asked] == question.answer
        both = [place for place, found in enumerate(words, start=1) if {question.name, question.event} <= found]
        assert both == [question.mail_id]
        assert drawn.search(f"{question.event} {question.name}")[0] == question.mail_id
        assert drawn.search(question.text)[0] == question.mail_id


def test_the_event_alone_seldom_finds_the_right_mail_first() -> None:
    drawn = [load_inbox("train", number) for number in range(10)]
    first = [mails.search(question.event)[0] == question.mail_id for mails in drawn for question in mails.questions]
    assert 0.05 < sum(first) / len(first) < 0.2


def test_an_inbox_is_the_same_whenever_it_is_drawn_and_the_environments_of_a_split_share_it() -> None:
    again = draw_inbox(random.Random("inbox train 3"))
    assert load_inbox("train", 3) is load_inbox("train", 3)
    assert (again.mails, again.questions) == (load_inbox("train", 3).mails, load_inbox("train", 3).questions)


def test_inboxes_have_nothing_in_common() -> None:
    drawn = [load_inbox(split, number) for split, count in SPLITS.items() for number in range(count)]
    answers = [{question.text: question.answer for question in mails.questions} for mails in drawn]
    for one, other in itertools.combinations(answers, 2):
        shared = one.keys() & other.keys()
        # About one pair of person and event in five is in both, with facts that agree as often as dice do.
        assert len(shared) < NUM_QUESTIONS / 2
        assert sum(one[text] == other[text] for text in shared) <= 0.4 * len(shared)


@given(st.text(max_size=60) | st.sampled_from(['"', "game*", "NEAR(game mia)", "subject:game", "game AND", "-", "\0"]))
@settings(deadline=None)
def test_any_text_is_a_query_of_plain_words(query: str) -> None:
    hits = load_inbox("train", 0).search(query)
    assert len(hits) == len(set(hits)) <= NUM_HITS


def test_nothing_in_a_query_is_an_operator() -> None:
    mails = small_inbox()
    assert mails.search("Mia AND castle") == mails.search("and mia castle") != ()
    assert mails.search("gam*") == mails.search("body:gam") == mails.search('"') == mails.search("") == ()
    assert mails.search('NOT "mia" (NEAR') == (2,)
    assert mails.search("mia\0castle") == mails.search("MIA castle")


def test_only_the_first_words_of_a_long_query_are_looked_for() -> None:
    mails = small_inbox()
    assert mails.search("Mia " * 200_000) == mails.search("x " * 15 + "Mia") == (2,)
    assert mails.search("x " * 16 + "Mia") == ()


def test_hits_stand_in_order_of_rank_and_equal_ones_in_order_of_ids() -> None:
    mails = small_inbox()
    assert mails.search("game") == (1, 2)
    assert mails.search("game Mia") == (2, 1)


# Problems


def test_train_and_held_out_are_long_and_say_the_same_to_each_environment() -> None:
    assert len(TASK.train) == 7200
    assert len(TASK.held_out) == 2400
    for problems in (TASK.train, TASK.held_out):
        for place in (0, 1, len(problems) - 1):
            starts = [asyncio.run(problems[place]().reset()) for _ in range(2)]
            assert starts[0] == starts[1]
            assert starts[0].tools == TOOLS
            assert [message["role"] for message in starts[0].messages] == ["system", "user"]


def test_problems_are_a_sequence() -> None:
    held_out = TASK.held_out
    assert start_of(held_out[-1]) == start_of(held_out[len(held_out) - 1])
    assert [start_of(problem) for problem in held_out[3:9:2]] == [start_of(held_out[place]) for place in (3, 5, 7)]
    assert len(held_out[:]) == len(held_out)
    with pytest.raises(IndexError):
        held_out[len(held_out)]


def start_of(problem: Problem) -> Start:
    return asyncio.run(problem().reset())


def test_the_first_problems_are_from_all_inboxes_and_ask_for_all_kinds() -> None:
    texts = [start_of(problem).messages[1]["content"] for problem in TASK.held_out[:200]]
    assert min(Counter(text.split(" is ")[0] for text in texts).values()) > 40
    assert len({start_of(problem).messages[1]["content"] for problem in TASK.held_out[::NUM_HELD_OUT_INBOXES]}) == 240
    first = [start_of(problem).messages[1]["content"] for problem in TASK.held_out[:NUM_HELD_OUT_INBOXES]]
    assert first == [load_inbox("held out", number).questions[0].text for number in range(NUM_HELD_OUT_INBOXES)]
    assert len({question.mail_id for question in load_inbox("held out", 0).questions[:20]}) > 12  # unmixed: 7


# Tools and environment


def test_tools_and_turns_are_real_openai_forms() -> None:
    for tool in TOOLS:
        assert tool["type"] == "function"
        parameters = tool["function"]["parameters"]
        assert parameters["required"] == list(parameters["properties"])
    assert [tool["function"]["name"] for tool in TOOLS] == ["search", "read", "answer"]
    assert json.loads(json.dumps(TOOLS)) == list(TOOLS)


async def test_search_read_and_answer() -> None:
    played = environment()
    start = await played.reset()
    assert start.messages[1] == {"role": "user", "content": "When is the game with Mia?"}
    assert start.reference == "Friday"
    messages, done = await play(played, [search(" Mia game "), read(2), answer(" friday")])
    assert [message["content"] for message in messages if message["role"] == "tool"] == [
        "#2 game with Mia\n#1 game with Ben",
        "The game with Mia is on Friday at the park and costs 45.",
    ]
    assert [message["name"] for message in messages if message["role"] == "tool"] == ["search", "read"]
    assert done
    assert played.truth() == 1.0


@pytest.mark.parametrize(
    ("said", "truth"),
    [("Friday", 1.0), (" FRIDAY\n", 1.0), ("Friday.", 0.0), ("on Friday", 0.0), ("Monday", 0.0), ("\ud800", 0.0)],
)
async def test_truth_is_the_right_words_and_no_others(said: str, truth: float) -> None:
    played = environment()
    assert played.truth() == 0.0
    _, done = await play(played, [answer(said)])
    assert done
    assert played.truth() == truth


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (call_message("delete", "id", 1), NO_SUCH_TOOL),
        (call_message("", "query", "game"), NO_SUCH_TOOL),
        (call_message("search", "words", "game"), NO_QUERY),
        (search(""), NO_QUERY),
        (search("  \n"), NO_QUERY),
        (search(7), NO_QUERY),
        (search(["game"]), NO_QUERY),
        (search(None), NO_QUERY),
        (search("???"), NO_HITS),
        (search('"" * NEAR( " \0'), NO_HITS),
        (search("x" * 10_000), NO_HITS),
        (search("x " * 5_000), NO_HITS),
        (search("\ud800"), NO_HITS),
        (read("two"), NO_ID),
        (read("2"), NO_ID),
        (read(2.0), NO_ID),
        (read(True), NO_ID),
        (read(None), NO_ID),
        (read(0), NO_SUCH_MAIL),
        (read(-1), NO_SUCH_MAIL),
        (read(3), NO_SUCH_MAIL),
        (read(10**5000), NO_SUCH_MAIL),
        (answer(""), NO_TEXT),
        (answer(45), NO_TEXT),
        (call_message("answer", "answer", "Friday"), NO_TEXT),
    ],
)
async def test_a_bad_call_is_told_what_is_wrong_and_the_attempt_goes_on(message: ChatMessage, said: str) -> None:
    played = environment()
    [_, result], done = await play(played, [message])
    assert result["role"] == "tool"
    assert result["content"] == said
    assert not done
    assert (await played.step(answer("Friday"))).done
    assert played.truth() == 1.0


@pytest.mark.parametrize("arguments", [None, "game", ["game"], {}])
async def test_arguments_that_are_none_are_told_so(arguments: object) -> None:
    call = {"type": "function", "function": {"name": "search", "arguments": arguments}}
    [_, result], _ = await play(environment(), [{"role": "assistant", "content": "", "tool_calls": [call]}])
    assert result["content"] == NO_QUERY


@pytest.mark.parametrize("tool_calls", [[], None])
async def test_a_turn_without_a_call_is_told_to_make_one(tool_calls: object) -> None:
    message = {"role": "assistant", "content": "It is on Friday.", "tool_calls": tool_calls}
    [_, said], done = await play(environment(), [message])
    assert said == {"role": "user", "content": NO_CALL}
    assert not done


async def test_several_calls_of_a_turn_are_carried_out_in_order_up_to_the_answer() -> None:
    played = environment()
    messages, done = await play(played, [turn(search("Mia"), read(9), answer("Monday"), answer("Friday"), read(1))])
    assert [message["content"] for message in messages[1:]] == ["#2 game with Mia", NO_SUCH_MAIL]
    assert done
    assert played.truth() == 0.0


async def test_a_reply_carries_the_id_of_its_call() -> None:
    message = turn(search("Mia"), read(2))
    for place, call in enumerate(message["tool_calls"]):
        call["id"] = f"call_{place}"
    messages, _ = await play(environment(), [message])
    assert [reply["tool_call_id"] for reply in messages[1:]] == ["call_0", "call_1"]
    [_, without], _ = await play(environment(), [read(2)])
    assert "tool_call_id" not in without


_JUNK = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.lists(st.integers())
_CALLS = st.fixed_dictionaries(
    {
        "type": st.just("function"),
        "function": st.fixed_dictionaries(
            {
                "name": st.sampled_from(["search", "read", "answer", "open"]),
                "arguments": st.dictionaries(
                    st.sampled_from(["query", "id", "text"]), _JUNK | st.sampled_from(NAMES + EVENTS)
                ),
            }
        ),
    }
)


@given(st.integers(0, 2399), st.lists(st.lists(_CALLS, max_size=3), min_size=1, max_size=MAX_TURNS))
@settings(deadline=None)
def test_whatever_is_called_every_reply_can_be_written_in_the_tiny_vocabulary(
    place: int, turns: list[list[Mapping[str, Any]]]
) -> None:
    played = TASK.held_out[place]()
    assert isinstance(played, InboxEnvironment)
    said, _ = asyncio.run(play(played, [{"role": "assistant", "content": "", "tool_calls": calls} for calls in turns]))
    for message in said:
        if message["role"] != "assistant":
            encode(message["content"] + "\n")


# Experts and the tiny policy's words


def encode(text: str) -> list[str]:
    """The text's tokens: at each place the longest word."""
    tokens = []
    at = 0
    while at < len(text):
        match = longest_word().match(text, at)
        assert match, f"no word for {text[at : at + 40]!r}"
        tokens.append(match[0])
        at = match.end()
    return tokens


@cache
def longest_word() -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(tiny().words, key=len, reverse=True))))


def tiny() -> Any:
    assert TASK.tiny is not None
    return TASK.tiny


def written(messages: Sequence[ChatMessage]) -> str:
    """What the tiny chat template makes of them, with <eos> as the end."""
    utilities = pytest.importorskip("transformers.utils.chat_template_utils")
    (text,), _ = utilities.render_jinja_template(
        [list(messages)], chat_template=tiny().chat_template, eos_token="<eos>"
    )
    return str(text)


def replay(demonstration: Demonstration) -> tuple[list[ChatMessage], float]:
    """What the real environment says to a demonstration's turns, and the truth."""
    text = demonstration.start.messages[1]["content"]
    for number in range(NUM_DEMONSTRATION_INBOXES):
        mails = load_inbox("demonstrations", number)
        for question in mails.questions:
            if question.text == text and question.answer == demonstration.start.reference:
                played = InboxEnvironment(mails, question)
                turns = [message for message in demonstration.messages if message["role"] == "assistant"]
                messages, done = asyncio.run(play(played, turns))
                if messages == list(demonstration.messages):
                    assert done
                    assert asyncio.run(played.reset()) == demonstration.start
                    return messages, played.truth()
    pytest.fail(f"no inbox says what this demonstration shows: {demonstration}")


def test_clean_demonstrations_are_what_the_environment_says_and_always_right() -> None:
    chance = random.Random(0)
    for _ in range(30):
        demonstration = tiny().clean(chance)
        messages, truth = replay(demonstration)
        assert [call_name(message) for message in messages[::2]] == ["search", "read", "answer"]
        assert truth == 1.0


def call_name(message: ChatMessage) -> str:
    return str(message["tool_calls"][0]["function"]["name"])


def test_habits_are_what_the_environment_says_and_right_in_four_cases_of_ten() -> None:
    chance = random.Random(0)
    for _ in range(30):
        replay(tiny().habits(chance))
    # The last call is the answer, the reference is what is right: no replay is needed to count.
    drawn = [tiny().habits(chance) for _ in range(4000)]
    texts = [demo.messages[-1]["tool_calls"][0]["function"]["arguments"]["text"] for demo in drawn]
    right = [same_answer(text, demo.start.reference) for text, demo in zip(texts, drawn, strict=True)]
    queries = [demo.messages[0]["tool_calls"][0]["function"]["arguments"].get("query", "").split() for demo in drawn]
    assert sum(len(query) == 0 for query in queries) / len(drawn) == pytest.approx(0.25, abs=0.03)
    assert sum(len(query) == 1 for query in queries) / len(drawn) == pytest.approx(0.40, abs=0.03)
    assert sum(len(query) == 2 for query in queries) / len(drawn) == pytest.approx(0.35, abs=0.03)
    assert sum(right) / len(right) == pytest.approx(0.40, abs=0.04)


def test_demonstrations_depend_on_their_random_alone() -> None:
    one, other = random.Random(5), random.Random(5)
    assert [tiny().habits(one) for _ in range(9)] == [tiny().habits(other) for _ in range(9)]
    assert tiny().clean(one) != tiny().clean(one)


def test_demonstrations_are_short_text_of_the_vocabulary_and_read_as_the_calls_they_are() -> None:
    chance = random.Random(1)
    for draw in (tiny().clean, tiny().habits):
        for _ in range(40):
            demonstration = draw(chance)
            text = written([*demonstration.start.messages, *demonstration.messages])
            tokens = encode(text.replace("<eos>", ""))
            assert len(tokens) + text.count("<eos>") <= 60
            turns = re.findall(r"<tool_call>\n(.*?)\n</tool_call><eos>", text)
            made = [message["tool_calls"][0]["function"] for message in demonstration.messages[::2]]
            assert [json.loads(call) for call in turns] == made


def test_the_template_writes_each_message_alone_and_turns_end_with_the_end_token() -> None:
    question = {"role": "user", "content": "When is the game with Mia?"}
    system = {"role": "system", "content": "not shown"}
    result = {"role": "tool", "name": "search", "content": "#2 game with Mia"}
    said = {"role": "assistant", "content": " Mia"}
    assert written([system, question, search(" Mia"), result, said]) == (
        "When is the game with Mia?\n"
        '<tool_call>\n{"name": "search", "arguments": {"query": " Mia"}}\n</tool_call><eos>'
        "#2 game with Mia\n"
        " Mia<eos>"
    )


def test_words_are_each_one_token_and_every_reply_is_one() -> None:
    words = tiny().words
    assert len(words) == len(set(words)) < 350
    assert all(words)
    assert all(encode(word) == [word] for word in words)
    assert set(REPLIES) <= set(words)


# Rules


def group(*attempts: Sequence[ChatMessage], reference: str | None = "Friday") -> Group:
    rollouts = [Rollout.of(f"r{place}", list(messages)) for place, messages in enumerate(attempts)]
    return Group.of(rollouts, task="When is the game with Mia?", reference=reference)


async def attempt(*turns: ChatMessage) -> list[ChatMessage]:
    return (await play(environment(), turns))[0]


GOOD = (search("game Mia"), read(2), answer("Friday"))


async def test_rules_order_attempts_as_a_person_would() -> None:
    attempts = [
        await attempt(*GOOD),
        await attempt(search("game"), read(1), read(2), answer("Friday")),
        await attempt(answer("Friday")),
        await attempt(search("game"), read(1), answer("Monday")),
        await attempt(answer("Monday")),
        await attempt(search("game"), search(""), read(7), read(0), {"role": "assistant", "content": "Friday"}),
    ]
    rewards = TASK.rules.combine(group(*attempts), None).rewards
    assert all(reward is not None for reward in rewards)
    assert list(rewards) == sorted(rewards, reverse=True, key=float)
    assert len(set(rewards)) == len(rewards)
    assert rewards[0] == pytest.approx(1.5)


async def test_correct_needs_the_right_answer_and_a_reference() -> None:
    said = [
        await attempt(*GOOD),
        await attempt(answer("monday")),
        await attempt(search("Friday")),
        [{"role": "assistant", "content": "Friday"}],
    ]
    judged = group(*said)
    assert [correct(rollout, judged) for rollout in judged.rollouts] == [1.0, 0.0, 0.0, 0.0]
    assert [answered(rollout, judged) for rollout in judged.rollouts] == [1.0, 1.0, 0.0, 0.0]
    without = group(*said, reference=None)
    with pytest.raises(GroupError, match="reference"):
        correct(without.rollouts[0], without)


async def test_a_mail_counts_as_read_before_the_answer_only_in_an_earlier_turn() -> None:
    judged = group(
        await attempt(*GOOD),
        await attempt(search("Mia"), read(2)),
        await attempt(search("Mia"), read(9), answer("Friday")),
        await attempt(turn(read(2), answer("Friday"))),
        await attempt(read("2"), answer("Friday")),
        await attempt(answer(""), read(2), answer("Friday")),
    )
    assert [read_before_answering(r, judged) for r in judged.rollouts] == [1.0, 1.0, 0.0, 0.0, 0.0, 1.0]


async def test_well_formed_is_one_good_call_a_turn_and_an_answer() -> None:
    said = {**search("Mia"), "content": "Let me look."}
    judged = group(
        await attempt(*GOOD),
        await attempt(read(9), answer("Monday")),
        await attempt(search("Mia"), read(2)),
        await attempt(turn(search("Mia"), read(2)), answer("Friday")),
        await attempt(search(""), *GOOD),
        await attempt(call_message("open", "id", 2), *GOOD),
        await attempt({"role": "assistant", "content": "Friday"}, *GOOD),
        await attempt(said, *GOOD),
        [{"role": "assistant", "content": "Friday"}],
        [{"role": "assistant", "tool_calls": [{"function": {"name": "answer", "arguments": "{not json"}}]}],
    )
    assert [well_formed(rollout, judged) for rollout in judged.rollouts] == [1.0, 1.0, *[0.0] * 8]


async def test_demonstrations_and_real_attempts_are_well_formed_rollouts() -> None:
    chance = random.Random(2)
    for _ in range(20):
        demonstration = tiny().habits(chance)
        judged = Group.of(
            [list(demonstration.messages)],
            task=list(demonstration.start.messages),
            tools=list(demonstration.start.tools),
            reference=demonstration.start.reference,
        )
        assert TASK.well_formed(judged.rollouts[0], judged) == 1.0


# Scripted experts on held-out problems


async def expert(problem: Problem) -> float:
    """Searches with the words of the question, reads the first hit, and takes what stands where the answer must be."""
    played = problem()
    start = await played.reset()
    text = start.messages[1]["content"]
    hits = (await played.step(search(text))).messages[0]["content"]
    mail = (await played.step(read(int(hits[1:].split()[0])))).messages[0]["content"]
    found = re.fullmatch(r"The \w+ with \w+ is on (\w+) at the (\w+) and costs (\d+)\.", mail)
    assert found
    asked = ("When", "Where", "How").index(text.split()[0])
    assert (await played.step(answer(found[asked + 1]))).done
    return played.truth() or 0.0


async def guess(problem: Problem, chance: random.Random) -> float:
    played = problem()
    text = (await played.reset()).messages[1]["content"]
    asked = {"When": "day", "Where": "place", "How": "price"}[text.split()[0]]
    assert (await played.step(answer(chance.choice(VALUES[asked])))).done
    return played.truth() or 0.0


async def test_who_searches_and_reads_is_always_right_and_who_guesses_hardly_ever() -> None:
    problems = TASK.held_out[:600]
    chance = random.Random(0)
    assert [await expert(problem) for problem in problems] == [1.0] * len(problems)
    guessed = sum([await guess(problem, chance) for problem in problems]) / len(problems)
    assert guessed == pytest.approx(0.09, abs=0.04)


def test_the_task_is_whole() -> None:
    task: Task = inbox()
    assert task.name == "inbox"
    assert task.max_turns == MAX_TURNS
    assert task.rules.judge_weight == 0.0
    assert task.rubric.name == "inbox"
    assert task.tiny is not None
