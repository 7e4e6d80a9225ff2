"""The underlying's price implied by option quotes, by put–call parity.

Call mid - put mid + strike, without interest, so it is the forward of that expiry. Median over the three strikes with
the smallest distance between both mids. Crossed quotes are left out.
"""

from __future__ import annotations

import numpy as np

from daemon.tapes.quotes.reader import Float64Array, Int64Array, QuoteArrays

NEAREST = 3


def forwards(quotes: QuoteArrays) -> Float64Array:
    """Return (n,) the implied forward of each row's root and expiry at its time; NaN without a pair of quotes."""
    chain = _chain_of(quotes)
    _, at = np.unique(quotes.end_ns, return_inverse=True)
    moment = at * (chain.max(initial=0) + 1) + chain[quotes.codes]  # one number for each chain and time
    keys, place = np.unique(moment, return_inverse=True)
    values = np.full(keys.size, np.nan)
    pairs, implied_forwards = _implied_forwards(quotes, place)
    values[pairs] = implied_forwards
    return values[place]


def spots(quotes: QuoteArrays) -> Float64Array:
    """Return (n,) the underlying at each row's time: recorded, else the nearest expiry's forward of the same root."""
    implied_forwards = forwards(quotes)
    contracts = quotes.contracts
    _, root = np.unique(np.array(contracts.roots, dtype=object), return_inverse=True)
    _, at = np.unique(quotes.end_ns, return_inverse=True)
    key = at * (root.max(initial=0) + 1) + root[quotes.codes]
    expiry = contracts.expiry.astype(np.int64)[quotes.codes]
    places = np.flatnonzero(np.isfinite(implied_forwards))
    order = places[np.lexsort((expiry[places], key[places]))]
    keys, first = np.unique(key[order], return_index=True)
    nearest = implied_forwards[order[first]]
    prices = np.full(quotes.end_ns.size, np.nan)
    if keys.size:
        place = np.minimum(np.searchsorted(keys, key), keys.size - 1)
        prices = np.where(keys[place] == key, nearest[place], np.nan)
    return np.where(np.isfinite(quotes.underlying), quotes.underlying, prices)


def _chain_of(quotes: QuoteArrays) -> Int64Array:
    """Return (k,) a number for each contract's root and expiry."""
    contracts = quotes.contracts
    pairs = [f"{root} {expiry}" for root, expiry in zip(contracts.roots, contracts.expiry, strict=True)]
    numbers: Int64Array = np.unique(np.array(pairs, dtype=object), return_inverse=True)[1].astype(np.int64)
    return numbers


def _implied_forwards(quotes: QuoteArrays, place: Int64Array) -> tuple[Int64Array, Float64Array]:
    """Return the indices with a pair of quotes, and their implied forwards."""
    contracts, mid = quotes.contracts, quotes.mid
    strike, right = contracts.strike[quotes.codes], contracts.right[quotes.codes]
    good = np.isfinite(mid) & np.isfinite(strike) & (quotes.bid <= quotes.ask)
    calls, puts = np.flatnonzero(good & (right > 0)), np.flatnonzero(good & (right < 0))
    _, grid = np.unique(strike, return_inverse=True)
    key = place * (grid.max(initial=0) + 1) + grid
    _, of_call, of_put = np.intersect1d(key[calls], key[puts], return_indices=True)
    calls, puts = calls[of_call], puts[of_put]
    apart = mid[calls] - mid[puts]
    value, where = apart + strike[calls], place[calls]
    order = np.lexsort((np.abs(apart), where))
    where, value = where[order], value[order]
    pairs, begins = np.unique(where, return_index=True)
    nth = np.arange(where.size) - np.repeat(begins, np.diff(np.append(begins, where.size)))
    near = nth < NEAREST
    nearest = np.full((pairs.size, NEAREST), np.nan)
    nearest[np.searchsorted(pairs, where[near]), nth[near]] = value[near]
    return pairs, np.nanmedian(nearest, axis=1) if pairs.size else np.empty(0)
