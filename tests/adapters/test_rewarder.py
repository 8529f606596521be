from __future__ import annotations

import asyncio
import logging
import math
import multiprocessing
import pickle
import re
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given

from judges.scripted import ScriptedJudge, scores_reply
from ruler import Client, FailedGroup, Group, JudgeError, JudgeRequest, JudgeUnavailable, ReplyError, Ruler, ScoredGroup
from ruler.adapters.ms_swift import orm
from ruler.adapters.openrlhf import agent_executor
from ruler.adapters.rewarded import RewardedGroup, mean_parts
from ruler.adapters.rewarder import Blocking, Rewarder
from ruler.adapters.slime import group_reward
from ruler.adapters.verifiers import rubric_functions
from ruler.adapters.verl import JudgedRollouts
from ruler.adapters.verl_batch import batch_reward
from ruler.errors import BudgetExceeded, ConfigError, RulerError
from ruler.records import LabelledGroup, read_labelled
from ruler.rewards import Gate, Rewards, Rule
from ruler.rules import exact_answer, finished, matches
from ruler.types import Rollout
from tests.conftest import ROOT
from tests.test_rewards import compositions, judged_groups

SIMULATED = "simulated?quality=length&noise=0&scale=1500&offset=-1400"
PLAIN = Group.of(["a", "b" * 20, "c" * 40], task="q", id="plain", reference="a")
TIED = Group.of(["same", "same", "same"], task="q", id="tied", reference="same")
FAILING = Group.of(["FAIL", "f" * 30], task="q", id="failing", reference="x")
REWARDS = Rewards(
    judge_weight=0.5,
    rules=(Rule("right", exact_answer(), weight=2.0), Rule("short", matches("^.{0,30}$"), weight=0.0)),
    gates=(Gate("short", reward=-1.0),),
)


def answer(request: JudgeRequest) -> str | RulerError:
    """Falling scores in the order shown, by label; none for a group that asks for it."""
    if "FAIL" in str(request.messages):
        return ReplyError("made up")
    return scores_reply({label: 90 - 10 * place for place, label in enumerate(sorted(request.ids))})


def scripted() -> Ruler:
    return Ruler(ScriptedJudge(answer))


async def rewarded(group: Group, rewards: Rewards | None = None) -> RewardedGroup:
    [one] = await Rewarder(scripted(), rewards).reward([group])
    return one


# --- What a group gives -----------------------------------------------------------


async def test_scores_are_the_rewards_in_order() -> None:
    rewarder = Rewarder(scripted())
    both = await rewarder.reward([PLAIN, Group.of(["x", "y"], task="q", id="other")])
    assert [one.group.id for one in both] == ["plain", "other"]
    one = both[0]
    assert isinstance(one.result, ScoredGroup)
    assert one.optional == one.numbers() == one.numbers(-7.0) == one.result.scores
    assert one.failure is None
    assert sorted(one.numbers()) == [0.7, 0.8, 0.9]
    assert [m["part_judge"] for m in one.metrics()] == list(one.result.scores)


async def test_rules_and_gates_have_their_say() -> None:
    one = await rewarded(PLAIN, REWARDS)
    assert isinstance(one.result, ScoredGroup)
    scores = [score or 0.0 for score in one.result.scores]
    assert one.numbers() == one.optional == (2 + scores[0] / 2, scores[1] / 2, -1.0)
    flags = {"judge_failed": 0.0, "judge_tied": 0.0}
    assert one.metrics() == [
        {**flags, "judge_gated": 0.0, "part_judge": scores[0] / 2, "part_right": 2.0, "part_short": 0.0},
        {**flags, "judge_gated": 0.0, "part_judge": scores[1] / 2, "part_right": 0.0, "part_short": 0.0},
        {**flags, "judge_gated": 1.0, "part_judge": 0.0, "part_right": 0.0, "part_short": 0.0},
    ]


async def test_a_failed_group_has_no_number_unless_one_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "ruler.adapters"):
        one = await rewarded(FAILING)
    assert one.optional == (None, None)
    assert isinstance(one.result, FailedGroup)
    assert one.failure == "reply: made up"
    with pytest.raises(JudgeError, match="group 'failing': no reward for any rollout: reply"):
        one.numbers()
    assert one.numbers(0.0) == (0.0, 0.0)
    assert all(m["judge_failed"] == 1 and m["part_judge"] == 0 for m in one.metrics())
    assert one.notes == (None, None)
    assert [record.getMessage() for record in caplog.records] == [
        "group 'failing': no reward for any rollout: 'reply: made up'"
    ]


