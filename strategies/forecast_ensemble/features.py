"""The 78 features of `forecast_ensemble`: one table of definitions, and two ways to them with the same bits.

No I/O, no clock. `table` has the rows of a whole history, for training; `newest` the last 60 rows from the last
`HISTORY_BARS` bars, as the live desk asks. Invariant: both call TA-Lib on the same arrays, because functions start at
anchors: some bars before the first bar of a block (`strategies.forecast_ensemble.calls`), where a block is two calendar
years of daily bars, or a week of intraday bars.

All features are free of scale: prices times 7 give the same numbers, but for rounding. For ADX and DI this takes a
grid. TA-Lib counts +DM where the rise of the high exceeds the fall of the low. Where both are equal in cents, which of
the two differences is larger is a rounding error, and another scale has other rounding errors. Of SPY's 5-minute bars
of 2024 0.4 % are such ties, a third of them unequal in floating point. Each lives on in Wilder's averages, so a fifth
of all ADX values moved, by up to 10 %; times 8, which rounds nothing, none did. So these functions, and MFI, which
compares sums of prices, get prices as whole millionths of a USD, whose differences are exact.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from math import pi
from typing import Any

import numpy as np
import numpy.typing as npt

from strategies.forecast_ensemble.calls import COS, LEAD, LN, SIN, Float64Array, fill
from strategies.kit.contract import Feature, Float32Array

DayArray = npt.NDArray[np.datetime64]

WINDOW = 60  # rows of a sequence
BLOCK = 523  # weekdays of two calendar years at most
HISTORY_BARS = LEAD + BLOCK + WINDOW - 1  # W: the oldest row may be the last of its block
MILLIONTHS = 1e6  # of a USD: the grid on which ADX, DI and MFI compare prices


FEATURES: tuple[Feature, ...] = (
    *(Feature(f"log_return_{n}", f"ln(C / C of {n} bars ago)") for n in (1, 2, 3, 5, 10, 20, 40)),
    Feature("gap", "ln(O / C of the bar before)"),
    Feature("body", "(C - O) / ATR14"),
    Feature("range", "(H - L) / ATR14"),
    Feature("upper_wick", "(H - the higher of O and C) / ATR14"),
    Feature("lower_wick", "(the lower of O and C - L) / ATR14"),
    Feature("close_location", "(C - L) / (H - L), 0.5 where H = L"),
    *(Feature(f"sma{n}_distance", f"(C - SMA{n}) / ATR14") for n in (5, 10, 20, 50, 100)),
    Feature("ema12_distance", "(C - EMA12) / ATR14"),
    Feature("ema26_distance", "(C - EMA26) / ATR14"),
    Feature("kama30_distance", "(C - KAMA30) / ATR14"),
    Feature("dema20_distance", "(C - DEMA20) / ATR14"),
    Feature("t3_10_distance", "(C - T3(10, 0.7)) / ATR14"),
    Feature("sar_distance", "(C - SAR(0.02, 0.2)) / ATR14"),
    *(Feature(f"linearreg_slope{n}", f"LINEARREG_SLOPE{n}(C) / ATR14") for n in (10, 20, 50)),
    Feature("tsf14_distance", "(C - TSF14) / ATR14"),
    Feature("macd", "MACD(12, 26, 9) line / ATR14"),
    Feature("macd_signal", "MACD(12, 26, 9) signal / ATR14"),
    Feature("macd_histogram", "MACD(12, 26, 9) histogram / ATR14"),
    Feature("adx14", "ADX14 of prices in whole millionths of a USD, as all of DM and MFI"),
    Feature("di_difference14", "PLUS_DI14 - MINUS_DI14"),
    Feature("aroonosc25", "AROONOSC25"),
    Feature("trix15", "TRIX15"),
    Feature("correl_time20", "CORREL20 of C and the bar's number"),
    Feature("ppo", "PPO(12, 26) of exponential averages"),
    *(Feature(f"rsi{n}", f"RSI{n}") for n in (2, 7, 14, 28)),
    Feature("stoch_k", "STOCH(14, 3, 3) slow %K"),
    Feature("stoch_d", "STOCH(14, 3, 3) slow %D"),
    Feature("stochrsi", "STOCHRSI(14, 14) fast %K"),
    Feature("willr14", "WILLR14"),
    Feature("cci20", "CCI20"),
    Feature("avgdev20", "AVGDEV20(C) / ATR14"),
    Feature("ultosc", "ULTOSC(7, 14, 28)"),
    Feature("ht_trendmode", "HT_TRENDMODE: 1 trend, 0 cycle"),
    Feature("mom10", "MOM10 / ATR14"),
    Feature("bop", "BOP"),
    Feature("mfi14", "MFI14"),
    Feature("imi14", "IMI14"),
    Feature("natr14", "100 ATR14 / C"),
    Feature("natr_ratio", "NATR5 / NATR50"),
    *(Feature(f"stddev{n}", f"STDDEV{n} of log_return_1") for n in (5, 20, 60)),
    Feature("stddev_ratio", "stddev5 / stddev60"),
    Feature("trange", "TRANGE / ATR14"),
    Feature("percent_b20", "(C - lower) / (upper - lower), BBANDS(20, 2), 0.5 where they meet"),
    Feature("band_width20", "(upper - lower) / middle, BBANDS(20, 2)"),
    Feature("max20_distance", "(C - MAX20(H)) / ATR14"),
    Feature("min20_distance", "(C - MIN20(L)) / ATR14"),
    Feature("midprice14_distance", "(C - MIDPRICE14) / ATR14"),
    Feature("volume_to_20", "(V - SMA20(V)) / (V + SMA20(V))"),
    Feature("volume_to_5", "(V - SMA5(V)) / (V + SMA5(V))"),
    Feature("volume_stddev20", "STDDEV20(V) / SMA20(V)"),
    Feature("obv_slope20", "LINEARREG_SLOPE20(OBV) / SMA20(V)"),
    Feature("adosc", "ADOSC(3, 10) / SMA20(V)"),
    Feature("correl_volume20", "CORREL20 of log_return_1 and V"),
    Feature("money_flow20", "CMF20"),
    Feature("ht_sine", "HT_SINE"),
    Feature("ht_leadsine", "HT_SINE's lead sine"),
    Feature("ht_dcperiod", "HT_DCPERIOD"),
    Feature("year_sine", "sine of 2 pi x the part of the year that is over at the bar's end"),
    Feature("year_cosine", "cosine of it"),
    Feature("to_month_end", "weekdays after the bar's date up to the month's last, and what is left of the bar's own"),
)
"""The columns in order. O, H, L, C, V: open, high, low, close, volume; all else by TA-Lib. A quotient is 0 where its
divisor is not above 0. NaN before a column's functions have settled (`strategies.forecast_ensemble.calls`)."""

