"""A small local language model as judge: its scores are read from token probabilities, nothing is sampled or parsed.

Torch and transformers take seconds to import, so they are imported when the first judge is made, and the weights are
loaded when the first question is asked: a run that finds every reply in a cache never loads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from judges.batch_thread import BatchThread
from judges.in_process import refuse_sampling, reply_from
from judges.local_model import local_name, model_folder, prompt_tokens, text_tokens
from judges.score_tokens import NUM_SCORES, NoDecisionError, ScoreTokens, expectation, reply_text
from judges.transformers_load import (
    choose_device,
    choose_dtype,
    load_weights,
    read_config,
    read_tokenizer,
    window,
)
from judges.transformers_model import Reading, TransformersModel
from ruler.errors import ConfigError, JudgeRejected
from ruler.types import JudgeInfo, JudgeReply, JudgeRequest, Usage

_MAX_BATCH_TOKENS = {"cpu": 16_384, "cuda": 65_536}
_EXTRA = "pip install 'ruler-judge[local]'"


class TransformersJudge:
    """A judge that runs a causal language model in this process and answers with the scores the model expects.

    The reply's form is forced. Behind the prompt stands `{"scores": [{"id": "KQX", "score":` for the rollout KQX, and
    the model's probabilities for what follows, among ` 0` to ` 100`, are that rollout's distribution: at each token
    they are those of the tokens that may come, renormalised, which is what guided decoding at temperature 1 would draw
    from. The score is the mean (0..100, 4 decimals), not one draw or the likeliest integer: it is steadier and finer
    (G-Eval, Liu et al. 2023, arXiv 2303.16634). `JudgeReply.distributions` has the whole of it, for every label
    probabilities of 0..100 that sum to 1. Notes are not written, whether the request asks for them or not.

    Each rollout is read behind the prompt alone, as if it were the first in the reply: no score can be anchored on one
    that was given before, the order of the reply changes nothing, and all are read at once. So all that a score knows
    of the other rollouts it knows from the prompt.

    The same request gives the same reply, `repeat` or not, up to the rounding of the number format (in float32 about
    1e-5 of a probability, whatever else is in the batch). Safe for any number of event loops and threads; what is in
    flight is read together, by one thread.

    What is counted: `input_tokens` are those the model reads, the prompt once, then each rollout's forced text and the
    tokens that lead from one decision to the next; `output_tokens` are 0, and the cost is 0.

    Args:
        model: a folder as `save_pretrained` writes it, or an id on the Hugging Face hub.
        context_tokens: the judge's window; None: that of the model's config. At most the latter.
        device: as torch names it (`cpu`, `cuda`, `cuda:1`); None: cuda where there is one, else cpu.
        dtype: float32, bfloat16 or float16; None: the checkpoint's own on cuda, float32 elsewhere. Numbers change with
            it, so the name in `info` ends in `+bfloat16` or `+float16` where it is not float32: no cache mixes them.
            The device is not part of the name: in one number format it changes no more than the last digits.
        max_batch_tokens: rows times length that go through the model together, the bound on memory; a single longer
            row still goes. None: 65,536 on cuda, halved whenever memory runs out, 16,384 elsewhere.

    Raises:
        ConfigError: torch or transformers is missing, the model cannot be found or is no causal language model, or an
            option is wrong. What only the weights can tell is raised by the first call.
    """

    def __init__(
        self,
        model: str,
        *,
        context_tokens: int | None = None,
        device: str | None = None,
        dtype: str | None = None,
        max_batch_tokens: int | None = None,
    ) -> None:
        spec = f"transformers:{model}"
        for module in ("torch", "transformers"):
            if find_spec(module) is None:
                raise ConfigError(f"{spec}: this judge needs {module}: {_EXTRA}")
        for option, value in (("context_tokens", context_tokens), ("max_batch_tokens", max_batch_tokens)):
            if value is not None and value < 1:
                raise ConfigError(f"{spec}: {option}: expected at least 1, got {value}")
        folder = model_folder(model)
        identity = local_name(model, folder)
        config = read_config(spec, folder)
        device = choose_device(spec, device)
        dtype = choose_dtype(spec, dtype, config=config, device=device)
        context_tokens = window(spec, config, context_tokens)
        tokenizer = read_tokenizer(spec, folder)
        self.info = JudgeInfo(
            backend="transformers",
            # Whoever changes how scores are read must change this name, or caches answer with the old reading.
            model=f"transformers:{identity}" + ("" if dtype == "float32" else f"+{dtype}"),
            context_tokens=context_tokens,
            count_tokens=_counter(tokenizer),
            images=False,
            input_price=0.0,
            output_price=0.0,
        )

        def load() -> TransformersModel:
            size = max_batch_tokens or _MAX_BATCH_TOKENS.get(device.partition(":")[0], _MAX_BATCH_TOKENS["cpu"])
            loaded = load_weights(spec, folder, device=device, dtype=dtype, max_batch_tokens=size)
            found = local_name(model, folder)
            if found != identity:
                raise ConfigError(f"{spec}: the files have changed since the judge was made: {identity} is now {found}")
            return loaded

        engine = _Engine(
            self.info.model,
            tokenizer,
            load,
            context_tokens=context_tokens,
            vocabulary_size=config.get_text_config(decoder=True).vocab_size,
        )
        self._thread: BatchThread[JudgeRequest, _Prepared, JudgeReply] = BatchThread(
            self.info.model, prepare=engine.prepare, answer=engine.answer, release=engine.release
        )

    def __repr__(self) -> str:
        return f"TransformersJudge({self.info.name!r})"

    async def __call__(self, request: JudgeRequest) -> JudgeReply:
        """The expected scores, in the order of `request.ids`, with their distributions.

        The first call loads the weights.

        Raises:
            ConfigError: the weights cannot be loaded, or are not those that the judge was made with.
            JudgeRejected: the request asks for sampling or shows an image, is longer than the window, gives logits that
                are not finite, or the judge is closed.
            JudgeUnavailable: out of memory.
        """
        return await reply_from(self._thread, request)

    def close(self) -> None:
        """Answers what is in flight, then lets go of the model, its memory and its thread; blocks until then.

        Calls after that raise JudgeRejected. A judge that is simply dropped lets go of them, too.
        """
        self._thread.close()


@dataclass(frozen=True, slots=True)
class _Prepared:
    ids: tuple[str, ...]
    reading: Reading
    num_tokens: int


class _Engine:
    """What the thread owns: it makes a request into tokens, and what the model says of them into a reply."""

    def __init__(
        self,
        name: str,
        tokenizer: Any,
        load: Callable[[], TransformersModel],
        *,
        context_tokens: int | None,
        vocabulary_size: int,
    ) -> None:
        self._name = name
        self._tokenizer = tokenizer
        self._load = load
        self._context_tokens = context_tokens
        self._vocabulary_size = vocabulary_size
        self._model: TransformersModel | None = None
        self._fault: ConfigError | None = None
        try:
            self._scores = ScoreTokens(lambda text: text_tokens(tokenizer, text))
        except NoDecisionError as error:
            raise ConfigError(f"{name}: its tokenizer cannot write the scores: {error}") from error

    def prepare(self, request: JudgeRequest) -> _Prepared:
        refuse_sampling(self._name, request)
        prompt = prompt_tokens(self._tokenizer, request.messages)
        if max(prompt) >= self._vocabulary_size:
            # A GPU would not say so: it fails for the whole process.
            raise JudgeRejected(
                f"{self._name}: the tokenizer gives the token {max(prompt)}, the model knows {self._vocabulary_size:,}"
            )
        decisions = [self._scores.first_decision(id) for id in request.ids]
        longest = len(prompt) + max((decision.depth for decision in decisions), default=0)
        if self._context_tokens is not None and longest > self._context_tokens:
            raise JudgeRejected(
                f"{self._name}: prompt and reply take {longest:,} tokens, the window has {self._context_tokens:,}"
            )
        num_tokens = len(prompt) + sum(decision.num_tokens for decision in decisions)
        return _Prepared(request.ids, Reading(prompt, decisions), num_tokens)

    def answer(self, batch: list[_Prepared]) -> Iterator[tuple[int, JudgeReply | Exception]]:
        places = {item.reading: place for place, item in enumerate(batch)}
        for reading in self._weights().read(list(places)):
            place = places[reading]
            yield place, reading.fault or self._reply(batch[place])

    def release(self) -> None:
        if self._model is None:
            return
        import torch

        self._model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _weights(self) -> TransformersModel:
        if self._fault:
            raise self._fault
        if self._model is None:
            try:
                self._model = self._load()
            except ConfigError as error:
                self._fault = error
                raise
        return self._model

    def _reply(self, item: _Prepared) -> JudgeReply:
        distributions: dict[str, Mapping[int, float]] = {
            id: {score: found[score] for score in range(NUM_SCORES)}
            for id, found in zip(item.ids, item.reading.distributions, strict=True)
        }
        return JudgeReply(
            text=reply_text({id: expectation(found) for id, found in distributions.items()}),
            model=self._name,
            usage=Usage(calls=1, input_tokens=item.num_tokens),
            finish_reason="stop",
            distributions=distributions,
        )


def _counter(tokenizer: Any) -> Callable[[str], int]:
    return lambda text: len(text_tokens(tokenizer, text))
