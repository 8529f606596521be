"""What a run needs to go on after it was killed, at any moment: weights, optimiser and the loop's own state.

    save(folder, 40, model, optimiser, {"position": 320})
    checkpoint = latest(folder)                          # folder/step-000040
    state = load(checkpoint, model, optimiser)           # {"position": 320, "step": 40}

A checkpoint is a folder of three files. It is written under another name, brought to the disk, and renamed when it is
complete: whatever has the name of a checkpoint is one. safetensors and JSON, no pickle: loading one runs no code.

Not kept: what settings say (learning rate and other hyperparameters of the optimiser), and buffers that a model makes
anew when it is built.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ruler.errors import ConfigError

_WEIGHTS = "weights.safetensors"
_OPTIMISER = "optimiser.safetensors"
_STATE = "state.json"
_NAME = re.compile(r"step-(\d{6,})")
_LEFTOVER = ".incomplete-"
"""Begins the name of a folder that is being written or deleted."""

_ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")


def save(
    folder: Path,
    step: int,
    model: torch.nn.Module,
    optimiser: torch.optim.AdamW,
    state: Mapping[str, Any],
    *,
    keep: int = 2,
) -> Path:
    """The path of the new checkpoint `folder/step-000040`, complete and on the disk.

    Killed before the end, it leaves the earlier checkpoints as they were. The newest `keep` are kept, and leftovers of
    killed calls removed. One process at a time may write to a folder.

    Args:
        folder: made where it is not there.
        step: how many steps the weights have been trained, >= 0.
        model: its parameters and persistent buffers are kept, tied ones once.
        optimiser: of parameters of this model; one that has not stepped yet has no state, and gets none back.
        state: of the loop; a JSON object with finite numbers. `load` returns it, with `step`.
        keep: at least 1.

    Raises:
        ConfigError: there is a checkpoint of this step: replacing it would leave a moment without.
        OSError: the disk is full, or the folder cannot be written.
    """
    path = folder / f"step-{step:06d}"
    if path.exists():
        raise ConfigError(f"{path}: there is a checkpoint of this step already")
    folder.mkdir(parents=True, exist_ok=True)
    _sync(folder.parent)
    for leftover in folder.glob(f"{_LEFTOVER}*"):
        shutil.rmtree(leftover)

    incomplete = folder / f"{_LEFTOVER}{path.name}"
    incomplete.mkdir()
    # All three say of which step they are, so that files of different checkpoints are not taken for one.
    said = {"step": str(step)}
    save_file(_own_copies(_model_tensors(model)), incomplete / _WEIGHTS, metadata=said)
    save_file(_own_copies(_optimiser_tensors(model, optimiser)), incomplete / _OPTIMISER, metadata=said)
    text = json.dumps({**state, "step": step}, allow_nan=False, indent=1)
    (incomplete / _STATE).write_text(text + "\n", encoding="utf-8")
    for name in (_WEIGHTS, _OPTIMISER, _STATE):
        _sync(incomplete / name)
    _sync(incomplete)
    os.rename(incomplete, path)
    _sync(folder)

    for old in _checkpoints(folder)[:-keep]:
        # Deleting a folder takes many steps; under its own name a half-deleted one would be taken for a checkpoint.
        gone = old.rename(folder / f"{_LEFTOVER}{old.name}")
        shutil.rmtree(gone)
    return path


def latest(folder: Path) -> Path | None:
    """The checkpoint of the highest step; None where there is none, or no folder."""
    found = _checkpoints(folder)
    return found[-1] if found else None


def load(checkpoint: Path, model: torch.nn.Module, optimiser: torch.optim.AdamW) -> dict[str, Any]:
    """The loop's state, with `step`; model and optimiser are put into theirs, bit for bit, in place.

    Nothing is changed unless everything fits. Devices may differ from those of the run that saved; types may not.

    Args:
        checkpoint: what `latest` or `save` returned.
        model: built as the one that was saved.
        optimiser: of the same parameters, with the hyperparameters it is to go on with.

    Raises:
        ConfigError: a file is missing or damaged, or of another model or optimiser; names file and field.
    """
    state = _read_state(checkpoint / _STATE)
    weights = _read_tensors(checkpoint / _WEIGHTS, state["step"])
    moments = _read_tensors(checkpoint / _OPTIMISER, state["step"])

    targets = _model_tensors(model)
    _check_tensors(checkpoint / _WEIGHTS, weights, targets)
    parameters = _optimised(model, optimiser)
    stepped = [name for name in parameters if any(f"{name}/{key}" in moments for key in _ADAM_STATE)]
    expected = {
        f"{name}/{key}": torch.zeros(()) if key == "step" else parameters[name]
        for name in stepped
        for key in _ADAM_STATE
    }
    _check_tensors(checkpoint / _OPTIMISER, moments, expected)

    with torch.no_grad():
        for name, tensor in weights.items():
            targets[name].copy_(tensor)
    places = {name: place for place, name in enumerate(parameters)}
    optimiser.load_state_dict(
        {
            "state": {places[name]: {key: moments[f"{name}/{key}"] for key in _ADAM_STATE} for name in stepped},
            "param_groups": optimiser.state_dict()["param_groups"],
        }
    )
    return state


def _checkpoints(folder: Path) -> list[Path]:
    """Complete ones, by step."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def _model_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Name -> parameter or persistent buffer; of several names for one tensor (tied weights) the first."""
    tensors: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    # keep_vars: the tensors themselves. Without it each is a new object, and tied ones cannot be told.
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor
    return tensors


def _optimised(model: torch.nn.Module, optimiser: torch.optim.AdamW) -> dict[str, torch.Tensor]:
    """Name -> parameter, in the order in which the optimiser counts them."""
    names = {id(tensor): name for name, tensor in _model_tensors(model).items()}
    return {names[id(one)]: one for group in optimiser.param_groups for one in group["params"]}


def _optimiser_tensors(model: torch.nn.Module, optimiser: torch.optim.AdamW) -> dict[str, torch.Tensor]:
    return {
        f"{name}/{key}": optimiser.state[parameter][key]
        for name, parameter in _optimised(model, optimiser).items()
        if parameter in optimiser.state  # looked up, a parameter without state would be given an empty one
        for key in _ADAM_STATE
    }


def _own_copies(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """On the CPU, contiguous, sharing no memory: what safetensors takes."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: damaged: {error}") from error
    step = state.get("step") if isinstance(state, dict) else None
    if not isinstance(step, int):
        raise ConfigError(f"{path}: step: expected a whole number, got {step!r:.80}")
    return dict(state)


def _read_tensors(path: Path, step: int) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, "pt") as file:
            said = (file.metadata() or {}).get("step")
            # A copy: what is read may be a view of the file, which is deleted while the run goes on.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  it is no mapping
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise ConfigError(f"{path}: damaged: {error}") from error
    if said != str(step):
        raise ConfigError(f"{path}: step: expected {str(step)!r}, as in {_STATE}, got {said!r:.80}")
    return tensors


def _check_tensors(path: Path, found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in expected.items():
        if name not in found:
            raise ConfigError(f"{path}: {name}: missing")
        if found[name].shape != tensor.shape or found[name].dtype != tensor.dtype:
            raise ConfigError(
                f"{path}: {name}: expected {_kind(tensor)}, got {_kind(found[name])}; it is of another model"
            )
    unknown = next((name for name in found if name not in expected), None)
    if unknown is not None:
        raise ConfigError(f"{path}: {unknown}: the model or optimiser at hand has no such tensor")


def _kind(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _sync(path: Path) -> None:
    """Brings a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
