from __future__ import annotations

import asyncio
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judges.scripted import ScriptedJudge, scores_reply
from ruler import (
    BudgetExceeded,
    ConfigError,
    FailedGroup,
    Group,
    Judge,
    JudgeCall,
    JudgeError,
    JudgeInfo,
    JudgeReply,
    JudgeRequest,
    JudgeUnavailable,
    PackingError,
    ReplyError,
    Ruler,
    Sampling,
    ScoredGroup,
    Usage,
    config,
)
from ruler.results import ResultFile
from ruler.types import Juror
from tests.test_scoring import read_prompt

PAID = Usage(calls=1, input_tokens=100, output_tokens=10, cost_usd=0.5)
PAIR = Group.of(["a", "b"], id="pair")
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}


def named(name: str, **more: object) -> JudgeInfo:
    return JudgeInfo("scripted", name, **more)  # type: ignore[arg-type]


def judge(name: str, scores: Mapping[str, float], *, notes: bool = False, **more: object) -> ScriptedJudge:
    """A judge that knows the score (0..100) of each text."""

    def answer(request: JudgeRequest) -> JudgeReply:
        texts = read_prompt(request)
        said = {label: f"{name} on {text}" for label, text in texts.items()} if notes else None
        reply = scores_reply({label: scores[text] for label, text in texts.items()}, said)
        return JudgeReply(reply, model=f"{name}-v1", usage=PAID)

    return ScriptedJudge(answer, info=named(name, **more))


def failing(name: str, error: BaseException) -> Judge:
    async def ask(request: JudgeRequest) -> JudgeReply:
        raise error

    ask.info = named(name)  # type: ignore[attr-defined]
    return ask


def same(value: float = 50) -> Mapping[str, float]:
    return {"a": value, "b": value}


SCORES = st.integers(0, 100) | st.floats(0, 100)


@st.composite
def opinions(draw: st.DrawFn, judges: st.SearchStrategy[int]) -> tuple[list[str], list[dict[str, float]]]:
    """Texts, some alike, and what each of some judges gives each of them."""
    texts = draw(st.lists(st.sampled_from("abcde"), min_size=2, max_size=7).filter(lambda texts: len(set(texts)) > 1))
    return texts, [{text: draw(SCORES) for text in "abcde"} for _ in range(draw(judges))]


def scored_by(texts: Sequence[str], given: Sequence[tuple[str, Mapping[str, float]]]) -> ScoredGroup:
    jury = [judge(name, scores, notes=True) for name, scores in given]
    return asyncio.run(Ruler(jury).score(Group.of(texts)))


@given(opinions(st.integers(2, 5)))
def test_a_score_is_the_mean_over_the_judges(drawn: tuple[list[str], list[dict[str, float]]]) -> None:
    texts, given_scores = drawn
    scored = scored_by(texts, [(f"j{n}", scores) for n, scores in enumerate(given_scores)])
    means = [sum(scores[text] for scores in given_scores) / len(given_scores) / 100 for text in texts]
    assert scored.scores == pytest.approx(means, abs=1e-9)
    assert all(score is not None and 0 <= score <= 1 for score in scored.scores)
    for juror, scores in zip(scored.jury, given_scores, strict=True):
        assert juror.scores == tuple(scores[text] / 100 for text in texts)
        assert juror.notes == tuple(f"{juror.judge} on {text}" for text in texts)


@given(opinions(st.integers(2, 5)), st.randoms(use_true_random=False))
def test_the_order_of_the_judges_changes_no_score(drawn: tuple[list[str], list[dict[str, float]]], rng) -> None:
    texts, given_scores = drawn
    jury = [(f"j{n}", scores) for n, scores in enumerate(given_scores)]
    assert scored_by(texts, jury).scores == scored_by(texts, rng.sample(jury, len(jury))).scores


@given(opinions(st.just(1)))
def test_a_jury_of_one_is_the_judge(drawn: tuple[list[str], list[dict[str, float]]]) -> None:
    texts, (scores,) = drawn
    group = Group.of(texts)
    alone, jury = (Ruler(form) for form in (judge("j", scores, notes=True), [judge("j", scores, notes=True)]))
    scored = asyncio.run(alone.score(group))
    assert asyncio.run(jury.score(group)) == scored
    assert scored.scores == tuple(scores[text] / 100 for text in texts)
    assert (scored.jury, scored.judge, scored.model, scored.usage) == ((), "j", "j-v1", PAID)


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), min_size=2, max_size=6), st.data())
def test_equal_means_are_equal_scores(pairs: list[tuple[int, int]], data: st.DataObject) -> None:
    # The second rollout gets the same points, given by other judges: arithmetic alone must not tell them apart.
    points = data.draw(st.permutations([a for a, _ in pairs]))
    shifted = [points[0] - 1, points[1] + 1, *points[2:]]
    points = shifted if min(shifted) >= 0 and max(shifted) <= 100 else points
    jury = [(f"j{n}", {"a": a, "b": b}) for n, ((a, _), b) in enumerate(zip(pairs, points, strict=True))]
    first, second = scored_by(["a", "b"], jury).scores
    assert first == second


