from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from judges.simulated import SimulatedJudge  # noqa: E402
from ruler import JudgeReply, JudgeRequest, JudgeUnavailable, Ruler  # noqa: E402
from ruler.errors import ConfigError  # noqa: E402
from tests.trainer.words_task import Say, brevity, words_task  # noqa: E402
from trainer import checkpoints  # noqa: E402
from trainer.environments import Start  # noqa: E402
from trainer.episodes import SampledGroup  # noqa: E402
from trainer.metrics import METRICS  # noqa: E402
from trainer.monitor import read_lines  # noqa: E402
from trainer.policy import Policy  # noqa: E402
from trainer.rewards import Rewarded, RewardFunction, by_judge, by_truth  # noqa: E402
from trainer.run import RunStopped  # noqa: E402
from trainer.settings import Settings  # noqa: E402
from trainer.tasks import Task  # noqa: E402
from trainer.tiny import make_tiny_policy  # noqa: E402
from trainer.train import train  # noqa: E402

pytestmark = pytest.mark.slow

SHORT = Settings(
    steps=4,
    prompts_per_step=3,
    group_size=4,
    learning_rate=3e-3,
    evaluate_every=2,
    held_out_problems=2,
    checkpoint_every=2,
)


def new_policy(task: Task, seed: int = 0) -> Policy:
    assert task.tiny
    return Policy(*make_tiny_policy(task.tiny, seed=seed))


