"""What to ask one judge about one group: which rollouts in which prompts, and how much of their text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ruler.errors import PackingError
from ruler.orders import Orders, plan_blocks
from ruler.packing import PackedGroup, PackedPrompt, PromptOptions, pack
from ruler.packing.cut import MIN_RESULT_CHARS
from ruler.rubric import Rubric
from ruler.types import Group, JudgeInfo
from ruler.window import Window

MAX_BLOCK = 8
"""Judges do worse on longer lists (JointRank, arXiv 2506.22262); makers of the first relative judge advise 4 to 8."""
_CAP_STEP = 0.8
"""From one length at which tool outputs are cut to the next shorter one."""


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """How the rollouts of a group are spread over prompts."""

    orders: Orders = 1
    max_block: int = MAX_BLOCK
    """Most rollouts in one prompt."""
    context_tokens: int | None = None
    """A window for judges that do not know theirs, or a smaller one for those that do."""

    @property
    def version(self) -> str:
        """Marks of those options that change prompts without being told in a result otherwise."""
        block = "" if self.max_block == MAX_BLOCK else f"+block{self.max_block}"
        return block + ("" if self.context_tokens is None else f"+context{self.context_tokens}")


@dataclass(frozen=True, slots=True)
class Plan:
    """The prompts for one judge."""

    packed: PackedGroup
    orders: tuple[tuple[PackedPrompt, ...], ...]
    """For each order its blocks; one block where all rollouts stand in one prompt. Empty when there is one rollout
    to show for several: they read the same, and nothing needs to be asked."""

    @property
    def in_blocks(self) -> bool:
        """Whether no prompt shows the whole group."""
        return any(len(blocks) > 1 for blocks in self.orders)

    def prefix_chars(self, prompt: PackedPrompt) -> int:
        """How much of this prompt's user text other prompts of the plan begin with, too; 0 for a single prompt."""
        if self.in_blocks:
            return len(prompt.parts[1][1])  # shared text is that of the block
        return prompt.prefix_chars if len(self.orders) > 1 else 0


