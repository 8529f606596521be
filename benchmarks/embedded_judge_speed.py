"""Milliseconds that the embedded judge takes for a group of 8 on one core, and a simulated judge for the same groups.

    python -m benchmarks.embedded_judge_speed FOLDER     # in a process of its own; prints JSON

Whole calls of `Ruler`, packing included: one group after the other, and 32 groups in flight.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

IN_FLIGHT = 32
_ROUNDS = 5
_ALONE = 64
"""Groups of a round, one after the other."""
_BATCHES = 6
"""Times IN_FLIGHT groups of a round."""


@dataclass(frozen=True, slots=True)
class Times:
    """Each the median over rounds."""

    import_seconds: float
    """Of the library and the judge's code."""
    load_seconds: float
    """From there to the scores of a first group: numpy, the weights."""
    alone_ms: float
    """A group, when nothing else is asked."""
    batched_ms: float
    """A group, with IN_FLIGHT in flight."""
    simulated_alone_ms: float
    simulated_batched_ms: float


def measure_times(folder: Path) -> Times:
    """The times of this judge, taken in a process of its own with one thread on one core.

    Raises:
        RuntimeError: that process failed.
    """
    one_thread = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, "-m", "benchmarks.embedded_judge_speed", str(folder)]
    done = subprocess.run(command, env={**os.environ, **one_thread}, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return Times(**json.loads(done.stdout))


def _take(folder: str) -> Times:
    if hasattr(os, "sched_setaffinity"):
        # One thread of numpy is not yet one core: the event loop has another.
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    began = time.perf_counter()
    from judges.embedded import EmbeddedJudge
    from ruler.scoring import Ruler

    imported = time.perf_counter()
    from judges.simulated import SimulatedJudge
    from ruler.types import Group, Judge
    from trainer.distill.sums.graded_sets import OPTIONS, SIZE, draw_set

    drawn = draw_set("plain", SIZE, "held_out", IN_FLIGHT * _BATCHES, seed=1)
    groups = [group.group(str(place)) for place, group in enumerate(drawn)]

    async def alone(judge: Judge) -> float:
        ruler = Ruler(judge, notes=OPTIONS.notes)
        times = []
        for group in groups[:_ALONE]:
            start = time.perf_counter()
            await ruler.score(group)
            times.append(time.perf_counter() - start)
        return 1000 * statistics.median(times)

    async def batched(judge: Judge) -> float:
        ruler = Ruler(judge, notes=OPTIONS.notes, concurrency=IN_FLIGHT)
        start = time.perf_counter()
        await ruler.score_many(groups)
        return 1000 * (time.perf_counter() - start) / len(groups)

    async def first(group: Group) -> EmbeddedJudge:
        judge = EmbeddedJudge(folder)
        await Ruler(judge, notes=OPTIONS.notes).score(group)
        return judge

    started = time.perf_counter()
    embedded = asyncio.run(first(groups[0]))
    loaded = time.perf_counter()
    simulated = SimulatedJudge()
    rounds = [
        [asyncio.run(times(judge)) for judge in (embedded, simulated) for times in (alone, batched)]
        for _ in range(_ROUNDS)
    ]
    return Times(imported - began, loaded - started, *map(statistics.median, zip(*rounds, strict=True)))


if __name__ == "__main__":
    print(json.dumps(asdict(_take(sys.argv[1]))))
