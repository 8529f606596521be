"""How many tokens a request will take, before it is asked: a cautious guess that learns from the replies."""

from __future__ import annotations

from dataclasses import dataclass

from ruler.types import JudgeRequest, Usage

_TOKENS_PER_BYTE = 0.35
_OUTPUT_TOKENS_PER_ID = 80
_OUTPUT_TOKENS = 200
_IMAGE_TOKENS = 1_500
_FORGET = 0.98
"""What is left of a high value after each lower one: one outlier does not rule a run."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Tokens of one call."""

    input_tokens: int
    output_tokens: int


class TokenEstimator:
    """One judge's guesses: near the highest seen lately, since what is guessed too low would pass a cap."""

    def __init__(self) -> None:
        self._per_byte = _TOKENS_PER_BYTE
        self._output: float | None = None

    @property
    def has_learnt(self) -> bool:
        """Whether a reply has told what replies take."""
        return self._output is not None

    def estimate(self, request: JudgeRequest) -> Estimate:
        """What the request may take; the output never more than its `max_tokens`, and that much before any reply."""
        limit = request.sampling.max_tokens
        output = self._output
        if output is None:
            output = _OUTPUT_TOKENS + _OUTPUT_TOKENS_PER_ID * len(request.ids) if limit is None else limit
        num_bytes, num_images = _size(request)
        return Estimate(
            input_tokens=round(num_bytes * self._per_byte) + num_images * _IMAGE_TOKENS,
            output_tokens=round(output if limit is None else min(output, limit)),
        )

    def learn(self, request: JudgeRequest, usage: Usage) -> None:
        """Takes what one answered call took into account."""
        num_bytes, num_images = _size(request)
        if usage.input_tokens and num_bytes and not num_images:
            self._per_byte = max(usage.input_tokens / num_bytes, self._per_byte * _FORGET)
        if usage.output_tokens:
            self._output = max(float(usage.output_tokens), (self._output or 0.0) * _FORGET)


def _size(request: JudgeRequest) -> tuple[int, int]:
    """(bytes of text, images)."""
    num_bytes = num_images = 0
    for message in request.messages:
        content = message.get("content") or ""
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part.get("type") == "text":
                num_bytes += len(part["text"].encode("utf-8", "surrogatepass"))
            else:
                num_images += 1
    return num_bytes, num_images
