"""Fits the option market's constants to recorded quotes: half-spreads, premium over realised volatility, skew.

Each session gives medians, and the result is the median over sessions. Only usable quotes count
(`daemon.tapes.quotes.faults.usable`). The forward of each expiry is that of put-call parity, else the underlying.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr
from scipy.stats import theilslopes

from daemon.core.instruments.option_market import MINUTE_SHARE, NIGHT_SHARE, SESSIONS_PER_YEAR
from daemon.core.limits import Paper
from daemon.host.time.calendar import SessionCalendar
from daemon.tapes.files import TapeError, digest_of
from daemon.tapes.quotes.calibration_file import VERSION, Calibration, Estimate, Fitted, SpreadCell, TermCell
from daemon.tapes.quotes.faults import usable
from daemon.tapes.quotes.reader import QuoteArrays, QuoteFile
from daemon.tapes.quotes.schema import MINUTE
from daemon.tapes.quotes.spot import forwards, spots
from strategies.kit.contract import Session
from strategies.kit.units import MINUTE_NS

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

DAYS = ((0, "0"), (1, "1"), (5, "2 to 5"), (10, "6 to 10"), (45, "11 to 45"))
"""Upper bounds of trading days to the expiry, and their names; later expiries are left out."""
MONEYNESS = (
    (-0.02, "in, over 2 %"), (-0.005, "in, to 2 %"), (0.005, "at, 0.5 %"), (0.01, "out, to 1 %"), (0.02, "out, to 2 %"),
    (0.05, "out, to 5 %"), (math.inf, "out, over 5 %"),
)  # fmt: skip
"""Upper bounds of how far the strike is out of the money, as a share of the forward."""
PARTS = ((30, "first 30 minutes"), (-30, "middle"), (None, "last 30 minutes"))
NEAR, SHORT = "at, 0.5 %", ("1", "2 to 5")  # cells that the option scalper trades, to which the constants are fitted
WHOLE = "all"
CHEAP_USD = 0.2  # mids below it show the smallest half-spread
VOLATILITY_SESSIONS = 20
SKEW_WITHIN = 0.1  # largest |ln(strike / forward)|
LEAST_LEFT_NS = 30 * MINUTE_NS  # least open time left for an implied volatility

_PAPER = Paper()

Sample = tuple[float, int]  # a session's median, and its rows


@dataclass(slots=True)
class _Rows:
    """The usable rows of a session, in columns."""

    mid: Float64Array
    half: Float64Array
    forward: Float64Array
    strike: Float64Array
    right: Int64Array
    days: Int64Array  # trading days to the expiry
    years: Float64Array
    open_left_ns: Int64Array  # of regular trading until the expiry's close
    minute: Int64Array  # of the session
    left: Int64Array  # minutes left in the session


class _Samples:
    """Medians of sessions by key."""

    def __init__(self) -> None:
        self.held: defaultdict[tuple[str, ...], list[Sample]] = defaultdict(list)

    def add(self, key: tuple[str, ...], values: Float64Array) -> None:
        values = values[np.isfinite(values)]
        if values.size:
            self.held[key].append((float(np.median(values)), int(values.size)))

    def estimate(self, key: tuple[str, ...]) -> Estimate | None:
        """Return the median and the quartiles over sessions, None without a sample."""
        samples = self.held.get(key)
        if not samples:
            return None
        low, middle, high = np.quantile([value for value, _ in samples], [0.25, 0.5, 0.75]).tolist()
        return Estimate(middle, low, high, len(samples), sum(rows for _, rows in samples))


def calibrate(
    path: Path, closes: Mapping[str, float], closes_name: str, listen: Callable[[str], object] = lambda _date: None
) -> Calibration:
    """Fit to all sessions of a file of quotes; `listen` gets every date before it is fitted.

    `closes` are the underlying's by date, for the premium. Raises TapeError when no quote is usable, CalendarError.
    """
    file = QuoteFile(path)
    spreads, terms = _Samples(), _Samples()
    calendar: SessionCalendar | None = None
    dates: list[str] = []
    roots: set[str] = set()
    rows = 0
    for quotes in file.sessions():
        listen(quotes.date)
        roots |= set(quotes.contracts.roots) - {""}
        if calendar is None:
            calendar = SessionCalendar.to_horizon(quotes.date)
        day_rows = _rows_of(quotes, calendar, minutes=file.interval == MINUTE)
        if day_rows is None:
            continue
        dates.append(quotes.date)
        rows += day_rows.mid.size
        _add_spreads(spreads, day_rows)
        _add_terms(terms, day_rows, _realised_volatility(closes, calendar, quotes.date))
    if not dates:
        raise TapeError(f"{path}: no usable quote in it: look at it with `train-and-export check-quotes`")
    return Calibration(
        version=VERSION, quotes=path.name, quotes_sha256=digest_of(path), roots=tuple(sorted(roots)),
        closes=closes_name, interval=file.interval, synthetic=file.synthetic,
        first_date=dates[0], last_date=dates[-1], sessions=len(dates), rows=rows,
        fitted=_fit(spreads, terms), spreads=_spread_cells(spreads), terms=_term_cells(terms),
    )  # fmt: skip


def _rows_of(quotes: QuoteArrays, calendar: SessionCalendar, *, minutes: bool) -> _Rows | None:
    """Return a session's usable rows up to the last range of days; None where there is none."""
    place = next((i for i, session in enumerate(calendar.sessions) if session.date == quotes.date), None)
    if place is None:
        return None
    session, later = calendar.sessions[place], calendar.sessions[place + 1 : place + 1 + DAYS[-1][0]]
    contracts, codes = quotes.contracts, quotes.codes
    forward = forwards(quotes)
    forward = np.where(np.isfinite(forward), forward, spots(quotes))
    nights, open_ns = _until(contracts.expiry, quotes.date, later)
    places = np.flatnonzero(usable(quotes, session, minutes=minutes) & np.isfinite(forward) & (nights[codes] >= 0))
    if not places.size:
        return None
    ours, at = codes[places], quotes.end_ns[places]
    left_ns = np.clip(session.close_ns - np.maximum(at, session.open_ns), 0, None) + open_ns[ours]
    return _Rows(
        mid=quotes.mid[places], half=(quotes.ask[places] - quotes.bid[places]) / 2, forward=forward[places],
        strike=contracts.strike[ours], right=contracts.right[ours], days=nights[ours],
        years=(left_ns / MINUTE_NS * MINUTE_SHARE + nights[ours] * NIGHT_SHARE) / SESSIONS_PER_YEAR,
        open_left_ns=left_ns, minute=(at - session.open_ns) // MINUTE_NS, left=(session.close_ns - at) // MINUTE_NS,
    )  # fmt: skip


