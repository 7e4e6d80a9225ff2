"""The TA-Lib calls behind the 78 features: function, inputs, parameters, and how many bars before its rows each starts.

No I/O, no clock. Invariant: a number depends on the bars of its block and on `LEAD` bars before the block, never on
where the history begins: TA-Lib called with these bars gets the same arrays and gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import unwrap
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import talib

Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

SHORT, EXPONENTIAL, CYCLE, SLOW = 100, 150, 200, 300
LEAD = max(SHORT, EXPONENTIAL, CYCLE, SLOW)
"""Bars that a function gets before a block, so that it has settled when the block begins.

Rule: the function starts so many bars before the block instead of at the first bar of history, and 99 % of all rows of
the recorded stocks and of random walks change by at most 1 % of the feature's standard deviation. `SHORT` covers the
longest window of a function that forgets (100 bars); `SLOW` is for the average of 50 and for KAMA.
"""


COS, LN, SIN = unwrap(talib.COS), unwrap(talib.LN), unwrap(talib.SIN)
Bars = Mapping[str, Float64Array]
"""One symbol's bars, oldest first, float64 (n,) each: O, H, L, C open, high, low, close in USD, above 0; V volume in
shares; R the log return since the bar before, NaN at the first; T the bar's number from 0 on; h, l, c high, low,
close in whole millionths of a USD."""
Series = Float64Array | npt.NDArray[np.int32]


class IndicatorCall(NamedTuple):
    """One call of a TA-Lib function: names of its output rows, inputs (letters of `Bars`) and parameters."""

    names: tuple[str, ...]
    function: Callable[..., Any]
    inputs: str
    parameters: tuple[float, ...]

    def run(self, bars: Bars) -> tuple[Series, ...]:
        """The output series for these bars."""
        series = self.function(*[bars[letter] for letter in self.inputs], *self.parameters)
        return series if isinstance(series, tuple) else (series,)


def _call(names: str, function: Callable[..., Any], inputs: str, *parameters: float) -> IndicatorCall:
    """A call of the bare function, without TA-Lib's wrapper that looks for pandas objects."""
    return IndicatorCall(tuple(names.split()), unwrap(function), inputs, parameters)


def _obv_slope(close: Float64Array, volume: Float64Array, period: int) -> Series:
    return talib.LINEARREG_SLOPE(talib.OBV(close, volume), period)


def _stochrsi(close: Float64Array, period: int, fastk: int) -> Series:
    return talib.STOCHRSI(close, period, fastk)[0]


EXACT: tuple[IndicatorCall, ...] = (
    _call("aroonosc25", talib.AROONOSC, "HL", 25),
    _call("willr14", talib.WILLR, "HLC", 14),
    _call("avgdev20", talib.AVGDEV, "C", 20),
    _call("mom10", talib.MOM, "C", 10),
    _call("bop", talib.BOP, "OHLC"),
    _call("imi14", talib.IMI, "OC", 14),
    _call("trange", talib.TRANGE, "HLC"),
    _call("max20_distance", talib.MAX, "H", 20),
    _call("min20_distance", talib.MIN, "L", 20),
    _call("midprice14_distance", talib.MIDPRICE, "HL", 14),
)
"""Functions that compute each window anew: the same bits wherever the input starts."""

