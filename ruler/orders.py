"""In which orders the rollouts of a group are shown, and in which blocks where one prompt cannot hold them all.

Plans depend on size and seed alone, so that the same group gives the same prompts on every machine. They are nested:
the first two orders of a larger plan are the plan of two, and whoever begins with two can buy the rest later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Sequence, Set
from typing import Literal, TypeAlias

from ruler.errors import ConfigError

Orders: TypeAlias = Literal[1, 2, 4, "full"]
"""How many orders a judge is shown; full: as many as there are slots."""

_MAX_SALTS = 1_000
_MAX_DEALS = 64


def seeded_order(size: int, seed: str) -> tuple[int, ...]:
    """One permutation of `range(size)`, the same for the same seed on every machine and Python version.

    Positions carry bias, so the order must not follow arrival (which follows length and latency). `random.shuffle`
    was rejected: its sequence is not promised across Python versions, and stored answers depend on it.
    """
    return tuple(sorted(range(size), key=lambda index: hashlib.sha256(f"{seed}|order|{index}".encode()).digest()))


def plan_orders(size: int, orders: Orders, seed: str) -> tuple[tuple[int, ...], ...]:
    """The different orders of a whole group: permutations of `range(size)`, `seeded_order` first.

    2: it and its cyclic shift by half. Forward and reverse would leave a bias for both ends as it is. 4: these two
    and the reverse of each, which takes away any linear slot bias, and for an even size one that is equal at both ends.
    full, and 4 where the group has no more rollouts: a Latin square, each rollout once in each slot, which takes away
    any slot bias.

    Orders that come out equal stand once: a group of three has at most three, a group of one or none has one.

    Raises:
        ConfigError: orders is none of 1, 2, 4 and "full".
    """
    base = seeded_order(size, seed)
    return tuple(tuple(base[place] for place in order) for order in _slot_plan(size, orders))


def plan_blocks(size: int, max_block: int, orders: Orders, seed: str) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """For each order its blocks: a partition of `range(size)` into prompts of at most `max_block` rollouts.

    A group that fits is one block in each order of `plan_orders`. A larger one gets two orders at least, because blocks
    can be compared only over rollouts that stand in two of them; block sizes differ by at most one. Every rollout
    stands in every order once. (With blocks of two and an odd size, one rollout an order stands twice: a block of
    one would compare with nothing. Of small groups there are few partitions: a block that an earlier order shows
    just so would be the same question, and is left out.) Any two rollouts are linked over blocks they share with
    others, in the first two orders already. "full" has as many orders as a block has slots; 4 has four, in blocks of
    two or three some slots are then seen again.

    The c-th rollouts of the first order's blocks are row c. A row moves through the slots as one rollout does in
    `plan_orders`, and its members are dealt to the blocks of each order in turn, from a seeded start of that row. So
    two orders' blocks overlap as evenly as can be. In simulation (N 9 to 500, blocks of 8, two and four orders) this
    is as good as a lattice; random partitions have up to twice the squared error, since slots do not balance; members
    dealt at random to blocks have the same error at N = 500, but in small groups more, and the worst groups are worse.

    Raises:
        ConfigError: `max_block` below 2, or orders is none of 1, 2, 4 and "full".
    """
    if max_block < 2:
        raise ConfigError(f"max_block: expected at least 2, got {max_block}")
    if size <= max_block:
        return tuple((order,) for order in plan_orders(size, orders, seed))
    base = seeded_order(size, seed)
    num_blocks = -(-size // max_block)
    rows = [base[start : start + num_blocks] for start in range(0, size, num_blocks)]
    slot_plan = _slot_plan(len(rows), 2 if orders == 1 else orders)
    # Equal slot plans are no equal orders here: the blocks differ.
    num_orders = max(2, len(slot_plan) if orders == "full" else orders)
    for salt in range(_MAX_SALTS):
        plan: list[tuple[tuple[int, ...], ...]] = []
        asked: set[tuple[int, ...]] = set()
        for order in range(num_orders):
            slots = slot_plan[order % len(slot_plan)]
            blocks = _new_blocks(rows, slots, order, f"{seed}|blocks|{salt}", asked)
            plan.append(tuple(block for block in blocks if block not in asked))
            asked.update(blocks)
        if linked(block for blocks in plan[:2] for block in blocks):
            return tuple(blocks for blocks in plan if blocks)
    raise AssertionError(f"no linked blocks for size {size}, max_block {max_block}, seed {seed!r}")


def _slot_plan(size: int, orders: Orders) -> tuple[tuple[int, ...], ...]:
    """The orders of a group of which the first one is 0, 1, 2 and so on."""
    if orders not in (1, 2, 4, "full"):
        raise ConfigError(f"orders: expected 1, 2, 4 or 'full', got {orders!r}")
    forward = tuple(range(size))
    half = size // 2
    shifted = forward[half:] + forward[:half]
    plan: tuple[tuple[int, ...], ...]
    if orders in (1, 2):
        plan = (forward, shifted)[:orders]
    elif size == 4 or (orders == 4 and size > 4):
        # The reverse of the shift, not the shift of the reverse: for an odd size only this takes away linear bias.
        plan = (forward, shifted, forward[::-1], shifted[::-1])
    else:
        shifts = [half, *(shift for shift in range(1, size) if shift != half)]
        plan = (forward, *(forward[shift:] + forward[:shift] for shift in shifts))
    return tuple(dict.fromkeys(plan))


def _new_blocks(
    rows: Sequence[tuple[int, ...]], slots: Sequence[int], order: int, seed: str, asked: Set[tuple[int, ...]]
) -> tuple[tuple[int, ...], ...]:
    """The order's blocks, dealt anew until none holds the same rollouts as an earlier one, or as few as possible do."""
    together = {frozenset(block) for block in asked}
    best: tuple[tuple[int, ...], ...] = ()
    fewest: tuple[int, int] | None = None
    for attempt in range(_MAX_DEALS):
        blocks = _blocks(rows, slots, order, f"{seed}|{attempt}" if attempt else seed)
        repeats = (sum(block in asked for block in blocks), sum(frozenset(block) in together for block in blocks))
        if fewest is None or repeats < fewest:
            best, fewest = blocks, repeats
        if not any(repeats):
            break
    return best


