"""A judge of known accuracy and known bias: for tests, demos and studies of noise. No model reads anything.

It finds the rollouts in the packed prompt as a model would have to, so that faults of packing show. It calls itself
"simulated" in every output.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Literal, get_args

from judges.fences import find_rollouts, user_text
from ruler.errors import ConfigError, JudgeRejected, JudgeUnavailable
from ruler.types import JudgeInfo, JudgeReply, JudgeRequest, Usage

Quality = Callable[[str, str], float]
"""(text before the first fence, text between a rollout's fences) -> quality; higher is better."""
SlotShape = Literal["linear", "u", "first"]

_CHARS_PER_TOKEN = 4
_LONG_LIST = 8
"""Up to so many rollouts in one prompt `Behaviour.long_list` changes nothing; it is the default block, too."""


def length_quality(task: str, rollout: str) -> float:
    """Shorter is better: 1 / (1 + characters / 1000), in (0, 1]."""
    return 1 / (1 + len(rollout) / 1000)


def hash_quality(task: str, rollout: str) -> float:
    """A number in [0, 1) that depends on the text and on nothing a reader could see in it."""
    return int.from_bytes(hashlib.sha256(rollout.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64


FEATURES: dict[str, Quality] = {"length": length_quality, "hash": hash_quality}


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the simulated judge errs. All values are in units of quality.

    Raises:
        ConfigError: a rate outside [0, 1], a negative deviation, an unknown shape, a number that is not finite.
    """

    noise: float = 0.0
    """Standard deviation of independent noise on each rollout."""
    flip: float = 0.0
    """Probability, per rollout, that good and bad are mixed up: quality is mirrored within the group's range."""
    slot_bias: float = 0.0
    """Standard deviation over the slots of what the position alone adds; negative turns it round."""
    shape: SlotShape = "linear"
    """linear: early slots gain; u: both ends gain; first: only the first slot gains."""
    length_bias: float = 0.0
    """What one standard deviation of length within the group adds."""
    long_list: float = 0.0
    """Growth of the noise with the list: its deviation is multiplied by 1 + long_list * log2(size / 8) beyond 8
    rollouts, and left alone up to there. Without noise there is nothing to grow. JointRank (arXiv 2506.22262) has 100
    passages at 57.7 nDCG@10 in one prompt, at 70.9 in blocks; for ranks with Gaussian noise that takes 1.45 times the
    noise, which is 0.12 here."""
    failure: float = 0.0
    """Probability, per request, of an outage (JudgeUnavailable)."""
    scale: float = 100.0
    """Points of 100 per unit of quality."""
    offset: float = 0.0
    """Points at quality 0."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("flip", "failure"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"simulated: {name}: expected a probability, got {getattr(self, name)}")
        for name in ("noise", "long_list"):
            if getattr(self, name) < 0:
                raise ConfigError(f"simulated: {name}: expected at least 0, got {getattr(self, name)}")
        if self.shape not in get_args(SlotShape):
            raise ConfigError(f"simulated: shape: expected linear, u or first, got {self.shape!r}")
        for name in ("noise", "slot_bias", "length_bias", "long_list", "scale", "offset"):
            if not math.isfinite(getattr(self, name)):
                raise ConfigError(f"simulated: {name}: expected a finite number, got {getattr(self, name)}")


class SimulatedJudge:
    """Scores each rollout by a quality function, then errs as told. The same request gives the same reply.

    Without arguments: shorter is better, without any error. Tokens are estimated at four characters each.
    """

    def __init__(
        self, quality: Quality = length_quality, *, quality_name: str | None = None, behaviour: Behaviour | None = None
    ) -> None:
        known = {function: name for name, function in FEATURES.items()}
        own_name = getattr(quality, "__qualname__", type(quality).__qualname__)
        self._quality = quality
        self._quality_name = quality_name or known.get(quality, own_name)
        self._behaviour = behaviour or Behaviour()
        changed = [
            f"{field.name}={getattr(self._behaviour, field.name)}"
            for field in fields(Behaviour)
            if getattr(self._behaviour, field.name) != field.default
        ]
        name = "&".join([f"quality={self._quality_name}", *changed])
        self.info = JudgeInfo(
            backend="simulated",
            model=f"simulated?{name}",
            # The name of a function of the caller's, or of a file's truth, does not tell what it will say.
            cacheable=quality in known,
            input_price=0.0,
            output_price=0.0,
        )

    async def __call__(self, request: JudgeRequest) -> JudgeReply:
        """Scores for the rollouts found between the prompt's fences.

        Raises:
            JudgeUnavailable: a simulated outage.
            JudgeRejected: the prompt does not show exactly the ids that are asked for.
        """
        behaviour = self._behaviour
        seed = hashlib.sha256(f"{behaviour.seed}|{request.prompt_hash()}|{request.repeat}".encode()).hexdigest()
        rng = random.Random(seed)
        if rng.random() < behaviour.failure:
            raise JudgeUnavailable("simulated outage", usage=Usage(calls=1))
        prompt = user_text(request)
        task, rollouts = find_rollouts(prompt)
        if tuple(rollouts) != request.ids:
            raise JudgeRejected(f"the prompt shows {', '.join(rollouts)}, asked for are {', '.join(request.ids)}")
        texts = list(rollouts.values())
        quality = [self._quality(task, text) for text in texts]
        middle = min(quality) + max(quality)
        slots = _slot_effects(behaviour.shape, len(texts))
        lengths = _standardised([float(len(text)) for text in texts])
        noise = behaviour.noise * (1 + behaviour.long_list * max(0.0, math.log2(len(texts) / _LONG_LIST)))
        scores = []
        for value, slot, length in zip(quality, slots, lengths, strict=True):
            if rng.random() < behaviour.flip:
                value = middle - value
            value += behaviour.slot_bias * slot + behaviour.length_bias * length + rng.gauss(0, 1) * noise
            scores.append(max(0, min(100, round(behaviour.offset + behaviour.scale * value))))
        reply: dict[str, object] = {
            "scores": [{"id": name, "score": score} for name, score in zip(rollouts, scores, strict=True)]
        }
        if "notes" in request.schema.get("properties", {}):
            notes = [
                f"simulated, from {self._quality_name}: nobody read this ({len(text)} characters)" for text in texts
            ]
            reply = {"notes": [{"id": i, "note": n} for i, n in zip(rollouts, notes, strict=True)], **reply}
        text = json.dumps(reply)
        system = str(request.messages[0]["content"])
        usage = Usage(1, (len(system) + len(prompt)) // _CHARS_PER_TOKEN, 0, len(text) // _CHARS_PER_TOKEN, 0.0)
        return JudgeReply(text, model=self.info.model, usage=usage, finish_reason="stop")


def _slot_effects(shape: SlotShape, size: int) -> list[float]:
    if shape == "linear":
        raw = [float(-slot) for slot in range(size)]
    elif shape == "u":
        raw = [abs(slot - (size - 1) / 2) for slot in range(size)]
    else:
        raw = [float(slot == 0) for slot in range(size)]
    return _standardised(raw)


def _standardised(values: Sequence[float]) -> list[float]:
    """Mean 0 and (population) standard deviation 1; all 0 when the values are equal."""
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    return [(value - mean) / deviation if deviation else 0.0 for value in values]
