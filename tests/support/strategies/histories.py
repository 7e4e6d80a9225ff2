"""One symbol's bars as arrays: recorded days and minutes, and random walks. No expected value is computed here."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import talib

Float64Array = npt.NDArray[np.float64]
IN_ATR = ("sma", "ema", "kama", "dema", "t3", "sar", "linearreg", "tsf", "macd")


class History(NamedTuple):
    """The arguments of `strategies.forecast_ensemble.features.table`, in its order."""

    open: Float64Array
    high: Float64Array
    low: Float64Array
    close: Float64Array
    volume: Float64Array
    dates: npt.NDArray[np.datetime64]
    elapsed: Float64Array | None = None

    def part(self, first: int, end: int) -> History:
        """The bars from `first` to before `end`, as a copy."""
        o, high, low, close, volume = (column[first:end].copy() for column in self[:5])
        elapsed = None if self.elapsed is None else self.elapsed[first:end].copy()
        return History(o, high, low, close, volume, self.dates[first:end].copy(), elapsed)

    def times(self, factor: float) -> History:
        """The same with all prices times `factor`."""
        o, high, low, close = (factor * column for column in self[:4])
        return self._replace(open=o, high=high, low=low, close=close)

    def bars(self) -> dict[str, Float64Array]:
        """The bars as `strategies.forecast_ensemble.calls.Bars`."""
        returns = np.diff(np.log(self.close), prepend=np.nan)
        exact = (np.rint(1e6 * column) for column in self[1:4])
        return dict(zip("OHLCVhlcRT", (*self[:5], *exact, returns, np.arange(float(len(self.close)))), strict=True))

    def unit(self, name: str, at: int) -> float:
        """What a call's series of this name is measured in at a bar: an ATR in USD, a mean volume, or 1."""
        if name.startswith(IN_ATR) or name in ("atr14", "percent_b20", "band_width20", "lower20"):
            span = slice(max(at - 600, 0), at + 1)
            return float(talib.ATR(self.high[span], self.low[span], self.close[span], 14)[-1])
        if name.startswith(("volume", "obv", "adosc")):
            return float(self.volume[at - 20 : at + 1].mean())
        return float(talib.NATR(self.high, self.low, self.close, 50)[at]) if name in ("natr50", "natr_ratio") else 1.0


@lru_cache(maxsize=16)
def recorded_stock(folder: Path, symbol: str) -> History:
    """All days of a stock in `stocks_daily_2010_2022.parquet`."""
    rows = pd.read_parquet(folder / "stocks_daily_2010_2022.parquet", filters=[("symbol", "==", symbol)])
    return _history(rows, np.array(rows["date"].tolist(), dtype="datetime64[D]"))


@lru_cache(maxsize=1)
def recorded_minutes(folder: Path) -> History:
    """SPY's 5-minute bars of 2024; half days count as whole ones that end early."""
    rows = pd.read_parquet(folder / "spy_5min_2024.parquet")
    times = rows["timestamp"].dt.tz_convert("America/New_York")
    dates = np.array(times.dt.strftime("%Y-%m-%d").tolist(), dtype="datetime64[D]")
    minutes = 60.0 * times.dt.hour + times.dt.minute - 565.0
    return _history(rows, dates, np.ascontiguousarray(minutes / 390.0))


def walk(seed: int, dates: npt.ArrayLike, rough: float = 0.02) -> History:
    """A random walk of prices from 100 USD; `rough` is the deviation of a day's return, 0 for prices that stand."""
    days = np.asarray(dates, dtype="datetime64[D]")
    draw = np.random.default_rng(seed)
    n = len(days)
    close = 100.0 * np.exp(np.clip(np.cumsum(draw.normal(0.0, rough, n)), -8.0, 8.0))
    open_ = close * np.exp(draw.normal(0.0, rough / 2, n))
    high = np.maximum(open_, close) * np.exp(np.abs(draw.normal(0.0, rough / 2, n)))
    low = np.minimum(open_, close) * np.exp(-np.abs(draw.normal(0.0, rough / 2, n)))
    return History(open_, high, low, close, np.rint(draw.lognormal(12.0, 0.6, n)), days)


def weekdays(first: str, count: int) -> npt.NDArray[np.datetime64]:
    """So many weekdays from `first` (a weekday) on."""
    days = np.datetime64(first) + np.arange(2 * count + 7)
    return days[np.is_busday(days)][:count]


def _history(rows: pd.DataFrame, dates: npt.NDArray[np.datetime64], elapsed: Float64Array | None = None) -> History:
    names = ("open", "high", "low", "close", "volume")
    o, high, low, close, volume = (np.ascontiguousarray(rows[name].to_numpy(), dtype=np.float64) for name in names)
    return History(o, high, low, close, volume, dates, elapsed)
