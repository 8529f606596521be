"""A task that a tiny policy without any warm-up learns in seconds: what to say is decided by a function of the words.

Every problem asks for a few words. How good they are is up to the test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from ruler.rewards import Rewards, Rule
from ruler.rubric import DEFAULT_RUBRIC
from ruler.rules import finished
from trainer.environments import ChatMessage, Environment, Problem, Start, Step
from trainer.tasks import Demonstration, Task, TinyPolicy

Quality = Callable[[Sequence[str]], float]
WORDS = ("a", "b", "c", "d", "e", "f")
MAX_WORDS = 8


def share_of_a(words: Sequence[str]) -> float:
    """How much of it is "a"; nothing said is 0."""
    return words.count("a") / len(words) if words else 0.0


def brevity(words: Sequence[str]) -> float:
    """1 for nothing said, 0 for as much as can be said."""
    return 1 - len(words) / MAX_WORDS


@dataclass
class Say:
    """One turn, judged by its words."""

    question: str
    quality: Quality
    words: list[str] | None = None

    async def reset(self) -> Start:
        return Start([{"role": "user", "content": f"say {self.question}"}])

    async def step(self, message: ChatMessage) -> Step:
        self.words = message["content"].split()
        return Step(done=True)

    def truth(self) -> float | None:
        return 0.0 if self.words is None else self.quality(self.words)  # cut off: it never came to an end


def words_task(quality: Quality = share_of_a) -> Task:
    """The task; `max_turn_tokens` leaves room for the end token, so that a policy can say all words and end."""

    def problem(question: str) -> Problem:
        def environment() -> Environment:
            return Say(question, quality)

        return environment

    def demonstration(random: Random) -> Demonstration:
        question, said = random.choice(WORDS), random.choices(WORDS, k=random.randint(1, MAX_WORDS))
        start = Start([{"role": "user", "content": f"say {question}"}])
        return Demonstration(start, ({"role": "assistant", "content": "".join(f" {word}" for word in said)},))

    return Task(
        name="words",
        train=[problem(word) for word in WORDS[:4]],
        held_out=[problem(word) for word in WORDS[4:]],
        rules=Rewards(judge_weight=0.0, rules=(Rule("finished", finished),)),
        rubric=DEFAULT_RUBRIC,
        well_formed=finished,
        max_turn_tokens=MAX_WORDS + 1,
        max_turns=1,
        tiny=TinyPolicy(
            words=("say", "\n", *(f" {word}" for word in WORDS)),
            chat_template=(
                "{% for message in messages %}{{ message['content'] }}"
                "{{ eos_token if message['role'] == 'assistant' else '\n' }}{% endfor %}"
            ),
            context_tokens=32,
            clean=demonstration,
            habits=demonstration,
        ),
    )
