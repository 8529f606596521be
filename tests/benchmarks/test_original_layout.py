from __future__ import annotations

import json

from benchmarks.original_layout import original_messages, original_parts

TASK = [{"role": "user", "content": "Grüße?"}]


def says(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def test_what_is_shared_stands_once_and_the_rest_in_the_given_order() -> None:
    begun = says("both begin")
    system, user = original_messages(TASK, [begun + says("one"), begun + says("two")])
    assert system["role"] == "system"
    assert "Grading standards:\n- " in system["content"]
    assert user == {
        "role": "user",
        "content": (
            '<context>\n[{"role": "user", "content": "Gr\\u00fc\\u00dfe?"}, {"role": "assistant", "content": '
            '"both begin"}]\n</context>\n\nTrajectories:\n\n<trajectory id="1">\n[{"role": "assistant", "content": '
            '"one"}]\n</trajectory>\n\n<trajectory id="2">\n[{"role": "assistant", "content": "two"}]\n</trajectory>'
        ),
    }


def test_a_trajectory_that_is_the_shared_beginning_is_an_empty_list() -> None:
    _, _, trajectories = original_parts(TASK, [says("a"), says("a") + says("b")])
    assert trajectories[0] == '\n\n<trajectory id="1">\n[]\n</trajectory>'


def test_without_a_shared_beginning_there_is_no_context() -> None:
    _, context, trajectories = original_parts([], [says("a"), says("b"), says("a")])
    assert context == "Trajectories:"
    assert len(trajectories) == 3


def test_tools_stand_between_what_is_shared_and_the_trajectories() -> None:
    tools = [{"type": "function", "function": {"name": "search"}}]
    _, context, _ = original_parts(TASK, [says("a"), says("b")], tools=tools)
    assert context.endswith(
        f"</context>\n\n<available_tools>\n{json.dumps(tools)}\n</available_tools>\n\nTrajectories:"
    )


def test_equal_trajectories_and_a_single_one_stand_once_and_whole() -> None:
    one = original_parts(TASK, [says("a")])
    assert one == original_parts(TASK, [says("a")] * 3)
    assert one[1:] == ("Trajectories:", [f'\n\n<trajectory id="1">\n{json.dumps(TASK + says("a"))}\n</trajectory>'])
