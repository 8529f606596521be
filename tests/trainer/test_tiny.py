from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from ruler.errors import ConfigError  # noqa: E402
from tests.judges.test_vllm_engine import ENVIRONMENT, need_vllm  # noqa: E402
from trainer.environments import Start  # noqa: E402
from trainer.policy import Policy  # noqa: E402
from trainer.sampling import sample  # noqa: E402
from trainer.tasks import TinyPolicy  # noqa: E402
from trainer.tasks.arithmetic import arithmetic  # noqa: E402
from trainer.tiny import make_tiny_policy  # noqa: E402

WORDS = ("a", "ab", "abc", " a", " ", "  b", "c", "\n", ".", "[", "(b|c)", "\\d", "ü", " ,", "'s")
TINY = replace(arithmetic().tiny, words=WORDS)  # type: ignore[type-var]


def arithmetic_policy(seed: int = 0) -> Policy:
    tiny = arithmetic().tiny
    assert tiny
    return Policy(*make_tiny_policy(tiny, seed=seed))


_, tokenizer = make_tiny_policy(TINY, seed=0)


@given(words=st.lists(st.sampled_from([word for word in WORDS if word != " "])))
def test_text_of_words_comes_back_as_it_was(words: list[str]) -> None:
    text = "".join(words)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_text_is_read_from_the_left_and_refused_where_that_leads_nowhere() -> None:
    assert len(tokenizer.encode(" ")) == 1
    with pytest.raises(Exception, match="UNK"):
        tokenizer.encode(" ab")  # " a", and "b" is no word


@given(words=st.lists(st.sampled_from(WORDS), max_size=5), more=st.lists(st.sampled_from(WORDS), max_size=5))
def test_text_that_is_not_of_words_is_refused(words: list[str], more: list[str]) -> None:
    with pytest.raises(Exception, match="UNK"):
        tokenizer.encode("".join([*words, "x", *more]))


def test_the_longest_word_wins_and_each_is_one_token() -> None:
    assert [tokenizer.decode([token]) for token in tokenizer.encode("abcab a  b\n")] == ["abc", "ab", " a", "  b", "\n"]
    assert sorted(token for word in WORDS for token in tokenizer.encode(word)) == list(range(2, 2 + len(WORDS)))


@pytest.mark.parametrize("words", [("a", ""), ("a", "b", "a"), ("a", "<eos>"), ("<pad>",)])
def test_words_that_cannot_be_a_vocabulary(words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="words"):
        make_tiny_policy(replace(TINY, words=words), seed=0)


def test_the_seed_decides_the_weights_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first, again, other = (arithmetic_policy(seed).model.state_dict() for seed in (4, 4, 5))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(weights, again[name]) for name, weights in first.items())
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_it_is_small_and_its_embeddings_are_not_tied() -> None:
    model = arithmetic_policy().model
    assert sum(weights.numel() for weights in model.parameters()) < 150_000
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    assert model.config.vocab_size == len(arithmetic().tiny.words) + 2  # type: ignore[union-attr]


def test_it_is_the_same_policy_after_it_was_saved(tmp_path: Path) -> None:
    policy = arithmetic_policy()
    policy.save(tmp_path)
    loaded = Policy.load(str(tmp_path))
    start = Start([{"role": "system", "content": "not shown"}, {"role": "user", "content": "37+58"}])
    turn = {"role": "assistant", "content": "<answer>\n95\n</answer>\n"}
    tokens = policy.encode_start(start) + policy.encode_turn(turn)
    assert loaded.encode_start(start) + loaded.encode_turn(turn) == tokens
    assert loaded.tokenizer.decode(tokens) == "Q: 37+58\n<answer>\n95\n</answer>\n<eos>"
    assert loaded.end_tokens == policy.end_tokens == {tokens[-1]}
    assert loaded.context_tokens == policy.context_tokens == 96
    ids = torch.tensor([tokens])
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, policy.model(ids).logits)


GENERATE = """
import json, os, sys
from vllm import LLM, SamplingParams
folder, prompts = sys.argv[1], json.loads(sys.argv[2])
engine = LLM(folder, dtype="float32", enforce_eager=True, max_num_seqs=8, gpu_memory_utilization=0.3, max_model_len=96)
greedy = SamplingParams(temperature=0, max_tokens=24, detokenize=True, skip_special_tokens=False)
found = engine.generate([{"prompt_token_ids": prompt} for prompt in prompts], greedy, use_tqdm=False)
print("FOUND", json.dumps([[list(one.outputs[0].token_ids), one.outputs[0].text] for one in found]), flush=True)
os._exit(0)  # without what the engine leaves at the end
"""


@pytest.mark.slow
def test_vllm_writes_the_same_tokens(tmp_path: Path) -> None:
    need_vllm()
    policy = arithmetic_policy()
    # Ten times the weights of the last layer: no two tokens are so close that rounding decides.
    with torch.no_grad():
        policy.model.lm_head.weight.mul_(10)
    policy.save(tmp_path)
    prompts = [policy.encode_start(Start([{"role": "user", "content": sum}])) for sum in ("37+58", "99-1", "100+200")]
    expected = sample(
        policy.model,
        prompts,
        max_new_tokens=[24] * 3,
        end_tokens=policy.end_tokens,
        temperature=0.0,
        generator=torch.Generator(),
    )
    done = subprocess.run(
        [sys.executable, "-c", GENERATE, str(tmp_path), json.dumps(prompts)],
        env=os.environ | ENVIRONMENT | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    found = json.loads(line.removeprefix("FOUND "))
    assert [tuple(tokens) for tokens, _ in found] == [completion.tokens for completion in expected]
    assert [text for _, text in found] == [policy.tokenizer.decode(completion.tokens) for completion in expected]
    assert len({completion.tokens for completion in expected}) > 1


def test_a_tiny_policy_of_another_shape_is_the_same_recipe() -> None:
    tiny = TinyPolicy(("x",), "{{ eos_token }}", 8, TINY.clean, TINY.habits)
    model, words = make_tiny_policy(tiny, seed=0)
    assert model.config.max_position_embeddings == words.model_max_length == 8
    assert len(words) == 3
