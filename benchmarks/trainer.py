"""How fast the trainer is, how long it waits for a judge, and what its bundled tasks come to.

    python -m benchmarks.trainer speed                   # against TRL's GRPOTrainer: step, memory, sampling; 5 minutes
    python -m benchmarks.trainer stall                   # waiting for a judge of one second; 6 minutes
    python -m benchmarks.trainer tasks                   # both tasks with truth as the reward, 3 seeds; 10 minutes
    python -m benchmarks.trainer speed --json out.json

Times are of this machine and this run; compare the ratios. `speed` needs TRL (`make engines`).
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from benchmarks import trainer_speed, trainer_stall, trainer_tasks

MEASURES = {"speed": trainer_speed, "stall": trainer_stall, "tasks": trainer_tasks}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measures = parser.add_subparsers(dest="measure", required=True)
    for name, module in MEASURES.items():
        one = measures.add_parser(name, help=module.__doc__, description=module.__doc__)
        module.add_arguments(one)
        one.add_argument("--json", type=Path, help="also write the figures here")
    return parser


def main() -> None:
    """Takes one measurement and prints Markdown tables."""
    arguments = parser().parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    module = MEASURES[arguments.measure]
    figures = module.measure(arguments)
    module.report(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
