"""How far judges can be trusted: against ground truth, beside handwritten rules, trivial rules and truth with errors.

    python -m benchmarks.judge_vs_truth groups.jsonl --judge openai/gpt-5-mini --out runs/judge
    python -m benchmarks.judge_vs_truth DATA/*.jsonl* --judge 'simulated?quality=truth&noise=0.5' --out runs/noise

Writes results.json (every figure and every score), report.md and report.html. A judge is asked in many ways, some of
which cost far more than the scores of a training run do: `--forms listwise` leaves those out, `--limit` takes fewer
groups, `--max-cost-usd` stops. Answers are kept, so that the same command asks nothing twice; with
`--cache FILE --cache-mode readonly` everything is replayed from a cache, and nobody is asked.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.baseline_rows import baseline_rows
from benchmarks.judge_report import judge_report
from benchmarks.judge_rows import FORMS, Truths, judge_rows, jury_row, most_questions
from benchmarks.report import write
from benchmarks.row_figures import Figures, figures_of, figures_record, rivals
from benchmarks.rows import Row
from ruler import DEFAULT_RUBRIC, Rubric
from ruler.cli import exits
from ruler.cli.command import run_command
from ruler.cli.tables import number_text, say
from ruler.config import LoadedJudges, load_judges, read_settings
from ruler.errors import ConfigError
from ruler.evaluation import cluster_of, has_truth, source_of, truth_of
from ruler.records import BadLine, LabelledGroup, read_labelled
from ruler.types import judge_info

_SHOWN = 10
"""So many bad lines are named."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """The groups of a run."""

    labelled: tuple[LabelledGroup, ...]
    """With truth on every rollout, two rollouts or more, ids that are unique."""
    without_truth: int
    bad_lines: tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit status, as of `ruler score`."""
    options = _parser().parse_args(arguments)
    kept = "nothing was kept (--cache off)" if options.cache == "off" else "what judges answered is in the cache"
    return run_command(lambda: asyncio.run(_run(options)), kept=kept)


def read_dataset(paths: Sequence[str], limit: int | None = None) -> Dataset:
    """The labelled groups of all files.

    Args:
        paths: JSONL files, plain or .gz.
        limit: take only the first so many groups of each source.

    Raises:
        ConfigError: a file cannot be read, a group stands in two files, or none has truth.
    """
    labelled: dict[str, LabelledGroup] = {}
    taken: Counter[str] = Counter()
    bad_lines = []
    without_truth = 0
    for path in paths:
        for found in read_labelled(path):
            if isinstance(found, BadLine):
                bad_lines.append(str(found))
                continue
            if not has_truth(found):
                without_truth += 1
                continue
            source = source_of(found.group)
            if limit is not None and taken[source] == limit:
                continue
            if found.group.id in labelled:
                raise ConfigError(f"{path}: group_id: {found.group.id!r} stands in an earlier file, too")
            taken[source] += 1
            labelled[found.group.id] = found
    if not labelled:
        raise ConfigError(f"{', '.join(paths)}: truth: no group of two or more has it on every rollout")
    return Dataset(tuple(labelled.values()), without_truth, tuple(bad_lines))


async def _run(options: argparse.Namespace) -> int:
    start = time.perf_counter()
    dataset = read_dataset(options.groups, options.limit)
    for line in dataset.bad_lines[:_SHOWN]:
        say(f"bad line: {line}", err=True)
    if len(dataset.bad_lines) > _SHOWN:
        say(f"bad line: and {len(dataset.bad_lines) - _SHOWN} more", err=True)
    if dataset.without_truth:
        say(f"{dataset.without_truth} groups without truth on every rollout, or of one rollout, are left out", err=True)
    rubric = DEFAULT_RUBRIC if options.rubric is None else Rubric.load(options.rubric)
    rows = [_said(row, start) for row in baseline_rows(dataset.labelled)]
    if options.judge:
        rows += await _asked(options, dataset, rubric, start)
    before = time.perf_counter()
    figures = figures_of(rows, dataset.labelled)
    left_out = {"bad lines": len(dataset.bad_lines), "groups without truth": dataset.without_truth}
    report = judge_report(figures, dataset.labelled, rubric=rubric, command=_command(options), left_out=left_out)
    record = {
        "command": _command(options),
        "rubric": rubric.id,
        "without_truth": dataset.without_truth,
        "bad_lines": list(dataset.bad_lines),
        "seconds": {"all": time.perf_counter() - start, "statistics": time.perf_counter() - before},
        "groups": [_group_record(item) for item in dataset.labelled],
        "rows": [figures_record(one) for one in figures],
        "differences": [
            {"row": one.row.name, "other": other.row.name, "verdict": found.verdict, **asdict(found)}
            for one, other, found in rivals(figures)
        ],
    }
    write(report, record, options.out)
    _show_figures(figures)
    seconds = f"{time.perf_counter() - start:.0f} s, of which statistics {time.perf_counter() - before:.0f} s"
    say(f"{options.out / 'report.html'}: {len(dataset.labelled)} groups, {len(rows)} rows, {seconds}")
    reasons = (failure.partition(":")[0] for row in rows for failure in row.failures.values())
    return exits.status_of(reasons, len(dataset.bad_lines))


