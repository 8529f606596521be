"""TRL's own trainers, on a CPU, with the judge as their reward."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from transformers import TrainerCallback  # noqa: E402

from judges.scripted import ScriptedJudge, scores_reply  # noqa: E402
from ruler import Client, JudgeRequest, JudgeUnavailable, Ruler  # noqa: E402
from ruler.adapters.rewarder import Blocking  # noqa: E402
from ruler.adapters.trl import reward_function  # noqa: E402
from ruler.errors import BudgetExceeded, ConfigError, RulerError  # noqa: E402
from ruler.rewards import Rewards, Rule  # noqa: E402
from ruler.rules import answer_chars  # noqa: E402
from tests.adapters.trl_runs import LIKES_SHORT, make_trainer, rows, score_in_child  # noqa: E402
from tests.conftest import ROOT  # noqa: E402
from tests.service.running import serving, start  # noqa: E402
from tests.tiny_model import make_tiny_model  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("policy"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Watched:
    """A reward function, and what it was asked and answered.

    An object with an async `__call__`, as TRL takes it from 1.9 on.
    """

    def __init__(self, function: Any) -> None:
        self.function = function
        self.__name__ = "judge"
        self.prompts: list[list[Any]] = []
        self.rewards: list[list[float | None]] = []

    async def __call__(self, **given: Any) -> list[float | None]:
        got: list[float | None] = await self.function(**given)
        self.prompts.append(given["prompts"])
        self.rewards.append(got)
        return got


def steps(trainer: Any, name: str) -> list[float]:
    """A metric of every step."""
    return [line[name] for line in trainer.state.log_history if name in line]


def fails_on_odd(request: JudgeRequest) -> str | RulerError:
    """The judge is down for every group about an odd number."""
    text = str(request.messages)
    number = int(text.split("Say something about ")[1].split(".")[0])
    if number % 2:
        return JudgeUnavailable("it is down")
    return scores_reply({label: 20 + 5 * place for place, label in enumerate(sorted(request.ids))})


@pytest.mark.parametrize("kind", ["GRPO", "RLOO"])
@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
def test_a_failed_group_counts_for_nothing(kind: str, plain: bool, policy: Path, tmp_path: Path) -> None:
    reward: Any = reward_function(Ruler(ScriptedJudge(fails_on_odd)), num_generations=8)
    trainer = make_trainer(kind, policy, tmp_path, Blocking(reward) if plain else reward)
    trainer.train()
    failed = steps(trainer, "judge/failed_groups")
    assert 0 < sum(failed) < 12
    logs = trainer._logs
    odd = [int(str(prompt).split("about ")[1].split(".")[0]) % 2 == 1 for prompt in logs["prompt"]]
    rewards, advantages = logs["rewards"]["judge"], logs["advantages"]
    assert len(odd) == len(rewards) >= 32
    for place, is_odd in enumerate(odd):
        assert math.isnan(rewards[place]) == is_odd
        assert advantages[place] == 0 if is_odd else rewards[place] > 0
    assert any(advantages)
    assert [bool(failure) for failure in logs["extra"]["judge_failure"]] == odd
    # The mean reward is that of the scored groups: a failed one is no 0 in it.
    scored = [reward for reward in rewards if not math.isnan(reward)]
    assert min(scored) >= 0.2
    assert all(value >= 0.2 or math.isnan(value) for value in steps(trainer, "reward"))


def test_rules_beside_the_judge_are_reported_part_by_part(policy: Path, tmp_path: Path) -> None:
    rewards = Rewards(judge_weight=0.5, rules=(Rule("brief", answer_chars(at_most=1, slope=300), weight=2.0),))
    reward = reward_function(Ruler(LIKES_SHORT), num_generations=8, rewards=rewards, reference="answer")
    trainer = make_trainer("GRPO", policy, tmp_path, reward, max_steps=2)
    trainer.train()
    parts = zip(steps(trainer, "judge/part_judge"), steps(trainer, "judge/part_brief"), strict=True)
    assert [judge + rule for judge, rule in parts] == pytest.approx(steps(trainer, "reward"), abs=1e-5)


def test_beside_another_function_a_failed_group_is_trained_on_that_alone(policy: Path, tmp_path: Path) -> None:
    def brief(completions: list[Any], **columns: Any) -> list[float]:
        return [-len(completion[0]["content"]) / 100 for completion in completions]

    judge = reward_function(Ruler(ScriptedJudge(lambda request: JudgeUnavailable("down"))), num_generations=8)
    trainer = make_trainer("GRPO", policy, tmp_path, [brief, judge], max_steps=1)
    trainer.train()
    assert steps(trainer, "judge/failed_groups") == [4.0]
    assert trainer._logs["rewards"]["brief"] != [0.0] * 32
    assert steps(trainer, "reward")[0] < 0
    assert any(trainer._logs["advantages"])


def test_evaluation_has_groups_of_its_own_size(policy: Path, tmp_path: Path) -> None:
    asked: list[int] = []

    def answer(request: JudgeRequest) -> str:
        asked.append(len(request.ids))
        return scores_reply({label: 10 * place for place, label in enumerate(request.ids)})

    reward = reward_function(Ruler(ScriptedJudge(answer)), num_generations=8, num_generations_eval=4)
    sizes = {"per_device_eval_batch_size": 8, "num_generations_eval": 4}
    trainer = make_trainer("GRPO", policy, tmp_path, reward, max_steps=1, **sizes)
    trainer.train()
    assert {*asked} <= {8, 7, 6, 5}
    asked.clear()
    assert trainer.evaluate()["eval_judge/failed_groups"] == 0
    assert len(asked) == 4
    assert {*asked} <= {4, 3, 2}


def test_plain_prompts(policy: Path, tmp_path: Path) -> None:
    data = rows().map(lambda row: {"prompt": row["prompt"][0]["content"]})
    reward = reward_function(Ruler(LIKES_SHORT), num_generations=8)
    trainer = make_trainer("GRPO", policy, tmp_path, reward, data=data, max_steps=1)
    trainer.train()
    assert steps(trainer, "judge/failed_groups") == [0.0]
    assert steps(trainer, "frac_reward_zero_std")[0] < 1


@pytest.mark.parametrize("error", [BudgetExceeded("the cap of 1 USD"), ConfigError("no such judge")])
def test_where_nothing_can_be_scored_training_ends(error: RulerError, policy: Path, tmp_path: Path) -> None:
    reward = reward_function(Ruler(ScriptedJudge(lambda request: error)), num_generations=8)
    with pytest.raises(type(error), match=str(error)):
        make_trainer("GRPO", policy, tmp_path, reward).train()


@pytest.mark.parametrize("fails", [False, True])
def test_async_grpo_scores_in_a_spawned_child(fails: bool) -> None:
    """Its own hook, with the function sent there as it sends it."""
    with serving("--judge", LIKES_SHORT, "--cache", "off") as service:
        url = "http://127.0.0.1:9" if fails else service.url
        reward = reward_function(Client(url, attempts=1), num_generations=4, reference="answer")
        texts = ["a", "b" * 30, "c" * 60, "d" * 60]
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as children:
            got = children.submit(score_in_child, reward, texts).result(400)
    advantages = [advantage for advantage, _ in got]
    rewards = [metrics["rewards/judge"] for _, metrics in got]
    if fails:
        assert advantages == [0.0] * 4
        assert all(math.isnan(reward) for reward in rewards)
        assert all(math.isnan(metrics["reward"]) for _, metrics in got)
    else:
        assert rewards == sorted(rewards, reverse=True)
        assert advantages[0] > advantages[1] > advantages[2]


def test_two_processes_with_half_groups_are_refused(policy: Path, tmp_path: Path) -> None:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *launch, "-m", "tests.adapters.trl_runs", str(policy), str(tmp_path)],
        capture_output=True, text=True, timeout=300, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode != 0
    assert "2 rows are a group, but of 3 rows 1 belong together" in done.stderr
    assert "make per_device_train_batch_size × steps_per_generation a multiple of num_generations" in done.stderr


def test_what_the_page_shows_runs(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "trainers" / "trl.md").read_text(encoding="utf-8")
    start, rules = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    small = "max_steps=1, max_completion_length=16, use_cpu=True, bf16=False, report_to=[], save_strategy='no'"
    for theirs, here in (
        ("openai/gpt-5-mini", LIKES_SHORT),
        ("Qwen/Qwen2.5-0.5B-Instruct", str(policy)),
        ('output_dir="runs/trl"', f'output_dir="runs/trl", {small}'),
    ):
        assert theirs in start
        start = start.replace(theirs, here)
    names: dict[str, Any] = {}
    exec(start, names)
    assert names["trainer"].state.global_step == 1
    assert steps(names["trainer"], "train_loss")
    exec(rules.replace("openai/gpt-5-mini", LIKES_SHORT), names)
    again = make_trainer("GRPO", policy, tmp_path, names["judge"], max_steps=1)
    again.train()
    assert steps(again, "judge/part_correct")[0] >= 0


# --- A whole run ------------------------------------------------------------------------


class Outage(TrainerCallback):
    """The service is killed before one step and comes back, at the same address, before another."""

    def __init__(self, options: list[str], *, down: int, up: int) -> None:
        self.options, self.down, self.up = options, down, up
        self.service = start(*options)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.down:
            self.service.process.kill()
            self.service.process.communicate()
        elif state.global_step == self.up:
            self.service = start(*self.options, port=self.service.port)


def test_twenty_steps_over_a_service_that_is_killed_and_restarted(
    policy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outage = Outage(["--judge", LIKES_SHORT, "--cache", str(tmp_path / "cache.sqlite3")], down=8, up=10)
    client = Client(outage.service.url, attempts=2)  # soon given up when nobody listens
    watched = Watched(reward_function(client, num_generations=8))
    trainer = make_trainer("GRPO", policy, tmp_path, watched, max_steps=20, learning_rate=1e-3)
    trainer.add_callback(outage)
    try:
        with caplog.at_level(logging.WARNING, "ruler.adapters"):
            trainer.train()
    finally:
        outage.service.process.kill()
        outage.service.process.communicate()
    assert len(watched.rewards) == 20
    for step, rewards in enumerate(watched.rewards):
        groups = [rewards[first : first + 8] for first in range(0, 32, 8)]
        down = outage.down <= step < outage.up
        # Late in the run the rollouts of a group may all be alike; then it is tied.
        assert all(group == [None] * 8 or None not in group for group in groups)
        assert not down or rewards == [None] * 32
        assert down or any(reward is not None for reward in rewards)
        assert all(reward is None or reward > 0 for reward in rewards)
    failed = steps(trainer, "judge/failed_groups")
    assert failed == [4.0 if outage.down <= step < outage.up else 0.0 for step in range(20)]
    dropped = [record.getMessage() for record in caplog.records if record.name == "ruler.adapters"]
    assert len(dropped) == 8
    assert all("no reward for any rollout: 'unavailable: http://127.0.0.1:" in message for message in dropped)
    # A step without any reward moves nothing.
    assert [grad == 0 for grad in steps(trainer, "grad_norm")[8:10]] == [True, True]
    # What the judge likes came true.
    lengths = steps(trainer, "completions/mean_length")
    assert sum(lengths[-4:]) < 0.5 * sum(lengths[:4])
    rewards = steps(trainer, "rewards/judge/mean")
    assert sum(rewards[-4:]) > sum(rewards[:4])
