from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruler.families import families, shared_family


@pytest.mark.parametrize(
    ("family", "names"),
    [
        (
            "openai gpt",
            "openai/gpt-5-mini azure/gpt4 GPT-4o gpt2 chatgpt-4o-latest text-davinci-003 openai/gpt-oss-20b gpt_oss "
            "o1 o1-preview openai/o3-mini-2025-01-31 azure/o4-mini o3?reasoning_effort=low "
            "https://api.deepseek.com/v1#gpt-5",
        ),
        ("anthropic claude", "anthropic/claude-opus-4 claude3 us.anthropic.claude-3-7-sonnet-v1:0"),
        ("google gemini", "gemini/gemini-2.5-pro gemini/gemma-3-27b-it google/gemma2 medgemma-4b t5gemma CodeGemma"),
        ("qwen", "Qwen/Qwen3-4B qwen2.5-7b CodeQwen1.5-7B QwQ-32B QVQ-72B QwenLong-L1 Qwen2.5-7B-Instruct-GPTQ-Int4"),
        ("llama", "meta-llama/Llama-3.1-8B meta.llama3-1-70b-instruct-v1:0 CodeLlama-7b TinyLlama vicuna-13b Alpaca"),
        ("llama", "ollama/llama3.2 http://ollama:11434/v1#llama3"),
        ("mistral", "mistral/mistral-large open-mistral-7b Mixtral-8x7B ministral-8b Magistral-Small codestral"),
        ("mistral", "devstral pixtral-12b BioMistral-7B TheBloke/Mistral-7B-GPTQ dolphin-2.6-mistral"),
        ("deepseek", "deepseek/deepseek-chat DeepSeek-V3 deepseekmath-7b"),
        ("microsoft phi", "microsoft/phi-4 phi3 Phi-3.5-mini-instruct ollama/phi ollama/phi:latest phi-1_5"),
        ("xai grok", "xai/grok-4"),
        ("cohere command", "command-r-plus cohere.command-r-v1:0 command-a-03-2025 CohereLabs/aya-expanse-8b c4ai"),
        ("glm", "zai/glm-4.5 THUDM/chatglm3-6b"),
        ("kimi", "moonshotai/Kimi-K2 moonshot-v1-8k"),
        ("ai2 olmo", "allenai/OLMo-2-7B OLMoE-1B tulu-2 Tülu-3"),
        ("ibm granite", "ibm-granite/granite-3.3-8b"),
        ("nvidia nemotron", "nvidia/Nemotron-Nano-9B"),
        ("yi", "01-ai/Yi-1.5-9B-Chat yi-lightning"),
        ("internlm", "internlm2_5-7b"),
        ("falcon", "tiiuae/Falcon3-7B"),
        ("minimax", "MiniMaxAI/MiniMax-M1"),
        ("amazon nova", "us.amazon.nova-pro-v1:0"),
    ],
)
def test_a_name_tells_the_family(family: str, names: str) -> None:
    for name in names.split():
        assert families(name) == {family}, name
        assert families(name.upper()) == {family}, name


@pytest.mark.parametrize(
    "name",
    [
        "foo1",
        "proto3",
        "o10",
        "to1",
        "marco-o1",
        "gpt-j-6b",
        "gpt-neo",
        "EleutherAI/gpt-neox-20b",
        "gpt4all-j",
        "autogptq",
        "philosophy",
        "sphinx",
        "dolphin",
        "delphi4",
        "flying",
        "yi-wang/model",
        "ollama/x",
        "ollama",
        "llama.cpp/x",
        "llamafile",
        "llama-server",
        "philippines-llm",
        "commander",
        "my-command-model",
        "groq/compound",
        "grokking",
        "aya/model",
        "novak",
        "minimaxir/x",
        "simulated?quality=length",
        "http://llama-host:8000/v1#judge?temperature=0",
        "https://api.mistral.ai/v1#custom",
        "my-own-model",
    ],
)
def test_a_word_that_only_looks_like_a_family(name: str) -> None:
    assert families(name) == frozenset()


def test_a_model_made_from_two_belongs_to_both() -> None:
    assert families("deepseek-r1-distill-qwen-7b") == {"deepseek", "qwen"}
    assert families("nvidia/Llama-3.1-Nemotron-70B") == {"llama", "nvidia nemotron"}
    assert families("openai/gpt-5 -> http://claude/v1#qwen3?temperature=0") == {"openai gpt", "qwen"}


def test_what_judge_and_policy_share() -> None:
    assert shared_family("openai/gpt-5-mini", "Qwen/Qwen3-4B") is None
    assert shared_family("o3", "openai/gpt-oss-20b") == "openai gpt"
    assert shared_family("gemini/gemini-2.5-pro", "google/gemma-3-4b-it") == "google gemini"
    assert shared_family("DeepSeek-R1-Distill-Qwen-7B", "Qwen3-4B") == "qwen"
    assert shared_family("deepseek-r1-distill-qwen-7b", "DeepSeek-R1-0528-Qwen3-8B") == "deepseek and qwen"
    assert shared_family("unknown", "unknown") is None
    assert shared_family("", "") is None


@given(st.text(), st.text())
def test_any_text_is_a_name(one: str, other: str) -> None:
    assert shared_family(one, other) == shared_family(other, one)
