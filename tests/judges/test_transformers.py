from __future__ import annotations

import asyncio
import gc
import json
import math
import shutil
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import judges.transformers
from judges.local_model import local_name, prompt_tokens
from judges.transformers import TransformersJudge
from judges.transformers_model import Past, TransformersModel
from ruler import Group, Ruler
from ruler.errors import ConfigError, JudgeRejected, JudgeUnavailable
from ruler.reply import read_reply, reply_schema
from ruler.types import JudgeReply, JudgeRequest, Sampling, ScoredGroup, Usage
from tests import small_models
from tests.tiny_model import CONTEXT_TOKENS, make_tiny_model

pytestmark = pytest.mark.slow  # torch and transformers take seconds to import

ENDS = ("}", '}, {"id": "', "}]}")


@pytest.fixture(scope="module", autouse=True)
def one_core() -> Iterator[None]:
    small_models.need_transformers()
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tests run side by side, and spinning threads stop each other
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> dict[str, Path]:
    """A model of each kind, by tokenizer and by architecture."""
    root = tmp_path_factory.mktemp("models")
    whole, merging = small_models.integer_tokenizer(), small_models.merging_tokenizer()
    save = small_models.save_model
    return {
        "digits": tiny,
        "integers": save(root / "integers", small_models.gpt2_config(whole), whole),
        "merging": save(root / "merging", small_models.llama_config(merging), merging),
        "sliding": save(root / "sliding", small_models.sliding_config(merging, window=40), merging),
        "recurrent": save(root / "recurrent", small_models.recurrent_config(merging), merging),
    }


@pytest.fixture(scope="module")
def judge(tiny: Path) -> Iterator[TransformersJudge]:
    """One judge for tests that only ask it."""
    judge = TransformersJudge(str(tiny))
    yield judge
    judge.close()


def request_for(*ids: str, text: str = "Which is better?", **fields: Any) -> JudgeRequest:
    shown = "\n".join(f"<rollout {id}>\n{text} {id}\n</rollout {id}>" for id in ids)
    return JudgeRequest(
        messages=({"role": "system", "content": "You judge rollouts."}, {"role": "user", "content": shown}),
        schema=reply_schema(notes=False),
        ids=ids,
        check=partial(read_reply, ids=ids),
        **fields,
    )


def group(number: int, size: int = 4, length: int = 5) -> Group:
    return Group.of([f"{number}: {place} " * length for place in range(size)], task=f"Task {number}")


def ask(judge: TransformersJudge, request: JudgeRequest) -> JudgeReply:
    return asyncio.run(judge(request))


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


