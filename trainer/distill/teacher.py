"""From a teacher's scores to a small judge: ask the teacher once, train a student on what it says, measure, save.

    loaded = load_judges(read_settings(judge="openai/gpt-5-mini"))
    labelled = [found for found in read_labelled("groups.jsonl") if isinstance(found, LabelledGroup)]
    await distill_teacher(labelled, loaded.judges, "Qwen/Qwen3-0.6B", Path("judge"), TeacherSettings(), print)

The folder is then a judge: `--judge transformers:judge`. Some groups are held out, and the student is measured on them
before and after. They decide nothing in training, not even when to stop, so what is measured is not flattered.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import get_args

import torch
import transformers

from judges.local_model import local_name
from judges.transformers import TransformersJudge
from judges.transformers_load import choose_device
from ruler.comparison import difference
from ruler.errors import ConfigError, JudgeError
from ruler.intervals import Estimate
from ruler.orders import Orders
from ruler.records import LabelledGroup
from ruler.rubric import DEFAULT_RUBRIC, Rubric
from ruler.scoring import Ruler
from ruler.types import Judge
from trainer.distill.asking import student_scores, teacher_scores
from trainer.distill.lessons import Material, batches, split, usable
from trainer.distill.student import Dtype, Student
from trainer.distill.teacher_figures import Measured, Taught, against_truth, in_order, mean, measured
from trainer.unfinished import check_is_free, unfinished

_RISING_SHARE = 0.1
"""Of all steps: in them the learning rate rises; then it falls to 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSettings:
    """How the teacher is asked and the student trained.

    Raises:
        ConfigError: a number out of range or an unknown name; says which.
    """

    rubric: Rubric = DEFAULT_RUBRIC
    """What the teacher is told to value, and the student after it: with another rubric it is another judge."""
    orders: Orders = 1
    """In how many orders the teacher reads each group. More of them make a steadier teacher; the student reads one."""
    epochs: int = 3
    """How often the student reads each training group."""
    groups_per_step: int = 8
    """Groups of training in one step of the optimiser."""
    learning_rate: float = 2e-5
    """The highest, of AdamW. Right for models of some hundred million weights; tiny ones want 1e-3."""
    held_out_share: float = 0.2
    """Of the groups, in (0, 1): those that the student is measured on and not trained on."""
    seed: int = 0
    """Of the split, and of the orders in which groups and rollouts are shown."""
    device: str | None = None
    """As torch names it; None: cuda where there is one, else cpu."""
    dtype: Dtype | None = None
    """What forward passes calculate in, and what the weights are saved in; None: bfloat16 on cuda, else float32."""

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("groups_per_step", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{name}: expected a whole number of at least {least}, got {value!r:.80}")
        for name, most in (("learning_rate", math.inf), ("held_out_share", 1.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < most:
                raise ConfigError(f"{name}: expected a number between 0 and {most}, got {value!r:.80}")
        if self.dtype is not None and self.dtype not in get_args(Dtype):
            raise ConfigError(f"dtype: expected one of {', '.join(get_args(Dtype))}, got {self.dtype!r:.80}")


@dataclass(frozen=True, slots=True)
class DistilledFromTeacher:
    """What became of it: `distilled_results.json` beside the weights. Equal runs on a CPU write equal files."""

    teacher: str
    """Its name, settings included."""
    student: str
    """What was trained, with a digest of its files."""
    rubric: str
    prompt_version: str
    orders: Orders
    """In which the teacher was asked."""
    num_groups: int
    """Given; each of them is one of the next six."""
    num_single: int
    """Of one rollout: nothing to compare."""
    num_tied: int
    """Whose rollouts all read the same."""
    num_too_long: int
    """Which do not fit the student's window, even cut and in blocks of two."""
    num_failed: int
    """Which the teacher gave no scores."""
    num_train: int
    num_held_out: int
    epochs: int
    groups_per_step: int
    learning_rate: float
    seed: int
    steps: int
    """Of the optimiser."""
    losses: tuple[float, ...]
    """Mean over each epoch, in nats per rollout."""
    before: Measured
    """The student as it came."""
    after: Measured
    """The folder that was written, loaded as a judge."""
    teacher_accuracy: Estimate
    """As `Measured.accuracy`, of the teacher on the same groups."""
    student_less_teacher: Estimate
    """Accuracy of the student, after, less that of the teacher, paired by group; in [-1, 1]."""
    torch: str
    transformers: str


async def distill_teacher(
    groups: Sequence[LabelledGroup],
    teacher: Judge | Sequence[Judge],
    student: str,
    out: Path,
    settings: TeacherSettings,
    show: Callable[[str], None],
) -> DistilledFromTeacher:
    """Trains the student to give the teacher's scores, and writes it to `out` as a judge.

    What can be wrong with the student shows before the teacher is asked: it is loaded, it scores the held-out groups,
    and a gradient is taken of the longest prompt. A group that the teacher fails on is left out of everything.

    Args:
        groups: what to learn from; truth is only measured by, where a group has it for every rollout.
        teacher: a judge in its whole stack, or a jury of them (`ruler.config.load_judges`).
        student: a folder, or an id on the Hugging Face hub; a causal language model of attention layers. All of its
            weights are trained.
        out: a folder that is not there, or is empty.
        settings: how.
        show: is given a line of text now and then.

    Raises:
        ConfigError: `out` is there; no groups, two of one id, none that can be used, or all of one task; a student that
            cannot be loaded or trained.
        JudgeError: the teacher has no scores for more than half of the groups, or for any on one side of the split; the
            student cannot score a single held-out group.
        OSError: the folder cannot be written. As after every error, nothing is left of it.
    """
    check_is_free(out)
    asker = Ruler(teacher, rubric=settings.rubric, orders=settings.orders)
    device = choose_device(f"transformers:{student}", settings.device)
    dtype: Dtype = settings.dtype or ("bfloat16" if device.startswith("cuda") else "float32")
    judge = TransformersJudge(student, device=device, dtype=dtype)
    try:
        found = usable(groups, judge.info, settings.rubric)
        if found.left_out:
            show(f"left out of {len(groups)} groups: {found.left_out}")
        to_train, to_hold_out = split(found.material, settings.held_out_share, settings.seed)
        came = await student_scores(judge, to_hold_out, settings.rubric)
    finally:
        await asyncio.to_thread(judge.close)

    student_name = local_name(student)
    with ThreadPoolExecutor(1, "device") as executor, unfinished(out) as folder:
        loop = asyncio.get_running_loop()
        learner = await loop.run_in_executor(executor, lambda: Student.load(student, device=device, dtype=dtype))
        await loop.run_in_executor(executor, _rehearse, learner, to_train)
        said = await teacher_scores(asker, found.material, show)
        train, held_out = ([(item, said[item]) for item in side if item in said] for side in (to_train, to_hold_out))
        for name, side in (("to train on", train), ("held out", held_out)):
            if not side:
                raise JudgeError(f"teacher {asker.judge_name}: it has no scores for any of the groups {name}")
        show(f"{len(train)} groups to train on, {len(held_out)} held out")
        losses = await _train(learner, train, settings, show, executor)
        await loop.run_in_executor(executor, learner.save, folder)
        del learner  # the judge needs its memory
        judge = TransformersJudge(str(folder), device=device, dtype=dtype)
        try:
            became = await student_scores(judge, [item for item, _ in held_out], settings.rubric)
        finally:
            await asyncio.to_thread(judge.close)

        by_teacher = against_truth(held_out, {item: in_order(item, scores) for item, scores in held_out})
        distilled = DistilledFromTeacher(
            teacher=asker.judge_name,
            student=student_name,
            rubric=asker.rubric.id,
            prompt_version=asker.prompt_version,
            orders=settings.orders,
            num_groups=len(groups),
            num_single=found.num_single,
            num_tied=found.num_tied,
            num_too_long=found.num_too_long,
            num_failed=len(found.material) - len(train) - len(held_out),
            num_train=len(train),
            num_held_out=len(held_out),
            epochs=settings.epochs,
            groups_per_step=settings.groups_per_step,
            learning_rate=settings.learning_rate,
            seed=settings.seed,
            steps=len(losses),
            losses=_by_epoch(losses, settings.epochs),
            before=measured(held_out, came),
            after=measured(held_out, became),
            teacher_accuracy=mean(by_teacher, [group.accuracy for group in by_teacher]),
            student_less_teacher=difference(against_truth(held_out, became), by_teacher).overall,
            torch=torch.__version__,
            transformers=transformers.__version__,
        )
        _write(folder, distilled)
    show(_summary(distilled))
    return distilled


def _summary(distilled: DistilledFromTeacher) -> str:
    def percent(found: Estimate) -> str:
        if found.value is None:
            return "nothing"
        inside = f" ({found.interval[0]:.0%} to {found.interval[1]:.0%})" if found.interval else ""
        return f"{found.value:.1%}{inside}"

    before, after = distilled.before, distilled.after
    text = f"held out: {percent(after.agreement)} of the teacher's pairs, before {percent(before.agreement)}"
    if after.accuracy.value is not None:
        text += f"; by truth {percent(after.accuracy)}, the teacher {percent(distilled.teacher_accuracy)}"
    return text


def _write(folder: Path, distilled: DistilledFromTeacher) -> None:
    (folder / "distilled_results.json").write_text(json.dumps(asdict(distilled), indent=2) + "\n", encoding="utf-8")


def _rehearse(learner: Student, material: Sequence[Material]) -> None:
    def length(item: Material) -> int:
        return max(sum(len(text) for _, text in prompt.parts) for blocks in item.plan.orders for prompt in blocks)

    longest = max(material, key=length)
    for lesson in longest.lessons({rollout.id: 0.5 for rollout in longest.labelled.group.rollouts}):
        learner.rehearse(lesson)


async def _train(
    learner: Student,
    train: Sequence[Taught],
    settings: TeacherSettings,
    show: Callable[[str], None],
    executor: Executor,
) -> list[float]:
    """The loss of each step."""
    loop = asyncio.get_running_loop()
    num_steps = settings.epochs * math.ceil(len(train) / settings.groups_per_step)
    steps = batches(train, epochs=settings.epochs, groups_per_step=settings.groups_per_step, seed=settings.seed)
    losses: list[float] = []
    for number, lessons in enumerate(steps):
        rate = settings.learning_rate * _share_of_rate(number, num_steps)
        losses.append(await loop.run_in_executor(executor, learner.step, lessons, rate))
        if 10 * (number + 1) // num_steps > 10 * number // num_steps:
            show(f"step {number + 1} of {num_steps}: loss {losses[-1]:.3f}")
    return losses


def _share_of_rate(number: int, num_steps: int) -> float:
    """Of the learning rate at this step, from 0: it rises in a line, then falls in one; never 0."""
    rising = max(1, round(_RISING_SHARE * num_steps))
    return (number + 1) / rising if number < rising else (num_steps - number) / (num_steps - rising + 1)


def _by_epoch(losses: Sequence[float], epochs: int) -> tuple[float, ...]:
    size = len(losses) // epochs
    return tuple(fmean(losses[start : start + size]) for start in range(0, len(losses), size))
