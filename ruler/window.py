"""How much of a judge's window a prompt takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ruler.packing import PackedPrompt
from ruler.token_bound import token_bound
from ruler.types import JudgeInfo

_TEMPLATE_TOKENS = 32
"""Role headers and the like, which chat templates put around two messages."""
_IMAGE_TOKENS = 1_600
"""What the large providers count for one large image."""
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
    def of(cls, info: JudgeInfo, given: int | None, *, notes: bool) -> Window | None:
        """The judge's window, or the given one if that is smaller; None when neither is known.

        Tokens are counted by the judge's own tokenizer where it has one, else by a bound (`ruler.token_bound`).
        """
        known = [size for size in (info.context_tokens, given) if size is not None]
        if not known:
            return None
        count, name = (token_bound, "estimated") if info.count_tokens is None else (info.count_tokens, info.model)
        return cls(min(known), info.sampling.max_tokens, count, name, notes)

    def room(self, num_rollouts: int) -> int:
        """Tokens that a prompt of this many rollouts may have."""
        per_rollout = _REPLY_TOKENS_PER_SCORE + _REPLY_TOKENS_PER_NOTE * self.notes
        reply = _REPLY_TOKENS + per_rollout * num_rollouts if self.reply_tokens is None else self.reply_tokens
        return self.size - reply - _TEMPLATE_TOKENS

    def tokens(self, prompt: PackedPrompt) -> int:
        """Tokens of the prompt; part by part, because most parts stand in several prompts."""
        total = _num_images(prompt) * _IMAGE_TOKENS
        for _, text in prompt.parts:
            if text not in self._counted:
                self._counted[text] = self.count(text)
            total += self._counted[text]
        return total

    def fits(self, prompt: PackedPrompt) -> bool:
        """Whether prompt and reply fit. Counts tokens only where bytes do not settle it."""
        room = self.room(len(prompt.labels))
        size = sum(len(text.encode()) for _, text in prompt.parts) + _num_images(prompt) * _IMAGE_TOKENS
        return size <= room or self.tokens(prompt) <= room  # no tokenizer makes more tokens than bytes


def _num_images(prompt: PackedPrompt) -> int:
    content = prompt.messages[-1]["content"]
    return 0 if isinstance(content, str) else sum(part["type"] == "image_url" for part in content)
