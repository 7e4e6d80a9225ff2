"""Shared by strategies that keep bars by symbol: each one's bars as rows of bytes, and the checked portfolio.

No I/O, no clock. Invariant: a symbol's rows are in order of time, one for each time, at most W, and every price in
them is finite and above 0 (`usable`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from functools import lru_cache
from itertools import pairwise
from math import inf, isfinite
from struct import Struct as Layout
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from strategies.kit.contract import Bar, Basket, Leg, Portfolio, Spec, View
from strategies.kit.quantity import shares_of, steps_of

Float64Array = npt.NDArray[np.float64]
Series = tuple[bytes, ...]
"""Each symbol's bars in the spec's order: its rows one after the other, oldest first, `b""` without any."""

PRICE_MIN, PRICE_MAX = 1e-6, 1e9  # USD: bounds of valid prices; within them every computed feature is a finite float32
ROW = Layout("<q5d")  # start_ns; open, high, low, close in USD; volume in shares

STEPS = "cut towards 0 to the desk's steps: whole shares, or multiples of order_step"
SHORT_CASH = "where the cash does not pay for all buys, each gets the same part"
"""How a share desk carries out a basket, as text for declarations."""


def usable(bar: Bar) -> bool:
    """Return whether all four prices are numbers from `PRICE_MIN` to `PRICE_MAX`; other bars do not count."""
    return all(PRICE_MIN <= price <= PRICE_MAX for price in (bar.open, bar.high, bar.low, bar.close))


def no_bars(spec: Spec) -> Series:
    """Return an empty series for each symbol."""
    return (b"",) * len(spec.symbols)


def remembered(spec: Spec, series: Series, bars: Iterable[Bar]) -> Series:
    """Return `series` with `bars` merged in by start, replacing bars of the same start; the newest W stay.

    Bars of other symbols and unusable ones are left out.
    """
    fresh: dict[str, list[Bar]] = {}
    for bar in bars:
        if usable(bar):
            fresh.setdefault(bar.symbol, []).append(bar)
    if not fresh:
        return series
    size = spec.history_bars * ROW.size
    return tuple(
        _merge(rows, fresh[symbol])[-size:] if symbol in fresh else rows
        for symbol, rows in zip(spec.symbols, series, strict=True)
    )


def readjusted(spec: Spec, series: Series, symbol: str, bars: Iterable[Bar]) -> Series:
    """Return `series` with all bars of `symbol` replaced by `bars`; unknown symbols change nothing."""
    other_series = tuple(b"" if name == symbol else rows for name, rows in zip(spec.symbols, series, strict=True))
    return remembered(spec, other_series, (bar for bar in bars if bar.symbol == symbol))


def known_bars(spec: Spec, series: Series) -> Mapping[str, tuple[Bar, ...]]:
    """Return the bars by symbol, oldest first; symbols without any are absent."""
    return {symbol: _unpack(symbol, rows) for symbol, rows in zip(spec.symbols, series, strict=True) if rows}


@lru_cache(maxsize=128)  # cached: the feed and the desk's stops ask for the same bars all day
def _unpack(symbol: str, rows: bytes) -> tuple[Bar, ...]:
    return tuple(Bar(symbol, *row) for row in ROW.iter_unpack(rows))


class KeptBars(Struct, frozen=True, gc=False):
    """Base of the state of a strategy that keeps bars: each symbol's newest ones, at most W."""

    series: Series


class _Strategy(Protocol):
    @property
    def spec(self) -> Spec: ...


S = TypeVar("S", bound=KeptBars)


class KeepsBars(Generic[S]):
    """The part of a `DailyStrategy` that keeps bars, for a state that derives from `KeptBars`."""

    __slots__ = ()

    def remember(self: _Strategy, state: S, bars: tuple[Bar, ...]) -> S:
        """Keep final bars in order of time; a bar with the start of a kept one replaces it."""
        return replace(state, series=remembered(self.spec, state.series, bars))

    def readjust(self: _Strategy, state: S, symbol: str, bars: tuple[Bar, ...]) -> S:
        """Replace all bars of `symbol`."""
        return replace(state, series=readjusted(self.spec, state.series, symbol, bars))

    def known(self: _Strategy, state: S) -> Mapping[str, tuple[Bar, ...]]:
        """Return the bars in the state, by symbol, oldest first."""
        return known_bars(self.spec, state.series)


class KeepsMinutes(Generic[S]):
    """The part of a `ShareStrategy` that keeps bars by symbol, for a state that derives from `KeptBars`.

    Call `kept` in `observe` to keep the bars that closed. A symbol without a bar at that minute keeps its older ones.
    """

    __slots__ = ()

    def kept(self: _Strategy, state: S, bars: tuple[Bar, ...]) -> S:
        """Keep the bars that just closed, each with its symbol's; the newest W stay."""
        return replace(state, series=remembered(self.spec, state.series, bars))

    def correct(self: _Strategy, state: S, bar: Bar) -> S:
        """Insert a late bar, or replace the bar with the same start; a bar older than the kept ones changes nothing."""
        return replace(state, series=remembered(self.spec, state.series, (bar,)))

    def split(self: _Strategy, state: S, symbol: str, ratio: float, from_ns: int) -> S:
        """Adjust the bars of `symbol` before `from_ns` for a split with `ratio` new shares for each old one."""
        return replace(state, series=split_rows(self.spec, state.series, symbol, ratio, from_ns))


