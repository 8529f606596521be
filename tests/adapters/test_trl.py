"""The contract of TRL 1.6 to 1.16, without TRL; `test_trl_trainers.py` has the trainers themselves."""

from __future__ import annotations

import inspect
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from judges.scripted import ScriptedJudge, scores_reply
from ruler import JudgeCall, JudgeRequest, JudgeUnavailable, Ruler
from ruler.adapters.rewarder import Blocking
from ruler.adapters.trl import reward_function
from ruler.errors import BudgetExceeded, ConfigError, RulerError
from ruler.rewards import Rewards, Rule
from ruler.rules import exact_answer
from ruler.types import Group, Rollout

SIMULATED = "simulated?quality=length&noise=0&scale=1500&offset=-1400"


class Model:
    def __init__(self, training: bool) -> None:
        self.training = training


class Trainer:
    """What a trainer hands over beside the columns."""

    def __init__(self, *, training: bool = True) -> None:
        self.model = Model(training)
        self.metrics: dict[str, float] = {}
        self.extra: dict[str, list[Any]] = {}

    def log_metric(self, name: str, value: float) -> None:
        self.metrics[name] = value

    def log_extra(self, column: str, values: list[Any]) -> None:
        self.extra[column] = values

    @property
    def handed(self) -> dict[str, Any]:
        return {"log_metric": self.log_metric, "log_extra": self.log_extra, "trainer_state": object()}


class Shown:
    """A ruler, and the groups it was shown."""

    def __init__(self, answer: Callable[[JudgeRequest], str | RulerError] | None = None) -> None:
        self.calls: list[JudgeCall] = []
        self.judge = ScriptedJudge(answer or (lambda request: scores_reply(dict.fromkeys(request.ids, 50))))
        self.ruler = Ruler(self.judge, reference=True, on_call=self.calls.append)

    def text(self, place: int = 0) -> str:
        return "\n".join(str(message["content"]) for message in self.judge.requests[place].messages)


def say(*texts: str) -> list[list[dict[str, Any]]]:
    return [[{"role": "assistant", "content": text}] for text in texts]


def ask(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


# --- Groups ------------------------------------------------------------------------


async def test_every_row_gets_the_score_of_its_rollout() -> None:
    reward = reward_function(Ruler(SIMULATED), num_generations=3)
    texts = ["a", "b" * 20, "c" * 40, "d" * 40, "e" * 20, "f"]
    got = await reward(prompts=[ask("1")] * 3 + [ask("2")] * 3, completions=say(*texts))
    numbers = [number for number in got if number is not None]
    assert numbers == sorted(numbers[:3], reverse=True) + sorted(numbers[:3])
    assert len(set(numbers[:3])) == 3


async def test_plain_text_and_templates_are_read() -> None:
    shown = Shown()
    reward = reward_function(shown.ruler, num_generations=2)
    templated = "<|im_start|>user\nAdd.<|im_end|>\n<|im_start|>assistant\n"
    await reward(prompts=["Add.", "Add.", templated, templated], completions=["one", "two", "one<|im_end|>", "two"])
    assert "im_start" not in shown.text(0) + shown.text(1)
    assert shown.text(0) == shown.text(1)


async def test_tools_and_their_results_are_shown() -> None:
    shown = Shown()
    call = {"type": "function", "function": {"name": "search", "arguments": {"query": "fares"}}}
    completion = [
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "name": "search", "content": "12 EUR"},
        {"role": "assistant", "content": "Twelve."},
    ]
    tools = [{"type": "function", "function": {"name": "search", "description": "Looks fares up", "parameters": {}}}]
    reward = reward_function(shown.ruler, num_generations=2, tools=tools)
    await reward(prompts=[ask("How much?")] * 2, completions=[completion, *say("I do not know.")])
    for part in ("Looks fares up", "search", "fares", "12 EUR", "Twelve."):
        assert part in shown.text()


