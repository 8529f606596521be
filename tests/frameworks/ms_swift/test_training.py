"""The lines of docs/trainers/ms_swift.md in a training run of swift's, on a CPU, against `ruler serve`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from swift.arguments import RLHFArguments
from swift.pipelines import rlhf_main

from ruler.errors import JudgeError
from tests.service.running import serving
from tests.tiny_model import make_tiny_model

PAGE = Path(__file__).parents[3] / "docs" / "trainers" / "ms_swift.md"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


def train(folder: Path, model: Path, client: str) -> dict[str, Any]:
    """Two steps of two groups with the page's file, its client made with these arguments; what swift returns."""
    [block] = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    plugin = folder / "judge.py"
    plugin.write_text(block.replace('"http://judge:8000"', client), encoding="utf-8")
    rows = [{"messages": [{"role": "user", "content": f"Say {i}."}], "solution": str(i)} for i in range(8)]
    data = folder / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    settings: dict[str, Any] = {
        "rlhf_type": "grpo",
        "model": str(model),
        "model_type": "qwen2",
        "check_model": False,  # else ModelScope's hub is asked for a newer one
        "template": "qwen2_5",
        "tuner_type": "full",
        "dataset": [str(data)],
        "split_dataset_ratio": 0,
        "dataset_num_proc": 1,
        "dataloader_num_workers": 0,
        "external_plugins": [str(plugin)],
        "reward_funcs": ["judge"],
        "num_generations": 4,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "steps_per_generation": 2,
        "max_completion_length": 8,
        "max_steps": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "output_dir": str(folder / "out"),
        "report_to": ["none"],
        "use_vllm": False,
        "torch_dtype": "float32",
        "bf16": False,
        "fp16": False,
    }
    result: dict[str, Any] = rlhf_main(RLHFArguments(**settings))
    return result


def test_a_run(tmp_path: Path, model: Path) -> None:
    with serving("--judge", "simulated?quality=hash") as service:
        history = train(tmp_path, model, f'"{service.url}"')["log_history"]
    steps = [entry for entry in history if "rewards/judge/mean" in entry]
    assert len(steps) == 2
    for entry in steps:
        assert 0 < entry["rewards/judge/mean"] < 1
        assert entry["rewards/judge/std"] > 0
        assert entry["frac_reward_zero_std"] == 0


def test_a_judge_that_fails_ends_the_run(tmp_path: Path, model: Path) -> None:
    with serving("--judge", "simulated?failure=1") as service, pytest.raises(JudgeError, match="no reward"):
        train(tmp_path, model, f'"{service.url}", attempts=1')