def of_new_shares(bar: Bar, ratio: float) -> Bar:
    """Return the bar adjusted for a split: prices divided by `ratio`, the volume multiplied by it."""
    open_price, high, low, close = (price / ratio for price in (bar.open, bar.high, bar.low, bar.close))
    return Bar(bar.symbol, bar.start_ns, open_price, high, low, close, bar.volume * ratio)


def split_bars(bars: Iterable[Bar], symbol: str, ratio: float, from_ns: int) -> list[Bar]:
    """Return the bars; those of `symbol` that begin before `from_ns` are adjusted for the split."""
    return [of_new_shares(bar, ratio) if bar.symbol == symbol and bar.start_ns < from_ns else bar for bar in bars]


def split_rows(spec: Spec, series: Series, symbol: str, ratio: float, from_ns: int) -> Series:
    """Return `series` with its bars adjusted by `split_bars`."""
    return tuple(
        _merge(b"", split_bars(_unpack(name, rows), symbol, ratio, from_ns)) if rows and name == symbol else rows
        for name, rows in zip(spec.symbols, series, strict=True)
    )


def count(rows: bytes) -> int:
    """Return the number of bars."""
    return len(rows) // ROW.size


def newest_start_ns(rows: bytes) -> int:
    """Return the newest bar's start in nanoseconds UTC, -1 without any."""
    return int(ROW.unpack_from(rows, len(rows) - ROW.size)[0]) if rows else -1


def dated_closes(rows: bytes) -> tuple[npt.NDArray[np.int64], Float64Array]:
    """Return when a symbol's bars begin (int64, nanoseconds UTC) and their closes (float64, USD), oldest first."""
    return np.frombuffer(rows, dtype="<i8")[::6], np.frombuffer(rows, dtype="<f8")[4::6]


def prices(rows: bytes) -> Float64Array:
    """Return open, high, low and close of a symbol's bars: float64 (4, n), USD, oldest first, each row contiguous."""
    return np.ascontiguousarray(np.frombuffer(rows, dtype="<f8").reshape(-1, 6)[:, 1:5].T, dtype=np.float64)


def portfolio_of(spec: Spec, view: View) -> Portfolio:
    """Return the view's portfolio. `ValueError` when it is missing or has other symbols than the spec."""
    portfolio = view.portfolio
    if portfolio is None:
        raise ValueError(f"view of {view.session.date} has no portfolio, {spec.name} expects one: set View.portfolio")
    counts = len(portfolio.shares), len(portfolio.prices)
    if counts != (len(spec.symbols), len(spec.symbols)):
        raise ValueError(
            f"portfolio has shares and prices of {counts} symbols, {spec.name} expects {len(spec.symbols)} of each: "
            "give them in the spec's order"
        )
    return portfolio


def cut(shares: float, portfolio: Portfolio) -> int | float:
    """Return the shares cut to whole steps of the portfolio, towards 0: an int where whole."""
    return shares_of(steps_of(shares, portfolio.per_share), portfolio.per_share)


def basket_of_weights(symbols: Sequence[str], weights: Sequence[float], portfolio: Portfolio) -> Basket:
    """Return the basket that holds these parts of the equity, all in the order of `symbols`; the rest is cash.

    A symbol's goal is weight x equity / price shares, float64, cut to steps; a weight that would change by less than
    `portfolio.band` stays, and so does a symbol without a price. Sells come first, each kind in the order of `symbols`.
    No legs while the equity is not above 0.

    Raises:
        ValueError: not a finite weight for each symbol of the portfolio.
    """
    if not (len(symbols) == len(weights) == len(portfolio.shares) and isfinite(sum(weights))):
        raise ValueError(
            f"weights are {tuple(weights)} for {', '.join(symbols)}: expected a finite number for each of the "
            f"strategy's {len(portfolio.shares)} symbols"
        )
    equity = portfolio.equity
    if not equity > 0.0:
        return Basket()
    sells: list[Leg] = []
    buys: list[Leg] = []
    for symbol, weight, shares, price in zip(symbols, weights, portfolio.shares, portfolio.prices, strict=True):
        if not 0.0 < price < inf or abs(weight - shares * price / equity) < portfolio.band:
            continue
        goal = cut(weight * equity / price, portfolio)
        if goal != shares:
            (sells if goal < shares else buys).append(Leg(symbol, goal))
    return Basket((*sells, *buys))


def weekday_of(view: View) -> int:
    """Return the weekday of the session to decide for: 0 Monday to 4 Friday."""
    return date.fromisoformat(view.session.date).weekday()


def _merge(rows: bytes, bars: list[Bar]) -> bytes:
    """Merge `rows` and `bars` in order of time; of one start the later wins."""
    new = [(b.start_ns, ROW.pack(b.start_ns, b.open, b.high, b.low, b.close, b.volume)) for b in bars]
    if newest_start_ns(rows) < new[0][0] and all(a < b for (a, _), (b, _) in pairwise(new)):
        return rows + b"".join([row for _, row in new])
    by_start = {ROW.unpack_from(rows, at)[0]: rows[at : at + ROW.size] for at in range(0, len(rows), ROW.size)}
    by_start.update(new)
    return b"".join([row for _, row in sorted(by_start.items())])
