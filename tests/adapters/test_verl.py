"""Against fakes with what verl 0.9.1, 0.7.1 and 0.6.1 hand over; with the real package in tests/frameworks/verl."""

from __future__ import annotations

import asyncio
import logging
import math
import pickle
import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from judges.scripted import ScriptedJudge, scores_reply
from ruler import Ruler
from ruler.adapters import verl as adapter
from ruler.adapters.verl_batch import batch_reward
from ruler.client import Client, JoinedScore
from ruler.errors import BudgetExceeded, ConfigError, GroupError, JudgeError, JudgeUnavailable
from ruler.rewards import Gate, Rewards, Rule
from ruler.rules import answer_chars, exact_answer
from ruler.types import JudgeRequest, Score

BASE = "verl.experimental.reward_loop.reward_manager.base"
CHATML = "<|im_start|>user\nWhat is 6·7?<|im_end|>\n<|im_start|>assistant\n"
END = "<|im_end|>\n"


class RewardManagerBase:
    def __init__(self, config: Any, tokenizer: Any, compute_score: Any) -> None:
        self.config, self.tokenizer, self.compute_score = config, tokenizer, compute_score

    @classmethod
    def assemble_rm_scores(cls, data: Any, scores: list[float]) -> list[float]:
        return scores


class Tokenizer:
    """Tokens are characters; those in angle brackets are special."""

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        text = "".join(map(chr, ids))
        return text.replace(END.strip(), "") if skip_special_tokens else text


class Tensor(np.ndarray):  # type: ignore[type-arg]
    def bool(self) -> Any:
        return self.astype(bool)


class Siblings:
    """A client whose rollouts meet when all are in; scores by length, the shorter the better."""

    def __init__(self, *, error: Exception | None = None, missing: int = 0) -> None:
        self.calls: list[dict[str, Any]] = []
        self._error, self._missing, self._all_in = error, missing, asyncio.Event()

    async def join(self, rollout: Any, **place: Any) -> JoinedScore:
        self.calls.append({"rollout": rollout, **place})
        if len(self.calls) >= place["group_size"] - self._missing:
            self._all_in.set()
        await asyncio.wait_for(self._all_in.wait(), 5)
        if self._error:
            raise self._error
        said = [str(call["rollout"].messages) for call in self.calls]
        tied = len(set(said)) == 1
        score = None if tied else 1 - sorted(said, key=len).index(str(rollout.messages)) / 10
        return JoinedScore(
            group_id=place["group_id"],
            attempt=place["attempt"],
            score=Score(rollout.id, score),
            status="tied" if tied else "scored",
            rank=None,
            group_size=place["group_size"],
            num_rollouts=len(said),
            judge="j",
            model=None,
            rubric="r",
            prompt_version="1",
        )


@pytest.fixture(autouse=True)
def fake_verl(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType(BASE)
    module.RewardManagerBase = RewardManagerBase  # type: ignore[attr-defined]
    for name in ("verl", "verl.experimental", "verl.experimental.reward_loop", BASE.rpartition(".")[0]):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, BASE, module)
    monkeypatch.delitem(vars(adapter), "JudgeRewardManager", raising=False)


def config(n: int = 2, val_n: int = 2, **trainer: Any) -> Any:
    rollout = SimpleNamespace(n=n, val_kwargs=SimpleNamespace(n=val_n), response_length=100)
    settings = {"trainer": {"val_before_train": True, "test_freq": -1, **trainer}}
    return SimpleNamespace(actor_rollout_ref=SimpleNamespace(rollout=rollout), get=settings.get)


def manager(client: Any, settings: Any = None, **attributes: Any) -> Any:
    made = type("Mine", (adapter.JudgeRewardManager,), {"client": client, **attributes})
    return made(
        config=settings or config(),
        tokenizer=Tokenizer(),
        compute_score=None,
        reward_router_address=None,
        reward_model_tokenizer=None,
    )


