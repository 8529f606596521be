"""What becomes of real groups in small windows: how many stand whole, cut, or in blocks, and whether any is too long.

    python -m benchmarks.windows            # tau-bench and tau2 of RULER_DATA at 8k, 16k and 32k, about a minute

Two judges are planned for: one that counts with its own tokenizer (cl100k), and one whose tokenizer nobody knows, so
that a bound stands in. What is over the window is counted with cl100k for both, the whole prompt at once.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence

from benchmarks.real_groups import add_data_argument, data_paths
from ruler import DEFAULT_RUBRIC, Group, PackingError
from ruler.packing import PromptOptions
from ruler.plan import Planner, PlanOptions
from ruler.records import BadLine, read_groups
from ruler.tokens import token_counter
from ruler.types import JudgeInfo

WINDOWS = (8_000, 16_000, 32_000)


def main() -> None:
    """Prints one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_argument(parser)
    arguments = parser.parse_args()
    tokenizer, count = token_counter(None)
    if tokenizer != "cl100k":
        sys.exit(f"token counts need cl100k, found {tokenizer}: pip install 'ruler-judge[litellm]'")
    heads = ("groups", "window", "tokens by", "whole", "cut", "in blocks", "too long", "prompts", "over", "fullest")
    print(f"| {' | '.join(heads)} | ms a group |\n{'|---' * (len(heads) + 1)}|")
    for name in ("taubench-airline", "tau2"):
        (path,) = data_paths(arguments.data, name)
        groups = [group for group in read_groups(str(path)) if not isinstance(group, BadLine)]
        for window in WINDOWS:
            for own in (True, False):
                print(measure(name, groups, window, count, own=own))


def measure(name: str, groups: Sequence[Group], window: int, count: Callable[[str], int], *, own: bool) -> str:
    """One row: what became of the groups in this window."""
    info = JudgeInfo("benchmark", "counter", context_tokens=window, count_tokens=count if own else None)
    found: Counter[str] = Counter()
    prompts = over = 0
    fullest = 0.0
    seconds = 0.0
    for group in groups:
        start = time.perf_counter()
        try:
            plan = Planner(group, DEFAULT_RUBRIC, PromptOptions(), PlanOptions()).plan("counter", info)
        except PackingError:
            found["too long"] += 1
            continue
        finally:
            seconds += time.perf_counter() - start
        found["in blocks" if plan.in_blocks else "cut" if any(plan.packed.cut_chars.values()) else "whole"] += 1
        for blocks in plan.orders:
            for prompt in blocks:
                # What `ruler.window` leaves for the reply is more than this; the model's own words take the rest.
                total = prompt.tokens(count)["total"] + 88 * len(prompt.labels)
                prompts += 1
                over += total > window
                fullest = max(fullest, total / window)
    share = [f"{found[kind] / len(groups):.0%}" for kind in ("whole", "cut", "in blocks", "too long")]
    by = "cl100k" if own else "a bound"
    cells = [name, f"{window:,}", by, *share, str(prompts), str(over), f"{fullest:.0%}"]
    return f"| {' | '.join(cells)} | {1000 * seconds / len(groups):.0f} |"


if __name__ == "__main__":
    main()