async def _asked(options: argparse.Namespace, dataset: Dataset, rubric: Rubric, start: float) -> list[Row]:
    truths = Truths({item.group.id: item.truth for item in dataset.labelled})
    groups = [item.group for item in dataset.labelled]
    settings = read_settings(
        options.settings,
        judge=options.judge,
        cache=options.cache,
        cache_mode=options.cache_mode,
        max_cost_usd=options.max_cost_usd,
        max_total_tokens=options.max_total_tokens,
    )
    loaded: LoadedJudges = load_judges(settings, truth=truths)
    names = Counter(judge_info(judge).name for judge in loaded.judges)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise ConfigError(f"--judge: {twice[0]!r} is given twice")
    # Before anybody is asked: hours of answers are not to find out that there is no place for them.
    options.out.mkdir(parents=True, exist_ok=True)
    questions = most_questions(groups, options.forms)
    each = ", ".join(f"{form} {count:,}" for form, count in questions.items())
    say(f"at most {sum(questions.values()):,} questions for each judge ({each}); what the cache has is free", err=True)
    rows = []
    try:
        for judge in loaded.judges:
            async for row in judge_rows(
                judge, groups, truths, rubric=rubric, forms=options.forms, concurrency=options.concurrency
            ):
                rows.append(_said(row, start))
        if len(loaded.judges) > 1:
            row = await jury_row(loaded.judges, groups, truths, rubric=rubric, concurrency=options.concurrency)
            rows.append(_said(row, start))
    finally:
        await loaded.close()
    return rows


def _said(row: Row, start: float) -> Row:
    failures = list(row.failures.values())
    failed = f", {len(failures)} failed; the first: {failures[0]}" if failures else ""
    say(f"{time.perf_counter() - start:6.1f} s  {row.name}: {len(row.answers)} groups{failed}", err=True)
    return row


def _show_figures(figures: Sequence[Figures]) -> None:
    width = max(len(one.row.name) for one in figures)
    say(f"{'':{width}}  accuracy  95 %         tau-b  top-1  ties   failed  tokens")
    for one in figures:
        row = one.agreement.overall
        interval = "" if row.accuracy_interval is None else "{:.3f}-{:.3f}".format(*row.accuracy_interval)
        tokens = "" if one.cost is None else f"{one.cost.tokens:,.0f}"
        shown = (row.accuracy, row.tau_b, row.top_1, row.tie_rate)
        accuracy, tau_b, top_1, ties = (f"{number_text(value):^5}" for value in shown)
        say(
            f"{one.row.name:{width}}  {accuracy}     {interval:11}  {tau_b}  {top_1}  {ties}  "
            f"{len(one.row.failures):6}  {tokens:>6}"
        )


def _group_record(item: LabelledGroup) -> dict[str, Any]:
    return {
        "id": item.group.id,
        "digest": item.group.rollouts_digest,
        "source": source_of(item.group),
        "cluster": cluster_of(item.group),
        "truth_kind": item.group.metadata.get("truth_kind"),
        "truth": list(truth_of(item)),
    }


def _command(options: argparse.Namespace) -> str:
    """The command without what changes no figure or is of this machine alone, such as folders and the cache."""
    parts = ["python -m benchmarks.judge_vs_truth", *(Path(path).name for path in options.groups)]
    parts += [f"--judge {judge!r}" for judge in options.judge]
    if options.limit is not None:
        parts.append(f"--limit {options.limit}")
    if tuple(options.forms) != FORMS:
        parts.append(f"--forms {','.join(options.forms)}")
    if options.rubric is not None:
        parts.append(f"--rubric {options.rubric.name}")
    if options.max_cost_usd is not None:
        parts.append(f"--max-cost-usd {options.max_cost_usd:g}")
    if options.max_total_tokens is not None:
        parts.append(f"--max-total-tokens {options.max_total_tokens}")
    return " ".join(parts)


def _forms(text: str) -> tuple[str, ...]:
    chosen = tuple(text.split(","))
    unknown = [name for name in chosen if name not in FORMS]
    if unknown:
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(FORMS)}, got {unknown[0]!r}")
    return chosen


def at_least_one(text: str) -> int:
    """A count from the command line."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.judge_vs_truth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("groups", nargs="+", metavar="GROUPS", help="JSONL files of groups with truth on every rollout; .gz works")
    add(
        "--judge",
        "-j",
        action="append",
        default=[],
        metavar="SPEC",
        help="a judge; repeatable, several are a jury, too",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="where results.json, report.md and report.html go")
    add("--limit", type=at_least_one, help="take only the first N groups of each source", metavar="N")
    add("--forms", type=_forms, default=FORMS, help=f"ways of asking, joined by commas (all: {','.join(FORMS)})")
    add("--rubric", type=Path, help="rubric file: .md, .txt or .toml", metavar="FILE")
    add("--settings", type=Path, help="TOML file of judge settings, else RULER_SETTINGS", metavar="FILE")
    add("--cache", help="where replies are kept: a file, redis://host:port/0, or off")
    add("--cache-mode", help="use; refresh: ask again; readonly: ask nothing, a miss fails the group")
    add("--max-cost-usd", type=float, help="ask nothing more before this would be passed", metavar="X")
    add("--max-total-tokens", type=at_least_one, help="as --max-cost-usd, in tokens", metavar="N")
    add("--concurrency", type=at_least_one, default=16, help="groups in flight at once", metavar="N")
    return parser


if __name__ == "__main__":
    sys.exit(main())