async def run(
    out: Path,
    settings: Settings = SHORT,
    reward: RewardFunction | None = None,
    task: Task | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Trains a new policy, and returns the lines of the steps."""
    task = task or words_task()
    await train(settings, task, new_policy(task), reward or by_truth(), out, **options)
    return steps_of(out)


def steps_of(out: Path) -> list[dict[str, Any]]:
    return [line for line in read_lines(out / "metrics.jsonl") if "reward/mean" in line]


async def test_truth_rises_on_problems_that_were_not_trained_on(tmp_path: Path) -> None:
    settings = replace(SHORT, steps=30, prompts_per_step=4, group_size=8, evaluate_every=10)
    lines = await run(tmp_path, settings)
    assert [line["step"] for line in lines] == list(range(1, 31))
    assert lines[0]["truth/mean"] < 0.3
    assert lines[-1]["truth/mean"] > 0.8
    held_out = [line for line in read_lines(tmp_path / "metrics.jsonl") if "held_out/truth_sampled" in line]
    assert [line["step"] for line in held_out] == [0, 10, 20, 30]
    assert held_out[-1]["held_out/truth_greedy"] > 0.8
    for line in read_lines(tmp_path / "metrics.jsonl"):
        assert {key for key in line if not key.startswith("groups/failed/")} <= {*METRICS, "step"}


async def test_a_run_leaves_all_that_is_promised(tmp_path: Path) -> None:
    await run(tmp_path, reward=by_judge(Ruler(SimulatedJudge()).score_many))
    assert json.loads((tmp_path / "settings.json").read_text())["learning_rate"] == 3e-3
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert any((tmp_path / "tensorboard").iterdir())
    (sample,) = read_lines(tmp_path / "samples.jsonl")
    assert sample["rollouts"][0]["note"]
    again = Policy.load(str(tmp_path / "policy"))
    newest = checkpoints.latest(tmp_path / "checkpoints")
    assert newest
    assert newest.name == "step-000004"
    trained = new_policy(words_task())
    checkpoints.load(newest, trained.model, torch.optim.AdamW(trained.model.parameters()))
    for ours, theirs in zip(again.model.parameters(), trained.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_run_that_is_killed_again_and_again_is_the_run_that_never_was(tmp_path: Path) -> None:
    steps, rng = 14, random.Random(3)

    def start(name: str) -> subprocess.Popen[bytes]:
        paths = [str(tmp_path / f"{name}{part}") for part in ("", ".sqlite3", ".calls")]
        command = [sys.executable, "-m", "tests.trainer.train_words", *paths, str(steps)]
        return subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE)

    def num_lines(name: str) -> int:
        path = tmp_path / name / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def finish(name: str) -> bytes:
        process = start(name)
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error.decode()
        return error

    finish("calm")
    kills = 0
    for _ in range(4):
        process = start("killed")
        enough = num_lines("killed") + rng.randint(1, 5)
        while process.poll() is None and num_lines("killed") < enough:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        assert process.stderr
        process.stderr.close()
    assert kills >= 3
    assert b"goes on after step" in finish("killed")

    for file in ("weights.safetensors", "optimiser.safetensors"):
        calm_bytes = (tmp_path / "calm" / "checkpoints" / "step-000014" / file).read_bytes()
        assert calm_bytes == (tmp_path / "killed" / "checkpoints" / "step-000014" / file).read_bytes(), file
    assert figures(tmp_path / "calm") == figures(tmp_path / "killed")
    samples = [(tmp_path / name / "samples.jsonl").read_text() for name in ("calm", "killed")]
    assert samples[0] == samples[1]

    calls = [(tmp_path / f"{name}.calls").read_text().split() for name in ("calm", "killed")]
    assert set(calls[0]) == set(calls[1])
    # Paid again is only what was in flight at a kill: at most a batch.
    assert len(calls[1]) - len(set(calls[1])) <= 3 * kills


def figures(out: Path) -> list[dict[str, Any]]:
    """The metrics without what is measured by the clock, and without what was paid: that is in the cache."""
    clock = ("time/", "judge_stall", "judge/latency", "judge/wait", "judge/calls", "judge/cache", "judge/tokens")
    return [
        {key: value for key, value in line.items() if not key.startswith(clock)}
        for line in read_lines(out / "metrics.jsonl")
    ]


async def test_the_same_seed_gives_the_same_run_and_another_one_does_not(tmp_path: Path) -> None:
    await run(tmp_path / "one")
    await run(tmp_path / "two")
    await run(tmp_path / "three", replace(SHORT, seed=1))
    assert figures(tmp_path / "one") == figures(tmp_path / "two")
    assert figures(tmp_path / "one") != figures(tmp_path / "three")


async def test_a_finished_run_can_go_on_with_more_steps(tmp_path: Path) -> None:
    await run(tmp_path / "whole", replace(SHORT, steps=6))
    await run(tmp_path / "parts", replace(SHORT, steps=4))
    await run(tmp_path / "parts", replace(SHORT, steps=6))
    weights = [
        (tmp_path / name / "checkpoints/step-000006/weights.safetensors").read_bytes() for name in ("whole", "parts")
    ]
    assert weights[0] == weights[1]


async def test_a_run_cannot_have_fewer_steps_than_it_has_done(tmp_path: Path) -> None:
    await run(tmp_path)
    with pytest.raises(ConfigError, match=r"^steps: the run in .* has done 4 already, got 3"):
        await run(tmp_path, replace(SHORT, steps=3))
    assert json.loads((tmp_path / "settings.json").read_text())["steps"] == 4


@pytest.mark.parametrize(
    ("changed", "name"), [({"learning_rate": 1e-3}, "learning_rate"), ({}, "judge"), ({"seed": 3}, "seed")]
)
async def test_another_run_does_not_go_on_in_the_folder(tmp_path: Path, changed: dict[str, Any], name: str) -> None:
    await run(tmp_path, facts={"judge": "one"})
    with pytest.raises(ConfigError, match=f"^{name}: "):
        await run(tmp_path, replace(SHORT, **changed), facts={"judge": "two" if not changed else "one"})


async def test_two_processes_do_not_work_in_one_folder(tmp_path: Path) -> None:
    async def second(groups: Sequence[SampledGroup]) -> Sequence[Rewarded]:
        with pytest.raises(ConfigError, match="another process is at work"):
            await run(tmp_path)
        return await by_truth()(groups)

    await run(tmp_path, reward=second)


async def test_a_failed_group_is_dropped_and_counted(tmp_path: Path) -> None:
    judge = SimulatedJudge()

    async def sometimes(request: JudgeRequest) -> JudgeReply:
        if int(request.prompt_hash(), 16) % 3 == 0:
            raise JudgeUnavailable("down")
        return await judge(request)

    lines = await run(tmp_path, replace(SHORT, max_failed_share=1.0), by_judge(Ruler(sometimes).score_many))
    failed = sum(line["groups/failed"] for line in lines)
    assert 0 < failed < 12
    assert failed == sum(line.get("groups/failed/unavailable", 0) for line in lines)


async def test_a_batch_that_failed_altogether_changes_no_weight(tmp_path: Path) -> None:
    async def down(request: JudgeRequest) -> JudgeReply:
        raise JudgeUnavailable("down")

    task = words_task()
    policy, before = new_policy(task), new_policy(task)
    settings = replace(SHORT, max_failed_share=1.0)
    await train(settings, task, policy, by_judge(Ruler(down).score_many), tmp_path)
    for ours, theirs in zip(policy.model.parameters(), before.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert [line["reward/mean"] for line in steps_of(tmp_path)] == [None] * 4


async def test_the_run_stops_when_too_many_groups_fail_and_goes_on_where_it_was(tmp_path: Path) -> None:
    judge, broken = SimulatedJudge(), asyncio.Event()

    async def breaks(request: JudgeRequest) -> JudgeReply:
        if broken.is_set():
            raise JudgeUnavailable("down")
        return await judge(request)

    reward = by_judge(Ruler(breaks).score_many)
    asked = 0

    async def counted(groups: Sequence[SampledGroup]) -> Sequence[Rewarded]:
        nonlocal asked
        asked += len(groups)
        if asked > 2 * 3:
            broken.set()
        return await reward(groups)

    # The step that stops the run is one before which was measured, and before which there is no checkpoint.
    settings = replace(SHORT, checkpoint_every=9)
    with pytest.raises(RunStopped, match=r"step 3: 3 of 3 groups have no rewards \(unavailable 3\)"):
        await run(tmp_path / "stopped", settings, counted)
    assert len(steps_of(tmp_path / "stopped")) == 2
    broken.clear()
    newest = checkpoints.latest(tmp_path / "stopped" / "checkpoints")
    assert newest
    assert newest.name == "step-000002"
    await run(tmp_path / "stopped", settings, reward)
    await run(tmp_path / "calm", settings, reward)
    assert figures(tmp_path / "stopped") == figures(tmp_path / "calm")


async def test_the_alarm_is_raised_when_a_judge_that_loves_length_is_obeyed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Truth is brevity, the judge's quality length: the reward rises, and truth falls."""
    judge = SimulatedJudge(lambda task, rollout: len(rollout) / 40)
    settings = replace(SHORT, steps=40, prompts_per_step=4, group_size=8, learning_rate=1e-3, evaluate_every=40)
    lines = await run(tmp_path, settings, by_judge(Ruler(judge).score_many), words_task(brevity))
    assert lines[-1]["truth/mean"] < lines[0]["truth/mean"] - 0.2
    assert lines[-1]["reward/mean"] > lines[0]["reward/mean"]
    assert sum(line["alarm/hacking"] for line in lines) >= 1
    assert "Reward hacking?" in capsys.readouterr().err


async def test_no_alarm_when_reward_is_truth(tmp_path: Path) -> None:
    settings = replace(SHORT, steps=40, prompts_per_step=4, group_size=8, evaluate_every=40)
    assert not any(line["alarm/hacking"] for line in await run(tmp_path, settings))


async def test_groups_are_judged_while_others_are_sampled_and_the_wait_is_measured(tmp_path: Path) -> None:
    reward = by_truth()

    async def slow(groups: Sequence[SampledGroup]) -> Sequence[Rewarded]:
        await asyncio.sleep(0.3)
        return await reward(groups)

    lines = await run(tmp_path, reward=slow)
    for line in lines:
        assert line["judge_stall_seconds"] > 0
        assert line["judge/latency_seconds"] >= 0.3
        parts = line["time/sampling_seconds"] + line["judge_stall_seconds"] + line["time/update_seconds"]
        assert parts == pytest.approx(line["time/step_seconds"])


async def test_groups_are_at_the_judge_together(tmp_path: Path) -> None:
    reward, waiting, all_there = by_truth(), 0, asyncio.Event()

    async def together(groups: Sequence[SampledGroup]) -> Sequence[Rewarded]:
        nonlocal waiting
        waiting += 1
        if waiting % SHORT.prompts_per_step == 0:
            all_there.set()
        await all_there.wait()
        return await reward(groups)

    await run(tmp_path, replace(SHORT, steps=1), together)
    assert waiting == SHORT.prompts_per_step


async def test_look_ahead_samples_the_next_batch_before_it_waits_for_this_one(tmp_path: Path) -> None:
    reward, log, next_asked = by_truth(), [], asyncio.Event()

    async def noted(groups: Sequence[SampledGroup]) -> Sequence[Rewarded]:
        step = groups[0].group.id.split("/")[0]
        log.append(f"asked {step}")
        if step == "step-1":
            # The rewards of the first batch come when the second one is being judged, and not before.
            await next_asked.wait()
        else:
            next_asked.set()
        log.append(f"answered {step}")
        return await reward(groups)

    lines = await run(tmp_path, replace(SHORT, look_ahead=True), noted)
    assert log.index("asked step-2") < log.index("answered step-1")
    assert "asked step-5" not in log  # nobody is asked for a step that will not be made
    # On the policy's own tokens the ratio is 1; on those of the policy before, it is not.
    assert lines[0]["policy/ratio"] == pytest.approx(1.0, abs=1e-5)
    assert abs(lines[1]["policy/ratio"] - 1) > 1e-5
    assert len(lines) == 4


async def test_look_ahead_learns_as_well(tmp_path: Path) -> None:
    settings = replace(SHORT, steps=30, prompts_per_step=4, group_size=8, evaluate_every=30, look_ahead=True)
    assert (await run(tmp_path, settings))[-1]["truth/mean"] > 0.8


@pytest.mark.parametrize("options", [{"loss_type": "grpo"}, {"loss_type": "dr_grpo"}, {"scale_rewards": "group"}])
async def test_every_loss_learns(tmp_path: Path, options: dict[str, Any]) -> None:
    settings = replace(SHORT, steps=30, prompts_per_step=4, group_size=8, evaluate_every=30, **options)
    assert (await run(tmp_path, settings))[-1]["truth/mean"] > 0.6


async def test_bfloat16_with_checkpointed_gradients_learns(tmp_path: Path) -> None:
    """What a policy on a GPU does, on a CPU."""
    task = words_task()
    assert task.tiny
    policy = Policy(*make_tiny_policy(task.tiny, seed=0), dtype="bfloat16")
    policy.model.gradient_checkpointing_enable()
    settings = replace(SHORT, steps=30, prompts_per_step=4, group_size=8, evaluate_every=30)
    await train(settings, task, policy, by_truth(), tmp_path)
    lines = steps_of(tmp_path)
    assert lines[-1]["truth/mean"] > 0.8
    # Drawn in bfloat16 with weights rounded to it, read again with those in float32: near 1, and not 1.
    assert 0 < abs(lines[0]["policy/ratio"] - 1) < 0.1
    assert {weight.dtype for weight in policy.model.parameters()} == {torch.float32}


async def test_an_error_of_the_reward_function_ends_the_run_and_says_what(tmp_path: Path) -> None:
    async def broken(groups: Sequence[SampledGroup]) -> Sequence[Rewarded]:
        raise KeyError("a user's bug")

    with pytest.raises(KeyError, match="a user's bug"):
        await run(tmp_path, reward=broken)


async def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    async def huge(groups: Sequence[SampledGroup]) -> Sequence[Rewarded]:
        return [Rewarded.of(group, [1e200 * place for place in range(4)]) for group in groups]

    with pytest.raises(RunStopped, match="step 1: loss"):
        await run(tmp_path, reward=huge)


async def test_a_reward_function_that_loses_a_group_is_named(tmp_path: Path) -> None:
    async def loses(groups: Sequence[SampledGroup]) -> Sequence[Rewarded]:
        return []

    with pytest.raises(ConfigError, match="reward: expected one Rewarded, of group 'step-1/"):
        await run(tmp_path, reward=loses)


async def test_nobody_is_asked_after_a_run_was_cancelled(tmp_path: Path) -> None:
    asked: list[str] = []
    first = asyncio.Event()

    async def endless(groups: Sequence[SampledGroup]) -> Sequence[Rewarded]:
        asked.extend(group.group.id for group in groups)
        first.set()
        try:
            await asyncio.Event().wait()
        finally:
            asked.append("ended")
        return []

    running = asyncio.create_task(run(tmp_path, replace(SHORT, prompts_per_step=40), endless))
    await first.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    when_it_ended = list(asked)
    assert asked.count("ended") == len(asked) / 2
    await asyncio.sleep(0.1)
    assert asked == when_it_ended


async def test_nobody_is_left_waiting_when_a_run_breaks(tmp_path: Path) -> None:
    """The second batch has a task that the chat template does not take, while the first is at the judge."""
    states: list[str] = []

    class Odd(Say):
        async def reset(self) -> Start:
            return Start([{"role": "user", "content": "sing"}]) if len(states) else await super().reset()

    async def judged(groups: Sequence[SampledGroup]) -> Sequence[Rewarded]:
        states.append("asked")
        try:
            await asyncio.sleep(60)
        finally:
            states.append("ended")
        return []

    task = words_task()
    assert task.tiny
    refusal = "{% if messages[0]['content'] == 'sing' %}{{ raise_exception('no songs') }}{% endif %}"
    tiny = replace(task.tiny, chat_template=refusal + task.tiny.chat_template)
    odd = replace(task, train=[lambda: Odd("a", brevity)], tiny=tiny)
    with pytest.raises(ConfigError, match="no songs"):
        await run(tmp_path, replace(SHORT, look_ahead=True, prompts_per_step=1), judged, odd)
    assert states == ["asked", "ended"]


async def test_the_divergence_is_from_the_policy_the_run_began_with_also_when_it_goes_on(tmp_path: Path) -> None:
    settings = replace(SHORT, beta=0.05, steps=6)
    whole = await run(tmp_path / "whole", settings)
    await run(tmp_path / "parts", replace(settings, steps=4))
    parts = await run(tmp_path / "parts", settings)
    divergences = [line["policy/kl"] for line in whole]
    assert divergences[0] == pytest.approx(0.0, abs=1e-6)
    assert min(divergences[2:]) > 1e-4
    assert divergences == [line["policy/kl"] for line in parts]


async def test_a_run_goes_on_from_the_policy_it_began_with_only(tmp_path: Path) -> None:
    task = words_task()
    policy = new_policy(task)
    await train(SHORT, task, policy, by_truth(), tmp_path)
    with pytest.raises(ConfigError, match="^weights: "):
        await train(replace(SHORT, steps=6), task, policy, by_truth(), tmp_path)


async def test_a_folder_that_is_no_runs_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "precious.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"^out: .* has policy and no settings.json"):
        await run(tmp_path)
    assert (tmp_path / "policy" / "precious.txt").read_text() == "mine"


async def test_a_run_that_has_learnt_nothing_may_be_put_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def broken(groups: Sequence[SampledGroup]) -> Sequence[Rewarded]:
        raise KeyError("no key")

    with pytest.raises(KeyError):
        await run(tmp_path, reward=broken)
    assert len(await run(tmp_path, replace(SHORT, learning_rate=1e-3))) == 4
    assert "begins anew" in capsys.readouterr().err


async def test_what_was_learnt_is_kept_however_the_run_ends(tmp_path: Path) -> None:
    calls, reward = 0, by_truth()

    async def breaks(groups: Sequence[SampledGroup]) -> Sequence[Rewarded]:
        nonlocal calls
        calls += 1
        if calls > 3 * 3:
            raise KeyError("a user's bug")
        return await reward(groups)

    settings = replace(SHORT, checkpoint_every=100)
    with pytest.raises(KeyError):
        await run(tmp_path / "broken", settings, breaks)
    newest = checkpoints.latest(tmp_path / "broken" / "checkpoints")
    assert newest
    assert newest.name == "step-000003"
    await run(tmp_path / "broken", settings, reward)
    await run(tmp_path / "calm", settings, reward)
    assert figures(tmp_path / "broken") == figures(tmp_path / "calm")


@pytest.mark.parametrize("damage", ["[]", "null", "{", "[" * 100_000])
async def test_damaged_settings_are_named(tmp_path: Path, damage: str) -> None:
    await run(tmp_path)
    (tmp_path / "settings.json").write_text(damage)
    with pytest.raises(ConfigError, match=r"settings.json: damaged"):
        await run(tmp_path)


async def test_a_damaged_checkpoint_says_what_goes_on_without_it(tmp_path: Path) -> None:
    await run(tmp_path)
    weights = tmp_path / "checkpoints" / "step-000004" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ConfigError, match=r"damaged.*without .*step-000004 the run goes on from the one before"):
        await run(tmp_path)


