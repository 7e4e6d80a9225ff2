"""Option market arithmetic: Black-Scholes with r = q = 0, spreads in cents, time in sessions, OCC symbols.

Pure float64; each `_array` twin gives the same bits as its scalar, because both take the same operations in the same
order and call `math.log` and `math.erf` for each element. One volatility holds for one session, fixed before it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from decimal import Decimal
from functools import lru_cache
from itertools import pairwise
from statistics import NormalDist

import msgspec
import numpy as np
import numpy.typing as npt

from daemon.core.limits import Paper
from strategies.kit.contract import Session
from strategies.kit.units import MINUTE_NS

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

SESSIONS_PER_YEAR = 252
MINUTE_SHARE = 0.54 / 390  # of a session's variance time; a full session's minutes have 0.54
NIGHT_SHARE = 0.46
CERTAIN = 1e-12  # a volatility x sqrt(years) below this leaves nothing to chance
VOLATILITY_MOST = 10.0
VOLATILITY_STEPS = 40  # of a bisection: to 1e-11
ROUNDING_GUARD = 1e-9  # of a cent: a value this close to a whole cent is that cent

_SQRT2 = math.sqrt(2.0)
_NORMAL = NormalDist()
_OCC = re.compile(r"([A-Z]{1,6})(\d{2})(\d{2})(\d{2})([CP])(\d{8})")
_ANY_OCC = re.compile(r"[A-Z][A-Z0-9]{0,6}\d{6}[CP]\d{8}", re.ASCII)


class OccContract(msgspec.Struct, frozen=True, gc=False):
    """A parsed OCC symbol. `expiry` is `YYYY-MM-DD`, `right` +1 call, -1 put, `strike` in USD."""

    root: str
    expiry: str
    right: int
    strike: Decimal


class Expiry(msgspec.Struct, frozen=True, gc=False):
    """An expiry with a price: `later_ns` of regular trading and `nights` until its close, after this session."""

    date: str
    later_ns: int
    nights: int  # 0 for this session's own date, so also the trading days to expiry


class SessionMarket(msgspec.Struct, frozen=True):
    """The option market of one session: its expiries (its own date first), its one volatility, its middle strike."""

    session: Session
    expiries: tuple[Expiry, ...]
    volatility: float
    centre: int  # whole dollars

    def cents(self, symbol: str, spot: float, at_ns: int, paper: Paper) -> tuple[int, int] | None:
        """Return bid and ask in cents at `spot` USD and time `at_ns`; None for a symbol without a price."""
        strike, right, expiry = option_terms(symbol)
        years = self.years(expiry, at_ns)
        return None if years is None else bid_ask_cents(price(spot, strike, years, self.volatility, right), paper)

    def years(self, expiry: str, at_ns: int) -> float | None:
        """Return the years from `at_ns` in this session to the close of `expiry`; None when it is no known session."""
        for session in self.expiries:
            if session.date == expiry:
                return variance_years(open_time_left_ns(at_ns, self.session) + session.later_ns, session.nights)
        return None

    def listed_expiries(self, min_days: int, max_days: int) -> tuple[str, ...]:
        """Return the dates from `min_days` to `max_days` trading days away, as far as the calendar is known."""
        return tuple(session.date for session in self.expiries if min_days <= session.nights <= max_days)

    def listed_strikes(self, each_side: int) -> range:
        """Return the listed strikes in whole dollars: `each_side` below and above the middle, none below 1."""
        return range(max(self.centre - each_side, 1), self.centre + each_side + 1)


def session_market(
    session: Session, upcoming: Sequence[Session], closes: Sequence[float], paper: Paper
) -> SessionMarket | None:
    """Return the market of `session` from earlier sessions' closes; None while those are too few."""
    volatility = session_volatility(closes, paper)
    if volatility is None:
        return None
    return SessionMarket(session, expiries_from(session, upcoming), volatility, math.floor(closes[-1] + 0.5))


def expiries_from(session: Session, upcoming: Sequence[Session]) -> tuple[Expiry, ...]:
    """Return the session's own date and those of the sessions after it, as expiries seen from it."""
    expiries = [Expiry(session.date, 0, 0)]
    for nights, later in enumerate(upcoming, start=1):
        expiries.append(Expiry(later.date, expiries[-1].later_ns + later.close_ns - later.open_ns, nights))
    return tuple(expiries)


