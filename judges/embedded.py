"""A small judge that ships with us and runs without torch: it knows the sums of the `arithmetic` task, and says so.

It is a language model of 0.2 million weights, trained from scratch by `python -m trainer.distill`. It works
out the sum by itself and then reads the rollouts; its scores are the means of what it finds likely.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from judges.batch_thread import BatchThread
from judges.embedded_prompt import Competence, read_request
from judges.embedded_words import NUM_LEVELS, Words
from judges.in_process import refuse_sampling, reply_from
from judges.like_length import like_length
from judges.local_model import local_name
from judges.score_tokens import expectation
from ruler.errors import ConfigError, JudgeRejected, describe
from ruler.types import JudgeInfo, JudgeReply, JudgeRequest, Usage

SHIPPED = Path(__file__).parent / "embedded_arithmetic"
SCORES = tuple(round(100 * level / (NUM_LEVELS - 1)) for level in range(NUM_LEVELS))
"""Level -> score in points of 100."""
_MAX_BATCH_TOKENS = 2_048
"""Rows times length that go through the model together; more do not fit the processor's cache, and take longer."""
_EXTRA = "pip install 'ruler-judge[embedded]'"


class EmbeddedJudge:
    """A judge that runs a tiny language model in numpy and answers with the scores the model expects.

    It reads the packed prompt like every judge: the sum, its own solution of it (which it writes first, greedily), then
    all rollouts one after the other, and behind each the model's probabilities for the ten grades of its training. The
    score is their mean (0..100, 4 decimals). `JudgeReply.distributions` has the probabilities. Where notes are asked
    for, each tells the judge's own solution.

    It judges what `Competence` says and refuses all else; what it was trained on and how often it errs stands in the
    README.md of its folder. The same request gives the same reply, `repeat` or not, up to the rounding of float32
    (about 1e-5 of a probability, whatever else is in the batch). Safe for any number of event loops and threads; what
    is in flight is read together, by one thread.

    What is counted: `input_tokens` are those the model reads, `output_tokens` those of its own solution; the cost is 0.

    Args:
        folder: one that `python -m trainer.distill` wrote; None: the one that ships with us.

    Raises:
        ConfigError: numpy or safetensors is missing, or the folder holds no such judge.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        spec = "embedded" if folder is None else f"embedded:{folder}"
        for module in ("numpy", "safetensors"):
            if find_spec(module) is None:
                raise ConfigError(f"{spec}: this judge needs {module}: {_EXTRA}")
        place = SHIPPED if folder is None else Path(folder).expanduser()
        try:
            engine = _Engine(spec, place)
        except Exception as error:
            fault = " ".join(describe(error).split())
            raise ConfigError(
                f"{spec}: expected a folder that `python -m trainer.distill` wrote: {fault} (the judge that ships is "
                "plain `embedded`)"
            ) from error
        name = local_name(str(place), place).rpartition("@")[2]
        self.info = JudgeInfo(
            backend="embedded",
            # Whoever changes how scores are read must change this name, or caches answer with the old reading.
            model=f"embedded:{engine.competence.task}@{name}",
            images=False,
            input_price=0.0,
            output_price=0.0,
        )
        engine.name = self.info.model
        self._thread: BatchThread[JudgeRequest, _Question, JudgeReply] = BatchThread(
            self.info.model, prepare=engine.prepare, answer=engine.answer, release=engine.release
        )

    def __repr__(self) -> str:
        return f"EmbeddedJudge({self.info.name!r})"

    async def __call__(self, request: JudgeRequest) -> JudgeReply:
        """The expected scores, in the order of `request.ids`, with their distributions.

        Raises:
            JudgeRejected: the request is not of the task that the judge knows, comes with another rubric, shows too
                many or too long rollouts, or asks for sampling; or the judge is closed.
        """
        return await reply_from(self._thread, request)

    def close(self) -> None:
        """Answers what is in flight, then lets go of the model and its thread; calls after that raise JudgeRejected."""
        self._thread.close()


@dataclass(frozen=True, slots=True)
class _Question:
    ids: tuple[str, ...]
    question: tuple[int, ...]
    rollouts: tuple[int, ...]
    """Tokens of all rollouts, one after the other."""
    text: str
    """The sum itself, for notes."""
    notes: bool


class _Engine:
    """What the thread owns: it makes a request into tokens, and what the model says of them into a reply."""

    def __init__(self, spec: str, folder: Path) -> None:
        from judges.embedded_model import Llama

        self.name = spec
        self.competence = Competence.load(folder / "judge.json")
        self._words = Words(folder / "tokenizer.json")
        self._model = Llama(folder)
        if self._model.num_words != self._words.num_words:
            raise ValueError(
                f"tokenizer.json has {self._words.num_words:,} words, the model knows {self._model.num_words:,}"
            )

    def prepare(self, request: JudgeRequest) -> _Question:
        refuse_sampling(self.name, request)
        try:
            shown = read_request(request, self.competence)
        except JudgeRejected as error:
            raise JudgeRejected(f"{self.name}: {error}") from None
        rollouts = [self._words.rollout(text) for text in shown.rollouts]
        for label, tokens in zip(request.ids, rollouts, strict=True):
            if len(tokens) > self.competence.max_rollout_tokens:
                raise JudgeRejected(
                    f"{self.name}: rollout {label} takes {len(tokens):,} tokens, the judge reads "
                    f"{self.competence.max_rollout_tokens} of each"
                )
        return _Question(
            request.ids,
            tuple(self._words.question(shown.question)),
            tuple(token for tokens in rollouts for token in tokens),
            shown.question,
            "notes" in request.schema.get("properties", {}),
        )

    def answer(self, batch: list[_Question]) -> Iterator[tuple[int, JudgeReply | Exception]]:
        own = self._model.write({item.question for item in batch}, self._words.own_ids, self._words.own_end)
        texts = {question: self._words.own_text(tokens) for question, tokens in own.items()}
        rows: list[tuple[int, list[int]]] = []
        for index, item in enumerate(batch):
            row = [*item.question, *own[item.question], *item.rollouts]
            if texts[item.question] is None:
                yield index, JudgeRejected(f"{self.name}: found no solution of its own for {item.text}")
            elif len(row) > self._model.window:
                fault = f"the prompt takes {len(row):,} tokens, the judge's window has {self._model.window:,}"
                yield index, JudgeRejected(f"{self.name}: {fault}")
            else:
                rows.append((index, row))
        for chunk in like_length(rows, lambda row: len(row[1]), _MAX_BATCH_TOKENS):
            found = self._model.next_tokens([row for _, row in chunk], self._words.close, self._words.levels)
            for (index, row), probabilities in zip(chunk, found, strict=True):
                item = batch[index]
                yield index, self._reply(item, len(row), len(own[item.question]), texts[item.question], probabilities)

    def release(self) -> None:
        del self._model

    def _reply(self, item: _Question, read: int, written: int, own: str | None, found: Any) -> JudgeReply:
        distributions = {
            id: dict(zip(SCORES, map(float, probabilities), strict=True))
            for id, probabilities in zip(item.ids, found, strict=True)
        }
        reply: dict[str, Any] = {
            "scores": [{"id": id, "score": expectation(found)} for id, found in distributions.items()]
        }
        if item.notes:
            note = f"by my own reckoning {item.text}={(own or '').partition(';')[2]}"
            reply = {"notes": [{"id": id, "note": note} for id in item.ids], **reply}
        return JudgeReply(
            text=json.dumps(reply),
            model=self.name,
            usage=Usage(calls=1, input_tokens=read, output_tokens=written),
            finish_reason="stop",
            distributions=distributions,
        )