async def test_what_a_jury_says_is_kept() -> None:
    strict, kind = judge("strict", {"a": 0, "b": 6}, notes=True), judge("kind", {"a": 60, "b": 100})
    scored = await Ruler([strict, kind]).score(Group.of(["b", "a", "b"]))
    assert (scored.judge, scored.model) == ("strict + kind", "strict-v1 + kind-v1")
    assert scored.scores == (0.53, 0.3, 0.53)
    assert scored.notes == ("strict on b", "strict on a", "strict on b")
    assert scored.jury == (
        Juror("strict", "strict-v1", (0.06, 0.0, 0.06), ("strict on b", "strict on a", "strict on b"), PAID),
        Juror("kind", "kind-v1", (1.0, 0.6, 1.0), (None, None, None), PAID),
    )
    assert scored.usage == PAID + PAID
    assert (scored.orders, scored.orders_used, scored.answered_by) == (1, 1, None)


async def test_a_group_of_one_is_scored_absolutely_by_all() -> None:
    scored = await Ruler([judge("j", {"a": 20}), judge("k", {"a": 40})], absolute=True).score(Group.of(["a"]))
    assert (scored.scores, scored.absolute) == ((0.3,), True)


async def test_a_tied_group_asks_nobody() -> None:
    scored = await Ruler([failing("j", AssertionError()), failing("k", AssertionError())]).score(Group.of(["a", "a"]))
    assert (scored.status, scored.scores, scored.usage) == ("tied", (None, None), Usage())
    assert (scored.jury, scored.model, scored.judge) == ((), None, "j + k")


async def test_all_judges_are_asked_at_once() -> None:
    everybody = asyncio.Barrier(3)

    def waiting(name: str) -> Judge:
        async def ask(request: JudgeRequest) -> JudgeReply:
            await everybody.wait()
            return JudgeReply(scores_reply(dict.fromkeys(request.ids, 1)), model=name)

        ask.info = named(name)  # type: ignore[attr-defined]
        return ask

    async with asyncio.timeout(10):
        scored = await Ruler([waiting(name) for name in "xyz"]).score(PAIR)
    assert scored.scores == (0.01, 0.01)


async def test_each_judge_is_asked_in_its_own_way() -> None:
    hot, cold = judge("hot", same(), sampling=Sampling(temperature=1)), judge("cold", same(), prefix_cache=True)
    await Ruler([hot, cold]).score(PAIR)
    assert (hot.requests[0].sampling, cold.requests[0].sampling) == (Sampling(temperature=1), Sampling())
    assert hot.requests[0].messages == cold.requests[0].messages


# Failures


async def test_one_failing_judge_fails_the_group_with_what_all_have_spent() -> None:
    late = asyncio.Event()

    async def slow(request: JudgeRequest) -> JudgeReply:
        await late.wait()
        return JudgeReply(scores_reply(dict.fromkeys(request.ids, 1)), model="slow", usage=PAID)

    async def down(request: JudgeRequest) -> JudgeReply:
        late.set()  # the other is still in flight, and is waited for: what it costs is known only then
        raise JudgeUnavailable("down", usage=Usage(3, 7, cost_usd=0.25), retry_after_seconds=9)

    ruler = Ruler([slow, down])
    with pytest.raises(JudgeUnavailable, match=r"^judge \S+down: down$") as caught:
        await ruler.score(PAIR)
    assert caught.value.retry_after_seconds == 9
    assert caught.value.usage == Usage(4, 107, output_tokens=10, cost_usd=0.75)
    (failed,) = await ruler.score_many([PAIR])
    assert isinstance(failed, FailedGroup)
    assert (failed.reason, failed.usage, failed.judge) == ("unavailable", caught.value.usage, ruler.judge_name)


async def test_what_a_failed_judge_did_not_price_is_not_free() -> None:
    (failed,) = await Ruler([judge("j", same()), failing("k", JudgeUnavailable("down"))]).score_many([PAIR])
    assert failed.usage == PAID + Usage(1, cost_usd=None)


