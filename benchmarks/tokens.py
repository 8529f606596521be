"""How many tokens a group takes: our layout, with and without shared text, against the original's.

    python -m benchmarks.tokens                       # all groups in RULER_DATA, about a minute
    python -m benchmarks.tokens --data DIR --json out.json

One order, every rollout whole, cl100k; system message, user message, nothing of a chat template. The breakdown says
what of our layout saved how much. Times are of this machine; a group is timed from canonical messages to a prompt.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.original_layout import original_parts
from benchmarks.real_groups import add_data_argument, data_paths
from ruler import DEFAULT_RUBRIC, Group
from ruler.messages import Message
from ruler.packing import PackedGroup, PackedPrompt, PromptOptions, pack
from ruler.packing.transcript import compact_json
from ruler.records import read_groups
from ruler.tokens import token_counter

_REPEATS = 3
_TOGETHER = "tau-bench and tau2"
_KIND = re.compile(
    r"^\[(?P<kind>system|user|assistant|call|result|own tools)\b|\[text (?P<number>[0-9]+)\]", re.MULTILINE
)
_KINDS = {"result": "tool results", "call": "arguments of calls", "own tools": "tool definitions"}


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens of one group."""

    source: str
    original: int
    unshared: int
    """Ours with `shared_text=False`."""
    ours: int
    num_texts: int
    num_references: int
    ms: float
    saved: Mapping[str, int]
    """What -> tokens that it saves against the original; together `original - ours`."""


def main() -> None:
    """Measures all groups and prints Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_argument(parser)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    paths = data_paths(arguments.data)
    tokenizer, count = token_counter(None)
    if tokenizer != "cl100k":
        sys.exit(f"token counts need cl100k, found {tokenizer}: pip install 'ruler-judge[litellm]'")
    rows = [row for path in paths for row in measure(path, count)]
    tables = {
        source: summary([row for row in rows if row.source == source]) for source in sorted({r.source for r in rows})
    }
    together = [row for row in rows if row.source.startswith("tau")]
    if together:
        tables[_TOGETHER] = summary(together)
    report(tables)
    if arguments.json:
        arguments.json.write_text(json.dumps(tables, indent=1) + "\n", encoding="utf-8")


def measure(path: Path, count: Callable[[str], int]) -> Iterator[Row]:
    """One row a group of this file."""
    for record, group in zip(_records(path), read_groups(str(path)), strict=True):
        assert isinstance(group, Group), group
        yield _measure(record, group, count)


def _measure(record: Mapping[str, Any], group: Group, count: Callable[[str], int]) -> Row:
    packed, seconds = _timed(group)
    prompt = _whole(packed)
    tokens = prompt.tokens(count)
    unshared = _whole(pack(group, DEFAULT_RUBRIC, PromptOptions(shared_text=False))).tokens(count)["total"]
    words, context, trajectories = original_parts(
        record["task"]["messages"], [r["messages"] for r in record["rollouts"]]
    )
    original = count("".join([words, context, *trajectories]))
    shown = {rollout.rollout_ids[0] for rollout in packed.rollouts}
    listed = [text for rollout, text in zip(group.rollouts, trajectories, strict=True) if rollout.id in shown]
    fences = sum(count(f"<rollout {label}>\n</rollout {label}>\n") for label in prompt.labels)
    saved = Counter(
        {
            "fixed words and fences": count(words) - tokens["rubric and contract"] - tokens["closing line"] - fences,
            "equal rollouts once": sum(map(count, trajectories)) - sum(map(count, listed)),
            "JSON results without spaces": _spaces(group, shown, count),
            **_shared(packed, prompt, count),
        }
    )
    text_saved = original - unshared - saved["fixed words and fences"] - saved["equal rollouts once"]
    saved["plain transcript instead of JSON"] = text_saved - saved["JSON results without spaces"]
    # Text is cut into tokens across the seams of parts.
    saved["seams"] = original - tokens["total"] - sum(saved.values())
    references = sum(text.count("[text ") for text in prompt.texts.values())
    return Row(
        record["source"],
        original,
        unshared,
        tokens["total"],
        len(packed.shared_texts),
        references,
        1000 * seconds,
        saved,
    )


def _spaces(group: Group, shown: set[str], count: Callable[[str], int]) -> int:
    """What compact tool results save in the rollouts that are shown."""

    def save(messages: Sequence[Message]) -> int:
        results = (part for m in messages if m.role == "tool" for part in m.content if isinstance(part, str))
        return sum(count(text) - count(compact_json(text)) for text in results)

    return save(group.task) + sum(save(rollout.messages) for rollout in group.rollouts if rollout.id in shown)


def _shared(packed: PackedGroup, prompt: PackedPrompt, count: Callable[[str], int]) -> dict[str, int]:
    """What shared text saves by the kind of turn that holds it; a text's own cost falls to its first reference."""
    cost = {number: count(f"[text {number}]\n{text}\n") for number, text in packed.shared_texts.items()}
    saved: Counter[str] = Counter()
    if cost:
        saved["shared text: its block's words"] = sum(cost.values()) - count(dict(prompt.parts)["shared text"])
    for text in prompt.texts.values():
        kind = "assistant"  # a single plain answer has no header
        for match in _KIND.finditer(text):
            kind = match["kind"] or kind
            if number := int(match["number"] or 0):
                name = f"shared text: {_KINDS.get(kind, f'{kind} turns')}"
                saved[name] += count(packed.shared_texts[number]) - count(match[0]) - cost.pop(number, 0)
    return dict(saved)


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Means a group, the ratios of the sums, and the shares of the original's tokens that each thing saved."""
    original = sum(row.original for row in rows)
    saved: Counter[str] = Counter()
    for row in rows:
        saved.update(row.saved)
    return {
        "groups": len(rows),
        "original": statistics.mean(row.original for row in rows),
        "unshared": statistics.mean(row.unshared for row in rows),
        "ours": statistics.mean(row.ours for row in rows),
        "unshared_ratio": sum(row.unshared for row in rows) / original,
        "ratio": sum(row.ours for row in rows) / original,
        "texts": statistics.mean(row.num_texts for row in rows),
        "references": statistics.mean(row.num_references for row in rows),
        "median_ms": statistics.median(row.ms for row in rows),
        "largest_ms": max(row.ms for row in rows),
        "saved": {name: tokens / original for name, tokens in saved.most_common()},
    }


