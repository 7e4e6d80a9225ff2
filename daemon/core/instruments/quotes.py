"""Prices of what a desk trades: which are valid, what a quote says, which contract and price step apply. Pure.

Recorded and live bars pass the same checks, each by its values alone: duplicates and order depend on earlier bars, and
the source checks those. An invalid quote changes nothing. A narrow one is a price at its mid; a wide or one-sided one
only bounds the price. The contract is of the nearest expiry within the limits, its strike by rule.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from daemon.core.events import Contract, ContractsListed, Quote
from daemon.core.instruments.option_market import parse_occ, strike_for_delta, years_to_expiry
from daemon.core.limits import Basket, Contracts, Risk
from daemon.core.state import ZERO, OptionChain, SessionState
from strategies.kit.contract import Bar, Session
from strategies.kit.units import SECOND_NS

FUTURE_NS = 2 * SECOND_NS  # a quote stamped further ahead would outdate each later one and stay fresh too long
NARROW_USD = Decimal("0.10")  # an option's quote is never too wide below this: cheap ones trade in steps of 5 cents
STEP_USD = Decimal("0.02")  # an option's price never leaps by less
PRICE_MAX = Decimal(10) ** 9  # USD; anything above is no valid price, and too long to compute with


# --- bars -----------------------------------------------------------------------------------------------------------

FAULTS = ("", "not_finite", "not_positive", "high_below_low", "negative_volume", "off_grid")
"""Names of what `faults` finds, by index. `high_below_low` also stands for an open or close outside of [low, high]."""


def faults(prices: npt.NDArray[np.float64], off_grid: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return (n,) index into FAULTS of each bar's first fault, 0 for a good one.

    `prices` is (5, n): open, high, low, close in USD and volume in shares; `off_grid` (n,) is the distance in
    nanoseconds of each start behind the session's grid of bars.
    """
    opening, high, low, close, volume = prices
    codes = np.where(off_grid != 0, 5, 0)  # the last assignment wins: faults in reverse order
    codes[volume < 0] = 4
    codes[(high < low) | (np.minimum(opening, close) < low) | (np.maximum(opening, close) > high)] = 3
    codes[(prices[:4] <= 0).any(axis=0)] = 2
    codes[~np.isfinite(prices).all(axis=0)] = 1
    return codes


def fault_names(rows: Sequence[Sequence[float]]) -> list[str]:
    """Return the name of each bar's first fault, "" for a good one, of bars on the grid; rows are as in `fault`."""
    if not rows:
        return []
    masks = faults(np.array(rows, dtype=np.float64).T, np.zeros(len(rows), dtype=np.int64))
    return [FAULTS[index] for index in masks.tolist()]


def fault(prices: Sequence[float], off_grid_ns: int) -> str:
    """Return the name of one bar's first fault, "" for a good one. `prices`: open, high, low, close, volume."""
    masks = faults(np.array(prices, dtype=np.float64).reshape(5, 1), np.array([off_grid_ns], dtype=np.int64))
    return FAULTS[int(masks[0])]


def bar_fault(bar: Bar) -> str:
    """Return what `fault` returns of a bar on the grid; a good one costs no array."""
    holds_both = bar.low <= bar.open <= bar.high and bar.low <= bar.close <= bar.high
    if holds_both and bar.low > 0 and bar.high < math.inf and 0 <= bar.volume < math.inf:
        return ""
    return fault((bar.open, bar.high, bar.low, bar.close, bar.volume), 0)


def values_text(prices: Sequence[float]) -> str:
    """Format open, high, low, close, volume for a refusal."""
    opening, high, low, close, volume = prices
    return f"open={opening} high={high} low={low} close={close} volume={volume}"


# --- quotes ---------------------------------------------------------------------------------------------------------


class QuoteGuard(NamedTuple):
    """The limits within which a quote is accepted at once: parts of the price, and USD amounts below which they do not
    apply."""

    width: Decimal  # (ask - bid) / mid
    leap: Decimal
    narrow_usd: Decimal
    step_usd: Decimal


def sides_fault(bid: Decimal, ask: Decimal) -> str:
    """Name what is wrong with a quote's sides (USD, 0 no such side), "" where one of them at least is a price."""
    if bid < 0 or ask < 0:
        return "negative"
    if not bid and not ask:
        return "empty"
    return "crossed" if bid > ask > 0 else ""


def share_guard(rules: Basket) -> QuoteGuard:
    """Return the guard of a share desk: its collar on either side of the mid, and between two prices."""
    collar = Decimal(str(rules.price_collar))
    return QuoteGuard(2 * collar, collar, ZERO, ZERO)


def is_quote(quote: Quote, now_ns: int) -> bool:
    """Return False for an invalid quote: no side, a negative, crossed or infinite price, a time in the future."""
    bid, ask = quote.bid, quote.ask
    if not (bid.is_finite() and ask.is_finite()) or bid < ZERO or ask < ZERO or bid > PRICE_MAX or ask > PRICE_MAX:
        return False
    if not ask:
        return bool(bid) and quote.quoted_ns <= now_ns + FUTURE_NS
    return bid <= ask and quote.quoted_ns <= now_ns + FUTURE_NS