async def test_an_unusable_reply_is_kept_and_its_judge_named() -> None:
    bad = ScriptedJudge([JudgeReply("no idea", model="m", usage=PAID)], info=named("bad"))
    (failed,) = await Ruler([judge("good", same()), bad]).score_many([PAIR])
    assert isinstance(failed, FailedGroup)
    assert failed.message.startswith("judge bad: unusable reply: ")
    assert (failed.reason, failed.raw_reply, failed.usage) == ("reply", "no idea", PAID + PAID)


async def test_of_several_failures_all_are_named_and_a_budget_goes_first() -> None:
    down, bad = JudgeUnavailable("down", usage=PAID), ReplyError("bad", usage=PAID, raw="?")
    with pytest.raises(JudgeUnavailable, match="^judge j: down; judge k: bad$"):
        await Ruler([failing("j", down), failing("k", bad)]).score(PAIR)
    with pytest.raises(BudgetExceeded, match=r"^judge k: cap of \$1; judge j: down$") as caught:
        await Ruler([failing("j", down), failing("k", BudgetExceeded("cap of $1"))]).score(PAIR)
    assert caught.value.usage == PAID
    assert (str(down), down.usage) == ("down", PAID)  # the judge's own object: it may raise it again


async def test_the_budget_of_one_judge_stops_the_run() -> None:
    rich = judge("rich", {f"{letter}{n}": 1 for letter in "ab" for n in range(9)})
    poor = ScriptedJudge([BudgetExceeded("cap of $1 reached")], info=named("poor"))
    results = await Ruler([rich, poor], concurrency=1).score_many([Group.of([f"a{n}", f"b{n}"]) for n in range(9)])
    assert {result.reason for result in results if isinstance(result, FailedGroup)} == {"budget"}
    assert len(results) == 9
    assert len(rich.requests) == len(poor.requests) == 1
    assert sum((result.usage for result in results), Usage()) == PAID


async def test_a_judges_own_kind_of_error_fails_its_group_and_not_the_run() -> None:
    class Odd(JudgeError):
        def __init__(self, status: int, body: str) -> None:
            super().__init__(f"{status}: {body}")
            self.status = status

    odd = failing("odd", Odd(418, "teapot"))
    with pytest.raises(Odd, match="^judge odd: 418: teapot$") as caught:
        await Ruler([judge("j", same()), odd]).score(PAIR)
    assert caught.value.status == 418
    (failed,) = await Ruler([judge("j", same()), odd]).score_many([PAIR])
    assert isinstance(failed, FailedGroup)
    assert failed.reason == "judge"


async def test_a_judge_that_cancels_itself_fails_the_group_and_not_the_run() -> None:
    ruler = Ruler([judge("j", same()), failing("k", asyncio.CancelledError())])
    (failed,) = await ruler.score_many([PAIR])
    assert isinstance(failed, FailedGroup)
    assert failed.message == "judge k: the judge was cancelled from inside"


async def test_a_cancelled_group_leaves_no_task() -> None:
    started = asyncio.Barrier(4)
    cancelled = []

    def endless(name: str) -> Judge:
        async def ask(request: JudgeRequest) -> JudgeReply:
            await started.wait()
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0)  # closing a connection takes a turn of the loop
                cancelled.append(name)
            raise AssertionError

        ask.info = named(name)  # type: ignore[attr-defined]
        return ask

    before = asyncio.all_tasks()
    work = asyncio.create_task(Ruler([endless(name) for name in "xyz"]).score(PAIR))
    await started.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert sorted(cancelled) == ["x", "y", "z"]
    assert asyncio.all_tasks() == before


async def test_a_judge_whose_window_is_too_small_is_named_and_nobody_is_asked() -> None:
    group = Group.of(["word " * 3000, "other " * 3000], id="big")
    wide, narrow = judge("wide", {}), judge("narrow", {}, context_tokens=3000)
    with pytest.raises(PackingError, match="'big': .* the window of judge narrow .3,000. has room for 2,728"):
        await Ruler([wide, narrow]).score(group)
    assert wide.requests == narrow.requests == []


# Calls and prompts


async def test_on_call_hears_of_each_judge() -> None:
    calls: list[JudgeCall] = []
    ruler = Ruler([judge("j", same()), failing("k", JudgeUnavailable("down"))], on_call=calls.append)
    await ruler.score_many([PAIR])
    assert {call.judge: str(call.error) for call in calls} == {"j": "None", "k": "down"}
    assert {call.group_id for call in calls} == {"pair"}


