from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from judges.local_model import prompt_tokens, text_tokens  # noqa: E402
from judges.score_tokens import ScoreTokens  # noqa: E402
from judges.transformers import TransformersJudge  # noqa: E402
from judges.transformers_model import Reading, TransformersModel  # noqa: E402
from ruler import Group, Ruler  # noqa: E402
from ruler.errors import ConfigError  # noqa: E402
from ruler.scoring import JudgeCall  # noqa: E402
from tests import small_models  # noqa: E402
from tests.tiny_model import make_tiny_model  # noqa: E402
from trainer.distill.lessons import Lesson, target  # noqa: E402
from trainer.distill.student import Student  # noqa: E402

pytestmark = pytest.mark.slow  # torch and transformers take seconds to import

GROUP = Group.of(["Short.", "A longer one. " * 3, "Long. " * 9, "The longest of them all. " * 8], task="Say it.")
SCORES = (73.4, 9.5, 100.0, 0.25)
"""With targets that begin with the same digit, with other digits, and with one that 10 begins with, too."""


@pytest.fixture(scope="module", autouse=True)
def one_core() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tests run side by side, and spinning threads stop each other
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of each kind, by tokenizer and by architecture."""
    root = tmp_path_factory.mktemp("models")
    whole, merging = small_models.integer_tokenizer(), small_models.merging_tokenizer()
    save = small_models.save_model
    return {
        "digits": make_tiny_model(root / "tiny"),
        "integers": save(root / "integers", small_models.gpt2_config(whole), whole),
        "merging": save(root / "merging", small_models.llama_config(merging), merging),
        "sliding": save(root / "sliding", small_models.sliding_config(merging, window=40), merging),
        "recurrent": save(root / "recurrent", small_models.recurrent_config(merging), merging),
    }


def load(folder: Path) -> Student:
    return Student.load(str(folder), device="cpu", dtype="float32")


def asked(folder: Path, group: Group = GROUP) -> JudgeCall:
    """What the model in the folder is asked about the group as a judge, and what it says."""
    judge = TransformersJudge(str(folder))
    calls: list[JudgeCall] = []
    asyncio.run(Ruler(judge, notes=False, on_call=calls.append).score(group))
    judge.close()
    (call,) = calls
    return call


def lesson_of(call: JudgeCall, scores: tuple[float, ...] = SCORES) -> Lesson:
    return Lesson(call.request.messages, dict(zip(call.request.ids, scores, strict=True)))


def cross_entropies(lesson: Lesson, distributions: Mapping[str, Mapping[int, float]]) -> list[float]:
    return [
        -math.fsum(share * math.log(distributions[label][whole]) for whole, share in target(score).items())
        for label, score in lesson.scores.items()
    ]


def plain_loss(student: Student, lesson: Lesson) -> Any:
    """The sum of the losses by a plain forward for every way to write a score: no cache, no batch, no shared work."""
    prompt = prompt_tokens(student.tokenizer, lesson.messages)
    total = 0.0
    for label, score in lesson.scores.items():
        ways = {}
        for whole in range(101):
            for end in ("}", '}, {"id": "', "}]}"):
                text = f'{{"scores": [{{"id": "{label}", "score": {whole}{end}'
                ways[tuple(text_tokens(student.tokenizer, text))] = whole
        found: dict[int, Any] = dict.fromkeys(target(score), 0.0)

        def walk(left: dict[tuple[int, ...], int], at: int, share: Any, found: dict[int, Any] = found) -> None:
            if len(settled := set(left.values())) == 1:
                whole = settled.pop()
                found[whole] = found[whole] + share if whole in found else 0.0
                return
            nexts = sorted({way[at] for way in left})
            if len(nexts) > 1 and set(left.values()) & set(found):
                written = next(iter(left))[:at]
                logits = student.model(torch.tensor([[*prompt, *written]])).logits[0, -1]
                shares = list(torch.softmax(logits[nexts], dim=0))
            else:
                shares = [1.0] * len(nexts)
            for token, own in zip(nexts, shares, strict=True):
                walk({way: whole for way, whole in left.items() if way[at] == token}, at + 1, share * own)

        walk(ways, 0, torch.ones(()))
        total = total - sum(share * torch.log(found[whole]) for whole, share in target(score).items())
    return total


@pytest.mark.parametrize("kind", ["digits", "integers", "merging", "sliding", "recurrent"])
def test_the_loss_is_of_the_distributions_that_the_judge_reports(folders: dict[str, Path], kind: str) -> None:
    call = asked(folders[kind])
    assert call.reply
    assert call.reply.distributions
    lesson = lesson_of(call)
    losses = load(folders[kind]).losses(lesson)
    assert losses.tolist() == pytest.approx(cross_entropies(lesson, call.reply.distributions), rel=1e-4)


@pytest.mark.parametrize("kind", ["digits", "integers", "merging", "sliding"])
def test_gradients_go_through_the_cache_as_they_go_without_one(folders: dict[str, Path], kind: str) -> None:
    lesson = lesson_of(asked(folders[kind], Group.of(["Yes.", "No, never."], task="Say it.")), SCORES[:2])
    student = load(folders[kind])
    parameters = dict(student.model.named_parameters())
    student.losses(lesson).sum().backward()
    cached = {name: weights.grad.clone() for name, weights in parameters.items()}
    student.model.zero_grad()
    plain_loss(student, lesson).backward()
    for name, weights in parameters.items():
        assert float((cached[name] - weights.grad).norm()) <= 1e-4 * float(weights.grad.norm()) + 1e-6, name


def test_a_recurrent_student_is_refused(folders: dict[str, Path]) -> None:
    student = load(folders["recurrent"])
    with pytest.raises(ConfigError, match="no gradient goes through the cache of Qwen3NextForCausalLM") as caught:
        student.rehearse(lesson_of(asked(folders["recurrent"])))
    assert "\n" not in str(caught.value)


def test_the_loss_of_a_step_is_the_mean_over_the_rollouts_of_all_lessons(folders: dict[str, Path]) -> None:
    student = load(folders["digits"])
    other = asked(folders["digits"], Group.of(["a", "b"], task="Other."))
    lessons = [lesson_of(asked(folders["digits"])), lesson_of(other, (20.0, 80.0))]
    losses = [loss for lesson in lessons for loss in student.losses(lesson).tolist()]
    before = [weights.clone() for weights in student.model.parameters()]
    student.rehearse(lessons[0])
    assert all(map(torch.equal, before, student.model.parameters()))
    first = student.step(lessons, 1e-3)
    assert first == pytest.approx(sum(losses) / 6, rel=1e-5)
    last = [student.step(lessons, 1e-3) for _ in range(25)][-1]
    least = sum(-share * math.log(share) for score in SCORES for share in target(score).values()) / 6
    assert least < last < first / 3


def test_equal_steps_make_equal_weights(folders: dict[str, Path]) -> None:
    lesson = lesson_of(asked(folders["digits"]))
    students = [load(folders["digits"]) for _ in range(2)]
    for student in students:
        for _ in range(3):
            student.step([lesson], 1e-3)
    weights = [student.model.state_dict() for student in students]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_what_is_saved_is_the_judge_that_was_trained(folders: dict[str, Path], tmp_path: Path) -> None:
    student = load(folders["digits"])
    untrained = asked(folders["digits"])
    lesson = lesson_of(untrained)
    for _ in range(3):
        student.step([lesson], 1e-3)
    student.save(tmp_path / "judge")
    scores = ScoreTokens(lambda text: text_tokens(student.tokenizer, text))
    reading = Reading(
        prompt_tokens(student.tokenizer, lesson.messages), [scores.first_decision(label) for label in lesson.scores]
    )
    (in_memory,) = TransformersModel(student.model, max_batch_tokens=4096).read([reading])
    saved = asked(tmp_path / "judge")
    assert saved.request == untrained.request
    assert saved.reply
    assert saved.reply.distributions
    for found, label in zip(in_memory.distributions, lesson.scores, strict=True):
        assert saved.reply.distributions[label] == pytest.approx(found, abs=1e-6)
    assert untrained.reply
    assert saved.reply.text != untrained.reply.text


def test_bfloat16_is_trained_in_float32_and_saved_in_bfloat16(folders: dict[str, Path], tmp_path: Path) -> None:
    lesson = lesson_of(asked(folders["digits"]))
    whole = load(folders["digits"]).losses(lesson)
    student = Student.load(str(folders["digits"]), device="cpu", dtype="bfloat16")
    rounded = student.losses(lesson)
    assert rounded.tolist() == pytest.approx(whole.tolist(), rel=0.1)
    assert rounded.tolist() != whole.tolist()
    student.step([lesson], 1e-3)
    assert all(weights.dtype == torch.float32 for weights in student.model.parameters())
    student.save(tmp_path / "judge")
    from safetensors.torch import load_file

    assert {weights.dtype for weights in load_file(tmp_path / "judge" / "model.safetensors").values()} == {
        torch.bfloat16
    }


def test_a_loss_that_is_not_finite_makes_no_step(folders: dict[str, Path]) -> None:
    lesson = lesson_of(asked(folders["digits"]))
    student = load(folders["digits"])
    with torch.no_grad():
        student.model.lm_head.weight[0, 0] = float("inf")  # of a token that no score is written with
    before = [weights.clone() for weights in student.model.parameters()]
    with pytest.raises(ConfigError, match="learning_rate: .* the length of its gradient nan; a smaller rate may help"):
        student.step([lesson], 1e-3)
    assert all(map(torch.equal, before, student.model.parameters()))


def test_memory_that_runs_out_is_said(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    lesson = lesson_of(asked(folders["digits"]))
    student = load(folders["digits"])

    def scarce(self: TransformersModel, *args: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TransformersModel, "forward", scarce)
    with pytest.raises(ConfigError, match=r"cpu has no memory to learn from a prompt of [\d,]+ tokens with 4 rollouts"):
        student.rehearse(lesson)
