"""Truth, handwritten rules, judges and controls as rewards, head to head: same policies, same problems, many seeds.

    python -m benchmarks.head_to_head --task arithmetic --seeds 5 --out runs/head_to_head
    python -m benchmarks.head_to_head --judge openai/gpt-5-mini --arms rules openai/gpt-5-mini --out DIR
    python -m benchmarks.head_to_head --task inbox --list             # the arms, by name

Writes report.html, report.md, figures/, results.json, and spent.json (time and money); the runs are in OUT/runs. The
same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import get_args

from benchmarks.head_to_head.arms import DEFAULT_JUDGES, TRUTH, Arm, arms_of, chosen
from benchmarks.head_to_head.findings import ArmFindings, find
from benchmarks.head_to_head.outcomes import Experiment
from benchmarks.head_to_head.plan import Plan
from benchmarks.head_to_head.report import report_of
from benchmarks.head_to_head.results import results, spent
from benchmarks.head_to_head.run_files import write_object
from benchmarks.head_to_head.schedule import run_all
from benchmarks.head_to_head.wording import amount_of, as_share, verdict_of
from benchmarks.report import write
from ruler.cli.command import run_command
from ruler.config import load_judges, read_settings
from ruler.errors import ConfigError
from ruler.spec import Spec
from ruler.truth_lookup import TruthLookup
from trainer.settings import Settings
from trainer.tasks.bundled import TaskName, bundled_task

_STEPS: dict[TaskName, int] = {"arithmetic": 80, "inbox": 40}
_PROMPTS_PER_STEP: dict[TaskName, int] = {"arithmetic": 16, "inbox": 32}
_EVALUATIONS = 10
"""Over a run: enough for a curve to be fitted."""
_EVALUATION_PROBLEMS = 400


def main() -> int:
    """Runs the experiment and writes the report; returns the exit status, 1 where a run failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.head_to_head",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--task", choices=get_args(TaskName), default="arithmetic")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="how many: 0 to N - 1 (default: %(default)s)")
    parser.add_argument("--steps", type=int, metavar="N", help="of each run (default: 80; for inbox 40)")
    parser.add_argument(
        "--prompts-per-step", type=int, metavar="N", help="groups in a step (default: 16; for inbox 32)"
    )
    parser.add_argument("--group-size", type=int, default=8, metavar="N", help="rollouts in a group (default: 8)")
    parser.add_argument(
        "--judge", action="append", metavar="SPEC", help="may be repeated (default: embedded; for inbox none)"
    )
    parser.add_argument("--arms", nargs="+", metavar="NAME", help="these alone, and truth (default: all)")
    parser.add_argument("--list", action="store_true", help="list the arms, and end")
    parser.add_argument(
        "--margin", type=float, default=0.02, help="truth that differs by less is equal (default: %(default)s)"
    )
    parser.add_argument(
        "--problems", type=int, default=2000, metavar="N", help="held out, in the end (default: %(default)s)"
    )
    parser.add_argument("--processes", type=int, default=_cores(), metavar="N", help="default: one a core")
    parser.add_argument("--out", type=Path, default=Path("runs/head_to_head"), metavar="DIR")
    options = parser.parse_args()
    return run_command(lambda: _main(options), kept="the same command goes on with what is missing")


def _main(options: argparse.Namespace) -> int:
    task: TaskName = options.task
    judges = options.judge or DEFAULT_JUDGES[task]
    for spec in judges:
        Spec.parse(spec)  # refuses one with a key in it before it is a name that is shown
    arms = chosen(arms_of(task, judges), options.arms)
    if options.list:
        for arm in arms:
            print(f"{arm.name:32}  {arm.says}")
        return 0
    _check(options)
    asyncio.run(_check_judges(arms))
    steps = _STEPS[task] if options.steps is None else options.steps
    settings = Settings(
        steps=steps,
        prompts_per_step=_PROMPTS_PER_STEP[task] if options.prompts_per_step is None else options.prompts_per_step,
        group_size=options.group_size,
        evaluate_every=max(1, steps // _EVALUATIONS),
        held_out_problems=min(_EVALUATION_PROBLEMS, options.problems),
    )
    seeds = tuple(range(options.seeds))
    cache = str(options.out / "judge_cache.sqlite3")
    plans = [Plan(task=task, arm=arm, settings=settings, num_problems=options.problems, cache=cache) for arm in arms]
    described = {"task": task, **asdict(settings), "num_problems": options.problems, "margin": options.margin}
    del described["seed"]
    outcomes = run_all(plans, seeds, options.out, described=described, processes=options.processes, show=_say)
    experiment = Experiment(
        task=task,
        steps=steps,
        seeds=seeds,
        prompts_per_step=settings.prompts_per_step,
        group_size=settings.group_size,
        arms=outcomes,
    )
    findings = find(experiment, margin=options.margin)
    report = report_of(experiment, findings, _facts(options, experiment))
    write(report, results(experiment, findings), options.out)
    write_object(options.out / "spent.json", spent(experiment))
    for name, found in findings.arms.items():
        print(_line(name, found, options.margin))
    print(f"\n{report.lead}\n\n{options.out / 'report.html'}")
    return int(any(outcome.failures for outcome in outcomes))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check(options: argparse.Namespace) -> None:
    """Before the first minute is spent."""
    for name, least in (("seeds", 1), ("processes", 1), ("problems", 1)):
        if getattr(options, name) < least:
            raise ConfigError(f"--{name}: expected at least {least}, got {getattr(options, name)}")
    most = len(bundled_task(options.task).held_out)
    if options.problems > most:
        raise ConfigError(f"--problems: {options.task} has {most} problems held out, got {options.problems}")
    if not 0 < options.margin < 1:
        raise ConfigError(f"--margin: expected a share between 0 and 1, got {options.margin}")


async def _check_judges(arms: Sequence[Arm]) -> None:
    """Raises ConfigError for a judge that cannot be had; nobody is asked."""
    for spec in dict.fromkeys(arm.judge for arm in arms if arm.judge and arm.section == "rewards"):
        await load_judges(read_settings(judge=spec, cache="off"), truth=TruthLookup()).close()


def _facts(options: argparse.Namespace, experiment: Experiment) -> list[tuple[str, str]]:
    return [
        ("command", f"python -m benchmarks.head_to_head {shlex.join(sys.argv[1:])}"),
        ("task", experiment.task),
        ("seeds", str(len(experiment.seeds))),
        ("steps", f"{experiment.steps}, each {experiment.prompts_per_step} groups of {experiment.group_size}"),
        ("held-out problems", f"{options.problems:,}, each tried once sampled and once greedily"),
        ("margin", f"{options.margin:g} of truth"),
        (
            "software",
            f"Python {platform.python_version()}, torch {version('torch')}, transformers {version('transformers')}",
        ),
    ]


def _line(name: str, found: ArmFindings, margin: float) -> str:
    """Final truth, its difference to that of the truth arm, and how many seeds would show two points."""
    line = f"{name:32}  {amount_of(as_share(found.truth_sampled)):24}"
    if name == TRUTH or found.truth_sampled.value is None:
        return line.rstrip()
    less = found.less_truth
    line += f"  {amount_of(less.mean, signed=True)}, {verdict_of(less, f'{margin:g}')}"
    return line if less.seeds_needed is None else f"{line}; two points take {less.seeds_needed:,} seeds"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
