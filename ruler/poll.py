"""One judge asked about one group: which orders of its plan, and what came of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

from ruler.aggregate import Merged, disagree
from ruler.asking import Answer, NoAnswer, Question
from ruler.errors import BudgetExceeded
from ruler.orders import linked
from ruler.packing import PackedPrompt
from ruler.plan import Plan
from ruler.types import FailedOrder, Group, Judge, JudgedOrder, JudgeRequest, Juror, Usage

_MAX_MESSAGE_CHARS = 500


class Poll:
    """Asks nobody itself: gives the questions, and takes their outcomes."""

    def __init__(
        self, judge: Judge, judge_name: str, plan: Plan, request: Callable[[PackedPrompt], JudgeRequest]
    ) -> None:
        self.judge_name = judge_name
        self.plan = plan
        self.outcomes: list[Answer | NoAnswer] = []
        self._judge = judge
        self._request = request
        self._asked = 0

    def questions(self, num_orders: int | None = None) -> list[Question]:
        """Those of the first `num_orders` orders that were not asked yet; None: of all orders."""
        start, stop = self._asked, len(self.plan.orders)
        self._asked = stop if num_orders is None else min(stop, num_orders)
        return [
            Question(self._judge, self.judge_name, prompt, self._request(prompt))
            for blocks in self.plan.orders[start : self._asked]
            for prompt in blocks
        ]

    def take(self, outcomes: Sequence[Answer | NoAnswer]) -> None:
        """Keeps what came of the latest questions."""
        self.outcomes += outcomes

    @property
    def judged(self) -> list[JudgedOrder]:
        """The prompts of complete orders: those of which every block has been answered."""
        return [answer.judged for answer in self._complete()]

    @property
    def orders_used(self) -> int:
        """How many orders are complete."""
        return len({answer.question.prompt.order for answer in self._complete()})

    @property
    def usage(self) -> Usage:
        """What all outcomes took, failures included."""
        return sum((outcome.usage for outcome in self.outcomes), Usage())

    def suffices(self, min_orders: int | None) -> bool:
        """Whether enough orders are complete; None: all that were asked. Never after a reached budget."""
        if any(isinstance(failure.error, BudgetExceeded) for failure in self._failures()):
            return False
        needed = self._asked if min_orders is None else min(self._asked, min_orders)
        # Blocks that share no rollout, as those of one order, cannot be compared.
        return self.orders_used >= needed and linked(judged.rollout_ids for judged in self.judged)

    def is_lost(self, min_orders: int | None) -> bool:
        """Whether no further order can make the answers suffice."""
        failures = self._failures()
        if min_orders is None or any(isinstance(failure.error, BudgetExceeded) for failure in failures):
            return bool(failures)
        return len(self.plan.orders) - len(set(map(_order, failures))) < min(len(self.plan.orders), min_orders)

    def is_disputed(self) -> bool:
        """Whether further orders are worth their price. From these orders alone, so that it is always the same."""
        if self.orders_used < min(2, len(self.plan.orders)):
            return True
        return self._asked < len(self.plan.orders) and disagree(self.judged)

    def failed_orders(self) -> list[FailedOrder]:
        """The orders that are not complete."""
        by_order = groupby(sorted(self._failures(), key=_order), key=_order)
        firsts = [(order, next(failures).error) for order, failures in by_order]
        return [
            FailedOrder(self.judge_name, order, error.code, " ".join(str(error).split())[:_MAX_MESSAGE_CHARS])
            for order, error in firsts
        ]

    def juror(self, merged: Merged, group: Group) -> Juror:
        """What this judge says of the group, in the caller's order of rollouts."""
        ids = [self.plan.packed.representatives[rollout.id] for rollout in group.rollouts]
        notes: dict[str, str] = {}
        complete = self._complete()
        for answer in reversed(complete):  # the first order's notes win
            shown = answer.question.prompt.rollouts
            notes |= {shown[label][0]: note for label, note in answer.verdict.notes.items()}
        answered_by = dict.fromkeys(answer.reply.judge for answer in complete if answer.reply.judge)
        return Juror(
            judge=self.judge_name,
            model=" + ".join(dict.fromkeys(answer.reply.model for answer in complete)),
            scores=tuple(merged.scores[name] for name in ids),
            stderr=None if merged.stderr is None else tuple(merged.stderr[name] for name in ids),
            notes=tuple(notes.get(name) for name in ids),
            usage=self.usage,
            answered_by=" + ".join(answered_by) or None,
        )

    def _failures(self) -> list[NoAnswer]:
        return [outcome for outcome in self.outcomes if isinstance(outcome, NoAnswer)]

    def _complete(self) -> list[Answer]:
        failed = {_order(failure) for failure in self._failures()}
        answers = [outcome for outcome in self.outcomes if isinstance(outcome, Answer)]
        return [answer for answer in answers if _order(answer) not in failed]


def _order(outcome: Answer | NoAnswer) -> int:
    return outcome.question.prompt.order