async def test_a_failed_group_that_rules_alone_decide_has_its_rewards() -> None:
    """All were stopped by a gate, so the judge has no say."""
    stopped = Group.of(["FAIL" + "x" * 40, "y" * 50], task="q", reference="a")
    one = await rewarded(stopped, REWARDS)
    assert one.optional == one.numbers() == (-1.0, -1.0)
    assert one.failure is None
    assert [m["judge_failed"] for m in one.metrics()] == [0.0, 0.0]


async def test_a_rule_that_raises_fails_its_group_alone(caplog: pytest.LogCaptureFixture) -> None:
    def check(rollout: Rollout, group: Group) -> float:
        if group.id == "plain":
            raise KeyError("price\nERROR forged")
        return 1.0

    rewarder = Rewarder(scripted(), Rewards(rules=(Rule("price", check),)))
    failed, fine = await rewarder.reward([PLAIN, Group.of(["x", "y"], task="q")])
    assert failed.optional == (None, None, None)
    assert failed.failure is not None
    assert "rule 'price': raised KeyError" in failed.failure
    assert failed.metrics()[0] == {
        "judge_failed": 1.0, "judge_tied": 0.0, "judge_gated": 0.0, "part_judge": 0.0, "part_price": 0.0
    }  # fmt: skip
    assert None not in fine.optional
    assert [len(record.getMessage().splitlines()) for record in caplog.records] == [1]


async def test_a_tied_group_is_the_middle_or_nothing() -> None:
    alone = await rewarded(TIED)
    assert alone.optional == (None, None, None)
    assert alone.numbers() == alone.numbers(-3.0) == (0.5, 0.5, 0.5)
    assert [(m["judge_tied"], m["part_judge"]) for m in alone.metrics()] == [(1.0, 0.5)] * 3
    assert (await rewarded(TIED, REWARDS)).numbers() == (2.25, 2.25, 2.25)
    assert (await rewarded(TIED, Rewards(rules=REWARDS.rules, judge_breaks_ties=True))).numbers() == (2.0, 2.0, 2.0)


async def test_a_tied_group_that_rules_tell_apart_has_rewards() -> None:
    """Rules see metadata, the judge does not."""
    apart = Group.of(
        [Rollout.of("a", "x", metadata={"passed": True}), Rollout.of("b", "x", metadata={"passed": False})], task="q"
    )
    rewards = Rewards(rules=(Rule("passed", lambda rollout, group: bool(rollout.metadata["passed"])),))
    one = await rewarded(apart, rewards)
    assert one.optional == one.numbers() == (1.5, 0.5)
    assert [metrics["part_judge"] for metrics in one.metrics()] == [0.5, 0.5]


async def test_no_groups_ask_nobody() -> None:
    judge = ScriptedJudge([])
    assert await Rewarder(Ruler(judge)).reward([]) == []


async def test_means_are_over_rollouts_that_have_a_reward() -> None:
    rewarder = Rewarder(scripted(), REWARDS)
    plain, tied, failed = await rewarder.reward([PLAIN, TIED, FAILING])
    means = mean_parts([plain, tied], REWARDS)
    assert tuple(f"part_{name}" for name in ("judge", "right", "short")) == tuple(means)
    parts = [metrics["part_judge"] for one in (plain, tied) for metrics in one.metrics()]
    assert means["part_judge"] == pytest.approx(sum(parts) / 6)
    assert means["part_right"] == pytest.approx((2 + 3 * 2) / 6)
    none = mean_parts([], REWARDS)
    assert tuple(none) == tuple(means)
    assert all(math.isnan(mean) for mean in none.values())
    assert failed.optional == (None, None)


