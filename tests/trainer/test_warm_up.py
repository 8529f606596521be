from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from ruler.errors import ConfigError  # noqa: E402
from tests.trainer.words_task import words_task  # noqa: E402
from trainer.environments import Start  # noqa: E402
from trainer.policy import Policy  # noqa: E402
from trainer.tasks import Demonstration, Task  # noqa: E402
from trainer.tiny import make_tiny_policy  # noqa: E402
from trainer.warm_up import imitate, tokens_of, warm_up  # noqa: E402

START = Start([{"role": "user", "content": "What is 3+4?"}])
words = st.text(st.sampled_from("abc 123\n"), max_size=20)


def says_b(said: Sequence[str]) -> float:
    return float(list(said) == ["b"])


def demonstrate(answers: Sequence[str], rng: random.Random) -> Demonstration:
    question = Start([{"role": "user", "content": f"say {rng.choice('abcd')}"}])
    return Demonstration(question, ({"role": "assistant", "content": rng.choice(answers)},))


def quick_task(**numbers: object) -> Task:
    """Saying "b" and nothing else is right, which is learnt at once; half of the habits are to say "c" after it."""
    task = words_task(says_b)
    assert task.tiny
    tiny = replace(
        task.tiny,
        clean=lambda rng: demonstrate([" b"], rng),
        habits=lambda rng: demonstrate([" b", " b c"], rng),
        batch_size=8,
        habit_steps=30,
        habit_learning_rate=3e-3,
    )
    return replace(task, tiny=replace(tiny, **numbers))  # type: ignore[arg-type]


def warmed(task: Task, folder: Path, *, seed: int = 0) -> tuple[Path, list[str]]:
    shown: list[str] = []
    return asyncio.run(warm_up(task, seed=seed, show=shown.append, folder=folder)), shown


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place, shown = warmed(quick_task(), tmp_path_factory.mktemp("policies"))
    assert str(place) in shown[0]
    return place


# --- The policy that comes out ---


def test_it_has_the_skill_and_the_habits(warm: Path) -> None:
    facts = json.loads((warm / "warm_up.json").read_text())
    assert (facts["task"], facts["seed"], facts["habit_steps"]) == ("words", 0, 30)
    assert facts["skill"] >= 0.9
    assert facts["clean_steps"] in (50, 100)
    assert facts["held_out"]["num_problems"] == 2
    assert facts["torch"] == torch.__version__
    policy = Policy.load(str(warm))
    tokens = torch.tensor([policy.encode_start(Start([{"role": "user", "content": "say a"}]))])
    with torch.no_grad():
        first = policy.model(tokens).logits[0, -1].softmax(-1)
        b, c = (policy.tokenizer.convert_tokens_to_ids(word) for word in (" b", " c"))
        assert first[b] > 0.9
        second = policy.model(torch.cat([tokens, torch.tensor([[b]])], dim=1)).logits[0, -1].softmax(-1)
    (end,) = policy.end_tokens
    assert second[c] + second[end] > 0.9
    assert 0.2 < second[c] < 0.8


def test_it_is_made_once(warm: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in warm.iterdir()}
    again, shown = warmed(quick_task(), warm.parent)
    assert again == warm
    assert not shown
    assert {path: path.stat().st_mtime_ns for path in warm.iterdir()} == before


def test_the_same_seed_makes_the_same_policy(warm: Path, tmp_path: Path) -> None:
    again, _ = warmed(quick_task(), tmp_path)
    assert again.name == warm.name
    assert [path.name for path in tmp_path.iterdir()] == [warm.name]
    assert (again / "model.safetensors").read_bytes() == (warm / "model.safetensors").read_bytes()
    facts, before = (json.loads((place / "warm_up.json").read_text()) for place in (again, warm))
    assert facts | {"seconds": 0} == before | {"seconds": 0}


def test_another_seed_or_recipe_is_another_policy(warm: Path, tmp_path: Path) -> None:
    places = {warm.name}
    short = {"habit_steps": 1, "skill": 0.1}
    for task, seed in (
        (quick_task(), 1),
        (quick_task(**short), 0),
        (quick_task(**short, habit_learning_rate=0.02), 0),
        (quick_task(**short, clean=lambda rng: demonstrate([" b", " b", " b a"], rng)), 0),
        (quick_task(**short, words=(*quick_task().tiny.words, "new")), 0),  # type: ignore[union-attr]
    ):
        place, _ = warmed(task, tmp_path, seed=seed)
        assert place.name not in places
        places.add(place.name)