NAMES = tuple(feature.name for feature in FEATURES)
COUNT = len(FEATURES)
AT = {name: place for place, name in enumerate(NAMES)}
_SCRATCH = ("atr14", "minus_di14", "natr50", "lower20", "volume_sma20")  # series that columns are computed from
_ROWS = {name: place for place, name in enumerate((*NAMES, *_SCRATCH))}
_DISTANCES = (
    slice(AT["sma5_distance"], AT["sar_distance"] + 1),
    slice(AT["tsf14_distance"], AT["tsf14_distance"] + 1),
    slice(AT["max20_distance"], AT["midprice14_distance"] + 1),
)
"""Columns of levels, which are subtracted from the close."""
_IN_ATR = (
    slice(AT["body"], AT["lower_wick"] + 1),
    slice(AT["sma5_distance"], AT["macd_histogram"] + 1),
    *(slice(AT[name], AT[name] + 1) for name in ("avgdev20", "mom10", "trange")),
    slice(AT["max20_distance"], AT["midprice14_distance"] + 1),
)
"""Columns that are divided by ATR14."""


def table(
    open_: npt.ArrayLike,
    high: npt.ArrayLike,
    low: npt.ArrayLike,
    close: npt.ArrayLike,
    volume: npt.ArrayLike,
    dates: npt.ArrayLike,
    elapsed: npt.ArrayLike | None = None,
) -> Float32Array:
    """The features at each of n bars of one symbol, float32 (n, 78), NaN before they settle.

    Args:
        open_, high, low, close: (n,) USD, adjusted as of the newest bar, oldest first, all from 1e-6 to 1e9.
        volume: (n,) shares, 0 or above.
        dates: (n,) New York date of each bar, as numpy reads it (`datetime64[D]`), ascending.
        elapsed: (n,) part of the session that is over at the bar's end, 0 to 1, for intraday bars, whose blocks are
            weeks; None for daily bars.
    """
    columns = [np.ascontiguousarray(x, dtype=np.float64) for x in (open_, high, low, close, volume)]
    return _features(columns, *_times(dates, elapsed), 0)


