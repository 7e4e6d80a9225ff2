"""Market columns of the daily strategies: for one window (live) and for a whole history (training).

No I/O, no clock, no strategy. Invariant: both ways give the same bits, because a value at a bar is a function of the
window of the symbol's newest bars up to it, and TA-Lib's function API is run from that window's first bar.
"""

from __future__ import annotations

from inspect import unwrap
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import talib

from strategies.kit.contract import Float32Array
from strategies.kit.daily import PRICE_MAX, PRICE_MIN

Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
# TA-Lib's own functions, without the wrapper that looks for a pandas Series among the arguments of each call
BBANDS, MACD, RSI, CCI, DX = (
    unwrap(function) for function in (talib.BBANDS, talib.MACD, talib.RSI, talib.CCI, talib.DX)
)
SMA, ATR, WILLR, STOCHF = (unwrap(function) for function in (talib.SMA, talib.ATR, talib.WILLR, talib.STOCHF))


class DailyPeriods(msgspec.Struct, frozen=True):
    """Indicator periods in bars, and the Bollinger deviations. Part of `daily_rebalancer`'s contract hash."""

    macd_fast: int = 12
    macd_slow: int = 26
    macd_signal: int = 9
    rsi: int = 14
    cci: int = 20
    dx: int = 14
    sma_fast: int = 20
    sma_middle: int = 50
    sma_slow: int = 200
    bollinger: int = 20
    bollinger_deviations: float = 2.0
    atr: int = 14
    williams_r: int = 14
    stochastic_k: int = 14
    stochastic_d: int = 3  # %D is no column; its period is fixed because TA-Lib asks for one


PERIODS = DailyPeriods()
INDICATOR_COUNT = 13
STOCK_WINDOW = 400  # bars for a stock's indicators: W of `daily_rebalancer`
FUND_WINDOW = 252  # bars of the mean price: W of `regime_switcher`
VOLATILITY_RETURNS = 20
SCALE = 10.0  # of `regime_switcher`'s returns and volatilities


def indicators(high: Float64Array, low: Float64Array, close: Float64Array) -> Float64Array:
    """Return the 13 indicators at the last of n >= 1 bars, float64 (13,), from all given bars by TA-Lib's function API.

    MACD line, RSI, CCI, DX, SMA 20, 50, 200, Bollinger upper, middle, lower, ATR, Williams %R, fast %K; 0 where TA-Lib
    has no finite value (too few bars).
    """
    p = PERIODS
    upper, middle, lower = BBANDS(close, p.bollinger, p.bollinger_deviations, p.bollinger_deviations)
    last = (
        MACD(close, p.macd_fast, p.macd_slow, p.macd_signal)[0][-1],
        RSI(close, p.rsi)[-1],
        CCI(high, low, close, p.cci)[-1],
        DX(high, low, close, p.dx)[-1],
        SMA(close, p.sma_fast)[-1],
        SMA(close, p.sma_middle)[-1],
        SMA(close, p.sma_slow)[-1],
        upper[-1],
        middle[-1],
        lower[-1],
        ATR(high, low, close, p.atr)[-1],
        WILLR(high, low, close, p.williams_r)[-1],
        STOCHF(high, low, close, p.stochastic_k, p.stochastic_d)[0][-1],
    )
    return _finite(np.array(last))