def data(said: str, session: int | None = 0, *, prompt: str = CHATML, **fields: Any) -> Any:
    """A trajectory as V1 sends it: one row, nothing filled up."""
    prompts, responses = [*map(ord, prompt)], [*map(ord, said)]
    row = SimpleNamespace(
        batch={"prompts": prompts, "responses": responses, "attention_mask": [1] * (len(prompts) + len(responses))},
        non_tensor_batch={
            "uid": np.str_("u1"),
            "raw_prompt": np.array([{"role": "user", "content": "What is 6·7?"}], dtype=object),
            "global_steps": np.int64(3),
            "reward_model": {"style": "rule", "ground_truth": "42"},
            "extra_info": {"split": "train"},
            "tool_extra_fields": {"turn_scores": []},
            "prompt_len": np.int64(len(prompts)),
            "response_len": np.int64(len(responses)),
            **({} if session is None else {"session_id": np.int64(session)}),
            **fields,
        },
    )
    return [SimpleNamespace(batch=None, non_tensor_batch={}), row]


def both(judged: Any, *said: str, **fields: Any) -> Any:
    return asyncio.gather(*(judged.run_single(data(text, place, **fields)) for place, text in enumerate(said)))


async def test_siblings_meet_under_the_uid_of_their_prompt() -> None:
    client = Siblings()
    first, second = await both(manager(client), "42" + END, "It is 42." + END)
    assert (first["reward_score"], second["reward_score"]) == (1.0, 0.9)
    assert first["reward_extra_info"] == {
        "judge_failed": 0.0,
        "judge_tied": 0.0,
        "judge_gated": 0.0,
        "part_judge": 1.0,
    }
    [one, other] = client.calls
    assert (one["group_id"], one["group_size"], one["attempt"], one["reference"]) == ("u1", 2, 3, "42")
    assert [one["rollout"].id, other["rollout"].id] == ["0", "1"]
    assert [message.content for message in one["task"]] == [("What is 6·7?",)]
    assert [(m.role, m.content) for m in other["rollout"].messages] == [("assistant", ("It is 42.",))]


def test_it_is_a_subclass_that_pickles_by_name() -> None:
    made = adapter.JudgeRewardManager
    assert issubclass(made, RewardManagerBase)
    assert made.assemble_rm_scores(None, [1.0]) == [1.0]
    assert adapter.JudgeRewardManager is made
    assert pickle.loads(pickle.dumps(made)) is made
    with pytest.raises(AttributeError, match="no attribute 'JudgeManager'"):
        adapter.JudgeManager  # noqa: B018


async def test_a_failed_group_raises_for_all_and_gives_no_number() -> None:
    judged = manager(Siblings(error=JudgeUnavailable("down")))
    said = (judged.run_single(data(text, place)) for place, text in enumerate(["a", "bb"]))
    assert [str(error) for error in await asyncio.gather(*said, return_exceptions=True)] == ["down", "down"]


async def test_a_constant_for_all_of_a_failed_group_is_opt_in_and_marked(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "ruler.adapters"):
        made = await both(manager(Siblings(error=JudgeError("odd\nreply")), failure_reward=0), "a", "bb")
    assert [one["reward_score"] for one in made] == [0.0, 0.0]
    assert [one["reward_extra_info"]["judge_failed"] for one in made] == [1.0, 1.0]
    assert caplog.messages == ["group 'u1': 0.0 for all rollouts: 'odd\\nreply'"] * 2


@pytest.mark.parametrize("failure_reward", [None, -1.0])
async def test_a_group_that_is_not_whole_is_scored_as_it_is(failure_reward: float | None) -> None:
    """A constant beside the score that a missing sibling got before a restart would be a wrong number."""
    short = manager(Siblings(missing=1), config(n=3, val_n=3), failure_reward=failure_reward)
    assert [one["reward_score"] for one in await both(short, "a", "bb")] == [1.0, 0.9]