async def test_what_on_call_raises_ends_the_run_and_the_other_questions() -> None:
    cancelled = asyncio.Event()

    async def endless(request: JudgeRequest) -> JudgeReply:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()
        raise AssertionError

    def full(call: JudgeCall) -> None:
        raise OSError("disk full")

    before = asyncio.all_tasks()
    with pytest.raises(OSError, match="disk full"):
        await Ruler([judge("j", same()), endless], on_call=full).score_many([PAIR])
    assert cancelled.is_set()
    assert asyncio.all_tasks() == before


async def test_only_judges_that_take_images_are_shown_them() -> None:
    def answer(request: JudgeRequest) -> str:
        return scores_reply(dict.fromkeys(request.ids, 1))

    eye, blind, other = (
        ScriptedJudge(answer, info=named(name, images=images))
        for name, images in (("eye", True), ("blind", False), ("other", False))
    )
    group = Group.of([[{"role": "assistant", "content": [{"type": "text", "text": text}, IMAGE]}] for text in "ab"])
    ruler = Ruler([eye, blind, other])
    scored = await ruler.score(group)
    assert scored.prompt_version == "2+images(eye)"
    assert [type(one.requests[0].messages[1]["content"]) for one in (eye, blind, other)] == [list, str, str]
    assert [prompt.messages for prompt in ruler.pack(group)] == [
        one.requests[0].messages for one in (eye, blind, other)
    ]


def test_whose_prompts_hold_images_is_part_of_the_prompt_version() -> None:
    def version(*images: bool) -> str:
        return Ruler([judge(f"j{n}", {}, images=flag) for n, flag in enumerate(images)]).prompt_version

    assert [version(False, False), version(True, True), version(True)] == ["2", "2+images", "2+images"]
    # Which one is shown them is no part of the judges' names, and a file must not mix the two.
    assert [version(True, False), version(False, True)] == ["2+images(j0)", "2+images(j1)"]


def test_pack_gives_a_prompt_for_every_judge_and_asks_nobody() -> None:
    prompts = Ruler([failing(name, AssertionError()) for name in "xyz"]).pack(PAIR)
    assert prompts == prompts[:1] * 3
    assert prompts[:1] == Ruler(failing("x", AssertionError())).pack(PAIR)


# Who may sit on a jury


async def nobody(request: JudgeRequest) -> JudgeReply:
    raise AssertionError


