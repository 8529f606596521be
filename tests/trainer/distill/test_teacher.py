from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import transformers  # noqa: E402

from judges.local_model import local_name  # noqa: E402
from judges.simulated import SimulatedJudge  # noqa: E402
from judges.transformers import TransformersJudge  # noqa: E402
from ruler import Group, Ruler  # noqa: E402
from ruler.errors import ConfigError, JudgeError, JudgeRejected  # noqa: E402
from ruler.records import LabelledGroup  # noqa: E402
from ruler.rubric import DEFAULT_RUBRIC  # noqa: E402
from ruler.types import Judge, JudgeInfo, JudgeReply, JudgeRequest, ScoredGroup  # noqa: E402
from tests import small_models  # noqa: E402
from tests.trainer.distill.reading_student import CONTEXT_TOKENS, TEACHER, groups, make_student  # noqa: E402
from trainer.distill.lessons import split, usable  # noqa: E402
from trainer.distill.student import Student  # noqa: E402
from trainer.distill.teacher import DistilledFromTeacher, TeacherSettings, distill_teacher  # noqa: E402

pytestmark = pytest.mark.slow  # torch and transformers take seconds to import

QUICK = TeacherSettings(epochs=1, groups_per_step=4, learning_rate=1e-3)


@pytest.fixture(scope="module", autouse=True)
def one_core() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tests run side by side, and spinning threads stop each other
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("models") / "student")


class Counted:
    """A teacher that counts what it is asked, and refuses some."""

    def __init__(self, refuses: Sequence[str] = ()) -> None:
        self.info = SimulatedJudge(behaviour=TEACHER).info
        self.asked = 0
        self._judge = SimulatedJudge(behaviour=TEACHER)
        self._refuses = refuses

    async def __call__(self, request: JudgeRequest) -> JudgeReply:
        self.asked += 1
        content = request.messages[1]["content"]
        if any(f"<task>\n{task}\n" in content for task in self._refuses):
            raise JudgeRejected("content filter")
        return await self._judge(request)


def distil(
    labelled: Sequence[LabelledGroup],
    student: Path,
    out: Path,
    settings: TeacherSettings = QUICK,
    teacher: Judge | None = None,
) -> tuple[DistilledFromTeacher, list[str]]:
    shown: list[str] = []
    teacher = teacher or SimulatedJudge(behaviour=TEACHER)
    return asyncio.run(distill_teacher(labelled, teacher, str(student), out, settings, shown.append)), shown


def scored(folder: Path, labelled: Sequence[LabelledGroup]) -> list[tuple[float | None, ...]]:
    judge = TransformersJudge(str(folder))
    results = asyncio.run(Ruler(judge).score_many(item.group for item in labelled))
    judge.close()
    assert all(isinstance(result, ScoredGroup) for result in results)
    return [result.scores for result in results if isinstance(result, ScoredGroup)]