async def test_no_constant_for_what_may_have_happened_to_one_rollout_alone() -> None:
    with pytest.raises(JudgeUnavailable):
        await both(manager(Siblings(error=JudgeUnavailable("lost")), failure_reward=0.0), "a", "bb")


@pytest.mark.parametrize("error", [BudgetExceeded("cap"), ConfigError("key"), GroupError("conflict")])
async def test_no_constant_where_no_group_can_be_scored(error: Exception) -> None:
    with pytest.raises(type(error)):
        await both(manager(Siblings(error=error), failure_reward=0.0), "a", "bb")


async def test_rules_see_reference_and_extra_info_and_their_parts_are_reported() -> None:
    rewards = Rewards(
        judge_weight=2.0,
        rules=(
            Rule("right", exact_answer(), weight=3.0),
            Rule("short", answer_chars(at_most=5), weight=0.0),
            Rule("train", lambda rollout, group: float(group.metadata["split"] == "train"), weight=0.5),
        ),
        gates=(Gate("short", reward=-4.0),),
    )
    first, second = await both(manager(Siblings(), rewards=rewards), "42", "much too long")
    assert (first["reward_score"], second["reward_score"]) == (2.0 + 3.0 + 0.5, -4.0)
    assert first["reward_extra_info"].keys() == second["reward_extra_info"].keys()
    assert second["reward_extra_info"]["judge_gated"] == 1.0
    assert {key: value for key, value in first["reward_extra_info"].items() if key.startswith("part_")} == {
        "part_judge": 2.0,
        "part_right": 3.0,
        "part_short": 0.0,
        "part_train": 0.5,
    }
    tied = await both(manager(Siblings(), rewards=rewards), "42", "42")
    assert [one["reward_score"] for one in tied] == [1.0 + 3.0 + 0.5] * 2
    assert tied[0]["reward_extra_info"]["judge_tied"] == 1.0


async def test_what_the_environment_said_is_not_shown_as_the_policy() -> None:
    client = Siblings()
    said = f"Look.{END}<|im_start|>tool\nnothing{END}<|im_start|>assistant\nSo 42.{END}"
    left = [{"role": "assistant", "content": "a"}, {"role": "tool", "content": "b"}]
    judged = manager(client)
    kept = data("x", 1, tool_extra_fields={"messages": left})
    await asyncio.gather(judged.run_single(data(said, 0)), judged.run_single(kept))
    roles = [[(m.role, m.content[0]) for m in call["rollout"].messages] for call in client.calls]
    assert sorted(roles, key=len) == [
        [("assistant", "a"), ("tool", "b")],
        [("assistant", "Look."), ("tool", "nothing"), ("assistant", "So 42.")],
    ]


async def test_rows_of_0_7_are_filled_up_on_both_sides_and_have_no_session() -> None:
    client = Siblings()

    def row(said: str) -> Any:
        [_, one] = data(said, None)
        for name in ("prompt_len", "response_len", "tool_extra_fields", "global_steps"):
            del one.non_tensor_batch[name]
        prompts, responses = one.batch["prompts"], one.batch["responses"]
        mask = [0] * 4 + [1] * (len(prompts) + len(responses)) + [0] * (100 - len(responses))
        filled = {"prompts": [33] * 4 + prompts, "responses": responses + [33] * (100 - len(responses))}
        one.batch = {name: np.array(v).view(Tensor) for name, v in [*filled.items(), ("attention_mask", mask)]}
        return [one]

    judged = manager(client)
    await asyncio.gather(judged.run_single(row("42")), judged.run_single(row("forty-two")))
    said = [call["rollout"] for call in client.calls]
    assert {one.messages[0].content for one in said} == {("42",), ("forty-two",)}
    assert len({one.id for one in said}) == 2
    assert [(one.finish_reason, call["attempt"]) for one, call in zip(said, client.calls, strict=True)] == [
        (None, 0)
    ] * 2


