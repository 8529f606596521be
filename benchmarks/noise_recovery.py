"""Whether pair-equivalent noise is what it says: a simulated judge of known flip rate, measured as any judge is.

    python -m benchmarks.noise_recovery DATA/gsm8k.jsonl.gz             # 50 seeds, about two minutes

Each seed is another judge that exchanges right and wrong of each rollout with the same probability, asked through the
whole pipeline; its noise is estimated as `ruler evaluate` does. Printed are the mean estimate, its bias, and how many
of the 95 % intervals hold the rate.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.judge_rows import Truths
from benchmarks.judge_vs_truth import at_least_one, read_dataset
from judges.simulated import Behaviour, SimulatedJudge
from ruler import Ruler
from ruler.cli.command import run_command
from ruler.comparison import pair_noise
from ruler.errors import GroupError
from ruler.evaluation import agreements, scores_of
from ruler.records import LabelledGroup

RATES = (0.05, 0.10, 0.20, 0.40)


@dataclass(frozen=True, slots=True)
class Recovery:
    """The estimates of one rate."""

    rate: float
    estimates: tuple[float, ...]
    """One a seed."""
    covered: int
    """How many intervals hold the rate."""

    @property
    def bias(self) -> float:
        """Mean estimate less the rate."""
        return statistics.fmean(self.estimates) - self.rate


def main() -> int:
    """Prints a line for every rate; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="+", metavar="GROUPS", help="JSONL files of groups with truth of 0 and 1")
    parser.add_argument("--seeds", type=at_least_one, default=50)
    options = parser.parse_args()
    return run_command(lambda: _run(options.groups, options.seeds))


def _run(paths: Sequence[str], seeds: int) -> int:
    labelled = read_dataset(paths).labelled
    print(f"{len(labelled)} groups, {seeds} seeds")
    print("flip rate  mean estimate  bias, points  intervals that hold it")
    for rate in RATES:
        found = asyncio.run(recover(labelled, rate, range(seeds)))
        mean = statistics.fmean(found.estimates)
        print(f"{rate:9.2f}  {mean:13.4f}  {100 * found.bias:+12.2f}  {found.covered} of {seeds}")
    return 0


async def recover(labelled: Sequence[LabelledGroup], rate: float, seeds: Sequence[int]) -> Recovery:
    """The noise estimates of judges that flip at this rate, one a seed.

    Raises:
        GroupError: no group has truth of 0 and 1 that differs.
    """
    groups = [item.group for item in labelled]
    estimates = []
    covered = 0
    truths = Truths({item.group.id: item.truth for item in labelled})
    for seed in seeds:
        judge = SimulatedJudge(truths, quality_name="truth", behaviour=Behaviour(flip=rate, seed=seed))
        ruler = Ruler(judge, notes=False)
        truths.tell(ruler, [(group, group) for group in groups])
        results = await ruler.score_many(groups)
        noise = pair_noise(agreements(labelled, [scores_of(result) for result in results])).noise.overall
        if noise.value is None:
            raise GroupError("groups: none has truth of 0 and 1 that differs")
        estimates.append(noise.value)
        covered += noise.interval is not None and noise.interval[0] <= rate <= noise.interval[1]
    return Recovery(rate, tuple(estimates), covered)


if __name__ == "__main__":
    sys.exit(main())
