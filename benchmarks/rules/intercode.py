"""Rules for requests answered by bash commands: what the shell said, what the command names, what it may not do.

The weights were set before any figure was looked at, and not fitted. The reference is one command that works; others
do too, so likeness to it is no proof, and commands are never run here.
"""

from __future__ import annotations

import re

from benchmarks.rules.reading import overlap, reference_field, request_of, share, text_of, word_set, words
from benchmarks.rules.rule_set import RuleSet
from ruler.rewards import Rewards, Rule
from ruler.rules import final_answer, turns
from ruler.types import Group, Rollout

_ERRORS = (
    "command not found",
    "no such file or directory",
    "syntax error",
    "permission denied",
    "operation not permitted",
    "missing operand",
    "missing argument",
    "extra operand",
    "invalid option",
    "invalid argument",
    "unrecognized option",
    "unknown predicate",
    "unexpected eof",
    "unexpected end of file",
    "must precede expression",
    "cannot execute",
    "cannot access",
    "cannot remove",
    "cannot stat",
    "cannot create",
    "not a directory",
    "is a directory",
    "ambiguous redirect",
    "command timed out",
    "--help' for more information",
    "usage: ",
)
"""What shells and the common programs say when they fail."""

_PROGRAMS = {
    "count": {"wc", "c", "count", "length", "nl", "grep", "awk"},
    "sort": {"sort", "ls"},
    "unique": {"uniq", "u", "awk"},
    "duplicate": {"uniq", "d", "awk"},
    "compress": {"gzip", "tar", "zip", "bzip2", "xz", "compress"},
    "archive": {"tar", "zip", "cpio", "gzip"},
    "extract": {"tar", "unzip", "gunzip", "gzip"},
    "copy": {"cp", "rsync", "cpio", "install"},
    "move": {"mv"},
    "rename": {"mv", "rename"},
    "delete": {"rm", "delete", "rmdir", "unlink", "d"},
    "remove": {"rm", "delete", "rmdir", "unlink", "d", "sed", "tr"},
    "permission": {"chmod", "perm", "ls", "stat"},
    "permissions": {"chmod", "perm", "ls", "stat"},
    "owner": {"chown", "user", "ls", "stat"},
    "find": {"find", "ls", "grep", "locate", "which"},
    "search": {"find", "grep", "locate", "awk"},
    "replace": {"sed", "tr", "awk", "perl"},
    "difference": {"diff", "comm", "cmp"},
    "compare": {"diff", "comm", "cmp"},
    "size": {"du", "ls", "stat", "size", "df", "wc"},
    "disk": {"df", "du"},
    "md5sum": {"md5sum"},
    "link": {"ln", "readlink", "find", "ls"},
    "process": {"ps", "pgrep", "top", "pstree", "kill"},
    "processes": {"ps", "pgrep", "top", "pstree", "kill"},
    "create": {"mkdir", "touch", "ln", "echo", "cp", "tar", "split", "cat"},
}
"""Word of a request -> words of a command, at least one of which is wanted."""

_SHOWS = word_set(
    "print prints list lists show shows display displays find finds search searches count counts calculate check "
    "output get report"
)
_REMOVES = word_set("remove removes delete deletes clean clear erase move rename unhide replace")
_QUOTED = re.compile(r"\"([^\"\n]{1,80})\"|(?<!\w)'([^'\n]{1,80})'")
_TOKEN = re.compile(r"[\w.~*?$@%+{}/-]+|[|<>;&()\[\]\\!]")
_MAX_NAMES = 50


def _steps(rollout: Rollout) -> list[tuple[str, str]]:
    """Each command with what the shell printed; "" where nothing came after it."""
    steps: list[tuple[str, str]] = []
    for message in rollout.messages:
        if message.role == "assistant":
            steps.append((text_of(message), ""))
        elif steps:
            steps[-1] = (steps[-1][0], text_of(message))
    return steps


def fails(printed: str) -> bool:
    """Whether what the shell printed says that a command failed."""
    printed = printed.lower()
    return any(error in printed for error in _ERRORS)


def last_command_works(rollout: Rollout, group: Group) -> float:
    """1.0 when the shell printed no error after the last command; else 0.0, also without a command."""
    steps = _steps(rollout)
    return float(bool(steps) and not fails(steps[-1][1]))


def commands_work(rollout: Rollout, group: Group) -> float:
    """The share of the commands after which the shell printed no error; 0.0 without a command."""
    return share((not fails(printed) for _, printed in _steps(rollout)), of_none=0.0)


