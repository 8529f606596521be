"""What of a judge's window a prompt takes."""

from __future__ import annotations

import dataclasses
import unicodedata

import pytest

from ruler import DEFAULT_RUBRIC, ConfigError, Group, JudgeInfo, Sampling
from ruler.packing import PackedPrompt, PromptOptions, pack
from ruler.window import Window

GROUP = Group.of(["one answer", "another answer"], task="Say something.")
INFO = JudgeInfo("backend", "model", context_tokens=1_000)


def prompt(group: Group = GROUP, *, images: bool = False) -> PackedPrompt:
    packed = pack(group, DEFAULT_RUBRIC, PromptOptions(), images=images)
    return packed.prompt(range(len(packed.rollouts)))


def window(info: JudgeInfo, given: int | None = None, *, notes: bool = True) -> Window:
    found = Window.of("judge", info, given, notes=notes)
    assert found is not None
    return found


def test_no_window_where_none_is_known() -> None:
    assert Window.of("judge", JudgeInfo("b", "m"), None, notes=True) is None


@pytest.mark.parametrize(
    ("known", "given", "size"), [(1_000, None, 1_000), (None, 500, 500), (1_000, 500, 500), (500, 1_000, 500)]
)
def test_the_smaller_of_known_and_given_counts(known: int | None, given: int | None, size: int) -> None:
    assert window(JudgeInfo("b", "m", context_tokens=known), given).size == size


def test_room_is_left_for_what_the_judge_may_write() -> None:
    limited = dataclasses.replace(INFO, sampling=Sampling(max_tokens=300))
    assert window(limited).room(2) == window(limited).room(8) == 1_000 - 300 - 32


def test_room_is_left_for_a_note_and_a_score_on_each_rollout() -> None:
    with_notes, without = window(INFO), window(INFO, notes=False)
    assert with_notes.room(2) - with_notes.room(3) > without.room(2) - without.room(3) > 0
    assert with_notes.room(2) < without.room(2) < 1_000


def test_the_judges_own_tokenizer_counts_where_there_is_one() -> None:
    own = dataclasses.replace(INFO, count_tokens=lambda text: len(text) // 2)
    shown = prompt()
    system, user = shown.parts[0][1], "".join(text for _, text in shown.parts[1:])
    assert window(own).tokens(shown) == len(system) // 2 + len(user) // 2
    assert window(own).tokenizer == "model"


def test_tokens_are_counted_only_where_bytes_do_not_settle_it() -> None:
    def never(text: str) -> int:
        raise AssertionError("counted")

    roomy = dataclasses.replace(INFO, context_tokens=100_000, count_tokens=never)
    assert window(roomy).fits(prompt())
    with pytest.raises(ConfigError, match="judge judge: count_tokens raised AssertionError: counted"):
        window(dataclasses.replace(roomy, context_tokens=500)).fits(prompt())


def test_each_text_is_counted_once() -> None:
    counted: list[str] = []

    def count(text: str) -> int:
        counted.append(text)
        return 1

    one = window(dataclasses.replace(INFO, context_tokens=500, count_tokens=count))
    assert one.fits(prompt())
    assert one.fits(prompt())
    assert len(counted) == len(set(counted)) == len(prompt().parts) + 1  # and the user's text as a whole


def test_images_take_room() -> None:
    url = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    group = Group.of([[{"role": "assistant", "content": [url]}], "no image"])
    blind, seeing = prompt(group), prompt(group, images=True)
    assert window(INFO).tokens(seeing) == window(INFO).tokens(blind) + 1_600
    assert not window(dataclasses.replace(INFO, context_tokens=1_700)).fits(seeing)
    assert window(dataclasses.replace(INFO, context_tokens=1_700)).fits(blind)


def test_a_tokenizer_that_finds_more_in_the_whole_than_in_its_parts_is_believed() -> None:
    rising = dataclasses.replace(INFO, count_tokens=lambda text: len(text) ** 2 // 1_000)
    shown = prompt()
    user = "".join(text for _, text in shown.parts[1:])
    assert window(rising).tokens(shown) >= len(user) ** 2 // 1_000


def test_what_normalising_blows_up_is_counted() -> None:
    def normalising(text: str) -> int:
        return len(unicodedata.normalize("NFKC", text))

    swollen = prompt(Group.of(["\ufdfa" * 500, "\ufdfa" * 501]))
    one = window(dataclasses.replace(INFO, context_tokens=5_000, count_tokens=normalising))
    assert sum(len(text.encode()) for _, text in swollen.parts) < one.room(2)
    assert not one.fits(swollen)
