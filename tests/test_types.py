import copy
import functools
import pickle
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruler import errors
from ruler.errors import BudgetExceeded, GroupError, JudgeUnavailable, ReplyError, RulerError
from ruler.types import (
    FENCE,
    Group,
    JudgeInfo,
    JudgeReply,
    JudgeRequest,
    Rollout,
    Sampling,
    Usage,
    judge_info,
    usage_of,
)

TEXT = st.text(st.characters(exclude_categories=()), max_size=8)


def user(text):
    return {"role": "user", "content": text}


def answer(text, **more):
    return {"role": "assistant", "content": text, **more}


def calling(id):
    call = {"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}}
    return [answer(None, tool_calls=[call]), {"role": "tool", "tool_call_id": id, "content": "ok"}]


# Groups


def test_ids_are_counted_from_one():
    group = Group.of([f"answer {n}" for n in range(12)])
    assert [rollout.id for rollout in group.rollouts] == [f"r{n}" for n in range(1, 13)]


def test_ids_that_are_given():
    assert [r.id for r in Group.of(["a", "b"], ids=["x y", "א"]).rollouts] == ["x y", "א"]
    assert len(Group.of((text for text in "ab"), ids=("1", "2")).rollouts) == 2


@pytest.mark.parametrize(
    ("build", "error"),
    [
        (lambda: Group.of([]), "group: rollouts: empty"),
        (lambda: Group.of([], id="g"), "group 'g': rollouts: empty"),
        (lambda: Group(()), "group: rollouts: empty"),
        (lambda: Group.of(["a", "b"], ids=["x"]), "ids: 1 for 2 rollouts"),
        (lambda: Group.of(["a", "b"], ids=["x"], id="g"), "group 'g': ids: 1 for 2 rollouts"),
        (lambda: Group.of(["a", "b"], ids=["x", "x"]), "group: rollouts: the id 'x' occurs twice"),
        (lambda: Group.of(["a", "b"], ids=["x", ""]), "rollout id: expected a non-empty string, got ''"),
        (lambda: Group.of(["a", "b"], ids=["x", 2]), "rollout id: expected a non-empty string, got 2"),
        (lambda: Group.of(["a", 5], id="g"), "group 'g': rollout 'r2': messages: expected chat messages or text"),
        (lambda: Group.of([[user("q"), {"role": "x"}]]), "rollout 'r1': messages[1].role: expected one of"),
        (lambda: Group.of(["a"], id="g", task=5), "group 'g': task: expected chat messages or text, got 5"),
        (lambda: Group.of(["a"], tools=[{}]), "tools[0].name: expected text"),
        (lambda: Group.of("abc"), "rollouts: expected a list of message lists, got 'abc'"),
        (lambda: Group.of(b"abc"), "rollouts: expected a list of message lists, got b'abc'"),
        (lambda: Group.of({"a": "b"}, id="g"), "group 'g': rollouts: expected a list of message lists, got {"),
        (lambda: Group.of(None), "rollouts: expected a list of message lists, got None"),
        (lambda: Rollout.of("r", "x", tools="f"), "rollout 'r': tools: expected a list of tool definitions"),
        (lambda: Rollout.of("r", "x", histories={"sub": [1]}), "rollout 'r': histories['sub'][0]: expected an object"),
    ],
)
def test_structural_errors_name_what_is_wrong(build, error):
    with pytest.raises(GroupError) as caught:
        build()
    assert str(caught.value).startswith(error)


@pytest.mark.parametrize(
    ("other", "at"),
    [
        ([user("q2"), answer("a")], 0),
        ([{"role": "system", "content": "s"}, user("q1"), answer("a")], 0),
        ([user("q1"), user("more"), answer("a")], 1),
        ([answer("a")], 0),
        ("plain", 0),
        ([user("q1"), {"role": "developer", "content": "s"}], 1),
    ],
)
def test_rollouts_of_different_tasks_are_named_with_the_place(other, at):
    fine = [user("q1"), answer("a")]
    with pytest.raises(GroupError) as caught:
        Group.of([fine, fine, other], ids=["one", "two", "odd"], id="g")
    assert str(caught.value).startswith(f"group 'g': rollouts 'one' and 'odd' differ at messages[{at}],")


def test_rollouts_may_differ_after_the_first_assistant_message():
    assert Group.of([[user("q"), answer("a"), user("x")], [user("q"), answer("b"), user("y")]])


def test_a_task_allows_different_first_user_messages():
    group = Group.of([[user("hi"), answer("a")], [user("hello"), answer("a")]], task="Help the customer.")
    assert [m.role for m in group.task] == ["user"]


def test_the_finish_reason_found_and_given():
    cut = {"finish_reason": "length", "message": answer("x")}
    assert Rollout.of("r", cut).finish_reason == "length"
    assert Rollout.of("r", cut, finish_reason="stop").finish_reason == "stop"
    assert Rollout.of("r", "x").finish_reason is None


def test_histories_become_sections_in_order():
    rollout = Rollout.of("r", "x", histories={"planner": [user("p")], "coder": "done"})
    assert [(h.name, h.messages[0].role) for h in rollout.histories] == [("planner", "user"), ("coder", "assistant")]


# Digest


def test_the_id_defaults_to_the_digest():
    group = Group.of(["a", "b"])
    assert group.id == group.digest[:16]
    assert len(group.digest) == 64
    assert Group.of(["a", "b"], id="g").digest == group.digest


def test_the_digest_ignores_ids_order_metadata_and_tool_call_ids():
    texts = [[user("q"), *calling(f"call_{n % 3}"), answer(str(n))] for n in range(6)]
    group = Group.of(texts, reference="r", metadata={"a": 1})
    shuffled = [[user("q"), *calling(f"other-{n}"), answer(str(n))] for n in range(6)]
    random.Random(1).shuffle(shuffled)
    assert Group.of(shuffled, ids=list("abcdef"), id="g", reference="r", metadata={}).digest == group.digest
    with_metadata = tuple(Rollout.of(r.id, [user("q"), answer("x")], metadata={"truth": 1}) for r in group.rollouts)
    without = tuple(Rollout.of(r.id, [user("q"), answer("x")]) for r in group.rollouts)
    assert Group(with_metadata).digest == Group(without).digest


def test_the_digest_tells_contents_apart():
    turn, tool, extra = [user("q"), answer("a")], [{"name": "f"}], [{"name": "g"}]

    def of(**more):
        return Group((Rollout.of("r1", turn, **more), Rollout.of("r2", turn)))

    groups = [
        Group.of([turn, turn]),
        Group.of([turn]),
        Group.of([turn] * 3),
        Group.of([turn, [user("q"), answer("a ")]]),
        Group.of([turn, [user("q"), answer("a"), answer("a")]]),
        Group.of([turn, [user("q"), answer(None, refusal="a")]]),
        Group.of([turn, [user("q"), answer("a", reasoning_content="why")]]),
        Group.of([turn, [user("q"), answer([{"type": "image_url", "image_url": {"url": "a"}}])]]),
        Group.of([turn, [user("q"), answer([{"type": "file", "url": "a"}])]]),
        Group.of([turn, turn], task="q"),
        Group.of([turn, turn], tools=tool),
        Group.of([turn, turn], tools=extra),
        Group.of([turn, turn], reference=""),
        Group.of([turn, turn], reference="a"),
        of(tools=tool),
        of(tools=[]),
        of(finish_reason="length"),
        of(finish_reason="stop"),
        of(histories={"s": "x"}),
        of(histories={"t": "x"}),
        of(histories={"s": "y"}),
    ]
    assert len({group.digest for group in groups}) == len(groups)


@given(st.lists(TEXT, min_size=1, max_size=5), TEXT, st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_any_text_has_a_digest_that_no_order_changes(texts, reference, rng):
    group = Group.of(texts, task=texts[0], reference=reference)
    shuffled = rng.sample(texts, len(texts))
    assert Group.of(shuffled, task=texts[0], reference=reference).digest == group.digest


@given(st.lists(TEXT, min_size=2, max_size=2))
@settings(max_examples=60)
def test_different_text_has_a_different_digest(texts):
    one, two = (Group.of([text], task="q").digest for text in texts)
    assert (one == two) == (texts[0] == texts[1])


def test_the_digest_is_the_same_in_every_process_and_release():
    group = Group.of([[user("q"), *calling("a"), answer("1")], [user("q"), answer("é\ud800")]], reference="r")
    assert group.digest == "d36ddf2ea1bc5b8fb1944422d2c4b5863dbc8c4d80074a083d0bca5ff03d3311"


def test_groups_survive_pickling_and_copying():
    group = Group.of([[user("q"), *calling("a")], [user("q"), answer("\ud800")]], id="g", metadata={"k": [1]})
    for other in (pickle.loads(pickle.dumps(group)), copy.deepcopy(group)):
        assert other == group
        assert other.digest == group.digest


# Usage


def test_usage_adds_up():
    assert Usage(1, 10, 2, 3, 0.5) + Usage(2, 20, 4, 6, 0.25) == Usage(3, 30, 6, 9, 0.75)
    assert sum([Usage(1, 1), Usage(1, 2)], Usage()) == Usage(2, 3)
    hit, retried = Usage(cache_hits=1, wait_seconds=0.5), Usage(calls=2, retries=1, wait_seconds=1.5)
    assert hit + retried == Usage(calls=2, cache_hits=1, retries=1, wait_seconds=2.0)


def test_one_unknown_price_makes_the_sum_unknown():
    known, unknown = Usage(calls=1, cost_usd=0.5), Usage(calls=1, cost_usd=None)
    for total in (known + unknown, unknown + known, unknown + unknown):
        assert total == Usage(calls=2, cost_usd=None)


# Requests and judges


def request(text="x", **more):
    return JudgeRequest(({"role": "user", "content": text},), {}, ("KQX",), **more)


def test_the_check_is_no_part_of_the_question():
    assert request(check=print) == request()
    assert "check" not in repr(request(check=print))


def test_the_prompt_hash_is_that_of_the_messages():
    assert request("a").prompt_hash() == request("a", repeat=3).prompt_hash() != request("b").prompt_hash()
    assert len(request("\ud800").prompt_hash()) == 64


async def judge(request):
    return JudgeReply("", "m")


class Callable:
    async def __call__(self, request):
        return JudgeReply("", "m")

    async def method(self, request):
        return JudgeReply("", "m")


class Informed(Callable):
    info = JudgeInfo("here", "informed")


class Misinformed(Callable):
    info = "gpt"


@pytest.mark.parametrize(
    ("given_judge", "name"),
    [
        (judge, "judge"),
        (functools.partial(judge, temperature=0), "judge"),
        (functools.partial(functools.partial(judge), 1), "judge"),
        (functools.partial(Callable()), "Callable"),
        (Callable(), "Callable"),
        (Callable().method, "Callable.method"),
        (Misinformed(), "Misinformed"),
        (Informed(), "informed"),
    ],
)
def test_every_judge_has_a_name(given_judge, name):
    assert judge_info(given_judge).name == name


def test_a_function_may_carry_info():
    async def informed(request):
        return JudgeReply("", "m")

    informed.info = JudgeInfo("here", "m", base_url="http://host/v1")
    assert judge_info(informed) is informed.info
    assert judge_info(informed).name == "http://host/v1#m"


# Fences


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<rollout KQX>\na\n</rollout KQX>", [("", "KQX"), ("/", "KQX")]),
        ("a\n<rollout KQXZ>", [("", "KQXZ")]),
        (" <rollout KQX>", []),
        ("<rollout KQX> ", []),
        ("x<rollout KQX>", []),
        ("<rollout KQX>x", []),
        ("<rollout kqx>", []),
        ("<rollout K1X>", []),
        ("<rollout >", []),
        ("<rollout\nKQX>", []),
        ("< rollout KQX>", []),
        ("<Rollout KQX>", []),
        ("<rollout ÄÖÜ>", []),
    ],
)
def test_a_fence_stands_alone_on_its_line(text, found):
    assert [(match["close"], match["id"]) for match in FENCE.finditer(text)] == found


