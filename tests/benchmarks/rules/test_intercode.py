from __future__ import annotations

import pytest

from benchmarks.rules import score
from benchmarks.rules.intercode import (
    INTERCODE,
    commands_work,
    fitting_program,
    harmless,
    last_command_works,
    like_the_gold_command,
    names_of,
    only_a_command,
    same_programs,
    shows_something,
    uses_the_names,
)
from ruler.types import Group
from tests.benchmarks.rules.checking import hears, says, value

REQUEST = "Count the lines of all '*.c' files in /testbed directory"
GOLD = {"gold_command": 'find /testbed -name "*.c" -print0 | xargs -0 cat | wc -l'}
RIGHT = [says("find /testbed -name '*.c' -exec cat {} + | wc -l"), hears("5\n")]
WRONG = [says("ls /tmp"), hears("ls: cannot access '/tmp': No such file or directory")]


@pytest.mark.parametrize(
    "printed",
    [
        "/bin/bash: line 1: bc: command not found",
        "find: './proc': Permission denied\n5",
        "xargs: invalid option -- '4'\nTry 'xargs --help' for more information.",
        "sh: 1: Syntax error: end of file unexpected",
        "Command timed out",
    ],
)
def test_what_the_shell_prints_tells_of_errors(printed: str) -> None:
    assert value(last_command_works, [says("x"), hears(printed)]) == 0.0
    assert value(commands_work, [says("x"), hears(printed), says("ls"), hears("a.txt")]) == 0.5
    assert value(last_command_works, [says("x"), hears(printed), says("ls"), hears("a.txt")]) == 1.0


def test_no_command_is_no_working_command() -> None:
    assert value(last_command_works, []) == value(commands_work, []) == 0.0


@pytest.mark.parametrize(
    ("request_text", "names"),
    [
        (REQUEST, ["*.c", "/testbed"]),
        ('Remove "\\r" in "/a b/c.txt", then exit.', ["\\r", "/a b/c.txt"]),
        ("Files in ${DIR} older than 7 days, don't touch 'job.history'", ["job.history", "${DIR}", "7"]),
        ("Show it.", []),
        ("Look in /workspace/.", ["/workspace"]),
    ],
)
def test_names_of_a_request(request_text: str, names: list[str]) -> None:
    assert names_of(request_text) == names


def test_the_names_stand_in_the_last_command() -> None:
    assert value(uses_the_names, RIGHT, task=REQUEST) == 1.0
    assert value(uses_the_names, "find /testbed", task=REQUEST) == 0.5
    assert value(uses_the_names, "ls", task="List.") == 1.0


def test_the_program_fits_the_request() -> None:
    assert value(fitting_program, "find . | wc -l", task="Count files") == 1.0
    assert value(fitting_program, "find .", task="Count files") == 0.0
    assert value(fitting_program, "find . | wc -l", task="Count and sort") == 0.5
    assert value(fitting_program, "whoami", task="Who am I") == 1.0


def test_what_is_to_be_seen_is_printed() -> None:
    assert value(shows_something, RIGHT, task=REQUEST) == 1.0
    assert value(shows_something, [says("ls"), hears(" \n")], task="List files") == 0.0
    assert value(shows_something, [says("cd /"), hears("")], task="Go to /") == 1.0


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("ls", 1.0),
        ("A=1; ls", 1.0),
        ("```bash\nls\n```", 0.0),
        ("Another way is ls", 0.0),
        ("", 0.0),
        ("#!/bin/sh", 0.0),
    ],
)
def test_a_command_and_no_prose(command: str, expected: float) -> None:
    assert value(only_a_command, command) == expected


def test_what_deletes_unasked_is_harmful() -> None:
    assert value(harmless, "find /x -delete", task="Find /x") == 0.0
    assert value(harmless, [says("rm -rf /x"), hears(""), says("ls")], task="List /x") == 0.0
    assert value(harmless, "find /x -delete", task="Delete all in /x") == 1.0
    assert value(harmless, "ls /rm", task="List /rm") == 1.0


def test_likeness_to_the_gold_command() -> None:
    gold = GOLD["gold_command"]
    assert value(like_the_gold_command, gold.replace('"', "'"), reference=GOLD) == 1.0
    assert value(like_the_gold_command, "echo hello", reference=GOLD) == 0.0
    assert 0.3 < value(like_the_gold_command, RIGHT, reference=GOLD) < 1.0
    assert value(same_programs, "cat a | /usr/bin/wc; find . | xargs rm", reference=GOLD) == pytest.approx(6 / 7)
    assert value(same_programs, "echo cat wc find", reference=GOLD) == 0.0


def test_scores() -> None:
    group = Group.of([WRONG, RIGHT, []], task=REQUEST, reference=GOLD)
    assert INTERCODE.with_reference is not None
    for rewards in (INTERCODE.blind, INTERCODE.with_reference):
        found = score(rewards, group)
        assert found[1] == max(found) > found[0] > 0
