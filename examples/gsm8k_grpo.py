"""GRPO with a real model on one GPU: word problems as in GSM8K, and a judge, rules or truth as the reward.

    python -m examples.gsm8k_grpo --data gsm8k.jsonl --judge openai/gpt-5-mini --out runs/gsm8k

`--data` is any file of JSON lines with `question` and `answer`, which ends in `#### 42`. GSM8K itself, with `datasets`:

    load_dataset("openai/gsm8k", "main", split="train").to_json("gsm8k.jsonl")

`--judge` is a SPEC of docs/judges.md, such as `http://localhost:8000/v1#my-model`. All settings of the trainer are
flags, too. To train on something else, copy this file: a task is an environment, problems, a rubric and rules.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from functools import partial
from pathlib import Path
from typing import Literal

import tyro

from ruler import Group, Rollout, Rubric, Ruler
from ruler.errors import ConfigError, RulerError
from ruler.rewards import Rewards, Rule
from ruler.rules import after, count_tags, inside_tag, integer_answer, numeric_answer, soft_tags, strict_tags
from trainer.environments import ChatMessage, Start, Step
from trainer.policy import Dtype, Policy
from trainer.rewards import by_judge, by_rules, by_truth
from trainer.settings import Settings
from trainer.tasks import Task
from trainer.train import train

INSTRUCTIONS = (
    "Solve the problem step by step. Respond in this form, each tag on a line of its own and nothing outside the "
    "tags:\n<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>\nThe answer is a number alone."
)
RUBRIC = Rubric(
    "- The number between <answer> and </answer> has to be right: solve the problem yourself. A rollout with the right "
    "number scores well above any without.\n"
    "- Among equally right rollouts, the one whose reasoning holds in every step and uses all the facts wins.\n"
    "- The form is a <reasoning> section, then an <answer> section with a number alone. A fault of form costs a "
    "little; it never outweighs a wrong number.\n"
    "- Length and style do not count.",
    name="gsm8k",
)
CORRECT = numeric_answer(answer=inside_tag("answer"), reference=after("####"))
WELL_FORMED = strict_tags("reasoning", "answer")
RULES = Rewards(
    judge_weight=0.0,
    rules=(
        Rule("correct", CORRECT, weight=2.0),
        Rule("integer", integer_answer(answer=inside_tag("answer")), weight=0.5),
        Rule("strict", WELL_FORMED, weight=0.5),
        Rule("soft", soft_tags("reasoning", "answer"), weight=0.5),
        Rule("tags", count_tags("reasoning", "answer", trailing_penalty=0.002), weight=0.5),
    ),
)
"""Will Brown's rubric for GSM8K (gist willccbb/4676755236bb08cab5f4e54a0475d6fb): rules that know the answer."""

SETTINGS = Settings(
    steps=300,
    learning_rate=1e-6,
    learning_rate_warm_up_steps=10,
    look_ahead=True,  # the GPU samples the next batch while the judge reads this one
    evaluate_every=50,
    checkpoint_every=25,  # each three times the weights in float32 on the disk, and the newest two are kept
)


class WordProblem:
    """One attempt at one problem, a single turn."""

    def __init__(self, question: str, reference: str) -> None:
        self.question = question
        self.reference = reference
        self.answer: str | None = None

    async def reset(self) -> Start:
        """What the policy is given; the reference is for rules and truth alone."""
        return Start(prompt(self.question), reference=self.reference)

    async def step(self, message: ChatMessage) -> Step:
        """Takes the answer; nothing is said to it."""
        self.answer = message["content"]
        return Step(done=True)

    def truth(self) -> float:
        """1.0 when the number is right, whatever the form around it; else 0.0. What was cut off has no answer."""
        if self.answer is None:
            return 0.0
        attempt = Rollout.of("attempt", self.answer)
        return CORRECT(attempt, Group((attempt,), id="attempt", reference=self.reference))


def prompt(question: str) -> list[dict[str, str]]:
    """What a policy is given."""
    return [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": question}]


def gsm8k(path: Path) -> Task:
    """The task of a file: a fifth of its problems is held out, 500 at most."""
    problems = [partial(WordProblem, question, reference) for question, reference in read_problems(path).items()]
    random.Random(0).shuffle(problems)
    num_held_out = min(500, len(problems) // 5)
    return Task(
        name="gsm8k",
        train=problems[num_held_out:],
        held_out=problems[:num_held_out],
        rules=RULES,
        rubric=RUBRIC,
        well_formed=WELL_FORMED,
        max_turn_tokens=320,
        max_turns=1,
    )


def read_problems(path: Path) -> dict[str, str]:
    """Question -> answer, which ends in `#### 42`; a question that stands there twice is taken once."""
    problems = {}
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                record = json.loads(line)
                question, answer = str(record["question"]), str(record["answer"])
            except (ValueError, TypeError, KeyError) as error:
                raise ConfigError(f"{path}:{number}: expected a question and an answer: {error!r:.80}") from error
            if after("####")(answer) is None:
                raise ConfigError(f"{path}:{number}: answer: expected '#### 42' at its end, got {answer[-80:]!r}")
            problems[question] = answer
    if len(problems) < 5:
        raise ConfigError(f"{path}: expected at least 5 problems, a fifth of them to be held out, got {len(problems)}")
    return problems


def main(
    data: Path,
    out: Path,
    policy: str = "Qwen/Qwen2.5-0.5B-Instruct",
    reward: Literal["judge", "rules", "truth"] = "judge",
    judge: str = "openai/gpt-5-mini",
    device: str = "cuda",
    dtype: Dtype = "bfloat16",
    settings: Settings = SETTINGS,
) -> None:
    """Train a policy on word problems with one GPU. The same command again goes on where it was stopped.

    Args:
        data: problems, as JSON lines with `question` and `answer`.
        out: the run's folder.
        policy: a Hugging Face folder or hub id.
        reward: what to learn from.
        judge: a SPEC of docs/judges.md; it is shown the rubric, and never the reference answer.
        device: where the policy is.
        dtype: what it calculates in.
        settings: how it trains.
    """
    try:
        task = gsm8k(data)
        facts = {"data": data.name, "policy": policy, "dtype": dtype, "reward": reward}
        if reward == "judge":
            facts["judge"] = judge
            # Told who is judged, it warns where the two are of one family. Its answers are kept: a run that goes on
            # pays for none of them again.
            to_reward = by_judge(Ruler(judge, rubric=task.rubric, policy=policy).score_many)
        else:
            to_reward = by_rules(task.rules) if reward == "rules" else by_truth()
        learner = Policy.load(policy, device=device, dtype=dtype)
        asyncio.run(train(settings, task, learner, to_reward, out, facts=facts))
    except RulerError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    tyro.cli(main, prog="python -m examples.gsm8k_grpo", config=(tyro.conf.OmitArgPrefixes,))