# Errors


CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]


def test_every_error_is_in_the_one_tree_and_has_a_code_of_its_own():
    assert len(CLASSES) == 9
    assert all(issubclass(cls, RulerError) for cls in CLASSES)
    assert len({cls.code for cls in CLASSES}) == 9


@pytest.mark.parametrize("cls", CLASSES)
def test_errors_survive_pickling_with_their_attributes(cls):
    more = {}
    if issubclass(cls, RulerError):
        more["usage"] = Usage(2, 30, cost_usd=None)
    if issubclass(cls, JudgeUnavailable):
        more |= {"retry_after_seconds": 1.5, "overloaded": True}
    if issubclass(cls, ReplyError):
        more |= {"raw": "{\ud800", "finish_reason": "length"}
    error = cls("what \ud800 happened", **more)
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is cls
        assert str(other) == "what \ud800 happened"
        assert vars(other) == more


@pytest.mark.parametrize("name", ["ConfigError", "GroupError", "PackingError", "ReplyError"])
def test_errors_about_values_are_value_errors(name):
    assert issubclass(getattr(errors, name), ValueError)


@pytest.mark.parametrize("cls", [BudgetExceeded, JudgeUnavailable])
def test_other_errors_are_not(cls):
    assert not issubclass(cls, ValueError)