@pytest.mark.parametrize("part", ["train", "held_out"])
async def test_a_task_without_problems_is_refused(tmp_path: Path, part: str) -> None:
    with pytest.raises(ConfigError, match=f"{part}: expected at least one problem"):
        await run(tmp_path, task=replace(words_task(), **{part: []}))


@pytest.mark.parametrize("found", [None, "text", 3.0, [1.0], [None]])
async def test_what_is_no_reward_is_named(tmp_path: Path, found: Any) -> None:
    async def odd(groups: Sequence[SampledGroup]) -> Any:
        return found

    with pytest.raises(ConfigError, match="reward: expected one Rewarded"):
        await run(tmp_path, reward=odd)


async def test_what_was_refused_can_be_put_right_in_the_same_process(tmp_path: Path) -> None:
    await run(tmp_path)
    with pytest.raises(ConfigError, match="^seed: "):
        await run(tmp_path, replace(SHORT, seed=9))
    await run(tmp_path)


async def test_the_alarm_remembers_what_was_before_it_went_on(tmp_path: Path) -> None:
    judge = SimulatedJudge(lambda task, rollout: len(rollout) / 40)
    reward = by_judge(Ruler(judge).score_many)
    settings = replace(SHORT, steps=24, prompts_per_step=4, group_size=8, learning_rate=1e-3, evaluate_every=40)
    whole = await run(tmp_path / "whole", settings, reward, words_task(brevity))
    alarmed = [line["step"] for line in whole if line["alarm/hacking"]]
    assert alarmed
    for steps in (alarmed[0] - 1, settings.steps):
        parts = await run(tmp_path / "parts", replace(settings, steps=steps), reward, words_task(brevity))
    assert [line["step"] for line in parts if line["alarm/hacking"]] == alarmed


