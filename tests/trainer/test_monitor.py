"""What a run writes down and shows."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

torch = pytest.importorskip("torch")
pytest.importorskip("tensorboard")

from ruler.errors import ConfigError, JudgeUnavailable  # noqa: E402
from ruler.records import read_labelled  # noqa: E402
from ruler.rewards import GroupRewards, Rewards, RolloutReward, Rule  # noqa: E402
from ruler.rules import final_answer  # noqa: E402
from ruler.types import FailedGroup, Group, Rollout, Score, ScoredGroup, Usage  # noqa: E402
from trainer.episodes import BrokenGroup, Episode, SampledGroup  # noqa: E402
from trainer.monitor import METRICS, AppendedLines, Monitor, read_lines, sample_record, step_metrics  # noqa: E402
from trainer.rewards import Rewarded  # noqa: E402

ROOT = Path(__file__).parents[2]
MADE_BY: dict[str, Any] = {"judge": "j", "rubric": "default", "prompt_version": "1", "orders": 1, "adaptive": False}


def well_formed(rollout: Rollout, group: Group) -> float:
    return float(final_answer(rollout).startswith("<answer>"))


def episode(num_sampled: int, truth: float | None, *, truncated: bool = False, entropy: float = 0.5) -> Episode:
    """Two tokens of a prompt, then sampled ones; what stands where nothing was sampled must not count."""
    return Episode(
        tokens=(1, 2, *range(num_sampled)),
        sampled=(False, False, *(True,) * num_sampled),
        logprobs=(0.0, 0.0, *(-0.5,) * num_sampled),
        entropies=(9.0, 9.0, *(entropy,) * num_sampled),
        truncated=truncated,
        truth=truth,
    )


def sampled(name: str, texts: list[str], episodes: list[Episode]) -> SampledGroup:
    return SampledGroup(7, Group.of(texts, task="2+3?", id=name), tuple(episodes))


def scored(group: Group, scores: list[float | None], usage: Usage, status: Any = "scored") -> ScoredGroup:
    return ScoredGroup(
        group_id=group.id,
        group_digest=group.digest,
        rollouts_digest=group.rollouts_digest,
        status=status,
        rollouts=tuple(
            Score(rollout.id, score, note=None if score is None else f"note on {rollout.id}")
            for rollout, score in zip(group.rollouts, scores, strict=True)
        ),
        usage=usage,
        model="m",
        orders_used=1,
        **MADE_BY,
    )


def judged(group: SampledGroup, result: ScoredGroup | FailedGroup, rewards: Rewards | None = None) -> Rewarded:
    combined = (rewards or Rewards()).combine(group.group, result)
    failure = f"{result.reason}: {result.message}" if isinstance(result, FailedGroup) else None
    return Rewarded(combined, result, failure)


GOOD = sampled(
    "good",
    ["<answer>5", "6", "<answer>7"],
    [episode(2, 1.0, entropy=0.2), episode(4, 0.0, truncated=True, entropy=1.0), episode(3, 0.0, entropy=0.2)],
)
EQUAL = sampled("equal", ["5", "6"], [episode(1, 1.0), episode(1, 0.0)])
SAME = sampled("same", ["5", "5"], [episode(1, 1.0), episode(1, 1.0)])
FAILED = sampled("failed", ["5", "<answer>6"], [episode(10, 1.0), episode(2, 0.0)])
BROKEN = BrokenGroup(3, "broken", "environment: ValueError: no such mail")

GOOD_REWARDED = judged(
    GOOD,
    scored(GOOD.group, [0.9, 0.5, 0.5], Usage(2, 100, 0, 20, 0.25, cache_hits=1, wait_seconds=3.0)),
)
EQUAL_REWARDED = judged(EQUAL, scored(EQUAL.group, [0.4, 0.4], Usage(1, 50, 0, 10, 0.25, wait_seconds=1.0)))
SAME_REWARDED = judged(SAME, scored(SAME.group, [None, None], Usage(), "tied"))
FAILED_REWARDED = judged(
    FAILED, FailedGroup.of(FAILED.group, JudgeUnavailable("503", usage=Usage(3, 0, 0, 0, 0.5, retries=2)), **MADE_BY)
)
GROUPS = [GOOD, EQUAL, SAME, FAILED]
REWARDED = [GOOD_REWARDED, EQUAL_REWARDED, SAME_REWARDED, FAILED_REWARDED]


def test_the_figures_of_a_step() -> None:
    found = step_metrics(GROUPS, REWARDED, broken=[BROKEN], well_formed=well_formed)
    rewards = [0.9, 0.5, 0.5, 0.4, 0.4]
    mean = sum(rewards) / 5
    entropies = [0.2] * 5 + [1.0] * 4 + [0.5] * 16
    assert found == pytest.approx(
        {
            "reward/mean": mean,
            "reward/std": math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / 4),
            "truth/mean": 5 / 9,
            "truth/agreement": (1.0 + 0.5) / 2,
            "groups/zero_spread": 2 / 3,
            "groups/tied": 1,
            "groups/failed": 2,
            "groups/failed/environment": 1,
            "groups/failed/unavailable": 1,
            "rollouts/tokens": 25,
            "rollouts/tokens_mean": 25 / 9,
            "rollouts/tokens_max": 10,
            "rollouts/truncated": 1 / 9,
            "rollouts/well_formed": 3 / 9,
            "judge/score": mean,
            "judge/calls": 6,
            "judge/tokens": 180,
            "judge/cache_hits": 1,
            "judge/cost_usd": 1.0,
            "judge/wait_seconds": 4 / 3,
            "policy/entropy": sum(entropies) / 25,
        }
    )


def test_rewards_of_a_tied_group_are_left_out_though_rules_made_some() -> None:
    rules = Rewards(rules=(Rule("seven", lambda rollout, group: float(rollout.id == "r1"), weight=7.0),))
    result = scored(SAME.group, [None, None], Usage(), "tied")
    found = step_metrics([SAME], [judged(SAME, result, rules)], well_formed=well_formed)
    assert found["reward/mean"] is None
    assert found["groups/tied"] == 1
    assert found["groups/zero_spread"] == 0.0  # 7.0 and 0.0


def test_a_step_of_nothing_has_no_means_and_numbers_of_nothing() -> None:
    found = step_metrics([], [], broken=[BROKEN, BROKEN], well_formed=well_formed)
    numbers = {key: value for key, value in found.items() if value is not None}
    assert numbers == {
        "groups/tied": 0,
        "groups/failed": 2,
        "groups/failed/environment": 2,
        "rollouts/tokens": 0,
        "judge/calls": 0,
        "judge/tokens": 0,
        "judge/cache_hits": 0,
        "judge/cost_usd": 0.0,
    }


def test_where_truth_is_not_known_nothing_is_said_of_it() -> None:
    half = replace(GOOD, episodes=(GOOD.episodes[0], *(replace(one, truth=None) for one in GOOD.episodes[1:])))
    found = step_metrics([half], [GOOD_REWARDED], well_formed=well_formed)
    assert found["truth/mean"] == 1.0  # of the one that is known
    assert found["truth/agreement"] is None
    none = replace(GOOD, episodes=tuple(replace(one, truth=None) for one in GOOD.episodes))
    found = step_metrics([none], [GOOD_REWARDED], well_formed=well_formed)
    assert found["truth/mean"] is found["truth/agreement"] is None


def test_a_cost_that_is_not_known_is_none_and_rules_cost_nothing() -> None:
    unknown = judged(GOOD, scored(GOOD.group, [0.1, 0.2, 0.3], Usage(1, cost_usd=None)))
    found = step_metrics([GOOD, EQUAL], [unknown, EQUAL_REWARDED], well_formed=well_formed)
    assert found["judge/cost_usd"] is None
    rules = Rewards(judge_weight=0.0, rules=(Rule("form", well_formed),))
    found = step_metrics([GOOD], [Rewarded(rules.combine(GOOD.group, None))], well_formed=well_formed)
    assert found["judge/cost_usd"] == 0.0
    assert found["judge/score"] is found["judge/wait_seconds"] is None
    assert found["reward/mean"] == pytest.approx(2 / 3)


def test_rewards_that_differ_by_rounding_have_no_spread() -> None:
    rollouts = tuple(RolloutReward(f"r{n}", 0.3 + n * 1e-12) for n in range(1, 4))
    rewarded = Rewarded(GroupRewards("good", "unjudged", rollouts))
    assert step_metrics([GOOD], [rewarded], well_formed=well_formed)["groups/zero_spread"] == 1.0


def test_every_key_is_documented_and_every_documented_one_is_emitted() -> None:
    found = step_metrics(GROUPS, REWARDED, broken=[BROKEN], well_formed=well_formed)
    emitted = {"groups/failed/REASON" if key.startswith("groups/failed/") else key for key in found}
    by_the_loop = {
        "judge/latency_seconds",
        "judge_stall_seconds",
        "policy/loss",
        "policy/grad_norm",
        "policy/clip_share",
        "policy/kl",
        "policy/ratio",
        "time/sampling_seconds",
        "time/update_seconds",
        "time/step_seconds",
        "held_out/truth_sampled",
        "held_out/truth_greedy",
        "held_out/well_formed",
        "held_out/tokens_mean",
        "alarm/hacking",
    }
    assert not emitted & by_the_loop
    assert emitted | by_the_loop == METRICS.keys()
    assert all(sentence.endswith(".") for sentence in METRICS.values())


# Samples


def test_a_sample_has_what_was_said_and_what_became_of_it() -> None:
    rules = Rewards(rules=(Rule("form", well_formed, weight=0.5),))
    record = sample_record(4, GOOD, judged(GOOD, GOOD_REWARDED.result, rules))  # type: ignore[arg-type]
    assert record | {"rollouts": None} == {
        "step": 4,
        "problem": 7,
        "status": "scored",
        "failure": None,
        "group_id": "good",
        "task": {"messages": [{"role": "user", "content": "2+3?"}]},
        "rollouts": None,
    }
    assert record["rollouts"][1] == {
        "id": "r2",
        "messages": [{"role": "assistant", "content": "6"}],
        "reward": 0.5,
        "parts": {"form": 0.0, "judge": 0.5},
        "gated_by": None,
        "score": 0.5,
        "note": "note on r2",
        "truth": 0.0,
        "truncated": True,
    }


def test_a_failed_group_says_why() -> None:
    record = sample_record(4, FAILED, FAILED_REWARDED)
    assert (record["status"], record["failure"]) == ("failed", "unavailable: 503")
    assert [rollout["reward"] for rollout in record["rollouts"]] == [None, None]


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


STEP = {
    "reward/mean": 0.7123,
    "truth/mean": 0.64,
    "groups/failed": 1,
    "judge_stall_seconds": 0.81,
    "rollouts/tokens": 10_400,
    "time/step_seconds": 2.0,
}


def test_without_a_terminal_first_last_and_every_tenth_step_are_plain_lines(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=20)
    with Monitor(tmp_path, num_steps=25, console=console) as monitor:
        for step in range(1, 26):
            monitor.step(step, STEP if step == 1 else {"reward/mean": 0.5, "truth/mean": None})
        monitor.evaluation(25, {"held_out/truth_sampled": 0.875, "held_out/truth_greedy": None})
        monitor.say("[bold]Reward hacking?")
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "step 1/25  reward 0.712  truth 0.640  failed 1  stall 0.8 s  5,200 tokens/s",
        "step 10/25  reward 0.500",
        "step 20/25  reward 0.500",
        "step 25/25  reward 0.500",
        "after step 25, held out: truth sampled 0.875, truth greedy none",
        "[bold]Reward hacking?",
    ]


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