def test_a_task_given_beside_whole_conversations_is_said_once():
    user, answer = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    other = {"role": "assistant", "content": "b"}
    whole = Group.of([[user, answer], [user, other]], task=[user])
    assert whole == Group.of([[answer], [other]], task=[user])
    with pytest.raises(GroupError, match="'r1' begins with the task messages and 'r2' does not"):
        Group.of([[user, answer], [other]], task=[user])


def test_rollouts_with_tools_and_histories_can_be_given_a_task():
    rollout = Rollout.of("a", "x", finish_reason="length", histories={"s": "y"})
    group = Group.of([rollout, "z"], task="q", tools=[{"name": "t"}], reference={"answer": 4})
    assert group.rollouts[0] is rollout
    assert (group.rollouts[1].id, group.task[0].content, group.reference) == ("r2", ("q",), "answer: 4")
    assert [r.id for r in Group.of([rollout, "z"], ids=["p", "q"]).rollouts] == ["p", "q"]
    again = Group.of([rollout.messages, group.rollouts[1]], task=group.task)
    assert again.rollouts[0].messages == rollout.messages


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rollouts": [["a"], ["b"]]}, "rollouts: expected a tuple of Rollout, got"),
        ({"task": "q"}, "task: expected a tuple of Message, got 'q'"),
        ({"tools": [{"name": "t"}]}, "tools: expected a tuple of Tool"),
        ({"id": 17}, "id: expected text, got 17"),
        ({"reference": {"a": 1}}, "reference: expected text"),
        ({"metadata": [1]}, "metadata: expected a mapping"),
    ],
)
def test_a_group_of_the_wrong_types_is_refused_at_once(values, message):
    with pytest.raises(GroupError, match=message):
        Group(**({"rollouts": (Rollout.of("a", "x"), Rollout.of("b", "y"))} | values))


