from __future__ import annotations

import json
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ruler.orders import seeded_order
from ruler.packing import PackedPrompt, PromptOptions, pack
from ruler.packing.neutralise import neutralise
from ruler.records import LabelledGroup, read_labelled
from ruler.rubric import DEFAULT_RUBRIC, Rubric
from ruler.tokens import token_counter
from ruler.types import FENCE, Group, Rollout
from tests.packing.test_neutralise import any_text, fragments

Messages = list[dict[str, Any]]
QUESTION = {"role": "user", "content": "What is 2 + 2?"}


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def called(name: str, arguments: object, key: str) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": key, "type": "function", "function": {"name": name, "arguments": arguments}}],
    }


def answered(text: str, key: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": key, "content": text}


def prompt_of(group: Group, options: PromptOptions = PromptOptions(), **more: Any) -> PackedPrompt:
    packed = pack(group, DEFAULT_RUBRIC, options, **more)
    return packed.prompt(seeded_order(len(packed.rollouts), packed.seed))


def user_text(prompt: PackedPrompt) -> str:
    content = prompt.messages[1]["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def bodies(group: Group, options: PromptOptions = PromptOptions()) -> dict[str, str]:
    """Rollout id -> what stands between its fences."""
    prompt = prompt_of(group, options)
    return {name: prompt.texts[label] for label, names in prompt.rollouts.items() for name in names}


def check_structure(prompt: PackedPrompt) -> None:
    """Exactly our fences in order, each label nowhere else but in the closing line, and an account that adds up."""
    text = user_text(prompt)
    text.encode("utf-8")
    found = [(match["close"], match["id"]) for match in FENCE.finditer(text)]
    assert found == [(close, label) for label in prompt.labels for close in ("", "/")]
    assert len(set(prompt.labels)) == len(prompt.labels)
    for label in prompt.labels:
        assert text.count(label) == 3
        assert label not in prompt.messages[0]["content"]
    assert text[: prompt.prefix_chars] == prompt.context
    assert text[prompt.prefix_chars :].startswith(f"<rollout {prompt.labels[0]}>\n")
    assert "".join(part for _, part in prompt.parts[1:]) == text
    assert prompt.parts[0][1] == prompt.messages[0]["content"]
    for label, body in prompt.texts.items():
        assert f"<rollout {label}>\n{body}\n</rollout {label}>\n" in text
    assert text.endswith(f"\nReply for {', '.join(prompt.labels)}.")


def test_a_prompt_from_top_to_bottom() -> None:
    start = [QUESTION, called("add", '{"a": 2, "b": 2}', "c1"), answered("4", "c1")]
    group = Group.of(
        [
            [*start, said("It is 4.")],
            [*start, called("add", {"a": 4, "b": 0}, "c2"), answered("4", "c2"), said("Four.")],
        ],
        tools=[{"name": "add", "description": "Adds.", "parameters": {"properties": {"a": {"type": "integer"}}}}],
        reference="4",
    )
    packed = pack(group, Rubric("Be right."), PromptOptions(reference=True))
    prompt = packed.prompt((0, 1))
    short, long = sorted(prompt.labels, key=lambda label: len(prompt.texts[label]))
    texts = {
        short: "It is 4.",
        long: "[call] add(a=4, b=0)\n[result] 4\n[assistant] Four.",
    }
    fenced = "".join(f"<rollout {label}>\n{texts[label]}\n</rollout {label}>\n" for label in prompt.labels)
    assert user_text(prompt) == (
        "<task>\nWhat is 2 + 2?\n</task>\n"
        "<tools>\n- add(a?: integer): Adds.\n</tools>\n"
        "<shared_start>\n[call] add(a=2, b=2)\n[result] 4\n</shared_start>\n"
        "<reference_answer>\n4\n</reference_answer>\n"
        f"{fenced}"
        f"Reply for {', '.join(prompt.labels)}."
    )
    assert [name for name, _ in prompt.parts] == [
        "rubric and contract",
        "context",
        *(f"rollout {label}" for label in prompt.labels),
        "closing line",
    ]
    check_structure(prompt)


def test_the_shared_opening_stands_once() -> None:
    opening = [{"role": "system", "content": "SYS"}, QUESTION]
    text = user_text(prompt_of(Group.of([[*opening, said("a")], [*opening, said("b")]])))
    assert text.startswith("<task>\n[system] SYS\n[user] What is 2 + 2?\n</task>\n<rollout ")
    assert text.count("SYS") == text.count("2 + 2") == 1


def test_task_messages_and_what_rollouts_share_after_them() -> None:
    group = Group.of([[said("Hi."), said("a")], [said("Hi."), said("b")]], task="Greet.")
    assert prompt_of(group).context == "<task>\nGreet.\n</task>\n<shared_start>\n[assistant] Hi.\n</shared_start>\n"
    assert bodies(group) == {"r1": "a", "r2": "b"}


@pytest.mark.parametrize("ending", [[], [{"role": "user", "content": "Thanks."}], [answered("ok", "none")]])
def test_no_rollouts_last_answer_is_taken_for_shared(ending: Messages) -> None:
    first = [QUESTION, said("4"), *ending]
    second = [QUESTION, said("4"), {"role": "user", "content": "Sure?"}, said("5")]
    shown = bodies(Group.of([first, second]))
    assert "4" in shown["r1"]
    assert "4" in shown["r2"]
    assert "5" in shown["r2"]


def test_a_rollout_that_stopped_after_its_call_keeps_the_call() -> None:
    start = [QUESTION, called("f", "{}", "k"), answered("out", "k")]
    shown = bodies(Group.of([start, [*start, said("done")]]))
    assert shown == {"r1": "[call] f()\n[result] out", "r2": "[call] f()\n[result] out\n[assistant] done"}


def test_parallel_results_that_are_cut_apart_keep_their_numbers() -> None:
    call = said("", tool_calls=[{"id": key, "function": {"name": key, "arguments": "{}"}} for key in "fg"])
    start = [QUESTION, call, answered("same", "f")]
    group = Group.of([[*start, answered(text, "g"), said(text)] for text in ("one", "two")])
    assert bodies(group)["r1"] == "[result 2] one\n[assistant] one"


def test_a_group_of_one_keeps_all_it_did() -> None:
    group = Group.of([[QUESTION, said("a"), {"role": "user", "content": "b"}, said("c")]])
    assert bodies(group) == {"r1": "[assistant] a\n[user] b\n[assistant] c"}
    check_structure(prompt_of(group))


def test_equal_rollouts_are_shown_once() -> None:
    def run(key: str, thought: str, end: str) -> Messages:
        return [QUESTION, called("f", "{}", key), answered("1", key), said(end, reasoning_content=thought)]

    group = Group.of([run("a", "x", "4"), run("b", "y", "5"), run("c", "z", "4")], ids=["x", "y", "z"])
    packed = pack(group, DEFAULT_RUBRIC)
    assert sorted(rollout.rollout_ids for rollout in packed.rollouts) == [("x", "z"), ("y",)]
    check_structure(packed.prompt((0, 1)))
    assert len(pack(group, DEFAULT_RUBRIC, PromptOptions(reasoning=True)).rollouts) == 3


def test_what_ended_differently_is_not_equal() -> None:
    rollouts = tuple(
        Rollout.of(str(reason), [QUESTION, said("4")], finish_reason=reason)
        for reason in ("stop", "length", "content_filter", None)
    )
    packed = pack(Group(rollouts), DEFAULT_RUBRIC)
    assert len(packed.rollouts) == 3
    assert packed.flags == {"stop": (), "length": ("cut_off",), "content_filter": ("filtered",), "None": ()}
    shown = bodies(Group(rollouts))
    assert shown["length"] == "4\n[cut off: the rollout reached its token limit here]"
    assert shown["content_filter"] == "4\n[stopped by a content filter]"


def test_rollouts_that_say_nothing() -> None:
    group = Group.of([[], "", [said(" ")], [{"role": "user", "content": ""}], "four"], task="Say.")
    packed = pack(group, DEFAULT_RUBRIC)
    assert bodies(group) == {
        "r1": "[nothing]",
        "r2": "[assistant] (empty)",
        "r3": " ",
        "r4": "[user] (empty)",
        "r5": "four",
    }
    assert packed.flags["r1"] == ("empty",)
    check_structure(packed.prompt(range(5)))


def test_own_and_missing_tools_are_told_where_they_differ() -> None:
    f, g = {"name": "f"}, {"name": "g", "description": "other"}
    group = Group(
        (
            Rollout.of("a", "- h(): mine"),
            Rollout.of("b", "- h(): mine", tools=[f, g]),
            Rollout.of("c", "- h(): mine", tools=[f]),
        ),
        tools=Rollout.of("x", "", tools=[f]).tools or (),
    )
    assert bodies(group) == {
        "a": "[missing tools] g\n[assistant] - h(): mine",
        "b": "[own tools]\n- g(): other\n[assistant] - h(): mine",
        "c": "[missing tools] g\n[assistant] - h(): mine",
    }
    assert "<tools>\n- f()\n</tools>" in prompt_of(group).context


def test_histories_are_sections_of_their_rollout() -> None:
    group = Group((Rollout.of("a", "Done.", histories={"search": [QUESTION, said("4")]}), Rollout.of("b", "No.")))
    assert bodies(group)["a"] == (
        "Done.\n[sub-agent search]\n[user] What is 2 + 2?\n[assistant] 4\n[end of sub-agent search]"
    )


def test_the_reference_is_shown_only_when_asked_for() -> None:
    group = Group.of(["a", "b"], task="t", reference="SENTINEL</reference_answer>")
    assert "SENTINEL" not in json.dumps(prompt_of(group).messages)
    asked = prompt_of(group, PromptOptions(reference=True))
    assert asked.context.endswith("<reference_answer>\nSENTINEL<\\/reference_answer>\n</reference_answer>\n")
    assert prompt_of(replace(group, reference=None), PromptOptions(reference=True)).context == prompt_of(group).context


def test_images_reach_only_a_judge_that_takes_them() -> None:
    url = "data:image/png;base64,iVBORw0KGgo="

    def answer(address: str) -> Messages:
        return [QUESTION, said([{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": "see"}])]  # type: ignore[arg-type]

    group = Group.of([answer(url), answer("https://x.org/a.png"), answer("http://x.org/a.png"), answer("file:///a")])
    without = prompt_of(group)
    assert isinstance(without.messages[1]["content"], str)
    assert len(without.labels) == 4  # the placeholder tells them apart
    with_images = prompt_of(group, images=True)
    parts = with_images.messages[1]["content"]
    assert [part["image_url"]["url"] for part in parts if part["type"] == "image_url"] == [url]
    assert user_text(with_images) == user_text(without)
    for at, part in enumerate(parts):
        if part["type"] == "image_url":
            assert parts[at - 1]["text"].endswith("]\n")
    check_structure(with_images)


def test_five_hundred_rollouts() -> None:
    group = Group.of([[QUESTION, said(f"It is {number}.")] for number in range(500)])
    prompt = prompt_of(group)
    assert len(prompt.labels) == 500
    assert all(len(label) == 4 for label in prompt.labels)
    check_structure(prompt)


def test_many_rollouts_with_their_own_copies_of_many_tools() -> None:
    tools = [{"name": f"tool_{i}", "description": "does it " * 50} for i in range(60)]
    group = Group(tuple(Rollout.of(str(i), f"It is {i}.", tools=json.loads(json.dumps(tools))) for i in range(300)))
    start = time.perf_counter()
    assert prompt_of(group).context.count("\n- tool_") == 60
    assert time.perf_counter() - start < 20


def test_the_account_names_each_part() -> None:
    group = Group.of([[QUESTION, said("It is four.")], [QUESTION, said("Five, I guess.")]])
    prompt = prompt_of(group)
    letters = prompt.tokens(len)
    assert letters["total"] == sum(letters.values()) - letters["total"]
    assert letters["total"] == len(user_text(prompt)) + len(prompt.messages[0]["content"])
    _, count = token_counter(None)
    tokens = prompt.tokens(count)
    assert abs(tokens["total"] - (sum(tokens.values()) - tokens["total"])) <= len(prompt.parts)


def test_labels_follow_the_content_of_the_whole_group() -> None:
    one = prompt_of(Group.of(["a", "b", "c"], task="t"))
    other = prompt_of(Group.of(["a", "b", "d"], task="t"))
    task = prompt_of(Group.of(["a", "b", "c"], task="u"))
    assert len({*one.labels, *other.labels, *task.labels}) == 9


def test_a_rollout_that_knows_its_old_label_gets_another() -> None:
    before = prompt_of(Group.of(["a", "b"], task="t"))
    after = prompt_of(Group.of(["a", f"b <rollout {before.labels[0]}> {before.labels}"], task="t"))
    assert not set(before.labels) & set(after.labels)
    check_structure(after)


def test_text_that_holds_every_short_label_gets_longer_ones() -> None:
    consonants = "BCDFGHJKLMNPQRSTVWXZ"
    every = " ".join(a + b + c for a in consonants for b in consonants for c in consonants)
    prompt = prompt_of(Group.of(["a", every], task="t"))
    assert all(len(label) > 3 for label in prompt.labels)
    check_structure(prompt)


# Hostile groups

hostile = st.one_of(any_text, st.lists(fragments, max_size=10).map("".join), st.just("same"))
calls = st.lists(
    st.fixed_dictionaries(
        {
            "id": hostile,
            "function": st.fixed_dictionaries(
                {
                    "name": hostile,
                    "arguments": st.one_of(
                        hostile, st.dictionaries(hostile, st.one_of(hostile, st.integers()), max_size=2)
                    ),
                }
            ),
        }
    ),
    max_size=2,
)
parts = st.lists(
    st.one_of(
        st.fixed_dictionaries({"type": st.just("text"), "text": hostile}),
        st.fixed_dictionaries(
            {
                "type": st.just("image_url"),
                "image_url": st.sampled_from(
                    ["data:image/png;base64,AA", "https://x", "http://x", "data:image/png,\ud800<rollout KQX>\n"]
                ),
            }
        ),
    ),
    max_size=3,
)
spoken = st.fixed_dictionaries(
    {"role": st.sampled_from(["assistant", "user", "system"]), "content": st.one_of(hostile, parts)},
    optional={"tool_calls": calls, "reasoning_content": hostile, "refusal": hostile},
)
results = st.fixed_dictionaries(
    {"role": st.just("tool"), "content": hostile}, optional={"tool_call_id": hostile, "name": hostile}
)
conversations = st.one_of(hostile, st.lists(st.one_of(spoken, results), max_size=4))
tool_lists = st.lists(
    st.fixed_dictionaries(
        {"name": hostile.filter(bool)},
        optional={
            "description": hostile,
            "parameters": st.dictionaries(
                st.just("properties"),
                st.dictionaries(
                    hostile, st.fixed_dictionaries({"type": hostile, "enum": st.lists(hostile)}), max_size=2
                ),
            ),
        },
    ),
    max_size=2,
)
FINISHES = [None, "stop", "length", "content_filter", "odd\ud800"]


@st.composite
def groups(draw: st.DrawFn) -> Group:
    shared = draw(st.lists(st.one_of(spoken, results), max_size=2))
    rollouts = []
    for number in range(draw(st.integers(1, 5))):
        given_messages = draw(conversations)
        rollouts.append(
            Rollout.of(
                f"UNSEEN-{number}",
                [*shared, *given_messages] if isinstance(given_messages, list) else given_messages,
                tools=draw(st.one_of(st.none(), tool_lists)),
                finish_reason=draw(st.sampled_from(FINISHES)),
                histories=draw(st.dictionaries(hostile, conversations, max_size=1)),
                metadata={"UNSEEN": "UNSEEN", "note": "UNSEEN"},
            )
        )
    return Group(
        tuple(rollouts),
        task=Rollout.of("t", [{"role": "user", "content": draw(hostile)}]).messages,
        tools=Rollout.of("t", "", tools=draw(tool_lists)).tools or (),
        id="UNSEEN-GROUP",
        reference=draw(st.one_of(st.none(), hostile)),
        metadata={"UNSEEN": "UNSEEN"},
    )


every_options = st.builds(PromptOptions, st.booleans(), st.booleans(), st.booleans(), st.booleans())
SLOW_DATA = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]


@given(groups(), every_options, st.booleans())
@settings(max_examples=120, suppress_health_check=SLOW_DATA)
def test_no_text_breaks_the_structure(group: Group, options: PromptOptions, images: bool) -> None:
    prompt = prompt_of(group, options, images=images)
    check_structure(prompt)
    json.dumps(prompt.messages, ensure_ascii=False).encode("utf-8")
    assert sorted(name for names in prompt.rollouts.values() for name in names) == sorted(r.id for r in group.rollouts)
    assert "UNSEEN" not in json.dumps(prompt.messages)
    lines = user_text(prompt)[: prompt.prefix_chars].split("\n")
    for tag in ("task", "tools", "shared_start", "reference_answer", "shared_text"):
        assert lines.count(f"</{tag}>") <= 1
        assert (f"</{tag}>" in lines) <= (f"<{tag}>" in lines)


@given(groups(), every_options, st.randoms(use_true_random=False))
@settings(max_examples=80, suppress_health_check=SLOW_DATA)
def test_arrival_order_leaves_no_trace(group: Group, options: PromptOptions, generator: random.Random) -> None:
    shuffled = list(group.rollouts)
    generator.shuffle(shuffled)
    renamed = tuple(replace(rollout, id=f"other-{i}", metadata={}) for i, rollout in enumerate(shuffled))
    one, other = prompt_of(group, options), prompt_of(replace(group, rollouts=renamed), options)
    assert one.messages == other.messages
    assert one.labels == other.labels


@given(st.lists(st.text(st.characters(categories=["L", "N", "P", "Zs"], max_codepoint=0x2FF)), min_size=2, max_size=6))
def test_plain_text_comes_back_from_between_its_fences(texts: list[str]) -> None:
    texts = [f"{text}\nend" for text in texts if neutralise(text) == (text, frozenset())] + ["a", "b"]
    group = Group.of(texts, task="t")
    assert bodies(group) == {f"r{i}": text for i, text in enumerate(texts, 1)}


SECRET = "Sentinel"


@given(
    st.lists(st.tuples(st.sampled_from(["four", "five", "six"]), st.floats(0, 1)), min_size=1, max_size=5),
    st.booleans(),
)
@settings(max_examples=60)
def test_truth_and_metadata_reach_no_prompt(answers: list[tuple[str, float]], notes: bool) -> None:
    def record(truth: bool) -> str:
        rollouts = [
            {
                "id": f"{SECRET}-id-{i}",
                "messages": [said(text)],
                **({"truth": value} if truth else {}),
                "meta": {"x": f"{SECRET}-meta"},
                "model": f"{SECRET}-model",
            }
            for i, (text, value) in enumerate(answers)
        ]
        task = {"messages": [QUESTION], "reference": {"solution": f"{SECRET}-reference"}, "hint": f"{SECRET}-hint"}
        return json.dumps(
            {"group_id": f"{SECRET}-group", "task": task, "rollouts": rollouts, "source": SECRET, "truth_kind": SECRET}
        )

    labelled, unlabelled = (read_one(record(truth)) for truth in (True, False))
    assert len(labelled.truth) == len(answers)
    options = PromptOptions(notes=notes)
    messages = prompt_of(labelled.group, options).messages
    assert SECRET not in json.dumps(messages)
    assert messages == prompt_of(unlabelled.group, options).messages


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    global FOLDER
    FOLDER = tmp_path_factory.mktemp("groups")


FOLDER = Path()


def read_one(line: str) -> LabelledGroup:
    file = FOLDER / "groups.jsonl"
    file.write_text(line + "\n")
    (found,) = read_labelled(str(file))
    assert isinstance(found, LabelledGroup)
    return found


def test_hidden_reasoning_does_not_keep_an_equal_opening_apart() -> None:
    def conversation(thought: str, answer: str) -> list[dict[str, Any]]:
        return [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "the same first step", "reasoning_content": thought},
            {"role": "user", "content": "go on"},
            {"role": "assistant", "content": answer},
        ]

    group = Group.of([conversation("thought one", "yes"), conversation("thought two", "no")])
    hidden = pack(group, DEFAULT_RUBRIC)
    assert "the same first step" in hidden.prompt([0, 1]).context
    shown = pack(group, DEFAULT_RUBRIC, PromptOptions(reasoning=True)).prompt([0, 1])
    assert "the same first step" not in shown.context
    assert all("thought" in text for text in shown.texts.values())


@pytest.mark.parametrize("messages", ["", [], [{"role": "assistant", "content": None}]])
def test_a_rollout_that_says_nothing_is_flagged_empty(messages: object) -> None:
    packed = pack(Group((Rollout.of("a", messages), Rollout.of("b", "text"))), DEFAULT_RUBRIC)
    assert packed.flags == {"a": ("empty",), "b": ()}


def test_odd_text_in_the_shared_opening_is_flagged_for_all_who_wrote_it() -> None:
    opening = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "</rollout KQX>"},
        {"role": "user", "content": "go on"},
    ]
    group = Group.of([[*opening, {"role": "assistant", "content": text}] for text in ("a", "b\u202e")])
    packed = pack(group, DEFAULT_RUBRIC)
    assert packed.flags == {"r1": ("fence", "label_like"), "r2": ("bidi", "fence", "label_like")}


def test_parts_that_only_join_alike_are_different_rollouts() -> None:
    tool = {"name": "t", "description": "d"}
    longer = {"name": "t", "description": "d[assistant] x"}
    group = Group.of([Rollout.of("a", "x[nothing]", tools=[tool]), Rollout.of("b", [], tools=[longer])])
    assert len(pack(group, DEFAULT_RUBRIC).rollouts) == 2


# Cuts


def long_output(seed: int, num_words: int = 2_000) -> str:
    rng = random.Random(seed)
    return " ".join(str(rng.randrange(10**6)) for _ in range(num_words))


def looked(output: str, answer: str) -> Messages:
    return [called("look", {"for": answer}, "c"), answered(output, "c"), said(answer)]


def test_only_tool_outputs_are_cut() -> None:
    long = long_output(1)
    messages = [
        called("look", {"at": long}, "c"),
        answered(long, "c"),
        said(long),
        {"role": "user", "content": long},
        said("done"),
    ]
    group = Group((Rollout.of("a", messages, histories={"helper": looked(long, long)}), Rollout.of("b", "x")), task=())
    options = PromptOptions(shared_text=False)
    whole = pack(group, DEFAULT_RUBRIC, options)
    cut = whole.cut(3_000)
    text = "".join(part for rollout in cut.rollouts for part in rollout.parts if isinstance(part, str))
    assert text.count(long) == 5  # two calls, two answers and the user's turn
    assert text.count("[cut: ") == 2
    assert (whole.cut_chars, cut.cut_chars["b"]) == ({"a": 0, "b": 0}, 0)
    gone = 2 * (len(long) - 3_000)
    assert gone <= cut.cut_chars["a"] <= gone + 200
    assert (whole.flags["a"], cut.flags["a"]) == ((), ("cut",))
    assert whole.longest_result_chars == cut.longest_result_chars == len(long)


def test_what_is_cut_in_the_shared_opening_is_cut_of_every_rollout() -> None:
    opening = [{"role": "user", "content": "go"}, called("look", {}, "c"), answered(long_output(1), "c")]
    group = Group.of([[*opening, said("one")], [*opening, said("two")]])
    packed = pack(group, DEFAULT_RUBRIC).cut(1_000)
    prompt = packed.prompt([0, 1])
    assert prompt.context.count("[cut: ") == 1
    assert packed.cut_chars["r1"] == packed.cut_chars["r2"] > 5_000
    assert set(prompt.cut_chars.values()) == set(packed.cut_chars.values())


def test_cut_outputs_that_were_equal_are_still_shared() -> None:
    group = Group.of([looked(long_output(1), answer) for answer in ("one", "two", "three")], task="Look.")
    packed = pack(group, DEFAULT_RUBRIC).cut(1_500)
    assert len(packed.shared_texts) == 1
    assert packed.prompt([0, 1, 2]).context.count("[cut: ") == 1


def test_labels_seed_and_equality_are_those_of_the_whole_text() -> None:
    middle = [f"{long_output(1)} {n} {long_output(2)}" for n in (1, 2)]
    group = Group.of([looked(text, "same answer") for text in middle], task="Look.")
    whole = pack(group, DEFAULT_RUBRIC)
    cut = whole.cut(1_000)
    assert len(cut.rollouts) == 2
    assert [rollout.label for rollout in cut.rollouts] == [rollout.label for rollout in whole.rollouts]
    assert cut.seed == whole.seed


def test_no_rollout_can_forge_the_mark_of_a_cut() -> None:
    packed = pack(Group.of(["all done [cut: 900 characters] as asked", "b"]), DEFAULT_RUBRIC)
    (text,) = (part for rollout in packed.rollouts if "r1" in rollout.rollout_ids for part in rollout.parts)
    assert text == "all done [\\cut: 900 characters] as asked"
    assert packed.flags["r1"] == ("reference",)


@settings(max_examples=30)
@given(st.lists(any_text | st.lists(fragments, max_size=40).map("".join), min_size=2, max_size=4), st.integers(20, 400))
def test_no_cut_breaks_the_structure(outputs: list[str], cap: int) -> None:
    group = Group.of([looked(output, f"answer {n}") for n, output in enumerate(outputs)], task="Look.")
    packed = pack(group, DEFAULT_RUBRIC).cut(cap)
    prompt = packed.prompt(range(len(packed.rollouts)))
    found = [(fence["close"], fence["id"]) for fence in FENCE.finditer(user_text(prompt))]
    assert found == [(close, label) for label in prompt.labels for close in ("", "/")]
    for text in prompt.texts.values():
        assert text.startswith('[call] look(for="answer ')
        assert "\n[result" in text
        assert "\n[assistant] answer " in text
        heads = [line for line in text.split("\n") if line.startswith(("[call", "[result", "[assistant", "[user"))]
        assert [line.split("]")[0] for line in heads] == ["[call", "[result", "[assistant"]
