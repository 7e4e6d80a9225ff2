"""Cash that is short is shared by all buys in proportion to their cost, exactly, in whole numbers.

`training.desks.daily.share_accounts` has the same arithmetic on tensors of float64; a test compares both. Invariant:
what is left of the counts never costs more than is available, and no count grows.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from math import lcm

BITS = 20  # of the part that every buy keeps
TICKS = 10_000  # a USD: prices are whole ticks at most this fine
COST_GRID = 1_000_000  # a USD: costs are whole parts of this size
CENTS = 100  # a USD: the part is that of whole cents, so that float64 holds it exactly


def units_a_usd(per_share: int) -> int:
    """Return how many units of money are a USD: one step of a share at one tick is whole, and so is a cost."""
    return lcm(COST_GRID, TICKS * per_share)


def whole_units(usd: Decimal, per_share: int) -> int:
    """Return USD in whole units of money, rounded down."""
    return int((usd * units_a_usd(per_share)).to_integral_value(ROUND_FLOOR))


def step_cost(price: Decimal, cost_rate: Decimal, per_share: int) -> int:
    """Return what one step of a share costs at this price in USD, cost included, in whole units rounded up.

    Counts times this cover each order's own cost rounded up to 1e-6 USD where shares are whole; with fractions
    `slack` more for each order.
    """
    usd = price * (1 + cost_rate) * units_a_usd(per_share) / per_share
    return int(usd.to_integral_value(ROUND_CEILING))


def slack(per_share: int) -> int:
    """Return the units of money by which the cost of one order may be rounded up beyond its steps' own."""
    return 0 if per_share == 1 else units_a_usd(per_share) // COST_GRID


def shared(counts: Sequence[int], costs_each: Sequence[int], available: int, per_share: int = 1) -> list[int]:
    """Return how many steps of each buy the cash pays for: all of them, or each buy's same part of it.

    The part is floor(available x 2^20 / needed) / 2^20, in whole cents. What rounding leaves over goes, one share each,
    to the buys with the largest remainders (ties by place) that it still pays for; with fractions it stays cash.

    Args:
        counts: steps wanted, 0 or more, in the order of the spec's symbols.
        costs_each: units of money that one step costs (`step_cost`), above 0 where steps are wanted.
        available: units of money, after `slack` for each buy; below 0 counts as 0.
        per_share: steps in a share; 1 on a desk of whole shares.
    """
    available = max(available, 0)
    needed = sum(count * cost for count, cost in zip(counts, costs_each, strict=True))
    if needed <= available:
        return list(counts)
    cent = units_a_usd(per_share) // CENTS
    part = ((available // cent) << BITS) // -(-needed // cent)
    kept = [count * part >> BITS for count in counts]
    if per_share > 1:
        return kept
    left = available - sum(count * cost for count, cost in zip(kept, costs_each, strict=True))
    remainders = [count * part & ((1 << BITS) - 1) for count in counts]
    for place in sorted(range(len(counts)), key=lambda place: -remainders[place]):
        if counts[place] > 0 and costs_each[place] <= left:
            kept[place] += 1
            left -= costs_each[place]
    return kept
