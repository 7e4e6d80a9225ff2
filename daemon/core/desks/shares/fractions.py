"""Whether a desk of shares trades fractions: one rule for the desk and for training. Pure; floats in, bool out."""

from __future__ import annotations

from collections.abc import Sequence

FEWEST_SHARES = 4.0  # with fewer, a position is more than an eighth off what is wanted, on the worst day


def fractions_fit(equity: float, prices: Sequence[float]) -> bool:
    """Return whether an equal part of the equity pays for fewer than four shares of some symbol with a price.

    Args:
        equity: USD.
        prices: USD a share of each of the desk's symbols, the last known; 0 or less (or infinite) where none is.
    """
    part = equity / len(prices) if prices else 0.0
    return any(0.0 < price < float("inf") and part < FEWEST_SHARES * price for price in prices)
