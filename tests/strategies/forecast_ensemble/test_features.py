"""The 78 features: right by hand and by another library, free of scale, and the same bits on both ways to them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import talib
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.forecast_ensemble.calls import ANCHORED, EXACT, LEAD, SHORT
from strategies.forecast_ensemble.features import (
    AT,
    COUNT,
    FEATURES,
    HISTORY_BARS,
    NAMES,
    WINDOW,
    newest,
    table,
    together,
)
from tests.support.examples import examples
from tests.support.strategies.histories import recorded_minutes, recorded_stock, walk, weekdays

Float64Array = npt.NDArray[np.float64]
STOCKS = ("AAPL", "BRK.B", "KLAC", "TSLA")  # one with a day of no volume, one that was listed in June 2010


def test_the_78_columns_are_the_groups_of_the_specification() -> None:
    assert COUNT == len(FEATURES) == len(set(NAMES)) == 78
    ends = np.cumsum([13, 11, 13, 16, 12, 7, 3, 3])
    assert [NAMES[end - 1] for end in ends] == [
        *("close_location", "sar_distance", "ppo", "imi14", "midprice14_distance", "money_flow20", "ht_dcperiod"),
        "to_month_end",
    ]
    assert all(feature.definition for feature in FEATURES)


@pytest.mark.parametrize("symbol", STOCKS)
def test_the_last_w_bars_give_the_bits_of_the_table(data_dir: Path, symbol: str) -> None:
    history = recorded_stock(data_dir, symbol)
    rows = table(*history)
    for end in (*np.random.default_rng(3).integers(HISTORY_BARS, len(rows), 25).tolist(), HISTORY_BARS, len(rows)):
        latest = newest(*history.part(end - HISTORY_BARS, end))
        assert latest.tobytes() == rows[end - WINDOW : end].tobytes()


def test_w_bars_reach_back_to_the_anchor_of_the_oldest_row() -> None:
    """The oldest of the 60 rows is the last one of its two years."""
    history = walk(5, weekdays("2018-01-01", 1500))
    rows = table(*history)
    end = int(np.searchsorted(history.dates, np.datetime64("2022-01-01"))) + WINDOW - 1
    assert newest(*history.part(end - HISTORY_BARS, end)).tobytes() == rows[end - WINDOW : end].tobytes()
    assert HISTORY_BARS == 300 + 523 + 59  # before the block, the weekdays of 2020 and 2021, the newer rows
    few = newest(*history.part(end - 360, end))
    assert few.tobytes() != rows[end - WINDOW : end].tobytes()


@given(seed=st.integers(0, 2**32 - 1), end=st.integers(HISTORY_BARS, 1400), rough=st.sampled_from((0.0, 0.001, 0.3)))
@settings(max_examples=examples(25), deadline=None)
def test_the_same_of_random_walks(seed: int, end: int, rough: float) -> None:
    history = walk(seed, weekdays("2015-03-02", 1400), rough)
    assert newest(*history.part(end - HISTORY_BARS, end)).tobytes() == table(*history)[end - WINDOW : end].tobytes()


def test_rows_do_not_depend_on_later_bars(data_dir: Path) -> None:
    history = recorded_stock(data_dir, "AAPL")
    whole = table(*history)
    for end in (1, 2, 41, 301, 700, 2000):
        assert table(*history.part(0, end)).tobytes() == whole[:end].tobytes()
    assert table(*history.part(0, 0)).shape == newest(*history.part(0, 0)).shape == (0, COUNT)
    assert newest(*history.part(0, 7)).shape == (7, COUNT)


def test_columns_are_nan_before_they_have_settled_and_never_after(data_dir: Path) -> None:
    rows = table(*recorded_stock(data_dir, "AAPL"))
    begin = {name: int(np.argmax(np.isfinite(rows[:, AT[name]]))) for name in NAMES}
    assert LEAD == 300
    assert begin["year_sine"] == 0
    assert (begin["log_return_1"], begin["log_return_40"], begin["gap"], begin["willr14"]) == (1, 40, 1, 13)
    assert begin["sma5_distance"] == 150  # for the ATR that it is measured in
    assert begin["rsi7"] == SHORT
    assert begin["ht_sine"] == 200
    assert begin["kama30_distance"] == 300 == max(begin.values())
    for name in NAMES:
        assert np.isfinite(rows[begin[name] :, AT[name]]).all()


def test_many_symbols_at_once_have_the_bits_of_each(data_dir: Path) -> None:
    histories = [recorded_stock(data_dir, symbol) for symbol in STOCKS]
    for function in (table, newest):
        for history, rows in zip(histories, together(function, histories), strict=True):
            assert rows.tobytes() == function(*history).tobytes()


def test_what_reads_each_window_afresh_has_the_same_bits_from_any_start(data_dir: Path) -> None:
    bars = recorded_stock(data_dir, "AAPL").bars()
    for call in EXACT:
        whole = call.run(bars)[0]
        for start in (1, 2, 3, 17, 500, 3000):
            part = call.run({letter: column[start:] for letter, column in bars.items()})[0]
            assert part[SHORT:].tobytes() == whole[start + SHORT :].tobytes(), call.names


def spread(name: str, rows: npt.NDArray[np.float32]) -> float:
    return float(np.nanstd(rows[:, AT[name]]))


def test_functions_have_settled_after_the_bars_that_they_are_given(data_dir: Path) -> None:
    """99 % of rows move by at most 1 % of the feature's own spread when all history comes before them.

    A block's first bar is the worst: it has the fewest bars before it. What is no feature yet is measured in ATR.
    """
    shifts_by_name: dict[str, list[float]] = {}
    histories = [recorded_stock(data_dir, symbol) for symbol in STOCKS[:3]]
    histories += [walk(seed, histories[0].dates) for seed in (1, 2, 3)]
    for history in histories:
        rows, n = table(*history), len(history.dates)
        bars = history.bars()
        for lead, calls in ANCHORED:
            for call in calls:
                whole = call.run(bars)
                for at in range(900, n, 61):
                    part = {letter: column[at - lead : at + 1] for letter, column in bars.items()}
                    part["T"] = bars["T"][: lead + 1]
                    for name, all_of_it, short in zip(call.names, whole, call.run(part), strict=True):
                        unit = history.unit(name, at)
                        shift = abs(float(short[-1]) - float(all_of_it[at])) / unit
                        shifts_by_name.setdefault(name, []).append(shift / spread(name, rows) if name in AT else shift)
    late = {name: float(np.quantile(shifts, 0.99)) for name, shifts in shifts_by_name.items()}
    assert {name: shift for name, shift in late.items() if not shift <= 0.01} == {}


def settled(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return rows[np.isfinite(rows).all(axis=1)]


@pytest.mark.parametrize("source", ["JPM", "minutes"])
def test_prices_times_7_leave_all_features_equal_but_for_rounding(data_dir: Path, source: str) -> None:
    history = recorded_minutes(data_dir) if source == "minutes" else recorded_stock(data_dir, source)
    one, seven = settled(table(*history)), settled(table(*history.times(7.0)))
    assert len(one) > 2500
    assert np.abs(one - seven).max(axis=0).tolist() == pytest.approx([0.0] * COUNT, abs=1e-6)


def test_talibs_own_adx_moves_with_the_scale_where_moves_tie_in_cents(data_dir: Path) -> None:
    _, high, low, close, *_ = recorded_minutes(data_dir)
    adx = partial(talib.ADX, timeperiod=14)
    change = np.abs(adx(high, low, close) / adx(7 * high, 7 * low, 7 * close) - 1)
    assert np.nanmean(change > 1e-9) > 0.1
    assert np.nanmax(change) > 0.05
    assert np.array_equal(adx(high, low, close), adx(8 * high, 8 * low, 8 * close), equal_nan=True)
    rise, fall = np.diff(high), -np.diff(low)
    tied = (np.rint(100 * rise) == np.rint(100 * fall)) & (rise > 0.005)
    assert 0.003 < tied.mean() < 0.006
    assert 0.2 < (rise != fall)[tied].mean() < 0.5


def test_bars_without_a_move_or_a_trade_give_finite_numbers() -> None:
    dates = weekdays("2015-03-02", 500)
    flat, none = np.full(500, 25.0), np.zeros(500)
    rows = settled(table(flat, flat, flat, flat, none, dates))
    assert len(rows) == 200
    assert not rows[:, [AT[name] for name in ("log_return_1", "body", "sma5_distance", "natr14", "volume_to_20")]].any()
    assert (rows[:, [AT["close_location"], AT["percent_b20"]]] == 0.5).all()
    prices = walk(9, dates)
    assert len(settled(table(*prices[:4], none, dates))) == 200


@pytest.mark.filterwarnings("ignore")  # the oracle calls what pandas has deprecated, at its import too
@pytest.mark.parametrize("symbol", ["AAPL", "XOM"])
def test_recorded_days_agree_with_another_library(data_dir: Path, symbol: str) -> None:
    import pandas_ta_classic as ta

    history = recorded_stock(data_dir, symbol)
    o, high, low, close, volume = (pd.Series(column) for column in history[:5])
    atr = ta.atr(high, low, close, 14, talib=False)
    returns, options = np.log(close).diff(), partial(dict[str, bool], talib=False)
    moves, bands = ta.adx(high, low, close, 14, talib=False), ta.bbands(close, length=20, std=2.0, ddof=0, talib=False)
    stochastic, macd = ta.stoch(high, low, close, 14, 3, 3, **options()), ta.macd(close, **options())
    mean = volume.rolling(20).mean()
    line = ((2 * close - high - low) / (high - low).where(high > low, 1.0) * volume).cumsum()
    expected = {
        "log_return_5": np.log(close / close.shift(5)),
        "gap": np.log(o / close.shift(1)),
        "body": (close - o) / atr,
        "upper_wick": (high - np.maximum(o, close)) / atr,
        "lower_wick": (np.minimum(o, close) - low) / atr,
        "close_location": (close - low) / (high - low),
        **{f"sma{n}_distance": (close - close.rolling(n).mean()) / atr for n in (5, 10, 20, 50, 100)},
        **{f"ema{n}_distance": (close - ta.ema(close, n, **options())) / atr for n in (12, 26)},
        "dema20_distance": (close - ta.dema(close, 20, **options())) / atr,
        "t3_10_distance": (close - ta.t3(close, 10, 0.7, **options())) / atr,
        "macd": macd["MACD_12_26_9"] / atr,
        "macd_signal": macd["MACDs_12_26_9"] / atr,
        "macd_histogram": macd["MACDh_12_26_9"] / atr,
        "adx14": moves["ADX_14"],
        "di_difference14": moves["DMP_14"] - moves["DMN_14"],
        "correl_time20": close.rolling(20).corr(pd.Series(np.arange(len(close)))),
        "rsi2": ta.rsi(close, 2, **options()),
        "rsi14": ta.rsi(close, 14, **options()),
        "rsi28": ta.rsi(close, 28, **options()),
        "stoch_k": stochastic["STOCHk_14_3_3"],
        "stoch_d": stochastic["STOCHd_14_3_3"],
        "willr14": ta.willr(high, low, close, 14, **options()),
        "cci20": ta.cci(high, low, close, 20, **options()),
        "avgdev20": close.rolling(20).apply(lambda window: np.abs(window - window.mean()).mean(), raw=True) / atr,
        "ultosc": ta.uo(high, low, close, **options()),
        "mom10": close.diff(10) / atr,
        "bop": (close - o) / (high - low),
        "mfi14": ta.mfi(high, low, close, volume, 14, **options()),
        "natr14": 100 * atr / close,
        **{f"stddev{n}": returns.rolling(n).std(ddof=0) for n in (5, 20, 60)},
        "stddev_ratio": returns.rolling(5).std(ddof=0) / returns.rolling(60).std(ddof=0),
        "trange": ta.true_range(high, low, close, **options()) / atr,
        "percent_b20": (close - bands["BBL_20_2.0"]) / (bands["BBU_20_2.0"] - bands["BBL_20_2.0"]),
        "band_width20": (bands["BBU_20_2.0"] - bands["BBL_20_2.0"]) / bands["BBM_20_2.0"],
        "max20_distance": (close - high.rolling(20).max()) / atr,
        "min20_distance": (close - low.rolling(20).min()) / atr,
        "midprice14_distance": (close - (high.rolling(14).max() + low.rolling(14).min()) / 2) / atr,
        "volume_stddev20": volume.rolling(20).std(ddof=0) / mean,
        "volume_to_5": (volume - volume.rolling(5).mean()) / (volume + volume.rolling(5).mean()),
        "adosc": sum(sign * line.ewm(span=n, adjust=False).mean() for sign, n in ((1, 3), (-1, 10))) / mean,
        "correl_volume20": returns.rolling(20).corr(volume),
        "money_flow20": ta.cmf(high, low, close, volume, length=20, **options()),
    }
    rows = table(*history)[600:]
    off = {}
    for name, series in expected.items():
        values, column = series.to_numpy()[600:], rows[:, AT[name]]
        shift = float(np.quantile(np.abs(values - column), 0.99) / column.std())
        if not shift < 0.01:
            off[name] = shift
    assert off == {}
