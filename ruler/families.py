"""Which models are relatives, told by their names: a judge prefers text of its own family."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Words as regular expressions; one begins where no letter or digit is before it, and ends where no letter follows, so
# that a version may (`qwen3`). Found in a name such as `openrouter/deepseek/deepseek-r1-distill-qwen-7b:free`.
_WORDS = {
    # Not the GPTs of others, nor GPTQ, which is a number format.
    "openai gpt": r"(?:chat)?gpt(?!-?(?:j|neox?|sw3|4all|bigcode)(?![a-z]))|davinci",
    "anthropic claude": r"claude",
    # One family: Gemma is made from Gemini's research and data, by the same people.
    "google gemini": r"gemini|[a-z0-9]*gemma",
    "qwen": r"[a-z]*qwen(?:long|vl|math|coder|guard)?|qwq|qvq",
    # Not ollama and llama.cpp, which run models of any family.
    "llama": r"(?:code|open|tiny|meta)?llama(?![-_.]?(?:cpp|server|index))|vicuna|alpaca",
    "mistral": r"[a-z]*mistral|mixtral|ministral|magistral|codestral|devstral|pixtral|mathstral|voxtral",
    "deepseek": r"deepseek(?:math|coder|moe|vl)?",
    "microsoft phi": r"phi(?=[-_ ]?\d|[-_](?:mini|small|medium|silica|moe)(?![a-z])|[:?]|$)",
    "xai grok": r"grok",
    "cohere command": r"command(?=-?(?:r|a|light|nightly|xlarge)(?![a-z]))|c4ai|aya(?=-(?:expanse|vision|\d))",
    "glm": r"(?:chat)?glm|codegeex",
    "kimi": r"kimi|moonshot|moonlight",
    "ai2 olmo": r"olmoe?|t[uü]lu",
    "ibm granite": r"granite",
    "nvidia nemotron": r"nemotron|minitron",
    "yi": r"yi(?=-(?:\d|coder|large|lightning|medium|spark|vision|vl))",
    "internlm": r"internlm|intern-s1",
    "falcon": r"falcon",
    "minimax": r"minimax|abab\d",
    "hunyuan": r"hunyuan",
    "ernie": r"ernie",
    "bytedance seed": r"doubao|seed-(?:oss|coder)",
    "ai21 jamba": r"jamba",
    "smollm": r"smollm",
    "exaone": r"exaone",
    "amazon nova": r"nova(?=-(?:micro|lite|pro|premier)(?![a-z]))",
}
_FAMILIES = {
    family: re.compile(rf"(?<![a-z0-9])(?:{words})(?![a-z])", re.IGNORECASE) for family, words in _WORDS.items()
}
# `o1` alone says little: others have a marco-o1 and an open-o1. A name, or a part of a path, begins with OpenAI's.
_O_SERIES = re.compile(r"(?:^|(?<=[/:\s]))o[134](?![a-z0-9])", re.IGNORECASE)
# An address says who runs a model, not which.
_ADDRESS = re.compile(r"https?://[^\s#]*#", re.IGNORECASE)


def families(model_name: str) -> frozenset[str]:
    """The families whose name stands in the model's; empty when none is known.

    Takes names as results hold them (`http://host/v1#Qwen/Qwen3-8B?temperature=0`), hub ids and paths. A model made
    from two belongs to both: `deepseek-r1-distill-qwen-7b`. Only names are read: a fine-tuned model that hides its
    origin belongs to none.
    """
    name = _ADDRESS.sub(" ", model_name)
    found = {family for family, words in _FAMILIES.items() if words.search(name)}
    return frozenset(found | {"openai gpt"} if _O_SERIES.search(name) else found)


def shared_family(judge_name: str, policy_name: str) -> str | None:
    """The family of both, joined by " and " where they share several; None when they share none that is known."""
    return " and ".join(sorted(families(judge_name) & families(policy_name))) or None


def family_warning(judge_names: Sequence[str], policy_name: str) -> str | None:
    """One sentence that names the judges of the policy's family; None when there is none."""
    shared = {name: family for name in judge_names if (family := shared_family(name, policy_name))}
    if not shared:
        return None
    named = ", ".join(f"{name} ({family})" for name, family in shared.items())
    return f"the policy {policy_name} is judged by its own family: {named}; judges prefer text of their own family"
