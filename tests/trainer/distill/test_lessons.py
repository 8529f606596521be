from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judges.fences import find_rollouts
from ruler.errors import ConfigError
from ruler.records import LabelledGroup
from ruler.rubric import DEFAULT_RUBRIC
from ruler.types import Group, JudgeInfo, Rollout
from trainer.distill.lessons import Lesson, Material, batches, split, target, usable

INFO = JudgeInfo(backend="test", model="student")


def labelled(texts: Sequence[str], name: str, **metadata: str) -> LabelledGroup:
    return LabelledGroup(Group.of(list(texts), task="Say it.", id=name, metadata=metadata), {})


def numbered(size: int, name: str, **metadata: str) -> LabelledGroup:
    return labelled([f"{name} says {place}" for place in range(size)], name, **metadata)


def laid_out(*groups: LabelledGroup) -> list[Material]:
    return list(usable(groups, INFO, DEFAULT_RUBRIC).material)


def shown(lesson: Lesson) -> dict[str, str]:
    _, rollouts = find_rollouts(lesson.messages[1]["content"])
    return rollouts


NAMED = [
    *(numbered(2, f"g{n}") for n in range(20)),
    *(numbered(2, f"t{n}", split_key=f"{n % 3}") for n in range(9)),
]


class TestTarget:
    @given(st.floats(0, 100))
    def test_is_two_neighbours_whose_mean_is_the_score(self, score: float) -> None:
        shares = target(score)
        assert set(shares) <= set(range(101))
        assert len(shares) <= 2
        assert max(shares) - min(shares) == len(shares) - 1
        assert all(share > 0 for share in shares.values())
        assert sum(shares.values()) == pytest.approx(1)
        assert sum(whole * share for whole, share in shares.items()) == pytest.approx(score, abs=1e-6)

    def test_of_a_whole_score_is_that(self) -> None:
        assert target(100 * 0.57) == {57: 1.0}  # 56.99999999999999
        assert target(100.0) == {100: 1.0}


class TestUsable:
    def test_counts_what_is_left_out(self) -> None:
        whole = [numbered(3, "a"), numbered(1, "one"), labelled(["x", "x"], "tied"), numbered(2, "b")]
        long = labelled(["x" * 20_000, "y" * 20_000], "long")
        small = JudgeInfo(
            backend="test", model="student", context_tokens=2000, count_tokens=lambda text: len(text) // 4
        )
        found = usable([*whole, long], small, DEFAULT_RUBRIC)
        assert {item.group_id for item in found.material} == {"a", "b"}
        assert (found.num_single, found.num_tied, found.num_too_long) == (1, 1, 1)
        assert found.left_out == "1 of one rollout, 1 tied, 1 too long"
        with pytest.raises(ConfigError, match=r"none of 1 can be learnt from: 1 too long: group 'long': .*tokens"):
            usable([long], small, DEFAULT_RUBRIC)

    def test_refuses_what_holds_nothing(self) -> None:
        with pytest.raises(ConfigError, match="groups: there are none"):
            usable([], INFO, DEFAULT_RUBRIC)
        with pytest.raises(ConfigError, match="none of 2 can be learnt from: 2 of one rollout$"):
            usable([numbered(1, "a"), numbered(1, "b")], INFO, DEFAULT_RUBRIC)
        with pytest.raises(ConfigError, match="the id 'a' occurs twice"):
            usable([numbered(2, "a"), labelled(["other", "text"], "a")], INFO, DEFAULT_RUBRIC)


class TestSplit:
    @given(st.permutations(NAMED), st.floats(0.01, 0.99), st.integers(0, 3))
    def test_does_not_go_by_place_and_keeps_tasks_together(
        self, groups: list[LabelledGroup], share: float, seed: int
    ) -> None:
        train, held_out = split(laid_out(*groups), share, seed)
        names = [{item.group_id for item in side} for side in (train, held_out)]
        again = split(laid_out(*NAMED), share, seed)
        assert names == [{item.group_id for item in side} for side in again]
        assert names[0] | names[1] == {item.group.id for item in groups}
        assert not names[0] & names[1]
        assert names[0]
        assert names[1]
        for task in range(3):
            same = {f"t{n}" for n in range(9) if n % 3 == task}
            assert same <= names[0] or same <= names[1]

    def test_holds_out_about_the_share_and_others_with_another_seed(self) -> None:
        material = laid_out(*(numbered(2, f"g{n}") for n in range(40)))
        sides = [{item.group_id for item in split(material, 0.25, seed)[1]} for seed in (0, 1)]
        assert [len(side) for side in sides] == [10, 10]
        assert sides[0] != sides[1]

    def test_keeps_equal_content_on_one_side(self) -> None:
        pairs = [
            labelled([f"x{n}", f"y{n}"][:: 1 if copy else -1], f"{n}-{copy}") for n in range(12) for copy in (0, 1)
        ]
        _, held_out = split(laid_out(*pairs), 0.5, 0)
        names = {item.group_id for item in held_out}
        assert len(names) == 12
        assert all((f"{n}-0" in names) == (f"{n}-1" in names) for n in range(12))

    def test_needs_two_sides(self) -> None:
        with pytest.raises(ConfigError, match="none can be held out"):
            split(laid_out(numbered(2, "a", split_key="s"), numbered(3, "b", split_key="s")), 0.2, 0)


