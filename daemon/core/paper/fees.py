"""Fees of an option order: one formula over its cumulative figures, in Decimal.

The cumulative sum is rounded up to the cent once, so partial fills do not add rounding. Rates and their sources are in
docs/PAPER.md and `daemon.core.limits.Paper`.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal

from daemon.core.limits import Paper

CENT = Decimal("0.01")


def fees(quantity: int, proceeds: Decimal, side: int, paper: Paper) -> Decimal:
    """Return all fees of one order so far in USD, rounded up to the cent.

    `quantity` is the order's cumulative contracts, `proceeds` its cumulative value in USD (price x 100 x contracts),
    `side` +1 a buy, -1 a sale. Commission, options regulatory fee and clearing fee are per contract on both sides; the
    trading activity fee is per contract sold, the Section 31 fee a part of the proceeds of sales.
    """
    total = (paper.commission_usd + paper.orf_usd + paper.occ_usd) * quantity
    if side < 0:
        total += paper.taf_usd * quantity + paper.sec_rate * proceeds
    return total.quantize(CENT, rounding=ROUND_CEILING)
