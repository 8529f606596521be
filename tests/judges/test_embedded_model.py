from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from judges.embedded_model import Llama, Past
from judges.embedded_words import MAX_OWN_TOKENS
from tests.judges.embedded_folder import CONFIG, make_folder
from tests.small_models import need_transformers

NUM_WORDS = CONFIG["vocab_size"]
ALLOWED, END = tuple(range(20, 27)), 22
AFTER, CHOICE = 5, (6, 7, 8, 9)
OTHER_SIZES = {
    "head_dim": 32,
    "hidden_size": 96,
    "intermediate_size": 80,
    "num_attention_heads": 3,
    "num_hidden_layers": 3,
    "num_key_value_heads": 3,
}
ROWS = st.lists(st.lists(st.integers(0, NUM_WORDS - 1), min_size=1, max_size=40), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All its weights are random."""
    return make_folder(tmp_path_factory.mktemp("models") / "random", solves=False)


@pytest.fixture(scope="module")
def model(folder: Path) -> Llama:
    return Llama(folder)


def draw(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, NUM_WORDS, shape)


class TestRead:
    @pytest.mark.parametrize("cuts", [[1], [29], [7, 8, 20], list(range(1, 30))])
    def test_in_parts_or_at_once_is_the_same(self, model: Llama, cuts: list[int]) -> None:
        tokens, past = draw(3, 30), Past()
        parts = [model.read(part, past) for part in np.split(tokens, cuts, axis=1)]
        assert past.num_tokens == 30
        np.testing.assert_allclose(np.concatenate(parts, axis=1), model.read(tokens, Past()), atol=2e-5)

    def test_a_token_sees_what_comes_before_it_and_nothing_else(self, model: Llama) -> None:
        tokens = draw(1, 30)
        before = model.read(tokens, Past())
        for place in (0, 13, 29):
            changed = tokens.copy()
            changed[0, place] = (tokens[0, place] + 1) % NUM_WORDS
            moved = np.abs(model.read(changed, Past()) - before).max(axis=2)[0]
            assert moved[:place].max(initial=0) < 2e-5
            assert moved[place:].min() > 1e-4

    def test_gives_one_vector_a_token_in_float32(self, model: Llama) -> None:
        read = model.read(draw(2, 7), Past())
        assert (read.shape, read.dtype) == ((2, 7, CONFIG["hidden_size"]), np.float32)
        assert model.logits(read).shape == (2, 7, NUM_WORDS)
        assert (model.num_words, model.window) == (NUM_WORDS, CONFIG["max_position_embeddings"])

    def test_has_room_for_the_whole_window_and_not_more(self, tmp_path: Path) -> None:
        small = Llama(make_folder(tmp_path, max_position_embeddings=8))
        assert small.read(draw(1, 8), Past()).shape[1] == 8
        with pytest.raises(ValueError, match="broadcast"):
            small.read(draw(1, 9), Past())


class TestWrite:
    def test_in_a_batch_or_alone_is_the_same(self, model: Llama) -> None:
        prompts = {tuple(draw(1 + seed % 5, seed=seed).tolist()) for seed in range(15)}
        together = model.write(prompts, ALLOWED, END)
        assert together == {prompt: model.write([prompt], ALLOWED, END)[prompt] for prompt in prompts}
        assert len({len(written) for written in together.values()}) > 1

    def test_takes_the_likeliest_allowed_token_until_two_ends(self, model: Llama) -> None:
        lengths = set()
        for seed in range(8):
            prompt = tuple(draw(6, seed=seed).tolist())
            written: list[int] = []
            while written.count(END) < 2 and len(written) < MAX_OWN_TOKENS:
                logits = model.logits(model.read(np.array([[*prompt, *written]]), Past()))[0, -1]
                written.append(max(ALLOWED, key=lambda token: logits[token]))
            assert model.write([prompt], ALLOWED, END) == {prompt: written}
            lengths.add(len(written))
        assert min(lengths) < max(lengths) == MAX_OWN_TOKENS

    def test_with_no_end_is_as_long_as_it_may_be(self, model: Llama) -> None:
        assert model.write([(1, 2)], [20], END) == {(1, 2): [20] * MAX_OWN_TOKENS}
        assert model.write([(1, 2)], [END], END) == {(1, 2): [END, END]}

    def test_of_nothing_is_nothing(self, model: Llama) -> None:
        assert model.write([], ALLOWED, END) == {}


class TestNextTokens:
    @given(rows=ROWS)
    def test_are_probabilities_that_do_not_depend_on_the_batch(self, model: Llama, rows: list[list[int]]) -> None:
        together = model.next_tokens(rows, AFTER, CHOICE)
        for row, found in zip(rows, together, strict=True):
            assert found.shape == (row.count(AFTER), len(CHOICE))
            assert found.min(initial=1) > 0
            np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-12)
            np.testing.assert_allclose(found, model.next_tokens([row], AFTER, CHOICE)[0], atol=1e-5)

    def test_are_read_behind_each_such_token(self, model: Llama) -> None:
        row = [1, 2, AFTER, 3, AFTER, AFTER, 4]
        logits = model.logits(model.read(np.array([row]), Past()))[0][[2, 4, 5]][:, list(CHOICE)].astype(float)
        expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(model.next_tokens([row], AFTER, CHOICE)[0], expected, atol=1e-6)
        assert len({round(value, 3) for value in expected[:, 0]}) == 3

    def test_padding_is_not_taken_for_what_is_asked_behind(self, model: Llama) -> None:
        short, long = model.next_tokens([[0, 3], [1, 0, 3, 0, 0]], 0, CHOICE)
        assert (len(short), len(long)) == (1, 3)


class TestFolder:
    def test_weights_of_half_precision_are_read_as_they_are_stored(self, folder: Path, tmp_path: Path) -> None:
        half = make_folder(tmp_path / "half", solves=False, dtype="float16")
        rounded = shutil.copytree(half, tmp_path / "rounded")
        stored = {name: value.astype("float32") for name, value in load_file(half / "model.safetensors").items()}
        save_file(stored, rounded / "model.safetensors")
        tokens = draw(1, 20)
        read = Llama(half).read(tokens, Past())
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, Llama(rounded).read(tokens, Past()))
        assert 0 < np.abs(read - Llama(folder).read(tokens, Past())).max() < 0.05

    @pytest.mark.parametrize(
        ("change", "fault"),
        [
            ({"model_type": "qwen2"}, r"config.json: .* got \('qwen2'"),
            ({"hidden_act": "gelu"}, "config.json: .*'gelu'"),
            ({"head_dim": 32}, "config.json: .*32"),
            ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "config.json: .*'yarn'"),
            ({"vocab_size": 100}, r"lm_head.weight: expected \(100, 32\), got \(133, 32\)"),
            ({"num_hidden_layers": 3}, r"model.layers.2.input_layernorm.weight: expected \(32,\), got None"),
            ({"num_hidden_layers": 1}, r"model.layers.1.input_layernorm.weight: expected None, got \(32,\)"),
            ({"intermediate_size": 64}, "mlp.down_proj.weight: expected"),
        ],
    )
    def test_of_another_kind_of_model_is_refused(self, folder: Path, tmp_path: Path, change: Any, fault: str) -> None:
        other = shutil.copytree(folder, tmp_path / "other")
        (other / "config.json").write_text(json.dumps({**CONFIG, **change}))
        with pytest.raises(ValueError, match=fault):
            Llama(other)

    @pytest.mark.parametrize("name", ["model.layers.0.self_attn.q_proj.bias", "model.layers.0.self_attn.q_norm.weight"])
    def test_weights_that_would_not_be_used_are_refused(self, folder: Path, tmp_path: Path, name: str) -> None:
        other = shutil.copytree(folder, tmp_path / "other")
        stored = load_file(other / "model.safetensors")
        save_file(stored | {name: np.zeros(32, "float32")}, other / "model.safetensors")
        with pytest.raises(ValueError, match=rf"{name}: expected None, got \(32,\)"):
            Llama(other)

    def test_numbers_that_are_none_are_refused(self, folder: Path, tmp_path: Path) -> None:
        other = shutil.copytree(folder, tmp_path / "other")
        stored = load_file(other / "model.safetensors")
        stored["lm_head.weight"][3, 4] = np.nan
        save_file(stored, other / "model.safetensors")
        with pytest.raises(ValueError, match="lm_head.weight: not all numbers are finite"):
            Llama(other)


@pytest.fixture(scope="module", params=[{}, OTHER_SIZES], ids=["usual", "other"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Llama, Any]:
    """The same folder, here and in transformers."""
    need_transformers()
    from transformers import LlamaForCausalLM

    folder = make_folder(tmp_path_factory.mktemp("models") / "random", seed=1, solves=False, **request.param)
    return Llama(folder), LlamaForCausalLM.from_pretrained(folder, dtype="float32").eval()


@pytest.mark.slow  # torch
class TestAgainstTransformers:
    def test_hidden_states_and_logits_are_the_same(self, pair: tuple[Llama, Any]) -> None:
        import torch

        ours, theirs = pair
        tokens = draw(3, 300)
        with torch.inference_mode():
            expected = theirs(torch.tensor(tokens), output_hidden_states=True)
        read = ours.read(tokens, Past())
        np.testing.assert_allclose(read, expected.hidden_states[-1].numpy(), atol=1e-4)
        np.testing.assert_allclose(ours.logits(read), expected.logits.numpy(), atol=1e-4)

    def test_with_a_past_they_are_the_same(self, pair: tuple[Llama, Any]) -> None:
        import torch

        ours, theirs = pair
        tokens, past, theirs_past = draw(2, 40), Past(), None
        for part in np.split(tokens, [17, 18, 30], axis=1):
            with torch.inference_mode():
                expected = theirs(torch.tensor(part), past_key_values=theirs_past, use_cache=True)
            theirs_past = expected.past_key_values
            np.testing.assert_allclose(ours.logits(ours.read(part, past)), expected.logits.numpy(), atol=1e-4)

    def test_padding_at_the_end_changes_nothing(self, pair: tuple[Llama, Any]) -> None:
        import torch

        ours, theirs = pair
        rows = [draw(length, seed=length).tolist() for length in (5, 60, 200, 33)]
        for row in rows:
            row[2] = row[-1] = AFTER
        for row, found in zip(rows, ours.next_tokens(rows, AFTER, CHOICE), strict=True):
            with torch.inference_mode():
                logits = theirs(torch.tensor([row])).logits[0][[token == AFTER for token in row]]
            expected = torch.softmax(logits[:, list(CHOICE)].double(), dim=1)
            np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
            assert len(found) >= 2

    def test_what_is_written_is_what_generate_writes(self, pair: tuple[Llama, Any]) -> None:
        import torch

        ours, theirs = pair
        prompt = draw(1, 9)
        (written,) = ours.write([tuple(prompt[0].tolist())], range(NUM_WORDS), NUM_WORDS).values()
        with torch.inference_mode():
            generated = theirs.generate(torch.tensor(prompt), max_new_tokens=MAX_OWN_TOKENS, do_sample=False)
        assert written == generated[0, 9:].tolist()