def names_of(request: str) -> list[str]:
    """What a request names literally: quoted text, paths, patterns, variables, numbers; at most 50 of them."""
    found = [double or single for double, single in _QUOTED.findall(request)]
    for word in _QUOTED.sub(" ", request).split():
        word = word.strip(",;:!?()[]\"'`.")
        if re.search(r"[/*$\d]|\w\.\w", word):
            found.append(word)
    return [name.rstrip("/") for name in dict.fromkeys(found) if name.rstrip("/")][:_MAX_NAMES]


def uses_the_names(rollout: Rollout, group: Group) -> float:
    """The share of what the request names that stands in the last command; 1.0 when it names nothing."""
    command = final_answer(rollout)
    return share(name in command for name in names_of(request_of(group)))


def fitting_program(rollout: Rollout, group: Group) -> float:
    """The share of the request's tasks (count, sort, compress …) for which the last command has a usual program."""
    asked, used = set(words(request_of(group))), set(re.findall("[a-z0-9]+", final_answer(rollout)))
    return share(bool(programs & used) for word, programs in _PROGRAMS.items() if word in asked)


def shows_something(rollout: Rollout, group: Group) -> float:
    """0.0 when the request asks to see something and the last command printed nothing; else 1.0."""
    steps = _steps(rollout)
    asked = not _SHOWS.isdisjoint(words(request_of(group)))
    return float(not asked or (bool(steps) and bool(steps[-1][1].strip())))


def only_a_command(rollout: Rollout, group: Group) -> float:
    """1.0 when the last turn is a command: neither blank, nor a fenced block, nor a sentence; else 0.0."""
    command = final_answer(rollout).strip()
    first = command.split(maxsplit=1)[0] if command else ""
    return float(bool(command) and not command.startswith(("`", "#!")) and not (first.isalpha() and first.istitle()))


def harmless(rollout: Rollout, group: Group) -> float:
    """0.0 when a command deletes, or takes root's rights, although the request speaks of nothing like it; else 1.0."""
    if not _REMOVES.isdisjoint(words(request_of(group))):
        return 1.0
    used = {word for command, _ in _steps(rollout) for word in _TOKEN.findall(command)}
    return float(used.isdisjoint(("rm", "rmdir", "shred", "dd", "sudo", "-delete", "unlink")))


def like_the_gold_command(rollout: Rollout, group: Group) -> float:
    """F1 of the last command's words and signs against those of the reference, as multisets, in [0, 1]."""
    gold = reference_field(group, "gold_command")
    return overlap(_TOKEN.findall(_unquoted(final_answer(rollout))), _TOKEN.findall(_unquoted(gold)))


def same_programs(rollout: Rollout, group: Group) -> float:
    """F1 of the programs that are called, first in the line and after | ; && ( or xargs and -exec, as sets."""
    gold = reference_field(group, "gold_command")
    return overlap(_programs(final_answer(rollout)), _programs(gold))


def _unquoted(command: str) -> str:
    return command.replace('"', " ").replace("'", " ").replace("`", " ")


def _programs(command: str) -> set[str]:
    programs, expected = set(), True
    for token in _TOKEN.findall(_unquoted(command)):
        if token in "|;&(" or token in ("xargs", "-exec", "sudo", "do", "then"):
            expected = True
        elif expected and (name := token.rpartition("/")[2])[:1].isalpha():
            programs.add(name)
            expected = False
    return programs


INTERCODE = RuleSet(
    name="intercode",
    blind=Rewards(
        judge_weight=0.0,
        rules=(
            Rule("last command works", last_command_works, weight=1.0),
            Rule("uses the names", uses_the_names, weight=1.0),
            Rule("commands work", commands_work, weight=0.5),
            Rule("fitting program", fitting_program, weight=0.5),
            Rule("shows something", shows_something, weight=0.5),
            Rule("only a command", only_a_command, weight=0.5),
            Rule("harmless", harmless, weight=0.5),
            Rule("few turns", turns(at_most=1, slope=9), weight=0.25),
        ),
    ),
    with_reference=Rewards(
        judge_weight=0.0,
        rules=(
            Rule("like the gold command", like_the_gold_command, weight=2.0),
            Rule("same programs", same_programs, weight=1.0),
            Rule("last command works", last_command_works, weight=1.0),
            Rule("only a command", only_a_command, weight=0.5),
        ),
    ),
)
