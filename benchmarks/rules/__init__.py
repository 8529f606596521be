"""Handwritten rules for the sources of the sample data: the baselines that somebody would write instead of a judge.

    rules = rules_for("gsm8k-model-solutions")
    score(rules.blind, group)

Each set has rules that see what a judge sees (`blind`), and where there is a reference also rules that see it
(`with_reference`). Rules never see truth. They read a rollout in time linear in its text, and run nothing it holds.

No weight was fitted: each is what a practitioner would choose from the task's instructions alone. Fitting on the data
they are measured on would make the rules look better than anybody's rules are on a task of their own.
"""

from __future__ import annotations

from benchmarks.rules.gsm8k import GSM8K
from benchmarks.rules.instructions import INSTRUCTIONS
from benchmarks.rules.intercode import INTERCODE
from benchmarks.rules.mathematics import MATHEMATICS
from benchmarks.rules.mint import MINT_CODE, MINT_MATHEMATICS
from benchmarks.rules.rule_set import RuleSet, score
from benchmarks.rules.tau import TAU

__all__ = ["RuleSet", "rules_for", "score"]

_RULES = {
    "gsm8k-model-solutions": GSM8K,
    "humanpref-faireval": INSTRUCTIONS,
    "humanpref-mt-bench": INSTRUCTIONS,
    "intercode-bash": INTERCODE,
    "llmbar-gptinst": INSTRUCTIONS,
    "llmbar-gptout": INSTRUCTIONS,
    "llmbar-manual": INSTRUCTIONS,
    "llmbar-natural": INSTRUCTIONS,
    "llmbar-neighbor": INSTRUCTIONS,
    "mint-humaneval": MINT_CODE,
    "mint-math": MINT_MATHEMATICS,
    "mint-mbpp": MINT_CODE,
    "mint-theoremqa": MINT_MATHEMATICS,
    "pandalm-testset-v1": INSTRUCTIONS,
    "qwen2.5-math-example": MATHEMATICS,
    "tau-bench-airline-gpt-4o": TAU,
    "tau2-bench-airline": TAU,
    "tau2-bench-retail": TAU,
    "tau2-bench-telecom": TAU,
    "tau2-bench-telecom-solo": TAU,
}


def rules_for(source: str) -> RuleSet | None:
    """The rules for groups of this `source`, as the sample data name them; None for a source nobody wrote rules for."""
    return _RULES.get(source)