def report(tables: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints the figures as Markdown."""
    print("## Tokens a group (cl100k), mean\n")
    print("| source | groups | original | ours, nothing shared | ours | ratio | texts | references | ms median | max |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for source, row in tables.items():
        print(f"| {source} | {row['groups']} | {row['original']:,.0f} | {row['unshared']:,.0f} ", end="")
        print(f"({row['unshared_ratio']:.3f}) | {row['ours']:,.0f} | {row['ratio']:.3f} | {row['texts']:.1f} ", end="")
        print(f"| {row['references']:.1f} | {row['median_ms']:.2f} | {row['largest_ms']:.2f} |")
    print("\n## What saved how much, % of the original's tokens\n")
    print(f"| | {' | '.join(tables)} |\n|---|{'---|' * len(tables)}")
    for name in sorted({name for row in tables.values() for name in row["saved"]}):
        shares = (f"{100 * row['saved'][name]:.1f}" if name in row["saved"] else "" for row in tables.values())
        print(f"| {name} | {' | '.join(shares)} |")
    everything = (f"{100 * (1 - row['ratio']):.1f}" for row in tables.values())
    print(f"| **all** | {' | '.join(everything)} |")


def _timed(group: Group) -> tuple[PackedGroup, float]:
    """The packed group, and seconds of the fastest of several runs: the others waited for the machine."""
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        packed = pack(group, DEFAULT_RUBRIC)
        _whole(packed)
        seconds.append(time.perf_counter() - start)
    return packed, min(seconds)


def _records(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _whole(packed: PackedGroup) -> PackedPrompt:
    return packed.prompt(range(len(packed.rollouts)))


if __name__ == "__main__":
    main()
