"""`ruler pack`: the prompt a judge would get, and what it costs; asks nobody."""

from __future__ import annotations

from typing import Annotated

import typer

from ruler.cli.arguments import (
    GroupsArgument,
    GroupSource,
    JudgeOption,
    LimitOption,
    NotesOption,
    ReasoningOption,
    ReferenceOption,
    RubricOption,
    StrictOption,
    load_rubric,
)
from ruler.cli.tables import show, token_table
from ruler.config import load_judges, read_settings
from ruler.errors import ConfigError
from ruler.packing import PackedPrompt
from ruler.results import json_line
from ruler.scoring import Ruler
from ruler.tokens import token_counter
from ruler.types import JudgeReply, JudgeRequest, judge_info


def pack(
    groups: GroupsArgument,
    index: Annotated[int | None, typer.Option("--index", "-i", min=0, help="Only this group, counted from 0.")] = None,
    judge: JudgeOption = None,
    rubric: RubricOption = None,
    limit: LimitOption = None,
    notes: NotesOption = True,
    reasoning: ReasoningOption = False,
    reference: ReferenceOption = False,
    strict: StrictOption = False,
    json_lines: Annotated[bool, typer.Option("--json", help="One JSON line per request, for all groups.")] = False,
) -> None:
    """Print the prompt of a group and its token account. Without --index and --json: that of the first group.

    Tokens are counted by the judge's tokenizer where --judge names one that has it, else by cl100k.
    """
    judges = load_judges(read_settings(judge=judge), ask=False).judges if judge else (_nobody,)
    counters = [token_counter(judge_info(one)) for one in judges]
    ruler = Ruler(judges, rubric=load_rubric(rubric), notes=notes, reasoning=reasoning, reference=reference)
    source = GroupSource(groups, strict, limit)
    if index is None and not json_lines:
        index = 0
    found = False
    for number, labelled in enumerate(source):
        if index is not None and number != index:
            continue
        found = True
        for one, (tokenizer, count), prompt in zip(judges, counters, ruler.pack(labelled.group), strict=True):
            tokens = prompt.tokens(count)
            if json_lines:
                of_jury = judge_info(one).name if len(judges) > 1 else None
                _print_json(labelled.group.id, of_jury, prompt, tokens)
                continue
            for message in prompt.messages:
                typer.echo(f"===== {message['role']} =====\n{_text(message['content'])}")
            show(token_table(tokens, prompt.rollouts, tokenizer))
        if number == index:
            break
    source.require_groups()
    if not found:
        raise ConfigError(f"--index: {groups} has {source.groups} groups, there is no group {index}")


def _print_json(group_id: str, judge: str | None, prompt: PackedPrompt, tokens: dict[str, int]) -> None:
    record = {
        "group_id": group_id,
        **({"judge": judge} if judge else {}),
        "order": 0,
        "block": 0,
        "ids": list(prompt.labels),
        "rollouts": prompt.rollouts,
        "messages": prompt.messages,
        "tokens": tokens,
    }
    typer.echo(json_line(record), nl=False)


def _text(content: str | list[dict[str, dict[str, str] | str]]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(str(part["text"]) if part["type"] == "text" else "(image)" for part in content)


async def _nobody(request: JudgeRequest) -> JudgeReply:
    raise AssertionError("`ruler pack` asks nobody")
