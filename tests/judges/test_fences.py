from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judges.fences import find_rollouts, user_text
from judges.scripted import ScriptedJudge
from ruler import Group, JudgeRejected, JudgeRequest, Ruler

FENCED = "<task>\nsay a word\n</task>\n<rollout KQX>\none\ntwo\n</rollout KQX>\n<rollout BDF>\n\n</rollout BDF>\nReply."


def request(content: object) -> JudgeRequest:
    messages = ({"role": "system", "content": "Judge."}, {"role": "user", "content": content})
    return JudgeRequest((*messages, {"role": "user", "content": "later"}), {}, ())


def test_the_text_is_that_of_the_first_user_message() -> None:
    assert user_text(request("hello")) == "hello"


def test_images_are_left_out_of_the_text() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    assert user_text(request([{"type": "text", "text": "a"}, image, {"type": "text", "text": "b"}])) == "ab"


def test_rollouts_are_what_stands_between_their_fences() -> None:
    context, rollouts = find_rollouts(FENCED)
    assert context == "<task>\nsay a word\n</task>\n"
    assert list(rollouts.items()) == [("KQX", "one\ntwo"), ("BDF", "")]


@pytest.mark.parametrize("text", ["", "no fence", "a <rollout KQX>", " <rollout KQX>", "<rollout kqx>", "<rollout>"])
def test_what_is_no_fence_is_text(text: str) -> None:
    assert find_rollouts(text) == (text, {})
    assert find_rollouts(FENCED.replace("one", text))[1]["KQX"] == f"{text}\ntwo"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("<rollout A>\nx", "<rollout A> is never closed"),
        ("</rollout A>\n", "broken at '</rollout A>'"),
        ("<rollout A>\n<rollout B>\n</rollout B>\n</rollout A>", "broken at '<rollout B>'"),
        ("<rollout A>\nx\n</rollout B>", "broken at '</rollout B>'"),
        ("<rollout A>\nx\n</rollout A>\n<rollout A>\ny\n</rollout A>", "broken at '<rollout A>'"),
        ("<rollout A>\nx\n</rollout A>\n</rollout A>", "broken at '</rollout A>'"),
    ],
)
def test_broken_fences_are_refused(text: str, fault: str) -> None:
    with pytest.raises(JudgeRejected, match=fault):
        find_rollouts(text)


LINES = st.sampled_from(["<rollout KQX>", "</rollout KQX>", "</rollout BDF>", "Reply for KQX.", "", "word", "\ud800"])


@given(st.lists(st.lists(LINES | st.text(max_size=9), max_size=4).map("\n".join), min_size=2, max_size=5, unique=True))
def test_they_are_found_in_every_packed_prompt(texts: list[str]) -> None:
    for prompt in Ruler(ScriptedJudge([])).pack(Group.of(texts, task="Say a word.")):
        context, rollouts = find_rollouts(user_text(JudgeRequest(prompt.messages, {}, prompt.labels)))
        assert context == prompt.context
        assert list(rollouts.items()) == list(prompt.texts.items())
