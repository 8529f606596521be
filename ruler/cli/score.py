"""`ruler score`: groups in, scored groups out."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, aclosing, closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from ruler.aggregate import Reliability
from ruler.cli import exits
from ruler.cli.arguments import (
    AbsoluteOption,
    AdaptiveOption,
    CacheModeOption,
    CacheOption,
    ConcurrencyOption,
    ContextOption,
    FallbackOption,
    GroupsArgument,
    GroupSource,
    JudgeOption,
    LimitOption,
    MaxBlockOption,
    MaxCostOption,
    MaxTokensOption,
    MinOrdersOption,
    NotesOption,
    OrdersOption,
    PolicyOption,
    ReasoningOption,
    ReferenceOption,
    RubricOption,
    SettingsOption,
    SharedTextOption,
    StrictOption,
    new_ruler,
    read_orders,
)
from ruler.cli.tables import group_table, reliability_text, say, show, usage_text
from ruler.config import LoadedJudges, load_judges, read_settings
from ruler.errors import ConfigError, ReplyError
from ruler.plan import MAX_BLOCK
from ruler.progress import ScoringProgress
from ruler.reading import read_in_thread
from ruler.results import ResultFile, failure_records, json_line, usage_record
from ruler.scoring import JudgeCall, Ruler
from ruler.types import FailedGroup, Group, ScoredGroup, Usage, usage_of


def score(
    groups: GroupsArgument,
    judge: JudgeOption = None,
    rubric: RubricOption = None,
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="JSONL of results, continued if it exists; - is stdout.")
    ] = None,
    limit: LimitOption = None,
    concurrency: ConcurrencyOption = 16,
    settings: SettingsOption = None,
    fallback: FallbackOption = None,
    policy: PolicyOption = None,
    cache: CacheOption = None,
    cache_mode: CacheModeOption = None,
    max_cost_usd: MaxCostOption = None,
    max_total_tokens: MaxTokensOption = None,
    orders: OrdersOption = "1",
    adaptive: AdaptiveOption = False,
    min_orders: MinOrdersOption = None,
    max_block: MaxBlockOption = MAX_BLOCK,
    context_tokens: ContextOption = None,
    notes: NotesOption = True,
    reasoning: ReasoningOption = False,
    reference: ReferenceOption = False,
    shared_text: SharedTextOption = True,
    absolute: AbsoluteOption = False,
    audit_log: Annotated[
        Path | None, typer.Option("--audit-log", help="Append every question with its last raw reply here, as JSONL.")
    ] = None,
    strict: StrictOption = False,
    json_summary: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Score groups of rollouts. Without --out the scores are shown as tables.

    Exit status: 0 all scored or tied, 1 some failed or some lines were broken, 2 bad input or configuration,
    3 the budget is reached, 130 interrupted.
    """
    out = "-" if out in _STDOUT else out
    if json_summary and out == "-":
        raise ConfigError("--json: the summary and --out - would both go to standard output")
    if json_summary and out is None:
        raise ConfigError("--json: prints the summary only; give the scores a place with --out")
    _refuse_one_file_twice(
        {"GROUPS": groups, "--out": out, "--audit-log": audit_log, "--rubric": rubric, "--settings": settings}
    )
    with ExitStack() as stack:
        chosen = read_settings(
            settings,
            judge=judge,
            fallback=fallback,
            policy=policy,
            cache=cache,
            cache_mode=cache_mode,
            max_cost_usd=max_cost_usd,
            max_total_tokens=max_total_tokens,
        )
        loaded = load_judges(chosen)
        kept = loaded.store.location if loaded.store else None
        _refuse_one_file_twice({"--cache": kept, "--out": out, "--audit-log": audit_log})
        log = stack.enter_context(_open_log(audit_log)) if audit_log else None
        ruler = new_ruler(
            loaded,
            chosen,
            rubric,
            orders=read_orders(orders),
            adaptive=adaptive,
            min_orders=min_orders,
            max_block=max_block,
            context_tokens=context_tokens,
            notes=notes,
            reasoning=reasoning,
            reference=reference,
            shared_text=shared_text,
            absolute=absolute,
            concurrency=concurrency,
            on_call=partial(_log_call, log, audit_log) if log and audit_log else None,
        )
        run = _Run(ruler, loaded, GroupSource(groups, strict, limit), out)
        if run.file:
            stack.enter_context(closing(run.file))
        try:
            asyncio.run(run.score())
        except KeyboardInterrupt:
            run.interrupted = True
        run.report(json_summary=json_summary)
        raise typer.Exit(run.exit_status())


_STDOUT = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


def _refuse_one_file_twice(paths: Mapping[str, str | Path | None]) -> None:
    """Raises ConfigError when two of these name one file: writing one would destroy the other."""
    seen: dict[str, str] = {}
    for option, path in paths.items():
        if path is None or str(path) == "-" or (os.path.exists(path) and not os.path.isfile(path)):
            continue
        name = os.path.realpath(path)
        if name in seen:
            raise ConfigError(f"{option} {path}: is the same file as {seen[name]}")
        seen[name] = option


