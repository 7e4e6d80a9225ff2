"""The market of the loopback Alpaca: tapes and daily prices as deterministic paths, and options priced on one of them.

Pure functions of the simulated time; nothing here knows a client, a socket or an account. Quotes change only at path
points (four in a minute: open, both extremes, close), so one price per point serves streams, REST and matching.
"""

from __future__ import annotations

import math
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

from daemon.alpaca_api.wire import ZERO, asset_id
from daemon.core.instruments import option_market
from daemon.core.limits import Paper
from simulator.prices.corporate_actions import effective_day
from simulator.prices.day_prices import DailyPrices, MinuteStarts
from simulator.prices.tape import calendar_sessions, cents, grid, new_york_date, price_path, read_bars
from strategies.kit.contract import Bar, Session
from strategies.kit.units import MINUTE_NS, SECOND_NS

POINT_NS = 15 * SECOND_NS  # four path points a minute: open, low and high in the order of the bar's direction, close
BAR_DELAY_NS = SECOND_NS  # a minute's bar is known about one second after its end
NEVER_NS = 2**63 - 1
PENNY_SPREAD = Decimal("0.0001")  # of shares below 1.00 USD
LISTINGS_KEPT = 3  # a listing is a megabyte
EXPIRIES = 10  # expiry dates listed after a session's own
_EXPIRED_AFTER_NS = 8 * 3_600 * SECOND_NS  # the last quote of an expired contract is valid until midnight


