"""verl's own loader, agent-loop worker, reward workers, advantages and metrics. Generation and its store are ours."""

from __future__ import annotations

import asyncio
import re
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of engines that are not installed
    import ray
    from hydra import compose, initialize_config_module
    from verl import DataProto
    from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput
    from verl.experimental.reward_loop.reward_loop import RewardLoopManager, RewardLoopWorker
    from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage
    from verl.trainer.ppo.metric_utils import process_validation_metrics
    from verl.trainer.ppo.reward import load_reward_manager, resolve_reward_manager_cls
    from verl.trainer.ppo.v1 import agent_loop_tq
    from verl.workers.reward_manager.batch import BatchRewardManager

from ruler.errors import ConfigError, JudgeError
from tests.service.running import ROOT, serving
from tests.tiny_model import _tokenizer

DOCS = (ROOT / "docs" / "trainers" / "verl.md").read_text(encoding="utf-8")
Worker: Any = agent_loop_tq.AgentLoopWorkerTQ.__ray_metadata__.modified_class
SAID = ["42", "It is 42, I am sure of it.", "Forty-two."]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    patience = {"RULER_COLLECT_SECONDS": "3", "RULER_SHORT_GROUPS": "fail"}
    with serving("--judge", "simulated?noise=0", env=patience) as running:
        yield running.url


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    _tokenizer(True).save_pretrained(folder)
    return folder