@pytest.fixture(scope="module")
def learnt(student: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[DistilledFromTeacher, list[str], Path]:
    out = tmp_path_factory.mktemp("distilled") / "judge"
    settings = TeacherSettings(epochs=3, groups_per_step=4, learning_rate=2e-3)
    distilled, shown = distil(groups(100), student, out, settings)
    return distilled, shown, out


class TestAStudentThatLearns:
    def test_comes_to_agree_with_its_teacher(self, learnt: tuple[DistilledFromTeacher, list[str], Path]) -> None:
        distilled, _, _ = learnt
        before, after = distilled.before, distilled.after
        assert before.agreement.value
        assert after.agreement.value
        assert after.agreement.interval
        assert before.distance.value
        assert after.distance.value
        assert before.agreement.value < 0.7
        assert after.agreement.value > 0.9
        assert after.agreement.interval[0] > 0.75
        assert after.distance.value < before.distance.value / 3
        assert (before.failed, after.failed) == (0, 0)
        assert distilled.losses[0] > 2 * distilled.losses[-1]
        # Truth is what this teacher goes by.
        assert distilled.teacher_accuracy.value == 1.0
        assert after.accuracy == after.agreement
        assert distilled.student_less_teacher.value == pytest.approx(after.agreement.value - 1)

    def test_says_what_was_done(self, learnt: tuple[DistilledFromTeacher, list[str], Path], student: Path) -> None:
        distilled, shown, out = learnt
        assert (distilled.num_groups, distilled.num_train, distilled.num_held_out) == (100, 80, 20)
        assert (distilled.num_failed, distilled.num_tied, distilled.num_single, distilled.num_too_long) == (0, 0, 0, 0)
        assert (distilled.steps, len(distilled.losses)) == (60, 3)
        assert distilled.teacher == SimulatedJudge(behaviour=TEACHER).info.name
        assert distilled.student == local_name(str(student))
        assert distilled.rubric == DEFAULT_RUBRIC.id
        assert (distilled.torch, distilled.transformers) == (torch.__version__, transformers.__version__)
        written = json.loads((out / "distilled_results.json").read_text())
        assert written == json.loads(json.dumps(asdict(distilled)))
        assert "80 groups to train on, 20 held out" in shown
        assert sum(line.startswith("step ") for line in shown) == 10
        assert shown[-1].startswith("held out: ")

    def test_is_a_judge_of_groups_it_has_never_seen(self, learnt: tuple[DistilledFromTeacher, list[str], Path]) -> None:
        _, _, out = learnt
        fresh = groups(40, seed=1)
        right = pairs = 0
        for item, scores in zip(fresh, scored(out, fresh), strict=True):
            truth = [item.truth[rollout.id] for rollout in item.group.rollouts]
            for a in range(3):
                for b in range(a):
                    pairs += 1
                    right += (scores[a] > scores[b]) == (truth[a] > truth[b])  # type: ignore[operator]
        assert right / pairs > 0.9


def test_a_student_does_not_learn_its_teachers_bias_for_places(student: Path, tmp_path: Path) -> None:
    biased = SimulatedJudge(behaviour=replace(TEACHER, slot_bias=0.06))
    settings = TeacherSettings(epochs=3, groups_per_step=4, learning_rate=2e-3)
    distilled, _ = distil(groups(200), student, tmp_path / "judge", settings, biased)
    assert distilled.teacher_accuracy.value
    assert distilled.teacher_accuracy.value < 0.7
    assert distilled.student_less_teacher.interval
    assert distilled.student_less_teacher.interval[0] > 0.1


class TestAQuickRun:
    def test_the_same_seed_writes_the_same_folder_whatever_the_order_of_the_groups(
        self, student: Path, tmp_path: Path
    ) -> None:
        labelled = groups(12)
        first, _ = distil(labelled, student, tmp_path / "a" / "judge")
        again, _ = distil(labelled[::-1], student, tmp_path / "b" / "judge")
        other, _ = distil(labelled, student, tmp_path / "c" / "judge", replace(QUICK, seed=1))
        assert first == again
        files = {path.name for path in (tmp_path / "a" / "judge").iterdir()}
        assert {"model.safetensors", "config.json", "tokenizer.json", "distilled_results.json"} <= files
        folders = [tmp_path / name / "judge" for name in "abc"]
        for name in files:
            assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name
        weights = [(folder / "model.safetensors").read_bytes() for folder in (*folders, student)]
        assert len(set(weights)) == 3
        assert other.losses != first.losses
        assert [path.name for path in (tmp_path / "a").iterdir()] == ["judge"]

    def test_what_cannot_be_learnt_from_is_left_out_and_counted(self, student: Path, tmp_path: Path) -> None:
        whole = groups(12)
        refused = [str(item.group.task[0].content[0]) for item in whole[:3]]
        # Of one rollout; of two that read the same; too long for the window.
        odd = [["a"], ["a", "a"], ["a" * CONTEXT_TOKENS, "b" * CONTEXT_TOKENS]]
        labelled = [
            *whole,
            *(LabelledGroup(Group.of(texts, task="T", id=f"odd-{n}"), {}) for n, texts in enumerate(odd)),
        ]
        teacher = Counted(refused)
        distilled, shown = distil(labelled, student, tmp_path / "judge", teacher=teacher)
        assert distilled.num_groups == 15
        assert (distilled.num_single, distilled.num_tied, distilled.num_too_long, distilled.num_failed) == (1, 1, 1, 3)
        assert distilled.num_train + distilled.num_held_out == 9
        assert teacher.asked == 12
        assert shown[0] == "left out of 15 groups: 1 of one rollout, 1 tied, 1 too long"
        assert any("no scores for 3 of 12 groups; the first, group 'group-" in line for line in shown)
        # What failed changed nothing but the number of groups.
        assert distilled.steps == -(-distilled.num_train // 4)

    def test_truth_is_measured_by_and_not_learnt_from(self, student: Path, tmp_path: Path) -> None:
        labelled = groups(10)
        turned = [replace(item, truth={name: -value for name, value in item.truth.items()}) for item in labelled]
        none = [replace(item, truth={}) for item in labelled]
        found = [
            distil(given, student, tmp_path / name / "judge")[0]
            for name, given in (("a", labelled), ("b", turned), ("c", none))
        ]
        assert [one.teacher_accuracy.value for one in found] == [1.0, 0.0, None]
        assert [one.after.agreement for one in found] == [found[0].after.agreement] * 3
        assert found[0].after.accuracy.value == pytest.approx(1 - (found[1].after.accuracy.value or 0))
        weights = {(tmp_path / name / "judge" / "model.safetensors").read_bytes() for name in "abc"}
        assert len(weights) == 1

    def test_an_empty_folder_is_filled(self, student: Path, tmp_path: Path) -> None:
        distil(groups(8), student, tmp_path)
        assert (tmp_path / "distilled_results.json").exists()
        with pytest.raises(ConfigError, match=r"out: .* is there already, and is no empty folder"):
            distil(groups(8), student, tmp_path)
        with pytest.raises(ConfigError, match="is there already"):
            distil(groups(8), student, tmp_path / "distilled_results.json")


class TestWhatGoesWrong:
    def test_a_teacher_that_fails_on_most_groups(self, student: Path, tmp_path: Path) -> None:
        labelled = groups(10)
        refused = [str(item.group.task[0].content[0]) for item in labelled[:6]]
        with pytest.raises(JudgeError, match=r"no scores for 6 of 10 groups; the first, group .*: rejected: content f"):
            distil(labelled, student, tmp_path / "judge", teacher=Counted(refused))
        assert not list(tmp_path.iterdir())

    def test_a_teacher_that_fails_on_one_side(self, student: Path, tmp_path: Path) -> None:
        labelled = groups(10)
        material = usable(labelled, JudgeInfo(backend="test", model="any"), DEFAULT_RUBRIC).material
        _, (item,) = split(material, 0.05, QUICK.seed)
        refused = [str(item.labelled.group.task[0].content[0])]
        with pytest.raises(JudgeError, match="it has no scores for any of the groups held out"):
            distil(labelled, student, tmp_path / "judge", replace(QUICK, held_out_share=0.05), Counted(refused))
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("fault", ["lacking weights", "recurrent", "no gradient", "not causal", "no folder"])
    def test_a_student_that_is_unfit_costs_nothing(
        self, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
    ) -> None:
        folder, words = shutil.copytree(student, tmp_path / "student"), ""
        tokenizer = transformers.AutoTokenizer.from_pretrained(student)
        if fault == "lacking weights":
            from safetensors.torch import load_file, save_file

            weights = load_file(folder / "model.safetensors")
            del weights["lm_head.weight"]
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
            words = "the checkpoint lacks 1 weights, such as lm_head.weight"
        elif fault == "recurrent":
            small_models.save_model(folder, small_models.recurrent_config(tokenizer), tokenizer)
            words = "no gradient goes through the cache of Qwen3Next"
        elif fault == "not causal":
            config = small_models.llama_config(tokenizer)
            small_models.save_model(folder, config, tokenizer, kind="LlamaForSequenceClassification")
            words = "expected a causal language model, got LlamaForSequenceClassification"
        elif fault == "no gradient":

            def scarce(self: Student, lesson: Any) -> Any:
                raise torch.OutOfMemoryError("CUDA out of memory")

            monkeypatch.setattr(Student, "losses", scarce)
            words = "cpu has no memory to learn from a prompt of"
        else:
            shutil.rmtree(folder)
            words = "no such folder"
        teacher = Counted()
        with pytest.raises(ConfigError, match=words):
            distil(groups(6), folder, tmp_path / "out" / "judge", teacher=teacher)
        assert teacher.asked == 0
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())

    def test_what_could_not_be_written_leaves_nothing(
        self, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save = Student.save

        def half(self: Student, folder: Path) -> None:
            save(self, folder)
            raise OSError("no space left")

        monkeypatch.setattr(Student, "save", half)
        with pytest.raises(OSError, match="no space left"):
            distil(groups(6), student, tmp_path / "judge")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"epochs": 0}, "epochs: expected a whole number of at least 1, got 0"),
            ({"groups_per_step": True}, "groups_per_step: expected a whole number of at least 1, got True"),
            ({"seed": 1.5}, "seed: expected a whole number of at least 0, got 1.5"),
            ({"learning_rate": 0}, "learning_rate: expected a number between 0 and inf, got 0"),
            ({"learning_rate": float("nan")}, "learning_rate: expected a number between 0 and inf, got nan"),
            ({"held_out_share": 1.0}, "held_out_share: expected a number between 0 and 1.0, got 1.0"),
            ({"dtype": "float16"}, "dtype: expected one of float32, bfloat16, got 'float16'"),
        ],
    )
    def test_settings_are_checked(self, values: dict[str, Any], words: str) -> None:
        with pytest.raises(ConfigError) as caught:
            TeacherSettings(**values)
        assert str(caught.value) == words

    def test_groups_are_checked(self, student: Path, tmp_path: Path) -> None:
        for labelled, words in (([], "there are none"), (groups(1), "none can be held out")):
            with pytest.raises(ConfigError, match=words):
                distil(labelled, student, tmp_path / "judge")
        with pytest.raises(ConfigError, match="device: cannot use 'abacus'"):
            distil(groups(2), student, tmp_path / "judge", replace(QUICK, device="abacus"))
        assert not list(tmp_path.iterdir())
