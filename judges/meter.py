"""Counts what a run spends, over all its judges, and stops it before a cap is passed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from judges.estimate import TokenEstimator
from judges.gate import Gate
from judges.wrapper import JudgeWrapper
from ruler.errors import BudgetExceeded, ConfigError, JudgeError, RulerError, describe
from ruler.types import Judge, JudgeReply, JudgeRequest, Usage, judge_info, reply_fault, usage_of


class Meter:
    """What one run has spent, and its caps.

    A call begins only when what was spent and what it may itself take stay within the caps. What it may take is
    estimated cautiously and corrected by its reply, so a cap can be passed by the error of the estimates of the calls
    in flight, and by no more calls. While calls are in flight whose reply could still make room, the next one waits.
    Until a judge has replied once, nothing is known of what its replies take: where `max_tokens` does not bound
    them, its calls then go one at a time.

    Attributes:
        max_cost_usd: None: no cap on money.
        max_total_tokens: input and output; None: no cap on tokens.

    Raises:
        ConfigError: a cap that is no positive number.
    """

    def __init__(self, *, max_cost_usd: float | None = None, max_total_tokens: int | None = None) -> None:
        for name, cap in (("max_cost_usd", max_cost_usd), ("max_total_tokens", max_total_tokens)):
            if cap is not None and not 0 < cap < math.inf:
                raise ConfigError(f"{name}: expected a positive number, got {cap}")
        self.max_cost_usd = max_cost_usd
        self.max_total_tokens = max_total_tokens
        self._gate = Gate(forget=self._forget_running)
        self._by_judge: dict[str, Usage] = {}
        self._spent = _Amount()
        self._reserved = _Amount()
        self._in_flight = 0

    @property
    def capped(self) -> bool:
        """Whether there is a cap at all."""
        return self.max_cost_usd is not None or self.max_total_tokens is not None

    @property
    def usage(self) -> Usage:
        """All attempts of all judges so far; the cost is None when one price is unknown."""
        return sum(self.by_judge.values(), Usage())

    @property
    def by_judge(self) -> Mapping[str, Usage]:
        """All attempts so far, by the judge's name."""
        with self._gate.lock:
            return dict(self._by_judge)

    async def reserve(self, measure: Callable[[], _Amount]) -> _Amount:
        """Sets aside what a call may take, measured when its turn has come.

        Raises:
            BudgetExceeded: a cap would be passed, even if all that is in flight cost nothing.
        """
        amount = _Amount()

        def admit() -> float | None:
            nonlocal amount
            amount = measure()
            return self._admit(amount)

        await self._gate.enter(admit)
        return amount

    def settle(self, judge: str, usage: Usage, reserved: _Amount) -> None:
        """Books what an attempt took. Where the reply did not say, what was set aside counts against the caps."""
        with self._gate.lock:
            self._by_judge[judge] = self._by_judge.get(judge, Usage()) + usage
            tokens = usage.input_tokens + usage.output_tokens
            known = tokens > 0 or usage.cost_usd == 0
            self._spent += _Amount(
                reserved.usd if usage.cost_usd is None else usage.cost_usd, tokens if known else reserved.tokens
            )
            self._reserved -= reserved
            self._in_flight -= 1
            self._gate.changed()

    def _forget_running(self) -> None:
        self._reserved, self._in_flight = _Amount(), 0

    def _admit(self, amount: _Amount) -> float | None:
        least = self._spent + amount
        if self.max_cost_usd is not None and least.usd > self.max_cost_usd:
            raise BudgetExceeded(
                f"the cap of ${self.max_cost_usd:g} is reached: ${self._spent.usd:.4f} is spent, "
                f"the next call may cost ${amount.usd:.4f}"
            )
        if self.max_total_tokens is not None and least.tokens > self.max_total_tokens:
            raise BudgetExceeded(
                f"the cap of {self.max_total_tokens:,} tokens is reached: {self._spent.tokens:,} are spent, "
                f"the next call may take {amount.tokens:,}"
            )
        total = least + self._reserved
        fits = self.max_cost_usd is None or total.usd <= self.max_cost_usd
        fits = fits and (self.max_total_tokens is None or total.tokens <= self.max_total_tokens)
        if self._in_flight and (amount.unbounded or not fits):
            return None
        self._reserved += amount
        self._in_flight += 1
        return 0.0


class MeteredJudge(JudgeWrapper):
    """A judge whose every attempt is counted.

    Raises:
        ConfigError: the meter has a cap on money and the judge's price is unknown.
    """

    def __init__(self, judge: Judge, meter: Meter) -> None:
        super().__init__(judge)
        self._name = judge_info(judge).name
        self._meter = meter
        self._estimator = TokenEstimator()
        info = self.info
        known = info is not None and info.input_price is not None and info.output_price is not None
        if meter.max_cost_usd is not None and not known:
            raise ConfigError(
                f"max_cost_usd: the price of {self._name} is unknown, so its cost cannot be capped; give "
                "input_price and output_price (USD per million tokens), or cap max_total_tokens"
            )
        self._prices = (info.input_price or 0.0, info.output_price or 0.0) if info else (0.0, 0.0)

    async def __call__(self, request: JudgeRequest) -> JudgeReply:
        """The reply of the judge inside.

        Raises:
            BudgetExceeded: the call could pass a cap of the meter; it was not made.
        """
        amount = await self._meter.reserve(partial(self._amount, request) if self._meter.capped else _Amount)
        # Until the judge has said otherwise: a cancelled call may have been billed.
        usage = Usage(calls=1, cost_usd=None)
        try:
            reply = await self._judge(request)
            fault = reply_fault(reply)
            if fault:
                raise JudgeError(f"the judge {fault}", usage=usage)
            usage = reply.usage
        except RulerError as error:
            usage = usage_of(error)
            raise
        except (SystemExit, GeneratorExit) as error:
            # From a task these would end the event loop, and with it everybody else's calls.
            raise JudgeError(f"the judge raised {describe(error)}", usage=usage) from error
        finally:
            self._meter.settle(self._name, usage, amount)
        if self._meter.capped:
            self._estimator.learn(request, reply.usage)
        return reply

    def _amount(self, request: JudgeRequest) -> _Amount:
        estimate = self._estimator.estimate(request)
        usd = (estimate.input_tokens * self._prices[0] + estimate.output_tokens * self._prices[1]) / 1e6
        unbounded = request.sampling.max_tokens is None and not self._estimator.has_learnt
        return _Amount(usd, estimate.input_tokens + estimate.output_tokens, unbounded)


@dataclass(frozen=True, slots=True)
class _Amount:
    usd: float = 0.0
    tokens: int = 0
    unbounded: bool = False

    def __add__(self, other: _Amount) -> _Amount:
        return _Amount(self.usd + other.usd, self.tokens + other.tokens)

    def __sub__(self, other: _Amount) -> _Amount:
        return _Amount(self.usd - other.usd, self.tokens - other.tokens)
