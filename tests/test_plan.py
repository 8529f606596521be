"""A group that does not fit a window: cut first, then split, then refused."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judges.scripted import ScriptedJudge, scores_reply
from ruler import DEFAULT_RUBRIC, ConfigError, FailedGroup, Group, JudgeInfo, JudgeRequest, PackingError, Ruler
from ruler.packing import PromptOptions
from ruler.plan import Plan, Planner, PlanOptions
from ruler.records import read_groups
from ruler.tokens import token_counter
from ruler.window import Window
from tests.test_scoring import read_prompt

CHARS = JudgeInfo("counts", "characters", count_tokens=len)


def plan(group: Group, context_tokens: int, *, info: JudgeInfo = CHARS, **options: object) -> Plan:
    chosen = PlanOptions(context_tokens=context_tokens, **options)  # type: ignore[arg-type]
    return Planner(group, DEFAULT_RUBRIC, PromptOptions(), chosen).plan("characters", info)


def agent(name: str, output: str, answer: str) -> list[dict[str, object]]:
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": json.dumps({"at": name})}}
    return [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": output},
        {"role": "assistant", "content": answer},
    ]


def words(seed: int, number: int) -> str:
    rng = random.Random(seed)
    return " ".join(str(rng.randrange(10**6)) for _ in range(number))


def agents(number: int, *, output_words: int = 800, answer_words: int = 20) -> Group:
    return Group.of(
        [
            agent(f"place {n}", words(n, output_words), f"answer {n}: {words(-n - 1, answer_words)}")
            for n in range(number)
        ],
        task="Look around.",
        id="agents",
    )


def over(found: Plan, context_tokens: int, info: JudgeInfo = CHARS) -> bool:
    window = Window.of("characters", info, context_tokens, notes=True)
    assert window is not None
    return not all(window.fits(prompt) for blocks in found.orders for prompt in blocks)


def shown_ids(found: Plan) -> list[set[str]]:
    return [
        {name for prompt in blocks for label in prompt.labels for name in prompt.rollouts[label]}
        for blocks in found.orders
    ]


def test_what_fits_is_left_whole() -> None:
    found = plan(agents(4), 100_000)
    assert not found.in_blocks
    assert set(found.packed.cut_chars.values()) == {0}


def test_long_tool_outputs_are_cut_to_one_length_and_final_answers_are_not() -> None:
    group = agents(4)
    found = plan(group, 12_000)
    assert not found.in_blocks
    assert not over(found, 12_000)
    cuts = found.packed.cut_chars
    assert all(cut > 1_000 for cut in cuts.values())
    assert max(cuts.values()) - min(cuts.values()) < 200  # the outputs are about as long, the cap is one
    texts = found.orders[0][0].texts
    assert all("[cut: " in text for text in texts.values())
    for rollout, packed in ((r, p) for r in group.rollouts for p in found.packed.rollouts if r.id in p.rollout_ids):
        assert str(rollout.messages[-1].content[0]) in texts[packed.label]


def test_the_cap_is_the_longest_that_fits() -> None:
    found = plan(agents(4), 12_000)
    kept = [len(text) for text in found.orders[0][0].texts.values()]
    room = 12_000 - sum(len(text) for _, text in found.orders[0][0].parts)
    assert room < 0.35 * sum(kept)  # the next longer cap, a quarter more, would not have fitted


def test_short_outputs_stay_whole_beside_long_ones() -> None:
    group = Group.of([agent("a", "short output", "done"), agent("b", words(1, 3_000), "done, too")])
    found = plan(group, 6_000)
    assert sorted(bool(cut) for cut in found.packed.cut_chars.values()) == [False, True]
    assert found.packed.cut_chars["r1"] == 0


def test_errors_in_a_cut_output_are_shown() -> None:
    output = f"{words(1, 1_000)}\nKeyError: 'total'\n{words(2, 1_000)}"
    found = plan(Group.of([agent("a", output, "done"), agent("b", words(3, 2_000), "done, too")]), 8_000)
    assert any("KeyError: 'total'" in text for text in found.orders[0][0].texts.values())


def test_cut_rollouts_keep_their_labels_and_their_order() -> None:
    whole, cut = plan(agents(4), 100_000), plan(agents(4), 12_000)
    assert cut.orders[0][0].labels == whole.orders[0][0].labels


def test_rollouts_that_differ_only_where_they_are_cut_stay_apart() -> None:
    middle = words(1, 1_000)
    group = Group.of([agent("a", f"{middle} {n} {middle}", "done") for n in (1, 2)])
    found = plan(group, 6_000)
    assert len(found.orders[0][0].labels) == 2


def test_then_the_group_is_split_into_few_blocks() -> None:
    group = agents(8, output_words=2, answer_words=300)
    found = plan(group, 12_000)
    assert found.in_blocks
    assert not over(found, 12_000)
    assert len(found.orders) == 2
    assert all(ids == {rollout.id for rollout in group.rollouts} for ids in shown_ids(found))
    assert {len(blocks) for blocks in found.orders} == {2}


def test_blocks_and_cuts_together() -> None:
    group = agents(6, output_words=1_500, answer_words=150)
    found = plan(group, 8_000)
    assert found.in_blocks
    assert not over(found, 8_000)
    assert all(cut > 0 for cut in found.packed.cut_chars.values())


def test_three_that_fit_only_in_pairs() -> None:
    found = plan(agents(3, output_words=2, answer_words=500), 10_000)
    assert {len(prompt.labels) for blocks in found.orders for prompt in blocks} == {2}
    assert not over(found, 10_000)
    assert all(ids == {"r1", "r2", "r3"} for ids in shown_ids(found))


def test_what_does_not_fit_in_pairs_is_refused_by_name() -> None:
    with pytest.raises(PackingError) as raised:
        plan(agents(4, output_words=2_000, answer_words=2_000), 16_000)
    message = str(raised.value)
    assert "group 'agents'" in message
    assert "even with tool outputs cut short" in message
    assert "the window of judge characters (16,000) has room for" in message


def test_a_task_longer_than_the_window_is_refused() -> None:
    with pytest.raises(PackingError, match="room for 0"):
        plan(Group.of(["a", "b"], task="x" * 5_000), 100)


async def test_nobody_is_asked_about_a_group_that_does_not_fit() -> None:
    judge = ScriptedJudge([], info=CHARS)
    [failed] = await Ruler(judge, context_tokens=2_000).score_many([agents(2, answer_words=2_000)])
    assert isinstance(failed, FailedGroup)
    assert failed.reason == "packing"
    assert judge.requests == []


async def test_the_result_reports_what_was_cut_of_each_rollout() -> None:
    def answer(request: JudgeRequest) -> str:
        return scores_reply({label: len(text) % 100 for label, text in read_prompt(request).items()})

    group = Group.of([agent("a", "short output", "done"), agent("b", words(1, 3_000), "done, too")])
    scored = await Ruler(ScriptedJudge(answer, info=CHARS), context_tokens=6_000).score(group)
    first, second = scored.rollouts
    assert (first.cut_chars, first.flags) == (0, ())
    assert second.cut_chars > 10_000
    assert second.flags == ("cut",)
    assert scored.prompt_version.endswith("+context6000")


async def test_of_a_jury_the_deepest_cut_is_reported() -> None:
    def answer(request: JudgeRequest) -> str:
        return scores_reply(dict.fromkeys(request.ids, 5))

    wide = ScriptedJudge(answer, info=JudgeInfo("b", "wide", count_tokens=len, context_tokens=9_000))
    narrow = ScriptedJudge(answer, info=JudgeInfo("b", "narrow", count_tokens=len, context_tokens=5_000))
    cuts = [[one.cut_chars for one in (await Ruler(judge).score(agents(2))).rollouts] for judge in (wide, narrow)]
    assert all(0 < shallow < deep for shallow, deep in zip(*cuts, strict=True))
    assert [one.cut_chars for one in (await Ruler([wide, narrow]).score(agents(2))).rollouts] == cuts[1]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 600), st.integers(0, 300)), min_size=2, max_size=9),
    st.integers(1_500, 12_000),
    st.sampled_from([1, 2, "full"]),
)
def test_never_over_the_window(sizes: list[tuple[int, int]], context_tokens: int, orders: object) -> None:
    group = Group.of(
        [agent(f"{n}", words(n, output), f"answer {n} {words(-n, said)}") for n, (output, said) in enumerate(sizes)]
    )
    try:
        found = plan(group, context_tokens, orders=orders)
    except PackingError:
        return
    assert not over(found, context_tokens)
    assert all(ids == {rollout.id for rollout in group.rollouts} for ids in shown_ids(found))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 600), st.integers(0, 300)), min_size=2, max_size=12),
    st.integers(2_000, 12_000),
    st.sampled_from([2, 3, 8]),
)
def test_more_orders_ask_what_fewer_asked_and_more(
    sizes: list[tuple[int, int]], context_tokens: int, max_block: int
) -> None:
    group = Group.of(
        [agent(f"{n}", words(n, output), f"answer {n} {words(-n, said)}") for n, (output, said) in enumerate(sizes)]
    )

    def asked(orders: object) -> list[object] | None:
        try:
            found = plan(group, context_tokens, orders=orders, max_block=max_block)
        except PackingError:
            return None
        return [[prompt.messages for prompt in blocks] for blocks in found.orders]

    two = asked(2)
    for more in (4, "full"):
        found = asked(more)
        assert (found is None) == (two is None)
        if found is not None and two is not None:
            assert found[: len(two)] == two


def test_a_longer_cut_is_found_where_the_shortest_shares_less() -> None:
    """A line that many outputs end with stands once while they are whole; cut short, each has its own piece of it."""
    common = words(0, 130)
    rollouts = []
    for n in range(2):
        outputs = [f"{words(100 * n + k + 1, 30 + 7 * k % 31)}\n{common}" for k in range(40)] + [
            words(n + 1, 8_000)
        ] * (n == 0)
        turns = [agent(f"{k}", output, "on")[:2] for k, output in enumerate(outputs)]
        rollouts.append([*(message for turn in turns for message in turn), {"role": "assistant", "content": f"{n}"}])
    group = Group.of(rollouts, task="Look around.")
    whole = plan(group, 10**6).packed
    window = Window.of("characters", CHARS, 10**6, notes=True)
    assert window is not None
    longer, shortest = (window.tokens(whole.cut(cap).prompt([0, 1])) for cap in (1_400, 1_000))
    assert longer < 0.8 * shortest
    context_tokens = shortest + 200
    found = plan(group, context_tokens)
    assert not found.in_blocks
    assert not over(found, context_tokens)


def test_the_error_names_prompts_that_do_not_fit_whatever_the_orders() -> None:
    sizes = [1, 1, 90, 90, 1, 1, 1]
    group = Group.of([agent(f"{n}", "", words(n, size)) for n, size in enumerate(sizes)], id="uneven")
    messages = set()
    for orders in (1, 2, 4, "full"):
        with pytest.raises(PackingError) as raised:
            plan(group, 2_300, orders=orders)
        messages.add(str(raised.value))
    (message,) = messages
    tokens, room = (int(found.replace(",", "")) for found in re.findall(r"has (?:room for )?([\d,]+)", message))
    assert tokens > room


async def test_a_counter_that_fails_fails_its_group_and_no_other() -> None:
    def answer(request: JudgeRequest) -> str:
        return scores_reply(dict.fromkeys(request.ids, 5))

    for fault in (ValueError("boom"), None, "many", -1, True, float("nan")):

        def count(text: str, fault: object = fault) -> int:
            if isinstance(fault, Exception):
                raise fault
            return fault  # type: ignore[return-value]

        judge = ScriptedJudge(answer, info=JudgeInfo("b", "odd", count_tokens=count, context_tokens=600))
        failed, scored = await Ruler(judge).score_many([agents(2), Group.of(["a", "b"])])
        assert isinstance(failed, FailedGroup)
        assert failed.reason == "config"
        assert "judge odd: count_tokens" in failed.message
        assert scored.status in ("scored", "failed")


@pytest.mark.parametrize("tokens", ["8k", 0, -1, True, 8.5])
def test_a_window_that_is_no_number_of_tokens_is_refused(tokens: object) -> None:
    judge = ScriptedJudge([], info=JudgeInfo("b", "odd", context_tokens=tokens))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="judge odd: context_tokens: expected a whole number of at least 1, got"):
        Ruler(judge)


def test_long_tool_outputs_in_the_task_are_cut_too() -> None:
    given_to_all = agent("task", words(1, 5_000), "as you see")[:2]
    group = Group.of(["one", "two"], task=[{"role": "user", "content": "Look."}, *given_to_all])
    found = plan(group, 9_000)
    assert not over(found, 9_000)
    assert all(cut > 10_000 for cut in found.packed.cut_chars.values())
    assert set(found.packed.flags.values()) == {("cut",)}


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(5)), st.sampled_from([5_000, 9_000, 100_000]))
def test_arrival_order_changes_neither_cuts_nor_prompts(order: list[int], context_tokens: int) -> None:
    rollouts = [agent(f"{n}", words(n, 300), f"answer {n} {words(-n, 30)}") for n in range(5)]
    first = plan(Group.of(rollouts), context_tokens)
    other = plan(Group.of([rollouts[n] for n in order]), context_tokens)
    assert [p.messages for b in first.orders for p in b] == [p.messages for b in other.orders for p in b]


@pytest.mark.slow
@pytest.mark.parametrize("own_tokenizer", [True, False])
@pytest.mark.parametrize("context_tokens", [8_000, 16_000, 32_000])
def test_no_prompt_of_real_groups_is_over_the_window(
    context_tokens: int, own_tokenizer: bool, data_folder: Path
) -> None:
    _, count = token_counter(None)
    info = JudgeInfo("counts", "cl100k", count_tokens=count if own_tokenizer else None)
    fitting = 0
    for group in list(read_groups(str(data_folder / "tau2.jsonl.gz")))[::3]:
        assert isinstance(group, Group)
        try:
            found = plan(group, context_tokens, info=info)
        except PackingError:
            continue
        fitting += 1
        for blocks in found.orders:
            for prompt in blocks:
                assert prompt.tokens(count)["total"] + 88 * len(prompt.labels) <= context_tokens
    assert fitting