def newest(
    open_: npt.ArrayLike,
    high: npt.ArrayLike,
    low: npt.ArrayLike,
    close: npt.ArrayLike,
    volume: npt.ArrayLike,
    dates: npt.ArrayLike,
    elapsed: npt.ArrayLike | None = None,
) -> Float32Array:
    """The last `WINDOW` rows of `table`, float32 (60, 78), bit-equal, from the last `HISTORY_BARS` daily bars alone.

    With fewer than 60 bars there is one row a bar.
    """
    columns = [np.ascontiguousarray(x, dtype=np.float64) for x in (open_, high, low, close, volume)]
    return _features(columns, *_times(dates, elapsed), max(len(columns[0]) - WINDOW, 0))


def together(function: Callable[..., Float32Array], histories: Iterable[Sequence[Any]]) -> list[Float32Array]:
    """Apply `table` or `newest` to the arguments of each symbol, on all cores."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(lambda history: function(*history), histories))


def _features(columns: list[Float64Array], dates: DayArray, elapsed: Float64Array | None, first: int) -> Float32Array:
    """The rows from bar `first` on."""
    out = np.empty((len(_ROWS), len(dates) - first))
    logs = LN(columns[3])
    returns = np.full(len(dates), np.nan)
    np.subtract(logs[1:], logs[:-1], out=returns[1:])
    exact = [np.rint(column * MILLIONTHS) for column in columns[1:4]]
    bars = dict(zip("OHLCVhlcRT", (*columns, *exact, returns, np.arange(float(len(dates)))), strict=True))
    edges, times = _calendar(dates.tobytes(), None if elapsed is None else elapsed.tobytes())
    fill(out, _ROWS, bars, edges, first)
    _returns(out, bars["O"], logs, first)
    _shape(out, *(column[first:] for column in columns))
    out[AT["year_sine"] : COUNT] = times[:, first:]
    return out[:COUNT].T.astype(np.float32, order="C")


def _times(dates: npt.ArrayLike, elapsed: npt.ArrayLike | None) -> tuple[DayArray, Float64Array | None]:
    """Dates and parts of the session, as arrays."""
    days = np.ascontiguousarray(dates, dtype="datetime64[D]")
    return days, None if elapsed is None else np.ascontiguousarray(elapsed, dtype=np.float64)


def _returns(out: Float64Array, open_: Float64Array, logs: Float64Array, first: int) -> None:
    """Log returns and the gap of the bars from `first` on; `logs` (n,) of all closes."""
    n = len(logs)
    for row, back in enumerate((1, 2, 3, 5, 10, 20, 40)):
        begin = min(max(first, back), n)
        out[row, : begin - first] = np.nan
        np.subtract(logs[begin:], logs[begin - back : n - back], out=out[row, begin - first :])
    begin = min(max(first, 1), n)
    gap = out[_ROWS["gap"]]
    gap[: begin - first] = np.nan
    np.subtract(LN(open_[begin:]), logs[begin - 1 : n - 1], out=gap[begin - first :])


def _shape(
    out: Float64Array, o: Float64Array, high: Float64Array, low: Float64Array, close: Float64Array, volume: Float64Array
) -> None:
    """Turn TA-Lib's series in `out` into features, in place: differences and quotients."""
    at = _ROWS
    atr = out[at["atr14"]]
    unit = _quotient(1.0, atr)
    np.subtract(close, o, out=out[at["body"]])
    np.subtract(high, low, out=out[at["range"]])
    np.subtract(high, np.maximum(o, close), out=out[at["upper_wick"]])
    np.subtract(np.minimum(o, close), low, out=out[at["lower_wick"]])
    out[at["close_location"]] = _quotient(close - low, out[at["range"]], 0.5)
    for some in _DISTANCES:
        np.subtract(close, out[some], out=out[some])
    for some in _IN_ATR:
        out[some] *= unit
    out[at["di_difference14"]] -= out[at["minus_di14"]]
    out[at["natr14"]] = 100.0 * atr / close
    out[at["natr_ratio"]] = _quotient(out[at["natr_ratio"]], out[at["natr50"]])
    out[at["stddev_ratio"]] = _quotient(out[at["stddev5"]], out[at["stddev60"]])
    upper, middle, lower = out[at["percent_b20"]], out[at["band_width20"]], out[at["lower20"]]
    width = upper - lower
    np.divide(width, middle, out=middle)
    upper[:] = _quotient(close - lower, width, 0.5)
    _volumes(out, volume)


