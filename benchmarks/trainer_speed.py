"""Our loop against TRL's GRPOTrainer: seconds a step, peak memory, and sampling alone against `generate`."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from benchmarks.trainer_loops import COMPLETION_TOKENS, GROUP_SIZE, LOOPS, questions, save_endless_model
from trainer.environments import Start
from trainer.policy import Policy
from trainer.sampling import sample

_WARM_UP_STEPS = 2
_SEQUENCES = (1, 8, 32, 128)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this measurement."""
    parser.add_argument(
        "--completions", type=int, nargs="+", default=[32, 128], help="in a step: multiples of 8, above 64 of 64"
    )
    parser.add_argument("--rounds", type=int, default=7, help="in each, both loops train, one after the other")
    parser.add_argument("--steps", type=int, default=10, help="of each loop in a round, after two that do not count")
    parser.add_argument("--threads", type=int, default=1, help="of torch, for both")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures; for the same seed both loops draw other tokens, and equally many."""
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        save_endless_model(model)
        return {
            "threads": arguments.threads,
            "weights": AutoModelForCausalLM.from_pretrained(model).num_parameters(),
            "steps": [measure_steps(model, each, arguments.rounds, arguments.steps) for each in arguments.completions],
            "memory": [measure_memory(model, each, arguments.steps) for each in arguments.completions],
            "sampling": [measure_sampling(model, each, arguments.rounds) for each in _SEQUENCES],
        }


def measure_steps(model: Path, completions: int, rounds: int, steps: int) -> dict[str, Any]:
    """Milliseconds a step: medians over the steps of a round, and over rounds."""
    medians: dict[str, list[float]] = {}
    for seed in range(rounds):
        # Who goes first takes turns: a machine that grows slower hurts both.
        for side in sorted(LOOPS, reverse=seed % 2 == 0):
            found = LOOPS[side](model, completions=completions, steps=steps + _WARM_UP_STEPS, seed=seed)
            for part, values in (
                ("", found.seconds),
                ("_sampling", found.sampling_seconds),
                ("_on_the_clock", found.clock_seconds),
            ):
                medians.setdefault(side + part, []).append(1_000 * statistics.median(values[_WARM_UP_STEPS:]))
    return {
        "completions": completions,
        "rounds": rounds,
        "steps_a_round": steps,
        **{f"{name}_ms": statistics.median(values) for name, values in medians.items()},
        **_ratio(medians["ours"], medians["TRL"]),
    }


def measure_memory(model: Path, completions: int, steps: int) -> dict[str, Any]:
    """Peak resident memory in MB, each side in a process of its own; `before`: with the libraries of ours loaded."""
    figures: dict[str, Any] = {"completions": completions}
    for side in LOOPS:
        command = [sys.executable, "-m", "benchmarks.trainer_loops", side, str(model)]
        command += ["--completions", str(completions), "--steps", str(steps)]
        command += ["--threads", str(torch.get_num_threads())]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True)
        found = json.loads(done.stdout)
        figures |= {f"{side}_peak_mb": found["peak_megabytes"], f"{side}_before_mb": found["before_megabytes"]}
    return {**figures, "ratio": figures["ours_peak_mb"] / figures["TRL_peak_mb"]}


def measure_sampling(model: Path, sequences: int, rounds: int) -> dict[str, Any]:
    """Milliseconds for 32 tokens of so many sequences: ours with their log-probabilities and entropies."""
    policy = Policy.load(str(model))
    copies = min(GROUP_SIZE, sequences)
    prompts = [
        policy.encode_start(Start([{"role": "user", "content": text}])) for text in questions()[: sequences // copies]
    ]
    longest = max(len(prompt) for prompt in prompts)
    rows = [prompt for prompt in prompts for _ in range(copies)]
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in rows])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in rows])
    config = GenerationConfig(
        do_sample=True,
        max_new_tokens=COMPLETION_TOKENS,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        eos_token_id=sorted(policy.end_tokens),
        pad_token_id=0,
    )
    work: dict[str, Callable[[], object]] = {
        "ours": partial(
            sample,
            policy.sampling_model,
            prompts,
            max_new_tokens=[COMPLETION_TOKENS] * len(prompts),
            end_tokens=policy.end_tokens,
            temperature=1.0,
            generator=torch.Generator().manual_seed(0),
            copies=copies,
        ),
        "generate": partial(policy.model.generate, input_ids=ids, attention_mask=mask, generation_config=config),
    }
    milliseconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(_WARM_UP_STEPS + 3 * rounds):
        for name, draw in work.items():
            began = time.perf_counter()
            draw()
            milliseconds[name].append(1_000 * (time.perf_counter() - began))
    kept = {name: values[_WARM_UP_STEPS:] for name, values in milliseconds.items()}
    tokens = sequences * COMPLETION_TOKENS
    return {
        "sequences": sequences,
        **{f"{name}_ms": statistics.median(values) for name, values in kept.items()},
        **{f"{name}_tokens_per_second": 1_000 * tokens / statistics.median(values) for name, values in kept.items()},
        **_ratio(kept["ours"], kept["generate"]),
    }


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Of what was taken side by side: the median, and the range."""
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return {"ratio": statistics.median(ratios), "ratio_least": min(ratios), "ratio_most": max(ratios)}


def report(figures: Mapping[str, Any]) -> None:
    """Prints the figures as Markdown."""
    print(f"## A step of training, ms ({figures['weights'] / 1e6:.2f} M weights, threads: {figures['threads']})\n")
    print(
        "| completions | ours | of it sampling | of it after the clock | TRL | of it `generate` | ours / TRL (range) |"
    )
    print("|---|---|---|---|---|---|---|")
    for row in figures["steps"]:
        after = row["ours_ms"] - row["ours_on_the_clock_ms"]
        print(f"| {row['completions']} | {row['ours_ms']:.0f} | {row['ours_sampling_ms']:.0f} | {after:.1f} ", end="")
        print(f"| {row['TRL_ms']:.0f} | {row['TRL_sampling_ms']:.0f} | {_range(row)} |")
    print("\n## Peak memory of a process, MB\n\n| completions | ours | before the first step | TRL | ours / TRL |")
    print("|---|---|---|---|---|")
    for row in figures["memory"]:
        print(f"| {row['completions']} | {row['ours_peak_mb']:.0f} | {row['ours_before_mb']:.0f} ", end="")
        print(f"| {row['TRL_peak_mb']:.0f} | {row['ratio']:.2f} |")
    print(f"\n## Sampling {COMPLETION_TOKENS} tokens\n")
    print("| sequences | ours, ms | `generate`, ms | ours, tokens/s | `generate`, tokens/s | time, ours / `generate` |")
    print("|---|---|---|---|---|---|")
    for row in figures["sampling"]:
        print(f"| {row['sequences']} | {row['ours_ms']:.1f} | {row['generate_ms']:.1f} ", end="")
        print(f"| {row['ours_tokens_per_second']:,.0f} | {row['generate_tokens_per_second']:,.0f} | {_range(row)} |")


def _range(row: Mapping[str, float]) -> str:
    return f"{row['ratio']:.2f} ({row['ratio_least']:.2f} to {row['ratio_most']:.2f})"