def _until(expiry: npt.NDArray[np.datetime64], date: str, later: Sequence[Session]) -> tuple[Int64Array, Int64Array]:
    """Return (k,) the nights until each expiry, -1 where too far, and the open time of the sessions between.

    An expiry on a day without a session counts as the last session before it.
    """
    dates = np.array([date, *(session.date for session in later)], dtype="datetime64[D]")
    opened = np.cumsum([0, *(session.close_ns - session.open_ns for session in later)])
    nights = np.searchsorted(dates, expiry, side="right") - 1
    bad = np.isnat(expiry) | (expiry > dates[-1]) | (nights < 0)
    return np.where(bad, -1, nights), opened[np.clip(nights, 0, len(later))]


def _add_spreads(samples: _Samples, rows: _Rows) -> None:
    apart = rows.right * (rows.strike / rows.forward - 1)
    days = np.searchsorted([bound for bound, _ in DAYS], rows.days)
    away = np.searchsorted([bound for bound, _ in MONEYNESS], apart)
    part = np.where(rows.minute < PARTS[0][0], 0, np.where(rows.left < 30, 2, 1))
    share = rows.half / rows.mid
    assumed = np.maximum(_PAPER.half_spread_min_usd / rows.mid, _PAPER.half_spread)
    for d, (_, day) in enumerate(DAYS):
        for m, (_, name) in enumerate(MONEYNESS):
            in_cell = (days == d) & (away == m)
            for mask, label in (
                (in_cell, WHOLE),
                *((in_cell & (part == p), text) for p, (_, text) in enumerate(PARTS)),
            ):
                samples.add(("share", day, name, label), share[mask])
                samples.add(("usd", day, name, label), rows.half[mask])
                samples.add(("assumed", day, name, label), assumed[mask])
    near = np.isin(days, [1, 2]) & (away == 2)
    samples.add(("share", "short", NEAR), share[near])
    samples.add(("usd", "cheap"), rows.half[rows.mid < CHEAP_USD])