@pytest.mark.parametrize(
    ("jury", "message"),
    [
        ([], "judge: an empty jury"),
        ((), "judge: an empty jury"),
        ([nobody, 42], r"judge\[1\]: expected an async callable or a SPEC, got 42"),
        ([nobody, None], r"judge\[1\]: expected an async callable or a SPEC, got None"),
        ([nobody, [nobody]], r"judge\[1\]: expected an async callable or a SPEC, got \["),
        ([nobody, judge("j", {}), nobody], "judge: 'nobody' sits on the jury 2 times"),
        ([judge("j", {}), judge("j", {"a": 1})], "judge: 'j' sits on the jury 2 times"),
        ({nobody}, "judge: expected an async callable or a SPEC, got {"),
    ],
)
def test_a_jury_that_cannot_be_is_refused(jury: list[Judge], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Ruler(jury)


def test_a_judge_with_other_settings_is_another_judge() -> None:
    ruler = Ruler((judge("j", {}), judge("j", {}, sampling=Sampling(temperature=0))))
    assert ruler.judge_name == "j + j?temperature=0"
    assert len(ruler.judges) == 2


def test_specs_of_one_jury_are_loaded_together_to_share_cache_and_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    load = config.load_judges

    def noted(settings: config.Settings, **more: object) -> config.LoadedJudges:
        loaded.append(settings.judge)
        return load(settings, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(config, "load_judges", noted)
    ruler = Ruler(["simulated", nobody, "simulated?quality=hash"])
    assert loaded == [("simulated", "simulated?quality=hash")]
    assert ruler.judge_name == "simulated?quality=length + nobody + simulated?quality=hash"


def test_an_empty_spec_in_a_jury_is_refused() -> None:
    with pytest.raises(ConfigError, match="judge: an empty SPEC in a jury"):
        Ruler(["simulated", " "])


# Results


async def test_which_judge_of_a_chain_answered_is_kept() -> None:
    reply = JudgeReply(scores_reply({}), model="m", usage=PAID, judge="second")

    def chain(name: str) -> ScriptedJudge:
        return ScriptedJudge(
            lambda request: replace(reply, text=scores_reply(dict.fromkeys(request.ids, 1))), info=named(name)
        )

    alone = await Ruler(chain("first -> second")).score(PAIR)
    assert alone.answered_by == "second"
    jury = await Ruler([chain("first -> second"), judge("j", same())]).score(PAIR)
    assert jury.answered_by is None
    assert [juror.answered_by for juror in jury.jury] == ["second", None]
    assert (await Ruler(judge("j", same())).score(PAIR)).answered_by is None


async def test_a_run_of_a_jury_is_continued_by_the_same_jury(tmp_path: Path) -> None:
    def made_by(ruler: Ruler) -> dict[str, object]:
        return {"judge": ruler.judge_name, "orders": ruler.orders, "prompt_version": ruler.prompt_version}

    path = str(tmp_path / "out.jsonl")
    j, k = judge("j", same()), failing("k", JudgeUnavailable("down"))
    other = Group.of(["b", "b"], id="tied")
    file = ResultFile(path, made_by=made_by(Ruler([j, k])))
    for result in await Ruler([j, k]).score_many([PAIR, other]):
        file.write(result)
    file.close()
    file = ResultFile(path, made_by=made_by(Ruler([j, judge("k", same())])))
    assert [file.take(group) for group in (PAIR, other)] == [False, True]
    file.write(await Ruler([j, judge("k", same())]).score(PAIR))
    file.close()
    file = ResultFile(path, made_by=made_by(Ruler([j, k])))
    assert file.take(PAIR)
    file.close()
    with pytest.raises(ConfigError, match=r"was made with judge 'j \+ k', this run has 'j'"):
        ResultFile(path, made_by=made_by(Ruler(j)))


# The policy's family


@pytest.mark.parametrize("judges", [["openai/gpt-5-mini"], ["a-judge", "http://qwen-host/v1#gpt-oss"]])
def test_a_judge_of_another_family_is_no_news(judges: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Ruler([judge(name, {}) for name in judges], policy="Qwen/Qwen3-4B")
        Ruler([judge(name, {}) for name in judges], policy="my-own-model")
        Ruler([judge(name, {}) for name in judges])


def test_judges_of_the_policys_family_are_named_in_one_warning() -> None:
    jury = [judge(name, {}) for name in ("hosted_vllm/Qwen/QwQ-32B", "openai/gpt-5", "deepseek-r1-distill-qwen-7b")]
    with pytest.warns(UserWarning, match="family") as caught:
        Ruler(jury, policy="Qwen/Qwen3-4B")
    assert [str(warning.message) for warning in caught] == [
        "the policy Qwen/Qwen3-4B is judged by its own family: hosted_vllm/Qwen/QwQ-32B (qwen), "
        "deepseek-r1-distill-qwen-7b (qwen); judges prefer text of their own family"
    ]
    assert caught[0].filename == __file__


async def test_the_policys_name_is_never_shown_to_a_judge() -> None:
    known, unknown = judge("gpt-5", same()), judge("gpt-5", same())
    with pytest.warns(UserWarning, match="own family"):
        ruler = Ruler(known, policy="gpt-oss-20b-tuned")
    scored = await ruler.score(PAIR)
    assert scored == await Ruler(unknown).score(PAIR)
    assert known.requests == unknown.requests
    assert "gpt-oss" not in repr((known.requests, scored))


def test_a_policy_that_is_no_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="policy: expected the name of a model, got 7"):
        Ruler(nobody, policy=7)  # type: ignore[arg-type]


async def test_standard_errors_of_a_jury_are_settled_with_those_of_its_judges() -> None:
    def wavering(name: str, step: int) -> ScriptedJudge:
        def answer(request: JudgeRequest) -> JudgeReply:
            scores = {
                label: 20 + step * slot + 5 * len(text)
                for slot, (label, text) in enumerate(read_prompt(request).items())
            }
            return JudgeReply(scores_reply(scores), model=name, usage=PAID)

        return ScriptedJudge(answer, info=named(name))

    groups = [Group.of(["a" * n, "b" * (n + 1), "c", "dd"], id=f"g{n}") for n in range(3, 9)]
    results = await Ruler([wavering("x", 3), wavering("y", 7)], orders=2).score_many(groups)
    for result in results:
        assert isinstance(result, ScoredGroup)
        columns = [juror.stderr for juror in result.jury]
        assert None not in columns
        for score, errors in zip(result.rollouts, zip(*columns, strict=True), strict=True):  # type: ignore[arg-type]
            assert score.stderr == pytest.approx(sum(error**2 for error in errors) ** 0.5 / 2)
        assert result.agreement is not None
    # What moves with the slot alone is no noise once the slots are known.
    assert (
        max(score.stderr or 0 for result in results if isinstance(result, ScoredGroup) for score in result.rollouts)
        < 0.01
    )
