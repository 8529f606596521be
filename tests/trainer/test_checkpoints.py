"""Checkpoints: bit for bit what was saved, whatever moment the process was killed at."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from ruler.errors import ConfigError  # noqa: E402
from trainer.checkpoints import latest, load, save  # noqa: E402

ROOT = Path(__file__).parents[2]


class Tied(torch.nn.Module):  # type: ignore[misc]
    """Tied weights, a parameter that is never trained, a buffer that is kept and one that is not; float32 and bf16."""

    def __init__(self, seed: int, words: int = 7) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.embedding = torch.nn.Embedding(words, 4)
        self.inner = torch.nn.Linear(4, 4, dtype=torch.bfloat16)
        self.head = torch.nn.Linear(4, words, bias=False)
        self.unused = torch.nn.Parameter(torch.zeros(3))
        self.register_buffer("counts", torch.zeros(2, dtype=torch.int64))
        self.register_buffer("made_anew", torch.zeros(5), persistent=False)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=random))
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Any) -> Any:
        self.counts += 1
        return self.head(self.inner(self.embedding(tokens).bfloat16()).float())


def adam(model: Any, **settings: Any) -> Any:
    return torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.9, 0.95), **settings)


def train(model: Any, optimiser: Any, steps: int) -> None:
    for number in range(steps):
        model(torch.tensor([number % 7, 3])).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()


def everything(model: Any, optimiser: Any) -> dict[str, Any]:
    found = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for place, state in optimiser.state_dict()["state"].items():
        found |= {f"{place} {key}": value.clone() for key, value in state.items()}
    return found


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """The checkpoint of a model after three steps."""
    model = Tied(seed=0)
    optimiser = adam(model)
    train(model, optimiser, 3)
    return save(tmp_path / "checkpoints", 3, model, optimiser, {"position": 12})


def test_what_was_saved_comes_back_bit_for_bit_and_goes_on_alike(tmp_path: Path) -> None:
    model = Tied(seed=0)
    optimiser = adam(model)
    train(model, optimiser, 3)
    before = everything(model, optimiser)
    checkpoint = save(tmp_path / "checkpoints", 3, model, optimiser, {"position": 12, "names": {"a": [0.1, None]}})
    train(model, optimiser, 5)

    other = Tied(seed=1)
    its_optimiser = adam(other)
    train(other, its_optimiser, 1)
    assert load(checkpoint, other, its_optimiser) == {"position": 12, "names": {"a": [0.1, None]}, "step": 3}
    assert_equal(everything(other, its_optimiser), before)
    assert other.head.weight is other.embedding.weight
    shutil.rmtree(checkpoint)  # nothing that was loaded is still read from the files
    train(other, its_optimiser, 5)
    assert_equal(everything(other, its_optimiser), everything(model, optimiser))


def test_an_optimiser_that_never_stepped_has_no_state_to_give_back(tmp_path: Path) -> None:
    model = Tied(seed=0)
    optimiser = adam(model)
    checkpoint = save(tmp_path, 0, model, optimiser, {})
    assert not optimiser.state  # asking for it would have made empty states
    train(model, optimiser, 2)
    load(checkpoint, model, optimiser)
    assert not optimiser.state
    assert_equal(everything(model, optimiser), everything(Tied(seed=0), optimiser))


def test_hyperparameters_are_those_of_the_optimiser_at_hand(saved: Path) -> None:
    model = Tied(seed=1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.5, weight_decay=0.25)
    load(saved, model, optimiser)
    assert optimiser.param_groups[0]["lr"] == 0.5
    assert optimiser.param_groups[0]["weight_decay"] == 0.25


def test_weights_that_are_slices_of_one_memory_are_kept_apart(tmp_path: Path) -> None:
    model = torch.nn.ParameterList([torch.nn.Parameter(part) for part in torch.arange(12.0).view(3, 4).t().split(2)])
    checkpoint = save(tmp_path, 1, model, adam(model), {})
    other = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(2, 3)) for _ in range(2)])
    load(checkpoint, other, adam(other))
    assert all(torch.equal(mine, its) for mine, its in zip(model, other, strict=True))


def test_the_newest_are_kept_and_found_by_number(tmp_path: Path) -> None:
    model = Tied(seed=0)
    for step in (999_998, 999_999, 1_000_000):
        save(tmp_path, step, model, adam(model), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1000000", "step-999999"]
    assert latest(tmp_path) == tmp_path / "step-1000000"
    save(tmp_path, 1_000_001, model, adam(model), {}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-1000001"]


def test_no_folder_and_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert latest(tmp_path / "nowhere") is None
    (tmp_path / ".incomplete-step-000001").mkdir()
    (tmp_path / "step-1").mkdir()
    assert latest(tmp_path) is None


def test_leftovers_are_removed_by_the_next_save(saved: Path) -> None:
    leftover = saved.parent / ".incomplete-step-000004"
    shutil.copytree(saved, leftover)
    save(saved.parent, 4, (model := Tied(seed=0)), adam(model), {})
    assert sorted(path.name for path in saved.parent.iterdir()) == ["step-000003", "step-000004"]


def test_a_step_is_saved_once(saved: Path) -> None:
    model = Tied(seed=0)
    with pytest.raises(ConfigError, match="step-000003: there is a checkpoint of this step already"):
        save(saved.parent, 3, model, adam(model), {})


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_state_that_is_no_json_leaves_the_earlier_checkpoint(saved: Path, number: float) -> None:
    model = Tied(seed=0)
    with pytest.raises(ValueError, match="JSON"):
        save(saved.parent, 4, model, adam(model), {"loss": number})
    assert latest(saved.parent) == saved
    save(saved.parent, 4, model, adam(model), {})


def load_fails(checkpoint: Path, match: str, model: Any = None, optimiser: Any = None) -> None:
    """It is refused in one line, and nothing is changed."""
    model = model or Tied(seed=1)
    optimiser = optimiser or adam(model)
    before = everything(model, optimiser)
    with pytest.raises(ConfigError, match=match) as caught:
        load(checkpoint, model, optimiser)
    assert "\n" not in str(caught.value)
    assert_equal(everything(model, optimiser), before)


def test_another_model_is_refused_by_file_and_name(saved: Path) -> None:
    load_fails(
        saved,
        r"weights.safetensors: embedding.weight: expected float32 \[9, 4\], got float32 \[7, 4\]",
        Tied(seed=1, words=9),
    )
    load_fails(
        saved,
        r"weights.safetensors: unused: expected float64 \[3\], got float32 \[3\]",
        Tied(seed=1).double(),
    )
    more = Tied(seed=1)
    more.extra = torch.nn.Parameter(torch.zeros(1))
    load_fails(saved, "weights.safetensors: extra: missing", more)
    less = Tied(seed=1)
    del less.inner
    load_fails(saved, "weights.safetensors: inner.bias: the model or optimiser at hand has no such tensor", less)


def test_an_optimiser_of_fewer_parameters_is_refused(saved: Path) -> None:
    model = Tied(seed=1)
    optimiser = torch.optim.AdamW(model.inner.parameters())
    load_fails(saved, "optimiser.safetensors: embedding.weight/exp_avg: the model or optimiser", model, optimiser)


@pytest.mark.parametrize("name", ["weights.safetensors", "optimiser.safetensors", "state.json"])
def test_a_missing_or_damaged_file_is_named(saved: Path, name: str) -> None:
    file = saved / name
    whole = file.read_bytes()
    for kept in (0, 5, len(whole) // 2, len(whole) - 3):
        file.write_bytes(whole[:kept])
        load_fails(saved, f"{name}: damaged: ")
    file.unlink()
    load_fails(saved, f"{name}: cannot be read: No such file or directory")


def test_part_of_a_parameters_state_is_refused(saved: Path) -> None:
    from safetensors.torch import load_file, save_file

    moments = load_file(saved / "optimiser.safetensors")
    del moments["inner.weight/exp_avg"]
    save_file(moments, saved / "optimiser.safetensors", metadata={"step": "3"})
    load_fails(saved, "optimiser.safetensors: inner.weight/exp_avg: missing")


def test_files_of_two_checkpoints_are_not_taken_for_one(saved: Path) -> None:
    model = Tied(seed=0)
    other = save(saved.parent, 4, model, adam(model), {})
    for name in ("weights.safetensors", "optimiser.safetensors"):
        kept = (other / name).read_bytes()
        shutil.copy(saved / name, other / name)
        load_fails(other, f"{name}: step: expected '4', as in state.json, got '3'")
        (other / name).write_bytes(kept)
    (other / "state.json").write_text(json.dumps({"step": "4"}))
    load_fails(other, "state.json: step: expected a whole number, got '4'")
    (other / "state.json").write_text("[4]")
    load_fails(other, "state.json: step: expected a whole number, got None")


# One step's worth: weights, both moments and the loop's state all hold the same number. The model is large enough that
# writing takes most of the time, so that many a kill falls into a write.
_SAVES = """
import os, sys
from pathlib import Path
import torch
from trainer.checkpoints import latest, load, save