ANCHORED: tuple[tuple[int, tuple[IndicatorCall, ...]], ...] = (
    (
        SHORT,
        (
            _call("sma5_distance", talib.SMA, "C", 5),
            _call("sma10_distance", talib.SMA, "C", 10),
            _call("sma20_distance", talib.SMA, "C", 20),
            _call("sma50_distance", talib.SMA, "C", 50),
            _call("sma100_distance", talib.SMA, "C", 100),
            _call("linearreg_slope10", talib.LINEARREG_SLOPE, "C", 10),
            _call("linearreg_slope20", talib.LINEARREG_SLOPE, "C", 20),
            _call("linearreg_slope50", talib.LINEARREG_SLOPE, "C", 50),
            _call("tsf14_distance", talib.TSF, "C", 14),
            _call("correl_time20", talib.CORREL, "CT", 20),
            _call("stoch_k stoch_d", talib.STOCH, "HLC", 14, 3, 0, 3, 0),
            _call("cci20", talib.CCI, "HLC", 20),
            _call("ultosc", talib.ULTOSC, "HLC", 7, 14, 28),
            _call("mfi14", talib.MFI, "hlcV", 14),
            _call("stddev5", talib.STDDEV, "R", 5),
            _call("stddev20", talib.STDDEV, "R", 20),
            _call("stddev60", talib.STDDEV, "R", 60),
            _call("percent_b20 band_width20 lower20", talib.BBANDS, "C", 20, 2.0, 2.0),
            _call("volume_sma20", talib.SMA, "V", 20),
            _call("volume_to_5", talib.SMA, "V", 5),
            _call("volume_stddev20", talib.STDDEV, "V", 20),
            _call("obv_slope20", _obv_slope, "CV", 20),
            _call("correl_volume20", talib.CORREL, "RV", 20),
            _call("money_flow20", talib.CMF, "HLCV", 20),
            _call("ema12_distance", talib.EMA, "C", 12),
            _call("t3_10_distance", talib.T3, "C", 10),
            _call("rsi2", talib.RSI, "C", 2),
            _call("rsi7", talib.RSI, "C", 7),
            _call("natr_ratio", talib.NATR, "HLC", 5),
            _call("adosc", talib.ADOSC, "HLCV", 3, 10),
        ),
    ),
    (
        EXPONENTIAL,
        (
            _call("ema26_distance", talib.EMA, "C", 26),
            _call("dema20_distance", talib.DEMA, "C", 20),
            _call("sar_distance", talib.SAR, "HL", 0.02, 0.2),
            _call("macd macd_signal macd_histogram", talib.MACD, "C", 12, 26, 9),
            _call("adx14", talib.ADX, "hlc", 14),
            _call("di_difference14", talib.PLUS_DI, "hlc", 14),
            _call("minus_di14", talib.MINUS_DI, "hlc", 14),
            _call("trix15", talib.TRIX, "C", 15),
            _call("ppo", talib.PPO, "C", 12, 26, 1),
            _call("rsi14", talib.RSI, "C", 14),
            _call("stochrsi", _stochrsi, "C", 14, 14),
            _call("atr14", talib.ATR, "HLC", 14),
        ),
    ),
    (
        CYCLE,
        (
            _call("rsi28", talib.RSI, "C", 28),
            _call("ht_trendmode", talib.HT_TRENDMODE, "C"),
            _call("ht_sine ht_leadsine", talib.HT_SINE, "C"),
            _call("ht_dcperiod", talib.HT_DCPERIOD, "C"),
        ),
    ),
    (
        SLOW,
        (
            _call("kama30_distance", talib.KAMA, "C", 30),
            _call("natr50", talib.NATR, "HLC", 50),
        ),
    ),
)
"""Functions with a running sum or an endless memory: run block by block, with these many bars before the block."""


def fill(out: Float64Array, rows: Mapping[str, int], bars: Bars, edges: Sequence[int], first: int) -> None:
    """Write the series of the bars from `first` on to `out`, float64 (rows, n - first), at the rows of their names.

    `edges` begin at 0 and end at n: a block is what stands between two of them. A bar with too little history for its
    function to settle is NaN.
    """
    begin = max(first - SHORT, 0)
    part = {letter: column[begin:] for letter, column in bars.items()}
    _write(out, rows, EXACT, part, first - begin)
    for start, end in pairwise(edges):
        low = max(start, first)
        for lead, calls in ANCHORED if end > low else ():
            begin = max(start - lead, 0)
            part = {letter: column[begin:end] for letter, column in bars.items()}
            part["T"] = bars["T"][: end - begin]
            _write(out[:, low - first : end - first], rows, calls, part, low - begin)
    for lead, calls in ANCHORED:
        for name in (name for call in calls for name in call.names):
            out[rows[name], : max(lead - first, 0)] = np.nan


def _write(out: Float64Array, rows: Mapping[str, int], calls: Iterable[IndicatorCall], bars: Bars, skip: int) -> None:
    """Write the outputs of the calls without the first `skip` bars. Runs about 400 times a symbol: keep it fast."""
    for names, function, inputs, parameters in calls:
        values = function(*[bars[letter] for letter in inputs], *parameters)
        if len(names) == 1:
            out[rows[names[0]]] = values[skip:]
        else:
            for name, series in zip(names, values, strict=True):
                out[rows[name]] = series[skip:]
