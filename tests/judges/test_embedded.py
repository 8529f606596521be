from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

import judges.embedded
from judges.embedded import SCORES, EmbeddedJudge
from judges.embedded_words import Words
from judges.scripted import ScriptedJudge
from ruler import Group, JudgeInfo, JudgeRejected, JudgeReply, JudgeRequest, Rubric, Ruler, ScoredGroup
from ruler.config import load_judge
from ruler.errors import ConfigError
from ruler.reply import read_reply, reply_schema
from ruler.types import Sampling, Usage, judge_info
from tests.judges.embedded_folder import SOLUTION, make_folder
from trainer.tasks.arithmetic import INSTRUCTIONS

ROOT = Path(__file__).parents[2]
TEXTS = tuple(f"<reasoning>\n7+8=15\n</reasoning>\n<answer>\n{answer}\n</answer>\n" for answer in (95, 85, 94, 5, 59))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("judges") / "small")


@pytest.fixture(scope="module")
def judge(folder: Path) -> Iterator[EmbeddedJudge]:
    """One judge for tests that only ask it."""
    judge = EmbeddedJudge(folder)
    yield judge
    judge.close()


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A folder of its own, to change."""
    return Path(shutil.copytree(folder, tmp_path / "judge"))


def group(*texts: str, question: str = "37+58") -> Group:
    task = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": question}]
    return Group.of(texts or TEXTS, task=task)


def request(*texts: str, question: str = "37+58", notes: bool = True, **fields: Any) -> JudgeRequest:
    """As scoring makes it."""
    asker = Ruler(ScriptedJudge([]), notes=notes, max_block=12, absolute=True)
    (prompt,) = asker.pack(group(*texts, question=question))
    check = partial(read_reply, ids=prompt.labels)
    return JudgeRequest(prompt.messages, reply_schema(notes=notes), prompt.labels, check=check, **fields)


def ask(judge: EmbeddedJudge, question: JudgeRequest) -> JudgeReply:
    return asyncio.run(judge(question))


def refusal(judge: EmbeddedJudge, question: JudgeRequest) -> str:
    with pytest.raises(JudgeRejected) as caught:
        ask(judge, question)
    assert caught.value.usage == Usage(calls=1)
    return str(caught.value)


def differ(reply: JudgeReply, other: JudgeReply) -> float:
    """The largest difference between two probabilities of the replies."""
    assert reply.distributions
    assert other.distributions
    assert set(reply.distributions) == set(other.distributions)
    return max(
        abs(probability - other.distributions[id][score])
        for id, distribution in reply.distributions.items()
        for score, probability in distribution.items()
    )


class TestReply:
    @pytest.mark.parametrize("notes", [True, False])
    @pytest.mark.parametrize("size", [1, 2, 5])
    def test_is_what_was_asked_for(self, judge: EmbeddedJudge, size: int, notes: bool) -> None:
        question = request(*TEXTS[:size], notes=notes)
        assert question.check
        question.check((reply := ask(judge, question)).text)
        verdict = read_reply(reply.text, question.ids)
        assert verdict.notes == (dict.fromkeys(question.ids, "by my own reckoning 37+58=3") if notes else {})
        assert list(json.loads(reply.text)) == (["notes", "scores"] if notes else ["scores"])
        assert (reply.model, reply.finish_reason, reply.from_cache) == (judge.info.model, "stop", False)
        assert reply.latency_seconds > 0

    def test_scores_are_the_means_of_their_distributions(self, judge: EmbeddedJudge) -> None:
        question = request()
        reply = ask(judge, question)
        assert list(reply.distributions or ()) == list(question.ids)
        for item in json.loads(reply.text)["scores"]:
            distribution = (reply.distributions or {})[item["id"]]
            assert tuple(distribution) == SCORES
            assert math.fsum(distribution.values()) == pytest.approx(1, abs=1e-9)
            mean = sum(score * probability for score, probability in distribution.items())
            assert item["score"] == pytest.approx(mean, abs=1e-4)

    def test_the_levels_are_spread_over_the_whole_scale(self) -> None:
        assert SCORES == (0, 11, 22, 33, 44, 56, 67, 78, 89, 100)

    async def test_depends_on_question_and_rollouts(self, judge: EmbeddedJudge) -> None:
        asker = Ruler(judge)
        sum_of, other_sum = [(await asker.score(group(question=question))).scores for question in ("37+58", "61+22")]
        assert not set(sum_of) & set(other_sum)
        assert len(set(sum_of)) == len(TEXTS)

    def test_repeats_itself(self, judge: EmbeddedJudge) -> None:
        first, *others = (ask(judge, question) for question in (request(), request(), request(repeat=3)))
        assert {other.text for other in others} == {first.text}

    def test_counts_what_the_model_reads_and_writes(self, judge: EmbeddedJudge, folder: Path) -> None:
        words = Words(folder / "tokenizer.json")
        read = len(words.question("37+58")) + len(SOLUTION) + sum(len(words.rollout(text)) for text in TEXTS)
        usage = ask(judge, request()).usage
        assert usage == Usage(
            calls=1, input_tokens=read, output_tokens=len(SOLUTION), cost_usd=0.0, wait_seconds=usage.wait_seconds
        )
        assert usage.wait_seconds >= 0

    def test_many_at_once_are_read_as_each_alone(self, judge: EmbeddedJudge) -> None:
        questions = [
            request(*TEXTS[: 2 + number % 4], f"{number}", question=f"{10 + number}+58", notes=bool(number % 2))
            for number in range(12)
        ]

        async def together() -> list[JudgeReply]:
            return await asyncio.gather(*map(judge, questions))

        for question, reply in zip(questions, asyncio.run(together()), strict=True):
            assert question.check
            question.check(reply.text)
            assert differ(reply, ask(judge, question)) < 1e-5

    def test_a_question_that_is_refused_disturbs_no_other(self, judge: EmbeddedJudge) -> None:
        async def together() -> list[JudgeReply | BaseException]:
            questions = (request(), request(question="7+8"), request(*("y" * size for size in range(380, 390))))
            return await asyncio.gather(*map(judge, (*questions, request())), return_exceptions=True)

        first, other_task, too_long, last = asyncio.run(together())
        assert isinstance(first, JudgeReply)
        assert isinstance(last, JudgeReply)
        assert differ(first, last) < 1e-5
        assert "task: cannot judge '7+8'" in str(other_task)
        assert "tokens, the judge's window has 2,048" in str(too_long)

    def test_many_event_loops_and_threads_share_it(self, judge: EmbeddedJudge) -> None:
        questions = [request(*TEXTS[:3], f"{number}") for number in range(6)]
        expected = [ask(judge, question) for question in questions]
        with ThreadPoolExecutor(4) as pool:
            replies = list(pool.map(partial(ask, judge), questions * 2))
        assert max(map(differ, replies, expected * 2)) < 1e-5
        assert [thread.name for thread in threading.enumerate()].count(judge.info.model) == 1


class TestRefusal:
    def test_says_who_refuses_and_what_it_can_judge(self, judge: EmbeddedJudge) -> None:
        assert refusal(judge, request(question="Where is my order?")) == (
            f"{judge.info.model}: task: cannot judge 'Where is my order?'; "
            "this judge knows one task, arithmetic: sums such as 37+58 and 52-17, with that task's instructions, by "
            "the rubrics default and arithmetic"
        )

    @pytest.mark.parametrize(
        ("sampling", "said"),
        [(Sampling(temperature=0), "temperature=0.0"), (Sampling(max_tokens=9, seed=0), "max_tokens=9, seed=0")],
    )
    def test_of_sampling(self, judge: EmbeddedJudge, sampling: Sampling, said: str) -> None:
        message = refusal(judge, request(sampling=sampling))
        assert message == f"{judge.info.model}: {said}: this judge reads probabilities and samples nothing"

    def test_of_a_rollout_that_is_too_long(self, judge: EmbeddedJudge) -> None:
        ask(judge, request("x" * 398, "y"))
        question = request("x" * 399, "y")
        label = question.messages[1]["content"].partition("\nx")[0].rpartition("<rollout ")[2].rstrip(">")
        message = f"{judge.info.model}: rollout {label} takes 401 tokens, the judge reads 400 of each"
        assert refusal(judge, question) == message

    def test_where_it_finds_no_solution_of_its_own(self, tmp_path: Path) -> None:
        lost = EmbeddedJudge(make_folder(tmp_path, seed=1, solves=False))
        assert refusal(lost, request()).endswith("found no solution of its own for 37+58")
        lost.close()

    def test_of_messages_of_any_other_form(self, judge: EmbeddedJudge) -> None:
        good = request()
        for messages in ((), good.messages[:1], ({"role": "user"},), ({"content": "x"},)):
            assert refusal(judge, replace(good, messages=messages))

    def test_after_closing(self, folder: Path) -> None:
        judge = EmbeddedJudge(folder)
        ask(judge, request())
        judge.close()
        judge.close()
        assert refusal(judge, request()) == f"{judge.info.model} is closed"

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    @pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
    def test_in_a_forked_child(self, judge: EmbeddedJudge) -> None:
        before = ask(judge, request())
        child = os.fork()
        if not child:
            signal.alarm(10)
            try:
                ask(judge, request())
            except JudgeRejected as error:
                os._exit(7 if "was used before this process was forked" in str(error) else 8)
            os._exit(9)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert differ(ask(judge, request()), before) < 1e-5


class TestInfo:
    def test_says_who_judges_and_at_what_price(self, judge: EmbeddedJudge) -> None:
        name, _, digest = judge.info.model.partition("@")
        assert (name, len(digest), int(digest, 16) >= 0) == ("embedded:arithmetic", 12, True)
        assert judge.info == JudgeInfo(backend="embedded", model=judge.info.model)
        assert (judge.info.input_price, judge.info.output_price, judge.info.cacheable) == (0.0, 0.0, True)
        assert judge.info.name == judge.info.model
        assert repr(judge) == f"EmbeddedJudge({judge.info.name!r})"

    def test_depends_on_every_weight_and_on_no_readme_or_path(self, judge: EmbeddedJudge, copied: Path) -> None:
        (copied / "README.md").write_text("# A judge")
        assert EmbeddedJudge(str(copied)).info == judge.info
        stored = load_file(copied / "model.safetensors")
        stored["lm_head.weight"][7, 3] += 0.001
        save_file(stored, copied / "model.safetensors")
        assert EmbeddedJudge(copied).info.name != judge.info.name

    def test_depends_on_what_it_can_judge(self, judge: EmbeddedJudge, copied: Path) -> None:
        competence = json.loads((copied / "judge.json").read_text())
        (copied / "judge.json").write_text(json.dumps(competence | {"max_rollouts": 2}))
        assert EmbeddedJudge(copied).info.name != judge.info.name


class TestFolder:
    @pytest.mark.parametrize("name", ["judge.json", "tokenizer.json", "config.json", "model.safetensors"])
    @pytest.mark.parametrize("content", [None, b"", b"[]", b"{}", b"\xff\xfe{"])
    def test_with_a_missing_or_torn_file_is_one_error(self, copied: Path, name: str, content: bytes | None) -> None:
        (copied / name).unlink()
        if content is not None:
            (copied / name).write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            EmbeddedJudge(copied)
        wanted = f"embedded:{copied}: expected a folder that `python -m trainer.distill` wrote: "
        assert str(caught.value).startswith(wanted)
        assert len(str(caught.value)) > len(wanted) + 5
        assert "\n" not in str(caught.value)

    def test_with_a_torn_end_of_its_weights_is_one_error(self, copied: Path) -> None:
        weights = (copied / "model.safetensors").read_bytes()
        (copied / "model.safetensors").write_bytes(weights[:-100])
        with pytest.raises(ConfigError, match="SafetensorError"):
            EmbeddedJudge(copied)

    def test_of_another_model_is_one_error(self, copied: Path) -> None:
        config = json.loads((copied / "config.json").read_text())
        (copied / "config.json").write_text(json.dumps(config | {"model_type": "qwen2"}))
        with pytest.raises(ConfigError, match="expected a Llama"):
            EmbeddedJudge(copied)

    def test_with_the_words_of_another_judge_is_one_error(self, copied: Path) -> None:
        words = json.loads((copied / "tokenizer.json").read_text())
        words["model"]["vocab"]["é"] = len(words["model"]["vocab"])
        (copied / "tokenizer.json").write_text(json.dumps(words))
        with pytest.raises(ConfigError, match="tokenizer.json has 134 words, the model knows 133"):
            EmbeddedJudge(copied)

    @pytest.mark.parametrize("place", ["no/such/folder", "small/judge.json"])
    def test_that_is_none_is_one_error(self, folder: Path, place: str) -> None:
        with pytest.raises(ConfigError, match=f"^embedded:{folder.parent / place}: expected a folder"):
            EmbeddedJudge(folder.parent / place)

    def test_may_be_in_the_users_home(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(folder.parent))
        assert EmbeddedJudge("~/small").info == EmbeddedJudge(folder).info

    def test_of_half_precision_scores_alike(self, judge: EmbeddedJudge, tmp_path: Path) -> None:
        half = EmbeddedJudge(make_folder(tmp_path, dtype="float16"))
        assert 0 < differ(ask(half, request()), ask(judge, request())) < 0.01
        assert half.info.name != judge.info.name
        half.close()


class TestInstalled:
    @pytest.mark.parametrize("missing", ["numpy", "safetensors"])
    def test_a_missing_library_names_the_install_line(
        self, folder: Path, missing: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(judges.embedded, "find_spec", lambda name: None if name == missing else object())
        with pytest.raises(ConfigError) as caught:
            EmbeddedJudge(folder)
        assert str(caught.value) == (
            f"embedded:{folder}: this judge needs {missing}: pip install 'ruler-judge[embedded]'"
        )
        with pytest.raises(ConfigError, match=f"^embedded: this judge needs {missing}"):
            EmbeddedJudge()

    @pytest.mark.slow
    def test_it_is_light_to_import_and_judges_without_torch(self, folder: Path) -> None:
        code = f"""if True:
            import sys
            def loaded():
                heavy = {{"numpy", "safetensors", "torch", "transformers", "tokenizers", "litellm"}}
                return sorted(heavy & set(sys.modules))
            import judges.embedded
            print(loaded())
            import asyncio
            from ruler import Group, Ruler
            task = [{{"role": "system", "content": {INSTRUCTIONS!r}}}, {{"role": "user", "content": "37+58"}}]
            scored = asyncio.run(Ruler("embedded:{folder}").score(Group.of(["95", "85"], task=task)))
            print(scored.status, loaded())
        """
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
        assert (done.stdout.split("\n"), done.stderr) == (["[]", "scored ['numpy', 'safetensors']", ""], "")


class TestStack:
    @pytest.mark.slow
    async def test_a_spec_is_a_judge_with_a_cache(self, folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.setenv("RULER_CACHE", str(tmp_path / "replies.sqlite3"))
        results = []
        for _ in range(2):
            loaded = load_judge(f"embedded:{folder}")
            results.append(await Ruler(loaded).score(group()))
        first, second = results
        assert isinstance(first, ScoredGroup)
        assert (first.usage.calls, first.usage.cache_hits, first.usage.cost_usd) == (1, 0, 0.0)
        assert (second.usage.calls, second.usage.cache_hits) == (0, 1)
        assert second.scores == first.scores
        assert len(set(first.scores)) == len(TEXTS)
        assert first.judge == judge_info(loaded).name == EmbeddedJudge(folder).info.name
        assert set(first.notes) == {"by my own reckoning 37+58=3"}

    @pytest.mark.slow
    async def test_a_folder_that_has_changed_is_asked_anew(
        self, copied: Path, tmp_path: Path, monkeypatch: Any
    ) -> None:
        monkeypatch.setenv("RULER_CACHE", str(tmp_path / "replies.sqlite3"))
        first = await Ruler(f"embedded:{copied}").score(group())
        make_folder(copied, seed=5)
        second = await Ruler(f"embedded:{copied}").score(group())
        assert (second.usage.cache_hits, second.scores == first.scores) == (0, False)

    async def test_a_group_beyond_it_fails_with_no_number(self, judge: EmbeddedJudge) -> None:
        groups = [group(), Group.of(["yes", "no"], task="Is it late?")]
        scored, failed = await Ruler(judge).score_many(groups)
        assert (scored.status, failed.status) == ("scored", "failed")
        assert "this judge knows one task" in failed.message
        (other,) = await Ruler(judge, rubric=Rubric("Prefer polite answers.")).score_many([group()])
        assert (other.status, other.usage.calls) == ("failed", 1)

    async def test_orders_and_blocks_are_scored(self, judge: EmbeddedJudge) -> None:
        texts = [f"{text}{number}" for number in range(4) for text in TEXTS]
        scored = await Ruler(judge, orders=2).score(group(*texts))
        assert all(score is not None and 0 <= score <= 1 for score in scored.scores)
        assert scored.orders_used == 2