def indicator_history(
    high: Float64Array, low: Float64Array, close: Float64Array, window: int = STOCK_WINDOW
) -> Float64Array:
    """Return `indicators` at each of n bars, on the newest `window` bars up to it: float64 (n, 13), the same bits.

    Up to bar `window` one pass is enough, because every function is causal. After that, functions whose value depends
    on the last `period` bars alone (CCI, Williams %R, %K) still run in one pass; the others run window by window.
    """
    p = PERIODS
    n = len(close)
    out = np.empty((n, INDICATOR_COUNT))
    head = min(n, window)
    if head:
        out[:head] = _pass(high[:head], low[:head], close[:head])
    if n <= window:
        return _finite(out)
    last = np.empty((n - window, 10))
    for row, first in enumerate(range(1, n - window + 1)):
        c = close[first : first + window]
        h, low_ = high[first : first + window], low[first : first + window]
        upper, middle, lower = BBANDS(c, p.bollinger, p.bollinger_deviations, p.bollinger_deviations)
        last[row] = (
            MACD(c, p.macd_fast, p.macd_slow, p.macd_signal)[0][-1],
            RSI(c, p.rsi)[-1],
            DX(h, low_, c, p.dx)[-1],
            SMA(c, p.sma_fast)[-1],
            SMA(c, p.sma_middle)[-1],
            SMA(c, p.sma_slow)[-1],
            upper[-1],
            middle[-1],
            lower[-1],
            ATR(h, low_, c, p.atr)[-1],
        )
    out[window:, (0, 1, 3, 4, 5, 6, 7, 8, 9, 10)] = last
    out[window:, 2] = _cci(high, low, close, window)[window:]
    out[window:, 11] = WILLR(high, low, close, p.williams_r)[window:]
    out[window:, 12] = STOCHF(high, low, close, p.stochastic_k, p.stochastic_d)[0][window:]
    return _finite(out)


def fund_features(windows: Float64Array) -> Float64Array:
    """Return price, return and volatility of funds at the last of `FUND_WINDOW` closes: (k, 252) to (k, 3), float64.

    Price: close / mean of the 252 closes - 1. Return: (close / previous close - 1) x 10. Volatility: the sample
    standard deviation (n - 1) of the last 20 such simple returns, not annualised, x 10.
    """
    windows = np.ascontiguousarray(windows)
    recent = windows[:, -VOLATILITY_RETURNS - 1 :]
    out = np.empty((len(windows), 3))
    out[:, 0] = windows[:, -1] / (windows.sum(axis=1) / FUND_WINDOW) - 1.0
    out[:, 1] = (recent[:, -1] / recent[:, -2] - 1.0) * SCALE
    out[:, 2] = fund_volatilities(recent)
    return out


def fund_volatilities(closes: Float64Array) -> Float64Array:
    """Return the volatility of `fund_features` of the last 21 closes of k funds, (k, 21) to (k,), float64."""
    returns = np.ascontiguousarray(closes[:, 1:] / closes[:, :-1] - 1.0)
    spread = returns - (returns.sum(axis=1) / VOLATILITY_RETURNS)[:, None]
    volatilities: Float64Array = np.sqrt((spread * spread).sum(axis=1) / (VOLATILITY_RETURNS - 1)) * SCALE
    return volatilities


class RebalancerTable(NamedTuple):
    """`daily_rebalancer`'s market columns at the end of each session, for n stocks in the caller's order.

    `market` float32 (days, 14 n): n closes in USD, then the 13 indicators of the first stock, of the second, ....
    `tradable` float32 (days, n): 1 or 0, by the strategy's masking rule.
    """

    market: Float32Array
    tradable: Float32Array


def rebalancer_table(
    open_: npt.ArrayLike,
    high: npt.ArrayLike,
    low: npt.ArrayLike,
    close: npt.ArrayLike,
    present: npt.ArrayLike | None = None,
    *,
    window: int = STOCK_WINDOW,
) -> RebalancerTable:
    """Return the columns over a whole history of adjusted prices in USD, (days, n) each, bit-equal to live.

    `present` bool (days, n), None for all: false where a stock has no bar. A price that is NaN or outside `PRICE_MIN`
    to `PRICE_MAX` counts as no bar. A row holds what is known after the session's close, for the decision about the
    next session.
    """
    o, h, low_, c = (np.asarray(x, dtype=np.float64) for x in (open_, high, low, close))
    good = np.logical_and.reduce([_usable(x) for x in (o, h, low_, c)])
    if present is not None:
        good &= np.asarray(present, dtype=np.bool_)
    days, n = c.shape
    closes, indicators = np.zeros((days, n)), np.zeros((days, n, INDICATOR_COUNT))
    for stock in range(n):
        is_valid = good[:, stock]
        hh, ll, cc = (np.ascontiguousarray(x[is_valid, stock]) for x in (h, low_, c))
        closes[:, stock] = _carry_forward(cc, is_valid)
        indicators[:, stock] = _carry_forward(indicator_history(hh, ll, cc, window), is_valid)
    flags = good & (np.cumsum(good, axis=0) >= window)
    market = np.concatenate((closes, indicators.reshape(days, n * INDICATOR_COUNT)), axis=1)
    some = np.asarray(good.any(axis=1))  # a day without any bar is no session: the flags of the last one stand
    tradable = _carry_forward(flags[some].astype(np.float64), some)
    return RebalancerTable(market.astype(np.float32), tradable.astype(np.float32))