def _blocks(
    rows: Sequence[tuple[int, ...]], slots: Sequence[int], order: int, seed: str
) -> tuple[tuple[int, ...], ...]:
    num_blocks = len(rows[0])
    starts = [0] * len(rows)
    if order:
        # Each start equally often: rows that begin alike keep their members together.
        every = seeded_order(num_blocks, f"{seed}|starts|{order}")
        for turn, row in enumerate(seeded_order(len(rows), f"{seed}|rows|{order}")):
            starts[row] = every[turn % num_blocks]
    blocks: list[list[int]] = [[] for _ in range(num_blocks)]
    for row in slots:
        for place, rollout in enumerate(rows[row]):
            blocks[(place + starts[row]) % num_blocks].append(rollout)
    for block in blocks:
        if len(block) == 1:
            others = [rollout for row in rows for rollout in row if rollout not in block]
            lent = others[seeded_order(len(others), f"{seed}|lent|{order}")[0]]
            block.insert(slots.index(len(rows) - 1), lent)
    return tuple(map(tuple, blocks))


def count_parts(blocks: Iterable[Sequence[Hashable]]) -> int:
    """Into how many parts the blocks fall, of which no two share a rollout, over other blocks neither."""
    parts: list[set[Hashable]] = []
    for block in blocks:
        joined = set(block)
        apart = []
        for part in parts:
            if joined.isdisjoint(part):
                apart.append(part)
            else:
                joined |= part
        parts = [*apart, joined]
    return len(parts)


def linked(blocks: Iterable[Sequence[Hashable]]) -> bool:
    """Whether every rollout can be reached from every other over blocks that share one; True when there is none."""
    return count_parts(blocks) <= 1