@pytest.fixture
def settings(tokenizer_folder: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """verl's configuration with what docs/trainers/verl.md adds."""
    monkeypatch.setenv("RULER_URL", url)
    lines = re.findall(r"^ +((?:reward|trainer)\..*?)(?: \\)?$", DOCS.split("```")[1], re.MULTILINE)
    return configured(tokenizer_folder, *" ".join(lines).split())


def configured(folder: Path, *overrides: str) -> Any:
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose(
            "ppo_trainer",
            overrides=[
                f"actor_rollout_ref.model.path={folder}",
                "actor_rollout_ref.rollout.name=vllm",
                "actor_rollout_ref.rollout.n=3",
                "reward.num_workers=2",
                *overrides,
            ],
        )


class Store:
    """Stands for the TransferQueue: what the worker puts into it."""

    def __init__(self) -> None:
        self.status: dict[str, str] = {}
        self.trajectories: dict[str, dict[str, Any]] = {}

    async def async_kv_put(self, key: str, partition_id: str, tag: dict[str, str]) -> None:
        self.status[key] = tag["status"]

    async def async_kv_batch_put(self, keys: list[str], fields: Any, tags: Any, partition_id: str) -> None:
        for key, one in zip(keys, fields, strict=True):
            self.trajectories[key] = one


def agent_loop_worker(settings: Any, handles: list[Any], said: dict[str, list[str | None]]) -> Any:
    """verl's worker; what its policy says in each session of a prompt is given. None: the session breaks."""
    tokenizer = _tokenizer(True)

    class Speaking(Worker):  # type: ignore[misc]
        async def _run_agent_loop(self, sampling: Any, *, trajectory: Any, trace: bool, **fields: Any) -> None:
            text = said[fields["uid"]][fields["session_id"]]
            if text is None:
                raise ConnectionError("the engine is gone")
            task = list(fields["raw_prompt"])
            asked = tokenizer.apply_chat_template(task, add_generation_prompt=True, tokenize=False)
            ids = tokenizer.encode(text + "<|im_end|>")
            output = AgentLoopOutput(
                prompt_ids=tokenizer.encode(asked),
                response_ids=ids,
                response_mask=[1] * len(ids),
                num_turns=2,
                metrics=AgentLoopMetrics(),
                extra_fields={"turn_scores": [], "tool_rewards": []},
            )
            await self._agent_loop_postprocess(output, trajectory["validate"], **fields)

    made = object.__new__(Speaking)
    made.config, made.processor, made.mm_processor_kwargs, made.distillation_enabled = settings, None, {}, False
    made.reward_loop_worker_handles = handles
    return made


def prompt(uid: str, **fields: Any) -> dict[str, Any]:
    return {
        "uid": uid,
        "raw_prompt": [{"role": "user", "content": "What is 6·7?"}],
        "global_steps": 3,
        "data_source": "sums",
        "reward_model": {"style": "rule", "ground_truth": "42"},
        "extra_info": {"split": "train", "index": 0},
        **fields,
    }


async def rolled_out(
    settings: Any, handles: list[Any], said: dict[str, list[str | None]], monkeypatch: pytest.MonkeyPatch, **fields: Any
) -> Store:
    store = Store()
    monkeypatch.setattr(agent_loop_tq, "tq", store)
    worker = agent_loop_worker(settings, handles, said)
    trajectory = {"validate": False}
    await asyncio.gather(*(worker._run_prompt(prompt(uid, **fields), {}, trajectory) for uid in said))
    return store


def handle(worker: RewardLoopWorker) -> SimpleNamespace:
    """An actor that is no other process."""
    return SimpleNamespace(compute_score=SimpleNamespace(remote=worker.compute_score))


def rewards(store: Store, uid: str) -> list[float]:
    return [float(store.trajectories[f"{uid}_{session}_0"]["rm_scores"].sum()) for session in range(3)]


async def test_verl_loads_it_by_name(settings: Any) -> None:
    made = resolve_reward_manager_cls(settings)
    assert issubclass(made, RewardManagerBase)
    assert (made.__module__, made.__qualname__) == ("ruler.adapters.verl", "JudgeRewardManager")
    responses = DataProto.from_dict(
        {name: torch.ones(2, 4, dtype=torch.int64) for name in ("prompts", "responses")}
        | {"attention_mask": torch.tensor([[1] * 8, [1] * 6 + [0] * 2])}
    )
    assert made.assemble_rm_scores(responses, [0.25, 0.5]).tolist() == [[0, 0, 0, 0.25], [0, 0.5, 0, 0]]


async def test_groups_meet_are_scored_and_become_advantages(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    handles = [handle(RewardLoopWorker(settings)) for _ in range(2)]
    said = {"u1": [*SAID], "u2": SAID[::-1], "u3": ["42"] * 3}
    store = await rolled_out(settings, handles, said, monkeypatch)
    assert set(store.status.values()) == {"finished"}
    first, second, third = (rewards(store, uid) for uid in said)
    assert first[0] > first[2] > first[1]  # the shorter the better
    assert second == first[::-1]
    assert third == [0.5] * 3
    keys = [f"{uid}_{session}_0" for uid in said for session in range(3)]
    token_rewards = torch.tensor([[0.0, score] for score in first + second + third])
    advantages, _ = compute_grpo_outcome_advantage(
        token_rewards, torch.ones(9, 2), np.array([key.split("_")[0] for key in keys], dtype=object)
    )
    assert torch.isfinite(advantages).all()
    assert advantages[0, 0] > 0 > advantages[1, 0]
    assert advantages[6:].abs().max() == 0
    # As `_validate` of the V1 trainer collects and reduces them.
    infos = [store.trajectories[key]["extra_fields"]["reward_extra_info"] for key in keys]
    assert len({tuple(info) for info in infos}) == 1
    reduced = process_validation_metrics(
        ["sums"] * 9, [key.split("_")[0] for key in keys], {name: [i[name] for i in infos] for name in infos[0]}
    )["sums"]
    assert reduced["judge_tied"]["mean@3"] == pytest.approx(1 / 3)
    assert reduced["part_judge"]["mean@3"] == pytest.approx(sum(first + second + third) / 9)


async def test_a_failed_group_has_no_trajectory_at_all(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"u4": ["42", "forty-two", None], "u5": [*SAID]}
    store = await rolled_out(settings, [handle(RewardLoopWorker(settings))], said, monkeypatch)
    assert store.status == {"u4": "failure", "u5": "finished"}
    assert {key.split("_")[0] for key in store.trajectories} == {"u5"}


async def test_a_manager_of_your_own_as_in_the_docs(
    settings: Any, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_reward.py").write_text(python_of_docs(0, url), encoding="utf-8")
    settings.reward.reward_manager.module.path = str(tmp_path / "my_reward.py")
    settings.reward.reward_manager.name = "MyManager"
    settings.trainer.val_before_train = True  # group_size tells validation by its data
    handles = [handle(RewardLoopWorker(settings))]
    said = {"u6": ["#### 42", "#### 41 or so", "I say: #### 42"]}
    store = await rolled_out(settings, handles, said, monkeypatch)
    right = [
        store.trajectories[f"u6_{session}_0"]["extra_fields"]["reward_extra_info"]["part_correct"]
        for session in range(3)
    ]
    assert right == [2.0, 0.0, 2.0]
    assert rewards(store, "u6")[0] > 2 > rewards(store, "u6")[1]
    validated = await rolled_out(settings, handles, {"u7": said["u6"]}, monkeypatch, extra_info={"split": "test"})
    assert rewards(validated, "u7") == [2.0, 0.0, 2.0]


async def test_validation_of_another_size_is_refused_at_the_start(settings: Any) -> None:
    settings.trainer.val_before_train = True
    with pytest.raises(ConfigError, match=r"val_kwargs\.n: 1, but rollout\.n is 3"):
        load_reward_manager(settings, _tokenizer(True), reward_router_address=None, reward_model_tokenizer=None)


async def test_in_reward_workers_of_ray(settings: Any, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={"env_vars": {"RULER_URL": url, "PYTHONPATH": str(ROOT)}},
        )
    try:
        handles = RewardLoopManager(settings).reward_loop_worker_handles
        assert len(handles) == 2
        store = await rolled_out(settings, handles, {"u8": [*SAID], "u9": ["42", "x", None]}, monkeypatch)
    finally:
        ray.shutdown()
    assert store.status == {"u8": "finished", "u9": "failure"}
    first, second, third = rewards(store, "u8")
    assert first > third > second
    assert {key.split("_")[0] for key in store.trajectories} == {"u8"}


def python_of_docs(place: int, url: str) -> str:
    return re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)[place].replace("http://127.0.0.1:8000", url)


def batch(uids: list[str], said: list[str]) -> DataProto:
    tokenizer = _tokenizer(True)
    filled = tokenizer(said, padding=True, padding_side="right", return_tensors="pt")
    prompts = torch.ones(len(said), 3, dtype=torch.int64)
    return DataProto.from_dict(
        {
            "prompts": prompts,
            "responses": filled["input_ids"],
            "attention_mask": torch.cat([prompts, filled["attention_mask"]], dim=1),
        },
        non_tensors={
            "data_source": np.array(["sums"] * len(said), dtype=object),
            "reward_model": np.array([{"ground_truth": "42"}] * len(said), dtype=object),
            "extra_info": np.array([{"index": uid, "question": f"{uid}?"} for uid in uids], dtype=object),
        },
    )


def test_the_batch_manager_with_the_function_of_the_docs(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    made: dict[str, Any] = {}
    exec(python_of_docs(1, url), made)
    judged = BatchRewardManager(_tokenizer(True), num_examine=0, compute_score=made["compute_score"])
    rows = batch(["a", "b", "a", "b"], ["42", "Forty-two, as far as I can see.", "It is 42.", "42"])
    found = judged(rows, return_dict=True)
    scores = found["reward_tensor"].sum(dim=1).tolist()
    assert scores[0] > scores[2]
    assert scores[3] > scores[1]
    assert found["reward_extra_info"]["part_judge"] == pytest.approx(scores)
    assert found["reward_extra_info"]["judge_failed"] == [0.0] * 4


def test_the_batch_manager_ends_with_a_failed_group(url: str) -> None:
    made: dict[str, Any] = {}
    exec(python_of_docs(1, url), made)
    judged = BatchRewardManager(_tokenizer(True), num_examine=0, compute_score=made["compute_score"])
    with pytest.raises(JudgeError, match="no reward for any rollout: group: .*rollouts: only one"):
        judged(batch(["a", "a", "b"], ["42", "It is 42.", "42"]))


def test_the_version_in_the_docs_is_the_one_that_is_tested() -> None:
    assert f"verl {version('verl')} on a CPU" in DOCS