class Planner:
    """Plans for one group; what several judges are shown alike is laid out once."""

    def __init__(self, group: Group, rubric: Rubric, prompt_options: PromptOptions, options: PlanOptions) -> None:
        self._group = group
        self._rubric = rubric
        self._prompt_options = prompt_options
        self._options = options
        self._packed: dict[tuple[bool, int | None], PackedGroup] = {}

    def plan(self, judge_name: str, info: JudgeInfo) -> Plan:
        """The prompts for this judge, all of which fit its window.

        Where they would not, first long tool outputs are cut, all at the same length, which is the longest that helps;
        then the group is split into blocks, as few as possible.

        Raises:
            PackingError: two rollouts do not fit together, however much is cut.
        """
        whole = self._pack(info.images, None)
        size = len(whole.rollouts)
        if size == 1 and len(self._group.rollouts) > 1:
            return Plan(whole, ())
        window = Window.of(judge_name, info, self._options.context_tokens, notes=self._prompt_options.notes)
        for max_block in _block_sizes(size, self._options.max_block):
            if window is None or self._fits(whole, max_block, window):
                return self._spread(whole, max_block)
            cut = self._cut(whole, max_block, window)
            if cut is not None:
                return self._spread(cut, max_block)
        assert window is not None, "without a window the first plan fits"
        raise self._too_long(whole, judge_name, window)

    def _pack(self, images: bool, max_result_chars: int | None) -> PackedGroup:
        key = (images, max_result_chars)
        if key not in self._packed:
            if max_result_chars is None:
                packed = pack(self._group, self._rubric, self._prompt_options, images=images)
            else:
                packed = self._pack(images, None).cut(max_result_chars)
            self._packed[key] = packed
        return self._packed[key]

    def _spread(self, packed: PackedGroup, max_block: int) -> Plan:
        orders = plan_blocks(len(packed.rollouts), max_block, self._options.orders, packed.seed)
        return Plan(
            packed,
            tuple(
                tuple(packed.prompt(shown, order=order, block=block) for block, shown in enumerate(blocks))
                for order, blocks in enumerate(orders)
            ),
        )

    def _fits(self, packed: PackedGroup, max_block: int, window: Window) -> bool:
        """Whether every prompt fits, in whatever number of orders.

        Not only in those that are wanted now: cuts and blocks must not depend on their number, or whoever buys more
        orders would pay for the first ones again.
        """
        return all(window.fits(packed.prompt(shown)) for shown in self._shown(packed, max_block))

    def _shown(self, packed: PackedGroup, max_block: int) -> Iterable[Sequence[int]]:
        """Which rollouts stand together in a prompt, in any number of orders."""
        size = len(packed.rollouts)
        if size <= max_block:  # in every order the same
            return (range(size),)
        most: tuple[Orders, ...] = (4, "full")  # the smaller plans are beginnings of both
        plans = (plan_blocks(size, max_block, orders, packed.seed) for orders in most)
        return dict.fromkeys(tuple(sorted(block)) for plan in plans for blocks in plan for block in blocks)

    def _cut(self, whole: PackedGroup, max_block: int, window: Window) -> PackedGroup | None:
        """The group with the longest tool outputs that fit; None when none do."""
        caps = _caps(whole.longest_result_chars)
        if not caps:
            return None
        if not self._fits_cut(whole, caps[-1], max_block, window):
            # Mostly nothing helps then. But outputs that were equal in part can be shorter together when they are cut
            # less, because then they are still shared. Tried for the largest blocks alone: each try lays out all anew.
            if max_block < min(len(whole.rollouts), self._options.max_block):
                return None
            found = (cap for cap in caps[:-1] if self._fits_cut(whole, cap, max_block, window))
            best = next(found, None)
            return None if best is None else self._pack(whole.images, best)
        low, high = 0, len(caps) - 1
        while low < high:
            middle = (low + high) // 2
            if self._fits_cut(whole, caps[middle], max_block, window):
                high = middle
            else:
                low = middle + 1
        return self._pack(whole.images, caps[high])

    def _fits_cut(self, whole: PackedGroup, cap: int, max_block: int, window: Window) -> bool:
        return self._fits(self._pack(whole.images, cap), max_block, window)

    def _too_long(self, whole: PackedGroup, judge_name: str, window: Window) -> PackingError:
        shortest = self._pack(whole.images, MIN_RESULT_CHARS)
        prompts = map(shortest.prompt, self._shown(shortest, 2))
        prompt = max(prompts, key=lambda prompt: window.tokens(prompt) - window.room(len(prompt.labels)))
        ids = ", ".join(repr(prompt.rollouts[label][0]) for label in prompt.labels)
        cut = " even with tool outputs cut short" if whole.longest_result_chars > MIN_RESULT_CHARS else ""
        room = max(0, window.room(len(prompt.labels)))
        return PackingError(
            f"group {self._group.id!r}: the prompt that shows rollouts {ids} has {window.tokens(prompt):,} tokens "
            f"({window.tokenizer}){cut}, the window of judge {judge_name} ({window.size:,}) has room for {room:,} "
            "beside the reply"
        )


def _block_sizes(size: int, max_block: int) -> Iterator[int]:
    """Block sizes to try: the largest, then each that makes for more blocks, down to pairs."""
    num_blocks = math.ceil(size / max_block)
    largest = max(2, math.ceil(size / num_blocks))
    yield largest
    for smaller in range(largest - 1, 1, -1):
        if math.ceil(size / smaller) > num_blocks:
            num_blocks = math.ceil(size / smaller)
            yield smaller


def _caps(longest: int) -> Sequence[int]:
    """Lengths at which tool outputs may be cut, the longest first."""
    caps = []
    cap = longest * _CAP_STEP
    while cap > MIN_RESULT_CHARS:
        caps.append(int(cap))
        cap *= _CAP_STEP
    return [*caps, MIN_RESULT_CHARS] if longest > MIN_RESULT_CHARS else []