class TestLessons:
    @given(
        st.lists(st.integers(0, 6), min_size=2, max_size=20).filter(lambda own: len(set(own)) > 1), st.integers(0, 5)
    )
    def test_each_rollout_keeps_its_score_wherever_it_stands(self, contents: list[int], epoch: int) -> None:
        (item,) = laid_out(labelled([f"rollout number {n}" for n in contents], "a"))
        ids = [rollout.id for rollout in item.labelled.group.rollouts]
        scores = {name: n / 10 for name, n in zip(ids, contents, strict=True)}
        (lesson,) = item.lessons(scores, epoch=epoch, seed=1)
        texts = shown(lesson)
        assert list(texts) == list(lesson.scores)
        assert sorted(texts.values()) == sorted({f"rollout number {n}" for n in contents})
        for label, text in texts.items():
            assert lesson.scores[label] == pytest.approx(10 * int(text.rpartition(" ")[2]))

    def test_every_epoch_has_another_order_and_another_seed_too(self) -> None:
        (item,) = laid_out(numbered(6, "a"))
        scores = {rollout.id: 0.5 for rollout in item.labelled.group.rollouts}
        orders = [tuple(item.lessons(scores, epoch=n % 4, seed=n // 4)[0].scores) for n in range(8)]
        assert len(set(orders)) == 8
        assert item.lessons(scores, epoch=2) == item.lessons(scores, epoch=2)

    def test_every_rollout_comes_first_about_as_often(self) -> None:
        (item,) = laid_out(numbered(4, "a"))
        scores = {rollout.id: 0.5 for rollout in item.labelled.group.rollouts}
        first = [next(iter(item.lessons(scores, epoch=n)[0].scores)) for n in range(400)]
        assert all(60 < first.count(label) < 140 for label in set(first))
        assert len(set(first)) == 4

    def test_a_large_group_is_shown_in_the_blocks_of_its_plan(self) -> None:
        (item,) = laid_out(numbered(11, "a"))
        scores = {rollout.id: place / 10 for place, rollout in enumerate(item.labelled.group.rollouts)}
        blocks = [{frozenset(block.labels) for block in order} for order in item.plan.orders]
        assert len(blocks) == 2
        for epoch in range(4):
            lessons = item.lessons(scores, epoch=epoch)
            assert {frozenset(lesson.scores) for lesson in lessons} == blocks[epoch % 2]
            assert all(lesson.scores == {**lesson.scores, **values(lesson)} for lesson in lessons)

    def test_arrival_order_leaves_no_trace(self) -> None:
        there = numbered(4, "a")
        back = LabelledGroup(
            Group.of([Rollout.of(r.id, r.messages) for r in there.group.rollouts[::-1]], task="Say it."), {}
        )
        scores = {rollout.id: place / 4 for place, rollout in enumerate(there.group.rollouts)}
        (one,), (other,) = laid_out(there), laid_out(back)
        assert one.lessons(scores) == other.lessons(scores)


def values(lesson: Lesson) -> Mapping[str, float]:
    return {label: pytest.approx(10 * int(text.rpartition(" ")[2])) for label, text in shown(lesson).items()}


def test_every_epoch_has_all_groups_in_another_order() -> None:
    material = laid_out(*(numbered(2, f"g{n}") for n in range(7)))
    taught = [(item, {r.id: 0.5 for r in item.labelled.group.rollouts}) for item in material]
    steps = list(batches(taught, epochs=2, groups_per_step=3, seed=0))
    assert [len(step) for step in steps] == [3, 3, 1, 3, 3, 1]
    epochs = [[frozenset(lesson.scores) for step in part for lesson in step] for part in (steps[:3], steps[3:])]
    assert set(epochs[0]) == set(epochs[1])
    assert len(set(epochs[0])) == 7
    assert epochs[0] != epochs[1]
    assert steps == list(batches(taught, epochs=2, groups_per_step=3, seed=0))