async def test_settings_reach_what_they_are_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import trainer.batch
    import trainer.train

    collected, updated = [], []
    real_collect, real_update = trainer.batch.collect, trainer.train.update

    async def collect(*arguments: Any, **options: Any) -> Any:
        collected.append(options)
        return await real_collect(*arguments, **options)

    def update(policy: Any, optimiser: Any, episodes: Any, advantages: Any, settings: Any, **options: Any) -> Any:
        updated.append((settings, optimiser.param_groups[0]["lr"], optimiser.param_groups[0]["weight_decay"]))
        return real_update(policy, optimiser, episodes, advantages, settings, **options)

    monkeypatch.setattr(trainer.batch, "collect", collect)
    monkeypatch.setattr(trainer.train, "update", update)
    settings = replace(
        SHORT, temperature=0.7, weight_decay=0.01, loss_type="dr_grpo", learning_rate_warm_up_steps=1, seed=5
    )
    await run(tmp_path, settings, task=replace(words_task(), max_turns=3))
    assert {options["temperature"] for options in collected} == {0.7}
    assert {options["limits"].max_turns for options in collected} == {3}
    assert len({options["seed"] for options in collected}) == 4  # another chance each step
    assert [rate for _, rate, _ in updated] == pytest.approx([1.5e-3, 3e-3, 3e-3, 3e-3])
    assert {decay for _, _, decay in updated} == {0.01}
    for made, _, _ in updated:
        assert made.temperature == 0.7
        assert made.loss.max_completion_tokens == 27