def price(spot: float, strike: float, years: float, volatility: float, right: int) -> float:
    """Return the Black-Scholes value in USD a share of a European option, r = q = 0 (Black, Scholes 1973, eq. 13).

    `right` +1 call, -1 put; `volatility` annualised, at least 0. Without either, the intrinsic value.
    """
    deviation = volatility * math.sqrt(max(years, 0.0))
    if deviation < CERTAIN:
        return max(right * (spot - strike), 0.0) + 0.0  # + 0.0 makes a negative zero positive, here and in the twin
    d1 = math.log(spot / strike) / deviation + 0.5 * deviation
    d2 = d1 - deviation
    in_spot = 0.5 * (1.0 + math.erf(right * d1 / _SQRT2))
    in_strike = 0.5 * (1.0 + math.erf(right * d2 / _SQRT2))
    return max(right * (spot * in_spot - strike * in_strike), 0.0) + 0.0


def volatility_at(value: float, spot: float, strike: float, years: float, right: int) -> float:
    """Return the annualised volatility at which the option is worth `value` USD a share; 0.0 at or below its intrinsic
    value or without time left, `VOLATILITY_MOST` where none reaches it. Bisection to the last bits of a cent."""
    low, high = 0.0, VOLATILITY_MOST
    if years <= 0.0 or value <= price(spot, strike, years, 0.0, right):
        return 0.0
    for _ in range(VOLATILITY_STEPS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if price(spot, strike, years, middle, right) < value else (low, middle)
    return high


def price_array(
    spot: npt.ArrayLike, strike: npt.ArrayLike, years: npt.ArrayLike, volatility: npt.ArrayLike, right: npt.ArrayLike
) -> Float64Array:
    """`price` over arrays that broadcast together; float64 of the broadcast shape, each element bit-identical to it."""
    spots, strikes, times, widths, rights = np.broadcast_arrays(
        *(np.asarray(values, dtype=np.float64) for values in (spot, strike, years, volatility, right))
    )
    deviations = widths * np.sqrt(np.maximum(times, 0.0))
    values: Float64Array = np.maximum(rights * (spots - strikes), 0.0) + 0.0
    alive = deviations >= CERTAIN
    s, k, r, deviation = spots[alive], strikes[alive], rights[alive], deviations[alive]
    d1 = _map_values(math.log, s / k) / deviation + 0.5 * deviation
    d2 = d1 - deviation
    in_spot = 0.5 * (1.0 + _map_values(math.erf, r * d1 / _SQRT2))
    in_strike = 0.5 * (1.0 + _map_values(math.erf, r * d2 / _SQRT2))
    values[alive] = np.maximum(r * (s * in_spot - k * in_strike), 0.0) + 0.0
    return values


def bid_ask_cents(mid: float, paper: Paper) -> tuple[int, int]:
    """Return bid and ask in whole cents around `mid` (USD a share): bid rounded down, at least 0, ask rounded up.

    The half-spread is max(`half_spread_min_usd`, `half_spread` x mid).
    """
    half = max(paper.half_spread_min_usd, paper.half_spread * mid)
    bid = math.floor((mid - half) * 100.0 + ROUNDING_GUARD)
    return max(0, bid), math.ceil((mid + half) * 100.0 - ROUNDING_GUARD)


def bid_ask_cents_array(mid: Float64Array, paper: Paper) -> tuple[Int64Array, Int64Array]:
    """`bid_ask_cents` over an array of mids: two int64 arrays of its shape, equal element by element."""
    half = np.maximum(paper.half_spread_min_usd, paper.half_spread * mid)
    bid = np.maximum(np.floor((mid - half) * 100.0 + ROUNDING_GUARD), 0.0)
    ask = np.ceil((mid + half) * 100.0 - ROUNDING_GUARD)
    return bid.astype(np.int64), ask.astype(np.int64)


def variance_years(open_time_ns: int, nights: int) -> float:
    """Return the years of variance time: `open_time_ns` of regular session plus `nights` between sessions."""
    return (open_time_ns / MINUTE_NS * MINUTE_SHARE + nights * NIGHT_SHARE) / SESSIONS_PER_YEAR


def years_to_expiry(now_ns: int, session: Session, later_sessions: Sequence[Session]) -> float:
    """Return the years from `now_ns` within `session` to the close of the expiry's session, the last of
    `later_sessions`.

    `later_sessions` is empty for an expiry today. Before the open the whole session counts, after the close nothing.
    Half days weigh less, because each open minute counts the same.
    """
    later = sum(later_session.close_ns - later_session.open_ns for later_session in later_sessions)
    return variance_years(open_time_left_ns(now_ns, session) + later, len(later_sessions))


def open_time_left_ns(now_ns: int, session: Session) -> int:
    """Return the nanoseconds of regular trading that `session` still has at `now_ns`."""
    return max(session.close_ns - max(now_ns, session.open_ns), 0)


def session_volatility(closes: Sequence[float], paper: Paper) -> float | None:
    """Return a session's annualised volatility from the closes of the sessions before it, oldest first.

    Standard deviation (ddof 1) of the last `volatility_sessions` log returns x sqrt(252) x `volatility_premium`, at
    least `volatility_floor`. None with fewer than `volatility_sessions` + 1 closes.
    """
    count = paper.volatility_sessions
    if len(closes) < count + 1:
        return None
    window = closes[-count - 1 :]
    returns = [math.log(close / previous_close) for previous_close, close in pairwise(window)]
    mean = math.fsum(returns) / count
    variance = math.fsum((value - mean) ** 2 for value in returns) / (count - 1)
    return max(math.sqrt(variance * SESSIONS_PER_YEAR) * paper.volatility_premium, paper.volatility_floor)


def delta(spot: float, strike: float, years: float, volatility: float, right: int) -> float:
    """Return the option's delta: 0 to 1 for calls, -1 to 0 for puts."""
    deviation = volatility * math.sqrt(max(years, 0.0))
    if deviation < CERTAIN:
        return float(right) if right * (spot - strike) > 0.0 else 0.0
    d1 = math.log(spot / strike) / deviation + 0.5 * deviation
    return right * 0.5 * (1.0 + math.erf(right * d1 / _SQRT2))


def strike_for_delta(spot: float, years: float, volatility: float, right: int, target: float) -> float:
    """Return the strike (not rounded) at which the absolute delta is `target`, 0 < target < 1.

    Raises ValueError for another target, and where `years` or `volatility` is not above 0.
    """
    if not 0.0 < target < 1.0 or years <= 0.0 or volatility <= 0.0:
        arguments = f"target {target}, years {years}, volatility {volatility}"
        raise ValueError(f"strike_for_delta: found {arguments}; expected 0 < target < 1, years > 0 and volatility > 0")
    deviation = volatility * math.sqrt(years)
    return spot * math.exp(deviation * (0.5 * deviation - right * _NORMAL.inv_cdf(target)))


def occ_symbol(root: str, expiry: str, right: int, strike: Decimal) -> str:
    """Return the OCC symbol, such as `SPY240816C00530000` for `("SPY", "2024-08-16", +1, Decimal(530))`.

    Raises ValueError for what the format cannot hold: a strike that is no positive multiple of 0.001 below 100,000, an
    expiry that is no date, a root that is not 1 to 6 capital letters.
    """
    thousandths = strike * 1000
    whole = int(thousandths)
    symbol = f"{root}{expiry[2:4]}{expiry[5:7]}{expiry[8:10]}{'C' if right > 0 else 'P'}{whole:08d}"
    if whole != thousandths or parse_occ(symbol) is None:
        arguments = f"root {root!r}, expiry {expiry!r}, strike {strike}"
        raise ValueError(f"occ_symbol: found {arguments}; expected like 'SPY', '2024-08-16', 530 (steps of 0.001)")
    return symbol


@lru_cache(maxsize=8192)
def parse_occ(symbol: str) -> OccContract | None:
    """Parse an OCC symbol; None for anything else: a share, an adjusted root with a digit, no real date."""
    match = _OCC.fullmatch(symbol)
    if match is None:
        return None
    root, year, month, day, letter, strike = match.groups()
    expiry = f"20{year}-{month}-{day}"
    try:
        date.fromisoformat(expiry)
    except ValueError:
        return None
    if int(strike) == 0:
        return None
    return OccContract(root, expiry, 1 if letter == "C" else -1, Decimal(int(strike)) / 1000)


@lru_cache(maxsize=8192)
def is_contract(symbol: str) -> bool:
    """Return whether `symbol` is a contract's (root, YYMMDD, C or P, strike x 1000 in 8 digits), an adjusted one's too.

    A corporate action gives it a root with a digit, such as SPY1: `parse_occ` does not say what it delivers.
    """
    return _ANY_OCC.fullmatch(symbol) is not None


def root_of(symbol: str) -> str:
    """Return the underlying of a contract; a share's own symbol."""
    contract = parse_occ(symbol)
    return symbol if contract is None else contract.root


def meant_by(symbol: str, held_symbols: Iterable[str]) -> tuple[str, ...]:
    """Return which of the `held_symbols` a person means by a symbol: itself, or else the contracts on it."""
    names = tuple(held_symbols)
    return (symbol,) if symbol in names else tuple(name for name in names if root_of(name) == symbol)


@lru_cache(maxsize=8192)
def option_terms(symbol: str) -> tuple[float, int, str]:
    """Return (strike in USD, right, expiry) of an OCC symbol, for pricing; expiry "" for other symbols."""
    contract = parse_occ(symbol)
    return (0.0, 0, "") if contract is None else (float(contract.strike), contract.right, contract.expiry)


def _map_values(function: Callable[[float], float], values: Float64Array) -> Float64Array:
    return np.array([function(value) for value in values.tolist()], dtype=np.float64)
