"""The examples and the page about the trainer: they run, and say what is so."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import tyro  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

import benchmarks.trainer  # noqa: E402
from examples import gsm8k_grpo  # noqa: E402
from examples.gsm8k_grpo import WordProblem  # noqa: E402
from ruler.errors import ConfigError  # noqa: E402
from tests.conftest import ROOT  # noqa: E402
from trainer.command_line import CommandLine  # noqa: E402
from trainer.environments import Problem  # noqa: E402
from trainer.metrics import METRICS  # noqa: E402
from trainer.monitor import read_lines  # noqa: E402
from trainer.policy import Policy  # noqa: E402
from trainer.settings import Settings  # noqa: E402
from trainer.warm_up import main as warm_up_main  # noqa: E402

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs" / "trainer.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [
    line
    for block in re.findall(r"```\n(.*?)```", PAGE, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if " -m " in line
]
PROBLEMS = [
    {
        "question": f"A baker fills {trays} trays with {rolls} rolls each and sells {sold}. How many are left?",
        "answer": f"{trays} times {rolls} is {trays * rolls}, less {sold}.\n#### {trays * rolls - sold}",
    }
    for trays, rolls, sold in zip(range(3, 13), range(8, 38, 3), range(4, 24, 2), strict=True)
]


@pytest.fixture
def problems_file(tmp_path: Path) -> Path:
    """Ten made-up problems."""
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(problem) + "\n" for problem in PROBLEMS), encoding="utf-8")
    return path


# --- GSM8K ----------------------------------------------------------------------

SHORT = Settings(steps=2, prompts_per_step=2, group_size=3, learning_rate=1e-6, held_out_problems=2)


def run_gsm8k(problems: Path, out: Path, policy: Path, **options: Any) -> list[dict[str, Any]]:
    """Trains on a CPU, and returns the lines of the steps."""
    gsm8k_grpo.main(problems, out, str(policy), device="cpu", dtype="float32", settings=SHORT, **options)
    return [line for line in read_lines(out / "metrics.jsonl") if "reward/mean" in line]


@pytest.mark.parametrize("reward", ["judge", "rules", "truth"])
def test_the_recipe_trains_by_every_reward(problems_file: Path, tmp_path: Path, chat_model: Path, reward: Any) -> None:
    out = tmp_path / "run"
    lines = run_gsm8k(problems_file, out, chat_model, reward=reward, judge="simulated?quality=hash")
    assert [line["groups/failed"] for line in lines] == [0, 0]
    assert all((line["judge/calls"] > 0) == (reward == "judge") for line in lines)
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert Policy.load(str(out / "policy")).context_tokens == Policy.load(str(chat_model)).context_tokens
    assert json.loads((out / "settings.json").read_text())["reward"] == reward


def test_the_recipe_goes_on_and_pays_for_no_answer_twice(problems_file: Path, tmp_path: Path, chat_model: Path) -> None:
    first = run_gsm8k(problems_file, tmp_path / "one", chat_model, judge="simulated?quality=hash")
    again = run_gsm8k(problems_file, tmp_path / "two", chat_model, judge="simulated?quality=hash")
    assert [line["reward/mean"] for line in first] == [line["reward/mean"] for line in again]
    assert sum(line["judge/calls"] for line in first) > 0
    assert sum(line["judge/calls"] for line in again) == 0


def test_the_command_line_of_the_recipe_has_all_settings(problems_file: Path, tmp_path: Path, chat_model: Path) -> None:
    options = "--steps 1 --prompts-per-step 1 --group-size 2 --held-out-problems 1 --no-look-ahead --reward rules"
    command = [sys.executable, "-m", "examples.gsm8k_grpo", "--data", str(problems_file), "--policy", str(chat_model)]
    out = tmp_path / "run"
    subprocess.run(
        [*command, *options.split(), "--device", "cpu", "--dtype", "float32", "--out", str(out)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        timeout=300,
    )
    settings = json.loads((out / "settings.json").read_text())
    assert (settings["steps"], settings["look_ahead"], settings["learning_rate"]) == (1, False, 1e-6)
    assert (out / "policy" / "model.safetensors").exists()


def test_no_problem_is_trained_on_and_held_out(problems_file: Path) -> None:
    with problems_file.open("a", encoding="utf-8") as file:
        file.write(json.dumps(PROBLEMS[0]) + "\n")
    task = gsm8k_grpo.gsm8k(problems_file)

    def questions(problems: Sequence[Problem]) -> list[str]:
        return [environment.question for problem in problems if isinstance(environment := problem(), WordProblem)]

    train, held_out = questions(task.train), questions(task.held_out)
    assert len(train) == 8
    assert len(held_out) == 2
    assert {*train, *held_out} == {problem["question"] for problem in PROBLEMS}


@pytest.mark.parametrize(
    ("answer", "truth"),
    [
        ("<reasoning>\n40 + 2\n</reasoning>\n<answer>\n42\n</answer>", 1.0),
        ("<answer>$42.00</answer>", 1.0),
        ("<answer>\n41\n</answer>", 0.0),
        ("It is 42.", 0.0),
        ("", 0.0),
        (None, 0.0),  # cut off
    ],
)
async def test_truth_is_the_number_in_the_tags(answer: str | None, truth: float) -> None:
    attempt = WordProblem("How many?", "40 and 2 are 42.\n#### 42")
    start = await attempt.reset()
    assert "42" not in str(start.messages)
    if answer is not None:
        step = await attempt.step({"role": "assistant", "content": answer})
        assert step.done
    assert attempt.truth() == truth


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "How many?"}', "expected a question and an answer"),
        ("[]", "expected a question and an answer"),
        ("{", "expected a question and an answer"),
        ('{"question": "How many?", "answer": "42"}', "answer: expected '#### 42' at its end, got '42'"),
    ],
)
def test_a_bad_line_is_named(problems_file: Path, line: str, message: str) -> None:
    with problems_file.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(ConfigError, match=f"problems.jsonl:11: {message}"):
        gsm8k_grpo.read_problems(problems_file)


def test_too_few_problems_to_hold_some_out_are_an_error(problems_file: Path) -> None:
    problems_file.write_text("".join(json.dumps(problem) + "\n" for problem in PROBLEMS[:4]))
    with pytest.raises(ConfigError, match="at least 5 problems.* got 4"):
        gsm8k_grpo.gsm8k(problems_file)


def test_an_error_of_the_recipe_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(SystemExit, match="^error: .*none.jsonl: expected at least 5 problems"):
        gsm8k_grpo.main(tmp_path / "none.jsonl", tmp_path / "run")


# --- TRL ------------------------------------------------------------------------


@pytest.mark.parametrize(("judge", "failed"), [("simulated?quality=hash", 0), ("simulated?failure=1", 2)])
def test_the_real_trainer_of_trl_trains_with_it(
    problems_file: Path, tmp_path: Path, chat_model: Path, judge: str, failed: int
) -> None:
    pytest.importorskip("trl")
    out = tmp_path / "trl"
    options = (
        "--per_device_train_batch_size 4 --num_generations 2 --scale_rewards none --learning_rate 1e-3 --max_steps 2 "
        "--max_completion_length 12 --logging_steps 1 --save_steps 2 --use_cpu true --bf16 false --report_to none"
    )
    command = [sys.executable, "-m", "examples.judge_in_trl", "--data", str(problems_file), "--policy", str(chat_model)]
    done = subprocess.run(
        [*command, "--judge", judge, "--output_dir", str(out), *options.split()],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    history = json.loads((out / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
    steps = [line for line in history if "rewards/judge/mean" in line]
    assert [line["judge/failed_groups"] for line in steps] == [failed, failed]
    before, after = (load_file(folder / "model.safetensors") for folder in (chat_model, out))
    unchanged = all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    # A step without any score must teach nothing.
    assert unchanged == (failed == 2)


# --- the page -------------------------------------------------------------------


def test_what_the_page_shows_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    for code in PYTHON:
        exec(code, names)
    held_out = [line for line in read_lines(tmp_path / "runs/sevens/metrics.jsonl") if "held_out/truth_sampled" in line]
    assert held_out[0]["held_out/truth_sampled"] < 0.2
    assert held_out[-1]["held_out/truth_sampled"] > 0.6
    for name in ("judged", "short", "novel"):
        assert (tmp_path / "runs" / name / "curve.png").exists()


def test_the_page_has_all_metrics_and_no_other() -> None:
    rows = re.findall(r"^\| `(.*?)` \| (.*) \|$", PAGE.partition("## Metrics")[2].partition("## ")[0], re.MULTILINE)
    assert rows == list(METRICS.items()), "\n" + "\n".join(f"| `{key}` | {text} |" for key, text in METRICS.items())


def test_what_the_tour_names_is_there() -> None:
    rows = re.findall(r"^\| (`trainer/\w+\.py`): (.*?) \|", PAGE, re.MULTILINE)
    assert len(rows) >= 8
    for path, names in rows:
        module = importlib.import_module(path.strip("`").removesuffix(".py").replace("/", "."))
        for name in re.findall(r"`(\w+)`", names):
            assert hasattr(module, name), f"{path} has no {name}"


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:trainer|examples)/[\w/]+\.py)`", PAGE))))
def test_files_that_the_page_names_are_there(path: str) -> None:
    assert (ROOT / path).is_file()


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_on_the_page_are_understood(command: str, request: pytest.FixtureRequest) -> None:
    words = shlex.split(command, comments=True)
    module, arguments = words[words.index("-m") + 1], words[words.index("-m") + 2 :]
    if module == "trainer.train":
        tyro.cli(CommandLine, args=arguments)
    elif module == "trainer.warm_up":
        tyro.cli(only_parsed(warm_up_main), args=arguments)
    elif module == "examples.gsm8k_grpo":
        tyro.cli(only_parsed(gsm8k_grpo.main), args=arguments, config=(tyro.conf.OmitArgPrefixes,))
    elif module == "benchmarks.trainer":
        benchmarks.trainer.parser().parse_args(arguments)
    else:
        assert module == "examples.judge_in_trl"
        trl = request.getfixturevalue("judge_in_trl")
        parser = trl.HfArgumentParser((trl.Arguments, trl.GRPOConfig))
        parser.parse_args_into_dataclasses([*arguments, "--use_cpu", "true", "--bf16", "false"])


def only_parsed(main: Callable[..., None]) -> Callable[..., None]:
    """The function's command line without what it does."""

    @wraps(main)
    def nothing(*arguments: Any, **options: Any) -> None:
        pass

    return nothing