def _volumes(out: Float64Array, volume: Float64Array) -> None:
    """Turn the volume series in `out` into features, in place."""
    mean, recent = out[_ROWS["volume_sma20"]], out[_ROWS["volume_to_5"]]
    unit = _quotient(1.0, mean)
    for name in ("volume_stddev20", "obv_slope20", "adosc"):
        out[_ROWS[name]] *= unit
    out[_ROWS["volume_to_20"]] = _quotient(volume - mean, volume + mean)
    recent[:] = _quotient(volume - recent, volume + recent)


def _quotient(numerator: npt.ArrayLike, divisor: Float64Array, otherwise: float = 0.0) -> Float64Array:
    """numerator / divisor, `otherwise` where the divisor is not above 0; NaN where it is NaN."""
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient: Float64Array = np.divide(numerator, divisor)
    quotient[divisor <= 0.0] = otherwise
    return quotient


@lru_cache(maxsize=4)
def _calendar(dates: bytes, elapsed: bytes | None) -> tuple[tuple[int, ...], Float64Array]:
    """The blocks' edges, and the three calendar columns (3, n). Cached, because symbols share their dates."""
    days = np.frombuffer(dates, dtype="datetime64[D]")
    over = np.ones(len(days)) if elapsed is None else np.frombuffer(elapsed, dtype=np.float64)
    blocks = days.astype("datetime64[Y]").astype(np.int64) // 2 if elapsed is None else (days.astype(np.int64) + 3) // 7
    first = days.astype("datetime64[Y]")
    length = (_number(first + 1) - _number(first)).astype(np.float64)
    angle = 2.0 * pi * (_number(days) - _number(first) + over) / length
    days_left = _weekdays(_number(days.astype("datetime64[M]") + 1)) - _weekdays(_number(days) + 1) + (1.0 - over)
    edges = (0, *(np.flatnonzero(blocks[1:] != blocks[:-1]) + 1).tolist(), len(days))
    return edges, np.stack((SIN(angle), COS(angle), days_left))


def _number(dates: DayArray) -> npt.NDArray[np.int64]:
    """Days since 1970-01-01 of the first day of each date, month or year."""
    return dates.astype("datetime64[D]").astype(np.int64)


def _weekdays(days: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The number of weekdays before each day since a Monday long ago; 1970-01-01 was a Thursday."""
    weeks, day = np.divmod(days + 3, 7)
    return 5 * weeks + np.minimum(day, 5)
