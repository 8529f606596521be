"""What a run writes down and shows."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

torch = pytest.importorskip("torch")
pytest.importorskip("tensorboard")

from ruler.errors import ConfigError  # noqa: E402
from ruler.records import read_labelled  # noqa: E402
from tests.trainer.judged_groups import GOOD, GOOD_REWARDED, GROUPS, REWARDED  # noqa: E402
from trainer.monitor import AppendedLines, Monitor, read_lines  # noqa: E402

ROOT = Path(__file__).parents[2]


# Files


def test_what_follows_the_length_is_cut_with_a_torn_last_line(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    lines = AppendedLines(path, 0)
    lines.append({"step": 1})
    length = lines.sync()
    lines.append({"step": 2})
    lines.close()
    with path.open("ab") as file:
        file.write(b'{"step": 3, "rew')
    assert read_lines(path) == [{"step": 1}, {"step": 2}]
    again = AppendedLines(path, length)
    again.append({"step": 2, "again": True})
    again.close()
    assert read_lines(path) == [{"step": 1}, {"step": 2, "again": True}]
    AppendedLines(path, 0).close()
    assert path.read_bytes() == b""


@pytest.mark.parametrize("length", [5, 13, 100])
def test_a_length_at_which_no_line_ends_is_refused_and_nothing_cut(tmp_path: Path, length: int) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n')
    with pytest.raises(ConfigError, match=f"expected a line that ends at byte {length}; the file has 24 bytes"):
        AppendedLines(path, length)
    assert len(path.read_bytes()) == 24


TEXT = st.text(st.characters(codec=None))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.slow
@given(st.lists(st.dictionaries(TEXT, VALUES, max_size=4), max_size=4))
def test_any_record_is_one_line_of_strict_json_and_comes_back(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]]
) -> None:
    path = tmp_path_factory.mktemp("lines") / "lines.jsonl"
    lines = AppendedLines(path, 0)
    for record in records:
        lines.append(record)
    assert lines.sync() == path.stat().st_size
    lines.close()

    def refuse(name: str) -> None:
        raise AssertionError(name)

    read = [json.loads(line, parse_constant=refuse) for line in path.read_text("utf-8").split("\n")[:-1]]
    assert read == [json.loads(json.dumps(without_infinity(record))) for record in records]


def without_infinity(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: without_infinity(item) for key, item in value.items()}
    return [without_infinity(item) for item in value] if isinstance(value, list) else value


def test_a_line_that_is_no_object_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"step": 1}\n[2]\n')
    with pytest.raises(ConfigError, match=r"lines.jsonl:2: expected an object, got \[2\]"):
        read_lines(path)
    path.write_text('{"step": 1\n{"step": 2}\n')
    with pytest.raises(ConfigError, match="lines.jsonl:1: not JSON"):
        read_lines(path)


# The monitor


def quiet(folder: Path, **settings: Any) -> Monitor:
    return Monitor(folder, num_steps=40, console=Console(file=io.StringIO()), **settings)


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard would draw."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return {key: [(e.step, round(e.value, 4)) for e in found.Scalars(key)] for key in found.Tags()["scalars"]}


def test_steps_and_evaluations_are_written_down_and_drawn(tmp_path: Path) -> None:
    with quiet(tmp_path) as monitor:
        monitor.evaluation(0, {"held_out/truth_greedy": 0.5})
        monitor.step(1, {"reward/mean": 0.25, "policy/kl": None, "policy/loss": math.nan})
        monitor.step(2, {"reward/mean": 0.5, "policy/kl": 0.125, "policy/loss": math.inf})
    assert read_lines(tmp_path / "metrics.jsonl") == [
        {"step": 0, "held_out/truth_greedy": 0.5},
        {"step": 1, "reward/mean": 0.25, "policy/kl": None, "policy/loss": None},
        {"step": 2, "reward/mean": 0.5, "policy/kl": 0.125, "policy/loss": None},
    ]
    assert curves(tmp_path) == {
        "held_out/truth_greedy": [(0, 0.5)],
        "reward/mean": [(1, 0.25), (2, 0.5)],
        "policy/kl": [(2, 0.125)],
    }


_KILLED = """
import io, os, signal, sys
from pathlib import Path
from rich.console import Console
from trainer.monitor import Monitor