class _Run:
    """One run over one file: what is still to do, what came of it, and how to say so."""

    def __init__(self, ruler: Ruler, loaded: LoadedJudges, source: GroupSource, out: str | None) -> None:
        made_by = {
            "judge": ruler.judge_name,
            "rubric": ruler.rubric.id,
            "orders": ruler.orders,
            "adaptive": ruler.adaptive,
            "prompt_version": ruler.prompt_version,
        }
        self.file = ResultFile(out, made_by=made_by, keep_failed_orders=ruler.min_orders is not None) if out else None
        self.interrupted = False
        self._ruler = ruler
        self._loaded = loaded
        self._source = source
        self._tables = out is None
        self._out = out
        self._kept = 0
        self._statuses: Counter[str] = Counter()
        self._failed: list[FailedGroup] = []
        self._usage = Usage()
        self._reliability = Reliability()
        self._with_failed_orders = 0

    async def score(self) -> None:
        try:
            await self._score()
        finally:
            await self._loaded.close()

    async def _score(self) -> None:
        bar = ScoringProgress()
        to_do = self._to_do()
        # A pipe may keep us waiting, and answers must come out meanwhile.
        groups = to_do if self._source.is_file else read_in_thread(to_do)
        async with aclosing(self._ruler.score_stream(groups)) as stream:
            with ExitStack() as stack:
                if not self._tables and bar.is_visible:
                    bar.expect(self._source.expected())
                    stack.enter_context(bar)
                async for _, result in stream:
                    self._take(result)
                    bar.add(result, skipped=self._kept + self._source.bad_lines)
        self._source.require_groups()

    def _to_do(self) -> Iterator[Group]:
        for labelled in self._source:
            if self.file and self.file.take(labelled.group):
                self._kept += 1
            else:
                yield labelled.group

    def _take(self, result: ScoredGroup | FailedGroup) -> None:
        if self.file:
            self.file.write(result)
        elif self._tables:
            show(group_table(result))
        self._statuses[result.status] += 1
        self._usage += result.usage
        if isinstance(result, FailedGroup):
            self._failed.append(result)
        else:
            self._reliability.add(result)
            self._with_failed_orders += bool(result.failed_orders)

    def _spent(self) -> Usage:
        """Of all attempts, those for groups that an interrupt left unfinished included."""
        paid = self._loaded.meter.usage
        kept = self._usage
        return replace(paid, cache_hits=kept.cache_hits, retries=kept.retries, wait_seconds=kept.wait_seconds)

    def exit_status(self) -> int:
        if self.interrupted:
            return exits.INTERRUPTED
        return exits.status_of((group.reason for group in self._failed), self._source.bad_lines)

    def report(self, *, json_summary: bool) -> None:
        """The summary: as JSON on stdout, as text on stderr when stdout carries results, else on stdout."""
        if json_summary:
            typer.echo(json.dumps(self._summary(), ensure_ascii=False))
            return
        err = self._out == "-"
        for result in [] if self._tables else self._failed:
            say(f"failed: {result.group_id}: {result.reason}: {result.message}", err=err)
        if self.interrupted:
            again = "; the same command continues" if self.file and not err else ""
            typer.echo(f"interrupted{again}", err=err)
        counted = [f"{self._statuses[status]} {status}" for status in ("scored", "tied", "failed")]
        counted[0] += f" ({self._with_failed_orders} although orders failed)" * bool(self._with_failed_orders)
        counted += [f"{self._kept} already there"] * bool(self._kept)
        counted += [f"{self._source.bad_lines} bad lines"] * bool(self._source.bad_lines)
        typer.echo(f"{', '.join(counted)}; {usage_text(self._spent())}; judge {self._ruler.judge_name}", err=err)
        if self._reliability.value is not None:
            typer.echo(reliability_text(self._reliability.value, self._reliability.num_groups), err=err)
        if len(self._loaded.meter.by_judge) > 1:
            for name, usage in self._loaded.meter.by_judge.items():
                typer.echo(f"  {name}: {usage_text(usage)}", err=err)
        if self._loaded.unreadable:
            typer.echo(f"{self._loaded.unreadable} cache entries could not be used and were asked again", err=err)

    def _summary(self) -> dict[str, Any]:
        return {
            **{status: self._statuses[status] for status in ("scored", "tied", "failed")},
            "already_there": self._kept,
            "bad_lines": self._source.bad_lines,
            "interrupted": self.interrupted,
            "usage": usage_record(self._spent()),
            "usage_by_judge": {name: usage_record(usage) for name, usage in self._loaded.meter.by_judge.items()},
            "unreadable_cache_entries": self._loaded.unreadable,
            "with_failed_orders": self._with_failed_orders,
            "reliability": self._reliability.value,
            "judge": self._ruler.judge_name,
            "rubric": self._ruler.rubric.id,
            "prompt_version": self._ruler.prompt_version,
            "failures": failure_records(self._failed),
        }


def _open_log(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        raise ConfigError(f"--audit-log {path}: is written plain; choose a name without .gz")
    try:
        return open(path, "ab")
    except OSError as error:
        raise _unwritable_log(path, error) from error


def _unwritable_log(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"--audit-log {path}: cannot be written: {error.strerror or error}")


def _log_call(log: IO[bytes], path: Path, call: JudgeCall) -> None:
    reply, error = call.reply, call.error
    last = error if isinstance(error, ReplyError) else None
    usage = reply.usage if reply else usage_of(error) if error else Usage()
    record: dict[str, Any] = {
        "group_id": call.group_id,
        "judge": call.judge,
        "prompt_sha256": call.request.prompt_hash(),
        "order": call.order,
        "block": call.block,
        "ids": list(call.shown),
        "rollouts": call.shown,
        "sampling": asdict(call.request.sampling),
        "reply": reply.text if reply else last.raw if last else None,
        "error": {"code": error.code, "message": str(error)} if error else None,
        "model": reply.model if reply else None,
        "answered_by": reply.judge if reply else None,
        "usage": usage_record(usage),
        "latency_seconds": reply.latency_seconds if reply else None,
        "finish_reason": reply.finish_reason if reply else last.finish_reason if last else None,
        "from_cache": reply.from_cache if reply else False,
    }
    try:
        log.write(json_line(record))
        log.flush()
    except OSError as raised:
        # No RulerError: that would be taken for a failure of this group, and the run would go on without a log.
        raise OSError(str(_unwritable_log(path, raised))) from raised