@given(rewards=compositions(), judged=judged_groups())
def test_the_parts_make_up_the_number(rewards: Rewards, judged: tuple[Group, ScoredGroup]) -> None:
    group, result = judged
    settled, failure = rewards.settle(group, result)
    one = RewardedGroup(group, settled, result, rewards, failure)
    for number, metrics, of_rollout in zip(one.numbers(), one.metrics(), settled.rollouts, strict=True):
        parts = math.fsum(value for name, value in metrics.items() if name.startswith("part_"))
        assert metrics["judge_gated"] == (of_rollout.gated_by is not None)
        assert number == (of_rollout.reward if of_rollout.gated_by else pytest.approx(parts, rel=1e-9, abs=1e-9))


@pytest.mark.parametrize("value", ["zero", "0", math.nan, math.inf, True, [0.0]])
@pytest.mark.parametrize("adapter", ["verifiers", "verl_batch", "verl", "slime", "ms_swift", "openrlhf"])
def test_a_failure_reward_is_a_finite_number(adapter: str, value: Any) -> None:
    """Wherever there is one: what is none would end a run after hours, or poison a batch."""

    class Parent:
        def __init__(self, *_: object) -> None:
            pass

        async def execute(self) -> None:
            pass

    class Manager(JudgedRollouts, Parent):
        failure_reward = value

    config = {"actor_rollout_ref": SimpleNamespace(rollout=SimpleNamespace(n=2, val_kwargs=SimpleNamespace(n=2)))}
    make: dict[str, Callable[[], object]] = {
        "verifiers": lambda: rubric_functions(scripted(), failure_reward=value),
        "verl_batch": lambda: batch_reward(scripted(), task="question", failure_reward=value),
        "verl": lambda: Manager(SimpleNamespace(**config, get=lambda name: None), None),
        "slime": lambda: group_reward(scripted(), failure_reward=value),
        "ms_swift": lambda: orm(scripted(), failure_reward=value),
        "openrlhf": lambda: agent_executor(scripted(), base=Parent, failure_reward=value),
    }
    with pytest.raises(ConfigError, match="failure_reward: expected a finite number or None, got"):
        make[adapter]()


# --- What ends a run ----------------------------------------------------------------


@pytest.mark.parametrize("error", [BudgetExceeded("cap of 1 USD"), ConfigError("unknown judge")])
async def test_where_no_group_can_be_scored_the_run_is_told(error: RulerError) -> None:
    ruler = Ruler(ScriptedJudge(lambda request: error))
    with pytest.raises(type(error), match="group 'plain': .*(cap of 1 USD|unknown judge)"):
        await Rewarder(ruler).reward([PLAIN])


class Liar:
    """Loses a group."""

    async def score_many(self, groups: Iterable[Group], /) -> list[ScoredGroup | FailedGroup]:
        return (await scripted().score_many(groups))[1:]


async def test_results_of_other_groups_are_refused() -> None:
    with pytest.raises(ConfigError, match="its results are not those of the groups: 1 for 2"):
        await Rewarder(Liar()).reward([PLAIN, TIED])


def test_what_is_no_scorer_is_named() -> None:
    with pytest.raises(ConfigError, match="scorer: expected a Ruler or a Client, .*, got one of type str$"):
        Rewarder("openai/gpt-5-mini?api_key=secret")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="scorer: expected a Ruler or a Client, .*, got one of type type$"):
        Rewarder(Ruler)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"rewards: expected Rewards\(rules=\(…\)\), got \[\]"):
        Rewarder(scripted(), [])  # type: ignore[arg-type]


# --- Wherever it is called ---------------------------------------------------------


def expected() -> tuple[float | None, ...]:
    return Rewarder(Ruler(SIMULATED)).reward_sync([PLAIN])[0].optional