def _add_terms(samples: _Samples, rows: _Rows, realised: float | None) -> None:
    away = np.log(rows.strike / rows.forward)
    out = (rows.right * away >= 0) & (np.abs(away) <= SKEW_WITHIN) & (rows.open_left_ns >= LEAST_LEFT_NS)
    used = np.flatnonzero(out)
    implied = implied_volatility(
        rows.mid[used], rows.forward[used], rows.strike[used], rows.years[used], rows.right[used]
    )
    session: defaultdict[tuple[str, ...], list[tuple[float, int]]] = defaultdict(list)
    for days in np.unique(rows.days[used]).tolist():
        name = next(text for bound, text in DAYS if days <= bound)
        ours = (rows.days[used] == days) & np.isfinite(implied)
        by_strike = _medians(rows.strike[used][ours], away[used][ours], implied[ours])
        if by_strike is None:
            continue
        x, y, count = by_strike
        if x.size >= 2:
            fit = theilslopes(y, x)
            session["skew", name].append((float(fit.slope), count))
            level = float(np.median(y - fit.slope * x))
        else:
            level = float(y[0])
        session["implied", name].append((level, count))
        if realised is not None:
            for key in (name, "short") if name in SHORT else (name,):
                session["premium", key].append((level / realised, count))
    for where, term in session.items():
        value = float(np.median([value for value, _ in term]))
        samples.held[where].append((value, sum(count for _, count in term)))


def _medians(
    strike: Float64Array, away: Float64Array, implied: Float64Array
) -> tuple[Float64Array, Float64Array, int] | None:
    """Return each strike's median distance and volatility, and the number of rows."""
    if not strike.size:
        return None
    values, of = np.unique(strike, return_inverse=True)
    x = np.array([np.median(away[of == i]) for i in range(values.size)])
    y = np.array([np.median(implied[of == i]) for i in range(values.size)])
    return x, y, int(strike.size)


def _realised_volatility(closes: Mapping[str, float], calendar: SessionCalendar, date: str) -> float | None:
    """Return the annualised volatility of the sessions before `date`; None where a close is missing."""
    dates = [session.date for session in calendar.sessions if session.date < date]
    dates_before = sorted(day for day in closes if day < date)[-VOLATILITY_SESSIONS - 1 :]
    if len(dates_before) < VOLATILITY_SESSIONS + 1 or (dates and dates[-1] > dates_before[-1]):
        return None
    returns = np.diff(np.log([closes[day] for day in dates_before]))
    return float(np.std(returns, ddof=1) * math.sqrt(SESSIONS_PER_YEAR))


def _fit(spreads: _Samples, terms: _Samples) -> Fitted:
    estimates = (
        spreads.estimate(("share", "short", NEAR)),
        spreads.estimate(("usd", "cheap")),
        terms.estimate(("premium", "short")),
    )
    return Fitted(*(None if estimate is None else round(estimate.median, 6) for estimate in estimates))


def _spread_cells(samples: _Samples) -> tuple[SpreadCell, ...]:
    cells = []
    for _, day in DAYS:
        for _, name in MONEYNESS:
            for label in (WHOLE, *(text for _, text in PARTS)):
                share = samples.estimate(("share", day, name, label))
                usd, assumed = (samples.estimate((what, day, name, label)) for what in ("usd", "assumed"))
                if share is not None and usd is not None and assumed is not None:
                    cells.append(SpreadCell(day, name, label, share, usd, assumed))
    return tuple(cells)


def _term_cells(samples: _Samples) -> tuple[TermCell, ...]:
    cells = []
    for _, day in DAYS:
        implied = samples.estimate(("implied", day))
        if implied is not None:
            cells.append(TermCell(day, implied, samples.estimate(("skew", day)), samples.estimate(("premium", day))))
    return tuple(cells)


HIGHEST = 5.0  # annualised
_HALVINGS = 40  # of [0, HIGHEST]: 5e-12


def implied_volatility(
    mid: Float64Array, forward: Float64Array, strike: Float64Array, years: Float64Array, right: npt.NDArray[np.int64]
) -> Float64Array:
    """Return (n,) the annualised volatility at which Black-Scholes gives `mid` (USD a share), by bisection.

    NaN where there is none: no time left, a price at or below the intrinsic value, or above what `HIGHEST` gives.
    """
    low, high = np.zeros(mid.size), np.full(mid.size, HIGHEST)
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = _price(forward, strike, years, high, right)
        good = (years > 0) & (mid > np.maximum(right * (forward - strike), 0.0)) & (mid < reach)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            below = _price(forward, strike, years, middle, right) < mid
            low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.where(good, (low + high) / 2, np.nan)


def _price(
    forward: Float64Array,
    strike: Float64Array,
    years: Float64Array,
    volatility: Float64Array,
    right: npt.NDArray[np.int64],
) -> Float64Array:
    deviation = volatility * np.sqrt(years)
    d1 = np.log(forward / strike) / deviation + deviation / 2
    value: Float64Array = right * (forward * ndtr(right * d1) - strike * ndtr(right * (d1 - deviation)))
    return value
