"""How much of a judge's window a prompt takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Integral

from ruler.errors import ConfigError, describe
from ruler.packing import PackedPrompt
from ruler.token_bound import token_bound
from ruler.types import JudgeInfo

_TEMPLATE_TOKENS = 32
"""Role headers and the like, which chat templates put around two messages."""
_IMAGE_TOKENS = 1_600
"""What the large providers count for one large image."""
_NORMALISED_BYTES = 11
_REPLY_TOKENS = 64
_REPLY_TOKENS_PER_NOTE = 64
"""Twenty words and the JSON around them."""
_REPLY_TOKENS_PER_SCORE = 24


@dataclass(frozen=True)
class Window:
    """One judge's window, and how its tokens are counted."""

    size: int
    """Tokens of prompt and reply together."""
    reply_tokens: int | None
    """What the judge may write at most; None: room is left for notes and scores alone, and none for thinking."""
    count: Callable[[str], int]
    tokenizer: str
    notes: bool
    """Whether the reply will hold notes."""
    _counted: dict[str, int] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, judge_name: str, info: JudgeInfo, given: int | None, *, notes: bool) -> Window | None:
        """The judge's window, or the given one if that is smaller; None when neither is known.

        Tokens are counted by the judge's own tokenizer where it has one, else by a bound (`ruler.token_bound`).
        """
        known = [size for size in (info.context_tokens, given) if size is not None]
        if not known:
            return None
        if info.count_tokens is None:
            return cls(min(known), info.sampling.max_tokens, token_bound, "estimated", notes)
        return cls(min(known), info.sampling.max_tokens, _checked(judge_name, info.count_tokens), info.model, notes)

    def room(self, num_rollouts: int) -> int:
        """Tokens that a prompt of this many rollouts may have."""
        per_rollout = _REPLY_TOKENS_PER_SCORE + _REPLY_TOKENS_PER_NOTE * self.notes
        reply = _REPLY_TOKENS + per_rollout * num_rollouts if self.reply_tokens is None else self.reply_tokens
        return self.size - reply - _TEMPLATE_TOKENS

    def tokens(self, prompt: PackedPrompt) -> int:
        """Tokens of the prompt: those of its parts or of the whole, whichever are more."""
        system, user = prompt.parts[0][1], "".join(text for _, text in prompt.parts[1:])
        whole = self._count(system) + self._count(user) + _num_images(prompt) * _IMAGE_TOKENS
        return max(self._parts(prompt), whole)

    def fits(self, prompt: PackedPrompt) -> bool:
        """Whether prompt and reply fit. Counts tokens only where the length does not settle it, and the whole last."""
        room = self.room(len(prompt.labels))
        images = _num_images(prompt) * _IMAGE_TOKENS
        if sum(_most_tokens(text) for _, text in prompt.parts) + images <= room:
            return True
        # Part by part first: most parts stand in several prompts, and are counted once.
        return self._parts(prompt) <= room and self.tokens(prompt) <= room

    def _parts(self, prompt: PackedPrompt) -> int:
        """Tokens of the parts, each counted by itself."""
        return sum(self._count(text) for _, text in prompt.parts) + _num_images(prompt) * _IMAGE_TOKENS

    def _count(self, text: str) -> int:
        if text not in self._counted:
            self._counted[text] = self.count(text)
        return self._counted[text]


def _most_tokens(text: str) -> int:
    """No tokenizer makes more: a token is a byte at least, and normalising makes at most 11 bytes of one that is not
    ASCII (U+FDFA: three bytes, then 33).
    """
    ascii_bytes = len(text.encode("ascii", "ignore"))
    return ascii_bytes + _NORMALISED_BYTES * (len(text.encode("utf-8", "surrogatepass")) - ascii_bytes)


def _checked(judge_name: str, count: Callable[[str], int]) -> Callable[[str], int]:
    """The judge's own counter, which is other people's code."""

    def count_tokens(text: str) -> int:
        try:
            number: object = count(text)
        except (Exception, SystemExit, GeneratorExit) as error:
            raise ConfigError(f"judge {judge_name}: count_tokens raised {describe(error)}") from error
        # Numbers of numpy and its like are welcome.
        if isinstance(number, bool) or not isinstance(number, Integral) or number < 0:
            raise ConfigError(f"judge {judge_name}: count_tokens: expected a whole number, got {number!r:.80}")
        return int(number)

    return count_tokens


def _num_images(prompt: PackedPrompt) -> int:
    content = prompt.messages[-1]["content"]
    return 0 if isinstance(content, str) else sum(part["type"] == "image_url" for part in content)
