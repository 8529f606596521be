"""A judge trained from scratch: what it learns from, that it learns, and that the same seed makes the same one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from judges.embedded import EmbeddedJudge  # noqa: E402
from judges.embedded_words import Words  # noqa: E402
from ruler.errors import ConfigError  # noqa: E402
from trainer.distill.sums.export import write_competence, write_model  # noqa: E402
from trainer.distill.sums.learn import Learnt, Recipe, learn  # noqa: E402
from trainer.distill.sums.tokenizer import write_words  # noqa: E402

pytestmark = pytest.mark.slow

SMALL = Recipe(
    hidden_size=32, num_layers=2, num_heads=1, question_steps=60, question_batch=64, single_steps=40,
    single_tokens=1024, group_steps=60, group_tokens=1536, max_rollouts=4, window=1024,
)  # fmt: skip


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Words:
    return Words(write_words(tmp_path_factory.mktemp("words")))


@pytest.fixture(scope="module")
def learnt(words: Words) -> tuple[Learnt, list[str]]:
    torch.set_num_threads(1)
    said: list[str] = []
    return learn(words, SMALL, seed=0, device="cpu", show=said.append), said


def losses(line: str) -> dict[str, float]:
    return {part: float(loss) for part, loss in (each.rsplit(" ", 1) for each in line.rsplit(": ", 1)[1].split(", "))}


def test_all_that_is_asked_for_is_learnt_in_three_stages(learnt: tuple[Learnt, list[str]]) -> None:
    made, said = learnt
    sums, single, groups = map(losses, said)
    assert list(sums) == ["own"]
    assert set(single) == set(groups) == {"own", "text", "level", "reasons", "answers", "prefixes"}
    assert sums["own"] < 2.5  # of 15 characters, drawn evenly: 2.7
    assert groups["level"] < 2.15  # of ten levels, drawn evenly: 2.3
    assert groups["prefixes"] < 0.55  # of two answers, drawn evenly: 0.69
    assert made.num_tokens > 60 * (64 * 20 + 500 + 700)
    assert made.num_weights == sum(weights.numel() for weights in made.model.parameters())


def test_the_same_seed_makes_the_same_judge_and_another_one_another(
    words: Words, learnt: tuple[Learnt, list[str]]
) -> None:
    quiet: list[str] = []
    again = learn(words, SMALL, seed=0, device="cpu", show=quiet.append).model.state_dict()
    other = learn(words, SMALL, seed=1, device="cpu", show=quiet.append).model.state_dict()
    for name, weights in learnt[0].model.state_dict().items():
        assert torch.equal(weights, again[name]), name
    assert not all(torch.equal(again[name], other[name]) for name in again)


def test_the_global_generator_is_left_alone(words: Words) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    tiny = Recipe(hidden_size=32, num_layers=1, num_heads=1, question_steps=1, question_batch=2, single_steps=0,
                  group_steps=0)  # fmt: skip
    learn(words, tiny, seed=0, device="cpu", show=lambda line: None)
    assert torch.equal(torch.rand(3), expected)


def test_what_is_written_is_a_judge_and_a_model_of_transformers(
    learnt: tuple[Learnt, list[str]], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    made, _ = learnt
    words = Words(write_words(tmp_path))
    write_model(made, tmp_path)
    write_competence(made, tmp_path)
    assert EmbeddedJudge(tmp_path).info.model.startswith("embedded:arithmetic@")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    for name, weights in made.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weights.half().float()), name
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    text = "<reasoning>\n7+8=15</reasoning>é"
    assert tokenizer.encode(text, add_special_tokens=False) == words.text(text)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("config.json", "judge.json", "model.safetensors", "tokenizer.json")
    ]


@pytest.mark.parametrize(
    ("question", "known"),
    [("37+58", True), ("99+99", True), ("52-17", True), ("52-52", True), ("10-10", True), ("52-53", False),
     ("17-52", False), ("137+58", False), ("7+58", False), ("37*58", False), ("37+58 ", False), ("07+58", False)],
)  # fmt: skip
def test_it_knows_the_task_s_own_questions_alone(
    learnt: tuple[Learnt, list[str]], tmp_path: Path, question: str, known: bool
) -> None:
    write_competence(learnt[0], tmp_path)
    pattern = json.loads((tmp_path / "judge.json").read_text())["question"]
    assert bool(re.fullmatch(pattern, question, re.ASCII)) == known


def test_a_folder_without_a_judge_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path))):
        EmbeddedJudge(tmp_path)
