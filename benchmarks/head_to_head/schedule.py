"""All runs of an experiment, in as many processes as there are to be; each process does one after the other.

Models are their business alone: who gives them their work does without transformers, which takes seconds to load.

Whatever happens, what is done stays done: the same experiment goes on with what is missing.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import logging
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.head_to_head.arms import Arm
from benchmarks.head_to_head.outcomes import ArmOutcome
from benchmarks.head_to_head.plan import Plan
from benchmarks.head_to_head.run_files import read_object, read_run, require_same, write_object
from ruler.errors import ConfigError, RulerError
from trainer.tasks.bundled import TaskName, bundled_task

_PARENT_SECONDS = 0.1
"""Between looks whether the process that began this one is still there."""


class ProcessKilled(RulerError):
    """One of the processes has gone, and with it what it was doing."""

    code = "killed"


def run_all(
    plans: Sequence[Plan],
    seeds: Sequence[int],
    out: Path,
    *,
    described: Mapping[str, Any],
    processes: int,
    show: Callable[[str], None],
) -> tuple[ArmOutcome, ...]:
    """Does what has not been done yet, and returns what came of each arm.

    A run that fails (its judge has no scores for most groups, say) leaves the others alone; it is tried again when the
    experiment is run again.

    Args:
        plans: one for each arm, all of one task; the seed in its settings is replaced.
        seeds: of each arm.
        out: the experiment's folder.
        described: what makes the experiment beside its arms and seeds, to which more may come; plain JSON values. Kept
            in `experiment.json` before anything is trained, and an experiment with others does not go on here.
        processes: how many work at a time; the numbers do not depend on it.
        show: is given a line of text now and then.

    Raises:
        ConfigError: another experiment is in the folder, another process is at work in it, or a judge cannot be had.
        ProcessKilled: a process has gone, for want of memory perhaps.
    """
    num_runs = len(plans) * len(seeds)
    failures: dict[tuple[str, int], str] = {}
    task, num_problems = plans[0].task, plans[0].num_problems
    began = time.monotonic()
    with _locked(out), _workers(min(processes, num_runs)) as workers:
        _check_same(out / "experiment.json", described)
        waiting: dict[Future[Any], tuple[Plan | None, int]] = {
            workers.submit(_prepare, task, seed, num_problems, out): (None, seed) for seed in seeds
        }
        done = 0
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                plan, seed = waiting.pop(future)
                if plan is None:
                    policy = future.result()
                    for one in plans:
                        seeded = replace(one, settings=replace(one.settings, seed=seed))
                        folder = _folder(out, one.arm, seed)
                        waiting[workers.submit(_run, seeded, policy, folder)] = (one, seed)
                    continue
                done += 1
                failure = future.result()
                if failure is not None:
                    failures[plan.arm.name, seed] = failure
                minutes = (time.monotonic() - began) / 60
                show(
                    f"{done} of {num_runs} runs, {minutes:.1f} min: {plan.arm.name}, seed {seed}"
                    f"{f': failed: {failure}' if failure else ''}"
                )
        return tuple(_outcome(plan.arm, seeds, out, failures) for plan in plans)


def _outcome(arm: Arm, seeds: Sequence[int], out: Path, failures: Mapping[tuple[str, int], str]) -> ArmOutcome:
    return ArmOutcome(
        arm=arm,
        runs=tuple(
            read_run(_folder(out, arm, seed), out / f"start-{seed}.json", seed)
            for seed in seeds
            if (arm.name, seed) not in failures
        ),
        failures={seed: failures[arm.name, seed] for seed in seeds if (arm.name, seed) in failures},
    )


def _check_same(path: Path, described: Mapping[str, Any]) -> None:
    """Raises ConfigError where the folder has another experiment."""
    if not path.exists():
        write_object(path, described)
    found, wanted = read_object(path), json.loads(json.dumps(described))
    require_same("experiment", path.parent, found, wanted, names={**found, **wanted})


def _folder(out: Path, arm: Arm, seed: int) -> Path:
    """Of a run: readable, and another one for each name of an arm, whatever characters it has."""
    plain = re.sub(r"[^a-z0-9.]+", "-", arm.name.lower()).strip("-.")[:40]
    return out / "runs" / f"{plain}-{hashlib.sha256(arm.name.encode()).hexdigest()[:6]}" / f"seed-{seed}"


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"out: another process is at work in {out}") from error
        yield


@contextmanager
def _workers(processes: int) -> Iterator[ProcessPoolExecutor]:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # numpy's, read when it is loaded
    workers = ProcessPoolExecutor(
        processes,
        # Not forked: a process that has used torch cannot be.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(os.getpid(),),
    )
    try:
        yield workers
    except BrokenProcessPool as error:
        raise ProcessKilled(
            "a process was killed, for want of memory perhaps: fewer --processes take less; the same command goes on "
            "with what is missing"
        ) from error
    finally:
        # All work is done, or is to be given up: whoever is still starting need not be waited for.
        workers.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.kill()


def _begin(parent: int) -> None:
    """What a worker does first: it has one thread, as every run has, and does not outlive who began it."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, too, and ends this process
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_SECONDS)
    os._exit(1)


def _prepare(task: TaskName, seed: int, num_problems: int, out: Path) -> Path:
    """The folder of the policy that all arms of the seed start from, warmed up and measured."""
    from benchmarks.head_to_head.runs import measure_start
    from trainer.warm_up import warm_up

    with _shown_in(out / f"start-{seed}.log"):
        policy = asyncio.run(warm_up(bundled_task(task), seed=seed, show=_say))
        measure_start(task, policy, num_problems, seed, out)
    return policy


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _run(plan: Plan, policy: Path, folder: Path) -> str | None:
    """Why the run did not come to its end, in one line; None where it did.

    Raises:
        ConfigError: as `run`; the same would happen to others.
    """
    from benchmarks.head_to_head.runs import run

    try:
        with _shown_in(folder / "log.txt"):
            run(plan, policy, folder)
    except ConfigError:
        raise
    except (RulerError, OSError, RuntimeError, MemoryError) as error:  # torch has no errors of its own
        return " ".join(str(error).split())
    return None


@contextmanager
def _shown_in(path: Path) -> Iterator[None]:
    """Keeps what a run shows out of the terminal, where several would write over each other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file, redirect_stderr(file):
        handler = logging.lastResort
        logging.lastResort = logging.StreamHandler(file)
        try:
            yield
        finally:
            logging.lastResort = handler