class Market:
    """Minute bars by symbol, the sessions around them, and the option market of `symbol`.

    They are a tape's bars; shares that are only in `days` trade on minutes generated from their daily bars.
    `bars[symbol]` are in time order, `starts[symbol]` their starts; `sessions` may extend past the tape, for expiries.
    Prices are Decimal in whole cents (of shares below 1.00 USD with four decimals), times integer nanoseconds UTC.
    """

    def __init__(
        self,
        bars: Sequence[Bar],
        symbol: str = "SPY",
        *,
        sessions: Sequence[Session],
        volatility: float = 0.18,
        seed: int = 0,
        half_spread: float = 0.004,
        half_spread_min_usd: float = 0.005,
        stock_spread: Decimal = Decimal("0.01"),
        strikes_each_side: int = 25,
        days: DailyPrices | None = None,
    ) -> None:
        self.symbol = symbol
        self.days = days
        self.sessions = list(sessions)
        self.volatility = volatility
        self.seed = seed
        self.strikes_each_side = strikes_each_side
        bars_by_symbol: dict[str, list[Bar]] = {}
        for bar in sorted((bar for bar in bars if bar.volume > 0), key=lambda bar: bar.start_ns):  # no trade, no bar
            bars_by_symbol.setdefault(bar.symbol, []).append(bar)
        names = [] if days is None else [name for name in days.names if name not in bars_by_symbol]
        self.derived = {name: days.minutes(name) for name in names if days is not None}
        self.bars: dict[str, Sequence[Bar]] = {**bars_by_symbol, **self.derived}
        if symbol not in self.bars:
            symbols_text = ", ".join(self.bars) or "none"
            raise ValueError(f"the tape has no bar of {symbol}: found {symbols_text}; name one of these as symbol")
        self.starts: dict[str, Sequence[int]] = {
            name: [bar.start_ns for bar in rows] for name, rows in bars_by_symbol.items()
        }
        self.starts |= {name: MinuteStarts(minutes) for name, minutes in self.derived.items()}
        self._taped_symbols = tuple(bars_by_symbol)
        self._paper = Paper(half_spread=half_spread, half_spread_min_usd=half_spread_min_usd)
        self._stock_spread = stock_spread
        self._derived_dates = {date for minutes in self.derived.values() for date in minutes.dates}
        self._opens = [session.open_ns for session in self.sessions]
        self._dates = {session.date: index for index, session in enumerate(self.sessions)}
        self._open_time = [0]  # [i]: nanoseconds of regular trading in all sessions before i
        for session in self.sessions:
            self._open_time.append(self._open_time[-1] + session.close_ns - session.open_ns)
        self._centres: dict[int, int | None] = {}  # by index of the session, computed on demand
        self._paths: dict[str, tuple[int, tuple[Decimal, ...]]] = {}  # the last requested bar, by symbol
        self._quotes: dict[str, tuple[int, tuple[Decimal, Decimal]]] = {}  # the last requested point, by symbol
        self._points: dict[str, tuple[int, Decimal]] = {}  # the last requested point, by symbol: time and price
        self._session: Session | None = None  # the last requested one
        # options: listed from this session (index) until this time
        self._listing_times: dict[str, tuple[int, int]] = {}
        self._listings: dict[str, list[dict[str, Any]]] = {}
        self.halts: dict[str, list[tuple[int, int]]] = {}  # by share: begin and end of its exchange's halts

    @classmethod
    def from_bars(
        cls,
        path_or_bars: Path | str | Sequence[Bar],
        symbol: str = "SPY",
        *,
        sessions: Sequence[Session] | None = None,
        **settings: Any,
    ) -> Self:
        """Return the market of a CSV(.gz) or Parquet tape, or of bars; `sessions` default to `days`' or the exchange's.

        `settings` are those of the constructor. Raises ValueError for an unknown format or a tape without `symbol`.
        """
        bars = read_bars(Path(path_or_bars), symbol) if isinstance(path_or_bars, Path | str) else list(path_or_bars)
        days: DailyPrices | None = settings.get("days")
        if sessions is None and days is not None:
            sessions = days.sessions
        if sessions is None:
            times = [bar.start_ns for bar in bars]
            sessions = calendar_sessions(new_york_date(min(times)), new_york_date(max(times)))
        return cls(bars, symbol, sessions=sessions, **settings)

    def halt_trading(self, symbol: str, from_ns: int, until_ns: int) -> None:
        """Halt a share, and its options, at the exchange between two times: no fills, and no new data."""
        self.halts.setdefault(symbol, []).append((from_ns, until_ns))
        self._points.pop(symbol, None)

    # --- prices -----------------------------------------------------------------------------------------------------

    def price(self, now_ns: int, symbol: str | None = None) -> Decimal | None:
        """Return the price of the underlying (or of another stock of the tape); the last one when nothing trades.

        None before the tape's first bar and for a symbol that is not on the tape.
        """
        point = self._point(symbol or self.symbol, now_ns)
        return None if point is None else point[1]

    def quote(self, symbol: str, now_ns: int) -> tuple[Decimal, Decimal] | None:
        """Return bid and ask in USD of a stock or option; a bid of 0 is no bid. None if not listed or long expired.

        An option's value is Black-Scholes on the underlying's path at the last path point of regular hours.
        """
        if symbol in self.bars:
            price = self.price(now_ns, symbol)
            return None if price is None else (price, price + (self._stock_spread if price >= 1 else PENNY_SPREAD))
        point = self._option_point(now_ns)
        if point is None or not self.is_listed(symbol, now_ns):
            return None
        cached_quote = self._quotes.get(symbol)
        if cached_quote is None or cached_quote[0] != point[0]:
            strike, right, years = self._terms(symbol, point[0])
            mid = option_market.price(float(point[1]), strike, years, self.volatility, right)
            bid, ask = option_market.bid_ask_cents(mid, self._paper)
            cached_quote = (point[0], (Decimal(bid).scaleb(-2), Decimal(ask).scaleb(-2)))
            self._quotes[symbol] = cached_quote
        return cached_quote[1]

    def least_of_minute(self, symbol: str, now_ns: int) -> tuple[Decimal, int]:
        """Return the lowest price of the running minute of a share of daily prices, and its end; 0 outside of one."""
        index, start_ns = self.derived[symbol].last_at(now_ns)
        end_ns, path = start_ns + MINUTE_NS, self._paths.get(symbol)
        if path is None or path[0] != index or now_ns >= end_ns:
            return ZERO, end_ns
        return min(path[1]), end_ns

    def greeks(self, symbol: str, now_ns: int) -> dict[str, float] | None:
        """Return delta, gamma, rho, theta (a day) and vega (a point of volatility) with r = q = 0 (Hull, chapter 19).

        None if Alpaca has none either: not listed, no bid, expiring within minutes, deep in or far out of the money.
        """
        quote, point = self.quote(symbol, now_ns), self._option_point(now_ns)
        if quote is None or point is None or quote[0] == 0:
            return None
        strike, right, years = self._terms(symbol, point[0])
        spot, root = float(point[1]), math.sqrt(years)
        delta = option_market.delta(spot, strike, years, self.volatility, right)
        if years < 10 / 525_600 or not 0.02 < abs(delta) < 0.98:
            return None
        d1 = math.log(spot / strike) / (self.volatility * root) + 0.5 * self.volatility * root
        density = math.exp(-0.5 * d1 * d1) / math.sqrt(2 * math.pi)
        in_strike = 0.5 * (1 + math.erf(right * (d1 - self.volatility * root) / math.sqrt(2)))
        return {
            "delta": round(delta, 4),
            "gamma": round(density / (spot * self.volatility * root), 4),
            "rho": round(right * strike * years * in_strike / 100, 4),
            "theta": round(-spot * density * self.volatility / (2 * root) / 365, 4),
            "vega": round(spot * density * root / 100, 4),
        }

    def last_change(self, symbol: str, now_ns: int) -> int | None:
        """Return the time of the path point whose quote of `symbol` is valid at `now_ns`; None before the first."""
        point = self._point(symbol, now_ns) if symbol in self.bars else self._option_point(now_ns)
        return None if point is None else point[0]

    def next_change(self, now_ns: int) -> int:
        """Return the time of the first path point after `now_ns`; NEVER_NS at the end of tape and daily prices."""
        next_point = min((_next_point(self.starts[symbol], now_ns) for symbol in self._taped_symbols), default=NEVER_NS)
        return min(next_point, self._next_path_point(now_ns)) if self.derived else next_point

    def _next_path_point(self, now_ns: int) -> int:
        """Return the next path point of a session of the daily prices."""
        session = self.session_at(now_ns)
        if session is not None and session.date in self._derived_dates:
            point = session.open_ns + ((now_ns - session.open_ns) // POINT_NS + 1) * POINT_NS
            if point < session.close_ns:
                return point
        for later in self.sessions[bisect_right(self._opens, now_ns) :]:
            if later.date in self._derived_dates:
                return later.open_ns
        return NEVER_NS

    # --- sessions ---------------------------------------------------------------------------------------------------

    def session_at(self, now_ns: int) -> Session | None:
        """Return the session whose regular hours include `now_ns` (open included, close excluded), or None."""
        last = self._session
        if last is not None and last.open_ns <= now_ns < last.close_ns:
            return last
        index = bisect_right(self._opens, now_ns) - 1
        if index < 0 or now_ns >= self.sessions[index].close_ns:
            return None
        self._session = self.sessions[index]
        return self._session

    def session_of(self, day: str) -> Session | None:
        """Return the session of a New York date (`YYYY-MM-DD`), or None."""
        index = self._dates.get(day)
        return None if index is None else self.sessions[index]

    def session_bars(self, day: str, symbol: str | None = None) -> Sequence[Bar]:
        """Return the bars of the regular hours of `day`, in order; empty without a session and off the tape."""
        session = self.session_of(day)
        if session is None:
            return []
        starts = self.starts[symbol or self.symbol]
        first, last = bisect_left(starts, session.open_ns), bisect_left(starts, session.close_ns)
        return self.bars[symbol or self.symbol][first:last]

    def closing_price(self, day: str) -> Decimal | None:
        """Return the underlying's last price of regular hours, in whole cents; None off the tape or sessions."""
        if self.symbol in self.derived and self.days is not None:
            bar = self.days.bar(self.symbol, day)
            return None if bar is None else cents(bar.close)
        bars = self.session_bars(day)
        return cents(bars[-1].close) if bars else None

    def opening_print(self, symbol: str, now_ns: int) -> Decimal | None:
        """Return the official open of a stock in the session of `now_ns`; None if it does not, or not yet, trade."""
        session = self.session_at(now_ns)
        bars = [] if session is None else self.session_bars(session.date, symbol)
        return grid(bars[0].open) if bars and bars[0].start_ns <= now_ns else None

    def trading(self, symbol: str, now_ns: int) -> bool:
        """Return whether orders may fill: not in a halt; a share of the daily prices only in a session with its bar."""
        if self.halts and self._before_halt(option_market.root_of(symbol), now_ns) != now_ns:
            return False
        if symbol not in self.derived or self.days is None:
            return True
        session = self.session_at(now_ns)
        return session is not None and self.days.bar(symbol, session.date) is not None

    def has_bar(self, symbol: str, start_ns: int) -> bool:
        """Return whether a share has a bar for a minute; not if a halt covers the whole minute."""
        return not any(
            halt_start_ns <= start_ns <= halt_end_ns - MINUTE_NS
            for halt_start_ns, halt_end_ns in self.halts.get(symbol, ())
        )

    def tradable(self, symbol: str, now_ns: int) -> bool:
        """Return whether orders are accepted: not for a share that is halted, delisted or renamed."""
        return self.days is None or symbol not in self.days.names or self.days.tradable(symbol, now_ns)

    def derived_minutes(self, from_ns: int) -> Iterator[int]:
        """Yield the starts of the minutes in sessions of the daily prices, from `from_ns` on."""
        for session in self.sessions:
            if session.close_ns > from_ns and session.date in self._derived_dates:
                yield from (start for start in range(session.open_ns, session.close_ns, MINUTE_NS) if start >= from_ns)

    # --- the listing ------------------------------------------------------------------------------------------------

    def is_listed(self, symbol: str, now_ns: int) -> bool:
        """Return whether `symbol` is a stock of the tape, or an unexpired option listed by a session up to `now_ns`.

        An option once listed stays listed when the price moves away from it, until midnight of its expiry.
        """
        if symbol in self.derived and self.days is not None:
            return self.days.called(symbol, effective_day(now_ns))
        if symbol in self.bars:
            return True
        today = bisect_right(self._opens, now_ns + 16 * 3_600 * SECOND_NS) - 1  # listed before the open of its day
        if (listing := self._listing_times.get(symbol)) is not None and listing[0] <= today and now_ns < listing[1]:
            return True
        contract = option_market.parse_occ(symbol)
        expiry = None if contract is None else self._dates.get(contract.expiry)
        if contract is None or expiry is None or contract.root != self.symbol or contract.strike % 1:
            return False
        until_ns = self.sessions[expiry].close_ns + _EXPIRED_AFTER_NS
        if now_ns >= until_ns:
            return False
        centres = (self._centre(i) for i in range(max(0, expiry - EXPIRIES), min(today, expiry) + 1))
        listed = any(centre and abs(contract.strike - centre) <= self.strikes_each_side for centre in centres)
        if listed:
            self._listing_times[symbol] = today, until_ns
        return listed

    def listed(self, session_date: str) -> list[dict[str, Any]]:
        """Return the session's listed contracts, as in the contracts endpoint, by expiry, right and strike.

        Expiries: the session's own date and the EXPIRIES sessions after it. Empty without a session and off the tape.
        """
        if session_date not in self._listings:
            index = self._dates.get(session_date)
            centre = None if index is None else self._centre(index)
            if len(self._listings) == LISTINGS_KEPT:
                self._listings.pop(next(iter(self._listings)))
            self._listings[session_date] = (
                [] if index is None or centre is None else _listed_contracts(self, index, centre)
            )
        return self._listings[session_date]

    def contract(self, symbol: str, now_ns: int) -> dict[str, Any] | None:
        """Return an option's contract as of the session of `now_ns` (or the last one); None if not listed."""
        terms = option_market.parse_occ(symbol)
        if terms is None or not self.is_listed(symbol, now_ns):
            return None
        index = max(bisect_right(self._opens, now_ns) - 1, 0)
        return _listed_contract(self, index, self.sessions[self._dates[terms.expiry]], terms.right, int(terms.strike))

    # --- inside -----------------------------------------------------------------------------------------------------

    def _before_halt(self, symbol: str, now_ns: int) -> int:
        """Return the last moment before a halt of the share in effect at `now_ns`; `now_ns` itself without a halt."""
        return min(
            (
                halt_start_ns - 1
                for halt_start_ns, halt_end_ns in self.halts.get(symbol, ())
                if halt_start_ns <= now_ns < halt_end_ns
            ),
            default=now_ns,
        )

    def _point(self, symbol: str, now_ns: int) -> tuple[int, Decimal] | None:
        """Return time and price of the last path point at `now_ns`."""
        if self.halts:
            now_ns = self._before_halt(symbol, now_ns)
        point = self._points.get(symbol)
        if point is not None and 0 <= now_ns - point[0] < POINT_NS:
            return point
        starts, minutes = self.starts.get(symbol), self.derived.get(symbol)
        if minutes is not None:
            index, start_ns = minutes.last_at(now_ns)
        else:
            index = bisect_right(starts, now_ns) - 1 if starts else -1
            start_ns = starts[index] if starts and index >= 0 else 0
        if index < 0:
            return None
        step = min((now_ns - start_ns) // POINT_NS, MINUTE_NS // POINT_NS - 1)
        path = self._paths.get(symbol)
        if path is None or path[0] != index:
            path = self._paths[symbol] = (index, price_path(self.bars[symbol][index]))
        point_ns, price = start_ns + step * POINT_NS, path[1][step]
        if now_ns - point_ns < POINT_NS:
            self._points[symbol] = point_ns, price
            return point_ns, price
        split = None if self.days is None else self.days.split_between(symbol, point_ns, now_ns)
        return (point_ns, price) if split is None else (split[0], grid(float(price / split[1])))

    def _option_point(self, now_ns: int) -> tuple[int, Decimal] | None:
        """Return the path point for option prices: outside of regular hours the last one of the session before."""
        index = bisect_right(self._opens, now_ns) - 1
        return None if index < 0 else self._point(self.symbol, min(now_ns, self.sessions[index].close_ns - 1))

    def _terms(self, symbol: str, point_ns: int) -> tuple[float, int, float]:
        """Return strike, right and years to expiry of a listed option at a path point."""
        strike, right, day = option_market.option_terms(symbol)
        now, expiry = max(bisect_right(self._opens, point_ns) - 1, 0), self._dates[day]
        later_ns = max(self._open_time[expiry + 1] - self._open_time[now + 1], 0)
        left_ns = option_market.open_time_left_ns(point_ns, self.sessions[now])
        return strike, right, option_market.variance_years(left_ns + later_ns, max(expiry - now, 0))

    def _centre(self, number: int) -> int | None:
        """Return the whole dollar at the centre of the listed strikes of this session's index; None off the tape."""
        if number not in self._centres:
            self._centres[number] = self._find_centre(self.sessions[number])
        return self._centres[number]

    def _find_centre(self, session: Session) -> int | None:
        index = bisect_left(self.starts[self.symbol], session.open_ns)
        bars = self.bars[self.symbol]
        if index == len(bars) or bars[index].start_ns >= session.close_ns:
            return None
        return math.floor(bars[index].open + 0.5)


def _next_point(starts: Sequence[int], now_ns: int) -> int:
    """Return the first path point after `now_ns` of minutes with these starts; NEVER_NS after the last."""
    index = bisect_right(starts, now_ns)
    if index:
        step = (now_ns - starts[index - 1]) // POINT_NS + 1
        if step < MINUTE_NS // POINT_NS:
            return starts[index - 1] + step * POINT_NS
    return starts[index] if index < len(starts) else NEVER_NS


def _listed_contracts(market: Market, index: int, centre: int) -> list[dict[str, Any]]:
    """Return all contracts of the session with this index: its date and EXPIRIES later, strikes around `centre`."""
    strikes = range(max(1, centre - market.strikes_each_side), centre + market.strikes_each_side + 1)
    return [
        _listed_contract(market, index, expiry, right, strike)
        for expiry in market.sessions[index : index + EXPIRIES + 1]
        for right in (1, -1)
        for strike in strikes
    ]


def _listed_contract(market: Market, index: int, expiry: Session, right: int, strike: int) -> dict[str, Any]:
    """Return one contract as of the session with this index."""
    symbol = option_market.occ_symbol(market.symbol, expiry.date, right, Decimal(strike))
    session_before = market.sessions[index - 1] if index else None
    # a contract newly listed today has no history
    old = session_before is not None and market.is_listed(symbol, session_before.close_ns - 1)
    quote = market.quote(symbol, session_before.close_ns - 1) if session_before is not None and old else None
    kind = "Call" if right > 0 else "Put"
    return {
        "id": asset_id(symbol),
        "symbol": symbol,
        "name": f"{market.symbol} {date.fromisoformat(expiry.date):%b %d %Y} {strike} {kind}",
        "status": "active",
        "tradable": True,
        "expiration_date": expiry.date,
        "root_symbol": market.symbol,
        "underlying_symbol": market.symbol,
        "underlying_asset_id": asset_id(market.symbol),
        "type": kind.lower(),
        "style": "american",
        "strike_price": str(strike),
        "multiplier": "100",
        "size": "100",
        "open_interest": str(500 + zlib.crc32(f"{market.seed}:{symbol}".encode()) % 20_000),
        "open_interest_date": session_before.date if session_before is not None else None,
        "close_price": None if quote is None else str((quote[0] + quote[1]) / 2),
        "close_price_date": session_before.date if session_before is not None and quote is not None else None,
    }
