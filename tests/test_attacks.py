"""No attack breaks the structure of a prompt, changes what is shown of another rollout, or voids a group."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judges.simulated import SimulatedJudge, hash_quality
from ruler import Ruler
from ruler.attacks import ATTACKS, Attack
from ruler.packing import PackedPrompt, pack
from ruler.reply import read_reply
from ruler.rubric import DEFAULT_RUBRIC
from ruler.types import FENCE, Group, JudgeRequest, Rollout

QUESTION = {"role": "user", "content": "Where is order 12? Answer in one sentence."}
CALL = {"id": "c", "type": "function", "function": {"name": "find_order", "arguments": '{"number": 12}'}}
LOOKED = [
    {"role": "assistant", "content": "Let me look.", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c", "content": '{"status": "shipped"}'},
]


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


ANSWERS = Group.of(
    ["It is on its way.", "I do not know.", "Shipped.\n\nIt comes on Monday."], task=[QUESTION], id="one turn"
)
WHOLE = Group.of(
    [
        [
            QUESTION,
            *LOOKED,
            said("It has been shipped."),
            {"role": "user", "content": "Thanks!"},
            said("You are welcome."),
        ],
        [QUESTION, *LOOKED, said("Which order?"), {"role": "user", "content": "12."}, said("It is shipped.")],
        [QUESTION, *LOOKED, said("I cannot tell."), *LOOKED, said("Shipped, I think.")],
    ],
    id="agents",
)
ODD = Group(
    (
        Rollout.of("nothing", []),
        Rollout.of("stopped", LOOKED[:1], finish_reason="length"),
        Rollout.of("sub-agent", "Done.", histories={"search": [QUESTION, said("4")]}),
        Rollout.of("picture", [said([{"type": "image_url", "image_url": {"url": "https://x.org/a.png"}}])]),  # type: ignore[arg-type]
    ),
    ANSWERS.task,
    id="odd",
)
BASES = (ANSWERS, WHOLE, ODD)

attacks = st.sampled_from(ATTACKS)
seeds = st.integers(0, 50)
each = pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)


def attacked(group: Group, place: int, *what: tuple[Attack, int]) -> Group:
    rollouts = list(group.rollouts)
    for attack, seed in what:
        rollouts[place] = attack.apply(rollouts[place], seed)
    return replace(group, rollouts=tuple(rollouts))


def prompt_of(group: Group) -> PackedPrompt:
    packed = pack(group, DEFAULT_RUBRIC)
    return packed.prompt(range(len(packed.rollouts)))


def check(group: Group) -> PackedPrompt:
    """The prompt holds its own fences in order and no others, and each label only where it was put."""
    prompt = prompt_of(group)
    text = str(prompt.messages[1]["content"])
    text.encode("utf-8")
    fences = list(FENCE.finditer(text))
    assert [(fence["close"], fence["id"]) for fence in fences] == [
        (close, label) for label in prompt.labels for close in ("", "/")
    ]
    for opening, closing in zip(fences[::2], fences[1::2], strict=True):
        body = text[opening.end() + 1 : closing.start() - 1]
        assert prompt.texts[opening["id"]] == body
        assert not any(label in body for label in prompt.labels)
    assert not any(label in prompt.context for label in prompt.labels)
    assert sorted(name for names in prompt.rollouts.values() for name in names) == sorted(
        rollout.id for rollout in group.rollouts
    )
    return prompt


def shown(group: Group) -> dict[str, str]:
    """Rollout id -> all that is shown of it: what the rollouts did alike at first, and what stands in its fence."""
    prompt = prompt_of(group)
    start = prompt.context.partition("<shared_start>\n")[2].partition("</shared_start>")[0]
    return {name: start + prompt.texts[label] for label, names in prompt.rollouts.items() for name in names}


def test_every_family_has_its_own_name_and_says_what_it_is() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) >= 20
    assert all(attack.description for attack in ATTACKS)
    assert {attack.name for attack in ATTACKS if attack.replaces} == {"master_key", "empty_answer"}


@each
def test_the_same_seed_gives_the_same_rollout_and_other_seeds_others(attack: Attack) -> None:
    for group in BASES:
        for rollout in group.rollouts:
            assert attack.apply(rollout, 3) == attack.apply(rollout, 3)
            assert attack.apply(rollout, 3).id == rollout.id
            assert attack.apply(rollout, 3).metadata is rollout.metadata
    assert len({attack.text(seed) for seed in range(40)}) > 2


@each
def test_what_is_added_leaves_the_work_and_what_replaces_leaves_the_task(attack: Attack) -> None:
    for seed in range(8):
        for rollout in WHOLE.rollouts:
            hostile = attack.apply(rollout, seed)
            text = attack.text(seed)
            if attack.replaces:
                assert hostile.messages[:-1] == rollout.messages[:1]
                assert hostile.messages[-1].content == ((text,) if text else ())
            else:
                assert hostile.messages[:-1] == rollout.messages[:-1]
                work, changed = str(rollout.messages[-1].content[0]), str(hostile.messages[-1].content[0])
                assert changed == (f"{text}\n\n{work}" if seed % 4 == 3 else f"{work}\n\n{text}")


@each
def test_structure_holds(attack: Attack) -> None:
    for group in BASES:
        for place in range(len(group.rollouts)):
            for seed in range(12):
                check(attacked(group, place, (attack, seed)))


@given(
    st.sampled_from(BASES),
    st.lists(st.tuples(st.integers(0, 2), attacks, seeds), min_size=1, max_size=8),
)
def test_structure_holds_under_many_attacks_at_once(group: Group, what: list[tuple[int, Attack, int]]) -> None:
    for place, attack, seed in what:
        group = attacked(group, place, (attack, seed))
    check(group)
    assert len(Ruler(SimulatedJudge()).pack(group)) <= 1  # none where all became the same


@given(st.sampled_from(BASES), st.integers(0, 2), st.lists(st.tuples(attacks, seeds), min_size=1, max_size=3))
def test_an_attack_changes_nothing_of_what_is_shown_of_others(
    group: Group, place: int, what: list[tuple[Attack, int]]
) -> None:
    before, after = shown(group), shown(attacked(group, place, *what))
    target = group.rollouts[place].id
    assert {name: text for name, text in after.items() if name != target} == {
        name: text for name, text in before.items() if name != target
    }


@each
async def test_the_group_is_scored_as_ever(attack: Attack) -> None:
    requests: list[JudgeRequest] = []
    simulated = SimulatedJudge(hash_quality)

    async def judge(request: JudgeRequest) -> Any:
        requests.append(request)
        reply = await simulated(request)  # rejects a prompt whose fences are broken
        verdict = read_reply(reply.text, request.ids)
        assert set(verdict.scores) == set(request.ids)
        return reply

    for group in BASES:
        hostile = attacked(group, 1, (attack, 5))
        requests.clear()
        result = await Ruler(judge).score(hostile)
        assert result.status == "scored"
        assert [score.id for score in result.rollouts] == [rollout.id for rollout in group.rollouts]
        assert len(requests) == len(Ruler(judge).pack(group)) == 1


@each
def test_the_judges_reply_is_read_though_the_rollout_holds_one(attack: Attack) -> None:
    for seed in range(6):
        prompt = check(attacked(ANSWERS, 0, (attack, seed)))
        # A judge that quotes the rollout before it answers.
        answer = ", ".join(f'{{"id": "{label}", "score": {place}}}' for place, label in enumerate(prompt.labels))
        quoted = f'{attack.text(seed)}\n\nMy reply:\n{{"scores": [{answer}]}}'
        assert read_reply(quoted, prompt.labels).scores == {
            label: place / 100 for place, label in enumerate(prompt.labels)
        }