@pytest.mark.slow
def test_in_loops_of_all_kinds_and_in_threads() -> None:
    rewarder, want = Rewarder(Ruler(SIMULATED)), expected()
    for _ in range(3):  # a fresh loop for each call, as ms-swift has it
        assert asyncio.run(rewarder.reward([PLAIN]))[0].optional == want
    loop = asyncio.new_event_loop()  # one that lives in a thread, as TRL has it
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    foreign = [asyncio.run_coroutine_threadsafe(rewarder.reward([PLAIN]), loop) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        threads = [pool.submit(rewarder.reward_sync, [PLAIN]) for _ in range(8)]
    assert all(future.result(30)[0].optional == want for future in [*foreign, *threads])
    loop.call_soon_threadsafe(loop.stop)
    thread.join(30)
    loop.close()


async def test_the_plain_form_works_inside_a_running_loop() -> None:
    assert Rewarder(Ruler(SIMULATED)).reward_sync([TIED])[0].optional == (None, None, None)
    doubled = Blocking(twice)
    assert doubled.__name__ == "twice"
    assert doubled(4) == 8
    assert pickle.loads(pickle.dumps(doubled))(number=5) == 10
    with pytest.raises(ValueError, match="negative"):
        doubled(-1)


async def twice(number: int) -> int:
    await asyncio.sleep(0)
    if number < 0:
        raise ValueError("negative")
    return 2 * number


def in_child(rewarder: Rewarder, answers: Any) -> None:
    answers.put([rewarder.reward_sync([PLAIN])[0].optional, asyncio.run(rewarder.reward([PLAIN]))[0].optional])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_in_children_after_it_was_used_by_the_parent(method: str, tmp_path: Path, monkeypatch: Any) -> None:
    """With a cache, whose thread a forked child lacks."""
    monkeypatch.setenv("RULER_CACHE", str(tmp_path / "cache.sqlite3"))
    rewarder, want = Rewarder(Ruler(SIMULATED)), expected()
    assert rewarder.reward_sync([PLAIN])[0].optional == want
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    children = [context.Process(target=in_child, args=(rewarder, answers)) for _ in range(2)]
    for child in children:
        child.start()
    assert [answers.get(timeout=60) for _ in children] == [[want, want]] * 2
    for child in children:
        child.join(30)
        assert child.exitcode == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_a_local_model_is_loaded_anew_in_a_forked_child(examples: Path) -> None:
    """It refuses to go on there with what its parent had begun."""
    first = next(read_labelled(str(examples.with_name("arithmetic.jsonl"))))
    assert isinstance(first, LabelledGroup)
    group = first.group
    rewarder = Rewarder(Ruler("embedded"))
    want = rewarder.reward_sync([group])[0].optional
    assert None not in want
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=score_there, args=(rewarder, group, answers))
    child.start()
    assert answers.get(timeout=120) == want
    child.join(30)


def score_there(rewarder: Rewarder, group: Group, answers: Any) -> None:
    answers.put(rewarder.reward_sync([group])[0].optional)


def test_it_pickles_with_its_rules() -> None:
    rules = (Rule("finished", finished), Rule("right", exact_answer()))
    again = pickle.loads(pickle.dumps(Rewarder(Ruler(SIMULATED, orders=2), Rewards(rules=rules))))
    [one] = again.reward_sync([PLAIN])
    assert one.result.orders == 2
    assert [math.floor(number) for number in one.numbers()] == [2, 1, 1]
    client = pickle.loads(pickle.dumps(Rewarder(Client("http://127.0.0.1:9", attempts=1))))
    [one] = client.reward_sync([PLAIN])
    assert one.optional == (None, None, None)
    assert str(one.failure).startswith(f"{JudgeUnavailable.code}: http://127.0.0.1:9")


# --- The page ------------------------------------------------------------------------


async def test_what_the_page_shows_runs() -> None:
    page = (ROOT / "docs" / "trainers.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    for code in blocks:
        exec(code.replace("openai/gpt-5-mini", SIMULATED), names)
    assert len(blocks) == 2
    got = await names["rewards_of"](["p"] * 4, ["a", "b" * 30, "same", "same"], 2)
    assert got[0] > got[1]
    assert got[2:] == [None, None]
    with pytest.raises(ConfigError, match="make the batch size a multiple of group_size"):
        await names["rewards_of"](["p"] * 3, ["a", "b", "c"], 2)
    [one] = await Rewarder(Ruler(SIMULATED), names["rewards"]).reward([PLAIN_NUMBER])
    assert [metrics["part_correct"] for metrics in one.metrics()] == [1.0, 0.0]


PLAIN_NUMBER = Group.of(["42", "about 41"], task="6 * 7?", reference="42")


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "docs" / "trainers").glob("*.md")))
def test_every_page_is_linked_and_says_what_a_failed_judge_is(name: str) -> None:
    assert f"(trainers/{name}.md)" in (ROOT / "docs" / "trainers.md").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "trainers" / f"{name}.md").read_text(encoding="utf-8")
    assert "## When the judge fails" in page
    assert "Tested with" in page