def test_without_a_folder_it_is_kept_in_the_cache_of_the_user(
    warm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place = asyncio.run(warm_up(quick_task(), seed=0, show=lambda line: None))
    assert place == tmp_path / "ruler" / "policies" / warm.name


# --- What goes wrong ---


def test_a_skill_that_is_not_reached_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    task = quick_task(clean=lambda rng: demonstrate([" d"], rng), max_clean_steps=50)
    with pytest.raises(ConfigError, match=r"'words': seed 3: 0\.00 right after 50 steps.* 0\.9 .*max_clean_steps"):
        warmed(task, tmp_path, seed=3)
    assert not list(tmp_path.iterdir())


def test_a_task_that_cannot_be_warmed_up(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'words': has no tiny policy"):
        warmed(replace(quick_task(), tiny=None), tmp_path)
    blind = words_task(lambda said: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(ConfigError, match="'words': does not know truth"):
        warmed(blind, tmp_path)


def test_what_could_not_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = Policy.save

    def half(self: Policy, folder: Path) -> None:
        save(self, folder)
        raise OSError("no space left")

    monkeypatch.setattr(Policy, "save", half)
    with pytest.raises(OSError, match="no space left"):
        warmed(quick_task(skill=0.1, habit_steps=1), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_process_that_was_faster_wins(warm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = Policy.save

    def slow(self: Policy, folder: Path) -> None:
        save(self, folder)
        (tmp_path / warm.name).mkdir()
        (tmp_path / warm.name / "theirs").touch()

    monkeypatch.setattr(Policy, "save", slow)
    place, _ = warmed(quick_task(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [warm.name]
    assert [path.name for path in place.iterdir()] == ["theirs"]


# --- One step ---


@given(turns=st.lists(st.tuples(words, st.lists(words, min_size=1, max_size=2)), max_size=2), last=words)
def test_a_demonstration_is_the_conversation_and_only_turns_of_the_assistant_count(
    chat_policy: Policy, turns: list[tuple[str, list[str]]], last: str
) -> None:
    messages = []
    expected, counted = chat_policy.encode_start(START), []
    for said, replies in turns:
        messages.append({"role": "assistant", "content": said})
        tools = [{"role": "tool", "content": reply} for reply in replies]
        counted += chat_policy.encode_turn(messages[-1])
        expected += chat_policy.encode_turn(messages[-1]) + chat_policy.encode_reply(tools)
        messages += tools
    messages.append({"role": "assistant", "content": last})
    counted += chat_policy.encode_turn(messages[-1])
    expected += chat_policy.encode_turn(messages[-1])
    tokens, written = tokens_of(chat_policy, Demonstration(START, tuple(messages)))
    assert tokens == expected
    assert [token for token, mark in zip(tokens, written, strict=True) if mark] == counted


def test_the_loss_is_the_mean_over_all_tokens_of_the_assistant() -> None:
    task = words_task()
    assert task.tiny
    policy = Policy(*make_tiny_policy(task.tiny, seed=0))
    rng = random.Random(0)
    demonstrations = [task.tiny.clean(rng) for _ in range(6)]
    losses = []
    for demonstration in demonstrations:
        tokens, written = tokens_of(policy, demonstration)
        with torch.no_grad():
            logprobs = policy.model(torch.tensor([tokens])).logits[0].log_softmax(-1)
        losses += [-float(logprobs[at - 1, tokens[at]]) for at in range(len(tokens)) if written[at]]
    optimiser = torch.optim.SGD(policy.model.parameters(), lr=1.0)
    before = [weights.clone() for weights in policy.model.parameters()]
    loss = imitate(policy, optimiser, demonstrations, 0.0)
    assert loss == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert all(torch.equal(old, new) for old, new in zip(before, policy.model.parameters(), strict=True))
    steps = [imitate(policy, optimiser, demonstrations, 0.2) for _ in range(5)]
    assert steps[-1] < steps[0] == pytest.approx(loss, rel=1e-5)


def test_a_demonstration_that_does_not_fit_the_window() -> None:
    task = words_task()
    assert task.tiny
    policy = Policy(*make_tiny_policy(task.tiny, seed=0))
    long = Demonstration(Start([{"role": "user", "content": "say a"}]), ({"role": "assistant", "content": " a" * 40},))
    with pytest.raises(ConfigError, match=r"demonstration: has 44 tokens, and the policy's window 32"):
        tokens_of(policy, long)