async def test_a_response_as_long_as_may_be_was_cut_off() -> None:
    client = Siblings()
    await both(manager(client), "x" * 100, "y" * 99)
    assert [call["rollout"].finish_reason for call in client.calls] == ["length", None]


async def test_references_from_parquet() -> None:
    client = Siblings()
    truth = {"target": np.array(["a", "b"], dtype=object), "n": np.float64(2.0)}
    await both(manager(client), "a", "bb", reward_model={"ground_truth": truth})
    assert client.calls[0]["reference"] == 'target: ["a", "b"]\nn: 2.0'
    none = Siblings()
    await both(manager(none), "a", "bb", reward_model=None, extra_info=None)
    assert none.calls[0]["reference"] is None


@pytest.mark.parametrize("name", ["uid", "raw_prompt"])
async def test_a_row_without_what_names_its_group(name: str) -> None:
    [_, row] = data("a")
    del row.non_tensor_batch[name]
    with pytest.raises(GroupError, match=f"^{name}: missing; verl passes it where"):
        await manager(Siblings()).run_single([row])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (config(8, 1), r"val_kwargs.n: 1, but rollout.n is 8, .*trainer.val_before_train=False"),
        (config(8, 1, val_before_train=False, test_freq=10), "val_kwargs.n: 1"),
        (config(1, 1), "rollout.n: 1; one rollout compares with nothing"),
    ],
)
def test_groups_that_would_never_be_whole_are_refused_at_the_start(settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        manager(Siblings(), settings)


def test_no_validation_no_matter() -> None:
    manager(Siblings(), config(8, 1, val_before_train=False))


async def test_rollouts_that_are_not_judged_have_the_rules_alone() -> None:
    client = Siblings()
    size = {"group_size": lambda self, fields: 1 if fields["extra_info"]["split"] == "test" else 2}
    rules = Rewards(judge_weight=2.0, rules=(Rule("right", exact_answer()),))
    judged = manager(client, config(2, 1), rewards=rules, **size)
    validated = await both(judged, "42", "43", extra_info={"split": "test"})
    assert [one["reward_score"] for one in validated] == [1.0, 0.0]
    assert client.calls == []
    trained = await both(judged, "42", "43 or so")
    assert trained[0]["reward_extra_info"].keys() == validated[0]["reward_extra_info"].keys()
    with pytest.raises(ConfigError, match="group_size: 1, and there are no rules"):
        await both(manager(client, config(2, 1), **size), "42", extra_info={"split": "test"})


def test_ties_that_the_judge_breaks_take_the_siblings() -> None:
    rewards = Rewards(rules=(Rule("right", exact_answer()),), judge_breaks_ties=True)
    with pytest.raises(ConfigError, match="judge_breaks_ties: verl rewards one rollout at a time"):
        manager(Siblings(), rewards=rewards)


def test_the_address_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="RULER_URL"):
        manager(None)
    monkeypatch.setenv("RULER_URL", "http://judge:8000")
    assert isinstance(manager(None)._client, Client)


# The batch form


def batch(*rows: tuple[str, int, str], source: str = "sums") -> dict[str, Any]:
    """As BatchRewardManager of 0.6.1 calls it."""
    return {
        "data_sources": np.array([source] * len(rows), dtype=object),
        "solution_strs": [said for _, _, said in rows],
        "ground_truths": ["42"] * len(rows),
        "extra_infos": np.array(
            [{"question": task, "index": index, "rollout_reward_scores": {}} for task, index, _ in rows], dtype=object
        ),
    }