def regime_table(close: npt.ArrayLike, present: npt.ArrayLike | None = None) -> Float32Array:
    """Return `regime_switcher`'s market columns at the end of each session, float32 (days, 3 n), bit-equal to live.

    `close` (days, n): adjusted closes of the funds in USD; `present` as in `rebalancer_table`. Rows hold 0 until all
    funds have `FUND_WINDOW` bars.
    """
    c = np.asarray(close, dtype=np.float64)
    good = _usable(c)
    if present is not None:
        good &= np.asarray(present, dtype=np.bool_)
    days, n = c.shape
    out = np.zeros((days, 3, n))
    for fund in range(n):
        is_valid = good[:, fund]
        closes = c[is_valid, fund]
        values = np.zeros((len(closes), 3))
        if len(closes) >= FUND_WINDOW:
            values[FUND_WINDOW - 1 :] = fund_features(np.lib.stride_tricks.sliding_window_view(closes, FUND_WINDOW))
        out[:, :, fund] = _carry_forward(values, is_valid)
    warm = np.cumsum(good, axis=0).min(axis=1) >= FUND_WINDOW
    return np.where(warm[:, None], out.reshape(days, 3 * n), 0.0).astype(np.float32)


def _usable(prices: Float64Array) -> BoolArray:
    """Return `strategies.kit.daily.usable`, price by price."""
    return (prices >= PRICE_MIN) & (prices <= PRICE_MAX)


def _pass(high: Float64Array, low: Float64Array, close: Float64Array) -> Float64Array:
    """Return the 13 indicators at each bar, all from the first bar on: (n, 13), NaN with too few bars."""
    p = PERIODS
    bands = BBANDS(close, p.bollinger, p.bollinger_deviations, p.bollinger_deviations)
    columns = (
        MACD(close, p.macd_fast, p.macd_slow, p.macd_signal)[0],
        RSI(close, p.rsi),
        CCI(high, low, close, p.cci),
        DX(high, low, close, p.dx),
        *(SMA(close, period) for period in (p.sma_fast, p.sma_middle, p.sma_slow)),
        *bands,
        ATR(high, low, close, p.atr),
        WILLR(high, low, close, p.williams_r),
        STOCHF(high, low, close, p.stochastic_k, p.stochastic_d)[0],
    )
    return np.stack(columns, axis=1)


def _cci(high: Float64Array, low: Float64Array, close: Float64Array, window: int) -> Float64Array:
    """Return CCI at each bar from the window that ends there: (n,).

    TA-Lib sums its ring buffer of `period` prices in buffer order, so the last bits depend on a bar's index modulo the
    period. One run for each of these phases covers every window.
    """
    period = PERIODS.cci
    out = np.empty(len(close))
    for phase in range(period):
        at = slice(phase + (window - 1) % period, None, period)
        out[at] = CCI(high[phase:], low[phase:], close[phase:], period)[(window - 1) % period :: period]
    return out


def _carry_forward(values: Float64Array, is_valid: BoolArray) -> Float64Array:
    """Carry `values` of days where `is_valid` is true forward to all days; 0 before the first."""
    return np.concatenate((np.zeros((1, *values.shape[1:])), values))[np.cumsum(is_valid)]


def _finite(values: Float64Array) -> Float64Array:
    """Replace non-finite values by 0."""
    return np.where(np.isfinite(values), values, 0.0)
