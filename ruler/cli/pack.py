"""`ruler pack`: the prompts a judge would get, and what they cost; asks nobody."""

from __future__ import annotations

from typing import Annotated

import typer

from ruler.cli import exits
from ruler.cli.arguments import (
    ContextOption,
    GroupsArgument,
    GroupSource,
    JudgeOption,
    LimitOption,
    MaxBlockOption,
    NotesOption,
    OrdersOption,
    ReasoningOption,
    ReferenceOption,
    RubricOption,
    SharedTextOption,
    StrictOption,
    load_rubric,
    read_orders,
)
from ruler.cli.tables import prompt_table, say, show, token_table
from ruler.config import load_judges, read_settings
from ruler.errors import ConfigError, PackingError
from ruler.packing import PackedPrompt
from ruler.plan import MAX_BLOCK
from ruler.results import json_line, prompt_record
from ruler.scoring import Ruler
from ruler.tokens import token_counter
from ruler.types import Group, Judge, JudgeInfo, JudgeReply, JudgeRequest, judge_info
from ruler.window import Window


def pack(
    groups: GroupsArgument,
    index: Annotated[int | None, typer.Option("--index", "-i", min=0, help="Only this group, counted from 0.")] = None,
    judge: JudgeOption = None,
    rubric: RubricOption = None,
    orders: OrdersOption = "1",
    max_block: MaxBlockOption = MAX_BLOCK,
    context_tokens: ContextOption = None,
    limit: LimitOption = None,
    notes: NotesOption = True,
    reasoning: ReasoningOption = False,
    reference: ReferenceOption = False,
    shared_text: SharedTextOption = True,
    strict: StrictOption = False,
    json_lines: Annotated[bool, typer.Option("--json", help="One JSON line per request, for all groups.")] = False,
) -> None:
    """Print the prompts of a group and their token accounts. Without --index and --json: those of the first group.

    Of several orders the first is printed whole, with all its blocks; a table shows the others. Tokens are counted by
    the judge's tokenizer where --judge names one that has it, else by cl100k.
    """
    judges: tuple[Judge, ...] = (_nobody,)
    if judge:
        judges = load_judges(read_settings(judge=judge), ask=False).judges
    packers = [
        _Packer(
            one,
            Ruler(
                one,
                rubric=load_rubric(rubric),
                orders=read_orders(orders),
                max_block=max_block,
                context_tokens=context_tokens,
                notes=notes,
                reasoning=reasoning,
                reference=reference,
                shared_text=shared_text,
            ),
            context_tokens,
            named=len(judges) > 1,
        )
        for one in judges
    ]
    source = GroupSource(groups, strict, limit)
    if index is None and not json_lines:
        index = 0
    found = failed = False
    for number, labelled in enumerate(source):
        if index is not None and number != index:
            continue
        found = True
        for packer in packers:
            try:
                packer.print(labelled.group, json_lines=json_lines)
            except PackingError as error:
                say(f"failed: {error}", err=True)
                failed = True
        if number == index:
            break
    source.require_groups()
    if not found:
        raise ConfigError(f"--index: {groups} has {source.groups} groups, there is no group {index}")
    if failed:
        raise typer.Exit(exits.FAILED)


class _Packer:
    """Prints what one judge would be asked."""

    def __init__(self, judge: Judge, ruler: Ruler, context_tokens: int | None, *, named: bool) -> None:
        info = judge_info(judge)
        self._judge = info.name if named else None
        self._ruler = ruler
        self._tokenizer, self._count = token_counter(info)
        self._window = Window.of(info.name, info, context_tokens, notes=ruler.options.notes)

    def print(self, group: Group, *, json_lines: bool) -> None:
        prompts = self._ruler.pack(group)
        if json_lines:
            for prompt in prompts:
                record = prompt_record(group.id, prompt, self._count, judge=self._judge)
                typer.echo(json_line(record), nl=False)
        elif prompts:
            self._print(prompts)
        else:
            say(f"group {group.id!r}: all rollouts read the same, so nothing would be asked")

    def _print(self, prompts: list[PackedPrompt]) -> None:
        accounts = [prompt.tokens(self._count) for prompt in prompts]
        for prompt, tokens in zip(prompts, accounts, strict=True):
            if prompt.order > 0:
                continue
            head = f"block {prompt.block}: " if prompts[-1].block else ""
            for message in prompt.messages:
                typer.echo(f"===== {head}{message['role']} =====\n{_text(message['content'])}")
            show(token_table(tokens, prompt.rollouts, self._tokenizer))
        if len(prompts) > 1 or any(prompts[0].cut_chars.values()):
            show(prompt_table(prompts, [tokens["total"] for tokens in accounts]))
        if self._window is not None:
            typer.echo(self._window_text(prompts, self._window))

    def _window_text(self, prompts: list[PackedPrompt], window: Window) -> str:
        fullest = max(prompts, key=lambda prompt: window.tokens(prompt) - window.room(len(prompt.labels)))
        tokens, room = window.tokens(fullest), window.room(len(fullest.labels))
        return (
            f"window of {window.size:,} tokens: the fullest prompt takes {tokens:,} ({window.tokenizer}), "
            f"{window.size - room:,} are kept for the reply"
        )


def _text(content: str | list[dict[str, dict[str, str] | str]]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(str(part["text"]) if part["type"] == "text" else "(image)" for part in content)


async def _nobody(request: JudgeRequest) -> JudgeReply:
    raise AssertionError("`ruler pack` asks nobody")


_nobody.info = JudgeInfo("none", "(none)")  # type: ignore[attr-defined]