async def test_with_environments_prompts_may_differ_within_a_group() -> None:
    """What `reset` says stands at the end of each rollout's own prompt."""
    shown = Shown()
    system = {"role": "system", "content": "Play."}
    prompts = [[system, *ask(f"Board {board}")] for board in range(4)]
    reward = reward_function(shown.ruler, num_generations=2)
    got = await reward(prompts=prompts, completions=say("l", "r", "u", "d"), environments=[object()] * 4)
    assert got == [0.5] * 4
    assert [board for board in range(4) if f"Board {board}" in shown.text(0)] == [0, 1]
    assert shown.text(0).count("Play.") == 1
    with pytest.raises(ConfigError, match="2 rows are a group, but of 3 rows 3"):
        await reward(prompts=prompts[:3], completions=say("l", "r", "u"), environments=[object()] * 3)


@pytest.mark.parametrize("rows", [[0, 0, 1], [1, 2, 2], [0] * 5, [0, 0, 1, 1, 2]])
async def test_a_straddled_group_is_refused_with_the_settings_to_change(rows: list[int]) -> None:
    shown = Shown()
    reward = reward_function(shown.ruler, num_generations=2)
    with pytest.raises(ConfigError) as caught:
        await reward(prompts=[ask(str(row)) for row in rows], completions=say(*"abcde"[: len(rows)]))
    assert "per_device_train_batch_size × steps_per_generation a multiple of num_generations" in str(caught.value)
    assert "per_device_eval_batch_size one of num_generations_eval" in str(caught.value)
    assert shown.judge.requests == []


async def test_the_size_is_that_of_training_or_of_evaluation() -> None:
    shown = Shown()
    reward = reward_function(shown.ruler, num_generations=4, num_generations_eval=2)
    rows = {"prompts": [ask("1")] * 4, "completions": say("a", "b", "c", "d")}
    for training, sizes in ((True, [4]), (False, [2, 2])):
        shown.judge.requests.clear()
        await reward(**rows, **Trainer(training=training).handed)
        assert [len(request.ids) for request in shown.judge.requests] == sizes
    half = {"prompts": [ask("1")] * 2, "completions": say("a", "b")}
    await reward(**half, **Trainer(training=False).handed)
    with pytest.raises(ConfigError, match="4 rows are a group, but of 2 rows 2 belong together"):
        await reward(**half, **Trainer(training=True).handed)
    # Where it cannot be told: the first that fits.
    shown.judge.requests.clear()
    await reward(**rows)
    await reward(**half)
    assert [len(request.ids) for request in shown.judge.requests] == [4, 2]


async def test_a_group_of_one_has_no_reward() -> None:
    reward = reward_function(Ruler(SIMULATED), num_generations=2, num_generations_eval=1)
    trainer = Trainer(training=False)
    assert await reward(prompts=[ask("1"), ask("2")], completions=say("a", "b"), **trainer.handed) == [None, None]
    assert trainer.metrics["judge/failed_groups"] == 2


async def test_no_rows() -> None:
    trainer = Trainer()
    assert (
        await reward_function(Ruler(SIMULATED), num_generations=2)(prompts=[], completions=[], **trainer.handed) == []
    )
    assert trainer.metrics["judge/failed_groups"] == 0


async def test_other_sizes_than_the_trainers_are_refused() -> None:
    """Half groups would be scored, each on a scale of its own."""
    trainer = Trainer()
    trainer.num_generations = 4  # type: ignore[attr-defined]
    trainer.num_generations_eval = 2  # type: ignore[attr-defined]
    reward = reward_function(Ruler(SIMULATED), num_generations=2)
    with pytest.raises(ConfigError, match="num_generations: 2 here, and 4 in the trainer's config"):
        await reward(prompts=[ask("1")] * 4, completions=say(*"abcd"), **trainer.handed)
    trainer.model.training = False
    assert None not in await reward(
        prompts=[ask("1")] * 4, completions=say("a", "bbbb" * 9, "c", "dddd" * 9), **trainer.handed
    )