def middle_of(quote: Quote, guard: QuoteGuard) -> Decimal | None:
    """Return the mid of a quote in USD; None when a side is missing or both lie too far apart."""
    middle = (quote.bid + quote.ask) / 2
    narrow = quote.ask - quote.bid <= max(guard.width * middle, guard.narrow_usd)
    return middle if ZERO < quote.bid <= quote.ask and narrow else None


def is_wide(quote: Quote, limits: Risk) -> bool:
    """Return True for a quote wider than one at which the desk itself would buy, or without a side."""
    width = max(Decimal(str(limits.spread_max)) * (quote.bid + quote.ask) / 2, NARROW_USD)
    return not (ZERO < quote.bid <= quote.ask and quote.ask - quote.bid <= width)


def is_leap(price: Decimal, reference: Decimal | None, guard: QuoteGuard) -> bool:
    """Return True for a price too far from the last known one to be accepted from one quote alone."""
    return reference is not None and abs(price - reference) > max(guard.leap * max(price, reference), guard.step_usd)


def price_of(quote: Quote, reference: Decimal | None, guard: QuoteGuard) -> Decimal | None:
    """Return the price in USD that a quote implies; None when it adds nothing to the known one.

    A wide or one-sided quote bounds the price: at most the ask, at least the bid.
    """
    middle = middle_of(quote, guard)
    if middle is not None or reference is None:
        return middle
    bound = min(max(reference, quote.bid), quote.ask) if quote.ask else max(reference, quote.bid)
    return None if bound == reference else bound


PENNY_ROOTS = frozenset(("SPY", "QQQ", "IWM"))  # all their series trade in cents at every price
COARSE_FROM = Decimal(3)  # USD


def implied_spot(symbol: str, quotes: Mapping[str, Quote]) -> float | None:
    """Return the underlying's price in USD implied by a contract and its counterpart, by put-call parity.

    None when one of them has no two-sided quote. Rates and dividends are left out: within days they are cents.
    """
    terms = parse_occ(symbol)
    if terms is None:
        return None
    other = f"{symbol[:-9]}{'P' if terms.right > 0 else 'C'}{symbol[-8:]}"
    pair = [quotes.get(symbol), quotes.get(other)]
    mids = [float(quote.bid + quote.ask) / 2 for quote in pair if quote is not None and 0 < quote.bid <= quote.ask]
    return float(terms.strike) + terms.right * (mids[0] - mids[1]) if len(mids) == 2 else None


def price_step(symbol: str, price: Decimal) -> Decimal:
    """Return the price step of an option's orders in USD; a cent for other instruments.

    A cent for the three roots above; for others 0.05 below 3 USD and 0.10 from there, valid for any class in or out of
    the penny programme (options exchanges' minimum increments, e.g. Cboe rule 5.4).
    """
    contract = parse_occ(symbol)
    if contract is None or contract.root in PENNY_ROOTS:
        return Decimal("0.01")
    return Decimal("0.10") if price >= COARSE_FROM else Decimal("0.05")


def choose_expiry(
    listing: ContractsListed, session: Session, upcoming: tuple[Session, ...], rule: Contracts
) -> OptionChain:
    """Return the chain of the nearest expiry within the rule's trading days that has calls and puts.

    The result has no strikes when nothing fits.
    """
    dates = [session.date, *(s.date for s in upcoming)][rule.min_days : rule.max_days + 1]
    calls: dict[str, dict[float, Contract]] = {}
    puts: dict[str, dict[float, Contract]] = {}
    for contract in listing.contracts:
        side = calls if contract.right > 0 else puts
        side.setdefault(contract.expiry, {})[float(contract.strike)] = contract
    for date in dates:
        strikes = tuple(sorted(calls.get(date, {}).keys() & puts.get(date, {}).keys()))
        if strikes:
            return OptionChain(
                listing.session_date,
                date,
                strikes,
                tuple(calls[date][k] for k in strikes),
                tuple(puts[date][k] for k in strikes),
                listing.volatility,
            )
    return OptionChain(listing.session_date, "", (), (), (), listing.volatility)


def nearest(strikes: tuple[float, ...], level: float) -> int:
    """Return the index of the strike nearest to `level`, the lower one on a tie. `strikes` ascend and are not empty."""
    i = bisect_left(strikes, level)
    if i == 0:
        return 0
    if i == len(strikes) or level - strikes[i - 1] <= strikes[i] - level:
        return i - 1
    return i


def candidates(chain: OptionChain, state: SessionState, now_ns: int, rule: Contracts) -> tuple[Contract, ...]:
    """Return the call and the put that an entry would buy at the present spot; empty when there is none.

    `strike = "nearest"`: nearest the money. `"delta"`: the strike whose Black-Scholes delta at the chain's volatility
    is nearest to the target; none while that volatility is unknown.
    """
    if not chain.strikes or state.spot <= 0 or state.session is None:
        return ()
    if rule.strike == "nearest":
        i = nearest(chain.strikes, state.spot)
        return (chain.calls[i], chain.puts[i])
    if chain.volatility is None:
        return ()
    later = tuple(s for s in state.upcoming if s.date <= chain.expiry)
    years = years_to_expiry(now_ns, state.session, later)
    if years <= 0:
        return ()
    call = strike_for_delta(state.spot, years, chain.volatility, +1, rule.delta_target)
    put = strike_for_delta(state.spot, years, chain.volatility, -1, rule.delta_target)
    return (chain.calls[nearest(chain.strikes, call)], chain.puts[nearest(chain.strikes, put)])
