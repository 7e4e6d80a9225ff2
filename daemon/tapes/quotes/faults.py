"""Faults of recorded option quotes; all readers apply the same checks.

`FAULTS` are impossible in any market, so nothing trades at such a quote. `REMARKS` are possible; they are counted.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from daemon.tapes.quotes.reader import Int64Array, QuoteArrays
from daemon.tapes.quotes.spot import spots
from strategies.kit.contract import Session
from strategies.kit.units import MINUTE_NS

BoolArray = npt.NDArray[np.bool_]

FAULTS = {
    "symbol": "no OCC symbol",
    "not_finite": "bid or ask is missing, not finite or below 0",
    "crossed": "the bid is above the ask",
    "extremes": "bid or ask lies outside of the minute's low and high",
    "off_minute": "the time is no whole minute",
    "no_session": "the exchange was closed that day",
    "expired": "the contract expired before that day",
    "strike_grid": "the strike is no multiple of 0.50 USD, or all of that expiry are far from the underlying",
    "impossible": "the bid of a put is above its strike, that of a call above the underlying",
}
REMARKS = {
    "outside": "before the first minute's end, or after the close",
    "zero": "neither bid nor ask",
    "one_sided": "no bid, or no ask",
    "leaping": "the mid moved by half and 0.25 USD at least, and half of it came back with the next quote",
    "stale": "bid and ask stood for 15 minutes or more while the underlying moved by 0.2 %; strikes within 2 %",
    "gaps": "minutes without a row between a contract's first and last of the session",
}
STALE_NS = 15 * MINUTE_NS
LEAP_WITHIN_NS = 5 * MINUTE_NS  # longest time between the two quotes of a leap


def usable(quotes: QuoteArrays, session: Session | None, *, minutes: bool = True) -> BoolArray:
    """Return (n,) whether a quote may be used to trade or calibrate: inside the session, without a fault, two-sided.

    `minutes` False allows times that are not whole minutes (snapshots).
    """
    masks = faults(quotes, session, minutes=minutes)
    wrong = np.any([masks[name] for name in FAULTS], axis=0)
    good: BoolArray = ~wrong & ~masks["outside"] & ~masks["zero"] & ~masks["one_sided"]
    return good


def faults(quotes: QuoteArrays, session: Session | None, *, minutes: bool = True) -> dict[str, BoolArray]:
    """Return, by name of `FAULTS` and of the remarks about single rows, (n,) whether a row has it.

    `session` is that of the date, None when the exchange was closed.
    """
    contracts, codes = quotes.contracts, quotes.codes
    strike, right = contracts.strike[codes], contracts.right[codes]
    bid, ask = quotes.bid, quotes.ask
    finite = np.isfinite(bid) & np.isfinite(ask) & (bid >= 0) & (ask >= 0)
    low_bid, high_bid, low_ask, high_ask = quotes.extremes
    with np.errstate(invalid="ignore", divide="ignore"):
        beyond = (bid > 0) & ((bid < low_bid) | (bid > high_bid))
        beyond |= (ask > 0) & ((ask < low_ask) | (ask > high_ask))
        above = ((right < 0) & (bid > strike)) | ((right > 0) & (bid > quotes.underlying))
        off_grid = (right != 0) & (np.mod(strike * 1000, 500) != 0)
    return {
        "symbol": right == 0,
        "not_finite": ~finite,
        "crossed": (bid > ask) & (ask > 0),
        "extremes": beyond,
        "off_minute": (quotes.end_ns % MINUTE_NS != 0) & minutes,
        "no_session": np.full(codes.size, session is None),
        "expired": contracts.expiry[codes] < np.datetime64(quotes.date),
        "strike_grid": off_grid | _far(quotes),
        "impossible": above,
        "outside": _outside(quotes.end_ns, session, minutes=minutes),
        "zero": finite & (bid == 0) & (ask == 0),
        "one_sided": finite & ((bid == 0) != (ask == 0)),
    }


def _far(quotes: QuoteArrays) -> BoolArray:
    """Return (n,) whether every strike of the row's expiry is below half or above twice the recorded underlying."""
    contracts, codes = quotes.contracts, quotes.codes
    _, of = np.unique(contracts.expiry, return_inverse=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        near = np.abs(np.log2(contracts.strike[codes] / quotes.underlying)) <= 1
    is_known = np.isfinite(quotes.underlying)
    known_counts, fine = (
        np.bincount(of[codes[mask]], minlength=of.max(initial=0) + 1) for mask in (is_known, is_known & near)
    )
    far: BoolArray = ((known_counts > 0) & (fine == 0))[of[codes]]
    return far


def _outside(end_ns: Int64Array, session: Session | None, *, minutes: bool) -> BoolArray:
    if session is None:
        return np.zeros(end_ns.size, dtype=np.bool_)  # `no_session` reports it
    first_ns = session.open_ns + (MINUTE_NS if minutes else 0)
    return (end_ns < first_ns) | (end_ns > session.close_ns)


def over_time(quotes: QuoteArrays) -> dict[str, BoolArray]:
    """Return, by name of the remarks that compare a contract's successive quotes, (n,) whether a row has it."""
    order = np.lexsort((quotes.end_ns, quotes.codes))
    codes, ends = quotes.codes[order], quotes.end_ns[order]
    same = np.append(False, np.diff(codes) == 0)  # same contract as the row before
    masks = {
        "leaping": _leaping(quotes.mid[order], ends, same),
        "stale": _stale(quotes, order, ends, same),
    }
    back = np.argsort(order)
    return {name: mask[back] for name, mask in masks.items()}


def _leaping(mid: npt.NDArray[np.float64], ends: Int64Array, same: BoolArray) -> BoolArray:
    close = same & (np.diff(ends, prepend=ends[:1]) <= LEAP_WITHIN_NS)
    move = np.where(close, np.diff(mid, prepend=mid[:1]), 0.0)
    mid_before = np.append(np.nan, mid[:-1])
    with np.errstate(invalid="ignore"):
        far = (np.abs(move) >= 0.25) & (np.abs(move) >= 0.5 * mid_before)
        later = np.append(move[1:], 0.0)
        taken_back = (np.sign(later) == -np.sign(move)) & (np.abs(later) >= 0.5 * np.abs(move))
    leaps: BoolArray = far & taken_back
    return leaps


def _stale(quotes: QuoteArrays, order: Int64Array, ends: Int64Array, same: BoolArray) -> BoolArray:
    bid, ask, spot = quotes.bid[order], quotes.ask[order], spots(quotes)[order]
    strike = quotes.contracts.strike[quotes.codes][order]
    still = same & (np.diff(bid, prepend=np.nan) == 0) & (np.diff(ask, prepend=np.nan) == 0)
    begins = np.flatnonzero(~still)
    run = np.cumsum(~still) - 1
    with np.errstate(invalid="ignore", divide="ignore"):
        near = (np.abs(strike / spot - 1) <= 0.02) & (bid > 0)
        moved = np.abs(spot / spot[begins][run] - 1) >= 0.002
    late: BoolArray = still & near & moved & (ends - ends[begins][run] >= STALE_NS)
    return late


def gaps(quotes: QuoteArrays) -> Int64Array:
    """Return (k,) for each contract the minutes without a row between its first and last of the session."""
    count = len(quotes.contracts.symbols)
    first, last = np.full(count, np.iinfo(np.int64).max), np.zeros(count, dtype=np.int64)
    np.minimum.at(first, quotes.codes, quotes.end_ns)
    np.maximum.at(last, quotes.codes, quotes.end_ns)
    rows = np.bincount(quotes.codes, minlength=count)
    missing: Int64Array = np.where(rows > 0, (last - first) // MINUTE_NS + 1 - rows, 0)
    return np.maximum(missing, 0)