folder = Path(sys.argv[1])
with Monitor(folder, num_steps=40, console=Console(file=io.StringIO())) as monitor:
    for step in range(1, 6):
        monitor.step(step, {"reward/mean": step / 8})
        if step == 3:
            print(monitor.position())
            sys.stdout.flush()
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 6, "rew')
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_resumed_run_has_every_step_once(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", _KILLED, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    (events,) = (tmp_path / "tensorboard").iterdir()
    # As at the end of a torn write. TensorBoard reads files by name, which begins with the second of the start; that
    # the run was resumed in a later one is left to nature, and here to the name.
    events.write_bytes(events.read_bytes() + b"\x18\x00\x00")
    events.rename(events.with_name("events.out.tfevents.1000000000.killed"))
    position = json.loads(killed.stdout.replace("'", '"'))
    assert position["step"] == 3

    with quiet(tmp_path, position=position) as monitor:
        monitor.step(4, {"reward/mean": 0.4})
        assert monitor.position()["step"] == 4
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [(line["step"], line["reward/mean"]) for line in lines] == [(1, 0.125), (2, 0.25), (3, 0.375), (4, 0.4)]
    assert curves(tmp_path) == {"reward/mean": [(1, 0.125), (2, 0.25), (3, 0.375), (4, 0.4)]}


def test_without_a_position_a_run_begins_anew(tmp_path: Path) -> None:
    with quiet(tmp_path) as monitor:
        monitor.evaluation(0, {"held_out/truth_greedy": 0.5})
        monitor.step(1, {"reward/mean": 0.25})
        monitor.samples(1, [GOOD], [GOOD_REWARDED])
    (events,) = (tmp_path / "tensorboard").iterdir()
    events.rename(events.with_name("events.out.tfevents.1000000000.earlier"))
    with quiet(tmp_path) as monitor:
        monitor.step(1, {"reward/mean": 0.5})
    assert read_lines(tmp_path / "metrics.jsonl") == [{"step": 1, "reward/mean": 0.5}]
    assert read_lines(tmp_path / "samples.jsonl") == []
    assert {key: points for key, points in curves(tmp_path).items() if points} == {"reward/mean": [(1, 0.5)]}


def test_samples_can_be_read_as_groups_with_truth(tmp_path: Path) -> None:
    with quiet(tmp_path) as monitor:
        monitor.samples(1, GROUPS, REWARDED)
    read = list(read_labelled(str(tmp_path / "samples.jsonl")))
    assert [(one.group.rollouts_digest, one.truth) for one in read] == [  # type: ignore[union-attr]
        (
            group.group.rollouts_digest,
            {r.id: e.truth for r, e in zip(group.group.rollouts, group.episodes, strict=True)},
        )
        for group in GROUPS
    ]


STEP = {
    "reward/mean": 0.7123,
    "truth/mean": 0.64,
    "groups/failed": 1,
    "judge_stall_seconds": 0.81,
    "rollouts/tokens": 10_400,
    "time/step_seconds": 2.0,
}


EVALUATION = {
    "held_out/truth_sampled": 0.8712,
    "held_out/truth_sampled_stderr": 0.0138,
    "held_out/truth_greedy": 0.9,
    "held_out/truth_greedy_stderr": 0.012,
    "held_out/well_formed": 0.995,
    "held_out/tokens_mean": 12.5,
    "held_out/num_problems": 97,
    "held_out/num_broken": 0,
}


def test_without_a_terminal_first_last_and_every_tenth_step_are_plain_lines(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=20)
    with Monitor(tmp_path, num_steps=25, console=console) as monitor:
        for step in range(1, 26):
            monitor.step(step, STEP if step == 1 else {"reward/mean": 0.5, "truth/mean": None})
        monitor.evaluation(25, EVALUATION)
        monitor.say("[bold]Reward hacking?")
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "step 1/25  reward 0.712  truth 0.640  failed 1  stall 0.8 s  5,200 tokens/s",
        "step 10/25  reward 0.500",
        "step 20/25  reward 0.500",
        "step 25/25  reward 0.500",
        "after step 25, held out: truth sampled 0.871 ± 0.014, greedy 0.900, well formed 0.995",
        "[bold]Reward hacking?",
    ]


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"num_broken": 3}, "truth sampled 0.871 ± 0.014, greedy 0.900, well formed 0.995, 3 broken"),
        ({"truth_sampled_stderr": None}, "truth sampled 0.871, greedy 0.900, well formed 0.995"),
        ({"truth_sampled": None, "truth_sampled_stderr": None, "truth_greedy": None}, "well formed 0.995"),
    ],
)
def test_of_an_evaluation_what_matters_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, float | None], shown: str
) -> None:
    metrics = EVALUATION | {f"held_out/{name}": value for name, value in changes.items()}
    with Monitor(tmp_path, num_steps=40) as monitor:
        monitor.evaluation(20, metrics)
    assert capsys.readouterr().err == f"after step 20, held out: {shown}\n"
    assert read_lines(tmp_path / "metrics.jsonl") == [{"step": 20, **metrics}]


def test_on_a_terminal_there_is_a_live_line_that_fits_and_no_plain_ones(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    with Monitor(tmp_path, num_steps=80, console=console) as monitor:
        monitor.step(1, STEP)
        monitor.say("said above")
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "said above\n" in shown
    assert "step 1/80" not in shown
    assert "1/80  reward 0.712  truth 0.640  failed 1  stall 0.8 s  5,200 tokens/s " in shown


def test_it_shows_things_on_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Monitor(tmp_path, num_steps=1) as monitor:
        monitor.step(1, {"reward/mean": 0.5})
    assert capsys.readouterr() == ("", "step 1/1  reward 0.500\n")