async def test_images_are_shown() -> None:
    shown = Shown()
    prompt = [
        {
            "role": "user",
            "content": [{"type": "image", "image": Image.new("CMYK", (3, 2))}, {"type": "text", "text": "What?"}],
        }
    ]
    reward = reward_function(shown.ruler, num_generations=2)
    assert await reward(prompts=[prompt] * 2, completions=say("a", "b")) == [0.5, 0.5]
    assert "image" in shown.text()


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        ({"completions": say("a", "b", "c")}, "completions"),
        ({"completions": say("a")}, "completions"),
        ({"completions": say("a", "b"), "answer": ["1"]}, "answer"),
        ({"completions": say("a", "b"), "answer": None}, "answer"),
    ],
)
async def test_columns_of_another_length_are_named(columns: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: expected a list with an item for each of 2 prompts"):
        await reward_function(Ruler(SIMULATED), num_generations=2)(prompts=[ask("1")] * 2, **columns)


# --- Failures ------------------------------------------------------------------------


def failing(request: JudgeRequest) -> str | RulerError:
    if "FAIL" in str(request.messages):
        return JudgeUnavailable("it is down")
    return scores_reply(
        {label: 90 - place for place, label in enumerate(sorted(request.ids))},
        {label: f"note on {label}" for label in request.ids},
    )


async def test_a_failed_group_is_none_for_all_its_rows_and_is_counted() -> None:
    reward = reward_function(Shown(failing).ruler, num_generations=2)
    trainer = Trainer()
    texts = ["a", "b", "FAIL", "c", "same", "same"]
    prompts = [ask(str(i // 2)) for i in range(6)]
    got = await reward(prompts=prompts, completions=say(*texts), **trainer.handed)
    assert got[2:] == [None] * 4
    assert sorted(got[:2]) == [0.89, 0.9]  # type: ignore[type-var]
    assert trainer.metrics == {
        "judge/failed_groups": 1.0, "judge/tied_groups": 1.0, "judge/part_judge": pytest.approx((0.89 + 0.9) / 2)
    }  # fmt: skip
    failures = trainer.extra["judge_failure"]
    assert failures == [None, None, "unavailable: it is down", "unavailable: it is down", None, None]
    notes = trainer.extra["judge_note"]
    assert all(str(note).startswith("note on ") for note in notes[:2])
    assert notes[2:] == [None] * 4


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (None, "completion: expected text or a list of messages, got None"),
        ({"role": "assistant", "content": "a"}, "completion: expected text or a list of messages"),
        ([{"role": "assistant", "tool_calls": ["search()"]}], "tool_calls"),
        ([{"content": "a"}], "role"),
    ],
)
async def test_a_group_that_cannot_be_read_fails_alone(
    odd: object, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    reward = reward_function(Shown(failing).ruler, num_generations=2)
    trainer = Trainer()
    prompts = [ask("1")] * 2 + [ask("2")] * 2
    got = await reward(prompts=prompts, completions=[odd, *say("a", "b", "c")], **trainer.handed)
    assert got[:2] == [None, None]
    assert None not in got[2:]
    assert trainer.metrics["judge/failed_groups"] == 1
    assert [bool(failure) for failure in trainer.extra["judge_failure"]] == [True, True, False, False]
    assert said in trainer.extra["judge_failure"][0]
    assert "rows 0 to 1: no reward for any rollout: 'group" not in caplog.text
    assert "rows 0 to 1: no reward for any rollout: " in caplog.text


async def test_where_all_fail_the_same_metrics_are_logged() -> None:
    """Up to 1.8 every process has to log the same names, or all wait for ever."""
    trainer = Trainer()
    rewards = Rewards(rules=(Rule("right", exact_answer()),))
    reward = reward_function(Shown(failing).ruler, num_generations=2, rewards=rewards, reference="answer")
    columns = {"prompts": [ask("1")] * 2, "answer": ["a", "a"]}
    assert await reward(completions=say("FAIL", "a"), **columns, **trainer.handed) == [None, None]
    names = set(trainer.metrics)
    assert math.isnan(trainer.metrics["judge/part_judge"])
    assert math.isnan(trainer.metrics["judge/part_right"])
    await reward(completions=say("b", "a"), **columns, **trainer.handed)
    assert set(trainer.metrics) == names
    assert trainer.metrics["judge/part_right"] == 0.5


async def test_where_nothing_can_be_scored_training_ends() -> None:
    reward = reward_function(Shown(lambda request: BudgetExceeded("cap")).ruler, num_generations=2)
    with pytest.raises(BudgetExceeded, match="cap"):
        await reward(prompts=[ask("1")] * 2, completions=say("a", "b"))


async def test_a_reply_with_other_ids_is_no_number() -> None:
    reward = reward_function(Shown(lambda request: scores_reply({"XXX": 1, "YYY": 2})).ruler, num_generations=2)
    assert await reward(prompts=[ask("1")] * 2, completions=say("a", "b")) == [None, None]


# --- Rules beside the judge ------------------------------------------------------------


def cheap(rollout: Rollout, group: Group) -> float:
    return float(rollout.metadata["price"] < 10)


async def test_rules_see_the_columns_and_each_part_is_reported() -> None:
    shown = Shown(failing)
    rewards = Rewards(judge_weight=0.5, rules=(Rule("cheap", cheap, weight=2.0), Rule("right", exact_answer())))
    reward = reward_function(shown.ruler, num_generations=2, rewards=rewards, reference="answer")
    trainer = Trainer()
    got = await reward(
        prompts=[ask("1")] * 2, completions=say("a", "b"), completion_ids=[[1], [2]],
        price=[5, 50], answer=["b", "b"], **trainer.handed,
    )  # fmt: skip
    scores = [(got[0] or 0) - 2, (got[1] or 0) - 1]
    assert sorted(scores) == pytest.approx([0.445, 0.45])
    assert trainer.metrics["judge/part_cheap"] == 1.0
    assert trainer.metrics["judge/part_right"] == 0.5
    assert "reference" in shown.text().lower()


async def test_a_column_that_is_not_there_is_named() -> None:
    reward = reward_function(Ruler(SIMULATED), num_generations=2, reference="answer")
    with pytest.raises(ConfigError, match=r"reference: no column 'answer' in the dataset, which has \['solution'\]"):
        await reward(prompts=[ask("1")] * 2, completions=say("a", "b"), solution=["1", "1"])


# --- The form that TRL wants ---------------------------------------------------------------


def test_it_is_taken_for_async_and_has_a_name_in_every_version() -> None:
    reward = reward_function(Ruler(SIMULATED), num_generations=2)
    assert inspect.iscoroutinefunction(reward)  # up to 1.8
    assert reward.__name__ == "judge"
    assert reward.func.__name__ == "judge"  # type: ignore[attr-defined]  # from 1.9 on, inside the partial
    assert not inspect.iscoroutinefunction(Blocking(reward))
    assert not inspect.iscoroutinefunction(Blocking(reward).__call__)
    assert Blocking(reward).__name__ == "judge"


@pytest.mark.slow
def test_it_pickles_and_works_plainly() -> None:
    reward = pickle.loads(pickle.dumps(Blocking(reward_function(Ruler(SIMULATED), num_generations=2))))
    first, second = reward(prompts=[ask("1")] * 2, completions=say("a", "b" * 20))
    assert first - second == pytest.approx(0.28, abs=0.02)


@pytest.mark.parametrize("size", [0, -8, True, "8", 2.5])
def test_sizes_are_checked(size: object) -> None:
    with pytest.raises(ConfigError, match="num_generations: expected a whole number"):
        reward_function(Ruler(SIMULATED), num_generations=size)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="num_generations_eval: expected a whole number"):
        reward_function(Ruler(SIMULATED), num_generations=2, num_generations_eval=size)  # type: ignore[arg-type]
