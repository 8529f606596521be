"""From the reply's fixed form to the tokens that decide a score, and from their probabilities to the reply.

For the rollout KQX the reply begins `{"scores": [{"id": "KQX", "score":`; what follows is one of ` 0` to ` 100`. A
tokenizer cuts that text in its own way: `73` may be one token or two, the space may belong to it, and so may what
stands behind it. So each whole continuation is tokenized, and the tokens that tell one integer from another are found
by comparison.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

NUM_SCORES = 101
_SAMPLE_ID = "KQX"
_SAMPLE_SCORES = (0, 7, 10, 73, 100)
# What can stand behind the integer: `7` is over only where one of them begins. As each tokenizer merges them in its own
# way (`}`, `},`, `}]}`), an integer may end in several tokens. A model that means 10 must find its usual one among
# them, or its 10 would be read as 100.
_ENDS = ("}", '}, {"id": "', "}]}")

Encode = Callable[[str], Sequence[int]]


class NoDecisionError(ValueError):
    """The tokenizer writes two different integers with the same tokens."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A place in the reply where several next tokens are possible.

    `settles` and `leads` share no token and have at least two together.
    """

    tokens: tuple[int, ...]
    """What is written to get here, from the decision before or from the end of the prompt; at least one."""
    settles: Mapping[int, int]
    """Next token -> the only score 0..100 that begins with it; several tokens may settle the same score."""
    leads: Mapping[int, Decision]
    """Next token -> the decision between the scores that begin with it; the first of that decision's `tokens`."""

    @property
    def num_tokens(self) -> int:
        """Tokens that a model must be shown for the probabilities here and at all decisions that follow."""
        return len(self.tokens) + sum(decision.num_tokens for decision in self.leads.values())

    @property
    def depth(self) -> int:
        """Tokens on the longest way through the decisions."""
        return len(self.tokens) + max((decision.depth for decision in self.leads.values()), default=0)


class ScoreTokens:
    """The decisions of one tokenizer.

    Args:
        encode: text -> token ids, without any token of beginning or end.

    Raises:
        NoDecisionError: the tokenizer cannot tell the integers apart.
    """

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        head = tuple(encode(_head(_SAMPLE_ID)))
        whole = self._continuations(_SAMPLE_ID)
        first = _decision(whole)
        # Almost all tokenizers cut right behind the id. What follows is then the same for every id.
        self._tail: Decision | None = None
        self._samples: dict[str, tuple[int, ...]] = {}
        if all(tokens[: len(head)] == head for tokens, _ in whole) and len(first.tokens) > len(head):
            self._tail = replace(first, tokens=first.tokens[len(head) :])
            for place, score in enumerate(_SAMPLE_SCORES):
                text = f"{score}{_ENDS[place % len(_ENDS)]}"
                self._samples[text] = tuple(encode(_continuation(_SAMPLE_ID, text)))[len(head) :]

    def first_decision(self, id: str) -> Decision:
        """The first decision on the score of the rollout with this id.

        Where a few samples behind this id are tokenized as they are behind any other, all are taken to be: it is a
        hundred times faster than to try all, and the tokens spell the same text in any case.

        Raises:
            NoDecisionError: the tokenizer cannot tell the integers apart.
        """
        if self._tail:
            head = tuple(self._encode(_head(id)))
            if all(tuple(self._encode(_continuation(id, text))) == head + tail for text, tail in self._samples.items()):
                return replace(self._tail, tokens=head + self._tail.tokens)
        return _decision(self._continuations(id))

    def _continuations(self, id: str) -> list[tuple[tuple[int, ...], int]]:
        return [
            (tuple(self._encode(_continuation(id, f"{score}{end}"))), score)
            for score in range(NUM_SCORES)
            for end in _ENDS
        ]


def expectation(distribution: Mapping[int, float]) -> float:
    """The mean score, 0..100, to 4 decimals; what Liu et al. 2023 (G-Eval, arXiv 2303.16634) take for the score."""
    return round(math.fsum(score * probability for score, probability in distribution.items()), 4)


def reply_text(scores: Mapping[str, float]) -> str:
    """The reply in the contract's form, in the given order, without notes."""
    return json.dumps({"scores": [{"id": id, "score": score} for id, score in scores.items()]}, ensure_ascii=False)


def _head(id: str) -> str:
    """The reply up to and with the id, before its closing quote."""
    return '{"scores": [{"id": ' + json.dumps(id, ensure_ascii=False)[:-1]


def _continuation(id: str, score_and_end: str) -> str:
    return f'{_head(id)}", "score": {score_and_end}'


def _decision(paths: Sequence[tuple[tuple[int, ...], int]]) -> Decision:
    """The first decision between (tokens, score) paths."""
    shortest = min(len(tokens) for tokens, _ in paths)
    first = paths[0][0]
    common = 0
    while common < shortest and all(tokens[common] == first[common] for tokens, _ in paths):
        common += 1
    if common == shortest:
        raise NoDecisionError(f"it writes {len({score for _, score in paths})} different scores with the same tokens")
    branches = defaultdict(list)
    for tokens, score in paths:
        branches[tokens[common]].append((tokens[common:], score))
    settles, leads = {}, {}
    for token, branch in branches.items():
        scores = {score for _, score in branch}
        if len(scores) == 1:
            settles[token] = scores.pop()
        else:
            leads[token] = _decision(branch)
    return Decision(first[:common], settles, leads)