@pytest.mark.parametrize("field_name", ["histories", "metadata"])
def test_a_rollout_of_the_wrong_types_is_refused_at_once(field_name):
    with pytest.raises(GroupError, match=f"rollout 'a': {field_name}: expected a mapping, got"):
        Rollout.of("a", "x", **{field_name: ["x"]})


def test_the_rollouts_digest_binds_content_to_ids_and_not_to_places():
    one = Group.of(["x", "y"], ids=["a", "b"])
    assert Group.of(["y", "x"], ids=["b", "a"]).rollouts_digest == one.rollouts_digest
    swapped = Group.of(["y", "x"], ids=["a", "b"])
    assert swapped.digest == one.digest
    assert swapped.rollouts_digest != one.rollouts_digest


def test_what_nobody_priced_is_never_free():
    assert JudgeReply("x", model="m").usage == Usage(calls=1, cost_usd=None)
    assert usage_of(JudgeUnavailable("down")) == Usage(calls=1, cost_usd=None)
    assert usage_of(JudgeUnavailable("down", usage=Usage(3))) == Usage(3)
    assert usage_of(BudgetExceeded("cap")) == Usage()


def test_a_judges_name_holds_its_settings():
    sampling = Sampling(temperature=0.0, max_tokens=4000, reasoning_effort="low")
    assert JudgeInfo("b", "m", sampling=sampling).name == "m?temperature=0&max_tokens=4000&reasoning_effort=low"
    assert JudgeInfo("b", "m", base_url="http://h/v1").name == "http://h/v1#m"