torch.set_num_threads(1)

def make():
    model = torch.nn.Linear(400, 400)
    return model, torch.optim.AdamW(model.parameters())

def fill(model, optimiser, step):
    for parameter in model.parameters():
        parameter.detach().fill_(step)
        optimiser.state[parameter] = {
            "step": torch.tensor(float(step)),
            "exp_avg": torch.full_like(parameter, step),
            "exp_avg_sq": torch.full_like(parameter, step),
        }

def read(folder):
    '''The step that all of the newest checkpoint agrees on; 0 where there is none.'''
    checkpoint = latest(folder)
    if checkpoint is None:
        return 0
    model, optimiser = make()
    state = load(checkpoint, model, optimiser)
    step = state["step"]
    assert checkpoint.name == f"step-{step:06d}", (checkpoint, state)
    assert state["position"] == 8 * step, state
    for parameter in model.parameters():
        for tensor in (parameter, *optimiser.state[parameter].values()):
            assert (tensor == step).all(), (step, tensor)
    assert len(list(folder.glob("step-*"))) <= 3, list(folder.iterdir())
    return step
"""

_KILLED_AT_RANDOM = (
    _SAVES
    + """
import random, signal, time

folder, times, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
moments = random.Random(seed)
inside = 0
for _ in range(times):
    before = read(folder)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        model, optimiser = make()
        for step in range(before + 1, before + 1000):
            fill(model, optimiser, step)
            save(folder, step, model, optimiser, {"position": 8 * step})
            os.write(writing, b".")
        os._exit(1)
    os.close(writing)
    said = before + len(os.read(reading, 1))  # however slow the machine is, it gets on
    time.sleep(moments.uniform(0.0, 0.1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(reading, 4096):
        said += len(more)
    os.close(reading)
    inside += any(folder.glob(".incomplete-*"))
    found = read(folder)
    assert said <= found <= said + 1, (said, found)
print(read(folder), inside)
"""
)

_KILLED_AT_EACH_CALL = (
    _SAVES
    + """
import signal
import trainer.checkpoints as checkpoints

def saves(folder, times):
    first = read(folder) + 1
    for step in range(first, first + times):
        model, optimiser = make()
        fill(model, optimiser, step)
        save(folder, step, model, optimiser, {"position": 8 * step})

def run(folder, fatal):
    '''Saves three times in another process, killed before its fatal-th change of the disk: how many it made.'''
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        calls = 0
        def counted(function):
            def call(*arguments, **settings):
                nonlocal calls
                calls += 1
                if calls == fatal:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments, **settings)
            return call
        for module, names in ((os, ("fsync", "rename", "mkdir", "rmdir", "unlink")), (checkpoints, ("save_file",))):
            for name in names:
                setattr(module, name, counted(getattr(module, name)))
        saves(folder, 3)
        os.write(writing, str(calls).encode())
        os._exit(0)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    said = os.read(reading, 99)
    os.close(reading)
    assert status == (signal.SIGKILL if fatal else 0), (fatal, status)
    return int(said or 0)

folder = Path(sys.argv[1])
saves(folder / "first", 1)  # what is only loaded when it is needed changes the disk too
num_calls = run(folder / "whole", 0)
for fatal in range(1, num_calls + 1):
    killed = folder / str(fatal)
    run(killed, fatal)
    found = read(killed)
    saves(killed, 1)
    assert read(killed) == found + 1
    assert sorted(path.name for path in killed.iterdir()) == [f"step-{n:06d}" for n in (found, found + 1) if n]
print(num_calls)
"""
)


def run_script(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.slow
def test_killed_at_random_moments_the_newest_is_whole_and_nothing_finished_is_lost(tmp_path: Path) -> None:
    done = run_script(_KILLED_AT_RANDOM, tmp_path / "checkpoints", 60, 0)
    assert done.returncode == 0, done.stderr
    reached, inside = map(int, done.stdout.split())
    assert reached >= 60
    assert inside > 20  # kills that fell into a write or a removal


@pytest.mark.slow
def test_killed_before_any_change_of_the_disk_the_newest_is_whole(tmp_path: Path) -> None:
    done = run_script(_KILLED_AT_EACH_CALL, tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30