def test_rows_in_any_order_are_scored_with_their_own_group() -> None:
    compute_score = batch_reward(Ruler("simulated?noise=0"), task="question")
    rows = [("a?", 1, "short"), ("b?", 2, "42"), ("a?", 1, "a good deal longer"), ("b?", 2, "something else")]
    made = compute_score(**batch(*rows))
    assert [one.keys() for one in made] == [made[0].keys()] * 4
    assert made[0].keys() == {"score", "judge_failed", "judge_tied", "judge_gated", "part_judge"}
    assert made[0]["score"] > made[2]["score"]
    assert made[1]["score"] > made[3]["score"]
    twice = compute_score(**batch(*rows[::-1]))
    assert [one["score"] for one in twice[::-1]] == [one["score"] for one in made]


def test_an_index_of_two_sources_is_two_prompts() -> None:
    judge = ScriptedJudge(lambda request: scores_reply(dict.fromkeys(request.ids, 50)))
    rows = batch(("a?", 1, "x"), ("a?", 1, "yy"), ("b?", 1, "x"), ("b?", 1, "yy"))
    rows["data_sources"][2:] = "others"
    batch_reward(Ruler(judge), task="question")(**rows)
    assert [len(request.ids) for request in judge.requests] == [2, 2]


def fails_for(word: str) -> ScriptedJudge:
    def answer(request: JudgeRequest) -> Any:
        if word in str(request.messages):
            return JudgeUnavailable("down")
        return scores_reply(dict.fromkeys(request.ids, 50))

    return ScriptedJudge(answer)


def test_a_failed_group_of_a_batch() -> None:
    rows = batch(("a?", 1, "x"), ("b?", 2, "x"), ("a?", 1, "yy"), ("b?", 2, "yy"))
    with pytest.raises(JudgeError, match="unavailable: .*down"):
        batch_reward(Ruler(fails_for("b?")), task="question")(**rows)
    made = batch_reward(Ruler(fails_for("b?")), task="question", failure_reward=-1.0)(**rows)
    assert [(one["score"], one["judge_failed"]) for one in made] == [(0.5, 0.0), (-1.0, 1.0), (0.5, 0.0), (-1.0, 1.0)]
    assert all(math.isfinite(value) for one in made for value in one.values())


@pytest.mark.parametrize("key", ["question", "index"])
def test_a_row_that_does_not_say_where_it_belongs(key: str) -> None:
    rows = batch(("a?", 1, "x"), ("a?", 1, "yy"))
    del rows["extra_infos"][1][key]
    with pytest.raises(GroupError, match=rf"^extra_infos\[1\]\.{key}: missing; there are \["):
        batch_reward(Ruler(ScriptedJudge([])), task="question")(**rows)


def test_rows_of_different_questions_are_no_group() -> None:
    """Two files of one data source may both count from 0."""
    rows = batch(("a?", 0, "x"), ("b?", 0, "yy"))
    with pytest.raises(
        GroupError, match=r"extra_infos\[1\]\.question: another one than row 0 has, though index is equal"
    ):
        batch_reward(Ruler(ScriptedJudge([])), task="question", failure_reward=0.0)(**rows)


@pytest.mark.parametrize("index", [None, math.nan])
def test_what_is_no_id_makes_no_group(index: object) -> None:
    rows = batch(("a?", index, "x"), ("a?", index, "yy"))
    with pytest.raises(GroupError, match=r"extra_infos\[0\]: expected an id of the prompt"):
        batch_reward(Ruler(ScriptedJudge([])), task="question", failure_reward=0.0)(**rows)


def test_columns_of_another_length() -> None:
    rows = batch(("a?", 1, "x"), ("a?", 1, "yy"))
    rows["solution_strs"].append("zz")
    with pytest.raises(GroupError, match="solution_strs: 3 for 2 rows"):
        batch_reward(Ruler(ScriptedJudge([])), task="question")(**rows)


def test_importing_them_imports_no_framework() -> None:
    code = (
        "import ruler.adapters.verl, ruler.adapters.verl_batch, sys\n"
        "print({'verl', 'torch', 'numpy', 'ray', 'httpx'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