class Naive:
    """The same reading without cache, padding, batch or shared work: a plain forward for every next token."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()

    def distribution(self, request: JudgeRequest, id: str) -> dict[int, float]:
        import torch

        prompt = prompt_tokens(self.tokenizer, request.messages)
        paths = {}
        for score in range(101):
            for end in ENDS:
                text = f'{{"scores": [{{"id": "{id}", "score": {score}{end}'
                paths[tuple(self.tokenizer.encode(text, add_special_tokens=False))] = score
        with torch.inference_mode():
            return self._draw(prompt, paths, 0)

    def _draw(self, prompt: list[int], paths: dict[tuple[int, ...], int], at: int) -> dict[int, float]:
        import torch

        if len(scores := set(paths.values())) == 1:
            return {scores.pop(): 1.0}
        nexts = sorted({path[at] for path in paths})
        shares = [1.0]
        if len(nexts) > 1:
            text = torch.tensor([prompt + list(next(iter(paths))[:at])])
            logits = self.model(text, use_cache=False).logits[0, -1]
            shares = torch.softmax(logits[nexts].double(), dim=0).tolist()
        drawn: dict[int, float] = {}
        for token, share in zip(nexts, shares, strict=True):
            below = {path: score for path, score in paths.items() if path[at] == token}
            for score, probability in self._draw(prompt, below, at + 1).items():
                drawn[score] = drawn.get(score, 0.0) + share * probability
        return drawn


class TestReading:
    @pytest.mark.parametrize("kind", ["digits", "integers", "merging", "sliding", "recurrent"])
    def test_agrees_with_plain_forwards(self, folders: dict[str, Path], kind: str) -> None:
        judge = TransformersJudge(str(folders[kind]))
        request = request_for("KQX", "BDF", "GHJK", text="An answer of some length, which says little. " * 3)
        reply = ask(judge, request)
        judge.close()
        naive = Naive(folders[kind])
        assert reply.distributions
        for id in request.ids:
            expected = naive.distribution(request, id)
            assert reply.distributions[id] == pytest.approx(expected, abs=1e-5), kind
            mean = sum(score * probability for score, probability in expected.items())
            assert read_reply(reply.text, request.ids).scores[id] * 100 == pytest.approx(mean, abs=1e-3)

    def test_says_what_the_contract_wants(self, judge: TransformersJudge) -> None:
        request = request_for("KQX", "BDF", "GHJ")
        reply = ask(judge, request)
        items = json.loads(reply.text)["scores"]
        assert [item["id"] for item in items] == list(request.ids)
        assert all(item["score"] == round(item["score"], 4) for item in items)
        assert (reply.model, reply.finish_reason, reply.from_cache) == (judge.info.model, "stop", False)
        assert list(reply.distributions or ()) == list(request.ids)
        for item in items:
            distribution = (reply.distributions or {})[item["id"]]
            assert list(distribution) == list(range(101))
            assert all(probability >= 0 for probability in distribution.values())
            assert math.fsum(distribution.values()) == pytest.approx(1, abs=1e-9)
        assert len({item["score"] for item in items}) == 3

    def test_counts_what_the_model_reads(self, judge: TransformersJudge, tiny: Path) -> None:
        request = request_for("KQX", "BDF")
        tokenizer = Naive(tiny).tokenizer
        forced = (tokenizer.encode(f'{{"scores": [{{"id": "{id}", "score": ') for id in request.ids)
        # Behind each rollout's forced text go the digits 1 to 9, and 10.
        read = len(prompt_tokens(tokenizer, request.messages)) + sum(len(tokens) + 10 for tokens in forced)
        reply = ask(judge, request)
        assert reply.usage == Usage(calls=1, input_tokens=read, wait_seconds=reply.usage.wait_seconds)
        assert reply.usage.cost_usd == 0
        assert reply.usage.wait_seconds >= 0
        assert reply.latency_seconds > 0

    def test_does_not_depend_on_the_order_of_the_ids(self, judge: TransformersJudge) -> None:
        request = request_for("KQX", "BDF", "GHJ", "LMN")
        turned = JudgeRequest(request.messages, request.schema, tuple(reversed(request.ids)))
        reply, other = ask(judge, request), ask(judge, turned)
        assert differ(reply, other) < 1e-6
        assert [item["id"] for item in json.loads(other.text)["scores"]] == ["LMN", "GHJ", "BDF", "KQX"]

    def test_does_not_depend_on_what_else_is_asked_for(self, judge: TransformersJudge) -> None:
        request = request_for("KQX", "BDF", "GHJ", "LMN")
        alone = ask(judge, JudgeRequest(request.messages, request.schema, ("GHJ",)))
        assert (alone.distributions or {})["GHJ"] == pytest.approx(
            (ask(judge, request).distributions or {})["GHJ"], abs=1e-6
        )

    def test_repeats_itself(self, judge: TransformersJudge) -> None:
        request = request_for("KQX", "BDF")
        assert ask(judge, request).text == ask(judge, request_for("KQX", "BDF", repeat=3)).text

    def test_of_no_ids_is_empty(self, judge: TransformersJudge) -> None:
        assert ask(judge, request_for()).text == '{"scores": []}'


REQUESTS = [request_for("KQX", "BDF", "GHJK", text=f"Answer {n}. " * (1 + 7 * n)) for n in range(8)]


class TestBatches:
    @pytest.mark.parametrize("kind", ["digits", "integers", "merging", "sliding", "recurrent"])
    @pytest.mark.parametrize("max_batch_tokens", [1, 1000, 100_000])
    def test_read_what_is_read_alone(self, folders: dict[str, Path], kind: str, max_batch_tokens: int) -> None:
        alone = TransformersJudge(str(folders[kind]))
        together = TransformersJudge(str(folders[kind]), max_batch_tokens=max_batch_tokens)

        async def all_at_once() -> list[JudgeReply]:
            return await asyncio.gather(*map(together, REQUESTS))

        for request, reply in zip(REQUESTS, asyncio.run(all_at_once()), strict=True):
            assert differ(reply, ask(alone, request)) < 1e-5
        alone.close()
        together.close()

    def test_are_made_of_what_is_in_flight(self, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        shapes = spy_on_forward(monkeypatch)
        judge = TransformersJudge(str(tiny))

        async def all_at_once() -> None:
            first = asyncio.create_task(judge(REQUESTS[0]))  # the others arrive while the weights are loaded
            await asyncio.gather(*map(judge, REQUESTS[1:]))
            await first

        asyncio.run(all_at_once())
        judge.close()
        prompts = [rows for rows, continued in shapes if not continued]
        assert sum(prompts) == 8
        assert len(prompts) <= 3

    def test_stay_within_their_bound(self, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        judge = TransformersJudge(str(tiny), max_batch_tokens=4000)
        sizes = []
        forward = TransformersModel.forward

        def spied(self: TransformersModel, tokens: Any, past: Past | None = None) -> Any:
            longest = max(map(len, tokens)) + (past.mask.shape[1] if past else 0)
            sizes.append((len(tokens), longest))
            return forward(self, tokens, past)

        ask(judge, REQUESTS[0])
        monkeypatch.setattr(TransformersModel, "forward", spied)

        async def all_at_once() -> None:
            await asyncio.gather(*map(judge, REQUESTS))

        asyncio.run(all_at_once())
        judge.close()
        assert all(rows == 1 or rows * longest <= 4000 for rows, longest in sizes)
        assert max(rows for rows, _ in sizes) > 4

    def test_of_a_model_whose_positions_depend_on_the_longest_hold_one_prompt(self, tmp_path: Path) -> None:
        tokenizer = small_models.merging_tokenizer()
        rope = {
            "rope_type": "longrope",
            "rope_theta": 10_000.0,
            "short_factor": [1.0] * 4,
            "long_factor": [1.0, 2.0, 4.0, 8.0],
            "factor": 2.0,
            "original_max_position_embeddings": 300,
        }
        config = small_models.llama_config(tokenizer, rope_parameters=rope)
        folder = small_models.save_model(tmp_path / "long", config, tokenizer)
        judge = TransformersJudge(str(folder))

        async def all_at_once() -> list[JudgeReply]:
            return await asyncio.gather(*map(judge, REQUESTS))

        for request, reply in zip(REQUESTS, asyncio.run(all_at_once()), strict=True):
            assert differ(reply, ask(judge, request)) < 1e-5
        judge.close()


def spy_on_forward(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """(rows, whether they continue a past) of every step of models that are loaded from now on, checks left out."""
    shapes: list[tuple[int, bool]] = []
    load = judges.transformers.load_weights

    def spied_load(*args: Any, **kwargs: Any) -> TransformersModel:
        model = load(*args, **kwargs)
        forward = model.forward

        def spied(tokens: Any, past: Past | None = None) -> Any:
            shapes.append((len(tokens), past is not None))
            return forward(tokens, past)

        monkeypatch.setattr(model, "forward", spied)
        return model

    monkeypatch.setattr(judges.transformers, "load_weights", spied_load)
    return shapes


class TestRuler:
    async def test_scores_groups(self, judge: TransformersJudge) -> None:
        scored = await Ruler(judge).score(group(1))
        assert scored.judge == judge.info.name
        assert scored.model == judge.info.model
        assert scored.usage.cost_usd == 0
        for score in scored.scores:
            assert score is not None
            assert 0 <= score <= 1
        assert len(set(scored.scores)) == 4

    async def test_scores_many_groups_as_it_scores_each(self, judge: TransformersJudge) -> None:
        ruler = Ruler(judge)
        groups = [group(number, size=2 + number % 3, length=1 + 3 * number) for number in range(8)]
        together = await asyncio.gather(*map(ruler.score, groups))
        for one, scored in zip(groups, together, strict=True):
            assert (await ruler.score(one)).scores == pytest.approx(scored.scores, abs=2e-6)

    async def test_a_group_too_long_is_one_failure(self, judge: TransformersJudge) -> None:
        long = Group.of(["a" * 3000, "b" * 3000], task="T")
        good, bad = await Ruler(judge).score_many([group(1), long])
        assert isinstance(good, ScoredGroup)
        assert bad.status == "failed"
        assert bad.reason in ("packing", "rejected")

    def test_many_event_loops(self, judge: TransformersJudge) -> None:
        ruler = Ruler(judge)

        def loop(number: int) -> ScoredGroup:
            return asyncio.run(ruler.score(group(number)))

        with ThreadPoolExecutor(4) as pool:
            scored = list(pool.map(loop, range(8)))
        assert [one.scores for one in scored] == [
            pytest.approx(ruler.score_sync(group(number)).scores, abs=2e-6) for number in range(8)
        ]


class TestInfo:
    def test_names_the_model_by_its_files(self, judge: TransformersJudge, tiny: Path) -> None:
        info = judge.info
        assert (info.backend, info.model) == ("transformers", f"transformers:{local_name(str(tiny))}")
        assert info.name == info.model
        assert (info.context_tokens, info.images, info.sampling) == (CONTEXT_TOKENS, False, Sampling())
        assert (info.input_price, info.output_price) == (0, 0)
        assert info.count_tokens is not None
        assert info.count_tokens("score 100") == 5
        assert repr(judge) == f"TransformersJudge({info.name!r})"

    def test_a_format_that_changes_numbers_is_part_of_the_name(self, tiny: Path) -> None:
        plain = TransformersJudge(str(tiny)).info.model
        assert TransformersJudge(str(tiny), dtype="float32").info.model == plain
        assert TransformersJudge(str(tiny), device="cpu").info.model == plain
        assert TransformersJudge(str(tiny), max_batch_tokens=7, context_tokens=100).info.model == plain
        assert TransformersJudge(str(tiny), dtype="bfloat16").info.model == f"{plain}+bfloat16"

    def test_the_checkpoints_own_format_is_for_cuda(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tokenizer = small_models.merging_tokenizer()
        config = small_models.llama_config(tokenizer, dtype="bfloat16")
        folder = small_models.save_model(tmp_path / "half", config, tokenizer)
        name = f"transformers:{local_name(str(folder))}"
        assert TransformersJudge(str(folder)).info.model == name
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        assert TransformersJudge(str(folder)).info.model == f"{name}+bfloat16"
        assert TransformersJudge(str(folder), dtype="float32").info.model == name

    def test_half_precision_reads_nearly_the_same(self, judge: TransformersJudge, tiny: Path) -> None:
        half = TransformersJudge(str(tiny), dtype="bfloat16")
        request = request_for("KQX", "BDF")
        assert 0 < differ(ask(half, request), ask(judge, request)) < 0.02
        half.close()


class TestRefusals:
    @pytest.mark.parametrize(
        ("sampling", "shown"),
        [(Sampling(temperature=0.5), "temperature=0.5"), (Sampling(max_tokens=10, seed=0), "max_tokens=10, seed=0")],
    )
    def test_sampling(self, judge: TransformersJudge, sampling: Sampling, shown: str) -> None:
        with pytest.raises(JudgeRejected, match=f"{shown}: this judge reads probabilities") as caught:
            ask(judge, request_for("KQX", sampling=sampling))
        assert caught.value.usage == Usage(calls=1)

    def test_images(self, judge: TransformersJudge) -> None:
        parts = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}]
        with pytest.raises(JudgeRejected, match="'image_url'"):
            ask(judge, JudgeRequest(({"role": "user", "content": parts},), {}, ("KQX",)))

    @pytest.mark.parametrize("kind", ["digits", "integers", "merging"])
    def test_a_prompt_longer_than_the_window(self, folders: dict[str, Path], kind: str) -> None:
        judge = TransformersJudge(str(folders[kind]))
        window = judge.info.context_tokens or 0
        with pytest.raises(JudgeRejected, match=rf"take [\d,]+ tokens, the window has {window:,}$") as caught:
            ask(judge, request_for("KQX", text="." * 5000))
        taken = int(str(caught.value).partition("take ")[2].partition(" ")[0].replace(",", ""))
        fits = 5000 - (taken - window)
        assert ask(judge, request_for("KQX", text="." * fits)).text  # up to the last position
        with pytest.raises(JudgeRejected, match=f"take {window + 1:,} tokens, the window has {window:,}$"):
            ask(judge, request_for("KQX", text="." * (fits + 1)))
        judge.close()

    def test_a_window_that_was_made_smaller(self, tiny: Path) -> None:
        judge = TransformersJudge(str(tiny), context_tokens=50)
        assert judge.info.context_tokens == 50
        with pytest.raises(JudgeRejected, match="the window has 50$"):
            ask(judge, request_for("KQX", "BDF"))

    def test_a_token_the_model_does_not_know(self, tmp_path: Path) -> None:
        tokenizer = small_models.merging_tokenizer()
        config = small_models.llama_config(tokenizer)
        tokenizer.add_tokens(["<new>"])
        folder = small_models.save_model(tmp_path / "new", config, tokenizer)
        judge = TransformersJudge(str(folder))
        with pytest.raises(JudgeRejected, match=f"gives the token {config.vocab_size}, the model knows"):
            ask(judge, request_for("KQX", text="<new>"))
        assert ask(judge, request_for("KQX")).text
        judge.close()

    async def test_logits_that_are_not_finite_fail_their_request_alone(
        self, tiny: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        judge = TransformersJudge(str(tiny))
        await judge(request_for("KQX"))
        forward = TransformersModel.forward

        def broken(self: TransformersModel, tokens: Any, past: Past | None = None) -> Any:
            logits, extended = forward(self, tokens, past)
            if past is not None:
                short = extended.mask.sum(dim=1) == extended.mask.sum(dim=1).min()
                logits[short] = float("nan")
            return logits, extended

        monkeypatch.setattr(TransformersModel, "forward", broken)
        long, short = request_for("KQX", text="long " * 50), request_for("BDF")
        good, bad = await asyncio.gather(judge(long), judge(short), return_exceptions=True)
        judge.close()
        assert isinstance(bad, JudgeRejected)
        assert "logits are not finite" in str(bad)
        if isinstance(good, JudgeReply):  # read together; alone it is the shortest itself
            assert read_reply(good.text, ["KQX"])


class TestMemory:
    @pytest.fixture
    def scarce(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """Room for three rows; gives the rows of every try."""
        import torch

        tries: list[int] = []
        forward = TransformersModel.forward

        def limited(self: TransformersModel, tokens: Any, past: Past | None = None) -> Any:
            tries.append(len(tokens))
            if len(tokens) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(self, tokens, past)

        monkeypatch.setattr(TransformersModel, "forward", limited)
        return tries

    async def test_halves_the_batch_when_it_runs_out(
        self, judge: TransformersJudge, tiny: Path, scarce: list[int]
    ) -> None:
        other = TransformersJudge(str(tiny))
        requests = [request_for("KQX", "BDF", text=f"Answer {n}. " * 40) for n in range(6)]
        found = await asyncio.gather(*map(other, requests))
        assert max(scarce) > 3
        failed = sum(rows > 3 for rows in scarce)
        again = await asyncio.gather(*map(other, requests))
        assert sum(rows > 3 for rows in scarce) - failed < failed  # it has learnt
        other.close()
        for request, reply, second in zip(requests, found, again, strict=True):
            expected = await judge(request)
            assert differ(reply, expected) < 1e-5
            assert differ(second, expected) < 1e-5

    @pytest.mark.parametrize("where", ["prompt", "decision"])
    async def test_gives_up_where_one_row_is_too_much(
        self, tiny: Path, monkeypatch: pytest.MonkeyPatch, where: str
    ) -> None:
        import torch

        judge = TransformersJudge(str(tiny))
        await judge(request_for("KQX"))
        forward = TransformersModel.forward

        def limited(self: TransformersModel, tokens: Any, past: Past | None = None) -> Any:
            longest = max(map(len, tokens)) + (past.mask.shape[1] if past else 0)
            if longest > 150 and (past is None) == (where == "prompt"):
                raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(self, tokens, past)

        monkeypatch.setattr(TransformersModel, "forward", limited)
        with pytest.raises(JudgeUnavailable, match="cpu has no memory for a single row of .* tokens"):
            await judge(request_for("KQX", text="long " * 100))
        assert (await judge(request_for("KQX"))).text
        judge.close()


class TestConstruction:
    @pytest.mark.parametrize("missing", ["torch", "transformers"])
    def test_needs_the_extra(self, tiny: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
        find = judges.transformers.find_spec
        monkeypatch.setattr(judges.transformers, "find_spec", lambda name: None if name == missing else find(name))
        with pytest.raises(ConfigError, match=rf"needs {missing}: pip install 'ruler-judge\[local\]'"):
            TransformersJudge(str(tiny))

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"context_tokens": 0}, "context_tokens: expected at least 1, got 0"),
            ({"context_tokens": 5000}, "context_tokens: 5,000 is more than the model's 4,096"),
            ({"max_batch_tokens": -1}, "max_batch_tokens: expected at least 1, got -1"),
            ({"dtype": "int8"}, "dtype: expected one of float32, bfloat16, float16, got 'int8'"),
            ({"device": "abacus"}, "device: cannot use 'abacus'"),
            ({"device": "cuda:99"}, "device: cannot use 'cuda:99'"),
        ],
    )
    def test_checks_its_options(self, tiny: Path, options: dict[str, Any], words: str) -> None:
        with pytest.raises(ConfigError) as caught:
            TransformersJudge(str(tiny), **options)
        assert str(caught.value).startswith(f"transformers:{tiny}: {words}")
        assert "\n" not in str(caught.value)

    def test_a_model_that_is_not_there(self) -> None:
        with pytest.raises(ConfigError, match="local model '/no/such': no such folder"):
            TransformersJudge("/no/such")

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
    def test_a_file_that_cannot_be_read(self, tiny: Path, tmp_path: Path, name: str) -> None:
        folder = shutil.copytree(tiny, tmp_path / "broken")
        (folder / name).write_text("{")
        with pytest.raises(ConfigError, match=f"its {name.partition('.')[0]} cannot be read: ") as caught:
            TransformersJudge(str(folder))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("kind", "architecture"),
        [
            ("T5ForConditionalGeneration", "T5ForConditionalGeneration"),
            ("BertForMaskedLM", "BertForMaskedLM"),
            ("LlamaForSequenceClassification", "LlamaForSequenceClassification"),
        ],
    )
    def test_a_model_of_another_kind(self, tmp_path: Path, kind: str, architecture: str) -> None:
        import transformers

        tokenizer = small_models.merging_tokenizer()
        if kind.startswith("T5"):
            config = transformers.T5Config(vocab_size=400, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        elif kind.startswith("Bert"):
            config = bert_config()
        else:
            config = small_models.llama_config(tokenizer)
        folder = small_models.save_model(tmp_path / "other", config, tokenizer, kind=kind)
        with pytest.raises(ConfigError, match=f"expected a causal language model, got {architecture}"):
            TransformersJudge(str(folder))

    def test_a_tokenizer_without_digits(self, tmp_path: Path) -> None:
        tokenizer = small_models.digitless_tokenizer()
        folder = small_models.save_model(tmp_path / "mute", small_models.llama_config(tokenizer), tokenizer)
        with pytest.raises(ConfigError, match="its tokenizer cannot write the scores"):
            TransformersJudge(str(folder))


def bert_config() -> Any:
    from transformers import BertConfig

    return BertConfig(
        vocab_size=500,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        initializer_range=0.2,
    )


def mamba_config() -> Any:
    from transformers import MambaConfig

    return MambaConfig(vocab_size=500, hidden_size=16, state_size=4, num_hidden_layers=1)


class TestWeights:
    def test_are_not_loaded_before_the_first_question(self, tiny: Path, tmp_path: Path) -> None:
        folder = shutil.copytree(tiny, tmp_path / "broken")
        (folder / "model.safetensors").write_bytes(b"no weights")
        judge = TransformersJudge(str(folder))
        request = request_for("KQX")
        for _ in range(2):
            with pytest.raises(ConfigError, match=r"^transformers:.*broken: cannot be loaded: ") as caught:
                ask(judge, request)
            assert "\n" not in str(caught.value)
        judge.close()

    def test_that_are_missing_are_not_made_up(self, tiny: Path, tmp_path: Path) -> None:
        from safetensors.torch import load_file, save_file

        folder = shutil.copytree(tiny, tmp_path / "headless")
        weights = load_file(folder / "model.safetensors")
        del weights["lm_head.weight"]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        judge = TransformersJudge(str(folder))
        with pytest.raises(ConfigError, match="the checkpoint lacks 1 weights, such as lm_head.weight"):
            ask(judge, request_for("KQX"))
        judge.close()

    def test_that_are_not_finite(self, tiny: Path, tmp_path: Path) -> None:
        from safetensors.torch import load_file, save_file

        folder = shutil.copytree(tiny, tmp_path / "diverged")
        weights = load_file(folder / "model.safetensors")
        weights["model.norm.weight"][0] = float("nan")
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        judge = TransformersJudge(str(folder))
        with pytest.raises(ConfigError, match="its logits are not finite as float32"):
            ask(judge, request_for("KQX"))
        judge.close()

    @pytest.mark.parametrize("kind", ["BertLMHeadModel", "MambaForCausalLM"])
    def test_of_a_model_that_cannot_be_read_so(self, tmp_path: Path, kind: str) -> None:
        # The first has a decoder's class and a config that says it is none; the other's cache goes by another name.
        config = bert_config() if kind.startswith("Bert") else mamba_config()
        folder = small_models.save_model(tmp_path / "unfit", config, small_models.merging_tokenizer(), kind=kind)
        judge = TransformersJudge(str(folder))
        with pytest.raises(ConfigError, match="unfit: it is not causal, or transformers cannot continue it from a"):
            ask(judge, request_for("KQX"))
        judge.close()

    def test_of_a_model_that_reads_differently_in_a_batch(self, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        forward = TransformersModel.forward

        def careless(self: TransformersModel, tokens: Any, past: Past | None = None) -> Any:
            logits, extended = forward(self, tokens, past)
            return logits.roll(1, dims=0), extended  # each row gets another row's

        monkeypatch.setattr(TransformersModel, "forward", careless)
        judge = TransformersJudge(str(tiny))
        with pytest.raises(ConfigError, match="it reads differently in a batch and alone, relatively by [0-9.]+$"):
            ask(judge, request_for("KQX"))
        judge.close()

    def test_that_changed_since_the_judge_was_made(self, tiny: Path, tmp_path: Path) -> None:
        folder = shutil.copytree(tiny, tmp_path / "policy")
        judge = TransformersJudge(str(folder))
        make_tiny_model(folder, seed=1)
        with pytest.raises(ConfigError, match=r"the files have changed since .*: policy@\w+ is now policy@\w+"):
            ask(judge, request_for("KQX"))
        judge.close()

    def test_in_memory_do_not_follow_the_files(self, tiny: Path, tmp_path: Path) -> None:
        folder = shutil.copytree(tiny, tmp_path / "policy")
        judge, request = TransformersJudge(str(folder)), request_for("KQX", "BDF")
        before = ask(judge, request)
        make_tiny_model(folder, seed=1)
        assert ask(judge, request).text == before.text
        (folder / "model.safetensors").write_bytes(b"")
        assert ask(judge, request).text == before.text
        judge.close()
        make_tiny_model(folder, seed=1)
        other = TransformersJudge(str(folder))
        assert other.info.model != judge.info.model
        assert ask(other, request).text != before.text
        other.close()


class TestLife:
    def threads(self, judge: TransformersJudge) -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == judge.info.model]

    def test_a_closed_judge_answers_no_more(self, tiny: Path) -> None:
        judge = TransformersJudge(str(tiny), dtype="bfloat16")
        ask(judge, request_for("KQX"))
        assert len(self.threads(judge)) == 1
        judge.close()
        judge.close()
        assert not self.threads(judge)
        with pytest.raises(JudgeRejected, match="is closed"):
            ask(judge, request_for("KQX"))

    def test_a_dropped_judge_leaves_nothing(self, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        models: list[weakref.ref[TransformersModel]] = []
        load = judges.transformers.load_weights

        def remembered(*args: Any, **kwargs: Any) -> TransformersModel:
            model = load(*args, **kwargs)
            models.append(weakref.ref(model))
            return model

        monkeypatch.setattr(judges.transformers, "load_weights", remembered)
        judge = TransformersJudge(str(tiny), dtype="bfloat16")
        reply, info = ask(judge, request_for("KQX")), judge.info
        (thread,) = self.threads(judge)
        del judge
        gc.collect()
        thread.join(10)
        assert not thread.is_alive()
        gc.collect()
        assert models[0]() is None
        assert reply.text
        assert info.count_tokens is not None
        assert info.count_tokens("a b")
